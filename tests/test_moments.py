"""Moments and batch means against exact arithmetic, and under any split."""

import itertools
import math
from fractions import Fraction
from functools import reduce
from operator import add

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from estimator_lab.moments import BATCHES, Batches, Moments

repeatable = settings(derandomize=True, deadline=None, max_examples=60)


def draws(count: int, width: int = 3, mean: float = 0.0, spread: float = 1.0, seed: int = 5) -> torch.Tensor:
    """Skew draws around a mean."""
    generator = torch.Generator().manual_seed(seed)
    return mean + spread * torch.empty(count, width, dtype=torch.float64).exponential_(generator=generator)


def in_fractions(x: np.ndarray, w: np.ndarray | None = None) -> tuple[float, float, float]:
    """Mean and central sums of one column without any rounding."""
    values = [Fraction(float(v)) for v in x]
    weights = [Fraction(float(v)) for v in w] if w is not None else [Fraction(1)] * len(values)
    mean = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
    sums = (sum(w * (v - mean) ** k for w, v in zip(weights, values, strict=True)) for k in (2, 3, 4))
    return float(mean), *map(float, sums)


def parts_of(total: int, cuts: list[int]) -> list[slice]:
    edges = sorted({0, total, *(c % (total + 1) for c in cuts)})
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


def assert_close(found: Moments, x: torch.Tensor, w: torch.Tensor | None, rtol: float) -> None:
    for d in range(x.shape[1]):
        mean, m2, m3, m4 = in_fractions(x[:, d].numpy(), None if w is None else w.numpy())
        np.testing.assert_allclose(found.mean[d], mean, rtol=1e-15)
        np.testing.assert_allclose(found.m2[d], m2, rtol=rtol)
        np.testing.assert_allclose(found.m3[d], m3, rtol=10 * rtol)
        np.testing.assert_allclose(found.m4[d], m4, rtol=10 * rtol)


@pytest.mark.parametrize(("mean", "rtol"), [(0.0, 1e-13), (1e3, 1e-12), (1e6, 1e-9), (-1e6, 1e-9)])
def test_nothing_cancels_at_a_large_mean(mean, rtol):
    """Means are rounded to 1e-16 of themselves, so that at mean / deviation = 1e6 deviations are good to 1e-10."""
    x = draws(400, mean=mean)
    assert_close(Moments.of(x), x, None, rtol)
    assert_close(reduce(add, [Moments.of(x[i : i + 25]) for i in range(0, 400, 25)]), x, None, rtol)


def test_weighted():
    x, w = draws(200, mean=3.0), draws(200, 1, seed=9)[:, 0]
    found = Moments.of(x, w)
    np.testing.assert_allclose(found.weight, math.fsum(w.tolist()), rtol=1e-14)
    assert_close(found, x, w, 1e-12)
    assert_close(Moments.of(x[:70], w[:70]) + Moments.of(x[70:], w[70:]), x, w, 1e-12)
    # a whole weight is as many draws
    twice = Moments.of(x.repeat_interleave(2, 0))
    np.testing.assert_allclose(Moments.of(x, torch.full((200,), 2.0, dtype=torch.float64)).m3, twice.m3, rtol=1e-12)


def test_weights_that_sum_to_one_give_the_variance_itself():
    x, w = draws(50), draws(50, 1, seed=9)[:, 0]
    found = Moments.of(x, w / w.sum())
    np.testing.assert_allclose(found.variance, found.m2, rtol=1e-15)
    np.testing.assert_allclose(Moments.of(x).variance, x.numpy().var(0, ddof=1), rtol=1e-13)


def test_weights_may_be_zero():
    x, w = draws(50), torch.arange(50, dtype=torch.float64) % 2
    np.testing.assert_allclose(Moments.of(x, w).m2, Moments.of(x[1::2]).m2, rtol=1e-12)


@pytest.mark.parametrize("mean", [0.0, 1e6])
def test_skewness_is_that_of_scipy(mean):
    x = draws(5000, mean=mean)
    np.testing.assert_allclose(Moments.of(x).skewness, stats.skew(x.numpy(), axis=0), rtol=1e-12 if mean == 0 else 1e-7)
    split = reduce(add, [Moments.of(part) for part in x.split(700)])
    np.testing.assert_allclose(split.skewness, stats.skew(x.numpy(), axis=0), rtol=1e-11 if mean == 0 else 1e-7)


