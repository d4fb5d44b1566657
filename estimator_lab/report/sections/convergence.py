"""Does the error of the mean fall as it should?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from estimator_lab.report import figures
from estimator_lab.report.reading import total, unestimable
from estimator_lab.report.rounding import rounded
from estimator_lab.report.story import Block, Story, text
from estimator_lab.report.wording import plural

if TYPE_CHECKING:
    from estimator_lab.finding import Finding


def convergence(s: Story) -> list[Block]:
    """One finding by site, few problems by estimator, many by problem; nothing where no curve was recorded."""
    measured = [f for f in s.findings if f.curves]
    if not measured:
        return []
    law = "The error of an unbiased mean falls as n to the power −½; a biased one stops at its bias."
    if any(row is not None and unestimable(row) for row in map(total, measured)):
        law += (
            " Where the variance is not estimable single large draws decide the curve of one run, which then says"
            " nothing about the rate."
        )
    steady = [f for f in measured if (row := total(f)) is None or not unestimable(row)]
    slopes = [v for v in map(_last_slope, steady) if v is not None]
    stretch = "Over the last factor of four in n"
    if s.single and slopes:
        law += f" {stretch} the slope of the whole gradient's curve is {rounded(slopes[0], 0.05)}."
    elif slopes:
        falling = sum(v <= -0.25 for v in slopes)
        law += (
            f" {stretch}, {falling} of {plural(len(slopes), 'curve')} still fall with a slope under −¼ and"
            f" {len(slopes) - falling} have levelled off."
        )
    drawn: Any
    if s.single:
        drawn, what = figures.convergence(s.findings[0]), ", with their 10 to 90 % range as band"
    elif s.many:
        drawn, what = figures.convergence_by_problem(measured), "; all weights together, a curve for each estimator"
    else:
        drawn, what = figures.convergence_by_estimator(measured), "; all weights together"
    caption = (
        "Relative error of the mean of n replicates, from the size of one batch on: root mean square over disjoint"
        f" stretches of the run{what}. The dashed line has slope −½."
    )
    alt = "Relative error of the mean against the number of replicates, on logarithmic axes."
    return [text(law), s.figure(drawn, alt, caption)]


def _last_slope(finding: Finding) -> float | None:
    """Log-log slope of the curve of all weights over its last factor of four; None where it has no such stretch."""
    curve = finding.curves.get("total") or next(iter(finding.curves.values()))
    points = [(n, e) for n, e in zip(curve.n, curve.error, strict=True) if n > 0 and math.isfinite(e) and e > 0]
    before = [p for p in points if p[0] * 3.9 <= points[-1][0]]
    if not before:
        return None
    (n0, e0), (n1, e1) = before[-1], points[-1]
    return math.log(e1 / e0) / math.log(n1 / n0)
