"""Gaussian noise added to a value."""

import math
from dataclasses import dataclass

from torch import Tensor

from estimator_lab.errors import UsageError
from estimator_lab.families.family import Reparameterised, Scored
from estimator_lab.families.quadrature import hermite_rule


@dataclass(frozen=True)
class AdditiveNoise(Scored, Reparameterised):
    """``theta + deviation z`` with z standard normal: noise injected into a deterministic unit.

    A nonlinearity before or after the noise is the problem's. `Normal` is the law whose deviation is learned.

    Args:
        deviation: standard deviation of the noise.

    Raises:
        UsageError: the deviation is not positive.
    """

    deviation: float = 1.0

    def __post_init__(self) -> None:
        if not self.deviation > 0:
            raise UsageError(f"the deviation of AdditiveNoise is positive; found {self.deviation}")

    def mean(self, theta: Tensor) -> Tensor:
        """Theta."""
        return theta

    def log_prob(self, theta: Tensor, value: Tensor) -> Tensor:
        """``-(z^2 + log(2 pi)) / 2 - log deviation`` with z = (value - theta) / deviation."""
        standard = (value - theta) / self.deviation
        return -0.5 * (standard.square() + math.log(2 * math.pi)) - math.log(self.deviation)

    def score(self, theta: Tensor, value: Tensor) -> Tensor:
        """``z / deviation``."""
        return (value - theta) / self.deviation**2

    def sample(self, theta: Tensor, noise: Tensor) -> Tensor:
        """``theta + deviation noise`` for standard normal noise."""
        return theta + self.deviation * noise

    def rule(self, theta: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
        """Gauss-Hermite: theta + deviation x_i with constant weights."""
        return hermite_rule(lambda z: self.sample(theta, z), theta, nodes)

    def rule_size(self, nodes: int) -> int:
        """The number of nodes."""
        return nodes
