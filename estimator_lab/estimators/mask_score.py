"""Backpropagation through a randomly masked unit, with the score of its mask."""

from dataclasses import dataclass

from torch import Tensor

from estimator_lab.errors import UsageError
from estimator_lab.estimator import Downstream, Estimator
from estimator_lab.families import StochasticTimesSmooth
from estimator_lab.site import Site


@dataclass(frozen=True)
class MaskScore(Estimator):
    """Stochastic times smooth, h = b p^k with a mask b: the two parts of its gradient, through the value and the mask.

    ``f'(h) b d(p^k)/dtheta + (f(h) - c) d log P(b) / dtheta``; in the printed form (k = 1/2, P(b) = sqrt(p) = q)
    ``f'(h) b q (1 - p) / 2 + (f(h) - c) (b - q) (1 + q) / 2``. The baseline c is the mean loss of the other paths, or
    zero with one path.

    Bias: none for differentiable f. E f(h) = sum_b P(b) f(b p^k) depends on theta through f's argument, whose
    derivative the first term draws, and through P(b), which the second draws; c does not depend on b.

    Cost: K losses, K backward passes.

    Reference: Schulman et al. 2015 (arXiv:1506.05254) for both kinds of dependence at once.

    Args:
        paths: K, at least 1.

    Raises:
        UsageError: there is no path.
    """

    paths: int = 1

    unbiased = True
    families = (StochasticTimesSmooth,)
    equation = "hat(g) = f'(b p^k) thin b thin nabla_theta p^k + (f(b p^k) - c) nabla_theta log P_theta (b)"

    def __post_init__(self) -> None:
        if self.paths < 1:
            raise UsageError(f"MaskScore needs at least one path; found paths={self.paths}")

    @property
    def label(self) -> str:
        """Short name."""
        return "mask score" if self.paths == 1 else f"mask score, K = {self.paths}"

    def surrogate(self, site: Site, downstream: Downstream) -> Tensor:
        """The loss at the masked value, plus its excess over the other paths times the score of the mask."""
        family = site.family
        assert isinstance(family, StochasticTimesSmooth), "refused by refuses()"
        value = site.rsample()
        loss = downstream(value)
        fixed, paths = loss.detach(), loss.shape[-3]
        others = (fixed.sum(-3, keepdim=True) - fixed) / (paths - 1) if paths > 1 else 0.0
        score = family.mask_score(site.theta.detach(), value.detach())
        return loss + site.inject(site.expand(fixed - others) * score)
