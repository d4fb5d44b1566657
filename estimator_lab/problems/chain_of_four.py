"""Four stochastic layers in a row."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from estimator_lab.families import Bernoulli
from estimator_lab.problem import Problem
from estimator_lab.site import SiteSpec


@dataclass(frozen=True)
class ChainOfFour(Problem):
    """Four layers of two Bernoulli units, each a function of the one before; a loss that couples the last two.

    Biases of single-layer rules compound here: each layer's logits are ``W (2 b - 1) + c`` with weights of size 1 to 2.

    Args:
        batch: number of examples; each has its own first logits.
        dtype: of the computation.
    """

    batch: int = 2
    dtype: torch.dtype = field(default=torch.float64, repr=False)

    sites = tuple(SiteSpec(f"h{i}", Bernoulli(), (2,)) for i in (1, 2, 3, 4))
    label = "chain of four"

    def weights(self) -> Mapping[str, Tensor]:
        """``c1 [2]`` and, for i = 2, 3, 4, ``w{i} [2, 2]`` and ``c{i} [2]``."""
        numbers = torch.arange(1, 21, dtype=torch.float64)
        numbers = (2.3 * numbers + 0.07 * numbers.square()).cos().to(self.dtype) * 1.8
        named = {"c1": numbers[:2]}
        for i in (2, 3, 4):
            own = numbers[6 * i - 10 : 6 * i - 4]
            named |= {f"w{i}": own[:4].reshape(2, 2), f"c{i}": own[4:]}
        return named

    def theta(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...]) -> Tensor:
        """Logits of the next layer."""
        i = len(samples) + 1
        if i == 1:
            x = torch.linspace(-0.8, 1.2, self.batch, dtype=weights["c1"].dtype, device=weights["c1"].device)
            return weights["c1"] + x[:, None]
        return (2 * samples[-1] - 1) @ weights[f"w{i}"].T + weights[f"c{i}"]

    def loss(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...], thetas: tuple[Tensor, ...]) -> Tensor:
        """Couples the last two layers."""
        a, b = samples[2], samples[3]
        return (b[..., 0] - b[..., 1] * a[..., 0] + 0.4 * a[..., 1] - 0.2).square()
