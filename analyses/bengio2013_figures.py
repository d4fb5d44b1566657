"""Figures of the neurons and estimators of Bengio, Léonard and Courville (2013), from their formulas."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import lines
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray
from scipy.special import expit, ndtr, ndtri, spence

from estimator_lab.report.figures import style
from estimator_lab.report.rounding import rounded

Array = NDArray[np.float64]
DRAWS = 260  # points of a cloud
SEED = 2013
ZERO = 3  # the estimator without bias among those of perturbations
WIDTHS = (3.0, 2.0, 1.2, 1.5, 0.8)  # so that lines that coincide are all seen
WRONG = {"facecolor": "#fbe6e1", "edgecolor": "#a3261f", "hatch": "////", "lw": 0.6}


class Neuron(NamedTuple):
    """A forward law, as functions of the pre-activation a.

    Attributes:
        name: in the key.
        mean: E[h].
        active: P(h > 0).
        square: E[h^2].
        slope: derivative of E[h].
        passed: mean of what backpropagation passes on for a loss L = h; for the binary unit, whose own derivative is
            zero, what straight-through passes on.
        draw: h from a and a uniform number.
        top: largest h that is shown.
    """

    name: str
    mean: Callable[[Array], Array]
    active: Callable[[Array], Array]
    square: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    passed: Callable[[Array], Array]
    draw: Callable[[Array, Array], Array]
    top: float


def density(a: Array) -> Array:
    """Of the standard normal law."""
    return np.exp(-a * a / 2) / np.sqrt(2 * np.pi)


def bell(a: Array) -> Array:
    """``p (1 - p)``."""
    return expit(a) * expit(-a)


NEURONS = (
    Neuron("binary", expit, expit, expit, bell, np.ones_like, lambda a, u: (u < expit(a)) * 1.0, 1),
    # E[max(0, a + z)^2] = 2 int_0^inf h s(a - h) dh = -2 Li2(-e^a), and spence(x) = Li2(1 - x)
    Neuron(
        "rectifier, logistic noise",
        lambda a: np.logaddexp(0, a),
        expit,
        lambda a: -2 * spence(1 + np.exp(a)),
        expit,
        expit,
        lambda a, u: np.maximum(0, a + np.log(u / (1 - u))),
        5,
    ),
    Neuron(
        "rectifier, Gaussian noise",
        lambda a: a * ndtr(a) + density(a),
        ndtr,
        lambda a: (a * a + 1) * ndtr(a) + a * density(a),
        ndtr,
        ndtr,
        lambda a, u: np.maximum(0, a + ndtri(u)),
        5,
    ),
    Neuron(
        "STS, as printed",
        expit,
        lambda a: expit(a) ** 0.5,
        lambda a: expit(a) ** 1.5,
        bell,
        lambda a: bell(a) / 2,
        lambda a, u: (u < expit(a) ** 0.5) * expit(a) ** 0.5,
        1,
    ),
    Neuron(
        "STS, authors' code",
        lambda a: expit(a) ** 1.5,
        expit,
        lambda a: expit(a) ** 2,
        lambda a: 1.5 * expit(a) ** 1.5 * expit(-a),
        lambda a: 0.5 * expit(a) ** 1.5 * expit(-a),
        lambda a, u: (u < expit(a)) * expit(a) ** 0.5,
        1,
    ),
)


@style.styled
def clouds() -> Figure:
    """Draws of every neuron against its pre-activation, with their mean."""
    figure = Figure(figsize=(style.WIDTH, 1.75), layout="constrained")
    for k, (ax, n) in enumerate(zip(figure.subplots(1, len(NEURONS)), NEURONS, strict=True)):
        random = np.random.default_rng(SEED + k)
        a, u = random.uniform(-5, 5, DRAWS), random.uniform(size=DRAWS)
        ax.plot(a, n.draw(a, u), ".", color=style.SERIES[k], ms=2.6, mew=0, alpha=0.6)
        x = np.linspace(-5, 5, 101)
        ax.plot(x, n.mean(x), color=style.INK, lw=1.1)
        ax.set_title(n.name.replace(", ", ",\n") if ", " in n.name else n.name, fontsize=8)
        ax.set_xlim(-5.3, 5.3)
        ax.set_xticks([-4, 0, 4], ["−4", "0", "4"])
        ax.set_ylim(-0.06 * n.top, 1.06 * n.top)
        ax.set_yticks([0, n.top / 2, n.top], ["0", f"{n.top / 2:g}", f"{n.top:g}"])
    figure.supxlabel("pre-activation a", fontsize=8.5)
    figure.supylabel("h", fontsize=8.5)
    return figure


@style.styled
def laws() -> Figure:
    """Mean, probability to be active, standard deviation and slope of every neuron."""
    figure = Figure(figsize=(style.WIDTH, 3.5), layout="constrained")
    axes = figure.subplots(2, 2).ravel()
    a = np.linspace(-5, 5, 201)
    for k, n in enumerate(NEURONS):
        deviation = np.sqrt(np.maximum(n.square(a) - n.mean(a) ** 2, 0))
        for ax, y in zip(axes, (n.mean(a), n.active(a), deviation, n.slope(a)), strict=True):
            ax.plot(a, y, color=style.SERIES[k], lw=WIDTHS[k])
            own = slice(10 + 8 * k, None, 45)
            ax.plot(a[own], y[own], style.MARKERS[k], color=style.SERIES[k], ms=4, mec="white", mew=0.4)
        axes[3].plot(a, n.passed(a), ls=(0, (3, 2)), color=style.SERIES[k], lw=1.2)
    titles = (
        "mean of h",
        "probability that h > 0",
        "standard deviation of h",
        "slope of the mean, and what is passed on",
    )
    for ax, letter, title in zip(axes, "abcd", titles, strict=True):
        ax.set_title(f"{letter}\u2002{title}")
        ax.set_xlim(-5, 5)
        ax.set_xticks([-4, -2, 0, 2, 4], ["−4", "−2", "0", "2", "4"])
        ax.set_ylim(bottom=-0.03)
    axes[0].set_ylim(-0.06, 2.1)
    axes[2].set_ylim(-0.05, 1.9)
    keys = [
        Line2D(
            [],
            [],
            color=style.SERIES[k],
            lw=WIDTHS[k],
            marker=style.MARKERS[k],
            ms=4,
            mec="white",
            mew=0.4,
            label=n.name,
        )
        for k, n in enumerate(NEURONS)
    ]
    keys.append(Line2D([], [], color=style.MUTED, ls=(0, (3, 2)), label="passed on (d)"))
    figure.legend(handles=keys, loc="outside upper center", ncols=3)
    figure.supxlabel("pre-activation a", fontsize=8.5)
    return figure


@style.styled
def baselines(a: float = -1.3, on: float = 2.7, off: float = 0.4) -> Figure:
    """Variance of ``(h - p)(L - b)`` against the baseline b, at one p and at its best and usual b against p.

    One unit with L(1) = ``on``, L(0) = ``off``: the variance is ``p (1 - p) (b - b*)^2`` with ``b* = (1 - p) L(1) + p
    L(0)``, so that it is zero at b*, and ``p (1 - p) (1 - 2 p)^2 D^2`` at b = E[L].
    """
    p = float(expit(a))
    best, usual, size = (1 - p) * on + p * off, p * on + (1 - p) * off, p * (1 - p)
    figure = Figure(figsize=(style.WIDTH, 1.85), layout="constrained")
    one, every = figure.subplots(1, 2)
    b = np.linspace(-0.6, 4.4, 201)
    one.plot(b, size * (b - best) ** 2, color=style.INK)
    marks = ((0.0, "none"), (usual, "mean loss"), (best, "minimum variance"))
    for k, (at, name) in enumerate(marks):
        one.plot(at, size * (at - best) ** 2, style.MARKERS[k], color=style.SERIES[k], ms=6, label=name, zorder=4)
    one.set_title("a\u2002one unit, against its baseline")
    one.set_xlabel("baseline b")
    one.set_ylabel("variance of (h − p)(L − b)")
    one.set_ylim(-0.05, 1.3)
    one.legend(loc="upper center")
    q = np.linspace(0.001, 0.999, 201)
    for k, (name, at) in enumerate(
        (("none", 0 * q), ("mean loss", q * on + (1 - q) * off), ("minimum variance", None))
    ):
        y = 0 * q if at is None else q * (1 - q) * (at - (1 - q) * on - q * off) ** 2
        every.plot(q, y, color=style.SERIES[k])
        every.plot(q[25::50], y[25::50], style.MARKERS[k], color=style.SERIES[k], mec="white", mew=0.4, label=name)
    every.set_title("b\u2002the same, against the probability")
    every.set_xlabel("probability p of h = 1")
    every.set_xlim(0, 1)
    return figure


@style.styled
def wrong_sign() -> Figure:
    """Where straight-through points the wrong way: one unit under a squared loss, and two layers.

    One unit, ``L = (h - t)^2``: truth ``p (1 - p) (1 - 2 t)``, mean of straight-through ``2 (p - t)`` (a factor
    ``p (1 - p)`` changes no sign). Two layers, ``a_1 = 0``, ``a_2 = h_1 (1, 1) + (0, c)``, ``L = h_2 . (1, -1.5)``:
    the truth at the first unit is ``(s(1) - s(0) - 1.5 (s(1 + c) - s(c))) / 4``; straight-through gives 1 - 1.5.
    """
    figure = Figure(figsize=(style.WIDTH, 1.95), layout="constrained")
    plane, chain = figure.subplots(1, 2)
    half = np.linspace(0, 1, 101)
    low, high = np.minimum(half, 0.5), np.maximum(half, 0.5)
    plane.fill_between(half, low, high, **WRONG)
    plane.plot([0, 1], [0, 1], color=style.INK, lw=0.9)
    plane.plot([0, 1], [0.5, 0.5], color=style.INK, lw=0.9)
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1.2}
    for x, y in ((0.17, 0.435), (0.83, 0.565)):
        plane.text(x, y, "wrong sign", ha="center", va="center", fontsize=7.6, color="#7d1f17", bbox=box)
    for x, y in ((0.3, 0.8), (0.7, 0.2)):
        plane.text(x, y, "right sign", ha="center", va="center", fontsize=7.6, color=style.INK)
    example = float(expit(-1.0))
    plane.plot(example, 0.35, "D", color=style.SERIES[0], ms=5, mec="white", zorder=5)
    plane.set_xlim(0, 1)
    plane.set_ylim(0, 1)
    plane.grid(visible=False)
    plane.set_xlabel("probability p of h = 1")
    plane.set_ylabel("target t")
    plane.set_title("a\u2002one unit, L = (h − t)²")
    c = np.linspace(-7, 7, 281)
    curves = two_layers(c)
    for k, (name, y) in enumerate(curves.items()):
        chain.plot(c, y, color=style.SERIES[k], lw=(3.4, 1.2, 1.2)[k], label=name)
        chain.plot(
            c[20 + 20 * k :: 60], y[20 + 20 * k :: 60], style.MARKERS[k], color=style.SERIES[k], mec="white", mew=0.4
        )
    wrong = curves["truth"] > 0
    across = chain.get_xaxis_transform()
    chain.fill_between(c, 0, 1, where=wrong.tolist(), transform=across, facecolor="#fbe6e1", edgecolor="none", zorder=0)
    for x in (-4.5, 4.0):
        chain.text(x, -0.25, "straight-through:\nwrong sign", ha="center", va="center", fontsize=7.6, color="#7d1f17")
    chain.axhline(0, color=style.INK, lw=0.7, zorder=1)
    chain.set_xlim(-7, 7)
    chain.set_ylim(-0.58, 0.34)
    chain.set_xlabel("bias c of the second unit above")
    chain.set_title("b\u2002first of two layers, gradient")
    keys = [
        Line2D([], [], color=style.SERIES[k], marker=style.MARKERS[k], ms=3.5, label=n) for k, n in enumerate(curves)
    ]
    figure.legend(handles=keys, loc="outside upper center", ncols=3)
    return figure


def two_layers(c: Array) -> dict[str, Array]:
    """Gradients at the first unit of the two-layer example of `wrong_sign`, against the bias c."""
    truth = (expit(1.0) - 0.5 - 1.5 * (expit(1 + c) - expit(c))) / 4
    chained = (bell(np.array(0.0)) + bell(np.array(1.0)) - 1.5 * (bell(c) + bell(1 + c))) / 8
    return {"truth": truth, "straight-through": np.full_like(c, -0.5), "with sigmoid derivative": chained}


FAMILIES: Mapping[str, Mapping[str, str]] = {
    "rectifier": {"rectifier": "without noise", "noisy-rectifier": "noisy"},
    "straight-through": {"st": "plain", "st-sigmoid": "with s′(a)"},
    "STS": {"sts": "as printed", "sts-code": "as in the code", "sts-decisive": "code, Beta noise"},
    "score function": {"sbn": "batch sum", "sbn-mean": "batch mean"},
    "sigmoid": {"sigmoid": "without noise", "sigmoid-noise": "noisy"},
}
"""Gates by the kind of neuron, with what tells those of one kind apart."""


SHORT = {"straight-through": "ST"}


class Course(NamedTuple):
    """A quantity along the trainings.

    Attributes:
        title: of its row of panels.
        values: of each gate, and of each of its trainings, a value at every epoch.
        logarithmic: scale of its axis.
        target: what is aimed at, or nan.
    """

    title: str
    values: Mapping[str, Sequence[Sequence[float]]]
    logarithmic: bool = True
    target: float = math.nan


@style.styled
def courses(rows: Sequence[Course]) -> Figure:
    """Quantities against the epoch: a column for each kind of gate, all other gates in grey behind it.

    A line is the mean over the trainings of a gate, the band their range.
    """
    trained = dict.fromkeys(name for row in rows for name in row.values)
    columns = {kind: names for kind, names in FAMILIES.items() if any(n in trained for n in names)}
    figure = Figure(figsize=(style.WIDTH, 1.28 * len(rows) + 0.75), layout="constrained")
    axes = figure.subplots(len(rows), len(columns), squeeze=False, sharex=True, sharey="row")
    for row, panels in zip(rows, axes, strict=True):
        shown: list[float] = []
        for ax, names in zip(panels, columns.values(), strict=True):
            if row.logarithmic:
                ax.set_yscale("log")
            for runs in row.values.values():
                lines.draw_runs(ax, runs, style.PALE, band=False)
                shown += [v for run in runs for v in run]
            if math.isfinite(row.target):
                shown.append(row.target)
                ax.axhline(row.target, color=style.INK, lw=0.8, ls=(0, (4, 2)))
            for k, name in enumerate(names):
                lines.draw_runs(ax, row.values.get(name, ()), style.SERIES[k])
        lines.fit(panels[0], [v for v in shown if math.isfinite(v) and (v > 0 or not row.logarithmic)])
        panels[0].set_ylabel(row.title, fontsize=8)
    for ax, kind in zip(axes[0], columns, strict=True):
        ax.set_title(kind, fontsize=8)
    for ax, names in zip(axes[-1], columns.values(), strict=True):
        ax.set_xlabel("epoch", fontsize=8)
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))
        handles = [
            Line2D([], [], color=style.SERIES[k], label=own) for k, (n, own) in enumerate(names.items()) if n in trained
        ]
        ax.legend(
            handles=handles,
            loc="upper left",
            bbox_to_anchor=(-0.06, -0.36),
            fontsize=7.2,
            handlelength=1.1,
            borderpad=0,
        )
    figure.align_ylabels()
    return figure


@style.styled
def perturbations() -> Figure:
    """Relative bias against the size of the perturbation, for the gradient of ``L(u) = exp(u)`` at 0, which is 1.

    Forward difference ``(L(e) - L(0)) / e``: ``(exp(e) - 1) / e - 1``. Central difference, and SPSA with signs, in one
    dimension ``sinh(e) / e - 1``. Correlation of the loss with a Gaussian perturbation (Fiete, Seung 2006), ``E[L(e z)
    z] / e - 1 = exp(e^2 / 2) - 1``. And ``(h - p) L`` of a binary unit, which moves by 1 as a whole: 0.
    """
    figure = Figure(figsize=(style.WIDTH, 2.05), layout="constrained")
    ax, zero = figure.subplots(2, 1, height_ratios=(7, 1), sharex=True)
    e = np.logspace(-2, 0.5, 51)
    curves = {
        "forward difference, order 1": np.expm1(e) / e - 1,
        "Fiete and Seung, order 2": np.expm1(e * e / 2),
        "central difference and SPSA, order 2": np.sinh(e) / e - 1,
        "(h − p) L": 0 * e,
    }
    ax.set_yscale("log")
    for k, y in enumerate(curves.values()):
        for panel in (ax, zero):
            own = y if (panel is zero) == (k == ZERO) else np.full_like(y, np.nan)
            panel.plot(e, 100 * own, color=style.SERIES[k])
            panel.plot(e[5::10], 100 * own[5::10], style.MARKERS[k], color=style.SERIES[k], mec="white", mew=0.4)
    lines.fit(ax, [100 * v for y in curves.values() for v in y if v > 0])
    ax.tick_params(bottom=False)
    ax.spines["bottom"].set_visible(False)
    zero.set_ylim(-1, 1)
    zero.set_yticks([0], ["0"])
    style.logarithmic(zero, "x", (e[0] / 1.1, e[-1] * 1.1))
    zero.set_xlabel("size of the perturbation")
    ax.set_ylabel("relative bias (%)")
    lines.keys(figure, list(curves), across=2)
    return figure


@style.styled
def smooth_units() -> Figure:
    """Orders in p of ``E[f(h)] - f(p)``, and what backpropagation through STS passes on over the truth.

    a, ``f = exp(1.3 h)``: STS ``f''(0) / 2 p^1.5``, a binary unit ``(f(1) - f(0) - f'(0)) p``. b, the truth is
    ``q (1 - p) / 2 (f(q) - f(0) + q f'(q))``, q = sqrt(p), and the mean of backpropagation ``p (1 - p) / 2 f'(q)``.
    """
    figure = Figure(figsize=(style.WIDTH, 2.05), layout="constrained")
    order, share = figure.subplots(1, 2)
    p, c = np.logspace(-6, -1, 51), 1.3
    q = np.sqrt(p)
    curves = {"binary": p * np.expm1(c) - np.expm1(c * p), "STS": q * np.expm1(c * q) - np.expm1(c * p)}
    asymptotes = {"binary": p * (np.expm1(c) - c), "STS": c * c / 2 * p**1.5}
    for k, name in zip((0, 3), curves, strict=True):
        label = f"{name}, slope {1.5 if name == 'STS' else 1:g}"
        order.plot(p, curves[name], color=style.SERIES[k])
        order.plot(p[::10], curves[name][::10], style.MARKERS[k], color=style.SERIES[k], mec="white", mew=0.4)
        order.plot([], [], color=style.SERIES[k], marker=style.MARKERS[k], mec="white", mew=0.4, label=label)
        order.plot(p, asymptotes[name], color=style.INK, lw=0.8, ls=(0, (2, 2)))
    style.logarithmic(order, "x", (5e-7, 0.2))
    style.logarithmic(order, "y", (1e-10, 0.5))
    order.set_xlabel("probability p")
    order.set_title("a\u2002error of E[f(h)] ≈ f(p)")
    order.legend(loc="upper left")
    a = np.linspace(-6, 4, 401)
    q = np.sqrt(expit(a))
    ratios = {
        "L = h": np.full_like(a, 0.5),
        "L = exp(h)": q * np.exp(q) / (np.expm1(q) + q * np.exp(q)),
        "L = (h − 0.3)²": np.where(np.abs(3 * q - 1.2) < 0.03, np.nan, (2 * q - 0.6) / (3 * q - 1.2)),
    }
    for k, (name, y) in enumerate(ratios.items()):
        share.plot(a, y, color=style.SERIES[k])
        share.plot(
            a[30 + 20 * k :: 90], y[30 + 20 * k :: 90], style.MARKERS[k], color=style.SERIES[k], mec="white", mew=0.4
        )
        share.plot([], [], color=style.SERIES[k], marker=style.MARKERS[k], mec="white", mew=0.4, label=name)
    share.axhline(1, color=style.INK, lw=0.9, ls=(0, (4, 2)))
    share.axhline(0, color=style.INK, lw=0.7)
    share.set_ylim(-1.1, 2.3)
    share.set_xlim(-6, 4)
    share.set_xticks([-6, -4, -2, 0, 2, 4], ["−6", "−4", "−2", "0", "2", "4"])
    share.set_yticks([-1, 0, 1, 2], ["−1", "0", "1", "2"])
    share.set_xlabel("pre-activation a")
    share.set_title("b\u2002STS: passed on / truth")
    share.legend(loc="upper right")
    return figure


@style.styled
def quality(
    columns: Mapping[str, Sequence[Mapping[str, Sequence[lines.Spot]]]],
    losses: Mapping[str, Sequence[Sequence[float]]],
    titles: Sequence[str],
) -> Figure:
    """Training loss, and below it the quality of the rules at the epochs that were measured; a column for a training.

    Args:
        columns: by training, the lines of every row of panels but the first: relative bias, variance and cosine.
        losses: of each training of a gate at every epoch; the first is shown.
        titles: of the rows of ``columns``.
    """
    order = list(dict.fromkeys(rule for rows in columns.values() for row in rows for rule in row))
    short = {
        name: f"{SHORT.get(kind, kind)},\n{own}" for kind, names in FAMILIES.items() for name, own in names.items()
    }
    figure = Figure(figsize=(style.WIDTH, 3.5), layout="constrained")
    axes = figure.subplots(1 + len(titles), len(columns), squeeze=False, sharex=True, sharey="row")
    shown: list[list[float]] = [[] for _ in range(1 + len(titles))]
    for place, (name, rows) in enumerate(columns.items()):
        column = axes[:, place]
        column[0].set_title(short.get(name, name), fontsize=7.2)
        column[0].set_yscale("log")
        first = [v for run in losses.get(name, ())[:1] for v in run]
        column[0].plot(range(1, len(first) + 1), first, color=style.INK)
        shown[0] += first
        for down, (ax, own) in enumerate(zip(column[1:], rows, strict=True), start=1):
            if down == 1:
                ax.set_yscale("symlog", linthresh=5, linscale=0.6)
            elif down == 2:
                ax.set_yscale("log")
            shown[down] += lines.draw(ax, own, order)
        epochs = sorted({s.x for row in rows for spots in row.values() for s in spots})
        reach = max([*epochs, len(first)])
        column[-1].set_xlim(-0.12 * reach, 1.12 * reach)
        column[-1].set_xticks(epochs, [f"{e:g}" for e in epochs])
    for down, (ax, title) in enumerate(zip(axes[:, 0], ("training loss", *titles), strict=True)):
        ax.set_ylabel(title, fontsize=7)
        if down != 1:
            lines.fit(ax, shown[down])
    _percents(axes[1, 0], max(shown[1], default=1.0))
    if not shown[1]:
        style.say(axes[1, len(columns) // 2], "none can be judged")
    figure.supxlabel("epoch", fontsize=8.5)
    figure.align_ylabels()
    lines.keys(figure, order, across=5)
    return figure


def _percents(ax: Axes, most: float) -> None:
    """An axis that is linear up to 5 % and logarithmic beyond."""
    ax.set_ylim(-1, max(1.3 * most, 20))
    ticks = [0, 5, *(10**k for k in range(1, 7) if 10**k <= max(1.3 * most, 20))]
    ax.set_yticks(ticks[:2] + ticks[2 :: 1 + len(ticks) // 6], minor=False)
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: rounded(float(v), most=2)))


@style.styled
def saved(found: Mapping[str, Any]) -> Figure:
    """Multiply-adds by formula, and processor time by batch, against the width of the gater."""
    load = found["workload"]
    batches = list(dict.fromkeys(t["batch"] for t in found["times"]))
    figure, axes = style.panels(1 + len(batches), 2, 1.65)
    widths = np.linspace(0, load["widths"][-1] * 1.03, 101)
    main, each = load["gates"] * (load["inputs"] + load["classes"]), load["inputs"] + load["gates"]
    nets = {
        "ungated": main + 0 * widths,
        "masked": main + each * widths,
        "skipping": load["alpha"] * main + each * widths,
    }
    ways = list(dict.fromkeys(t["way"] for t in found["times"]))
    for name, y in nets.items():
        k = ways.index(name) if name in ways else len(ways)
        axes[0].plot(widths, y / 1e6, color=style.SERIES[k])
        axes[0].plot(widths[10::25], y[10::25] / 1e6, style.MARKERS[k], color=style.SERIES[k], mec="white", mew=0.4)
    even = found["formulas"]["break_even"]
    if even <= widths[-1]:
        axes[0].axvline(even, color=style.INK, lw=0.9, ls=(0, (4, 2)))
    axes[0].set_ylim(bottom=0)
    axes[0].set_title("a\u2002multiply-adds (millions)")
    for ax, letter, batch in zip(axes[1:], "bcdefg", batches, strict=False):
        own: dict[str, list[lines.Spot]] = {}
        for t in found["times"]:
            if t["batch"] == batch:
                at = load["widths"] if t["way"] == "ungated" else [t["hidden"]]  # it has no gater: the same everywhere
                own.setdefault(t["way"], []).extend(lines.Spot(x, *_measure(t["microseconds"])) for x in at)
        ax.set_yscale("log")
        lines.fit(ax, lines.draw(ax, own, ways))
        ax.set_title(f"{letter}\u2002processor time (µs), {batch} example{'s' * (batch > 1)} at once")
    for ax in axes:
        ax.set_xlim(0, widths[-1])
        ax.set_xlabel("units of the gater")
    lines.keys(figure, [*ways, "skipping (a)"], across=6)
    return figure


def _measure(found: Mapping[str, float | None]) -> tuple[float, ...]:
    """Value and ends; nan for null."""
    return tuple(math.nan if (v := found[k]) is None else v for k in ("value", "low", "high"))
