"""What a given noise costs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from estimator_lab.report import figures
from estimator_lab.report.figures.strip import MEDIAN
from estimator_lab.report.figures.style import positive
from estimator_lab.report.reading import estimate, is_biased, relative_variance, total, unestimable
from estimator_lab.report.rounding import rounded
from estimator_lab.report.story import Block, Story, text
from estimator_lab.report.wording import amount, duration, listed, plural, replicates, supported

if TYPE_CHECKING:
    from estimator_lab.diagnosis import Ratio

WORK = "Work is variance times evaluations of the loss: the price of a given noise."


def cost(s: Story) -> list[Block]:
    """One finding in words; few problems as variance against cost; many as work over that of the reference."""
    if s.single:
        return [_price(s)]
    if s.many:
        return _strip(s)
    out: list[Block] = []
    for p in s.problems:
        alt = f"Relative variance against evaluations of the loss on {p}, on logarithmic axes."
        caption = (
            f"{p}: variance of one replicate over the squared norm of the gradient, with intervals, against its cost."
        )
        lines = (
            " The work is the same along a dashed line; a filled marker is a biased estimator."
            if not any(b["kind"] == "figure" for b in out)
            else ""
        )
        out.append(text(_cheapest(s, p)))
        if sum(positive(relative_variance(total(f))[0]) and positive(f.losses) for f in s.on(p)) > 1:
            out.append(s.figure(figures.cost(s.on(p)), alt, caption + lines))
    return [*out, *_strip(s)] if s.diagnosis.ratios else out


def _price(s: Story) -> Block:
    (f,) = s.findings
    value, low, high = relative_variance(total(f))
    times = supported(value, (high - low) / 3.92, 4)
    clauses = [f"{amount(f.losses, 'evaluation')} of the loss"] if math.isfinite(f.losses) else []
    clauses += [amount(f.backwards, "backward pass")] if math.isfinite(f.backwards) else []
    clauses += [f"{rounded(1e6 * f.seconds, most=2)} µs"] if math.isfinite(f.seconds) else []
    price = f"A replicate costs {listed(clauses)}." if clauses else ""
    if value == 0:
        return text(price, "It has no variance: one replicate is enough.")
    if not math.isfinite(value):
        row = total(f)
        heavy = row is not None and unestimable(row)
        why = ": its tail is so heavy that it may be infinite" if heavy else ""
        return text(price, f"Its relative variance is not estimable{why}.")
    need = value / 0.01**2
    time = f", {duration(need * f.seconds)} of work here" if math.isfinite(f.seconds) else ""
    return text(
        price,
        f"Its variance is {times} times the squared norm of the gradient, so that a noise of 1 % takes"
        f" {replicates(need)} replicates{time}.",
    )


def _strip(s: Story) -> list[Block]:
    compared = [r for r in s.diagnosis.ratios if r.level == "total"]
    if not compared:
        return [text(WORK, "No reference with a variance was measured to compare it with.")]
    sound = {(f.problem_label, f.estimator_label) for f in s.findings if not is_biased(f)}
    wins: Counter[str] = Counter()
    for p in s.problems:
        own = [(r.work.value, r.estimator) for r in compared if r.problem == p and positive(r.work.value)]
        own += [(1.0, r.reference) for r in compared if r.problem == p]
        able = [w for w in own if (p, w[1]) in sound]
        if able:
            wins[min(able)[1]] += 1
    least = ""
    if wins:
        most = max(wins.values())
        first = [name for name in s.estimators if wins[name] == most]
        has, each = ("has", "") if len(first) == 1 else ("have", " each")
        least = (
            f"Among the estimators with noise and without a bias found, {listed(first, 6)} {has} the least on"
            f" {most} of {plural(len(s.problems), 'problem')}{each}."
        )
    drawn = Counter(r.estimator for r in compared if positive(r.work.value))
    median = ", the bar is the median" if max(drawn.values(), default=0) >= MEDIAN else ""
    return [
        text(WORK, least),
        s.figure(
            figures.cost_strip(s.findings, compared),
            "Work of each estimator relative to a reference on the same problem.",
            "Work of each estimator over that of the reference on the same problem, all weights together, with 95 %"
            f" intervals; a marker for each problem{median}. A biased estimator may be cheap and wrong."
            f" {_pairing(compared)}",
        ),
    ]


def _pairing(compared: Sequence[Ratio]) -> str:
    """Whether ratios of variances come from the same random numbers."""
    paired = sum(r.paired for r in compared)
    if paired == len(compared):
        return "Both of a pair were drawn from the same random numbers (paired)."
    if not paired:
        return "No two were drawn from the same random numbers (unpaired)."
    return f"{paired} of {plural(len(compared), 'ratio')} are paired, drawn from the same random numbers."


def _cheapest(s: Story, problem: str) -> str:
    """Which estimator has the least work among those without a bias found, and among all."""
    products = [(estimate(total(f), "variance")[0] * f.losses, f.estimator_label, is_biased(f)) for f in s.on(problem)]
    usable = sorted(p for p in products if positive(p[0]))
    if len(usable) < 2:
        return f"On {problem} fewer than two estimators have a variance to compare."
    (least, name, biased), (second, other, _) = usable[:2]
    said = f"On {problem}, {name} needs the fewest evaluations of the loss for a given noise"
    sound = [p for p in usable if not p[2]]
    if biased and sound:
        times = rounded(sound[0][0] / least, most=2)
        return f"{said}, but is biased; among those without a bias found it is {sound[0][1]}, at {times} times that."
    return f"{said}; {other} follows at {rounded(second / least, most=2)} times that."
