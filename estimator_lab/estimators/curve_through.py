"""Straight-through with the squared deviation of the sample in the place of the derivative of its mean."""

from dataclasses import dataclass

from torch import Tensor

from estimator_lab.estimator import Downstream, Estimator
from estimator_lab.families import Bernoulli
from estimator_lab.site import Site


@dataclass(frozen=True)
class CurveThrough(Estimator):
    """A hard sample forward; backward the squared deviation of the sample from its mean: ``f'(b) (b - p)^2``.

    The rare value of a unit gets the larger weight, the frequent one the smaller: the mean is p (1 - p) times
    ``(1 - p) f'(1) + p f'(0)``, where straight-through has ``p f'(1) + (1 - p) f'(0)``.

    Bias: none for f multilinear in the units of one layer. A quadratic a x^2 + c x in one unit is off by
    a p (1 - p) (1 - 2 p), the negative of straight-through's bias. Half the sum of both estimates, the trapezoid rule
    ``f'(b) [p (1 - p) + (b - p)^2] / 2 = f'(b) (b - 1/2) (b - p)``, is exact for quadratics: it is `ReinMax`. With
    ``times_slope`` the scale is wrong by p (1 - p) as well.

    Cost: 1 loss, 1 backward pass.

    Reference: the public code of the authors of Bengio, Léonard, Courville 2013 (arXiv:1308.3432). The
    biases are derived here.

    Args:
        times_slope: multiply by p (1 - p) as well.
    """

    times_slope: bool = False

    unbiased = False
    families = (Bernoulli,)
    equation = "hat(g) = f'(b) (b - p)^2"

    @property
    def label(self) -> str:
        """Short name."""
        return "curve-through" + (" (times slope)" if self.times_slope else "")

    def surrogate(self, site: Site, downstream: Downstream) -> Tensor:
        """The loss at the sample, with the other derivative."""
        value, mean, theta = site.sample(), site.mean.detach(), site.theta
        slope = (value - mean).square()
        if self.times_slope:
            slope = slope * mean * (1 - mean)
        return downstream(value + slope * (theta - theta.detach()))
