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
from estimator_lab.moments import Array, Batches, Moments
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

    @property
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
        """``[d, groups]``: one where a coordinate belongs to a group."""
        member = torch.zeros(self.size, len(self.groups), dtype=torch.float64)
        for i, group in enumerate(self.groups):
            member[self.columns(group), i] = 1
        return member

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
        flat = torch.cat([draws[k].reshape(len(draws[k]), -1) for k in self.shapes], 1).double()
        if reference is None:
            return flat
        g = reference.to(flat)
        member = self.membership.to(flat.device)  # [d, groups]
        square, inner, norm2 = (flat - g).square_() @ member, flat @ (g[:, None] * member), flat.square() @ member
        agree = (flat * g > 0).double() @ member
        length, nonzero = (g.square() @ member).sqrt(), (g != 0).double() @ member
        cosine = torch.where((norm2 > 0) & (length > 0), inner / (norm2.sqrt() * length), 0.0)
        zero, descent = (norm2 == 0).double(), (inner > 0).double()
        share = agree / nonzero.clamp_min(1)
        scalars = torch.stack([square, square.square(), inner, norm2, cosine, zero, descent, share], -1)
        return torch.cat([flat, scalars.flatten(1)], 1)


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
        return (self.stop - self.start) * self.plan.block

    @property
    def batch_size(self) -> int:
        """Replicates in each complete batch."""
        return (self.plan.block // self.plan.leaves) << self.batches.level

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
