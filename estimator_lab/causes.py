"""What a bias looks like: laws that are broken, regressions on candidate terms, and what moves the mean."""

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from estimator_lab import doors
from estimator_lab.bias_terms import candidates, places, rescaled, terms
from estimator_lab.chain import Chain
from estimator_lab.conformance import checks
from estimator_lab.conformance.case import Case, Violation
from estimator_lab.conformance.points import LAWS
from estimator_lab.conformance.suite import laws
from estimator_lab.errors import MeasurementError, UsageError
from estimator_lab.estimator import Estimator
from estimator_lab.estimators import Callback, DropIn, Exact
from estimator_lab.evaluation import check_independence, group_of
from estimator_lab.expectation import expectation
from estimator_lab.families import Family
from estimator_lab.level import level_effect
from estimator_lab.measurement import prepare
from estimator_lab.moments import Array
from estimator_lab.noise import NoNoise
from estimator_lab.problem import Problem
from estimator_lab.site import SiteSpec
from estimator_lab.small import SmallProblem
from estimator_lab.small_means import ALPHA, DRAWS, LIMIT, Moved, Seen, probes, see
from estimator_lab.statistics.candidates import CLOSE, Bias, Candidate, Cause, best, fits
from estimator_lab.truth import Truth

__all__ = ["Cause", "looks_like", "name_causes"]

MORE = 8
"""Times as many draws of what is biased, where errors are above ``NOISE``."""

NOISE = 0.03
"""Root mean square error over root mean square bias that regressions are content with."""

BLURRED = 0.1
"""The same, above which no factor is told from another."""

SMALL = 0.02
"""Bias, relative to the gradient, that lower precision may bring."""

LARGEST = 40
"""Unit gradients of a problem that is looked at beside the small ones."""

HEARD = 1.1
"""Factor of the variance of an estimator over that of another one, as a constant is added to the loss, that is told."""


class _Clock:
    """Says when the time is over."""

    def __init__(self, seconds: float):
        self.seconds, self.end = seconds, time.monotonic() + seconds

    def check(self) -> None:
        """Raises where it is."""
        if time.monotonic() > self.end:
            raise TimeoutError(f"no cause was found within {max(self.seconds, 0):.3g} s; give more time")


# ---------------------------------------------------------------------- laws that are broken
Held = tuple[tuple[str, str, str], ...]

FIRST: Held = (
    ("touches no global state", "", "state"),
    ("can be repeated", "", "state"),
    ("replicates are independent", "two blocks", "state"),
    ("replicates do not mix", "", "correlated replicates"),
    ("replicates are independent", "", "correlated replicates"),
    ("has the right shapes", "not finite", "non-finite"),
    ("takes prepended axes", "", "axes"),
    ("is continuous at ties", "", "ties"),
    ("leaves what it is given", "", "state"),
    ("value is the loss", "", "loss scale"),
    ("has no dead path", "", "dead path"),
)
"""Checks of `estimator_lab.conformance`, what the message of their failure contains, and the cause that it shows."""

LATER: Held = (
    ("units are drawn independently", "", "correlated units"),
    ("examples do not mix", "", "baseline"),
    ("examples are independent", "", "correlated examples"),
    ("is the same in any block", "one replicate", "correlated replicates"),
    ("is the same in any block", "one example", "gain batch"),
)
"""The same, for what can make a bias on small problems; a term that explains all of it goes before. What mixes examples
is mostly a baseline over the batch."""

LAST: Held = (
    ("keeps no graph", "", "state"),
    ("takes an evaluation without graph", "", "state"),
    ("is finite under saturation", "value.to(theta)", "precision"),
    ("is finite under saturation", "", "non-finite"),
    ("is finite at extreme numbers", "value.to(theta)", "precision"),
    ("is finite at extreme numbers", "", "non-finite"),
    ("takes a loss without gradient", "not finite", "non-finite"),
    ("takes one path", "", "non-finite"),
    ("takes one class", "", "family"),
    ("takes several axes of units", "", "axes"),
    ("is silent where nothing varies", "", "saturation"),
    ("scales with the loss", "finite", "non-finite"),
    ("scales with the loss", "", "loss scale"),
    ("hears no constant", "", "baseline"),
    ("is right in single precision", "", "precision"),
    ("is right in half precision", "", "precision"),
)
"""The same, for what shows no bias on small problems, which are not saturated so far and have one axis of units."""


