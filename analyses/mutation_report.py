"""What the checks find among broken estimators as a PDF: a pure function of reports/mutation.json."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from estimator_lab.report.figures import style
from estimator_lab.report.rounding import ABSENT, count, power_of_ten, rounded
from estimator_lab.report.story import Block, Column, muted, table, text
from estimator_lab.report.study import Study
from estimator_lab.report.wording import duration, listed, percent, plural

Json = Mapping[str, Any]
NAMED = 0.8  # share of true causes named first that was aimed at
HEIGHT = 2.7  # inches of the figure on the first page
BLIND = ((13, 20), (11, 17), (8, 26))  # true causes named first, of mutants held out, when each set of them was new
ROWS = 44  # mutants in one figure, at most: it fills a page
PITCH = 0.158  # inches between them
HEADS = 2.2  # inches for the names of checks, the totals and the legend
LETTERS = 110  # of what is said of a cause
CLAIM = re.compile(r"^is unbiased on (.*) \((.*)\)$")
SILENT, PASSED, OPEN, FAILED, FIRST = range(5)
SHADES = ("white", "#e9edf2", "#ead9a6", style.SERIES[5], style.SERIES[3])
STATES = {"passed": PASSED, "inconclusive": OPEN, "failed": FAILED}


# ---------------------------------------------------------------------- names
def column(check: str) -> str:
    """A check's name in few words; a claim at one point is one thing for all laws."""
    found = CLAIM.match(check)
    return f"unbiased: {found[1]}" if found else check


def mistake(mutant: Json) -> str:
    """What is wrong, and where it happened if that is not part of it."""
    told = " ".join(mutant["told"].split()).replace(" - ", " − ").replace("^2", "²")
    thread = mutant["source"]
    known = thread == "canonical" or thread in told or thread.replace("#", " PR ") in told
    return told if known else f"{told.rstrip('.')} ({thread})."


def real(found: Json) -> list[Json]:
    """Mutants that are mistakes."""
    return [m for m in found["mutants"] if not m["equivalent"]]


def ruled(columns: Sequence[Column], parts: Sequence[tuple[str, Sequence[Sequence[Any]]]], caption: str) -> Block:
    """A table whose cells have several lines: a rule between rows, which stay whole and are aligned at the top."""
    return {**table(columns, parts, caption), "ruled": True}


def killing(mutant: Json) -> Json | None:
    """What came of the check that kills a mutant first."""
    return next((o for o in mutant["outcomes"] if o["check"] == mutant["first"]), None)


def draws(mutant: Json) -> str:
    """Replicates that the first failure took, if it was by chance."""
    outcome = killing(mutant)
    return ABSENT if outcome is None else count(outcome["draws"]) if outcome["draws"] else "sure"


# ---------------------------------------------------------------------- figures
@style.styled
def course(found: Json) -> Figure:
    """Mutants killed against processor time, and against replicates where only draws are looked at."""
    mutants = real(found)
    figure, (left, right) = style.panels(2, 2, HEIGHT)
    times = sorted(max(m["seconds"], 1e-3) for m in mutants if m["killed"])
    _steps(left, times, style.SERIES[0], len(mutants))
    if limits := style.log_limits(times):
        style.logarithmic(left, "x", limits)
    left.set_title("all checks, by time")
    left.xaxis.set_major_formatter(FuncFormatter(lambda x, _: rounded(x)))
    left.set_xlabel("processor time until the first check fails (s)")
    left.set_ylabel("broken estimators found")
    sizes = sorted(m["sampled"] for m in mutants if m["sampled"] is not None)
    _steps(right, sizes, style.SERIES[1], len(mutants))
    right.set_xscale("log", base=2)
    right.set_xlim(2**7.5, found["limit"] * 1.3)
    right.xaxis.set_major_locator(FixedLocator([4**k for k in range(4, 1 + round(math.log2(found["limit"]) / 2))]))
    right.xaxis.set_minor_locator(NullLocator())
    right.xaxis.set_major_formatter(FuncFormatter(lambda x, _: count(x)))
    right.set_title("the mean of draws alone, by replicates")
    right.set_xlabel("replicates until the mean is off the truth")
    return figure


