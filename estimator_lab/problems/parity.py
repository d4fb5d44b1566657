"""A loss that is all interaction."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from estimator_lab.families import Bernoulli
from estimator_lab.problem import OneSite


@dataclass(frozen=True)
class Parity(OneSite):
    """``f(b) = prod_d (1 - 2 b_d)``: plus one for an even number of ones. E f = prod_d (1 - 2 p_d).

    Args:
        logits: of the bits.
        dtype: of the computation.
    """

    logits: tuple[float, ...] = (-1.5, 0.8, 2.0, -2.5)
    dtype: torch.dtype = field(default=torch.float64, repr=False)

    family = Bernoulli()
    label = "parity"

    def weights(self) -> Mapping[str, Tensor]:
        """The logits."""
        return {"theta": torch.tensor(self.logits, dtype=self.dtype)}

    def f(self, x: Tensor) -> Tensor:
        """Product of signs."""
        return (1 - 2 * x).prod(-1)
