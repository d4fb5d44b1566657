"""The verdict box: what was found, how sure, what could have been missed, and what to do next."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from estimator_lab.report.advice import clearest, how_sure, next_steps
from estimator_lab.report.reading import (
    detectable,
    group_name,
    groups,
    is_biased,
    known,
    noiseless,
    obstacles,
    place,
    relative_bias,
    shows_bias,
    standing,
    total,
    unestimable,
)
from estimator_lab.report.rounding import count, p_value
from estimator_lab.report.story import Story
from estimator_lab.report.wording import bias_percent, bias_words, listed, needed, pair, percent, plural, some_of

if TYPE_CHECKING:
    from estimator_lab.finding import Finding

PAIRS = 6  # pairs up to which each has a line; beyond, each estimator has one


def verdict(story: Story) -> dict[str, Any]:
    """Tone, headline, blocks of lines about what was found, and the parts that judge it."""
    tone, headline = _headline(story)
    blocks = [{"head": head, "tone": t, "lines": lines} for head, t, lines in _blocks(story, tone) if lines]
    if not story.findings:
        return {"tone": tone, "headline": headline, "blocks": [], "parts": []}
    parts = {"How sure": how_sure, "What could have been missed": _missed, "What to do next": next_steps}
    judged = [{"head": head, "lines": lines} for head, write in parts.items() if (lines := write(story))]
    return {"tone": tone, "headline": headline, "blocks": blocks, "parts": judged}


def _headline(s: Story) -> tuple[str, str]:
    if not s.findings:
        return "open", "Nothing was measured."
    if s.single:
        f = s.findings[0]
        against = "calm" if f.claim is False else "bad"
        said = {True: "against its claim", False: "as declared", None: "no claim was made"}[f.claim]
        tail = {True: ", as claimed", False: ", though declared biased", None: ""}[f.claim]
        tone, words = {
            "biased beyond": (against, f"biased by more than {percent(s.margin)}, {said}"),
            "biased": (against, f"biased, {said}"),
            "exact": ("good", _exact(f)),
            "unbiased within": ("good", f"unbiased within {percent(s.margin)}{tail}"),
            "undecided": ("open", f"undecided at {plural(f.replicates, 'replicate')}"),
        }[f.verdict]
        return tone, f"{pair(f)}: {words}."
    claims = sum(f.claim is True for f in s.findings)
    pairs = plural(len(s.findings), "pair")
    violated = sum(standing(f) == "violated" for f in s.findings)
    if violated:
        return "bad", f"{violated} of {plural(claims, 'claim')} of unbiasedness violated."
    pending = sum(f.verdict == "undecided" for f in s.findings)
    if pending:
        return "open", f"No claim is violated; {pending} of {pairs} undecided."
    if claims:
        return (
            "good",
            f"All {claims} claims of unbiasedness hold." if claims > 1 else "The claim of unbiasedness holds.",
        )
    return "good", f"No claim of unbiasedness was made; {sum(map(is_biased, s.findings))} of {pairs} biased."


def _exact(f: Finding) -> str:
    if all(map(noiseless, groups(f))):
        return "exact, no bias and no variance"
    return f"exactly unbiased{', though declared biased' if f.claim is False else ''}"


def _per_pair(s: Story, findings: Sequence[Finding], words: Callable[[Finding], str]) -> list[str]:
    """A line for each pair; of many, a line for each estimator with its largest bias."""
    if len(findings) <= PAIRS:
        return [f"{pair(f)}: {words(f)}" for f in findings]
    lines = []
    for name in dict.fromkeys(f.estimator_label for f in findings):
        mine = [f for f in findings if f.estimator_label == name]
        where = some_of((f.problem_label for f in mine), (f.problem_label for f in s.by(name)), "problem")
        worst = max(mine, key=lambda f: max(relative_bias(total(f)), 0.0))
        lines.append(f"{name} on {where}; most on {worst.problem_label}: {words(worst)}")
    return lines


def _in_part(s: Story, claim: bool, counts: Callable[[Finding], bool]) -> tuple[list[str], list[str]]:
    """Estimators of a claim for which `counts` holds on all their problems, and on some ("name (3 of 8)")."""
    whole, part = [], []
    for name in s.estimators:
        mine = [f for f in s.by(name) if f.claim is claim]
        number = sum(map(counts, mine))
        if mine and number == len(mine):
            whole.append(name)
        elif number:
            part.append(f"{name} ({number} of {len(mine)})")
    return whole, part


def _undecided(s: Story) -> list[str]:
    """A line for each estimator: on which problems, and how many replicates would decide all of them."""
    lines = []
    for name in s.estimators:
        mine = [f for f in s.by(name) if f.verdict == "undecided"]
        if not mine:
            continue
        most = max((r.needed for f in mine for r in groups(f) if not unestimable(r)), default=0)
        where = some_of((f.problem_label for f in mine), (f.problem_label for f in s.by(name)), "problem")
        ask = f"up to {needed(most)} replicates would probably decide" if most else "no number of replicates is known"
        lines.append(f"{name} on {where}: {ask}")
    return lines


def _blocks(s: Story, tone: str) -> list[tuple[str, str, list[str]]]:
    if s.single:
        f = s.findings[0]
        return [("", tone, [f.words, *filter(None, [f.looks_like]), f"All weights together: {bias_words(total(f))}."])]

    def broken(f: Finding) -> str:
        worst = clearest(f)
        likely = f"; looks like: {f.causes[0]}" if f.causes else ""
        if known(worst):
            return f"{bias_words(total(f))}, most in {group_name(worst)} ({bias_percent(worst)} %){likely}"
        return f"{bias_words(total(f))}, clearest in {group_name(worst)} (adjusted p {p_value(worst.p_holm)}){likely}"

    violated = [f for f in s.findings if standing(f) == "violated"]
    sound, mixed = _in_part(s, True, lambda f: standing(f) == "as claimed")
    held = [f"{listed(sound, 24)}."] if sound else []
    held += [f"On some of their problems: {listed(mixed, 24)}."] if mixed else []
    every, partly = _in_part(s, False, is_biased)
    found = [f"{listed([*every, *partly], 24)}{'; in brackets, on how many problems' if partly else ''}."]
    none, _ = _in_part(s, False, lambda f: standing(f) == "no bias found")
    free = [f for f in s.findings if f.claim is None]
    drawn = Counter(f.replicates for f in s.findings if f.verdict == "undecided")
    after = f" after {count(next(iter(drawn)))} replicates" if len(drawn) == 1 else ""
    return [
        ("Claim violated", "bad", _per_pair(s, violated, broken)),
        ("Unbiased as claimed", "good", held),
        ("Declared biased, and found so", "calm", found if every or partly else []),
        ("Declared biased, no bias found", "open", [f"{listed(none, 24)}."] if none else []),
        ("Without a claim", "open", _per_pair(s, free, lambda f: f"{f.verdict}, {bias_words(total(f))}")),
        (f"Undecided{after}", "open", _undecided(s)),
    ]


def _missed(s: Story) -> list[str]:
    """What the measurement could not have seen."""
    clear = [(f, r) for f in s.findings for r in groups(f) if not shows_bias(r)]
    seen = [(detectable(r), r, f) for f, r in clear if 0 < detectable(r) < math.inf]
    hidden = [(f, r) for f, r in clear if not math.isfinite(detectable(r))]
    lines = []
    if seen:
        worst, row, finding = max(seen, key=lambda t: t[0])
        middle = statistics.median(t[0] for t in seen)
        where = place(row) if s.single else f"{place(row)}, {pair(finding)}"
        half = f", one of {percent(middle, 2)} in half of them" if len(seen) > 2 else ""
        rest = f"every {'other ' * bool(hidden)}group (least resolved: {where})" if len(seen) > 1 else where
        lines.append(
            f"Where no bias was found, one of {percent(worst, 2)} or more would have been found with probability 95 %"
            f" in {rest}{half}."
        )
    if hidden:
        at = listed(dict.fromkeys(place(r) if s.single else pair(f) for f, r in hidden), 4)
        lines.append(f"A bias of any size could have been missed at {at}: {obstacles(r for _, r in hidden)}.")
    if s.sampled:
        where = "" if len(s.sampled) == len(s.findings) else " where the verdict rests on draws"
        lines.append(f"An event too rare to have been drawn leaves no trace in any of these numbers{where}.")
    else:
        lines.append("At these weights and this batch nothing above rounding: expectations were compared, not draws.")
    noisy = [f for f in s.findings if f.truth_error > 0]
    if noisy:
        on = listed(dict.fromkeys(f.problem_label for f in noisy), 6)
        size = percent(max(f.truth_error for f in noisy))
        lines.append(f"The truth is itself estimated on {on}, with a relative standard error of up to {size}.")
    return lines
