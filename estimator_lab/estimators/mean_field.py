"""Means in the place of samples."""

from dataclasses import dataclass

from torch import Tensor

from estimator_lab.estimator import Downstream, Estimator
from estimator_lab.site import Site


@dataclass(frozen=True)
class MeanField(Estimator):
    """Passes every unit's mean on and differentiates through it; deterministic.

    Bias: exact for networks that are multilinear in independent units, otherwise biased: the gradient of f(E x) is not
    that of E f(x). The loss must accept values outside of the support.

    Cost: 1 loss, 1 backward pass, no sampling noise.

    Reference: Bengio, Léonard, Courville 2013 (arXiv:1308.3432), the deterministic baseline; also called mean
    propagation.
    """

    unbiased = False
    equation = "hat(g) = nabla_theta f(EE[x])"

    @property
    def label(self) -> str:
        """Short name."""
        return "mean field"

    def surrogate(self, site: Site, downstream: Downstream) -> Tensor:
        """The loss at the mean."""
        return downstream(site.mean)
