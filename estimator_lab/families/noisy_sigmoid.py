"""Sigmoid units with Gaussian noise before the sigmoid."""

from dataclasses import dataclass

from torch import Tensor

from estimator_lab.errors import UsageError
from estimator_lab.families.family import Reparameterised
from estimator_lab.families.quadrature import hermite_rule

NODES = 64
"""Of the quadrature behind the mean."""


@dataclass(frozen=True)
class NoisySigmoid(Reparameterised):
    """``sigmoid(theta + deviation z)`` with z standard normal.

    Noise before a saturating sigmoid drives units to zero or one (Salakhutdinov and Hinton 2009, semantic hashing). The
    mean has no closed form; it is a Gauss-Hermite sum of 64 nodes, good to 1e-12 for deviations up to one. A score
    would have to undo the sigmoid, which saturates: where it is wanted, take `AdditiveNoise` and have the problem apply
    the sigmoid.

    Args:
        deviation: standard deviation of the noise.

    Raises:
        UsageError: the deviation is not positive.
    """

    deviation: float = 1.0

    def __post_init__(self) -> None:
        if not self.deviation > 0:
            raise UsageError(
                f"the deviation of NoisySigmoid is positive; found {self.deviation}: without noise it is "
                'Deterministic("sigmoid")'
            )

    def mean(self, theta: Tensor) -> Tensor:
        """``E sigmoid(theta + deviation z)`` by quadrature."""
        values, weights = self.rule(theta, NODES)
        return (values * weights).sum(0)

    def sample(self, theta: Tensor, noise: Tensor) -> Tensor:
        """``sigmoid(theta + deviation noise)`` for standard normal noise."""
        return (theta + self.deviation * noise).sigmoid()

    def rule(self, theta: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
        """Gauss-Hermite in the noise."""
        return hermite_rule(lambda z: self.sample(theta, z), theta, nodes)

    def rule_size(self, nodes: int) -> int:
        """The number of nodes."""
        return nodes
