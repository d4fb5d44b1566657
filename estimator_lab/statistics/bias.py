"""How large is the norm of a mean: interval, equivalence, and what a study can resolve."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import optimize, special, stats

from estimator_lab.statistics.gram import Array, Gram
from estimator_lab.statistics.group import FEWEST_BATCHES, Group

TRUTH_SHARE = 0.1


@dataclass(frozen=True)
class NormLaw:
    """Law of `n = ||mean D||^2` when the mean has norm `beta` (rule B).

    One direction, along b, is kept exactly, the rest is a scaled chi-square with matched mean and variance:
    `n = (beta + sqrt(rho) t_{K-1})^2 + Rem`, `E Rem = tr Omega - rho`, `Var Rem = 2 (tr Omega^2 - rho^2) K/(K-1)`.
    In one dimension Rem = 0, which gives the t interval.

    Args:
        trace: `tr Omega`.
        trace2: `tr Omega^2`.
        rho: plausible largest variance along b.
        freedom: K - 1.
    """

    trace: float
    trace2: float
    rho: float
    freedom: int

    def below(self, n: float, beta: float) -> float:
        """`P_beta(||mean D||^2 <= n)`, falling in beta. Cost: one quadrature of 241 nodes."""
        mean = self.trace - self.rho
        variance = 2 * (self.trace2 - self.rho**2) * (1 + 1 / self.freedom)
        deviation = np.sqrt(self.rho)
        if mean <= 1e-6 * self.trace or variance <= 1e-12 * self.trace**2:
            root = np.sqrt(max(n, 0.0))
            ends = special.stdtr(self.freedom, np.array([root - beta, -root - beta]) / deviation)
            return float(ends[0] - ends[1])
        nodes, weights = _nodes(self.freedom)
        rest = (n - (beta + deviation * nodes) ** 2) * 2 * mean / variance
        return float(weights @ special.gammainc(mean**2 / variance, np.maximum(rest, 0.0) / 2))


@lru_cache(maxsize=256)
def _nodes(freedom: int) -> tuple[Array, Array]:
    x = np.linspace(-1.0, 1.0, 241)
    nodes = 9 * x / (1 - 0.55 * x**2)  # out to 20 standard errors, finer in the middle
    weights = stats.t.pdf(nodes, freedom) * np.gradient(nodes)
    return nodes, weights / weights.sum()


def norm_interval(gram: Gram, low_alpha: float, high_alpha: float) -> tuple[float, float]:
    """Interval for `||b||` that inverts `NormLaw.below`; each end misses with at most its own alpha.

    Both ends equal `||mean D||` when the batches do not scatter.
    """
    trace, trace2, rho = gram.spectrum
    n = max(gram.square, 0.0)
    if trace <= 0:
        return float(np.sqrt(n)), float(np.sqrt(n))
    law = NormLaw(trace, trace2, rho, gram.batches - 1)
    top = np.sqrt(n) + 12 * np.sqrt(trace)
    while law.below(n, top) > min(high_alpha, 1 - low_alpha):
        top *= 2

    def solve(level: float) -> float:
        if law.below(n, 0.0) <= level:
            return 0.0
        return float(optimize.brentq(lambda beta: law.below(n, beta) - level, 0.0, top, xtol=1e-7 * top))

    return solve(1 - low_alpha), solve(high_alpha)


def bias_interval(group: Group, low_alpha: float, high_alpha: float) -> tuple[float, float]:
    """Interval for the norm of the bias, same unit as the gradient.

    `P(bias < low) <= low_alpha`, `P(bias > high) <= high_alpha`, widened by `group.floor` for rounding. A group without
    noise gets the difference itself, give or take rounding, or `(0, floor)` when it equals the truth.
    nan below 8 paired batches, and where random draws are all alike and off the truth. Conservative when the bias
    avoids the noisiest directions.
    """
    if group.deterministic:
        if group.exact:
            return 0.0, group.floor
        gap, floor = np.abs(group.mean - group.truth_mean), group.coordinate_floor
        return float(np.linalg.norm(np.maximum(gap - floor, 0.0))), float(np.linalg.norm(gap + floor))
    if group.pairing.batches < FEWEST_BATCHES or group.constant:
        return np.nan, np.nan
    low, high = norm_interval(group.pairing.difference, low_alpha, high_alpha)
    return max(low - group.floor, 0.0), high + group.floor


def truth_norm(group: Group) -> float:
    """`||g||`, debiased when the truth is noisy; 0 when that is rounding or negative, nan from a single batch."""
    if not noisy(group):
        norm = float(np.linalg.norm(group.truth_mean))
        return norm if norm > group.floor else 0.0
    if group.pairing.batches < 2:
        return np.nan
    return float(np.sqrt(max(group.pairing.truth.debiased, 0.0)))


def truth_interval(group: Group, low_alpha: float, high_alpha: float) -> tuple[float, float]:
    """Interval for `||g||`; a single number when the truth is exact."""
    if not noisy(group):
        return truth_norm(group), truth_norm(group)
    if group.pairing.batches < FEWEST_BATCHES:
        return np.nan, np.nan
    return norm_interval(group.pairing.truth, low_alpha, high_alpha)


def relative_bias_interval(group: Group, low_alpha: float, high_alpha: float) -> tuple[float, float]:
    """Interval for `||b|| / ||g||`; nan where `||g||` may be 0.

    With a noisy truth a tenth of each alpha is spent on the bound for `||g||`.
    """
    share = TRUTH_SHARE if noisy(group) else 0.0
    low, high = bias_interval(group, (1 - share) * low_alpha, (1 - share) * high_alpha)
    shortest, longest = truth_interval(group, share * high_alpha, share * low_alpha)
    return low / longest if longest > 0 else np.nan, high / shortest if shortest > 0 else np.nan


def equivalent(group: Group, margin: float, alpha: float) -> bool:
    """Whether "the bias is at least `margin * ||g||`" is rejected at level alpha: the only way to be called unbiased.

    With a noisy truth the margin is relative to a lower bound of `||g||` that spends a tenth of alpha. False when the
    group is not decidable (few batches, rare draws) or when `||g||` may be 0, where no relative margin exists.
    """
    if not group.decidable:
        return False
    share = TRUTH_SHARE if noisy(group) else 0.0
    shortest, _ = truth_interval(group, share * alpha, share * alpha)
    if not shortest > 0:
        return False
    if group.deterministic:
        return bias_interval(group, alpha, alpha)[1] < margin * shortest
    gram = group.pairing.difference
    inside = margin * shortest - group.floor
    trace, trace2, rho = gram.spectrum
    if inside <= 0 or trace <= 0:
        return inside > 0 and gram.square < inside**2
    return NormLaw(trace, trace2, rho, gram.batches - 1).below(gram.square, inside) < (1 - share) * alpha


def detectable(group: Group, alpha: float, power: float) -> float:
    """Smallest relative bias that `test_unbiased` at level alpha would have found with the given power.

    The debiased square U has mean `beta^2` and variance `4 beta^2 rho + 2 tr Omega^2`; it is significant above
    `a = c (chi2_{v, 1-alpha} - v)`, `c = tr Omega^3 / tr Omega^2`, `v = (tr Omega^2)^3 / (tr Omega^3)^2`.
    nan when the group is not decidable or `||g||` is 0; the floor when it has no noise.
    """
    if not group.decidable or not (norm := truth_norm(group)) > 0:
        return np.nan
    if group.deterministic:
        return group.floor / norm
    gram = group.pairing.difference
    trace, trace2, rho = gram.spectrum
    if trace <= 0:
        return group.floor / norm
    # power means: (tr O^2)^2 / tr O <= tr O^3 <= (tr O^2)^(3/2)
    trace3 = trace**3 if group.dimension == 1 else float(np.clip(gram.trace3, trace2**2 / trace, trace2**1.5))
    v = trace2**3 / trace3**2
    threshold = trace3 / trace2 * (float(stats.chi2.isf(alpha, v)) - v)
    return (float(np.sqrt(_required(threshold, float(stats.norm.ppf(power)), trace2, rho))) + group.floor) / norm


def replicates_needed(group: Group, margin: float, alpha: float, power: float) -> int:
    """Replicates after which `equivalent(margin, alpha)` holds with the given power if the bias is zero.

    `U < A = z_power sqrt(2 tr Omega^2)` must exclude `margin * ||g||`; Omega falls like 1/R. A Monte Carlo truth is
    taken to grow in proportion. The group's own draws are the pilot. 0 where no relative margin exists (`||g||` is 0 or
    not distinguishable from it), or the pilot has too few batches to plan from; R when no noise was seen.
    """
    if group.constant:
        return group.replicates
    if group.pairing.batches < FEWEST_BATCHES or not (norm := truth_norm(group)) > 0:
        return 0
    _, trace2, rho = group.pairing.difference.spectrum
    threshold = float(stats.norm.ppf(power)) * np.sqrt(2 * trace2)
    square = _required(float(threshold), float(stats.norm.isf(alpha)), trace2, rho)
    return int(np.ceil(group.replicates * square / (margin * norm) ** 2))


def noisy(group: Group) -> bool:
    """Whether the truth has noise that counts."""
    return group.truth_batches is not None and not group.deterministic


def _required(threshold: float, z: float, trace2: float, rho: float) -> float:
    # beta^2 - threshold = z sqrt(4 beta^2 rho + 2 tr Omega^2), solved for beta^2
    middle = threshold + 2 * z**2 * rho
    return float(middle + np.sqrt(max(middle**2 - threshold**2 + 2 * z**2 * trace2, 0.0)))
