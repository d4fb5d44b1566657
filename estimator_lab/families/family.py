"""What every law of a stochastic layer must offer."""

import abc
from typing import Literal

from torch import Tensor


class Family(abc.ABC):
    """The law of one unit's value given its parameters ``theta``: pure mathematics, no randomness of its own.

    A layer is a product of independent units. With ``units`` the shape of the layer and ``*lead`` any leading axes,
    theta has shape ``[*lead, *units, *theta_shape]``, a value ``[*lead, *units, *value_shape]``, and a
    log-probability ``[*lead, *units]``.

    What more a law offers is told by its type: `Scored` laws have a log-probability that tells all that theta does,
    `Reparameterised` ones a sample whose derivative does, `Discrete` ones a fixed finite support and a relaxation. A
    law may be of several of these types, or of none.

    Laws, checked on every family of the table: ``rule`` integrates 1 to 1, the value to ``mean``, and has the law of
    ``sample``; ``sample`` is smooth between its ``jumps``; objects with equal ``repr`` are the same law.

    Attributes:
        value_shape: trailing axes of one unit's value.
        theta_shape: trailing axes of one unit's parameters.
        discrete: whether the support is finite and the same for every theta; that of `Discrete` laws is.
        noise: law of the random number that ``sample`` takes for each unit: uniform in [0, 1), where there are finitely
            many values, or standard normal.
    """

    value_shape: tuple[int, ...] = ()
    theta_shape: tuple[int, ...] = ()
    discrete: bool = False
    noise: Literal["uniform", "normal"] = "normal"

    @abc.abstractmethod
    def mean(self, theta: Tensor) -> Tensor:
        """Mean of the value, differentiable in theta."""

    @abc.abstractmethod
    def sample(self, theta: Tensor, noise: Tensor) -> Tensor:
        """A value made from one random number per unit, ``[*lead, *units]``; differentiable if the law allows it."""

    def jumps(self, theta: Tensor) -> Tensor:
        """Where ``sample``, or its derivative, jumps as a function of its number: ``[*lead, *units, J]``, sorted.

        Nowhere, by default: J = 0.
        """
        lead = theta.shape[: theta.dim() - len(self.theta_shape)]
        return theta.new_empty(*lead, 0)

    @abc.abstractmethod
    def rule(self, theta: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
        """Values ``[S, *value.shape]`` and weights ``[S, *lead, *units]`` that integrate over one unit.

        Laws of finitely many values list them with their probabilities: the rule is exact and ``nodes`` is ignored.
        Others give a quadrature of ``nodes`` points. In both, derivatives of values and weights with respect to theta
        make the gradient of the sum that of the integral.
        """

    @abc.abstractmethod
    def rule_size(self, nodes: int) -> int:
        """Number S of points of ``rule``."""


class Scored(Family):
    """A family whose log-probability tells everything that theta does to the law: the score function applies.

    The measure that it is taken against does not depend on theta: counting on a fixed support, Lebesgue measure, or
    both. A value that moves with theta at a fixed probability has no such log-probability.

    Laws: ``score`` is the derivative of ``log_prob`` and has expectation zero; ``rule`` has the law that ``log_prob``
    states.
    """

    @abc.abstractmethod
    def log_prob(self, theta: Tensor, value: Tensor) -> Tensor:
        """Log-probability or log-density per unit, differentiable in theta."""

    @abc.abstractmethod
    def score(self, theta: Tensor, value: Tensor) -> Tensor:
        """Derivative of ``log_prob`` with respect to theta, in closed form; shape of theta."""


class Reparameterised(Family):
    """A family whose ``sample`` at fixed noise tells everything that theta does, through its derivative.

    ``sample`` is continuous in theta, and differentiable but on a set of noise of probability zero; so that
    d/dtheta E f(x) = E[f'(x) dx/dtheta] for every continuous f that is differentiable almost everywhere.

    Law: that derivative, integrated over the noise, is the gradient of the sum over ``rule``.
    """


class Discrete(Scored):
    """A family with a fixed finite support, whose hard value is a hardened continuous relaxation.

    Laws: ``harden(perturb(theta, u))`` has the family's law for uniform ``u``; the pair (``harden(z)``,
    ``condition(theta, harden(z), v)``) has the joint law of (``harden(z)``, ``z``); ``squash`` tends to ``harden`` as
    the temperature tends to zero.
    """

    discrete = True
    noise = "uniform"

    @abc.abstractmethod
    def alternatives(self, value: Tensor) -> Tensor:
        """Every value a unit can take, all units moved together, the given one first: ``[S, *value.shape]``."""

    @abc.abstractmethod
    def jumps(self, theta: Tensor) -> Tensor:
        """Where ``sample`` jumps as a function of its uniform number: ``[*lead, *units, J]``, sorted."""

    @abc.abstractmethod
    def perturb(self, theta: Tensor, uniform: Tensor) -> Tensor:
        """Noisy logits z, differentiable in theta; ``uniform`` has the shape of theta."""

    @abc.abstractmethod
    def perturb_jumps(self, theta: Tensor) -> Tensor:
        """Where a threshold of ``uniform`` or of ``1 - uniform`` may jump: ``[*theta.shape, J]``, sorted."""

    @abc.abstractmethod
    def condition(self, theta: Tensor, value: Tensor, uniform: Tensor) -> Tensor:
        """Noisy logits drawn given their hardened value, differentiable in theta at fixed ``uniform``."""

    @abc.abstractmethod
    def squash(self, perturbed: Tensor, temperature: float) -> Tensor:
        """The relaxed value of noisy logits."""

    @abc.abstractmethod
    def harden(self, perturbed: Tensor) -> Tensor:
        """The hard value of noisy logits, without gradient."""
