"""An autoencoder of images with categorical latents."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from estimator_lab.errors import UsageError
from estimator_lab.families import Categorical
from estimator_lab.problems import affine
from estimator_lab.problems.autoencoder import ImageAutoencoder
from estimator_lab.site import SiteSpec


@dataclass(frozen=True)
class CategoricalAutoencoder(ImageAutoencoder):
    """A variational autoencoder of images with categorical latents; loss = negative bound in nats.

    Encoder and decoder are affine, the prior is uniform. The loss is -log 1/K sum_k w_k with w = p(x, z) / q(z | x):
    for K = 1 the negative evidence lower bound.

    Reference: Jang, Gu, Poole 2017, arXiv:1611.01144.

    Args:
        batch: examples that gradients are measured on.
        steps: training steps.
        seed: of initialisation and training.
        dtype: of the computation.
        data: ``"digits"`` or ``"mnist"``; by default MNIST where ``ESTIMATOR_LAB_DATA`` names its folder.
        samples: K.
        latents: number of latents; by default 6 for the digits, 20 for MNIST.
        classes: of each; by default 4 for the digits, 10 for MNIST.

    Raises:
        UsageError: a size that is too small, or data that is not at hand.
    """

    latents: int = 0
    classes: int = 0

    output = "decoder.bias"

    def __post_init__(self) -> None:
        super().__post_init__()
        latents, classes = (20, 10) if self.data == "mnist" else (6, 4)
        object.__setattr__(self, "latents", self.latents or latents)
        object.__setattr__(self, "classes", self.classes or classes)
        if self.latents < 1 or self.classes < 2:
            raise UsageError(
                f"there is at least one latent, of two classes; found latents={self.latents}, classes={self.classes}"
            )

    @property
    def sites(self) -> tuple[SiteSpec, ...]:  # type: ignore[override]
        """The latents ``z``."""
        return (SiteSpec("z", Categorical(self.classes), self.units(self.latents)),)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Encoder and decoder."""
        pixels, states = self.images.pixels.shape[1], self.latents * self.classes
        return affine.shapes("encoder", states, pixels) | affine.shapes("decoder", pixels, states)

    def theta_at(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...], x: Tensor) -> Tensor:
        """Logits of the latents."""
        theta = affine.affine(weights, "encoder", 2 * x - 1)
        return self.repeated(theta.unflatten(-1, (self.latents, self.classes)))

    def loss_at(
        self,
        weights: Mapping[str, Tensor],
        samples: tuple[Tensor, ...],
        thetas: tuple[Tensor, ...],
        x: Tensor,
        y: Tensor,
    ) -> Tensor:
        """The negative bound; log w is log p(x | z) - log q(z | x) - the latents' log C."""
        (z,), (theta,) = samples, thetas
        likelihood = self.likelihood(affine.affine(weights, "decoder", z.flatten(-2)), x)
        posterior = Categorical(self.classes).log_prob(theta, z).sum(-1)
        return self.negative_bound(likelihood - posterior - self.latents * math.log(self.classes))

    def title(self) -> str:
        """The sizes."""
        return f"categorical autoencoder {self.images.pixels.shape[1]}-{self.latents}x{self.classes}"
