"""A diagnosis as the data of the report's pages.

`build` returns the JSON data for `report.typ` and the figures it names. The data are sections of blocks (paragraph,
figure, table, matrix, heading); the template knows how a block looks and nothing of what it says. Every sentence with
a number or a comparison is computed here from the diagnosis.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from estimator_lab.report import figures
from estimator_lab.report.figures import decibel, detectable, estimate, group_name, groups, relative_variance, total
from estimator_lab.report.legible import legible
from estimator_lab.report.rounding import ABSENT, count, p_value, rounded

if TYPE_CHECKING:
    from estimator_lab.diagnosis import Diagnosis
    from estimator_lab.finding import Finding, Row
    from estimator_lab.statistics import Estimate

Block = dict[str, Any]
FEW = 3  # problems up to which each gets its own figures; beyond, figures show all problems at once
LONG = 1500  # most lines in the table of every group
SECTIONS = 14  # most problems with a page of their own
NOTES = 40
TONES = {"unbiased within": "good", "exact": "good", "undecided": "open", "biased": "bad", "biased beyond": "bad"}
WORDS = {
    "unbiased within": "within",
    "exact": "exact",
    "undecided": "undecided",
    "biased": "biased",
    "biased beyond": "beyond",
}


@dataclasses.dataclass
class Pages:
    """The data of the template and the figures it names, in order of appearance."""

    data: dict[str, Any] = dataclasses.field(default_factory=dict)
    figures: dict[str, Figure] = dataclasses.field(default_factory=dict)


# ---------------------------------------------------------------------------------------------------- words
def standing(finding: Finding) -> str:
    """How a finding stands to a claim: "as claimed", "violated", "undecided", "no bias found" or "no claim"."""
    if finding.claim is None:
        return "no claim"
    if finding.verdict.startswith("biased"):
        return "violated" if finding.claim else "as claimed"
    if finding.verdict in ("unbiased within", "exact"):
        return "as claimed" if finding.claim else "no bias found"
    return "undecided"


def _listed(items: Iterable[str], most: int = 12) -> str:
    """A, B and C; beyond `most` the rest is counted."""
    names = list(items)
    if len(names) > most:
        names = [*names[:most], f"{len(names) - most} more"]
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1] if names else "none"


def _plural(number: int, noun: str, many: str = "") -> str:
    return f"{count(number)} {noun if number == 1 else many or noun + 's'}"


def _amount(number: float, noun: str) -> str:
    many = noun + ("es" if noun.endswith("s") else "s")
    return f"{rounded(number)} {noun if number == 1 else many}"


def _error(found: Estimate | None) -> float:
    """A standard error off a 95 % interval; for an interval that ends at zero, off its upper part."""
    if found is None or not (math.isfinite(found.low) and math.isfinite(found.high)):
        return math.nan
    return max(found.high - found.low, found.high - found.value) / 3.92


def _value(row: Row | None, key: str, scale: float = 1.0) -> str:
    found = None if row is None else row.statistics.get(key)
    return ABSENT if found is None else rounded(scale * found.value, scale * _error(found))


def _bias_interval(row: Row | None) -> str:
    """The simultaneous interval of the relative bias, in per cent."""
    if row is None or math.isnan(row.low) or math.isnan(row.high):
        return ABSENT
    if row.low == row.high:
        return rounded(100 * row.low)
    error = 100 * (row.high - row.low) / 3.92
    return f"{rounded(100 * row.low, error)} to {rounded(100 * row.high, error)}"


def _decibels(row: Row | None) -> str:
    value, low, high = (decibel(v) for v in figures.signal_to_noise(row))
    if value == -math.inf:
        return "not resolved"
    if value == math.inf:
        return "no noise"
    error = (high - low) / 3.92 if math.isfinite(high - low) else math.nan
    return rounded(value, error)


def _percent(value: float) -> str:
    return f"{rounded(100 * value)} %" if math.isfinite(value) else "an unknown share"


def _bias_words(row: Row | None) -> str:
    if row is None or "relative_bias" not in row.statistics or math.isnan(row.statistics["relative_bias"].value):
        return "relative bias not estimable"
    interval = _bias_interval(row)
    spread = f" ({interval})" if interval != ABSENT else ""
    return f"relative bias {_value(row, 'relative_bias', 100)} %{spread}"


def _worst(finding: Finding) -> Row | None:
    """The tested group with the strongest evidence of bias, ties by the larger relative bias."""
    rows = groups(finding)

    def strength(row: Row) -> tuple[float, float]:
        value = estimate(row, "relative_bias")[0]
        return (row.p_holm if not math.isnan(row.p_holm) else 1.0, -value if not math.isnan(value) else 0.0)

    return min(rows, key=strength, default=None)


# ---------------------------------------------------------------------------------------------------- blocks
def _text(*sentences: str) -> Block:
    return {"kind": "text", "body": " ".join(s for s in sentences if s), "sticky": False}


def _bound(blocks: list[Block]) -> list[Block]:
    """Text that introduces a figure or a table stays on its page."""
    for block, following in zip(reversed(blocks[:-1]), reversed(blocks[1:]), strict=True):
        if block["kind"] == "text":
            block["sticky"] = following["kind"] in ("figure", "table") or following.get("sticky", False)
    return blocks


def _chip(word: str) -> dict[str, str]:
    return {"text": WORDS.get(word, word), "tone": TONES.get(word, "plain")}


def _stand(finding: Finding) -> dict[str, str]:
    word = standing(finding)
    return {"text": word, "tone": "alarm" if word == "violated" else "plain"}


def _table(
    columns: Sequence[tuple[str, str, str]], parts: Sequence[tuple[str, Sequence[Sequence[Any]]]], caption: str
) -> Block:
    """A table: columns (head, alignment, width), and parts (name or "", lines)."""
    return {
        "kind": "table",
        "columns": [{"head": h, "align": a, "width": w} for h, a, w in columns],
        "parts": [{"name": n, "rows": [list(r) for r in rows]} for n, rows in parts],
        "caption": caption,
    }


class _Album:
    """Names the figures in order of appearance."""

    def __init__(self) -> None:
        self.figures: dict[str, Figure] = {}

    def add(self, drawn: Any, alt: str, caption: str) -> Block:
        figure = drawn if isinstance(drawn, Figure) else drawn.get_figure(root=True)
        name = f"figure-{len(self.figures) + 1}.svg"
        self.figures[name] = figure
        return {"kind": "figure", "file": name, "alt": alt, "caption": caption}


class _Story:
    """One diagnosis, indexed."""

    def __init__(self, diagnosis: Diagnosis) -> None:
        self.diagnosis = diagnosis
        self.findings = _distinct(diagnosis.findings)
        self.problems = list(dict.fromkeys(f.problem_label for f in self.findings))
        self.estimators = list(dict.fromkeys(f.estimator_label for f in self.findings))
        self.album = _Album()
        self.margin, self.alpha = diagnosis.margin, diagnosis.alpha
        self.many = len(self.problems) > FEW
        self.single = len(self.findings) == 1

    def on(self, problem: str) -> list[Finding]:
        return [f for f in self.findings if f.problem_label == problem]

    def by(self, estimator: str) -> list[Finding]:
        return [f for f in self.findings if f.estimator_label == estimator]


def _distinct(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """The findings with detailed verdicts, and the full repr as label wherever two things share a short one."""
    estimators = Counter(label for label, _ in {(f.estimator_label, f.estimator) for f in findings})
    problems = Counter(label for label, _ in {(f.problem_label, f.problem) for f in findings})
    return tuple(
        dataclasses.replace(
            f,
            estimator_label=f.estimator if estimators[f.estimator_label] > 1 else f.estimator_label,
            problem_label=f.problem if problems[f.problem_label] > 1 else f.problem_label,
            verdict=figures.word(f),
        )
        for f in findings
    )


# ---------------------------------------------------------------------------------------------------- verdict
def _headline(s: _Story) -> tuple[str, str]:
    stands = Counter(standing(f) for f in s.findings)
    if not s.findings:
        return "open", "Nothing was measured."
    if s.single:
        f = s.findings[0]
        name = f"{f.estimator_label} on {f.problem_label}"
        said = {True: "against its claim", False: "as declared", None: "no claim was made"}[f.claim]
        if f.verdict == "biased beyond":
            return (
                "bad" if f.claim is not False else "open"
            ), f"{name}: biased by more than {_percent(s.margin)}, {said}."
        if f.verdict == "biased":
            return ("bad" if f.claim is not False else "open"), f"{name}: biased, {said}."
        if f.verdict == "exact":
            return "good", f"{name}: exact, no bias and no variance."
        if f.verdict == "unbiased within":
            tail = {True: ", as claimed", False: ", though declared biased", None: ""}[f.claim]
            return "good", f"{name}: unbiased within {_percent(s.margin)}{tail}."
        return "open", f"{name}: undecided at {_plural(f.replicates, 'replicate')}."
    claims = sum(f.claim is True for f in s.findings)
    if stands["violated"]:
        return "bad", f"{stands['violated']} of {_plural(claims, 'claim')} of unbiasedness violated."
    pending = sum(f.verdict == "undecided" for f in s.findings)
    if pending:
        return "open", f"No claim is violated; {pending} of {_plural(len(s.findings), 'pair')} undecided."
    if claims:
        return (
            "good",
            f"All {claims} claims of unbiasedness hold." if claims > 1 else "The claim of unbiasedness holds.",
        )
    biased = sum(f.verdict.startswith("biased") for f in s.findings)
    return "good", f"No claim of unbiasedness was made; {biased} of {_plural(len(s.findings), 'pair')} biased."


def _pair(f: Finding) -> str:
    return f"{f.estimator_label} on {f.problem_label}"


def _capped_lines(lines: Sequence[str], most: int) -> list[str]:
    return [*lines[:most], *([f"and {len(lines) - most} more, see the summary"] if len(lines) > most else [])]


def _verdict(s: _Story) -> dict[str, Any]:
    tone, headline = _headline(s)
    blocks: list[dict[str, Any]] = []

    def say(head: str, tone: str, lines: Sequence[str]) -> None:
        if lines:
            blocks.append({"head": head, "tone": tone, "lines": list(lines)})

    if s.single:
        f = s.findings[0]
        say("", tone, [f.words])
        blocks[-1]["lines"].append(f"All weights together: {_bias_words(total(f))}.")
    else:
        violated = [f for f in s.findings if standing(f) == "violated"]
        lines = []
        for f in violated:
            worst = _worst(f)
            where = (
                f", clearest in {group_name(worst)} (adjusted p {p_value(worst.p_holm)})" if worst is not None else ""
            )
            lines.append(f"{_pair(f)}: {_bias_words(total(f))}{where}")
        say("Claim violated", "bad", _capped_lines(lines, 6))
        sound, mixed = [], []
        for name in s.estimators:
            mine = [f for f in s.findings if f.estimator_label == name and f.claim is True]
            kept = sum(standing(f) == "as claimed" for f in mine)
            if mine and kept == len(mine):
                sound.append(name)
            elif kept:
                mixed.append(f"{name} ({kept} of {len(mine)} problems)")
        held = [f"{_listed(sound, 24)}."] if sound else []
        say("Unbiased as claimed", "good", held + ([f"In part: {_listed(mixed, 24)}."] if mixed else []))
        declared, surprising = [], []
        for name in s.estimators:
            mine = [f for f in s.findings if f.estimator_label == name and f.claim is False]
            found = sum(f.verdict.startswith("biased") for f in mine)
            if found:
                declared.append(f"{name} ({found} of {len(mine)})" if len(mine) > 1 else name)
            elif mine and not any(f.verdict == "undecided" for f in mine):
                surprising.append(name)
        many = (
            "; in brackets, on how many problems the bias was found"
            if any("(" in d and " of " in d for d in declared)
            else ""
        )
        say("Declared biased, and found so", "open", [f"{_listed(declared, 24)}{many}."] if declared else [])
        say("Declared biased, no bias found", "open", [f"{_listed(surprising, 24)}."] if surprising else [])
        free = [f for f in s.findings if f.claim is None]
        lines = [f"{_pair(f)}: {f.verdict}, {_bias_words(total(f))}" for f in free]
        say("Without a claim", "open", _capped_lines(lines, 6))
        pending = [f for f in s.findings if f.verdict == "undecided"]
        lines = []
        for f in sorted(pending, key=lambda f: -max((r.needed for r in groups(f)), default=0)):
            needed = max((r.needed for r in groups(f)), default=0)
            ask = (
                f"about {count(float(f'{needed:.1e}'))} replicates would decide it, {count(f.replicates)} were drawn"
                if needed
                else ""
            )
            lines.append(f"{_pair(f)}: {ask or 'no number of replicates is known that would decide it'}")
        say("Undecided", "open", _capped_lines(lines, 5))
    return {"tone": tone, "headline": headline, "blocks": blocks, "missed": _missed(s)}


def _missed(s: _Story) -> list[str]:
    """What the measurement could not have seen."""
    seen = [(detectable(r), r, f) for f in s.findings for r in groups(f) if 0 < detectable(r) < math.inf]
    lines = []
    if seen:
        worst, row, finding = max(seen, key=lambda t: t[0])
        middle = statistics.median(t[0] for t in seen)
        where = group_name(row) if s.single else f"{group_name(row)} of {_pair(finding)}"
        text = (
            f"With power 95 % a relative bias of {_percent(worst)} would have been found in every tested group ({where}"
            " is the least resolved)"
        )
        lines.append(text + (f"; in half of them {_percent(middle)}." if len(seen) > 2 else "."))
    random = [f for f in s.findings if f.verdict != "exact"]
    if random:
        lines.append("An event too rare to have been drawn leaves no trace in any of these numbers.")
    if len(random) > 1:
        lines.append(
            f"The {count(len(random))} pairs share one false-alarm rate: the chance that any unbiased one is called biased"
            f" anywhere in this report is at most {_percent(s.alpha)}."
        )
    noisy = [f for f in s.findings if f.truth_error > 0]
    if noisy:
        worst_truth = max(f.truth_error for f in noisy)
        on = _listed(dict.fromkeys(f.problem_label for f in noisy), 6)
        lines.append(
            f"The truth is itself estimated on {on}, with a relative standard error of up to {_percent(worst_truth)}."
        )
    return lines


# ---------------------------------------------------------------------------------------------------- sections
def _columns(s: _Story, ratios: bool) -> list[tuple[str, str, str]]:
    head = [
        ("Estimator", "left", "1fr"),
        ("Verdict", "center", "auto"),
        ("Claim", "left", "auto"),
        ("Bias (%)", "right", "auto"),
        ("interval", "right", "auto"),
        ("SNR (dB)", "right", "auto"),
        ("E cos", "right", "auto"),
    ]
    if ratios:
        head.append(("Work", "right", "auto"))
    return [*head, ("Losses", "right", "auto"), ("µs", "right", "auto")]


def _line(s: _Story, f: Finding, ratios: bool) -> list[Any]:
    row = total(f)
    found = next(
        (
            r
            for r in s.diagnosis.ratios
            if (r.problem, r.estimator, r.level) == (f.problem_label, f.estimator_label, "total")
        ),
        None,
    )
    line: list[Any] = [
        f.estimator_label,
        _chip(f.verdict),
        _stand(f),
        _value(row, "relative_bias", 100),
        {"text": _bias_interval(row), "tone": "muted"},
        _decibels(row),
        _value(row, "mean_cosine"),
    ]
    if ratios:
        reference = any((r.problem, r.reference) == (f.problem_label, f.estimator_label) for r in s.diagnosis.ratios)
        line.append("1" if reference else ABSENT if found is None else rounded(found.work.value, _error(found.work)))
    return [*line, rounded(f.losses), rounded(1e6 * f.seconds)]


def _has_ratios(s: _Story) -> bool:
    return any(r.level == "total" for r in s.diagnosis.ratios)


def _reference(s: _Story) -> str:
    return _listed(dict.fromkeys(r.reference for r in s.diagnosis.ratios))


def _legend(s: _Story) -> str:
    work = f"; work is variance times evaluations of the loss, relative to {_reference(s)}" if _has_ratios(s) else ""
    return (
        "All weights together. Bias is the relative bias, the debiased norm of the bias over the norm of the gradient,"
        " with its simultaneous interval;"
        " SNR is the squared norm of the mean over the total variance of one replicate; E cos is the mean cosine of"
        f" one replicate with the gradient{work}; losses and µs are per replicate."
    )


def _setting(s: _Story) -> str:
    drawn = sorted({f.replicates for f in s.findings})
    amount = count(drawn[0]) if len(drawn) == 1 else f"{count(drawn[0])} to {count(drawn[-1])}"
    dtypes = _listed(dict.fromkeys(f.dtype for f in s.findings))
    exact = sum(f.truth_error == 0 for f in s.findings)
    truth = (
        "exact"
        if exact == len(s.findings)
        else "estimated"
        if exact == 0
        else f"exact for {exact} of {len(s.findings)} pairs, estimated for the others"
    )
    return (
        f"Each estimate was drawn {amount} times ({dtypes}) at fixed weights and a fixed batch, and its mean held"
        f" against the true gradient, which is {truth}."
    )


def _summary(s: _Story) -> list[Block]:
    ratios = _has_ratios(s)
    out = [
        _text(
            _setting(s),
            f"A group counts as unbiased within the margin when a bias of {_percent(s.margin)} of its gradient is ruled"
            f" out at level {rounded(s.alpha)}, simultaneously for all groups of this report.",
        )
    ]
    if not s.many:
        parts = [(p if len(s.problems) > 1 else "", [_line(s, f, ratios) for f in s.on(p)]) for p in s.problems]
        out.append(_table(_columns(s, ratios), parts, _legend(s)))
        return out
    cells = {(f.estimator_label, f.problem_label): f for f in s.findings}
    for start in range(0, len(s.problems), 12):
        across = s.problems[start : start + 12]
        rows = []
        for name in s.estimators[:40]:
            row: list[Any] = []
            for p in across:
                f = cells.get((name, p))
                if f is None:
                    row.append(None)
                    continue
                value = "0" if f.verdict == "exact" else rounded(100 * estimate(total(f), "relative_bias")[0], most=2)
                tone = "alarm" if standing(f) == "violated" else TONES.get(f.verdict, "plain")
                row.append(
                    {"value": value, "word": WORDS.get(f.verdict, f.verdict).replace("undecided", "open"), "tone": tone}
                )
            claims = {f.claim for f in s.by(name)}
            claim = {True: "unbiased", False: "biased", None: "none"}[claims.pop()] if len(claims) == 1 else "mixed"
            rows.append({"name": name, "claim": claim, "cells": row})
        left = (
            f" {len(s.estimators) - 40} of {len(s.estimators)} estimators are left out."
            if len(s.estimators) > 40
            else ""
        )
        missing = sum(c is None for r in rows for c in r["cells"])
        blank = (
            f" A dash marks the {missing} pairs that were not measured, as where an estimator does not apply to a"
            " family."
            if missing
            else ""
        )
        caption = (
            "Relative bias (%) of all weights together, and the verdict over all groups: within the margin, exact,"
            " open (undecided), biased (by an unresolved amount), beyond (the margin). A filled cell violates a claim"
            f" of unbiasedness.{blank}{left}"
        )
        out.append({"kind": "matrix", "across": across, "rows": rows, "caption": caption})
    return out


FOREST = (
    "Open markers: no bias found; filled: one was found, however small. The shaded band is the margin; the scale is"
    " linear inside it and logarithmic outside. "
)
FLOOR = "The grey tick is the noise floor, what the norm of the mean error would read for an unbiased estimator."


def _bias_caption(s: _Story, what: str) -> str:
    return f"Relative bias {what}, with intervals that are simultaneous over the groups of a pair. {FOREST}{FLOOR}"


def _bias_sentence(findings: Sequence[Finding], margin: float) -> str:
    flagged = [(f, r) for f in findings for r in groups(f) if figures.shows_bias(r)]
    tested = sum(len(groups(f)) for f in findings)
    if not flagged:
        return f"None of the {_plural(tested, 'tested group')} shows a bias."
    sizes = [(estimate(r, "relative_bias")[0], f, r) for f, r in flagged]
    worst, f, r = max(sizes, key=lambda t: (not math.isnan(t[0]), t[0]))
    owner = f"{group_name(r)} of {f.estimator_label}" if len({g.estimator for g in findings}) > 1 else group_name(r)
    return (
        f"A bias was found in {len(flagged)} of {_plural(tested, 'tested group')}; the largest is {_percent(worst)}, in"
        f" {owner}."
    )


def _bias_section(s: _Story) -> list[Block]:
    if s.single:
        f = s.findings[0]
        return [
            _text(_bias_sentence([f], s.margin)),
            s.album.add(
                figures.bias(f, margin=s.margin),
                f"Relative bias of each group of {_pair(f)}, with intervals.",
                _bias_caption(s, "of every tested group"),
            ),
        ]
    out: list[Block] = []
    for p in s.problems:
        mine = s.on(p)
        if len(s.problems) > 1:
            out.append({"kind": "heading", "body": p, "page": False})
        out.append(_text(_bias_sentence(mine, s.margin)))
        drawn: Any = figures.bias(mine[0], margin=s.margin) if len(mine) == 1 else figures.bias_by_group(mine, s.margin)
        out.append(
            s.album.add(
                drawn,
                f"Relative bias of each estimator in each group of {p}, with intervals.",
                _bias_caption(s, f"on {p}, a panel for each group"),
            )
        )
    return out


def _problem_section(s: _Story) -> list[Block]:
    """Overview: a table and a figure for every problem."""
    out: list[Block] = [_text(f"Intervals and verdicts by group, for each problem. {FOREST}{FLOOR}")]
    ratios = _has_ratios(s)
    shown, left = figures.capped(s.problems, SECTIONS, "problems")
    for p in shown:
        mine = s.on(p)
        truths = _listed(dict.fromkeys(f.truth for f in mine), 3)
        out.append({"kind": "heading", "body": p, "page": len(mine) > 8 and p != shown[0]})
        out.append(_text(f"Truth: {truths}.", _bias_sentence(mine, s.margin)))
        out.append(
            _table(_columns(s, ratios), [("", [_line(s, f, ratios) for f in mine])], f"{p}: all weights together.")
        )
        drawn: Any = (
            figures.bias(mine[0], margin=s.margin)
            if len(mine) == 1
            else figures.bias_by_group(mine, s.margin, panels=4)
        )
        out.append(
            s.album.add(
                drawn,
                f"Relative bias of each estimator in each group of {p}, with intervals.",
                f"{p}: relative bias by group, with intervals.",
            )
        )
    if left:
        out.append(_text(f"{left} here; their numbers are in the table of every group."))
    return out


def _convergence_section(s: _Story) -> list[Block]:
    measured = [f for f in s.findings if f.curves]
    if not measured:
        return [_text("No convergence curve was recorded.")]
    out: list[Block] = []
    stopped: list[float] = []
    falling: list[float] = []
    seen = 0
    for f in measured:
        slope = _last_slope(f)
        if slope is None:
            continue
        seen += 1
        (stopped if slope > -0.25 else falling).append(slope)
    law = "The error of an unbiased mean falls as n to the power −½; a biased one stops at its bias."
    if seen and not s.single:
        law += (
            f" Over the last factor of four in n, {len(falling)} of {_plural(seen, 'curve')} still fall with a slope"
            f" under −¼ and {len(stopped)} have levelled off."
        )
    elif seen:
        law += (
            " Over the last factor of four in n the slope of the whole gradient's curve is"
            f" {rounded((falling + stopped)[0], 0.05)}."
        )
    out.append(_text(law))
    caption = (
        "Relative error of the mean of n replicates: root mean square over disjoint stretches of the run, with their"
        " 10 to 90 % range as band; the dashed line has"
        " slope −½."
    )
    if s.single:
        drawn: Any = figures.convergence(s.findings[0])
    elif s.many:
        drawn = figures.convergence_by_problem(measured)
        caption = (
            "Relative error of the mean of n replicates, all weights together, a curve for each estimator; the dashed"
            " line has slope −½."
        )
    else:
        drawn = figures.convergence_by_estimator(measured)
        caption = (
            "Relative error of the mean of n replicates, all weights together: root mean square over disjoint stretches"
            " of the run, with their 10 to 90 % range as band; the dashed line has slope −½."
        )
    out.append(
        s.album.add(drawn, "Relative error of the mean against the number of replicates, on logarithmic axes.", caption)
    )
    return out


def _last_slope(finding: Finding) -> float | None:
    """Log-log slope of the curve of all weights over its last factor of four; None where it has no such stretch."""
    curve = finding.curves.get("total") or next(iter(finding.curves.values()), None)
    if curve is None:
        return None
    points = [(n, e) for n, e in zip(curve.n, curve.error, strict=True) if n > 0 and math.isfinite(e) and e > 0]
    before = [p for p in points if points and p[0] * 3.9 <= points[-1][0]]
    if not before:
        return None
    (n0, e0), (n1, e1) = before[-1], points[-1]
    return math.log(e1 / e0) / math.log(n1 / n0)


def _layer_section(s: _Story) -> list[Block]:
    if s.single:
        f = s.findings[0]
        snr = [(estimate(r, "snr")[0], r) for r in groups(f) if math.isfinite(estimate(r, "snr")[0])]
        noise = ""
        if snr:
            low, high = min(snr, key=lambda t: t[0]), max(snr, key=lambda t: t[0])
            noise = (
                f"The signal-to-noise ratio of one replicate is lowest in {group_name(low[1])} ({_decibels(low[1])} dB)"
            )
            noise += (
                f" and highest in {group_name(high[1])} ({_decibels(high[1])} dB)." if low[1] is not high[1] else "."
            )
        return [
            _text(noise or "No group has a finite signal-to-noise ratio."),
            s.album.add(
                figures.spread(f),
                "Signal-to-noise ratio of one replicate in each group, with intervals.",
                "Signal-to-noise ratio of one replicate by group, with intervals.",
            ),
        ]
    out = [
        _text(
            "Where an estimator is wrong, and where it is merely noisy: relative bias (the colour turns at the margin)"
            " and signal-to-noise ratio of a single replicate, by group."
        )
    ]
    batches = [s.findings] if len(s.problems) <= 1 or s.many else [tuple(s.on(p)) for p in s.problems]
    for batch in batches:
        on = f" on {batch[0].problem_label}" if len(batches) > 1 else ""
        out.append(
            s.album.add(
                figures.heat_maps(batch, s.margin),
                f"Heat maps of relative bias and signal-to-noise ratio by estimator and group{on}.",
                f"a, relative bias (%){on}. b, signal-to-noise ratio of one replicate (dB); < 0 in a cell: the signal"
                " is not resolved, ∞: no variance. A dot is a group that the estimator does not have, a cross a value"
                " that is not estimable.",
            )
        )
    return out


def _unit_section(s: _Story) -> list[Block]:
    every = [(f, site) for f in s.findings for site in f.units]
    still: dict[str, None] = {}  # neither error nor noise in any unit: nothing to draw
    maps = []
    for f, site in every:
        if np.isnan(figures.standardised(f, site)).all():
            still[f.estimator_label] = None
        else:
            maps.append((f, site))
    if not maps:
        return [_text("No unit gradient has an error or a noise." if every else "No unit gradients were recorded.")]
    blank = f" Not drawn, for want of error and noise: {_listed(still, 6)}." if still and not s.single else ""
    if s.single:
        panels = [(f, site, site) for f, site in maps]
    elif s.many:
        sizes: dict[tuple[str, str], int] = {}
        for f, site in maps:
            key = f.problem_label, site
            sizes[key] = max(sizes.get(key, 0), f.units[site].mean.size)
        chosen = max(sizes, key=lambda key: sizes[key])
        panels = [(f, site, f.estimator_label) for f, site in maps if (f.problem_label, site) == chosen]
    else:
        first = {p: next((site for f, site in maps if f.problem_label == p), "") for p in s.problems}
        panels = [(f, site, f.estimator_label) for f, site in maps if site == first[f.problem_label]]
    out: list[Block] = []
    batches: dict[str, list[tuple[Finding, str, str]]] = {}
    for panel in panels:
        batches.setdefault(panel[0].problem_label, []).append(panel)
    for problem, batch in batches.items():
        peaks = []
        for f, site, title in batch:
            t = abs(figures.standardised(f, site))
            t = t[t == t]
            if t.size:
                peaks.append((float(t.max()), int(t.size), title))
        where = "" if len({b[1] for b in batch}) > 1 else f" Site {batch[0][1]}"
        uncertain = " The error of the truth is not part of it." if any(f.truth_error > 0 for f, _, _ in batch) else ""
        where += f" of {problem}." if where and len(s.problems) > 1 else "." if where else ""
        sentence = ""
        if peaks:
            number, peak = sum(p[1] for p in peaks), max(peaks)
            expected = statistics.NormalDist().inv_cdf(
                (1 + 0.5 ** (1 / number)) / 2
            )  # median of the largest of n |N(0, 1)|
            size = "without bound (a unit is off without any noise)" if math.isinf(peak[0]) else rounded(peak[0], 0.3)
            among = (
                "value of an unbiased estimator"
                if number == 1
                else f"of {count(number)} independent values of unbiased estimators"
            )
            on = f"On {problem}, the" if len(batches) > 1 else "The"
            sentence = (
                f"{on} largest |t| is {size}, in {peak[2]}; the largest {among} would be about"
                f" {rounded(expected, 0.3)}."
            )
        out.append(_text(sentence))
        if all(f.units[site].mean.size == 1 for f, site, _ in batch):
            continue  # a single value is no map
        out.append(
            s.album.add(
                figures.unit_maps(batch),
                f"Standardised bias of every unit and example{' on ' + problem if len(s.problems) > 1 else ''}.",
                f"Standardised bias t of each unit's gradient, clipped at ± 6, by unit and example.{where} An unbiased"
                " estimator leaves noise without a pattern; a white cell has neither error nor"
                f" noise.{blank}{uncertain}",
            )
        )
    return out


def _cost_section(s: _Story) -> list[Block]:
    per = "losses" if len({f.losses for f in s.findings}) > 2 else "seconds"
    if s.single:
        f = s.findings[0]
        value = relative_variance(total(f))[0]
        price = (
            f"A replicate costs {_amount(f.losses, 'evaluation')} of the loss, {_amount(f.backwards, 'backward pass')}"
            f" and {rounded(1e6 * f.seconds)} µs."
        )
        if value == 0:
            return [_text(price, "It has no variance: one replicate is enough.")]
        if not math.isfinite(value):
            return [_text(price, "Its relative variance is not estimable.")]
        need = value / 0.01**2
        noise = (
            f"Its variance is {rounded(value)} times the squared norm of the gradient, so that a noise of 1 % takes"
            f" {count(float(f'{need:.1e}'))} replicates, {_duration(need * f.seconds)} of work here."
        )
        return [_text(price, noise)]
    out: list[Block] = []
    if s.many:
        table = figures.work(s.findings)
        best: Counter[str] = Counter()
        for name, pairs in table.items():
            best[name] += sum(v == 1 for v, _ in pairs)
        name, wins = best.most_common(1)[0]
        out.append(
            _text(
                f"Work is variance times evaluations of the loss: the price of a given noise. {name} has the least on"
                f" {wins} of {_plural(len(s.problems), 'problem')}."
                if wins
                else "Work is variance times evaluations of the loss: the price of a given noise."
            )
        )
        out.append(
            s.album.add(
                figures.cost_strip(s.findings),
                "Work of each estimator relative to the least on the same problem.",
                "Work of each estimator, relative to the least on the same problem; a marker for each problem, the bar"
                " is the median. A biased estimator may be cheap and wrong.",
            )
        )
        return out
    for p in s.problems:
        out.append(_text(_cheapest(s.on(p), p)))
    words = "evaluations of the loss" if per == "losses" else "time"
    drawn: Any = figures.cost(s.findings, per=per) if len(s.problems) == 1 else figures.cost_panels(s.findings, per)
    out.append(
        s.album.add(
            drawn,
            f"Relative variance of one replicate against {words} per replicate, on logarithmic axes.",
            f"Variance of one replicate relative to the squared norm of the gradient, with intervals, against {words}"
            " per replicate. Along a dashed line the work is the same; a filled marker is a biased estimator.",
        )
    )
    if s.diagnosis.ratios:
        parts: dict[str, list[list[Any]]] = {}
        for r in s.diagnosis.ratios:
            if r.level != "total" or r.estimator == r.reference:
                continue
            line: list[Any] = [r.estimator, r.reference]
            for e in (r.variance, r.work):
                spread = ABSENT if math.isnan(e.low) else f"{rounded(e.low, _error(e))} to {rounded(e.high, _error(e))}"
                line += [rounded(e.value, _error(e)), {"text": spread, "tone": "muted"}]
            parts.setdefault(r.problem, []).append(line)
        if parts:
            out.append(
                _table(
                    [
                        ("Estimator", "left", "1fr"),
                        ("against", "left", "auto"),
                        ("Variance ratio", "right", "auto"),
                        ("interval", "right", "auto"),
                        ("Work ratio", "right", "auto"),
                        ("interval", "right", "auto"),
                    ],
                    [(p if len(parts) > 1 else "", lines[: figures.LINES]) for p, lines in parts.items()],
                    "Ratios to a reference, all weights together, with 95 % intervals; below one is better. Work is"
                    " variance times evaluations of the loss.",
                )
            )
    return out


def _duration(seconds: float) -> str:
    for unit, size in (("hours", 3600.0), ("minutes", 60.0), ("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{rounded(seconds / size, most=2)} {unit}"
    return "less than 1 µs"


def _cheapest(findings: Sequence[Finding], problem: str) -> str:
    """Which estimator has the least work among those without a bias found, and among all."""
    products = [(relative_variance(total(f))[0] * f.losses, f) for f in findings]
    usable = [(w, f) for w, f in products if math.isfinite(w) and w > 0]
    if len(usable) < 2:
        return f"On {problem} fewer than two estimators have a variance to compare."
    sound = [(w, f) for w, f in usable if not f.verdict.startswith("biased")]
    least, finding = min(usable, key=lambda t: t[0])
    text = f"On {problem}, {finding.estimator_label} needs the fewest evaluations of the loss for a given noise"
    if finding.verdict.startswith("biased") and sound:
        work, other = min(sound, key=lambda t: t[0])
        return (
            f"{text}, but is biased; among those without a bias found it is {other.estimator_label}, at"
            f" {rounded(work / least, most=2)} times that."
        )
    second, other = min((t for t in usable if t[1] is not finding), key=lambda t: t[0])
    return f"{text}; {other.estimator_label} follows at {rounded(second / least, most=2)} times that."


def _resolution_section(s: _Story) -> list[Block]:
    rows = [(f, r) for f in s.findings for r in groups(f)]
    able = [detectable(r) for _, r in rows if 0 < detectable(r) < math.inf]
    if not able:
        return [_text("No group has a noise that would limit what can be seen.")]
    fine = sum(d <= s.margin for d in able)
    text = (
        f"A group without a finding is not thereby unbiased. In {fine} of {_plural(len(able), 'noisy group')} a bias of"
        f" the margin, {_percent(s.margin)}, would have been found with power 95 %."
    )
    pending = sorted(((r.needed, f, r) for f, r in rows if r.needed > 0), key=lambda t: -t[0])
    out = [_text(text)]
    out.append(
        s.album.add(
            figures.resolution(s.findings, margin=s.margin),
            "Smallest relative bias that would have been found, on a logarithmic axis.",
            "Smallest relative bias that the test would have found with power 95 %,"
            f" {'by group' if s.single else 'a marker for each tested group; the bar is the median'}.",
        )
    )
    if pending:
        shown, left = figures.capped(pending, 15, "undecided groups")
        lines = [
            [
                *([] if s.single else [f.estimator_label, f.problem_label]),
                group_name(r),
                rounded(100 * detectable(r), most=3),
                count(f.replicates),
                count(float(f"{n:.1e}")),
                _duration(n * f.seconds),
            ]
            for n, f, r in shown
        ]
        head = [
            *([] if s.single else [("Estimator", "left", "1fr"), ("Problem", "left", "auto")]),
            ("Group", "left", "1fr" if s.single else "auto"),
            ("Detectable (%)", "right", "auto"),
            ("Replicates", "right", "auto"),
            ("Needed", "right", "auto"),
            ("Time", "right", "auto"),
        ]
        out.append(
            _table(
                head,
                [("", lines)],
                "Replicates that would decide the groups still undecided, most"
                f" first.{' ' + left + '.' if left else ''}",
            )
        )
    return out


def _truth_section(s: _Story) -> list[Block]:
    parts = []
    for p in s.problems:
        for words, error in dict.fromkeys((f.truth, f.truth_error) for f in s.on(p)):
            parts.append([p, words, "exact" if error == 0 else f"{rounded(100 * error)}"])
    noisy = sum(f.truth_error > 0 for f in s.findings)
    text = (
        f"{'Here' if s.single else f'For {noisy} of ' + _plural(len(s.findings), 'pair')} the truth is an estimate; its"
        " error is part of every test and interval, and no bias smaller than it can be seen."
        if noisy
        else "Every truth is exact: no interval in this report carries an error of the truth."
    )
    table = _table(
        [("Problem", "left", "auto"), ("Truth", "left", "1fr"), ("Relative standard error (%)", "right", "auto")],
        [("", parts)],
        "What the estimates were held against.",
    )
    return [_text(text), table]


def _long_table(s: _Story) -> Block:
    head = [
        ("Group", "left", "1fr"),
        ("Level", "left", "auto"),
        ("d", "right", "auto"),
        ("Rel. bias (%)", "right", "auto"),
        ("interval", "right", "auto"),
        ("Adj. p", "right", "auto"),
        ("SNR (dB)", "right", "auto"),
        ("cos of mean", "right", "auto"),
        ("Detect. (%)", "right", "auto"),
        ("Verdict", "center", "auto"),
    ]
    parts, used, everything = [], 0, sum(len(f.rows) for f in s.findings)
    for f in s.findings:
        if used + len(f.rows) > LONG:
            break
        used += len(f.rows)
        parts.append((_pair(f), [_long_line(r) for r in f.rows]))
    left = (
        f" {everything - used} of {count(everything)} lines are left out; the saved diagnosis has them all."
        if used < everything
        else ""
    )
    return _table(
        head,
        parts,
        "Every group. Levels: site, the unit gradients of one site; layer, the weights that feed a site; weight, one"
        f" tensor; total. Sites and layers are tested and adjusted by Holm's method within their pair.{left}",
    )


def _long_line(r: Row) -> list[Any]:
    return [
        r.name,
        r.level,
        count(r.size),
        _value(r, "relative_bias", 100),
        {"text": _bias_interval(r), "tone": "muted"},
        p_value(r.p_holm) if r.tested else ABSENT,
        _decibels(r),
        _value(r, "cosine_of_mean"),
        rounded(100 * detectable(r), most=3),
        (
            _chip(r.verdict)
            if r.tested or r.verdict in ("exact",)
            else {"text": "not tested" if r.level != "total" else WORDS.get(r.verdict, r.verdict), "tone": "muted"}
        ),
    ]


def _methods(s: _Story) -> list[dict[str, str]]:
    """What is said of each estimator; an equation is typst source only where the estimator is trusted."""
    out, seen = [], set()
    for f in s.findings:
        if f.estimator in seen:
            continue
        seen.add(f.estimator)
        about = f.about
        trusted = about.get("trusted") == "yes" and bool(about.get("equation"))
        said = {True: "declared unbiased", False: "declared biased", None: "no claim about bias"}[f.claim]
        out.append(
            {
                "name": about.get("name") or f.estimator_label,
                "repr": f.estimator,
                "math": about.get("equation", "") if trusted else "",
                "raw": "" if trusted else about.get("equation", ""),
                "reason": about.get("reason", ""),
                "source": about.get("source", ""),
                "cost": about.get("cost", ""),
                "claim": said,
            }
        )
    return out


def _notes(s: _Story) -> list[str]:
    notes: dict[str, list[str]] = {}
    for f in s.findings:
        for note in f.notes:
            notes.setdefault(note, []).append(_pair(f))
    lines = [f"{_listed(owners, 4)}: {note}" if not s.single else note for note, owners in notes.items()]
    lines += [f"Not measured: {pair}" for pair in s.diagnosis.skipped]
    return [
        *lines[:NOTES],
        *(
            [f"{len(lines) - NOTES} of {len(lines)} notes left out; the saved diagnosis has them all."]
            if len(lines) > NOTES
            else []
        ),
    ]


def _facts(s: _Story) -> list[list[str]]:
    tests = sum(r.tested for f in s.findings for r in f.rows)
    drawn = sorted({f.replicates for f in s.findings}) or [0]
    seeds = sorted({f.seed for f in s.findings})
    facts = [["Estimators", count(len(s.estimators))], ["Problems", count(len(s.problems))]] if not s.single else []
    return [
        ["Digest", s.diagnosis.digest[:8]],
        ["Date", s.diagnosis.created[:10]],
        *facts,
        ["Replicates", count(drawn[0]) if len(drawn) == 1 else f"{count(drawn[0])} – {count(drawn[-1])}"],
        ["Seed", str(seeds[0]) if len(seeds) == 1 else f"{len(seeds)} seeds"],
        ["Tests", f"{count(tests)}, Holm at {rounded(s.alpha)}"],
        ["Margin", _percent(s.margin)],
    ]


def _subtitle(s: _Story) -> str:
    if s.single:
        return _pair(s.findings[0])
    estimators = s.estimators[0] if len(s.estimators) == 1 else f"{len(s.estimators)} estimators"
    return f"{estimators} on {s.problems[0] if len(s.problems) == 1 else _plural(len(s.problems), 'problem')}"


def stamp(diagnosis: Diagnosis) -> datetime.datetime:
    """The time of the diagnosis, in UTC; noon for a bare date.

    Raises:
        ValueError: if `created` is not an ISO date.
    """
    text = diagnosis.created
    if len(text) == 10:
        text += "T12:00:00"
    moment = datetime.datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)


def _walk(value: Any) -> Any:
    if isinstance(value, str):
        return legible(value)
    if isinstance(value, Mapping):
        return {k: v if k in ("command", "raw", "math") else _walk(v) for k, v in value.items()}
    return [_walk(v) for v in value] if isinstance(value, list | tuple) else value


def build(diagnosis: Diagnosis) -> Pages:
    """The pages of a diagnosis; pure, costs a fraction of a second for each figure."""
    s = _Story(diagnosis)
    chapters: list[tuple[str, Callable[[_Story], list[Block]]]] = [("Summary", _summary)]
    if s.findings:
        if s.many:
            chapters += [("Convergence", _convergence_section), ("Variance against cost", _cost_section)]
            chapters += [
                ("Layer by layer", _layer_section),
                ("Resolution", _resolution_section),
                ("Unit by unit", _unit_section),
            ]
            chapters += [("Ground truth", _truth_section), ("Problem by problem", _problem_section)]
        else:
            chapters += [
                ("Relative bias by group", _bias_section),
                ("Convergence", _convergence_section),
                ("Layer by layer", _layer_section),
            ]
            chapters += [
                ("Unit by unit", _unit_section),
                ("Variance against cost", _cost_section),
                ("Resolution", _resolution_section),
            ]
            chapters += [("Ground truth", _truth_section)]
    sections = (
        [{"title": title, "blocks": _bound(make(s)), "page": make is _problem_section} for title, make in chapters]
        if s.findings
        else []
    )
    data = {
        "title": diagnosis.title,
        "subtitle": _subtitle(s) if s.findings else "",
        "date": diagnosis.created[:10],
        "digest": diagnosis.digest,
        "facts": _facts(s),
        "verdict": _verdict(s),
        "sections": sections,
        "methods": _methods(s),
        "margin": _percent(s.margin),
        "alpha": rounded(s.alpha),
        "all": _long_table(s) if s.findings else None,
        "notes": _notes(s),
        "environment": [[k, v] for k, v in diagnosis.environment.items()],
        "command": legible(diagnosis.command, lines=True),
    }
    walked = _walk(data)
    for method in walked["methods"]:
        method["raw"] = legible(method["raw"], lines=True)
    return Pages(walked, s.album.figures)
