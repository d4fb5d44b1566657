"""A transformer block with a mixture of experts whose routing is drawn."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from estimator_lab.errors import UsageError
from estimator_lab.families import Categorical
from estimator_lab.nn import Stochastic
from estimator_lab.problems.trained_module import TrainedModule

MASK = 30.0
"""What the logit of a chosen expert is lowered by."""


@dataclass(frozen=True)
class Router(TrainedModule):
    """A transformer block over patches of an image; each patch is routed to k of E experts. Loss = cross entropy.

    Patches are embedded and attend to each other. Then, for every patch, k experts are drawn one after the other
    without replacement from a softmax of logits affine in the patch's features, and the mean of their outputs is added.
    Features are averaged over patches and classified. Before attention, experts and classifier there is a layer norm.

    Each draw is a site, ``route[0]``, ``route[1]``, ..., of one categorical unit per patch. All experts are computed,
    and a choice is a one-hot vector of factors. What a draw has chosen has its logit lowered by 30 in the draws that
    follow, so that its odds fall by exp(-30), about 1e-13. This is linear in the choice, and the derivative passes:
    estimators that relax a choice (REBAR) are unbiased only if the loss is differentiated whole. Estimators that pass a
    choice straight through meet that slope of 30 and are biased by it.

    Reference: Shazeer, Mirhoseini, Maziarz, Davis, Le, Hinton, Dean 2017, arXiv:1701.06538; draws without replacement,
    Kool, van Hoof, Welling 2019, arXiv:1903.06059.

    Args:
        batch: examples that gradients are measured on.
        steps: training steps.
        seed: of initialisation and training.
        dtype: of the computation.
        data: ``"digits"`` or ``"mnist"``; by default MNIST where ``ESTIMATOR_LAB_DATA`` names its folder.
        patch: height and width of a patch; by default 4 for the digits (4 patches), 7 for MNIST (16 patches).
        width: features of a patch.
        heads: of the attention; they divide the width.
        experts: E.
        chosen: k, less than E.

    Raises:
        UsageError: sizes that do not fit.
    """

    steps: int = 100
    patch: int = 0
    width: int = 16
    heads: int = 2
    experts: int = 4
    chosen: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "patch", self.patch or (7 if self.data == "mnist" else 4))
        if self.patch < 1 or self.images.side % self.patch:
            raise UsageError(f"patches divide an image of side {self.images.side}; found patch={self.patch}")
        if min(self.width, self.heads) < 1 or self.width % self.heads:
            raise UsageError(f"heads divide the width; found width={self.width}, heads={self.heads}")
        if not 0 < self.chosen < self.experts:
            raise UsageError(
                "a patch goes to at least one expert and not to all; found "
                f"chosen={self.chosen}, experts={self.experts}"
            )

    def module(self) -> nn.Module:
        """The block with its embedding and its classifier."""
        return _Block(self.images.side, self.patch, self.width, self.heads, self.experts, self.chosen)

    @property
    def label(self) -> str:
        """The sizes."""
        patches = (self.images.side // self.patch) ** 2
        return f"router, {patches} patches to {self.chosen} of {self.experts} experts"


class _Block(nn.Module):
    """Attention, then experts."""

    def __init__(self, side: int, patch: int, width: int, heads: int, experts: int, chosen: int) -> None:
        super().__init__()
        double = torch.float64
        self.chosen = chosen
        self.patches = _Patches(side, patch)
        self.embedding = nn.Linear(patch**2, width, dtype=double)
        self.place = nn.Parameter(torch.randn((side // patch) ** 2, width, dtype=double))
        self.norm1 = nn.LayerNorm(width, dtype=double)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True, dtype=double)
        self.norm2 = nn.LayerNorm(width, dtype=double)
        self.gate = nn.Linear(width, experts, dtype=double)
        self.route = Stochastic(Categorical(experts))
        self.experts = nn.ModuleList(
            nn.Sequential(
                nn.Linear(width, 2 * width, dtype=double), nn.GELU(), nn.Linear(2 * width, width, dtype=double)
            )
            for _ in range(experts)
        )
        self.norm3 = nn.LayerNorm(width, dtype=double)
        self.classes = nn.Linear(width, 10, dtype=double)

    def forward(self, x: Tensor) -> Tensor:
        features = self.embedding(self.patches(x)) + self.place
        normed = self.norm1(features)
        features = features + self.attention(normed, normed, normed, need_weights=False)[0]
        normed = self.norm2(features)
        outputs = torch.stack([expert(normed) for expert in self.experts], -2)  # [B, patches, E, width]
        logits = self.gate(normed)
        for _ in range(self.chosen):
            choice = self.route(logits)  # [B, patches, E]
            logits = logits - MASK * choice
            features = features + (choice[..., None] * outputs).sum(-2) / self.chosen
        classes: Tensor = self.classes(self.norm3(features.mean(1)))
        return classes


class _Patches(nn.Module):
    """``[B, side * side] -> [B, patches, patch * patch]``."""

    def __init__(self, side: int, patch: int) -> None:
        super().__init__()
        self.shape = (side // patch, patch, side // patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        places: Tensor = x.unflatten(1, self.shape)
        return places.transpose(2, 3).flatten(3, 4).flatten(1, 2)
