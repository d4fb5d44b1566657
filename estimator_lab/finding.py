"""What was found of one estimator on one problem: a record held against a truth, as plain numbers and words."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

from estimator_lab.chain import Key
from estimator_lab.errors import MeasurementError
from estimator_lab.moments import Array
from estimator_lab.record import Record
from estimator_lab.statistics import Estimate, Group, describe, verdict
from estimator_lab.statistics.bias import truth_norm
from estimator_lab.truth import Truth

LEVELS = {"unit": "site", "layer": "layer", "weight": "weight", "total": "total"}
EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23}


@dataclass(frozen=True)
class Row:
    """One group of coordinates.

    Attributes:
        level: "site" (unit gradients of one site, examples times units), "layer" (the weights that feed one site, or
            "loss" for those that feed none), "weight" (one tensor), or "total".
        name: of the site, layer or weight.
        size: number of coordinates.
        statistics: by name, with 95 % intervals; see ``estimator_lab.statistics.describe``.
        p: p-value of "no bias".
        p_holm: the same, adjusted for all tested rows of the finding (Holm) and all pairs of the study (Bonferroni).
        verdict: "exact", "unbiased within", "biased", "biased beyond" or "undecided".
        low: lower end of the simultaneous interval for the relative bias.
        high: its upper end.
        detectable: smallest relative bias that the test would have found with probability 0.95.
        needed: replicates that would probably decide the row; 0 when it is decided.
        tested: True for sites and layers, which share the false-alarm rate; other rows are shown for information.
        norm: of the true gradient; where that is estimated, with the noise of the estimate removed.
    """

    level: str
    name: str
    size: int
    statistics: Mapping[str, Estimate]
    p: float
    p_holm: float
    verdict: str
    low: float
    high: float
    detectable: float
    needed: int
    tested: bool
    norm: float


@dataclass(frozen=True)
class Curve:
    """Relative error of the mean of n replicates: root mean square over disjoint stretches, and their 10-90 % range."""

    n: list[int]
    error: list[float]
    low: list[float]
    high: list[float]


@dataclass(frozen=True)
class UnitMap:
    """Unit gradients of one site, each array ``[B, *units, *theta_shape]``."""

    mean: Array
    standard_error: Array
    variance: Array
    truth: Array


@dataclass(frozen=True)
class Finding:
    """One estimator on one problem.

    Attributes:
        problem: repr of the problem.
        estimator: repr of the estimator.
        problem_label: short name.
        estimator_label: short name.
        about: what the estimator says of itself.
        claim: whether it declares itself unbiased.
        truth: how the truth was found, in words.
        truth_error: relative standard error of the truth over all weights; 0 when exact.
        replicates: draws of the gradient.
        seed: of the draws.
        dtype: of the draws.
        verdict: "exact", "unbiased within", "biased" or "undecided", over all tested rows.
        status: "sound" (its claim holds within the margin, or it makes none), "violated" or "inconclusive".
        words: the verdict in a sentence.
        rows: one per group.
        units: unit gradients by site.
        curves: convergence by site and "total".
        losses: loss evaluations per replicate.
        backwards: differentiated loss evaluations per replicate.
        seconds: per replicate.
        notes: what the run had to say.
    """

    problem: str
    estimator: str
    problem_label: str
    estimator_label: str
    about: Mapping[str, str]
    claim: bool | None
    truth: str
    truth_error: float
    replicates: int
    seed: int
    dtype: str
    verdict: str
    status: str
    words: str
    rows: tuple[Row, ...]
    units: Mapping[str, UnitMap]
    curves: Mapping[str, Curve]
    losses: float
    backwards: float
    seconds: float
    notes: tuple[str, ...]

    def row(self, level: str, name: str | None = None) -> Row:
        """The row of a level, by name where the level has several.

        Raises:
            KeyError: there is none.
        """
        for row in self.rows:
            if row.level == level and name in (None, row.name):
                return row
        raise KeyError(f"no row {level!r} {name!r}; there are {[(r.level, r.name) for r in self.rows]}")

    @property
    def total(self) -> Row:
        """All weights together (all units, where weights were not measured)."""
        return self.row("total")


def group_of(record: Record, truth: Truth, key: Key) -> Group:
    """What the statistics need of one group."""
    columns = record.layout.columns(key)
    batches = record.batches.means()
    moments = record[key]
    target = np.concatenate([truth.mean[k].ravel() for k in record.layout.groups[key]])
    noisy = None
    if truth.record is not None:
        spans = truth.record.layout.spans
        own = np.concatenate([np.arange(spans[k].start, spans[k].stop) for k in record.layout.groups[key]])
        noisy = truth.record.batches.means()[:, own]
    return Group(
        batches=batches[:, columns],
        size=record.batch_size,
        variance=moments.variance,
        skewness=moments.skewness,
        truth=target,
        truth_batches=noisy,
        scalars={name: batches[:, i] for name, i in record.layout.scalar_columns(key).items()},
        resolution=EPSILON[record.plan.dtype],
        random=record.random and not record.dead.issuperset(record.layout.groups[key]),
        loss=record.loss,
    )


def check_independence(record: Record, group: Group) -> None:
    """Batch means of m independent draws have a variance of 1/m of one draw's; here tested at a level of 1e-9.

    The ratio of the traces is compared with a chi-square law of K - 1 degrees of freedom, which is its law for a single
    coordinate and too wide for more.

    Raises:
        MeasurementError: the replicates of a block are not independent.
    """
    count = len(group.batches)
    drawn = float(group.variance.sum())
    if count < 8 or drawn <= 0 or group.deterministic or group.effective_sample < 100:
        return
    ratio = float(group.batches.var(0, ddof=1).sum()) * group.size / drawn
    low, high = (float(stats.chi2.ppf(q, count - 1)) / (count - 1) for q in (5e-10, 1 - 5e-10))
    if not low < ratio < high:
        raise MeasurementError(
            f"{record.plan.estimator} on {record.plan.problem}: replicates are not independent (batch means vary "
            f"{ratio:.3g} times as much as independent draws would); draw one random number per replicate, "
            "from a tensor with the replicate axis",
            record,
        )


def find(
    record: Record,
    truth: Truth,
    *,
    labels: tuple[str, str],
    about: Mapping[str, str],
    claim: bool | None,
    margin: float,
    alpha: float,
    pairs: int = 1,
) -> Finding:
    """Holds a record against a truth.

    The false-alarm rate alpha is shared equally by all pairs of a study, and by Holm's method by the rows of each.

    Raises:
        MeasurementError: the replicates are not independent.
    """
    groups: dict[Key, Group] = {}
    for key in record.layout.groups:
        group = group_of(record, truth, key)
        if key[0] == "total" or not any(_same(group, other) for other in groups.values()):
            groups[key] = group
    kinds = {"unit", "layer"} if any(key[0] in ("unit", "layer") for key in groups) else {"weight"}
    tested = {key: g for key, g in groups.items() if key[0] in kinds}
    total_key = next(k for k in groups if k[0] == "total")
    check_independence(record, groups[total_key])
    share = alpha / pairs
    judged = verdict({f"{a} {b}": g for (a, b), g in tested.items()}, margin, share)
    rows = []
    for (kind, name), group in groups.items():
        is_tested = (kind, name) in tested
        one = (judged if is_tested else verdict({f"{kind} {name}": group}, margin, share)).groups[f"{kind} {name}"]
        p_holm = min(1.0, one.p_holm * pairs) if is_tested else math.nan
        rows.append(
            Row(
                level=LEVELS[kind],
                name=name,
                size=group.dimension,
                statistics=describe(group),
                p=one.p,
                p_holm=p_holm,
                verdict=one.word,
                low=one.low,
                high=one.high,
                detectable=one.detectable,
                needed=one.needed,
                tested=is_tested,
                norm=truth_norm(group),
            )
        )
    own = tuple(r for r in rows if r.tested)
    word, status, words = conclude(own, judged.word, claim, margin, alpha, record.replicates)
    layout = record.layout
    units = {
        site: UnitMap(
            record.mean(k), np.sqrt(record.variance(k) / record.replicates), record.variance(k), truth.mean[k]
        )
        for k in layout.shapes
        if k[0] == "unit"
        for site in [k[1]]
    }
    errors = np.concatenate([truth.standard_error[k].ravel() for k in layout.groups[total_key]])
    length = float(np.linalg.norm(groups[total_key].truth))
    notes = list(record.notes)
    dead = [f"{a} {b}" for (a, b), g in groups.items() if a != "total" and not g.scalars["norm2"].any()]
    if dead:
        notes.append(f"the gradient is zero in every draw at: {', '.join(dead)}")
    return Finding(
        problem=record.plan.problem,
        estimator=record.plan.estimator,
        problem_label=labels[0],
        estimator_label=labels[1],
        about=dict(about),
        claim=claim,
        truth=truth.words,
        truth_error=float(np.linalg.norm(errors)) / length if length else math.nan,
        replicates=record.replicates,
        seed=record.plan.seed,
        dtype=record.plan.dtype,
        verdict=word,
        status=status,
        words=words,
        rows=tuple(rows),
        units=units,
        curves={
            name if kind == "unit" else "total": convergence(g)
            for (kind, name), g in groups.items()
            if kind in ("unit", "total")
        },
        losses=record.losses,
        backwards=record.backwards,
        seconds=record.seconds / record.replicates,
        notes=tuple(notes),
    )


def _same(group: Group, other: Group) -> bool:
    """Whether two groups hold the same numbers, as a layer of one tensor and that tensor do; one row is enough then."""
    return bool(group.truth.any()) and all(
        np.array_equal(a, b) for a, b in ((group.truth, other.truth), (group.batches, other.batches))
    )


def convergence(group: Group) -> Curve:
    """Error of running means over 1, 2, 4, ... batches, relative to the truth's norm; 0 where it is rounding."""
    deviations = group.batches - group.truth if not group.exact else np.zeros_like(group.batches)
    length = float(np.linalg.norm(group.truth)) or math.nan
    curve = Curve([], [], [], [])
    step = 1
    while step <= len(deviations):
        stretches = deviations[: len(deviations) // step * step].reshape(-1, step, group.dimension).mean(1)
        errors = np.linalg.norm(stretches, axis=1) / length
        curve.n.append(step * group.size)
        curve.error.append(float(np.sqrt(np.mean(errors**2))))
        low, high = np.quantile(errors, [0.1, 0.9])
        curve.low.append(float(low))
        curve.high.append(float(high))
        step *= 2
    return curve


def percent(share: float) -> str:
    """A share in percent to two digits, for sentences."""
    return (
        "an unknown share"
        if not math.isfinite(share)
        else f"{100 * share:.2g} %"
        if share < 0.995
        else f"{100 * share:.0f} %"
    )


def conclude(
    rows: tuple[Row, ...], word: str, claim: bool | None, margin: float, alpha: float, replicates: int
) -> tuple[str, str, str]:
    """Verdict, status and sentence of a finding, from its tested rows.

    A claim of unbiasedness is violated by any bias that the tests find, also by one that is proved smaller than the
    margin.
    """

    def place(row: Row) -> str:
        return f"{row.level} {row.name}"

    seen = [r for r in rows if r.verdict != "exact" and (r.p_holm <= alpha or r.verdict.startswith("biased"))]
    if seen:
        worst = max(
            seen, key=lambda r: r.statistics["relative_bias"].value if r.statistics["relative_bias"].value > 0 else 0
        )
        bias = worst.statistics["relative_bias"]
        size = f"{percent(bias.value)} of the gradient's norm at {place(worst)}"
        if math.isfinite(worst.low) and worst.high > worst.low * 1.0001:
            size += f", between {percent(worst.low)} and {percent(worst.high)}"
        start = {True: "Claims to be unbiased and is not", False: "Biased, as declared", None: "Biased"}[claim]
        return "biased", "violated" if claim else "sound", f"{start}: bias {size}."
    if all(r.verdict == "exact" for r in rows):
        return "exact", "sound", "Equal to the truth in every draw, to rounding."
    if word == "unbiased within":
        high = max(r.high for r in rows if r.verdict != "exact")
        start = {True: "Unbiased", False: "Declared biased, but here the bias is", None: "The bias is"}[claim]
        bound = f"within {percent(margin)} of the gradient's norm everywhere (largest upper limit {percent(high)})"
        return "unbiased within", "sound", f"{start} {bound}."
    open_rows = [r for r in rows if r.verdict == "undecided"]
    worst = max(open_rows, key=lambda r: r.high if math.isfinite(r.high) else math.inf)
    needed = max(r.needed for r in open_rows)
    if math.isfinite(worst.high):
        limit = f"a bias of up to {percent(worst.high)} at {place(worst)} cannot be excluded"
    elif worst.statistics["variance"].value == 0:
        off, rare = worst.statistics["relative_bias"].value, math.log(1 / alpha) / replicates
        limit = (
            f"all {replicates:,} draws are alike and {percent(off)} off the truth at {place(worst)}; "
            f"only an event of a probability below {rare:.1g} could explain that"
        )
    else:
        limit = f"too few draws carry the error at {place(worst)}, or its true gradient is zero, to say anything"
    remedy = f"; about {needed:,} replicates would decide it" if needed else ""
    places = "" if len(rows) == 1 else f" at {len(open_rows)} of {len(rows)} places"
    return "undecided", "inconclusive" if claim else "sound", f"Undecided{places}: {limit}{remedy}."
