"""What an estimator sees of one stochastic layer: *here*."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from estimator_lab.errors import UsageError
from estimator_lab.families import Discrete, Family
from estimator_lab.noise import Noise


@dataclass(frozen=True)
class SiteSpec:
    """A stochastic layer of a problem.

    Attributes:
        name: unique within the problem.
        family: the law of each unit.
        units: shape of the layer, for example ``(32,)``.
    """

    name: str
    family: Family
    units: tuple[int, ...]

    @property
    def theta_shape(self) -> tuple[int, ...]:
        """Trailing axes of theta after the batch axis."""
        return (*self.units, *self.family.theta_shape)

    @property
    def value_shape(self) -> tuple[int, ...]:
        """Trailing axes of a sample after the batch axis."""
        return (*self.units, *self.family.value_shape)


@dataclass(frozen=True)
class Site:
    """One stochastic layer in one walk: its law, its parameters, and random numbers.

    ``lead`` below stands for the axes ``[*extra, K, R, B]``: what estimators prepended, paths, replicates, examples.

    Attributes:
        spec: name, family and units.
        theta: parameters ``[*lead, *units, *theta_shape]``, in the graph.
    """

    spec: SiteSpec
    theta: Tensor
    _noise: Noise = field(repr=False)

    @property
    def name(self) -> str:
        """Name of the site."""
        return self.spec.name

    @property
    def family(self) -> Family:
        """Law of the units."""
        return self.spec.family

    @property
    def relaxation(self) -> Discrete:
        """The family, as one that can be relaxed and hardened.

        Raises:
            TypeError: the family is continuous.
        """
        if not isinstance(self.family, Discrete):
            raise TypeError(f"{self.family!r} at site {self.name!r} is continuous and has no relaxation")
        return self.family

    @property
    def lead(self) -> int:
        """Number of leading axes ``[*extra, K, R, B]``."""
        return self.theta.dim() - len(self.spec.theta_shape)

    @property
    def mean(self) -> Tensor:
        """Mean of the units' values ``[*lead, *units, *value_shape]``, differentiable in theta."""
        return self.family.mean(self.theta)

    def uniform(self) -> Tensor:
        """Numbers in (0, 1) shaped like theta: the noise that ``Discrete.perturb`` takes."""
        theta, family = self.theta.detach(), self.relaxation
        u = self._noise.uniform(theta, self.lead - 2, lambda: family.perturb_jumps(theta))
        # torch draws multiples of 2^-53 (2^-24 in float32) from [0, 1); of these, no logarithm can be taken of zero
        return u.clamp(min=torch.finfo(u.dtype).eps / 4)

    def sample(self, *, common: bool = False) -> Tensor:
        """Values of the units ``[*lead, *units, *value_shape]``, without gradient.

        Args:
            common: share the random numbers over the axes that estimators prepended (common random numbers).
        """
        return self._draw(self.theta.detach(), common)

    def rsample(self) -> Tensor:
        """Values reparameterised in theta; carries gradient for continuous families only."""
        return self._draw(self.theta, False)

    def _draw(self, theta: Tensor, common: bool) -> Tensor:
        extra = self.lead - 3
        source = theta[(0,) * extra] if common else theta
        axis = 1 if common else self.lead - 2
        per_unit: tuple[Any, ...] = (..., *(0,) * len(self.family.theta_shape))
        like = source.detach()[per_unit]
        family = self.family
        if isinstance(family, Discrete):

            def jumps() -> Tensor:
                found = family.jumps(theta.detach())
                if not common or not extra:
                    return found
                # one number for all prepended entries: it jumps where any of their samples does
                return found.flatten(0, extra - 1).movedim(0, -1).flatten(-2).sort(-1).values

            noise = self._noise.uniform(like, axis, jumps)
        else:
            noise = self._noise.normal(like, axis)
        return family.sample(theta, noise)

    def expand(self, loss: Tensor) -> Tensor:
        """A per-example quantity ``[*lead]`` with trailing axes of size one for the units and parameters."""
        return loss[(..., *(None,) * len(self.spec.theta_shape))]

    @property
    def size(self) -> int:
        """Number of units."""
        return math.prod(self.spec.units)

    def inject(self, gradient: Tensor) -> Tensor:
        """A term of value zero ``[*lead]`` whose derivative with respect to theta is ``gradient``.

        Raises:
            UsageError: the gradient is not shaped like theta.
        """
        if not isinstance(gradient, Tensor) or gradient.shape != self.theta.shape:
            found = list(gradient.shape) if isinstance(gradient, Tensor) else type(gradient).__name__
            raise UsageError(
                f"a gradient for site {self.name!r} is shaped like theta: expected axes "
                f"[..., paths, replicates, batch, *units, *theta] = {list(self.theta.shape)}; found {found}"
            )
        term = gradient.detach() * (self.theta - self.theta.detach())
        return term.flatten(-len(self.spec.theta_shape)).sum(-1)

    def score(self, value: Tensor, advantage: Tensor) -> Tensor:
        """A term of value zero ``[*lead]`` with gradient ``advantage * d log p(value) / d theta``."""
        scores = self.family.score(self.theta.detach(), value.detach())
        return self.inject(self.expand(advantage.detach()) * scores)
