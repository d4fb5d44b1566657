"""The figures of a report, each a function of findings.

A figure with one panel takes `ax=None` and returns the Axes; one with several panels returns the Figure. Nothing is
shown, `matplotlib.pyplot` is never imported and the global rcParams stay as they are. Relative biases are drawn on a
scale that is linear from zero to the margin and logarithmic beyond it, so a zero has a place on it; a point that a
truly logarithmic axis cannot show is named in a note under that axis, and so is what exceeds a limit on panels or rows.
Colours: Okabe and Ito's set, darkened; every colour comes with a marker, a line style or a word.
"""

from __future__ import annotations

import functools
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator
from numpy.typing import NDArray

from estimator_lab.report.rounding import power_of_ten, rounded

if TYPE_CHECKING:
    from estimator_lab.finding import Finding, Row
    from estimator_lab.statistics import Estimate

WIDTH = 6.3  # inches: the width of the text on the page, so that font sizes are true
PANELS = 12  # most panels in a figure
LINES = 24  # most estimators on an axis or in a legend
COLUMNS = 60  # most groups across a heat map
UNITS = 96  # most units, and most examples, in a map of a site

INK, MUTED, GRID = "#1b1f24", "#5b6470", "#d9dde3"
VERDICTS: Mapping[str, tuple[str, str, str]] = {  # colour, marker, and the word of the tables
    "unbiased within": ("#1f5f8b", "o", "within"),
    "exact": ("#1f5f8b", "s", "exact"),
    "undecided": ("#8a6d1a", "D", "undecided"),
    "biased": ("#c0561f", "^", "biased"),
    "biased beyond": ("#a3261f", "^", "beyond"),
}
SERIES = ("#1f3a5f", "#c77c11", "#2f8f83", "#a8322d", "#7a5ea8", "#5b8ec4", "#8a6d3b", "#3c3f45")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
EN = "\u2002"  # SVG collapses plain spaces
STYLE: Any = {  # rc settings
    "font.family": ["STIXGeneral", "DejaVu Sans"],
    "mathtext.fontset": "stix",
    "font.size": 8.5,
    "axes.titlesize": 8.8,
    "axes.labelsize": 8.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.6,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "xtick.minor.size": 1.6,
    "ytick.minor.size": 1.6,
    "grid.color": GRID,
    "grid.linewidth": 0.5,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "svg.fonttype": "none",
    "svg.hashsalt": "estimator-lab",
}

P = ParamSpec("P")
T = TypeVar("T")


def styled(draw: Callable[P, T]) -> Callable[P, T]:
    """`draw` under the report's style; the caller's rcParams are as before when it returns."""

    @functools.wraps(draw)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        with matplotlib.rc_context(dict(STYLE)):
            return draw(*args, **kwargs)

    return wrapped


class Shown(NamedTuple):
    """What fits under a limit, and the note about what does not ("" when all of it fits)."""

    items: list[Any]
    note: str


def capped(items: Iterable[Any], limit: int, noun: str) -> Shown:
    """The first `limit` items, and a note that counts the others."""
    everything = list(items)
    left = len(everything) - limit
    return Shown(everything[:limit], f"{left} of {len(everything)} {noun} left out" if left > 0 else "")


def plain(label: str, most: int = 30) -> str:
    """A label that matplotlib draws as it stands: no mathtext, at most `most` characters."""
    label = label if len(label) <= most else label[: most - 1] + "…"
    return ("\u200a" + label if label.startswith("_") else label).replace("$", r"\$")


def groups(finding: Finding) -> list[Row]:
    """The tested rows of a finding, or all of them when none is tested."""
    return [r for r in finding.rows if r.tested] or list(finding.rows)


def total(finding: Finding) -> Row | None:
    """The row of all coordinates together; the last row where there is none."""
    return next((r for r in finding.rows if r.level == "total"), finding.rows[-1] if finding.rows else None)


def word(finding: Finding) -> str:
    """The finding's verdict with the detail of its groups: "exact" and "biased beyond" where all, or one, are."""
    words = [r.verdict for r in groups(finding)]
    if finding.verdict == "biased" and "biased beyond" in words:
        return "biased beyond"
    if finding.verdict == "unbiased within" and set(words) == {"exact"}:
        return "exact"
    return finding.verdict


def shows_bias(row: Row) -> bool:
    """Whether a bias was found, even one inside the margin."""
    return row.verdict.startswith("biased") or (row.low > 0 and row.verdict != "exact")


def detectable(row: Row) -> float:
    """The smallest relative bias that would have been found; 0 where no noise could hide any."""
    return 0.0 if estimate(row, "variance")[0] == 0 else row.detectable


def group_name(row: Row) -> str:
    """`h1` for the units of a site, `h1 weights` for the weights that feed it."""
    return f"{row.name} weights" if row.level == "layer" and row.name not in ("loss", "weights") else row.name


def estimate(row: Row | None, key: str) -> tuple[float, float, float]:
    """Value and interval of a statistic; nan where the row does not have it."""
    found: Estimate | None = None if row is None else row.statistics.get(key)
    return (math.nan, math.nan, math.nan) if found is None else (found.value, found.low, found.high)


def relative_variance(row: Row | None) -> tuple[float, float, float]:
    """The relative variance tr Σ / ‖g‖² of one replicate, with its interval.

    ‖g‖ is read off bias and relative bias: off the values, or off the upper ends where the bias is zero.
    """
    variance, low, high = estimate(row, "variance")
    if variance == 0:
        return 0.0, 0.0, 0.0
    pairs = zip(estimate(row, "bias"), estimate(row, "relative_bias"), strict=True)
    norm = next((b / r for b, r in pairs if 0 < b < math.inf and 0 < r < math.inf), math.nan)
    square = norm * norm
    return variance / square, low / square, high / square


