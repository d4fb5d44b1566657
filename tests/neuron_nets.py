"""Small networks of any laws, for tests of what each law promises."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from estimator_lab.families import (
    AdditiveNoise,
    Bernoulli,
    Deterministic,
    Dropout,
    Family,
    NoisySigmoid,
    RectifiedLogistic,
    RectifiedNormal,
    StochasticTimesSmooth,
)
from estimator_lab.problem import Problem
from estimator_lab.site import SiteSpec


@dataclass(frozen=True)
class Layers(Problem):
    """Layers of the given laws, one after the other: theta is linear in the layer before, the loss is not.

    The loss is (v . h - 0.3)^2 + exp(-(h_1 + h_n / 2 - 0.6)^2 / 4) + |theta_1|^2 / 10: units interact, and the first
    theta counts directly. Weights are fixed numbers without symmetry.
    """

    families: tuple[Family, ...]
    units: tuple[int, ...]
    batch: int = 2
    linear: bool = False
    dtype: torch.dtype = field(default=torch.float64, repr=False)

    @property
    def sites(self) -> tuple[SiteSpec, ...]:
        return tuple(
            SiteSpec(f"h{i + 1}", f, (n,)) for i, (f, n) in enumerate(zip(self.families, self.units, strict=True))
        )

    def weights(self) -> Mapping[str, Tensor]:
        sizes, found, at = (3, *self.units), {}, 1
        for i, (before, site) in enumerate(zip(sizes, self.sites, strict=False)):
            shape = (math.prod(site.theta_shape), before)
            index = torch.arange(at, at + math.prod(shape), dtype=torch.float64)
            found[f"w{i + 1}"] = (1.7 * index + 0.11 * index.square()).sin().to(self.dtype).reshape(shape)
            at += math.prod(shape)
        index = torch.arange(at, at + sizes[-1], dtype=torch.float64)
        return {**found, "v": 1.2 * (1.7 * index + 0.11 * index.square()).sin().to(self.dtype)}

    def theta(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...]) -> Tensor:
        w = weights[f"w{len(samples) + 1}"]
        x = samples[-1] if samples else torch.linspace(-1, 1.3, 3 * self.batch, dtype=w.dtype).reshape(self.batch, 3)
        return (x @ w.T).reshape(self.batch, *self.sites[len(samples)].theta_shape)

    def loss(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...], thetas: tuple[Tensor, ...]) -> Tensor:
        h = samples[-1]
        out = h @ weights["v"]
        if self.linear:
            return out
        return (
            (out - 0.3).square()
            + (-(h[:, 0] + 0.5 * h[:, -1] - 0.6).square() / 4).exp()
            + 0.1 * thetas[0].square().sum(-1)
        )


NEURONS: tuple[Family, ...] = (
    AdditiveNoise(0.7),
    NoisySigmoid(0.9),
    Dropout(0.3),
    RectifiedNormal(0.8),
    RectifiedLogistic(0.5),
    StochasticTimesSmooth(),
    StochasticTimesSmooth(mask=1.0),
    Deterministic(),
    Deterministic("rectifier"),
)
"""Every law that has no toy in the package."""

NETS = (
    *(Layers((family,), (3 if family.noise == "uniform" else 2,)) for family in NEURONS),
    Layers((StochasticTimesSmooth(), Bernoulli()), (2, 2)),
    Layers((RectifiedNormal(), StochasticTimesSmooth(mask=1.0), Dropout()), (1, 2, 2)),
    Layers((Bernoulli(), RectifiedLogistic(0.5), Deterministic()), (2, 1, 2)),
)