def _steps(ax: Axes, values: Sequence[float], colour: str, every: int) -> None:
    """How many are at most x, beside a line for all of them."""
    ax.axhline(every, color=style.MUTED, lw=0.8, ls=(0, (3, 2)))
    if values:
        x = [values[0] / 100, *values, values[-1] * 100]
        ax.step(x, [0, *range(1, len(values) + 1), len(values)], where="post", color=colour)
        ax.fill_between(x, [0, *range(1, len(values) + 1), len(values)], step="post", color=colour, alpha=0.12, lw=0)
    ax.annotate(
        f"{count(len(values))} of {count(every)}",
        (1, len(values)),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 2),
        textcoords="offset points",
        ha="right",
        va="bottom",
        weight="bold",
        color=colour,
    )
    ax.set_ylim(0, every * 1.17)
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))


@style.styled
def matrix(mutants: Sequence[Json], columns: Sequence[str]) -> Figure:
    """Mutants from top to bottom, checks from left to right; a claim at one point is one column for all laws."""
    grid = np.zeros((len(mutants), len(columns)), dtype=int)
    for i, mutant in enumerate(mutants):
        for outcome in mutant["outcomes"]:
            state = FIRST if outcome["check"] == mutant["first"] else STATES.get(outcome["status"], SILENT)
            if (name := column(outcome["check"])) in columns:
                grid[i, columns.index(name)] = max(grid[i, columns.index(name)], state)
    figure = Figure(figsize=(style.WIDTH, PITCH * len(mutants) + HEADS), layout="constrained")
    ax = figure.add_subplot()
    ax.pcolormesh(grid, cmap=ListedColormap(SHADES), vmin=-0.5, vmax=len(SHADES) - 0.5, edgecolors="white", lw=0.5)
    ax.set_ylim(len(mutants), 0)
    ax.set_yticks(np.arange(len(mutants)) + 0.5, [style.plain(m["name"]) for m in mutants], fontsize=7.8)
    ax.set_xticks(np.arange(len(columns)) + 0.5, [style.plain(c, 34) for c in columns], rotation=90, fontsize=7.6)
    ax.xaxis.tick_top()
    ax.grid(visible=False)
    ax.tick_params(length=0, pad=1.5)
    for spine in ax.spines.values():
        spine.set_visible(False)
    for j in range(len(columns)):
        kills = int((grid[:, j] >= FAILED).sum())
        ax.text(j + 0.5, len(mutants) + 0.3, str(kills) if kills else "", ha="center", va="top", fontsize=7)
    ax.text(-0.3, len(mutants) + 0.3, "found", ha="right", va="top", fontsize=7.8, weight="bold")
    words = ("", "holds", "not decided", "fails", "fails first")
    keys = [Patch(color=SHADES[s], label=words[s]) for s in (FIRST, FAILED, OPEN, PASSED) if (grid == s).any()]
    figure.legend(handles=keys, ncols=4, loc="outside lower center", fontsize=8, handlelength=1, handleheight=1)
    return figure


# ---------------------------------------------------------------------- the sections
def verdict(found: Json) -> tuple[str, str, list[str]]:
    """Tone, headline and lines of the box."""
    s, mutants = found["summary"], real(found)
    killed = [m["seconds"] for m in mutants if m["killed"]]
    lost = [m["name"] for m in mutants if not m["killed"]]
    all_found = not lost and bool(mutants)
    head = (
        f"{'All' if all_found else s['killed']} {'' if all_found else 'of '}{plural(s['mutants'], 'broken estimator')}"
    )
    head += f" {'are' if s['mutants'] != 1 else 'is'} found"
    if s["alarms"] is not None:
        alarms = plural(s["alarms"], "false alarm") if s["alarms"] else "no false alarm"
        head += f", {alarms} on {plural(len(found['healthy']), 'healthy one')}"
    lines = []
    if lost:
        lines.append(f"Not found: {listed(lost)}.")
    if killed:
        lines.append(
            "The default checks on the default points find a broken estimator after"
            f" {duration(float(np.median(killed)))} of processor time in the median, {duration(max(killed))} at most;"
            f" {duration(s['seconds'])} is the sum of these times over all of them."
        )
    share = s["named"] / s["mutants"] if s["mutants"] else math.nan
    lines.append(
        f"The true cause is the first that is named for {s['named']} of them ({percent(share, 2)})"
        + ("" if s["misnamed"] is None else f"; for {s['misnamed'] or 'none'} of the healthy ones is a cause named")
        + "."
    )
    lines.append(
        f"Draws alone, held against the true mean, show {s['sampled']} of them within {count(found['limit'])}"
        " replicates."
    )
    if further := [m for m in found["held_out"] if not m["equivalent"]]:
        lines.append(f"Of {plural(len(further), 'further mistake')} that were held out, {both(further)}. {blind()}")
    good = all_found and not s["alarms"] and not s["misnamed"]
    return "bad" if not good else "good" if share >= NAMED else "open", head + ".", lines


