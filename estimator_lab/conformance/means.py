"""What the mean of an estimator must be: the truth, where it claims so, whatever the scale and level of the loss."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from estimator_lab.chain import Chain, Key
from estimator_lab.conclusion import percent, rounded_up
from estimator_lab.conformance.case import Case, Check, NotApplicable, Open, Violation
from estimator_lab.conformance.points import Point, points, truth_of
from estimator_lab.conformance.structure import alike, drawn, draws_numbers, network
from estimator_lab.errors import NotConverged, TooLarge, UsageError
from estimator_lab.estimator import Estimator
from estimator_lab.evaluation import under_test
from estimator_lab.expectation import Expectation, exact_group_statistics, expectation
from estimator_lab.families import Family
from estimator_lab.measurement import Measurement, prepare
from estimator_lab.moments import Array
from estimator_lab.problem import Problem
from estimator_lab.record import Record
from estimator_lab.statistics import Group, Looks, verdict
from estimator_lab.statistics.gram import Gram
from estimator_lab.statistics.unbiasedness import sign_flip_test
from estimator_lab.truth import Truth

LIMIT = 2**14
"""Outcomes that an exact mean is summed over, at most."""

MARGIN = 0.1
"""Relative bias that draws have to exclude for a check to pass; exact means have none."""

FIRST = 2**13
"""Draws at the first look."""

BATCHES = 64
"""Batches of a comparison."""

RARE = 10.0
"""Times the loss that a draw is taken to be at most: what no draw has shown is rarer than that would make up for."""

SCALE = -1024.0
"""What a loss is multiplied by: so large that what is clipped shows, and a power of two, which does not round."""

PAIRS = 2**11
"""Pairs of draws at two losses."""

LEVEL = 3.8
"""Constant of the other loss."""


def same_claim(case: Case) -> None:
    """Skips what makes no claim to be unbiased.

    Raises:
        NotApplicable: the claim is False or None.
    """
    if case.subject.unbiased is not True:
        told = "it claims to be biased" if case.subject.unbiased is False else "it makes no claim"
        raise NotApplicable(f"{told}: there is no truth to hold its mean to")


def is_unbiased_on(case: Case, problem: Problem) -> None:
    """Its mean is the truth: exactly where its random numbers can be summed, else at the stated rate.

    Raises:
        Violation: the mean is another.
        NotApplicable: there is no claim, or the estimator refuses a layer.
        Open: the draws do not exclude a bias of the margin.
    """
    same_claim(case)
    estimator = case.ready(problem)
    if told := next(filter(None, (estimator.refuses(site) for site in problem.sites)), ""):
        raise NotApplicable(told)
    truth = truth_of(problem) if isinstance(problem, Point) else Truth.of(problem, case.seed)
    measurement = prepare(problem, estimator, seed=case.seed, reference=truth.mean)
    known = expectation(measurement, LIMIT) if truth.is_exact else None
    if known:
        _hold_exactly(known, truth, problem)
    else:
        decide(case, measurement, truth, problem.label)


def _target(known: Expectation, truth: Truth, group: Key) -> Array:
    return np.concatenate([truth.mean[k].ravel() for k in known.layout.groups[group]])


def _hold_exactly(known: Expectation, truth: Truth, problem: Problem) -> None:
    worst: tuple[float, str] = (0.0, "")
    for group in known.layout.groups:
        if group[0] == "total":
            continue
        target = _target(known, truth, group)
        found, word = exact_group_statistics(known, group, target)
        if word == "exact":
            continue
        bias, gain = found["relative_bias"], found["gain"]
        size = bias if np.isfinite(bias) else np.inf
        told = (
            f"{percent(bias)} of the true gradient's norm"
            if np.isfinite(bias)
            else f"{found['bias']:.2g}, the truth is 0"
        )
        told += f" (along it the mean is {gain:.3g} times the truth)" if np.isfinite(gain) else ""
        if size > worst[0]:
            worst = size, f"bias {told} at {' '.join(group)}"
    if worst[1]:
        raise Violation(f"claims to be unbiased and is not: {worst[1]} on {problem.label}, exactly ({known.how})")


def decide(case: Case, measurement: Measurement, truth: Truth, label: str) -> None:
    """Looks at more and more draws until a bias is found, or one of the margin is excluded.

    Raises:
        Violation: the mean is not the truth.
        Open: the draws do not tell.
    """
    plan = measurement.plan
    first = next(i for i in range(1000) if plan.size(i) == plan.largest)
    sizes = [min(FIRST, case.draws)]
    while sizes[-1] * 4 <= case.draws:
        sizes.append(sizes[-1] * 4)
    looks, record, found = Looks(len(sizes)), None, None
    alpha = case.alpha / 2  # half for the test of the mean, half for what does not vary
    for size in sizes:
        while record is None or record.replicates < size:
            block: Record = measurement.block(first if record is None else record.stop)
            record = block if record is None else record + block
        groups = under_test(record, truth, looks.taken[0] if looks.taken else ())
        looks = looks.take(groups, MARGIN, alpha)
        found = verdict(groups, MARGIN, alpha, looks)
        if found.word == "biased":
            name, worst = min(found.groups.items(), key=lambda item: item[1].p_holm)
            size_of = (
                f" by {percent(worst.low)} to {percent(worst.high)} of its norm" if np.isfinite(worst.high) else ""
            )
            raise Violation(
                f"claims to be unbiased and is not: the mean of {record.replicates} draws is off the true gradient "
                f"{name}{size_of} on {label} (p = {worst.p_holm:.1e})",
                record.replicates,
            )
        if all(map(looks.settled, groups)):
            return
    assert found is not None and record is not None
    for name, group in groups.items():
        _still(group, name, record, label, alpha / len(groups))
    # where the truth is zero there is no relative margin: what no look finds, passes
    open_ones = {k: g.detectable for k, g in found.groups.items() if g.word == "undecided" and groups[k].truth.any()}
    if not open_ones:
        return
    name, size_missed = max(open_ones.items(), key=lambda item: item[1] if np.isfinite(item[1]) else np.inf)
    missed = f"one of {percent(size_missed)} of the gradient's norm would have been found"
    if not np.isfinite(size_missed):
        missed = "too few of them carry its error to say how large"
    needed = max(found.groups[k].needed for k in open_ones)
    more = f"about {rounded_up(needed):,} would exclude one of {percent(MARGIN)}" if needed else "give more"
    raise Open(f"{record.replicates:,} draws on {label} do not exclude a bias at {name}; {missed}; {more}")


def _still(group: Group, name: str, record: Record, label: str, alpha: float) -> None:
    """Raises where a coordinate is the same in all draws, and not the truth.

    Of an unbiased estimate X with E[X] = t a constant c in R draws says that X = c but with a chance q that was not
    met, q < log(1 / alpha) / R at the rate alpha; X is then |t - c| / q from c at least. That is ruled out where it is
    over `RARE` times the loss. The coordinates share alpha.
    """
    if group.truth_batches is not None or not group.loss > 0:
        return
    gap = np.abs(group.mean - group.truth)
    needed = gap * record.replicates / np.log(gap.size / alpha)
    off = (group.variance == 0) & (gap > group.coordinate_floor) & (needed > RARE * group.loss)
    if off.any():
        worst = int(np.argmax(np.where(off, gap, -1)))
        raise Violation(
            f"claims to be unbiased and is not: {int(off.sum())} of {off.size} gradients at {name} are the same in all "
            f"{record.replicates} draws on {label}, and not the truth: {group.mean[worst]:.3g} for "
            f"{group.truth[worst]:.3g}",
            record.replicates,
        )


def scales_with_the_loss(case: Case) -> None:
    """A loss times -1024 has a mean gradient times that; a baseline that is fixed may not scale, draw by draw."""
    _linear(
        case,
        lambda problem: replace(problem, scale=SCALE),
        SCALE,
        f"the mean gradient of {SCALE:g} f is not {SCALE:g} times that of f",
        "something is normalised, clipped or added that does not scale with the loss",
    )


def hears_no_constant(case: Case) -> None:
    """A constant added to the loss does not change the mean; the law may change."""
    _linear(
        case,
        lambda problem: replace(problem, level=LEVEL),
        1.0,
        "a constant added to the loss changes the mean gradient",
        "a score has a mean that is not zero, or a baseline depends on the sample",
    )


def _linear(case: Case, change: Callable[[Point], Point], factor: float, broken: str, hint: str) -> None:
    """Pairs of draws on the same numbers: g(change(f)) - factor g(f) has mean zero.

    Constants are learned on the same draws; those for a loss at another level are any constants.
    """
    for family in case.families:
        problem = network(family, 2)
        chain, changed = case.chain(problem, ("unit",)), change(problem)
        other_chain = Chain(changed, case.ready(problem if factor == 1 else changed), ("unit",))
        count = PAIRS if draws_numbers(chain) else BATCHES
        one, other = (drawn(c, count, "linear", case.seed) for c in (chain, other_chain))
        for key, tensor in one.items():
            if alike(factor * tensor, other[key]):
                continue
            p = _zero((other[key] - factor * tensor).flatten(1).double())
            if p < case.alpha / (len(case.families) * len(one)):
                raise Violation(
                    f"{broken} at {' '.join(key)} on {problem.label} (p = {p:.1e} in {count} pairs of draws on the "
                    f"same numbers): {hint}",
                    count,
                )


def _zero(x: torch.Tensor) -> float:
    """p-value of "the rows have mean zero"."""
    means = x.reshape(BATCHES, -1, x.shape[1]).mean(1).numpy()
    return sign_flip_test(Gram(means @ means.T, means.shape[1]))


def has_the_mean_of_the_other(case: Case) -> None:
    """The means of two implementations are one: exactly where both can be summed, else by a test of two samples."""
    if case.like is None:
        raise NotApplicable("no other implementation is given (like=...)")
    other = case.other(case.like)
    places = [
        p for f in case.families for p in points(f) if not _refused(case.like, p) and not _refused(case.estimator, p)
    ]
    if not places:
        raise NotApplicable(f"{case.like!r} applies to none of its laws")
    alpha = case.alpha / len(places)
    missed = []
    for problem in places:
        zero = {k: np.zeros_like(v) for k, v in truth_of(problem).mean.items()}
        both = [
            expectation(prepare(problem, c.ready(problem), seed=c.seed, reference=zero), LIMIT) for c in (case, other)
        ]
        if both[0] and both[1]:
            a, b = both[0], both[1]
            size = a.layout.size
            gap = np.abs(a.moments.mean[:size] - b.moments.mean[:size])
            top = max(float(np.abs(b.moments.mean[:size]).max()), 1e-12)
            floor = 1e-9 * top + a.rounding + b.rounding
            if (gap > floor).any():
                raise Violation(
                    f"its mean is not that of {case.like!r} on {problem.label}: they differ by up to "
                    f"{percent(float(gap.max()) / top)} of the largest mean gradient, exactly"
                )
            continue
        count = BATCHES * max(1, case.draws // BATCHES)
        ours, theirs = (drawn(c.chain(problem), count, "like", case.seed, i) for i, c in enumerate((case, other)))
        for key in ours:
            gap_drawn = (ours[key] - theirs[key]).flatten(1).double()
            p = _zero(gap_drawn)
            if p < alpha / len(ours):
                raise Violation(
                    f"its mean gradient {key} is not that of {case.like!r} on {problem.label} (p = {p:.1e})", count
                )
            error = float((gap_drawn.var(0).sum() / count).sqrt())
            norm = float(theirs[key].mean(0).norm())
            if error > MARGIN / 3 * norm and norm > 3 * error:
                missed.append(problem.label)
    if missed:
        raise Open(f"{case.draws} draws do not tell the means apart on {', '.join(dict.fromkeys(missed))}")


def _refused(estimator: Estimator, problem: Problem) -> bool:
    return any(estimator.refuses(site) for site in problem.sites)


def claims(families: Sequence[Family], problems: Sequence[Problem] | None) -> tuple[Check, ...]:
    """One check of the claim for each problem; by default the points of every law."""

    def on(problem: Problem, name: str) -> Check:
        def run(case: Case) -> None:
            try:
                is_unbiased_on(case, problem)
            except (TooLarge, NotConverged) as error:
                raise NotApplicable(str(error)) from None

        return Check(f"is unbiased on {name}", run, statistical=True)

    chosen = [p for f in families for p in points(f)] if problems is None else list(problems)
    labels = Counter(p.label for p in chosen)
    names = [p.label if labels[p.label] == 1 else repr(p) for p in chosen]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UsageError(f"two problems are called {twice[0]}, and checks are named after them; give each once")
    return tuple(map(on, chosen, names))


MEANS = (
    Check("scales with the loss", scales_with_the_loss, statistical=True),
    Check("hears no constant", hears_no_constant, statistical=True),
    Check("has the mean of the other", has_the_mean_of_the_other, statistical=True),
)
