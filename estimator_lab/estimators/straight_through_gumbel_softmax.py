"""Hard samples forward, their relaxation backward."""

from dataclasses import dataclass

from torch import Tensor

from estimator_lab.errors import UsageError
from estimator_lab.estimator import Downstream, Estimator
from estimator_lab.families import Discrete
from estimator_lab.site import Site


@dataclass(frozen=True)
class StraightThroughGumbelSoftmax(Estimator):
    """argmax(theta + Gumbel noise) forward; backward the Jacobian of the relaxation at the same noise.

    Bias: none in the limit of zero temperature for f quadratic in one unit (where the variance diverges as
    1 / temperature); otherwise biased, also in the limit.

    Cost: 1 loss, 1 backward pass.

    Reference: Jang, Gu, Poole 2017 (arXiv:1611.01144).

    Args:
        temperature: positive.

    Raises:
        UsageError: the temperature is not positive.
    """

    temperature: float = 1.0

    unbiased = False
    families = (Discrete,)
    equation = 'hat(g) = f\'(b) thin nabla_theta "softmax"((theta + G) \\/ tau), quad b = op("argmax")(theta + G)'

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise UsageError(f"the temperature of a relaxation is positive; found {self.temperature}")

    @property
    def label(self) -> str:
        """Short name."""
        return f"ST-Gumbel, τ = {self.temperature:g}"

    def surrogate(self, site: Site, downstream: Downstream) -> Tensor:
        """The loss at the hard sample."""
        family = site.relaxation
        z = family.perturb(site.theta, site.uniform())
        relaxed = family.squash(z, self.temperature)
        return downstream(family.harden(z) + (relaxed - relaxed.detach()))
