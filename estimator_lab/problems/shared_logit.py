"""Three bits that share one logit."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from estimator_lab.families import Categorical
from estimator_lab.problem import Problem
from estimator_lab.site import SiteSpec


@dataclass(frozen=True)
class SharedLogit(Problem):
    """``f(x) = |x - p0|^2`` of three bits with one common logit, drawn as one 8-way categorical variable.

    Reference: Liu, Regier, Tripuraneni, Jordan, McAuliffe 2019 (arXiv:1810.04777); Kool, van Hoof, Welling 2020
    (arXiv:2002.06043).

    Args:
        logit: the common logit.
        centre: p0.
        dtype: of the computation.
    """

    logit: float = 0.6
    centre: tuple[float, ...] = (0.6, 0.51, 0.48)
    dtype: torch.dtype = field(default=torch.float64, repr=False)

    batch = 1
    label = "shared logit"

    @property
    def sites(self) -> tuple[SiteSpec, ...]:  # type: ignore[override]
        """One unit of 2^n classes."""
        return (SiteSpec("x", Categorical(2 ** len(self.centre)), (1,)),)

    def _states(self, like: Tensor) -> Tensor:
        return like.new_tensor(list(itertools.product((0.0, 1.0), repeat=len(self.centre))))

    def weights(self) -> Mapping[str, Tensor]:
        """The logit, a scalar."""
        return {"logit": torch.tensor(self.logit, dtype=self.dtype)}

    def theta(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...]) -> Tensor:
        """Log-probability of each joint state."""
        ones = self._states(weights["logit"]).sum(-1)
        zeros = len(self.centre) - ones
        return (ones * logsigmoid(weights["logit"]) + zeros * logsigmoid(-weights["logit"]))[None, None]

    def loss(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...], thetas: tuple[Tensor, ...]) -> Tensor:
        """Squared distance of the chosen state to the centre, linear in the one-hot vector."""
        states = self._states(samples[0])
        return (samples[0] @ (states - states.new_tensor(self.centre)).square().sum(-1))[..., 0]
