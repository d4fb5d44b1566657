"""Everything at a glance: a line for each pair, or for many problems a matrix; and the problems one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from estimator_lab.report import figures
from estimator_lab.report.advice import saved
from estimator_lab.report.figures.style import capped, shortened
from estimator_lab.report.reading import (
    alike,
    blind,
    gated,
    group_name,
    groups,
    known,
    noise_floor,
    obstacles,
    relative_bias,
    shows_bias,
    total,
)
from estimator_lab.report.rounding import ABSENT, count, rounded
from estimator_lab.report.story import Block, Story, heading, muted, table, text, verdict_chip
from estimator_lab.report.wording import bias_interval, bias_percent, cosine, decibels, error, listed, percent, plural

if TYPE_CHECKING:
    from estimator_lab.finding import Finding

ACROSS, DOWN = 12, 40  # problems and estimators of one matrix
BESIDE = 40  # most lines of a table with intervals drawn beside them: it stays on one page
PROBLEMS = 14  # most problems one by one
FOREST = (
    "Open markers: no bias found; filled: one was found, however small. The shaded band is the margin; the scale is"
    " linear inside it and logarithmic outside."
)
TICK = " The grey tick is the noise floor, what the norm of the mean error would read for an unbiased estimator."


def _work(s: Story, f: Finding) -> str:
    for r in s.diagnosis.ratios:
        if (r.problem, r.level) == (f.problem_label, "total"):
            if r.estimator == f.estimator_label:
                return rounded(r.work.value, error(r.work), 3)
            if r.reference == f.estimator_label:
                return "1"
    return ABSENT


def pairs(s: Story, findings: Sequence[Finding], caption: str) -> Block:
    """The table of findings, all weights together; of several with their intervals drawn beside it."""
    columns = [("Estimator", "left", "auto"), ("Verdict", "center", "auto"), ("SNR (dB)", "right", "auto")]
    columns.append(("E cos", "right", "auto"))
    references = listed(dict.fromkeys(shortened(r.reference, 60) for r in s.diagnosis.ratios))
    if s.diagnosis.ratios:
        columns.append(("Work", "right", "auto"))
    columns += [(head, "right", "auto") for head in ("Losses", "µs", "Draws", "Bias (%)")]
    rows: list[list[Any]] = []
    for f in findings:
        row = total(f)
        line = [shortened(f.estimator_label, 34), verdict_chip(f), decibels(row), cosine(row, "mean_cosine")]
        line += [_work(s, f)] if s.diagnosis.ratios else []
        drawn = muted("exact") if f.exact else count(f.replicates)
        rows.append([*line, rounded(f.losses), rounded(1e6 * f.seconds, most=2), drawn, bias_percent(row)])
    beside = 1 < len(findings) <= BESIDE
    if not beside:
        columns.append(("interval", "right", "auto"))
        rows = [[*line, muted(bias_interval(total(f)))] for line, f in zip(rows, findings, strict=True)]
    marker = ", the marker that of all weights together" if beside else ""
    caption += f" The verdict is over all groups{marker}."
    if LEGEND in caption and any(f.exact for f in findings):
        caption += " Draws: exact where the expectation is known, so that verdict and bias rest on none."
    block = table(
        columns,
        [("", rows)],
        caption.replace("@", f"; work is relative to {references}" if references != "none" else ""),
    )
    if beside:
        alt = "Relative bias of each line of the table with its interval, in per cent."
        strip = s.file(figures.bias_column(findings, s.margin))
        block["strip"] = {"file": strip, "alt": alt, "head": "Relative bias (%)"}
    return block


LEGEND = (
    "All weights together. SNR: squared norm of the mean over the variance of one replicate; E cos: mean cosine of one"
    " replicate with the gradient; losses and µs per replicate; draws behind the verdict; bias: its debiased norm over"
    " that of the gradient, with the simultaneous interval@. White on red: a claim of unbiasedness is violated;"
    " grey: biased, as declared."
)


def summary(s: Story) -> list[Block]:
    """What was measured, and the table or matrix of all pairs."""
    drawn = sorted({f.replicates for f in s.findings})
    number = count(drawn[0]) if len(drawn) == 1 else f"{count(drawn[0])} to {count(drawn[-1])}"
    exact = sum(f.truth_error == 0 for f in s.findings)
    partly = f"exact for {exact} of {len(s.findings)} pairs, estimated for the others"
    truth = "exact" if exact == len(s.findings) else partly if exact else "estimated"
    exactly = len(s.findings) - len(s.sampled)
    owner = "this estimator" if s.single else f"{exactly} of {plural(len(s.findings), 'pair')}"
    sums = (
        f"The expectation of {owner} is known exactly: there bias, variance and verdict rest on no draw, and draws only"
        " show convergence and cost."
        if exactly
        else ""
    )
    spared = saved(s.sampled)
    early = f"{'The draws stopped early, at ' if s.single else ''}{spared}." if spared else ""
    setting = text(
        f"Each estimate was drawn {number} times ({listed(dict.fromkeys(f.dtype for f in s.findings))}) at fixed"
        f" weights and a fixed batch, and its mean held against the true gradient, which is {truth}.",
        f"A group counts as unbiased within the margin when a bias of {percent(s.margin)} of its gradient is ruled"
        f" out at level {rounded(s.alpha)}, simultaneously for all groups of this report."
        if s.sampled
        else "",
        sums,
        early,
    )
    if s.many:
        return [setting, *_matrices(s)]
    out = [setting]
    for k, p in enumerate(s.problems):
        caption = LEGEND if k == 0 else "@."
        on = f"{p}. " if len(s.problems) > 1 else ""
        out.append(pairs(s, s.on(p), on + (caption if k == 0 else f"Columns as in the table of {s.problems[0]}.")))
    return out


def _matrices(s: Story) -> list[Block]:
    """Estimators down, problems across."""
    out: list[Block] = []
    names, left = capped(s.estimators, DOWN, "estimators")
    for start in range(0, len(s.problems), ACROSS):
        across = s.problems[start : start + ACROSS]
        rows = []
        for name in names:
            mine = {f.problem_label: f for f in s.by(name)}
            claims = {f.claim for f in mine.values()}
            claim = {True: "unbiased", False: "biased", None: "none"}[claims.pop()] if len(claims) == 1 else "mixed"
            rows.append({"name": shortened(name, 60), "claim": claim, "cells": [_cell(mine.get(p)) for p in across]})
        missing = sum(c is None for r in rows for c in r["cells"])
        blank = (
            f" A dash: not measured, as where an estimator does not apply to a family ({missing} pairs)."
            if missing
            else ""
        )
        caption = (
            "Relative bias (%) of all weights together, and the verdict over all groups: within the margin, exact,"
            " open (undecided), biased (by an unresolved amount), beyond (the margin). White on red: a claim of"
            f" unbiasedness is violated; grey: biased, as declared.{blank}{f' {left}.' if left else ''}"
        )
        out.append({"kind": "matrix", "across": across, "rows": rows, "caption": caption})
    return out


def _cell(f: Finding | None) -> dict[str, str] | None:
    if f is None:
        return None
    size = "0" if f.verdict == "exact" else rounded(100 * relative_bias(total(f)), most=2)
    seen = verdict_chip(f)
    return {"value": size, "word": seen["text"].replace("undecided", "open"), "tone": seen["tone"]}


def _bias_sentence(s: Story, findings: Sequence[Finding]) -> str:
    flagged = [(f, r) for f in findings for r in groups(f) if shows_bias(r)]
    number = sum(len(groups(f)) for f in findings)
    tested = plural(number, "group")
    still: dict[str, float] = {}
    off = [(f, r) for f in findings for r in groups(f) if alike(r)]
    for f, r in off:
        name = group_name(r) if s.single else f.estimator_label
        still[name] = max(still.get(name, 0.0), relative_bias(r) if relative_bias(r) > 0 else 0.0)
    sizes = (f"{name}: {percent(v)}" if v else name for name, v in still.items())
    more = (
        f" In {len(off)}{' more' if flagged else ''} all draws are alike and off the truth ({listed(sizes, 6)}), which"
        " an event never drawn could explain."
        if off
        else ""
    )
    void = [r for f in findings for r in groups(f) if blind(r)]
    if void:
        if number == len(void):
            none = "The one group cannot" if number == 1 else f"None of the {tested} can"
            return f"{none} be judged: {obstacles(void)}."
        more += f" {len(void)} cannot be judged: {obstacles(void)}."
    if not flagged:
        none = f"None of the {tested} shows" if number > 1 else "The one group does not show"
        return f"{none} a bias{' beyond doubt' if off else ''}.{more}"
    f, r = max(flagged, key=lambda t: relative_bias(t[1]) if relative_bias(t[1]) > 0 else -1.0)
    owner = group_name(r) + ("" if s.single else f" of {f.estimator_label}")
    if number == 1:
        return f"A bias of {bias_percent(r)} % was found in the one group, {owner}."
    largest = f"the largest is {bias_percent(r)} %, in {owner}"
    return f"A bias was found in {len(flagged)} of {tested}; {largest}.{more}"


def by_group(s: Story) -> list[Block]:
    """A forest for each problem, a panel for each group."""
    out: list[Block] = []
    for p in s.problems:
        mine = s.on(p)
        if len(s.problems) > 1:
            out.append(heading(p))
        out += [text(_bias_sentence(s, mine)), _forest(s, mine, FOREST if p == s.problems[0] else "")]
    return out


def _forest(s: Story, mine: Sequence[Finding], legend: str) -> Block:
    p = mine[0].problem_label
    drawn = figures.bias(mine[0], margin=s.margin) if len(mine) == 1 else figures.bias_by_group(mine, s.margin)
    alt = f"Relative bias in each group of {p}, with intervals."
    rows = [r for f in mine for r in groups(f) if not blind(r)]
    exact = {known(r) for r in rows}
    kind = "; a marker without interval is exact" if len(exact) > 1 else ", exact" if True in exact else ""
    intervals = ", with simultaneous intervals" if False in exact else ""
    dotted = " A dotted interval is not to be trusted." if not all(map(gated, rows)) else ""
    tick = f"{dotted}{TICK if legend and any(noise_floor(r) > 0 for r in rows) else ''}"
    return s.figure(drawn, alt, f"{p}: relative bias by group{intervals}{kind}. {legend}{tick}".strip())


def one_by_one(s: Story) -> list[Block]:
    """A table for every problem, and a forest where it has several groups."""
    out: list[Block] = [text(f"All weights together, and by group where there are several. {FOREST}{TICK}")]
    shown, left = capped(s.problems, PROBLEMS, "problems")
    for k, p in enumerate(shown):
        mine = s.on(p)
        truths = listed(dict.fromkeys(f.truth for f in mine), 3)
        out += [heading(p), text(f"The truth is {truths}.", _bias_sentence(s, mine))]
        out.append(pairs(s, mine, f"{p}. {LEGEND if k == 0 else f'Columns as for {shown[0]}.'}"))
        if len({group_name(r) for f in mine for r in groups(f)}) > 1:
            out.append(_forest(s, mine, ""))
    return [*out, text(f"{left} here; their numbers are in the table of every group.")] if left else out
