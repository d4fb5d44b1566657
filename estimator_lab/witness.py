"""The smallest problem that shows a bias, and the lines that put it into a test."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from estimator_lab import doors
from estimator_lab.conformance.points import LAWS
from estimator_lab.errors import MeasurementError, NotConverged, TooLarge
from estimator_lab.estimator import Estimator
from estimator_lab.expectation import exact_group_statistics, expectation
from estimator_lab.families import Bernoulli, Family
from estimator_lab.measurement import prepare
from estimator_lab.moments import Array
from estimator_lab.site import SiteSpec
from estimator_lab.small import SmallProblem
from estimator_lab.truth import Truth

LIMIT = 2**14
"""Outcomes that an exact mean is summed over, at most."""

SHAPES = ((1,), (2,), (3,), (1, 1), (1, 2), (2, 1))
"""Units of the layers that are tried."""


@dataclass(frozen=True)
class Witness:
    """A problem on which the mean of an estimator is not the gradient, exactly.

    Attributes:
        estimator: whose mean it is.
        problem: the smallest.
        site: where the bias is largest.
        truth: gradient there, flat.
        mean: expectation of the estimate there; nan where it has none, or where replicates depend on each other.
    """

    estimator: Estimator
    problem: SmallProblem
    site: str
    truth: Array
    mean: Array

    @property
    def code(self) -> str:
        """A test in Python that fails as long as the bias is there."""
        kind = type(self.estimator)
        name = re.sub(r"(?<!^)(?=[A-Z][a-z])", "_", kind.__name__.lstrip("_")).lower()
        home = kind.__module__
        own = f"from {home} import {kind.__qualname__}" if home != "__main__" else f"# {kind.__qualname__} as above"
        lines = [
            "import estimator_lab as lab",
            own,
            "",
            "",
            f"def test_{name}_is_unbiased():",
            f"    # the gradient at {self.site} is {_shown(self.truth)}, the mean of the estimate {_shown(self.mean)}",
            f"    problem = lab.{self.problem!r}",
            f'    assert lab.diagnose({self.estimator!r}, on=problem, budget=4096).status != "violated"',
        ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<Witness against {self.estimator!r}: {self.problem!r}>"


def _shown(numbers: Array) -> str:
    return f"[{', '.join(f'{x:.4g}' for x in numbers)}]"


def _problems(family: Family) -> Iterator[SmallProblem]:
    """From small to large: random numbers, then layers, then the degree of the loss."""
    every = [SmallProblem(u, d, n, family) for u in SHAPES for d in (1, 2, 3) for n in (1, 2)]
    yield from sorted(every, key=lambda p: (sum(p.units) * p.examples, len(p.units), p.examples, p.degree))


def smallest_witness(estimator: Estimator) -> Witness | None:
    """The smallest problem that refutes an estimator's claim, exactly; None if none of those tried does.

    Problems have one to three units in one or two layers, one or two examples and a loss of degree one to three,
    Bernoulli units first. They are tried from small to large: the first whose exact mean is not the exact gradient
    is the smallest. Where random numbers cannot be summed, a problem is passed over. Equal estimators have equal
    witnesses.

    Args:
        estimator: any that does not declare a bias.

    Cost: 0.05 s for each problem tried, of 36 for every law.
    """
    estimator = doors.an_estimator(estimator, "smallest_witness(estimator)")
    if estimator.unbiased is False:
        return None
    families = [f for f in LAWS if not estimator.refuses(SiteSpec("h1", f, (1,)))]
    for family in sorted(families[:3], key=lambda f: not isinstance(f, Bernoulli)):
        for problem in _problems(family):
            if found := _refuted(estimator, problem):
                return found
    return None


def _refuted(estimator: Estimator, problem: SmallProblem) -> Witness | None:
    truth = Truth.exact(problem, ("unit",)).mean
    try:
        measurement = prepare(problem, estimator, wrt=("unit",), reference=truth)
        known = expectation(measurement, LIMIT)
    except (TooLarge, NotConverged):
        return None
    except MeasurementError:  # there is no mean
        site = problem.sites[0].name
        target = np.asarray(truth["unit", site]).ravel()
        return Witness(estimator, problem, site, target, np.full(len(target), np.nan))
    if known is None:
        return None
    worst: tuple[float, str] | None = None
    for key, target in truth.items():
        found, word = exact_group_statistics(known, key, target.ravel())
        if word != "exact" and (worst is None or found["bias"] > worst[0]):
            worst = found["bias"], key[1]
    if worst is None:
        return None
    site = worst[1]
    target = np.asarray(truth["unit", site]).ravel()
    return Witness(estimator, problem, site, target, known.group(("unit", site), target).mean)
