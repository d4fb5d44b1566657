"""Candidate terms of a bias, and the places where it may be: exact means of an exact sum that is broken on purpose."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from estimator_lab.chain import Chain
from estimator_lab.estimator import Downstream, Estimator
from estimator_lab.estimators import Exact, MeanField
from estimator_lab.families import Bernoulli, Categorical, Normal, Scored
from estimator_lab.moments import Array
from estimator_lab.noise import NoNoise
from estimator_lab.problem import Problem
from estimator_lab.site import Site
from estimator_lab.small import SmallProblem
from estimator_lab.small_means import Moved, exactly, see
from estimator_lab.statistics.candidates import Candidate, Place

SATURATED = 0.05
"""p (1 - p) of a unit that is saturated, at most."""

Factor = Callable[[Site], Tensor | None]


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


# ---------------------------------------------------------------------- candidate terms
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
    "sigma'(theta - 1) / sigma'(theta)": ("parametrisation", _of_logit(lambda x: _slope(x - 1) / _slope(x))),
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


def _slope(logit: Tensor) -> Tensor:
    return logit.sigmoid() * (-logit).sigmoid()


class _Leaking(Estimator):
    """The score function method whose weight stays in the graph: log p of a layer multiplies the gradients after it."""

    families = (Scored,)

    def surrogate(self, site: Site, downstream: Downstream) -> Tensor:
        value = site.sample()
        loss = downstream(value)
        log_prob = site.scored.log_prob(site.theta.detach(), value).flatten(site.lead).sum(-1)
        return loss + log_prob * (loss - loss.detach()) + site.score(value, loss)


def terms(where: Moved) -> dict[str, Array]:
    """Columns ``[d]`` of one problem by name: the exact gradient "truth", all terms, and what places are told by."""
    return _small_terms(where) if isinstance(where.problem, SmallProblem) else _terms(where)


def _terms(where: Moved) -> dict[str, Array]:
    chain, nothing = (Chain(x, Exact(), ("unit",)) for x in (where, replace(where, scale=0.0)))
    found = {"truth": exactly(chain, Exact()), **_columns(where)}
    for name, (_, factor) in FACTORS.items():
        if _applies(factor, where):
            found[name] = exactly(chain, Broken(Exact(), factor))
    for name, added in ADDED.items():
        if _applies(added, where):
            found["+" + name] = exactly(nothing, Broken(Exact(), None, added))
            found["f " + name] = exactly(chain, Broken(Exact(), None, added, by_loss=True))
    if not any(MeanField().refuses(s) for s in where.sites):
        found["at the means"] = exactly(chain, MeanField())
    found["leak"] = np.zeros_like(found["truth"])
    if len(where.sites) > 1 and not any(_Leaking().refuses(s) for s in where.sites):
        found["leak"] = see(where, _Leaking()).mean - found["truth"]
    return found


_small_terms = lru_cache(maxsize=64)(_terms)


def rescaled(like: Estimator, where: Moved) -> dict[str, Array]:
    """The factors of ``FACTORS`` on the mean of another estimator in the place of the exact gradient."""
    known = {name: factor for name, (_, factor) in FACTORS.items() if _applies(factor, where)}
    return {name: see(where, Broken(like, factor)).mean for name, factor in known.items()}


def _applies(factor: Factor, problem: Problem) -> bool:
    """Whether every site's law has it."""
    like = next(iter(problem.weights().values()))
    sites = (Site(s, like.new_zeros(1, 1, problem.batch, *s.theta_shape), NoNoise()) for s in problem.sites)
    return all(factor(site) is not None for site in sites)


