"""Numbers and lists as words: every sentence of the report is made of these."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from estimator_lab.conclusion import rounded_up
from estimator_lab.report.reading import blind, estimate, gated, known, relative_bias, signal_to_noise
from estimator_lab.report.rounding import ABSENT, count, rounded

if TYPE_CHECKING:
    from estimator_lab.finding import Finding, Row, Unit
    from estimator_lab.statistics import Estimate


def listed(items: Iterable[str], most: int = 12) -> str:
    """A, B and C; beyond `most` the rest is counted."""
    names = list(items)
    if len(names) > most:
        names = [*names[:most], f"{len(names) - most} more"]
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1] if names else "none"


def some_of(some: Iterable[str], every: Iterable[str], noun: str) -> str:
    """The shorter of naming those that are meant and those that are not."""
    own, whole = list(some), list(every)
    rest = [x for x in whole if x not in own]
    if not rest and len(whole) > 1:
        return f"both {noun}s" if len(whole) == 2 else f"all {len(whole)} {noun}s"
    return f"all {noun}s but {listed(rest)}" if 0 < len(rest) < len(own) / 2 else listed(own)


def plural(number: int, noun: str) -> str:
    """`1 pair`, `2 pairs`."""
    return f"{count(number)} {noun if number == 1 else noun + 's'}"


def amount(number: float, noun: str) -> str:
    """`1 backward pass`, `2.5 backward passes`."""
    return f"{rounded(number)} {noun if number == 1 else noun + ('es' if noun.endswith('s') else 's')}"


def replicates(number: float) -> str:
    """A number of replicates to two digits."""
    return count(float(f"{number:.1e}"))


def needed(number: float) -> str:
    """Draws that it takes, to two digits upwards."""
    return count(rounded_up(number))


def cosine(row: Row | None, key: str) -> str:
    """A cosine to three decimals."""
    found = math.nan if row is None else estimate(row, key)[0]
    return ABSENT if math.isnan(found) else f"{found:.3f}".replace("-", "−")


def percent(value: float, most: int = 5) -> str:
    """A share in per cent."""
    return f"{rounded(100 * value, most=most)} %" if math.isfinite(value) else "an unknown share"


def duration(seconds: float) -> str:
    """A time with the unit that suits it."""
    for unit, size in (("hours", 3600.0), ("minutes", 60.0), ("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            number = rounded(seconds / size, most=2)
            return f"{number} {unit.rstrip('s') if number == '1' and size >= 60 else unit}"
    return "less than 1 µs"


def pair(finding: Finding) -> str:
    """The estimator on the problem."""
    return f"{finding.estimator_label} on {finding.problem_label}"


def error(found: Estimate) -> float:
    """A standard error off a 95 % interval; for an interval that ends at zero, off its upper part."""
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        return math.nan
    return max(found.high - found.low, found.high - found.value) / 3.92


def supported(value: float, error: float, most: int) -> str:
    """A number with the digits that its error supports, at most so many; two where it has no interval."""
    return rounded(value, error, 2 if math.isnan(error) else most)


def value(row: Row | None, key: str, most: int = 4) -> str:
    """A statistic with the digits that its error supports."""
    found = None if row is None else row.statistics.get(key)
    return ABSENT if found is None else supported(found.value, error(found), most)


def between(low: float, high: float) -> str:
    """An interval to two digits of its width, three of its ends; ends that read the same are said once."""
    if math.isnan(low) or math.isnan(high):
        return ABSENT
    ends = dict.fromkeys(rounded(v, (high - low) / 3.92, 3) for v in (low, high))
    return " to ".join(ends)


def bias_percent(row: Row | None) -> str:
    """The relative bias in per cent, to three digits at most."""
    found = None if row is None else row.statistics.get("relative_bias")
    if row is None or found is None or blind(row):
        return ABSENT
    size = supported(100 * found.value, 100 * error(found), 3)
    return size if size.strip("0.") else "0"


def bias_interval(row: Row | None) -> str:
    """The simultaneous interval of the relative bias in per cent, "exact" where it has none, a dash without trust."""
    if row is None or not gated(row):
        return ABSENT
    return "exact" if known(row) else between(100 * row.low, 100 * row.high)


def bias_words(row: Row | None) -> str:
    """The relative bias with its interval, as part of a sentence."""
    if row is None or math.isnan(relative_bias(row)):
        if known(row) and row is not None and not row.norm > 0:
            return f"bias {rounded(estimate(row, 'bias')[0])} (exact), where the true gradient is zero"
        return "relative bias not estimable"
    size, interval = bias_percent(row), bias_interval(row)
    if not gated(row):
        interval = "no interval can be trusted"
    return f"relative bias {size} %" + (f" ({interval})" if interval not in (ABSENT, size) else "")


def decibels(row: Row | None) -> str:
    """The signal-to-noise ratio of one replicate in dB, or why there is none."""
    found, low, high = signal_to_noise(row)
    if math.isinf(found):
        return "no noise" if found > 0 else "not resolved"
    return supported(found, (high - low) / 3.92 if math.isfinite(high - low) else math.nan, 3)


def index(unit: Unit) -> str:
    """A unit by its numbers, counted from zero: example, unit, and parameter where it has several."""
    return str(list(unit.index))


def interval(found: tuple[float, float, float]) -> str:
    """A number with its interval in brackets, or without one where it is exact or has none."""
    number, low, high = found
    shown = supported(number, (high - low) / 3.92, 4)
    return shown if not low < high else f"{shown} [{between(low, high)}]"
