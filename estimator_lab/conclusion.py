"""Verdict, status and sentence of a finding."""

import math
from collections.abc import Sequence

from estimator_lab.finding import Row
from estimator_lab.statistics.group import GATE, WIDE_GATE


def conclude(
    rows: Sequence[Row], claim: bool | None, margin: float, alpha: float, replicates: int, exact: str
) -> tuple[str, str, str]:
    """Verdict, status and sentence of a finding, from its tested rows.

    A claim of unbiasedness is violated by any bias that is found, also by one that is proved smaller than the margin.

    Args:
        rows: tested together.
        claim: whether the estimator declares itself unbiased.
        margin: relative bias that counts as small.
        alpha: false-alarm rate of the study.
        replicates: drawn.
        exact: how the expectation was found, or "".
    """
    biased = [r for r in rows if r.verdict != "exact" and (r.p_holm <= alpha or r.verdict.startswith("biased"))]
    still_open = [r for r in rows if r.verdict == "undecided"]
    if biased:
        start = {True: "Claims to be unbiased and is not", False: "Biased, as declared", None: "Biased"}[claim]
        return "biased", "violated" if claim else "sound", f"{start}: {_size(biased, exact)}."
    if still_open:
        places = "" if len(rows) == 1 else f" at {len(still_open)} of {len(rows)} places"
        words = f"Undecided{places}: {_limit(still_open, alpha, replicates)}{_remedy(still_open)}."
        return "undecided", "inconclusive" if claim else "sound", words
    if all(r.verdict == "exact" for r in rows):
        if all(r.statistics["variance"].value == 0 for r in rows):
            return "exact", "sound", "Equal to the truth in every draw, to rounding."
        start = {True: "Exactly unbiased", False: "Declared biased, but unbiased here", None: "Exactly unbiased"}[claim]
        return "exact", "sound", f"{start}: its expectation ({exact}) is the truth, to rounding."
    high = max(r.high for r in rows if r.verdict != "exact")
    start = {True: "Unbiased", False: "Declared biased, but here the bias is", None: "The bias is"}[claim]
    bound = f"within {percent(margin)} of the gradient's norm everywhere (largest upper limit {_below(high, margin)})"
    return "unbiased within", "sound", f"{start} {bound}."


def percent(share: float) -> str:
    """A share in percent to two digits, for sentences."""
    return (
        "an unknown share"
        if not math.isfinite(share)
        else f"{100 * share:.2g} %"
        if share < 0.995
        else f"{100 * share:.0f} %"
    )


def rounded_up(draws: float) -> int:
    """A number of draws to two digits, upwards."""
    unit = int(10 ** max(math.floor(math.log10(max(draws, 1))) - 1, 0))
    return math.ceil(draws / unit) * unit


def _below(share: float, margin: float) -> str:
    """A share in percent, to as many digits as show that it is below the margin."""
    texts = [percent(share), *(f"{100 * share:.{digits}g} %" for digits in range(3, 16))]
    return next((t for t in texts if float(t[:-2]) < 100 * margin), texts[0])


def _place(row: Row) -> str:
    if row.level == "site":
        return f"the units of {row.name}"
    if row.level == "layer":
        return "the weights of the loss" if row.name == "loss" else f"the weights of {row.name}"
    return f"the tensor {row.name}"


def _size(rows: Sequence[Row], exact: str) -> str:
    """How large the largest bias is, and how sure that is."""

    def largest(row: Row) -> float:
        value = row.statistics["relative_bias"].value
        return value if value > 0 else 0.0

    worst = max(rows, key=largest)
    share, norm = worst.statistics["relative_bias"].value, worst.statistics["bias"].value
    size = f"bias {percent(share)} of the gradient's norm at {_place(worst)}"
    if not math.isfinite(share):
        size = f"bias of norm {norm:.2g} at {_place(worst)}, where the true gradient is zero or not told from it"
    if exact:
        return f"{size}, exactly ({exact}){_multiple(worst)}"
    if share <= 0:  # found along some direction, and not larger in norm than the noise
        size = f"bias at {_place(worst)} whose size is not told from zero"
        return f"{size}, at most {percent(worst.high)} of the gradient's norm" if math.isfinite(worst.high) else size
    if math.isfinite(worst.low) and worst.high > worst.low * 1.0001:
        size += f", between {percent(worst.low)} and {percent(worst.high)}"
    return size + _multiple(worst)


def _multiple(row: Row) -> str:
    """That the mean is a multiple of the truth, if its direction and length are known well enough to say so."""
    gain, cosine = row.statistics["gain"], row.statistics["cosine_of_mean"]
    straight = row.size > 1 and max(cosine.low, -cosine.high) > 0.99
    if not straight or not gain.high - gain.low < 0.2 or abs(gain.value - 1) < 0.05:
        return ""
    return f"; the mean is there {gain.value:.2g} times the truth"


def _limit(rows: Sequence[Row], alpha: float, replicates: int) -> str:
    """What the draws leave open at the least known place."""
    worst = max(rows, key=lambda r: r.high if math.isfinite(r.high) else math.inf)
    if math.isnan(worst.statistics["variance"].value):
        index = worst.statistics["tail_index"].value
        return (
            f"the variance is not estimable at {_place(worst)} (tail index {index:.2f}, where 0.5 and more may mean an "
            "infinite variance), so that no interval can be trusted"
        )
    if worst.norm == 0:
        return f"the true gradient is zero at {_place(worst)}, and no bias is small or large against that"
    if math.isfinite(worst.high):
        return f"a bias of up to {percent(worst.high)} at {_place(worst)} cannot be excluded"
    if worst.statistics["variance"].value == 0:
        off, rare = worst.statistics["relative_bias"].value, math.log(1 / alpha) / replicates
        return (
            f"all {replicates:,} draws are alike and {percent(off)} off the truth at {_place(worst)}; "
            f"only an event of a probability below {rare:.1g} could explain that"
        )
    carried, gate = worst.statistics["effective_sample"].value, GATE if worst.size == 1 else WIDE_GATE
    if carried < gate:
        return (
            f"only {carried:.0f} draws carry the error at {_place(worst)}, where {gate:.0f} are needed to say anything"
        )
    return f"the true gradient is not distinguishable from zero at {_place(worst)}"


def _remedy(rows: Sequence[Row]) -> str:
    truth, needed = max(r.truth_needed for r in rows), max(r.needed for r in rows)
    if truth:
        return f"; the truth is too noisy for this margin, about {rounded_up(truth):,} draws of it would do"
    return f"; about {rounded_up(needed):,} replicates would decide it" if needed else ""
