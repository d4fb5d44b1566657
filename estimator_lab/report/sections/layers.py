"""Where an estimator is wrong, and where it is merely noisy: layer by layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from estimator_lab.report import figures
from estimator_lab.report.reading import (
    estimate,
    group_name,
    groups,
    noiseless,
    relative_bias,
    signal_to_noise,
    total,
    unestimable,
)
from estimator_lab.report.rounding import ABSENT, count, rounded
from estimator_lab.report.story import Block, Column, Story, muted, table, text
from estimator_lab.report.wording import between, decibels, listed, pair, plural, supported
from estimator_lab.statistics.tail import LIGHT

if TYPE_CHECKING:
    from estimator_lab.finding import Finding, Row


def layers(s: Story) -> list[Block]:
    """The noise of one finding by group; of several, heat maps of bias and noise."""
    if s.single:
        (f,) = s.findings
        found = sorted(
            (signal_to_noise(r)[0], k, r) for k, r in enumerate(groups(f)) if math.isfinite(signal_to_noise(r)[0])
        )
        noise = "No group has a finite signal-to-noise ratio."
        if found:
            (_, _, low), (_, _, high) = found[0], found[-1]
            noise = f"The signal-to-noise ratio of one replicate is lowest in {group_name(low)} ({decibels(low)} dB)"
            noise += f" and highest in {group_name(high)} ({decibels(high)} dB)." if low is not high else "."
        caption = "Signal-to-noise ratio of one replicate by group, with intervals."
        shown = [s.figure(figures.spread(f), caption, caption)] if found else []
        return [text(noise), *shown, *_shape("Group", [("", [(group_name(r), r) for r in groups(f)])])]
    out = [
        text(
            "Where an estimator is wrong, and where it is merely noisy: relative bias (the colour turns at the margin;"
            " grey and in brackets: undecided, no finding)"
            " and signal-to-noise ratio of a single replicate, by group."
        )
    ]
    for batch in [s.findings] if s.many else [s.on(p) for p in s.problems]:
        on = f" on {batch[0].problem_label}" if not s.many and len(s.problems) > 1 else ""
        out.append(
            s.figure(
                figures.heat_maps(batch, s.margin),
                f"Heat maps of relative bias and signal-to-noise ratio by estimator and group{on}.",
                f"a, relative bias (%){on}. b, signal-to-noise ratio of one replicate (dB){_signs(batch)}",
            )
        )
    if s.many:
        return [*out, text(_ranks(s))]
    named = len(s.problems) > 1
    rows = [(p if named else "", [(f.estimator_label, total(f)) for f in s.on(p)]) for p in s.problems]
    return [*out, *_shape("Estimator", rows)]


def _shape(first: str, parts: Sequence[tuple[str, Sequence[tuple[str, Row | None]]]]) -> list[Block]:
    """The table of spectra: in how many directions the noise of each row goes; nothing without noise."""
    noisy = [(part, [(n, r) for n, r in rows if r is not None and not noiseless(r)]) for part, rows in parts]
    tails = any(_tail(r) != ABSENT for _, rows in noisy for _, r in rows)
    kept = [(p, [[n, count(r.size), *_spectrum(r)][: 6 if tails else 5] for n, r in rows]) for p, rows in noisy if rows]
    if not kept:
        return []
    tail = " tail index: a dash where the variance has an interval." if tails else ""
    caption = (
        f"Shape of the noise of one replicate{'' if first == 'Group' else ', all weights together'}. Effective rank: in"
        " how many of its d directions it goes; leading share: the part of the variance along the foremost, a dash"
        f" where none stands out{';' if tails else '.'}{tail} All from the draws."
    )
    heads = ("d", "Effective rank", "interval", "Leading share (%)", "Tail index")[: 5 if tails else 4]
    columns: list[Column] = [(first, "left", "1fr"), *((head, "right", "auto") for head in heads)]
    return [table(columns, kept, caption)]


def _tail(r: Row) -> str:
    """The tail index where it is so heavy that the variance has no interval."""
    index = estimate(r, "tail_index")[0]
    return rounded(index, most=2) if index > LIGHT and not math.isfinite(estimate(r, "variance")[1]) else ABSENT


def _spectrum(r: Row) -> list[Any]:
    rank, share = estimate(r, "effective_rank"), estimate(r, "leading_share")[0]
    shown = supported(rank[0], (rank[2] - rank[1]) / 3.92, 3)
    return [shown, muted(between(*rank[1:])), rounded(100 * share, most=2), _tail(r)]


def _ranks(s: Story) -> str:
    """The smallest and the largest effective rank among the findings, against the number of coordinates."""
    ranks = [(estimate(total(f), "effective_rank")[0], f) for f in s.findings]
    known = sorted(((v, k, f) for k, (v, f) in enumerate(ranks) if v == v), key=lambda t: t[:2])
    tails = [f for f in s.findings if any(map(unestimable, f.rows))]
    said = ""
    if len(known) > 1:
        (low, _, least), (high, _, most) = known[0], known[-1]
        said = (
            f"The noise of a replicate goes in the fewest directions for {pair(least)} (effective rank"
            f" {rounded(low, most=2)}) and in the most for {pair(most)} ({rounded(high, most=2)})."
        )
    if tails:
        said += f" The tail is too heavy to estimate a variance on {plural(len(tails), 'pair')}:"
        said += f" {listed(map(pair, tails), 4)}."
    return said


def _signs(findings: Sequence[Finding]) -> str:
    """The end of the caption of heat maps: what the signs mean that occur in them."""
    rows = [r for f in findings for r in groups(f)]
    ratios = [signal_to_noise(r)[0] for r in rows]
    off = ["groups without noise (∞)"] if math.inf in ratios else []
    off += ["those whose signal is not resolved (<)" if off else "groups whose signal is not resolved (<)"] * (
        -math.inf in ratios
    )
    columns = {(f.problem_label, group_name(r)) for f in findings for r in groups(f)}
    cells = {(f.estimator_label, f.problem_label, group_name(r)) for f in findings for r in groups(f)}
    signs = ["a dot is a group that the estimator does not have"] * (
        len(cells) < len({f.estimator_label for f in findings}) * len(columns)
    )
    if any(math.isnan(v) for v in [*ratios, *map(relative_bias, rows)]):
        signs.append("a cross is a value that is not estimable")
    said = ", ".join(signs)
    return f"{f'; off its scale are {listed(off)}' if off else ''}.{f' {said[0].upper()}{said[1:]}.' if said else ''}"
