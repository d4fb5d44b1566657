"""Ratio of the variances of two estimators, from draws with the same random numbers or with others."""

import numpy as np
from scipy import special

from estimator_lab.statistics import jackknife
from estimator_lab.statistics.gram import Array
from estimator_lab.statistics.group import Estimate


def variance_ratio(a: Array, b: Array, paired: bool, level: float = 0.95) -> Estimate:
    """`tr Sigma_a / tr Sigma_b` with an interval for its logarithm.

    Paired: delete-one jackknife of `log a - log b`, leaving out the same batch of both. What the estimators have in
    common through their random numbers cancels; the interval is right also if they have nothing in common.
    Unpaired: the squared jackknife errors of both logarithms add up, Welch's degrees of freedom.

    Args:
        a: [1 + K] variance from all batches, then without each in turn (`estimands.spread`); [1] if known exactly.
        b: [1 + L] the same; the denominator.
        paired: whether batch k of both comes from the same random numbers; needs K = L.
        level: coverage.

    Returns:
        nan where a variance is not positive.

    Cost: O(K). Source: Efron & Stein (1981); Welch (1947).

    Raises:
        ValueError: paired, and of different lengths.
    """
    if a.size == b.size == 1 and a[0] == 0 < b[0]:
        return Estimate(0.0, 0.0, 0.0)
    if not (a > 0).all() or not (b > 0).all():
        value = float(a[0] / b[0]) if b[0] > 0 else np.nan
        return Estimate(value, np.nan, np.nan)
    if paired and a.size > 1 and b.size > 1:
        if a.size != b.size:
            raise ValueError(f"paired batches must be equally many, got {a.size - 1} and {b.size - 1}")
        return jackknife.interval(a / b, level, log=True)
    parts = [(_squared_error(np.log(x)), x.size - 2) for x in (a, b) if x.size > 1]
    total = sum(square for square, _ in parts)
    ratio = float(a[0] / b[0])
    if total == 0:
        return Estimate(ratio, ratio, ratio)
    freedom = total**2 / sum(square**2 / df for square, df in parts)
    width = float(np.sqrt(total) * special.stdtrit(freedom, (1 + level) / 2))
    return Estimate(ratio, ratio * np.exp(-width), ratio * np.exp(width))


def _squared_error(values: Array) -> float:
    rest = values[1:]
    return float((rest.size - 1) * rest.var())
