"""What is kept of an estimator on a problem, so that later code can be held against it: a small JSON file."""

import datetime
import hashlib
import json
import math
import os
import platform
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from estimator_lab import doors
from estimator_lab.baseline_pace import pace
from estimator_lab.baseline_schema import FORMAT, SCHEMA, migrated
from estimator_lab.diagnosis import writable
from estimator_lab.errors import NotConverged, TooLarge, UsageError, in_a_line
from estimator_lab.estimator import Estimator
from estimator_lab.evaluation import EPSILON, check_independence, group_of, under_test
from estimator_lab.measurement import Measurement, prepare, prepare_sampler
from estimator_lab.moments import Array
from estimator_lab.problem import Problem
from estimator_lab.record import Record
from estimator_lab.sampler import GradientSampler
from estimator_lab.saving import plain, restored
from estimator_lab.statistics import Group, test_unbiased
from estimator_lab.statistics.bias import truth_norm
from estimator_lab.statistics.gram import Gram
from estimator_lab.statistics.spread import variances
from estimator_lab.statistics.two_sample import Spectrum, Spread, bias_power, fewest, rise_power
from estimator_lab.truth import Truth

if TYPE_CHECKING:
    from estimator_lab.baseline_check import Comparison

ALPHA = 1e-4
"""Chance of a false alarm of a whole run."""

MARGIN = 0.1
"""Shift of the mean, relative to the length of the gradient, that a check is planned to find."""

INCREASE = 0.25
"""Rise of the variance that a check is planned to find, as a share."""

POWER = 0.99
"""Chance that a check finds them."""

RATIO = 16
"""Draws of a baseline for each draw of a stage: its noise then costs 6 % of a check's resolution."""

PILOT = 2**12
"""Draws from which the length of a baseline is planned."""

CENTRE = 2**8
"""Draws whose mean the deviations are taken from where the truth is not exact."""

WIDEST = 256
"""Numbers kept of a mean: itself, or so many random projections of it."""

SMALLEST = 2**10
"""Draws of a stage, at least: fewer carry no statement."""

FOLDER = "baselines"


