"""What a baseline keeps of one group of gradients, each number rounded to what its uncertainty supports."""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from estimator_lab.moments import Array
from estimator_lab.statistics import Group
from estimator_lab.statistics.bias import truth_norm
from estimator_lab.statistics.gram import Gram
from estimator_lab.statistics.group import GATE, WIDE_GATE
from estimator_lab.statistics.spread import variances
from estimator_lab.statistics.two_sample import Spectrum, Spread

WIDEST = 256
"""Numbers kept of a mean: itself, or so many random projections of it."""


@dataclass(frozen=True)
class Kept:
    """What a baseline keeps of one group of gradients.

    Attributes:
        name: of the group, as in ``unit h1`` or ``layer h1``.
        size: number of coordinates.
        norm: length of the true gradient; of the mean where the truth is not exact.
        bias: norm of the bias over ``norm``, debiased; nan where the truth is not exact.
        variance: of one draw, summed over the coordinates.
        error: standard error of its logarithm; 0 where all draws are alike, nan where one batch has all that vary.
        freedom: degrees of freedom of that error.
        carried: how many draws carry the variance, at least.
        estimable: whether the draws show the variance to be finite, and well enough.
        spectrum: power sums of the covariance of one draw, from batch means: ``tr S``, ``tr S^2``, ``tr S^3``, largest
            along a bias.
        mean: of the draws, or 256 random projections of it; empty where the mean is held against an exact truth.
    """

    name: str
    size: int
    norm: float
    bias: float
    variance: float
    error: float
    freedom: int
    carried: float
    estimable: bool
    spectrum: tuple[float, float, float, float]
    mean: tuple[float, ...] = ()

    @property
    def spread(self) -> Spread:
        """The variance as it is compared."""
        return Spread(self.variance, self.error, self.freedom, self.carried)

    @property
    def covariance(self) -> Spectrum:
        """The spectrum of the covariance of one draw, with the trace that all draws have.

        That of 32 batch means errs by 25 % in one dimension: of baselines that stated a power of 0.9 for a shift, one
        in twenty had 0.83 or less in three unequal dimensions, and has 0.96 now. Projections have a trace of their own.
        """
        trace, trace2, trace3, along = self.spectrum
        scale = self.variance / trace if trace > 0 and self.size <= WIDEST else 1.0
        return Spectrum(scale * trace, scale**2 * trace2, scale**3 * trace3, scale * along)

    def silence(self, share: float) -> float:
        """Chance that a stage of this share of the draws has too few that carry its error, so that it finds nothing.

        What carries the error of a heavy tail are rare events, whose number has a Poisson law.
        """
        return float(special.pdtr((GATE if self.size == 1 else WIDE_GATE) - 1, share * self.carried))

    @property
    def still(self) -> bool:
        """Whether all draws were alike."""
        return self.error == 0

    def flaw(self, reference: str) -> str:
        """What no baseline with this reference has, in words; empty where nothing is wrong."""
        numbers = (self.norm, self.variance, *self.spectrum, *self.mean)
        positive = self.size > 0 and self.freedom > 0 and self.norm >= 0 and self.variance >= 0
        wrongs = {
            "a number is missing, negative or infinite": not (all(map(math.isfinite, numbers)) and positive),
            "its variance and the error of that do not fit": self.estimable
            and not (0 < self.error < math.inf and self.variance > 0 and self.carried > 0)
            and not (self.error == self.variance == 0),
            "its mean has another length": len(self.mean) != (reference == "baseline") * min(self.size, WIDEST),
        }
        return next((f"{words} in the group {self.name!r}" for words, wrong in wrongs.items() if wrong), "")


def spread_of(group: Group) -> Spread:
    """The variance of a group as it is compared; its error is 0 where all draws are alike, nan if one batch has all."""
    carried = float(min(group.central_sample, group.effective_sample))
    if group.still:
        return Spread(0.0, 0.0, len(group.batches) - 1, carried)
    found = variances(group)
    if not (found > 0).all():
        return Spread(float(found[0]), math.nan, len(group.batches) - 1, carried)
    return Spread.of(found, carried, group.replicates)


def estimable(group: Group) -> bool:
    """Whether a variance may be compared: finite by the look of its tail, and carried by enough draws."""
    return group.still or (group.decidable and spread_of(group).error > 0)


def projected(vectors: Array, name: str) -> Array:
    """``[..., d]`` -> ``[..., min(d, 256)]``: the vectors, or sums with random signs over 256 sets of coordinates.

    Inner products are kept on average over signs and sets, which depend on the name and on d alone.

    Source: Charikar, Chen, Farach-Colton (2002), the count sketch.
    """
    size = vectors.shape[-1]
    if size <= WIDEST:
        return vectors
    seed = int.from_bytes(hashlib.sha256(f"{name} {size}".encode()).digest()[:8], "big")
    bits = np.random.PCG64(seed).random_raw(size)  # the raw stream is the same in every version of numpy
    signs = np.where(bits & 1, 1.0, -1.0)
    order = (bits >> 8) % WIDEST
    rows = [np.bincount(order, row * signs, WIDEST) for row in vectors.reshape(-1, size)]
    return np.array(rows, dtype=np.float64).reshape(*vectors.shape[:-1], WIDEST)


def keep(name: str, group: Group, reference: str, exact: bool) -> Kept:
    """What is kept of a group.

    Args:
        name: of the group.
        group: of the draws.
        reference: "truth" or "baseline": what the mean is held against.
        exact: whether the group's truth is the true gradient.
    """
    spread, held = spread_of(group), reference == "baseline"
    centred = group.batches - (group.mean if held else group.truth)
    vectors = projected(centred, name) if held else centred
    spectrum = Spectrum.of(Gram(vectors @ vectors.T, vectors.shape[1]), group.replicates)
    error = np.sqrt(np.diag(np.atleast_2d(np.cov(vectors.T))) / len(vectors)) if held and len(vectors) > 1 else None
    mean = projected(group.mean, name) if held else np.zeros(0)
    norm = truth_norm(group) if exact else float(np.linalg.norm(group.mean))
    bias = math.sqrt(max(group.pairing.difference.debiased, 0.0)) / norm if exact and norm > 0 else math.nan
    return Kept(
        name=name,
        size=group.dimension,
        norm=float(f"{norm:.6g}"),
        bias=float(f"{bias:.3g}"),
        variance=rounded(spread.value, spread.value * spread.error),
        error=float(f"{spread.error:.3g}"),
        freedom=int(spread.freedom),
        carried=float(f"{spread.carried:.3g}"),
        estimable=estimable(group),
        spectrum=tuple(float(f"{v:.4g}") for v in (spectrum.trace, spectrum.trace2, spectrum.trace3, spectrum.along)),  # type: ignore[arg-type]
        mean=tuple(map(rounded, mean.tolist(), error.tolist())) if error is not None else tuple(mean.tolist()),
    )


def rounded(value: float, error: float) -> float:
    """A number to a tenth of its standard error or less; to nine digits where that is zero.

    The rounding adds less than a thousandth to the square of the error.
    """
    if not error > 0 or value == 0:
        return float(f"{value:.9g}")
    step = math.floor(math.log10(error)) - 1
    return float(f"{round(value, -step):.12g}") if math.isfinite(value) else value
