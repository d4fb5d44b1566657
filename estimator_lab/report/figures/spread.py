"""Signal-to-noise ratio by group, of one finding."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from estimator_lab.report.figures import style
from estimator_lab.report.reading import group_name, groups, signal_to_noise

if TYPE_CHECKING:
    from estimator_lab.finding import Finding


@style.styled
def spread(finding: Finding, ax: Axes | None = None) -> Axes:
    """Signal-to-noise ratio (dB) of one replicate in every tested group of one finding, with intervals."""
    rows, note = style.capped(groups(finding), style.LINES, "groups")
    ax = style.panel(ax, style.WIDTH, 0.22 * max(len(rows), 2) + 0.75)
    gone = []
    for y, row in enumerate(rows):
        value, low, high = signal_to_noise(row)
        if not math.isfinite(value):
            gone.append(group_name(row) + (" (no variance)" if value > 0 else ""))
            continue
        left, right = (v if math.isfinite(v) else value for v in (low, high))
        ax.hlines(y, left, right, color=style.SERIES[0], lw=1.4)
        ax.plot(value, y, "<" if low == -math.inf else "o", color=style.SERIES[0], mfc="white", ms=4.5)
    style.named_lines(ax, map(group_name, rows))
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}".replace("-", "−")))
    missing = style.absent("not resolved or without variance, so not shown", gone)
    ax.set_xlabel(style.noted("signal-to-noise ratio of one replicate (dB)", [missing, note], style.WIDTH - 1))
    return ax
