"""What the Gaussian toys share: independent units with given mean and standard deviation."""

import abc
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from estimator_lab.families import Normal
from estimator_lab.problem import OneSite


@dataclass(frozen=True)
class Gaussian(OneSite):
    """Independent Gaussian units x_d with a loss that is a sum of one term per unit, in closed form.

    Args:
        mean: mu of each unit.
        deviation: s of each unit.
        k: constant of each unit's term.
        dtype: of the computation.
    """

    mean: tuple[float, ...] = (1.0, -0.4)
    deviation: tuple[float, ...] = (1.0, 0.6)
    k: tuple[float, ...] = (0.5, 1.0)
    dtype: torch.dtype = field(default=torch.float64, repr=False)

    family = Normal()

    @property
    def _mu(self) -> Tensor:
        return torch.tensor(self.mean, dtype=self.dtype)

    @property
    def _s(self) -> Tensor:
        return torch.tensor(self.deviation, dtype=self.dtype)

    @property
    def _k(self) -> Tensor:
        return torch.tensor(self.k, dtype=self.dtype)

    def weights(self) -> Mapping[str, Tensor]:
        """``[units, 2]``: mean and logarithm of the standard deviation."""
        return {"theta": torch.stack([self._mu, self._s.log()], -1)}

    @abc.abstractmethod
    def closed_form(self) -> Tensor:
        """Exact gradient ``[units, 2]`` with respect to mean and log standard deviation."""
