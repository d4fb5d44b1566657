"""Adjustment of p-values for the number of tests."""

from collections.abc import Sequence

import numpy as np

from estimator_lab.statistics.gram import Array


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given.

    Rejecting where the result is at most alpha keeps the chance of any false rejection at alpha, whatever the
    dependence between the tests: `max_{j <= i} min(1, (n - j + 1) p_(j))`.

    Source: Holm (1979).

    Raises:
        ValueError: a p-value is outside [0, 1] or nan.
    """
    values = _checked(p)
    order = np.argsort(values, kind="stable")
    steps = np.minimum(values[order] * np.arange(values.size, 0, -1), 1.0)
    adjusted = np.empty_like(values)
    adjusted[order] = np.maximum.accumulate(steps)
    return [float(value) for value in adjusted]


def benjamini_hochberg(p: Sequence[float] | Array) -> Array:
    """[n] step-up adjusted p-values of Benjamini and Hochberg, in the order given.

    Rejecting where the result is at most q keeps the expected share of false rejections among all (FDR) at q, for
    independent tests and for positively dependent ones (Benjamini & Yekutieli 2001): `min_{j >= i} n p_(j) / j`.

    Cost: O(n log n).

    Source: Benjamini & Hochberg (1995).

    Raises:
        ValueError: a p-value is outside [0, 1] or nan.
    """
    values = _checked(p)
    order = np.argsort(values, kind="stable")
    steps = values[order] * values.size / np.arange(1, values.size + 1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum.accumulate(steps[::-1])[::-1]  # the last step is the largest p, at most 1
    return adjusted


def _checked(p: Sequence[float] | Array) -> Array:
    values = np.asarray(p, dtype=np.float64)
    wrong = ~((values >= 0) & (values <= 1))
    if wrong.any():
        raise ValueError(f"p-values must lie in [0, 1], got {values[wrong][:5].tolist()}")
    return values
