"""Fresh draws held against a baseline: what got worse, better, lost or unclear."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from estimator_lab.baseline import (
    ALPHA,
    POWER,
    SMALLEST,
    Baseline,
    Kept,
    estimable,
    machine,
    measured,
    names,
    projected,
    resolution,
    share,
    signature,
    spread_of,
)
from estimator_lab.baseline_pace import pace
from estimator_lab.conclusion import percent, rounded_up
from estimator_lab.errors import MeasurementError, UsageError
from estimator_lab.estimator import Estimator
from estimator_lab.evaluation import check_independence, group_of
from estimator_lab.measurement import Measurement
from estimator_lab.problem import Problem
from estimator_lab.record import Record
from estimator_lab.sampler import GradientSampler
from estimator_lab.saving import plain
from estimator_lab.statistics import Group, bias_interval, test_unbiased
from estimator_lab.statistics.group import GATE
from estimator_lab.statistics.two_sample import HIGHEST, STAGES, Spread, correlation, deviate, moved, rise, threshold
from estimator_lab.truth import Truth

Progress = Callable[[str, int, int], None]

FAILS = ("worse", "vanished", "appeared", "non-finite")
"""Verdicts that fail a check."""

MANY = 1000.0
"""Draws that must carry both variances for a fall to be claimed at the full rate: a fall is the liberal direction."""

BEYOND = 3.0
"""Standard errors by which a time must exceed what is allowed."""

FEW = 100.0
"""Draws below which no fall is claimed; between the two at a third of the rate."""


@dataclass(frozen=True)
class Metric:
    """One comparison.

    Attributes:
        group: its name, or "" for what concerns the whole estimator.
        name: "variance", "mean", "loss evaluations", "backward passes", "seconds", "claim", "gradient" or
            "draws".
        verdict: "same", "worse", "better", "inconclusive", "vanished", "appeared" or "non-finite".
        was: the number in the baseline.
        now: the number measured, of both stages' the last.
        first: normal deviate of the first stage, negative for a fall; nan where nothing is tested.
        second: of the second stage; nan where there was none.
        threshold: that both must exceed.
        power: chance that the check finds what it is planned for; nan where none can be planned.
        words: what was found, in a sentence.
    """

    group: str
    name: str
    verdict: str
    was: float
    now: float
    first: float
    second: float
    threshold: float
    power: float
    words: str


@dataclass(frozen=True)
class Comparison:
    """Everything that was compared with a baseline.

    Attributes:
        estimator: its repr.
        problem: its repr.
        replicates: fresh draws of each stage.
        stored: draws of the baseline.
        stages: how many were drawn.
        seed: of the fresh draws.
        alpha: chance that any metric is called worse although nothing changed.
        margin: relative shift of the mean that was to be found.
        increase: share by which a variance rises that was to be found.
        metrics: all comparisons.
        notes: what the user should know besides.
    """

    estimator: str
    problem: str
    replicates: int
    stored: int
    stages: int
    seed: int
    alpha: float
    margin: float
    increase: float
    metrics: tuple[Metric, ...]
    notes: tuple[str, ...] = ()

    @property
    def status(self) -> str:
        """Of all metrics: "violated" if any fails, "inconclusive" if any is, else "sound"."""
        verdicts = [m.verdict for m in self.metrics]
        if any(v in FAILS for v in verdicts):
            return "violated"
        return "inconclusive" if "inconclusive" in verdicts else "sound"

    def passed(self, strict: bool = False) -> bool:
        """Whether nothing failed; with ``strict``, whether nothing is inconclusive either."""
        return self.status == "sound" or (self.status == "inconclusive" and not strict)

    def of(self, verdict: str) -> tuple[Metric, ...]:
        """The metrics with this verdict."""
        return tuple(m for m in self.metrics if m.verdict == verdict)

    @property
    def plan(self) -> str:
        """What was drawn and what it can find, in a line."""
        tested = [m for m in self.metrics if m.power == m.power]
        second = ", and as many again to confirm" if self.stages > 1 else ""
        words = f"{self.replicates:,} draws{second}, against {self.stored:,} kept"
        aims = []
        for name, what in (("variance", f"a variance up by {percent(self.increase)}"),
                           ("mean", f"a mean off by {percent(self.margin)}")):  # fmt: skip
            if powers := [m.power for m in tested if m.name == name]:
                aims.append(f"{what} with probability {_floored(min(powers))}")
        return f"{words}; finds {' and '.join(aims)}" if aims else words

    def summary(self) -> str:
        """Verdicts in words: what changed or is unclear, line by line, and what was drawn."""
        counts = {v: len(self.of(v)) for v in dict.fromkeys(m.verdict for m in self.metrics)}
        head = f"{self.estimator} on {self.problem}: {', '.join(f'{n} {v}' for v, n in counts.items())}"
        lines = [f"  {m.verdict}: {m.words}" for m in self.metrics if m.verdict != "same"]
        return "\n".join([head, *lines, *(f"  note: {note}" for note in self.notes), f"  {self.plan}"])

    def to_json(self) -> str:
        """All numbers, for other programs."""
        return json.dumps({"status": self.status, **plain(self)}, ensure_ascii=False, indent=1)


def check(
    baseline: Baseline,
    estimator: Estimator | GradientSampler,
    on: Problem | None = None,
    *,
    seed: int = 0,
    budget: int | None = None,
    alpha: float = ALPHA,
    slower: float | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Has this estimator got worse since its baseline was kept?

    In two stages: an alarm needs a rejection in each, the second with new random numbers, drawn only where the first
    rejects. ``alpha`` is shared equally by all groups, and by variance and mean; the thresholds account for the noise
    of the baseline that both stages share. The draws are planned from the baseline, so that a variance that rose by
    ``baseline.increase`` or a mean that moved by ``baseline.margin`` of the gradient is found with probability 0.99.
    What a budget cuts off is told by the power of each metric.

    Verdicts of a metric: "same"; "worse": a variance or a cost that rose, a bias that appeared or a mean that moved;
    "better": a variance or a cost that fell, a bias that shrank; "inconclusive": too few draws carry it, or the tail is
    so heavy that the variance may be infinite; "vanished", "appeared": a gradient, a claim or a variance that is no
    longer there, or was not; "non-finite". Of these the first, third and fourth do not fail a check.

    Args:
        baseline: what was kept.
        estimator: as it is now.
        on: the problem; none for a ``GradientSampler``.
        seed: of the fresh draws; never those of the baseline, whatever the number.
        budget: draws of a stage at most; by default what ``diagnose`` draws at most.
        alpha: chance that any metric is called worse although nothing changed.
        slower: share by which the time of a draw may rise, on the machine of the baseline; by default time is not
            judged. It is timed in turns with a fixed piece of work, twice, and no part of ``alpha``: no law says how
            the load of a machine comes and goes.
        progress: called with what is drawn, replicates drawn and replicates planned.

    Raises:
        UsageError: the problem is another one than that of the baseline.
        MeasurementError: replicates are not independent.
    """
    if not 0 < alpha < 1:
        raise UsageError(f"alpha is between 0 and 1; found {alpha}")
    if differs := _other(baseline, estimator, on):
        raise UsageError(
            f"the baseline of {baseline.estimator} on {baseline.problem} is of another problem: {differs}; "
            "accept a new baseline if that is meant"
        )
    aims = (baseline.margin, baseline.increase)
    told = Comparison(repr(estimator), baseline.problem, 0, baseline.replicates, 1, seed, alpha, *aims, ())
    try:
        first = _Stage.drawn(baseline, estimator, on, seed, 1, budget, alpha, progress)
        fixed = _whole(baseline, estimator, first.record)
        if slower is not None:
            fixed.append(_time(baseline, first.measurement, machine(on), slower))
        level = alpha / max(2 * len(baseline.groups), 1)
        metrics = first.metrics(baseline, level)
        suspects = [m for m in metrics if m.verdict == "suspect"]
        second = None
        if suspects:
            second = _Stage.drawn(baseline, estimator, on, seed, 2, first.record.replicates, alpha, progress)
            again = {(m.group, m.name): m for m in second.metrics(baseline, level)}
            metrics = [_confirmed(m, again[m.group, m.name]) for m in metrics]
    except MeasurementError as error:
        if "NaN or infinite" not in str(error):
            raise
        nan = math.nan
        return replace(told, metrics=(Metric("", "draws", "non-finite", nan, nan, nan, nan, nan, nan, str(error)),))
    return replace(
        told,
        replicates=first.record.replicates,
        stages=2 if second else 1,
        metrics=(*fixed, *metrics),
        notes=_notes(baseline, first, alpha),
    )


