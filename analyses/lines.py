"""Lines of values with intervals, the part that the figures of the founding papers share."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from estimator_lab.report.figures import style


class Spot(NamedTuple):
    """A value at a place, with the ends of its interval, which may be missing."""

    x: float
    value: float
    low: float = math.nan
    high: float = math.nan


Lines = Mapping[str, Sequence[Spot]]


def draw(ax: Axes, lines: Lines, order: Sequence[str], *, band: bool = False, markers: bool = True) -> list[float]:
    """Each line in the look that its place in ``order`` gives it; returns all values that it has drawn.

    What is not finite is left out, and so is what is not positive where the axis is logarithmic.
    """
    log = ax.get_yscale() == "log"
    shown: list[float] = []
    for name, spots in lines.items():
        k = order.index(name) % len(style.SERIES)
        usable = [s for s in spots if math.isfinite(s.value) and (s.value > 0 or not log)]
        x = [s.x for s in usable]
        marker = style.MARKERS[k] if markers else ""
        ax.plot(x, [s.value for s in usable], color=style.SERIES[k], marker=marker, ms=3.6, mec="white", mew=0.4)
        barred = [s for s in usable if s.low < s.high and (s.low > 0 or not log)]
        if band:
            low, high = [s.low for s in barred], [s.high for s in barred]
            ax.fill_between([s.x for s in barred], low, high, color=style.SERIES[k], alpha=0.16, lw=0)
        else:
            ax.vlines(
                [s.x for s in barred], [s.low for s in barred], [s.high for s in barred], color=style.SERIES[k], lw=0.9
            )
        shown += [v for s in usable for v in (s.value, s.low, s.high) if math.isfinite(v) and (v > 0 or not log)]
    return shown


def draw_runs(ax: Axes, runs: Sequence[Sequence[float]], colour: str, *, band: bool = True) -> None:
    """The mean of several runs against 1, 2, ..., and their range."""
    if not runs:
        return
    length = min(map(len, runs))
    x = range(1, length + 1)
    each = list(zip(*(run[:length] for run in runs), strict=True))
    ax.plot(x, [sum(v) / len(v) for v in each], color=colour, lw=1.2 if band else 0.7, zorder=3 if band else 1)
    if band:
        ax.fill_between(x, [min(v) for v in each], [max(v) for v in each], color=colour, alpha=0.2, lw=0, zorder=2)


def fit(ax: Axes, shown: Sequence[float], ends: tuple[float, float] = (-math.inf, math.inf)) -> None:
    """Limits of the y axis that hold what was drawn, within ends."""
    if not shown:
        style.say(ax, "nothing to show")
    elif ax.get_yscale() == "log":
        limits = style.log_limits(shown)
        assert limits is not None
        style.logarithmic(ax, "y", limits)
    else:
        low, high = max(min(shown), ends[0]), min(max(shown), ends[1])
        pad = 0.06 * (high - low) or 0.05
        ax.set_ylim(low - pad, high + pad)


def keys(figure: Figure, order: Sequence[str], *more: Line2D, across: int = 4) -> None:
    """One legend above all panels."""
    handles = [
        Line2D(
            [],
            [],
            color=style.SERIES[k % 8],
            marker=style.MARKERS[k % 8],
            ms=4,
            mec="white",
            mew=0.4,
            label=style.plain(n, 48),
        )
        for k, n in enumerate(order)
    ]
    figure.legend(handles=[*handles, *more], loc="outside upper center", ncols=min(across, len(handles) + len(more)))
