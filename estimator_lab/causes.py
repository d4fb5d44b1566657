"""What a bias looks like: a table of candidate terms, a table of places, and one regression."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from torch import Tensor

from estimator_lab import doors
from estimator_lab.chain import Chain
from estimator_lab.conformance import checks
from estimator_lab.conformance.case import Case, NotApplicable, Open, Violation
from estimator_lab.conformance.points import LAWS
from estimator_lab.conformance.suite import laws
from estimator_lab.errors import LabError, MeasurementError, UsageError
from estimator_lab.estimator import Downstream, Estimator
from estimator_lab.estimators import Callback, DropIn, Exact, MeanField, StraightThrough
from estimator_lab.evaluation import check_independence, group_of
from estimator_lab.expectation import expectation
from estimator_lab.families import Bernoulli, Categorical, Family, Normal, Scored
from estimator_lab.measurement import prepare
from estimator_lab.moments import Array
from estimator_lab.noise import MonteCarlo, NoNoise, derive_seed, forked
from estimator_lab.problem import Problem
from estimator_lab.site import Site, SiteSpec
from estimator_lab.small import SmallProblem
from estimator_lab.truth import Truth

LIMIT = 2**13
"""Outcomes that an exact mean is summed over, at most."""

DRAWS = 2**14
"""Draws of a mean that cannot be summed."""

ALPHA = 1e-6
"""Chance, at most, to see a bias in the draws of an estimator that has none."""

CLOSE = 1e-6
"""Share of the root mean square bias that counts as rounding."""

ALMOST = 0.995
"""Share of the squared bias that a candidate has to explain, if none explains all."""

SMALL = 0.02
"""Bias, relative to the gradient, that lower precision may bring."""

LARGEST = 40
"""Unit gradients of a problem that is looked at beside the small ones."""

PLACE = 5.0
"""Cost of a place whose bias no term explains."""

LEVEL, SCALE = 2.0, -3.0
"""What is added to the loss, and what it is multiplied by."""

Mask = NDArray[np.bool_]
Factor = Callable[[Site], Tensor | None]


@dataclass(frozen=True)
class Cause:
    """What a bias is consistent with. Never more than that: another mistake may give the same mean.

    Attributes:
        label: in a word or two: "gain 2", "sign", "power of p(1-p)", "baseline", "dead path", "state", ..
        words: the same in words, with its fit.
        fit: share of the squared bias that it explains, each coordinate weighted by its error; nan where it is a law
            that is broken, or what the bias does, that tells the cause.
    """

    label: str
    words: str
    fit: float


# ---------------------------------------------------------------------- the problems that are looked at
class _Moved(Problem):
    """A problem with another first theta, and a loss that is scaled and raised; theta itself is no part of the loss.

    Neither level nor scale is part of the repr, so that draws are paired.
    """

    def __init__(self, problem: Problem, first: tuple[float, ...] = (), level: float = 0.0, scale: float = 1.0):
        self.problem, self.first, self.level, self.scale = problem, first, level, scale
        self.sites, self.batch, self.foldable = problem.sites, problem.batch, problem.foldable

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
        """Scaled and raised."""
        return self.scale * (self.problem.loss(weights, samples, tuple(t.detach() for t in thetas)) + self.level)

    def __repr__(self) -> str:
        return f"{self.problem!r} at {self.first}"


@dataclass(frozen=True)
class _Broken(Estimator):
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
def _slope(site: Site) -> Tensor | None:
    """The derivative of a unit's mean in its logit, p (1 - p)."""
    p = site.mean.detach()
    return p * (1 - p) if isinstance(site.family, Bernoulli | Categorical) else None


def _deviation(site: Site) -> Tensor | None:
    """The standard deviation, for the log standard deviation and the mean alike."""
    return site.theta.detach()[..., 1:].exp().expand_as(site.theta) if isinstance(site.family, Normal) else None


