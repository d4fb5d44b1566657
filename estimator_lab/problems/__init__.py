"""Problems, one per file; the tables ``TOYS`` and ``NETWORKS`` are what reports and tests run over."""

from estimator_lab.problem import Problem
from estimator_lab.problems.additive import Additive
from estimator_lab.problems.binary_classifier import BinaryClassifier
from estimator_lab.problems.binary_conv_net import BinaryConvNet
from estimator_lab.problems.categorical_autoencoder import CategoricalAutoencoder
from estimator_lab.problems.categorical_quadratic import CategoricalQuadratic
from estimator_lab.problems.chain_of_four import ChainOfFour
from estimator_lab.problems.conditional_network import ConditionalNetwork
from estimator_lab.problems.digits import DigitsAutoencoder, DigitsClassifier
from estimator_lab.problems.gaussian_cosine import GaussianCosine
from estimator_lab.problems.gaussian_exponential import GaussianExponential
from estimator_lab.problems.gaussian_polynomial import GaussianPolynomial
from estimator_lab.problems.hierarchical_categorical import HierarchicalCategorical
from estimator_lab.problems.linear_network import LinearNetwork
from estimator_lab.problems.one_bit import OneBit
from estimator_lab.problems.parity import Parity
from estimator_lab.problems.quadratic_form import QuadraticForm
from estimator_lab.problems.router import Router
from estimator_lab.problems.shared_logit import SharedLogit
from estimator_lab.problems.sigmoid_belief_network import SigmoidBeliefNetwork
from estimator_lab.problems.spiking_network import SpikingNetwork
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

NETWORKS: tuple[Problem, ...] = (
    DigitsAutoencoder(),
    DigitsClassifier(),
    SigmoidBeliefNetwork(data="digits"),
    SigmoidBeliefNetwork(data="digits", hidden=(32, 32)),
    SigmoidBeliefNetwork(data="digits", samples=5),
    CategoricalAutoencoder(data="digits"),
    HierarchicalCategorical(data="digits"),
    HierarchicalCategorical(data="digits", layers=((4, 4), (4, 4), (3, 4))),
    LinearNetwork(),
    LinearNetwork("normal"),
    BinaryClassifier(data="digits"),
    BinaryClassifier(data="digits", levels=4),
    BinaryClassifier(data="digits", connections="sign"),
    BinaryClassifier(data="digits", hidden=(8,), connections="drawn"),
    BinaryConvNet(data="digits"),
    SpikingNetwork(data="digits"),
    Router(data="digits"),
)
"""Networks in the sizes for the digits: each trains itself in seconds when it is first used."""

__all__ = [
    "NETWORKS",
    "TOYS",
    "Additive",
    "BinaryClassifier",
    "BinaryConvNet",
    "CategoricalAutoencoder",
    "CategoricalQuadratic",
    "ChainOfFour",
    "ConditionalNetwork",
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
    "Router",
    "SharedLogit",
    "SigmoidBeliefNetwork",
    "SpikingNetwork",
    "TwoLayer",
]
