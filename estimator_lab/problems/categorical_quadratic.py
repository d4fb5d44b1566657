"""One-of-C units under a quadratic loss."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from estimator_lab.families import Categorical
from estimator_lab.families.family import Family
from estimator_lab.problem import OneSite


@dataclass(frozen=True)
class CategoricalQuadratic(OneSite):
    """``f(D) = (sum_d a . D_d - t)^2`` for independent one-hot units D_d.

    Args:
        logits: one row of C logits per unit.
        coefficients: a, one per class.
        target: t.
        dtype: of the computation.
    """

    logits: tuple[tuple[float, ...], ...] = ((-0.7, 0.3, 1.1), (0.9, -1.2, 0.2))
    coefficients: tuple[float, ...] = (1.0, -2.0, 0.5)
    target: float = 0.45
    dtype: torch.dtype = field(default=torch.float64, repr=False)

    label = "categorical"

    @property
    def family(self) -> Family:  # type: ignore[override]
        """One-hot units over as many classes as there are coefficients."""
        return Categorical(len(self.coefficients))

    def weights(self) -> Mapping[str, Tensor]:
        """The logits ``[units, C]``."""
        return {"theta": torch.tensor(self.logits, dtype=self.dtype)}

    def f(self, x: Tensor) -> Tensor:
        """``(sum_d a . D_d - t)^2``."""
        return ((x @ x.new_tensor(self.coefficients)).sum(-1) - self.target).square()
