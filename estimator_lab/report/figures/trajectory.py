"""What becomes of estimators, and of the loss, along training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from estimator_lab.report.figures import style
from estimator_lab.report.reading import estimate, signal_to_noise
from estimator_lab.report.rounding import count

if TYPE_CHECKING:
    from estimator_lab.finding import Row
    from estimator_lab.trajectories import Loss, Point

LABEL = "step of the training"
EVALUATIONS = "evaluations of the loss"
SURE = 0.99  # a panel of descent that is above this everywhere shows nothing
CLOSE = 0.5  # decades between labels of steps, at least
DODGE = 1.035  # between the lines of a panel, so that intervals do not hide each other
Interval = tuple[float, float, float]


class Quality(NamedTuple):
    """One panel: what it shows, how that is read off a row, and on which scale."""

    title: str
    read: Callable[[Row], Interval]
    logarithmic: bool = False
    ends: tuple[float, float] = (-math.inf, math.inf)


def _percent(row: Row) -> Interval:
    value, low, high = estimate(row, "relative_bias")
    return 100 * value, 100 * low, 100 * high


def _of(key: str) -> Callable[[Row], Interval]:
    return lambda row: estimate(row, key)


QUALITIES = (
    Quality("relative bias (%)", _percent, ends=(0, math.inf)),
    Quality("variance of one draw", _of("variance"), True),
    Quality("SNR of one draw (dB)", signal_to_noise),
    Quality("cosine of one draw", _of("mean_cosine"), ends=(-1, 1)),
    Quality("cosine of the mean", _of("cosine_of_mean"), ends=(-1, 1)),
    Quality("probability of descent", _of("descent"), ends=(0, 1)),
)
LAYERED = (QUALITIES[0], QUALITIES[2], QUALITIES[3])


def place(step: int) -> float:
    """Where a step is on the logarithmic axis, which has room for step 0."""
    return float(step + 1)


def _steps(ax: Axes, steps: Sequence[int]) -> None:
    """A logarithmic axis that is labelled at steps that were measured, the last one among them."""
    labelled: list[int] = []
    for step in sorted(steps, reverse=True):
        if not labelled or math.log10(place(labelled[-1]) / place(step)) >= CLOSE or (step == 0 and labelled[-1] > 1):
            labelled.append(step)
    ax.set_xscale("log")
    ax.set_xlim(place(min(steps)) / 1.2, place(max(steps)) * 1.2)
    ax.xaxis.set_major_locator(FixedLocator([place(s) for s in labelled]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: count(x - 1)))


def _powers(ax: Axes, most: float) -> None:
    """The same axis for a count that differs between lines: labelled at 0 and at powers of ten."""
    labelled = [0, *(10**k for k in range(1, math.floor(math.log10(max(most, 10))) + 1))]
    ax.set_xscale("log")
    ax.set_xlim(place(0) / 1.2, place(round(most)) * 1.2)
    ax.xaxis.set_major_locator(FixedLocator([place(n) for n in labelled]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: count(x - 1)))


def _panel(ax: Axes, quality: Quality, lines: dict[str, list[tuple[int, Interval]]], order: Sequence[str]) -> list[str]:
    """Draws one line for each name, and returns the names of those that miss a value."""
    missing, shown, steps = [], [], []
    for name, points in lines.items():
        k = order.index(name)
        shift = DODGE ** (k - (len(order) - 1) / 2)
        usable = [
            (step, found)
            for step, found in points
            if math.isfinite(found[0]) and (found[0] > 0 or not quality.logarithmic)
        ]
        if len(usable) < len(points):
            missing.append(name)
        steps += [step for step, _ in points]
        x = [place(step) * shift for step, _ in usable]
        ax.plot(
            x,
            [v for _, (v, _, _) in usable],
            color=style.SERIES[k],
            marker=style.MARKERS[k],
            ms=3,
            mec="white",
            mew=0.3,
        )
        for at, (_, (value, low, high)) in zip(x, usable, strict=True):
            shown += [value]
            if low < high and (low > 0 or not quality.logarithmic):
                ax.vlines(at, low, high, color=style.SERIES[k], lw=0.7, alpha=0.7)
                shown += [max(low, quality.ends[0]), min(high, quality.ends[1])]
    if not shown:
        style.say(ax, "nothing to show")
        return missing
    if quality.logarithmic:
        limits = style.log_limits(shown)
        assert limits is not None
        style.logarithmic(ax, "y", limits)
    else:
        pad = 0.06 * (max(shown) - min(shown)) or 0.05
        ax.set_ylim(min(shown) - pad, max(shown) + pad)
    _steps(ax, sorted(set(steps)))
    return missing


def _keys(order: Sequence[str]) -> list[Line2D]:
    return [
        Line2D([], [], color=style.SERIES[k], marker=style.MARKERS[k], ms=3.5, label=style.plain(name))
        for k, name in enumerate(order)
    ]


def _lines(
    points: Sequence[Point], order: Sequence[str], quality: Quality, level: str, name: str | None
) -> dict[str, list[tuple[int, Interval]]]:
    lines: dict[str, list[tuple[int, Interval]]] = {}
    for p in sorted(points, key=lambda p: p.step):
        if p.estimator in order:
            row = next((r for r in p.finding.rows if r.level == level and name in (None, r.name)), None)
            if row is not None:
                lines.setdefault(p.estimator, []).append((p.step, quality.read(row)))
    return {name: lines[name] for name in order if name in lines}


def _close(figure: Figure, order: Sequence[str], missing: dict[str, list[str]], note: str) -> Figure:
    lacking = [
        style.absent(f"{title}: not estimable or no place on the axis at some steps", names)
        for title, names in missing.items()
    ]
    figure.supxlabel(style.noted(LABEL, [*lacking, note]), fontsize=8.5)
    figure.legend(handles=_keys(order), loc="outside upper center", ncols=min(len(order), 5))
    return figure


@style.styled
def quality(points: Sequence[Point], level: str = "total", name: str | None = None) -> Figure:
    """Six statistics of one group of gradients against the step, a line with 95 % intervals for each estimator.

    The probability of descent is left out, with a word, where it is above 99 % everywhere. Points of different
    trainings may be mixed, as long as each estimator has one point at a step.
    """
    order, note = style.capped(dict.fromkeys(p.estimator for p in points), len(style.SERIES), "estimators")
    panels: Sequence[Quality] = QUALITIES
    certain = ""
    descents = [v for rows in _lines(points, order, QUALITIES[-1], level, name).values() for _, (v, _, _) in rows]
    if descents and all(v > SURE for v in descents):
        panels, certain = QUALITIES[:-1], f"probability of descent not drawn: above {SURE:.2f} everywhere"
    figure, axes = style.panels(len(panels), 3, 1.75)
    missing: dict[str, list[str]] = {}
    for ax, shown in zip(axes, panels, strict=True):
        ax.set_title(shown.title, fontsize=8)
        if lacking := _panel(ax, shown, _lines(points, order, shown, level, name), order):
            missing[shown.title] = lacking
    return _close(figure, order, missing, "; ".join(filter(None, [note, certain])))


@style.styled
def quality_by_layer(points: Sequence[Point], level: str = "site") -> Figure:
    """Bias, signal-to-noise ratio and cosine of a draw against the step, a row of panels for each layer or site."""
    order, note = style.capped(dict.fromkeys(p.estimator for p in points), len(style.SERIES), "estimators")
    every = dict.fromkeys(r.name for p in points for r in p.finding.rows if r.level == level)
    names, fewer = style.capped(every, 6, "layers")
    figure, axes = style.panels(len(names) * len(LAYERED), len(LAYERED), 1.6)
    missing: dict[str, list[str]] = {}
    cells = [(name, shown) for name in names for shown in LAYERED]
    for ax, (name, shown) in zip(axes, cells, strict=True):
        ax.set_title(f"{style.plain(name, 16)}: {shown.title}", fontsize=8)
        if lacking := _panel(ax, shown, _lines(points, order, shown, level, name), order):
            missing[f"{name}, {shown.title}"] = lacking
    return _close(figure, order, missing, "; ".join(filter(None, [note, fewer])))


@style.styled
def losses(found: Sequence[Loss], on: str, ax: Axes | None = None, costs: Mapping[str, float] | None = None) -> Axes:
    """The expected loss against the step, a line for each training: mean of its runs, and their range.

    With ``costs``, evaluations of the loss that a step of each training takes, it is drawn against those.
    """
    ax = style.panel(ax, style.WIDTH / 2, 2.1)
    own = [s for s in found if s.on == on]
    order, note = style.capped(dict.fromkeys(s.trained_with for s in own), len(style.SERIES), "trainings")
    for k, name in enumerate(order):
        by_step: dict[int, list[float]] = {}
        for s in own:
            if s.trained_with == name:
                by_step.setdefault(s.step, []).append(s.value.value)
        steps = sorted(by_step)
        x = [(s if costs is None else s * costs[name]) + 1.0 for s in steps]
        y = [sum(by_step[s]) / len(by_step[s]) for s in steps]
        ax.plot(
            x, y, color=style.SERIES[k], marker=style.MARKERS[k], ms=3, mec="white", mew=0.3, label=style.plain(name)
        )
        ax.fill_between(
            x,
            [min(by_step[s]) for s in steps],
            [max(by_step[s]) for s in steps],
            color=style.SERIES[k],
            alpha=0.16,
            lw=0,
        )
    if own and costs is None:
        _steps(ax, sorted({s.step for s in own}))
    elif own and costs is not None:
        _powers(ax, max(s.step * costs[s.trained_with] for s in own))
    else:
        style.say(ax, "no loss to show")
    ax.set_xlabel(style.noted(LABEL if costs is None else EVALUATIONS, [note], style.WIDTH / 2))
    ax.set_title(f"{on} examples", fontsize=8)
    ax.set_ylabel("expected loss")
    return ax


@style.styled
def training(found: Sequence[Loss], examples: Sequence[str], costs: Mapping[str, float] | None = None) -> Figure:
    """`losses` on several sets of examples, with one legend; with costs each against steps and evaluations."""
    cells = [(on, axis) for on in examples for axis in ([None] if costs is None else [None, costs])]
    figure, axes = style.panels(len(cells), 2, 2.2, sharey=costs is None)
    for k, (ax, (on, axis)) in enumerate(zip(axes, cells, strict=True)):
        losses(found, on, ax, axis)
        if k % 2:
            ax.set_ylabel("")
    order = style.capped(dict.fromkeys(s.trained_with for s in found), len(style.SERIES), "trainings").items
    figure.legend(handles=_keys(order), loc="outside upper center", ncols=min(len(order), 5))
    return figure
