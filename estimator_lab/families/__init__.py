"""Laws of stochastic layers, one per file."""

from estimator_lab.families.bernoulli import Bernoulli
from estimator_lab.families.categorical import Categorical
from estimator_lab.families.family import Discrete, Family
from estimator_lab.families.normal import Normal

FAMILIES = (Bernoulli, Categorical, Normal)

__all__ = ["FAMILIES", "Bernoulli", "Categorical", "Discrete", "Family", "Normal"]