def signal_to_noise(row: Row | None) -> tuple[float, float, float]:
    """SNR of one replicate with its interval; infinite where there is no variance."""
    if estimate(row, "variance")[0] == 0:
        return math.inf, math.inf, math.inf
    return estimate(row, "snr")


def decibel(ratio: float) -> float:
    """10 log₁₀ of a ratio; -inf at zero and below."""
    return 10 * math.log10(ratio) if ratio > 0 else (math.nan if math.isnan(ratio) else -math.inf)


def _axes(ax: Axes | None, width: float, height: float) -> Axes:
    if ax is not None:
        return ax
    panel: Axes = Figure(figsize=(width, height), layout="constrained").subplots()
    return panel


def _grid(count: int, across: int, height: float, **kwargs: Any) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels, at most `across` beside each other; the last row's empty places are blank."""
    across = min(across, count)
    down = math.ceil(count / across)
    figure = Figure(figsize=(WIDTH, height * down + 0.35), layout="constrained")
    axes = np.atleast_1d(figure.subplots(down, across, squeeze=False, **kwargs)).ravel().tolist()
    for ax in axes[count:]:
        ax.set_visible(False)
    for ax in axes[max(0, count - across) : count]:
        ax.tick_params(labelbottom=True)
    return figure, axes[:count]


def _note(label: str, notes: Iterable[str], width: float) -> str:
    """An axis label with the notes that a reader must see under it."""
    lines = [line for note in notes if note for line in textwrap.wrap(note, int(width * 17))]
    return "\n".join([label, *lines])


def _decades(value: float, _: object = None) -> str:
    if value <= 0:
        return ""
    exponent = math.log10(value)
    return power_of_ten(round(exponent)) if math.isclose(exponent, round(exponent), abs_tol=1e-9) else ""


def _logarithmic(ax: Axes, which: str) -> None:
    """A log axis with powers of ten in the text's own font; two to five labels, whatever the range."""
    (ax.set_xscale if which == "x" else ax.set_yscale)("log")
    axis, limits = (ax.xaxis, ax.get_xlim()) if which == "x" else (ax.yaxis, ax.get_ylim())
    low, high = min(limits), max(limits)
    decades = math.log10(high / low)
    if decades < 2:  # few powers of ten in sight: label others as well
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 1.2 else (1.0, 3.0)))
        axis.set_major_formatter(FuncFormatter(lambda v, _: rounded(float(v), most=2)))
    else:
        axis.set_major_locator(LogLocator(numticks=6))
        axis.set_major_formatter(FuncFormatter(_decades))
    axis.set_minor_formatter(NullFormatter())


def _log_limits(values: Iterable[float], room: float = 0.08) -> tuple[float, float] | None:
    """Limits that hold all positive finite values with some room; None where there is none."""
    usable = [math.log10(v) for v in values if math.isfinite(v) and v > 0]
    if not usable:
        return None
    low, high = min(usable), max(usable)
    pad = max(room * (high - low), 0.12)
    return 10 ** (low - pad), 10 ** (high + pad)


