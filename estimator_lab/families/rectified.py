"""What noisy rectifiers share."""

import abc
import math

import torch
from torch import Tensor

from estimator_lab.families.family import Reparameterised, Scored
from estimator_lab.families.quadrature import normal_piece


class Rectified(Scored, Reparameterised):
    """``max(0, theta + scale e)`` with noise e of zero mean: an atom at zero, and a density above.

    The noise is an increasing function of a standard normal number, so that product rules that know where it is cut
    converge geometrically. Log-probabilities are taken against Lebesgue measure and a unit mass at zero.
    """

    @property
    @abc.abstractmethod
    def scale(self) -> float:
        """What multiplies the noise."""

    @abc.abstractmethod
    def noise_of(self, normal: Tensor) -> Tensor:
        """The noise e made of a standard normal number."""

    @abc.abstractmethod
    def normal_of(self, noise: Tensor) -> Tensor:
        """The standard normal number that makes a noise."""

    @abc.abstractmethod
    def log_cdf(self, noise: Tensor) -> Tensor:
        """Log-probability of a noise below this one."""

    @abc.abstractmethod
    def log_density(self, noise: Tensor) -> Tensor:
        """Log-density of the noise."""

    @abc.abstractmethod
    def log_slope(self, noise: Tensor) -> Tensor:
        """Derivative of the log-density."""

    def log_prob(self, theta: Tensor, value: Tensor) -> Tensor:
        """``log P(e < -theta / scale)`` at zero; above, the log-density of e, less log scale."""
        noise = (value - theta) / self.scale
        return torch.where(value > 0, self.log_density(noise) - math.log(self.scale), self.log_cdf(noise))

    def score(self, theta: Tensor, value: Tensor) -> Tensor:
        """Minus the derivative of the log-probability of zero, or of the log-density, in the noise, over the scale."""
        noise = (value - theta) / self.scale
        at_zero = (self.log_density(noise) - self.log_cdf(noise)).exp()
        return -torch.where(value > 0, self.log_slope(noise), at_zero) / self.scale

    def sample(self, theta: Tensor, noise: Tensor) -> Tensor:
        """``max(0, theta + scale e)`` with e made of standard normal noise."""
        return (theta + self.scale * self.noise_of(noise)).relu()

    def jumps(self, theta: Tensor) -> Tensor:
        """The normal number below which the value is zero: there the derivative jumps."""
        return self.normal_of(-theta / self.scale).unsqueeze(-1)

    def rule(self, theta: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
        """Zero with its probability, and Gauss-Legendre nodes above it.

        The nodes above stay where they are when theta moves, and their weights move with the density: w_i(theta) =
        w_i p(y_i; theta) / p(y_i; theta'), at theta' = theta. The derivative of the sum is then the quadrature of f
        times the score, and asks nothing of the derivative of f.
        """
        fixed = theta.detach()
        low = self.jumps(fixed)[..., 0]
        z, weight = normal_piece(low, torch.full_like(low, math.inf), nodes)
        values = self.sample(fixed, z)
        log_density = self.log_prob(theta, values)
        zero = torch.zeros_like(theta)[None]
        weights = torch.cat([self.log_prob(theta, zero).exp(), weight * (log_density - log_density.detach()).exp()])
        return torch.cat([zero, values]), weights

    def rule_size(self, nodes: int) -> int:
        """One more than the number of nodes."""
        return nodes + 1
