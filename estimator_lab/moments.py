"""Mergeable summaries of replicates: central moments, and means of contiguous batches."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]

BATCHES = 32
"""Batch means kept per record: at least this many and fewer than twice as many, once there are enough replicates."""


@dataclass(frozen=True)
class Moments:
    """Weight, mean and second and third central sums of a vector, in float64; a value with ``+``.

    Merging follows Chan, Golub, LeVeque 1979 and Pébay 2008, so that nothing cancels when the mean is large against the
    standard deviation. Any split of the same draws gives the same numbers up to rounding; folding the same parts in the
    same order gives the same bytes.

    Attributes:
        weight: number of draws, or total weight of quadrature nodes.
        mean: ``[d]``.
        m2: ``[d]``, sum of weighted squared deviations.
        m3: ``[d]``, sum of weighted cubed deviations.
    """

    weight: float
    mean: Array
    m2: Array
    m3: Array

    @classmethod
    def of(cls, draws: Tensor, weight: Tensor | None = None) -> Self:
        """Of draws ``[R, d]``, each of weight one or of the given weights ``[R]``."""
        x = draws.double()
        w = torch.ones(len(x), dtype=torch.float64, device=x.device) if weight is None else weight.to(x.device)
        total = w.sum()
        mean = (w @ x) / total
        centred = x - mean
        correction = (w @ centred) / total  # the rounding of the first mean
        centred -= correction
        square = centred.square()
        m2, m3 = w @ square, w @ square.mul_(centred)
        return cls(float(total), *(t.cpu().numpy() for t in (mean + correction, m2, m3)))

    def __add__(self, other: Self) -> Self:
        weight = self.weight + other.weight
        delta = other.mean - self.mean
        share = other.weight / weight
        product = self.weight * share  # w_a w_b / (w_a + w_b)
        mean = self.mean + delta * share
        m2 = self.m2 + other.m2 + delta**2 * product
        m3 = (
            self.m3
            + other.m3
            + delta**3 * product * (self.weight - other.weight) / weight
            + 3 * delta * (self.weight * other.m2 - other.weight * self.m2) / weight
        )
        return type(self)(weight, mean, m2, m3)

    @property
    def variance(self) -> Array:
        """Unbiased variance of one draw, ``m2 / (weight - 1)``; of quadratures, whose weight is one, ``m2`` itself."""
        return self.m2 / (self.weight - 1) if self.weight > 1.5 else self.m2 / self.weight

    @property
    def skewness(self) -> Array:
        """Third standardised moment; 0 where the variance is 0."""
        spread = self.m2 / self.weight
        with np.errstate(divide="ignore", invalid="ignore"):
            skewness: Array = np.where(spread > 0, self.m3 / self.weight / spread**1.5, 0.0)
        return skewness

    def __getitem__(self, part: slice | NDArray[np.intp]) -> Self:
        """The moments of some coordinates."""
        return type(self)(self.weight, self.mean[part], self.m2[part], self.m3[part])


@dataclass(frozen=True)
class Batches:
    """Means of contiguous batches of replicates, as the nodes of a binary tree over all leaves of a measurement.

    Leaf i holds the mean of replicates ``[i size, (i + 1) size)``. Node (level, j) is the mean of its two children at
    level - 1. A set of leaves is kept as the fewest nodes that cover it, no coarser than the level at which between 32
    and 63 of them would cover it. This form depends on the set of leaves only: however the draws were split over
    workers, the same nodes arise from the same additions, hence the same bytes.

    Attributes:
        nodes: mean vectors ``[d]`` by (level, index).
        leaves: number of leaves covered.
    """

    nodes: dict[tuple[int, int], Array]
    leaves: int

    @classmethod
    def of(cls, draws: Tensor, first: int, count: int) -> Self:
        """Splits draws ``[R, d]`` evenly into ``count`` leaves, numbered from ``first``."""
        means = draws.double().unflatten(0, (count, -1)).mean(1).cpu().numpy()
        return cls({(0, first + i): mean for i, mean in enumerate(means)}, count)._collapse()

    @property
    def level(self) -> int:
        """Level of the full batches: the coarsest that would leave at least 32 of them."""
        return max(0, (self.leaves // BATCHES).bit_length() - 1)

    def __add__(self, other: Self) -> Self:
        return type(self)(self.nodes | other.nodes, self.leaves + other.leaves)._collapse()

    def _collapse(self) -> Self:
        nodes = dict(self.nodes)
        for level in range(self.level):
            for key in sorted(k for k in nodes if k[0] == level and k[1] % 2 == 0):
                sibling = (level, key[1] + 1)
                if sibling in nodes:
                    nodes[level + 1, key[1] // 2] = (nodes.pop(key) + nodes.pop(sibling)) / 2
        return type(self)(nodes, self.leaves)

    def means(self) -> Array:
        """Means ``[K, d]`` of the complete batches, in order; each of ``2^level`` leaves."""
        level = self.level
        return np.stack([self.nodes[k] for k in sorted(self.nodes) if k[0] == level])

    def __iter__(self) -> Iterator[tuple[tuple[int, int], Array]]:
        return iter(sorted(self.nodes.items()))
