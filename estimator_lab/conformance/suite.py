"""All checks in order, run on one estimator or handed to pytest."""

import difflib
import inspect
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from estimator_lab import doors
from estimator_lab.conformance.axes import AXES
from estimator_lab.conformance.case import Case, Check, NotApplicable, Open, Outcome, Status, Violation
from estimator_lab.conformance.edges import EDGES
from estimator_lab.conformance.explained import CLAIM, is_claim, looks_like
from estimator_lab.conformance.independence import INDEPENDENCE
from estimator_lab.conformance.means import MEANS, claims
from estimator_lab.conformance.points import LAWS
from estimator_lab.conformance.sampler import DRAWS as CALLS
from estimator_lab.conformance.sampler import SAMPLER
from estimator_lab.conformance.sampler import can_be_repeated as calls_can_be_repeated
from estimator_lab.conformance.state import STATE, can_be_repeated, changes_of
from estimator_lab.conformance.structure import STRUCTURE, has_the_right_shapes
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

DRAWS = 2**17
"""Replicates of a mean that is tested, at most."""

SHOWN = 8
"""Lines of one status that a summary has, at most."""

FEWEST = 2**8
"""Fewest replicates that a mean can be tested on."""

Subject = Estimator | GradientSampler
Reasons = Mapping[str, str]

FIRST = (
    Check("has the right shapes", has_the_right_shapes),
    Check("can be repeated", can_be_repeated),
    Check("can be repeated", calls_can_be_repeated),
)
"""Where one of these fails the others are skipped: what they would tell follows from it."""


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

    @property
    def status(self) -> Literal["sound", "violated", "inconclusive"]:
        """As of a diagnosis: "violated" if a check failed, else "inconclusive" if the draws left one open."""
        return "violated" if self.of("failed") else "inconclusive" if self.of("inconclusive") else "sound"

    def summary(self) -> str:
        """Counts, then a line for what did not pass: what failed first; checks that say the same share a line."""
        lines = [f"{self.subject}: {self._counted()} of {len(self.outcomes)} checks (false-alarm rate {self.alpha:g})"]
        kinds: tuple[Status, ...] = ("failed", "expected failure", "inconclusive", "skipped")
        return "\n".join(lines + [f"  {kind}: {line}" for kind in kinds for line in _lines(self.of(kind))])

    def _counted(self) -> str:
        return ", ".join(f"{n} {kind}" for kind, n in self.counts.items() if n)

    def __repr__(self) -> str:
        return f"<Conformance of {self.subject}: {self._counted()}>"


def _lines(outcomes: Sequence[Outcome]) -> list[str]:
    """What was told, each once but for numbers, with the checks that told it; the first `SHOWN`.

    A claim that is violated at several points is told in full at the first of them.
    """
    by_told: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        told = CLAIM if outcome.told.startswith("claims to be") else re.sub(r"[\d.]+", "", outcome.told)
        by_told.setdefault(told, []).append(outcome)
    lines = [_line(told == CLAIM, *group) for told, group in by_told.items()]
    rest = [one.check for one, *_ in by_told.values()][SHOWN:]
    return lines[:SHOWN] + ([f"{len(rest)} more: {', '.join(rest)}"] if rest else [])


def _line(claim: bool, one: Outcome, *more: Outcome) -> str:
    if not claim or not more:
        return f"{one.check}{f' (and {len(more)} more)' * bool(more)}: {one.told}"
    points = [o.check.removeprefix(f"{CLAIM} on ") for o in more]
    named = ", ".join(points[:SHOWN]) + (", .." if points[SHOWN:] else "")
    return f"{one.check}: {one.told}; and {len(more)} more: {named}"


class ConformanceError(LabError, AssertionError):
    """An estimator failed its checks.

    Attributes:
        result: of all checks.
        looks_like: what the failures look like, in words, likeliest first.
    """

    exit_code = 1

    def __init__(self, result: Conformance, looks_like: Sequence[str] = (), hint: str = ""):
        failed = result.of("failed")
        lines = [f"{result.subject} fails {len(failed)} of {len(result.outcomes)} checks (seed {result.seed}):"]
        lines += [f"  looks like: {words}" for words in looks_like]
        lines += [f"  {line}" for line in _lines(failed)]
        super().__init__("\n".join(lines + ([f"  {hint}"] if hint else [])))
        self.result, self.looks_like = result, tuple(looks_like)


