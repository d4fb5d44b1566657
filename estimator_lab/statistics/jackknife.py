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
    k, columns = len(matrix), matrix.sum(0)
    total = columns.sum()
    kept = total - columns - matrix.sum(1) + matrix.diagonal()
    return np.append(total / k**2, kept / (k - 1) ** 2)


def product(matrix: Array) -> Array:
    """[K, K] inner products of two families of vectors -> [1 + K] means over pairs of different batches."""
    k, diagonal, columns = len(matrix), matrix.diagonal(), matrix.sum(0)
    off = columns.sum() - diagonal.sum()
    kept = off - columns - matrix.sum(1) + 2 * diagonal
    return np.append(off / (k * (k - 1)), kept / ((k - 1) * (k - 2)))


def interval(values: Array, level: float, log: bool = False, debias: bool = False) -> Estimate:
    """Estimate with the interval `h +- t_{K-1} se`, `se^2 = (K-1)/K sum (h_(-k) - h_(.))^2`.

    Args:
        values: [1 + K] statistic.
        level: coverage.
        log: build the interval for the logarithm, for scales; nan unless all values are positive.
        debias: take `K h - (K - 1) h_(.)` for h, on the same scale; it lacks the bias of order 1/K, whose size is then
            added to the standard error in quadrature.

    Source: Efron & Stein (1981); for the bias, Quenouille (1956).
    """
    if log and not (values > 0).all():
        return Estimate(float(values[0]), np.nan, np.nan)
    scaled = np.log(values) if log else values
    k = values.size - 1
    rest = scaled[1:] - scaled[1:].mean()
    bias = (k - 1) * (scaled[1:].mean() - scaled[0]) if debias else 0.0
    error = np.sqrt((k - 1) / k * (rest @ rest) + bias**2)
    middle, width = scaled[0] - bias, error * special.stdtrit(k - 1, (1 + level) / 2)
    ends = np.array([middle - width, middle, middle + width])
    low, value, high = np.exp(ends) if log else ends
    return Estimate(float(value if debias else values[0]), float(low), float(high))
