"""Gaussian units under an oscillating loss."""

from dataclasses import dataclass

import torch
from torch import Tensor

from estimator_lab.problems.gaussian import Gaussian


@dataclass(frozen=True)
class GaussianCosine(Gaussian):
    """``f(x) = sum_d cos(k_d x_d)`` of independent Gaussian units.

    Reference: Mohamed, Rosca, Figurnov, Mnih 2020 (arXiv:1906.10652), section 3.

    Args:
        mean: mu of each unit.
        deviation: s of each unit.
        k: constant of each unit's term.
        dtype: of the computation.
    """

    k: tuple[float, ...] = (0.5, 2.0)

    label = "Gaussian cosine"

    def f(self, x: Tensor) -> Tensor:
        """The sum over units."""
        return (x * x.new_tensor(self.k)).cos().sum(-1)

    def closed_form(self) -> Tensor:
        """Exact gradient."""
        # E cos(k x) = cos(k mu) exp(-k^2 s^2 / 2)
        damping = (-(self._k * self._s).square() / 2).exp()
        return (
            torch.stack(
                [-self._k * (self._k * self._mu).sin(), -(self._k * self._s).square() * (self._k * self._mu).cos()], -1
            )
            * damping[:, None]
        )
