"""A record held against a truth: what was measured becomes what was found."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from estimator_lab.chain import Key
from estimator_lab.conclusion import conclude
from estimator_lab.errors import MeasurementError
from estimator_lab.expectation import Expectation
from estimator_lab.finding import DISCOVERY, Curve, Finding, Row, Unit, UnitMap
from estimator_lab.record import Record
from estimator_lab.statistics import Estimate, Group, GroupVerdict, Looks, describe, verdict
from estimator_lab.statistics.bias import truth_norm
from estimator_lab.statistics.exact import describe_exact, judge_exact
from estimator_lab.statistics.spread import scores, variances
from estimator_lab.statistics.units import discoveries
from estimator_lab.truth import Truth

LEVELS = {"unit": "site", "layer": "layer", "weight": "weight", "total": "total"}
EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23}
WORST = 5
"""Biased units of a site that are named."""


def group_of(record: Record, truth: Truth, key: Key) -> Group:
    """What the statistics need of one group."""
    columns = _contiguous(record.layout.columns(key))
    batches, moments = record.means, record.moments[columns]
    target = np.concatenate([truth.mean[k].ravel() for k in record.layout.groups[key]])
    return Group(
        batches=batches[:, columns],
        size=record.batch_size,
        variance=moments.variance,
        skewness=moments.skewness,
        kurtosis=moments.kurtosis,
        truth=target,
        truth_batches=truth.batches(record.layout.groups[key]),
        scalars={name: batches[:, i] for name, i in record.layout.scalar_columns(key).items()},
        largest=record.largest[:, list(record.layout.groups).index(key)],
        resolution=EPSILON[record.plan.dtype],
        random=record.random and not record.dead.issuperset(record.layout.groups[key]),
        loss=record.loss,
        truth_sample=truth.carried(record.layout.groups[key]),
    )


def _contiguous(columns: NDArray[np.intp]) -> slice | NDArray[np.intp]:
    """Adjacent columns as a slice, which copies nothing."""
    first, last = int(columns[0]), int(columns[-1])
    return slice(first, last + 1) if last - first + 1 == columns.size else columns


def groups_of(
    record: Record, truth: Truth, kinds: Sequence[str] = ("unit", "layer", "weight", "total")
) -> dict[Key, Group]:
    """The groups of a record; of groups that hold the same numbers, as a layer of one tensor does, the first only."""
    groups: dict[Key, Group] = {}
    for key in record.layout.groups:
        if key[0] in kinds:
            group = group_of(record, truth, key)
            if key[0] == "total" or not any(_same(group, other) for other in groups.values()):
                groups[key] = group
    return groups


def under_test(record: Record, truth: Truth, names: Iterable[str] = ()) -> dict[str, Group]:
    """The groups that share the false-alarm rate, by "kind name": sites and layers, or else single tensors.

    Args:
        record: the draws.
        truth: what they are held against.
        names: of the groups at an earlier look, which stay the same.
    """
    keys = [(kind, rest) for kind, _, rest in (name.partition(" ") for name in names)]
    if keys:
        found = {key: group_of(record, truth, key) for key in keys}
    else:
        found = groups_of(record, truth, ("unit", "layer")) or groups_of(record, truth, ("weight",))
    return {" ".join(key): group for key, group in found.items()}


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
    looks: Looks | None = None,
    planned: int = 0,
    expectation: Expectation | None = None,
) -> Finding:
    """Holds a record against a truth.

    The false-alarm rate alpha is shared equally by all pairs of a study and by all looks planned, and by Holm's method
    by the rows of each pair. A known expectation is compared with the truth itself, without any test.

    Args:
        record: the draws.
        truth: what they are held against.
        labels: short names of problem and estimator.
        about: what the estimator says of itself.
        claim: whether it declares itself unbiased.
        margin: relative bias that counts as small.
        alpha: false-alarm rate of the study.
        pairs: of the study.
        looks: all looks, the last one at this record; by default this is the only one.
        planned: draws at the last look that the budget allowed; by default those of the record.
        expectation: of the estimator, where that is known and the truth is exact.

    Raises:
        MeasurementError: the replicates are not independent.
    """
    groups = groups_of(record, truth)
    own = under_test(record, truth, looks.taken[0] if looks else ())
    groups |= {key: group for key in groups for group in [own.get(" ".join(key))] if group}  # with what they know
    total_key = next(k for k in groups if k[0] == "total")
    check_independence(record, groups[total_key])
    share = alpha / pairs
    looks = looks or Looks().take(own, margin, share)
    judged = verdict(own, margin, share, looks).groups
    rows: list[Row] = []
    for key, group in groups.items():
        twin = next((row for other, row in zip(groups, rows, strict=False) if _same(groups[other], group)), None)
        if twin:  # the total of a single group
            rows.append(replace(twin, level=LEVELS[key[0]], name=key[1], p_holm=math.nan, tested=False))
            continue
        name = " ".join(key)
        one = judged.get(name) or verdict({name: group}, margin, share / looks.planned).groups[name]
        row = _row(key, group, one, name in own, pairs, truth.replicates)
        rows.append(_exactly(row, expectation, key, group, margin) if expectation else row)
    word, status, words = conclude(
        [r for r in rows if r.tested], claim, margin, alpha, record.replicates, expectation.how if expectation else ""
    )
    biased = {r.name for r in rows if r.level == "site" and (r.p_holm <= alpha or r.verdict.startswith("biased"))}
    errors = np.concatenate([truth.standard_error[k].ravel() for k in record.layout.groups[total_key]])
    length = float(np.linalg.norm(groups[total_key].truth))
    dead = [" ".join(key) for key, g in groups.items() if key[0] != "total" and not g.scalars["norm2"].any()]
    return Finding(
        problem=record.plan.problem,
        estimator=record.plan.estimator,
        problem_label=labels[0],
        estimator_label=labels[1],
        about=dict(about),
        claim=claim,
        truth=truth.words,
        truth_error=float(np.linalg.norm(errors)) / length if length else math.nan,
        exact=expectation.how if expectation else "",
        replicates=record.replicates,
        planned=max(planned, record.replicates),
        looks=0 if expectation else len(looks.taken),
        looks_planned=0 if expectation else looks.planned,
        seed=record.plan.seed,
        dtype=record.plan.dtype,
        verdict=word,
        status=status,
        words=words,
        rows=tuple(rows),
        units={
            key[1]: _units(record, truth, key, groups.get(key), key[1] in biased, looks.planned, expectation)
            for key in record.layout.shapes
            if key[0] == "unit"
        },
        curves={
            name if kind == "unit" else "total": convergence(g)
            for (kind, name), g in groups.items()
            if kind in ("unit", "total")
        },
        losses=record.losses,
        backwards=record.backwards,
        seconds=record.seconds / record.replicates,
        notes=(*record.notes, *([f"the gradient is zero in every draw at: {', '.join(dead)}"] if dead else [])),
    )


def _row(key: Key, group: Group, one: GroupVerdict, is_tested: bool, pairs: int, draws: int) -> Row:
    return Row(
        level=LEVELS[key[0]],
        name=key[1],
        size=group.dimension,
        statistics=describe(group),
        p=one.p,
        p_holm=min(1.0, one.p_holm * pairs) if is_tested else math.nan,
        verdict=one.word,
        low=one.low,
        high=one.high,
        detectable=one.detectable,
        needed=one.needed,
        truth_needed=math.ceil(one.truth * draws) if 1 < one.truth < math.inf else 0,
        tested=is_tested,
        norm=truth_norm(group),
        scores=tuple(map(float, scores(group))),
        spread=() if group.constant else tuple(map(float, variances(group))),
    )


def _exactly(row: Row, expectation: Expectation, key: Key, group: Group, margin: float) -> Row:
    """The row with the verdict, the bias and all other statistics that the expectation tells."""
    found = expectation.group(key, group.truth)
    known = {name: Estimate(value, value, value) for name, value in describe_exact(found).items() if value == value}
    word = judge_exact(found, margin)
    floor = float(np.linalg.norm(found.floor))
    bias, reach = (found.bias / found.norm, floor / found.norm) if found.norm else (math.nan, math.nan)
    p = 1.0 if word == "exact" else 0.0
    return replace(
        row,
        statistics={**row.statistics, **known},
        p=p,
        p_holm=p if row.tested else math.nan,
        verdict=word,
        low=max(bias - reach, 0.0),
        high=bias + reach,
        detectable=reach,
        needed=0,
        truth_needed=0,
        spread=(),
    )


def _units(
    record: Record,
    truth: Truth,
    key: Key,
    group: Group | None,
    biased: bool,
    looks: int,
    expectation: Expectation | None,
) -> UnitMap:
    """The unit gradients of a site, and which of them are biased, if the site is."""
    shape = record.layout.shapes[key]
    mean, variance, target = record.mean(key), record.variance(key), truth.mean[key]
    error = np.hypot(np.sqrt(variance / record.replicates), truth.standard_error[key])
    adjusted, insufficient, worst = np.full(shape, math.nan), 0, list[Unit]()
    if expectation:
        exact = expectation.group(key, target)
        mean, variance, error = exact.mean.reshape(shape), exact.variance.reshape(shape), np.zeros(shape)
        gap, floor = exact.mean - exact.truth, exact.floor
        off = np.flatnonzero(np.abs(gap) > floor)
        if biased:
            adjusted = np.where(np.abs(gap) > floor, 0.0, 1.0).reshape(shape)
            shown = off[np.argsort(-np.abs(gap[off]), kind="stable")[:WORST]]
            worst = [_unit(i, shape, gap[i], gap[i] - floor[i], gap[i] + floor[i]) for i in shown]
    elif group and biased:
        found = discoveries(group, DISCOVERY, looks, WORST)
        adjusted, insufficient = found.adjusted.reshape(shape), found.insufficient
        ends = zip(found.worst, found.bias, found.low, found.high, strict=True)
        worst = [_unit(i, shape, *numbers) for i, *numbers in ends]
    return UnitMap(mean, error, variance, target, adjusted, insufficient, tuple(worst))


def _unit(flat: np.intp, shape: tuple[int, ...], bias: float, low: float, high: float) -> Unit:
    return Unit(tuple(int(i) for i in np.unravel_index(flat, shape)), float(bias), float(low), float(high))


def check_independence(record: Record, group: Group) -> None:
    """Batch means of m independent draws have a variance of 1/m of one draw's; here tested at a level of 1e-9.

    The ratio of the traces is compared with a chi-square law of K - 1 degrees of freedom, which is its law for a single
    coordinate and too wide for more.

    Raises:
        MeasurementError: the replicates of a block are not independent.
    """
    count = len(group.batches)
    drawn = float(group.variance.sum())
    if count < 8 or drawn <= 0 or group.still or group.effective_sample < 100:
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
