"""What is kept of an estimator on a problem, so that later code can be held against it: a small JSON file."""

import datetime
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from estimator_lab import doors
from estimator_lab.baseline_group import Kept, keep
from estimator_lab.baseline_origin import machine, signature, versions
from estimator_lab.baseline_pace import pace
from estimator_lab.baseline_schema import FORMAT, REMEDY, SCHEMA, read, written
from estimator_lab.diagnosis import writable
from estimator_lab.errors import NotConverged, TooLarge, UsageError
from estimator_lab.estimator import Estimator
from estimator_lab.evaluation import check_independence, group_of, under_test
from estimator_lab.measurement import Measurement, prepare, prepare_sampler
from estimator_lab.problem import Problem
from estimator_lab.record import Record
from estimator_lab.sampler import GradientSampler
from estimator_lab.saving import plain, restored
from estimator_lab.statistics import test_unbiased
from estimator_lab.statistics.two_sample import STAGES, bias_power, fewest, rise_power
from estimator_lab.truth import Truth

if TYPE_CHECKING:
    from estimator_lab.baseline_check import Comparison

ALPHA = 1e-4
"""Chance of a false alarm of a whole run."""

CHECKS = 1000
"""Checks that may share it: a baseline is made long enough for one of so many."""

MARGIN = 0.1
"""Shift of the mean, relative to its length or the gradient's, that a check is planned to find."""

INCREASE = 0.25
"""Rise of the variance that a check is planned to find, as a share."""

POWER = 0.99
"""Chance that a check finds them."""

RATIO = 16
"""Draws of a baseline for each draw of a stage: its noise then adds 6 % to the variance of what is compared."""

SPARING = 4
"""The same for a black box, whose draws are calls one by one: 25 %, and a third of the time to write."""

PILOT = 2**12
"""Draws from which the length of a baseline is planned, until it is planned anew from all."""

CENTRE = 2**8
"""Draws whose mean the deviations are taken from where the truth is not exact."""

APART = 6.0
"""Standard deviations of its debiased square by which a length is beyond its noise: 3 errors of a single coordinate."""

SMALLEST = 2**10
"""Draws of a stage, unless a budget says fewer."""

FEWEST = 2**8
"""Draws that a budget may say."""

Progress = Callable[[str, int, int], None]
"""Called with what is drawn, replicates drawn and replicates planned."""


