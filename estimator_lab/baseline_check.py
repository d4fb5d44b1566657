"""Fresh draws held against a baseline: what got worse, better, lost or unclear."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from estimator_lab.baseline import (
    ALPHA,
    POWER,
    SMALLEST,
    Baseline,
    Progress,
    a_pair,
    enough,
    measured,
    names,
    ratio,
)
from estimator_lab.baseline_diff import alteration, signed, successor
from estimator_lab.baseline_metric import FAILS, Metric, confirmed, floored, judged
from estimator_lab.baseline_origin import machine, signature
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
from estimator_lab.statistics import Group
from estimator_lab.statistics.two_sample import STAGES
from estimator_lab.truth import Truth

BEYOND = 3.0
"""Standard errors by which a time must exceed what is allowed."""


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
        claimed: whether the estimator claimed to be unbiased, and still does.
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
    claimed: bool = False

    @property
    def status(self) -> str:
        """Of all metrics: "violated" if any fails, "inconclusive" if any is, else "sound".

        Sound means: no metric got worse, and each that has a plan would have shown the planned change more often than
        not. Metrics that got better are sound.
        """
        verdicts = [m.verdict for m in self.metrics]
        if any(v in FAILS for v in verdicts):
            return "violated"
        return "inconclusive" if "inconclusive" in verdicts else "sound"

    def passed(self, strict: bool = False) -> bool:
        """Whether nothing failed; with ``strict``, whether nothing is inconclusive either."""
        return self.status == "sound" or (self.status == "inconclusive" and not strict)

    @property
    def acceptable(self) -> bool:
        """Whether what changed may be meant, so that a new baseline would be taken in the place of the old one.

        Gradients that are not finite are refused, and so is a mean that is wrong under a claim to be unbiased.
        """
        moved = any(m.name == "mean" and m.verdict == "worse" for m in self.metrics)
        return not self.of("non-finite") and not (self.claimed and moved)

    def of(self, verdict: str) -> tuple[Metric, ...]:
        """The metrics with this verdict."""
        return tuple(m for m in self.metrics if m.verdict == verdict)

    @property
    def plan(self) -> str:
        """What was drawn and what it can find, in a line."""
        if not self.replicates:
            return f"stopped there: nothing was compared with the {self.stored:,} draws kept"
        tested = [m for m in self.metrics if m.power == m.power]
        second = ", and as many again to confirm" if self.stages > 1 else ""
        words = f"{self.replicates:,} draws{second}, against {self.stored:,} kept"
        aims = []
        for name, what in (("variance", f"a variance up by {percent(self.increase)}"),
                           ("mean", f"a mean off by {percent(self.margin)}")):  # fmt: skip
            if powers := [m.power for m in tested if m.name == name]:
                aims.append(f"{what} with probability {floored(min(powers))}")
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
    of the baseline that both stages share. It is an average over baselines: checks against one and the same share its
    noise, and of their variances one in a hundred has 8 times its rate or more, half have less than half, where 16
    draws are kept for each of a stage. The draws are planned from the baseline, so that a
    variance that rose by ``baseline.increase`` or a mean that moved by ``baseline.margin`` of its length, or of the
    gradient's if that is longer, is found with probability 0.99. What a budget cuts off is told by the power of each
    metric: a lower bound, which a mean that moves across the direction of the largest variance exceeds.

    Verdicts of a metric: "same"; "worse": a variance or a cost that rose, a bias that appeared or a mean that moved;
    "better": a variance or a cost that fell, a bias that shrank; "inconclusive": too few draws carry it, the tail is
    so heavy that the variance may be infinite, or it looks the same to so few draws that a change as planned would have
    been missed with a probability of 1/2 or more; "vanished", "appeared": a gradient, a claim or a variance that is no
    longer there, or was not; "non-finite". All but "same", "better" and "inconclusive" fail a check. A mean whose
    gradient is zero has no scale for a planned shift, and is tested without a stated power.

    Args:
        baseline: what was kept.
        estimator: as it is now.
        on: the problem; none for a ``GradientSampler``.
        seed: of the fresh draws; never those of the baseline, whatever the number.
        budget: draws of a stage at most, 256 or more; by default what ``diagnose`` draws at most, or a sixteenth of
            the baseline's draws, of a black box's a quarter, if that is more.
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
    enough(budget)
    a_pair(estimator, on, "check(estimator, on=problem)")
    if differs := _other(baseline, estimator, on):
        raise UsageError(
            f"the baseline of {baseline.estimator} on {baseline.problem} is of another problem: {differs}; "
            "accept a new baseline if that is meant"
        )
    told = Comparison(
        estimator=repr(estimator),
        problem=baseline.problem if on is None else repr(on),
        replicates=0,
        stored=baseline.replicates,
        stages=1,
        seed=seed,
        alpha=alpha,
        margin=baseline.margin,
        increase=baseline.increase,
        metrics=(),
        claimed=baseline.claim is True and estimator.unbiased is True,
    )
    try:
        first = _Stage.drawn(baseline, estimator, on, seed, 1, budget, alpha, progress)
        fixed = _whole(baseline, estimator, first.record)
        timed, untimed = _time(baseline, first.measurement, machine(on), slower) if slower is not None else ((), ())
        level = alpha / max(2 * len(baseline.groups), 1)
        metrics = first.metrics(baseline, level)
        suspects = [m for m in metrics if m.verdict == "suspect"]
        second = None
        if suspects:
            second = _Stage.drawn(baseline, estimator, on, seed, 2, budget, alpha, progress)
            again = {(m.group, m.name): m for m in second.metrics(baseline, level)}
            metrics = [confirmed(m, again[m.group, m.name]) for m in metrics]
    except MeasurementError as error:
        if "NaN or infinite" not in str(error):
            raise
        return replace(told, metrics=(Metric("", "draws", "non-finite", str(error)),))
    return replace(
        told,
        replicates=first.record.replicates,
        stages=2 if second else 1,
        metrics=(*fixed, *timed, *metrics),
        notes=(*_renamed(baseline, first.record, on), *untimed, *_notes(baseline, first, alpha)),
    )


def accept(
    baseline: Baseline,
    estimator: Estimator | GradientSampler,
    on: Problem | None = None,
    *,
    reason: str,
    seed: int | None = None,
    budget: int | None = None,
    progress: Progress | None = None,
) -> Baseline:
    """A new baseline in the place of an old one, whose headline numbers stay in its history: see `successor`.

    Args:
        baseline: the old one; margin, increase and gradients are taken from it.
        estimator: as it is now.
        on: the problem.
        reason: why the change is meant.
        seed: of the draws; by default that of the old one.
        budget: replicates at most.
        progress: called with what is drawn, replicates drawn and replicates planned.

    Raises:
        UsageError: no reason is given; a claim of unbiasedness is violated; or a mean moved although one is made.
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
        progress=progress,
    )
    return successor(baseline, fresh, reason)


