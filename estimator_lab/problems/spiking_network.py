"""A recurrent network of spiking neurons."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from estimator_lab.errors import UsageError
from estimator_lab.families import Bernoulli
from estimator_lab.nn import Stochastic
from estimator_lab.problems.trained_module import TrainedModule


@dataclass(frozen=True)
class SpikingNetwork(TrainedModule):
    """A layer of leaky integrate-and-fire neurons with escape noise over T steps; loss = cross entropy.

    The image is a constant current ``I = W x + b``. With spikes s_0 = 0 and potential v_0 = 0, step t is

    - v_t = decay (v_{t-1} - threshold s_{t-1}) + I + U s_{t-1}: leak, reset by the last spike, input, recurrent input,
    - s_t = 1 with probability sigmoid(sharpness (v_t - threshold)), else 0.

    The logits of the classes are affine in the mean number of spikes per step. One stochastic layer is visited T
    times; its sites are ``spike[0]``, ``spike[1]``, ...

    Reference: escape noise, Gerstner and Kistler 2002, Spiking Neuron Models, chapter 5; learning such neurons, Jang,
    Simeone, Gardner, Grüning 2019, arXiv:1812.03929.

    Args:
        batch: examples that gradients are measured on.
        steps: training steps.
        seed: of initialisation and training.
        dtype: of the computation.
        data: ``"digits"`` or ``"mnist"``; by default MNIST where ``ESTIMATOR_LAB_DATA`` names its folder.
        neurons: by default 24 for the digits, 128 for MNIST.
        time: T.
        decay: of the potential in a step.
        sharpness: of the threshold.

    Raises:
        UsageError: a size that is not positive, or a decay outside of [0, 1].
    """

    steps: int = 100
    neurons: int = 0
    time: int = 5
    decay: float = 0.8
    sharpness: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "neurons", self.neurons or (128 if self.data == "mnist" else 24))
        if min(self.neurons, self.time) < 1 or not 0 <= self.decay <= 1 or not self.sharpness > 0:
            raise UsageError(
                "there is at least one neuron and one step, a decay in [0, 1] and a positive sharpness; found "
                f"neurons={self.neurons}, time={self.time}, decay={self.decay}, sharpness={self.sharpness}"
            )

    def module(self) -> nn.Module:
        """The neurons and the classifier."""
        return _Neurons(self.images.pixels.shape[1], self.neurons, self.time, self.decay, self.sharpness)

    @property
    def label(self) -> str:
        """The sizes."""
        return f"spiking network {self.images.pixels.shape[1]}-{self.neurons}-10, {self.time} steps"


class _Neurons(nn.Module):
    """Neurons with a threshold of 1."""

    def __init__(self, pixels: int, neurons: int, time: int, decay: float, sharpness: float) -> None:
        super().__init__()
        self.time, self.decay, self.sharpness = time, decay, sharpness
        self.current = nn.Linear(pixels, neurons, dtype=torch.float64)
        self.recurrent = nn.Linear(neurons, neurons, bias=False, dtype=torch.float64)
        self.spike = Stochastic(Bernoulli())
        self.classes = nn.Linear(neurons, 10, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        current = self.current(x)
        potential = current
        spikes = [self.spike(self.sharpness * (potential - 1))]
        for _ in range(self.time - 1):
            potential = self.decay * (potential - spikes[-1]) + current + self.recurrent(spikes[-1])
            spikes.append(self.spike(self.sharpness * (potential - 1)))
        classes: Tensor = self.classes(sum(spikes[1:], start=spikes[0]) / self.time)
        return classes
