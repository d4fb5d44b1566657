"""The 8x8 handwritten digits that ship with the package, and networks trained on them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, logsigmoid

from estimator_lab.families import Bernoulli
from estimator_lab.noise import derive_seed
from estimator_lab.problem import Problem
from estimator_lab.site import SiteSpec


@lru_cache
def load_digits() -> tuple[Tensor, Tensor]:
    """1797 images ``[1797, 64]`` in [0, 1] (float64) and their labels ``[1797]``.

    Source: E. Alpaydin and C. Kaynak 1998, Optical Recognition of Handwritten Digits, UCI (CC BY 4.0).
    """
    with files("estimator_lab").joinpath("data/digits8x8.npz").open("rb") as file, np.load(file) as data:
        images = torch.from_numpy(data["images"].reshape(-1, 64).astype(np.float64) / 16)
        return images, torch.from_numpy(data["labels"].astype(np.int64))


@dataclass(frozen=True)
class _Digits(Problem):
    """A network on the digits whose weights it trains itself, deterministically from its seed.

    Training is plain: Adam, straight-through, 100 examples a step, all in float64 and on a generator of its own.
    The examples that gradients are measured on are the last ones of the data, which training never sees.
    """

    batch: int = 16
    steps: int = 300
    seed: int = 0
    dtype: torch.dtype = field(default=torch.float64, repr=False)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the weights; a matrix is ``[out, in]``."""
        raise NotImplementedError

    def _loss(
        self,
        weights: Mapping[str, Tensor],
        samples: tuple[Tensor, ...],
        thetas: tuple[Tensor, ...],
        x: Tensor,
        y: Tensor,
    ) -> Tensor:
        raise NotImplementedError

    def _theta(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...], x: Tensor) -> Tensor:
        raise NotImplementedError

    def weights(self) -> Mapping[str, Tensor]:
        """Trained weights; the first call trains for a few seconds, later ones reuse the result."""
        return {k: v.to(self.dtype) for k, v in _train(type(self), self.steps, self.seed).items()}

    def theta(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...]) -> Tensor:
        """Logits of the next layer."""
        return self._theta(weights, samples, self._examples(weights)[0])

    def loss(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...], thetas: tuple[Tensor, ...]) -> Tensor:
        """Loss of each example."""
        return self._loss(weights, samples, thetas, *self._examples(weights))

    def _examples(self, weights: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        images, labels = load_digits()
        like = next(iter(weights.values()))
        return images[-self.batch :].to(like), labels[-self.batch :].to(like.device)


@lru_cache(maxsize=8)
def _train(kind: type[_Digits], steps: int, seed: int) -> dict[str, Tensor]:
    images, labels = load_digits()
    images, labels = images[:1500], labels[:1500]
    network = kind()
    generator = torch.Generator().manual_seed(derive_seed("digits", kind.__name__, seed))
    weights = {}
    for name, shape in network.shapes().items():
        scale = shape[-1] ** -0.5 if len(shape) == 2 else 0.0
        weights[name] = (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_()
    optimiser = torch.optim.Adam(list(weights.values()), 3e-3)
    with torch.enable_grad():
        for _ in range(steps):
            rows = torch.randint(len(images), (100,), generator=generator)
            x, y = images[rows], labels[rows]
            samples: tuple[Tensor, ...] = ()
            thetas: tuple[Tensor, ...] = ()
            for _ in network.sites:
                theta = network._theta(weights, samples, x)
                p = theta.sigmoid()
                b = (torch.rand(p.shape, generator=generator, dtype=p.dtype) < p).to(p.dtype)
                samples, thetas = (*samples, b + p - p.detach()), (*thetas, theta)
            optimiser.zero_grad()
            network._loss(weights, samples, thetas, x, y).mean().backward()
            optimiser.step()
    return {k: v.detach() for k, v in weights.items()}


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

    def _theta(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...], x: Tensor) -> Tensor:
        return (2 * x - 1) @ weights["encoder.weight"].T + weights["encoder.bias"]

    def _loss(
        self,
        weights: Mapping[str, Tensor],
        samples: tuple[Tensor, ...],
        thetas: tuple[Tensor, ...],
        x: Tensor,
        y: Tensor,
    ) -> Tensor:
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

    def _theta(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...], x: Tensor) -> Tensor:
        i = len(samples) + 1
        inputs = 2 * (samples[-1] if samples else x) - 1
        return inputs @ weights[f"w{i}"].T + weights[f"b{i}"]

    def _loss(
        self,
        weights: Mapping[str, Tensor],
        samples: tuple[Tensor, ...],
        thetas: tuple[Tensor, ...],
        x: Tensor,
        y: Tensor,
    ) -> Tensor:
        loss: Tensor = cross_entropy((2 * samples[-1] - 1) @ weights["w3"].T + weights["b3"], y, reduction="none")
        return loss
