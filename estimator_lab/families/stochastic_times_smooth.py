"""Smooth units behind a random mask."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from estimator_lab.errors import UsageError
from estimator_lab.families.family import Family


@dataclass(frozen=True)
class StochasticTimesSmooth(Family):
    """``b p^smooth`` with p = sigmoid(theta) and a mask b that is one with probability P = p^mask, and else zero.

    ``StochasticTimesSmooth()`` is the form that is printed (P = sqrt(p), value sqrt(p), mean p);
    ``StochasticTimesSmooth(mask=1.0)`` that of the authors' code, whose mask is drawn with probability p (value
    sqrt(p), mean p^1.5). Both the value and the law of the mask move with theta: neither the score function nor
    backpropagation with the mask held constant has the whole gradient

        d/dtheta E f = smooth (1 - p) p^(mask + smooth) f'(p^smooth) + mask (1 - p) P (f(p^smooth) - f(0)).

    Reference: Bengio, Léonard, Courville 2013 (arXiv:1308.3432), equation (2) and Proposition 2.

    Args:
        mask: exponent of the mask's probability.
        smooth: exponent of the value.

    Raises:
        UsageError: an exponent is not positive.
    """

    mask: float = 0.5
    smooth: float = 0.5

    noise = "uniform"

    def __post_init__(self) -> None:
        if not (self.mask > 0 and self.smooth > 0):
            raise UsageError(
                f"the exponents of StochasticTimesSmooth are positive; found mask={self.mask}, smooth={self.smooth}"
            )

    def mean(self, theta: Tensor) -> Tensor:
        """``p^(mask + smooth)``."""
        return ((self.mask + self.smooth) * logsigmoid(theta)).exp()

    def probability(self, theta: Tensor) -> Tensor:
        """``P = p^mask``, that of a value above zero."""
        return (self.mask * logsigmoid(theta)).exp()

    def mask_score(self, theta: Tensor, value: Tensor) -> Tensor:
        """Derivative of the mask's log-probability: ``(b - P) mask (1 - p) / (1 - P)``."""
        log_p = logsigmoid(theta)
        tiny = torch.finfo(theta.dtype).tiny  # (1 - p) / (1 - P) tends to 1 / mask
        ratio = (-theta).sigmoid().clamp(min=tiny) / -(self.mask * log_p.clamp(max=-tiny)).expm1()
        return ((value != 0).to(theta) - (self.mask * log_p).exp()) * self.mask * ratio

    def sample(self, theta: Tensor, noise: Tensor) -> Tensor:
        """``1[noise < P] p^smooth``; its derivative holds the mask constant."""
        return (noise < self.probability(theta)) * (self.smooth * logsigmoid(theta)).exp()

    def jumps(self, theta: Tensor) -> Tensor:
        """The probability P."""
        return self.probability(theta).unsqueeze(-1)

    def rule(self, theta: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
        """Zero and p^smooth with their probabilities."""
        log_p = logsigmoid(theta)
        values = torch.stack([torch.zeros_like(theta), (self.smooth * log_p).exp()])
        return values, torch.stack([-(self.mask * log_p).expm1(), (self.mask * log_p).exp()])

    def rule_size(self, nodes: int) -> int:
        """2."""
        return 2
