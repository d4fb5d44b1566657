"""How large is the norm of a mean: interval, equivalence, and what a study can resolve."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import optimize, special, stats

from estimator_lab.statistics.gram import Array, Gram
from estimator_lab.statistics.group import FEWEST_BATCHES, Group

TRUTH_SHARE = 0.1

LUCK = 0.16
"""A mean smaller than this share of all means without a bias is read as one at that share: noise that happens to cancel
does not resolve a smaller bias (power-constrained limits; Cowan, Cranmer, Gross, Vitells 2011, arXiv:1105.3166)."""


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

    def read(self, n: float) -> float:
        """What an upper limit takes `||mean D||^2` for: n, or if that is smaller by `LUCK` the quantile there."""
        if self.below(n, 0.0) >= LUCK:
            return n
        return float(optimize.brentq(lambda x: self.below(x, 0.0) - LUCK, 0.0, 2 * self.trace, rtol=1e-6))


@lru_cache(maxsize=256)
def _nodes(freedom: int) -> tuple[Array, Array]:
    x = np.linspace(-1.0, 1.0, 241)
    nodes = 9 * x / (1 - 0.55 * x**2)  # out to 20 standard errors, finer in the middle
    weights = stats.t.pdf(nodes, freedom) * np.gradient(nodes)
    return nodes, weights / weights.sum()


def norm_interval(gram: Gram, low_alpha: float, high_alpha: float) -> tuple[float, float]:
    """Interval for `||b||` that inverts `NormLaw.below`; each end misses with at most its own alpha.

    The upper end is constrained by `LUCK`. Both ends equal `||mean D||` when the batches do not scatter.
    """
    return _norm_bound(gram, 1 - low_alpha), _norm_bound(gram, high_alpha)


def _norm_bound(gram: Gram, level: float) -> float:
    """The norm at which so small a mean has this probability."""
    trace, trace2, rho = gram.spectrum
    n = max(gram.square, 0.0)
    if trace <= 0:
        return float(np.sqrt(n))
    law = NormLaw(trace, trace2, rho, gram.batches - 1)
    if level < 0.5:
        n = law.read(n)
    if law.below(n, 0.0) <= level:
        return 0.0
    top = np.sqrt(n) + 12 * np.sqrt(trace)
    while law.below(n, top) > level:
        top *= 2
    # on the scale of normal deviates the probability is nearly linear in beta, and the root is found in few steps
    aim = special.ndtri(level)
    return float(optimize.brentq(lambda beta: _deviate(law.below(n, beta)) - aim, 0.0, top, xtol=1e-6 * top))


def _deviate(probability: float) -> float:
    return float(special.ndtri(min(max(probability, 1e-40), 1 - 1e-15)))


def bias_interval(group: Group, low_alpha: float, high_alpha: float) -> tuple[float, float]:
    """Interval for the norm of the bias, same unit as the gradient.

    `P(bias < low) <= low_alpha`, `P(bias > high) <= high_alpha`, widened by `group.floor` for rounding. A group without
    noise gets the difference itself, give or take rounding, or `(0, floor)` when it equals the truth.
    nan where the group is not decidable: few batches, few draws that carry the error, a variance that cannot be
    estimated, random draws that are all alike and off the truth. Conservative when the bias avoids the noisiest
    directions.
    """
    if group.deterministic:
        if group.exact:
            return 0.0, group.floor
        gap, floor = np.abs(group.mean - group.truth_mean), group.coordinate_floor
        return float(np.linalg.norm(np.maximum(gap - floor, 0.0))), float(np.linalg.norm(gap + floor))
    if not group.decidable:
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
    if group.deterministic:
        return bias_interval(group, alpha, alpha)[1] < margin * truth_norm(group)
    gram, share = group.pairing.difference, TRUTH_SHARE if noisy(group) else 0.0
    trace, trace2, rho = gram.spectrum
    if trace > 0 and gram.square >= (margin * truth_norm(group)) ** 2 + trace:
        return False  # larger than expected of a bias of the margin: spares the bound for ||g||
    shortest = _norm_bound(group.pairing.truth, 1 - share * alpha) if share else truth_norm(group)
    inside = margin * shortest - group.floor
    if not shortest > 0 or inside <= 0 or trace <= 0:
        return shortest > 0 and inside > 0 and gram.square < inside**2
    law = NormLaw(trace, trace2, rho, gram.batches - 1)
    return law.below(law.read(gram.square), inside) < (1 - share) * alpha


def exceeds(group: Group, margin: float, alpha: float) -> bool:
    """Whether "the bias is at most `margin * ||g||`" is rejected at level alpha.

    The same as `relative_bias_interval(group, alpha, alpha)[0] > margin`, without solving for the interval.
    """
    if not group.decidable or group.exact:
        return False
    if group.deterministic:
        return relative_bias_interval(group, alpha, alpha)[0] > margin
    gram, share = group.pairing.difference, TRUTH_SHARE if noisy(group) else 0.0
    trace, trace2, rho = gram.spectrum
    if gram.square <= (margin * truth_norm(group)) ** 2:
        return False  # smaller than the median at a bias of the margin: spares the bound for ||g||
    longest = _norm_bound(group.pairing.truth, share * alpha) if share else truth_norm(group)
    if not longest > 0:
        return False
    outside = margin * longest + group.floor
    if trace <= 0:
        return gram.square > outside**2
    return 1 - NormLaw(trace, trace2, rho, gram.batches - 1).below(gram.square, outside) < (1 - share) * alpha


def detectable(group: Group, alpha: float, power: float) -> float:
    """Smallest relative bias that `test_unbiased` at level alpha would have found with the given power.

    The debiased square U has mean `beta^2` and variance `4 beta^2 rho + 2 tr Omega^2`. Without a bias it is significant
    above `a = c (chi2_{v, 1-alpha} - v)`, `c = tr Omega^3 / tr Omega^2`, `v = (tr Omega^2)^3 / (tr Omega^3)^2`. The
    sign-flip test takes its scale from the products of the batches, `<D_k, D_l>^2`, to which a bias adds: a grows by
    the root of `1 + 2 beta^2 rho / (K tr Omega^2) + beta^4 / (K^2 tr Omega^2)`. The power is that of a t law, whose
    K - 1 degrees of freedom are those of the variances (R - 1 for a single coordinate, where t is also the test).
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
    freedom = group.replicates - 1 if group.dimension == 1 else gram.batches - 1
    threshold = trace3 / trace2 * (float(stats.chi2.isf(alpha, v)) - v)
    z = float(special.stdtrit(freedom, power))
    square = _required(threshold, z, trace2, rho)
    for _ in range(0 if group.dimension == 1 else 10):  # a fixed point: a grows with the bias that it finds
        k = gram.batches
        growth = 1 + 2 * square * rho / (k * trace2) + square**2 / (k**2 * trace2)
        square = _required(threshold * float(np.sqrt(growth)), z, trace2, rho)
    return (float(np.sqrt(square)) + group.floor) / norm


