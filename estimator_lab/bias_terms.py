"""Candidate terms of a bias, and the places where it may be: exact means of an exact sum that is broken on purpose."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor

from estimator_lab.chain import Chain
from estimator_lab.estimator import Downstream, Estimator
from estimator_lab.estimators import Exact, MeanField, StraightThrough
from estimator_lab.families import Bernoulli, Categorical, Normal, Scored
from estimator_lab.moments import Array
from estimator_lab.noise import NoNoise
from estimator_lab.problem import Problem
from estimator_lab.site import Site
from estimator_lab.small import SmallProblem
from estimator_lab.small_means import Moved, Seen, exactly, see
from estimator_lab.statistics.candidates import Candidate, Mask, Place

HELD = 8
"""Numbers of samples, paths or units up to which an exact gain is called by its name."""

Factor = Callable[[Site], Tensor | None]
Facts = Mapping[str, Array]


@dataclass(frozen=True)
class Broken(Estimator):
    """An estimator whose theta counts ``factor`` times, plus ``added``: its mean is a candidate term.

    With ``by_loss`` what is added is multiplied by the expected loss given the layers before.
    """

    inner: Estimator
    factor: Factor | None
    added: Factor | None = None
    by_loss: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "paths", self.inner.paths)

    def surrogate(self, site: Site, downstream: Downstream) -> Tensor:
        """The inner estimator's, at a theta that moves ``factor`` times as far."""
        theta = site.theta.detach()
        scaled = self.factor(site) if self.factor else torch.zeros_like(theta)
        assert scaled is not None
        moving = theta + scaled * (site.theta - theta)
        family = site.family

        def scored(value: Tensor, using: Estimator | None = None) -> Tensor:
            """The loss with its score: later layers do not hear this one's factor."""
            loss = downstream(value.detach(), using=using)
            assert isinstance(family, Scored)
            term = family.log_prob(moving, value.detach()).flatten(loss.dim()).sum(-1)
            return loss + (term - term.detach()) * loss.detach()

        if isinstance(self.inner, Exact) and isinstance(family, Scored):
            found = self.inner.surrogate(replace(site, theta=theta), scored)
        else:
            found = self.inner.surrogate(replace(site, theta=moving), downstream)
        extra = self.added(site) if self.added else None
        if extra is None:
            return found
        return found + site.inject(extra * (site.expand(found.detach()) if self.by_loss else 1.0))


def _of_mean(function: Callable[[Tensor], Tensor]) -> Factor:
    """A function of the probabilities of discrete units."""
    return lambda s: function(s.mean.detach()) if isinstance(s.family, Bernoulli | Categorical) else None


def _of_logit(function: Callable[[Tensor], Tensor]) -> Factor:
    """A function of the logit of Bernoulli units."""
    return lambda s: function(s.theta.detach()) if isinstance(s.family, Bernoulli) else None


def _of_deviation(function: Callable[[Tensor], Tensor]) -> Factor:
    """A function of the standard deviation of Gaussian units, for it and the mean alike."""
    return lambda s: (
        function(s.theta.detach()[..., 1:].exp()).expand_as(s.theta) if isinstance(s.family, Normal) else None
    )


def _mean(site: Site) -> Tensor | None:
    """The mean of the value, beside the parameter that moves it."""
    found = site.mean.detach()
    if isinstance(site.family, Normal):
        return torch.stack([found, torch.zeros_like(found)], -1)
    return found if found.shape == site.theta.shape else None


