"""Which site causes the bias and the noise that are seen at each layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from estimator_lab.report.figures import style

if TYPE_CHECKING:
    from estimator_lab.attribution import Attribution, Effect
    from estimator_lab.statistics import Estimate

SITES = len(style.SERIES)
GROUPS = 10


def _groups(found: Attribution) -> list[tuple[str, str]]:
    """Layers from the input to the loss, then all weights; sites where there are no layers."""
    shown = [g for g in found.groups if g[0] == "layer"] or [g for g in found.groups if g[0] == "site"]
    return [*shown, *(g for g in found.groups if g[0] == "total")]


def _name(level: str, name: str) -> str:
    return f"{name} weights" if level == "layer" and name != "loss" else f"all {name}" if level == "total" else name


def _scaled(estimate: Estimate, factor: float) -> tuple[float, float, float]:
    ends = sorted((factor * estimate.low, factor * estimate.high))
    return factor * estimate.value, ends[0], ends[1]


def _dots(
    ax: Axes,
    groups: list[tuple[str, str]],
    causes: list[str],
    part: Callable[[str, str, str], tuple[float, float, float]],
) -> None:
    """A line for each group, within it a dot with its interval for each cause, from top to bottom."""
    step = 0.74 / max(len(causes), 2)
    for k, cause in enumerate(causes):
        colour, marker = style.SERIES[k], style.MARKERS[k]
        for y, group in enumerate(groups):
            value, low, high = part(cause, *group)
            place = y + (k - (len(causes) - 1) / 2) * step
            if not math.isfinite(value):
                continue
            ax.hlines(place, 0, value, color=colour, lw=3.2, alpha=0.32, zorder=2)
            if math.isfinite(low + high) and low < high:
                ax.hlines(place, low, high, color=style.INK, lw=0.9, zorder=4)
            ax.plot(value, place, marker, color=colour, mfc=colour, ms=3.6, zorder=3)
    ax.axvline(0, color=style.INK, lw=0.7, zorder=1)
    for y in range(1, len(groups)):
        ax.axhline(y - 0.5, color=style.GRID, lw=0.5, zorder=0)
    style.named_lines(ax, [_name(*g) for g in groups])


@style.styled
def attribution(found: Attribution) -> Figure:
    """Bias and noise of each layer's gradient by the site that causes them.

    Left: what each site adds to the bias, projected on the total bias and relative to the gradient's norm, so that the
    bars of a layer add up to its relative bias; intervals are those of the shares. Right: what it adds to the variance
    of one draw, in per cent of it; in grey what the reference brings along, where it is noisy.
    """
    groups, fewer = style.capped(_groups(found), GROUPS, "layers")
    sites, fewer_sites = style.capped(found.sites, SITES, "sites")
    whole: dict[tuple[str, str], Effect] = {g: found.effect("all sites", *g) for g in groups}
    figure = Figure(figsize=(style.WIDTH, (0.2 + 0.11 * max(len(sites), 2)) * len(groups) + 1.0), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)

    def bias(cause: str, level: str, name: str) -> tuple[float, float, float]:
        effect, total = found.effect(cause, level, name), whole[level, name].relative_bias.value
        if whole[level, name].verdict == "exact":
            return 0.0, 0.0, 0.0
        return _scaled(effect.share, 100 * total)

    def noise(cause: str, level: str, name: str) -> tuple[float, float, float]:
        total = whole[level, name].variance.value
        return _scaled(found.effect(cause, level, name).variance, 100 / total) if total > 0 else (0.0, 0.0, 0.0)

    _dots(left, groups, sites, bias)
    _dots(right, groups, sites, noise)
    own = [noise("the reference", *g)[0] for g in groups]
    noisy = any(v > 0.5 for v in own)
    if noisy:
        right.plot(own, range(len(groups)), "|", color=style.MUTED, ms=11, mew=1.2, zorder=2)
    unresolved = [n for (level, n), e in whole.items() if e.verdict != "exact" and math.isnan(e.share.value)]
    left.set_title("a\u2002bias caused")
    right.set_title("b\u2002variance caused")
    left.set_xlabel(style.noted("in % of the gradient's norm", [style.absent("no bias resolved", unresolved)], 2.6))
    right.set_xlabel(style.noted("in % of the variance of one draw", [fewer, fewer_sites], 2.6))
    handles = [
        Line2D([], [], color=style.SERIES[k], marker=style.MARKERS[k], lw=2.4, alpha=0.85, ms=4, label=f"caused at {s}")
        for k, s in enumerate(style.plain(s, 18) for s in sites)
    ]
    if noisy:
        handles.append(Line2D([], [], color=style.MUTED, marker="|", ls="", ms=9, mew=1.2, label="the reference's own"))
    figure.legend(handles=handles, loc="outside upper center", ncols=4)
    return figure
