"""Tests of "the bias is zero"."""

import numpy as np
from scipy import stats

from estimator_lab.statistics.gram import Gram, without_diagonal
from estimator_lab.statistics.group import Group
from estimator_lab.statistics.units import t_and_hall


def test_unbiased(group: Group) -> float:
    """p-value of "the mean of the estimator is the truth".

    - All draws alike and an exact truth: 1 if every coordinate agrees up to rounding; else 0 where no random number was
      drawn, and 1 where an event that never showed may carry the difference.
    - Fewer than 8 paired batches, or few draws that carry the error (`Group.decidable`): 1.
    - One coordinate: the larger of the p-values of t and of t after Hall's skewness transformation.
    - Otherwise the cumulant-matched sign-flip test of the paired batches.

    Rounding never reads as bias: the null hypothesis is the ball of radius `group.floor`, by moving the mean towards 0
    by that much. (Adding the floor to the standard errors in quadrature would not do in many dimensions: rounding is
    the same in every batch, so its square adds up over coordinates like a bias, not like noise.)

    Cost: O(K^2 d) once per group.
    """
    if group.deterministic:
        return 1.0 if group.exact else 0.0
    if not group.decidable:
        return 1.0
    return (
        float(t_and_hall(group)[0])
        if group.dimension == 1
        else sign_flip_test(shrunk(group.pairing.difference, group.floor))
    )


test_unbiased.__test__ = False  # type: ignore[attr-defined]  # not a test for pytest to collect


def sign_flip_test(gram: Gram) -> float:
    """Cumulant-matched sign-flip test of a zero mean: closed form, without tuning, for any dimension.

    `T = sum_{k != l} G_kl` has under independent random signs of the batches mean 0 and the exact cumulants
    `k2 = 2 tr O^2`, `k3 = 8 tr O^3` (O: G without diagonal). The law is matched by Pearson's type III,
    `T ~ c (chi2_v - v)`, `c = k3 / 4 k2`, `v = 8 k2^3 / k3^2`. Valid when batch means are symmetric. The smallest
    p-value it can return is about `P(chi2_1 > K)`.

    Source: moments of a randomisation test, Pitman (1937); matching, Zhou et al. (2009).
    """
    off = without_diagonal(gram.matrix)
    scale = float(np.abs(off).max())
    if scale == 0:
        return 1.0
    off /= scale
    product = off @ off
    k2 = 2 * float(np.trace(product))
    k3 = max(8 * float((product * off).sum()), 1e-4 * k2**1.5)
    v = 8 * k2**3 / k3**2
    c = k3 / (4 * k2) if v > 1 else np.sqrt(k2 / 2)
    v = max(v, 1.0)
    return float(stats.chi2.sf(max(float(off.sum()) / c + v, 0.0), v))


def shrunk(gram: Gram, radius: float) -> Gram:
    """Gram matrix after moving the mean vector towards zero by `radius`, at most to zero."""
    norm = np.sqrt(max(gram.square, 0.0))
    s = min(1.0, radius / norm) if norm > 0 else 0.0
    rows = gram.matrix.mean(1)
    return Gram(gram.matrix - s * (rows[:, None] + rows[None, :]) + s**2 * gram.square, gram.dimension)