def _broken_laws(estimator: Estimator, held: Held, clock: _Clock) -> list[Cause]:
    """The first of these laws that is broken."""
    case = Case(estimator, laws(estimator), ALPHA / len((*FIRST, *LATER, *LAST)), 0, DRAWS)
    known = {check.name: check for check in checks(estimator)}
    told: dict[str, str] = {}
    for name, part, label in held:
        clock.check()
        if name in known and name not in told:
            told[name] = ""
            try:
                known[name].run(case)
            except Violation as error:
                told[name] = str(error)
            except Exception:  # not applicable, open, or raised by code that was not written for this: nothing is told
                continue
        if told.get(name) and part in told[name]:
            return [Cause(label, told[name], math.nan)]
    return []


# ---------------------------------------------------------------------- what is held against what
@dataclass(frozen=True)
class _Table(Bias):
    """A bias at the coordinates of several problems, one after the other, with what it is regressed on.

    Attributes:
        draws: of a mean, where it is drawn.
        columns: ``[n]`` each, by name: those of `bias_terms.terms`, nan where they mean nothing.
    """

    draws: int = DRAWS
    columns: dict[str, Array] = dataclasses.field(default_factory=dict)


def _table(
    looked: Sequence[Moved], estimator: Estimator, like: Estimator | None, tests: int, clock: _Clock
) -> _Table | None:
    """Means at all probes, held against the exact gradient or the mean of another estimator; None if they agree.

    Where errors are large, a bias has to show again in more draws: the rate is that of the first draws, at most.
    """
    for draws in (DRAWS, MORE * DRAWS):
        gaps, truths, drawn = [], [], False
        for probe in looked:
            clock.check()
            target = see(probe, like, draws) if like else Seen.known(terms(probe)["truth"])
            gaps.append(see(probe, estimator, draws).minus(target))
            truths.append(target.mean)
            drawn |= target.batches is not None
        off = np.concatenate([gap.differs(tests) for gap in gaps])
        if not off.any():
            return None
        bias, error = (np.concatenate(x) for x in ([gap.mean for gap in gaps], [gap.error for gap in gaps]))
        found = _Table(bias, error, np.concatenate(truths), off, draws)
        if found.noise < NOISE:
            break
    clock.check()
    rows = [terms(p) | (rescaled(like, p) if like and not drawn else {}) for p in looked]
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {n: np.concatenate([row.get(n, np.full(len(row["truth"]), np.nan)) for row in rows]) for n in names}
    return replace(found, columns=columns)


def _other_settings(table: _Table, looked: Sequence[Moved], like: Estimator, clock: _Clock) -> Iterator[Candidate]:
    """The means of another estimator with another of its numbers: the inverse, the square, twice, half, and one."""
    if not dataclasses.is_dataclass(like):
        return
    for field in dataclasses.fields(like):
        value = getattr(like, field.name)
        if not (field.init and isinstance(value, float) and value > 0):
            continue
        label = "temperature" if field.name == "temperature" else "parametrisation"
        for other in {1 / value, value**2, 2 * value, value / 2, 1.0} - {value}:
            clock.check()
            changed = dataclasses.replace(like, **{field.name: other})
            term = np.concatenate([see(probe, changed, table.draws).mean for probe in looked])
            yield Candidate(label, f"a {field.name} of {other:g}, as of {changed!r}", 1.0, term)


# ---------------------------------------------------------------------- what moves the mean
BASELINE = "a constant added to the loss changes the mean: a score has a mean, or a baseline reads its sample"
MOVES = (
    (0.0, 0.0, "extra term", "the mean is not zero where the loss is: something is added that no loss multiplies"),
    (0.0, -3.0, "loss scale", "the mean is not linear in the loss, as where that is normalised, clipped or squared"),
    (
        2.0,
        1.0,
        "baseline",
        BASELINE,
    ),
)
"""What is added to the loss, what that is multiplied by, and what it means if the mean does not follow."""


