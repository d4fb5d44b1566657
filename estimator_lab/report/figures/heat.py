"""Heat maps: a statistic of every estimator in every group of every problem."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from estimator_lab.report.figures.style import INK, LINES, MUTED, WIDTH, capped, noted, panel, plain, styled
from estimator_lab.report.reading import group_name, groups, relative_bias, shows_bias, signal_to_noise
from estimator_lab.report.rounding import rounded

if TYPE_CHECKING:
    from estimator_lab.finding import Finding

COLUMNS = 60  # most groups across
FEW = 14  # groups up to which the cells hold their numbers
BIAS = LinearSegmentedColormap.from_list(
    "relative bias",
    [(0.0, "#f4f7fa"), (1 / 3, "#d3e2ee"), (1 / 3 + 1e-6, "#f9dfc8"), (0.6, "#dd8a52"), (1.0, "#7d1d17")],
)
OPEN = "#e4e6e9"  # no finding
NO_NOISE, NO_SIGNAL = "#e3e9d3", "#fbf3dc"
SNR = LinearSegmentedColormap.from_list("signal to noise", ["#f3f5f8", "#8fb0cb", "#1f3a5f"]).with_extremes(
    over=NO_NOISE, under=NO_SIGNAL
)


def _columns(findings: Sequence[Finding]) -> list[tuple[str, str]]:
    """Pairs (problem label, group) in the order of the findings."""
    return list(dict.fromkeys((f.problem_label, group_name(r)) for f in findings for r in groups(f)))


def _shade(value: float, margin: float) -> float:
    """0 at a tenth of the margin and below, 1 at a hundred margins: three decades, the margin after the first."""
    return value if math.isnan(value) else min(1.0, max(0.0, (math.log10(max(value, margin / 10) / margin) + 1) / 3))


def _heads(ax: Axes, columns: Sequence[tuple[str, str]]) -> None:
    """Groups under the columns; the problems, divided by lines, above them."""
    turn = 90 if len(columns) > FEW or max(len(c[1]) for c in columns) * len(columns) > 44 else 0
    size = 6.8 if turn else 7.5
    ax.set_xticks(np.arange(len(columns)) + 0.5, [plain(c[1], 18) for c in columns], rotation=turn, fontsize=size)
    starts = [j for j, c in enumerate(columns) if j == 0 or c[0] != columns[j - 1][0]]
    if len(starts) == 1:
        return
    for a, b in zip(starts, [*starts[1:], len(columns)], strict=True):
        ax.axvline(a, color=INK, lw=0.8 if a else 0)
        narrow = (b - a) * 68 / len(columns) < len(columns[a][0])
        ax.annotate(
            plain(columns[a][0], 22),
            ((a + b) / 2, 0),
            xytext=(0, 3),
            textcoords="offset points",
            ha="left" if narrow else "center",
            va="bottom",
            fontsize=7.2,
            rotation=40 if narrow else 0,
            rotation_mode="anchor",
        )


@styled
def heat(
    findings: Sequence[Finding], statistic: str = "relative_bias", ax: Axes | None = None, margin: float = 0.05
) -> Axes:
    """A statistic of every estimator (down) and group of every problem (across).

    `statistic` is "relative_bias" (in per cent; the colour changes at the margin; what is undecided is grey and in
    brackets) or "snr" (in dB, of one replicate; without noise, or without a signal that is resolved, a cell has a
    colour of its own, off the scale).
    """
    of_bias = statistic == "relative_bias"
    names, fewer_lines = capped(dict.fromkeys(f.estimator_label for f in findings), LINES, "estimators")
    columns, fewer = capped(_columns(findings), COLUMNS, "groups")
    width = WIDTH if len(columns) > 9 else WIDTH / 2
    ax = panel(ax, width, 0.19 * len(names) + 1.1)
    values = {
        (f.estimator_label, f.problem_label, group_name(r)): 100 * relative_bias(r)
        if of_bias
        else signal_to_noise(r)[0]
        for f in findings
        for r in groups(f)
    }
    table = np.array([[values.get((n, *c), math.nan) for c in columns] for n in names]).reshape(len(names), -1)
    known = np.array([[(n, *c) in values for c in columns] for n in names]).reshape(len(names), -1)
    finite = table[np.isfinite(table)]
    low, high = (0.0, 1.0) if of_bias or not finite.size else (float(finite.min()), float(finite.max()))
    if high - low < 1e-6:  # a single value: a scale around it
        low, high = low - 1, high + 1
    if of_bias:
        shade = np.vectorize(lambda v: _shade(v / 100, margin), otypes=[float])(table)
    else:
        shade = np.clip(table, 2 * low - high, 2 * high - low)  # infinities off the scale, yet drawn
    colours = BIAS if of_bias else SNR
    hidden = {
        (f.estimator_label, f.problem_label, group_name(r))
        for f in findings
        for r in groups(f)
        if of_bias and r.verdict == "undecided" and not shows_bias(r)
    }
    still = np.array([[(n, *c) in hidden for c in columns] for n in names], dtype=bool).reshape(len(names), -1)
    still &= ~np.isnan(table)
    if still.any():
        ax.pcolormesh(np.ma.array(np.zeros_like(shade), mask=~still), cmap=ListedColormap([OPEN]), ec="w", lw=0.6)
    image = ax.pcolormesh(
        np.ma.array(shade, mask=np.isnan(shade) | still), cmap=colours, vmin=low, vmax=high, ec="w", lw=0.6
    )
    for cells, marker in ((~known, "."), (known & np.isnan(table), "x")):
        down, across = np.nonzero(cells)
        ax.plot(across + 0.5, down + 0.5, ls="", marker=marker, color="#b9c0c9", ms=2)
    for i, j in np.argwhere(~np.isnan(table)) if len(columns) <= FEW else ():
        value = float(table[i, j])
        red, green, blue = to_rgb(colours((float(shade[i, j]) - low) / (high - low))[:3])
        ink = "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.55 else INK
        text = rounded(value, most=3 if abs(value) >= 100 else 2) if math.isfinite(value) else "∞" if value > 0 else "<"
        ink, text = (MUTED, f"({text})") if still[i, j] else (ink, text)
        ax.text(j + 0.5, i + 0.5, text, ha="center", va="center", fontsize=7, color=ink)
    ax.set_ylim(len(names), 0)
    ax.set_yticks(np.arange(len(names)) + 0.5, [plain(n) for n in names], fontsize=7.5)
    _heads(ax, columns) if columns else None
    ax.tick_params(length=0)
    ax.grid(False)
    ax.spines[["left", "bottom"]].set_visible(False)
    figure = ax.get_figure(root=True)
    assert figure is not None
    bar = figure.colorbar(image, ax=ax, aspect=16, pad=0.015, shrink=0.92, fraction=0.05)
    bar.outline.set(visible=False)
    bar.ax.tick_params(labelsize=7)
    if of_bias:
        ticks = [rounded(100 * t, most=2) for t in (margin / 10, margin, 10 * margin, 100 * margin)]
        bar.set_ticks([0, 1 / 3, 2 / 3, 1], labels=[f"≤ {ticks[0]}", *ticks[1:3], f"≥ {ticks[3]}"])
    else:
        bar.ax.ticklabel_format(useOffset=False)
        off = [(np.inf, NO_NOISE, "no noise"), (-np.inf, NO_SIGNAL, "signal not resolved")]
        patches = [Patch(color=colour, label=words) for value, colour, words in off if (table == value).any()]
        if patches:
            ax.legend(handles=patches, loc="upper right", bbox_to_anchor=(0, -0.01), borderaxespad=0.2, fontsize=7)
    note = noted("", [fewer_lines, fewer], width)
    if note:
        ax.set_xlabel(note)
    return ax


@styled
def heat_maps(findings: Sequence[Finding], margin: float = 0.05) -> Figure:
    """Two heat maps: relative bias and signal-to-noise ratio of one replicate, by estimator and group."""
    columns = _columns(findings)
    names = min(len({f.estimator_label for f in findings}), LINES)
    beside, crowded = len(columns) <= 7, len(columns) > FEW
    height = min(0.145 * names + 1.4 if crowded else 0.15 * names + 0.85, 4.1)  # two of them fit a page
    figure = Figure(figsize=(WIDTH, height if beside else 2 * height), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True) if beside else figure.subplots(2, 1)
    words = ("a\u2002relative bias (%)", "b\u2002signal-to-noise ratio (dB)")
    for ax, key, title in zip(axes, ("relative_bias", "snr"), words, strict=True):
        heat(findings, key, ax, margin)
        ax.set_title(title, pad=4 if len({c[0] for c in columns}) == 1 else (52 if crowded else 18))
    return figure
