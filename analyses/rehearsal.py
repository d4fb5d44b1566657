"""Rehearsals: the whole procedure of ``diagnose``, many times over, on draws of the real estimators.

A rehearsal is one call of ``Terms.find``, the very function that ``diagnose`` runs, with a real ``Measurement`` in
which two things are exchanged for speed. The source hands out the rows of one long stream of independent draws, which
is drawn in large blocks: a run takes as many rows as it asks for, the next run goes on behind it, so that no two runs
share a row. And blocks grow with the looks, which changes how many rows are folded at a time and nothing else.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from torch import Tensor

import estimator_lab as lab
from estimator_lab.budget import FIRST, Budget
from estimator_lab.chain import Key
from estimator_lab.expectation import expectation
from estimator_lab.long_runs import Run
from estimator_lab.measurement import Measurement, Source, prepare
from estimator_lab.moments import Array, Moments
from estimator_lab.noise import MonteCarlo, Noise
from estimator_lab.plan import Plan
from estimator_lab.statistics.exact import ExactGroup, describe_exact
from estimator_lab.study import ALPHA, MARGIN, Terms
from estimator_lab.truth import Truth

LONG = 2**20
"""Draws behind a reference value that has no closed form."""


@dataclass(frozen=True, eq=False)
class Pair:
    """An estimator on a problem.

    Attributes:
        name: by which results are kept.
        problem: what is differentiated.
        estimator: how.
        truth: gradient of the one site, where the package does not find it.
        wrt: "unit" is enough where weights would repeat it.
        planned: draws of a sequential run at most.
    """

    name: str
    problem: lab.Problem
    estimator: lab.Estimator
    truth: Array | None = None
    wrt: tuple[str, ...] = ("unit",)
    planned: int = 2**12


@dataclass(frozen=True)
class Stages(Plan):
    """A plan with blocks that end where the looks are."""

    first: int = FIRST

    def size(self, index: int) -> int:
        """Replicates of a block: those up to the first look, then as many as there were before."""
        return self.first << max(index - 1, 0)

    def before(self, index: int) -> int:
        """Replicates of all blocks before this one."""
        return self.first << (index - 1) if index else 0


class Stream:
    """A source that hands out consecutive rows of one long stream of draws, a constant added to each.

    Args:
        source: draws the rows.
        rows: how many at a time.
        shift: planted bias by gradient.
        names: of the stream; they seed it.
    """

    def __init__(self, source: Source, rows: int, shift: Mapping[Key, Array], *names: object):
        self.source, self.rows, self.noise = source, rows, MonteCarlo(*names)
        self.shift = {k: torch.as_tensor(v) for k, v in shift.items()}
        self.left: dict[Key, Tensor] = {}

    def draw(self, replicates: int, noise: Noise) -> dict[Key, Tensor]:
        """The next rows; the noise of the block is not needed."""
        noise.used = True  # type: ignore[attr-defined]
        parts = [self.left] if self.left else []
        while sum(len(next(iter(part.values()))) for part in parts) < replicates:
            fresh = self.source.draw(self.rows, self.noise)
            parts.append({k: v + self.shift[k] if k in self.shift else v for k, v in fresh.items()})
        rows = {k: torch.cat([part[k] for part in parts]) for k in parts[0]}
        self.left = {k: v[replicates:] for k, v in rows.items()}
        return {k: v[:replicates] for k, v in rows.items()}

    def __getattr__(self, name: str) -> object:
        return getattr(self.source, name)


@cache
def prepared(pair: Pair) -> tuple[Measurement, Truth]:
    """The measurement that ``diagnose`` would prepare, and the exact truth."""
    if pair.truth is None:
        truth = Truth.exact(pair.problem, pair.wrt)
    else:
        truth = Truth.given({("unit", pair.problem.sites[0].name): pair.truth[None]})
    return prepare(pair.problem, pair.estimator, wrt=pair.wrt, reference=truth.mean), truth


def staged(measurement: Measurement, first: int, shift: Mapping[Key, Array], *names: object) -> Measurement:
    """A measurement of a stream, with a first block of so many rows."""
    own = {field.name: getattr(measurement.plan, field.name) for field in dataclasses.fields(Plan)}
    source = Stream(measurement.source, measurement.plan.largest, shift, *names)
    return replace(measurement, source=source, plan=Stages(**own, first=first))


class Rehearsal:
    """Runs of the procedure under the same conditions, each on draws of its own.

    Args:
        pair: what is judged.
        names: of the draws; they seed it.
        draws: at most, a power of two times 256.
        early: look at 256, 512, .. draws and stop when settled; else look once, at the end.
        truth_draws: of a truth that every run estimates for itself, with the same estimator; 0 for the exact truth.
        margin: relative bias that counts as small.
        shift: planted bias by gradient.
    """

    def __init__(
        self,
        pair: Pair,
        *names: object,
        draws: int,
        early: bool = True,
        truth_draws: int = 0,
        margin: float = MARGIN,
        shift: Mapping[Key, Array] | None = None,
    ):
        self.pair, self.truth_draws = pair, truth_draws
        self.terms = Terms(0, Budget(draws, early=early), margin, ALPHA, exact=False)
        base, self.truth = prepared(pair)
        self.measurement = staged(base, FIRST if early else draws, shift or {}, "measure", *names)
        self.fresh = staged(replace(base, reference=None), truth_draws, {}, "truth", *names)

    def run(self) -> lab.Finding:
        """The next run, on draws that no other run has."""
        measurement, truth = self.measurement, self.truth
        if self.truth_draws:
            record = self.fresh.extend(None, self.truth_draws)
            keys = tuple(record.layout.shapes)
            truth = Truth({k: record.mean(k) for k in keys}, "estimated", (Run(record, None, "", keys),))
            flat = np.concatenate([truth.mean[k].ravel() for k in measurement.layout.shapes])
            measurement = replace(measurement, reference=flat)
        return self.terms.find(measurement, truth, self.pair.estimator, self.pair.name, math.inf, None)


# ---------------------------------------------------------------------- what is true of a pair
@dataclass(frozen=True)
class Reference:
    """True values of a pair.

    Attributes:
        values: statistic by tested row, such as "site x".
        how: where they are from.
        directions: unit vectors for planted biases at the first site, in the shape of its gradient: "along" the true
            gradient, and those of the "noisiest" and the "quietest" direction.
        norm: of the true gradient of the first site.
    """

    values: dict[str, dict[str, float]]
    how: str
    directions: dict[str, Array]
    norm: float


@cache
def reference(pair: Pair) -> Reference:
    """True values: of the summed expectation where there is one, else of a long run; covariances of a long run.

    The error of a value from the long run is ``sqrt(R / 2^20)`` of the standard error of a run of R draws, 1/16 at
    4096. The mean of an unbiased estimator is the truth.
    """
    measurement, truth = prepared(pair)
    layout, flat = measurement.layout, torch.as_tensor(measurement.reference)
    total, square = None, torch.zeros(layout.size, layout.size, dtype=torch.float64)
    noise, rows = MonteCarlo("reference", pair.name), measurement.plan.largest
    draws = LONG // max(layout.size // 32, 1)
    for _ in range(draws // rows):
        vector = layout.vector(measurement.source.draw(rows, noise), flat)
        part = Moments.of(vector)
        total = part if total is None else total + part
        errors = vector[:, : layout.size] - flat
        square += errors.T @ errors
    assert total is not None
    mean, variance = total.mean.copy(), total.variance.copy()
    known = expectation(measurement)
    if pair.estimator.unbiased:
        mean[: layout.size] = flat
    if known:
        sure = np.setdiff1d(np.arange(mean.size), sorted(known.unknown))
        mean[sure], variance[sure] = known.moments.mean[sure], known.moments.variance[sure]
    bias = mean[: layout.size] - flat.numpy()
    covariance = square.numpy() / total.weight - np.outer(bias, bias)
    values = {}
    for key in layout.groups:
        own = layout.columns(key)
        scalars = {name: float(mean[i]) for name, i in layout.scalar_columns(key).items()}
        rounding = np.full(own.size, 1e-12)
        group = ExactGroup(mean[own], variance[own], flat.numpy()[own], rounding, scalars, 2.0**-52)
        part2 = covariance[np.ix_(own, own)]
        level = {"unit": "site"}.get(key[0], key[0])
        values[f"{level} {key[1]}"] = describe_exact(group) | {
            "effective_rank": float(np.trace(part2) ** 2 / (part2**2).sum())
        }
    first = ("unit", pair.problem.sites[0].name)
    span, shape = layout.spans[first], layout.shapes[first]
    g = truth.mean[first].ravel()
    axes = np.linalg.eigh(covariance[span, span])[1]
    vectors = {"along": g / np.linalg.norm(g), "noisiest": axes[:, -1], "quietest": axes[:, 0]}
    how = known.how if known else f"a run of {draws} draws"
    return Reference(values, how, {k: v.reshape(shape) for k, v in vectors.items()}, float(np.linalg.norm(g)))