FACTORS: dict[str, tuple[str, Factor]] = {
    "p(1-p)": ("power of p(1-p)", _of_mean(lambda p: p * (1 - p))),
    "1/(p(1-p))": ("power of p(1-p)", _of_mean(lambda p: 1 / (p * (1 - p)))),
    "(p(1-p))^2": ("power of p(1-p)", _of_mean(lambda p: (p * (1 - p)) ** 2)),
    "p": ("power of p(1-p)", _of_mean(lambda p: p)),
    "1-p": ("power of p(1-p)", _of_mean(lambda p: 1 - p)),
    "1/p": ("power of p(1-p)", _of_mean(lambda p: 1 / p)),
    "1/(1-p)": ("power of p(1-p)", _of_mean(lambda p: 1 / (1 - p))),
    "exp(-|logit|)": ("saturation", _of_logit(lambda x: (-x.abs()).exp())),
    # max(p, 1 - p) = 2 p (1 - p) over 2 min(p, 1 - p): chances that an independent and an antithetic pair differ
    "max(p, 1-p), as of an independent pair for an antithetic one": (
        "coupling",
        _of_logit(lambda x: x.abs().sigmoid()),
    ),
    "1/(standard deviation)": ("parametrisation", _of_deviation(lambda d: 1 / d)),
    "the variance of a unit": ("parametrisation", _of_deviation(lambda d: d**2)),
    "1/(variance of a unit)": ("parametrisation", _of_deviation(lambda d: d**-2)),
}
"""What each unit's gradient may wrongly be multiplied by, with the label of the cause."""

ADDED: dict[str, Factor] = {
    "sigma'": FACTORS["p(1-p)"][1],
    "E[h]": _mean,
    "a constant": lambda s: 1 + 0 * s.theta.detach(),
}
"""What may wrongly be added to each unit's gradient."""


class _Leaking(Estimator):
    """The score function method whose weight stays in the graph: log p of a layer multiplies the gradients after it."""

    families = (Scored,)

    def surrogate(self, site: Site, downstream: Downstream) -> Tensor:
        value = site.sample()
        loss = downstream(value)
        log_prob = site.scored.log_prob(site.theta.detach(), value).flatten(site.lead).sum(-1)
        return loss + log_prob * (loss - loss.detach()) + site.score(value, loss)


# ---------------------------------------------------------------------- one problem
@dataclass(frozen=True)
class Sums:
    """One probe: its exact gradient, or the mean of another estimator in its place, and what is made of it.

    Attributes:
        where: the probe.
        like: the other estimator, or None.
        truth: ``[d]``.
        drawn: whether that is a mean of draws.
        facts: of `facts`.
    """

    where: Moved
    like: Estimator | None
    truth: Array
    drawn: bool
    facts: Facts

    def times(self, factor: Factor) -> Array:
        """Each unit's gradient times a factor; nan where its mean is drawn."""
        if not _applies(factor, self.where):
            return self.nothing
        if self.like is None:
            return exactly(self._chain(), Broken(Exact(), factor))
        return self.nothing if self.drawn else see(self.where, Broken(self.like, factor)).mean

    def plus(self, added: Factor, by_loss: bool = False) -> Array:
        """What is added to each unit's gradient, times the expected loss or not."""
        if not _applies(added, self.where):
            return self.nothing
        return exactly(self._chain(1.0 if by_loss else 0.0), Broken(Exact(), None, added, by_loss))

    def of(self, estimator: Estimator) -> Array:
        """The mean of a third estimator."""
        return self.nothing if any(map(estimator.refuses, self.where.sites)) else see(self.where, estimator).mean

    @property
    def nothing(self) -> Array:
        """Numbers that mean nothing."""
        return np.full_like(self.truth, np.nan)

    def _chain(self, scale: float = 1.0) -> Chain:
        return Chain(replace(self.where, scale=scale * self.where.scale), Exact(), ("unit",))


def _applies(factor: Factor, problem: Problem) -> bool:
    """Whether every site's law has it."""
    like = next(iter(problem.weights().values()))
    sites = (Site(s, like.new_zeros(1, 1, problem.batch, *s.theta_shape), NoNoise()) for s in problem.sites)
    return all(factor(site) is not None for site in sites)


def facts(where: Moved) -> Facts:
    """``[d]`` each: what places are told by, and numbers that may be a gain; nan where they mean nothing."""
    theta = where.theta(where.weights(), ()).detach().double()
    degree = where.problem.degree if isinstance(where.problem, SmallProblem) else math.nan
    rows: list[dict[str, Array]] = []
    for i, spec in enumerate(where.sites):
        shape = (where.batch, *spec.theta_shape)
        discrete = isinstance(spec.family, Bernoulli | Categorical)
        p = spec.family.mean(theta) if i == 0 and discrete else torch.full(shape, math.nan)
        own = {
            "layer": i,
            "layers": len(where.sites),
            "examples": where.batch,
            "units": math.prod(spec.units),
            "classes": spec.family.classes if isinstance(spec.family, Categorical) else math.nan,
            "parameter": np.arange(shape[-1]) if spec.family.theta_shape else math.nan,
            "slope": p * (1 - p),
            "theta": theta if i == 0 else math.nan,
            "degree": degree,
        }
        rows.append({n: np.broadcast_to(np.asarray(c, dtype=np.float64), shape).ravel() for n, c in own.items()})
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


