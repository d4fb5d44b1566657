"""Figures of tree-structured weights (Cho, Bengio 2014)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import lines
import numpy as np
from lines import Spot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from estimator_lab.report.figures import style

HEIGHT = 2.62  # inches, of the tree
LEVELS = (1.72, 1.2, 0.68)
PATH = (1, 0, 1)
VISITS = (6, 15, 18, 31, 38, 54)  # steps of the example of decay
SUBSCRIPTS = "₁₂₃₄₅₆₇₈₉"


@style.styled
def tree() -> Figure:
    """The table of one unit: the bits choose a path, the vectors on it are added to the row of the weights."""
    figure = Figure(figsize=(style.WIDTH, HEIGHT), layout="none")
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set_axis_off()
    ax.set_xlim(0, 6.3)
    ax.set_ylim(0, HEIGHT)
    _bits(figure)
    _nodes(figure)
    _sum(figure)
    return figure


def _words(figure: Figure, x: float, y: float, words: str, **look: object) -> None:
    """Words at a place in inches."""
    figure.axes[0].text(x, y, words, **{"ha": "center", "va": "center", "fontsize": 8.5, **look})  # type: ignore[arg-type]


def _bits(figure: Figure) -> None:
    """Signs of activations, one for each level of the tree."""
    _words(figure, 0.62, 2.5, "bits", weight="bold")
    for level, (bit, y) in enumerate(zip(PATH, LEVELS, strict=True)):
        sign = ">" if bit else "≤"
        _words(figure, 0.62, y, f"u{SUBSCRIPTS[level]}(x) {sign} 0:  b{SUBSCRIPTS[level]} = {bit}", fontsize=8)
        figure.axes[0].plot([1.3, 4.42], [y, y], color=style.GRID, lw=0.6, ls=(0, (2, 3)), zorder=0)


def _nodes(figure: Figure) -> None:
    """A tree of three levels, with the path of the bits."""
    ax = figure.axes[0]
    _words(figure, 2.85, 2.5, "table of unit j: a vector of length q for every prefix", weight="bold")
    places = {(): (2.85, 2.15)}
    for level, y in enumerate(LEVELS, start=1):
        for code in range(2**level):
            prefix = tuple(code >> (level - 1 - i) & 1 for i in range(level))
            places[prefix] = (1.4 + 2.9 * (code + 0.5) / 2**level, y)
    for prefix, (x, y) in places.items():
        on = prefix == PATH[: len(prefix)]
        if prefix:
            above = places[prefix[:-1]]
            ax.plot(
                [above[0], x], [above[1], y], color=style.SERIES[0] if on else style.PALE, lw=2 if on else 0.9, zorder=1
            )
        fill, ink = (style.SERIES[0], "white") if on and prefix else ("white", style.MUTED)
        ax.plot(
            x, y, "o", ms=19 if prefix else 10, color=fill, mec=style.SERIES[0] if on else style.PALE, mew=0.9, zorder=2
        )
        if prefix:
            _words(figure, x, y, "".join(map(str, prefix)), color=ink, fontsize=7.6, weight="bold" if on else "normal")


def _sum(figure: Figure) -> None:
    """The vectors on the path, and their sum."""
    ax = figure.axes[0]
    _words(figure, 5.45, 2.5, "row j of the weights", weight="bold")
    vectors = np.random.default_rng(7).normal(size=(3, 6))
    rows = [*vectors, vectors.sum(0)]
    names = ["T(j, 1)", "T(j, 10)", "T(j, 101)", "W(j, x)"]
    scale = np.abs(rows).max()
    for name, row, y, sign in zip(names, rows, (*LEVELS, 0.2), ("", "+", "+", "="), strict=True):
        _words(figure, 4.52, y, sign, fontsize=11)
        for i, value in enumerate(row):
            colour = style.SERIES[0] if value > 0 else style.SERIES[1]
            corner = (4.68 + 0.155 * i, y - 0.085)
            ax.add_patch(Rectangle(corner, 0.145, 0.17, facecolor=colour, alpha=0.12 + 0.8 * abs(value) / scale, lw=0))
        _words(figure, 5.68, y, name, ha="left", fontsize=8)
    ax.plot([4.62, 6.2], [0.44, 0.44], color=style.INK, lw=0.7)


Row = Mapping[str, Any]
GROUPS = ("bits", "gating weights", "tables")
LAYERS = ("tree", "dense, equal width", "dense, equal parameters")


def _depths(ax: Axes, most: int, label: str = "depth k of the trees") -> None:
    """An axis of whole numbers."""
    ax.set_xlim(0.6, most + 0.4)
    ax.set_xticks(range(1, most + 1) if most < 7 else range(2, most + 1, 2))
    ax.set_xlabel(label, fontsize=8)


@style.styled
def capacity(rows: Sequence[Row]) -> Figure:
    """Parameters, operations, their ratio and time of an example against the depth of the trees."""
    deepest = max(r["depth"] for r in rows)
    figure = Figure(figsize=(style.WIDTH, 4.2), layout="constrained")
    axes = figure.subplots(2, 2).ravel()
    panels = (
        ("a\u2002parameters", "parameters"),
        ("b\u2002operations of an example", "operations"),
        ("c\u2002parameters for each operation", "parameters_per_operation"),
        ("d\u2002time of an example, forward (µs)", "forward_us"),
    )
    order = [name for name in LAYERS if any(r["layer"] == name for r in rows)]
    for ax, (title, key) in zip(axes, panels, strict=True):
        ax.set_yscale("log")
        own = [n for n in order if key in ("operations", "forward_us") or n != LAYERS[2]]  # else equal by construction
        shown = lines.draw(ax, {name: _by_depth(rows, name, key, deepest) for name in own}, order)
        if key == "parameters_per_operation":
            ratio = [Spot(k, 2**k / k) for k in range(1, deepest + 1)]
            ax.plot([s.x for s in ratio], [s.value for s in ratio], color=style.INK, lw=0.9, ls=(0, (4, 2)))
            shown += [s.value for s in ratio]
        lines.fit(ax, shown)
        ax.set_title(title)
        _depths(ax, deepest)
    claimed = Line2D([], [], color=style.INK, lw=0.9, ls=(0, (4, 2)), label="2ᵏ / k (c)")
    lines.keys(figure, order, claimed)
    return figure


def _by_depth(rows: Sequence[Row], layer: str, key: str, deepest: int) -> list[Spot]:
    """Values of a layer by depth; a layer without depth is the same at all of them."""
    own = [(r["depth"], r[key]) for r in rows if r["layer"] == layer]
    if own and own[0][0] == 0:
        own = [(k, own[0][1]) for k in range(1, deepest + 1)]
    return [Spot(k, v["value"], v["low"], v["high"]) if isinstance(v, Mapping) else Spot(k, v) for k, v in own]


@style.styled
def decay(
    by_depth: Mapping[str, Sequence[float]] | None = None, rate: float = 0.1, penalty: float = 0.2, steps: int = 64
) -> Figure:
    """One entry of a node under eager and lazy decay, and what decay does by depth.

    Eagerly the entry is multiplied by 1 - rate penalty in every step; lazily by the power of it that is due, when its
    node is next visited. Both end in the same value at a visit.

    Args:
        by_depth: the numbers of claim B7; without them the factor between two visits is drawn.
        rate: of learning.
        penalty: of the weights.
        steps: that are shown.
    """
    visits = np.isin(np.arange(steps), VISITS)
    shrink, slopes = 1 - rate * penalty, np.random.default_rng(2014).normal(-1, 1, size=steps)
    eager, lazy, last = [1.0], [1.0], -1
    for t in range(steps):
        eager.append(shrink * eager[-1] - rate * slopes[t] * visits[t])
        stored = lazy[-1]
        if visits[t]:
            stored = shrink * (shrink ** (t - last - 1) * stored) - rate * slopes[t]
            last = t
        lazy.append(stored)
    figure = Figure(figsize=(style.WIDTH, 2.3), layout="constrained")
    path, sizes = figure.subplots(1, 2)
    x = np.arange(steps + 1)
    path.plot(x, eager, color=style.SERIES[0], lw=2.6, alpha=0.45, label="eager")
    path.step(x, lazy, where="post", color=style.SERIES[1], label="lazy")
    at = np.flatnonzero(visits) + 1
    path.plot(at, np.array(lazy)[at], "o", color=style.SERIES[1], mec="white", mew=0.4, label="visit")
    path.set_title("a\u2002an entry of a node (ελ = 0.02)")
    path.set_xlabel("step")
    path.legend(loc="best")
    sizes.set_xlabel("depth l of the node")
    if by_depth:
        _sizes(sizes, by_depth)
    else:
        _shares(sizes)
    return figure


def _sizes(ax: Axes, found: Mapping[str, Sequence[float]]) -> None:
    """Sizes of a vector after a visit and over time, found and by the formula."""
    depth = range(1, len(found["after_visit"]) + 1)
    ax.set_yscale("log")
    for k, (key, label) in enumerate((("after_visit", "after a visit"), ("mean_over_time", "mean over time"))):
        ax.plot(
            depth,
            found[key],
            style.MARKERS[k],
            color=style.SERIES[k],
            mec="white",
            mew=0.4,
            ms=5,
            label=label,
            zorder=3,
        )
    ax.plot(depth, found["expected"], color=style.INK, lw=0.9, label="formula", zorder=2)
    limits = style.log_limits([*found["after_visit"], *found["mean_over_time"]])
    assert limits is not None
    style.logarithmic(ax, "y", limits)
    ax.set_xticks(depth)
    ax.set_title("b\u2002size of a vector, by depth")
    ax.legend(loc="best")


def _shares(ax: Axes) -> None:
    """What is left of a vector after the mean time between two visits."""
    depth = np.arange(1, 13)
    for k, own in enumerate((1e-4, 1e-3, 1e-2)):
        ax.plot(
            depth,
            (1 - own) ** (2.0**depth),
            color=style.SERIES[k],
            marker=style.MARKERS[k],
            mec="white",
            mew=0.4,
            label=f"ελ = {own:g}",
        )
    ax.set_title("b\u2002share left after 2ˡ steps")
    ax.set_ylim(-0.04, 1.04)
    ax.set_xticks(range(2, 13, 2))
    ax.legend(loc="lower left")


@style.styled
def credit(rows: Sequence[Row]) -> Figure:
    """Relative bias and cosine of the mean of every rule for the gates, by group of gradients."""
    names = list(dict.fromkeys((r["gates"], r["rule"]) for r in rows))
    figure = Figure(figsize=(style.WIDTH, 0.215 * len(names) + 1.0), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    groups = [g for g in GROUPS if any(r["group"] == g for r in rows)]
    for ax, key, scale in zip(axes, ("relative_bias", "cosine_of_mean"), (100, 1), strict=True):
        for r in rows:
            k, value = groups.index(r["group"]), r[key]
            if value is not None and math.isfinite(value):
                y = names.index((r["gates"], r["rule"])) + 0.22 * (k - (len(groups) - 1) / 2)
                ax.plot(
                    scale * value, y, style.MARKERS[k], color=style.SERIES[k], ms=4.6, mec="white", mew=0.4, zorder=3
                )
        ax.axvline(0, color=style.INK, lw=0.8, zorder=1)
    style.named_lines(axes[0], [f"{rule}" for _, rule in names])
    axes[0].set_title("a\u2002relative bias (%)")
    axes[1].set_title("b\u2002cosine of the mean with the truth")
    axes[1].set_xlim(-1.05, 1.08)
    axes[1].axvline(1, color=style.GRID, lw=0.8, zorder=1)
    for ax in axes:
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="y", visible=False)
        ax.spines["left"].set_visible(False)
        for i in range(1, len(names)):
            if names[i][0] != names[i - 1][0]:
                ax.axhline(i - 0.5, color=style.PALE, lw=0.8)
    for gates in dict.fromkeys(g for g, _ in names):
        y = [i for i, (g, _) in enumerate(names) if g == gates]
        axes[1].text(
            1.02,
            sum(y) / len(y),
            gates,
            transform=axes[1].get_yaxis_transform(),
            fontsize=7.6,
            color=style.MUTED,
            va="center",
            rotation=-90 if len(y) > 3 else 0,
        )
    figure.legend(
        handles=[
            Line2D([], [], ls="", marker=style.MARKERS[k], color=style.SERIES[k], ms=5, mec="white", mew=0.4, label=g)
            for k, g in enumerate(groups)
        ],
        loc="outside upper center",
        ncols=len(groups),
    )
    return figure


@style.styled
def boundary(rows: Sequence[Row], truth: float) -> Figure:
    """A deterministic gate made stochastic: mean and noise of REINFORCE against the temperature."""
    figure = Figure(figsize=(style.WIDTH, 2.1), layout="constrained")
    mean, noise = figure.subplots(1, 2)
    x = [r["temperature"] for r in rows]
    mean.plot(
        x, [r["mean"] for r in rows], color=style.SERIES[0], marker="o", mec="white", mew=0.4, label="smoothed gate"
    )
    mean.axhline(truth, color=style.INK, lw=0.9, ls=(0, (4, 2)), label="truth of the hard gate")
    mean.axhline(0, color=style.SERIES[3], lw=1.1, ls=(0, (1, 1.5)), label="backpropagation")
    mean.set_title("a\u2002mean of the estimate")
    mean.legend(loc="best")
    noise.plot(x, [r["standard_deviation"] for r in rows], color=style.SERIES[0], marker="o", mec="white", mew=0.4)
    noise.set_title("b\u2002standard deviation of one draw")
    for ax in (mean, noise):
        style.logarithmic(ax, "x", (min(x) / 1.3, max(x) * 1.3))
        ax.set_xlabel("temperature τ of the gate")
    style.logarithmic(noise, "y", style.log_limits(r["standard_deviation"] for r in rows) or (0.1, 10))
    return figure


@style.styled
def digits(rows: Sequence[Row]) -> Figure:
    """Training loss and test error against parameters and against operations, a marker for each model."""
    figure = Figure(figsize=(style.WIDTH, 3.9), layout="constrained")
    axes = figure.subplots(2, 2, sharey="row")
    order = list(dict.fromkeys(_kind(r) for r in rows))
    for across, key in enumerate(("parameters", "operations")):
        for down, (what, title) in enumerate((("train_loss", "training loss"), ("test_error", "test error (%)"))):
            ax = axes[down, across]
            if what == "train_loss":
                ax.set_yscale("log")
            own = {
                kind: sorted(
                    Spot(r[key], *(r[what][k] for k in ("value", "low", "high"))) for r in rows if _kind(r) == kind
                )
                for kind in order
            }
            lines.fit(ax, lines.draw(ax, own, order), (0, 100) if what == "test_error" else (-math.inf, math.inf))
            limits = style.log_limits(r[key] for r in rows)
            assert limits is not None
            style.logarithmic(ax, "x", limits)
            ax.set_title(f"{'abcd'[2 * down + across]}\u2002{title}")
            if down:
                ax.set_xlabel(f"{key}{' of an example' if across else ''}")
    lines.keys(figure, order)
    return figure


def _kind(row: Row) -> str:
    """What models are joined by a line."""
    return "tree" if row["model"].startswith("tree") else "dense"