def _probability(site: Site) -> Tensor | None:
    return site.mean.detach() if isinstance(site.family, Bernoulli | Categorical) else None


def _mean(site: Site) -> Tensor | None:
    """The mean of the value, beside the parameter that moves it."""
    if isinstance(site.family, Normal):
        return torch.stack([site.mean.detach(), torch.zeros_like(site.mean)], -1)
    found = site.mean.detach()
    return found if found.shape == site.theta.shape else None


def _power(base: Factor, exponent: float) -> Factor:
    def factor(site: Site) -> Tensor | None:
        found = base(site)
        return None if found is None else found**exponent

    return factor


def _complement(site: Site) -> Tensor | None:
    p = _probability(site)
    return None if p is None else 1 - p


def _odds(site: Site) -> Tensor | None:
    """Those of the rarer value."""
    return (-site.theta.detach().abs()).exp() if isinstance(site.family, Bernoulli) else None


def _shifted(site: Site, by: float) -> Tensor | None:
    """The slope at another threshold over that at the own one."""
    if not isinstance(site.family, Bernoulli):
        return None
    p, q = site.mean.detach(), (site.theta.detach() + by).sigmoid()
    return q * (1 - q) / (p * (1 - p))


def _one(site: Site) -> Tensor:
    return torch.ones_like(site.theta.detach())


FACTORS: dict[str, tuple[str, Factor]] = {
    "p(1-p)": ("power of p(1-p)", _slope),
    "1/(p(1-p))": ("power of p(1-p)", _power(_slope, -1)),
    "(p(1-p))^2": ("power of p(1-p)", _power(_slope, 2)),
    "the square root of p(1-p)": ("power of p(1-p)", _power(_slope, 0.5)),
    "p": ("power of p(1-p)", _probability),
    "1-p": ("power of p(1-p)", _complement),
    "1/p": ("power of p(1-p)", _power(_probability, -1)),
    "1/(1-p)": ("power of p(1-p)", _power(_complement, -1)),
    "exp(-|logit|)": ("saturation", lambda site: _odds(site)),
    "exp(|logit|)": ("saturation", _power(lambda site: _odds(site), -1)),
    "sigma'(theta - 1) / sigma'(theta)": ("parametrisation", lambda site: _shifted(site, -1.0)),
    "sigma'(theta + 1) / sigma'(theta)": ("parametrisation", lambda site: _shifted(site, 1.0)),
    "the standard deviation": ("parametrisation", _deviation),
    "1/(standard deviation)": ("parametrisation", _power(_deviation, -1)),
    "the variance of a unit": ("parametrisation", _power(_deviation, 2)),
    "1/(variance of a unit)": ("parametrisation", _power(_deviation, -2)),
}
"""What each unit's gradient may wrongly be multiplied by, with the label of the cause."""

ADDED: dict[str, Factor] = {"sigma'": _slope, "E[h]": _mean, "a constant": _one}
"""What may wrongly be added to each unit's gradient."""

MEANS: dict[str, Estimator] = {"the gradient at the units' means": MeanField(), "straight-through": StraightThrough()}
"""Estimators whose mean may be missing, or be counted in excess, as that of a control variate."""


@dataclass(frozen=True)
class _Seen:
    """Mean unit gradients of one estimator on one problem.

    Attributes:
        mean: ``[d]``.
        error: ``[d]``, standard error, or a bound on rounding.
        batches: ``[K, d]`` means of batches of draws; None where the mean is exact.
    """

    mean: Array
    error: Array
    batches: Array | None = None

    def minus(self, other: "_Seen") -> "_Seen":
        """The difference: of draws on the same random numbers, batch by batch."""
        mean = self.mean - other.mean
        if self.batches is None or other.batches is None:
            drawn = self.batches if other.batches is None else other.batches
            return _Seen(mean, np.hypot(self.error, other.error), drawn)
        gaps = self.batches - other.batches
        return _Seen(mean, _standard_error(gaps), gaps)

    def times(self, factor: float) -> "_Seen":
        """A multiple."""
        batches = None if self.batches is None else self.batches * factor
        return _Seen(self.mean * factor, self.error * abs(factor), batches)

    def differs(self, tests: int) -> Mask:
        """Coordinates that are surely not zero: at a rate of ``ALPHA`` in so many tests of all coordinates."""
        if self.batches is None:
            return np.abs(self.mean) > 4 * self.error
        limit = float(special.stdtrit(len(self.batches) - 1, 1 - ALPHA / 2 / tests / self.mean.size))
        return np.abs(self.mean) > limit * self.error + 1e-12