@dataclass(frozen=True)
class Baseline:
    """Moments of an estimator on a problem, with their own uncertainty, and where they came from.

    No draw is kept, so that it holds across devices, versions of torch and dtypes: what is compared later are
    variances, means and costs, each within its error. Where the estimator claims to be unbiased and the truth is exact,
    its mean is held against the truth; else against the mean kept here. Learned parts of an estimator are fitted with
    the seed kept here: on another machine they may come out a little different, which reads as a shift.

    Attributes:
        estimator: its repr.
        problem: its repr.
        target: how the command line names the estimator; empty if it was saved from Python.
        on: how the command line names the problem.
        claim: whether the estimator declares itself unbiased.
        reference: "truth" or "baseline": what the mean is held against.
        replicates: draws.
        seed: of the draws, and of learned parts.
        dtype: of the draws.
        wrt: which gradients.
        margin: shift of the mean that a check is planned to find, relative to the length of the true gradient or of the
            mean, whichever is longer.
        increase: share by which the variance rises that a check is planned to find.
        weights: shape, length and a signed sum of the problem's weights, by name.
        losses: loss evaluations of one draw; nan for a black box.
        backwards: differentiated loss evaluations of one draw.
        seconds: of one draw, on the machine below.
        pace: logarithm of that over the time of a fixed piece of work, timed in turns; nan where it was not timed.
        pace_error: its standard error.
        keys: every gradient that was measured, as "kind name".
        groups: what is compared.
        versions: of Python, torch, numpy and this package.
        machine: platform, processors, threads, device and a short hash that identifies them and the host.
        created: date, ISO 8601.
        history: earlier baselines that this one replaced, oldest first: date, version, variance, why.
    """

    estimator: str
    problem: str
    claim: bool | None
    reference: str
    replicates: int
    seed: int
    dtype: str
    wrt: tuple[str, ...]
    margin: float
    increase: float
    losses: float
    backwards: float
    seconds: float
    pace: float
    pace_error: float
    keys: tuple[str, ...]
    groups: tuple[Kept, ...]
    weights: Mapping[str, tuple[float, ...]]
    versions: Mapping[str, str]
    machine: Mapping[str, str]
    created: str
    target: str = ""
    on: str = ""
    history: tuple[Mapping[str, str], ...] = field(default=())

    def __repr__(self) -> str:
        return f"<Baseline of {self.estimator} on {self.problem}, {self.replicates} draws>"

    @classmethod
    def measure(
        cls,
        estimator: Estimator | GradientSampler,
        on: Problem | None = None,
        *,
        seed: int = 0,
        budget: int | None = None,
        margin: float = MARGIN,
        increase: float = INCREASE,
        alpha: float = ALPHA,
        wrt: tuple[str, ...] = ("unit", "weight"),
        target: str = "",
        named: str = "",
        progress: Progress | None = None,
    ) -> "Baseline":
        """Draws a baseline, 16 times as long as a later stage needs to be in a run of a thousand checks.

        How long that is, is planned from 4096 draws, and once more from all of them. A black box gets 4 times as much
        as a stage: its draws are calls one by one. What limits the time is ``budget``, or a larger ``margin``: the
        draws that a shift of the mean needs go with its inverse square.

        Where the truth is exact, a claim of unbiasedness is tested first. Where it is not, nothing is known against
        which it could be: diagnose the estimator before its baseline is kept.

        Args:
            estimator: an ``Estimator``, or a ``GradientSampler``, which brings its own problem.
            on: the problem.
            seed: of the draws.
            budget: replicates at most, 256 or more; by default four times what ``diagnose`` draws at most.
            margin: relative shift of the mean that later checks are planned to find.
            increase: share by which the variance rises that they are planned to find.
            alpha: false-alarm rate of a run that later checks share; an estimator that claims to be unbiased and is
                found biased at this level is refused.
            wrt: "unit" and/or "weight".
            target: how the command line names the estimator.
            named: how it names the problem.
            progress: called with what is drawn, replicates drawn and replicates planned.

        Raises:
            UsageError: estimator and problem do not go together; or a claim of unbiasedness is violated.
            MeasurementError: a gradient is not finite, or replicates are not independent.
        """
        if not (margin > 0 and increase > 0 and 0 < alpha < 1):
            raise UsageError(
                "margin and increase are positive and alpha between 0 and 1; "
                f"found margin={margin}, increase={increase}, alpha={alpha}"
            )
        enough(budget)
        a_pair(estimator, on, "Baseline.measure(estimator, on=problem)")
        measurement, truth, exact = measured(estimator, on, seed, "baseline", wrt)
        most, times = budget or 4 * measurement.default_replicates, ratio(estimator)
        steps = (lambda done, total: progress(estimator.label, done, total)) if progress else None
        record = measurement.extend(None, min(PILOT, most), steps)

        def kept(record: Record) -> "Baseline":
            bare = cls._of(record, truth, estimator, on, exact)
            return replace(bare, seed=seed, margin=margin, increase=increase, target=target, on=named)

        for _ in range(2):
            stage = kept(record).needed(alpha / CHECKS, stored=times)
            record = measurement.extend(record, int(min(most, times * max(stage, SMALLEST))), steps)
        check_independence(record, group_of(record, truth, next(k for k in record.layout.groups if k[0] == "total")))
        found = kept(record)
        if found.reference == "truth":
            for name, group in under_test(record, truth).items():
                if (p := test_unbiased(group) * len(found.groups)) < alpha:
                    raise UsageError(
                        f"{found.estimator} claims to be unbiased and is not at {name} of {found.problem} "
                        f"(p = {max(p, 1e-300):.1g}, below {alpha:g}): a baseline keeps what is right; mend it, "
                        "diagnose says what the bias looks like, or declare unbiased = False"
                    )
        timed = pace(measurement)
        return replace(
            found,
            pace=float(f"{timed.ratio:.4g}"),
            pace_error=float(f"{timed.error:.2g}"),
            seconds=float(f"{timed.seconds:.2g}"),
        )

    @classmethod
    def _of(
        cls,
        record: Record,
        truth: Truth,
        estimator: Estimator | GradientSampler,
        on: Problem | None,
        exact: bool,
    ) -> Self:
        """What is kept of a record whose deviations were taken from this truth, before it was timed."""
        reference = "truth" if exact and estimator.unbiased else "baseline"
        return cls(
            estimator=record.plan.estimator,
            problem=record.plan.problem,
            claim=estimator.unbiased,
            reference=reference,
            replicates=record.replicates,
            seed=0,
            dtype=record.plan.dtype,
            wrt=record.plan.wrt,
            margin=MARGIN,
            increase=INCREASE,
            losses=record.losses,
            backwards=record.backwards,
            seconds=math.nan,
            pace=math.nan,
            pace_error=math.nan,
            keys=names(record),
            groups=tuple(keep(name, g, reference, exact) for name, g in under_test(record, truth).items()),
            weights=signature(on),
            versions=versions(),
            machine=machine(on),
            created=datetime.datetime.now(datetime.UTC).date().isoformat(),
        )

    def plan(self, alpha: float = ALPHA, stored: float = 0.0) -> tuple["Need", ...]:
        """Draws per stage that a check needs, for every group and metric, with a power of 0.99.

        Args:
            alpha: false-alarm rate of the check, shared by all groups and metrics.
            stored: draws of the baseline for each draw of a stage; 0: as many as it has.
        """
        share = alpha / max(2 * len(self.groups), 1)

        def draws(group: Kept, metric: str) -> float:
            def power(draws: float) -> float:
                return self.power(group, metric, draws, share, stored * draws)

            return math.nan if math.isnan(power(SMALLEST)) else fewest(power, POWER)

        return tuple(Need(g.name, metric, draws(g, metric)) for g in self.groups for metric in ("variance", "mean"))

    def needed(self, alpha: float = ALPHA, stored: float = 0.0) -> float:
        """Draws per stage with which a check finds all that is planned; inf if the baseline is too short for that.

        Args:
            alpha: false-alarm rate of the check.
            stored: as for ``plan``.
        """
        return max((n.draws for n in self.plan(alpha, stored) if not math.isnan(n.draws)), default=float(SMALLEST))

    def power(self, group: Kept, metric: str, draws: float, alpha: float, stored: float = 0.0) -> float:
        """Chance that a check of so many draws per stage finds what it is planned for; nan where none can be planned.

        A lower bound, as far as the errors and the spectrum that were kept are right: both stages find it at least
        with twice the chance of one, less one; a shift is taken along the largest variance; and stages that too few
        draws carry find nothing.

        Args:
            group: one of this baseline's.
            metric: "variance" or "mean".
            draws: of each stage.
            alpha: false-alarm rate of this metric.
            stored: draws of the baseline; by default those it has.
        """
        stored = stored or self.replicates
        if not group.estimable:
            return math.nan
        if group.still:
            return 1.0
        if metric == "variance":
            cv2 = self.replicates * group.error**2
            chance = rise_power(cv2, draws, stored, self.increase, alpha, group.freedom + 1)
        else:
            scale = self.scale(group)
            if not scale > 0:
                return math.nan
            noisy = stored if self.reference == "baseline" else math.inf
            chance = bias_power(group.covariance, draws, noisy, self.margin * scale, alpha, group.freedom + 1)
        return max(chance - STAGES * group.silence(draws / self.replicates), 0.0)

    def scale(self, group: Kept) -> float:
        """What a shift of the mean is relative to: the length of the true gradient, or of the mean if that is longer.

        A mean that is held against an exact truth is not kept, and is as long as that. A kept mean that its own noise
        explains does not count: where the true gradient is zero, too, a shift has no scale, and this is 0.
        """
        square = sum(value**2 for value in group.mean)
        noise = (group.covariance.trace + APART * math.sqrt(2 * group.covariance.trace2)) / self.replicates
        return max(group.norm, math.sqrt(square) if square > noise else 0.0)

    def check(self, estimator: Estimator | GradientSampler, on: Problem | None = None, **options: Any) -> "Comparison":
        """Draws afresh and compares: see `estimator_lab.baseline_check.check`, which has the same arguments."""
        from estimator_lab.baseline_check import check

        return check(self, estimator, on, **options)

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, lists of numbers in one line, nan as null."""
        return written({"format": FORMAT, "schema": SCHEMA, **plain(self)}) + "\n"

    def save(self, path: str | Path) -> None:
        """Writes the JSON, through a temporary file; makes the folder.

        Raises:
            UsageError: the folder cannot be written to.
        """
        path = Path(path)
        with writable(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, part = tempfile.mkstemp(dir=path.parent, suffix=".part")
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    file.write(self.to_json())
                Path(part).chmod(0o644)
                Path(part).replace(path)
            finally:
                Path(part).unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads what ``save`` wrote, also in an earlier schema.

        Raises:
            UsageError: the file is missing, truncated, not JSON, not a baseline, of a later version, or holds numbers
                that no baseline has.
        """
        found = restored(cls, read(path, cls))
        if flaw := found._flaw():
            raise UsageError(f"{path}: {flaw}; {REMEDY}")
        return found

    def _flaw(self) -> str:
        """What no baseline has, in words; empty where nothing is wrong."""
        seen = [group.name for group in self.groups]
        wrongs = {
            "replicates is not positive": self.replicates < 1,
            "margin or increase is not positive": not (self.margin > 0 and self.increase > 0),
            f"reference is {self.reference!r}": self.reference not in ("truth", "baseline"),
            f"wrt is {self.wrt}": not {"unit", "weight"}.issuperset(self.wrt) or not self.wrt,
            "it holds no group": not seen,
            "two groups have one name": len(set(seen)) < len(seen),
            "a weight has no shape and length": any(len(v) < 2 for v in self.weights.values()),
        }
        flaws = [words for words, wrong in wrongs.items() if wrong]
        return next(iter([*flaws, *filter(None, (group.flaw(self.reference) for group in self.groups))]), "")


