"""Problems, one per file; the tables ``TOYS`` and ``NETWORKS`` are what reports and tests run over."""

from estimator_lab.problem import Problem
from estimator_lab.problems.additive import Additive
from estimator_lab.problems.categorical_quadratic import CategoricalQuadratic
from estimator_lab.problems.chain_of_four import ChainOfFour
from estimator_lab.problems.digits import DigitsAutoencoder, DigitsClassifier
from estimator_lab.problems.gaussian_cosine import GaussianCosine
from estimator_lab.problems.gaussian_exponential import GaussianExponential
from estimator_lab.problems.gaussian_polynomial import GaussianPolynomial
from estimator_lab.problems.one_bit import OneBit
from estimator_lab.problems.parity import Parity
from estimator_lab.problems.quadratic_form import QuadraticForm
from estimator_lab.problems.shared_logit import SharedLogit
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
"""Trained networks on real data."""

__all__ = [
    "NETWORKS",
    "TOYS",
    "Additive",
    "CategoricalQuadratic",
    "ChainOfFour",
    "DigitsAutoencoder",
    "DigitsClassifier",
    "GaussianCosine",
    "GaussianExponential",
    "GaussianPolynomial",
    "OneBit",
    "Parity",
    "QuadraticForm",
    "SharedLogit",
    "TwoLayer",
]
