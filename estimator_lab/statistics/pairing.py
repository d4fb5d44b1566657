"""Batches of an estimate paired with batches of a Monte Carlo truth, reduced to inner products."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg import helmert

from estimator_lab.statistics.gram import Array, Gram


@dataclass(frozen=True, eq=False)
class Pairing:
    """Inner products of J paired batch vectors; `Y` estimate, `T` truth, `g` the fixed vector both are centred at.

    An exact truth is the case `T = g`: its products with anything centred are zero.

    Args:
        error: [J, J], `<Y_k - g, Y_l - g>`.
        noise: [J, J], `<T_k - g, T_l - g>`.
        cross: [J, J], `<Y_k - g, T_l - g>`.
        error_along: [J], `<Y_k - g, g>`.
        noise_along: [J], `<T_k - g, g>`.
        norm2: `||g||^2`.
        dimension: d.
        scalars: name -> [J] batch means of per-replicate scalars.
    """

    error: Array
    noise: Array
    cross: Array
    error_along: Array
    noise_along: Array
    norm2: float
    dimension: int
    scalars: Mapping[str, Array]

    @property
    def batches(self) -> int:
        """J."""
        return len(self.error)

    @cached_property
    def difference(self) -> Gram:
        """Gram matrix of `Y_k - T_k`: its mean is the bias, its scatter carries the noise of both."""
        return Gram(self.error - self.cross - self.cross.T + self.noise, self.dimension)

    @cached_property
    def estimate(self) -> Gram:
        """Gram matrix of `Y_k`."""
        along = self.error_along
        return Gram(self.error + along[:, None] + along[None, :] + self.norm2, self.dimension)

    @cached_property
    def truth(self) -> Gram:
        """Gram matrix of `T_k`; constant for an exact truth."""
        along = self.noise_along
        return Gram(self.noise + along[:, None] + along[None, :] + self.norm2, self.dimension)

    @cached_property
    def overlap(self) -> Array:
        """[J, J], `<Y_k, T_l>`."""
        return self.cross + self.error_along[:, None] + self.noise_along[None, :] + self.norm2


def pair(batches: Array, truth: Array, truth_batches: Array | None, scalars: Mapping[str, Array]) -> Pairing:
    """Reduce K batches and T truth batches to `J = min(K, T)` pairs and take their inner products.

    Cost: O(J^2 d) time, two temporary copies of the batches.
    """
    count = len(batches) if truth_batches is None else min(len(batches), len(truth_batches))
    error = contracted(batches, count) - truth
    scalars = {name: contracted(values, count) for name, values in scalars.items()}
    zero = np.zeros((count, count))
    noise, cross, along = zero, zero, np.zeros(count)
    if truth_batches is not None:
        offset = contracted(truth_batches, count) - truth
        noise, cross, along = offset @ offset.T, error @ offset.T, offset @ truth
    return Pairing(error @ error.T, noise, cross, error @ truth, along, float(truth @ truth), truth.size, scalars)


def contraction(count: int, to: int) -> Array | None:
    """Matrix [to, count] that turns `count` equal batches into `to <= count` equal ones; None when nothing changes.

    If `to` divides `count`, neighbours are averaged. Otherwise `A = sqrt(to / count) H_to' H_count[:to]` with Helmert
    matrices H (orthonormal, first row constant). Then `A 1 = 1` and `A A' = (to / count) I`: the new vectors keep the
    mean of all, are uncorrelated, and have the variance of batches of `count / to` old ones.
    """
    if count == to:
        return None
    if count % to == 0:
        step = count // to
        return np.kron(np.eye(to), np.full((1, step), 1.0 / step))
    rows = helmert(to, full=True).T @ helmert(count, full=True)[:to]
    return np.asarray(np.sqrt(to / count) * rows, dtype=np.float64)


def contracted(batches: Array, to: int) -> Array:
    """Batch means ``[count, ...]`` turned into ``to`` of them (see `contraction`)."""
    matrix = contraction(len(batches), to)
    return batches if matrix is None else matrix @ batches
