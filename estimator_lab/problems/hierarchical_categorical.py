"""A classifier of images through layers of categorical units."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor
from torch.nn.functional import cross_entropy

from estimator_lab.errors import UsageError
from estimator_lab.families import Categorical
from estimator_lab.problems import affine
from estimator_lab.problems.images import Images, at_hand, load
from estimator_lab.problems.trained import TrainedNetwork
from estimator_lab.site import SiteSpec


@dataclass(frozen=True)
class HierarchicalCategorical(TrainedNetwork):
    """A classifier of images through layers of categorical units, each given the one before; loss = cross-entropy.

    The logits of a layer are affine in the one-hot values of the layer before, those of the labels in the last. The
    loss, in nats, is supervised, because it then sees the last layer alone: the gradient of every earlier layer comes
    through the laws of later ones. In an evidence lower bound each layer would have terms of its own.

    Args:
        batch: examples that gradients are measured on.
        steps: training steps.
        seed: of initialisation and training.
        dtype: of the computation.
        data: ``"digits"`` or ``"mnist"``; by default MNIST where ``ESTIMATOR_LAB_DATA`` names its folder.
        layers: units and classes of each layer; by default ((4, 4), (3, 4)) for the digits, ((20, 10), (20, 10)) for
            MNIST.

    Raises:
        UsageError: a size that is too small, or data that is not at hand.
    """

    steps: int = 2000
    data: str = ""
    layers: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", self.data or at_hand())
        default = ((20, 10), (20, 10)) if self.data == "mnist" else ((4, 4), (3, 4))
        layers = tuple((units, classes) for units, classes in self.layers or default)
        if any(units < 1 or classes < 2 for units, classes in layers):
            raise UsageError(f"layers have at least one unit, of two classes; found layers={layers}")
        object.__setattr__(self, "layers", layers)

    @property
    def images(self) -> Images:
        """The images that ``data`` names."""
        return load(self.data)

    @property
    def sites(self) -> tuple[SiteSpec, ...]:  # type: ignore[override]
        """``c1``, ``c2``, ..."""
        return tuple(SiteSpec(f"c{i}", Categorical(c), (n,)) for i, (n, c) in enumerate(self.layers, 1))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """An affine layer for each site, and one for the labels."""
        sizes = (self.images.pixels.shape[1], *(units * classes for units, classes in self.layers), 10)
        shapes: dict[str, tuple[int, ...]] = {}
        for i, (inputs, outputs) in enumerate(pairwise(sizes), 1):
            shapes |= affine.shapes(f"layer{i}", outputs, inputs)
        return shapes

    def theta_at(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...], x: Tensor) -> Tensor:
        """Logits of the next layer."""
        inputs = samples[-1].flatten(-2) if samples else 2 * x - 1
        logits = affine.affine(weights, f"layer{len(samples) + 1}", inputs)
        return logits.reshape(*logits.shape[:-1], *self.layers[len(samples)])

    def loss_at(
        self,
        weights: Mapping[str, Tensor],
        samples: tuple[Tensor, ...],
        thetas: tuple[Tensor, ...],
        x: Tensor,
        y: Tensor,
    ) -> Tensor:
        """Cross-entropy of the label."""
        logits = affine.affine(weights, f"layer{len(self.layers) + 1}", samples[-1].flatten(-2))
        loss: Tensor = cross_entropy(logits, y, reduction="none")
        return loss

    @property
    def label(self) -> str:
        """The sizes."""
        sizes = [f"{units}x{classes}" for units, classes in self.layers]
        return f"categorical hierarchy {'-'.join([str(self.images.pixels.shape[1]), *sizes, '10'])}"
