"""Rectifiers with Gaussian noise."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from estimator_lab.errors import UsageError
from estimator_lab.families.rectified import Rectified


@dataclass(frozen=True)
class RectifiedNormal(Rectified):
    """``max(0, theta + deviation z)`` with z standard normal, the noisy rectifier.

    With t = theta / deviation, Phi and phi the normal distribution function and density: P(value > 0) = Phi(t), mean
    theta Phi(t) + deviation phi(t), whose derivative is Phi(t).

    Reference: Bengio, Léonard, Courville 2013 (arXiv:1308.3432); Nair and Hinton 2010, noisy rectified linear units.

    Args:
        deviation: standard deviation of the noise.

    Raises:
        UsageError: the deviation is not positive.
    """

    deviation: float = 1.0

    def __post_init__(self) -> None:
        if not self.deviation > 0:
            raise UsageError(
                f"the deviation of RectifiedNormal is positive; found {self.deviation}: without noise it is "
                'Deterministic("rectifier")'
            )

    @property
    def scale(self) -> float:
        """The deviation."""
        return self.deviation

    def mean(self, theta: Tensor) -> Tensor:
        """``theta Phi(t) + deviation phi(t)``."""
        t = theta / self.deviation
        active: Tensor = torch.special.ndtr(t)
        return theta * active + self.deviation * self.log_density(t).exp()

    def noise_of(self, normal: Tensor) -> Tensor:
        """The number itself."""
        return normal

    def normal_of(self, noise: Tensor) -> Tensor:
        """The noise itself."""
        return noise

    def log_cdf(self, noise: Tensor) -> Tensor:
        """``log Phi``."""
        result: Tensor = torch.special.log_ndtr(noise)
        return result

    def log_density(self, noise: Tensor) -> Tensor:
        """``log phi``."""
        return -0.5 * (noise.square() + math.log(2 * math.pi))

    def log_slope(self, noise: Tensor) -> Tensor:
        """Minus the noise."""
        return -noise
