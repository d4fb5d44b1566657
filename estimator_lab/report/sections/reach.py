"""What the measurement could have seen, what it was held against, and the numbers of every group."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

from estimator_lab.conclusion import rounded_up
from estimator_lab.report import figures
from estimator_lab.report.figures.strip import MEDIAN
from estimator_lab.report.figures.style import capped, shortened
from estimator_lab.report.reading import blind, detectable, group_name, groups, known, unestimable, unresolved
from estimator_lab.report.rounding import ABSENT, count, p_value, rounded
from estimator_lab.report.story import Block, Column, Story, chip, heading, muted, table, text
from estimator_lab.report.wording import (
    bias_interval,
    bias_percent,
    cosine,
    decibels,
    duration,
    needed,
    percent,
    plural,
)

if TYPE_CHECKING:
    from estimator_lab.finding import Finding, Row

LONG = 1500  # most lines in the table of every group


def resolution(s: Story) -> list[Block]:
    """The smallest bias that would have been found, and the replicates that undecided groups want."""
    rows = [(f, r) for f in s.sampled for r in groups(f)]
    able = [detectable(r) for _, r in rows if 0 < detectable(r) < math.inf]
    if not able:
        blind, reasons = unresolved(s.sampled)
        none = f"In no group would a bias of any size have been found: {reasons}."
        free = "No group has a noise that would limit what can be seen."
        free = free if s.sampled else "Every bias is known exactly: nothing can hide behind its noise."
        return [text(none if blind else free), *_ledger(s)]
    fine = sum(d <= s.margin for d in able)
    marks = Counter(f.estimator_label for f, r in rows if 0 < detectable(r) < math.inf)
    median = "; the bar is the median" if max(marks.values()) >= MEDIAN else ""
    lines = "by group" if s.single else f"a marker for each tested group{median}"
    blind, reasons = unresolved(s.sampled)
    rest = f"No such number is known for {plural(blind, 'group')}, where {reasons}." if blind else ""
    out = [
        text(
            f"A group without a finding is not thereby unbiased. In {fine} of {plural(len(able), 'noisy group')} a bias"
            f" of the margin, {percent(s.margin)}, would have been found with power 95 %.",
            rest,
            f"{plural(len(s.findings) - len(s.sampled), 'pair')} whose expectation is known hide no bias."
            if len(s.sampled) < len(s.findings)
            else "",
        ),
        s.figure(
            figures.resolution(s.sampled, margin=s.margin),
            "Smallest relative bias that would have been found, on a logarithmic axis.",
            f"Smallest relative bias that the test would have found with power 95 %, {lines}.",
        ),
    ]
    pending = sorted(((r.needed, f, r) for f, r in rows if r.needed > 0 and not unestimable(r)), key=lambda t: -t[0])
    if not pending:
        return [*out, *_ledger(s)]
    shown, left = capped(pending, 15, "undecided groups")
    owner: list[Column] = [] if s.single else [("Estimator", "left", "1fr"), ("Problem", "left", "auto")]
    columns = [*owner, ("Group", "left", "1fr" if s.single else "auto")]
    columns += [(head, "right", "auto") for head in ("Detectable (%)", "Replicates", "Needed", "Time")]
    body = [
        [
            *([] if s.single else [f.estimator_label, shortened(f.problem_label, 34)]),
            group_name(r),
            rounded(100 * detectable(r), most=2),
            count(f.replicates),
            needed(n),
            duration(rounded_up(n) * f.seconds),
        ]
        for n, f, r in shown
    ]
    caption = f"Replicates that would decide the groups still undecided, most first.{f' {left}.' if left else ''}"
    return [*out, table(columns, [("", body)], caption), *_ledger(s)]


def _ledger(s: Story) -> list[Block]:
    """A heading and a table: what may be wrong, and how often at most; nothing where nothing was compared."""
    if not any(r.tested for f in s.findings for r in f.rows):
        return []
    lines = [[e.item, percent(float(f"{e.rate:.1e}")) if e.rate else "never", e.how] for e in s.diagnosis.ledger]
    columns: list[Column] = [
        ("What may be wrong", "left", "auto"),
        ("At most", "right", "auto"),
        ("How", "left", "1fr"),
    ]
    rates = table(columns, [("", lines)], "The error rates that this report keeps.")
    return [heading("What may be wrong, and how often at most"), rates]


def truth(s: Story) -> list[Block]:
    """What the estimates were held against."""
    lines = []
    for p in s.problems:
        for words, error in dict.fromkeys((f.truth, f.truth_error) for f in s.on(p)):
            lines.append([p, words, "exact" if error == 0 else rounded(100 * error)])
    noisy = sum(f.truth_error > 0 for f in s.findings)
    said = "Every truth is exact: no interval in this report carries an error of the truth."
    if noisy:
        where = "Here" if s.single else f"For {noisy} of {plural(len(s.findings), 'pair')}"
        said = (
            f"{where} the truth is an estimate; its error is part of every test and interval, and no bias smaller than"
            " it can be seen."
        )
    columns = [("Problem", "left", "auto"), ("Truth", "left", "1fr"), ("Relative standard error (%)", "right", "auto")]
    return [text(said), table(columns, [("", lines)], "What the estimates were held against.")]


def every_group(s: Story) -> Block:
    """The long table: every group of one finding; of several the tested ones and the total."""
    parts: dict[str, list[list[Any]]] = {}
    used, everything, hidden = 0, 0, 0
    for f in s.findings:
        rows = _told(s, f)
        everything += len(rows)
        hidden += len(f.rows) - len(rows)
        if everything <= LONG:
            used = everything
            for k, r in enumerate(rows):
                owner = [] if s.single else [f.estimator_label if k == 0 else muted(f.estimator_label)]
                parts.setdefault(f.problem_label, []).append([*owner, *_line(r, f.claim is False)])
    left = f" {everything - used} of {count(everything)} lines are left out." if used < everything else ""
    tensors = (
        f" {plural(hidden, 'line')} of single tensors, and of totals over a single group, are not shown."
        if hidden
        else ""
    )
    where = f"{left}{tensors} The saved diagnosis has them all." if left or tensors else ""
    columns: list[Column] = [] if s.single else [("Estimator", "left", "1fr")]
    columns.append(("Group", "left", "1fr" if s.single else "auto"))
    looked = (
        " p is the smallest of all looks, times their planned number, and adjusted."
        if any(f.looks_planned > 1 for f in s.sampled)
        else ""
    )
    heads = ("d", "Bias (%)", "interval", "Adj. p", "SNR (dB)", "cos of mean", "Detect. (%)")
    columns += [(head, "right", "auto") for head in heads]
    return table(
        [*columns, ("Verdict", "center", "auto")],
        [("" if s.single else p, lines) for p, lines in parts.items()],
        "Every group: the unit gradients of a site, the weights that feed it, single tensors, and the total. Sites and"
        f" the weights that feed them are tested and adjusted by Holm's method within their pair.{looked}{where}",
    )


def _told(s: Story, f: Finding) -> list[Row]:
    """All rows of a single finding; of several the tested ones, and the total unless it is the only group once more."""
    tested = groups(f)
    return [r for r in f.rows if s.single or r in tested or (r.level == "total" and len(tested) > 1)]


def _line(r: Row, declared: bool) -> list[Any]:
    name = {"weight": f"tensor {r.name}", "total": "all weights" if r.name == "weights" else f"total, {r.name}"}
    untested = muted("not tested") if r.level == "weight" else chip(r.verdict) | {"tone": "muted"}
    return [
        name.get(r.level, group_name(r)),
        count(r.size),
        bias_percent(r),
        muted(bias_interval(r)),
        p_value(r.p_holm) if r.tested and not known(r) else ABSENT,
        decibels(r),
        ABSENT if blind(r) else cosine(r, "cosine_of_mean"),
        rounded(100 * detectable(r), most=2),
        chip(r.verdict, declared) if r.tested or known(r) else untested,
    ]
