"""The noise of a training step by its sources."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.patches import Patch

from estimator_lab.report.figures import style
from estimator_lab.report.rounding import rounded

if TYPE_CHECKING:
    from estimator_lab.noise_split import NoiseSplit, Part

SOURCES = {  # the look of each and its words
    "data": (style.SERIES[0], "", "choice of examples"),
    "sampling": (style.SERIES[5], "////", "sampled units"),
    "numerical": (style.SERIES[1], "....", "rounding in float32"),
}


COLUMNS = (101.5, 115.0)  # per cent: where the numbers beside the bars begin


def _name(part: Part) -> str:
    if part.level == "total":
        return f"all {part.name}"
    return part.name if part.name == "loss" else f"{part.name} weights"


@style.styled
def noise_split(found: NoiseSplit, ax: Axes | None = None) -> Axes:
    """Shares of the variance of a step's gradient, stacked, a bar for each layer and one for all weights.

    The mark at the end of a share is its interval. Shares below a thousandth are too thin to be seen; rounding is
    therefore written at the end of the bar.
    """
    parts, fewer = style.capped(found.parts, style.LINES, "layers")
    ax = style.panel(ax, style.WIDTH, 0.28 * max(len(parts), 2) + 1.0)
    measured = any(math.isfinite(p.numerical.value) for p in parts)
    for y, part in enumerate(parts):
        start = 0.0
        for source, (colour, hatch, _) in SOURCES.items():
            share = part.shares[source]
            if not math.isfinite(share.value):
                continue
            width = 100 * max(share.value, 0.0)
            ax.barh(y, width, left=start, height=0.56, color=colour, hatch=hatch, ec="white", lw=0, zorder=2)
            if source == "data" and math.isfinite(share.low + share.high) and share.low < share.high:
                ends = (max(100 * share.low, 0.0), min(100 * share.high, 100.0))
                ax.hlines(y, *ends, color="white", lw=3.4, zorder=3)
                ax.hlines(y, *ends, color=style.INK, lw=1.4, zorder=4)
                ax.vlines(ends, y - 0.14, y + 0.14, color=style.INK, lw=1.2, zorder=4)
            start += width
        columns = [rounded(part.total.value, most=2)]
        if math.isfinite(part.numerical.value):
            columns.append(f"{rounded(100 * part.shares['numerical'].value, most=1)} %")
        for x, words in zip(COLUMNS, columns, strict=False):
            ax.text(x, y, words, va="center", fontsize=7, color=style.MUTED)
    style.named_lines(ax, map(_name, parts))
    ax.set_xlim(0, 130 if measured else 116)
    ax.spines["bottom"].set_bounds(0, 100)
    ax.set_xticks([0, 20, 40, 60, 80, 100])
    for x, words in zip(COLUMNS, ("variance", "rounding")[: 1 + measured], strict=False):
        ax.text(x, -0.62, words, va="bottom", fontsize=7, color=style.MUTED)
    step = f"steps of {found.minibatch} of {found.examples} examples"
    ax.set_xlabel(style.noted(f"share of the variance of a step's gradient (%), {step}", [fewer]))
    shown = [s for s in SOURCES if s != "numerical" or measured]
    handles = [Patch(fc=SOURCES[s][0], hatch=SOURCES[s][1], ec="white", lw=0, label=SOURCES[s][2]) for s in shown]
    ax.legend(handles=handles, ncols=3, loc="lower left", bbox_to_anchor=(-0.01, 1.0), borderaxespad=0.1)
    return ax
