"""Are batch errors normal? Quantiles of the standardised batch errors against those of a normal law."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import special

from estimator_lab.report.figures import style

PANELS = 20
SIMULATED = 4000  # normal samples behind a band


@lru_cache
def band(count: int) -> NDArray[np.float64]:
    """[2, count] ends of the central 95 % of each order statistic of a standardised normal sample, by simulation."""
    draws = np.sort(np.random.default_rng(0).standard_normal((SIMULATED, count)), axis=1)
    draws = (draws - draws.mean(1, keepdims=True)) / draws.std(1, ddof=1, keepdims=True)
    return np.asarray(np.quantile(draws, [0.025, 0.975], axis=0))


def _expected(count: int) -> NDArray[np.float64]:
    return np.asarray(special.ndtri((np.arange(count) + 0.625) / (count + 0.25)))  # Blom's plotting positions


@style.styled
def normal(scores: Mapping[str, Sequence[float]], ax: Axes | None = None) -> Axes:
    """Sorted standardised batch errors against normal quantiles, a series for each name, with the pointwise 95 % band.

    More than `SERIES` are drawn alike.
    """
    names = [n for n in scores if len(scores[n])]
    ax = style.panel(ax, style.WIDTH / 2, 2.3)
    counts = sorted({len(scores[n]) for n in names})
    for count in counts[-1:]:
        ax.fill_between(_expected(count), *band(count), color=style.PALE, alpha=0.5, lw=0, zorder=0)
    alike = len(names) > len(style.SERIES)
    for k, name in enumerate(names):
        look: dict[str, Any] = {"color": style.SERIES[0], "marker": "o", "ms": 1.4, "alpha": 0.6, "mew": 0}
        if not alike:
            look = {"color": style.SERIES[k], "marker": style.MARKERS[k], "mfc": "white", "mew": 0.6, "ms": 2.6}
            look["label"] = style.plain(name, 24)
        ax.plot(_expected(len(scores[name])), np.sort(scores[name]), ls="", **look)
    if names:
        end = 1.1 * max(float(_expected(counts[-1])[-1]), 1.0)
        ax.plot([-end, end], [-end, end], color=style.INK, lw=0.7, zorder=1)
        ax.set_xlim(-end, end)
    else:
        style.say(ax, "no batch errors")
    ax.set_xlabel("normal quantile")
    ax.set_ylabel("batch error")
    return ax


@style.styled
def normal_panels(panels: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Quantiles of batch errors: a panel for each name, a series for each name within it."""
    titles, note = style.capped(panels, PANELS, "panels")
    across = len(titles) if len(titles) <= 5 else math.ceil(len(titles) / math.ceil(len(titles) / 5))
    figure, axes = style.panels(len(titles), across, 1.15, sharex=True, sharey=True)
    for ax, title in zip(axes, titles, strict=True):
        normal(panels[title], ax)
        ax.set(xlabel="", ylabel="")
        ax.set_title(style.plain(title, 24), fontsize=8 if across < 5 else 7.5)
    figure.supxlabel(style.noted("normal quantile", [note]), fontsize=8.5)
    figure.supylabel("standardised batch error", fontsize=8.5)
    keys = {h.get_label(): h for ax in axes for h in ax.get_legend_handles_labels()[0]}
    if len(keys) > 1:
        figure.legend(handles=list(keys.values()), loc="outside upper center", ncols=min(5, len(keys)))
    return figure