@dataclass(frozen=True)
class Need:
    """What a check needs for one metric of one group.

    Attributes:
        group: its name.
        metric: "variance" or "mean".
        draws: of each stage; inf if the baseline is too short, nan if none can be planned.
    """

    group: str
    metric: str
    draws: float


# ---------------------------------------------------------------------- drawing
def measured(
    estimator: Estimator | GradientSampler,
    on: Problem | None,
    seed: int,
    purpose: str,
    wrt: tuple[str, ...] = ("unit", "weight"),
) -> tuple[Measurement, Truth, bool]:
    """A measurement whose deviations are taken from the truth where it is exact, else from the mean of 256 draws.

    Args:
        estimator: what is measured.
        on: the problem; none for a black box.
        seed: of learned parts, and with the purpose of the draws.
        purpose: keeps the draws of baselines and of stages apart.
        wrt: "unit" and/or "weight".

    Returns:
        The measurement, the vector as a truth, and whether it is the true gradient.
    """
    if isinstance(estimator, GradientSampler):
        given = estimator.truth if isinstance(estimator.truth, Mapping) else None
        if given:
            known = Truth.given({("weight", k): v.detach().cpu().double().numpy() for k, v in given.items()})
            return prepare_sampler(estimator, seed=seed, reference=known.mean, purpose=purpose), known, True
        centre = _centre(prepare_sampler(estimator, seed=seed, purpose="centre"))
        return prepare_sampler(estimator, seed=seed, reference=centre.mean, purpose=purpose), centre, False
    assert on is not None
    try:
        truth, exact = Truth.exact(on, wrt), True
    except (TooLarge, NotConverged):
        truth, exact = _centre(prepare(on, estimator, seed=seed, wrt=wrt, purpose="centre")), False
    return prepare(on, estimator, seed=seed, wrt=wrt, reference=truth.mean, purpose=purpose), truth, exact