def _other(baseline: Baseline, estimator: Estimator | GradientSampler, on: Problem | None) -> str:
    """How the problem differs from that of the baseline, or an empty string."""
    if isinstance(estimator, GradientSampler):
        return "" if not baseline.weights else "it has weights, and a black box has none"
    return alteration(baseline.weights, signature(on))


def _whole(baseline: Baseline, estimator: Estimator | GradientSampler, record: Record) -> list[Metric]:
    """What is compared without a test: the claim, the gradients that there are, and the cost."""
    metrics: list[Metric] = []
    if baseline.claim is True and estimator.unbiased is not True:
        metrics.append(Metric("", "claim", "vanished", "the claim to be unbiased was taken back"))
    if baseline.claim is not True and estimator.unbiased is True:
        words = "the claim to be unbiased is new, and this baseline does not test it"
        metrics.append(Metric("", "claim", "appeared", words))
    now = names(record)
    for key in baseline.keys:
        if key not in now:
            metrics.append(Metric(key, "gradient", "vanished", f"the gradient {key} is no longer there"))
    for key in now:
        if key not in baseline.keys:
            metrics.append(Metric(key, "gradient", "appeared", f"the gradient {key} is new"))
    for name, a, b in (
        ("loss evaluations", baseline.losses, record.losses),
        ("backward passes", baseline.backwards, record.backwards),
    ):
        if a == a or b == b:
            lost = a == a and b != b
            word = "vanished" if lost else "appeared" if a != a else _order(a, b)
            metrics.append(Metric("", name, word, f"{name} of one draw: {a:g} -> {b:g}", a, b))
    return metrics


