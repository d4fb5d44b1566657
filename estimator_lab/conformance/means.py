"""What the mean of an estimator must be: the truth, where it claims so, whatever the scale and level of the loss."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from estimator_lab.chain import Chain, Key
from estimator_lab.conformance.case import Case, Check, Held, NotApplicable, Open, Violation
from estimator_lab.conformance.points import Point, layers, points, truth_of
from estimator_lab.conformance.structure import alike, drawn, draws_numbers, network
from estimator_lab.errors import NotConverged, TooLarge
from estimator_lab.estimator import Estimator
from estimator_lab.estimators import Exact, PerSite
from estimator_lab.evaluation import under_test
from estimator_lab.expectation import Expectation, exact_group_statistics, expectation
from estimator_lab.families import Family
from estimator_lab.measurement import Measurement, prepare
from estimator_lab.moments import Array
from estimator_lab.problem import Problem
from estimator_lab.record import Record
from estimator_lab.statistics import Looks, verdict
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


def same_claim(case: Case) -> None:
    """Skips what makes no claim to be unbiased.

    Raises:
        NotApplicable: the claim is False or None.
    """
    if case.subject.unbiased is not True:
        told = "it claims to be biased" if case.subject.unbiased is False else "it makes no claim"
        raise NotApplicable(f"{told}: there is no truth to hold its mean to")


def is_unbiased_on(case: Case, problem: Problem, estimator: Estimator | None = None) -> None:
    """Its mean is the truth: exactly where its random numbers can be summed, else at the stated rate.

    Raises:
        Violation: the mean is another.
        NotApplicable: there is no claim, or the estimator refuses a layer.
        Open: the draws do not exclude a bias of the margin.
    """
    same_claim(case)
    estimator = estimator or case.ready(problem)
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
            f"{bias:.2%} of the true gradient's norm" if np.isfinite(bias) else f"{found['bias']:.2g}, the truth is 0"
        )
        told += f" ({gain:.3g} times it along its direction)" if np.isfinite(gain) else ""
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
    sizes = [FIRST]
    while sizes[-1] * 4 <= case.draws:
        sizes.append(sizes[-1] * 4)
    looks, record, found = Looks(len(sizes)), None, None
    for size in sizes:
        while record is None or record.replicates < size:
            block: Record = measurement.block(first if record is None else record.stop)
            record = block if record is None else record + block
        groups = under_test(record, truth, looks.taken[0] if looks.taken else ())
        looks = looks.take(groups, MARGIN, case.alpha)
        found = verdict(groups, MARGIN, case.alpha, looks)
        if found.word == "biased":
            name, worst = min(found.groups.items(), key=lambda item: item[1].p_holm)
            size_of = f" by {worst.low:.0%} to {worst.high:.0%} of its norm" if np.isfinite(worst.high) else ""
            raise Violation(
                f"claims to be unbiased and is not: the mean of {record.replicates} draws is off the true gradient "
                f"{name}{size_of} on {label} (p = {worst.p_holm:.1e})",
                record.replicates,
            )
        if all(map(looks.settled, groups)):
            return
    assert found is not None and record is not None
    # where the truth is zero there is no relative margin: what no look finds, passes
    open_ones = {k: g.detectable for k, g in found.groups.items() if g.word == "undecided" and groups[k].truth.any()}
    if not open_ones:
        return
    name, size_missed = max(open_ones.items(), key=lambda item: item[1] if np.isfinite(item[1]) else np.inf)
    missed = f"one of {size_missed:.0%} of the gradient's norm would have been found"
    if not np.isfinite(size_missed):
        missed = "too few of them carry its error to say how large"
    raise Open(f"{record.replicates} draws on {label} do not exclude a bias at {name}; {missed}; give more draws")


def composes_with_an_exact_sum(case: Case) -> None:
    """Beside a layer that is summed exactly, above or below it, an unbiased estimator stays unbiased."""
    same_claim(case)
    family = next((f for f in case.families if f.discrete), None)
    if family is None:
        raise NotApplicable("no law of finitely many values to sum over")
    problem = layers(family, (2, 1) if not family.value_shape else (1, 1), (1.0,))
    ready = case.ready(problem)
    half = case.share(2)
    for parts in (PerSite({"h1": Exact(), "h2": ready}), PerSite({"h1": ready, "h2": Exact()})):
        is_unbiased_on(half, problem, Held(parts))


def scales_with_the_loss(case: Case) -> None:
    """A loss times -3 has every draw times -3: on the same numbers, constants fitted on the same draws."""
    for family in case.families[:3]:
        problem = network(family, 2)
        one, other = (
            drawn(case.chain(p, ("unit",)), 64, "scale", case.seed) for p in (problem, replace(problem, scale=-3.0))
        )
        for key, tensor in one.items():
            if not alike(-3 * tensor, other[key], 1e7):
                raise Violation(
                    f"the gradient {key} of -3 f is not -3 times that of f on {problem.label}, draw by draw: something "
                    "is normalised, clipped or added that does not scale with the loss"
                )


def hears_no_constant(case: Case) -> None:
    """A constant added to the loss does not change the mean; the law may change."""
    for family in case.families[:3]:
        problem = network(family, 2)
        count = 2**12 if draws_numbers(case.chain(problem, ("unit",))) else BATCHES
        # learned constants are those of the first, which any constants are for the second
        chains = (case.chain(problem, ("unit",)), Chain(replace(problem, level=3.8), case.ready(problem), ("unit",)))
        one, other = (drawn(chain, count, "level", case.seed) for chain in chains)
        for key, tensor in one.items():
            gap = (other[key] - tensor).flatten(1).double()
            if alike(tensor, other[key], 1e6):
                continue
            p = _zero(gap)
            if p < case.alpha / (3 * len(one)):
                raise Violation(
                    f"a constant added to the loss changes the mean gradient {key} on {problem.label} (p = {p:.1e} in "
                    f"{count} pairs of draws on the same numbers): a score has a mean that is not zero, or a baseline "
                    "depends on the sample",
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
    places = [p for family in case.families for p in points(family) if not _refused(case.like, p)]
    share = case.share(len(places))
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
                    f"{float(gap.max()) / top:.2%} of the largest mean gradient, exactly"
                )
            continue
        count = BATCHES * max(1, case.draws // BATCHES)
        ours, theirs = (drawn(c.chain(problem), count, "like", case.seed, i) for i, c in enumerate((case, other)))
        for key in ours:
            gap_drawn = (ours[key] - theirs[key]).flatten(1).double()
            p = _zero(gap_drawn)
            if p < share.alpha / len(ours):
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

    def on(problem: Problem) -> Check:
        def run(case: Case) -> None:
            try:
                is_unbiased_on(case, problem)
            except (TooLarge, NotConverged) as error:
                raise NotApplicable(str(error)) from None

        return Check(f"is unbiased on {problem.label}", "the claim to be unbiased", run, statistical=True)

    chosen = [p for f in families for p in points(f)] if problems is None else list(problems)
    return tuple(map(on, chosen))


MEANS = (
    Check("scales with the loss", "", scales_with_the_loss),
    Check("hears no constant", "", hears_no_constant, statistical=True),
    Check("composes with an exact sum", "the claim to be unbiased", composes_with_an_exact_sum, statistical=True),
    Check("has the mean of the other", "like=", has_the_mean_of_the_other, statistical=True),
)
