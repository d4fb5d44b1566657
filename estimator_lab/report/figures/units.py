"""Standardised bias unit by unit: a map of each site."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from estimator_lab.report.figures.style import INK, WIDTH, capped, noted, panel, panels, plain, styled

if TYPE_CHECKING:
    from estimator_lab.finding import Finding

UNITS = 96  # most units, and most examples, in a map
MAPS = 20
LIMIT = 6.0  # the colour scale ends at ± this t
ROUNDING = 3e-9  # of the nine digits that are saved
DOTS = 400  # most cells of a map with dots in them
COLOURS = LinearSegmentedColormap.from_list("standardised bias", ["#1f5f8b", "#f5f6f7", "#b5461c"])


def standardised(finding: Finding, site: str) -> NDArray[np.float64]:
    """Standardised bias (mean - truth) / standard error, shape [units, examples]; nan where both are zero.

    Where the mean is known exactly, the root mean square of the site's truth takes the place of the standard error.
    """
    m = finding.units[site]
    mean, error, truth = (np.asarray(a, dtype=float) for a in (m.mean, m.standard_error, m.truth))
    size = float(np.abs(truth).max(initial=0.0))
    difference = np.where(np.abs(mean - truth) <= ROUNDING * size, 0.0, mean - truth)
    if finding.exact:
        error = np.full_like(mean, math.sqrt(float((truth**2).mean())))
    with np.errstate(divide="ignore", invalid="ignore"):
        return _flat(difference / np.where(error <= 1e-12 * size, 0.0, error))


def _flat(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Units down, examples across."""
    return values.reshape(values.shape[0], -1).T if values.ndim > 1 else values.reshape(1, -1)


def strongest(maps: Sequence[NDArray[np.float64]], most: int = UNITS) -> NDArray[np.intp]:
    """The rows to show of maps of equal height: all, or in their order the `most` with the largest |t| in any map."""
    height = maps[0].shape[0]
    if height <= most:
        return np.arange(height)
    peak = np.max([np.nan_to_num(np.abs(t), nan=0.0, posinf=1e300).max(1) for t in maps], axis=0)
    return np.sort(np.argsort(-peak, kind="stable")[:most])


@styled
def units(
    finding: Finding,
    site: str,
    ax: Axes | None = None,
    rows: NDArray[np.intp] | None = None,
    limit: float = LIMIT,
) -> Axes:
    """Standardised bias of every unit (down) and example (across) of a site, clipped at the limit.

    A dot marks what was found to be biased, on maps of at most `DOTS` cells.

    Of more than `UNITS` units those with the largest |t| are shown, or `rows` where given.
    """
    t = standardised(finding, site)
    rows = strongest([t]) if rows is None else rows
    fewer = t.shape[0] - len(rows)
    notes = [
        f"{fewer} of {t.shape[0]} units left out: the largest |t| are shown" if fewer else "",
        f"{t.shape[1] - UNITS} of {t.shape[1]} examples left out" if t.shape[1] > UNITS else "",
    ]
    shown = t[rows][:, :UNITS]
    down, across = shown.shape
    width = WIDTH / 2 if ax is None else WIDTH
    ax = panel(ax, WIDTH / 2, min(0.16 * down + 0.9, 4.0))
    sharp = np.kron(np.clip(shown, -limit, limit), np.ones((8, 8)))  # a multiple of the cells, or viewers blur them
    image = np.ma.masked_invalid(sharp)
    box = (0, across, down, 0)
    ax.imshow(image, cmap=COLOURS, vmin=-limit, vmax=limit, extent=box, aspect="auto", interpolation="none")
    for axis, n, labels in ((ax.xaxis, across, range(across)), (ax.yaxis, down, rows)):
        ticks = range(0, n, next(k for k in (1, 2, 5, 10, 20, 50) if n / k <= 6))
        axis.set_ticks([k + 0.5 for k in ticks], [str(int(labels[k])) for k in ticks])
    if shown.size <= DOTS:
        from estimator_lab.finding import DISCOVERY  # not before a finding is at hand: its imports are slow

        found = _flat(finding.units[site].adjusted)[rows][:, :UNITS] <= DISCOVERY
        y, x = np.nonzero(found)
        ax.plot(x + 0.5, y + 0.5, ls="", marker=".", color=INK, ms=2.4)
        ax.set(xlim=(0, across), ylim=(down, 0))
    ax.grid(False)
    ax.spines[["top", "right"]].set_visible(True)
    ax.set_xlabel(noted("example", notes, width))
    ax.set_ylabel("unit")
    return ax


@styled
def unit_maps(maps: Sequence[tuple[Finding, str, str]]) -> Figure:
    """Maps of standardised bias: a panel for each triple (finding, site, title), one colour scale for all.

    Maps of one site show the same units. The scale of exact biases ends at the largest.
    """
    shown, note = capped(maps, MAPS, "maps")
    tables: dict[str, list[NDArray[np.float64]]] = {}
    for f, site, _ in shown:
        tables.setdefault(site, []).append(standardised(f, site))
    exact = all(f.exact for f, _, _ in shown)
    limit = (
        max((float(np.nanmax(np.abs(t))) for each in tables.values() for t in each), default=1.0) if exact else LIMIT
    )
    rows = {site: strongest(each) for site, each in tables.items() if len({t.shape for t in each}) == 1}
    tall = max(min(t.shape[0], UNITS) for each in tables.values() for t in each)
    across = min(4, len(shown)) if len(shown) not in (5, 6) else 3
    alike = len(rows) == 1 == len(tables)
    figure, axes = panels(len(shown), across, min(max(0.1 * tall + 0.5, 0.7), 0.82), sharey=alike, sharex=alike)
    for ax, (finding, site, title) in zip(axes, shown, strict=True):
        units(finding, site, ax, rows.get(site), limit)
        ax.set_title(plain(title, 21), fontsize=8)
    labels = {ax.get_xlabel() for ax in axes}
    for k, ax in enumerate(axes):
        ax.set_ylabel("" if k % across else "unit")
        ax.set_xlabel("" if len(labels) == 1 else ax.get_xlabel())
    figure.supxlabel(noted(labels.pop() if len(labels) == 1 else "", [note]), fontsize=8.5)
    down = math.ceil(len(axes) / across)
    image = axes[0].images[0]
    bar = figure.colorbar(
        image, ax=axes, aspect=8 + 6 * down, pad=0.012, shrink=0.9, fraction=0.04, extend="neither" if exact else "both"
    )
    bar.outline.set(visible=False)
    bar.ax.set_title("" if exact else "t", fontsize=8.5, loc="center")
    bar.ax.tick_params(labelsize=7.5)
    return figure
