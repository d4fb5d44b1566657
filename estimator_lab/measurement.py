"""Drawing replicates in blocks, and exact moments by product rules."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from estimator_lab.chain import Chain, Key, forked
from estimator_lab.errors import MeasurementError, TooLarge, UsageError
from estimator_lab.estimator import Estimator
from estimator_lab.moments import BATCHES, Array, Batches, Moments
from estimator_lab.noise import MonteCarlo, Noise, ProductRule, derive_seed
from estimator_lab.plan import Plan, fingerprint
from estimator_lab.problem import Problem
from estimator_lab.record import Layout, Record
from estimator_lab.sampler import GradientSampler

BLOCK_FLOATS = 2**22
"""Numbers that one block may hold per tensor: it sets the replicates per block, hence the memory."""

LARGEST_BLOCK = 2**13

GRID_LIMIT = 2**22
"""Largest product grid that exact moments are taken over."""


class Source(Protocol):
    """Whatever draws gradients a block at a time: a chain, or a black box."""

    def draw(self, replicates: int, noise: Noise) -> dict[Key, Tensor]:
        """Independent replicates ``[R, *shape]`` of every gradient."""


@dataclass(frozen=True)
class Measurement:
    """A plan with what carries it out: draws any block on its own, in any order, with the same result.

    Attributes:
        source: draws the gradients.
        plan: identity of the measurement.
        layout: order of the gradients.
        reference: gradient that per-replicate scalars are taken against, flat, or None.
        device: where noise is drawn.
        notes: what to tell the user.
    """

    source: Source
    plan: Plan
    layout: Layout
    reference: Array | None
    device: torch.device
    notes: tuple[str, ...] = ()

    def block(self, index: int) -> Record:
        """Record of one block.

        Raises:
            MeasurementError: a gradient is not finite; names where and how many.
        """
        plan = self.plan
        began = time.perf_counter()
        seed = plan.block_seed(index)
        noise = MonteCarlo(seed, device=self.device)
        with forked(seed):
            before = torch.get_rng_state()
            draws = self.source.draw(plan.block, noise)
            drawn = noise.used or not torch.equal(before, torch.get_rng_state())
        spent = time.perf_counter() - began
        for key, tensor in draws.items():
            wrong = ~torch.isfinite(tensor)
            if wrong.any():
                where = tuple(int(i) for i in wrong.nonzero()[0])
                raise MeasurementError(
                    f"{plan.estimator} on {plan.problem}: {int(wrong.sum())} of {tensor.numel()} numbers of the "
                    f"gradient {key} are NaN or infinite in block {index}, first at replicate {where[0]}, "
                    f"index {list(where[1:])}; "
                    "look for saturated probabilities, log(0) or a division by zero there"
                )
        reference = None if self.reference is None else torch.as_tensor(self.reference)
        vector = self.layout.vector(draws, reference)
        del draws
        moments = Moments.of(vector)
        tally = getattr(self.source, "tally", None)
        return Record(
            plan,
            self.layout,
            index,
            index + 1,
            moments,
            Batches.of(vector, index * plan.leaves, plan.leaves),
            self.reference,
            tally.losses if tally else float("nan"),
            tally.backwards if tally else float("nan"),
            spent,
            drawn or self._varies(moments),
            getattr(self.source, "loss_scale", 0.0),
            getattr(self.source, "dead", frozenset()),
            self.notes,
        )

    def _varies(self, moments: Moments) -> bool:
        """Whether replicates differ by more than rounding."""
        mean, m2 = moments.mean[: self.layout.size], moments.m2[: self.layout.size]
        rounding = 1e3 * torch.finfo(getattr(torch, self.plan.dtype)).eps
        return bool(m2.sum() > moments.weight * rounding**2 * (mean**2).sum())

    def blocks(self, replicates: int) -> int:
        """Number of whole blocks that hold at least so many replicates."""
        if replicates < 1:
            raise UsageError(f"the number of replicates is at least 1; found {replicates}")
        return -(-replicates // self.plan.block)

    @property
    def default_replicates(self) -> int:
        """How many are drawn when nothing else is said: 65536, or 4096 where gradients have over 1000 coordinates."""
        return 2**16 if self.layout.size <= 1000 else 2**12

    def run(self, replicates: int, progress: Callable[[int, int], None] | None = None) -> Record:
        """All blocks in order, folded one at a time; memory does not grow with the number of replicates.

        An estimator that drew no random number in the first block gives the same gradient for ever: that block is all.

        Raises:
            MeasurementError: a block failed; ``record`` holds the blocks before it.
        """
        total = self.blocks(replicates)
        record: Record | None = None
        for index in range(total):
            try:
                block = self.block(index)
                if index == 1 and record is not None:
                    self._check_fresh(record, block)
            except MeasurementError as error:
                error.record = record
                raise
            record = block if record is None else record + block
            if progress:
                progress(record.replicates, total * self.plan.block)
            if not record.random:
                break
        assert record is not None
        self._check_own_numbers(record)
        return record

    def _check_own_numbers(self, record: Record) -> None:
        """All replicates equal, although numbers are drawn, may mean that they share one: then single draws differ."""
        if not record.random or self._varies(record.moments):
            return
        mean = record.moments.mean[: self.layout.size]
        for index in range(32):
            seed = self.plan.block_seed(-1 - index)
            with forked(seed):
                alone = self.layout.vector(self.source.draw(1, MonteCarlo(seed, device=self.device)), None)
            if self._varies(Moments.of(alone) + Moments.of(torch.as_tensor(mean)[None])):
                raise MeasurementError(
                    f"{self.plan.estimator} on {self.plan.problem}: all replicates of a block share a random number; "
                    "draw one per replicate, from a tensor with the replicate axis",
                    record,
                )

    def _check_fresh(self, first: Record, second: Record) -> None:
        """Two blocks with the same numbers mean that a generator is seeded inside the estimator."""
        again = all(np.array_equal(a, b) for (_, a), (_, b) in zip(first.batches, second.batches, strict=False))
        if again and self._varies(first.moments):
            raise MeasurementError(
                f"{self.plan.estimator} draws the same numbers in every block: it seeds a generator itself; "
                "draw from site.uniform() and site.sample(), or from torch's global random stream"
            )


def prepare(
    problem: Problem,
    estimator: Estimator,
    *,
    seed: int = 0,
    wrt: tuple[str, ...] = ("unit", "weight"),
    reference: Mapping[Key, Array] | None = None,
    purpose: str = "measure",
    replicates: int = 0,
) -> Measurement:
    """A measurement of an estimator on a problem, its learned parts fitted and its replicates checked not to mix.

    Args:
        problem: what is differentiated.
        estimator: how.
        seed: draws derive from it together with problem, estimator and block.
        wrt: "unit" and/or "weight".
        reference: gradients that per-replicate scalars are taken against.
        purpose: separates the draws of, say, a truth from those of a measurement.
        replicates: how many are wanted, if that is known: they are drawn in 8 blocks or more where that is possible,
            because numbers shared between replicates show only between blocks.

    Raises:
        UsageError: a shape or a family does not fit.
        MeasurementError: the estimator mixes replicates.
    """
    estimator = fit(estimator, problem, seed, min(2**14, 4 * replicates) or 2**14)
    chain = Chain(problem, estimator, wrt)
    chain.check_mixing()
    with forked(0):
        shapes = {k: tuple(v.shape[1:]) for k, v in chain.draw(2, MonteCarlo("shapes", device=chain.device)).items()}
    layout = Layout.make(shapes, chain.layers())
    units = sum(int(torch.Size(s).numel()) for k, s in shapes.items() if k[0] == "unit") or 1
    size = layout.size + chain.tally.losses * units * 4
    fits = 2 ** int(math.log2(max(BLOCK_FLOATS / size, 1)))
    wanted = 2 ** math.ceil(math.log2(max(replicates / 8, 1))) if replicates else LARGEST_BLOCK
    block = max(BATCHES, min(fits, wanted, BATCHES if chain.notes else LARGEST_BLOCK))
    flat = _flatten(reference, shapes)
    plan = Plan(
        repr(problem),
        repr(estimator),
        purpose,
        fingerprint(chain.weights, estimator.fitted, _named(flat)),
        str(chain.dtype).removeprefix("torch."),
        tuple(wrt),
        seed,
        block,
        BATCHES,
    )
    return Measurement(chain, plan, layout, flat, chain.device, chain.notes)


def prepare_sampler(
    sampler: GradientSampler, *, seed: int = 0, reference: Mapping[Key, Array] | None = None, purpose: str = "measure"
) -> Measurement:
    """The same for a black box, whose gradients are all weight gradients.

    Raises:
        UsageError: the reference lacks a gradient or has another shape.
    """
    with forked(derive_seed("shapes")):
        first = sampler.draw(1, MonteCarlo("shapes"))
    shapes = {k: tuple(v.shape[1:]) for k, v in first.items()}
    if reference is not None and (extra := [k for k in reference if k not in shapes]):
        raise UsageError(
            f"{sampler!r} returns {list(shapes)}, and the truth has {extra} besides; give both the same names"
        )
    tensor = next(iter(first.values()))
    flat = _flatten(reference, shapes)
    dtype = str(tensor.dtype).removeprefix("torch.")
    mark = fingerprint(_named(flat))
    plan = Plan("black box", repr(sampler), purpose, mark, dtype, ("weight",), seed, BATCHES, BATCHES)
    return Measurement(sampler, plan, Layout.make(shapes, {}), flat, torch.device("cpu"))


def _named(reference: Array | None) -> dict[str, Tensor]:
    return {} if reference is None else {"reference": torch.as_tensor(reference)}


def _flatten(reference: Mapping[Key, Array] | None, shapes: Mapping[Key, tuple[int, ...]]) -> Array | None:
    if reference is None:
        return None
    for key, shape in shapes.items():
        if key not in reference or tuple(reference[key].shape) != shape:
            found = f"has shape {list(reference[key].shape)} for" if key in reference else "lacks"
            raise UsageError(f"the truth {found} the gradient {key}; the estimates have shape {list(shape)}")
    return np.concatenate([np.asarray(reference[k], dtype=np.float64).ravel() for k in shapes])


def measure(
    problem: Problem,
    estimator: Estimator,
    replicates: int,
    seed: int = 0,
    wrt: tuple[str, ...] = ("unit", "weight"),
) -> Record:
    """Draws gradient estimates and keeps their moments and batch means.

    Args:
        problem: what is differentiated.
        estimator: how.
        replicates: number of draws, rounded up to whole blocks (at most 8192 each, a power of two).
        seed: same seed, same bytes.
        wrt: "unit" (per example and unit) and/or "weight".

    Raises:
        UsageError: a shape or a family does not fit.
        MeasurementError: a gradient is not finite, or the estimator mixes replicates.
    """
    return prepare(problem, estimator, seed=seed, wrt=wrt, replicates=replicates).run(replicates)


def fit(estimator: Estimator, problem: Problem, seed: int, replicates: int) -> Estimator:
    """The estimator with its learned parts fitted on so many draws of its own."""

    def mean_gradient(other: Estimator) -> dict[str, Tensor]:
        chain = Chain(problem, other, ("unit",))
        noise = MonteCarlo("fit", repr(problem), repr(other), seed, device=chain.device)
        total: dict[str, Tensor] = {}
        parts = 16
        for _ in range(parts):
            for (_, site), g in chain.draw(-(-replicates // parts), noise).items():
                total[site] = total.get(site, torch.zeros_like(g[0])) + g.mean(0) / parts
        return total

    with forked(derive_seed("fit", seed)):
        return estimator.adapt(mean_gradient)


# ---------------------------------------------------------------------- exact moments
def exact_moments(
    problem: Problem, estimator: Estimator, nodes: int = 1, wrt: tuple[str, ...] = ("unit", "weight")
) -> dict[Key, Moments]:
    """Exact mean, variance and third moment of an estimator, by a product quadrature over its own noise.

    Replicates are the nodes of the rule, so this runs the very code that draws. One node per piece is exact for
    estimators that are piecewise constant in their uniform numbers (score-function and antithetic ones,
    straight-through on Bernoulli units); smooth ones need 20 to 200 nodes per piece on one or two units. Learned parts
    are fitted with the same exact expectation.

    Args:
        problem: what is differentiated; small, since the grid has (pieces x nodes)^(numbers drawn) points.
        estimator: how.
        nodes: per piece between jumps; for normal noise in all.
        wrt: "unit" and/or "weight".

    Returns:
        Moments of unit weight per key, flat: ``.mean`` and ``.variance`` are the exact ones of one draw.

    Raises:
        TooLarge: the grid has more than 2^22 points; says how many.
    """

    def mean_gradient(other: Estimator) -> dict[str, Tensor]:
        chain = Chain(problem, other, ("unit",))
        found = _integrate(chain, nodes)
        shapes = {s.name: (problem.batch, *s.theta_shape) for s in problem.sites}
        return {
            site: torch.as_tensor(m.mean, dtype=chain.dtype).reshape(shapes[site]) for (_, site), m in found.items()
        }

    return _integrate(Chain(problem, estimator.adapt(mean_gradient), wrt), nodes)


def _integrate(chain: Chain, nodes: int) -> dict[Key, Moments]:
    """Moments over the whole product grid, a chunk of nodes at a time."""
    learn = ProductRule(nodes)
    with forked(derive_seed("integrate")):
        before = torch.get_rng_state()
        chain.draw(1, learn)
        if not torch.equal(before, torch.get_rng_state()):
            raise UsageError(
                f"{chain.estimator!r} draws from torch's global random stream, which no product rule can integrate; "
                "draw from site.uniform() and site.sample(), or sample with estimator_lab.measure"
            )
    if learn.total > GRID_LIMIT:
        raise TooLarge(
            f"exact moments of {chain.estimator!r} on {chain.problem!r} need a grid of {learn.total:.3g} points for "
            f"{len(learn.sizes)} random numbers, more than {GRID_LIMIT}; use fewer nodes or units, or sample with "
            "estimator_lab.measure"
        )
    total: dict[Key, Moments] = {}
    weight = 0.0
    for start, stop in _chunks(learn.total, 2**14):
        rule = ProductRule(nodes, tuple(learn.sizes), start, stop)
        draws = chain.draw(stop - start, rule)
        weight += float(rule.weight.sum())
        if not rule.weight.any():
            continue
        for key, tensor in draws.items():
            part = Moments.of(tensor.reshape(len(tensor), -1), rule.weight)
            total[key] = total[key] + part if key in total else part
    if abs(weight - 1) > 1e-9:
        raise MeasurementError(
            f"the weights of the product rule sum to {weight!r} and not to one: an estimator mixes replicates"
        )
    return total


def _chunks(total: int, size: int) -> Iterator[tuple[int, int]]:
    for start in range(0, total, size):
        yield start, min(total, start + size)
