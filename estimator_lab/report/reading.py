"""Numbers and names read off findings and rows, for figures and words alike."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from estimator_lab.statistics.group import GATE, WIDE_GATE

if TYPE_CHECKING:
    from estimator_lab.finding import Finding, Row
    from estimator_lab.statistics import Estimate


def groups(finding: Finding) -> list[Row]:
    """The tested rows of a finding, or all of them when none is tested."""
    return [r for r in finding.rows if r.tested] or list(finding.rows)


def total(finding: Finding) -> Row | None:
    """The row of all coordinates together; the last row where there is none."""
    return next((r for r in finding.rows if r.level == "total"), finding.rows[-1] if finding.rows else None)


def group_name(row: Row) -> str:
    """`h1` for the units of a site, `h1 weights` for the weights that feed it."""
    return f"{row.name} weights" if row.level == "layer" and row.name not in ("loss", "weights") else row.name


def place(row: Row) -> str:
    """A group as a sentence names it: `the units of h1`, `the weights of h1`."""
    if row.level == "site":
        return f"the units of {row.name}"
    return f"the weights of {'the ' * (row.name == 'loss')}{row.name}" if row.level == "layer" else group_name(row)


def word(finding: Finding) -> str:
    """The finding's verdict, "biased beyond" where one of its groups is."""
    beyond = finding.verdict == "biased" and any(r.verdict == "biased beyond" for r in groups(finding))
    return "biased beyond" if beyond else finding.verdict


def is_biased(finding: Finding) -> bool:
    """Whether a bias was found in some group."""
    return finding.verdict.startswith("biased")


def standing(finding: Finding) -> str:
    """How a finding stands to a claim: "as claimed", "violated", "undecided", "no bias found" or "no claim"."""
    if finding.claim is None:
        return "no claim"
    if is_biased(finding):
        return "violated" if finding.claim else "as claimed"
    if finding.verdict in ("unbiased within", "exact"):
        return "as claimed" if finding.claim else "no bias found"
    return "undecided"


def shows_bias(row: Row) -> bool:
    """Whether a bias was found, even one inside the margin."""
    return row.verdict.startswith("biased") or (row.low > 0 and row.verdict == "unbiased within")


def estimate(row: Row | None, key: str) -> tuple[float, float, float]:
    """Value and interval of a statistic; nan where the row does not have it."""
    found: Estimate | None = None if row is None else row.statistics.get(key)
    return (math.nan, math.nan, math.nan) if found is None else (found.value, found.low, found.high)


def relative_bias(row: Row | None) -> float:
    """The debiased norm of the bias over the norm of the gradient; nan where it is not estimable, or not judged."""
    return math.nan if row is None or blind(row) else estimate(row, "relative_bias")[0]


def noiseless(row: Row | None) -> bool:
    """Whether every draw is the same: no variance."""
    return row is not None and estimate(row, "variance")[0] == 0


def known(row: Row | None) -> bool:
    """Whether the bias is known exactly, to rounding: from the expectation itself, or because nothing varies."""
    if row is None or row.verdict == "undecided":
        return False
    value, low, high = estimate(row, "bias")
    return noiseless(row) or value == low == high


def unestimable(row: Row) -> bool:
    """Whether the variance may be infinite: it has no value, although there is a tail."""
    return math.isnan(estimate(row, "variance")[0]) and not math.isnan(estimate(row, "tail_index")[0])


def gated(row: Row) -> bool:
    """Whether an interval for the bias means something: it is exact, or enough draws carry the error."""
    return known(row) or not (math.isnan(estimate(row, "bias")[2]) or unestimable(row) or alike(row))


def gate(row: Row) -> float:
    """How many draws must carry the error before anything is said."""
    return GATE if row.size == 1 else WIDE_GATE


def blind(row: Row) -> bool:
    """Whether a group cannot be judged: no interval for its bias can be trusted, and none was found."""
    return row.verdict == "undecided" and not alike(row) and (not gated(row) or math.isnan(row.low + row.high))


def noise_floor(row: Row) -> float:
    """The noise floor of a mean; nan where no bias is shown, or one that does not come from a mean."""
    floor = estimate(row, "noise_floor")[0]
    return floor if math.isfinite(floor + relative_bias(row)) and not known(row) else math.nan


def detectable(row: Row) -> float:
    """The smallest relative bias that would have been found; 0 where no noise could hide any, nan where none would."""
    return 0.0 if known(row) else row.detectable


def alike(row: Row) -> bool:
    """Whether all draws are alike and off the truth, which an event never drawn may explain."""
    return row.verdict == "undecided" and estimate(row, "variance")[0] == 0


def unresolved(findings: Iterable[Finding]) -> tuple[int, str]:
    """The number of tested groups in which no bias of any size would have been found, and why, in words."""
    rows = [r for f in findings for r in groups(f) if not math.isfinite(detectable(r))]
    return len(rows), obstacles(rows)


def obstacles(rows: Iterable[Row]) -> str:
    """Why nothing could be found in these groups, in words."""
    rows = list(rows)
    rest = [r for r in rows if not alike(r) and r.norm > 0]
    reasons = {
        "all draws are alike": any(map(alike, rows)),
        "the true gradient is not distinguishable from zero": any(not alike(r) and not r.norm > 0 for r in rows),
        "the variance is not estimable": any(map(unestimable, rest)),
        "too few draws carry the error": not all(map(unestimable, rest)),
    }
    return " or ".join(words for words, applies in reasons.items() if applies)


def relative_variance(row: Row | None) -> tuple[float, float, float]:
    """The relative variance tr Σ / ‖g‖² of one replicate, with its interval; nan where ‖g‖ is not known to be > 0."""
    if noiseless(row):
        return 0.0, 0.0, 0.0
    variance, low, high = estimate(row, "variance")
    square = row.norm**2 if row is not None and row.norm > 0 else math.nan
    return variance / square, low / square, high / square


def signal_to_noise(row: Row | None) -> tuple[float, float, float]:
    """SNR of one replicate in dB with its interval: infinite without variance, -inf where no signal is resolved."""
    if noiseless(row):
        return math.inf, math.inf, math.inf
    value, low, high = (
        10 * math.log10(v) if v > 0 else (math.nan if math.isnan(v) else -math.inf) for v in estimate(row, "snr")
    )
    return value, low, high
