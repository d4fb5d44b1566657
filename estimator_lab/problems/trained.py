"""Networks on images that train themselves."""

import abc
import inspect
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import ClassVar, Protocol, Self

import torch
from torch import Tensor

from estimator_lab.cache import cached
from estimator_lab.moments import Array
from estimator_lab.noise import derive_seed
from estimator_lab.problem import Problem
from estimator_lab.problems.images import Images
from estimator_lab.site import SiteSpec


@dataclass(frozen=True)
class TrainedNetwork(Problem):
    """A network on images whose weights it trains itself, deterministically from its seed.

    Training is plain: Adam on 100 examples a step, in float64, on a generator of its own, with the gradient of
    ``surrogate``. The weights are kept in the cache's folder under all that they follow from: the recipe, the data, the
    source of the class, the version of torch.

    The examples that gradients are measured on are the last ones of the data, which training never sees.

    A subclass states its images, its sites, the shapes of its weights, and its two functions at given examples.
    """

    batch: int = 16
    steps: int = 300
    seed: int = 0
    dtype: torch.dtype = field(default=torch.float64, repr=False)

    rate: ClassVar[float] = 3e-3

    @property
    @abc.abstractmethod
    def images(self) -> Images:
        """What it is trained and measured on."""

    @abc.abstractmethod
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the weights; a matrix is ``[out, in]``."""

    @abc.abstractmethod
    def theta_at(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...], x: Tensor) -> Tensor:
        """Parameters of the next site at images ``x`` ``[B, pixels]``."""

    @abc.abstractmethod
    def loss_at(
        self,
        weights: Mapping[str, Tensor],
        samples: tuple[Tensor, ...],
        thetas: tuple[Tensor, ...],
        x: Tensor,
        y: Tensor,
    ) -> Tensor:
        """Loss ``[B]`` at images ``x`` ``[B, pixels]`` with labels ``y`` ``[B]``."""

    def prepared(self, x: Tensor) -> Tensor:
        """What becomes of images before they are used; by default nothing."""
        return x

    def recipe(self) -> Self:
        """The problem whose training gives these weights; equal recipes share them."""
        kind = type(self)
        return replace(self, batch=kind.batch, dtype=kind.dtype)

    def initial(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Weights before training: normal with variance one over the number of inputs, zero for biases."""
        weights = {}
        for name, shape in self.shapes().items():
            scale = math.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 0.0
            weights[name] = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
        return weights

    def weights(self) -> Mapping[str, Tensor]:
        """Trained weights; the first call trains, later ones reuse the result."""
        return {k: v.to(self.dtype) for k, v in trained(self.recipe(), self.images.digest).items()}

    def theta(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...]) -> Tensor:
        """Parameters of the next site at the measured examples."""
        return self.theta_at(weights, samples, self.examples(weights)[0])

    def loss(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...], thetas: tuple[Tensor, ...]) -> Tensor:
        """Loss of each measured example."""
        return self.loss_at(weights, samples, thetas, *self.examples(weights))

    def examples(self, weights: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The measured images and labels, in the dtype and on the device of the weights.

        Raises:
            UsageError: more are asked for than are held out.
        """
        x, y = self.images.last(self.batch, next(iter(weights.values())))
        return self.prepared(x), y

    def train(self) -> dict[str, Tensor]:
        """Trains from the beginning; touches no global state."""
        images = self.images
        generator = torch.Generator().manual_seed(derive_seed(images.name, type(self).__name__, self.seed))
        weights = {k: v.requires_grad_() for k, v in self.initial(generator).items()}
        like = next(iter(weights.values())).detach()
        optimiser = torch.optim.Adam(list(weights.values()), self.rate)
        with torch.enable_grad():
            for _ in range(self.steps):
                x, y = images.rows(torch.randint(images.training, (100,), generator=generator), like)
                optimiser.zero_grad()
                self.surrogate(weights, self.prepared(x), y, generator).backward()
                optimiser.step()
        return {k: v.detach() for k, v in weights.items()}

    def surrogate(self, weights: Mapping[str, Tensor], x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        """A scalar whose gradient training follows.

        By default a discrete layer is passed straight through (the hard sample forward, the derivative of its mean
        backward) and any other one pathwise.
        """
        samples: tuple[Tensor, ...] = ()
        thetas: tuple[Tensor, ...] = ()
        for site in self.sites:
            theta = self.theta_at(weights, samples, x)
            if site.family.discrete:
                hard, mean = drawn(site, theta.detach(), generator), site.family.mean(theta)
                value = hard + mean - mean.detach()
            else:
                value = drawn(site, theta, generator)
            samples, thetas = (*samples, value), (*thetas, theta)
        return self.loss_at(weights, samples, thetas, x, y).mean()


def drawn(site: SiteSpec, theta: Tensor, generator: torch.Generator) -> Tensor:
    """A sample of a layer, drawn from a generator."""
    draw = torch.rand if site.family.noise == "uniform" else torch.randn
    shape = theta.shape[: theta.dim() - len(site.family.theta_shape)]
    return site.family.sample(theta, draw(shape, generator=generator, dtype=theta.dtype))


class Trainable(Protocol):
    """A network that trains itself; equal ones train to equal weights."""

    def train(self) -> Mapping[str, Tensor]:
        """Weights in float64."""


@lru_cache(maxsize=16)
def trained(network: Trainable, data: str, *others: object) -> dict[str, Tensor]:
    """The weights of a network, trained once and kept under all that they follow from.

    That is its repr, the data's digest, torch's version, and the source of the files that its class and those it
    inherits from are in, and of other functions or classes. Where a source is not at hand, nothing is kept.
    """

    def make() -> dict[str, Array]:
        return {k: v.numpy() for k, v in network.train().items()}

    kinds = [k for k in type(network).__mro__ if issubclass(k, Problem) and k is not Problem]
    try:
        files = dict.fromkeys(k.__module__ for k in kinds)
        source = "\n".join(map(inspect.getsource, (*(sys.modules[file] for file in files), *kinds, *others)))  # type: ignore[arg-type]
    except (OSError, TypeError, KeyError):  # defined where no file is
        return {k: torch.from_numpy(v) for k, v in make().items()}
    identity = "\n".join([repr(network), str(torch.float64), torch.__version__, data, source])
    return {k: torch.from_numpy(v) for k, v in cached("weights", identity, make).items()}
