"""A fresh sample against a stored one: has the variance risen, has the mean moved? With planned draws and power."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import numpy as np
from scipy import optimize, special, stats

from estimator_lab.statistics.gram import Array, Gram
from estimator_lab.statistics.unbiasedness import shrunk, sign_flip_test

# Two stages: an alarm needs a rejection at the threshold c and another one, at the same c, of a second sample of the
# same size with new random numbers. Each stage then works at a level of 1e-2 to 1e-3, where large-sample laws are good,
# and only a hundredth of the runs pays for the second sample. Both stages share the stored sample, so that their
# deviates are correlated; `threshold` accounts for that.

PILOT = 1.25
"""Factor on the variance of a log-variance that is itself estimated, in planning."""

STAGES = 2
HIGHEST = 37.0
"""Deviate at which probabilities leave the range of floating point."""


# ---------------------------------------------------------------------- thresholds
def correlation(draws: float, stored: float) -> float:
    """`rho = R / (R + R0)`: of two deviates against one stored sample of R0 draws, from R fresh draws each.

    `Cov(X1 - Y, X2 - Y) = Var Y` over `Var X + Var Y`, with variances as `1/R` and `1/R0`.
    """
    return draws / (draws + stored)


def joint_tail(c: float, rho: float) -> float:
    """`P(Z1 > c, Z2 > c)` of standard normal deviates with correlation rho in [0, 1].

    With `Z_i = sqrt(rho) U + sqrt(1 - rho) E_i` it is `E [P(E > (c - sqrt(rho) U) / sqrt(1 - rho))^2]`, a quadrature
    over U by the trapezium rule of 2001 nodes. From a correlation of 0.999 on that of 1 is taken, which is larger.
    """
    if rho > 0.999:
        return float(special.ndtr(-c))
    u = np.linspace(-12.0, 12.0, 2001)
    tail = special.ndtr((np.sqrt(rho) * u - c) / np.sqrt(1 - rho))
    return float(np.exp(-(u**2) / 2) @ tail**2 * (u[1] - u[0]) / np.sqrt(2 * np.pi))


@lru_cache(maxsize=1024)
def threshold(alpha: float, rho: float) -> float:
    """The c with `P(Z1 > c, Z2 > c; rho) = alpha`: both stages exceed it with probability alpha if nothing changed.

    For statistics that are squares of such deviates it is conservative: their correlation is `rho^2`.

    Args:
        alpha: false-alarm rate of both stages together.
        rho: correlation of the stages, see `correlation`; 0 where the stored side has no noise.
    """
    low, high = stats.norm.isf(np.sqrt(alpha)), stats.norm.isf(alpha)
    if high - low < 1e-12:
        return float(low)
    return float(optimize.brentq(lambda c: np.log(max(joint_tail(c, rho), 1e-300) / alpha), low - 1e-9, high + 1e-9))


def deviate(p: float) -> float:
    """The normal deviate z with `P(Z > z) = p`, at most 37."""
    return float(np.clip(-special.ndtri(p), -HIGHEST, HIGHEST))


# ---------------------------------------------------------------------- the variance
@dataclass(frozen=True)
class Spread:
    """A variance as it is compared: on the logarithmic scale, with its error.

    Args:
        value: `tr Sigma` of one draw.
        error: standard error of its logarithm, by the jackknife over batches, and what the mean adds.
        freedom: degrees of freedom of the error, batches less one.
        carried: how many draws carry the variance (n_eff of the squared deviations).
    """

    value: float
    error: float
    freedom: float
    carried: float

    @classmethod
    def of(cls, variances: Array, carried: float, draws: float) -> Self:
        """From the variance of all R draws and without each of K batches in turn, ``[1 + K]``, all positive.

        The mean enters as `-||m||^2 / tr Sigma`, with a variance of at most `2 / R^2`. That is next to nothing, but
        everything where all draws are equally far from their mean, as those of a law of two values of equal chance: the
        jackknife then errs by any factor. It is added in quadrature.
        """
        scaled = np.log(variances[1:])
        count = scaled.size
        error = np.hypot(np.sqrt((count - 1) * scaled.var()), np.sqrt(2) / draws)
        return cls(float(variances[0]), float(error), count - 1, carried)


def rise(fresh: Spread, stored: Spread) -> float:
    """Normal deviate against "the variance has not risen"; large negative values speak for a fall.

    `t = (log V1 - log V0) / sqrt(se0^2 + se1^2)` with Welch's degrees of freedom, by way of its p-value.

    Of heavy tails a rise is claimed too often where both samples are equally long: of log-normal(1), 512 draws in three
    coordinates, with a rate of 1.5e-3 for 1e-3. `Group.decidable` refuses such samples; of those that it lets pass, and
    against a longer stored sample, it is claimed less often than stated.

    Source: Welch (1947); Efron & Stein (1981) for the errors.
    """
    gap = np.log(fresh.value / stored.value)
    total = fresh.error**2 + stored.error**2
    if total == 0:
        return float(np.sign(gap)) * HIGHEST
    freedom = total**2 / (fresh.error**4 / fresh.freedom + stored.error**4 / stored.freedom)
    side = deviate(float(special.stdtr(freedom, -abs(gap) / np.sqrt(total))))
    return side if gap > 0 else -side


# ---------------------------------------------------------------------- the mean
def moved(batches: Array, mean: Array, share: float, floor: float = 0.0) -> float:
    """p-value of "the mean is that of the stored sample", of which only its mean is kept.

    The sign-flip test of vectors `D_k = gap + sqrt(1 + share) r_k`: the gap between both means, and the fresh batches'
    deviations r_k from their own mean, widened by what the stored mean adds to the noise of the gap. If both samples
    have the same covariance up to a factor, the gap has the covariance Omega that the D_k scatter with, and is
    independent of it for normal batch means: the law is that of differences of independent batches. So the stored
    batches are not needed.

    Args:
        batches: ``[K, d]`` means of the fresh sample.
        mean: ``[d]`` of the stored one.
        share: variance of the stored mean over that of the fresh one, `(V0 / R0) / (V1 / R)`.
        floor: norm that rounding explains.

    Cost: O(K^2 d).
    """
    centre = batches.mean(0)
    gap, rest = centre - mean, np.sqrt(1 + share) * (batches - centre)
    along = rest @ gap
    matrix = rest @ rest.T + along[:, None] + along[None, :] + gap @ gap
    return sign_flip_test(shrunk(Gram(matrix, mean.size), floor))


# ---------------------------------------------------------------------- planning
@dataclass(frozen=True)
class Spectrum:
    """Power sums of the eigenvalues of the covariance of one draw, as far as the power against a bias needs them.

    Args:
        trace: `tr Sigma`.
        trace2: `tr Sigma^2`.
        trace3: `tr Sigma^3`.
        along: plausible largest variance along the bias.
    """

    trace: float
    trace2: float
    trace3: float
    along: float

    @classmethod
    def of(cls, gram: Gram, draws: int) -> Self:
        """From the Gram matrix of batch means of so many draws."""
        trace, trace2, along = gram.spectrum
        if trace <= 0:
            return cls(0.0, 0.0, 0.0, 0.0)
        # power means: (tr O^2)^2 / tr O <= tr O^3 <= (tr O^2)^(3/2)
        trace3 = trace**3 if gram.dimension == 1 else float(np.clip(gram.trace3, trace2**2 / trace, trace2**1.5))
        return cls(draws * trace, draws**2 * trace2, draws**3 * trace3, draws * along)


def rise_power(cv2: float, draws: float, stored: float, increase: float, alpha: float, batches: int) -> float:
    """Chance that both stages find a variance that is larger by the share ``increase``, at least.

    Each stage rejects with probability `P(Z > t - log(1 + x) / s)`, `s^2 = 1.25 cv2 (1/R + 1/R0)`, where t is the
    quantile of Student's law at the level of a stage, with Welch's degrees of freedom; both do at least with twice that
    less one.

    Args:
        cv2: `Var q / (E q)^2` of the squared deviation q of one draw: `R0 se^2` of the stored log-variance.
        draws: R, of each stage.
        stored: R0.
        increase: x.
        alpha: false-alarm rate of both stages together.
        batches: K, of a stage and of the stored sample.
    """
    scale = np.sqrt(PILOT * cv2 * (1 / draws + 1 / stored))
    if scale == 0:
        return 1.0
    freedom = (batches - 1) * (1 / draws + 1 / stored) ** 2 / (1 / draws**2 + 1 / stored**2)
    level = float(special.ndtr(-threshold(alpha, correlation(draws, stored))))
    single = float(special.ndtr(np.log1p(increase) / scale + special.stdtrit(float(freedom), level)))
    return max(STAGES * single - 1, 0.0)


def bias_power(spectrum: Spectrum, draws: float, stored: float, bias: float, alpha: float, batches: int) -> float:
    """Chance that both stages of the sign-flip test find a shift of the mean of norm ``bias``, at least.

    The debiased square has mean `beta^2` and variance `4 beta^2 rho + 2 tr Omega^2`, `Omega = Sigma (1/R + 1/R0)`;
    it is significant above the type III quantile, which grows with the bias because the test takes its scale from
    the products of the batches (`estimator_lab.statistics.bias.detectable`).

    Args:
        spectrum: of the covariance of one draw.
        draws: R, of each stage.
        stored: R0; inf where the mean is held against an exact truth.
        bias: beta.
        alpha: false-alarm rate of both stages together.
        batches: K, of a stage.
    """
    if spectrum.trace <= 0:
        return 1.0
    scale = 1 / draws + 1 / stored
    t2, t3, along = spectrum.trace2 * scale**2, spectrum.trace3 * scale**3, spectrum.along * scale
    level = float(special.ndtr(-threshold(alpha, correlation(draws, stored))))
    v = t2 * (t2 / t3) ** 2
    limit = t3 / t2 * (float(stats.chi2.isf(level, v)) - v)
    square = bias**2
    growth = 1 + 2 * square * along / (batches * t2) + square**2 / (batches**2 * t2)
    z = (square - limit * np.sqrt(growth)) / np.sqrt(4 * square * along + 2 * t2)
    return max(STAGES * float(special.stdtr(batches - 1, z)) - 1, 0.0)


def fewest(power: Callable[[float], float], target: float, most: float = 2.0**40) -> float:
    """The fewest draws that have a power, to 0.1 %; inf where none up to ``most`` have it.

    Against a stored sample of R0 draws the power rises with the draws R of a stage, and falls again where R is far
    beyond R0: both stages then have the deviate of the stored sample, and confirm nothing. So the first crossing is
    sought upwards, in steps of a factor of sqrt(2), and then by bisection.
    """
    steps = np.append(np.arange(0.0, np.log(most), np.log(2) / 2), np.log(most))
    first = next((i for i, step in enumerate(steps) if power(float(np.exp(step))) >= target), None)
    if first is None:
        return np.inf
    low, high = float(steps[max(first - 1, 0)]), float(steps[first])
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (low, middle) if power(float(np.exp(middle))) >= target else (middle, high)
    return float(np.ceil(np.exp(high)))
