"""Modules on images that train themselves."""

import abc
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from estimator_lab.nn import ModuleProblem, Stochastic, from_module
from estimator_lab.noise import derive_seed, forked
from estimator_lab.problem import Problem
from estimator_lab.problems.images import Images, at_hand, load
from estimator_lab.problems.trained import trained
from estimator_lab.site import SiteSpec


@dataclass(frozen=True)
class TrainedModule(Problem):
    """A classifier of images that is a torch module with stochastic layers; loss = cross entropy.

    It is run by ``from_module``. Training is plain: Adam on 100 examples a step, in float64, the module as it stands,
    so that its stochastic layers are passed straight through. Random numbers come from a stream of its own. The weights
    are kept in the cache's folder under all that they follow from: the recipe, the data, the source of the class, the
    version of torch.

    The examples that gradients are measured on are the last ones of the data, which training never sees.

    A subclass builds its module, in float64 and without state that training changes besides the parameters.

    Args:
        batch: examples that gradients are measured on.
        steps: training steps.
        seed: of initialisation and training.
        dtype: of the computation.
        data: ``"digits"`` or ``"mnist"``; by default MNIST where ``ESTIMATOR_LAB_DATA`` names its folder.

    Raises:
        UsageError: data that is not at hand, or more examples than are held out.
    """

    batch: int = 16
    steps: int = 300
    seed: int = 0
    dtype: torch.dtype = field(default=torch.float64, repr=False)
    data: str = ""

    rate: ClassVar[float] = 1e-2

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", self.data or at_hand())

    @abc.abstractmethod
    def module(self) -> nn.Module:
        """The module before training: from images ``[B, pixels]`` between 0 and 1 to the logits of ten classes."""

    @property
    def images(self) -> Images:
        """What it is trained and measured on."""
        return load(self.data)

    @property
    def sites(self) -> tuple[SiteSpec, ...]:  # type: ignore[override]
        """One for each visit of a stochastic layer."""
        return self._run.sites

    @property
    def foldable(self) -> bool:  # type: ignore[override]
        """True where the module could be cut at its stochastic layers."""
        return self._run.foldable

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Why the module could not be cut, if so."""
        return self._run.notes

    @property
    def _run(self) -> ModuleProblem:
        return _problem(self, self.dtype, torch.device("cpu"))

    def _at(self, weights: Mapping[str, Tensor]) -> ModuleProblem:
        like = next(iter(weights.values()))
        return _problem(self, like.dtype, like.device)

    def weights(self) -> Mapping[str, Tensor]:
        """Trained weights; the first call trains, later ones reuse the result."""
        return {k: v.to(self.dtype) for k, v in trained(self.recipe(), self.images.digest, Stochastic).items()}

    def theta(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...]) -> Tensor:
        """What the module gives to its next stochastic layer."""
        return self._at(weights).theta(weights, samples)

    def loss(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...], thetas: tuple[Tensor, ...]) -> Tensor:
        """Cross entropy of each measured example."""
        return self._at(weights).loss(weights, samples, thetas)

    def begin(self, weights: Mapping[str, Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The module up to its first stochastic layer."""
        return self._at(weights).begin(weights)

    def advance(
        self, weights: Mapping[str, Tensor], carry: tuple[Tensor, ...], samples: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The module from one stochastic layer to the next."""
        return self._at(weights).advance(weights, carry, samples)

    def finish(
        self,
        weights: Mapping[str, Tensor],
        carry: tuple[Tensor, ...],
        samples: tuple[Tensor, ...],
        thetas: tuple[Tensor, ...],
    ) -> Tensor:
        """The module from its last stochastic layer to the loss."""
        return self._at(weights).finish(weights, carry, samples, thetas)

    def recipe(self) -> Self:
        """The problem whose training gives these weights; equal recipes share them."""
        kind = type(self)
        return replace(self, batch=kind.batch, dtype=kind.dtype)

    def initial(self) -> nn.Module:
        """The module with the weights that training begins from; touches no global state."""
        with forked(derive_seed("initial", self.data, type(self).__name__, self.seed)):
            return self.module()

    def train(self) -> dict[str, Tensor]:
        """Trains from the beginning; touches no global state."""
        images, module = self.images, self.initial()
        weights = {k: v for k, v in module.named_parameters() if v.requires_grad}
        like = next(iter(weights.values())).detach()
        optimiser = torch.optim.Adam(list(weights.values()), self.rate)
        with torch.enable_grad(), forked(derive_seed("train", self.data, type(self).__name__, self.seed)):
            for _ in range(self.steps):
                x, y = images.rows(torch.randint(images.training, (100,)), like)
                optimiser.zero_grad()
                cross_entropy(module(x), y).backward()
                optimiser.step()
        return {k: v.detach() for k, v in weights.items()}


@lru_cache(maxsize=32)
def _problem(network: TrainedModule, dtype: torch.dtype, device: torch.device) -> ModuleProblem:
    """The module's functions; its sites do not depend on the weights, so that nothing is trained for them."""
    x, y = network.images.last(network.batch, torch.empty(0, dtype=dtype, device=device))
    module = network.initial().to(device, dtype)
    return from_module(module, _losses, (x, y), name=network.label)


def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy ``[B]``."""
    return cross_entropy(logits, labels, reduction="none")
