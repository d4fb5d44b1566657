"""All checks in order, run on one estimator or handed to pytest."""

import time
import unittest
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from estimator_lab import doors
from estimator_lab.conformance.case import Case, Check, NotApplicable, Open, Violation
from estimator_lab.conformance.edges import EDGES
from estimator_lab.conformance.independence import INDEPENDENCE
from estimator_lab.conformance.means import MEANS, claims
from estimator_lab.conformance.points import LAWS
from estimator_lab.conformance.sampler import SAMPLER
from estimator_lab.conformance.structure import STRUCTURE
from estimator_lab.errors import LabError, UsageError, in_a_line
from estimator_lab.estimator import Estimator
from estimator_lab.estimators import Callback, DropIn
from estimator_lab.families import Bernoulli, Family
from estimator_lab.noise import derive_seed
from estimator_lab.problem import Problem
from estimator_lab.sampler import GradientSampler
from estimator_lab.site import SiteSpec

if TYPE_CHECKING:
    import pytest

ALPHA = 1e-6
"""Chance that a right estimator fails in one call."""

DRAWS = 2**15
"""Replicates of a statistical check, at most."""

Subject = Estimator | GradientSampler
Status = Literal["passed", "failed", "skipped", "inconclusive", "expected failure"]


@dataclass(frozen=True)
class Outcome:
    """How one check ended.

    Attributes:
        check: its name.
        status: "passed"; "failed"; "skipped", where there is nothing to hold the estimator to; "inconclusive", where
            the draws do not decide; "expected failure", where it was declared and came.
        told: why, empty where it passed.
        seconds: that it took.
        draws: replicates that a failure took to be seen; 0 where no chance was involved.
        error: what the estimator's own code raised, with its traceback, or None.
    """

    check: str
    status: Status
    told: str
    seconds: float
    draws: int = 0
    error: Exception | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Conformance:
    """What came of all checks of one estimator.

    Attributes:
        subject: repr of the estimator.
        outcomes: one for each check, in order.
        alpha: chance that a right estimator fails any of them.
        seed: of the draws; the same seed gives the same outcomes.
    """

    subject: str
    outcomes: tuple[Outcome, ...]
    alpha: float
    seed: int

    def of(self, status: Status) -> tuple[Outcome, ...]:
        """Outcomes of one status."""
        return tuple(o for o in self.outcomes if o.status == status)

    @property
    def counts(self) -> dict[Status, int]:
        """How many checks ended how; every status is a key."""
        kinds: tuple[Status, ...] = ("passed", "failed", "skipped", "inconclusive", "expected failure")
        return {kind: len(self.of(kind)) for kind in kinds}

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return not self.of("failed")

    def summary(self) -> str:
        """Counts, then a line for each check that did not pass."""
        counted = ", ".join(f"{n} {kind}" for kind, n in self.counts.items() if n)
        lines = [f"{self.subject}: {counted} of {len(self.outcomes)} checks (false alarms {self.alpha:g} in all)"]
        for kind in ("failed", "expected failure", "inconclusive", "skipped"):
            lines += [f"  {kind}: {o.check}: {o.told}" for o in self.of(kind)]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<Conformance of {self.subject}: {', '.join(f'{n} {k}' for k, n in self.counts.items() if n)}>"


class ConformanceError(LabError, AssertionError):
    """An estimator failed its checks.

    Attributes:
        result: of all checks.
    """

    exit_code = 1

    def __init__(self, result: Conformance):
        failed = result.of("failed")
        lines = [f"{result.subject} fails {len(failed)} of {len(result.outcomes)} checks (seed {result.seed}):"]
        super().__init__("\n".join(lines + [f"  {o.check}: {o.told}" for o in failed]))
        self.result = result


def laws(subject: Subject, families: Sequence[Family] | None = None) -> tuple[Family, ...]:
    """The laws that an estimator is tried on.

    By default those it applies to. What takes any function, `DropIn` and `Callback`, applies to whatever the function
    is written for, which nothing says: by default that is taken to be Bernoulli units.

    Raises:
        UsageError: it refuses one that was given, or all there are.
    """
    if isinstance(subject, GradientSampler):
        return ()
    if families is not None:
        for family in families:
            if told := subject.refuses(SiteSpec("h1", family, (2,))):
                raise UsageError(told)
        if not families:
            raise UsageError(f"no law is given to try {subject!r} on; leave families out for the default")
        return tuple(families)
    if isinstance(subject, DropIn | Callback):
        return (Bernoulli(),)
    found = tuple(f for f in LAWS if not subject.refuses(SiteSpec("h1", f, (2,))))
    if not found:
        raise UsageError(f"{subject!r} refuses every law of the package; give families=[...] that it applies to")
    return found


