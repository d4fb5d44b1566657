"""How heavy the tail of the squared error of one draw is, and so whether its variance can be estimated at all."""

import numpy as np

from estimator_lab.statistics.gram import Array

FEWEST_EXCEEDANCES = 5
RANGE = 1e-6
PRIOR = 10.0
MANY = 1000
ENOUGH = 100.0
LIGHT = 0.25


def tail_index(largest: Array, draws: int) -> float:
    """Pareto shape `k` of the tail of `v = ||x - g||`: moments of v of order below `1/k` are finite.

    The variance is finite where k < 1/2, the variance of its estimate where k < 1/4; k <= 0 is a tail like that of an
    exponential law, or a bounded one.
    The generalised Pareto law `P(v - u > y) = (1 + k y/s)^(-1/k)` is fitted to the M largest draws,
    `M = min(R/5, 3 sqrt R)`, or one less than are kept. The fit takes the posterior mean of `b = -k/s` on a grid, with
    `k = -mean log(1 - b y)` for each; then k is drawn to 1/2 with the weight of 10 draws.

    Args:
        largest: [.] largest values of `v^2`, descending.
        draws: R.

    Returns:
        k; nan where the tail has fewer than 5 draws, -inf where fewer than 5 of them exceed its smallest (by a relative
        1e-6, single precision), as for a law of two values.

    Assumes independent draws. Standard error about `(1 + k)/sqrt M`. Cost: O(M^1.5).

    Source: Zhang & Stephens (2009); the prior for k, Vehtari et al. (2024), Pareto smoothed importance sampling.
    """
    count = int(min(draws / 5, 3 * np.sqrt(draws), largest.size - 1))
    if count < FEWEST_EXCEEDANCES:
        return np.nan
    v = np.sqrt(largest[: count + 1])
    y = v[:count][::-1] - v[count]  # ascending
    y = y[y > RANGE * v[count]]
    return pareto_shape(y) if y.size >= FEWEST_EXCEEDANCES else -np.inf


def pareto_shape(y: Array) -> float:
    """Shape k of a generalised Pareto law from its draws y > 0, ascending: see `tail_index`."""
    n = y.size
    nodes = np.arange(1, 31 + int(np.sqrt(n))) - 0.5
    quartile = y[int(n / 4 + 0.5) - 1]
    b = 1 / y[-1] + (1 - np.sqrt((nodes.size) / nodes)) / (3 * quartile)
    k = np.log1p(-b[:, None] * y).mean(1)
    likelihood = n * (np.log(-b / k) - k - 1)
    weight = np.exp(likelihood - likelihood.max())
    weight = np.where(weight >= 10 * np.finfo(np.float64).eps * weight.sum(), weight, 0.0)
    shape = float(np.log1p(-float(weight @ b / weight.sum()) * y).mean())
    return (n * shape + PRIOR * 0.5) / (n + PRIOR)


def heavy(index: float, draws: int, effective: float = 1.0) -> bool:
    """Whether the variance of one draw may be infinite: tail index above 0.5, or 0.7 below 1000 draws, and n_eff < 100.

    An infinite variance keeps n_eff near 10 however many draws there are; sums of rare events are bounded, with
    n_eff in the hundreds, but come in clumps that read like a tail of any index (0.8 for 30 Bernoulli(0.05), R = 4096).
    Holds for the Pareto law of tail 1.8 with probability 0.65 (R = 1000 or 4096), for Cauchy 0.99. Of laws with a
    finite variance, for none of normal, exponential or rare events, 0.05 of log-normal(1), 0.02 to 0.08 of t with 3
    degrees of freedom, 0.16 to 0.28 of the Pareto law of tail 2.5. False where the index is nan: few draws say nothing.

    Args:
        index: see `tail_index`.
        draws: R.
        effective: n_eff; left out, the index alone decides.
    """
    return index > (0.5 if draws >= MANY else 0.7) and effective < ENOUGH


def largest_share(largest: Array, total: float) -> float:
    """Share of the largest draw in the sum of squared errors, `max q / sum q`; 1/R when all err alike, nan if none do.

    Args:
        largest: [.] largest squared errors, descending.
        total: sum of the squared errors of all draws.
    """
    return float(largest[0]) / total if total > 0 else np.nan
