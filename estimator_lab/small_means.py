"""Mean unit gradients of an estimator on small problems: exact where its random numbers can be summed, else drawn."""

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from torch import Tensor

from estimator_lab.chain import Chain
from estimator_lab.estimator import Estimator
from estimator_lab.expectation import expectation
from estimator_lab.families import Bernoulli, Categorical, Family
from estimator_lab.measurement import prepare
from estimator_lab.moments import Array
from estimator_lab.noise import MonteCarlo, NoNoise, derive_seed, forked
from estimator_lab.problem import Problem
from estimator_lab.small import SmallProblem

LIMIT = 2**13
"""Outcomes that an exact mean is summed over, at most."""

DRAWS = 2**14
"""Draws of a mean that cannot be summed."""

ALPHA = 1e-6
"""Chance, at most, to see a bias in the draws of an estimator that has none; and again to see a law broken."""

BATCHES = 64
"""Batches of those draws."""


@dataclass(frozen=True, repr=False)
class Moved(Problem):
    """A problem with another first theta, and a loss ``scale (l + level + h)``.

    With ``hidden`` h is the sum of ``(x + 1/2) (4 x (1 - x))^hidden`` over all values x. It is zero at bits and one-hot
    values, and changes what the loss is elsewhere; for ``hidden = 1`` its slopes at them as well. Theta itself is no
    part of the loss. What is done to the loss is no part of the repr, so that draws are paired.
    """

    problem: Problem
    first: tuple[float, ...] = ()
    level: float = 0.0
    scale: float = 1.0
    hidden: int = 0

    def __post_init__(self) -> None:
        for name in ("sites", "batch", "foldable"):
            object.__setattr__(self, name, getattr(self.problem, name))

    def weights(self) -> Any:
        """The problem's own."""
        return self.problem.weights()

    def theta(self, weights: Any, samples: tuple[Tensor, ...]) -> Tensor:
        """The problem's own, but for the first."""
        found = self.problem.theta(weights, samples)
        if samples or not self.first:
            return found
        numbers = torch.tensor(self.first, dtype=found.dtype, device=found.device)
        return numbers.repeat(-(-found.numel() // len(numbers)))[: found.numel()].reshape(found.shape)

    def loss(self, weights: Any, samples: tuple[Tensor, ...], thetas: tuple[Tensor, ...]) -> Tensor:
        """Raised, with what is hidden, and scaled."""
        found = self.problem.loss(weights, samples, tuple(t.detach() for t in thetas)) + self.level
        for x in samples if self.hidden else ():
            found = found + ((x + 0.5) * (4 * x * (1 - x)).pow(self.hidden)).flatten(1).sum(1)
        return self.scale * found

    def __repr__(self) -> str:
        return f"{self.problem!r} at {self.first}" if self.first else repr(self.problem)


def probes(family: Family, problem: Problem | None = None, deep: bool = True) -> tuple[Moved, ...]:
    """Unequal units; two layers; two examples; saturated and tied units; a linear loss; more classes.

    Args:
        family: law of the units.
        problem: looked at as well.
        deep: with three layers, of discrete units.
    """
    layers = (1, 2) if isinstance(family, Bernoulli) else (1, 1)  # more outcomes than others have could not be summed
    two = SmallProblem((2,), 3, 1, family)
    found = [
        two,
        SmallProblem(layers, 3, 1, family),
        SmallProblem((1,), 3, 2, family),
        SmallProblem((2,), 1, 1, family),
    ]
    if deep and family.discrete:  # others could not be summed
        found.append(SmallProblem((1, 1, 1), 3, 1, family))
    if isinstance(family, Categorical):
        found.append(SmallProblem((1,), 3, 1, Categorical(family.classes + 2)))
    moved = []
    if family.discrete:
        # drawn means need each value some hundred times, and of several classes the rarest is rarer than of two
        saturated = (5.0, -4.0) if isinstance(family, Bernoulli) else (2.5, -2.0, 0.25, -2.25, 0.5)
        moved = [Moved(two, saturated), Moved(two, (0.0, 1.0, -1.0, 0.0))]
    return (*map(Moved, found), *moved, *([Moved(problem)] if problem is not None else []))


@dataclass(frozen=True)
class Seen:
    """Mean unit gradients of one estimator on one problem.

    Attributes:
        mean: ``[d]``.
        error: ``[d]``, standard error, or a bound on rounding.
        variance: ``[d]``, of one draw; nan for what is no estimate.
        batches: ``[K, d]`` means of batches of draws; None where the mean is exact.
        spreads: ``[K]`` variances, added up over coordinates, within those batches; None where they are exact.
    """

    mean: Array
    error: Array
    variance: Array
    batches: Array | None = None
    spreads: Array | None = None

    @classmethod
    def known(cls, mean: Array) -> Self:
        """A mean that is known up to rounding."""
        return cls(mean, 1e-14 * (1 + np.abs(mean)), np.zeros_like(mean))

    def minus(self, other: "Seen") -> "Seen":
        """The difference: of draws on the same random numbers, batch by batch."""
        mean, none = self.mean - other.mean, np.full(self.mean.size, np.nan)
        if self.batches is None or other.batches is None:
            drawn = self.batches if other.batches is None else other.batches
            return Seen(mean, np.hypot(self.error, other.error), none, drawn)
        gaps = self.batches - other.batches
        return Seen(mean, _standard_error(gaps), none, gaps)

    def times(self, factor: float) -> "Seen":
        """A multiple."""
        batches = None if self.batches is None else self.batches * factor
        return Seen(self.mean * factor, self.error * abs(factor), self.variance * factor**2, batches)

    def differs(self, tests: int) -> NDArray[np.bool_]:
        """Coordinates that are surely not zero: at a rate of ``ALPHA`` in so many tests of all coordinates."""
        if self.batches is None:
            return np.asarray(np.abs(self.mean) > 4 * self.error)
        limit = float(special.stdtrit(len(self.batches) - 1, 1 - ALPHA / 2 / tests / self.mean.size))
        return np.asarray(np.abs(self.mean) > limit * self.error + 1e-12)


def _standard_error(batches: Array) -> Array:
    return np.asarray(batches.std(0, ddof=1) / math.sqrt(len(batches)))


def see(problem: Problem, estimator: Estimator, draws: int = DRAWS) -> Seen:
    """Exactly where its random numbers can be summed, else from draws.

    Args:
        problem: a small one.
        estimator: any that applies.
        draws: where it cannot be summed.
    """
    measurement = prepare(problem, estimator, wrt=("unit",))
    size = measurement.layout.size
    known = expectation(measurement, LIMIT)
    if known is None:
        means, spreads = [], []
        for i in range(4 * draws // DRAWS):
            seed = derive_seed("causes", repr(problem), i)
            with forked(seed):
                found = measurement.source.draw(DRAWS // 4, MonteCarlo(seed))
            rows = measurement.layout.vector(found, None).unflatten(0, (BATCHES // 4, -1))
            means.append(rows.mean(1))
            spreads.append(rows.var(1))
        batches, within = torch.cat(means).numpy(), torch.cat(spreads).numpy()
        return Seen(batches.mean(0), _standard_error(batches), within.mean(0), batches, within.sum(1))
    mean, square = known.moments.mean[:size], known.moments.m2[:size]
    top = np.sqrt(mean**2 + square)
    floor = known.resolution * (64 * np.maximum(top, top.mean()) + 4 * known.loss) + known.rounding
    return Seen(mean, floor, square)


def exactly(chain: Chain, estimator: Estimator) -> Array:
    """The mean of an estimator that draws nothing."""
    chain.estimator = estimator
    draws = chain.draw(1, NoNoise())
    return np.concatenate([draws["unit", s.name].double().numpy().ravel() for s in chain.problem.sites])