def test_constants_have_no_skewness():
    found = Moments.of(torch.full((10, 2), 1e6 + 0.1, dtype=torch.float64))
    assert (found.m2 == 0).all() and (found.skewness == 0).all() and (found.variance == 0).all()


@repeatable
@given(st.lists(st.integers(0, 300), max_size=12), st.sampled_from([0.0, 1e6]))
def test_moments_merge_under_any_split(cuts, mean):
    x = draws(300, mean=mean)
    whole, rtol = Moments.of(x), 1e-12 if mean == 0 else 1e-8
    parts = [Moments.of(x[part]) for part in parts_of(300, cuts)]
    left = reduce(add, parts)
    right = reduce(lambda a, b: b + a, reversed(parts))
    for merged in (left, right):
        assert merged.weight == 300
        np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-14)
        np.testing.assert_allclose(merged.m2, whole.m2, rtol=rtol)
        np.testing.assert_allclose(merged.m3, whole.m3, rtol=10 * rtol)
        np.testing.assert_allclose(merged.m4, whole.m4, rtol=10 * rtol)


def test_single_precision_draws_are_summed_in_double():
    x = draws(1000).float()
    assert_close(Moments.of(x), x.double(), None, 1e-13)


def test_some_coordinates():
    found = Moments.of(draws(20))[1:]
    assert len(found.mean) == len(found.m2) == len(found.m3) == 2 and found.weight == 20


# ---------------------------------------------------------------------- batches
def batches(x: torch.Tensor, part: slice) -> Batches:
    """Of the leaves of a part, in the largest aligned powers of two that fit, as blocks are."""
    found, start = [], part.start
    while start < part.stop:
        size = 1
        while start % (2 * size) == 0 and start + 2 * size <= part.stop:
            size *= 2
        found.append(Batches.of(x[start : start + size], start))
        start += size
    return reduce(add, found)


def same(a: Batches, b: Batches) -> bool:
    pairs = list(zip(a, b, strict=True))
    return a.leaves == b.leaves and all(k == m and u.tobytes() == v.tobytes() for (k, u), (m, v) in pairs)


@repeatable
@given(st.integers(1, 500), st.lists(st.integers(0, 500), max_size=20), st.randoms(use_true_random=False))
def test_batches_are_canonical_under_any_split(leaves, cuts, random):
    """To the byte, and in any order of merging."""
    x = draws(leaves, 2)
    whole = batches(x, slice(0, leaves))
    parts = [batches(x, part) for part in parts_of(leaves, cuts)]
    assert same(reduce(add, parts), whole)
    random.shuffle(parts)
    assert same(reduce(add, parts), whole)
    while len(parts) > 1:  # as a random tree
        b, a = parts.pop(random.randrange(len(parts))), parts.pop(random.randrange(len(parts)))
        parts.append(a + b)
    assert same(parts[0], whole)


@pytest.mark.parametrize("leaves", [1, 31, 32, 33, 63, 64, 65, 95, 127, 128, 130, 1000, 4096, 5001])
def test_batches_are_means_of_contiguous_draws(leaves):
    x = draws(leaves, 2)
    found = batches(x, slice(0, leaves))
    means = found.means()
    per = 1 << found.level
    assert len(means) == leaves // (1 << found.level)
    if leaves >= BATCHES:
        assert BATCHES <= len(means) < 2 * BATCHES
    else:
        assert len(means) == leaves
    expected = x[: len(means) * per].reshape(len(means), per, 2).mean(1)
    np.testing.assert_allclose(means, expected, rtol=1e-13)
    # the nodes cover every leaf once
    covered = np.concatenate([np.arange(j << level, (j + 1) << level) for (level, j), _ in found])
    assert sorted(covered) == list(range(leaves))
    weighted = sum(mean * (1 << level) for (level, _), mean in found) / leaves
    np.testing.assert_allclose(weighted, x.mean(0), rtol=1e-12)


def test_batches_stay_few():
    """Memory grows with the logarithm of the number of leaves only."""
    found = Batches.of(draws(32), 0)
    for block in range(1, 400):
        found = found + Batches.of(draws(32, seed=block), block * 32)
        assert len(found.nodes) < 2 * BATCHES + 14
        assert BATCHES <= len(found.means()) < 2 * BATCHES
