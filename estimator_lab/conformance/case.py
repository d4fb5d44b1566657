"""One estimator under examination, and how a check ends."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, Self, TypeVar

from torch import Tensor

from estimator_lab.chain import Chain
from estimator_lab.estimator import Downstream, Estimator, MeanGradient
from estimator_lab.families import Family
from estimator_lab.measurement import fit
from estimator_lab.problem import Problem
from estimator_lab.sampler import GradientSampler
from estimator_lab.site import Site, SiteSpec

FIT = 2**6
"""Draws on which learned parts are fitted: any constants will do to hold an estimator to its laws."""


class Violation(AssertionError):
    """The estimator breaks a law; the message names the place and the size.

    Attributes:
        draws: replicates that it took to see it; 0 where no chance was involved.
        causes: what it looks like, in words, where the draws that showed it tell.
    """

    def __init__(self, message: str, draws: int = 0, causes: tuple[str, ...] = ()):
        super().__init__(message)
        self.draws, self.causes = draws, causes


class NotApplicable(Exception):
    """The check has nothing to hold the estimator to; says why."""


class Open(Exception):
    """The draws do not decide; says what might have been missed."""


T = TypeVar("T")


def copied(given: T) -> T:
    """A copy that shares no state; the object itself where it cannot be copied.

    A black box stays what it is: its function may be bound to a module that a copy would part from it.
    """
    if isinstance(given, GradientSampler):
        return given
    try:
        return copy.deepcopy(given)
    except Exception:  # whatever the user's attributes raise, such as tensors in a graph
        return given


@dataclass(frozen=True, repr=False)
class Held(Estimator):
    """An estimator whose learned parts stay as they are.

    Attributes:
        inner: the estimator, adapted.
    """

    inner: Estimator

    def __post_init__(self) -> None:
        for name in ("paths", "unbiased", "families", "fitted"):
            object.__setattr__(self, name, getattr(self.inner, name))

    def adapt(self, mean_gradient: MeanGradient) -> Self:
        """Itself."""
        return self

    def refuses(self, site: SiteSpec) -> str:
        """What the estimator refuses."""
        return self.inner.refuses(site)

    def surrogate(self, site: Site, downstream: Downstream) -> Tensor:
        """The estimator's own."""
        return self.inner.surrogate(site, downstream)

    def __repr__(self) -> str:
        return repr(self.inner)


@dataclass(frozen=True)
class Case:
    """What a check is given.

    Attributes:
        subject: an estimator, or a black box.
        families: laws of the units that it is tried on.
        alpha: false-alarm rate of the check, if it is statistical.
        seed: of all draws.
        draws: replicates of a mean that is tested, at most.
        like: another implementation with the same mean, or None.
    """

    subject: Estimator | GradientSampler
    families: tuple[Family, ...]
    alpha: float
    seed: int
    draws: int
    like: Estimator | None = None
    _fits: dict[int, tuple[Problem, Held]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def estimator(self) -> Estimator:
        """The subject, as an estimator."""
        assert isinstance(self.subject, Estimator)
        return self.subject

    def other(self, estimator: Estimator) -> "Case":
        """The same examination of another estimator."""
        return replace(self, subject=estimator, _fits={})

    def fresh(self) -> "Case":
        """The same examination of a copy of what was given, which no check has touched."""
        return replace(self, subject=copied(self.subject), like=copied(self.like), _fits={})

    def ready(self, problem: Problem) -> Estimator:
        """The estimator with its learned parts fitted on a problem."""
        if id(problem) not in self._fits:  # the problem is kept as well, so that its id is not given again
            self._fits[id(problem)] = problem, Held(fit(self.estimator, problem, self.seed, FIT))
        return self._fits[id(problem)][1]

    def chain(self, problem: Problem, wrt: tuple[str, ...] = ("unit", "weight")) -> Chain:
        """A problem under the estimator."""
        return Chain(problem, self.ready(problem), wrt)


@dataclass(frozen=True)
class Check:
    """A law that estimators are held to.

    Attributes:
        name: stable, for ids and for declared failures.
        run: returns if the law holds; raises `Violation`, `NotApplicable` or `Open` if not.
        statistical: whether it may be wrong by chance, and so takes a share of the false-alarm rate.
    """

    name: str
    run: Callable[[Case], None]
    statistical: bool = False


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
        causes: what the draws of a black box that failed look like, in words.
    """

    check: str
    status: Status
    told: str
    seconds: float
    draws: int = 0
    error: BaseException | None = field(default=None, repr=False, compare=False)
    causes: tuple[str, ...] = ()
