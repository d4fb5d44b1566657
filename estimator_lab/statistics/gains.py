"""What draws alone tell of a bias: by what the gradient of each group is multiplied."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy import special

from estimator_lab.statistics.candidates import Cause, consistent
from estimator_lab.statistics.gram import Array
from estimator_lab.statistics.group import Group

LEVEL = 1e-3
"""Chance that the interval of any gain misses it. That there is a bias has been established before."""

ROUNDED = 1e-6
"""Gains that are as close as this are the same."""

ALONG = 0.9
"""Share of the squared bias that has to lie along the truth for a gain to be told."""

MULTIPLES = 64
"""The largest whole number whose multiple or part is called by its name."""


@dataclass(frozen=True)
class _Gain:
    """A group's mean gradient along the true one.

    Attributes:
        name: of the group.
        value: ``<mean, truth> / <truth, truth>``.
        width: half the width of its interval.
        square: of the group's bias.
        rest: of the part of it that is orthogonal to the truth.
    """

    name: str
    value: float
    width: float
    square: float
    rest: float

    def may_be(self, value: float) -> bool:
        return abs(self.value - value) <= self.width + ROUNDED


def _gain(name: str, group: Group, level: float) -> _Gain | None:
    """None where the truth is zero, or there are too few batches."""
    truth, mean, count = group.truth_mean, group.mean, len(group.batches)
    own = group.truth_batches
    noise = 0.0 if own is None else _noise(own)
    square = float(truth @ truth) - noise
    if count < 8 or not square > max(group.floor**2, noise):
        return None
    value = float(mean @ truth) / square
    error = float((group.batches @ truth).std(ddof=1)) / square / math.sqrt(count)
    if own is not None:  # delta method: d(<m, t> / <t, t>) = <m - 2 c t, dt> / <t, t>
        error = math.hypot(error, float((own @ (mean - 2 * value * truth)).std(ddof=1)) / square / math.sqrt(len(own)))
    limit = float(special.stdtrit(count - 1, 1 - level / 2))
    drawn = _noise(group.batches) + noise
    bias = max(float((mean - truth) @ (mean - truth)) - drawn, 0.0)
    along = ((value - 1) ** 2 - error**2) * square  # an error adds its square to the square of what is off
    return _Gain(name, value, limit * error, bias, max(bias - max(along, 0.0), 0.0))


def _noise(batches: Array) -> float:
    """Expected square of the error of the mean of these batches."""
    return float(batches.var(0, ddof=1).sum()) / len(batches)


def explain_by_gains(groups: Mapping[str, Group]) -> list[Cause]:
    """What a bias looks like in the draws alone: a gain of all groups, or of some while the others are right.

    The gain of a group is the regression of its mean on the true gradient through the origin, with an interval at a
    rate of 0.1 % for all groups together. 0 (no gradient), -1, 2 and 1/2 have names, and so have K, 1/K, K/(K-1) and
    (K-1)/K for whole numbers K up to 64: a name is told where the intervals hold no other. Else the gain is told with
    its interval.

    Args:
        groups: by "kind name", as they are tested: sites and layers, or weights.

    Returns:
        At most one cause; none where the gains are right, differ from group to group, are known to less than a half, or
        leave most of the bias unexplained.
    """
    found = [_gain(name, group, LEVEL / len(groups)) for name, group in groups.items()]
    gains = [g for g in found if g is not None]
    off = [g for g in gains if not g.may_be(1.0)]
    if not off:
        return []
    low, high = max(g.value - g.width for g in off), min(g.value + g.width for g in off)
    right = [g for g in gains if g.value + g.width < low or g.value - g.width > high]
    square = sum(g.square for g in gains)
    share = 1 - sum(g.rest for g in gains) / square if square > 0 else 0.0
    if low > high or high - low > max(abs(low + high) / 2, 1.0) or share < ALONG:
        return []
    label, words = _called(low - ROUNDED, high + ROUNDED)
    at = f", only at {_listed([g.name for g in gains if g not in right])}" if right else ""
    return [Cause(label, consistent(words + at, share, share > 0.99, drawn=True), share)]


def _called(low: float, high: float) -> tuple[str, str]:
    """Label and words of the gains in an interval: a name where it holds no other."""
    names = {0.0: ("dead path", "a mean gradient of zero"), -1.0: ("sign", "a wrong sign")}
    names |= {2.0: ("gain 2", "a gain of 2"), 0.5: ("gain 1/2", "a gain of 1/2")}
    for k in range(3, MULTIPLES + 1):
        among = f"{k} examples, paths or units"
        names[k] = ("gain batch", f"a gain of {k}, as of a sum over {among} where their mean belongs")
        names[1 / k] = ("gain batch", f"a gain of 1/{k}, as of a mean over {among} where their sum belongs")
        names[k / (k - 1)] = ("gain K/(K-1)", f"a gain of K/(K-1) with K = {k}")
        names[1 - 1 / k] = ("gain K/(K-1)", f"a gain of (K-1)/K with K = {k}")
    inside = [told for value, told in names.items() if low <= value <= high]
    if len(inside) == 1:
        return inside[0]
    ends = f"{low:.3g}", f"{high:.3g}"
    return "gain", f"a gain of {ends[0]}" if ends[0] == ends[1] else f"a gain between {ends[0]} and {ends[1]}"


def _listed(names: Sequence[str]) -> str:
    """Groups by their names, three at most."""
    kinds = {"unit": "the units of ", "layer": "the weights of ", "weight": ""}
    told = [kinds.get(kind, f"{kind} ") + name for kind, _, name in (full.partition(" ") for full in names)]
    return ", ".join(told[:3]) + (f" and {len(told) - 3} more" if len(told) > 3 else "")
