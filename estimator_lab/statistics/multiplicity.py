"""Adjustment of p-values for the number of tests."""

from collections.abc import Sequence

import numpy as np


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given.

    Rejecting where the result is at most alpha keeps the chance of any false rejection at alpha, whatever the
    dependence between the tests: `max_{j <= i} min(1, (n - j + 1) p_(j))`.

    Source: Holm (1979).

    Raises:
        ValueError: a p-value is outside [0, 1] or nan.
    """
    values = np.asarray(p, dtype=np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"p-values must lie in [0, 1], got {list(p)}")
    order = np.argsort(values, kind="stable")
    steps = np.minimum(values[order] * np.arange(values.size, 0, -1), 1.0)
    adjusted = np.empty_like(values)
    adjusted[order] = np.maximum.accumulate(steps)
    return [float(value) for value in adjusted]