def _hint(subject: Subject, failed: Sequence[Outcome]) -> str:
    """How to see a violated claim in a few lines."""
    if isinstance(subject, Estimator) and any(o.told.startswith("claims to be") for o in failed):
        return "lab.smallest_witness(estimator).code is a test on the smallest problem that shows it"
    return ""


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
        given = tuple(families) if isinstance(families, Iterable) else ()
        if not given or not all(isinstance(family, Family) for family in given):
            raise UsageError(
                f"families is a list of laws to try {subject!r} on, such as [lab.Bernoulli()]; found {families!r}; "
                "leave it out for the default"
            )
        if told := next(filter(None, (subject.refuses(SiteSpec("h1", family, (2,))) for family in given)), ""):
            raise UsageError(told)
        return given
    if isinstance(subject, DropIn | Callback):
        return (Bernoulli(),)
    found = tuple(f for f in LAWS if not subject.refuses(SiteSpec("h1", f, (2,))))
    if not found:
        told = subject.refuses(SiteSpec("h1", LAWS[0], (2,)))
        raise UsageError(
            f"{subject!r} refuses every law of the package ({told}); give families=[...] that it applies to"
        )
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
        if problems is not None or families is not None:
            raise UsageError(f"{subject!r} brings its own problem and truth; leave problems and families out")
        return (*FIRST[2:], *SAMPLER)
    own = laws(subject, families)
    given = None if problems is None else list(doors.problems(problems, "check_estimator(estimator, problems=[...])"))
    return (*FIRST[:2], *STATE, *STRUCTURE, *AXES, *EDGES, *claims(own, given), *MEANS, *INDEPENDENCE)


def _held_against(expected: str, status: Status, told: str) -> tuple[Status, str]:
    """Status and text of a check that was declared to fail: what the draws leave open stays open, all else is wrong."""
    if status == "failed":
        return "expected failure", f"{expected} ({told})"
    if status == "inconclusive":
        return status, f"was expected to fail ({expected}): {told}"
    found = "passes" if status == "passed" else f"says nothing ({told})"
    return "failed", f"was expected to fail ({expected}) and {found}: take it off the expected failures"


def _subject(given: object, call: str) -> Subject:
    if isinstance(given, GradientSampler):
        return given
    if inspect.isroutine(given):
        name = getattr(given, "__name__", "function")
        raise UsageError(f"{name} is a function; wrap it: lab.Callback({name}), lab.DropIn({name})")
    return doors.an_estimator(given, call)


