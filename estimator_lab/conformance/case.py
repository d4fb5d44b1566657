"""One estimator under examination, and how a check ends."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Self

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
    """

    def __init__(self, message: str, draws: int = 0):
        super().__init__(message)
        self.draws = draws


class NotApplicable(Exception):
    """The check has nothing to hold the estimator to; says why."""


class Open(Exception):
    """The draws do not decide; says what might have been missed."""


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
        draws: replicates of a statistical check, at most.
        like: another implementation with the same mean, or None.
    """

    subject: Estimator | GradientSampler
    families: tuple[Family, ...]
    alpha: float
    seed: int
    draws: int
    like: Estimator | None = None
    _fits: dict[int, tuple[Problem, Estimator]] = field(default_factory=dict, repr=False, compare=False)
    _chains: dict[tuple[int, tuple[str, ...]], Chain] = field(default_factory=dict, repr=False, compare=False)

    @property
    def estimator(self) -> Estimator:
        """The subject, as an estimator."""
        assert isinstance(self.subject, Estimator)
        return self.subject

    def other(self, estimator: Estimator) -> "Case":
        """The same examination of another estimator."""
        return replace(self, subject=estimator, _fits={}, _chains={})

    def share(self, parts: int) -> "Case":
        """One of several equal parts of a check."""
        return replace(self, alpha=self.alpha / max(parts, 1))

    def ready(self, problem: Problem) -> Estimator:
        """The estimator with its learned parts fitted on a problem."""
        if id(problem) not in self._fits:  # the problem is kept as well, so that its id is not given again
            self._fits[id(problem)] = problem, Held(self._fitted(problem))
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
        needs: what the subject must have for the check to say anything; empty: nothing.
        run: returns if the law holds; raises `Violation`, `NotApplicable` or `Open` if not.
        statistical: whether it may be wrong by chance, and so takes a share of the false-alarm rate.
    """

    name: str
    needs: str
    run: Callable[[Case], None]
    statistical: bool = False
