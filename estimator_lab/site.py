"""What an estimator sees of one stochastic layer: *here*."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from estimator_lab.errors import UsageError
from estimator_lab.families import Discrete, Family, Scored
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
    def scored(self) -> Scored:
        """The family, as one with a log-probability.

        Raises:
            UsageError: its values move with theta, which no log-probability tells.
        """
        if not isinstance(self.family, Scored):
            raise UsageError(
                f"values of the {self.family!r} site {self.name!r} move with theta: it has no score function"
            )
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

    def normal(self) -> Tensor:
        """Standard normal numbers shaped like theta, to move it by."""
        theta = self.theta.detach()
        # the probability that a value changes when theta is moved has a kink at zero
        return self._noise.normal(theta, self.lead - 2, lambda: theta.new_zeros(*theta.shape, 1))

    def signs(self) -> Tensor:
        """-1 or 1 with equal probabilities, shaped like theta."""
        theta = self.theta.detach()
        u = self._noise.uniform(theta, self.lead - 2, lambda: torch.full_like(theta, 0.5).unsqueeze(-1))
        return 1 - 2 * (u < 0.5).to(theta.dtype)

    def sample(self, *, common: bool = False) -> Tensor:
        """Values of the units ``[*lead, *units, *value_shape]``, without gradient.

        Args:
            common: share the random numbers over the axes that estimators prepended (common random numbers).
        """
        return self._draw(self.theta.detach(), common)

    def rsample(self) -> Tensor:
        """Values with the derivative of ``family.sample`` at fixed noise; none for `Discrete` families.

        It is all that theta does for `Reparameterised` families, and a part of it for others.
        """
        return self._draw(self.theta, False)

    def _draw(self, theta: Tensor, common: bool) -> Tensor:
        extra = self.lead - 3
        source = theta[(0,) * extra] if common else theta
        axis = 1 if common else self.lead - 2
        per_unit: tuple[Any, ...] = (..., *(0,) * len(self.family.theta_shape))
        like = source.detach()[per_unit]
        family = self.family

        def jumps() -> Tensor:
            found = family.jumps(theta.detach())
            if not common or not extra:
                return found
            # one number for all prepended entries: it jumps where any of their samples does
            return found.flatten(0, extra - 1).movedim(0, -1).flatten(-2).sort(-1).values

        draw = self._noise.steps if family.noise == "uniform" else self._noise.normal
        return family.sample(theta, draw(like, axis, jumps))

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
        scores = self.scored.score(self.theta.detach(), value.detach())
        return self.inject(self.expand(advantage.detach()) * scores)