def accept(
    baseline: Baseline,
    estimator: Estimator | GradientSampler,
    on: Problem | None = None,
    *,
    reason: str,
    seed: int | None = None,
    budget: int | None = None,
) -> Baseline:
    """A new baseline in the place of an old one, whose headline numbers stay in its history.

    Args:
        baseline: the old one; margin, increase and gradients are taken from it.
        estimator: as it is now.
        on: the problem.
        reason: why the change is meant.
        seed: of the draws; by default that of the old one.
        budget: replicates at most.

    Raises:
        UsageError: no reason is given, or a claim of unbiasedness is violated.
        MeasurementError: a gradient is not finite, or replicates are not independent.
    """
    if not reason.strip():
        raise UsageError("say why the change is meant: give a reason")
    fresh = Baseline.measure(
        estimator,
        on,
        seed=baseline.seed if seed is None else seed,
        budget=budget,
        margin=baseline.margin,
        increase=baseline.increase,
        wrt=baseline.wrt,
    )
    return baseline.succeeded(fresh, reason)


def _other(baseline: Baseline, estimator: Estimator | GradientSampler, on: Problem | None) -> str:
    """How the problem differs from that of the baseline, or an empty string."""
    if isinstance(estimator, GradientSampler):
        return "" if not baseline.weights else "it has weights, and a black box has none"
    if on is None:
        raise UsageError(f"name the problem of {baseline!r}: check(estimator, on=problem)")
    found = signature(on)
    for name in dict.fromkeys((*baseline.weights, *found)):
        was, now = baseline.weights.get(name), found.get(name)
        if was is None or now is None:
            return f"it has {'lost' if now is None else 'gained'} the weight {name!r}"
        if was[:-2] != now[:-2]:
            return f"its weight {name!r} had the shape {list(map(int, was[:-2]))} and has {list(map(int, now[:-2]))}"
        if not np.allclose(was[-2:], now[-2:], rtol=0, atol=1e-3 * max(was[-2], 1e-300)):
            return f"the numbers of its weight {name!r} are others"
    return ""


