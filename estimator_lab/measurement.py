"""Drawing replicates in blocks."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, reduce
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from estimator_lab import doors
from estimator_lab.budget import MEMORY
from estimator_lab.chain import Chain, Key
from estimator_lab.errors import MeasurementError, UsageError
from estimator_lab.estimator import Estimator
from estimator_lab.moments import Array, Batches, Moments
from estimator_lab.noise import MonteCarlo, Noise, Part, Stratified, derive_seed, forked
from estimator_lab.plan import SMALLEST, Plan, fingerprint
from estimator_lab.problem import Problem
from estimator_lab.record import TAIL, Layout, Record, largest
from estimator_lab.sampler import UNITS_TRUTH, GradientSampler

BLOCK_FLOATS = 2**22
"""Numbers that one block may hold per tensor: it sets the replicates per block, hence the memory."""

LARGEST_BLOCK = 2**13

BYTES = 24
"""Memory for every number of a replicate: itself, its copies in double precision, and those of the batch means."""

PACE = 2**11
"""Draws that are timed."""

FIT = 2**14
"""Draws on which the learned parts of an estimator are fitted."""

PART = 2**10
"""Draws of these at a time."""

FRESH = 8
"""Blocks, all of the smallest size, whose numbers must not be the same."""


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
        part: replicates that are drawn at a time where a block has more, a power of two; None: whole blocks. It sets
            the memory and changes no result but for rounding.
    """

    source: Source
    plan: Plan
    layout: Layout
    reference: Array | None
    device: torch.device
    notes: tuple[str, ...] = ()
    part: int | None = None

    def block(self, index: int) -> Record:
        """Record of one block.

        Raises:
            MeasurementError: a gradient is not finite; names where and how many.
        """
        size = self.plan.size(index)
        step = min(self.part or size, size)
        first, of_its_own = self._piece(index, 0, step)
        if of_its_own and step < size:  # torch's global stream cannot be divided
            return self._piece(index, 0, size)[0]
        rest = (self._piece(index, start, step)[0] for start in range(step, size, step))
        return reduce(_beside, rest, first)

    def _piece(self, index: int, start: int, size: int) -> tuple[Record, bool]:
        """Record of some replicates of a block, and whether torch's global random stream was used."""
        plan = self.plan
        began = time.perf_counter()
        seed, whole = plan.block_seed(index), plan.size(index)
        noise = MonteCarlo(seed, device=self.device)
        numbers = Stratified(noise, plan.strata) if plan.strata > 1 else noise
        with forked(seed):
            before = torch.get_rng_state()
            draws = self.source.draw(size, numbers if size == whole else Part(numbers, start, whole))
            of_its_own = not torch.equal(before, torch.get_rng_state())
        spent = time.perf_counter() - began
        reference = None if self.reference is None else torch.as_tensor(self.reference)
        vector = self.layout.vector(draws, reference)
        moments = Moments.of(vector)
        if not np.isfinite(moments.mean).all():
            self._refuse(draws, index)
        del draws
        tally = getattr(self.source, "tally", None)
        record = Record(
            plan,
            self.layout,
            index,
            index + 1,
            moments,
            Batches.of(vector, plan.before(index) + start),
            np.zeros((0, 0)) if reference is None else largest(vector, self.layout),
            self.reference,
            tally.losses if tally else float("nan"),
            tally.backwards if tally else float("nan"),
            spent,
            noise.used or of_its_own or self._varies(moments),
            getattr(self.source, "loss_scale", 0.0),
            getattr(self.source, "dead", frozenset()),
            self.notes,
        )
        return record, of_its_own

    def _refuse(self, draws: Mapping[Key, Tensor], index: int) -> None:
        """Names the first gradient that is not finite."""
        plan = self.plan
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

    def _varies(self, moments: Moments) -> bool:
        """Whether replicates differ by more than rounding."""
        mean, m2 = moments.mean[: self.layout.size], moments.m2[: self.layout.size]
        rounding = 1e3 * torch.finfo(getattr(torch, self.plan.dtype)).eps
        return bool(m2.sum() > moments.weight * rounding**2 * (mean**2).sum())

    @property
    def default_replicates(self) -> int:
        """How many are drawn at most when nothing else is said: the fewer, the more coordinates a gradient has."""
        return 2**16 if self.layout.size <= 1000 else 2**14 if self.layout.size <= 100_000 else 2**12

    def run(self, replicates: int, progress: Callable[[int, int], None] | None = None) -> Record:
        """All blocks in order up to at least so many replicates.

        Raises:
            MeasurementError: a block failed; ``record`` holds the blocks before it.
        """
        return self.extend(None, replicates, progress)

    def extend(
        self,
        record: Record | None,
        replicates: int,
        progress: Callable[[int, int], None] | None = None,
        deadline: float = math.inf,
    ) -> Record:
        """Goes on with a record of the first blocks until it holds at least so many replicates.

        Blocks are folded one at a time: memory does not grow with the number of replicates. An estimator that drew no
        random number in the first block gives the same gradient for ever: that block is all.

        Args:
            record: what was measured so far, or None.
            replicates: how many there should be, rounded up to whole blocks.
            progress: called with the replicates measured and planned.
            deadline: of ``time.monotonic()``, after which no further block is begun (one is always drawn).

        Raises:
            MeasurementError: a block failed; ``record`` holds the blocks before it.
        """
        if replicates < 1:
            raise UsageError(f"the number of replicates is at least 1; found {replicates}")
        last = self.plan.blocks(replicates)
        for index in range(record.stop if record else 0, last):
            if record is not None and (not record.random or time.monotonic() > deadline):
                break
            try:
                block = self.block(index)
                joined = block if record is None else record + block
                if index == FRESH - 1:
                    self._check_fresh(joined)
            except MeasurementError as error:
                error.record = record
                raise
            record = joined
            if progress:
                progress(record.replicates, self.plan.before(last))
        assert record is not None
        self._check_own_numbers(record)
        return record

    def pace(self) -> float:
        """Seconds per replicate, of a warm block of at most 2048: small blocks are mostly overhead."""
        size, seconds = min(self.plan.largest, PACE), math.inf
        for index in range(2):
            seed = self.plan.block_seed(-1 - index)
            with forked(seed):
                began = time.perf_counter()
                self.source.draw(size, MonteCarlo(seed, device=self.device))
                seconds = min(seconds, time.perf_counter() - began)
        return seconds / size

    def _check_own_numbers(self, record: Record) -> None:
        """All replicates equal, although numbers are drawn, may mean that they share one: then single draws differ.

        A rare event shows in single draws as well; were all draws independent, the k of them that differ would all be
        among the last n of R + n draws with a probability below `(n / (R + n))^k`. That must be below 1e-9.
        """
        if not record.random or self._varies(record.moments):
            return
        mean = torch.as_tensor(record.moments.mean[: self.layout.size])[None]
        alone, differ = 32, 0
        for index in range(alone):
            seed = self.plan.block_seed(-1 - index)
            with forked(seed):
                draw = self.layout.vector(self.source.draw(1, MonteCarlo(seed, device=self.device)), None)
            differ += self._varies(Moments.of(draw) + Moments.of(mean))
        if differ * math.log(1 + record.replicates / alone) > math.log(1e9):
            raise MeasurementError(
                f"{self.plan.estimator} on {self.plan.problem}: all replicates of a block share a random number; "
                "draw one per replicate, from a tensor with the replicate axis",
                record,
            )

    def _check_fresh(self, record: Record) -> None:
        """Blocks with the same numbers mean that a generator is seeded inside the estimator.

        Two blocks of 32 draws of a rare event coincide, with the event in both, once in 200 times at worst. The first
        eight do with a probability below 1e-7: they have four means of eight draws each.
        """
        if not self._varies(record.moments):
            return
        blocks = record.means.reshape(FRESH, -1, record.means.shape[1])
        if (blocks == blocks[:1]).all():
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
    memory: float = MEMORY,
    strata: int = 1,
) -> Measurement:
    """A measurement of an estimator on a problem, its learned parts fitted and its replicates checked not to mix.

    Args:
        problem: what is differentiated.
        estimator: how.
        seed: draws derive from it together with problem, purpose and block.
        wrt: "unit" and/or "weight".
        reference: gradients that per-replicate scalars are taken against.
        purpose: separates the draws of, say, a truth from those of a measurement.
        memory: bytes that one draw of several replicates may take, about.
        strata: replicates over which random numbers are stratified, a power of two up to 32. Single replicates keep
            their law; moments over replicates are then those of dependent draws.

    Raises:
        UsageError: a shape or a family does not fit.
        MeasurementError: the estimator mixes replicates.
    """
    estimator = fit(estimator, problem, seed, FIT)
    chain = Chain(problem, estimator, wrt)
    chain.check_mixing()
    with forked(0):
        shapes = {k: tuple(v.shape[1:]) for k, v in chain.draw(2, MonteCarlo("shapes", device=chain.device)).items()}
    layout = Layout.make(shapes, chain.layers())
    units = sum(int(torch.Size(s).numel()) for k, s in shapes.items() if k[0] == "unit") or 1
    size = layout.size + chain.tally.losses * units * 4
    biggest = block_size(size, chain.looped)
    part = power_of_two(memory / (BYTES * size))
    flat = _flatten(reference, shapes)
    plan = Plan(
        repr(problem),
        repr(estimator),
        purpose,
        fingerprint(chain.weights, estimator.fitted, _named(flat)),
        str(chain.dtype).removeprefix("torch."),
        tuple(wrt),
        seed,
        biggest,
        strata,
    )
    return Measurement(chain, plan, layout, flat, chain.device, chain.notes, part)


