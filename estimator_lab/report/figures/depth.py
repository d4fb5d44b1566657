"""How an estimator fares as the network gets deeper."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from estimator_lab.report.figures import style

if TYPE_CHECKING:
    import pandas as pd

    from estimator_lab.attribution import Deepening


def _line(ax: Axes, rows: pd.DataFrame, across: str, k: int, scale: float, label: str) -> None:
    """Values over the column ``across``, joined by a line, each with its interval."""
    colour, marker = style.SERIES[k], style.MARKERS[k]
    x, y = rows[across].to_numpy(), scale * rows["value"].to_numpy()
    ax.plot(x, y, marker=marker, color=colour, mfc="white", mew=1.0, label=label, zorder=3)
    low, high = scale * rows["low"].to_numpy(), scale * rows["high"].to_numpy()
    seen = [i for i in range(len(x)) if math.isfinite(low[i] + high[i])]
    ax.vlines([x[i] for i in seen], [low[i] for i in seen], [high[i] for i in seen], color=colour, lw=1.3, zorder=2)


def _whole(ax: Axes, rows: pd.DataFrame, across: str) -> None:
    ends = rows[across].min(), rows[across].max()
    ax.set_xlim(ends[0] - 0.3, ends[1] + 0.3)
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))


@style.styled
def depth(found: Deepening) -> Figure:
    """The first layer's gradient against the number of stochastic layers, with intervals.

    Relative bias; cosine to the truth of the mean and of a single draw; signal-to-noise ratio of a draw; and, in the
    deepest network, the relative bias of every layer by its distance from the loss.
    """
    frame = found.to_frame()
    first = frame[frame["layer"] == 1]
    deepest = frame[frame["depth"] == max(found.depths)]
    figure = Figure(figsize=(style.WIDTH, 3.7), layout="constrained")
    axes = figure.subplots(2, 2)
    of_bias, of_cosine, of_signal, within = axes.ravel()
    _line(of_bias, first[first["statistic"] == "relative_bias"], "depth", 0, 100, "")
    of_bias.set_title("a\u2002relative bias (%)")
    _line(of_cosine, first[first["statistic"] == "cosine_of_mean"], "depth", 0, 1, "of the mean")
    _line(of_cosine, first[first["statistic"] == "mean_cosine"], "depth", 1, 1, "of a single draw, mean")
    of_cosine.set_title("b\u2002cosine to the truth")
    of_cosine.set_ylim(-1.08 if of_cosine.get_ylim()[0] < -0.05 else -0.05, 1.08)
    of_cosine.axhline(0, color=style.INK, lw=0.7, zorder=1)
    of_cosine.legend(loc="best")
    signal = first[first["statistic"] == "snr"]
    _line(of_signal, signal, "depth", 0, 1, "")
    of_signal.set_title("c\u2002signal-to-noise ratio of a draw")
    limits = style.log_limits([*signal["value"], *signal["low"], *signal["high"]])
    if limits:
        style.logarithmic(of_signal, "y", limits)
    _line(within, deepest[deepest["statistic"] == "relative_bias"], "from_loss", 0, 100, "")
    within.set_title(f"d\u2002relative bias (%) at depth {max(found.depths)}")
    for ax in (of_bias, within):
        ax.set_ylim(bottom=0)
    for ax in (of_bias, of_cosine, of_signal):
        _whole(ax, first, "depth")
        ax.set_xlabel("stochastic layers")
    _whole(within, deepest, "from_loss")
    within.set_xlabel("layer, counted from the loss")
    return figure
