"""Convergence: the error of the mean of n replicates against n, from one batch to all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from estimator_lab.report.figures import style
from estimator_lab.report.reading import noiseless, total, word

if TYPE_CHECKING:
    from estimator_lab.finding import Curve, Finding

PANELS = 20
PAGE = 7.7  # inches of panels that leave room for their heading and caption on a page
SLOPE: Mapping[str, Any] = {"color": style.MUTED, "lw": 0.8, "ls": (0, (4, 3)), "label": "slope −½"}
LINE_STYLES: Mapping[str, Any] = {"undecided": (0, (1, 1)), "biased": (0, (5, 1.5)), "biased beyond": (0, (5, 1.5))}
GONE = "not on the logarithmic axis, error zero or not finite"
LABEL = "replicates averaged, n"


def _points(curve: Curve) -> list[tuple[float, float]]:
    return [(float(n), e) for n, e in zip(curve.n, curve.error, strict=True) if style.positive(e) and n > 0]


def _plot(ax: Axes, *curves: Curve, **look: Any) -> None:
    """Curves of one look as a single line with gaps."""
    points = [p for c in curves for p in [*_points(c), (math.nan, math.nan)]]
    ax.plot([n for n, _ in points], [e for _, e in points], **look)


def _whole(curve: Curve) -> bool:
    return bool(curve.n) and len(_points(curve)) == len(curve.n)


def _finish(ax: Axes, curves: Sequence[Curve], every: Sequence[Curve] = ()) -> None:
    """The reference of slope -1/2 just above the largest error, and axes that hold what can be shown.

    Where panels share the axis of n, `every` curve sets it.
    """
    points = [p for c in curves for p in _points(c)]
    if not points:
        style.say(ax, "no error to show")
        ax.set(xticks=[], yticks=[])
        return
    across = every or curves
    high = max(n for c in across for n, _ in _points(c))
    # a run without noise stops early, at a constant error: it does not set the axis
    low = min(n for c in across if c.n and max(c.n) == high for n, _ in _points(c))
    errors = [e for _, e in points]
    start = 1.5 * max(errors)
    ax.plot([low, high], [start, start * math.sqrt(low / high)], zorder=1, **SLOPE)
    limits = style.log_limits([*errors, start])
    assert limits is not None
    style.logarithmic(ax, "y", limits)
    style.ends(ax, low, high)


@style.styled
def convergence(finding: Finding, ax: Axes | None = None) -> Axes:
    """Relative error of the mean of n replicates against n, with its 10-90 % range; a curve for each site."""
    ax = style.panel(ax, style.WIDTH, 2.5)
    sites, note = style.capped(sorted(finding.curves, key=lambda s: s != "total"), len(style.SERIES), "curves")
    names = {s: "all weights" if s == "total" else style.plain(s) for s in sites}
    for k, site in enumerate(sites):
        curve = finding.curves[site]
        if not _points(curve):
            continue
        _plot(
            ax, curve, color=style.SERIES[k], marker=style.MARKERS[k], ms=3.5, mec="white", mew=0.3, label=names[site]
        )
        n, error, low, high = (np.asarray(v, dtype=float) for v in (curve.n, curve.error, curve.low, curve.high))
        band = np.isfinite(high) & (low > 0) & (error > 0)
        ax.fill_between(n[band], low[band], high[band], color=style.SERIES[k], alpha=0.16, lw=0)
    _finish(ax, list(finding.curves.values()))
    gone = [names[s] for s in sites if not _whole(finding.curves[s])]
    ax.set_xlabel(style.noted(LABEL, [style.absent(GONE, gone), note], style.WIDTH - 1))
    ax.set_ylabel("relative error of the mean")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return ax


def _names(some: Sequence[Finding], every: Sequence[Finding]) -> list[str]:
    """Their estimators, each with its problems in brackets where they are not all."""
    problems = {f.problem_label for f in every}
    found: dict[str, list[str]] = {}
    for f in some:
        found.setdefault(f.estimator_label, []).append(f.problem_label)
    return [
        name if len(on) == len(problems) else f"{name} ({on[0] if len(on) == 1 else f'{len(on)} problems'})"
        for name, on in found.items()
    ]


def _close(figure: Figure, findings: Sequence[Finding], site: str, notes: list[str], handles: list[Line2D]) -> Figure:
    curves = [(f, f.curves.get(site)) for f in findings]
    last = max((max(c.n) for _, c in curves if c is not None and c.n), default=0)
    gone = [f for f, c in curves if c is not None and not _whole(c)]
    short = [f for f, c in curves if c is not None and _whole(c) and 2 * max(c.n) < last and noiseless(total(f))]
    reasons = {
        GONE: gone,
        "all draws alike, so ending early": short,
        "without a curve": [f for f, c in curves if c is None],
    }
    named = [style.absent(reason, _names(own, findings)) for reason, own in reasons.items()]
    figure.supxlabel(style.noted(LABEL, [*named, *notes]), fontsize=8.5)
    figure.supylabel("relative error of the mean", fontsize=8.5)
    figure.legend(handles=[*handles, Line2D([], [], **SLOPE)], loc="outside upper center", ncols=6)
    return figure


@style.styled
def convergence_by_estimator(findings: Sequence[Finding], site: str = "total") -> Figure:
    """A panel for each estimator, a curve for each problem; every other estimator's curves in grey behind them.

    The panels of a row have their axes in common.
    """
    drawn = [f for f in findings if site in f.curves]
    names, note = style.capped(dict.fromkeys(f.estimator_label for f in drawn), PANELS, "estimators")
    problems, fewer = style.capped(dict.fromkeys(f.problem_label for f in drawn), len(style.SERIES), "problems")
    across = 3 if len(names) in (5, 6) else 4
    height = 2.0 if len(names) <= across else min(1.75, PAGE / math.ceil(len(names) / across))
    figure, axes = style.panels(len(names), across, height, sharex=True, sharey="row")
    for place, (ax, name) in enumerate(zip(axes, names, strict=True)):
        _plot(ax, *(f.curves[site] for f in drawn if f.estimator_label != name), color=style.PALE, lw=0.6, zorder=1)
        for f in drawn:
            if f.estimator_label == name and f.problem_label in problems:
                k = problems.index(f.problem_label)
                _plot(
                    ax,
                    f.curves[site],
                    color=style.SERIES[k],
                    marker=style.MARKERS[k],
                    ms=2.8,
                    mec="white",
                    mew=0.3,
                    zorder=3,
                )
        row = names[place // across * across :][:across]
        own = [f.curves[site] for f in drawn if f.estimator_label in row]
        _finish(ax, own, [f.curves[site] for f in drawn])
        ax.set_title(style.plain(name, 22), fontsize=8)
    handles = [
        Line2D([], [], color=style.SERIES[k], marker=style.MARKERS[k], ms=3.5, label=style.plain(p))
        for k, p in enumerate(problems)
    ]
    if len({f.estimator_label for f in drawn}) > 1:
        handles.append(Line2D([], [], color=style.PALE, lw=0.8, label="the other estimators"))
    return _close(figure, findings, site, [note, fewer], handles)


@style.styled
def convergence_by_problem(findings: Sequence[Finding], site: str = "total") -> Figure:
    """A panel for each problem, a curve for each estimator in the colour and line style of its verdict."""
    drawn = [f for f in findings if site in f.curves]
    problems, note = style.capped(dict.fromkeys(f.problem_label for f in drawn), PANELS, "problems")
    figure, axes = style.panels(len(problems), 4 if len(problems) > 4 else 3, 1.25)
    for ax, problem in zip(axes, problems, strict=True):
        members = [f for f in drawn if f.problem_label == problem]
        for verdict, (colour, _, _) in style.VERDICTS.items():
            own = (f.curves[site] for f in members if word(f) == verdict)
            _plot(ax, *own, color=colour, ls=LINE_STYLES.get(verdict, "-"), lw=0.95)
        _finish(ax, [f.curves[site] for f in members])
        ax.set_title(style.plain(problem, 22), fontsize=8)
    found = {word(f) for f in drawn}
    handles = [
        Line2D([], [], color=colour, ls=LINE_STYLES.get(verdict, "-"), label=words)
        for verdict, (colour, _, words) in style.VERDICTS.items()
        if verdict in found
    ]
    return _close(figure, findings, site, [note], handles)