def power_of_two(count: float) -> int:
    """The largest power of two up to a number, at least one."""
    return 1 << int(math.log2(max(count, 1)))


def block_size(floats: float, looped: bool) -> int:
    """Replicates of the largest block, given the numbers of one replicate."""
    return max(SMALLEST, min(power_of_two(BLOCK_FLOATS / floats), SMALLEST if looped else LARGEST_BLOCK))


def prepare_sampler(
    sampler: GradientSampler, *, seed: int = 0, reference: Mapping[Key, Array] | None = None, purpose: str = "measure"
) -> Measurement:
    """The same for a black box, which brings no families, no costs and nothing to fit.

    Raises:
        UsageError: the reference lacks a gradient or has another shape.
    """
    if reference is not None and not reference:
        raise UsageError(f"{sampler!r} has no truth to be held against; give it gradients by name, or a sampler")
    with forked(derive_seed("shapes")):
        first = sampler.draw(1, MonteCarlo("shapes"))
    shapes = {k: tuple(v.shape[1:]) for k, v in first.items()}
    if reference is not None and (extra := [k for k in reference if k not in shapes]):
        raise UsageError(
            f"{sampler!r} returns {list(shapes)}, and the truth has {extra} besides; give both the same names"
        )
    units = [k for k in shapes if k[0] == "unit"]
    if reference is not None and (lost := [k for k in units if k not in reference]):
        raise UsageError(f"the truth of {sampler!r} lacks the units {[name for _, name in lost]}; {UNITS_TRUTH}")
    flat = _flatten(reference, shapes)
    dtype = "float64" if all(v.dtype == torch.float64 for v in first.values()) else "float32"
    mark = fingerprint(_named(flat))
    wrt = tuple(dict.fromkeys(kind for kind, _ in shapes))
    plan = Plan("black box", repr(sampler), purpose, mark, dtype, wrt, seed, SMALLEST)
    return Measurement(sampler, plan, Layout.make(shapes, sampler.layers(list(shapes))), flat, torch.device("cpu"))