@dataclass(frozen=True)
class Kept:
    """What a baseline keeps of one group of gradients.

    Attributes:
        name: of the group, as in ``unit h1`` or ``layer h1``.
        size: number of coordinates.
        norm: length of the true gradient; of the mean where the truth is not exact.
        bias: norm of the bias over ``norm``, debiased; nan where the truth is not exact.
        variance: of one draw, summed over the coordinates.
        error: standard error of its logarithm; 0 where all draws are alike.
        freedom: degrees of freedom of that error.
        carried: how many draws carry the variance, at least.
        estimable: whether the draws show the variance to be finite, and well enough.
        spectrum: power sums of the covariance of one draw: ``tr S``, ``tr S^2``, ``tr S^3``, largest along a bias.
        mean: of the draws, or 256 random projections of it; empty where the mean is held against an exact truth.
    """

    name: str
    size: int
    norm: float
    bias: float
    variance: float
    error: float
    freedom: int
    carried: float
    estimable: bool
    spectrum: tuple[float, float, float, float]
    mean: tuple[float, ...] = ()

    @property
    def spread(self) -> Spread:
        """The variance as it is compared."""
        return Spread(self.variance, self.error, self.freedom, self.carried)

    @property
    def still(self) -> bool:
        """Whether all draws were alike."""
        return self.error == 0


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
        margin: relative shift of the mean that a check is planned to find.
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
        machine: platform, processors, device and a short hash that identifies it.
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
    ) -> Self:
        """Draws a baseline, 16 times as long as a later stage needs to be.

        Args:
            estimator: an ``Estimator``, or a ``GradientSampler``, which brings its own problem.
            on: the problem.
            seed: of the draws.
            budget: replicates at most; by default four times what ``diagnose`` draws at most.
            margin: relative shift of the mean that later checks are planned to find.
            increase: share by which the variance rises that they are planned to find.
            alpha: false-alarm rate of a check, for the planning; an estimator that claims to be unbiased and is found
                biased at this level is refused.
            wrt: "unit" and/or "weight".
            target: how the command line names the estimator.
            named: how it names the problem.

        Raises:
            UsageError: estimator and problem do not go together; or a claim of unbiasedness is violated.
            MeasurementError: a gradient is not finite, or replicates are not independent.
        """
        if not (margin > 0 and increase > 0 and 0 < alpha < 1):
            raise UsageError(
                "margin and increase are positive and alpha between 0 and 1; "
                f"found margin={margin}, increase={increase}, alpha={alpha}"
            )
        measurement, truth, exact = measured(estimator, on, seed, "baseline", wrt)
        most = budget or 4 * measurement.default_replicates
        record = measurement.extend(None, min(PILOT, most))

        told: dict[str, Any] = {
            "exact": exact, "seed": seed, "margin": margin, "increase": increase, "target": target, "named": named
        }  # fmt: skip
        pilot = cls.of(record, truth, estimator, on, **told)
        stage = max((n.draws for n in pilot.plan(alpha, stored=RATIO) if n.draws == n.draws), default=most)
        record = measurement.extend(record, int(min(most, max(RATIO * stage, RATIO * SMALLEST))))
        check_independence(record, group_of(record, truth, next(k for k in record.layout.groups if k[0] == "total")))
        found = cls.of(record, truth, estimator, on, **told)
        timed = pace(measurement)
        found = replace(
            found,
            pace=float(f"{timed.ratio:.4g}"),
            pace_error=float(f"{timed.error:.2g}"),
            seconds=float(f"{timed.seconds:.2g}"),
        )
        if found.reference == "truth":
            for name, group in under_test(record, truth).items():
                if test_unbiased(group) * len(found.groups) < alpha:
                    raise UsageError(
                        f"{found.estimator} claims to be unbiased and is not at {name} of {found.problem}: a baseline "
                        "keeps what is right; mend it, or declare unbiased = False"
                    )
        return found

    @classmethod
    def of(
        cls,
        record: Record,
        truth: Truth,
        estimator: Estimator | GradientSampler,
        on: Problem | None = None,
        *,
        exact: bool,
        seed: int = 0,
        margin: float = MARGIN,
        increase: float = INCREASE,
        target: str = "",
        named: str = "",
    ) -> Self:
        """From a record that was drawn with this truth as its reference.

        Args:
            record: the draws.
            truth: what deviations are taken from: exact, or any fixed vector.
            estimator: what was measured.
            on: the problem.
            exact: whether it is the true gradient.
            seed: of the draws.
            margin: relative shift of the mean that later checks are planned to find.
            increase: share by which the variance rises that they are planned to find.
            target: how the command line names the estimator.
            named: how it names the problem.
        """
        claim = estimator.unbiased
        reference = "truth" if exact and claim else "baseline"
        groups = under_test(record, truth)
        return cls(
            estimator=record.plan.estimator,
            problem=record.plan.problem,
            claim=claim,
            reference=reference,
            replicates=record.replicates,
            seed=seed,
            dtype=record.plan.dtype,
            wrt=record.plan.wrt,
            margin=margin,
            increase=increase,
            losses=record.losses,
            backwards=record.backwards,
            seconds=float(f"{record.seconds / record.replicates:.2g}"),
            pace=math.nan,
            pace_error=math.nan,
            keys=names(record),
            groups=tuple(_kept(name, g, reference, exact) for name, g in groups.items()),
            weights=signature(on),
            versions=versions(),
            machine=machine(on),
            created=datetime.datetime.now(datetime.UTC).date().isoformat(),
            target=target,
            on=named,
        )

    def plan(self, alpha: float = ALPHA, stored: float = 0.0) -> tuple["Need", ...]:
        """Draws per stage that a check needs, for every group and metric, with a power of 0.99.

        Args:
            alpha: false-alarm rate of the check, shared by all groups and metrics.
            stored: draws of the baseline for each draw of a stage; 0: as many as it has.
        """
        share = alpha / max(2 * len(self.groups), 1)
        needs: list[Need] = []
        for group in self.groups:
            for metric in ("variance", "mean"):

                def power(draws: float, group: Kept = group, metric: str = metric) -> float:
                    return self.power(group, metric, draws, share, stored * draws or self.replicates)

                draws = math.nan if math.isnan(power(SMALLEST)) else fewest(power, POWER)
                needs.append(Need(group.name, metric, draws))
        return tuple(needs)

    def power(self, group: Kept, metric: str, draws: float, alpha: float, stored: float = 0.0) -> float:
        """Chance that a check of so many draws per stage finds what it is planned for; nan where none can be planned.

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
            return rise_power(self.replicates * group.error**2, draws, stored, self.increase, alpha)
        if not group.norm > 0:
            return math.nan
        noisy = stored if self.reference == "baseline" else math.inf
        return bias_power(Spectrum(*group.spectrum), draws, noisy, self.margin * group.norm, alpha, group.freedom + 1)

    def check(self, estimator: Estimator | GradientSampler, on: Problem | None = None, **options: Any) -> "Comparison":
        """Draws afresh and compares: see `estimator_lab.baseline_check.check`, which has the same arguments."""
        from estimator_lab.baseline_check import check

        return check(self, estimator, on, **options)

    def succeeded(self, fresh: "Baseline", reason: str) -> "Baseline":
        """A fresh baseline with this one in its history."""
        entry = {
            "created": self.created,
            "estimator-lab": self.versions.get("estimator-lab", ""),
            "variance": "; ".join(f"{g.name} {g.variance:.4g}" for g in self.groups),
            "replaced": reason,
        }
        return replace(
            fresh,
            history=(*self.history, entry)[-20:],
            target=fresh.target or self.target,
            on=fresh.on or self.on,
        )

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, lists of numbers in one line, nan as null."""
        return _written({"format": FORMAT, "schema": SCHEMA, **plain(self)}) + "\n"

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
            UsageError: the file is missing, truncated, not JSON, not a baseline, or of a later version.
        """
        remedy = "save it again with estimator-lab baseline save, or restore a copy"
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}; name a file of estimator-lab baseline") from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{path} is truncated or no JSON ({error}); {remedy}") from None
        try:
            return restored(cls, migrated(data, path))
        except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
            raise UsageError(f"{path} lacks something a baseline has ({in_a_line(error)}); {remedy}") from None


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
        if on is not None:
            raise UsageError(f"{estimator!r} brings its own problem; leave `on` out")
        given = estimator.truth if isinstance(estimator.truth, Mapping) else None
        if given:
            known = Truth.given({("weight", k): v.detach().cpu().double().numpy() for k, v in given.items()})
            return prepare_sampler(estimator, seed=seed, reference=known.mean, purpose=purpose), known, True
        centre = _centre(prepare_sampler(estimator, seed=seed, purpose="centre"))
        return prepare_sampler(estimator, seed=seed, reference=centre.mean, purpose=purpose), centre, False
    call = "Baseline.measure(estimator, on=problem)"
    estimator, problem = doors.an_estimator(estimator, call), doors.a_problem(on, call)
    try:
        truth, exact = Truth.exact(problem, wrt), True
    except (TooLarge, NotConverged):
        truth, exact = _centre(prepare(problem, estimator, seed=seed, wrt=wrt, purpose="centre")), False
    return prepare(problem, estimator, seed=seed, wrt=wrt, reference=truth.mean, purpose=purpose), truth, exact


def _centre(measurement: Measurement) -> Truth:
    record = measurement.run(CENTRE)
    return Truth.given({key: record.mean(key) for key in record.layout.shapes}, "the mean of a few draws")


def names(record: Record) -> tuple[str, ...]:
    """Every gradient of a record, as "kind name"."""
    return tuple(" ".join(key) for key in record.layout.shapes)


def spread_of(group: Group) -> Spread:
    """The variance of a group as it is compared; without error where all draws are alike."""
    carried = float(min(group.central_sample, group.effective_sample))
    if group.still:
        return Spread(0.0, 0.0, len(group.batches) - 1, carried)
    return Spread.of(variances(group), carried)


def estimable(group: Group) -> bool:
    """Whether a variance may be compared: finite by the look of its tail, and carried by enough draws."""
    return group.still or (group.decidable and bool((variances(group) > 0).all()))


def projected(vectors: Array, name: str) -> Array:
    """``[..., d]`` -> ``[..., min(d, 256)]``: the vectors, or sums with random signs over 256 sets of coordinates.

    Inner products are kept on average over signs and sets, which depend on the name and on d alone.

    Source: Charikar, Chen, Farach-Colton (2002), the count sketch.
    """
    size = vectors.shape[-1]
    if size <= WIDEST:
        return vectors
    seed = int.from_bytes(hashlib.sha256(f"{name} {size}".encode()).digest()[:8], "big")
    bits = np.random.PCG64(seed).random_raw(size)  # the raw stream is the same in every version of numpy
    signs = np.where(bits & 1, 1.0, -1.0)
    order = (bits >> 8) % WIDEST
    rows = [np.bincount(order, row * signs, WIDEST) for row in vectors.reshape(-1, size)]
    return np.array(rows, dtype=np.float64).reshape(*vectors.shape[:-1], WIDEST)


def _kept(name: str, group: Group, reference: str, exact: bool) -> Kept:
    """One group, rounded to what its uncertainty supports."""
    spread, held = spread_of(group), reference == "baseline"
    centred = group.batches - (group.mean if held else group.truth)
    vectors = projected(centred, name) if held else centred
    spectrum = Spectrum.of(Gram(vectors @ vectors.T, vectors.shape[1]), group.replicates)
    error = np.sqrt(np.diag(np.atleast_2d(np.cov(vectors.T))) / len(vectors)) if held and len(vectors) > 1 else None
    mean = projected(group.mean, name) if held else np.zeros(0)
    norm = truth_norm(group) if exact else float(np.linalg.norm(group.mean))
    bias = math.sqrt(max(group.pairing.difference.debiased, 0.0)) / norm if exact and norm > 0 else math.nan
    return Kept(
        name=name,
        size=group.dimension,
        norm=float(f"{norm:.6g}"),
        bias=float(f"{bias:.3g}"),
        variance=rounded(spread.value, spread.value * spread.error),
        error=float(f"{spread.error:.3g}"),
        freedom=int(spread.freedom),
        carried=float(f"{spread.carried:.3g}"),
        estimable=estimable(group),
        spectrum=tuple(float(f"{v:.4g}") for v in (spectrum.trace, spectrum.trace2, spectrum.trace3, spectrum.along)),  # type: ignore[arg-type]
        mean=tuple(map(rounded, mean.tolist(), error.tolist())) if error is not None else tuple(mean.tolist()),
    )


def rounded(value: float, error: float) -> float:
    """A number to a tenth of its standard error or less; to nine digits where that is zero.

    The rounding adds less than a thousandth to the square of the error.
    """
    if not error > 0 or value == 0:
        return float(f"{value:.9g}")
    step = math.floor(math.log10(error)) - 1
    return float(f"{round(value, -step):.12g}") if math.isfinite(value) else value


# ---------------------------------------------------------------------- where it came from
def signature(problem: Problem | None) -> dict[str, tuple[float, ...]]:
    """Shape, length and a signed sum of each weight: what tells one problem from another in any dtype."""
    found: dict[str, tuple[float, ...]] = {}
    for name, weight in problem.weights().items() if problem is not None else ():
        flat = weight.detach().double().cpu().numpy().ravel()
        signs = np.where(np.random.PCG64(len(flat)).random_raw(len(flat)) & 1, 1.0, -1.0)
        found[name] = (*map(float, weight.shape), float(f"{np.linalg.norm(flat):.6g}"), float(f"{flat @ signs:.6g}"))
    return found


def versions() -> dict[str, str]:
    """What results depend on."""
    own = {name: version(name) for name in ("estimator-lab", "torch", "numpy")}
    return {"Python": platform.python_version(), **own}


def machine(problem: Problem | None) -> dict[str, str]:
    """The machine that times were taken on; the hash tells whether another one is the same."""
    device = next((str(w.device.type) for w in problem.weights().values()), "cpu") if problem is not None else "cpu"
    parts = (platform.node(), platform.machine(), platform.processor(), os.cpu_count(), device)
    return {
        "platform": f"{platform.system()} {platform.machine()}",
        "processors": str(os.cpu_count()),
        "device": device,
        "identity": hashlib.sha256(repr(parts).encode()).hexdigest()[:12],
    }


def path_for(
    estimator: Estimator | GradientSampler, problem: Problem | None = None, folder: str | Path = FOLDER
) -> Path:
    """Where the baseline of a pair lies: a file named after both labels, with a hash that tells arguments apart."""
    mark = hashlib.sha256(f"{estimator!r}\x1f{problem!r}".encode()).hexdigest()[:6]
    labels = [estimator.label, *([] if problem is None else [problem.label])]
    slugs = [re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:50].rstrip("-") for text in labels]
    return Path(folder) / f"{'--'.join(filter(None, slugs))}-{mark}.json"


def diff(old: Baseline, new: Baseline) -> str:
    """What two baselines differ in, line by line; empty where it is nothing but draws.

    Numbers that agree within three standard errors are left out.
    """
    lines: list[str] = []
    simple = ("estimator", "problem", "claim", "reference", "dtype", "wrt", "margin", "increase", "replicates")
    for name in (*simple, "losses", "backwards"):
        was, now = getattr(old, name), getattr(new, name)
        if was != now and not (was != was and now != now):
            lines.append(f"{name}: {was} -> {now}")
    for name in sorted({*old.versions, *new.versions}):
        was, now = old.versions.get(name, "none"), new.versions.get(name, "none")
        lines += [f"{name}: {was} -> {now}"] * (was != now)
    if old.weights != new.weights:
        changed = [n for n in dict.fromkeys((*old.weights, *new.weights)) if old.weights.get(n) != new.weights.get(n)]
        lines.append(f"weights of the problem differ: {', '.join(changed)}")
    before, after = {g.name: g for g in old.groups}, {g.name: g for g in new.groups}
    lines += [f"{name}: vanished" for name in before if name not in after]
    lines += [f"{name}: appeared" for name in after if name not in before]
    for name in (n for n in before if n in after):
        lines += _group_lines(name, before[name], after[name], old, new)
    return "\n".join(lines)


def _group_lines(name: str, a: Kept, b: Kept, old: Baseline, new: Baseline) -> list[str]:
    lines = []
    error = math.hypot(a.error, b.error)
    if a.variance > 0 and b.variance > 0:
        change = math.log(b.variance / a.variance)
        if abs(change) > 3 * error:
            lines.append(
                f"{name}: variance {a.variance:.4g} -> {b.variance:.4g} ({100 * math.expm1(change):+.2g} %, "
                f"standard error {100 * error:.2g} %)"
            )
    elif a.variance != b.variance:
        lines.append(f"{name}: variance {a.variance:.4g} -> {b.variance:.4g}")
    if a.size != b.size:
        lines.append(f"{name}: {a.size} -> {b.size} coordinates")
    elif a.mean and b.mean:
        gap = float(np.linalg.norm(np.subtract(a.mean, b.mean)))
        noise = math.sqrt(a.spectrum[0] / old.replicates + b.spectrum[0] / new.replicates)
        if gap > 3 * max(noise, 1e-9 * a.norm):
            lines.append(f"{name}: mean moved by {gap:.2g}, its length {a.norm:.4g} -> {b.norm:.4g}")
    return lines


def _written(value: Any, indent: int = 0) -> str:
    """JSON with sorted keys; lists and dictionaries of plain values in one line."""
    pad, inner = "\n" + " " * indent, "\n" + " " * (indent + 1)
    if isinstance(value, dict) and any(isinstance(v, dict | list) for v in value.values()):
        items = [f"{json.dumps(k, ensure_ascii=False)}: {_written(value[k], indent + 1)}" for k in sorted(value)]
    elif isinstance(value, list) and any(isinstance(v, dict | list) for v in value):
        items = [_written(v, indent + 1) for v in value]
    else:
        return json.dumps(value, ensure_ascii=False, sort_keys=True)
    left, right = "{}" if isinstance(value, dict) else "[]"
    return f"{left}{inner}{f',{inner}'.join(items)}{pad}{right}"


def resolution(dtype: str) -> float:
    """Relative rounding of a dtype that draws came in."""
    return EPSILON.get(dtype, EPSILON["float32"])


def share(kept: Kept, fresh: Spread, stored: int, draws: int) -> float:
    """Variance of the kept mean over that of the fresh one."""
    return kept.variance / stored * draws / fresh.value if fresh.value > 0 else 0.0