def _whole(baseline: Baseline, estimator: Estimator | GradientSampler, record: Record) -> list[Metric]:
    """What is compared without a test: the claim, the gradients that there are, and the cost."""
    nan = math.nan
    metrics: list[Metric] = []

    def known(group: str, name: str, verdict: str, was: float, now: float, words: str) -> None:
        metrics.append(Metric(group, name, verdict, was, now, nan, nan, nan, nan, words))

    if baseline.claim is True and estimator.unbiased is not True:
        known("", "claim", "vanished", nan, nan, "the claim to be unbiased was taken back")
    now = names(record)
    for key in baseline.keys:
        if key not in now:
            known(key, "gradient", "vanished", nan, nan, f"the gradient {key} is no longer there")
    for key in now:
        if key not in baseline.keys:
            known(key, "gradient", "appeared", nan, nan, f"the gradient {key} is new")
    for name, a, b in (
        ("loss evaluations", baseline.losses, record.losses),
        ("backward passes", baseline.backwards, record.backwards),
    ):
        if a == a or b == b:
            lost = a == a and b != b
            word = "vanished" if lost else "appeared" if a != a else _order(a, b)
            known("", name, word, a, b, f"{name} of one draw: {a:g} -> {b:g}")
    return metrics


def _time(baseline: Baseline, measurement: Measurement, here: Mapping[str, str], slower: float) -> Metric:
    """The time of a draw: worse if it rose by more than allowed, beyond three errors, in two measurements."""
    nan = math.nan
    if here.get("identity") != baseline.machine.get("identity") or math.isnan(baseline.pace):
        told = "time of a draw: the baseline was timed on another machine" if baseline.pace == baseline.pace else (
            "time of a draw: the baseline was not timed"
        )  # fmt: skip
        return Metric("", "seconds", "inconclusive", baseline.seconds, nan, nan, nan, nan, nan, told)
    excesses, now, rises = list[float](), nan, list[float]()
    for _ in range(STAGES):
        timed = pace(measurement)
        now, gap = timed.seconds, timed.ratio - baseline.pace
        rises.append(gap)
        excesses.append((gap - math.log1p(slower)) / max(math.hypot(timed.error, baseline.pace_error), 1e-9))
        if excesses[-1] <= BEYOND:
            break
    word = "worse" if min(excesses) > BEYOND else "same"
    told = f"time of a draw against a fixed piece of work: {100 * math.expm1(min(rises)):+.2g} %"
    second = excesses[1] if len(excesses) > 1 else nan
    return Metric("", "seconds", word, baseline.seconds, now, excesses[0], second, BEYOND, nan, told)


def _order(was: float, now: float) -> str:
    if math.isclose(was, now, rel_tol=1e-6):
        return "same"
    return "worse" if now > was else "better"


