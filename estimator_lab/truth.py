"""The expected gradient that estimators are held against."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import torch

from estimator_lab import doors
from estimator_lab.chain import Chain, Key
from estimator_lab.errors import NotConverged, TooLarge, UsageError
from estimator_lab.estimator import Estimator
from estimator_lab.estimators import Exact
from estimator_lab.long_runs import Progress, Run, Stretch, black_box, by_layer, draw, refined, whole
from estimator_lab.marginal import layer_sum
from estimator_lab.moments import Array
from estimator_lab.noise import NoNoise
from estimator_lab.problem import Problem
from estimator_lab.sampler import GradientSampler
from estimator_lab.statistics.group import FLOOR
from estimator_lab.statistics.pairing import contracted

REPLICATES = 2**14
"""Draws of a truth that has to be estimated."""


@dataclass(frozen=True)
class Truth:
    """Expected gradients, with their error.

    Attributes:
        mean: expected gradient per key, in its own shape.
        words: how it was found, in words.
        runs: the Monte Carlo runs behind it; none when it is exact.
    """

    mean: Mapping[Key, Array]
    words: str
    runs: tuple[Run, ...] = ()

    def __repr__(self) -> str:
        return f"<Truth of {len(self.mean)} gradients, {self.words}>"

    @classmethod
    def exact(cls, problem: Problem, wrt: tuple[str, ...] = ("unit", "weight"), nodes: int = 64) -> Self:
        """The closed form, if the problem has one; else sums over all states, or quadrature for Gaussian sites.

        Where the sites have too many joint states, discrete ones are summed layer by layer, if the problem is a Markov
        chain. A quadrature is repeated with three quarters of the nodes; the two must agree to 1e-7 of the gradient's
        norm, or to 64 eps of the dtype.

        Raises:
            TooLarge: too many states.
            NotConverged: the quadrature has not settled.
        """
        problem = doors.a_problem(problem, "Truth.exact(problem)")
        if (closed := cls._closed(problem, wrt)) is not None:
            return cls(closed, "exact: closed form")
        continuous = any(s.family.noise == "normal" for s in problem.sites)
        try:
            mean = cls._sum(problem, nodes, wrt)
        except TooLarge as error:
            if not all(s.family.discrete for s in problem.sites):
                raise
            try:
                mean, sizes = layer_sum(problem, wrt)
            except TooLarge as other:
                raise TooLarge(f"{error}; nor can layers be summed one by one: {other}") from error
            return cls(mean, f"exact: layer-by-layer sum over {' x '.join(map(str, sizes))} states")
        if continuous:
            coarse = cls._sum(problem, 3 * nodes // 4, wrt)
            tolerance = max(1e-7, FLOOR * torch.finfo(next(iter(problem.weights().values())).dtype).eps)
            for kind in dict.fromkeys(key[0] for key in mean):
                fine, rough = (np.concatenate([m[k].ravel() for k in m if k[0] == kind]) for m in (mean, coarse))
                gap = float(np.linalg.norm(fine - rough)) / max(float(np.linalg.norm(fine)), 1e-300)
                if gap > tolerance:
                    raise NotConverged(
                        f"the quadrature of {problem!r} has not converged: the {kind} gradients by {nodes} and "
                        f"{3 * nodes // 4} nodes differ by a relative {gap:.1e}; use more nodes, or Truth.estimated"
                    )
        states = 1.0
        for site in problem.sites:
            states *= float(site.family.rule_size(nodes)) ** int(np.prod(site.units))
        how = f"quadrature, {nodes} nodes per unit" if continuous else f"sum over {states:.0f} states"
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
        progress: Progress | None = None,
    ) -> Self:
        """A long run of an unbiased estimator, on draws disjoint from those of any measurement.

        Random numbers are stratified over every 32 replicates (`estimator_lab.noise.Stratified`), which lowers the
        variance; errors are those of the means of whole strata.

        With ``cache`` a truth that took more than two seconds to draw is kept in a file of ``estimator_lab.cache``, and
        the next one of an equal plan (problem, weights, estimator, seed and dtype) goes on from there. It then has at
        least the replicates that are asked for, perhaps more: what a truth is depends on what was kept, which is why
        this is not the default. A file is used only if the first 32 replicates, drawn again, are as they were: so a
        problem or an estimator whose code has changed is drawn afresh. A change that these do not show is not seen.

        Args:
            problem: what is differentiated.
            estimator: how.
            replicates: number of draws, rounded up to whole blocks.
            seed: of the draws.
            wrt: "unit" and/or "weight".
            cache: go on from what was kept, and keep this.
            progress: called with the replicates drawn and planned.

        Raises:
            UsageError: the estimator does not claim to be unbiased.
        """
        call = "Truth.estimated(problem, estimator, replicates)"
        problem, estimator = doors.a_problem(problem, call), doors.an_estimator(estimator, call)
        if estimator.unbiased is not True:
            raise UsageError(f"a truth is estimated with an unbiased estimator; {estimator!r} does not claim to be one")
        return cls._drawn([whole(problem, estimator, seed, wrt)], replicates, cache, progress)

    @classmethod
    def _drawn(cls, schedule: Sequence[Stretch], replicates: int, cache: bool, progress: Progress | None) -> Self:
        return cls._of_runs(tuple(draw(schedule, replicates, cache, progress)))

    @classmethod
    def _of_runs(cls, runs: tuple[Run, ...]) -> Self:
        mean = {k: run.record.mean(k) for run in runs for k in run.keys}
        order = runs[0].record.layout.shapes
        counts = [f"{run.record.replicates} replicates{f' for {run.name}' if run.name else ''}" for run in runs]
        words = f"estimated: {runs[0].label}, {', '.join(counts)}"
        return cls({k: mean[k] for k in order}, words, runs)

    @classmethod
    def of(
        cls,
        problem: Problem,
        seed: int = 0,
        wrt: tuple[str, ...] = ("unit", "weight"),
        replicates: int = REPLICATES,
        cache: bool = False,
        progress: Progress | None = None,
    ) -> Self:
        """Exact where the states can be summed, jointly or layer by layer, and where the quadrature settles.

        Else estimated, by the least noisy unbiased estimator at hand (`estimator_lab.long_runs.least_noisy`). Where
        that changes single units, every layer has a run of its own, the later and cheaper ones being longer.

        Args:
            problem: what is differentiated.
            seed: of the draws, if any.
            wrt: "unit" and/or "weight".
            replicates: of a truth that is estimated; of the first layer's, where each has its own.
            cache: go on from a truth that was kept, and keep this one, if it is estimated (see `estimated`).
            progress: called with the replicates drawn and planned, if it is estimated.
        """
        problem = doors.a_problem(problem, "Truth.of(problem)")
        try:
            return cls.exact(problem, wrt)
        except (TooLarge, NotConverged):
            return cls._drawn(by_layer(problem, seed, wrt), replicates, cache, progress)

    @classmethod
    def sampled(
        cls, sampler: GradientSampler, replicates: int, seed: int = 0, progress: Progress | None = None
    ) -> Self:
        """A long run of a black box that is unbiased."""
        return cls._drawn([black_box(sampler, seed)], replicates, False, progress)

    def refine(self, source: Problem | GradientSampler, replicates: int, progress: Progress | None = None) -> Self:
        """The same truth with at least so many replicates: it goes on with the draws that it has.

        It equals a truth that was drawn at once with as many replicates, to the last bit. An exact truth, or one with
        enough replicates, is returned as it is. The first batch of each run, a thirty-second of the draws or less, is
        drawn again: it must be as it was.

        Args:
            source: the problem, or the black box, that this is the truth of.
            replicates: in all, as they were asked for at first.
            progress: called with the replicates drawn and planned.

        Raises:
            UsageError: it is the truth of something else, or of what another estimator drew, or the draws have changed.
        """
        if all(run.record.replicates >= replicates * run.times for run in self.runs):
            return self
        return self._of_runs(tuple(refined(self.runs, source, replicates, progress)))

    @classmethod
    def given(cls, mean: Mapping[Key, Array], words: str = "given") -> Self:
        """Gradients that the user knows."""
        return cls({k: np.asarray(v, dtype=np.float64) for k, v in mean.items()}, words)

    @property
    def is_exact(self) -> bool:
        """True when there is no Monte Carlo error."""
        return not self.runs

    @property
    def replicates(self) -> int:
        """Draws of the shortest run; 0 when exact."""
        return min((run.record.replicates for run in self.runs), default=0)

    def batches(self, keys: Sequence[Key]) -> Array | None:
        """Independent batch means ``[T, d]`` of some gradients, one after the other; None when exact.

        Of gradients that come from several runs, those of the longer ones are reduced to as many as the shortest has.
        """
        if not self.runs:
            return None
        parts = {k: run.batches(k) for run in self.runs for k in run.keys if k in keys}
        count = min(map(len, parts.values()))
        return np.concatenate([contracted(parts[k], count) for k in keys], 1)

    def carried(self, keys: Sequence[Key]) -> float:
        """How many draws carry the error of some gradients, at least: the fewest of any run; infinite when exact."""
        own = [(run, tuple(k for k in keys if k in run.keys)) for run in self.runs]
        return min((run.carried(part) for run, part in own if part), default=math.inf)

    @cached_property
    def standard_error(self) -> dict[Key, Array]:
        """Standard error per key; zero when exact."""
        if not self.runs:
            return {k: np.zeros_like(v) for k, v in self.mean.items()}
        return {k: run.standard_error(k).reshape(self.mean[k].shape) for run in self.runs for k in run.keys}
