"""Networks trained on the 8x8 handwritten digits that ship with the package."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, logsigmoid

from estimator_lab.families import Bernoulli
from estimator_lab.problems.images import Images, load_digits
from estimator_lab.problems.trained import TrainedNetwork
from estimator_lab.site import SiteSpec


@dataclass(frozen=True)
class _Digits(TrainedNetwork):
    """A network on the digits."""

    @property
    def images(self) -> Images:
        """The digits."""
        return load_digits()


@dataclass(frozen=True)
class DigitsAutoencoder(_Digits):
    """A variational autoencoder of the digits with 8 Bernoulli latents; loss = negative evidence lower bound in nats.

    64 pixels -> 8 latents -> 64 Bernoulli pixels, uniform prior. Its expected loss is a sum over 2^8 states.

    Args:
        batch: examples that gradients are measured on.
        steps: training steps.
        seed: of initialisation and training.
        dtype: of the computation.
    """

    sites = (SiteSpec("z", Bernoulli(), (8,)),)
    label = "digits autoencoder"

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Encoder and decoder."""
        return {"encoder.weight": (8, 64), "encoder.bias": (8,), "decoder.weight": (64, 8), "decoder.bias": (64,)}

    def theta_at(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...], x: Tensor) -> Tensor:
        """Logits of the next layer."""
        return (2 * x - 1) @ weights["encoder.weight"].T + weights["encoder.bias"]

    def loss_at(
        self,
        weights: Mapping[str, Tensor],
        samples: tuple[Tensor, ...],
        thetas: tuple[Tensor, ...],
        x: Tensor,
        y: Tensor,
    ) -> Tensor:
        """Cross-entropy of the pixels, plus log q - log p of the latents."""
        (z,), (theta,) = samples, thetas
        pixels = (2 * z - 1) @ weights["decoder.weight"].T + weights["decoder.bias"]
        reconstruction = binary_cross_entropy_with_logits(pixels, x.expand_as(pixels), reduction="none").sum(-1)
        # log q(z | x) - log p(z), the prior being 2^-8
        complexity = (z * logsigmoid(theta) + (1 - z) * logsigmoid(-theta)).sum(-1) + 8 * math.log(2)
        return reconstruction + complexity


@dataclass(frozen=True)
class DigitsClassifier(_Digits):
    """A classifier of the digits through two layers of 32 Bernoulli units; loss = cross-entropy in nats.

    64-32-32-10. Its expected loss would be a sum over 2^64 states: the truth is estimated, with standard errors.

    Args:
        batch: examples that gradients are measured on.
        steps: training steps.
        seed: of initialisation and training.
        dtype: of the computation.
    """

    sites = (SiteSpec("h1", Bernoulli(), (32,)), SiteSpec("h2", Bernoulli(), (32,)))
    label = "digits classifier"

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Three affine layers."""
        layers = {"1": (32, 64), "2": (32, 32), "3": (10, 32)}
        return {f"{kind}{i}": shape if kind == "w" else shape[:1] for i, shape in layers.items() for kind in "wb"}

    def theta_at(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...], x: Tensor) -> Tensor:
        """Logits of the next layer."""
        i = len(samples) + 1
        inputs = 2 * (samples[-1] if samples else x) - 1
        return inputs @ weights[f"w{i}"].T + weights[f"b{i}"]

    def loss_at(
        self,
        weights: Mapping[str, Tensor],
        samples: tuple[Tensor, ...],
        thetas: tuple[Tensor, ...],
        x: Tensor,
        y: Tensor,
    ) -> Tensor:
        """Cross-entropy of the label."""
        loss: Tensor = cross_entropy((2 * samples[-1] - 1) @ weights["w3"].T + weights["b3"], y, reduction="none")
        return loss
