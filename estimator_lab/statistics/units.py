"""Which coordinates of a group are biased: a test for each, and the false discoveries held down."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from estimator_lab.statistics.gram import Array
from estimator_lab.statistics.group import GATE, Group
from estimator_lab.statistics.multiplicity import benjamini_hochberg


@dataclass(frozen=True, eq=False)
class Discoveries:
    """Coordinates found to be biased.

    Args:
        adjusted: [d] adjusted p-values.
        flagged: [d] whether the adjusted p-value is at most q.
        insufficient: number of coordinates that could not be tested, see `untestable`; never flagged.
        worst: [W] indices of the flagged coordinates with the largest `|bias|`, in units of the root mean square of the
            group's truth or any other common one, largest first.
        bias: [W] their estimated biases, in the unit of the gradient.
        low: [W] lower ends of their intervals.
        high: [W] upper ends.
    """

    adjusted: Array
    flagged: NDArray[np.bool_]
    insufficient: int
    worst: NDArray[np.intp]
    bias: Array
    low: Array
    high: Array


def discoveries(group: Group, q: float = 0.05, looks: int = 1, worst: int = 5) -> Discoveries:
    """Coordinates of one group that are biased, with a false discovery rate of at most q.

    `unit_tests`, times `looks`, adjusted after Benjamini and Hochberg. The intervals of what is flagged,
    `bias +- t error +- rounding`, have the level `1 - q flagged / (d looks)`; then the expected share of them that miss
    (false coverage rate) is at most q although only striking coordinates have one, and none contains zero.

    To be called only inside of groups whose global test rejected: with groups selected at their own level, the average
    FDR over the selected groups stays at q times the share of groups that are selected (Benjamini & Bogomolov 2014).
    Tests of all coordinates without that gate would need an adjustment over all groups together.

    Args:
        group: replicates and truth.
        q: false discovery rate, and false coverage rate.
        looks: how often data are looked at before the end, for this group.
        worst: how many intervals to give.

    Cost: O(d log d), beyond what the group has.

    Source: Benjamini & Hochberg (1995); Benjamini & Yekutieli (2005) for the intervals.
    """
    adjusted = benjamini_hochberg(np.minimum(looks * unit_tests(group), 1.0))
    flagged = adjusted <= q
    bias = group.mean - group.truth_mean
    found = np.flatnonzero(flagged)
    shown = found[np.argsort(-np.abs(bias[found]), kind="stable")[:worst]]
    error, _, df = (values[shown] for values in standard_errors(group))
    share = q * found.size / (group.dimension * looks)
    width = special.stdtrit(df, 1 - share / 2) * error + group.coordinate_floor[shown]
    return Discoveries(
        adjusted, flagged, int(untestable(group).sum()), shown, bias[shown], bias[shown] - width, bias[shown] + width
    )


def unit_tests(group: Group) -> Array:
    """[d] p-values of "the mean of this coordinate is its truth".

    `t_and_hall`; 1 where the coordinate is `untestable`. A coordinate without noise has 1 if it agrees up to rounding,
    else 0. All of them are 0 or 1 in a deterministic group.
    """
    certain = np.where(_off(group), 0.0, 1.0)
    p = np.where(_still(group), certain, t_and_hall(group))
    return np.where(untestable(group), 1.0, p)


def untestable(group: Group) -> NDArray[np.bool_]:
    """[d] coordinates with insufficient data, whatever their mean.

    - `R / kurtosis < 30`: so many draws carry the variance, and few of them leave their mean far from normal. For an
      event of probability P it is about R P, the number of events.
    - All draws of a random estimator alike, up to rounding, but off the truth: an event that never showed may carry the
      difference.
    """
    quiet = np.sqrt(group.variance) <= group.coordinate_floor
    few = group.replicates < GATE * group.kurtosis
    return np.where(quiet, group.random & _off(group), few)


def t_and_hall(group: Group) -> Array:
    """[d] the less significant of t and Hall's transformed t, for each coordinate.

    With `a` = skewness of the mean difference, `h = t + a t^2/3 + a^2 t^3/27 + a/6`. Either alone is liberal: t for
    skewed draws, h for symmetric heavy tails. A noisy truth adds its variance (Welch's degrees of freedom). Rounding
    never reads as bias: the difference is moved towards 0 by `coordinate_floor`. nan where nothing varies.

    Source: Hall (1992), removal of skewness by transformation; Welch (1947).
    """
    error, own, df = standard_errors(group)
    gap = group.mean - group.truth_mean
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.sign(gap) * np.maximum(np.abs(gap) - group.coordinate_floor, 0.0) / error
        a = group.skewness / np.sqrt(group.replicates) * (own / error) ** 3
        h = t + a * t**2 / 3 + a**2 * t**3 / 27 + a / 6
        return np.asarray(2 * special.stdtr(df, -np.minimum(np.abs(t), np.abs(h))))


def standard_errors(group: Group) -> tuple[Array, Array, Array]:
    """[d] standard error of the mean difference, the part of the estimate in it, and its degrees of freedom (Welch)."""
    own, free = group.variance / group.replicates, max(group.replicates - 1.0, 1.0)
    if group.truth_batches is None:
        return np.sqrt(own), np.sqrt(own), np.full(own.shape, free)
    t = len(group.truth_batches)
    other = group.truth_batches.var(0, ddof=1) / t
    with np.errstate(divide="ignore", invalid="ignore"):
        df = (own + other) ** 2 / (own**2 / free + other**2 / (t - 1))
    return np.sqrt(own + other), np.sqrt(own), np.where(own + other > 0, df, free)


def _off(group: Group) -> NDArray[np.bool_]:
    return np.asarray(np.abs(group.mean - group.truth_mean) > group.coordinate_floor)


def _still(group: Group) -> NDArray[np.bool_]:
    floor = group.coordinate_floor
    quiet = np.sqrt(group.variance) <= floor
    return np.asarray(quiet if group.truth_batches is None else quiet & (np.ptp(group.truth_batches, axis=0) <= floor))
