"""The problems that every estimator of the table has baselines on, written as a user of the package writes a problem.

Chosen for power: few units, unequal probabilities, gradients that are large beside their noise and do not cancel over
the examples, and a bounded loss, so that no tail is heavy. Every law of a layer occurs, in one to three layers.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

import estimator_lab as lab


@dataclass(frozen=True, repr=False)
class Layers(lab.Problem):
    """Layers of given laws, loss ``sin(v . y - t) + |theta_1|^2 / 50`` of the numbers y of all units.

    A unit's number is its value; of a one-hot unit, that of its class. theta_1 is typed in, times the input of the
    example; each later theta is linear in the numbers of the layer before. The last term reaches theta_1 directly.

    Args:
        name: of the problem; with the numbers of the weights, which a baseline keeps, it is the identity.
        families: law of each layer.
        first: theta_1, flat.
        maps: matrix from each layer to the next one's theta, flat.
        v: one number for each unit.
        target: t.
        inputs: one for each example.
        dtype: of the computation.
    """

    name: str
    families: tuple[lab.Family, ...]
    first: tuple[float, ...]
    maps: tuple[tuple[float, ...], ...]
    v: tuple[float, ...]
    target: float
    inputs: tuple[float, ...]
    dtype: torch.dtype = field(default=torch.float64)

    @property
    def label(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"Layers({self.name!r})"

    @property
    def batch(self) -> int:
        return len(self.inputs)

    @property
    def sites(self) -> tuple[lab.SiteSpec, ...]:
        found: list[lab.SiteSpec] = []
        for family, numbers in zip(self.families, (self.first, *self.maps), strict=True):
            before = found[-1].units[0] if found else 1
            units = len(numbers) // before // math.prod(family.theta_shape)
            found.append(lab.SiteSpec(f"h{len(found) + 1}", family, (units,)))
        return tuple(found)

    def weights(self) -> Mapping[str, Tensor]:
        numbers = {"w1": self.first, **{f"w{i}": m for i, m in enumerate(self.maps, 2)}, "v": self.v}
        return {name: torch.tensor(value, dtype=self.dtype) for name, value in numbers.items()}

    def theta(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...]) -> Tensor:
        spec, w = self.sites[len(samples)], weights[f"w{len(samples) + 1}"]
        if samples:
            y = self.numbers(len(samples) - 1, samples[-1])
            theta = y @ w.reshape(-1, y.shape[-1]).T
        else:
            theta = torch.tensor(self.inputs, dtype=w.dtype)[:, None] * w
        return theta.reshape(-1, *spec.theta_shape)

    def loss(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...], thetas: tuple[Tensor, ...]) -> Tensor:
        y = torch.cat([self.numbers(i, value) for i, value in enumerate(samples)], 1)
        return (y @ weights["v"] - self.target).sin() + thetas[0].flatten(1).square().sum(1) / 50

    def numbers(self, layer: int, value: Tensor) -> Tensor:
        shape = self.families[layer].value_shape
        return value @ torch.linspace(-0.4, 1.3, math.prod(shape)).to(value) if shape else value


BIT, CLASS, MASK = lab.Bernoulli(), lab.Categorical(3), lab.StochasticTimesSmooth()
NORMAL, RECTIFIED = (lab.Normal(), lab.AdditiveNoise(0.7)), (lab.RectifiedNormal(0.6), lab.RectifiedLogistic(0.4))
NOISE = lab.Dropout(0.7), lab.NoisySigmoid(0.6), lab.Deterministic()

BITS = Layers("one layer of bits", (BIT,), (-0.8, 0.4, 1.9), (), (0.9, 0.7, 1.2), 0.8, (1.0, 0.5, 0.2))
CHAIN = Layers("two layers of bits", (BIT, BIT), (0.9, -0.3), ((1.6, -0.9),), (0.6, -0.5, 1.2), 0.2, (1.0, 0.4))
CLASSES = Layers("classes", (CLASS, CLASS), (-0.8, 0.4, 1.9), ((-0.6, 0.5, 1.9),), (0.5, 0.8), 0.4, (1.0, 0.4))
NORMALS = Layers("normals", NORMAL, (0.9, -0.7), ((0.6,),), (0.4, 0.6), 0.2, (1.0, 0.8))
RECTIFIERS = Layers("rectifiers", RECTIFIED, (0.9,), ((0.6,),), (0.3, 0.7), 0.5, (1.0, 0.5))
MASKS = Layers("masks", (MASK, MASK), (1.2,), ((1.5,),), (0.5, 0.9), 0.7, (1.0, 0.4))
INJECTED = Layers("noise", NOISE, (0.9,), ((1.2,), (1.5,)), (0.4, 0.6, 1.2), 0.8, (1.0, 0.6))

SUITE = {
    "BITS": BITS,
    "CHAIN": CHAIN,
    "CLASSES": CLASSES,
    "NORMALS": NORMALS,
    "RECTIFIERS": RECTIFIERS,
    "MASKS": MASKS,
    "INJECTED": INJECTED,
}
"""By the names that the command line knows them under, as in ``tests/suite.py:BITS``."""
