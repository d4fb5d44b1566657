"""What variational autoencoders of images with discrete latents share."""

import abc
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from estimator_lab.errors import UsageError
from estimator_lab.families import Bernoulli, Scored
from estimator_lab.problems.images import Images, at_hand, load
from estimator_lab.problems.trained import TrainedNetwork, drawn


@dataclass(frozen=True)
class ImageAutoencoder(TrainedNetwork):
    """An autoencoder of black and white images whose loss is a negative bound on log p(x), in nats.

    A pixel is white where it is brighter than half. With one sample the bound is the evidence lower bound
    E log w, w = p(x, h) / q(h | x); with K samples it is E log (w_1 + ... + w_K) / K (Burda, Grosse and Salakhutdinov
    2016, arXiv:1509.00519). The K samples are an axis of every site's units, so that one walk draws them all. Training
    is on the evidence lower bound, by the score function with leave-one-out baselines over two samples: whatever K is,
    the weights are the same.
    """

    steps: int = 3000
    data: str = ""
    samples: int = 1

    output: ClassVar[str]
    """Name of the bias that the pixels' logits start from."""

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise UsageError(f"a bound takes at least one sample; found samples={self.samples}")
        object.__setattr__(self, "data", self.data or at_hand())

    @property
    def images(self) -> Images:
        """The images that ``data`` names."""
        return load(self.data)

    def prepared(self, x: Tensor) -> Tensor:
        """Black and white: 1[x > 1/2]."""
        return (x > 0.5).to(x)

    def recipe(self) -> Self:
        """One sample, besides the default batch and dtype."""
        return replace(super().recipe(), samples=1)

    def initial(self, generator: torch.Generator) -> dict[str, Tensor]:
        """The pixels' biases are the logits of their training means, so that training begins at the trivial model."""
        weights = super().initial(generator)
        x, _ = self.images.rows(slice(min(self.images.training, 10000)), weights[self.output])
        white = self.prepared(x).sum(0)
        weights[self.output] = ((white + 1) / (len(x) - white + 1)).log()
        return weights

    def surrogate(self, weights: Mapping[str, Tensor], x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        """Score function, the baseline of each of two samples being the loss of the other one.

        Straight through, the bounds of the digits end 1.2 to 1.4 nats worse.
        """
        x, y = x.repeat(2, 1), y.repeat(2)
        samples: tuple[Tensor, ...] = ()
        thetas: tuple[Tensor, ...] = ()
        log_q = torch.zeros(len(x), dtype=x.dtype)
        for site in self.sites:
            theta = self.theta_at(weights, samples, x)
            value = drawn(site, theta.detach(), generator)
            assert isinstance(site.family, Scored)
            log_q = log_q + site.family.log_prob(theta, value).sum(-1)
            samples, thetas = (*samples, value), (*thetas, theta)
        loss = self.loss_at(weights, samples, thetas, x, y)
        advantage = (loss - loss.roll(len(loss) // 2)).detach()
        return (loss + advantage * log_q).mean()

    def units(self, size: int) -> tuple[int, ...]:
        """Units of a layer: ``(size,)``, or ``(K, size)``."""
        return (size,) if self.samples == 1 else (self.samples, size)

    def repeated(self, t: Tensor) -> Tensor:
        """What depends on the image only, once for each sample: ``[B, ...] -> [B, K, ...]``; as it is if K is one."""
        return t if self.samples == 1 else t[:, None].expand(-1, self.samples, *t.shape[1:])

    def likelihood(self, logits: Tensor, x: Tensor) -> Tensor:
        """``log p(x | h)`` ``[B]`` or ``[B, K]`` of the pixels' logits."""
        return Bernoulli().log_prob(logits, self.repeated(x)).sum(-1)

    def negative_bound(self, log_weight: Tensor) -> Tensor:
        """``-log 1/K sum_k w_k`` ``[B]`` of the logarithms of w ``[B]`` or ``[B, K]``."""
        return -log_weight if self.samples == 1 else math.log(self.samples) - log_weight.logsumexp(-1)

    @property
    def label(self) -> str:
        """Words, sizes, and samples if there are several."""
        return self.title() + (f", K = {self.samples}" if self.samples > 1 else "")

    @abc.abstractmethod
    def title(self) -> str:
        """What it is, with its sizes."""
