"""Rectifiers with logistic noise."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from estimator_lab.errors import UsageError
from estimator_lab.families.rectified import Rectified


@dataclass(frozen=True)
class RectifiedLogistic(Rectified):
    """``max(0, theta + scale e)`` with e standard logistic: P(value > 0) = sigmoid(theta / scale).

    The mean is scale softplus(theta / scale), a smooth rectifier. The noise is logit(Phi(z)) with z standard normal and
    Phi the normal distribution function.

    Reference: Bengio, Léonard, Courville 2013 (arXiv:1308.3432), Proposition 1.

    Args:
        scale: what multiplies the standard logistic noise, whose variance is pi^2 / 3.

    Raises:
        UsageError: the scale is not positive.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise UsageError(
                f"the scale of RectifiedLogistic is positive; found {self.scale}: without noise it is "
                'Deterministic("rectifier")'
            )

    def mean(self, theta: Tensor) -> Tensor:
        """``scale softplus(theta / scale)``."""
        return -self.scale * logsigmoid(-theta / self.scale)

    def noise_of(self, normal: Tensor) -> Tensor:
        """``log Phi(z) - log Phi(-z)``."""
        upper: Tensor = torch.special.log_ndtr(-normal)
        lower: Tensor = torch.special.log_ndtr(normal)
        return lower - upper

    def normal_of(self, noise: Tensor) -> Tensor:
        """The normal quantile of sigmoid(noise), taken in the lower tail, where it is precise."""
        depth: Tensor = -torch.special.ndtri((-noise.abs()).sigmoid())
        return noise.sign() * depth

    def log_cdf(self, noise: Tensor) -> Tensor:
        """``log sigmoid``."""
        return logsigmoid(noise)

    def log_density(self, noise: Tensor) -> Tensor:
        """``log sigmoid(noise) + log sigmoid(-noise)``."""
        return logsigmoid(noise) + logsigmoid(-noise)

    def log_slope(self, noise: Tensor) -> Tensor:
        """``-tanh(noise / 2)``."""
        return -(noise / 2).tanh()
