"""Relaxed samples in the place of hard ones."""

from dataclasses import dataclass

from torch import Tensor

from estimator_lab.errors import UsageError
from estimator_lab.estimator import Downstream, Estimator
from estimator_lab.families import Discrete
from estimator_lab.site import Site


@dataclass(frozen=True)
class GumbelSoftmax(Estimator):
    """Pathwise gradient of the Concrete relaxation: softmax((theta + Gumbel noise) / temperature) forward and backward.

    Bias: of order temperature; variance of order 1 / temperature. The loss must accept values inside the simplex, and
    its value is that of the relaxed sample.

    Cost: 1 loss, 1 backward pass.

    Reference: Jang, Gu, Poole 2017 (arXiv:1611.01144); Maddison, Mnih, Teh 2017 (arXiv:1611.00712).

    Args:
        temperature: positive.

    Raises:
        UsageError: the temperature is not positive.
    """

    temperature: float = 1.0

    unbiased = False
    families = (Discrete,)
    equation = 'hat(g) = nabla_theta f("softmax"((theta + G) \\/ tau))'

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise UsageError(f"the temperature of a relaxation is positive; found {self.temperature}")

    @property
    def label(self) -> str:
        """Short name."""
        return f"Gumbel, τ = {self.temperature:g}"

    def surrogate(self, site: Site, downstream: Downstream) -> Tensor:
        """The loss at the relaxed sample."""
        family = site.relaxation
        return downstream(family.squash(family.perturb(site.theta, site.uniform()), self.temperature))
