"""Gaussian units under a quadratic loss."""

from dataclasses import dataclass

import torch
from torch import Tensor

from estimator_lab.problems.gaussian import Gaussian


@dataclass(frozen=True)
class GaussianPolynomial(Gaussian):
    """``f(x) = sum_d (x_d - k_d)^2`` of independent Gaussian units.

    Reference: Mohamed, Rosca, Figurnov, Mnih 2020 (arXiv:1906.10652), section 3.

    Args:
        mean: mu of each unit.
        deviation: s of each unit.
        k: constant of each unit's term.
        dtype: of the computation.
    """

    k: tuple[float, ...] = (0.5, -1.0)

    label = "Gaussian polynomial"

    def f(self, x: Tensor) -> Tensor:
        """The sum over units."""
        centred = x - x.new_tensor(self.k)
        return centred.square().sum(-1)

    def closed_form(self) -> Tensor:
        """Exact gradient."""
        # E (x - k)^2 = (mu - k)^2 + s^2, and d/d log s = s d/ds
        d = self._mu - self._k
        return torch.stack([2 * d, 2 * self._s.square()], -1)
