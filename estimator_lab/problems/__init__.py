"""Problems, one per file; ``TOYS`` and ``NETWORKS`` are what reports and tests run over, ``ALL_NETWORKS`` is all."""

from estimator_lab.problem import Problem
from estimator_lab.problems.additive import Additive
from estimator_lab.problems.categorical_autoencoder import CategoricalAutoencoder
from estimator_lab.problems.categorical_quadratic import CategoricalQuadratic
from estimator_lab.problems.chain_of_four import ChainOfFour
from estimator_lab.problems.digits import DigitsAutoencoder, DigitsClassifier
from estimator_lab.problems.gaussian_cosine import GaussianCosine
from estimator_lab.problems.gaussian_exponential import GaussianExponential
from estimator_lab.problems.gaussian_polynomial import GaussianPolynomial
from estimator_lab.problems.hierarchical_categorical import HierarchicalCategorical
from estimator_lab.problems.linear_network import LinearNetwork
from estimator_lab.problems.one_bit import OneBit
from estimator_lab.problems.parity import Parity
from estimator_lab.problems.quadratic_form import QuadraticForm
from estimator_lab.problems.shared_logit import SharedLogit
from estimator_lab.problems.sigmoid_belief_network import SigmoidBeliefNetwork
from estimator_lab.problems.two_layer import TwoLayer

TOYS: tuple[Problem, ...] = (
    OneBit(),
    Additive(),
    QuadraticForm(),
    Parity(),
    TwoLayer(),
    ChainOfFour(),
    CategoricalQuadratic(),
    SharedLogit(),
    GaussianPolynomial(),
    GaussianCosine(),
    GaussianExponential(),
)
"""Problems whose expected loss is a finite sum, a closed form or a quadrature."""

NETWORKS: tuple[Problem, ...] = (DigitsAutoencoder(), DigitsClassifier())
"""Trained networks on real data, small enough to be measured in every report."""

ALL_NETWORKS: tuple[Problem, ...] = (
    *NETWORKS,
    SigmoidBeliefNetwork(data="digits"),
    SigmoidBeliefNetwork(data="digits", hidden=(32, 32)),
    SigmoidBeliefNetwork(data="digits", samples=5),
    CategoricalAutoencoder(data="digits"),
    HierarchicalCategorical(data="digits"),
    HierarchicalCategorical(data="digits", layers=((4, 4), (4, 4), (3, 4))),
    LinearNetwork(),
    LinearNetwork("normal"),
)
"""Every network, in the sizes for the digits: each trains itself in seconds."""

__all__ = [
    "NETWORKS",
    "TOYS",
    "Additive",
    "CategoricalAutoencoder",
    "CategoricalQuadratic",
    "ChainOfFour",
    "DigitsAutoencoder",
    "DigitsClassifier",
    "GaussianCosine",
    "GaussianExponential",
    "GaussianPolynomial",
    "HierarchicalCategorical",
    "LinearNetwork",
    "OneBit",
    "Parity",
    "QuadraticForm",
    "SharedLogit",
    "SigmoidBeliefNetwork",
    "TwoLayer",
]
