"""What a bias looks like: laws that are broken, regressions on candidate terms, and what moves the mean."""

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
from scipy import special
from torch import Tensor

from estimator_lab import doors
from estimator_lab.bias_terms import PLACES, TERMS, Facts, columns, gains, truth
from estimator_lab.chain import Chain
from estimator_lab.conformance import checks
from estimator_lab.conformance.case import Case, NotApplicable, Open, Violation
from estimator_lab.conformance.independence import COUNT, dependence
from estimator_lab.conformance.points import LAWS
from estimator_lab.conformance.structure import calls
from estimator_lab.conformance.suite import laws
from estimator_lab.errors import MeasurementError, UsageError
from estimator_lab.estimator import Estimator
from estimator_lab.estimators import Callback, DropIn, Exact
from estimator_lab.evaluation import check_independence, group_of
from estimator_lab.expectation import expectation
from estimator_lab.families import Bernoulli, Categorical, Family
from estimator_lab.level import SURE, level_effect
from estimator_lab.measurement import prepare
from estimator_lab.moments import Array
from estimator_lab.noise import NoNoise
from estimator_lab.problem import Problem
from estimator_lab.site import SiteSpec
from estimator_lab.small import SmallProblem
from estimator_lab.small_means import ALPHA, DRAWS, LIMIT, Moved, Seen, probes, see
from estimator_lab.statistics.candidates import CLOSE, DRAWN, Bias, Candidate, Cause, best, fits
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

APART = (
    "consistent with a mean gradient of zero, of draws that are not: a score of another sample than the loss, "
    "or losses that cancel"
)
NO_TERM = "consistent with a term, linear in the loss, that is missing or in excess; no single candidate explains it"

LOUD = 1.5
"""Factor of the variance of an estimator over that of another one with the same mean that is told."""

NODES = 64
"""Of the quadrature of the moments of a law."""

HEARD = 1.1
"""Factor of the variance of an estimator over that of another one, as a constant is added to the loss, that is told."""


HELD: tuple[tuple[str, str, str, str], ...] = (
    ("first", "touches no global state", "", "state"),
    ("first", "can be repeated", "", "state"),
    ("first", "replicates are independent", "two blocks", "state"),
    ("first", "replicates do not mix", "", "correlated replicates"),
    ("first", "replicates are independent", "", "correlated replicates"),
    ("first", "has the right shapes", "not finite", "non-finite"),
    ("first", "takes prepended axes", "", "axes"),
    ("first", "is continuous at ties", "", "ties"),
    ("first", "leaves what it is given", "", "state"),
    ("first", "value is the loss", "", "loss scale"),
    ("first", "has no dead path", "", "dead path"),
    ("then", "units are drawn independently", "", "correlated units"),
    ("then", "examples do not mix", "", "baseline"),
    ("then", "examples are independent", "", "correlated examples"),
    ("then", "is the same in any block", "one replicate", "correlated replicates"),
    ("then", "is the same in any block", "one example", "gain batch"),
    ("last", "keeps no graph", "", "state"),
    ("last", "takes an evaluation without graph", "", "state"),
    ("last", "is finite under saturation", "value.to(theta)", "precision"),
    ("last", "is finite under saturation", "", "non-finite"),
    ("last", "is finite at extreme numbers", "value.to(theta)", "precision"),
    ("last", "is finite at extreme numbers", "", "non-finite"),
    ("last", "takes a loss without gradient", "not finite", "non-finite"),
    ("last", "takes one path", "", "non-finite"),
    ("last", "takes one class", "", "family"),
    ("last", "takes several axes of units", "", "axes"),
    ("last", "is silent where nothing varies", "", "saturation"),
    ("last", "scales with the loss", "finite", "non-finite"),
    ("last", "scales with the loss", "", "loss scale"),
    ("last", "hears no constant", "", "baseline"),
    ("last", "is right in single precision", "", "precision"),
    ("last", "is right in half precision", "", "precision"),
)
"""When a law is looked at, the check of `estimator_lab.conformance`, what the message of its failure contains, and the
cause that it shows.

First what stands before any mean; then what can make a bias on small problems, which a term that explains all of it
goes before (what mixes examples is mostly a baseline over the batch); last what shows no bias there, where units are
not saturated far and have one axis.
"""