def checks(
    subject: Subject, *, problems: Sequence[Problem] | None = None, families: Sequence[Family] | None = None
) -> tuple[Check, ...]:
    """The checks of an estimator, in the order that they are run: quick and certain ones first.

    Args:
        subject: an ``Estimator`` of any door, or a ``GradientSampler``.
        problems: those that its claim is held to; by default a handful of points for each of its laws.
        families: laws that it is tried on; by default see `laws`.
    """
    if isinstance(subject, GradientSampler):
        return SAMPLER
    own = laws(subject, families)
    given = None if problems is None else list(doors.problems(problems, "check_estimator(estimator, problems=[...])"))
    every = (*STRUCTURE, *EDGES, *claims(own, given), *MEANS, *INDEPENDENCE)
    return every


def _outcome(check: Check, case: Case, expected: str | None) -> Outcome:
    began = time.perf_counter()
    status: Status = "passed"
    told, draws, own = "", 0, None
    try:
        check.run(case)
    except NotApplicable as error:
        status, told = "skipped", str(error)
    except Open as error:
        status, told = "inconclusive", str(error)
    except (Violation, LabError) as error:
        status, told, draws = "failed", str(error), getattr(error, "draws", 0)
    except Exception as error:
        status, told, own = "failed", f"raises {in_a_line(error)}", error
    if expected is not None and status == "failed":
        status, told = "expected failure", f"{expected} ({told})"
    elif expected is not None and status == "passed":
        status, told = "failed", f"was expected to fail ({expected}) and passes: take it off the expected failures"
    return Outcome(check.name, status, told, time.perf_counter() - began, draws, own)


def _subject(given: object, call: str) -> Subject:
    return given if isinstance(given, GradientSampler) else doors.an_estimator(given, call)


def _expected(expected: Mapping[str, str], known: Sequence[Check], subject: Subject) -> Mapping[str, str]:
    names = [check.name for check in known]
    if unknown := [name for name in expected if name not in names]:
        raise UsageError(f"{subject!r} has no check {unknown[0]!r} that could be expected to fail; it has {names}")
    return expected


def _case(subject: Subject, families: Sequence[Family] | None, alpha: float, seed: int, draws: int) -> Case:
    return Case(subject, laws(subject, families), alpha, derive_seed("conformance", seed, repr(subject)), draws)


def _share(alpha: float, every: Sequence[Check]) -> float:
    if not 0 < alpha < 1:
        raise UsageError(f"alpha is a false-alarm rate between 0 and 1; found {alpha}")
    return alpha / max(1, sum(check.statistical for check in every))


def check_estimator(
    estimator: Subject,
    *,
    problems: Sequence[Problem] | None = None,
    families: Sequence[Family] | None = None,
    like: Estimator | None = None,
    expected_failures: Mapping[str, str] | None = None,
    alpha: float = ALPHA,
    seed: int = 0,
    draws: int = DRAWS,
    raises: bool = True,
) -> Conformance:
    """Holds an estimator to the laws of estimators.

    Its surrogate has the right shape and value, replicates and examples do not mix and are independent, nothing global
    is touched, no path is dead, gradients are finite under saturation and right in low precision, the mean scales with
    the loss and hears no constant. If it claims to be unbiased, its mean is the truth at points with unequal,
    saturated and symmetric probabilities, for several losses, layers and batches: exactly where its random numbers can
    be summed, else by a test. What claims to be biased passes if nothing breaks.

    Cost: about a second.

    Args:
        estimator: an ``Estimator`` of any door, or a ``GradientSampler``, which brings its own truth.
        problems: those that its claim is held to; by default a handful of points for each of its laws.
        families: laws that it is tried on; by default those of the package that it applies to, and for `DropIn` and
            `Callback` Bernoulli.
        like: another implementation with the same mean, for what is biased, or too slow to be held to the truth.
        expected_failures: reasons by name of a check. One that passes all the same is a failure.
        alpha: chance that a right estimator fails, shared equally by all statistical checks.
        seed: of all draws.
        draws: replicates of a statistical check, at most.
        raises: raise on a failure; else only return the result.

    Returns:
        What came of every check, with counts.

    Raises:
        ConformanceError: a check failed; lists all that did.
        UsageError: it is no estimator, refuses a law that was given, or a name of a check is unknown.
    """
    subject = _subject(estimator, "check_estimator(estimator)")
    every = checks(subject, problems=problems, families=families)
    expected = _expected(expected_failures or {}, every, subject)
    case = _case(subject, families, _share(alpha, every), seed, draws)
    if like is not None:
        case = _with(case, doors.an_estimator(like, "check_estimator(estimator, like=other)"))
    outcomes = tuple(_outcome(check, case, expected.get(check.name)) for check in every)
    result = Conformance(repr(subject), outcomes, alpha, seed)
    if raises and not result.ok:
        raise ConformanceError(result) from next((o.error for o in result.of("failed") if o.error), None)
    return result