def _bias_scale(ax: Axes, top: float, margin: float) -> None:
    """The x axis of relative biases: linear up to the margin, logarithmic beyond, in per cent."""
    ax.axvspan(0, margin, color="#e9f1f7", lw=0, zorder=0)
    ax.axvline(0, color=INK, lw=0.7, zorder=1)
    per_cent = FuncFormatter(lambda v, _: rounded(100 * float(v), most=2))
    if top <= 2 * margin:  # nothing beyond: the linear part is all there is
        ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        ax.xaxis.set_major_formatter(per_cent)
        ax.set_xlim(-0.02 * margin, 1.06 * max(top, 1.1 * margin))
        return
    decades = max(1, math.ceil(math.log10(top / margin) - 1e-9))
    every = math.ceil((decades + 1) / 5)
    beyond = (
        [margin * 10**k for k in range(0, decades + 1, every)]
        if top > 10 * margin
        else [margin, 2 * margin, 4 * margin, 8 * margin]
    )
    ax.set_xscale("symlog", linthresh=margin, linscale=1.0)
    ax.xaxis.set_major_locator(FixedLocator([0.0, *beyond]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(per_cent)
    ax.set_xlim(-0.05 * margin, max(1.25 * top, 2 * margin))


def _top(rows: Iterable[Row]) -> float:
    ends = [v for r in rows for v in (estimate(r, "relative_bias")[0], r.high)]
    return min(max((v for v in ends if math.isfinite(v)), default=0.0), 1e6)


def _forest(ax: Axes, rows: Sequence[Row | None], margin: float, top: float) -> None:
    """Relative biases of rows from top to bottom, each with its interval and its verdict's marker."""
    for y, row in enumerate(rows):
        if row is None:
            ax.text(0.03, y, "no such group", transform=ax.get_yaxis_transform(), va="center", fontsize=7, color=MUTED)
            continue
        value, low, high = estimate(row, "relative_bias")[0], row.low, row.high
        floor = estimate(row, "noise_floor")[0]
        colour, marker, _ = VERDICTS.get(row.verdict, VERDICTS["undecided"])
        if not math.isfinite(value):
            text = f"not estimable ({row.verdict})"
            ax.text(0.03, y, text, transform=ax.get_yaxis_transform(), va="center", fontsize=7, color=MUTED)
            continue
        if math.isfinite(floor) and floor > 0:
            ax.plot(min(floor, top * 1.2), y, "|", color="#8b939e", ms=7, mew=1.0, zorder=2)
        if math.isfinite(low):
            ax.hlines(
                y, max(0.0, low), min(high, 2e6) if not math.isnan(high) else value, color=colour, lw=1.4, zorder=3
            )
        face = colour if shows_bias(row) else "white"
        ax.plot(
            min(value, top), y, marker, color=colour, mfc=face, mec=colour, mew=1.0, ms=4.5, zorder=4, clip_on=False
        )
    _bias_scale(ax, top, margin)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)


def _key(rows: Iterable[Row | None], floor: bool = True) -> list[Line2D]:
    """Legend entries for the verdicts that occur."""
    found = {r.verdict for r in rows if r is not None}
    handles = []
    for verdict, (colour, marker, word) in VERDICTS.items():
        if verdict in found:
            face = colour if verdict.startswith("biased") else "white"
            handles.append(
                Line2D([], [], color=colour, marker=marker, mfc=face, mec=colour, ms=4.5, lw=1.4, label=word)
            )
    if floor and any(estimate(r, "noise_floor")[0] > 0 for r in rows):
        handles.append(Line2D([], [], color="#8b939e", marker="|", ls="", ms=7, mew=1.0, label="noise floor"))
    return handles


@styled
def bias(finding: Finding, ax: Axes | None = None, margin: float = 0.05) -> Axes:
    """Relative bias of every tested group of one finding, with intervals; groups from top to bottom."""
    rows, note = capped(groups(finding), LINES, "groups")
    ax = _axes(ax, WIDTH, 0.24 * max(len(rows), 2) + 0.95)
    _forest(ax, rows, margin, _top(rows))
    ax.set_yticks(range(len(rows)), [plain(group_name(r)) for r in rows])
    ax.set_xlabel(_note("relative bias (%)", [note], WIDTH - 1))
    ax.legend(
        handles=_key(rows), ncols=5, loc="lower left", bbox_to_anchor=(-0.01, 1.0), borderaxespad=0.1, columnspacing=1.2
    )
    return ax


@styled
def bias_by_group(findings: Sequence[Finding], margin: float = 0.05, panels: int = 8) -> Figure:
    """Relative biases of several estimators on one problem: a panel for each group, a line for each estimator."""
    names, left_panels = capped(dict.fromkeys(group_name(r) for f in findings for r in groups(f)), panels, "groups")
    lines, left_lines = capped(findings, LINES, "estimators")
    table = {n: [next((r for r in groups(f) if group_name(r) == n), None) for f in lines] for n in names}
    across = len(names) if len(names) <= 5 else min(4, math.ceil(len(names) / 2))
    figure, axes = _grid(len(names), across, (0.148 if len(lines) > 7 else 0.2) * len(lines) + 0.5, sharey=True)
    present = [r for rows in table.values() for r in rows if r is not None]
    for ax, name in zip(axes, names, strict=True):
        _forest(ax, table[name], margin, _top(present))
        ax.set_title(plain(name, 24))
        ax.set_yticks(range(len(lines)), [plain(f.estimator_label, 26) for f in lines], fontsize=7.5)
    figure.supxlabel(_note("relative bias (%)", [left_panels, left_lines], WIDTH), fontsize=8.5)
    figure.legend(handles=_key(present), loc="outside upper center", ncols=6, columnspacing=1.2, handlelength=1.6)
    return figure


def _curve(ax: Axes, finding: Finding, site: str, **style: Any) -> tuple[list[float], bool]:
    """Draw one curve with its band; returns its positive errors and whether some were not positive."""
    curve = finding.curves[site]
    n, error, low, high = (np.asarray(v, dtype=float) for v in (curve.n, curve.error, curve.low, curve.high))
    shown = np.isfinite(error) & (error > 0) & (n > 0)
    if shown.any():
        positive = np.where(np.isfinite(low) & (low > 0), low, error)
        upper = np.where(np.isfinite(high), high, error)
        if style.pop("band", True):
            ax.fill_between(n[shown], positive[shown], upper[shown], color=style["color"], alpha=0.16, lw=0)
        ax.plot(n[shown], error[shown], **style)
    return [float(e) for e in error[shown]], not bool(shown.all())


SLOPE: Mapping[str, Any] = {"color": MUTED, "lw": 0.8, "ls": (0, (4, 3)), "label": "slope −½"}


def _slope(ax: Axes, n: Sequence[float], top: float) -> None:
    """The reference of slope -1/2, just above the largest error."""
    ends = np.array([min(n), max(n)], dtype=float)
    ax.plot(ends, 1.7 * top * np.sqrt(ends[0] / ends), zorder=1, **SLOPE)


def _sites(finding: Finding) -> list[str]:
    return sorted(finding.curves, key=lambda s: s != "total")


def _starts(findings: Iterable[Finding], site: str | None = None) -> tuple[list[float], float]:
    """All n of the curves to be drawn, and the largest first error."""
    curves = [c for f in findings for s, c in f.curves.items() if site in (None, s)]
    first = [c.error[0] for c in curves if c.error and math.isfinite(c.error[0])]
    return [float(n) for c in curves for n in c.n if n > 0], max(first, default=math.nan)


def _finish_convergence(ax: Axes, findings: Sequence[Finding], site: str | None) -> None:
    n, top = _starts(findings, site)
    if n and top > 0 and max(n) > min(n):
        _slope(ax, n, top)
    _logarithmic(ax, "x")
    _logarithmic(ax, "y")
    if not ax.lines:
        ax.text(0.5, 0.5, "no error to show", transform=ax.transAxes, ha="center", color=MUTED)


@styled
def convergence(finding: Finding, ax: Axes | None = None) -> Axes:
    """Relative error of the mean of n replicates against n, a curve for each site, with the slope -1/2 as reference."""
    ax = _axes(ax, WIDTH, 2.5)
    sites, note = capped(_sites(finding), len(SERIES), "curves")
    zero = []
    for k, site in enumerate(sites):
        label = "all weights" if site == "total" else plain(site)
        _, some = _curve(
            ax,
            finding,
            site,
            color=SERIES[k],
            marker=MARKERS[k % len(MARKERS)],
            ms=3.5,
            mec="white",
            mew=0.3,
            label=label,
        )
        zero += [label] if some else []
    _finish_convergence(ax, [finding], None)
    notes = [f"not on the logarithmic axis, error zero or not finite: {', '.join(zero)}" if zero else "", note]
    ax.set_xlabel(_note("replicates averaged, n", notes, WIDTH - 1))
    ax.set_ylabel("relative error of the mean")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return ax


@styled
def convergence_by_estimator(findings: Sequence[Finding], site: str = "total") -> Figure:
    """A panel for each estimator, a curve for each problem; every other estimator's curves in grey behind them."""
    labels = dict.fromkeys(f.estimator_label for f in findings)
    names, note = capped(labels, PANELS, "estimators")
    problems, fewer = capped(dict.fromkeys(f.problem_label for f in findings), len(SERIES), "problems")
    across = 3 if len(names) in (5, 6) else min(4, len(names))
    figure, axes = _grid(len(names), across, 1.12 if len(names) > 4 else 2.0, sharex=True, sharey=True)
    zero: dict[str, None] = {}
    for ax, name in zip(axes, names, strict=True):
        for f in findings:
            if f.estimator_label != name and site in f.curves:
                _curve(ax, f, site, color="#c4cad2", lw=0.6, band=False, zorder=1)
        for f in findings:
            if f.estimator_label == name and site in f.curves and f.problem_label in problems:
                k = problems.index(f.problem_label)
                _, some = _curve(
                    ax, f, site, color=SERIES[k], marker=MARKERS[k], ms=2.8, markevery=2, mec="white", mew=0.3, zorder=3
                )
                if some:
                    zero[f"{name} on {f.problem_label}"] = None
        ax.set_title(plain(name, 24), fontsize=8.3)
    for ax in axes:
        _finish_convergence(ax, findings, site)
    figure.supxlabel(_note("replicates averaged, n", [_zero_note(zero), note, fewer], WIDTH), fontsize=8.5)
    figure.supylabel("relative error of the mean", fontsize=8.5)
    handles = [
        Line2D([], [], color=SERIES[k], marker=MARKERS[k], ms=3.5, label=plain(p)) for k, p in enumerate(problems)
    ]
    handles += [Line2D([], [], color="#c4cad2", lw=0.8, label="the other estimators"), Line2D([], [], **SLOPE)]
    figure.legend(handles=handles, loc="outside upper center", ncols=4)
    return figure


def _zero_note(names: Iterable[str]) -> str:
    found = list(names)
    if not found:
        return ""
    more = f" and {len(found) - 6} more" if len(found) > 6 else ""
    return f"not on the logarithmic axis, error zero or not finite: {', '.join(plain(n, 40) for n in found[:6])}{more}"


LINE_STYLES: Mapping[str, Any] = {
    "unbiased within": "-",
    "exact": "-",
    "undecided": (0, (1, 1)),
    "biased": (0, (5, 1.5)),
    "biased beyond": (0, (5, 1.5)),
}


@styled
def convergence_by_problem(findings: Sequence[Finding], site: str = "total") -> Figure:
    """A panel for each problem, a curve for each estimator in the colour and line style of its verdict."""
    problems, note = capped(dict.fromkeys(f.problem_label for f in findings), PANELS, "problems")
    figure, axes = _grid(len(problems), 4 if len(problems) > 4 else min(3, len(problems)), 1.12)
    zero: dict[str, None] = {}
    for ax, problem in zip(axes, problems, strict=True):
        members = [f for f in findings if f.problem_label == problem and site in f.curves]
        for f in members:
            colour = VERDICTS.get(word(f), VERDICTS["undecided"])[0]
            style = LINE_STYLES.get(word(f), "-")
            if _curve(ax, f, site, color=colour, ls=style, lw=0.95, band=False)[1]:
                zero[f"{f.estimator_label} on {problem}"] = None
        _finish_convergence(ax, members, site)
        ax.set_title(plain(problem, 24), fontsize=8.3)
    figure.supxlabel(_note("replicates averaged, n", [_zero_note(zero), note], WIDTH), fontsize=8.5)
    figure.supylabel("relative error of the mean", fontsize=8.5)
    found = {word(f) for f in findings}
    handles = [
        Line2D([], [], color=colour, ls=LINE_STYLES[verdict], label=word)
        for verdict, (colour, _, word) in VERDICTS.items()
        if verdict in found
    ]
    handles.append(Line2D([], [], **SLOPE))
    figure.legend(handles=handles, loc="outside upper center", ncols=6)
    return figure


def _columns(findings: Sequence[Finding]) -> list[tuple[str, str]]:
    """Pairs (problem label, group) in the order of the findings."""
    return list(dict.fromkeys((f.problem_label, group_name(r)) for f in findings for r in groups(f)))


def _bias_shade(value: float, margin: float) -> float:
    """0 at a tenth of the margin and below, 1 at a hundred margins: three decades, the margin after the first."""
    return min(1.0, max(0.0, (math.log10(max(value, margin / 10) / margin) + 1) / 3))


BIAS_MAP = LinearSegmentedColormap.from_list(
    "relative bias",
    [(0.0, "#f4f7fa"), (1 / 3, "#d3e2ee"), (1 / 3 + 1e-6, "#f9dfc8"), (0.6, "#dd8a52"), (1.0, "#7d1d17")],
)
BIAS_SIGN = LinearSegmentedColormap.from_list("standardised bias", ["#1f5f8b", "#f5f6f7", "#b5461c"])
SNR_MAP = LinearSegmentedColormap.from_list("signal to noise", ["#f3f5f8", "#8fb0cb", "#1f3a5f"])


@styled
def heat(
    findings: Sequence[Finding], statistic: str = "relative_bias", ax: Axes | None = None, margin: float = 0.05
) -> Axes:
    """A statistic of every estimator (down) and group of every problem (across).

    `statistic` is "relative_bias" (in per cent; the colour changes at the margin) or "snr" (in dB, of one replicate).
    """
    names, fewer_lines = capped(dict.fromkeys(f.estimator_label for f in findings), LINES, "estimators")
    columns, fewer = capped(_columns(findings), COLUMNS, "groups")
    width = WIDTH if len(columns) > 9 else WIDTH / 2
    ax = _axes(ax, width, 0.19 * len(names) + 1.1)
    values = {
        (f.estimator_label, f.problem_label, group_name(r)): (
            100 * estimate(r, statistic)[0] if statistic == "relative_bias" else decibel(signal_to_noise(r)[0])
        )
        for f in findings
        for r in groups(f)
    }
    table = np.array([[values.get((n, *c), math.nan) for c in columns] for n in names], dtype=float)
    known = np.array([[(n, *c) in values for c in columns] for n in names])
    if statistic == "relative_bias":
        shade = np.vectorize(lambda v: math.nan if math.isnan(v) else _bias_shade(v / 100, margin))(table)
        colours, low, high = BIAS_MAP, 0.0, 1.0
    else:
        finite = table[np.isfinite(table)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        high = high if high > low else low + 1
        shade, colours = np.clip(table, low, high), SNR_MAP
    image = ax.pcolormesh(
        np.ma.masked_invalid(shade), cmap=colours, vmin=low, vmax=high, edgecolors="white", linewidth=0.6
    )
    ax.set_facecolor("#ffffff")
    annotated = len(columns) <= 14
    for i, j in np.ndindex(table.shape):
        value = table[i, j]
        if not known[i, j] or math.isnan(value):
            text, ink = ("" if not known[i, j] else "nan"), MUTED
            ax.plot(j + 0.5, i + 0.5, marker="." if not known[i, j] else "x", color="#b9c0c9", ms=2)
        else:
            red, green, blue = to_rgb(colours((float(shade[i, j]) - low) / (high - low)))
            ink = "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.55 else INK
            text = (
                rounded(float(value), most=3 if abs(value) >= 100 else 2)
                if math.isfinite(value)
                else ("∞" if value > 0 else "<0")
            )
        if annotated and text and text != "nan":
            ax.text(j + 0.5, i + 0.5, text, ha="center", va="center", fontsize=7, color=ink)
    ax.set_ylim(len(names), 0)
    ax.set_yticks(np.arange(len(names)) + 0.5, [plain(n, 26) for n in names], fontsize=7.5)
    many = len({c[0] for c in columns}) > 1
    turn = 90 if len(columns) > 14 or max((len(c[1]) for c in columns), default=0) > 44 // max(len(columns), 1) else 0
    ax.set_xticks(
        np.arange(len(columns)) + 0.5, [plain(c[1], 18) for c in columns], rotation=turn, fontsize=6.8 if turn else 7.5
    )
    if many:
        starts = [j for j in range(len(columns)) if j == 0 or columns[j][0] != columns[j - 1][0]]
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
    ax.tick_params(length=0)
    ax.grid(False)
    ax.spines[["left", "bottom"]].set_visible(False)
    figure = ax.get_figure(root=True)
    assert figure is not None
    bar = figure.colorbar(image, ax=ax, aspect=16, pad=0.015, shrink=0.92, fraction=0.05)
    bar.outline.set(visible=False)
    bar.ax.tick_params(labelsize=7)
    if statistic == "relative_bias":
        ticks = [margin / 10, margin, 10 * margin, 100 * margin]
        words = [rounded(100 * t, most=2) for t in ticks]
        bar.set_ticks([0, 1 / 3, 2 / 3, 1], labels=[f"≤ {words[0]}", *words[1:3], f"≥ {words[3]}"])
    note = _note("", [fewer_lines, fewer], width).strip()
    if note:
        ax.set_xlabel(note)
    return ax


@styled
def heat_maps(findings: Sequence[Finding], margin: float = 0.05) -> Figure:
    """Two heat maps: relative bias and signal-to-noise ratio of one replicate, by estimator and group."""
    columns = min(len(_columns(findings)), COLUMNS)
    names = min(len({f.estimator_label for f in findings}), LINES)
    beside = columns <= 7
    crowded = columns > 14
    height = 0.145 * names + 1.4 if crowded else 0.165 * names + 0.8
    figure = Figure(figsize=(WIDTH, height if beside else 2 * height), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True) if beside else figure.subplots(2, 1)
    for ax, key, title in zip(axes, ("relative_bias", "snr"), ("a", "b"), strict=True):
        heat(findings, key, ax, margin)
        words = f"{title}{EN}" + ("relative bias (%)" if key == "relative_bias" else "signal-to-noise ratio (dB)")
        ax.set_title(words, pad=4 if len({c[0] for c in _columns(findings)}) == 1 else (52 if crowded else 18))
    return figure


def standardised(finding: Finding, site: str) -> NDArray[np.float64]:
    """Standardised bias (mean - truth) / standard error, shape [units, examples]; nan where both are zero."""
    m = finding.units[site]
    mean, error, truth = (np.asarray(a, dtype=float) for a in (m.mean, m.standard_error, m.truth))
    difference = mean - truth
    size = float(np.abs(truth).max(initial=0.0))
    difference = np.where(np.abs(difference) <= 1e-12 * size, 0.0, difference)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = difference / error
    table: NDArray[np.float64] = t.reshape(t.shape[0], -1).T if t.ndim > 1 else t.reshape(1, -1)
    return table


def strongest(maps: Sequence[NDArray[np.float64]], most: int = UNITS) -> NDArray[np.intp]:
    """The rows to show of maps of equal height: all, or in their order the `most` with the largest |t| in any map."""
    height = maps[0].shape[0]
    if height <= most:
        return np.arange(height)
    peak = np.max([np.nan_to_num(np.abs(t), nan=0.0, posinf=1e300).max(1) for t in maps], axis=0)
    return np.sort(np.argsort(-peak, kind="stable")[:most])


@styled
def units(
    finding: Finding, site: str, ax: Axes | None = None, limit: float = 6.0, rows: NDArray[np.intp] | None = None
) -> Axes:
    """Standardised bias of every unit (down) and example (across) of a site; the scale ends at ± `limit`.

    Of more than `UNITS` units those with the largest |t| are shown, or `rows` where given.
    """
    t = standardised(finding, site)
    rows = strongest([t]) if rows is None else rows
    notes = [
        (
            f"{t.shape[0] - len(rows)} of {t.shape[0]} units left out: the largest |t| are shown"
            if len(rows) < t.shape[0]
            else ""
        ),
        f"{t.shape[1] - UNITS} of {t.shape[1]} examples left out" if t.shape[1] > UNITS else "",
    ]
    shown = t[rows][:, :UNITS]
    down, across = shown.shape
    alone = ax is None
    ax = _axes(ax, WIDTH / 2, min(0.16 * down + 0.9, 4.0))
    sharp = np.kron(np.clip(shown, -limit, limit), np.ones((8, 8)))  # a multiple of the cells, or viewers blur them
    ax.imshow(
        np.ma.masked_invalid(sharp),
        cmap=BIAS_SIGN,
        vmin=-limit,
        vmax=limit,
        extent=(0, across, down, 0),
        aspect="auto",
        interpolation="none",
    )
    if shown.size <= 300:
        ax.hlines(range(1, down), 0, across, color="white", lw=0.6)
        ax.vlines(range(1, across), 0, down, color="white", lw=0.6)
    for axis, n in ((ax.xaxis, across), (ax.yaxis, down)):
        step = next(k for k in (1, 2, 5, 10, 20, 50) if n / k <= 6)
        ticks = [0, *range(step - 1 if step > 1 else 1, n, step)]
        ticks = [k for k in ticks if k == 0 or k > step / 3]
        axis.set_ticks([k + 0.5 for k in ticks], [str(int(rows[k]) + 1 if axis is ax.yaxis else k + 1) for k in ticks])
    ax.grid(False)
    ax.spines[["top", "right"]].set_visible(True)
    ax.set_xlabel(_note("example", notes, WIDTH / 2 if alone else WIDTH))
    ax.set_ylabel("unit")
    return ax


@styled
def unit_maps(panels: Sequence[tuple[Finding, str, str]], limit: float = 6.0, most: int = 16) -> Figure:
    """Maps of standardised bias: a panel for each triple (finding, site, title), one colour scale for all.

    Maps of one site show the same units.
    """
    shown, note = capped(panels, most, "maps")
    maps: dict[str, list[NDArray[np.float64]]] = {}
    for f, site, _ in shown:
        maps.setdefault(site, []).append(standardised(f, site))
    rows = {site: strongest(each) for site, each in maps.items() if len({t.shape for t in each}) == 1}
    tall = max(min(t.shape[0], UNITS) for each in maps.values() for t in each)
    across = min(4, len(shown)) if len(shown) not in (5, 6) else 3
    alike = len(rows) == 1 == len(maps)
    figure, axes = _grid(len(shown), across, min(max(0.1 * tall + 0.5, 0.85), 1.05), sharey=alike, sharex=alike)
    for ax, (finding, site, title) in zip(axes, shown, strict=True):
        units(finding, site, ax, limit, rows.get(site))
        ax.set_title(plain(title, 21), fontsize=8)
    labels = {ax.get_xlabel() for ax in axes}
    for k, ax in enumerate(axes):
        if k % across:
            ax.set_ylabel("")
        if len(labels) == 1:
            ax.set_xlabel("")
    common = labels.pop() if len(labels) == 1 else ""
    figure.supxlabel(_note(common, [note], WIDTH).strip(), fontsize=8.5)
    down = math.ceil(len(axes) / across)
    bar = figure.colorbar(
        axes[0].images[0], ax=axes, aspect=8 + 6 * down, pad=0.012, shrink=0.9, fraction=0.04, extend="both"
    )
    bar.outline.set(visible=False)
    bar.ax.set_title("t", fontsize=8.5, loc="center")
    bar.ax.tick_params(labelsize=7.5)
    return figure


@styled
def cost(findings: Sequence[Finding], ax: Axes | None = None, per: str = "losses") -> Axes:
    """Relative variance of one replicate (total) against its price, with intervals and lines of equal work.

    `per` is "losses" (evaluations of the loss) or "seconds". A deterministic estimator has no place on the axis of
    variances: it is named in the note.
    """
    alone = ax is None
    shown, note = capped(findings, LINES, "estimators")
    ax = _axes(ax, WIDTH, 2.7)
    absent, xs, ys = [], [], []
    for k, f in enumerate(shown):
        value, low, high = relative_variance(total(f))
        x = f.losses if per == "losses" else 1e6 * f.seconds
        if not (math.isfinite(value) and value > 0 and math.isfinite(x) and x > 0):
            absent.append(plain(f.estimator_label) + (" (zero variance)" if value == 0 else ""))
            continue
        colour, marker = SERIES[k % len(SERIES)], MARKERS[k % len(MARKERS)]
        if math.isfinite(low) and low > 0 and math.isfinite(high):
            ax.vlines(x, low, high, color=colour, lw=1.1)
            ys += [low, high]
        face = colour if word(f).startswith("biased") else "white"
        ax.plot(
            x, value, marker, color=colour, mfc=face, mec=colour, mew=1.1, ms=5.5, ls="", label=plain(f.estimator_label)
        )
        xs.append(x)
        ys.append(value)
    limits_x, limits_y = _log_limits(xs, 0.12), _log_limits(ys)
    if limits_x and limits_y:
        ax.set_xlim(limits_x)
        ax.set_ylim(limits_y)
        for work in np.geomspace(limits_x[0] * limits_y[0], limits_x[1] * limits_y[1], 6)[1:-1]:
            ends = np.array(limits_x)
            ax.plot(ends, work / ends, color=GRID, lw=0.7, ls=(0, (4, 3)), zorder=0)
        _logarithmic(ax, "x")
        _logarithmic(ax, "y")
        ax.set_xlim(limits_x)
        ax.set_ylim(limits_y)
    else:
        ax.text(0.5, 0.5, "no variance to show", transform=ax.transAxes, ha="center", color=MUTED)
    notes = [f"not on these axes: {', '.join(absent)}" if absent else "", note]
    words = "evaluations of the loss per replicate" if per == "losses" else "time per replicate (µs)"
    ax.set_xlabel(_note(words, notes, WIDTH - 2 if alone else WIDTH / 2 - 0.6))
    ax.set_ylabel("relative variance")
    if alone and ax.get_legend_handles_labels()[0]:
        ax.legend(
            loc="center left",
            bbox_to_anchor=(1.01, 0.5),
            labelspacing=0.35,
            handletextpad=0.2,
            ncols=1 if len(shown) <= 14 else 2,
        )
    return ax


@styled
def cost_panels(findings: Sequence[Finding], per: str = "losses", most: int = 4) -> Figure:
    """`cost` for several problems, a panel each, with one legend for all of them."""
    problems, note = capped(dict.fromkeys(f.problem_label for f in findings), most, "problems")
    names = list(dict.fromkeys(f.estimator_label for f in findings))
    figure, axes = _grid(len(problems), 2, 2.5)
    handles: dict[str, Any] = {}
    for ax, problem in zip(axes, problems, strict=True):
        members = {f.estimator_label: f for f in findings if f.problem_label == problem}
        ordered = [members[n] for n in names if n in members]
        cost(ordered, ax, per)
        ax.set_title(plain(problem))
        handles |= {str(label): h for h, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    if note:
        figure.supxlabel(note, fontsize=8.5)
    if handles:
        figure.legend(
            list(handles.values()),
            list(handles),
            loc="outside lower center",
            ncols=4,
            handletextpad=0.2,
            columnspacing=1.0,
        )
    return figure


def _strip(ax: Axes, values: Mapping[str, Sequence[tuple[float, str]]], label: str, width: float, unit: str) -> None:
    """A line for each name, a marker for each (value, verdict), the median as a bar; what is not positive is noted."""
    missing: dict[str, int] = {}
    everything = []
    for y, (name, pairs) in enumerate(values.items()):
        usable = [(v, word) for v, word in pairs if math.isfinite(v) and v > 0]
        if len(usable) < len(pairs):
            missing[name] = len(pairs) - len(usable)
        for v, word in usable:
            colour, marker, _ = VERDICTS.get(word, VERDICTS["undecided"])
            face = colour if word.startswith("biased") else "white"
            ax.plot(v, y, marker, color=colour, mfc=face, mec=colour, mew=0.8, ms=4, zorder=3)
        everything += [v for v, _ in usable]
        if len(usable) > 2:
            middle = float(np.median([v for v, _ in usable]))
            ax.vlines(middle, y - 0.32, y + 0.32, color=INK, lw=1.4, zorder=4)
    limits = _log_limits(everything)
    if limits:
        ax.set_xlim(limits)
        _logarithmic(ax, "x")
        ax.set_xlim(limits)
    else:
        ax.text(
            0.5,
            0.5,
            "nothing to show on a logarithmic axis",
            transform=ax.transAxes,
            ha="center",
            va="center",
            color=MUTED,
        )
    names = [f"{plain(n)} ({k} of {len(values[n])})" if k < len(values[n]) else plain(n) for n, k in missing.items()]
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    note = f"zero or not estimable, so not shown: {', '.join(names[:8])}{more}" if names else ""
    ax.set_xlabel(_note(label, [note, unit], width))
    if limits and limits[0] > 1e-3 and limits[1] < 1e4 and limits[1] / limits[0] > 20:
        ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: rounded(float(v))))
    ax.set_yticks(range(len(values)), [plain(n) for n in values], fontsize=7.8)
    ax.set_ylim(len(values) - 0.4, -0.6)
    ax.hlines(np.arange(0.5, len(values) - 1), 0, 1, transform=ax.get_yaxis_transform(), color=GRID, lw=0.5, zorder=0)
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)


