"""Hard samples without a gradient through them."""

from dataclasses import dataclass

from torch import Tensor

from estimator_lab.estimator import Downstream, Estimator
from estimator_lab.site import Site


@dataclass(frozen=True)
class Sample(Estimator):
    """Samples every site and lets no gradient through the sample; what ``using=`` runs to evaluate a loss.

    Bias: drops the whole dependence of the samples on theta; only terms that contain theta or weights directly remain.

    Cost: 1 loss.

    Args:
        common: share random numbers over axes that an estimator prepended (common random numbers).
    """

    common: bool = False

    unbiased = False
    equation = "hat(g) = 0"

    @property
    def label(self) -> str:
        """Short name."""
        return "sample, no gradient"

    def surrogate(self, site: Site, downstream: Downstream) -> Tensor:
        """The loss at a sample."""
        return downstream(site.sample(common=self.common))
