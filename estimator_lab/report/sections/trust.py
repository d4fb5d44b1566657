"""Can the intervals be trusted? From the run's own batches."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from estimator_lab.report import figures
from estimator_lab.report.figures.style import capped, shortened
from estimator_lab.report.reading import estimate, group_name, groups, total
from estimator_lab.report.rounding import p_value, rounded
from estimator_lab.report.story import Block, Column, Story, table, text
from estimator_lab.report.trust import TONES, least_trusted, normality, trust
from estimator_lab.report.wording import listed, plural, replicates, supported
from estimator_lab.statistics.group import GATE, WIDE_GATE
from estimator_lab.statistics.tail import ENOUGH

if TYPE_CHECKING:
    from estimator_lab.finding import Finding, Row
    from estimator_lab.report.trust import Trust

LINES = 40  # most lines of the table


def intervals(s: Story) -> list[Block]:
    """A verdict on the intervals of all groups: quantiles of batch errors, and a table of gates."""
    judged = [(trust(r, s.doubt), f, r) for f in s.findings for r in groups(f)]
    needed = [(t, f, r) for t, f, r in judged if t.rank]
    exact = len(judged) - len(needed)
    if not needed:
        return [text("Every bias of this report is known exactly, so that no verdict rests on an interval.")]
    many = Counter(t.word for t, _, _ in needed)
    void = [r for t, _, r in needed if t.word == "not trusted"]
    free = " No verdict rests on it." if len(void) == 1 else " No verdict rests on those."
    free = free if void and all(r.verdict == "undecided" for r in void) else ""
    if len(needed) == 1:
        only = needed[0][0]
        counted = "has no trustworthy interval" if void else f"has an interval that is {only.word}"
        counted = f"The one group {counted}{f': {only.reason}' if only.reason else ''}."
    else:
        parts = [f"{many[w]} {'has' if many[w] == 1 else 'have'} one that is {w}" for w in TONES if many[w]]
        if void:
            parts[-1] = f"{len(void)} {'has' if len(void) == 1 else 'have'} no trustworthy one"
        counted = f"Of {len(needed)} groups that want an interval for the bias, {listed(parts)}."
    rest = f" The other {plural(exact, 'group')} need{'s' * (exact == 1)} none: the bias is exact." if exact else ""
    said = (
        "An interval is right when the means of batches are nearly normal, and when enough draws carry the error."
        f" {counted}{free}{rest}"
    )
    return [text(said), *_quantiles(s), _table(s, needed)]


def _quantiles(s: Story) -> list[Block]:
    """One panel of groups for one finding; of several a panel for each estimator, all weights together."""
    caption = (
        "Mean errors of batches along the true gradient, standardised and sorted, against the quantiles of a normal law"
        " (line); between batches as normal as that, 95 % of the points at each quantile lie in the band."
    )
    alt = "Normal quantile plot of standardised batch errors."
    if s.single:
        (f,) = s.findings
        every = {group_name(r): r.scores for r in groups(f) if r.scores}
        if not every:
            return []
        spread = {name: {"": every[name]} for name in list(every)[:8]}
        left = f" {len(every) - 8} of {len(every)} groups are left out." if len(every) > 8 else ""
        return [s.figure(figures.normal_panels(spread), alt, f"{caption} A panel for each group.{left}")]
    panels: dict[str, dict[str, tuple[float, ...]]] = {}
    for f in s.findings:
        row = total(f)
        if row is not None and row.scores and not f.exact:
            panels.setdefault(f.estimator_label, {})[f.problem_label] = row.scores
    if not panels:
        return []
    within = " A panel for each estimator, all weights together; findings whose bias is exact are not drawn."
    return [s.figure(figures.normal_panels(panels), alt, caption + within)]


def _table(s: Story, needed: Sequence[tuple[Trust, Finding, Row]]) -> Block:
    """A line for each group of one finding; of several for the worst group of each, or of each estimator."""
    pairs = {id(r): f for _, f, r in needed}
    keys: dict[Any, list[Row]] = {}
    for _, f, r in needed:
        name = group_name(r) if s.single else f.estimator_label if s.many else (f.estimator_label, f.problem_label)
        keys.setdefault(name, []).append(r)
    worst = [found for rows in keys.values() if (found := least_trusted(rows, s.doubt))]
    shown, left = capped(sorted(worst, key=lambda w: -w[0].rank), LINES, "lines")
    reasons = any(t.reason for t, _ in shown)
    columns: list[Column] = [] if s.single else [("Estimator", "left", "auto" if reasons else "1fr")]
    columns.append(("Group", "left", "1fr" if s.single else "auto"))
    columns += [(head, "right", "auto") for head in ("n_eff", "Tail", "Kurtosis", "p")]
    body = []
    for t, r in shown:
        f = pairs[id(r)]
        names = [] if s.single else [shortened(f.estimator_label, 34) if reasons else f.estimator_label]
        where = f"{shortened(f.problem_label, 22)}, {group_name(r)}" if len(s.problems) > 1 else group_name(r)
        carried, index = estimate(r, "effective_sample")[0], estimate(r, "tail_index")[0]
        numbers = [replicates(carried), "bounded" if index == -math.inf else rounded(index, most=2)]
        numbers += [supported(estimate(r, "kurtosis")[0], math.nan, 2), p_value(normality(r))]
        body.append(
            [*names, where, *numbers, {"text": t.word.removeprefix("trusted "), "tone": TONES[t.word]}, t.reason]
        )
    what = (
        ""
        if s.single
        else " The least trusted group of each estimator" + (", over all problems." if s.many else " on each problem.")
    )
    caption = (
        f"What the intervals rest on.{what} n_eff: how many draws carry the squared error, more is better: a claim"
        f" needs {GATE:.0f}, or {WIDE_GATE:.0f} in several dimensions, an interval for the variance {ENOUGH:.0f}."
        " Tail: Pareto index of the"
        f" error of a draw, smaller is better and below 0.5 good; above, the"
        f" variance may be infinite where n_eff is below {ENOUGH:.0f} as well (clumps of"
        " bounded draws read so too). Kurtosis:"
        " mean fourth power of the error over the squared mean of its square. p: of normal batch errors (Shapiro and"
        f" Wilk), in doubt below {p_value(s.doubt)}.{f' {left}.' if left else ''}"
    )
    columns.append(("Intervals", "center", "auto"))
    if reasons:
        columns.append(("Why", "left", "auto" if s.single else "1fr"))
    return table(columns, [("", [line[: len(columns)] for line in body])], caption)