def _beside(a: Record, b: Record) -> Record:
    """The record of two parts of one block."""
    return replace(
        a,
        moments=a.moments + b.moments,
        batches=a.batches + b.batches,
        largest=-np.sort(-np.concatenate([a.largest, b.largest]), axis=0)[:TAIL],
        seconds=a.seconds + b.seconds,
        random=a.random or b.random,
        dead=a.dead & b.dead,
    )


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
        replicates: number of draws, rounded up to whole blocks (32 to 8192 each, growing).
        seed: same seed, same bytes.
        wrt: "unit" (per example and unit) and/or "weight".

    Raises:
        UsageError: a shape or a family does not fit.
        MeasurementError: a gradient is not finite, or the estimator mixes replicates.
    """
    call = "measure(problem, estimator, replicates)"
    problem, estimator = doors.a_problem(problem, call), doors.an_estimator(estimator, call)
    return prepare(problem, estimator, seed=seed, wrt=wrt).run(replicates)


def fit(estimator: Estimator, problem: Problem, seed: int, replicates: int) -> Estimator:
    """The estimator with its learned parts fitted on so many draws of its own."""

    @cache
    def chain() -> Chain:
        return Chain(problem, estimator, ("unit",))

    def mean_gradient(other: Estimator) -> dict[str, Tensor]:
        noise = MonteCarlo("fit", repr(problem), repr(other), seed, device=chain().device)
        total: dict[str, Tensor] = {}
        parts = max(replicates // PART, 1)
        for _ in range(parts):
            for (_, site), g in chain().under(other).draw(replicates // parts, noise).items():
                total[site] = total.get(site, torch.zeros_like(g[0])) + g.mean(0) / parts
        return total

    with forked(derive_seed("fit", seed)):
        return estimator.adapt(mean_gradient)