def work(findings: Sequence[Finding]) -> dict[str, list[tuple[float, str]]]:
    """Relative variance times evaluations of the loss, over the least positive one on the same problem."""
    products = {(f.problem, f.estimator_label): relative_variance(total(f))[0] * f.losses for f in findings}
    best: dict[str, float] = {}
    for (problem, _), value in products.items():
        if value > 0:
            best[problem] = min(value, best.get(problem, math.inf))
    table: dict[str, list[tuple[float, str]]] = {}
    for f in findings:
        ratio = products[f.problem, f.estimator_label] / best.get(f.problem, math.nan)
        table.setdefault(f.estimator_label, []).append((ratio, word(f)))
    return table


@styled
def cost_strip(findings: Sequence[Finding], ax: Axes | None = None) -> Axes:
    """Work of each estimator (variance times evaluations of the loss) over the least on the same problem.

    One marker for each problem, the bar is the median; sorted by it.
    """
    table = work(findings)

    def middle(name: str) -> float:
        usable = [v for v, _ in table[name] if math.isfinite(v) and v > 0]
        return float(np.median(usable)) if usable else -1.0

    names, note = capped(sorted(table, key=middle), LINES, "estimators")
    ax = _axes(ax, WIDTH, 0.15 * len(names) + 1.0)
    _strip(
        ax,
        {n: table[n] for n in names},
        "variance × evaluations of the loss, relative to the least on the same problem",
        WIDTH - 1.5,
        note,
    )
    ax.legend(
        handles=[h for h in _verdict_dots(w for pairs in table.values() for _, w in pairs)],
        ncols=5,
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.0),
        borderaxespad=0.1,
        columnspacing=1.0,
        handletextpad=0.1,
    )
    return ax


