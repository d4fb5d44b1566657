"""Gaussian units."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from estimator_lab.families.family import Reparameterised, Scored
from estimator_lab.families.quadrature import hermite_rule


@dataclass(frozen=True)
class Normal(Scored, Reparameterised):
    """Real values; the last axis of theta holds the mean mu and the logarithm of the standard deviation s."""

    theta_shape = (2,)

    def mean(self, theta: Tensor) -> Tensor:
        """Mu."""
        return theta[..., 0]

    def log_prob(self, theta: Tensor, value: Tensor) -> Tensor:
        """``-(z^2 + log(2 pi)) / 2 - log s`` with z = (value - mu) / s."""
        standard = (value - theta[..., 0]) * (-theta[..., 1]).exp()
        return -0.5 * (standard.square() + math.log(2 * math.pi)) - theta[..., 1]

    def score(self, theta: Tensor, value: Tensor) -> Tensor:
        """``z / s`` for the mean and ``z^2 - 1`` for log s."""
        precision = (-theta[..., 1]).exp()
        standard = (value - theta[..., 0]) * precision
        return torch.stack([standard * precision, standard.square() - 1], -1)

    def sample(self, theta: Tensor, noise: Tensor) -> Tensor:
        """``mu + s noise`` for standard normal noise."""
        return theta[..., 0] + theta[..., 1].exp() * noise

    def rule(self, theta: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
        """Gauss-Hermite: mu + s x_i with constant weights."""
        return hermite_rule(lambda z: self.sample(theta, z), theta[..., 0], nodes)

    def rule_size(self, nodes: int) -> int:
        """The number of nodes."""
        return nodes
