"""Gaussian units under a bounded loss."""

from dataclasses import dataclass

import torch
from torch import Tensor

from estimator_lab.problems.gaussian import Gaussian


@dataclass(frozen=True)
class GaussianExponential(Gaussian):
    """``f(x) = sum_d exp(-k_d x_d^2)`` of independent Gaussian units.

    Reference: Mohamed, Rosca, Figurnov, Mnih 2020 (arXiv:1906.10652), section 3.

    Args:
        mean: mu of each unit.
        deviation: s of each unit.
        k: constant of each unit's term.
        dtype: of the computation.
    """

    k: tuple[float, ...] = (0.1, 1.0)

    label = "Gaussian exponential"

    def f(self, x: Tensor) -> Tensor:
        """The sum over units."""
        return (-x.new_tensor(self.k) * x.square()).exp().sum(-1)

    def closed_form(self) -> Tensor:
        """Exact gradient."""
        # E exp(-k x^2) = c^(-1/2) exp(-k mu^2 / c) with c = 1 + 2 k s^2
        c = 1 + 2 * self._k * self._s.square()
        mean = c.rsqrt() * (-self._k * self._mu.square() / c).exp()
        by_mu = -2 * self._k * self._mu / c
        by_s = self._s * (4 * (self._k * self._mu / c).square() - 2 * self._k / c)
        return torch.stack([by_mu, self._s * by_s], -1) * mean[:, None]