@dataclass(frozen=True)
class _Table(Bias):
    """A bias at the coordinates of several problems, one after the other.

    Attributes:
        draws: of a mean, where it is drawn.
        varies: whether the draws do.
        facts: of `bias_terms.facts`.
        terms: ``[n]`` each, with what they mean.
    """

    draws: int
    varies: bool
    facts: Facts = field(default_factory=dict)
    terms: tuple[tuple[Candidate, Array], ...] = ()


MOVES: tuple[tuple[dict[str, float], str, str], ...] = (
    (
        {"scale": 0.0},
        "extra term",
        "the mean is not zero where the loss is: something is added that no loss multiplies",
    ),
    (
        {"scale": -3.0},
        "loss scale",
        "the mean is not linear in the loss, as where that is normalised, clipped or squared",
    ),
    (
        {"level": 2.0},
        "baseline",
        "a constant added to the loss changes the mean: a score has a mean, or a baseline or weight reads its sample",
    ),
    (
        {"hidden": 2},
        "missing term",
        "the mean hears the loss at values that no unit takes: consistent with a relaxation or a control variate that "
        "is not taken off again, as where one of its places lacks a gradient, or has another temperature or noise",
    ),
    (
        {"hidden": 1},
        "baseline",
        "the mean hears the loss at values that no unit takes, or slopes at those that units take: consistent with a "
        "control variate that is not taken off again, as one expanded about the sample, or a gradient through it",
    ),
)
"""What is done to the loss, the cause if the mean does not follow, and what that means."""


def name_causes(
    estimator: Estimator,
    problem: Problem | None = None,
    *,
    like: Estimator | None = None,
    seconds: float = math.inf,
) -> list[Cause]:
    """What the bias of an estimator looks like, best first; empty where none is established.

    An estimator is looked at on a few `SmallProblem` s of its law, until one law shows a bias: unequal, saturated and
    tied units, two examples, two and three layers, more than three classes, a linear loss; and on the problem that is
    given, if it can be summed. Means are exact where the random numbers can be summed, else those of 16384 draws, or of
    131072 where there is a bias; terms are exact, since each of them is the mean of an exact sum that is broken on
    purpose.

    1. Of the laws that any estimator keeps, such as independence of replicates, the first that is broken is the cause.
    2. Else the bias at all coordinates is regressed on a table of terms (gains, powers of p (1 - p), the expected loss
       times a constant or E[h], ..) at a table of places (a layer, saturated units, ..). Of the pairs that explain all
       of it but errors (5 standard errors where means are drawn) the simplest is told: a term whose constant has a name
       before one with a free constant, everywhere before somewhere; then, against ``like``, another value of one of its
       numbers, such as its temperature.
    3. If none does: other laws; values of another law than the layer's, or paths that depend on each other; whether the
       bias is gone where a number of the estimator, such as its temperature, is 1 or 0; and what moves the mean: no
       loss, a multiple of it, a constant added to it, another loss at values that no unit takes. Else the term, with no
       free constant, that explains 99.5 % and leaves at most half of what the next one leaves, or the narrowest place
       that has all of the bias and little else; else it is a term that is linear in the loss, missing or in excess.
    4. Where there is no bias, laws that show none on small problems follow; then, against ``like``, whether a constant
       added to the loss changes the variance more than it changes that of ``like`` (`level_effect`), or the variance is
       more than 1.5 times as large; where it is drawn, by five standard errors as well.

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
        Exception: nothing is found, and the estimator's own code raised it where a law was looked at.

    Cost: about half a second; up to ten where the mean is that of smooth random numbers on three kinds of units.
    """
    estimator = doors.an_estimator(estimator, "name_causes(estimator, problem)")
    examined = _Examination(estimator, like, seconds)
    found = examined.causes(problem)
    if not found and examined.error:
        raise examined.error
    return found


