"""The smallest problem of the field."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from estimator_lab.families import Bernoulli
from estimator_lab.problem import OneSite


@dataclass(frozen=True)
class OneBit(OneSite):
    """``f(b) = (b - t)^2`` of one Bernoulli bit; exact gradient p (1 - p) (1 - 2 t).

    Reference: Tucker et al. 2017 (arXiv:1703.07370) with t = 0.45, Grathwohl et al. 2018 (arXiv:1711.00123) with 0.499.

    Args:
        logit: of the bit; the default is p = 0.2, since at p = 1/2 many mistakes cannot be seen.
        target: t.
        dtype: of the computation.
    """

    logit: float = -1.3862943611198906
    target: float = 0.45
    dtype: torch.dtype = field(default=torch.float64, repr=False)

    family = Bernoulli()
    label = "one bit"

    def weights(self) -> Mapping[str, Tensor]:
        """The logit."""
        return {"theta": torch.tensor([self.logit], dtype=self.dtype)}

    def f(self, x: Tensor) -> Tensor:
        """``(b - t)^2``."""
        return (x - self.target).square().sum(-1)