def _verdict_dots(words: Iterable[str]) -> list[Line2D]:
    found = set(words)
    return [
        Line2D(
            [],
            [],
            color=colour,
            marker=marker,
            ls="",
            mfc=colour if verdict.startswith("biased") else "white",
            mec=colour,
            ms=4.5,
            label=word,
        )
        for verdict, (colour, marker, word) in VERDICTS.items()
        if verdict in found
    ]


@styled
def resolution(findings: Sequence[Finding], ax: Axes | None = None, margin: float = 0.05) -> Axes:
    """The smallest relative bias that would have been found, by estimator (one finding: by group).

    A marker for each tested group, in its verdict's colour; the line is the margin.
    """
    if len(findings) == 1:
        table = {group_name(r): [(100 * detectable(r), r.verdict)] for r in groups(findings[0])}
    else:
        table = {}
        for f in findings:
            table.setdefault(f.estimator_label, []).extend((100 * detectable(r), r.verdict) for r in groups(f))
    names, note = capped(table, LINES, "lines")
    ax = _axes(ax, WIDTH, 0.15 * max(len(names), 2) + 1.0)
    _strip(ax, {n: table[n] for n in names}, "detectable relative bias (%)", WIDTH - 1.5, note)
    low, high = ax.get_xlim()
    if ax.get_xscale() == "log":
        ax.set_xlim(min(low, 70 * margin), max(high, 140 * margin))
        ax.axvline(100 * margin, color=INK, lw=0.8, zorder=1)
    handles = _verdict_dots(w for pairs in table.values() for _, w in pairs)
    handles.append(Line2D([], [], color=INK, lw=0.8, label=f"margin, {rounded(100 * margin)} %"))
    ax.legend(
        handles=handles,
        ncols=6,
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.0),
        borderaxespad=0.1,
        columnspacing=1.0,
        handletextpad=0.3,
    )
    return ax