class _Examination:
    """What `name_causes` does, with what is known by now.

    Attributes:
        error: what the estimator's own code raised first where a law was looked at, or None.
    """

    def __init__(self, estimator: Estimator, like: Estimator | None, seconds: float):
        self.estimator, self.like = estimator, like
        self.seconds, self.end = seconds, time.monotonic() + seconds
        self.case = Case(estimator, laws(estimator)[:3], ALPHA / (len(HELD) + 1), 0, DRAWS)
        self.checks = {check.name: check for check in checks(estimator)}
        self.messages: dict[str, str] = {}
        self.error: Exception | None = None

    def in_time(self) -> None:
        """Raises where the time is over."""
        if time.monotonic() > self.end:
            raise TimeoutError(f"no cause was found within {max(self.seconds, 0):.3g} s; give more time")

    def causes(self, problem: Problem | None) -> list[Cause]:
        """From the laws to the means."""
        estimator = self.estimator
        if estimator.unbiased is False and self.like is None:  # it may drop gradients by declaration
            return self.broken("first", "then", "last", but="dead path")
        if broken := self.broken("first"):
            return broken
        families = _families(estimator, problem)
        if not families:
            return []
        try:
            _independent(SmallProblem((2,), 3, 1, families[0]), estimator)
            for number, family in enumerate(families):
                own = problem if problem and problem.sites[0].family == family else None
                every = probes(family, own if own and _summable(own, estimator) else None, deep=not number)
                looked = [probe for probe in every if not any(map(estimator.refuses, probe.sites))]
                if table := self.table(looked, len(looked) * len(families)):
                    return self.told(table, looked, families[:number])
        except MeasurementError as error:
            label = "non-finite" if "NaN" in str(error) else "correlated replicates"
            return [Cause(label, str(error), math.nan)]
        return self.broken("then", "last") or self.louder()

    def broken(self, *stages: str, only: str = "", but: str = "") -> list[Cause]:
        """The first law that is broken, of these stages, and of one label or of all but one."""
        for stage, name, part, label in HELD:
            if stage in stages and name in self.checks and only in ("", label) and label != but:
                message = self.message(name)
                if message and part in message:
                    return [Cause(label, message, math.nan)]
        return []

    def message(self, name: str) -> str:
        """Why a check fails; empty where it does not, or cannot be looked at."""
        if name not in self.messages:
            self.in_time()
            self.messages[name] = ""
            try:
                self.checks[name].run(self.case)
            except Violation as error:
                self.messages[name] = str(error)
            except (NotApplicable, Open):
                pass
            except Exception as error:  # of code that was not written for this: other laws may still tell
                self.error = self.error or error
        return self.messages[name]

    def table(self, looked: Sequence[Moved], tests: int) -> _Table | None:
        """Means at all probes, held against the exact gradient or the other mean; None if they agree.

        Where errors are large, a bias has to show again in more draws: the rate is that of the first draws, at most.
        """
        for draws in (DRAWS, MORE * DRAWS):
            gaps, targets, varies = [], [], False
            for probe in looked:
                self.in_time()
                targets.append(see(probe, self.like, draws) if self.like else Seen.known(truth(probe)))
                ours = see(probe, self.estimator, draws)
                varies |= bool((ours.variance > CLOSE * targets[-1].mean ** 2).any())
                gaps.append(ours.minus(targets[-1]))
            there = np.concatenate([gap.differs(tests) for gap in gaps])
            if not there.any():
                return None
            bias, error = (np.concatenate(x) for x in ([g.mean for g in gaps], [g.error for g in gaps]))
            found = _Table(bias, error, np.concatenate([t.mean for t in targets]), there, draws, varies)
            if found.noise < NOISE:
                break
        self.in_time()
        rows = [columns(p, self.like, t if self.like else None) for p, t in zip(looked, targets, strict=True)]
        known = {n: np.concatenate([sums.facts[n] for sums, _ in rows]) for n in rows[0][0].facts}
        terms = [(c, np.concatenate([own[i] for _, own in rows])) for i, (c, _) in enumerate(TERMS)]
        exact = found.noise < DRAWN
        return replace(found, facts=known, terms=(*terms, *gains(self.estimator, found.truth, exact)))

    def told(self, table: _Table, looked: Sequence[Moved], before: Sequence[Family]) -> list[Cause]:
        """The causes of a bias that is there, and not at the laws that were looked at before."""
        terms = table.terms
        if table.noise > BLURRED:  # no factor, since any of several would do
            terms = tuple((c, term) for c, term in terms if c.strict and c.cost < 1)
        where = [(place, mask(table.facts)) for place, mask in PLACES]
        found = best(fits(table, terms, where))
        if self.like and not (found and found[0].full):
            others = list(self.other_settings(self.like, looked, table.draws))
            found = [f for f in best(fits(table, others, where)) if f.full] or found
        causes = [f.cause for f in found]
        own: list[Cause] = []
        if before:
            last = looked[0].sites[0].family
            words = f"shows only at {last!r} units, not at {', '.join(map(repr, before))}"
            own = [Cause("family", f"consistent with a mistake that {words}", 1.0)]
        if found and found[0].full:
            apart = causes[0].label == "dead path" and table.varies
            return [*([Cause("coupling", APART, 1.0)] if apart else causes), *own]
        if broken := self.broken("then") or self.values(looked[0]):
            return broken
        share = table.root / max(math.sqrt(float(np.mean(table.truth**2))), 1e-300)
        if share < SMALL and table.there.mean() > 0.6:
            words = (
                "consistent with numbers of lower precision, or a small one that is added to be safe: the bias is "
                f"{share:.1g} of the gradient"
            )
            return [Cause("precision", words, math.nan)]
        if moved := self.right_at(looked) or self.moved(looked):
            return [*own, *moved, *causes]
        return [*own, *(causes or self.broken("last", only="non-finite") or [Cause("missing term", NO_TERM, math.nan)])]

    def values(self, probe: Moved) -> list[Cause]:
        """Whether the values of the first layer have the law of its units, and those of two paths are independent.

        Neither is a law of all estimators: both are looked at where a bias is not explained, and tell nothing where the
        other estimator breaks one as well, as where both relax.
        """
        found = self.strange(self.case, probe)
        return [] if found and self.like and self.strange(self.case.other(self.like), probe) else found

    def strange(self, case: Case, probe: Moved) -> list[Cause]:
        """What is wrong with the values of one estimator."""
        site, theta = probe.sites[0], probe.theta(probe.weights(), ())
        passed = next((c.passed for c in calls(case, probe, COUNT) if c.site == site.name), ())
        if not passed or any(v.dim() != 3 + len(site.value_shape) for v in passed):
            return []
        unlike = [_unlike(site.family, theta, v.flatten(0, 1), case.alpha) for v in passed]
        if all(unlike):  # others are relaxed, or replayed
            return [Cause("family", unlike[0], math.nan)]
        value = passed[unlike.index("")]
        if len(value) < 2:
            return []
        one, two = (value[k, :, 0].flatten(1).double().numpy() for k in (0, 1))
        p = min(dependence(a, b) for a, b in zip(one.T, two.T, strict=True)) * one.shape[1]
        words = (
            f"consistent with paths that are not independent (p = {p:.1e}), as the baseline of each needs the others"
        )
        return [Cause("coupling", words, math.nan)] if p < case.alpha else []

    def other_settings(self, like: Estimator, looked: Sequence[Moved], draws: int) -> Iterator[tuple[Candidate, Array]]:
        """The means of the other estimator with another of its numbers: inverse, square, twice, half, and one."""
        for name, value in _numbers(like).items():
            for other in {1 / value, value**2, 2 * value, value / 2, 1.0} - {value}:
                self.in_time()
                try:
                    changed = replace(like, **{name: other})  # type: ignore[type-var]
                    term = np.concatenate([see(probe, changed, draws).mean for probe in looked])
                except Exception:  # whatever its own code raises where it takes no such number
                    continue
                yield Candidate(_kind(name), f"a {name} of {other:g}, as of {changed!r}", 1.0), term

    def right_at(self, looked: Sequence[Moved]) -> list[Cause]:
        """A number of the estimator, which no unbiased mean hears, at whose value of 1 or 0 there is no bias."""
        for name in _numbers(self.estimator) if self.like is None else ():
            for other in (1.0, 0.0):
                self.in_time()
                try:
                    changed = replace(self.estimator, **{name: other})  # type: ignore[type-var]
                    gaps = (see(p, changed).minus(Seen.known(truth(p))) for p in looked)
                    wrong = any(gap.differs(len(looked)).any() for gap in gaps)
                except Exception:  # whatever its own code raises where it takes no such number
                    continue
                if not wrong:
                    at = "where it is used, as in one place of two" if other else "what it multiplies"
                    words = f"its bias is gone where its {name} is {other:g}: consistent with a mistake in {at}"
                    return [Cause(_kind(name) if other else "missing term", words, math.nan)]
        return []

    def moved(self, looked: Sequence[Moved]) -> list[Cause]:
        """What a bias that no term explains does when the loss is taken away, multiplied, raised, or changed elsewhere.

        Only an unbiased mean ought not to hear the loss at values that no unit takes.
        """
        discrete = isinstance(looked[0].sites[0].family, Bernoulli | Categorical)
        for change, label, words in MOVES:
            if "hidden" in change and (self.like or not discrete):
                continue
            # the second probe has a second layer, in which estimators may take means
            for probe in looked[: 1 if "hidden" in change else 2]:
                self.in_time()
                base, scale = see(probe, self.estimator), change.get("scale", 1.0)
                rest = see(replace(probe, **change), self.estimator).minus(base.times(scale))  # type: ignore[arg-type]
                top = CLOSE * max(1.0, abs(scale)) * float(np.abs(base.mean).max())
                if (rest.differs(2 * len(MOVES)) & (np.abs(rest.mean) > top)).any():
                    return [Cause(label, words, math.nan)]
        return []

    def louder(self) -> list[Cause]:
        """Of two with one mean: whether the first has more variance, or a constant in the loss gives it more.

        By the factors above, and by five standard errors where variances are drawn: of heavy tails the same law differs
        by such factors.
        """
        if self.like is None:
            return []
        ours, theirs = level_effect(self.estimator), level_effect(self.like)
        unheard = 0.0 if theirs.scores else theirs.error  # what may have been missed there
        unsure = SURE * (math.hypot(ours.factor_error, theirs.factor_error) + unheard)
        if ours.factor() - theirs.factor() < max((HEARD - 1) * theirs.factor(), unsure):
            unsure = SURE * math.hypot(ours.variance_error, theirs.variance_error)
            if not ours.variance > LOUD * theirs.variance > 0 or ours.variance - theirs.variance < unsure:
                return []
            times = f"{ours.variance / theirs.variance:.2g} times its variance"
            words = (
                f"the mean is that of {self.like.label}, with {times}: consistent with random numbers that are not "
                "shared, or with noise that is added"
            )
            return [Cause("variance", words, math.nan)]
        other = f"; that of {self.like.label} by {theirs.factor():.3g}" if theirs.variance > 0 else ""
        words = f"the mean is that of {self.like.label}; {ours.words}{other}"
        return [Cause("baseline", f"{words}: consistent with a baseline that is missing or wrong", math.nan)]


