"""The Gram matrix of K batch vectors: all that is needed for a statement about the norm of their mean."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Gram:
    """Inner products of K independent batch vectors `D_k` with mean `b` and covariance `K Omega`.

    `Omega` is the covariance of the mean of all batches. Every property costs at most O(K^3), whatever the dimension.

    Args:
        matrix: [K, K], `<D_k, D_l>`.
        dimension: d, of the space the vectors live in.
    """

    matrix: Array
    dimension: int

    @property
    def batches(self) -> int:
        """K."""
        return len(self.matrix)

    @cached_property
    def square(self) -> float:
        """`||mean D||^2`, too large by `tr Omega` as an estimate of `||b||^2`."""
        return float(self.matrix.mean())

    @cached_property
    def trace(self) -> float:
        """Unbiased estimate of `tr Omega`."""
        k = self.batches
        return float((np.trace(self.matrix) - k * self.square) / (k * (k - 1)))

    @cached_property
    def debiased(self) -> float:
        """Mean of the off-diagonal products: unbiased for `||b||^2` under any law."""
        return self.square - self.trace

    @cached_property
    def centred(self) -> Array:
        """Gram matrix of `D_k - mean D`."""
        rows = self.matrix.mean(1)
        return np.asarray(self.matrix - rows[:, None] - rows[None, :] + self.square)

    @cached_property
    def trace2(self) -> float:
        """Estimate of `tr Omega^2`, unbiased for normal batch means (Bai & Saranadasa 1996)."""
        k = self.batches
        raw = float((self.centred**2).sum()) / (k - 1) ** 2
        return (k - 1) ** 2 / ((k + 1) * (k - 2)) * (raw / k**2 - self.trace**2 / (k - 1))

    @cached_property
    def trace3(self) -> float:
        """Estimate of `tr Omega^3` from the 3-cycles of the centred matrix (Kong & Valiant 2017)."""
        k = self.batches
        off = without_diagonal(self.centred)
        return float(((off @ off) * off).sum()) / (k * (k - 1) * (k - 2)) / k**3

    @cached_property
    def spectrum(self) -> tuple[float, float, float]:
        """Compatible `(tr Omega, tr Omega^2, rho)`; rho is a plausible largest variance along `b`.

        `rho` is the cube root of `tr Omega^3`, kept between the weighted mean eigenvalue `tr Omega^2 / tr Omega`
        and `sqrt(tr Omega^2)`. In one dimension all three are powers of one variance.
        """
        t1 = self.trace
        if t1 <= 0:
            return 0.0, 0.0, 0.0
        if self.dimension == 1:
            return t1, t1**2, t1
        t2 = max(self.trace2, 0.0)
        low = t2 / t1
        rho = min(float(np.clip(np.cbrt(max(self.trace3, 0.0)), low, max(np.sqrt(t2), low))), t1)
        t2 = float(np.clip(self.trace2, 1e-9 * t1**2, t1**2))
        return t1, max(t2, rho**2 + 1e-9 * (t1 - rho) ** 2), rho


def without_diagonal(matrix: Array) -> Array:
    """A copy with zero diagonal."""
    off = matrix.copy()
    np.fill_diagonal(off, 0.0)
    return off
