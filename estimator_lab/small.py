"""Problems of a few units, in an order of size: where a broken estimator is looked at."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from estimator_lab.errors import UsageError
from estimator_lab.families import Bernoulli, Family, Normal
from estimator_lab.problem import Problem
from estimator_lab.site import SiteSpec

POWERS = (1.0, -0.6, 0.35)
"""Coefficients of s, s^2 and s^3 in the loss."""

LEVEL = 0.5
"""Constant of the loss: without one, a mean that depends on it would not show."""

EXAMPLES = (1.0, -0.6)
"""What the first theta is multiplied by, for each example."""

FIRST = (-1.4, 0.8, 0.3, 1.9, -0.5, 1.1, -0.8, 0.6, 1.5)
"""The first theta: unequal, none at a point of symmetry."""


@dataclass(frozen=True, repr=False)
class SmallProblem(Problem):
    """A few units in one to three layers, and a polynomial of one number as loss.

    With y a unit's value (for one-hot values, a number for each class) and s = v . y in the last layer the loss is
    ``1/2 + s - 0.6 s^2 + 0.35 s^3``, up to the degree that is asked for. The first theta is typed in; later ones are
    linear in the layer before.

    Args:
        units: of each layer.
        degree: of the loss, 1 to 3.
        examples: 1 or 2.
        family: law of all units.

    Raises:
        UsageError: the degree or the number of examples is another.
    """

    units: tuple[int, ...] = (1,)
    degree: int = 1
    examples: int = 1
    family: Family = dataclasses.field(default_factory=Bernoulli)

    foldable = True

    def __post_init__(self) -> None:
        if not (1 <= self.degree <= len(POWERS) and 1 <= self.examples <= len(EXAMPLES) and self.units):
            raise UsageError(
                "a SmallProblem has units, a degree of 1 to 3 and 1 or 2 examples; "
                f"found units={self.units}, degree={self.degree}, examples={self.examples}"
            )

    @property
    def batch(self) -> int:  # type: ignore[override]
        """Number of examples."""
        return self.examples

    @property
    def sites(self) -> tuple[SiteSpec, ...]:  # type: ignore[override]
        """``h1``, ``h2``, .."""
        return tuple(SiteSpec(f"h{i}", self.family, (n,)) for i, n in enumerate(self.units, 1))

    @property
    def label(self) -> str:
        """Size in words."""
        layers = "-".join(map(str, self.units))
        many = "" if self.examples == 1 else f", {self.examples} examples"
        return f"{layers} {type(self.family).__name__}, degree {self.degree}{many}"

    def __repr__(self) -> str:
        shown = [
            f"{f.name}={'lab.' if f.name == 'family' else ''}{value!r}"
            for f in dataclasses.fields(self)
            if (value := getattr(self, f.name)) != (Bernoulli() if f.name == "family" else f.default)
        ]
        return f"SmallProblem({', '.join(shown)})"

    def weights(self) -> Mapping[str, Tensor]:
        """``w1``, the first theta; ``w2`` .., matrices; ``v``."""
        found, gain = {}, 0.4 if isinstance(self.family, Normal) else 1.0  # the last of a Normal's are logarithms
        for i, site in enumerate(self.sites):
            size = math.prod(site.theta_shape)
            if not i:
                found["w1"] = gain * torch.tensor(FIRST, dtype=torch.float64).repeat(-(-size // len(FIRST)))[:size]
                continue
            count = size * self.units[i - 1]
            index = torch.arange(7 * i - 2, 7 * i - 2 + count, dtype=torch.float64)
            found[f"w{i + 1}"] = gain * (1.7 * index + 0.11 * index.square()).sin().reshape(size, self.units[i - 1])
        return {**found, "v": torch.tensor([1.3, -0.7, 0.9][: self.units[-1]], dtype=torch.float64)}

    def theta(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...]) -> Tensor:
        """Linear in the layer before."""
        site, w = self.sites[len(samples)], weights[f"w{len(samples) + 1}"]
        if samples:
            theta = (numbers(self.family, samples[-1]) - 0.3) @ w.T
        else:
            theta = torch.tensor(EXAMPLES[: self.examples], dtype=w.dtype, device=w.device)[:, None] * w
        return theta.reshape(-1, *site.theta_shape)

    def loss(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...], thetas: tuple[Tensor, ...]) -> Tensor:
        """The polynomial."""
        s = numbers(self.family, samples[-1]) @ weights["v"]
        found = torch.full_like(s, LEVEL)
        for k, c in enumerate(POWERS[: self.degree], 1):
            found = found + c * s**k
        return found


def numbers(family: Family, value: Tensor) -> Tensor:
    """One number for each unit ``[..., units]``: its value, or for one-hot values that of its class."""
    if not family.value_shape:
        return value
    count = math.prod(family.value_shape)
    return value.flatten(-len(family.value_shape)) @ torch.linspace(-0.4, 1.3, count).to(value)