def _unlike(family: Family, theta: Tensor, value: Tensor, alpha: float) -> str:
    """Which moment of values ``[R, *theta.shape]`` is not that of their law; empty where all may be."""
    points, weights = family.rule(theta.double(), NODES)
    weights = weights.reshape(*weights.shape, *[1] * len(family.value_shape))
    limit = float(special.ndtri(1 - alpha / 4 / value[0].numel()))
    for power, name in ((1, "mean"), (2, "mean square")):
        first, second = ((weights * points.double() ** (k * power)).sum(0) for k in (1, 2))
        error = ((second - first**2).clamp(min=0) / len(value)).sqrt() + CLOSE
        found = (value.double() ** power).mean(0)
        off = ((found - first).abs() / error).flatten()
        if off.max() > limit:
            i = int(off.argmax())
            return (
                f"consistent with values of another law than the layer's: the {name} of one that is passed on is "
                f"{found.flatten()[i]:.3g}, where its law has {first.flatten()[i]:.3g}"
            )
    return ""


def _numbers(estimator: Estimator) -> dict[str, float]:
    """Its parameters that are positive numbers."""
    if not dataclasses.is_dataclass(estimator):
        return {}
    own = {f.name: getattr(estimator, f.name) for f in dataclasses.fields(estimator) if f.init}
    return {name: value for name, value in own.items() if isinstance(value, float) and value > 0}


def _kind(name: str) -> str:
    return "temperature" if name == "temperature" else "parametrisation"


def _independent(problem: Problem, estimator: Estimator) -> None:
    """Raises a MeasurementError where replicates depend on each other."""
    known = _truth(problem)
    record = prepare(problem, estimator, wrt=("unit",), reference=known.mean).run(2**11)
    check_independence(record, group_of(record, known, ("total", "units")))


@lru_cache
def _truth(problem: Problem) -> Truth:
    return Truth.exact(problem, ("unit",))


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