def both(mutants: Sequence[Json]) -> str:
    """How many are found, how many named, and how many of these are not found."""
    seen = [m for m in mutants if m["killed"]]
    lost = [m for m in mutants if not m["killed"]]
    named = [sum(true_first(m) for m in own) for own in (seen, lost)]
    said = f"{len(seen)} {'is' if len(seen) == 1 else 'are'} found, and {sum(named)} have their true cause named first"
    if len(lost) == 1:
        said += f"; the one that no check finds is {'' if named[1] else 'not '}among them"
    elif lost:
        said += f", {named[1] or 'none'} of them among the {len(lost)} that no check finds"
    return said


def blind() -> str:
    """What the naming was worth on mutants held out before any of its terms was revised."""
    *most, last = (f"{hit} of {every}" for hit, every in BLIND)
    return f"When they were new, the true cause was named first for {', '.join(most)} and {last}."


def question(study: Study, found: Json) -> list[Block]:
    """What was done, and the course of it."""
    s = found["summary"]
    themes = len({m["theme"] for m in found["mutants"]})
    threads = sum(m["source"] != "canonical" for m in real(found))
    return [
        text(
            "Would the checks notice a mistake? The corpus holds"
            f" {plural(s['mutants'], 'small estimator')} in {plural(themes, 'group')}, each broken in one way:"
            f" {threads} of the mistakes were reported in public issues, the others are canonical."
            " All go through the default checks of check_estimator, as do the healthy estimators of the catalogue."
        ),
        study.figure(
            course(found),
            "Number of broken estimators found against processor time, and against replicates by draws alone.",
            "Left: broken estimators found against the processor time of a run that stops at the first check that"
            " fails. Right: those whose mean is shown to be wrong by draws alone, without exact sums and without any"
            " other law. Dashed: all of them.",
        ),
    ]


def tally(found: Json) -> dict[str, Json]:
    """What each check finds, a claim at one point being one check for all laws; mutants that are mistakes only."""
    mutants = real(found)
    every = list(found["checks"])
    claims = [i for i, check in enumerate(every) if CLAIM.match(check)]
    places = [claims[0] if i in claims else i for i in range(len(every))]  # claims for all laws side by side
    names = dict.fromkeys(column(every[i]) for i in sorted(range(len(every)), key=places.__getitem__))
    failing = {m["name"]: {column(o["check"]) for o in m["outcomes"] if o["status"] == "failed"} for m in mutants}
    tallied: dict[str, Json] = {}
    for name in names:
        own = [
            (m, [o for o in m["outcomes"] if column(o["check"]) == name and o["status"] != "skipped"]) for m in mutants
        ]
        own = [(m, outcomes) for m, outcomes in own if outcomes]
        kills = [[o for o in outcomes if o["status"] == "failed"] for m, outcomes in own if name in failing[m["name"]]]
        drawn = [min(o["draws"] for o in outcomes) for outcomes in kills]
        tallied[name] = {
            "run": len(own),
            "kills": len(kills),
            "only": sum(failing[m["name"]] == {name} for m, _ in own),
            "first": sum(bool(m["first"]) and column(m["first"]) == name for m in mutants),
            "certain": sum(not n for n in drawn),
            "draws": float(np.median([n for n in drawn if n])) if any(drawn) else math.nan,
            "seconds": float(np.median([o["seconds"] for _, outcomes in own for o in outcomes])) if own else math.nan,
        }
    return tallied