def replicates_needed(group: Group, margin: float, alpha: float, power: float) -> int:
    """Replicates after which `equivalent(margin, alpha)` holds with the given power if the bias is zero.

    The debiased square must be below `A = z_power sqrt(2 tr Omega^2)` for that, and A must exclude `margin * ||g||`.
    The square that a covariance Omega excludes is proportional to it, hence to 1/R; what the noise of the truth takes
    is gone for good. The group's own draws are the pilot. 0 where no number of replicates will do: there is no relative
    margin (`||g||` is 0 or not distinguishable from it), the truth is too noisy (see `truth_needed`), or the pilot has
    too few batches to plan from; R when no noise was seen.
    """
    if group.constant:
        return group.replicates
    if group.pairing.batches < FEWEST_BATCHES or not (norm := truth_norm(group)) > 0:
        return 0
    room = (margin * norm) ** 2 - _truth_square(group, alpha, power)
    own = _resolved(Gram(group.pairing.error, group.dimension), alpha, power)
    return int(np.ceil(group.replicates * own / room)) if room > 0 else 0


def truth_needed(group: Group, margin: float, alpha: float, power: float) -> float:
    """How many times the draws of the truth are needed, if the truth alone keeps `equivalent` from holding; else 1.

    The truth is too noisy for the margin when its covariance takes all of `(margin ||g||)^2`; with as many draws as are
    named it takes half. inf where the truth is not distinguishable from zero.
    """
    if not noisy(group) or group.pairing.batches < FEWEST_BATCHES:
        return 1.0
    if not (norm := truth_norm(group)) > 0:
        return np.inf
    share = _truth_square(group, alpha, power) / (margin * norm) ** 2
    return 2 * share if share >= 1 else 1.0


def _truth_square(group: Group, alpha: float, power: float) -> float:
    return _resolved(group.pairing.truth, alpha, power) if noisy(group) else 0.0


def _resolved(gram: Gram, alpha: float, power: float) -> float:
    """Square of the smallest norm that is excluded with this power if the mean is zero."""
    _, trace2, rho = gram.spectrum
    return _required(
        float(stats.norm.ppf(power)) * float(np.sqrt(2 * trace2)), float(stats.norm.isf(alpha)), trace2, rho
    )


def noisy(group: Group) -> bool:
    """Whether the truth has noise that counts."""
    return group.truth_batches is not None and not group.deterministic


def _required(threshold: float, z: float, trace2: float, rho: float) -> float:
    # beta^2 - threshold = z sqrt(4 beta^2 rho + 2 tr Omega^2), solved for beta^2
    middle = threshold + 2 * z**2 * rho
    return float(middle + np.sqrt(max(middle**2 - threshold**2 + 2 * z**2 * trace2, 0.0)))
