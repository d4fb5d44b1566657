"""Backpropagation through a randomly masked unit, its mask held constant."""

from dataclasses import dataclass

from torch import Tensor

from estimator_lab.estimator import Downstream, Estimator
from estimator_lab.families import StochasticTimesSmooth
from estimator_lab.site import Site


@dataclass(frozen=True)
class HeldMask(Estimator):
    """Stochastic times smooth, h = b p^k with a mask b: differentiated as if b were a constant.

    In the printed form (k = 1/2, P(b) = sqrt(p)) the estimate for a unit is ``f'(h) b sqrt(p) (1 - p) / 2``.

    Bias: the law of the mask moves with theta as well. In the printed form the mean is f'(sqrt(p)) p (1 - p) / 2, and
    for linear f in the units exactly half of the gradient; in general the share is k / (k + m) with P(b) = p^m.

    Cost: 1 loss, 1 backward pass.

    Reference: Bengio, Léonard, Courville 2013 (arXiv:1308.3432), Proposition 2.
    """

    unbiased = False
    families = (StochasticTimesSmooth,)
    equation = "hat(g) = f'(b p^k) thin b thin nabla_theta p^k"

    @property
    def label(self) -> str:
        """Short name."""
        return "mask held constant"

    def surrogate(self, site: Site, downstream: Downstream) -> Tensor:
        """The loss at the masked value, whose derivative leaves the mask as it is."""
        return downstream(site.rsample())