def checks(study: Study, found: Json) -> list[Block]:
    """What each check kills, in a table and as a matrix."""
    every, total = tally(found), len(real(found))
    columns = [("Check", "left", "1fr"), ("Run", "right", "auto"), ("Found", "right", "auto")]
    columns += [("% of run", "right", "auto"), ("% of all", "right", "auto"), ("Alone", "right", "auto")]
    columns += [("First", "right", "auto"), ("Surely", "right", "auto"), ("Draws", "right", "auto")]
    columns += [("ms", "right", "auto")]

    def line(name: str, c: Json) -> list[Any]:
        return [
            name.removeprefix("unbiased: "),
            count(c["run"]),
            count(c["kills"]) if c["kills"] else muted(ABSENT),
            *(f"{100 * c['kills'] / n:.0f}" if n and c["kills"] else muted(ABSENT) for n in (c["run"], total)),
            *(count(c[k]) if c[k] else muted(ABSENT) for k in ("only", "first", "certain")),
            muted(ABSENT) if math.isnan(c["draws"]) else count(c["draws"]),
            milliseconds(c["seconds"]),
        ]

    parts: list[tuple[str, list[list[Any]]]] = []
    for claims, own in groupby(every.items(), lambda item: item[0].startswith("unbiased: ")):
        head = "Is unbiased, on" if claims else "Laws of every estimator"
        head += ", continued" if head in [name for name, _ in parts] else ""
        parts.append((head, [line(k, v) for k, v in own]))
    blocks = [
        text(checks_words(every)),
        text(
            "The columns count broken estimators. Run: the check had something to say of them. Found: they fail it."
            " Alone: they fail no other check. First: they fail no check before it. Surely: they fail without chance,"
            " by an exact sum or by structure. Draws are replicates, the median over those that fail by chance; ms is"
            " the median of the processor time in milliseconds."
        ),
        table(
            columns,
            parts,
            "Checks in the order in which they are run. A line counts a claim once, whatever its units: Bernoulli,"
            f" categorical or Gaussian, so that {len(found['checks'])} checks have {len(every)} lines.",
        ),
    ]
    order = list(every)
    mutants = sorted(
        (m for m in found["mutants"] if m["killed"]),
        key=lambda m: (order.index(column(m["first"])), -sum(o["status"] == "failed" for o in m["outcomes"])),
    )
    names = [name for name, c in every.items() if c["kills"]]
    pages = math.ceil(len(mutants) / ROWS)
    for page in range(pages):
        own = mutants[len(mutants) * page // pages : len(mutants) * (page + 1) // pages]
        blocks.append(
            study.figure(
                matrix(own, names),
                "Which check fails for which broken estimator.",
                (f"Part {page + 1} of {pages}. " if pages > 1 else "")
                + "Broken estimators, sorted by the check that fails first, and the checks that find any, in the order"
                " of Table 1; below, how many of these each finds. White: the check does not apply. What claims to be"
                " biased is held to the mean of the healthy implementation only.",
            )
        )
    return blocks


def milliseconds(seconds: float) -> str:
    """A time in ms, of which the file keeps one decimal."""
    return "< 0.1" if seconds < 1e-4 else rounded(1000 * seconds, most=2)


def checks_words(every: Mapping[str, Json]) -> str:
    """Which checks the score rests on."""
    if not every:
        return "No check was run."
    most = max(c["kills"] for c in every.values())
    leading = [k for k, c in every.items() if c["kills"] == most]
    needed = [k for k, c in every.items() if c["only"]]
    idle = [k for k, c in every.items() if c["run"] and not c["kills"]]
    said = [
        f"“{leading[0]}” finds most: {most} of the {every[leading[0]]['run']} it applies to."
        if len(leading) == 1
        else f"{listed(f'“{k}”' for k in leading)} find most: {most} each."
    ]
    if needed:
        alone = sum(every[k]["only"] for k in needed)
        said.append(
            f"{plural(alone, 'broken estimator')} {'is' if alone == 1 else 'are'} found by a single check:"
            f" {'none of ' if len(needed) > 1 else ''}the {plural(len(needed), 'check')} with an entry under “Alone”"
            f" can {'' if len(needed) > 1 else 'not '}be left out."
        )
    if idle:
        said.append(f"Nothing in this corpus is found by {listed(f'“{k}”' for k in idle)}.")
    return " ".join(said)


def replicates(found: Json) -> list[Block]:
    """Draws alone."""
    mutants = real(found)
    seen = sorted({m["sampled"] for m in mutants if m["sampled"] is not None})
    rows = [[count(n), *names([m for m in mutants if m["sampled"] == n])] for n in seen]
    kinds = dict.fromkeys(m["unseen"].partition(":")[0] for m in mutants if m["unseen"])
    never = [
        [
            WHY.get(kind, f"not by {count(found['limit'])}"),
            *names([m for m in mutants if m["unseen"].partition(":")[0] == kind]),
        ]
        for kind in kinds
    ]
    columns = [("Replicates", "left", "auto"), ("Number", "right", "auto"), ("Broken estimators", "left", "1fr")]
    sure = sum((o := killing(m)) is not None and not o["draws"] for m in mutants)
    parts = [("Shown by draws alone after", rows), ("Never shown by draws alone", never)]
    return [
        text(
            "The checks sum over all random numbers where there are few, and look at shapes, paths and dependence:"
            f" the first to fail involves no chance for {sure} of {len(mutants)}. Here draws are looked at alone:"
            " after 256, 512, … replicates the mean is held against the true gradient, at every point where it is"
            " wrong, or against the mean of the healthy estimator where that is biased. All looks and points share a"
            f" false-alarm rate of {rate(found['alpha'])}. Draws never show a mistake that leaves the mean right. Some"
            " of the broken estimators cannot be measured at all: they are not finite, keep a state or mix"
            " replicates. Other biases are too small for so many draws, or come with draws that are all alike."
        ),
        ruled(columns, [p for p in parts if p[1]], "How many replicates it takes where only draws are looked at."),
    ]


WHY = {"no mean is wrong at these points": "mean is right", "refused": "cannot be measured"}


def names(mutants: Sequence[Json]) -> list[str]:
    """How many, and which."""
    return [count(len(mutants)), ", ".join(m["name"] for m in mutants)]


def rate(alpha: float) -> str:
    """A false-alarm rate, as a power of ten if it is one."""
    exponent = round(math.log10(alpha))
    return power_of_ten(exponent) if math.isclose(alpha, 10.0**exponent) else rounded(alpha)


def named(found: Json) -> list[Block]:
    """Which causes are named."""
    mutants = real(found)
    hit = [m for m in mutants if true_first(m)]
    missed = [m for m in mutants if m not in hit]
    later = [m for m in missed if any(c["label"] == m["cause"] for c in m["named"])]
    silent = [m for m in missed if not m["named"]]
    columns = [("Name", "left", "auto"), ("True cause", "left", "auto"), ("Named first", "left", "auto")]
    columns += [("In words", "left", "1fr")]
    rows = [[m["name"], m["cause"], said_first(m), first_words(m)] for m in missed]
    share = len(hit) / len(mutants) if mutants else math.nan
    middle = float(np.median([m["naming"] for m in mutants])) if mutants else math.nan
    others = len(missed) - len(later) - len(silent)
    rest = [f"later for {len(later)}"] if later else []
    rest += [f"not among those named for {others}"] if others else []
    rest += [f"not named, nor any other, for {len(silent)}"] if silent else []
    said = (
        "What a broken estimator looks like is said by name_causes, likeliest first. What comes first is the true"
        f" cause for {len(hit)} of {len(mutants)} ({percent(share, 2)})"
        + (f"; it comes {listed(rest)}" if later else f"; it is {listed(rest)}" if rest else "")
        + f". It takes {duration(middle)} in the median. It does not read the code: different mistakes may have one"
        " mean, and it says what that mean is consistent with."
    )
    shown = [ruled(columns, [("", rows)], "Where the true cause is not the one named first.")] if rows else []
    return [text(said), *shown]


def first_words(mutant: Json) -> str:
    """What is said first, in at most so many letters."""
    words = mutant["named"][0]["words"] if mutant["named"] else "nothing"
    return words if len(words) <= LETTERS else words[:LETTERS].rsplit(" ", 1)[0] + " …"


def held_out(found: Json) -> list[Block]:
    """Mutants that the causes were not made for."""
    if not found["held_out"]:
        return []
    columns = [("Name", "left", "auto"), ("Mistake", "left", "1fr"), ("True cause", "left", "auto")]
    columns += [("Named first", "left", "auto")]
    mutants = [m for m in found["held_out"] if not m["equivalent"]]
    lost = [m for m in mutants if not m["killed"]]
    other = [m for m in mutants if m["killed"] and not true_first(m)]
    parts = [
        (head, [[m["name"], mistake(m), m["cause"], said_first(m)] for m in own])
        for head, own in (("Not found", lost), ("Found, and another cause is named first", other))
        if own
    ]
    return [
        text(
            "Corpus, checks and causes grew together, so that a full score says little about the next mistake. Further"
            " mistakes were therefore written before they were tried, with their labels, in three sets: two from the"
            " list of historic mistakes, by an author who had read the terms that name_causes compares, and one by an"
            " author who had not.",
            blind() + " The third set tells most of what to expect of the next mistake.",
            "What is measured here is after a revision that followed each set, and no longer blind.",
        ),
        text(
            f"Of {len(mutants)}, {both(mutants)}.",
            "The checks look at the mean and at what every estimator has to keep to. A mistake that changes only the"
            " variance, such as a baseline that is added where it should be taken off, breaks none of that: it is for"
            " baselines, where hold compares variances with those that were saved.",
        ),
        *([ruled(columns, parts, "Those held out that were not found, or not named.")] if parts else []),
    ]


def true_first(mutant: Json) -> bool:
    """Whether the true cause is the first that is named."""
    return said_first(mutant) == mutant["cause"]


def said_first(mutant: Json) -> str:
    """The cause that is named first, or a dash."""
    return str(mutant["named"][0]["label"]) if mutant["named"] else ABSENT


def healthy(found: Json) -> list[Block]:
    """The catalogue."""
    if not found["healthy"]:
        return [text("The healthy estimators were left out of this quick run.")]
    columns = [("Estimator", "left", "1fr"), ("Passed", "right", "auto"), ("Skipped", "right", "auto")]
    columns += [("Not decided", "right", "auto"), ("Declared", "right", "auto"), ("Alarms", "right", "auto")]
    columns += [("Causes", "right", "auto"), ("s", "right", "auto")]
    rows = [
        [
            h["estimator"],
            *(
                count(h["counts"][k]) if h["counts"][k] else muted(ABSENT)
                for k in ("passed", "skipped", "inconclusive", "expected failure")
            ),
            {"text": listed(h["failed"]), "tone": "bad"} if h["failed"] else muted("none"),
            {"text": listed(h["named"]), "tone": "bad"} if h["named"] else muted("none"),
            f"{h['seconds']:.1f}",
        ]
        for h in found["healthy"]
    ]
    total = sum(sum(h["counts"].values()) - h["counts"]["skipped"] for h in found["healthy"])
    alarms = found["summary"]["alarms"]
    return [
        text(
            f"{plural(total, 'check')} were run on {plural(len(rows), 'healthy estimator')}, on all laws that each is"
            f" for, with {plural(alarms, 'alarm') if alarms else 'no alarm'}. For each estimator an alarm comes with a"
            f" probability of at most {rate(found['alpha'])}. Skipped: the check does not apply. Not decided: the noise"
            f" of {count(found['draws'])} draws leaves it open, which fails nothing. Declared: a failure by"
            " definition, which has to come, since estimators that drop a gradient have a dead path. Causes: what"
            " name_causes says is wrong."
        ),
        {
            **table(columns, [("", rows)], "The catalogue of healthy estimators under the same checks, on all laws."),
            "whole": True,
        },
    ]


def equivalent(found: Json) -> list[Block]:
    """Mutants that are no mistakes."""
    own = [m for m in found["mutants"] if m["equivalent"]]
    if not own:
        return []
    columns = [("Name", "left", "auto"), ("Change", "left", "1fr"), ("Why it is none", "left", "1fr")]
    columns += [("Points", "right", "auto"), ("Largest gap", "right", "auto")]
    rows = [
        [
            m["name"],
            mistake(m),
            m["equivalent"].replace(" - ", " − "),
            count(m["same"]["points"]),
            "0" if not m["same"]["gap"] else power_of_ten(math.ceil(math.log10(m["same"]["gap"]))),
        ]
        for m in own
    ]
    killed = [m["name"] for m in own if m["killed"]]
    return [
        text(
            "A change that keeps the law of the estimator cannot be found, and must not be. The argument was checked:"
            " mean, variance and third moment of every gradient were summed over all outcomes of the random numbers,"
            " and compared with those of the healthy estimator.",
            f"Found all the same: {listed(killed)}." if killed else "No check fails.",
        ),
        ruled(columns, [("", rows)], "Equivalent changes; gaps of moments relative to the largest."),
    ]


def measured(found: Json) -> list[Block]:
    """How."""
    return [
        text(
            f"Each call of check_estimator has a false-alarm rate of {rate(found['alpha'])}, shared equally by its"
            f" statistical checks, which draw at most {count(found['draws'])} replicates; where random numbers can be"
            " summed, means are compared exactly and no test is made. Problems, laws and seed are the defaults. What"
            " claims to be biased is held to the mean of the healthy implementation (like=)."
        ),
        text(
            "Times are those of a processor. What several checks share, such as the truths of the default points, is"
            " computed once in a process and counted where it is needed first. The whole analysis took"
            f" {duration(found['seconds'])} of a processor. Measured again with the same versions, all numbers but the"
            " times are the same."
        ),
    ]


def corpus(found: Json) -> tuple[str, Block]:
    """Every mutant: what is wrong, and what finds it."""
    columns = [("Name", "left", "auto"), ("Mistake", "left", "1.8fr"), ("Cause", "left", "auto")]
    columns += [("Found first by", "left", "1fr"), ("Draws", "right", "auto"), ("s", "right", "auto")]
    parts = []
    every = [*found["mutants"], *found["held_out"]]
    for theme in dict.fromkeys(m["theme"] for m in every):
        rows = [
            [m["name"], mistake(m), cause(m), found_by(m), draws(m), f"{m['seconds']:.2f}"]
            for m in every
            if m["theme"] == theme
        ]
        head = found["themes"][theme].strip().splitlines()[0].rstrip(".")
        held = theme in {m["theme"] for m in found["held_out"]}
        parts.append((f"Held out: {head[0].lower()}{head[1:]}" if held else head, rows))
    return "The corpus", ruled(
        columns,
        parts,
        "Every broken estimator: its mistake, with the public issue that it comes from, if any; the cause that a"
        " diagnosis should name; the first check that fails; the replicates that this took, or “sure” where no chance"
        " was involved; and the processor time until then, in seconds. A cause on yellow: another one, or none, is"
        " named first. On red: no check fails.",
    )


def cause(mutant: Json) -> Any:
    """The true cause, in colour where another one is named first."""
    return mutant["cause"] if true_first(mutant) or mutant["equivalent"] else {"text": mutant["cause"], "tone": "open"}


def found_by(mutant: Json) -> Any:
    """The first check that fails."""
    if mutant["first"]:
        return column(mutant["first"])
    return muted("equivalent") if mutant["equivalent"] else {"text": "not found", "tone": "bad"}


def render(found: Json) -> bytes:
    """The PDF."""
    tone, headline, lines = verdict(found)
    facts = [("Broken", count(found["summary"]["mutants"])), ("Checks", count(len(found["checks"])))]
    facts += [("Healthy", count(len(found["healthy"])))] if found["healthy"] else []
    facts += [("False-alarm rate", rate(found["alpha"])), ("Measured in", duration(found["seconds"]))]
    study = Study(
        kind="mutation",
        title="Would it notice?",
        subtitle="A corpus of broken estimators: what finds them, how soon, and whether the cause is named",
        created=found["created"],
        results=json.dumps(found, sort_keys=True),
        command=found["command"],
        facts=facts,
        tone=tone,
        headline=headline,
        lines=[("", lines)],
        appendix=corpus(found),
        environment=found["environment"],
    )
    study.sections = [
        ("The question", question(study, found)),
        ("What each check finds", checks(study, found)),
        ("How many draws it takes", replicates(found)),
        ("Is the cause named?", named(found)),
        ("Mistakes that were held out", held_out(found)),
        ("Equivalent changes", equivalent(found)),
        ("Healthy estimators", healthy(found)),
        ("How it was measured", measured(found)),
    ]
    return study.render()