@dataclass(frozen=True)
class _Stage:
    """One set of fresh draws."""

    measurement: Measurement
    record: Record
    truth: Truth
    exact: bool
    needed: float

    @classmethod
    def drawn(
        cls,
        baseline: Baseline,
        estimator: Estimator | GradientSampler,
        on: Problem | None,
        seed: int,
        stage: int,
        budget: int | None,
        alpha: float,
        progress: Progress | None,
    ) -> "_Stage":
        """Draws as many as planned, with learned parts as they were fitted for the baseline."""
        purpose = f"check {seed}, stage {stage}"
        measurement, truth, exact = measured(estimator, on, baseline.seed, purpose, baseline.wrt)
        needed = max((n.draws for n in baseline.plan(alpha) if n.draws == n.draws), default=float(SMALLEST))
        draws = budget if stage > 1 and budget else cls._draws(measurement, needed, budget)
        label = f"{estimator.label}, stage {stage}"
        steps = (lambda done, total: progress(label, done, total)) if progress else None
        record = measurement.extend(None, draws, steps)
        total = next(key for key in record.layout.groups if key[0] == "total")
        check_independence(record, group_of(record, truth, total))
        return cls(measurement, record, truth, exact, needed)

    @staticmethod
    def _draws(measurement: Measurement, needed: float, budget: int | None) -> int:
        return int(min(max(needed, SMALLEST), budget or measurement.default_replicates))

    def group(self, name: str) -> Group | None:
        """The group of this name, if the estimator still has it."""
        kind, _, rest = name.partition(" ")
        return group_of(self.record, self.truth, (kind, rest)) if (kind, rest) in self.record.layout.groups else None

    def metrics(self, baseline: Baseline, level: float) -> list[Metric]:
        """Variance and mean of every group of the baseline; what exceeds a threshold is a "suspect"."""
        found: list[Metric] = []
        for kept in baseline.groups:
            group = self.group(kept.name)
            if group is None or group.dimension != kept.size:
                what = "is no longer there" if group is None else f"had {kept.size} coordinates, has {group.dimension}"
                nan = math.nan
                found.append(
                    Metric(kept.name, "gradient", "vanished", nan, nan, nan, nan, nan, nan, f"{kept.name} {what}")
                )
                continue
            fresh = spread_of(group)
            draws = self.record.replicates
            powers = [baseline.power(kept, name, draws, level) for name in ("variance", "mean")]
            found += [
                _variance(kept, group, fresh, baseline, draws, level, powers[0]),
                _mean(kept, group, fresh, baseline, draws, level, powers[1], self.exact),
            ]
        return found


def _variance(
    kept: Kept, group: Group, fresh: Spread, baseline: Baseline, draws: int, level: float, power: float
) -> Metric:
    """The variance of one group."""
    rho = correlation(draws, baseline.replicates)
    c = threshold(level, rho)
    metric = Metric(
        kept.name, "variance", "same", kept.variance, fresh.value, math.nan, math.nan, c, power,
        f"variance of {kept.name}: {kept.variance:.4g} -> {fresh.value:.4g}",
    )  # fmt: skip
    if kept.still and group.still:
        return metric
    if kept.still:
        # under one law, all k varying draws fall among the fresh ones with probability rho^k
        sure = fresh.carried >= GATE
        told = f"{metric.words}; all draws were alike"
        return replace(metric, verdict="appeared" if sure else "inconclusive", words=told)
    if group.still:
        # as many varying draws as the baseline's variance rests on are expected; none came, with probability exp(-n)
        sure = not group.random or kept.carried * draws / baseline.replicates >= GATE
        told = f"{metric.words}; all draws are alike now"
        return replace(metric, verdict="vanished" if sure else "inconclusive", words=told)
    if not kept.estimable or not estimable(group):
        where = "the baseline's" if not kept.estimable else "the fresh"
        why = "may be infinite" if group.heavy else "rests on too few draws"
        told = f"variance of {kept.name} is not estimable: {where} {why}"
        return replace(metric, verdict="inconclusive", words=told)
    z = rise(fresh, kept.spread)
    carried = min(fresh.carried, kept.carried)
    low = threshold(level if carried >= MANY else level / 3, rho)
    change = fresh.value / kept.variance - 1
    words = f"{metric.words} ({100 * change:+.2g} %)"
    suspect = z > c or (z < -low and carried >= FEW)
    return replace(metric, verdict="suspect" if suspect else "same", first=z, words=words)


