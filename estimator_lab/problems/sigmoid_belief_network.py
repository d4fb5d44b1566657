"""Autoencoders of images with layers of binary latents."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from estimator_lab.errors import UsageError
from estimator_lab.families import Bernoulli
from estimator_lab.problems import affine
from estimator_lab.problems.autoencoder import ImageAutoencoder
from estimator_lab.site import SiteSpec


@dataclass(frozen=True)
class SigmoidBeliefNetwork(ImageAutoencoder):
    """A variational autoencoder of images with layers of binary latents; loss = negative bound in nats.

    Generative model: h_L from a learned prior, h_l given h_{l+1} and the pixels given h_1, all Bernoulli with logits
    affine in 2 h - 1. Encoder: h_1 given the pixels, h_{l+1} given h_l, likewise. The loss is
    -log 1/K sum_k w_k with w = p(x, h) / q(h | x): for K = 1 the negative evidence lower bound.

    Reference: Mnih and Gregor 2014, arXiv:1402.0030; with K samples Mnih and Rezende 2016, arXiv:1602.06725.

    Args:
        batch: examples that gradients are measured on.
        steps: training steps.
        seed: of initialisation and training.
        dtype: of the computation.
        data: ``"digits"`` or ``"mnist"``; by default MNIST where ``ESTIMATOR_LAB_DATA`` names its folder.
        samples: K.
        hidden: latents of each layer, the one next to the pixels first; by default (32,) for the digits, (200,) for
            MNIST.

    Raises:
        UsageError: a size that is not positive, or data that is not at hand.
    """

    hidden: tuple[int, ...] = ()

    output = "decoder1.bias"

    def __post_init__(self) -> None:
        super().__post_init__()
        hidden = tuple(self.hidden) or ((200,) if self.data == "mnist" else (32,))
        if min(hidden) < 1:
            raise UsageError(f"layers have at least one unit; found hidden={hidden}")
        object.__setattr__(self, "hidden", hidden)

    @property
    def sites(self) -> tuple[SiteSpec, ...]:  # type: ignore[override]
        """``h1``, ``h2``, ..., in the order the encoder draws them."""
        return tuple(SiteSpec(f"h{i}", Bernoulli(), self.units(n)) for i, n in enumerate(self.hidden, 1))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Encoder, prior and decoder."""
        sizes = (self.images.pixels.shape[1], *self.hidden)
        pairs = list(enumerate(pairwise(sizes), 1))
        shapes: dict[str, tuple[int, ...]] = {}
        for i, (below, above) in pairs:
            shapes |= affine.shapes(f"encoder{i}", above, below)
        shapes["prior.logits"] = (sizes[-1],)
        for i, (below, above) in pairs:
            shapes |= affine.shapes(f"decoder{i}", below, above)
        return shapes

    def theta_at(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...], x: Tensor) -> Tensor:
        """Logits of the encoder's next layer."""
        theta = affine.affine(weights, f"encoder{len(samples) + 1}", 2 * (samples[-1] if samples else x) - 1)
        return theta if samples else self.repeated(theta)

    def loss_at(
        self,
        weights: Mapping[str, Tensor],
        samples: tuple[Tensor, ...],
        thetas: tuple[Tensor, ...],
        x: Tensor,
        y: Tensor,
    ) -> Tensor:
        """The negative bound; log w sums the layers' log p - log q and the pixels' log p."""
        logits = [affine.affine(weights, f"decoder{i}", 2 * h - 1) for i, h in enumerate(samples, 1)]
        log_weight = self.likelihood(logits[0], x)
        for h, prior, posterior in zip(samples, [*logits[1:], weights["prior.logits"]], thetas, strict=True):
            log_weight = log_weight + (_log_prob(prior, h) - _log_prob(posterior, h)).sum(-1)
        return self.negative_bound(log_weight)

    def title(self) -> str:
        """The sizes from the pixels up."""
        return f"belief network {'-'.join(map(str, (self.images.pixels.shape[1], *self.hidden)))}"


def _log_prob(theta: Tensor, value: Tensor) -> Tensor:
    return Bernoulli().log_prob(theta, value)
