"""What is known of one group of coordinates, and the form in which a statistic is reported."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from estimator_lab.statistics.gram import Array
from estimator_lab.statistics.pairing import Pairing, pair
from estimator_lab.statistics.tail import ENOUGH, heavy, tail_index

SCALARS = ("square", "fourth", "inner", "norm2", "cosine", "zero", "descent", "agreement")
"""Per-replicate scalars kept for every group, against the reference gradient g: |x - g|^2, |x - g|^4, <x, g>, |x|^2,
cos(x, g), 1[x = 0], 1[<x, g> > 0], and the share of coordinates with g_j != 0 whose sign agrees."""
FEWEST_BATCHES = 8
GATE = 30.0
WIDE_GATE = 100.0
"""Draws that must carry the error: of one coordinate, whose test corrects for skewness, and of several."""
FLOOR = 64.0
CANCELLATION = 4.0


@dataclass(frozen=True)
class Estimate:
    """A number with its interval; nan where it cannot be estimated.

    Args:
        value: point estimate.
        low: lower end.
        high: upper end.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Group:
    """R = K m replicates of an estimate in d coordinates, reduced to K batch means, and the truth beside them.

    Args:
        batches: [K, d] means of K batches of equal size.
        size: m, replicates per batch.
        variance: [d] unbiased variance of one draw.
        skewness: [d] skewness of one draw, 0 where the variance is 0.
        kurtosis: [d] fourth standardised moment of one draw (3 for a normal law), 0 where the variance is 0.
        truth: [d] the true gradient g, or the mean of its Monte Carlo estimate.
        truth_batches: [T, d] batch means of a Monte Carlo truth, independent of the estimate or drawn with the same
            noise batch by batch; None when the truth is exact.
        scalars: name -> [K] batch means of a per-replicate scalar against the fixed vector g: "square" `||x - g||^2`,
            "fourth" `||x - g||^4`, "inner" `<x, g>`, "norm2" `||x||^2`, "cosine" (0 for zero draws), "zero" `1[x = 0]`,
            "descent" `1[<x, g> > 0]`, "agreement" (share of the coordinates with `g_j != 0` whose sign is right).
        largest: [M] the largest squared errors `||x - g||^2` of single draws, descending; all of them where R <= M.
        resolution: relative rounding of the dtype that drew the estimate.
        random: whether the estimator drew random numbers.
        truth_sample: how many draws carry the error of a Monte Carlo truth; inf where that is exact.
        loss: typical absolute value of the loss, 0 if not known.

    Raises:
        ValueError: shapes disagree, a scalar is missing, or a number is not finite.
    """

    batches: Array
    size: int
    variance: Array
    skewness: Array
    kurtosis: Array
    truth: Array
    truth_batches: Array | None
    scalars: Mapping[str, Array]
    largest: Array
    resolution: float
    random: bool = False
    loss: float = 0.0
    truth_sample: float = np.inf

    def __post_init__(self) -> None:
        """Check shapes and finiteness once, so that no statistic has to."""
        if self.batches.ndim != 2 or 0 in self.batches.shape or self.size < 1:
            raise ValueError(f"batches must be [K, d] of size >= 1, got {self.batches.shape} of size {self.size}")
        count, dimension = self.batches.shape
        shapes = {name: getattr(self, name) for name in ("variance", "skewness", "kurtosis", "truth")}
        for name, values in shapes.items():
            if values.shape != (dimension,):
                raise ValueError(f"{name} must have shape {(dimension,)} like one batch mean, got {values.shape}")
        if self.truth_batches is not None and (
            self.truth_batches.ndim != 2 or self.truth_batches.shape[1] != dimension or len(self.truth_batches) < 2
        ):
            raise ValueError(f"truth_batches must be [T >= 2, {dimension}], got {self.truth_batches.shape}")
        for name in SCALARS:
            if name not in self.scalars or self.scalars[name].shape != (count,):
                raise ValueError(f"scalars needs {name!r} with shape {(count,)}, one mean per batch")
        arrays = [self.batches, self.largest, *shapes.values(), *(self.scalars[name] for name in SCALARS)]
        arrays += [] if self.truth_batches is None else [self.truth_batches]
        if not all(np.isfinite(values).all() for values in arrays):
            raise ValueError("a mean or variance is not finite: the estimator diverged, nothing can be said of it")

    @property
    def replicates(self) -> int:
        """R."""
        return len(self.batches) * self.size

    @property
    def dimension(self) -> int:
        """Number of coordinates, d."""
        return self.truth.size

    @cached_property
    def pairing(self) -> Pairing:
        """Inner products of the paired batches, computed once."""
        return pair(self.batches, self.truth, self.truth_batches, self.scalars)

    @cached_property
    def mean(self) -> Array:
        """[d] mean of all replicates."""
        return np.asarray(self.batches.mean(0))

    @cached_property
    def truth_mean(self) -> Array:
        """[d] mean of the truth, from its batches when it has any."""
        return self.truth if self.truth_batches is None else np.asarray(self.truth_batches.mean(0))

    @cached_property
    def coordinate_floor(self) -> Array:
        """[d] difference per coordinate that rounding explains.

        64 resolutions of the coordinate's own truth, or of the root mean square of all where that is larger; and 4
        resolutions of the loss, whose values cancel in a gradient. A truth that is zero throughout has no scale; the
        root mean square of the draws takes its place.
        """
        square = float(np.mean(self.truth**2)) or float(np.mean(self.mean**2 + self.variance))
        own = FLOOR * np.maximum(np.abs(self.truth), np.sqrt(square))
        return self.resolution * np.maximum(own, CANCELLATION * self.loss)

    @property
    def floor(self) -> float:
        """Norm that rounding explains when every coordinate is off by `coordinate_floor`."""
        return float(np.linalg.norm(self.coordinate_floor))

    @cached_property
    def still(self) -> bool:
        """All R draws are alike up to rounding."""
        return bool((np.sqrt(self.variance) <= self.coordinate_floor).all())

    @cached_property
    def constant(self) -> bool:
        """All R draws, and the truth, are constant up to rounding."""
        floor = self.coordinate_floor
        return self.still and (self.truth_batches is None or bool((np.ptp(self.truth_batches, axis=0) <= floor).all()))

    @cached_property
    def agrees(self) -> bool:
        """The mean is the truth up to rounding in every coordinate."""
        return bool((np.abs(self.mean - self.truth_mean) <= self.coordinate_floor).all())

    @property
    def deterministic(self) -> bool:
        """Constant, and either without any random number or equal to the truth.

        Draws that are random, all alike and off the truth prove nothing: an event that R draws never showed may have a
        probability of up to `log(1/alpha)/R`, and may carry the whole difference.
        """
        return self.constant and (self.agrees or not self.random)

    @property
    def exact(self) -> bool:
        """Constant, and equal to the truth up to rounding in every coordinate."""
        return self.constant and self.agrees

    @cached_property
    def effective_sample(self) -> float:
        """n_eff = `R (E q)^2 / E q^2` with `q = ||x - g||^2`: how many draws carry the squared error.

        R when all draws err alike, 1 when a single one does. inf where no random number was drawn.
        """
        if not self.random:
            return np.inf
        square, fourth = float(self.scalars["square"].mean()), float(self.scalars["fourth"].mean())
        return self.replicates * square**2 / fourth if fourth > 0 else float(self.replicates)

    @cached_property
    def central_sample(self) -> float:
        """How many draws carry the variance, see `carrying`; inf where no random number was drawn.

        About the mean and not the truth: draws that nearly all sit at one place, off the truth, all err alike.
        """
        return carrying(self.replicates, self.variance, self.kurtosis) if self.random else np.inf

    @cached_property
    def tail(self) -> float:
        """Pareto shape of the tail of `||x - g||`, see `tail_index`."""
        return tail_index(self.largest, self.replicates)

    @property
    def heavy(self) -> bool:
        """Whether the variance of one draw may be infinite, see `tail.heavy`."""
        few = self.effective_sample < ENOUGH  # known at less cost than the tail
        return few and heavy(self.tail, self.replicates, self.effective_sample)

    @property
    def gate(self) -> float:
        """The n_eff that a claim needs."""
        return GATE if self.dimension == 1 else WIDE_GATE

    @property
    def decidable(self) -> bool:
        """Whether tests and intervals may lead to a claim.

        Needs 8 paired batches, n_eff >= 30 (several coordinates: 100), 30 draws that carry the variance, as many of the
        truth, and a variance that can be estimated: else a few rare draws carry the error, and batch means are neither
        symmetric nor nearly normal. A deterministic group needs none of these; constant draws of a random estimator
        that are off the truth never decide.
        """
        carried = min(self.central_sample, self.truth_sample) >= GATE and self.effective_sample >= self.gate
        enough = self.pairing.batches >= FEWEST_BATCHES and carried
        return self.deterministic or (enough and not self.constant and not self.heavy)


def carrying(draws: int, variance: Array, kurtosis: Array) -> float:
    """How many of R draws carry the variance: a lower bound for `R (E q)^2 / E q^2`, `q = ||x - E x||^2`.

    By Minkowski's inequality `E q^2 <= (sum_j sqrt(E (x_j - E x_j)^4))^2`, so that it is at least
    `R (sum_j v_j)^2 / (sum_j v_j sqrt(kurtosis_j))^2`; equal in one dimension. R where nothing varies.
    """
    total = float(variance.sum())
    return draws * total**2 / float(variance @ np.sqrt(kurtosis)) ** 2 if total > 0 else float(draws)
