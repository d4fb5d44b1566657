"""Problems that estimators are tried on: few units, chosen so that mistakes show."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from estimator_lab.families import (
    AdditiveNoise,
    Bernoulli,
    Categorical,
    Deterministic,
    Dropout,
    Family,
    NoisySigmoid,
    Normal,
    RectifiedLogistic,
    RectifiedNormal,
    StochasticTimesSmooth,
)
from estimator_lab.problem import Problem
from estimator_lab.site import SiteSpec
from estimator_lab.small import numbers
from estimator_lab.truth import Truth

LAWS: tuple[Family, ...] = (
    Bernoulli(),
    Categorical(3),
    Normal(),
    AdditiveNoise(),
    Dropout(0.3),
    NoisySigmoid(),
    RectifiedNormal(),
    RectifiedLogistic(),
    StochasticTimesSmooth(),
    Deterministic(),
)
"""One law of every kind, those that most estimators are for first."""


def pattern(start: int, count: int, dtype: torch.dtype) -> Tensor:
    """Fixed numbers without symmetry, between -1 and 1."""
    index = torch.arange(start, start + count, dtype=torch.float64)
    return (1.7 * index + 0.11 * index.square()).sin().to(dtype)


@dataclass(frozen=True)
class Point(Problem):
    """Layers of given laws, a first theta that is typed in, and a loss of a given kind.

    With y the units' numbers in the last layer and s = v . y the loss is ``scale (l(s, y) + level)``: "additive" s,
    "quadratic" (s - 0.35)^2 + 0.6 y_1 y_n, "smooth" cos(1.3 s + 0.4) + exp(s / 2) / 3, "kinked"
    |s - 0.2| + max(0, y_1 + y_n - 0.9) / 2, "constant" |v|^2. With several layers |theta_1|^2 / 10 is added, which
    counts directly. Later thetas are linear in the numbers of the layer before. Example i has the first theta times
    ``inputs[i]``: with the inputs 1, 0.4 and 0 the units are unequal and symmetric at once, and do not
    cancel in the gradient of a weight.

    ``scale`` and ``level`` are no part of the repr, so that what is drawn does not depend on them.
    """

    name: str
    families: tuple[Family, ...]
    units: tuple[int, ...]
    first: tuple[float, ...]
    kind: Literal["additive", "quadratic", "smooth", "kinked", "constant"] = "quadratic"
    inputs: tuple[float, ...] = (1.0,)
    level: float = 0.0
    scale: float = 1.0
    dtype: torch.dtype = field(default=torch.float64, repr=False)

    @property
    def batch(self) -> int:  # type: ignore[override]
        """One example for each input."""
        return len(self.inputs)

    @property
    def sites(self) -> tuple[SiteSpec, ...]:  # type: ignore[override]
        """``h1``, ``h2``, .."""
        layers = enumerate(zip(self.families, self.units, strict=True), 1)
        return tuple(SiteSpec(f"h{i}", family, (units,)) for i, (family, units) in layers)

    @property
    def label(self) -> str:
        """Name and laws."""
        return f"{self.name} ({', '.join(map(repr, self.families))})"

    def __repr__(self) -> str:
        return self.label

    def weights(self) -> Mapping[str, Tensor]:
        """The first theta, matrices between layers, and v."""
        found = {"w1": torch.tensor(self.first, dtype=self.dtype)}
        for i, site in enumerate(self.sites[1:], 2):
            shape = (math.prod(site.theta_shape), self.units[i - 2])
            found[f"w{i}"] = 1.5 * pattern(7 * i, math.prod(shape), self.dtype).reshape(shape)
        return {**found, "v": 0.4 + pattern(3, self.units[-1], self.dtype)}

    def theta(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...]) -> Tensor:
        """Linear in the layer before."""
        site = self.sites[len(samples)]
        w = weights[f"w{len(samples) + 1}"]
        if samples:
            theta = (numbers(self.families[len(samples) - 1], samples[-1]) - 0.3) @ w.T
        else:
            theta = torch.tensor(self.inputs, dtype=w.dtype, device=w.device)[:, None] * w
        return theta.reshape(-1, *site.theta_shape)

    def loss(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...], thetas: tuple[Tensor, ...]) -> Tensor:
        """Of the kind that was asked for."""
        y = numbers(self.families[-1], samples[-1])
        s, ends = y @ weights["v"], y[..., 0]
        if self.kind == "quadratic":
            found = (s - 0.35).square() + 0.6 * ends * y[..., -1]
        elif self.kind == "smooth":
            found = (1.3 * s + 0.4).cos() + (s / 2).exp() / 3
        elif self.kind == "kinked":
            found = (s - 0.2).abs() + (ends + y[..., -1] - 0.9).relu() / 2
        elif self.kind == "additive":
            found = s
        else:
            found = weights["v"].square().sum() + 0 * s.detach()
        if len(samples) > 1:
            found = found + 0.1 * thetas[0].flatten(1).square().sum(1)
        return self.scale * (found + self.level)


def _first(family: Family, units: int) -> tuple[float, ...]:
    """A first theta: unequal, one unit at most symmetric."""
    if isinstance(family, Normal):
        return (0.4, -0.3, -0.9, 0.2, 0.1, -0.6)[: 2 * units]
    size = units * math.prod(family.theta_shape)
    return tuple((1.6 * pattern(5, size, torch.float64)).tolist())


def layers(family: Family, units: tuple[int, ...], inputs: tuple[float, ...], name: str = "two layers") -> Point:
    """Layers of one law."""
    kind: Literal["quadratic", "smooth"] = "smooth" if isinstance(family, Normal) else "quadratic"
    return Point(name, (family,) * len(units), units, _first(family, units[0]), kind, inputs, level=0.8)


@lru_cache
def points(family: Family) -> tuple[Point, ...]:
    """Where the mean of an estimator is looked at, for one law."""
    own = (family,)
    if isinstance(family, Bernoulli):
        return (
            Point("one unit", own, (1,), (-1.4,)),
            Point("unequal units", own, (3,), (-2.0, 0.3, 1.6), level=1.5),
            Point("saturated units", own, (2,), (5.0, -4.0), "smooth", level=-2.0),
            Point("ties", own, (3,), (0.0, 1.0, -1.0), "smooth", level=0.5),
            Point("black box", own, (2,), (0.7, -1.1), "kinked", level=-1.0),
            Point("additive", own, (2,), (1.2, -0.5), "additive"),
            Point("constant loss", own, (2,), (0.6, -1.9), "constant", level=3.0),
            Point("three examples", own, (1,), (1.7,), "quadratic", (1.0, 0.4, 0.0), level=1.0),
            layers(family, (2, 1), (1.0,)),
            layers(family, (1, 2), (1.0, -0.7), "two layers, two examples"),
            layers(family, (1, 1, 2), (1.0,), "three layers"),
        )
    if isinstance(family, Categorical):
        more = (Categorical(family.classes + 2), Categorical(2))
        return (
            Point("one unit", own, (1,), (-1.0, 0.4, 0.9), "smooth", level=0.5),
            Point("unequal units", own, (2,), (-1.0, 0.4, 0.9, 1.5, 0.0, -0.3), level=1.5),
            Point("saturated units", own, (1,), (6.0, 0.0, -2.0), level=-2.0),
            Point("three examples", own, (1,), (1.1, -0.6, 0.2), "smooth", (1.0, 0.4, 0.0), level=1.0),
            Point("more classes, then two", more, (1, 2), _first(more[0], 1), level=0.5),
        )
    if isinstance(family, Normal):
        return (
            Point("one unit", own, (1,), (0.4, -0.6), "smooth", level=0.5),
            Point("unequal units", own, (2,), (0.4, -0.3, -0.9, 0.7), level=1.5),
            Point("three examples", own, (1,), (0.8, -0.5), "quadratic", (1.0, 0.4, 0.0), level=1.0),
            layers(family, (1, 1), (1.0,)),
        )
    return (
        Point("one unit", own, (1,), _first(family, 1), level=0.5),
        layers(family, (1, 1), (1.0,)),
    )


@lru_cache(maxsize=128)
def truth_of(point: Point) -> Truth:
    """Its exact gradients, found once."""
    return Truth.exact(point)