@styled
def spread(finding: Finding, ax: Axes | None = None) -> Axes:
    """Signal-to-noise ratio (dB) of one replicate in every tested group of one finding, with intervals."""
    rows, note = capped(groups(finding), LINES, "groups")
    ax = _axes(ax, WIDTH, 0.22 * max(len(rows), 2) + 0.75)
    absent = []
    for y, row in enumerate(rows):
        value, low, high = (decibel(v) for v in signal_to_noise(row))
        if not math.isfinite(value):
            absent.append(group_name(row) + (" (no variance)" if value > 0 else ""))
            continue
        left, right = (v if math.isfinite(v) else value for v in (low, high))
        ax.hlines(y, left, right, color=SERIES[0], lw=1.4)
        ax.plot(value, y, "o", color=SERIES[0], mfc="white", mew=1.0, ms=4.5)
        if low == -math.inf:
            ax.plot(value, y, "<", color=SERIES[0], ms=4.5)
    ax.set_yticks(range(len(rows)), [plain(group_name(r)) for r in rows])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.xaxis.set_major_locator(MaxNLocator(6))
    notes = [
        f"not resolved or without variance, so not shown: {', '.join(plain(n) for n in absent)}" if absent else "",
        note,
    ]
    ax.set_xlabel(_note("signal-to-noise ratio of one replicate (dB)", notes, WIDTH - 1))
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}".replace("-", "−")))
    return ax
