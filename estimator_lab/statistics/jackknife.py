"""Delete-one jackknife over batches: a statistic of all batches, then without each batch in turn."""

import numpy as np
from scipy import special

from estimator_lab.statistics.gram import Array
from estimator_lab.statistics.group import Estimate

# Every function here returns [1 + K]: first the value from all K batches, then the K values that leave one out.
# A statistic is written once, elementwise, on such arrays.


def mean(values: Array) -> Array:
    """[K] -> [1 + K] means."""
    total = values.sum()
    return np.append(total / values.size, (total - values) / (values.size - 1))


def square(matrix: Array) -> Array:
    """[K, K] Gram matrix -> [1 + K] squared norms of the mean vector."""
    k = len(matrix)
    kept = matrix.sum() - matrix.sum(0) - matrix.sum(1) + matrix.diagonal()
    return np.append(matrix.mean(), kept / (k - 1) ** 2)


def product(matrix: Array) -> Array:
    """[K, K] inner products of two families of vectors -> [1 + K] means over pairs of different batches."""
    k, diagonal = len(matrix), matrix.diagonal()
    off = matrix.sum() - diagonal.sum()
    kept = off - matrix.sum(0) - matrix.sum(1) + 2 * diagonal
    return np.append(off / (k * (k - 1)), kept / ((k - 1) * (k - 2)))


def interval(values: Array, level: float, log: bool = False) -> Estimate:
    """Estimate with the interval `h +- t_{K-1} se`, `se^2 = (K-1)/K sum (h_(-k) - h_(.))^2`.

    Args:
        values: [1 + K] statistic.
        level: coverage.
        log: build the interval for the logarithm, for scales; nan unless all values are positive.

    Source: Efron & Stein (1981).
    """
    if log and not (values > 0).all():
        return Estimate(float(values[0]), np.nan, np.nan)
    scaled = np.log(values) if log else values
    k = values.size - 1
    rest = scaled[1:]
    width = np.sqrt((k - 1) / k * ((rest - rest.mean()) ** 2).sum()) * special.stdtrit(k - 1, (1 + level) / 2)
    ends = np.array([scaled[0] - width, scaled[0] + width])
    low, high = np.exp(ends) if log else ends
    return Estimate(float(values[0]), float(low), float(high))
