"""Units without noise."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from estimator_lab.errors import UsageError
from estimator_lab.families.family import Reparameterised


@dataclass(frozen=True)
class Deterministic(Reparameterised):
    """``sigmoid(theta)``, or ``max(0, theta)``: the noisy units with no noise, as baselines.

    Reference: the deterministic gates of Bengio, Léonard, Courville 2013 (arXiv:1308.3432).

    Args:
        function: "sigmoid" or "rectifier".

    Raises:
        UsageError: the function is neither.
    """

    function: Literal["sigmoid", "rectifier"] = "sigmoid"

    noise = "uniform"  # asked for, and not used

    def __post_init__(self) -> None:
        if self.function not in ("sigmoid", "rectifier"):
            raise UsageError(f'the function of Deterministic is "sigmoid" or "rectifier"; found {self.function!r}')

    def mean(self, theta: Tensor) -> Tensor:
        """The value."""
        return theta.sigmoid() if self.function == "sigmoid" else theta.relu()

    def sample(self, theta: Tensor, noise: Tensor) -> Tensor:
        """The value, whatever the noise."""
        return self.mean(theta)

    def rule(self, theta: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
        """The one value."""
        return self.mean(theta)[None], torch.ones_like(theta)[None]

    def rule_size(self, nodes: int) -> int:
        """1."""
        return 1