# ---------------------------------------------------------------------- the tables
Row = tuple[Candidate, Callable[[Sums], Array]]


def _gain(label: str, words: str, cost: float, value: Callable[[Facts], Array | float]) -> Row:
    return Candidate(label, words, cost, yields=True), lambda s: value(s.facts) * s.truth


def _added(name: str, added: Factor) -> Iterator[Row]:
    words = f"{name} times the loss, added"
    yield Candidate("baseline", words, 0.6, True, strict=False), lambda s: s.plus(added, True)
    yield Candidate("extra term", f"{{}} {name}, added", 0.5, True, (), False), lambda s: s.plus(added)


TERMS: tuple[Row, ...] = (
    _gain("dead path", "a mean gradient of zero", 0.05, lambda f: 0.0),
    (Candidate("sign", "a wrong sign", 0.0), lambda s: -s.truth),
    _gain("gain 2", "a gain of 2", 0.0, lambda f: 2.0),
    _gain("gain 1/2", "a gain of 1/2", 0.0, lambda f: 0.5),
    _gain("gain batch", "a gain of the number of examples", 0.2, lambda f: f["examples"]),
    _gain("gain batch", "a gain of 1/(number of examples)", 0.2, lambda f: 1 / f["examples"]),
    _gain(
        "baseline",
        "a gain of 1 - 1/(number of examples), as of a baseline over the batch",
        0.2,
        lambda f: 1 - 1 / f["examples"],
    ),
    _gain("family", "a gain of the number of units in the layer", 0.2, lambda f: f["units"]),
    _gain("family", "a gain of 1/(number of units in the layer)", 0.2, lambda f: 1 / f["units"]),
    (Candidate("gain", "a gain of {}", 0.0, constants=(), strict=False, yields=True), lambda s: s.truth),
    *(
        (Candidate(label, f"a factor of {name}", 1.0, strict=label == "coupling"), partial(Sums.times, factor=factor))
        for name, (label, factor) in FACTORS.items()
    ),
    _gain(
        "gain 2", "two estimates added, each through the other's layers", 1.0, lambda f: f["layers"] - f["layer"] + 1
    ),
    *(row for name, added in ADDED.items() for row in _added(name, added)),
    (
        Candidate("baseline", "a baseline that is the unit's own value", 1.0, True),
        lambda s: -s.plus(FACTORS["p(1-p)"][1]),
    ),
    (
        Candidate(
            "extra term",
            "a gradient through the weight of the score of an earlier layer (log p times what comes after it)",
            1.1,
            True,
        ),
        lambda s: s.of(_Leaking()) - s.truth,
    ),
    *(
        (Candidate("missing term", f"the mean of {other!r}, which has a bias", 1.0), partial(Sums.of, estimator=other))
        for other in (MeanField(), StraightThrough())
    ),
)
"""What a mean may be, or what may be added to it, simplest first where costs are equal."""

