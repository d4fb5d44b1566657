"""Signal-to-noise ratio by group, of one finding."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from estimator_lab.report.figures.style import LINES, SERIES, WIDTH, absent, capped, named_lines, noted, panel, styled
from estimator_lab.report.reading import group_name, groups, signal_to_noise

if TYPE_CHECKING:
    from estimator_lab.finding import Finding


@styled
def spread(finding: Finding, ax: Axes | None = None) -> Axes:
    """Signal-to-noise ratio (dB) of one replicate in every tested group of one finding, with intervals."""
    rows, note = capped(groups(finding), LINES, "groups")
    ax = panel(ax, WIDTH, 0.22 * max(len(rows), 2) + 0.75)
    gone = []
    for y, row in enumerate(rows):
        value, low, high = signal_to_noise(row)
        if not math.isfinite(value):
            gone.append(group_name(row) + (" (no variance)" if value > 0 else ""))
            continue
        left, right = (v if math.isfinite(v) else value for v in (low, high))
        ax.hlines(y, left, right, color=SERIES[0], lw=1.4)
        ax.plot(value, y, "<" if low == -math.inf else "o", color=SERIES[0], mfc="white", ms=4.5)
    named_lines(ax, map(group_name, rows))
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}".replace("-", "−")))
    missing = absent("not resolved or without variance, so not shown", gone)
    ax.set_xlabel(noted("signal-to-noise ratio of one replicate (dB)", [missing, note], WIDTH - 1))
    return ax
