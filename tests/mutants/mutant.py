"""What a broken estimator states of itself."""

from typing import ClassVar

from estimator_lab.estimator import Estimator
from estimator_lab.estimators import Reinforce
from estimator_lab.families import Bernoulli

CAUSES = (
    "gain 2",
    "gain 1/2",
    "gain K/(K-1)",
    "gain 1/K",
    "gain batch",
    "power of p(1-p)",
    "sign",
    "missing term",
    "extra term",
    "baseline",
    "coupling",
    "temperature",
    "parametrisation",
    "loss scale",
    "site",
    "depth",
    "saturation",
    "ties",
    "family",
    "axes",
    "precision",
    "correlated replicates",
    "correlated examples",
    "correlated units",
    "dead path",
    "non-finite",
    "state",
)
"""What can be wrong, in a word or two; every mutant has one."""


class Mutant(Estimator):
    """An estimator with one mistake. It claims what its author believed.

    Attributes:
        cause: one of ``CAUSES``.
        healthy: the estimator without the mistake.
        source: where it happened, or "canonical".
        like: another implementation that its mean is held to, where the healthy one is biased as well.
        equivalent: why it has the same law as the healthy one, if it has.
    """

    cause: ClassVar[str]
    healthy: ClassVar[Estimator] = Reinforce()
    source: ClassVar[str] = "canonical"
    like: ClassVar[Estimator | None] = None
    equivalent: ClassVar[str] = ""
    unbiased = True
    families = (Bernoulli,)