PLACES: tuple[tuple[Place, Callable[[Facts], Mask]], ...] = (
    (Place("", "", 0.0), lambda f: f["units"] > 0),
    (Place("depth", "before the last layer", 1.0), lambda f: f["layer"] < f["layers"] - 1),
    (Place("site", "at the last of several layers", 1.0), lambda f: (f["layer"] == f["layers"] - 1) & (f["layer"] > 0)),
    (Place("site", "after the first layer", 1.1), lambda f: f["layer"] > 0),
    (Place("site", "at the first of several layers", 1.1), lambda f: (f["layer"] == 0) & (f["layers"] > 1)),
    (Place("site", "in the second layer", 1.1), lambda f: f["layer"] == 1),
    (Place("depth", "in the third layer", 1.1), lambda f: f["layer"] == 2),
    (Place("depth", "two layers and more before the last one", 1.1), lambda f: f["layer"] < f["layers"] - 2),
    (Place("depth", "in networks of several layers", 1.2), lambda f: f["layers"] > 1),
    (Place("depth", "in networks of three layers", 1.2), lambda f: f["layers"] > 2),
    (Place("coupling", "with several units in a layer", 1.2), lambda f: f["units"] > 1),
    (Place("gain batch", "with several examples", 1.2), lambda f: f["examples"] > 1),
    (Place("family", "with more than three classes", 1.2), lambda f: f["classes"] > 3),
    *(
        (Place("parametrisation", f"at parameter {i} of each unit", 1.0), lambda f, i=i: f["parameter"] == i)
        for i in range(2)
    ),
    (Place("ties", "where theta is exactly 0", 1.3), lambda f: f["theta"] == 0),
    (Place("ties", "where theta is exactly 1", 1.3), lambda f: f["theta"] == 1),
    (Place("saturation", "at saturated units, p(1-p) <= 0.05", 1.3), lambda f: f["slope"] <= 0.05),
    (Place("saturation", "at units that are saturated far, p(1-p) <= 0.01", 1.3), lambda f: f["slope"] <= 0.01),
    (Place("parametrisation", "where theta is negative", 1.4), lambda f: ~(f["theta"] >= 0)),
    (Place("parametrisation", "where theta is positive", 1.4), lambda f: ~(f["theta"] <= 0)),
    (Place("missing term", "under a loss that is not linear", 1.5), lambda f: f["degree"] > 1),
)
"""Where a bias may be; everywhere comes first. Later layers, whose theta is drawn, have either sign."""


def truth(where: Moved) -> Array:
    """The exact gradient ``[d]``, kept for small problems."""
    return _small_truth(where) if isinstance(where.problem, SmallProblem) else _truth(where)


def _truth(where: Moved) -> Array:
    return exactly(Chain(where, Exact(), ("unit",)), Exact())


_small_truth = lru_cache(maxsize=64)(_truth)


def columns(where: Moved, like: Estimator | None = None, mean: Seen | None = None) -> tuple[Sums, list[Array]]:
    """One problem, and a column for each of `TERMS`: kept for small problems, if there is no other estimator.

    Args:
        where: the problem.
        like: an estimator whose mean takes the place of the exact gradient, or None.
        mean: that mean.
    """
    return _small(where) if like is None and isinstance(where.problem, SmallProblem) else _columns(where, like, mean)


def _columns(where: Moved, like: Estimator | None = None, mean: Seen | None = None) -> tuple[Sums, list[Array]]:
    target = mean.mean if mean else truth(where)
    sums = Sums(where, like, target, mean is not None and mean.batches is not None, facts(where))
    return sums, [column(sums) for _, column in TERMS]


_small = lru_cache(maxsize=64)(_columns)


def gains(estimator: Estimator, truth: Array, exact: bool) -> Iterator[tuple[Candidate, Array]]:
    """Gains by whole numbers: those of the estimator, such as its paths K; where means are exact also others.

    Args:
        estimator: whose numbers.
        truth: ``[n]``.
        exact: whether a gain is known well enough to be told from others.
    """
    named = {"K": estimator.paths}
    if dataclasses.is_dataclass(estimator):
        own = {f.name: getattr(estimator, f.name) for f in dataclasses.fields(estimator)}
        named |= {n: v for n, v in own.items() if isinstance(v, int) and v not in (*named.values(), True)}
    counts = [(n, k, 0.05) for n, k in named.items() if k > 1]
    counts += [("K", k, 0.3) for k in range(3, HELD + 1) if exact and k not in named.values()]
    for n, k, cost in counts:
        for words, value in ((n, k), (f"1/{n}", 1 / k), (f"{n}/({n}-1)", k / (k - 1)), (f"({n}-1)/{n}", 1 - 1 / k)):
            label = "gain K/(K-1)" if "-" in words else "gain 1/K"
            yield Candidate(label, f"a gain of {words} with {n} = {k}", cost, yields=True), value * truth