def _time(
    baseline: Baseline, measurement: Measurement, here: Mapping[str, str], slower: float
) -> tuple[tuple[Metric, ...], tuple[str, ...]]:
    """The time of a draw: worse if it rose by more than allowed, beyond three errors, in two measurements.

    On a machine of 2 cores under a load of 4 to 6, of 14,000 pairs of measurements of unchanged code 1 % differed so
    for slower=0.25, and none did twice in a row. At the errors found there, 0.12, a factor of 2.1 exceeds that. Under a
    load of 12 the errors were 0.14, none of 7,800 pairs differed twice, and a factor of 3.1 was found 63 times in 100.

    Returns:
        What was found, or a note why nothing can be.
    """
    if math.isnan(baseline.pace) or here["identity"] != baseline.machine.get("identity"):
        why = "was not timed" if math.isnan(baseline.pace) else "was timed on another machine"
        return (), (f"the time of a draw is not judged: the baseline {why}",)
    excesses, now, rises = list[float](), math.nan, list[float]()
    for _ in range(STAGES):
        timed = pace(measurement)
        now, gap = timed.seconds, timed.ratio - baseline.pace
        rises.append(gap)
        excesses.append((gap - math.log1p(slower)) / max(math.hypot(timed.error, baseline.pace_error), 1e-9))
        if excesses[-1] <= BEYOND:
            break
    word = "worse" if min(excesses) > BEYOND else "same"
    told = f"time of a draw against a fixed piece of work: {signed(math.expm1(min(rises)))}"
    second = excesses[1] if len(excesses) > 1 else math.nan
    found = Metric("", "seconds", word, told, baseline.seconds, now, excesses[0], second, BEYOND)
    return (found,), ()


def _renamed(baseline: Baseline, record: Record, on: Problem | None) -> tuple[str, ...]:
    """What is called otherwise than in the baseline, although the weights are the same."""
    pairs = [("estimator", baseline.estimator, record.plan.estimator)]
    pairs += [("problem", baseline.problem, record.plan.problem)] if on is not None else []
    return tuple(f"the baseline is of the {what} {was}" for what, was, now in pairs if was != now)


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
        needed = baseline.needed(alpha)
        most = budget or max(measurement.default_replicates, baseline.replicates // ratio(estimator))
        if budget is None and math.isinf(needed):  # the baseline's own error remains: 16 times its draws add 6 % to it
            most = min(most, max(16 * baseline.replicates, SMALLEST))
        draws = int(min(max(needed, SMALLEST), most))
        label = f"{estimator.label}, stage {stage}"
        steps = (lambda done, total: progress(label, done, total)) if progress else None
        record = measurement.extend(None, draws, steps)
        total = next(key for key in record.layout.groups if key[0] == "total")
        check_independence(record, group_of(record, truth, total))
        return cls(measurement, record, truth, exact, needed)

    def group(self, name: str) -> Group | None:
        """The group of this name, if the estimator still has it."""
        kind, _, rest = name.partition(" ")
        return group_of(self.record, self.truth, (kind, rest)) if (kind, rest) in self.record.layout.groups else None

    def metrics(self, baseline: Baseline, level: float) -> list[Metric]:
        """Variance and mean of every group of the baseline; what exceeds a threshold is a "suspect"."""
        found: list[Metric] = []
        for kept in baseline.groups:
            group = self.group(kept.name)
            if group is not None and group.dimension == kept.size:
                found += judged(kept, group, baseline, self.record.replicates, level, self.exact)
                continue
            what = "is no longer there" if group is None else f"had {kept.size} coordinates, has {group.dimension}"
            found.append(Metric(kept.name, "gradient", "vanished", f"{kept.name} {what}"))
        return found


def _notes(baseline: Baseline, stage: _Stage, alpha: float) -> tuple[str, ...]:
    """Where the draws do not have the planned power."""
    drawn = stage.record.replicates
    if math.isinf(stage.needed):
        short = [n for n in baseline.plan(alpha) if math.isinf(n.draws)]
        places = ", ".join(f"{n.metric} of {n.group}" for n in short[:3])
        return (f"the baseline is too short to find what is planned ({places}); save one of more draws",)
    if stage.needed > drawn:
        needed = f"{rounded_up(stage.needed):,} draws (--replicates, or budget= in a test)"
        return (f"{needed} would find what is planned with probability {POWER}",)
    return ()


def worst(comparisons: Sequence[Comparison]) -> str:
    """The status of several comparisons together."""
    statuses = [c.status for c in comparisons]
    return next((s for s in ("violated", "inconclusive") if s in statuses), "sound")