def _with(case: Case, like: Estimator) -> Case:
    return Case(case.subject, case.families, case.alpha, case.seed, case.draws, like)


@dataclass(frozen=True, repr=False)
class Trial:
    """One check with its share of the false-alarm rate: what a test function calls.

    Attributes:
        check: the law.
        case: what it is run on.
    """

    check: Check
    case: Case

    def __call__(self, estimator: Subject | None = None) -> None:
        """Runs it.

        Raises:
            AssertionError: the law does not hold.
            unittest.SkipTest: there is nothing to hold the estimator to, or the draws do not decide.
        """
        outcome = _outcome(self.check, self.case, None)
        if outcome.status in ("skipped", "inconclusive"):
            raise unittest.SkipTest(f"{outcome.status}: {outcome.told}")
        if outcome.status == "failed":
            raise AssertionError(f"{self.case.subject!r} {self.check.name}: {outcome.told}") from outcome.error

    def __repr__(self) -> str:
        return self.check.name


def trials(
    estimators: Sequence[Subject],
    *,
    problems: Sequence[Problem] | None = None,
    families: Sequence[Family] | None = None,
    alpha: float = ALPHA,
    seed: int = 0,
    draws: int = DRAWS,
) -> Iterator[tuple[Subject, Trial]]:
    """Every estimator with each of its checks; ``alpha`` is shared by all of them."""
    every = [(s, checks(s, problems=problems, families=families)) for s in estimators]
    share = _share(alpha, [check for _, own in every for check in own])
    for subject, own in every:
        case = _case(subject, families, share, seed, draws)
        yield from ((subject, Trial(check, case)) for check in own)


def parametrize_with_checks(
    estimators: Sequence[Subject],
    *,
    problems: Sequence[Problem] | None = None,
    families: Sequence[Family] | None = None,
    expected_failures: Mapping[str, str] | Callable[[Subject], Mapping[str, str]] | None = None,
    alpha: float = ALPHA,
    seed: int = 0,
    draws: int = DRAWS,
) -> "pytest.MarkDecorator":
    """Makes a test function run once for every estimator and each of its checks.

    The function has the arguments ``estimator`` and ``check`` and calls ``check(estimator)``::

        @lab.parametrize_with_checks([MyEstimator()])
        def test_laws(estimator, check):
            check(estimator)

    Ids are ``repr-name of the check`` and do not depend on the order. Checks that have nothing to say, or whose draws
    do not decide, are skipped with the reason.

    Args:
        estimators: of any door.
        problems: those that claims are held to; by default a handful of points for each law.
        families: laws that all of them are tried on.
        expected_failures: reasons by name of a check, or a function that gives those of one estimator. They are strict:
            one that passes all the same is a failure.
        alpha: chance that any right estimator fails anywhere, shared equally by all statistical checks of all.
        seed: of all draws.
        draws: replicates of a statistical check, at most.

    Raises:
        UsageError: what is given is no list of estimators, or the name of a check is unknown.
    """
    import pytest

    if isinstance(estimators, Estimator | GradientSampler) or not isinstance(estimators, Sequence):
        raise UsageError("give a list of estimators: parametrize_with_checks([estimator, ...])")
    subjects = [_subject(e, "parametrize_with_checks([estimator, ...])") for e in estimators]
    told: dict[int, Mapping[str, str]] = {}
    for subject in subjects:
        given = expected_failures(subject) if callable(expected_failures) else expected_failures or {}
        told[id(subject)] = _expected(given, checks(subject, problems=problems, families=families), subject)
    parameters = []
    for subject, trial in trials(subjects, problems=problems, families=families, alpha=alpha, seed=seed, draws=draws):
        reason = told[id(subject)].get(trial.check.name)
        marks = [] if reason is None else [pytest.mark.xfail(reason=reason, strict=True)]
        parameters.append(pytest.param(subject, trial, id=f"{subject!r}-{trial.check.name}", marks=marks))
    return pytest.mark.parametrize(("estimator", "check"), parameters)