def _moved(looked: Sequence[Moved], estimator: Estimator, clock: _Clock) -> list[Cause]:
    """What a bias that no term explains does when the loss is taken away, multiplied or raised."""
    for level, scale, label, words in MOVES:
        for probe in looked[:2]:
            clock.check()
            base = see(probe, estimator)
            rest = see(replace(probe, level=level, scale=scale), estimator).minus(base.times(scale))
            top = CLOSE * max(1.0, abs(scale)) * float(np.abs(base.mean).max())
            if (rest.differs(2 * len(MOVES)) & (np.abs(rest.mean) > top)).any():
                return [Cause(label, words, math.nan)]
    return []


def _louder(estimator: Estimator, like: Estimator) -> list[Cause]:
    """Of two with one mean: whether a constant added to the loss changes the variance of the first only, or more."""
    ours, theirs = level_effect(estimator), level_effect(like)
    if ours.factor() < HEARD * theirs.factor():
        return []
    other = f"; that of {like.label} by {theirs.factor():.3g}" if theirs.variance > 0 else ""
    words = (
        f"the mean is that of {like.label}; {ours.words}{other}: consistent with a baseline that is missing or wrong"
    )
    return [Cause("baseline", words, math.nan)]


# ---------------------------------------------------------------------- the whole
def name_causes(
    estimator: Estimator,
    problem: Problem | None = None,
    *,
    like: Estimator | None = None,
    seconds: float = math.inf,
) -> list[Cause]:
    """What the bias of an estimator looks like, best first; empty where none is established.

    An estimator is looked at on a few `SmallProblem` s of its law, until one law shows a bias: unequal, saturated and
    tied units, two examples, two layers, a linear loss; and on the problem that is given, if it can be summed. Means
    are exact where the random numbers can be summed, else those of 16384 draws, or of 131072 where there is a bias;
    terms are exact, since each of them is the mean of an exact sum that is broken on purpose.

    1. Of the laws that any estimator keeps, such as independence of replicates, the first that is broken is the cause.
    2. Else the bias at all coordinates is regressed on a table of terms (gains, powers of p (1 - p), the expected loss
       times a constant or E[h], ..) at a table of places (a layer, saturated units, ..). Of the pairs that explain all
       of it but errors (5 standard errors where means are drawn) the simplest is told: a term whose constant has a name
       before one with a free constant, everywhere before somewhere; then, against ``like``, another value of one of its
       numbers, such as its temperature.
    3. If none does, other laws are tried, and what moves the mean: no loss, a multiple of it, a constant added to it.
       Else the term that explains 99.5 % and leaves at most half of what the next one leaves, or the narrowest place
       that has all of the bias; else it is a term that is linear in the loss, missing or in excess.
    4. Where there is no bias, laws that show none on small problems follow; then, against ``like``, whether a constant
       added to the loss changes the variance more than it changes that of ``like`` (`level_effect`).

    What is right is accused with a chance of at most 1e-6 by a law, and 1e-6 by a mean of draws; and never by an exact
    mean but for rounding.

    Args:
        estimator: any. A `GradientSampler` has no problem that could be changed; its finding says what its gains are.
        problem: where a bias was seen, if it was.
        like: an estimator whose mean takes the place of the truth. One that declares a bias has nothing to explain
            without it.
        seconds: after which nothing more is tried; what a law has told until then is told.

    Returns:
        Causes. A fit says what the bias is consistent with, and never that nothing else gives it.

    Raises:
        TimeoutError: the seconds are over, and nothing is known.

    Cost: about half a second; up to ten where the mean is that of smooth random numbers on three kinds of units.
    """
    estimator = doors.an_estimator(estimator, "name_causes(estimator, problem)")
    clock = _Clock(seconds)
    if estimator.unbiased is False and like is None:
        held = (*FIRST, *LATER, *LAST)  # what drops gradients by declaration has no cause for a dead path
        return _broken_laws(estimator, tuple(law for law in held if law[2] != "dead path"), clock)
    if found := _broken_laws(estimator, FIRST, clock):
        return found
    families = _families(estimator, problem)
    if not families:
        return []
    try:
        _independent(SmallProblem((2,), 3, 1, families[0]), estimator)
        for number, family in enumerate(families):
            fits = problem is not None and problem.sites[0].family == family and _summable(problem, estimator)
            looked = probes(family, problem if fits else None)
            if table := _table(looked, estimator, like, len(looked) * len(families), clock):
                return _told(table, looked, estimator, like, families[: number + 1], clock)
    except MeasurementError as error:
        label = "non-finite" if "NaN" in str(error) else "correlated replicates"
        return [Cause(label, str(error), math.nan)]
    return _broken_laws(estimator, (*LATER, *LAST), clock) or ([] if like is None else _louder(estimator, like))


