"""Relative bias by group, with intervals: the forest plots.

Relative biases have a scale that is linear from zero to the margin and logarithmic beyond it, so zero has a place.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from estimator_lab.report.figures import style
from estimator_lab.report.reading import blind, gated, group_name, groups, noise_floor, relative_bias, shows_bias, total
from estimator_lab.report.rounding import rounded

if TYPE_CHECKING:
    from estimator_lab.finding import Finding, Row

FLOOR: Mapping[str, Any] = {"color": "#8b939e", "marker": "|", "ls": "", "ms": 7, "mew": 1.0, "label": "noise floor"}
COLUMN = 4.3  # cm: the width of `bias_column`
PITCH, AXIS = 10.8, 15.0  # points: the height of its lines, and of the axis under them


def _scale(ax: Axes, top: float, margin: float, ticks: int = 5) -> None:
    """The x axis of relative biases, in per cent; the margin is shaded."""
    ax.axvspan(0, margin, color="#e9f1f7", lw=0, zorder=0)
    ax.axvline(0, color=style.INK, lw=0.7, zorder=1)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: rounded(100 * float(v), most=2)))
    if top <= 2 * margin:  # nothing beyond: the linear part is all there is
        ax.xaxis.set_major_locator(MaxNLocator(ticks - 1, steps=[1, 2, 2.5, 5, 10]))
        ax.set_xlim(-0.04 * margin, 1.06 * max(top, 1.1 * margin))
        return
    decades = max(1, math.ceil(math.log10(top / margin) - 1e-9))
    every = math.ceil((decades + 1) / ticks)
    beyond = [margin * 10**k for k in range(0, decades + 1, every)] if top > 10 * margin else [margin, 4 * margin]
    ax.set_xscale("symlog", linthresh=margin, linscale=1.0)
    ax.xaxis.set_major_locator(FixedLocator([0.0, *beyond]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: rounded(100 * float(v), most=2)))
    ax.set_xlim(-0.06 * margin, max(1.25 * top, 2 * margin))


def _top(rows: Iterable[Row | None]) -> float:
    ends = [v for r in rows if r is not None and not blind(r) for v in (relative_bias(r), r.high)]
    return min(max((v for v in ends if math.isfinite(v)), default=0.0), 1e6)


def _forest(ax: Axes, rows: Sequence[Row | None], margin: float, top: float, ticks: int = 5) -> None:
    """Relative biases of rows from top to bottom, each with its interval and its verdict's marker."""
    floors = []
    marks: dict[tuple[str, bool], list[tuple[int, float]]] = {}
    bars: dict[tuple[str, bool], list[tuple[int, float, float]]] = {}
    for y, row in enumerate(rows):
        value = relative_bias(row)
        if row is None or not math.isfinite(value):
            words = f"not estimable ({row.verdict})" if row is not None else "no such group"
            words = "not judged" if row is not None and blind(row) else words
            ax.text(0.06, y, words, transform=ax.get_yaxis_transform(), va="center", fontsize=7, color=style.MUTED)
            continue
        marks.setdefault((row.verdict, shows_bias(row)), []).append((y, min(value, top)))
        if math.isfinite(row.low):
            high = value if math.isnan(row.high) else min(row.high, 2e6)
            bars.setdefault((row.verdict, gated(row)), []).append((y, max(0.0, row.low), high))
        floor = noise_floor(row)
        if floor > 0:
            floors.append((y, min(floor, top * 1.2)))
    ax.plot([x for _, x in floors], [y for y, _ in floors], zorder=2, **{**FLOOR, "label": ""})
    for (verdict, firm), lines in bars.items():
        ys, lows, highs = zip(*lines, strict=True)
        ax.hlines(ys, lows, highs, color=style.VERDICTS[verdict][0], lw=1.4, ls="-" if firm else ":", zorder=3)
    for (verdict, found), points in marks.items():
        colour, marker, _ = style.VERDICTS[verdict]
        ys, xs = zip(*points, strict=True)
        ax.plot(xs, ys, marker, color=colour, mfc=colour if found else "white", ms=4.5, zorder=4, clip_on=False)
    _scale(ax, top, margin, ticks)


def _key(rows: Iterable[Row | None]) -> list[Line2D]:
    present = [r for r in rows if r is not None and not blind(r)]
    handles = style.verdict_keys((r.verdict for r in present), lw=1.4)
    seen = any(noise_floor(r) > 0 for r in present)
    return [*handles, Line2D([], [], **FLOOR)] if seen else handles


@style.styled
def bias(finding: Finding, ax: Axes | None = None, margin: float = 0.05) -> Axes:
    """Relative bias of every tested group of one finding, with intervals; groups from top to bottom."""
    rows, note = style.capped(groups(finding), style.LINES, "groups")
    ax = style.panel(ax, style.WIDTH, 0.24 * max(len(rows), 2) + 0.95)
    _forest(ax, rows, margin, _top(rows))
    style.named_lines(ax, map(group_name, rows))
    ax.set_xlabel(style.noted("relative bias (%)", [note], style.WIDTH - 1))
    style.key_above(ax, _key(rows))
    return ax


@style.styled
def bias_by_group(findings: Sequence[Finding], margin: float = 0.05) -> Figure:
    """Relative biases of several estimators on one problem: a panel for each group, a line for each estimator."""
    names, fewer = style.capped(dict.fromkeys(group_name(r) for f in findings for r in groups(f)), 12, "groups")
    lines, fewer_lines = style.capped(findings, style.LINES, "estimators")
    table = {n: [next((r for r in groups(f) if group_name(r) == n), None) for f in lines] for n in names}
    across = len(names) if len(names) <= 5 else math.ceil(len(names) / math.ceil(len(names) / 5))
    figure, axes = style.panels(len(names), across, (0.13 if len(lines) > 7 else 0.2) * len(lines) + 0.5, sharey=True)
    present = [r for rows in table.values() for r in rows]
    for ax, name in zip(axes, names, strict=True):
        _forest(ax, table[name], margin, _top(present), 5 if across < 4 else 3)
        style.named_lines(ax, (f.estimator_label for f in lines), 7.2)
        ax.set_title(style.plain(name, 24))
    figure.supxlabel(style.noted("relative bias (%)", [fewer, fewer_lines]), fontsize=8.5)
    figure.legend(handles=_key(present), loc="outside upper center", ncols=6)
    return figure


@style.styled
def bias_column(findings: Sequence[Finding], margin: float = 0.05) -> Figure:
    """Relative biases of all weights together, a line for each finding, to stand beside the lines of a table."""
    rows = [total(f) for f in findings]
    height = PITCH * len(rows) + AXIS
    figure = Figure(figsize=(COLUMN / 2.54, height / 72))
    ax = figure.add_axes((0.03, AXIS / height, 0.92, PITCH * len(rows) / height))
    _forest(ax, rows, margin, _top(rows), 4)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_yticks([])
    ax.tick_params(axis="x", labelsize=7, length=2, pad=1.5)
    ax.spines["left"].set_visible(False)
    return figure
