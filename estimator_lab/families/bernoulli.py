"""Binary units."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from estimator_lab.families.family import Discrete


@dataclass(frozen=True)
class Bernoulli(Discrete):
    """Values in {0, 1}; theta is the logit: P(1) = p = sigmoid(theta).

    The relaxation is the binary Concrete law: z = theta + logit(u), hard value 1[z > 0], relaxed value
    sigmoid(z / temperature) (Maddison, Mnih, Teh 2017, arXiv:1611.00712).
    """

    def mean(self, theta: Tensor) -> Tensor:
        """P(1) = sigmoid(theta)."""
        return theta.sigmoid()

    def log_prob(self, theta: Tensor, value: Tensor) -> Tensor:
        """``value log p + (1 - value) log(1 - p)``, stable for saturated logits."""
        return value * logsigmoid(theta) + (1 - value) * logsigmoid(-theta)

    def score(self, theta: Tensor, value: Tensor) -> Tensor:
        """``value - p``."""
        return value - theta.sigmoid()

    def sample(self, theta: Tensor, noise: Tensor) -> Tensor:
        """``1[noise < p]``."""
        return (noise < theta.sigmoid()).to(theta.dtype)

    def rule(self, theta: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
        """Both values with their probabilities."""
        values = torch.stack([torch.zeros_like(theta), torch.ones_like(theta)])
        return values, torch.stack([(-theta).sigmoid(), theta.sigmoid()])

    def rule_size(self, nodes: int) -> int:
        """2."""
        return 2

    def alternatives(self, value: Tensor) -> Tensor:
        """The value and its flip."""
        return torch.stack([value, 1 - value])

    def jumps(self, theta: Tensor) -> Tensor:
        """The probability p."""
        return theta.sigmoid().unsqueeze(-1)

    def perturb(self, theta: Tensor, uniform: Tensor) -> Tensor:
        """``theta + logit(uniform)``: logistic noise."""
        return theta + uniform.log() - (-uniform).log1p()

    def perturb_jumps(self, theta: Tensor) -> Tensor:
        """The numbers p and 1 - p, in order: where 1[u > 1 - p] and its antithetic twin 1[u < p] jump."""
        low = (-theta.abs()).sigmoid()
        return torch.stack([low, 1 - low], -1)

    def condition(self, theta: Tensor, value: Tensor, uniform: Tensor) -> Tensor:
        """Logistic noise truncated to the side that gives ``value``.

        With v' = v (1 - p) for value 0 and v' = (1 - p) + v p for value 1, z = theta + logit(v'). Multiplying
        numerator and denominator of the odds by 1 + exp(theta) leaves forms that do not cancel:
        value 1: log(1 + v exp(theta)) - log(1 - v); value 0: log v - log(1 + (1 - v) exp(-theta)).
        """
        up = softplus(theta + uniform.log()) - (-uniform).log1p()
        down = uniform.log() - softplus((-uniform).log1p() - theta)
        return torch.where(value > 0.5, up, down)

    def squash(self, perturbed: Tensor, temperature: float) -> Tensor:
        """``sigmoid(perturbed / temperature)``."""
        return (perturbed / temperature).sigmoid()

    def harden(self, perturbed: Tensor) -> Tensor:
        """``1[perturbed > 0]``."""
        return (perturbed.detach() > 0).to(perturbed.dtype)
