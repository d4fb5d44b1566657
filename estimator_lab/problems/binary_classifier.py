"""A classifier of images with quantised activations and, if wanted, binary weights."""

from collections import OrderedDict
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from estimator_lab.errors import UsageError
from estimator_lab.families import Bernoulli, Categorical
from estimator_lab.nn import Stochastic
from estimator_lab.problems.trained_module import TrainedModule

RARE = 1e-3
"""What is added to the probability of every level, so that its logarithm and the slope of that are bounded."""


@dataclass(frozen=True)
class BinaryClassifier(TrainedModule):
    """A multi-layer perceptron whose activations are rounded to few levels at random; loss = cross entropy.

    Each hidden layer has logits ``a``, affine in the layer below. With two levels the activation is -1 or 1, and 1 with
    probability sigmoid(a). With k levels, ``sigmoid(a)`` is rounded to a multiple of 1 / (k - 1), up or down at random
    such that the mean is kept (stochastic rounding), and mapped to [-1, 1]. Every level is a class of a categorical
    unit; about 0.001 is added to its probability, which keeps its logit finite.

    Weights w are used as they are (``connections="real"``), or as signs, with a learned scale for each output:

    - ``"sign"``: -1 or 1 by the sign of w, not random. The derivative passes straight through where w is in [-1, 1].
      That is part of the network: truth and estimates are both made with it, and a bias is that of the stochastic units
      alone. The expected loss itself is piecewise constant in such weights.
    - ``"drawn"``: 1 with probability sigmoid(4 w), else -1: a site with the units of the matrix. Every example draws
      weights of its own, where implementations draw them once for a batch. The expected loss is a mean over examples
      and depends on the law of each one's weights only, so that it has the same gradient; the variance of a weight
      gradient is smaller with independent draws where the examples' gradients go the same way.

    Reference: Courbariaux, Bengio, David 2015, arXiv:1511.00363; Courbariaux, Hubara, Soudry, El-Yaniv, Bengio 2016,
    arXiv:1602.02830; scales, Rastegari, Ordonez, Redmon, Farhadi 2016, arXiv:1603.05279; stochastic rounding, Gupta,
    Agrawal, Gopalakrishnan, Narayanan 2015, arXiv:1502.02551.

    Args:
        batch: examples that gradients are measured on.
        steps: training steps.
        seed: of initialisation and training.
        dtype: of the computation.
        data: ``"digits"`` or ``"mnist"``; by default MNIST where ``ESTIMATOR_LAB_DATA`` names its folder.
        hidden: units of each layer; by default (24, 24) for the digits, (200, 200) for MNIST.
        levels: of an activation.
        connections: ``"real"``, ``"sign"`` or ``"drawn"``.

    Raises:
        UsageError: a size that is too small, or unknown connections.
    """

    hidden: tuple[int, ...] = ()
    levels: int = 2
    connections: str = "real"

    def __post_init__(self) -> None:
        super().__post_init__()
        hidden = tuple(self.hidden) or ((200, 200) if self.data == "mnist" else (24, 24))
        object.__setattr__(self, "hidden", hidden)
        if min(hidden) < 1 or self.levels < 2:
            raise UsageError(
                f"layers have at least one unit, and units two levels; found hidden={hidden}, levels={self.levels}"
            )
        if self.connections not in CONNECTIONS:
            raise UsageError(f"connections are one of {list(CONNECTIONS)}; found {self.connections!r}")

    def module(self) -> nn.Module:
        """The layers one after the other."""
        sizes = (self.images.pixels.shape[1], *self.hidden)
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        for i, (below, above) in enumerate(pairwise(sizes), 1):
            parts[f"linear{i}"] = CONNECTIONS[self.connections](below, above, dtype=torch.float64)
            if self.levels > 2:
                parts[f"neighbours{i}"] = _Neighbours(self.levels)
            parts[f"h{i}"] = Stochastic(Bernoulli() if self.levels == 2 else Categorical(self.levels))
            parts[f"activation{i}"] = _Binary() if self.levels == 2 else _Levels(self.levels)
        parts["linear"] = CONNECTIONS[self.connections](sizes[-1], 10, dtype=torch.float64)
        return nn.Sequential(parts)

    @property
    def label(self) -> str:
        """The sizes, levels and connections."""
        sizes = "-".join(map(str, (self.images.pixels.shape[1], *self.hidden, 10)))
        levels = "binary" if self.levels == 2 else f"{self.levels}-level"
        return f"{levels} classifier {sizes}" + ("" if self.connections == "real" else f", {self.connections} weights")


class _Binary(nn.Module):
    """-1 or 1."""

    def forward(self, bits: Tensor) -> Tensor:
        return 2 * bits - 1


class _Neighbours(nn.Module):
    """Logits of k levels that round m = (k - 1) sigmoid(a): level c has the probability max(0, 1 - |m - c|)."""

    places: Tensor

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.register_buffer("places", torch.arange(levels, dtype=torch.float64))

    def forward(self, logits: Tensor) -> Tensor:
        distance = ((len(self.places) - 1) * logits.sigmoid()[..., None] - self.places).abs()
        return ((1 - distance).relu() + RARE).log()


class _Levels(nn.Module):
    """Evenly spaced values from -1 to 1."""

    values: Tensor

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.register_buffer("values", torch.linspace(-1, 1, levels, dtype=torch.float64))

    def forward(self, chosen: Tensor) -> Tensor:
        return (chosen * self.values).sum(-1)


class _Sign(torch.autograd.Function):
    """-1 or 1 by the sign; the derivative passes straight through on [-1, 1]."""

    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor) -> Tensor:
        return torch.where(weight < 0, -1.0, 1.0).to(weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        weight: Tensor = ctx.saved_tensors[0]
        return gradient * (weight.abs() <= 1)


class _SignLinear(nn.Linear):
    """An affine map by the signs of its weights."""

    def __init__(self, inputs: int, outputs: int, dtype: torch.dtype) -> None:
        super().__init__(inputs, outputs, dtype=dtype)
        self.scale = nn.Parameter(torch.full((outputs,), inputs**-0.5, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        signs: Tensor = _Sign.apply(self.weight)  # type: ignore[no-untyped-call]
        return linear(x, self.scale[:, None] * signs, self.bias)


class _DrawnLinear(nn.Linear):
    """An affine map by signs that are drawn for every example."""

    def __init__(self, inputs: int, outputs: int, dtype: torch.dtype) -> None:
        super().__init__(inputs, outputs, dtype=dtype)
        self.scale = nn.Parameter(torch.full((outputs,), inputs**-0.5, dtype=dtype))
        # large enough for the signs to be told from noise; with the initial weights of an nn.Linear nothing is learned
        nn.init.normal_(self.weight, std=0.5)
        self.signs = Stochastic(Bernoulli())

    def forward(self, x: Tensor) -> Tensor:
        signs: Tensor = 2 * self.signs(4 * self.weight.expand(x.shape[0], -1, -1)) - 1
        return self.scale * (signs @ x[..., None]).squeeze(-1) + self.bias


CONNECTIONS: dict[str, type[nn.Linear]] = {"real": nn.Linear, "sign": _SignLinear, "drawn": _DrawnLinear}
"""How weights are used."""
