"""Strips: a line for each estimator, a marker for each problem or group, on one logarithmic axis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from estimator_lab.report.figures import style
from estimator_lab.report.reading import detectable, group_name, groups, word
from estimator_lab.report.rounding import rounded

if TYPE_CHECKING:
    from estimator_lab.diagnosis import Ratio
    from estimator_lab.finding import Finding


MEDIAN = 3  # marks of a line from which on it has a bar at their median


class Mark(NamedTuple):
    """A value with its interval (nan where it has none) and the verdict that gives it its look."""

    value: float
    verdict: str
    low: float = math.nan
    high: float = math.nan


def _strip(
    ax: Axes | None, lines: Mapping[str, Sequence[Mark]], label: str, reference: float, words: str, gone: str
) -> Axes:
    """Lines of marks, the median as a bar; `reference` is a line across; what is not positive is named under `gone`."""
    names, note = style.capped(lines, style.LINES, "lines")
    ax = style.panel(ax, style.WIDTH, 0.14 * max(len(names), 2) + 0.95)
    marks = [(y, m) for y, name in enumerate(names) for m in lines[name] if style.positive(m.value)]
    for verdict, (colour, marker, _) in style.VERDICTS.items():
        own = [(y, m) for y, m in marks if m.verdict == verdict]
        barred = [(y, m) for y, m in own if style.positive(m.low) and style.positive(m.high)]
        ax.hlines([y for y, _ in barred], [m.low for _, m in barred], [m.high for _, m in barred], color=colour, lw=0.8)
        ax.plot(
            [m.value for _, m in own], [y for y, _ in own], marker, color=colour, mfc=style.face(verdict), mew=0.8, ms=4
        )
    for y, name in enumerate(names):
        usable = [m.value for m in lines[name] if style.positive(m.value)]
        if len(usable) >= MEDIAN:
            middle = float(np.median(usable))
            ax.vlines(middle, y - 0.36, y + 0.36, color=style.INK, lw=1.4, zorder=4)
    limits = style.log_limits([*(m.value for _, m in marks), reference])
    if marks and limits:
        style.logarithmic(ax, "x", limits)
        ax.axvline(reference, color=style.INK, lw=0.8, zorder=1)
    else:
        style.say(ax, "nothing to show on a logarithmic axis")
        ax.set_xticks([])
    lost = {n: sum(not style.positive(m.value) for m in lines[n]) for n in names}
    missing = [n if k == len(lines[n]) else f"{n} ({k} of {len(lines[n])})" for n, k in lost.items() if k]
    ax.set_xlabel(style.noted(label, [style.absent(gone, missing), note], style.WIDTH - 1.5))
    style.named_lines(ax, names)
    ax.hlines(
        np.arange(0.5, len(names) - 1), 0, 1, transform=ax.get_yaxis_transform(), color=style.GRID, lw=0.5, zorder=0
    )
    key = style.verdict_keys((m.verdict for _, m in marks), ls="")
    style.key_above(ax, [*key, *([Line2D([], [], color=style.INK, lw=0.8, label=words)] if marks else [])])
    return ax


@style.styled
def cost_strip(findings: Sequence[Finding], ratios: Sequence[Ratio], ax: Axes | None = None) -> Axes:
    """Work of each estimator over that of the reference on the same problem, a marker for each problem.

    Work is variance times evaluations of the loss, all weights together; sorted by its median.
    """
    verdicts = {(f.problem_label, f.estimator_label): word(f) for f in findings}
    lines: dict[str, list[Mark]] = {}
    for r in ratios:
        if r.level == "total" and (r.problem, r.estimator) in verdicts:
            mark = Mark(r.work.value, verdicts[r.problem, r.estimator], r.work.low, r.work.high)
            lines.setdefault(r.estimator, []).append(mark)

    def middle(name: str) -> float:
        return float(np.median([m.value for m in lines[name] if style.positive(m.value)] or [math.inf]))

    ordered = {n: lines[n] for n in sorted(lines, key=middle)}
    first = list(dict.fromkeys(style.plain(r.reference) for r in ratios))
    references = " or ".join(first) if len(first) < 3 else "the reference"
    label = f"variance × evaluations of the loss, over that of {references}"
    return _strip(ax, ordered, label, 1.0, references, "without variance or not estimable, so not shown")


@style.styled
def resolution(findings: Sequence[Finding], ax: Axes | None = None, margin: float = 0.05) -> Axes:
    """The smallest relative bias that would have been found, by estimator (one finding: by group).

    A marker for each tested group, in its verdict's colour; the line is the margin.
    """
    lines: dict[str, list[Mark]] = {}
    for f in findings:
        for r in groups(f):
            mark = Mark(100 * detectable(r), r.verdict)
            lines.setdefault(group_name(r) if len(findings) == 1 else f.estimator_label, []).append(mark)
    words = f"margin, {rounded(100 * margin)} %"
    gone = "zero or not estimable, so not shown"
    return _strip(ax, lines, "detectable relative bias (%)", 100 * margin, words, gone)
