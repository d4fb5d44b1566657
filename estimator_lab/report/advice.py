"""How sure a verdict is, and what to do next: computed, in words a person can act on."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from estimator_lab.conclusion import rounded_up
from estimator_lab.report.reading import (
    alike,
    estimate,
    gated,
    group_name,
    groups,
    is_biased,
    known,
    place,
    relative_bias,
    standing,
    unestimable,
)
from estimator_lab.report.rounding import count, p_value, rounded
from estimator_lab.report.story import Story
from estimator_lab.report.trust import TONES, trust
from estimator_lab.report.wording import duration, index, interval, listed, pair, percent, plural

if TYPE_CHECKING:
    from estimator_lab.finding import Finding, Row

FACTORS = (2.0, 0.5, 0.0, -1.0)  # slips of a derivation: counted twice, halved, detached, of the wrong sign
SHARP = 0.1  # widest half-interval of a gain that names a factor
STRAIGHT = 0.9  # least cosine of a mean that is said to be such a multiple of the truth
BENT = 0.005  # by how much that cosine may differ from one at its nearer end
PAIRS = 4  # most pairs that are advised on one by one
UNITS = 2  # units named


def clearest(finding: Finding) -> Row:
    """The tested group with the strongest evidence of bias, ties by the larger relative bias."""

    def strength(row: Row) -> tuple[float, float]:
        value = relative_bias(row)
        return (row.p_holm if not math.isnan(row.p_holm) else 1.0, -value if not math.isnan(value) else 0.0)

    return min(groups(finding), key=strength)


def saved(findings: Sequence[Finding]) -> str:
    """What the sequential rule saved on findings that stopped early; "" where none did."""
    early = [f for f in findings if not f.exact and f.replicates < f.planned]
    if not early:
        return ""
    drawn, planned = sum(f.replicates for f in early), sum(f.planned for f in early)
    times = f"{rounded(planned / drawn, most=2)} times fewer"
    if len(findings) == 1:
        return f"{count(drawn)} of {count(planned)} replicates, {times}"
    pairs = f"{len(early)} of {plural(len(findings), 'sampled pair')} stopped early"
    return f"{pairs}, at {count(drawn)} of {count(planned)} replicates ({times})"


def how_sure(s: Story) -> list[str]:
    """What the verdict rests on: equality, a sequential test or one of fixed size; and whether to trust intervals."""
    if s.single and s.findings[0].exact:
        how = s.findings[0].exact
        return [f"Exactly: the expectation itself was compared with the truth ({how}). No draw and no test decides."]
    level = percent(s.alpha)
    lines = []
    if not s.single:
        lines.append(_rests(s))
        if s.sampled:
            lines.append(
                f"The {count(len(s.findings))} pairs share one false-alarm rate: the chance that any unbiased one is"
                f" called biased anywhere in this report is at most {level}."
            )
    elif all(map(known, groups(s.findings[0]))):
        lines.append(f"By equality, without a test: all {count(s.findings[0].replicates)} draws are alike.")
    else:
        lines.append(
            f"{_design(s.findings[0])} An unbiased estimator is called biased with a probability of at most {level}."
        )
    judged = [t for f in s.sampled for r in groups(f) if (t := trust(r, s.doubt)).rank]
    if len(judged) == 1:
        only = judged[0]
        has = "an interval that is" if only.word != "not trusted" else "no trustworthy interval:"
        lines.append(f"The one tested group has {has} {only.said.removeprefix('not trusted: ')}.")
    elif len(words := Counter(t.word for t in judged)) == 1:
        lines.append(f"The intervals of all {len(judged)} tested groups are {judged[0].word}.")
    elif judged:
        how = listed(f"{words[w]} {'is' if words[w] == 1 else 'are'} {w}" for w in TONES if words[w])
        lines.append(f"Of the intervals of {len(judged)} tested groups {how}.")
    return lines


def _rests(s: Story) -> str:
    exact = len(s.findings) - len(s.sampled)
    sequential = [f for f in s.sampled if f.looks_planned > 1]
    fixed = len(s.sampled) - len(sequential)
    parts = [f"{_rest(exact)} on expectations that are known exactly, without a test"] if exact else []
    parts += [f"{_rest(len(sequential))} on a sequential test"] if sequential else []
    parts += [f"{_rest(fixed)} on a test at a fixed number of replicates"] if fixed else []
    spared = saved(s.sampled)
    return f"Of the verdicts, {listed(parts)}{f'; {spared}' if spared else ''}."


def _rest(number: int) -> str:
    return f"{count(number)} {'rests' if number == 1 else 'rest'}"


def _design(f: Finding) -> str:
    if f.looks_planned == 1:
        return f"A test of fixed size, at {count(f.replicates)} replicates."
    spared = saved([f])
    drawn = spared or f"all {count(f.replicates)} replicates"
    return f"A sequential test, at look {f.looks} of {f.looks_planned}: {drawn}; the looks share its level equally."


def factor(row: Row) -> str:
    """The simple factor that a mean gradient is consistent with, as a sentence; "" where there is none."""
    _, low, high = estimate(row, "gain")
    _, least, most = estimate(row, "cosine_of_mean")
    if not (high - low) / 2 <= SHARP:
        return ""
    slack = 1e-6 if known(row) else 0.0
    for f in FACTORS:
        ends = sorted((math.copysign(1, f) * least, math.copysign(1, f) * most))
        straight = (
            (ends[0] >= STRAIGHT and ends[1] >= 1 - (1e-6 if known(row) else BENT)) if f else _missing(row, slack)
        )
        if low - slack <= f <= high + slack and straight:
            size = interval(estimate(row, "gain"))
            words = {0.0: "a gradient that is missing (a factor of 0)", -1.0: "a wrong sign (a factor of −1)"}
            said = words.get(f, f"a factor of {rounded(f)}")
            if known(row):
                return f"There the mean shows {said}, exactly."
            return f"There the gain is {size}, consistent with {said}."
    return ""


def _missing(row: Row, slack: float) -> bool:
    """Whether the mean may be zero: a relative bias of one."""
    _, low, high = estimate(row, "relative_bias")
    return low - slack <= 1 <= high + slack


def next_steps(s: Story) -> list[str]:
    """What to do about what was found, a few lines."""
    wrong = [f for f in s.findings if standing(f) == "violated"]
    pending = [f for f in s.findings if f.verdict == "undecided"]
    lines = [line for f in wrong[:PAIRS] for line in _mend(s, f)]
    if len(wrong) > PAIRS:
        lines.append(f"{len(wrong) - PAIRS} more claims are violated: see the table of every group.")
    lines += _decide(s, pending)
    if lines:
        return lines
    if s.single:
        f = s.findings[0]
        if is_biased(f):
            row, still = _largest(f), sum(r.verdict == "undecided" for r in groups(f))
            lead = "The bias is declared" if f.claim is False else "It makes no claim"
            rest = f"; {plural(still, 'group')} undecided" if still else ", and nothing is open"
            said = f"{lead}{rest}. The bias is largest in {group_name(row)}."
            if f.claim is None:
                left = plural(still, "group")
                said = f"{_unclaimed(row)}{f' {left} undecided.' if still else ''}"
            return [" ".join(filter(None, [said, factor(row), _units(f, row)]))]
        return ["Nothing has to be done: no verdict is open."]
    free = [f for f in s.findings if f.claim is None and is_biased(f)]
    if len(free) == 1:
        return [f"{pair(free[0])}: {_unclaimed(_largest(free[0]))}"]
    if free:
        names = listed(dict.fromkeys(f.estimator_label for f in free), 6)
        return [f"No claim was made for {names}, found biased: if unbiased was meant, set unbiased = True."]
    return ["No claim is violated and no verdict is open: compare noise and price."]


def _unclaimed(row: Row) -> str:
    """What to do about a bias that no claim forbids."""
    off = "it is biased" if math.isnan(relative_bias(row)) else f"it is off by {percent(relative_bias(row), 2)}"
    return f"It makes no claim. If it was meant to be unbiased, set unbiased = True: {off} at {place(row)}."


def _largest(f: Finding) -> Row:
    return max(groups(f), key=lambda r: relative_bias(r) if relative_bias(r) > 0 else 0.0)


def _mend(s: Story, f: Finding) -> list[str]:
    row = clearest(f)
    owner = "" if s.single else f"{pair(f)}: "
    first = f"look first at {group_name(row)}" + (
        "" if known(row) else f", where it is clearest (adjusted p {p_value(row.p_holm)})"
    )
    start = first if owner else first[0].upper() + first[1:]
    return [" ".join(filter(None, [f"{owner}{start}.", factor(row), _units(f, row)]))]


def _units(f: Finding, row: Row) -> str:
    """The worst units of the group, where it is a site; else of the site that was found worst."""
    found = f.units.get(row.name) if row.level in ("site", "layer") else None
    if found is None or not found.worst:
        return ""
    if found.mean.size == 1:
        return ""
    named = [index(u) for u in found.worst[:UNITS]]
    what = f"unit{'s' if len(named) > 1 else ''} {listed(named)}"
    return (
        f"{count(found.found)} of {plural(found.mean.size, 'unit gradient')} of {row.name} are off, most of all {what}."
    )


def _decide(s: Story, pending: Sequence[Finding]) -> list[str]:
    """What would decide the undecided groups, by what keeps them open."""
    rows = [(f, r) for f in pending for r in groups(f) if r.verdict == "undecided"]
    heavy = [(f, r) for f, r in rows if unestimable(r)]
    still = [(f, r) for f, r in rows if alike(r)]
    rest = [(f, r) for f, r in rows if not unestimable(r) and not alike(r)]
    truth = [(f, r) for f, r in rest if r.truth_needed]
    more = [(f, r) for f, r in rest if r.needed and not r.truth_needed]
    blind = [(f, r) for f, r in rest if not r.needed and not r.truth_needed]
    lines = []
    if truth:
        draws = rounded_up(max(r.truth_needed for _, r in truth))
        lines.append(f"Estimate the truth better at {_places(s, truth)}: about {count(draws)} draws of it would do.")
    if more:
        needed = rounded_up(max(r.needed for _, r in more))
        longest = max((rounded_up(r.needed) * f.seconds for f, r in more if math.isfinite(f.seconds)), default=math.nan)
        time = f" ({duration(longest)} of drawing)" if math.isfinite(longest) else ""
        up = "up to" if len({r.needed for _, r in more}) > 1 else "about"
        blocked = {id(f) for f, r in rows if (f, r) not in more}
        able = sum(id(f) not in blocked for f in pending)
        every = f"all {len(pending)} undecided pairs" if able > 1 else "the undecided pair"
        part = every if able == len(pending) else f"{able} of {len(pending)} undecided pairs"
        where = _places(s, more) if s.single else part if able else f"groups of {_places(s, more)}"
        few = [t for t in more if not gated(t[1])]
        why = f" Too few draws carry the error at {_places(s, few)}: what matters there is rare." if few else ""
        lines.append(f"Draw more: {up} {count(needed)} replicates{time} would probably decide {where}.{why}")
    if heavy:
        lines.append(
            f"The variance is not estimable at {_places(s, heavy)}, and more replicates may never decide: look at the"
            " largest draws, and reparametrise, or clip what the loss does in the tail."
        )
    if still:
        lines.append(
            f"All draws are alike and off the truth at {_places(s, still)}: find the event that was never drawn, or"
            " make it more probable in the problem."
        )
    if blind:
        lines.append(f"No number of replicates is known that would decide {_places(s, blind)}.")
    return lines


def _places(s: Story, rows: Sequence[tuple[Finding, Row]]) -> str:
    if s.single:
        return listed((group_name(r) for _, r in rows), 4)
    return listed(dict.fromkeys(pair(f) for f, _ in rows), 3)
