"""The expected gradient that estimators are held against."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np

from estimator_lab.chain import Chain, Key
from estimator_lab.errors import NotConverged, TooLarge, UsageError
from estimator_lab.estimator import Estimator
from estimator_lab.estimators import Exact, LeaveOneOut, LocalExpectation
from estimator_lab.measurement import prepare, prepare_sampler
from estimator_lab.moments import Array
from estimator_lab.noise import NoNoise
from estimator_lab.problem import Problem
from estimator_lab.record import Record
from estimator_lab.sampler import GradientSampler

REPLICATES = 2**14
"""Draws of a truth that has to be estimated."""


@dataclass(frozen=True)
class Truth:
    """Expected gradients, with their error.

    Attributes:
        mean: expected gradient per key, in its own shape.
        words: how it was found, in words.
        record: the Monte Carlo run behind it, or None when it is exact.
    """

    mean: Mapping[Key, Array]
    words: str
    record: Record | None = None

    @classmethod
    def exact(cls, problem: Problem, wrt: tuple[str, ...] = ("unit", "weight"), nodes: int = 64) -> Self:
        """Sums over all states of every site; Gauss-Hermite quadrature for Gaussian sites.

        A quadrature is repeated with three quarters of the nodes; the two must agree to 1e-7 of the gradient's norm.

        Raises:
            TooLarge: too many joint states.
            NotConverged: the quadrature has not settled.
        """
        mean = cls._sum(problem, nodes, wrt)
        continuous = any(not s.family.discrete for s in problem.sites)
        if continuous:
            coarse = cls._sum(problem, 3 * nodes // 4, wrt)
            for kind in dict.fromkeys(key[0] for key in mean):
                fine, rough = (np.concatenate([m[k].ravel() for k in m if k[0] == kind]) for m in (mean, coarse))
                error = float(np.linalg.norm(fine - rough)) / max(float(np.linalg.norm(fine)), 1e-300)
                if error > 1e-7:
                    raise NotConverged(
                        f"the quadrature of {problem!r} has not converged: the {kind} gradients by {nodes} and "
                        f"{3 * nodes // 4} nodes differ by a relative {error:.1e}; use more nodes, or Truth.estimated"
                    )
        states = 1.0
        for site in problem.sites:
            states *= float(site.family.rule_size(nodes)) ** int(np.prod(site.units))
        how = f"Gauss-Hermite quadrature, {nodes} nodes per unit" if continuous else f"sum over {states:.0f} states"
        return cls(mean, f"exact: {how}")

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
    ) -> Self:
        """A long run of an unbiased estimator, on draws disjoint from those of any measurement.

        Raises:
            UsageError: the estimator does not claim to be unbiased.
        """
        if estimator.unbiased is not True:
            raise UsageError(f"a truth is estimated with an unbiased estimator; {estimator!r} does not claim to be one")
        record = prepare(problem, estimator, seed=seed, wrt=wrt, purpose="truth").run(replicates)
        mean = {k: record.mean(k) for k in record.layout.shapes}
        return cls(mean, f"estimated: {estimator.label}, {record.replicates} replicates", record)

    @classmethod
    def of(
        cls, problem: Problem, seed: int = 0, wrt: tuple[str, ...] = ("unit", "weight"), replicates: int = REPLICATES
    ) -> Self:
        """Exact where the states can be summed and the quadrature settles.

        Else estimated by the least noisy unbiased estimator at hand: local expectation, or leave-one-out over 16 paths.
        """
        try:
            return cls.exact(problem, wrt)
        except (TooLarge, NotConverged):
            discrete = all(site.family.discrete for site in problem.sites)
            return cls.estimated(problem, LocalExpectation() if discrete else LeaveOneOut(16), replicates, seed, wrt)

    @classmethod
    def sampled(cls, sampler: GradientSampler, replicates: int, seed: int = 0) -> Self:
        """A long run of a black box that is unbiased."""
        record = prepare_sampler(sampler, seed=seed, purpose="truth").run(replicates)
        mean = {k: record.mean(k) for k in record.layout.shapes}
        return cls(mean, f"estimated: {sampler.label}, {record.replicates} replicates", record)

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
