"""What every law of a stochastic layer must offer."""

import abc

from torch import Tensor


class Family(abc.ABC):
    """The law of one unit's value given its parameters ``theta``: pure mathematics, no randomness of its own.

    A layer is a product of independent units. With ``units`` the shape of the layer and ``*lead`` any leading axes,
    theta has shape ``[*lead, *units, *theta_shape]``, a value ``[*lead, *units, *value_shape]``, and a
    log-probability ``[*lead, *units]``.

    Laws, checked on every family of the table: ``rule`` integrates 1 to 1 and the value to ``mean``; ``score`` is the
    derivative of ``log_prob`` and has expectation zero; ``sample`` has the law that ``log_prob`` states; objects with
    equal ``repr`` are the same law.

    Attributes:
        value_shape: trailing axes of one unit's value.
        theta_shape: trailing axes of one unit's parameters.
        discrete: True when the support is finite; ``sample`` then takes a uniform number per unit, else a normal one.
    """

    value_shape: tuple[int, ...] = ()
    theta_shape: tuple[int, ...] = ()
    discrete: bool = True

    @abc.abstractmethod
    def mean(self, theta: Tensor) -> Tensor:
        """Mean of the value, differentiable in theta."""

    @abc.abstractmethod
    def log_prob(self, theta: Tensor, value: Tensor) -> Tensor:
        """Log-probability or log-density per unit, differentiable in theta."""

    @abc.abstractmethod
    def score(self, theta: Tensor, value: Tensor) -> Tensor:
        """Derivative of ``log_prob`` with respect to theta, in closed form; shape of theta."""

    @abc.abstractmethod
    def sample(self, theta: Tensor, noise: Tensor) -> Tensor:
        """A value made from one random number per unit, ``[*lead, *units]``; differentiable if the law allows it."""

    @abc.abstractmethod
    def rule(self, theta: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
        """Values ``[S, *value.shape]`` and weights ``[S, *lead, *units]`` that integrate over one unit.

        Finite families list their support with its probabilities: the rule is exact and ``nodes`` is ignored.
        Continuous ones give a quadrature of ``nodes`` points whose gradient is that of the integral.
        """

    @abc.abstractmethod
    def rule_size(self, nodes: int) -> int:
        """Number S of points of ``rule``."""


class Discrete(Family):
    """A family with finite support whose hard value is a hardened continuous relaxation.

    Laws: ``harden(perturb(theta, u))`` has the family's law for uniform ``u``; the pair (``harden(z)``,
    ``condition(theta, harden(z), v)``) has the joint law of (``harden(z)``, ``z``); ``squash`` tends to ``harden`` as
    the temperature tends to zero.
    """

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
