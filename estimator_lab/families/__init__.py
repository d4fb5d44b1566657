"""Laws of stochastic layers, one per file."""

from estimator_lab.families.additive_noise import AdditiveNoise
from estimator_lab.families.bernoulli import Bernoulli
from estimator_lab.families.categorical import Categorical
from estimator_lab.families.deterministic import Deterministic
from estimator_lab.families.dropout import Dropout
from estimator_lab.families.family import Discrete, Family, Reparameterised, Scored
from estimator_lab.families.noisy_sigmoid import NoisySigmoid
from estimator_lab.families.normal import Normal
from estimator_lab.families.rectified_logistic import RectifiedLogistic
from estimator_lab.families.rectified_normal import RectifiedNormal
from estimator_lab.families.stochastic_times_smooth import StochasticTimesSmooth

FAMILIES = (
    Bernoulli,
    Categorical,
    Normal,
    AdditiveNoise,
    Dropout,
    NoisySigmoid,
    RectifiedNormal,
    RectifiedLogistic,
    StochasticTimesSmooth,
    Deterministic,
)

__all__ = [
    "FAMILIES",
    "AdditiveNoise",
    "Bernoulli",
    "Categorical",
    "Deterministic",
    "Discrete",
    "Dropout",
    "Family",
    "NoisySigmoid",
    "Normal",
    "RectifiedLogistic",
    "RectifiedNormal",
    "Reparameterised",
    "Scored",
    "StochasticTimesSmooth",
]
