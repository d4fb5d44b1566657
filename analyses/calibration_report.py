"""The results of the calibration study as a PDF: a pure function of reports/calibration.json."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from calibration import PAIRS, UNBIASED
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from estimator_lab.estimator import about
from estimator_lab.report.figures import style
from estimator_lab.report.story import Block, table, text
from estimator_lab.report.study import Study, method
from estimator_lab.statistics.estimands import ORDER, clopper_pearson
from estimator_lab.study import ALPHA, MARGIN

CONFIDENCE = 0.98
"""Of the binomial intervals, so that each end has 99 %."""
ALLOWED, BAND, POWER, SAVING = 1.25 * ALPHA, (0.935, 0.965), 0.95, 5.0
RARE = (
    "REINFORCE, rare events",
    "REINFORCE, heavy tail",
    "REINFORCE, infinite variance",
    "REINFORCE, Gaussian polynomial",
)
HOLDS, EXCEPT, OPEN, FAILS = (
    {"text": "holds", "tone": "good"},
    {"text": "holds with exception", "tone": "good"},
    {"text": "too few runs", "tone": "open"},
    {"text": "does not hold", "tone": "bad"},
)
AT_ZERO = "the bias is zero, the end of its range: only the lower end of the interval can miss"
EXCEPTIONS = {
    "bias": AT_ZERO,
    "relative_bias": AT_ZERO,
    "bias_squared": AT_ZERO,
    "cosine_of_mean": "its two parts share the error rate by Bonferroni, and one is the end of its range",
    "effective_rank": "of flat spectra and of a single direction, where the rank is the end of its range",
    "snr": "where the mean is hardly resolved: rule B is too wide where the mean avoids the noisiest directions",
    "descent": "Clopper-Pearson: at least 95 % for every probability, more because counts are discrete",
    "sign_agreement": "of one coordinate: Clopper-Pearson",
    "simultaneous": "simultaneous over rows and looks, at 1 % in all: no 95 % interval",
}


@dataclass(frozen=True)
class Rate:
    """A count out of so many, with its binomial interval."""

    hits: int
    runs: int

    @cached_property
    def ends(self) -> tuple[float, float]:
        """Clopper-Pearson; each end holds with 99 %."""
        found = clopper_pearson(self.hits / self.runs, self.runs, CONFIDENCE)
        return found.low, found.high

    def surely(self, cells: int) -> tuple[float, float]:
        """Ends of which, of so many cells, none misses with 99 %."""
        found = clopper_pearson(self.hits / self.runs, self.runs, 1 - 0.02 / cells)
        return found.low, found.high

    @property
    def value(self) -> float:
        """The share."""
        return self.hits / self.runs

    def __str__(self) -> str:
        low, high = self.ends
        return f"{percent(self.value)} [{percent(low)}, {percent(high)}]"


def percent(share: float) -> str:
    """In percent, to two decimals."""
    return f"{100 * share:.2f}"


def at_most(rates: Sequence[Rate], stated: float, allowed: float) -> dict[str, str]:
    """Whether all cells together stay below the upper limit allowed, and none is surely above the stated rate."""
    if any(rate.surely(len(rates))[0] > stated for rate in rates):
        return FAILS
    return HOLDS if pooled(rates).ends[1] <= allowed else OPEN


class Results:
    """The cells that have runs."""

    def __init__(self, results: dict[str, Any]):
        self.raw = results
        order = list(PAIRS)
        cells = [c for c in results["cells"].values() if c["runs"]]
        self.cells = sorted(cells, key=lambda c: (order.index(c["pair"]), not c["early"], c["draws"], c["truth"]))

    def of(self, part: str, **wanted: Any) -> list[dict[str, Any]]:
        """Cells of a part with such settings."""
        return [c for c in self.cells if c["part"] == part and all(c[k] == v for k, v in wanted.items())]

    def nulls(self, **wanted: Any) -> list[dict[str, Any]]:
        """Cells of unbiased pairs without a planted bias."""
        return [c for c in self.of("null", **wanted) if c["pair"] in UNBIASED]


def rate(cell: dict[str, Any], *names: str) -> Rate:
    """Share of the runs of a cell with any of these counts."""
    return Rate(sum(cell["counts"].get(name, 0) for name in names), cell["runs"])


def alarm(cell: dict[str, Any]) -> Rate:
    """False alarms; a run that ends with an error is one."""
    return rate(cell, "verdict biased", "verdict error")


def pooled(rates: Iterable[Rate]) -> Rate:
    """All runs together."""
    found = list(rates)
    return Rate(sum(r.hits for r in found), sum(r.runs for r in found))


def worst(rates: Sequence[Rate]) -> Rate:
    """The largest."""
    return max(rates, key=lambda r: r.value)


def how(cell: dict[str, Any]) -> str:
    """Settings in words."""
    size = f"up to {cell['draws']:,}" if cell["early"] else f"{cell['draws']:,}"
    return size + (f", truth {cell['truth']:,}" if cell["truth"] else "")


def drawn(cell: dict[str, Any]) -> np.ndarray:
    """Replicates of every run."""
    spans = {int(k.split()[1]): v for k, v in cell["counts"].items() if k.startswith("drawn ")}
    return np.repeat(list(spans), list(spans.values()))


@dataclass(frozen=True)
class Coverage:
    """What the intervals of one statistic did in one row of one cell."""

    cell: dict[str, Any]
    row: str
    name: str
    below: int
    above: int
    covered: int
    missing: int

    @property
    def rate(self) -> Rate:
        """Share that covered, of those that were given."""
        return Rate(self.covered, self.covered + self.below + self.above)

    @property
    def excused(self) -> bool:
        """Whether more than 96.5 % is documented: by the statistic, or since the true value ends its range."""
        true = self.cell.get("true", {}).get(self.row, {}).get(self.name, math.nan)
        at_end = dict.fromkeys(("bias", "relative_bias", "bias_squared"), 0.0)
        return self.name not in at_end or abs(true - at_end[self.name]) < 1e-6 if self.name in EXCEPTIONS else False

    def tone(self, cells: int) -> str:
        """How the rate stands to the band, of so many: "good", or "bad" where it is surely outside."""
        low, high = self.rate.surely(cells)
        outside = high < BAND[0] or (low > BAND[1] and not self.excused)
        return "bad" if outside and not self.seldom else "good"

    @property
    def seldom(self) -> bool:
        """Given in less than a fifth of the runs: the gate refuses the others, and what passes it does so by luck."""
        return self.rate.runs < 0.2 * (self.rate.runs + self.missing)


def coverages(cells: Iterable[dict[str, Any]]) -> list[Coverage]:
    """Of all intervals that were given at least once."""
    found = []
    for cell in cells:
        split = [k.split(" | ") for k in cell["counts"] if k.count(" | ") == 2]
        for row, name in dict.fromkeys((row, name) for row, name, _ in split):
            counts = [cell["counts"].get(f"{row} | {name} | {what}", 0) for what in ("below", "above", "covered")]
            if sum(counts):
                missing = cell["counts"].get(f"{row} | {name} | not given", 0)
                found.append(Coverage(cell, row, name, *counts, missing))
    return found


# ---------------------------------------------------------------------- figures
@style.styled
def alarm_figure(rows: dict[str, list[dict[str, Any]]]) -> Axes:
    """One line for each pair, one marker for each size."""
    ax = style.panel(None, style.WIDTH, 0.27 * len(rows) + 0.7)
    kinds = list(dict.fromkeys(_kind(c) for cells in rows.values() for c in cells))
    for y, cells in enumerate(rows.values()):
        for cell in cells:
            i = kinds.index(_kind(cell))
            found, place = alarm(cell), y + 0.16 * (i - (len(kinds) - 1) / 2)
            ax.hlines(place, 100 * found.ends[0], 100 * found.ends[1], color=style.SERIES[i], lw=0.9)
            ax.plot(100 * found.value, place, style.MARKERS[i], color=style.SERIES[i], ms=3)
    for x, look in ((ALPHA, "-"), (ALLOWED, ":")):
        ax.axvline(100 * x, color=style.INK, lw=0.8, ls=look)
    style.named_lines(ax, rows)
    ax.set_xlim(left=0)
    ax.set_xlabel("runs that call the unbiased estimator biased (%)")
    keys = [Line2D([], [], color=style.SERIES[i], marker=style.MARKERS[i], ms=3, label=k) for i, k in enumerate(kinds)]
    style.key_above(ax, keys)
    return ax


def _kind(cell: dict[str, Any]) -> str:
    return "sequential" if cell["early"] else f"{cell['draws']:,} draws"


@style.styled
def coverage_figure(found: Sequence[Coverage], names: Sequence[str]) -> Axes:
    """One line for each statistic, a dot for each row of each pair."""
    ax = style.panel(None, style.WIDTH, 0.27 * len(names) + 0.7)
    sizes = sorted({c.cell["draws"] for c in found})
    ax.axvspan(100 * BAND[0], 100 * BAND[1], color=style.PALE, alpha=0.5, lw=0)
    ax.axvline(95, color=style.INK, lw=0.8)
    left = 88.0
    for c in found:
        i = sizes.index(c.cell["draws"])
        y = names.index(c.name) + 0.2 * (i - (len(sizes) - 1) / 2)
        x, off = 100 * c.rate.value, 100 * c.rate.value < left
        ax.plot(max(x, left), y, "<" if off else style.MARKERS[i], color=style.SERIES[i], ms=3, alpha=0.75, mew=0)
    style.named_lines(ax, [n.replace("_", " ") for n in names])
    ax.set_xlim(left - 0.3, 100.3)
    ax.set_xlabel("intervals that cover the true value (%); at the left edge: less than 88")
    keys = [
        Line2D([], [], color=style.SERIES[i], marker=style.MARKERS[i], ls="", label=f"{n:,}")
        for i, n in enumerate(sizes)
    ]
    style.key_above(ax, keys)
    return ax


@style.styled
def power_figure(curves: dict[tuple[str, str], list[dict[str, Any]]]) -> Axes:
    """Power against the planted bias."""
    ax = style.panel(None, style.WIDTH, 2.4)
    names = list(dict.fromkeys(pair for pair, _ in curves))
    for (pair, along), cells in curves.items():
        i = names.index(pair)
        cells = sorted(cells, key=lambda c: c["size"])
        x, rates = [c["size"] for c in cells], [rate(c, "found at the first site") for c in cells]
        ax.plot(x, [100 * r.value for r in rates], ls="-" if along == "along" else "--", color=style.SERIES[i])
        ax.vlines(x, [100 * r.ends[0] for r in rates], [100 * r.ends[1] for r in rates], color=style.SERIES[i], lw=0.9)
    ax.axhline(95, color=style.INK, lw=0.8, ls=":")
    ax.set(xlabel="planted bias, in units of the detectable bias that runs state", ylabel="found (%)", ylim=(0, 102))
    keys = [Line2D([], [], color=style.SERIES[i], label=style.plain(n, 40)) for i, n in enumerate(names)]
    ax.legend(handles=keys, loc="lower right")
    return ax


@style.styled
def saving_figure(rows: dict[str, dict[str, Any]]) -> Axes:
    """Planned over drawn: median, quartiles, and the 1 % and 99 % points."""
    ax = style.panel(None, style.WIDTH, 0.24 * len(rows) + 0.6)
    for y, cell in enumerate(rows.values()):
        values = np.quantile(cell["draws"] / drawn(cell), [0.01, 0.25, 0.5, 0.75, 0.99])
        ax.hlines(y, values[0], values[4], color=style.SERIES[0], lw=0.8)
        ax.hlines(y, values[1], values[3], color=style.SERIES[0], lw=4, alpha=0.5)
        ax.plot(values[2], y, "o", color=style.SERIES[0])
    ax.axvline(SAVING, color=style.INK, lw=0.8, ls=":")
    style.named_lines(ax, rows)
    style.logarithmic(ax, "x", (0.9, 400.0))
    ax.set_xlabel("planned over drawn")
    return ax


# ---------------------------------------------------------------------- sections
def false_alarms(study: Study, r: Results) -> list[Block]:
    """Figure and tables."""
    exact = {p: [c for c in r.nulls(truth=0) if c["pair"] == p] for p in UNBIASED}
    exact = {p: cells for p, cells in exact.items() if cells}
    columns = [("Pair", "left", "1fr"), ("Draws", "left", "auto"), ("Runs", "right", "auto")]
    columns += [("False alarms (%)", "right", "auto"), ("Called within (%)", "right", "auto")]

    def line(c: dict[str, Any]) -> list[Any]:
        return [c["pair"], how(c), f"{c['runs']:,}", str(alarm(c)), percent(rate(c, "verdict unbiased within").value)]

    parts = []
    for name, wanted in (("sequential", {"early": True}), ("fixed size", {"early": False})):
        for truth, word in ((False, "exact truth"), (True, "estimated truth, a new one for every run")):
            cells = [c for c in r.nulls(**wanted) if bool(c["truth"]) == truth]
            if cells:
                all_ = ["all together", "", f"{sum(c['runs'] for c in cells):,}", str(pooled(map(alarm, cells))), ""]
                parts.append((f"{name}, {word}", [*map(line, cells), all_]))
    return [
        text(
            "Every estimator here is unbiased. A run that calls it biased, at any of its groups and looks, is a false"
            f" alarm; {percent(ALPHA)} % of runs may. Intervals are Clopper-Pearson's; each end holds with 99 %."
        ),
        study.figure(
            alarm_figure(exact),
            "False-alarm rate of each pair, sequential and with fixed sizes.",
            "False alarms with binomial intervals, exact truth. Lines: the stated rate, and 1.25 times that.",
        ),
        table(columns, parts, "False alarms, and runs that are called unbiased within the margin."),
    ]


def margins(r: Results) -> list[Block]:
    """Both errors at a bias of exactly the margin."""
    columns = [("Pair", "left", "1fr"), ("Draws", "left", "auto"), ("Bias", "left", "auto"), ("Runs", "right", "auto")]
    columns += [("Called within (%)", "right", "auto"), ("Called beyond (%)", "right", "auto")]
    rows = [
        [c["pair"], how(c), c["along"], f"{c['runs']:,}", *map(str, errors(c))]
        for c in sorted(r.of("margin"), key=lambda c: c["pair"])
    ]
    return [
        text(
            "A bias of exactly the margin was planted: every draw was moved by a constant vector, along the true"
            " gradient, along the noisiest or along the quietest direction. Neither word may then be said in more than"
            f" {percent(ALPHA)} % of runs."
        ),
        table(columns, [("", rows)], "Errors at the margin."),
    ]


def errors(cell: dict[str, Any]) -> tuple[Rate, Rate]:
    """Called within, and called beyond."""
    return rate(cell, "row unbiased within"), rate(cell, "row biased beyond")


def power(study: Study, r: Results) -> list[Block]:
    """Curves, and the promise itself."""
    curves: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for c in r.of("power", early=False, truth=0):
        curves.setdefault((c["pair"], c["along"]), []).append(c)
    columns = [("Pair", "left", "1fr"), ("Draws", "left", "auto"), ("Bias", "left", "auto")]
    columns += [("Size (%)", "right", "auto"), ("Runs", "right", "auto"), ("Found (%)", "right", "auto")]
    cells = sorted(r.of("power", size=1.0), key=lambda c: (not c["early"], c["truth"], c["pair"]))
    rows = [
        [
            c["pair"],
            ("sequential " if c["early"] else "fixed ") + how(c),
            c["along"],
            percent(c["planted"]),
            f"{c['runs']:,}",
            str(rate(c, "found at the first site")),
        ]
        for c in cells
    ]
    return [
        text(
            "Each run states the smallest relative bias that it would have found with probability 0.95. The median of"
            " what unbiased runs state was planted. Sequential runs had a margin so small (0.1 %) that nothing but a"
            " bias could end them before their last look, for which the promise is made."
        ),
        *(
            [
                study.figure(
                    power_figure(curves),
                    "Power against the planted bias.",
                    "Power of runs of fixed size, exact truth; biases along the true gradient (solid) and along the"
                    " noisiest direction (dashed).",
                )
            ]
            if curves
            else []
        ),
        table(
            columns, [("", rows)], "Power at the stated detectable bias; its size is relative to the gradient's norm."
        ),
    ]


def saved(r: Results) -> dict[str, dict[str, Any]]:
    """Cells with a large bias or a wide margin, by name."""
    found = {}
    for c in r.of("saving"):
        said = f"bias of {c['size'] * c['margin']:.0%}" if c["along"] else f"margin {c['margin']:.0%}"
        found[f"{c['pair']}" + (f", {said}" if c["pair"] in UNBIASED else "")] = c
    return found


def savings(study: Study, r: Results) -> list[Block]:
    """Planned over drawn."""
    rows = saved(r)
    columns = [("Pair", "left", "1fr"), ("Planned", "right", "auto"), ("Median drawn", "right", "auto")]
    columns += [("Saving", "right", "auto"), ("Quartiles", "right", "auto")]
    lines = []
    for name, c in rows.items():
        low, middle, high = np.quantile(c["draws"] / drawn(c), [0.25, 0.5, 0.75])
        lines.append(
            [name, f"{c['draws']:,}", f"{np.median(drawn(c)):,.0f}", f"{middle:.0f}", f"{low:.0f} – {high:.0f}"]
        )
    return [
        text("Draws planned over draws taken, where the bias is large or the margin wide."),
        study.figure(
            saving_figure(rows),
            "Saving of the sequential rule.",
            "Saving: median, quartiles, and the range of 98 % of runs. Dotted: five-fold.",
        ),
        table(columns, [("", lines)], "Saving of the sequential rule."),
    ]


def coverage(study: Study, r: Results) -> list[Block]:
    """Figure, and a summary for each statistic and size."""
    fixed = coverages(r.of("null", truth=0, early=False))
    names = [n for n in [*ORDER, "simultaneous"] if any(c.name == n for c in fixed)]
    columns = [("Statistic", "left", "1fr"), ("Draws", "right", "auto"), ("Given (%)", "right", "auto")]
    columns += [("Lowest (%)", "right", "auto"), ("Median", "right", "auto"), ("Highest", "right", "auto")]
    columns += [("Below 93.5", "right", "auto"), ("Above 96.5", "right", "auto"), ("Of", "right", "auto")]
    kinds = [(f"{n:,}", coverages(r.of("null", truth=0, early=False, draws=n))) for n in (256, 1024, 4096)]
    kinds += [("when it stopped", coverages(r.of("null", truth=0, early=True)))]
    kinds += [("estimated truth", coverages(c for c in r.of("null") if c["truth"]))]
    rows = []
    for name in names:
        for kind, found in kinds:
            own = [c for c in found if c.name == name]
            if own:
                values = [c.rate.value for c in own]
                given = sum(c.rate.runs for c in own) / sum(c.rate.runs + c.missing for c in own)
                low, high = sum(v < BAND[0] for v in values), sum(v > BAND[1] for v in values)
                rows.append(
                    [name.replace("_", " ") if kind == kinds[0][0] else "", kind, f"{100 * given:.0f}"]
                    + [f"{100 * v:.1f}" for v in (min(values), float(np.median(values)), max(values))]
                    + [str(low), str(high), str(len(own))]
                )
    why = "; ".join(f"{name.replace('_', ' ')}: {reason}" for name, reason in EXCEPTIONS.items())
    return [
        text(
            "Separate intervals of 95 %, in every tested row of every pair with an exact truth. An interval that is not"
            " given, since the data do not allow one, is no miss; how many were given is said. True values are sums"
            " over all outcomes where there are, else from a long run whose error is at most 1/16 of the standard error"
            " of 4096 draws."
        ),
        study.figure(
            coverage_figure(fixed, names),
            "Coverage of each statistic.",
            "Coverage in runs of fixed size, a dot for each row of each pair. Grey: 93.5 to 96.5 %.",
        ),
        text(f"Exceptions where more than 96.5 % is meant. {why}."),
        text(
            "Exception in both directions: intervals that are given in less than a fifth of the runs. The data of the"
            " others do not allow one, and what passes such a gate by luck is not typical."
        ),
        table(columns, [("", rows)], "Coverage over all rows and pairs; how many of them are below or above the band."),
    ]


def misses(r: Results) -> Block | None:
    """Every row whose coverage is outside the band by more than chance explains."""
    columns = [
        ("Pair", "left", "1fr"),
        ("Row", "left", "auto"),
        ("Statistic", "left", "auto"),
        ("Draws", "left", "auto"),
    ]
    columns += [("Given", "right", "auto"), ("Below", "right", "auto"), ("Above", "right", "auto")]
    columns += [("Coverage (%)", "right", "auto")]
    everything = coverages(r.of("null"))
    bad = [c for c in everything if c.tone(len(everything)) == "bad"]
    rows = [
        [c.cell["pair"], c.row, c.name.replace("_", " "), how(c.cell)]
        + [f"{n:,}" for n in (c.rate.runs, c.below, c.above)]
        + [str(c.rate)]
        for c in sorted(bad, key=lambda c: ([*ORDER, "simultaneous"].index(c.name), c.cell["pair"], c.cell["draws"]))
    ]
    words = (
        "Intervals whose coverage is outside of 93.5 to 96.5 % by more than chance explains and without an exception;"
        " below: the interval lay above the true value."
    )
    return table(columns, [("", rows)], words) if rows else None


# ---------------------------------------------------------------------- the first page
def promises(r: Results) -> list[list[Any]]:
    """What is promised, what was found, and whether it holds."""
    lines: list[list[Any]] = []

    def rates(promise: str, cells: Sequence[dict[str, Any]], each: Any) -> None:
        found = [each(c) for c in cells]
        if found:
            every = pooled(found)
            said = f"{every} % of {every.runs:,} runs; in the worst of {len(found)} cells {worst(found)} %"
            lines.append([promise, said, at_most(found, ALPHA, ALLOWED)])

    plain = [c for c in r.nulls(truth=0) if c["pair"] not in RARE]
    rates("False alarms ≤ 1 %: sequential", [c for c in plain if c["early"]], alarm)
    rates("the same, fixed size", [c for c in plain if not c["early"]], alarm)
    rates("the same, rare events and heavy tails", [c for c in r.nulls(truth=0) if c["pair"] in RARE], alarm)
    rates("the same, estimated truth", [c for c in r.nulls() if c["truth"]], alarm)
    rates("A bias of the margin called within ≤ 1 %", r.of("margin"), lambda c: errors(c)[0])
    rates("A bias of the margin called beyond ≤ 1 %", r.of("margin"), lambda c: errors(c)[1])
    for early, word in ((False, "fixed"), (True, "sequential")):
        found = [rate(c, "found at the first site") for c in r.of("power", size=1.0, early=early)]
        if found:
            least = min(found, key=lambda f: f.value)
            tone = HOLDS if least.value >= POWER else FAILS if least.surely(len(found))[1] < POWER else OPEN
            said = f"{pooled(found)} %; in the worst of {len(found)} cells {least} %"
            lines.append([f"Power ≥ 95 % at the stated bias: {word}", said, tone])
    medians = [c["draws"] / float(np.median(drawn(c))) for c in saved(r).values()]
    if medians:
        tone = HOLDS if min(medians) >= SAVING else FAILS
        lines.append(
            ["Saving ≥ 5 where bias or margin are large", f"medians {min(medians):.1f} to {max(medians):.1f}", tone]
        )
    given = coverages(r.of("null", early=False))
    usual = [c for c in given if c.cell["pair"] not in RARE]
    for word, found in (
        ("exact truth", [c for c in usual if not c.cell["truth"]]),
        ("rare events and heavy tails", [c for c in given if c.cell["pair"] in RARE]),
        ("estimated truth", [c for c in usual if c.cell["truth"]]),
    ):
        if found:
            tones = Counter(c.tone(len(found)) for c in found)
            excused = sum(c.excused and c.rate.surely(len(found))[0] > BAND[1] for c in found)
            said = f"{tones['bad']} of {len(found)} cells surely outside, {excused} above with a reason"
            tone = FAILS if tones["bad"] else EXCEPT if excused else HOLDS
            lines.append([f"Coverage 93.5 – 96.5 %: {word}, fixed size", said, tone])
    return lines


def render(results: dict[str, Any]) -> bytes:
    """The PDF."""
    r = Results(results)
    lines = promises(r)
    failed = [line[0] for line in lines if line[2] is FAILS]
    waiting = [line[0] for line in lines if line[2] is OPEN]
    runs = sum(c["runs"] for c in r.cells)
    headline = f"{len(failed)} of {len(lines)} promises do not hold." if failed else "All promises hold."
    if waiting:
        headline = headline[:-1] + f"; {len(waiting)} need more runs."
    estimators = {repr(pair.estimator): pair.estimator for pair in PAIRS.values()}
    outside = misses(r)
    study = Study(
        kind="calibration",
        title="Calibration",
        subtitle="How often the instrument is wrong, by simulation of the whole procedure",
        created=results["created"],
        results=json.dumps(results, sort_keys=True),
        command=results["command"],
        facts=[
            ("Runs", f"{runs:,}"),
            ("Cells", f"{len(r.cells)}"),
            ("Pairs", f"{len({c['pair'] for c in r.cells})}"),
            ("CPU hours", f"{sum(c['seconds'] for c in r.cells) / 3600:.1f}"),
            ("Code", results["code"][:8]),
        ],
        tone="bad" if failed else "open" if waiting else "good",
        headline=headline,
        lines=[("", failed or ["See Table 1."])],
        methods=[method(name, about(e), e.unbiased) for name, e in estimators.items()],
        margin=MARGIN,
        alpha=ALPHA,
        appendix=("Coverage outside the band", outside) if outside else None,
        environment=results["environment"],
    )
    columns = [("Promised", "left", "1fr"), ("Found", "left", "1fr"), ("", "left", "auto")]
    said = (
        f"{runs:,} runs of the whole procedure, looks, tests and verdicts, on draws of the real estimators, no"
        " two of them on the same draws. Each verdict rests on draws: known expectations were not used. Found:"
        " all cells together, and the worst one with its interval."
    )
    study.sections = [
        ("What is promised and what was found", [text(said), table(columns, [("", lines)], "The promises.")]),
        ("False alarms", false_alarms(study, r)),
        ("Errors at the margin", margins(r) if r.of("margin") else []),
        ("Power", power(study, r) if r.of("power") else []),
        ("Saving", savings(study, r) if r.of("saving") else []),
        ("Coverage", coverage(study, r)),
    ]
    return study.render()
