"""The Monte Carlo runs that a truth rests on: which estimator draws what, how they go on, and what is kept of them."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from estimator_lab import cache as cached
from estimator_lab.archive import arrays_of, record_of
from estimator_lab.chain import Chain, Key
from estimator_lab.errors import UsageError
from estimator_lab.estimator import Estimator
from estimator_lab.estimators import (
    ControlledFlips,
    LeaveOneOut,
    LocalExpectation,
    MaskScore,
    Pathwise,
    PerSite,
    Sample,
)
from estimator_lab.families import Discrete, Family, Scored, StochasticTimesSmooth
from estimator_lab.measurement import Measurement, prepare, prepare_sampler
from estimator_lab.moments import Array
from estimator_lab.plan import SMALLEST
from estimator_lab.problem import Problem
from estimator_lab.record import Record
from estimator_lab.sampler import GradientSampler
from estimator_lab.statistics.group import carrying

Progress = Callable[[int, int], None]

FLIPS = 2**26
"""Largest tensor that single-unit flips may make; in wider networks they do not fit, and paths are compared instead."""

LONGER = 16
"""Most draws of a cheap layer for each draw of the first one."""

LONG = 2.0
"""Seconds of drawing from which on a run is worth a file."""

SCHEMA = 2
"""Of the files; another number when what a record holds, or how blocks are drawn and joined, has changed."""


@dataclass(frozen=True)
class Run:
    """Draws of an unbiased estimator, and the gradients that a truth takes from them.

    Attributes:
        record: the draws.
        estimator: what drew them; None: a black box.
        label: its name, or that of the method that it is a part of.
        keys: the gradients; the estimator need not be unbiased for others.
        name: of what these are the gradients; empty if they are all.
        times: its draws for each one that was asked for.
    """

    record: Record
    estimator: Estimator | None
    label: str
    keys: tuple[Key, ...]
    name: str = ""
    times: int = 1

    def batches(self, key: Key) -> Array:
        """Independent batch means ``[K, d]`` of one gradient: each is of whole strata."""
        found = self.record.means[:, self.record.layout.spans[key]]
        joined = self.record.plan.strata // self.record.batch_size if self.record.random else 1
        return found if joined <= 1 else found.reshape(-1, joined, found.shape[1]).mean(1)

    def standard_error(self, key: Key) -> Array:
        """Of the mean of one gradient, flat: from the scatter of batch means, since strata are not independent."""
        batches = self.batches(key)
        return np.asarray(batches.std(0, ddof=1) / math.sqrt(len(batches)))

    def carried(self, keys: Sequence[Key]) -> float:
        """How many draws carry the error of some of its gradients."""
        spans = self.record.layout.spans
        parts = [self.record.moments[spans[k]] for k in keys]
        variance, kurtosis = (np.concatenate([getattr(m, name) for m in parts]) for name in ("variance", "kurtosis"))
        return carrying(self.record.replicates, variance, kurtosis)


@dataclass(frozen=True)
class Stretch:
    """A run that is yet to be drawn; attributes as of `Run`."""

    measurement: Measurement
    estimator: Estimator | None
    label: str
    keys: tuple[Key, ...]
    name: str = ""
    times: int = 1

    def of(self, record: Record) -> Run:
        """The run with these draws."""
        return Run(record, self.estimator, self.label, self.keys, self.name, self.times)


# ---------------------------------------------------------------------- what is drawn
def whole(problem: Problem, estimator: Estimator, seed: int, wrt: tuple[str, ...]) -> Stretch:
    """All gradients from one estimator."""
    measurement = prepare(problem, estimator, seed=seed, wrt=wrt, purpose="truth", strata=SMALLEST)
    return Stretch(measurement, estimator, estimator.label, tuple(measurement.layout.shapes))


def black_box(sampler: GradientSampler, seed: int) -> Stretch:
    """All gradients from a black box, whose random numbers are its own."""
    measurement = prepare_sampler(sampler, seed=seed, purpose="truth")
    return Stretch(measurement, None, sampler.label, tuple(measurement.layout.shapes))


def by_layer(problem: Problem, seed: int, wrt: tuple[str, ...]) -> list[Stretch]:
    """The least noisy estimator, where it is controlled flips in a run for each layer.

    In the run of layer s, earlier layers are sampled and no gradient is taken through them. So it is unbiased for the
    units of s, and for weights that feed s and perhaps later layers, but no earlier one; and it does not spend anything
    on the flips of earlier layers, which are the dearest, having the longest way to go. It has as many more draws as
    the first run has loss evaluations for each of its own, rounded to a power of two. Where each draw is
    walked by itself, as code that branches on samples must be, one draw does not tell what a weight feeds: all weights
    are then those of the first run.
    """
    estimator = least_noisy(problem)
    first = whole(problem, estimator, seed, wrt)
    if not isinstance(estimator, ControlledFlips):
        return [first]
    feeds: dict[str, str] = {}  # the first layer that a weight feeds
    others = problem.sites[-1].name
    if _chain(first.measurement).looped:  # a draw at a time, by code that may choose its weights by the samples
        others = problem.sites[0].name
    else:
        fed = Chain(problem, Sample(), wrt).layers()
        for site in problem.sites:
            feeds |= {name: site.name for name in fed.get(site.name, ()) if name not in feeds}
    schedule = []
    for i, site in enumerate(problem.sites):
        keys = tuple(k for k in first.keys if (k[1] if k[0] == "unit" else feeds.get(k[1], others)) == site.name)
        if not i:
            schedule.append(Stretch(first.measurement, estimator, estimator.label, keys, site.name))
            continue
        part = PerSite({earlier.name: Sample() for earlier in problem.sites[:i]}, estimator)
        measurement = prepare(problem, part, seed=seed, wrt=wrt, purpose=f"truth of {site.name}", strata=SMALLEST)
        ratio = _chain(first.measurement).tally.losses / _chain(measurement).tally.losses
        times = 2 ** round(math.log2(min(max(ratio, 1), LONGER)))
        schedule.append(Stretch(measurement, part, estimator.label, keys, site.name, times))
    return [stretch for stretch in schedule if stretch.keys]


def _chain(measurement: Measurement) -> Chain:
    assert isinstance(measurement.source, Chain)
    return measurement.source


def least_noisy(problem: Problem) -> Estimator:
    """The unbiased estimator that a truth is drawn with where no sum is possible.

    Discrete sites: single-unit flips, with a control variate for the noise of the next site where there is one. In
    networks that are too wide for that, and at other sites whose law has a score: leave-one-out over 16 paths. The
    pathwise gradient would be far better at Gaussian sites, but is biased where the loss jumps, and a truth must not
    rest on what nobody has checked. It is taken where there is no score; and stochastic times smooth needs it for a
    part.
    """
    paths = LeaveOneOut(16)
    families = [site.family for site in problem.sites]
    flips = ControlledFlips() if len(problem.sites) > 1 else LocalExpectation()
    alone = all(isinstance(f, Discrete) for f in families)
    too_wide = _flip_numbers(problem) * (1 if alone else paths.paths) > FLIPS

    def at(family: Family) -> Estimator:
        if isinstance(family, Scored):
            return flips if isinstance(family, Discrete) and not too_wide else paths
        return MaskScore(16) if isinstance(family, StochasticTimesSmooth) else Pathwise()

    chosen = [at(family) for family in families]
    if all(one == chosen[0] for one in chosen):
        return chosen[0]
    return PerSite({site.name: one for site, one in zip(problem.sites, chosen, strict=True)})


def _flip_numbers(problem: Problem) -> int:
    """Numbers in the largest tensor that flips make in the smallest block."""
    kinds = [s.family for s in problem.sites]
    changes = [
        math.prod(s.units) * (k.rule_size(1) - 1) if isinstance(k, Discrete) else 0
        for s, k in zip(problem.sites, kinds, strict=True)
    ]
    widths = [math.prod(s.theta_shape) for s in problem.sites]
    rows = [1 + a + b for a, b in zip(changes, [*changes[1:], 0], strict=True)]
    return max(n * max(widths[i:]) for i, n in enumerate(rows)) * SMALLEST * problem.batch


# ---------------------------------------------------------------------- drawing
def draw(schedule: Sequence[Stretch], replicates: int, cache: bool, progress: Progress | None) -> Iterator[Run]:
    """The runs of a schedule, with so many replicates of the first and ``times`` as many of the others.

    There are at least two strata: a single one tells nothing of its error.
    """
    replicates = max(replicates, 2 * SMALLEST)
    kept = [_load(s.measurement) if cache else None for s in schedule]
    for stretch, old, steps in zip(schedule, kept, _steps(schedule, replicates, progress), strict=True):
        record = stretch.measurement.extend(old, replicates * stretch.times, steps)
        if cache and record is not old and record.seconds > LONG:
            _store(stretch.measurement, record)
        yield stretch.of(record)


def refined(
    runs: Sequence[Run], source: Problem | GradientSampler, replicates: int, progress: Progress | None
) -> Iterator[Run]:
    """The runs with more replicates.

    Raises:
        UsageError: the source does not give the draws that they rest on.
    """
    schedule = [_again(run, source) for run in runs]
    for run, stretch, steps in zip(runs, schedule, _steps(schedule, replicates, progress), strict=True):
        yield stretch.of(stretch.measurement.extend(run.record, replicates * run.times, steps))


def _steps(schedule: Sequence[Stretch], replicates: int, progress: Progress | None) -> list[Progress | None]:
    """What each run calls with its own replicates, to tell those of all."""
    if progress is None:
        return [None] * len(schedule)
    sizes = [s.measurement.plan.rounded(replicates * s.times) for s in schedule]
    total = sum(sizes)

    def after(before: int) -> Progress:
        return lambda done, _: progress(before + done, total)

    return [after(sum(sizes[:i])) for i in range(len(sizes))]


def _again(run: Run, source: Problem | GradientSampler) -> Stretch:
    """The stretch that a run was drawn from, if the source still gives its draws."""
    plan = run.record.plan
    if isinstance(source, GradientSampler):
        measurement = prepare_sampler(source, seed=plan.seed, purpose=plan.purpose)
    elif run.estimator is not None:
        measurement = prepare(
            source, run.estimator, seed=plan.seed, wrt=plan.wrt, purpose=plan.purpose, strata=plan.strata
        )
    else:
        raise UsageError(f"this truth was drawn from a black box ({plan.estimator}); refine it with that")
    if measurement.plan != plan:
        raise UsageError(
            f"this is the truth of {plan.problem} by {plan.estimator}, and not of {source!r} as it is now; "
            "refine a truth with the problem it was drawn from"
        )
    first = measurement.extend(None, max(run.record.batch_size, SMALLEST))
    batches = run.record.means[: max(SMALLEST // run.record.batch_size, 1)]
    if not _alike(batches.mean(0), first.moments.mean, plan.dtype):
        raise UsageError(
            f"{source!r} no longer gives the draws that this truth of it rests on: its data or its code have "
            "changed; draw a new truth, and give each problem its own repr"
        )
    return Stretch(measurement, run.estimator, run.label, run.keys, run.name, run.times)


# ---------------------------------------------------------------------- what is kept
def _identity(measurement: Measurement) -> str:
    return f"{SCHEMA} {measurement.plan!r}"


def _load(measurement: Measurement) -> Record | None:
    """The record kept for a plan, if its first block can be drawn again."""
    arrays = cached.load("truth", _identity(measurement))
    if arrays is None:
        return None
    try:
        record, first = record_of(arrays), (arrays["first_mean"], arrays["first_m2"])
    except (KeyError, TypeError, ValueError):
        return None
    if (record.plan, record.layout, record.start) != (measurement.plan, measurement.layout, 0):
        return None
    block = measurement.block(0).moments
    pairs = zip(first, (block.mean, block.m2), strict=True)
    return record if all(_alike(kept, drawn, measurement.plan.dtype) for kept, drawn in pairs) else None


def _alike(kept: Array, drawn: Array, dtype: str) -> bool:
    """Whether numbers that were kept have been drawn again, perhaps on another machine."""
    tolerance = 1e4 * torch.finfo(getattr(torch, dtype)).eps
    atol = tolerance * float(np.abs(drawn).max(initial=0.0))
    return kept.shape == drawn.shape and np.allclose(kept, drawn, rtol=tolerance, atol=atol)


def _store(measurement: Measurement, record: Record) -> None:
    """Keeps a record, with the first block apart: it tells later whether the same is still being drawn."""
    block = measurement.block(0).moments
    arrays = arrays_of(record) | {"first_mean": block.mean, "first_m2": block.m2}
    cached.store("truth", _identity(measurement), arrays)