def _columns(problem: Problem) -> dict[str, Array]:
    """Columns by which places are told; nan where they mean nothing."""
    theta = problem.theta(problem.weights(), ()).detach().double()
    rows: list[dict[str, Array]] = []
    for i, spec in enumerate(problem.sites):
        shape = (problem.batch, *spec.theta_shape)
        discrete = isinstance(spec.family, Bernoulli | Categorical)
        p = spec.family.mean(theta) if i == 0 and discrete else torch.full(shape, math.nan)
        own = {
            "distance": len(problem.sites) - 1 - i,
            "layers": len(problem.sites),
            "examples": problem.batch,
            "units": math.prod(spec.units),
            "parameter": np.arange(shape[-1]) if spec.family.theta_shape else -1,
            "slope": p * (1 - p),
            "theta": theta if i == 0 else math.nan,
        }
        rows.append({n: np.broadcast_to(np.asarray(c, dtype=np.float64), shape).ravel() for n, c in own.items()})
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def places(columns: Mapping[str, Array], there: NDArray[np.bool_]) -> Iterator[Place]:
    """Where a bias may be; everywhere comes first.

    Args:
        columns: of `terms`.
        there: ``[n]``, where a bias is sure.
    """
    distance, slope, theta = columns["distance"], columns["slope"], columns["theta"]
    yield Place("", "", np.ones(len(there), dtype=np.bool_), 0.0)
    yield Place("depth", "before the last layer", distance > 0, 1.0)
    yield Place("site", "at the last of several layers", (distance == 0) & (columns["layers"] > 1), 1.0)
    yield Place("coupling", "with several units in a layer", columns["units"] > 1, 1.2)
    for i in sorted(set(columns["parameter"]) - {-1.0}):
        yield Place("parametrisation", f"at parameter {i:.0f} of each unit", columns["parameter"] == i, 1.0)
    for value in (0.0, 1.0):
        yield Place("ties", f"where theta is exactly {value:g}", theta == value, 1.3)
    seen = slope[there & np.isfinite(slope)]
    if seen.size and seen.max() < SATURATED:
        words = f"at saturated units, p(1-p) <= {seen.max():.2g}"
        yield Place("saturation", words, slope <= seen.max(), 1.3)


def candidates(columns: Mapping[str, Array], truth: Array, paths: int) -> Iterator[Candidate]:
    """The table of terms, simplest first.

    Args:
        columns: of `terms`.
        truth: ``[n]``.
        paths: joint sample paths K of the estimator.
    """
    examples, units = columns["examples"], columns["units"]
    yield Candidate("dead path", "a mean gradient of zero", 0.05, 0 * truth)
    yield Candidate("sign", "a wrong sign", 0.0, -truth)
    yield Candidate("gain 2", "a gain of 2", 0.0, 2 * truth)
    yield Candidate("gain 1/2", "a gain of 1/2", 0.0, truth / 2)
    if paths > 1:
        own = {"K": paths, "1/K": 1 / paths, "K/(K-1)": paths / (paths - 1), "(K-1)/K": 1 - 1 / paths}
        for name, value in own.items():
            label = "gain K/(K-1)" if "-" in name else "gain 1/K"
            yield Candidate(label, f"a gain of {name} with K = {paths}", 0.05, value * truth)
    for name, column, label in (
        ("the number of examples", examples, "gain batch"),
        ("1/(number of examples)", 1 / examples, "gain batch"),
        ("1 - 1/(number of examples), as of a baseline over the batch", 1 - 1 / examples, "baseline"),
        ("the number of units in the layer", units, "family"),
        ("1/(number of units in the layer)", 1 / units, "family"),
    ):
        yield Candidate(label, f"a gain of {name}", 0.2, column * truth)
    yield Candidate("gain", "a gain of {}", 0.0, truth, constants=(), strict=False)
    for name, (label, _) in FACTORS.items():
        if name in columns:
            yield Candidate(label, f"a factor of {name}", 1.0, columns[name], strict=label == "coupling")
    twice = truth * (columns["distance"] + 2)
    yield Candidate("gain 2", "two estimates added, each through the other's layers", 1.0, twice)
    for name in ADDED:
        if "+" + name in columns:
            yield Candidate("baseline", f"{name} times the loss, added", 0.6, columns["f " + name], True, strict=False)
            yield Candidate("extra term", f"{{}} {name}, added", 0.5, columns["+" + name], True, (), False)
    if "+sigma'" in columns:
        words = "a baseline that is the unit's own value"
        yield Candidate("baseline", words, 1.0, -columns["+sigma'"], True)
    words = "a gradient through the weight of the score of an earlier layer (log p times what comes after it)"
    yield Candidate("extra term", words, 1.1, columns["leak"], True)
    if "at the means" in columns:
        yield Candidate("extra term", "the gradient at the units' means added", 1.2, columns["at the means"], True)
