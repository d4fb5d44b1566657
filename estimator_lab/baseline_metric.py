"""One metric of one group, held against what a baseline kept: what is worse, better or unclear, by two stages."""

import math
from dataclasses import dataclass, replace

import numpy as np

from estimator_lab.baseline import Baseline
from estimator_lab.baseline_diff import signed
from estimator_lab.baseline_group import Kept, estimable, projected, spread_of
from estimator_lab.conclusion import percent
from estimator_lab.evaluation import EPSILON
from estimator_lab.statistics import Group, bias_interval, test_unbiased
from estimator_lab.statistics.two_sample import HIGHEST, Spread, correlation, deviate, moved, rise, threshold

FAILS = ("worse", "vanished", "appeared", "non-finite")
"""Verdicts that fail a check."""

MANY = 1000.0
"""Draws that must carry both variances for a change in the liberal direction to be claimed at the full rate.

An estimated variance of a heavy tail is low more often than high. So of two samples the shorter one seems to have the
smaller variance: a fall is claimed too often where the fresh draws are the fewer, a rise where they are the more.
"""

FEW = 100.0
"""Draws below which no change in that direction is claimed; between the two at a third of the rate."""

BLIND = 0.5
"""Power below which a metric that looks the same is inconclusive."""


@dataclass(frozen=True)
class Metric:
    """One comparison.

    Attributes:
        group: its name, or "" for what concerns the whole estimator.
        name: "variance", "mean", "loss evaluations", "backward passes", "seconds", "claim", "gradient" or "draws".
        verdict: "same", "worse", "better", "inconclusive", "vanished", "appeared" or "non-finite".
        words: what was found, in a sentence.
        was: the number in the baseline; nan where there is none.
        now: the number measured, of both stages' the last.
        first: normal deviate of the first stage, negative for a fall; nan where nothing is tested.
        second: of the second stage; nan where there was none.
        threshold: that both must exceed.
        power: chance that the check finds what it is planned for, at least; nan where none can be planned.
    """

    group: str
    name: str
    verdict: str
    words: str
    was: float = math.nan
    now: float = math.nan
    first: float = math.nan
    second: float = math.nan
    threshold: float = math.nan
    power: float = math.nan


def judged(
    kept: Kept, group: Group, baseline: Baseline, draws: int, level: float, exact: bool
) -> tuple[Metric, Metric]:
    """Variance and mean of one group, by one stage; what exceeds a threshold is a "suspect".

    Args:
        kept: of the baseline.
        group: of the fresh draws.
        baseline: which has the kept one.
        draws: fresh ones.
        level: false-alarm rate of each metric.
        exact: whether the group's truth is the true gradient.
    """
    fresh = spread_of(group)
    variance = _variance(kept, group, fresh, baseline, draws, level)
    mean = _mean(kept, group, fresh, baseline, draws, level, exact)
    if group.deterministic:
        return replace(variance, power=1.0), replace(mean, power=1.0)
    return _sighted(variance, kept, baseline, draws, level), _sighted(mean, kept, baseline, draws, level)


def _sighted(metric: Metric, kept: Kept, baseline: Baseline, draws: int, level: float) -> Metric:
    """With its power; what looks the same where most changes as planned would have been missed is inconclusive."""
    metric = replace(metric, power=baseline.power(kept, metric.name, draws, level))
    if metric.verdict != "same" or not metric.power < BLIND:
        return metric
    rises = metric.name == "variance"
    aim = f"a rise of {percent(baseline.increase)}" if rises else f"a shift of {percent(baseline.margin)}"
    told = f"{draws:,} draws find {aim} with probability {floored(metric.power)} only"
    return replace(metric, verdict="inconclusive", words=f"{metric.name} of {kept.name}: {told}")


def _variance(kept: Kept, group: Group, fresh: Spread, baseline: Baseline, draws: int, level: float) -> Metric:
    """The variance of one group."""
    rho = correlation(draws, baseline.replicates)
    c = threshold(level, rho)
    words = f"variance of {kept.name}: {kept.variance:.4g} -> {fresh.value:.4g}"
    metric = Metric(kept.name, "variance", "same", words, kept.variance, fresh.value, threshold=c)
    if kept.still and group.still:
        return metric
    if kept.still or group.still:
        # under one law, all of k draws that vary lie in one of the samples with probability (its share of all draws)^k
        k, part = (fresh.carried, rho) if kept.still else (kept.carried, 1 - rho)
        never = (not group.random) if group.still else math.isinf(kept.carried)  # it drew no random number
        sure = never or k * math.log(1 / part) >= math.log(1 / level)
        word, what = ("appeared", "were alike") if kept.still else ("vanished", "are alike now")
        return replace(metric, verdict=word if sure else "inconclusive", words=f"{words}; all draws {what}")
    if not kept.estimable or not estimable(group):
        where = "the baseline's" if not kept.estimable else "that of the fresh draws"
        why = "may be infinite" if group.heavy else "rests on too few draws"
        told = f"variance of {kept.name} is not estimable: {where} {why}"
        return replace(metric, verdict="inconclusive", words=told)
    z = rise(fresh, kept.spread)
    rises = z > 0
    liberal = rises == (draws > baseline.replicates)
    carried = min(fresh.carried, kept.carried) if liberal else math.inf
    words += f" ({signed(fresh.value / kept.variance - 1)})"
    c = threshold(level if carried >= MANY else level / 3, rho)
    tested = replace(metric, first=z, threshold=c, words=words)
    if not abs(z) > c:
        return tested
    if carried >= FEW:
        return replace(tested, verdict="suspect")
    return replace(tested, verdict="inconclusive", words=f"{words}, on too few draws to tell") if rises else tested