def _independent(problem: Problem, estimator: Estimator) -> None:
    """Raises a MeasurementError where replicates depend on each other."""
    truth = Truth.exact(problem, ("unit",))
    record = prepare(problem, estimator, wrt=("unit",), reference=truth.mean).run(2**12)
    check_independence(record, group_of(record, truth, ("total", "units")))


def _told(
    table: _Table,
    looked: Sequence[Moved],
    estimator: Estimator,
    like: Estimator | None,
    families: Sequence[Family],
    clock: _Clock,
) -> list[Cause]:
    """The causes of a bias that is there, in the last of these families."""
    every = list(candidates(table.columns, table.truth, estimator.paths))
    if table.noise > BLURRED:  # no factor, since any of several would do
        every = [c for c in every if c.strict and c.cost < 1]
    found = best(fits(table, every, places(table.columns, table.there)))
    if like is not None and not (found and found[0].full):
        others = list(_other_settings(table, looked, like, clock))
        found = [f for f in best(fits(table, others, places(table.columns, table.there))) if f.full] or found
    causes = [f.cause for f in found]
    own: list[Cause] = []
    if families[1:]:
        words = f"shows only at {families[-1]!r} units, not at {', '.join(map(repr, families[:-1]))}"
        own = [Cause("family", f"consistent with a mistake that {words}", 1.0)]
    if found and found[0].full:
        return causes + own
    if broken := _broken_laws(estimator, LATER, clock):
        return broken
    share = table.root / max(math.sqrt(float(np.mean(table.truth**2))), 1e-300)
    if share < SMALL and table.there.mean() > 0.6:
        words = f"consistent with numbers of lower precision: the bias is {share:.1g} of the gradient everywhere"
        return [Cause("precision", words, math.nan)]
    if moved := _moved(looked, estimator, clock):
        return [*own, *moved, *causes]
    if not causes:
        causes = _broken_laws(estimator, tuple(law for law in LAST if law[2] == "non-finite"), clock)
    words = "consistent with a term, linear in the loss, that is missing or in excess; no single candidate explains it"
    return [*own, *(causes or [Cause("missing term", words, math.nan)])]


def looks_like(estimator: Estimator, problem: Problem, seconds: float = math.inf) -> tuple[str, ...]:
    """The causes in words, most likely first."""
    return tuple(cause.words for cause in name_causes(estimator, problem, seconds=seconds))


def _families(estimator: Estimator, problem: Problem | None) -> list[Family]:
    """Laws to look at: those that it applies to, three at most; that of the problem last, if others come first."""
    own = [f for f in LAWS if not estimator.refuses(SiteSpec("h1", f, (1,)))]
    if isinstance(estimator, DropIn | Callback):
        own = own[:1] if problem is None else [problem.sites[0].family]
    given = [] if problem is None else [problem.sites[0].family]
    return list(dict.fromkeys([*own[:3], *given]))


def _summable(problem: Problem, estimator: Estimator) -> bool:
    """Whether the problem is small enough to look at."""
    size = sum(problem.batch * math.prod(s.theta_shape) for s in problem.sites)
    if size > LARGEST or any(estimator.refuses(s) for s in problem.sites):
        return False
    try:
        Chain(problem, Exact(), ("unit",)).draw(1, NoNoise())
    except (UsageError, MeasurementError):
        return False
    return expectation(prepare(problem, estimator, wrt=("unit",)), LIMIT) is not None