def _reasons(expected: object, known: Sequence[Check], subject: Subject) -> Reasons:
    if not isinstance(expected, Mapping):
        raise UsageError(f"expected_failures gives reasons by name of a check; found {expected!r}")
    names = [check.name for check in known]
    if unknown := [name for name in expected if name not in names]:
        near = difflib.get_close_matches(str(unknown[0]), names, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {names}"
        raise UsageError(f"{subject!r} has no check {unknown[0]!r} that could be expected to fail; {hint}")
    return expected


@dataclass(frozen=True, repr=False)
class Trial:
    """One check of one estimator, with its share of the false-alarm rate: what a test function calls.

    Attributes:
        check: the law.
        case: what it is run on.
        expected: why it is expected to fail, or None.
        first: those of `FIRST` that come before it.
        explained: claims of the estimator that failed with causes, which are told once.
    """

    check: Check
    case: Case
    expected: str | None = None
    first: "tuple[Trial, ...]" = ()
    explained: list[str] = field(default_factory=list, compare=False)

    def run(self) -> Outcome:
        """How it ends, found once; globals that it changes are put back."""
        return self._outcome

    @cached_property
    def _outcome(self) -> Outcome:
        began = time.perf_counter()
        status: Status = "passed"
        told, draws, own, causes = "", 0, None, ()
        if failed := [t.check.name for t in self.first if t.expected is None and t.run().status == "failed"]:
            words = f"fails {failed[0]!r}, from which all else may follow"  # also of what is expected to fail
            return Outcome(self.check.name, "skipped", words, time.perf_counter() - began)
        try:
            changes_of(lambda: self.check.run(self.case.fresh()))
        except NotApplicable as error:
            status, told = "skipped", str(error)
        except Open as error:
            status, told = "inconclusive", str(error)
        except (Violation, LabError) as error:
            status, told, draws = "failed", str(error), getattr(error, "draws", 0)
            causes = getattr(error, "causes", ())
        except (Exception, SystemExit) as error:
            status, told, own = "failed", f"raises {in_a_line(error)}", error
        if self.expected is not None:
            status, told = _held_against(self.expected, status, told)
        return Outcome(self.check.name, status, told, time.perf_counter() - began, draws, own, causes)

    def __call__(self, estimator: Subject) -> None:
        """Runs it, in a test.

        Args:
            estimator: that of the pair.

        Raises:
            AssertionError: the law does not hold, or was expected not to hold and does. Its first line is the reason.
            pytest.skip.Exception: there is nothing to hold the estimator to, or the draws do not decide; what begins
                with "inconclusive" is the latter.
            UsageError: the estimator is not that of the pair.
        """
        __tracebackhide__ = True  # a test shows its own lines
        import pytest

        if estimator is not self.case.subject:
            raise UsageError(f"this check is one of {self.case.subject!r}; call check(estimator) with that of its pair")
        outcome = self.run()
        if outcome.status in ("skipped", "inconclusive"):
            pytest.skip(f"{outcome.status}: {outcome.told}")
        if outcome.status == "expected failure":
            pytest.xfail(outcome.told)
        if outcome.status != "passed":
            causes: tuple[str, ...] = ()
            if self.expected is None and is_claim(self.check.name) and not self.explained:
                self.explained.append(self.check.name)
                causes = looks_like(self.case.subject, self.case.like, [outcome])
            lines = [outcome.told, f"({self.case.subject!r}: {self.check.name})"]
            lines += [f"looks like: {words}" for words in causes]
            hint = _hint(self.case.subject, [outcome]) if causes else ""
            raise AssertionError("\n  ".join([*lines, *filter(None, [hint])])) from outcome.error

    def __repr__(self) -> str:
        return self.check.name


def trials(
    estimators: Sequence[Subject],
    *,
    problems: Sequence[Problem] | None = None,
    families: Sequence[Family] | None = None,
    like: Estimator | Callable[[Subject], Estimator | None] | None = None,
    expected_failures: Reasons | Callable[[Subject], Reasons] | None = None,
    alpha: float = ALPHA,
    seed: int = 0,
    draws: int | None = None,
) -> Iterator[tuple[Subject, Trial]]:
    """Every estimator with each of its checks; ``alpha`` is shared by all of them.

    Arguments and errors are those of `parametrize_with_checks`.
    """
    if not isinstance(alpha, float | int) or not 0 < alpha < 1:
        raise UsageError(f"alpha is a false-alarm rate between 0 and 1; found {alpha!r}")
    if draws is not None and (not isinstance(draws, int) or draws < FEWEST):
        raise UsageError(f"draws is a whole number of replicates, at least {FEWEST}; found {draws!r}")
    every = [(s, checks(s, problems=problems, families=families)) for s in estimators]
    share = alpha / max(1, sum(check.statistical for _, own in every for check in own))
    for subject, own in every:
        one = like is None or isinstance(like, Estimator | type) or not callable(like)
        other = like if one else like(subject)  # type: ignore[operator,misc]
        if other is not None:
            other = doors.an_estimator(other, "check_estimator(estimator, like=other)")
            if isinstance(subject, GradientSampler):
                raise UsageError(f"{subject!r} brings its own truth; leave like out")
        given = expected_failures(subject) if callable(expected_failures) else expected_failures
        reasons = _reasons({} if given is None else given, own, subject)
        derived = derive_seed("conformance", seed, repr(subject))
        most = draws or (CALLS if isinstance(subject, GradientSampler) else DRAWS)
        case = Case(subject, laws(subject, families), share, derived, most, other)
        first: tuple[Trial, ...] = ()
        explained: list[str] = []
        for check in own:
            trial = Trial(check, case, reasons.get(check.name), first, explained)
            first += (trial,) * (check in FIRST)
            yield subject, trial


def check_estimator(
    estimator: Subject,
    *,
    problems: Sequence[Problem] | None = None,
    families: Sequence[Family] | None = None,
    like: Estimator | None = None,
    expected_failures: Reasons | None = None,
    alpha: float = ALPHA,
    seed: int = 0,
    draws: int | None = None,
    raises: bool = True,
) -> Conformance:
    """Holds an estimator to the laws of estimators.

    Its surrogate has the right shape and value, replicates and examples do not mix and are independent, nothing global
    is touched, no path is dead, gradients are finite under saturation and right in low precision, the mean scales with
    the loss and hears no constant. If it claims to be unbiased, its mean is the truth at points with unequal,
    saturated and symmetric probabilities, for several losses, layers and batches: exactly where its random numbers can
    be summed, else by a test. What claims to be biased passes if nothing breaks.

    Cost: one to ten seconds; most where random numbers cannot be summed.

    Args:
        estimator: an ``Estimator`` of any door, or a ``GradientSampler``, which brings its own truth.
        problems: those that its claim is held to; by default a handful of points for each of its laws.
        families: laws that it is tried on; by default those of the package that it applies to, and for `DropIn` and
            `Callback` Bernoulli.
        like: another implementation with the same mean, for what is biased, or too slow to be held to the truth.
        expected_failures: reasons by name of a check. One that passes all the same, or has nothing to say, is a
            failure; one that the draws leave open stays open.
        alpha: chance that a right estimator fails, shared equally by all statistical checks.
        seed: of all draws.
        draws: replicates of a mean that is tested, at most; by default 131072, and 4096 calls of a black box.
        raises: raise on a failure; else only return the result.

    Returns:
        What came of every check, with counts.

    Raises:
        ConformanceError: a check failed; lists all that did. Its cause is what the estimator's own code raised, if it
            did.
        UsageError: it is no estimator, refuses a law that was given, or a name of a check is unknown.
    """
    __tracebackhide__ = True  # a test shows its own lines
    subject = _subject(estimator, "check_estimator(estimator)")
    if like is not None:
        like = doors.an_estimator(like, "check_estimator(estimator, like=other)")
    own = list(
        trials(
            [subject],
            problems=problems,
            families=families,
            like=like,
            expected_failures=expected_failures,
            alpha=alpha,
            seed=seed,
            draws=draws,
        )
    )
    result = Conformance(repr(subject), tuple(trial.run() for _, trial in own), alpha, seed)
    if raises and not result.ok:
        failed = [o for o in result.of("failed") if not (expected_failures and o.check in expected_failures)]
        error = ConformanceError(result, looks_like(subject, like, failed), _hint(subject, failed))
        raise error from next((o.error for o in result.of("failed") if o.error), None)
    return result


def parametrize_with_checks(
    estimators: Sequence[Subject],
    *,
    problems: Sequence[Problem] | None = None,
    families: Sequence[Family] | None = None,
    like: Estimator | Callable[[Subject], Estimator | None] | None = None,
    expected_failures: Reasons | Callable[[Subject], Reasons] | None = None,
    alpha: float = ALPHA,
    seed: int = 0,
    draws: int | None = None,
) -> "pytest.MarkDecorator":
    """Makes a test function run once for every estimator and each of its checks.

    The function has the arguments ``estimator`` and ``check`` and calls ``check(estimator)``::

        @lab.parametrize_with_checks([MyEstimator()])
        def test_laws(estimator, check):
            check(estimator)

    Ids are ``repr-name of the check`` and do not depend on the order. Checks that have nothing to say, or whose draws
    do not decide, are skipped with the reason: "skipped: .." or "inconclusive: ..", which ``pytest -rs`` counts.

    Args:
        estimators: of any door, each once.
        problems: those that claims are held to; by default a handful of points for each law.
        families: laws that all of them are tried on.
        like: another implementation with the same mean, or a function that gives that of one estimator, or None.
        expected_failures: reasons by name of a check, or a function that gives those of one estimator. They are strict:
            one that passes all the same, or has nothing to say, is a failure.
        alpha: chance that any right estimator fails anywhere, shared equally by all statistical checks of all.
        seed: of all draws.
        draws: replicates of a mean that is tested, at most; by default 131072, and 4096 calls of a black box.

    Raises:
        UsageError: what is given is no list of estimators, two of them have one repr, or the name of a check is
            unknown.
    """
    import pytest

    if isinstance(estimators, Estimator | GradientSampler) or not isinstance(estimators, Sequence) or not estimators:
        raise UsageError("give a list of estimators: parametrize_with_checks([estimator, ...])")
    subjects = [_subject(e, "parametrize_with_checks([estimator, ...])") for e in estimators]
    if twice := [name for name, count in Counter(map(repr, subjects)).items() if count > 1]:
        raise UsageError(
            f"two estimators are called {twice[0]}, and ids are to tell them apart: give each once, named functions in "
            "the place of lambdas, and a GradientSampler(..., name=...)"
        )
    own = trials(
        subjects,
        problems=problems,
        families=families,
        like=like,
        expected_failures=expected_failures,
        alpha=alpha,
        seed=seed,
        draws=draws,
    )
    parameters = [pytest.param(subject, trial, id=f"{subject!r}-{trial.check.name}") for subject, trial in own]
    return pytest.mark.parametrize(("estimator", "check"), parameters)