def _standard_error(batches: Array) -> Array:
    return np.asarray(batches.std(0, ddof=1) / math.sqrt(len(batches)))


def _see(problem: Problem, estimator: Estimator, summed: bool = True) -> _Seen:
    """Exactly where its random numbers can be summed, else from draws."""
    measurement = prepare(problem, estimator, wrt=("unit",))
    size = measurement.layout.size
    known = expectation(measurement, LIMIT) if summed else None
    if known is None:
        blocks = []
        for i in range(4):
            seed = derive_seed("causes", repr(problem), i)
            with forked(seed):
                draws = measurement.source.draw(DRAWS // 4, MonteCarlo(seed))
            blocks.append(measurement.layout.vector(draws, None).unflatten(0, (16, -1)).mean(1))
        batches = torch.cat(blocks).numpy()
        return _Seen(batches.mean(0), _standard_error(batches), batches)
    mean = known.moments.mean[:size]
    top = np.sqrt(mean**2 + known.moments.m2[:size])
    floor = known.resolution * (64 * np.maximum(top, top.mean()) + 4 * known.loss) + known.rounding
    return _Seen(mean, floor)


def _exactly(chain: Chain, estimator: Estimator) -> Array:
    """The mean of an estimator that draws nothing."""
    chain.estimator = estimator
    draws = chain.draw(1, NoNoise())
    return np.concatenate([draws["unit", s.name].double().numpy().ravel() for s in chain.problem.sites])


# ---------------------------------------------------------------------- what is held against what
@dataclass(frozen=True)
class _Table:
    """Coordinates of unit gradients, of several problems one after the other.

    Attributes:
        columns: ``[n]`` each, nan where they have no meaning: "bias", "target" and "error"; the candidate terms; and
            what places are told by.
        biased: ``[n]``, where there surely is a bias.
    """

    columns: dict[str, Array]
    biased: Mask

    def __getitem__(self, name: str) -> Array:
        return self.columns[name]

    @property
    def root(self) -> float:
        """Root mean square bias."""
        return math.sqrt(float(np.mean(self["bias"] ** 2)))


def _places(problem: Problem) -> dict[str, Array]:
    """Columns by which places are told."""
    theta = problem.theta(problem.weights(), ()).detach().double()
    rows: dict[str, list[Array]] = {}
    for i, spec in enumerate(problem.sites):
        shape = (problem.batch, *spec.theta_shape)
        tail = len(spec.family.theta_shape)
        slope, value = np.full(shape, np.nan), np.full(shape, np.nan)
        if i == 0:
            value = theta.numpy()
            if isinstance(spec.family, Bernoulli | Categorical):
                p = spec.family.mean(theta)
                slope = (p * (1 - p)).numpy()
        unit = np.arange(shape[1]).reshape(-1, *(1,) * (len(shape) - 2))
        own = {
            "distance": len(problem.sites) - 1 - i,
            "layers": len(problem.sites),
            "examples": problem.batch,
            "units": math.prod(spec.units),
            "last": (unit == shape[1] - 1) & (shape[1] > 1),
            "parameter": np.arange(shape[-1]) if tail else -1,
            "slope": slope,
            "theta": value,
        }
        for name, column in own.items():
            rows.setdefault(name, []).append(np.broadcast_to(np.asarray(column, dtype=np.float64), shape).ravel())
    return {name: np.concatenate(columns) for name, columns in rows.items()}


@dataclass(frozen=True)
class _Probe:
    """A problem to look at, at a first theta of its own or at another."""

    problem: Problem
    first: tuple[float, ...] = ()

    def at(self, level: float = 0.0, scale: float = 1.0) -> _Moved:
        """With the loss raised or multiplied."""
        return _Moved(self.problem, self.first, level, scale)


def _probes(family: Family, problem: Problem | None) -> tuple[_Probe, ...]:
    """Unequal units; two layers; two examples; saturated and tied units; and the problem itself."""
    one, two, layers = (SmallProblem(u, 3, n, family) for u, n in (((1,), 2), ((2,), 1), ((1, 1), 1)))
    found = [_Probe(two), _Probe(layers), _Probe(one)]
    if family.discrete:
        found += [_Probe(two, (5.0, -4.0, 0.5, -4.5, 1.0)), _Probe(two, (0.0, 1.0, -1.0, 0.0))]
    return (*found, *([_Probe(problem)] if problem is not None else []))


def _terms(probe: _Probe) -> dict[str, Array]:
    """The exact gradient, candidate terms, and places, for one probe."""
    where = probe.at()
    chain, nothing = Chain(where, Exact(), ("unit",)), Chain(probe.at(scale=0.0), Exact(), ("unit",))
    found = {"target": _exactly(chain, Exact()), **_places(where)}
    for name, (_, factor) in FACTORS.items():
        if _applies(factor, where):
            found[name] = _exactly(chain, _Broken(Exact(), factor))
    for name, added in ADDED.items():
        if _applies(added, where):
            found["+" + name] = _exactly(nothing, _Broken(Exact(), None, added))
            found["f " + name] = _exactly(chain, _Broken(Exact(), None, added, by_loss=True))
    for name, other in MEANS.items():
        if not any(other.refuses(s) for s in where.sites):
            found["+" + name] = _see(where, other).mean
    return found


_small_terms = lru_cache(maxsize=64)(_terms)


def _terms_of(probe: _Probe) -> dict[str, Array]:
    return _small_terms(probe) if isinstance(probe.problem, SmallProblem) else _terms(probe)


def _factors(factor: Factor, problem: Problem) -> Array:
    """At the units of a single layer."""
    theta = problem.theta(problem.weights(), ()).detach()[None, None]
    found = factor(Site(problem.sites[0], theta, NoNoise()))
    assert found is not None
    return np.asarray(found.double().numpy().ravel())


def _applies(factor: Factor, problem: Problem) -> bool:
    """Whether every site's law has it."""
    like = next(iter(problem.weights().values()))
    sites = (Site(s, like.new_zeros(1, 1, problem.batch, *s.theta_shape), NoNoise()) for s in problem.sites)
    return all(factor(site) is not None for site in sites)


def _table(probes: Sequence[_Probe], estimator: Estimator, like: Estimator | None) -> _Table | None:
    """Means at all probes, held against the exact gradient or the mean of another estimator; None if they agree."""
    seen = []
    for probe in probes:
        mean = _see(probe.at(), estimator)
        if like is None:
            exact = _terms_of(probe)["target"]
            seen.append((mean, _Seen(exact, 1e-14 * (1 + np.abs(exact)))))
        else:
            seen.append((mean, _see(probe.at(), like)))
    gaps = [mean.minus(target) for mean, target in seen]
    off = [gap.differs(len(probes)) for gap in gaps]
    if not np.concatenate(off).any():
        return None
    rows = []
    for probe, (_, target), gap in zip(probes, seen, gaps, strict=True):
        terms = _terms_of(probe)
        if like is not None:
            terms = {**terms, "target": target.mean}
            for name in FACTORS.keys() & terms.keys():
                if len(probe.problem.sites) == 1:
                    terms[name] = target.mean * _factors(FACTORS[name][1], probe.at())
                else:
                    broken = _Broken(like, FACTORS[name][1])
                    terms[name] = _see(probe.at(), broken, summed=target.batches is None).mean
        rows.append({"bias": gap.mean, "error": gap.error, **terms})
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {n: np.concatenate([row.get(n, np.full(len(row["bias"]), np.nan)) for row in rows]) for n in names}
    return _Table(columns, np.concatenate(off))


def _moves(probes: Sequence[_Probe], estimator: Estimator, level: float, scale: float) -> bool:
    """Whether the mean of ``scale (f + level)`` is surely not ``scale`` times that of f."""
    for probe in probes[:2]:
        base = _see(probe.at(), estimator).times(scale)
        rest = _see(probe.at(level, scale), estimator).minus(base)
        if (rest.differs(2) & (np.abs(rest.mean) > CLOSE * np.abs(base.mean).max())).any():
            return True
    return False


# ---------------------------------------------------------------------- the regression
@dataclass(frozen=True)
class _Candidate:
    """A way to be wrong: ``mean = c term`` or ``mean = truth + c term`` at some place, and the truth elsewhere.

    Attributes:
        label: of the cause.
        words: what is said of it; with ``{}`` for the constant.
        cost: simpler ones first.
        term: ``[n]``.
        added: whether it comes on top of the truth.
        constants: those that it ought to have; others cost more.
        strict: whether it may have no other.
    """

    label: str
    words: str
    cost: float
    term: Array
    added: bool = False
    constants: tuple[float, ...] = (1.0,)
    strict: bool = True


@dataclass(frozen=True)
class _Fit:
    label: str
    words: str
    share: float
    cost: float
    full: bool

    @property
    def cause(self) -> Cause:
        """As it is told."""
        percent = "all" if self.full else f"{math.floor(100 * self.share)} %"
        return Cause(self.label, f"consistent with {self.words} (explains {percent} of the bias)", self.share)


def _regress(table: _Table, candidate: _Candidate, mask: Mask) -> tuple[float, float, bool]:
    """Constant, share of the squared bias explained, and whether nothing but errors is left.

    Least squares with weights ``1 / (e^2 + (rms bias / 100)^2)`` for errors e. Where means are drawn, what errors are
    expected to add to a sum of squares is taken off.
    """
    bias, error = table["bias"], table["error"]
    weight = 1 / (error**2 + (0.01 * table.root) ** 2)
    y = np.where(mask, bias + (0 if candidate.added else table["target"]), 0.0)
    x = np.where(mask, candidate.term, 0.0)
    square = float(weight @ x**2)
    constant = float(weight @ (x * y)) / square if square > 0 else 1.0
    spread = 5 * math.sqrt(float((weight * x) ** 2 @ error**2)) / square if square > 0 else 0.0
    for known in candidate.constants:
        if abs(constant - known) <= 10 * CLOSE + spread and spread < 0.15:
            constant = known
            break
    left = np.where(mask, y - constant * x, bias)
    noise = float(weight @ error**2)
    total = max(float(weight @ bias**2) - noise, 1e-300)
    share = 1 - max(float(weight @ left**2) - noise, 0.0) / total
    full = bool((np.abs(left) <= 5 * error + 10 * CLOSE * table.root).all()) and share > 0.5
    return constant, min(max(share, 0.0), 1.0), full


def _where(table: _Table) -> Iterator[tuple[str, str, Mask, float]]:
    """Places: label, words, coordinates, cost."""
    distance, slope, theta, off = table["distance"], table["slope"], table["theta"], table.biased
    yield "", "", np.ones(len(off), dtype=np.bool_), 0.0
    yield "depth", "before the last layer", distance > 0, 1.0
    yield "site", "at the last of several layers", (distance == 0) & (table["layers"] > 1), 1.0
    yield "depth", "with several layers", table["layers"] > 1, 1.1
    yield "baseline", "with several examples", table["examples"] > 1, 1.1
    yield "dead path", "at the last of several units", table["last"] > 0, 1.1
    yield "correlated units", "with several units in a layer", table["units"] > 1, 1.2
    for i in sorted(set(table["parameter"]) - {-1.0}):
        yield "parametrisation", f"at parameter {i:.0f} of each unit", table["parameter"] == i, 1.0
    for value in (0.0, 1.0, -1.0):
        yield "ties", f"where theta is exactly {value:g}", theta == value, 1.3
    yield "ties", "where theta is exactly 1 or -1", np.abs(theta) == 1, 1.3
    seen = slope[off & np.isfinite(slope)]
    if seen.size and seen.max() < 0.05:
        yield "saturation", f"at saturated units, p(1-p) <= {seen.max():.2g}", slope <= seen.max(), 1.3


def _candidates(table: _Table, paths: int) -> Iterator[_Candidate]:
    """The table of terms, simplest first."""
    target, examples, units = table["target"], table["examples"], table["units"]
    for name, value, label in (
        ("0", 0.0, "dead path"),
        ("-1", -1.0, "sign"),
        ("2", 2.0, "gain 2"),
        ("1/2", 0.5, "gain 1/2"),
    ):
        word = "no gradient at all" if not value else "a wrong sign" if value < 0 else f"a gain of {name}"
        yield _Candidate(label, word, 0.0 if value else 0.05, value * target)
    if paths > 1:
        own = {"K": paths, "1/K": 1 / paths, "K/(K-1)": paths / (paths - 1), "(K-1)/K": 1 - 1 / paths}
        for name, value in own.items():
            label = "gain K/(K-1)" if "-" in name else "gain 1/K"
            yield _Candidate(label, f"a gain of {name} with K = {paths}", 0.1, value * target)
    for name, column, label in (
        ("the number of examples", examples, "gain batch"),
        ("1/(number of examples)", 1 / examples, "gain batch"),
        ("1 - 1/(number of examples), as of a baseline over the batch", 1 - 1 / examples, "baseline"),
        ("the number of units in the layer", units, "family"),
        ("1/(number of units in the layer)", 1 / units, "family"),
    ):
        yield _Candidate(label, f"a gain of {name}", 0.2, column * target)
    yield _Candidate("gain", "a gain of {}", 0.0, target, constants=(), strict=False)
    for name, (label, _) in FACTORS.items():
        if name in table.columns:
            yield _Candidate(label, f"a factor of {name}", 1.0, table[name], strict=False)
    for ratio in (2.0, 0.5, -1.0):
        for power, words in ((table["distance"] + 1, "layer"), (table["distance"], "layer after it")):
            yield _Candidate("depth", f"a gain of {ratio:g} for every {words}", 1.0, target * ratio**power)
    twice = target * (table["distance"] + 2)
    yield _Candidate("gain 2", "two estimates added, each through the other's layers", 1.0, twice)
    for name in ADDED:
        if "+" + name in table.columns:
            yield _Candidate("baseline", f"{name} times the loss, added", 0.6, table["f " + name], True, strict=False)
            yield _Candidate("extra term", f"{{}} {name}, added", 0.5, table["+" + name], True, (), False)
    if "+sigma'" in table.columns:
        words = "a baseline that is the unit's own value"
        yield _Candidate("baseline", words, 1.0, -table["+sigma'"], True)
    for name in MEANS:
        if "+" + name in table.columns:
            yield _Candidate("missing term", f"{name} left out", 1.2, -table["+" + name], True)
            yield _Candidate("extra term", f"{name} added", 1.2, table["+" + name], True)


def _fits(table: _Table, paths: int) -> list[_Fit]:
    """All terms at all places."""
    found: list[_Fit] = []
    candidates = list(_candidates(table, paths))
    for place, where, mask, cost in _where(table):
        if not (mask & table.biased).any() or (where and mask.all()):
            continue
        at = f", only {where}" if where else ""
        for c in candidates:
            if not np.isfinite(c.term[mask]).all():
                continue
            constant, share, full = _regress(table, c, mask)
            free = constant not in c.constants
            if free and (c.strict or int(mask.sum()) < 3):
                continue
            words = c.words.format(f"{constant:.3g}") + (
                f" times {constant:.3g}" if free and "{}" not in c.words else ""
            )
            own = where and c.label == "dead path" and place in ("site", "depth", "ties", "saturation")
            found.append(_Fit(place if own else c.label, words + at, share, c.cost + cost + free, full))
        if where and not table.biased[~mask].any():
            found.append(_Fit(place, f"a mistake that shows only {where}", 1.0, PLACE + cost, False))
    return found


def _best(fits: Sequence[_Fit]) -> list[_Fit]:
    """The simplest of those that leave nothing but errors, or those that explain clearly more than all others."""
    full = sorted((f for f in fits if f.full), key=lambda f: f.cost)
    if full:
        return [f for f in full if f.cost <= full[0].cost + 0.05]
    terms = sorted((f for f in fits if f.cost < PLACE and f.share >= ALMOST), key=lambda f: 1 - f.share + 0.02 * f.cost)
    clear = [f for f in terms[:1] if len(terms) == 1 or 1 - f.share <= 0.5 * (1 - terms[1].share)]
    return clear or sorted((f for f in fits if f.cost >= PLACE), key=lambda f: f.cost)[:1]


# ---------------------------------------------------------------------- the whole
FIRST: tuple[tuple[str, str, str], ...] = (
    ("touches no global state", "", "state"),
    ("can be repeated", "", "state"),
    ("replicates are independent", "two blocks", "state"),
    ("replicates do not mix", "", "correlated replicates"),
    ("replicates are independent", "", "correlated replicates"),
    ("has the right shapes", "not finite", "non-finite"),
    ("takes prepended axes", "", "axes"),
    ("is continuous at ties", "", "ties"),
    ("value is the loss", "", "loss scale"),
    ("has no dead path", "", "dead path"),
)
"""Checks of `estimator_lab.conformance`, what the message of their failure contains, and the cause that it shows."""

LATER: tuple[tuple[str, str, str], ...] = (
    ("is finite under saturation", "", "non-finite"),
    ("is finite at extreme numbers", "", "non-finite"),
    ("units are drawn independently", "", "correlated units"),
    ("examples are independent", "", "correlated examples"),
)
"""The same, for what a term that explains all of a bias goes before."""


def _broken_laws(estimator: Estimator, held: Sequence[tuple[str, str, str]]) -> list[Cause]:
    """The first of these laws that is broken."""
    case = Case(estimator, laws(estimator), ALPHA, 0, DRAWS)
    known = {check.name: check for check in checks(estimator)}
    told: dict[str, str] = {}
    for name, part, label in held:
        if name in known and name not in told:
            told[name] = ""
            try:
                known[name].run(case)
            except Violation as error:
                told[name] = str(error)
            except (NotApplicable, Open, LabError):
                continue
        if told.get(name) and part in told[name]:
            return [Cause(label, told[name], math.nan)]
    return []


def name_causes(estimator: Estimator, problem: Problem | None = None, *, like: Estimator | None = None) -> list[Cause]:
    """What the bias of an estimator looks like, best first; empty where none is established.

    An estimator is looked at on a few `SmallProblem` s of its law, one after the other until one shows a bias: unequal,
    saturated and tied units, two examples, two layers; and on the problem that is given, if it can be summed. Means are
    exact where the random numbers can be summed, else those of 16384 draws; terms are exact, since each of them is the
    mean of an exact sum that is broken on purpose.

    1. Laws that any estimator keeps, such as independence of replicates, come first: the first one that is broken is
       the cause, and nothing else is said.
    2. The bias at all coordinates is regressed on a table of terms (gains, powers of p (1 - p), the expected loss times
       a constant or E[h], ..) at a table of places (a layer, saturated units, ..). Of the pairs that explain all of it
       but errors (5 standard errors where means are drawn) the simplest is told: a term whose constant has a name
       before one with a free constant, everywhere before somewhere.
    3. If none does, other laws are tried, and what moves the mean: if a constant added to the loss does, a baseline or
       a score is wrong; if the mean of a multiple of the loss is not the multiple, something is normalised. Else the
       term that explains 99.5 % and leaves at most half of what the next one leaves, or the place that has all of the
       bias; else it is a term that is linear in the loss, missing or in excess.

    Args:
        estimator: any.
        problem: where a bias was seen, if it was.
        like: an estimator whose mean takes the place of the truth. One that declares a bias has nothing to explain
            without it.

    Returns:
        Causes. A fit says what the bias is consistent with, and never that nothing else gives it.

    Cost: about a second; up to ten where the mean is that of smooth random numbers on three kinds of units.
    """
    estimator = doors.an_estimator(estimator, "name_causes(estimator, problem)")
    declared = estimator.unbiased is False and like is None
    if found := _broken_laws(estimator, [law for law in FIRST if not (declared and law[2] == "dead path")]):
        return found
    if declared:
        return _broken_laws(estimator, LATER)
    families = _families(estimator, problem)
    if not families:
        return []
    try:
        _independent(SmallProblem((2,), 3, 1, families[0]), estimator)
        for number, family in enumerate(families):
            fits = problem is not None and problem.sites[0].family == family and _summable(problem, estimator)
            probes = _probes(family, problem if fits else None)
            if table := _table(probes, estimator, like):
                return _told(table, probes, estimator, families[: number + 1])
    except MeasurementError as error:
        label = "non-finite" if "NaN" in str(error) else "correlated replicates"
        return [Cause(label, str(error), math.nan)]
    return _broken_laws(estimator, LATER)


def _independent(problem: Problem, estimator: Estimator) -> None:
    """Raises a MeasurementError where replicates depend on each other."""
    truth = Truth.exact(problem, ("unit",))
    record = prepare(problem, estimator, wrt=("unit",), reference=truth.mean).run(2**12)
    check_independence(record, group_of(record, truth, ("total", "units")))


def _told(table: _Table, probes: Sequence[_Probe], estimator: Estimator, families: Sequence[Family]) -> list[Cause]:
    """The causes of a bias that is there, in the last of these families."""
    best = _best(_fits(table, estimator.paths))
    causes = [f.cause for f in best]
    own: list[Cause] = []
    if families[1:]:
        words = f"shows only at {families[-1]!r} units, not at {', '.join(map(repr, families[:-1]))}"
        own = [Cause("family", f"consistent with a mistake that {words}", 1.0)]
    if best and best[0].full:
        return causes + own
    if found := _broken_laws(estimator, LATER):
        return found
    share = table.root / max(math.sqrt(float(np.mean(table["target"] ** 2))), 1e-300)
    if share < SMALL and table.biased.mean() > 0.8:
        words = f"consistent with numbers of lower precision: the bias is {share:.1g} of the gradient everywhere"
        return [Cause("precision", words, math.nan)]
    if _moves(probes, estimator, LEVEL, 1.0):
        words = "a constant added to the loss changes the mean: a score has a mean, or a baseline reads its sample"
        return [*own, Cause("baseline", words, math.nan), *causes]
    if _moves(probes, estimator, 0.0, SCALE):
        words = "the mean of a multiple of the loss is not that multiple: something is normalised, clipped or added"
        return [*own, Cause("loss scale", words, math.nan), *causes]
    words = "consistent with a term, linear in the loss, that is missing or in excess; no single candidate explains it"
    return [*own, *(causes or [Cause("missing term", words, math.nan)])]


def looks_like(estimator: Estimator, problem: Problem) -> tuple[str, ...]:
    """The causes in words, most likely first."""
    return tuple(cause.words for cause in name_causes(estimator, problem))


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
