"""Gaussian units."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import roots_hermitenorm
from torch import Tensor

from estimator_lab.families.family import Family


@lru_cache
def hermite(nodes: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nodes and weights of the Gauss-Hermite rule for a standard normal variable; the weights sum to one."""
    x, w = roots_hermitenorm(nodes)
    return x, w / w.sum()


@dataclass(frozen=True)
class Normal(Family):
    """Real values; the last axis of theta holds the mean mu and the logarithm of the standard deviation s."""

    theta_shape = (2,)
    discrete = False

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
        x, w = (torch.as_tensor(a, dtype=theta.dtype, device=theta.device) for a in hermite(nodes))
        shape = (nodes, *(1,) * (theta.dim() - 1))
        values = self.sample(theta, x.reshape(shape))
        return values, w.reshape(shape).expand_as(values)

    def rule_size(self, nodes: int) -> int:
        """The number of nodes."""
        return nodes
