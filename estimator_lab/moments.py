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


CHUNK = 2**18
"""Numbers handled at a time when moments are taken: what the second-level cache holds."""


@dataclass(frozen=True)
class Moments:
    """Weight, mean and second to fourth central sums of a vector, in float64; a value with ``+``.

    Merging follows Chan, Golub, LeVeque 1979 and Pébay 2008, so that nothing cancels when the mean is large against the
    standard deviation. Any split of the same draws gives the same numbers up to rounding; folding the same parts in the
    same order gives the same bytes.

    Attributes:
        weight: number of draws, or total weight of quadrature nodes.
        mean: ``[d]``.
        m2: ``[d]``, sum of weighted squared deviations.
        m3: ``[d]``, sum of weighted cubed deviations.
        m4: ``[d]``, sum of weighted fourth powers of deviations.
    """

    weight: float
    mean: Array
    m2: Array
    m3: Array
    m4: Array

    @classmethod
    def of(cls, draws: Tensor, weight: Tensor | None = None) -> Self:
        """Of draws ``[R, d]``, each of weight one or of the given weights ``[R]``."""
        x = draws.double()
        w = torch.ones(len(x), dtype=torch.float64, device=x.device) if weight is None else weight.to(x.device)
        total = w.sum()
        mean = (w @ x) / total
        sums = x.new_zeros(4, x.shape[1])
        rows = max(CHUNK // max(x.shape[1], 1), 1)
        for part, share in zip(x.split(rows), w.split(rows), strict=True):
            deviation = part - mean
            square = deviation * deviation
            sums[0] += share @ deviation
            sums[1] += share @ square
            sums[2] += share @ deviation.mul_(square)
            sums[3] += share @ square.mul_(square)
        shift = sums[0] / total  # the rounding of the first mean, around which the sums were taken
        m2 = sums[1] - total * shift**2
        m3 = sums[2] - shift * (3 * sums[1] - 2 * total * shift**2)
        m4 = sums[3] - shift * (4 * sums[2] - shift * (6 * sums[1] - 3 * total * shift**2))
        found = (mean + shift, m2.clamp_min_(0.0), m3, m4.clamp_min_(0.0))
        return cls(float(total), *(t.cpu().numpy() for t in found))

    def __add__(self, other: Self) -> Self:
        a, b = self.weight, other.weight
        weight = a + b
        delta = other.mean - self.mean
        step = delta / weight
        product = a * b * delta * step  # w_a w_b delta^2 / (w_a + w_b)
        return type(self)(
            weight,
            self.mean + step * b,
            self.m2 + other.m2 + product,
            self.m3 + other.m3 + step * (product * (a - b) + 3 * (a * other.m2 - b * self.m2)),
            self.m4
            + other.m4
            + step * (4 * (a * other.m3 - b * self.m3))
            + step**2 * (product * (a * a - a * b + b * b) + 6 * (a * a * other.m2 + b * b * self.m2)),
        )

    @property
    def variance(self) -> Array:
        """Unbiased variance of one draw, ``m2 / (weight - 1)``; of quadratures, whose weight is one, ``m2`` itself."""
        return self.m2 / (self.weight - 1) if self.weight > 1.5 else self.m2 / self.weight

    @property
    def skewness(self) -> Array:
        """Third standardised moment; 0 where the variance is 0."""
        return self._standardised(self.m3, 3)

    @property
    def kurtosis(self) -> Array:
        """Fourth standardised moment, 3 for a normal law; 0 where the variance is 0."""
        return self._standardised(self.m4, 4)

    def _standardised(self, moment: Array, power: int) -> Array:
        spread = np.sqrt(self.m2 / self.weight)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio: Array = np.where(spread**power > 0, moment / self.weight / spread**power, 0.0)
        return ratio

    def __getitem__(self, part: slice | NDArray[np.intp]) -> Self:
        """The moments of some coordinates."""
        return type(self)(self.weight, *(values[part] for values in (self.mean, self.m2, self.m3, self.m4)))


@dataclass(frozen=True)
class Batches:
    """Means of contiguous batches of replicates, as the nodes of a binary tree over all leaves of a measurement.

    Leaf i is replicate i. Node (level, j) is the mean of its two children at
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
    def of(cls, draws: Tensor, first: int) -> Self:
        """Of draws ``[n, d]``, each a leaf, numbered from ``first``, a multiple of n; n is a power of two."""
        means, level = draws.double(), 0
        while len(means) > BATCHES:
            means, level = (means[0::2] + means[1::2]).div_(2), level + 1
        start = first >> level
        return cls({(level, start + i): mean for i, mean in enumerate(means.cpu().numpy())}, len(draws))

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
