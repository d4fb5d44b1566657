"""A loss without interactions."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from estimator_lab.families import Bernoulli
from estimator_lab.problem import OneSite


@dataclass(frozen=True)
class Additive(OneSite):
    """``f(b) = a . b`` of n independent bits: straight-through is exact here, and local expectation has no variance.

    Args:
        logits: of the bits.
        coefficients: a.
        dtype: of the computation.
    """

    logits: tuple[float, ...] = (-0.7, 0.3, 1.1, 2.5)
    coefficients: tuple[float, ...] = (1.0, -2.0, 0.5, 1.5)
    dtype: torch.dtype = field(default=torch.float64, repr=False)

    family = Bernoulli()
    label = "additive"

    def weights(self) -> Mapping[str, Tensor]:
        """The logits."""
        return {"theta": torch.tensor(self.logits, dtype=self.dtype)}

    def f(self, x: Tensor) -> Tensor:
        """``a . b``."""
        return x @ x.new_tensor(self.coefficients)
