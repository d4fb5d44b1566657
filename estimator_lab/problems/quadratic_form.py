"""A loss with pairwise interactions."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from estimator_lab.families import Bernoulli
from estimator_lab.problem import OneSite


@dataclass(frozen=True)
class QuadraticForm(OneSite):
    """``f(b) = (a . b - t)^2`` of n independent bits.

    Args:
        logits: of the bits.
        coefficients: a.
        target: t.
        dtype: of the computation.
    """

    logits: tuple[float, ...] = (-0.7, 0.3, 1.1)
    coefficients: tuple[float, ...] = (1.0, -2.0, 0.5)
    target: float = 0.45
    dtype: torch.dtype = field(default=torch.float64, repr=False)

    family = Bernoulli()
    label = "quadratic form"

    def weights(self) -> Mapping[str, Tensor]:
        """The logits."""
        return {"theta": torch.tensor(self.logits, dtype=self.dtype)}

    def f(self, x: Tensor) -> Tensor:
        """``(a . b - t)^2``."""
        return (x @ x.new_tensor(self.coefficients) - self.target).square()
