"""Noise that multiplies a value."""

from dataclasses import dataclass

import torch
from torch import Tensor

from estimator_lab.errors import UsageError
from estimator_lab.families.family import Reparameterised


@dataclass(frozen=True)
class Dropout(Reparameterised):
    """``theta mask / keep`` with a mask that is one with probability ``keep``, and else zero.

    The law of the mask does not depend on theta, so that backpropagation with the mask as drawn is unbiased; the value
    moves with theta at a fixed probability, so that there is no score function.

    Reference: Hinton et al. 2012 (arXiv:1207.0580); the noise injection of Bengio, Léonard, Courville 2013
    (arXiv:1308.3432).

    Args:
        keep: probability of a unit to be kept.

    Raises:
        UsageError: the probability is not in (0, 1).
    """

    keep: float = 0.5

    noise = "uniform"

    def __post_init__(self) -> None:
        if not 0 < self.keep < 1:
            raise UsageError(f"Dropout keeps a unit with a probability between 0 and 1; found keep={self.keep}")

    def mean(self, theta: Tensor) -> Tensor:
        """Theta."""
        return theta

    def sample(self, theta: Tensor, noise: Tensor) -> Tensor:
        """``theta 1[noise < keep] / keep``."""
        return theta * (noise < self.keep) / self.keep

    def jumps(self, theta: Tensor) -> Tensor:
        """The probability to be kept."""
        return torch.full_like(theta, self.keep).unsqueeze(-1)

    def rule(self, theta: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
        """Zero and ``theta / keep`` with their probabilities."""
        values = torch.stack([torch.zeros_like(theta), theta / self.keep])
        return values, torch.stack([torch.full_like(theta, 1 - self.keep), torch.full_like(theta, self.keep)])

    def rule_size(self, nodes: int) -> int:
        """2."""
        return 2
