"""Two stochastic layers."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from estimator_lab.families import Bernoulli
from estimator_lab.problem import Problem
from estimator_lab.site import SiteSpec


@dataclass(frozen=True)
class TwoLayer(Problem):
    """A 4-3-2 network of Bernoulli units: h1 given x, h2 given h1, loss (v . h2 - 0.3)^2 + 0.1 |theta_1|^2.

    The last term lets the loss depend on a theta directly, as an entropy or a sparsity penalty does. The weights are
    fixed numbers without symmetry.

    Args:
        batch: number of examples.
        dtype: of the computation.
    """

    batch: int = 2
    dtype: torch.dtype = field(default=torch.float64, repr=False)

    sites = (SiteSpec("h1", Bernoulli(), (3,)), SiteSpec("h2", Bernoulli(), (2,)))
    label = "two layers"

    def weights(self) -> Mapping[str, Tensor]:
        """``w1 [3, 4]``, ``w2 [2, 3]``, ``v [2]``."""
        numbers = torch.arange(1, 21, dtype=torch.float64)
        numbers = (1.7 * numbers + 0.11 * numbers.square()).sin().to(self.dtype) * 1.5
        return {"w1": numbers[:12].reshape(3, 4), "w2": numbers[12:18].reshape(2, 3), "v": numbers[18:]}

    def theta(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...]) -> Tensor:
        """Logits of the next layer."""
        if not samples:
            x = torch.linspace(-1, 1, 4 * self.batch, dtype=weights["w1"].dtype, device=weights["w1"].device)
            return x.reshape(self.batch, 4) @ weights["w1"].T
        return samples[0] @ weights["w2"].T

    def loss(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...], thetas: tuple[Tensor, ...]) -> Tensor:
        """Squared error and a penalty on the first logits."""
        return (samples[1] @ weights["v"] - 0.3).square() + 0.1 * thetas[0].square().sum(-1)