def _mean(
    kept: Kept,
    group: Group,
    fresh: Spread,
    baseline: Baseline,
    draws: int,
    level: float,
    exact: bool,
) -> Metric:
    """The mean of one group, against an exact truth or against the mean that was kept."""
    if baseline.reference == "truth":
        c = threshold(level, 0.0)
        now = math.sqrt(max(group.pairing.difference.debiased, 0.0)) / kept.norm if kept.norm > 0 else math.nan
        words = f"bias of {kept.name}: {percent(now)} of the gradient's norm, where it claims none"
        metric = Metric(kept.name, "mean", "same", words, kept.bias, now, threshold=c)
        if not exact:
            return replace(metric, verdict="inconclusive", words=f"the truth of {kept.name} is no longer exact")
        if group.deterministic:
            return metric if group.exact else replace(metric, verdict="worse", first=HIGHEST)
        if not group.decidable:
            return replace(metric, verdict="inconclusive", words=_unclear(kept, group))
        z = deviate(test_unbiased(group))
        return replace(metric, verdict="suspect" if z > c else "same", first=z)
    c = threshold(level, correlation(draws, baseline.replicates))
    stored = np.array(kept.mean)
    batches = projected(group.batches, kept.name)
    gap = float(np.linalg.norm(batches.mean(0) - stored))
    longest = max(float(np.linalg.norm(stored)), float(np.linalg.norm(batches.mean(0))))
    coarse = max(EPSILON.get(baseline.dtype, EPSILON["float32"]), group.resolution)
    floor = coarse * max(64.0 * max(longest, math.sqrt(fresh.value)), 4.0 * group.loss * math.sqrt(stored.size))
    noise = fresh.value / draws + kept.variance / baseline.replicates
    scale = baseline.scale(kept)
    moved_by = math.sqrt(max(gap**2 - noise, 0.0)) / scale if scale > 0 else math.nan
    whose = "the gradient's norm" if kept.norm > 1.001 * float(np.linalg.norm(stored)) else "its length"
    words = f"mean of {kept.name} moved by {percent(moved_by)} of {whose}"
    metric = Metric(kept.name, "mean", "same", words, 0.0, moved_by, threshold=c)
    if kept.still and group.still:
        return replace(metric, verdict="same" if gap <= floor + 1e-8 * longest else "worse", first=math.nan)
    if kept.still or group.still or not kept.estimable or not estimable(group):
        return replace(metric, verdict="inconclusive", words=_unclear(kept, group))
    part = kept.variance / baseline.replicates / (fresh.value / draws)
    z = deviate(moved(batches, stored, part, floor))
    shrank = exact and kept.bias * kept.norm > bias_interval(group, 0.01, 0.01)[1]
    if shrank:
        words += f", and the bias shrank from {percent(kept.bias)}"
    return replace(metric, verdict="suspect" if z > c else "same", first=-z if shrank else z, words=words)


def _unclear(kept: Kept, group: Group) -> str:
    if group.still:
        why = "all its draws are alike now"
    elif kept.still:
        why = "all its draws were alike"
    elif group.heavy:
        why = "the variance may be infinite"
    elif not kept.estimable:
        why = "the baseline's rests on too few draws"
    else:
        why = f"only {group.central_sample:.0f} draws carry its error"
    return f"mean of {kept.name} is not comparable: {why}"


def confirmed(first: Metric, second: Metric) -> Metric:
    """What both stages say; a suspicion needs both to exceed the threshold, a variance in the same direction."""
    if first.verdict != "suspect":
        return first
    told = replace(second, first=first.first, second=second.first)
    apart = first.name == "variance" and first.first * second.first < 0
    if second.verdict != "suspect" or apart:
        word = second.verdict if second.verdict in (*FAILS, "inconclusive") else "same"
        return replace(told, verdict=word)
    return replace(told, verdict="better" if max(first.first, second.first) < 0 else "worse")


def floored(power: float) -> str:
    """A probability to three digits, downwards."""
    return f"{math.floor(1000 * power) / 1000:g}" if power >= 0.001 else "under 0.001"
