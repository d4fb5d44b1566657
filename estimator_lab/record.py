"""What a measurement leaves behind."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from estimator_lab.chain import Key
from estimator_lab.errors import UsageError
from estimator_lab.moments import CHUNK, Array, Batches, Moments
from estimator_lab.plan import Plan
from estimator_lab.statistics.group import SCALARS


@dataclass(frozen=True)
class Layout:
    """Where each gradient lies in the flat vector of a record, and which of them make up each group.

    Attributes:
        shapes: shape of each gradient, in the order of the vector.
        groups: keys that make up each group: ``("unit", site)``, ``("layer", site)``, ``("weight", name)`` and
            ``("total", "weights")``, or ``("total", "units")`` where weights are not measured.
    """

    shapes: Mapping[Key, tuple[int, ...]]
    groups: Mapping[Key, tuple[Key, ...]]

    @classmethod
    def make(cls, shapes: Mapping[Key, tuple[int, ...]], layers: Mapping[str, tuple[str, ...]]) -> Self:
        """Groups: every gradient, every layer, and all weights (or, without weights, all units) together."""
        groups: dict[Key, tuple[Key, ...]] = {k: (k,) for k in shapes if k[0] == "unit"}
        weights = tuple(k for k in shapes if k[0] == "weight")
        if weights:
            groups |= {("layer", site): tuple(("weight", n) for n in names) for site, names in layers.items()}
        groups |= {k: (k,) for k in weights}
        groups["total", "weights" if weights else "units"] = weights or tuple(shapes)
        return cls(dict(shapes), groups)

    @cached_property
    def spans(self) -> dict[Key, slice]:
        """Position of each gradient in the vector."""
        ends = np.cumsum([0, *(int(np.prod(s)) for s in self.shapes.values())])
        return {k: slice(int(a), int(b)) for k, a, b in zip(self.shapes, ends, ends[1:], strict=False)}

    @property
    def size(self) -> int:
        """Length of the gradient part of the vector."""
        return sum(int(np.prod(s)) for s in self.shapes.values())

    @cached_property
    def membership(self) -> Tensor:
        """``[gradients, groups]``: one where a gradient belongs to a group."""
        rows = [[float(key in keys) for keys in self.groups.values()] for key in self.shapes]
        return torch.tensor(rows, dtype=torch.float64)

    def columns(self, group: Key) -> NDArray[np.intp]:
        """Indices of a group's coordinates."""
        spans = self.spans
        return np.concatenate([np.arange(spans[k].start, spans[k].stop) for k in self.groups[group]])

    def scalar_columns(self, group: Key) -> dict[str, int]:
        """Indices of a group's scalars, which follow the gradients."""
        start = self.size + list(self.groups).index(group) * len(SCALARS)
        return {name: start + i for i, name in enumerate(SCALARS)}

    def vector(self, draws: Mapping[Key, Tensor], reference: Tensor | None) -> Tensor:
        """Draws ``[R, ...]`` as one matrix ``[R, d + scalars]``; scalars only where there is a reference ``[d]``."""
        parts = [draws[k].reshape(len(draws[k]), -1) for k in self.shapes]
        if reference is None:
            return torch.cat(parts, 1).double()
        extra = parts[0].new_empty(len(parts[0]), len(self.groups) * len(SCALARS))
        whole = torch.cat([*parts, extra], 1).double()
        g = reference.to(whole)
        rows = max(CHUNK // whole.shape[1], 1)
        for chunk in whole.split(rows):  # what one chunk needs stays in the cache
            chunk[:, self.size :] = self._scalars(chunk[:, : self.size], g)
        return whole

    def _scalars(self, x: Tensor, g: Tensor) -> Tensor:
        """``[R, groups * scalars]`` of draws ``[R, d]``: sums over gradients, then over the gradients of a group."""
        difference = x - g
        product = x * g
        sums = x.new_empty(4, len(x), len(self.shapes))
        nonzero, norm2 = x.new_empty(2, len(self.shapes))
        for i, span in enumerate(self.spans.values()):
            sums[0, :, i] = torch.linalg.vecdot(difference[:, span], difference[:, span])
            sums[1, :, i] = product[:, span].sum(1)
            sums[2, :, i] = torch.linalg.vecdot(x[:, span], x[:, span])
            sums[3, :, i] = torch.count_nonzero(product[:, span] > 0, 1)
            nonzero[i], norm2[i] = torch.count_nonzero(g[span]), g[span] @ g[span]
        member = self.membership.to(x.device)
        square, inner, own, agree = sums @ member
        length = (own * (norm2 @ member)).sqrt()
        cosine = torch.where(length > 0, inner / length, 0.0)
        zero, descent = (own == 0).double(), (inner > 0).double()
        share = agree / (nonzero @ member).clamp_min(1)
        return torch.stack([square, square.square(), inner, own, cosine, zero, descent, share], -1).flatten(1)


TAIL = 768
"""Largest squared errors kept per group: the tail 3 sqrt(R) of 65536 draws."""


def largest(vector: Tensor, layout: Layout) -> Array:
    """The largest squared errors ``[<= TAIL, groups]`` of draws with scalars, descending."""
    first = layout.size + SCALARS.index("square")
    square = vector[:, first :: len(SCALARS)]
    return square.topk(min(TAIL, len(square)), dim=0).values.cpu().numpy()


@dataclass(frozen=True)
class Record:
    """Moments and batch means of a contiguous range of blocks of one plan; ``+`` joins adjacent ranges.

    Attributes:
        plan: what was measured.
        layout: what the vector holds.
        start: first block.
        stop: one past the last block.
        moments: of every coordinate and scalar.
        batches: means of contiguous batches of every coordinate and scalar.
        largest: the largest squared errors ``[<= TAIL, groups]`` of single draws, descending.
        reference: the gradient the scalars were taken against, or None.
        losses: loss evaluations per replicate.
        backwards: differentiated loss evaluations per replicate.
        seconds: time spent drawing, in all. Not part of the result's identity.
        random: whether any random number was drawn; if not, every replicate is the same.
        loss: typical absolute value of the loss, which sets the rounding to expect; 0 if not known.
        dead: gradients that are zero because no path leads to them, whatever is drawn.
        notes: what the run had to say.
    """

    plan: Plan
    layout: Layout
    start: int
    stop: int
    moments: Moments
    batches: Batches
    largest: Array
    reference: Array | None
    losses: float
    backwards: float
    seconds: float
    random: bool
    loss: float
    dead: frozenset[Key]
    notes: tuple[str, ...] = ()

    @property
    def replicates(self) -> int:
        """Number of replicates measured."""
        return self.plan.before(self.stop) - self.plan.before(self.start)

    @property
    def batch_size(self) -> int:
        """Replicates in each complete batch."""
        return 1 << self.batches.level

    @cached_property
    def means(self) -> Array:
        """Means ``[K, d + scalars]`` of the complete batches."""
        return self.batches.means()

    def __add__(self, other: Self) -> Self:
        if self.plan != other.plan:
            raise UsageError(f"records of different plans cannot be joined: {self.plan!r} and {other.plan!r}")
        if self.stop != other.start:
            raise UsageError(
                "records join only if adjacent and in order: "
                f"blocks {self.start}..{self.stop} and {other.start}..{other.stop}"
            )
        return type(self)(
            self.plan,
            self.layout,
            self.start,
            other.stop,
            self.moments + other.moments,
            self.batches + other.batches,
            -np.sort(-np.concatenate([self.largest, other.largest]), axis=0)[:TAIL],
            self.reference,
            self.losses,
            self.backwards,
            self.seconds + other.seconds,
            self.random or other.random,
            self.loss,
            self.dead & other.dead,
            tuple(dict.fromkeys(self.notes + other.notes)),
        )

    def __getitem__(self, key: Key) -> Moments:
        """Moments of one group of gradients, flat."""
        return self.moments[self.layout.columns(key)]

    def mean(self, key: Key) -> Array:
        """Mean gradient in its own shape."""
        return self.moments.mean[self.layout.spans[key]].reshape(self.layout.shapes[key])

    def variance(self, key: Key) -> Array:
        """Variance of one draw per coordinate, in the gradient's shape."""
        return self.moments.variance[self.layout.spans[key]].reshape(self.layout.shapes[key])
