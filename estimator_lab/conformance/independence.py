"""Whether draws that ought to be independent are: replicates, blocks, examples, units."""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from estimator_lab.conformance.case import Case, Check, NotApplicable, Violation
from estimator_lab.conformance.points import Point, layers
from estimator_lab.conformance.structure import calls, drawn, draws_numbers
from estimator_lab.families import Family

Array = NDArray[np.float64]

COUNT = 2**11
"""Replicates that are compared."""

COORDINATES = 6
"""Coordinates of a gradient that are compared, at most."""


def dependence(a: Array, b: Array) -> float:
    """p-value of "a and b are independent", ``[n]`` each, from pairs that are independent of each other.

    Fisher's exact test on which of them exceed their medians: its false-alarm rate holds for every law.
    """
    high = [_split(x) for x in (a, b)]
    table = [[int(((high[0] == i) & (high[1] == j)).sum()) for j in (False, True)] for i in (False, True)]
    if 0 in np.sum(table, 0) or 0 in np.sum(table, 1):
        return 1.0
    return float(stats.fisher_exact(np.array(table)).pvalue)


def _split(x: Array) -> NDArray[np.bool_]:
    """Above the median; where that leaves none, at it or above."""
    above = x > np.median(x)
    return above if above.any() else x >= np.median(x)


@lru_cache
def _pair(family: Family) -> Point:
    """Two equal examples through two layers."""
    return layers(family, (2, 1) if family.discrete else (1, 1), (1.0, 1.0), "two equal examples")


def _columns(x: torch.Tensor) -> Array:
    """Some coordinates ``[R, C]`` that vary."""
    flat = x.flatten(1).double().numpy()
    varies = np.flatnonzero(np.ptp(flat, axis=0) > 1e-9 * (1 + np.abs(flat).max(initial=0.0)))
    return np.asarray(flat[:, varies[:COORDINATES]])


def _judge(case: Case, pairs: Iterator[tuple[str, Array, Array]]) -> None:
    told = list(pairs)
    if not told:
        raise NotApplicable("its draws do not vary")
    for what, a, b in told:
        p = dependence(a, b)
        if p < case.alpha / len(told):
            raise Violation(f"{what} depend on each other (p = {p:.1e}, Fisher's exact test of {len(a)} pairs)", COUNT)


def replicates_are_independent(case: Case) -> None:
    """Of one block, and of two: neighbours, halves, first and last, and the same place in the next block."""

    def pairs() -> Iterator[tuple[str, Array, Array]]:
        for family in case.families[:1]:
            problem = _pair(family)
            chain = case.chain(problem, ("unit",))
            if not draws_numbers(chain):
                continue
            one, two = (drawn(chain, COUNT, "independent", case.seed, i) for i in (0, 1))
            for site in problem.sites:
                key = ("unit", site.name)
                a, b = one[key][:, 0], two[key][:, 0]
                for x in _columns(a).T:
                    yield f"neighbouring replicates at site {site.name!r}", x[0::2], x[1::2]
                    yield f"neighbouring replicates at site {site.name!r}", x[1:-1:2], x[2::2]
                    yield f"replicates of two halves at site {site.name!r}", x[: COUNT // 2], x[COUNT // 2 :]
                    yield f"mirrored replicates at site {site.name!r}", x[: COUNT // 2], x[COUNT // 2 :][::-1]
                if a.shape == b.shape:
                    for x, y in zip(_columns(a).T, _columns(b).T, strict=False):
                        yield f"two blocks of draws at site {site.name!r}", x, y

    _judge(case, pairs())


def examples_are_independent(case: Case) -> None:
    """Two equal examples have draws of their own."""

    def pairs() -> Iterator[tuple[str, Array, Array]]:
        for family in case.families[:2]:
            problem = _pair(family)
            chain = case.chain(problem, ("unit",))
            if not draws_numbers(chain):
                continue
            found = drawn(chain, COUNT, "examples", case.seed)
            for site in problem.sites:
                x = found["unit", site.name]
                for a, b in zip(_columns(x[:, 0]).T, _columns(x[:, 1]).T, strict=False):
                    yield f"draws of two examples at site {site.name!r}", a, b

    _judge(case, pairs())


def units_are_drawn_independently(case: Case) -> None:
    """The values of the units of one layer, where they vary."""

    def pairs() -> Iterator[tuple[str, Array, Array]]:
        for family in case.families[:2]:
            problem = _pair(family)
            if problem.units[0] < 2 or not draws_numbers(case.chain(problem, ("unit",))):
                continue
            found = calls(case, problem, COUNT)
            value = next(call.passed[0] for call in found if call.site == "h1" and call.passed)
            if value.dim() != 4 + len(family.value_shape):
                continue
            x = value[0, :, 0].reshape(COUNT, 2, -1).double().numpy()
            for c in range(x.shape[-1]):
                if np.ptp(x[:, 0, c]) > 1e-9 and np.ptp(x[:, 1, c]) > 1e-9:
                    yield f"the two {family!r} units of a layer", x[:, 0, c], x[:, 1, c]

    _judge(case, pairs())


INDEPENDENCE = (
    Check("replicates are independent", replicates_are_independent, statistical=True),
    Check("examples are independent", examples_are_independent, statistical=True),
    Check("units are drawn independently", units_are_drawn_independently, statistical=True),
)
