"""The look that all figures share: rc settings, palette, panels, axes, and notes about what is not shown."""

from __future__ import annotations

import functools
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from estimator_lab.report.rounding import count, power_of_ten, rounded

if TYPE_CHECKING:
    from matplotlib.axis import Axis

WIDTH = 6.3  # inches: the width of the text on the page, so that font sizes are true
LINES = 24  # most estimators on an axis or in a legend

INK, MUTED, GRID, PALE = "#1b1f24", "#5b6470", "#d9dde3", "#c4cad2"
VERDICTS: Mapping[str, tuple[str, str, str]] = {  # colour, marker, and the word of the tables
    "unbiased within": ("#1f5f8b", "o", "within"),
    "exact": ("#1f5f8b", "s", "exact"),
    "undecided": ("#8a6d1a", "D", "undecided"),
    "biased": ("#c0561f", "^", "biased"),
    "biased beyond": ("#a3261f", "^", "beyond"),
}
SERIES = ("#1f3a5f", "#c77c11", "#2f8f83", "#a8322d", "#7a5ea8", "#5b8ec4", "#8a6d3b", "#3c3f45")  # after Okabe, Ito
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLE: Any = {  # rc settings
    "font.family": ["STIXGeneral", "DejaVu Sans"],
    "mathtext.fontset": "stix",
    "font.size": 8.5,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8.5,
    "legend.fontsize": 8,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.6,
    "axes.labelcolor": INK,
    "text.color": INK,
    **{f"{axis}tick.labelsize": 7.8 for axis in "xy"},
    **{f"{axis}tick.color": INK for axis in "xy"},
    **{f"{axis}tick.major.width": 0.6 for axis in "xy"},
    **{f"{axis}tick.major.size": 3 for axis in "xy"},
    "grid.color": GRID,
    "grid.linewidth": 0.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "legend.frameon": False,
    "legend.columnspacing": 1.2,
    "legend.handletextpad": 0.4,
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


def shortened(label: str, most: int) -> str:
    """A label of at most `most` characters, both ends kept."""
    half = most // 2
    return label if len(label) <= most else f"{label[: most - half - 1]}…{label[-half:]}"


def plain(label: str, most: int = 30) -> str:
    """A label that matplotlib draws as it stands: no mathtext, at most `most` characters."""
    label = shortened(label, most)
    return ("\u200a" + label if label.startswith("_") else label).replace("$", r"\$")


def panel(ax: Axes | None, width: float, height: float) -> Axes:
    """The axes given, or those of a new figure of that size in inches."""
    return ax if ax is not None else Figure(figsize=(width, height), layout="constrained").add_subplot()


def panels(number: int, across: int, height: float, **kwargs: Any) -> tuple[Figure, list[Axes]]:
    """A figure of so many panels, at most `across` beside each other; the last row's empty places are blank."""
    across = min(across, number)
    down = math.ceil(number / across)
    figure = Figure(figsize=(WIDTH, height * down + 0.35), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False, **kwargs).ravel().tolist()
    for ax in axes[number:]:
        ax.set_visible(False)
    for ax in axes[max(0, number - across) : number]:
        ax.tick_params(labelbottom=True)
    return figure, axes[:number]


def noted(label: str, notes: Iterable[str], width: float = WIDTH) -> str:
    """An axis label with the notes that a reader must see under it, wrapped to a width in inches."""
    lines = [line for note in notes if note for line in textwrap.wrap(note, int(width * 17))]
    return "\n".join(filter(None, [label, *lines]))


def absent(reason: str, names: Iterable[str], most: int = 8) -> str:
    """The note that names what a figure cannot show, "" when there is nothing."""
    found = [plain(n, 40) for n in names]
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return f"{reason}: {', '.join(found[:most])}{more}" if found else ""


def positive(value: float) -> bool:
    """Whether a logarithmic axis has a place for the value."""
    return math.isfinite(value) and value > 0


def log_limits(values: Iterable[float]) -> tuple[float, float] | None:
    """Limits that hold all positive finite values with some room; None where there is none."""
    usable = [math.log10(v) for v in values if positive(v)]
    if not usable:
        return None
    low, high = min(usable), max(usable)
    pad = max(0.08 * (high - low), 0.12)
    return 10 ** (low - pad), 10 ** (high + pad)


def _decades(value: float, _: object = None) -> str:
    exponent = math.log10(value) if value > 0 else math.nan
    whole = math.isclose(exponent, round(exponent), abs_tol=1e-9) if value > 0 else False
    return power_of_ten(round(exponent)) if whole else ""


def logarithmic(ax: Axes, which: str, limits: tuple[float, float]) -> None:
    """A log axis within the limits; two to five labels, whatever the range."""
    axis: Axis = ax.xaxis if which == "x" else ax.yaxis
    (ax.set_xscale if which == "x" else ax.set_yscale)("log")
    (ax.set_xlim if which == "x" else ax.set_ylim)(limits)
    decades = math.log10(limits[1] / limits[0])
    if decades < 2:  # few powers of ten in sight: label others as well
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 1.2 else (1.0, 3.0)))
        axis.set_major_formatter(FuncFormatter(lambda v, _: rounded(float(v), most=2)))
    else:
        axis.set_major_locator(LogLocator(numticks=6))
        axis.set_major_formatter(FuncFormatter(_decades))
    axis.set_minor_locator(NullLocator())


def ends(ax: Axes, low: float, high: float) -> None:
    """A logarithmic x axis of counts, labelled at its two ends only."""
    ax.set_xscale("log")
    ax.set_xlim(low / 1.15, high * 1.15)
    ax.xaxis.set_major_locator(FixedLocator(sorted({low, high})))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: count(v)))


def named_lines(ax: Axes, names: Iterable[str], fontsize: float = 7.8) -> None:
    """One name for each line, from top to bottom, without axis or grid."""
    labels = [plain(n) for n in names]
    ax.set_yticks(range(len(labels)), labels, fontsize=fontsize)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)


def say(ax: Axes, words: str) -> None:
    """Words in the middle of empty axes."""
    ax.text(0.5, 0.5, words, transform=ax.transAxes, ha="center", va="center", color=MUTED)


def verdict_keys(verdicts: Iterable[str], **line: Any) -> list[Line2D]:
    """Legend entries for the verdicts that occur, in the order of the table."""
    found = set(verdicts)
    return [
        Line2D([], [], color=colour, marker=marker, mfc=face(verdict), mec=colour, ms=4.5, label=word, **line)
        for verdict, (colour, marker, word) in VERDICTS.items()
        if verdict in found
    ]


def face(verdict: str) -> str:
    """The fill of a verdict's marker: its colour where a bias was found."""
    return VERDICTS[verdict][0] if verdict.startswith("biased") else "white"


def key_above(ax: Axes, handles: list[Line2D]) -> None:
    """A legend in one line above the axes."""
    ax.legend(handles=handles, ncols=6, loc="lower left", bbox_to_anchor=(-0.01, 1.0), borderaxespad=0.1)