def _centre(measurement: Measurement) -> Truth:
    record = measurement.run(CENTRE)
    return Truth.given({key: record.mean(key) for key in record.layout.shapes}, "the mean of a few draws")


def names(record: Record) -> tuple[str, ...]:
    """Every gradient of a record, as "kind name"."""
    return tuple(" ".join(key) for key in record.layout.shapes)


def ratio(estimator: Estimator | GradientSampler) -> int:
    """Draws of a baseline for each draw of a stage."""
    return SPARING if isinstance(estimator, GradientSampler) else RATIO


def a_pair(estimator: object, on: object, call: str) -> None:
    """Refuses what is no estimator on a problem, and no black box by itself.

    Args:
        estimator: as a user gave it.
        on: the problem, or None.
        call: how the function is called.

    Raises:
        UsageError: it is something else.
    """
    if isinstance(estimator, GradientSampler):
        if on is not None:
            raise UsageError(f"{estimator!r} brings its own problem; leave `on` out")
        return
    given = doors.an_estimator(estimator, call)
    if on is None:
        raise UsageError(f"name the problem that {given!r} is measured on: {call}")
    doors.a_problem(on, call)


def enough(budget: int | None) -> None:
    """Refuses a budget that no statement can rest on.

    Raises:
        UsageError: it is below 256.
    """
    if budget is not None and budget < FEWEST:
        raise UsageError(f"a budget of at least {FEWEST} draws is needed; found {budget}")
