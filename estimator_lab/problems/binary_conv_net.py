"""A convolutional classifier of images with binary activations."""

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from estimator_lab.errors import UsageError
from estimator_lab.families import Bernoulli
from estimator_lab.nn import Stochastic
from estimator_lab.problems.trained_module import TrainedModule


@dataclass(frozen=True)
class BinaryConvNet(TrainedModule):
    """Two convolutions with stochastic binary feature maps, and an affine classifier; loss = cross entropy.

    Each convolution has 3x3 kernels and stride 2, and gives logits ``[channels, height, width]``; every feature is -1
    or 1, and 1 with probability sigmoid(logit). Weights are shared over the places of a map, and units are not.

    Reference: binary activations in convolutional networks, Courbariaux, Hubara, Soudry, El-Yaniv, Bengio 2016,
    arXiv:1602.02830.

    Args:
        batch: examples that gradients are measured on.
        steps: training steps.
        seed: of initialisation and training.
        dtype: of the computation.
        data: ``"digits"`` or ``"mnist"``; by default MNIST where ``ESTIMATOR_LAB_DATA`` names its folder.
        channels: maps of the two layers; by default (4, 8) for the digits, (8, 16) for MNIST.

    Raises:
        UsageError: other than two positive numbers of channels.
    """

    channels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        channels = tuple(self.channels) or ((8, 16) if self.data == "mnist" else (4, 8))
        object.__setattr__(self, "channels", channels)
        if len(channels) != 2 or min(channels) < 1:
            raise UsageError(f"there are two layers of at least one channel each; found channels={channels}")

    def module(self) -> nn.Module:
        """The layers one after the other."""
        first, second = self.channels
        side = self.images.side
        last = -(-side // 4)  # two convolutions of stride 2
        return nn.Sequential(
            OrderedDict[str, nn.Module](
                image=nn.Unflatten(1, (1, side, side)),
                conv1=nn.Conv2d(1, first, 3, stride=2, padding=1, dtype=torch.float64),
                h1=Stochastic(Bernoulli()),
                signs1=_Signs(),
                conv2=nn.Conv2d(first, second, 3, stride=2, padding=1, dtype=torch.float64),
                h2=Stochastic(Bernoulli()),
                signs2=_Signs(),
                flat=nn.Flatten(),
                linear=nn.Linear(second * last**2, 10, dtype=torch.float64),
            )
        )

    @property
    def label(self) -> str:
        """The sizes."""
        return f"binary conv net {self.images.side}x{self.images.side}, {self.channels[0]}-{self.channels[1]} channels"


class _Signs(nn.Module):
    """-1 or 1."""

    def forward(self, bits: Tensor) -> Tensor:
        return 2 * bits - 1
