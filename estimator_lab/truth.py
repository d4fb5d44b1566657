"""The expected gradient that estimators are held against."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import torch

from estimator_lab import cache as cached
from estimator_lab.archive import arrays_of, record_of
from estimator_lab.chain import Chain, Key
from estimator_lab.errors import NotConverged, TooLarge, UsageError
from estimator_lab.estimator import Estimator
from estimator_lab.estimators import ControlledFlips, Exact, LeaveOneOut, LocalExpectation, PerSite
from estimator_lab.marginal import layer_sum
from estimator_lab.measurement import Measurement, prepare, prepare_sampler
from estimator_lab.moments import Array
from estimator_lab.noise import NoNoise
from estimator_lab.plan import SMALLEST
from estimator_lab.problem import Problem
from estimator_lab.record import Record
from estimator_lab.sampler import GradientSampler

REPLICATES = 2**14
"""Draws of a truth that has to be estimated."""

FLIPS = 2**26
"""Largest tensor that single-unit flips may make; in wider networks they do not fit, and paths are compared instead."""

LONG = 2.0
"""Seconds of drawing from which on a truth is worth a file."""

SCHEMA = 1
"""Of the files; another number when what a record holds, or how blocks are drawn and joined, has changed."""


@dataclass(frozen=True)
class Truth:
    """Expected gradients, with their error.

    Attributes:
        mean: expected gradient per key, in its own shape.
        words: how it was found, in words.
        record: the Monte Carlo run behind it, or None when it is exact.
        estimator: what drew the record, or None.
    """

    mean: Mapping[Key, Array]
    words: str
    record: Record | None = None
    estimator: Estimator | None = None

    def __repr__(self) -> str:
        return f"<Truth of {len(self.mean)} gradients, {self.words}>"

    @classmethod
    def exact(cls, problem: Problem, wrt: tuple[str, ...] = ("unit", "weight"), nodes: int = 64) -> Self:
        """The closed form, if the problem has one; else sums over all states, or quadrature for Gaussian sites.

        Where the sites have too many joint states, discrete ones are summed layer by layer, if the problem is a Markov
        chain. A quadrature is repeated with three quarters of the nodes; the two must agree to 1e-7 of the gradient's
        norm.

        Raises:
            TooLarge: too many states.
            NotConverged: the quadrature has not settled.
        """
        if (closed := cls._closed(problem, wrt)) is not None:
            return cls(closed, "exact: closed form")
        continuous = any(not s.family.discrete for s in problem.sites)
        try:
            mean = cls._sum(problem, nodes, wrt)
        except TooLarge as error:
            if continuous:
                raise
            try:
                mean, sizes = layer_sum(problem, wrt)
            except TooLarge as other:
                raise TooLarge(f"{error}; nor can layers be summed one by one: {other}") from error
            return cls(mean, f"exact: layer-by-layer sum over {' x '.join(map(str, sizes))} states")
        if continuous:
            coarse = cls._sum(problem, 3 * nodes // 4, wrt)
            for kind in dict.fromkeys(key[0] for key in mean):
                fine, rough = (np.concatenate([m[k].ravel() for k in m if k[0] == kind]) for m in (mean, coarse))
                gap = float(np.linalg.norm(fine - rough)) / max(float(np.linalg.norm(fine)), 1e-300)
                if gap > 1e-7:
                    raise NotConverged(
                        f"the quadrature of {problem!r} has not converged: the {kind} gradients by {nodes} and "
                        f"{3 * nodes // 4} nodes differ by a relative {gap:.1e}; use more nodes, or Truth.estimated"
                    )
        states = 1.0
        for site in problem.sites:
            states *= float(site.family.rule_size(nodes)) ** int(np.prod(site.units))
        how = f"Gauss-Hermite quadrature, {nodes} nodes per unit" if continuous else f"sum over {states:.0f} states"
        return cls(mean, f"exact: {how}")

    @staticmethod
    def _closed(problem: Problem, wrt: tuple[str, ...]) -> dict[Key, Array] | None:
        """Derivatives of the problem's own expected loss."""
        given = problem.weights()
        if not given or not all(isinstance(v, torch.Tensor) and v.is_floating_point() for v in given.values()):
            return None  # what walks the problem tells the mistake
        weights = {k: v.detach().clone().requires_grad_() for k, v in given.items()}
        like = next(iter(weights.values())).detach()
        offsets = {s.name: like.new_zeros(problem.batch, *s.theta_shape).requires_grad_() for s in problem.sites}
        with torch.enable_grad():
            loss = problem.expected_loss(weights, offsets)
            if loss is None:
                return None
            if not isinstance(loss, torch.Tensor) or loss.shape != (problem.batch,):
                found = list(loss.shape) if isinstance(loss, torch.Tensor) else type(loss).__name__
                raise UsageError(
                    f"expected_loss() of {problem!r}: expected axes [batch] = {[problem.batch]}; found {found}"
                )
            if not loss.requires_grad:
                raise UsageError(f"expected_loss() of {problem!r} uses neither the weights nor the offsets it is given")
            leaves = [*offsets.values(), *weights.values()]
            grads = torch.autograd.grad(loss.sum(), leaves, allow_unused=True, materialize_grads=True)
        keys = [*(("unit", k) for k in offsets), *(("weight", k) for k in weights)]
        scaled = [g if k[0] == "unit" else g / problem.batch for k, g in zip(keys, grads, strict=True)]
        return {k: g.double().cpu().numpy() for k, g in zip(keys, scaled, strict=True) if k[0] in wrt}

    @staticmethod
    def _sum(problem: Problem, nodes: int, wrt: tuple[str, ...]) -> dict[Key, Array]:
        drawn = Chain(problem, Exact(nodes), wrt).draw(1, NoNoise())
        return {k: v[0].double().cpu().numpy() for k, v in drawn.items()}

    @classmethod
    def estimated(
        cls,
        problem: Problem,
        estimator: Estimator,
        replicates: int,
        seed: int = 0,
        wrt: tuple[str, ...] = ("unit", "weight"),
        cache: bool = False,
    ) -> Self:
        """A long run of an unbiased estimator, on draws disjoint from those of any measurement.

        With ``cache`` a truth that took more than two seconds to draw is kept in a file of ``estimator_lab.cache``, and
        the next one of an equal plan (problem, weights, estimator, seed and dtype) goes on from there. It then has at
        least the replicates that are asked for, perhaps more: what a truth is depends on what was kept, which is why
        this is not the default. A file is used only if the first 32 replicates, drawn again, are as they were: so a
        problem or an estimator whose code has changed is drawn afresh. A change that these do not show is not seen.

        Raises:
            UsageError: the estimator does not claim to be unbiased.
        """
        if estimator.unbiased is not True:
            raise UsageError(f"a truth is estimated with an unbiased estimator; {estimator!r} does not claim to be one")
        measurement = prepare(problem, estimator, seed=seed, wrt=wrt, purpose="truth")
        kept = _load(measurement) if cache else None
        record = measurement.extend(kept, replicates)
        if cache and record is not kept and record.seconds > LONG:
            _store(measurement, record)
        return cls._drawn(record, estimator.label, estimator)

    @classmethod
    def _drawn(cls, record: Record, label: str, estimator: Estimator | None) -> Self:
        mean = {k: record.mean(k) for k in record.layout.shapes}
        return cls(mean, f"estimated: {label}, {record.replicates} replicates", record, estimator)

    @classmethod
    def of(
        cls,
        problem: Problem,
        seed: int = 0,
        wrt: tuple[str, ...] = ("unit", "weight"),
        replicates: int = REPLICATES,
        cache: bool = False,
    ) -> Self:
        """Exact where the states can be summed, jointly or layer by layer, and where the quadrature settles.

        Else estimated, by the least noisy unbiased estimator at hand (`least_noisy`).

        Args:
            problem: what is differentiated.
            seed: of the draws, if any.
            wrt: "unit" and/or "weight".
            replicates: of a truth that is estimated.
            cache: go on from a truth that was kept, and keep this one, if it is estimated (see `estimated`).
        """
        try:
            return cls.exact(problem, wrt)
        except (TooLarge, NotConverged):
            return cls.estimated(problem, least_noisy(problem), replicates, seed, wrt, cache)

    @classmethod
    def sampled(cls, sampler: GradientSampler, replicates: int, seed: int = 0) -> Self:
        """A long run of a black box that is unbiased."""
        record = prepare_sampler(sampler, seed=seed, purpose="truth").run(replicates)
        return cls._drawn(record, sampler.label, None)

    def refine(self, source: Problem | GradientSampler, replicates: int) -> Self:
        """The same truth with at least so many replicates in all: it goes on with the draws that it has.

        It equals a truth that was drawn at once with as many replicates, to the last bit. An exact truth, or one with
        enough replicates, is returned as it is. The first batch, a thirty-second of the draws or less, is drawn again:
        it must be as it was.

        Args:
            source: the problem, or the black box, that this is the truth of.
            replicates: in all.

        Raises:
            UsageError: it is the truth of something else, or of what another estimator drew, or the draws have changed.
        """
        if self.record is None or self.record.replicates >= replicates:
            return self
        plan = self.record.plan
        if isinstance(source, GradientSampler):
            label, measurement = source.label, prepare_sampler(source, seed=plan.seed, purpose=plan.purpose)
        elif self.estimator is not None:
            label = self.estimator.label
            measurement = prepare(source, self.estimator, seed=plan.seed, wrt=plan.wrt, purpose=plan.purpose)
        else:
            raise UsageError(f"this truth was drawn from a black box ({plan.estimator}); refine it with that")
        if measurement.plan != plan:
            raise UsageError(
                f"this is the truth of {plan.problem} by {plan.estimator}, and not of {source!r} as it is now; "
                "refine a truth with the problem it was drawn from"
            )
        first = measurement.extend(None, max(self.record.batch_size, SMALLEST))
        batches = self.record.means[: max(SMALLEST // self.record.batch_size, 1)]
        if not _alike(batches.mean(0), first.moments.mean, plan.dtype):
            raise UsageError(
                f"{source!r} no longer gives the draws that this truth of it rests on: its data or its code have "
                "changed; draw a new truth, and give each problem its own repr"
            )
        return self._drawn(measurement.extend(self.record, replicates), label, self.estimator)

    @classmethod
    def given(cls, mean: Mapping[Key, Array], words: str = "given") -> Self:
        """Gradients that the user knows."""
        return cls({k: np.asarray(v, dtype=np.float64) for k, v in mean.items()}, words)

    @property
    def is_exact(self) -> bool:
        """True when there is no Monte Carlo error."""
        return self.record is None

    @cached_property
    def standard_error(self) -> dict[Key, Array]:
        """Standard error per key; zero when exact."""
        if self.record is None:
            return {k: np.zeros_like(v) for k, v in self.mean.items()}
        return {k: np.sqrt(self.record.variance(k) / self.record.replicates) for k in self.mean}


# ---------------------------------------------------------------------- which estimator
def least_noisy(problem: Problem) -> Estimator:
    """The unbiased estimator that a truth is drawn with where no sum is possible.

    Discrete sites: single-unit flips, with a control variate for the noise of the next site where there is one. In
    networks that are too wide for that, and at Gaussian sites: leave-one-out over 16 paths. The pathwise gradient would
    be far better at Gaussian sites, but is biased where the loss jumps, and a truth must not rest on what nobody has
    checked.
    """
    paths = LeaveOneOut(16)
    if not any(site.family.discrete for site in problem.sites):
        return paths
    flips = ControlledFlips() if len(problem.sites) > 1 else LocalExpectation()
    mixed = not all(site.family.discrete for site in problem.sites)
    if _flip_numbers(problem) * (paths.paths if mixed else 1) > FLIPS:
        return paths
    if not mixed:
        return flips
    return PerSite({site.name: flips if site.family.discrete else paths for site in problem.sites})


def _flip_numbers(problem: Problem) -> int:
    """Numbers in the largest tensor that flips make in the smallest block."""
    changes = [math.prod(s.units) * (s.family.rule_size(1) - 1) if s.family.discrete else 0 for s in problem.sites]
    widths = [math.prod(s.theta_shape) for s in problem.sites]
    rows = [1 + a + b for a, b in zip(changes, [*changes[1:], 0], strict=True)]
    return max(n * max(widths[i:]) for i, n in enumerate(rows)) * SMALLEST * problem.batch


# ---------------------------------------------------------------------- what is kept
def _identity(measurement: Measurement) -> str:
    return f"{SCHEMA} {measurement.plan!r}"


def _load(measurement: Measurement) -> Record | None:
    """The record kept for a plan, if its first block can be drawn again."""
    arrays = cached.load("truth", _identity(measurement))
    if arrays is None:
        return None
    try:
        record, first = record_of(arrays), (arrays["first_mean"], arrays["first_m2"])
    except (KeyError, TypeError, ValueError):
        return None
    if (record.plan, record.layout, record.start) != (measurement.plan, measurement.layout, 0):
        return None
    block = measurement.block(0).moments
    pairs = zip(first, (block.mean, block.m2), strict=True)
    return record if all(_alike(kept, drawn, measurement.plan.dtype) for kept, drawn in pairs) else None


def _alike(kept: Array, drawn: Array, dtype: str) -> bool:
    """Whether numbers that were kept have been drawn again, perhaps on another machine."""
    tolerance = 1e4 * torch.finfo(getattr(torch, dtype)).eps
    atol = tolerance * float(np.abs(drawn).max(initial=0.0))
    return kept.shape == drawn.shape and np.allclose(kept, drawn, rtol=tolerance, atol=atol)


def _store(measurement: Measurement, record: Record) -> None:
    """Keeps a record, with the first block apart: it tells later whether the same is still being drawn."""
    block = measurement.block(0).moments
    arrays = arrays_of(record) | {"first_mean": block.mean, "first_m2": block.m2}
    cached.store("truth", _identity(measurement), arrays)
