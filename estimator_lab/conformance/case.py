"""One estimator under examination, and how a check ends."""

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from estimator_lab.chain import Chain
from estimator_lab.estimator import Downstream, Estimator, MeanGradient
from estimator_lab.families import Family
from estimator_lab.noise import MonteCarlo, derive_seed, forked
from estimator_lab.problem import Problem
from estimator_lab.sampler import GradientSampler
from estimator_lab.site import Site, SiteSpec

FIT = 2**8
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


class WrongShape(Violation):
    """What is drawn has a wrong shape or dtype, which leaves nothing to examine."""


class NotApplicable(Exception):
    """The check has nothing to hold the estimator to; says why."""


class Open(Exception):
    """The draws do not decide; says what might have been missed."""


T = TypeVar("T")

PLAIN = (bool, int, float, complex, str, bytes, Family, torch.dtype, type(None))
"""Types of what cannot be changed."""


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


def _marks(value: object) -> list[object]:
    """What is another after a change: identities and versions of tensors; None for what may change within."""
    if isinstance(value, Tensor):
        return [(id(value), value._version)]
    if isinstance(value, tuple | list | dict):
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        return [mark for part in parts for mark in _marks(part)]
    return [id(value) if isinstance(value, PLAIN) or inspect.isfunction(value) else None]


def _marks_of(given: object) -> dict[str, list[object]]:
    """Marks of all attributes."""
    return {name: _marks(value) for name, value in getattr(given, "__dict__", {"": given}).items()}


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
        told: what is known of the estimator by now, for all checks.
    """

    subject: Estimator | GradientSampler
    families: tuple[Family, ...]
    alpha: float
    seed: int
    draws: int
    like: Estimator | None = None
    told: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    _fits: dict[int, tuple[Problem, Held, dict[str, list[object]]]] = field(
        default_factory=dict, repr=False, compare=False
    )
    _chains: dict[tuple[int, tuple[str, ...]], Chain] = field(default_factory=dict, repr=False, compare=False)

    @property
    def estimator(self) -> Estimator:
        """The subject, as an estimator."""
        assert isinstance(self.subject, Estimator)
        return self.subject

    def other(self, estimator: Estimator) -> "Case":
        """The same examination of another estimator."""
        return replace(self, subject=estimator, _fits={}, _chains={})

    def fresh(self) -> "Case":
        """The same examination of a copy of what was given, which no check has touched.

        The copy of the check before is used again where it has nothing that could have changed, and did not.
        """
        last = self.told.get("copy")
        if last is None or not last._untouched():
            last = replace(self, subject=copied(self.subject), like=copied(self.like), _fits={}, _chains={})
            last.told["marks"] = [_marks_of(e) for e in (last.subject, last.like)]
            self.told["copy"] = last
        return last

    def _untouched(self) -> bool:
        """Whether nothing that is drawn from has changed, or could have."""
        before = [*self.told["marks"], *(marks for _, _, marks in self._fits.values())]
        now = [_marks_of(e) for e in (self.subject, self.like, *(held.inner for _, held, _ in self._fits.values()))]
        return before == now and not any(None in marks for own in now for marks in own.values())

    def share(self, parts: int) -> "Case":
        """One of several equal parts of a check."""
        return replace(self, alpha=self.alpha / max(parts, 1))

    def ready(self, problem: Problem) -> Estimator:
        """The estimator with its learned parts fitted on a problem."""
        if id(problem) not in self._fits:  # the problem is kept as well, so that its id is not given again
            fitted = self._fitted(problem)
            self._fits[id(problem)] = problem, Held(fitted), _marks_of(fitted)
        return self._fits[id(problem)][1]

    def _fitted(self, problem: Problem) -> Estimator:
        def mean_gradient(other: Estimator) -> dict[str, Tensor]:
            noise = MonteCarlo("fit", repr(problem), repr(other), self.seed)
            drawn = Chain(problem, other, ("unit",)).draw(FIT, noise)
            return {site: gradient.mean(0) for (_, site), gradient in drawn.items()}

        with forked(derive_seed("stream", "fit", self.seed)):
            return self.estimator.adapt(mean_gradient)

    def chain(self, problem: Problem, wrt: tuple[str, ...] = ("unit", "weight")) -> Chain:
        """A problem under the estimator."""
        ready = self.ready(problem)
        if (id(problem), wrt) not in self._chains:
            self._chains[id(problem), wrt] = Chain(problem, ready, wrt)
        return self._chains[id(problem), wrt]


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