def _mean(
    kept: Kept,
    group: Group,
    fresh: Spread,
    baseline: Baseline,
    draws: int,
    level: float,
    power: float,
    exact: bool,
) -> Metric:
    """The mean of one group, against an exact truth or against the mean that was kept."""
    if baseline.reference == "truth":
        c = threshold(level, 0.0)
        now = math.sqrt(max(group.pairing.difference.debiased, 0.0)) / kept.norm if kept.norm > 0 else math.nan
        words = f"bias of {kept.name}: {_percent(now)} of the gradient's norm, where it claims none"
        metric = Metric(kept.name, "mean", "same", kept.bias, now, math.nan, math.nan, c, power, words)
        if not exact:
            return replace(metric, verdict="inconclusive", words=f"the truth of {kept.name} is no longer exact")
        if group.deterministic:
            return metric if group.exact else replace(metric, verdict="worse", first=HIGHEST)
        if not group.decidable:
            return replace(metric, verdict="inconclusive", words=_unclear(kept.name, group))
        z = deviate(test_unbiased(group))
        return replace(metric, verdict="suspect" if z > c else "same", first=z)
    c = threshold(level, correlation(draws, baseline.replicates))
    stored = np.array(kept.mean)
    batches = projected(group.batches, kept.name)
    gap = float(np.linalg.norm(batches.mean(0) - stored))
    length = float(np.linalg.norm(stored))
    scale = max(length, float(np.linalg.norm(batches.mean(0))))
    coarse = max(resolution(baseline.dtype), group.resolution)
    floor = coarse * max(64.0 * max(scale, math.sqrt(fresh.value)), 4.0 * group.loss * math.sqrt(stored.size))
    noise = fresh.value / draws + kept.variance / baseline.replicates
    moved_by = math.sqrt(max(gap**2 - noise, 0.0)) / kept.norm if kept.norm > 0 else math.nan
    words = f"mean of {kept.name} moved by {_percent(moved_by)} of its length"
    metric = Metric(kept.name, "mean", "same", 0.0, moved_by, math.nan, math.nan, c, power, words)
    if kept.still and group.still:
        return replace(metric, verdict="same" if gap <= floor + 1e-8 * scale else "worse", first=math.nan)
    if kept.still or group.still or not kept.estimable or not estimable(group):
        return replace(metric, verdict="inconclusive", words=_unclear(kept.name, group))
    z = deviate(moved(batches, stored, share(kept, fresh, baseline.replicates, draws), floor))
    shrank = exact and kept.bias * kept.norm > bias_interval(group, 0.01, 0.01)[1]
    if shrank:
        words += f", and the bias shrank from {_percent(kept.bias)}"
    return replace(metric, verdict="suspect" if z > c else "same", first=-z if shrank else z, words=words)


def _unclear(name: str, group: Group) -> str:
    if group.heavy:
        return f"mean of {name} is not comparable: the variance may be infinite"
    return f"mean of {name} is not comparable: only {group.central_sample:.0f} draws carry its error"


def _confirmed(first: Metric, second: Metric) -> Metric:
    """What both stages say; a suspicion needs both to exceed the threshold, a variance in the same direction."""
    if first.verdict != "suspect":
        return first
    told = replace(second, first=first.first, second=second.first)
    apart = first.name == "variance" and first.first * second.first < 0
    if second.verdict != "suspect" or apart:
        word = second.verdict if second.verdict in (*FAILS, "inconclusive") else "same"
        return replace(told, verdict=word)
    return replace(told, verdict="better" if max(first.first, second.first) < 0 else "worse")


def _notes(baseline: Baseline, stage: _Stage, alpha: float) -> tuple[str, ...]:
    """Where the draws do not have the planned power."""
    drawn = stage.record.replicates
    if math.isinf(stage.needed):
        short = [n for n in baseline.plan(alpha) if math.isinf(n.draws)]
        places = ", ".join(f"{n.metric} of {n.group}" for n in short[:3])
        return (f"the baseline is too short to find what is planned ({places}); save one of more draws",)
    if stage.needed > drawn:
        return (f"{rounded_up(stage.needed):,} draws would find what is planned with probability {POWER}",)
    return ()


def _floored(power: float) -> str:
    return f"{math.floor(1000 * power) / 1000:g}"


def _percent(share: float) -> str:
    return percent(share) if math.isfinite(share) else "an unknown share"


def worst(comparisons: Sequence[Comparison]) -> str:
    """The status of several comparisons together."""
    statuses = [c.status for c in comparisons]
    return next((s for s in ("violated", "inconclusive") if s in statuses), "sound")
