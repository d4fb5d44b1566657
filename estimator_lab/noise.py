"""Where random numbers come from: draws, or the nodes of a product quadrature."""

import abc
import hashlib
import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from estimator_lab.errors import TooLarge
from estimator_lab.families.normal import hermite


def derive_seed(*names: object) -> int:
    """A 63-bit seed from names and indices: the same on every machine, whatever the order or number of workers."""
    text = "\x1f".join(str(name) for name in names)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class Noise(abc.ABC):
    """Hands out random numbers for tensors ``[*extra, K, R, B, *units]`` whose replicate axis has index ``axis``."""

    @abc.abstractmethod
    def uniform(self, like: Tensor, axis: int, jumps: Callable[[], Tensor]) -> Tensor:
        """Numbers in [0, 1) shaped like ``like``.

        Args:
            like: gives shape, dtype and device.
            axis: index of the replicate axis.
            jumps: gives ``[*like.shape, J]``, sorted: where the caller's result may jump as a function of the number;
                called by rules only.
        """

    @abc.abstractmethod
    def normal(self, like: Tensor, axis: int) -> Tensor:
        """Standard normal numbers shaped like ``like``."""


class MonteCarlo(Noise):
    """Independent draws from a generator of its own; no global random stream is touched.

    Args:
        *names: what the seed is derived from, for example (seed, problem, estimator, block index).
        device: where the generator lives.

    Attributes:
        used: whether any number was drawn.
    """

    def __init__(self, *names: object, device: torch.device | str = "cpu"):
        self.generator = torch.Generator(device).manual_seed(derive_seed(*names))
        self.used = False

    def uniform(self, like: Tensor, axis: int, jumps: Callable[[], Tensor]) -> Tensor:
        """Uniform draws."""
        self.used = True
        return torch.rand(like.shape, generator=self.generator, dtype=like.dtype, device=like.device)

    def normal(self, like: Tensor, axis: int) -> Tensor:
        """Standard normal draws."""
        self.used = True
        return torch.randn(like.shape, generator=self.generator, dtype=like.dtype, device=like.device)


@lru_cache
def _legendre(nodes: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gauss-Legendre nodes and weights on (0, 1)."""
    x, w = np.polynomial.legendre.leggauss(nodes)
    return (x + 1) / 2, w / 2


class ProductRule(Noise):
    """Replicates are the nodes of a product quadrature over all random numbers that one replicate asks for.

    A uniform number is integrated by Gauss-Legendre nodes on every piece between its jumps, a normal number by
    Gauss-Hermite nodes. With one node per piece the rule is exact for functions that are constant on the pieces; smooth
    functions converge geometrically in ``nodes``. The number of replicates is the product over all numbers asked for,
    so the rule is for a handful of units.

    Use: walk once with ``ProductRule(nodes)`` and one replicate to learn ``sizes``, then with the replicates
    ``start..stop`` of ``ProductRule(nodes, sizes, start, stop)``; ``weight`` then holds one weight per replicate.

    Args:
        nodes: nodes per piece (uniform) or in all (normal).
        sizes: points per random number, in the order they are asked for, from the first walk.
        start: first replicate of the product grid.
        stop: one past the last.
    """

    def __init__(self, nodes: int, sizes: tuple[int, ...] = (), start: int = 0, stop: int = 1):
        self.nodes = nodes
        self.learning = not sizes
        self.sizes = list(sizes)
        self._index = torch.arange(start, stop)
        self._used = 0
        self._stride = 1
        self.weight = torch.ones(stop - start, dtype=torch.float64)

    @property
    def total(self) -> int:
        """Number of points of the whole product grid."""
        return math.prod(self.sizes)

    def _digits(self, like: Tensor, axis: int, size: int) -> tuple[Tensor, torch.Size]:
        """The grid index ``[R, M]`` of each of the M numbers that every replicate asks for now."""
        shape = like.movedim(axis, 0).shape
        count = math.prod(shape[1:])
        if self.learning:
            self.sizes += [size] * count
            return torch.zeros(shape[0], count, dtype=torch.long), shape
        if self.sizes[self._used : self._used + count] != [size] * count:
            raise TooLarge(
                "exact moments need an estimator that asks for the same random numbers at every call; "
                "measure this one by sampling (estimator_lab.measure)"
            )
        digits = []
        for _ in range(count):
            digits.append(self._index // self._stride % size)
            self._stride *= size
        self._used += count
        return torch.stack(digits, 1) if digits else torch.zeros(shape[0], 0, dtype=torch.long), shape

    def uniform(self, like: Tensor, axis: int, jumps: Callable[[], Tensor]) -> Tensor:
        """Gauss-Legendre nodes on the pieces between the jumps."""
        edges = jumps().detach()
        digits, shape = self._digits(like, axis, (edges.shape[-1] + 1) * self.nodes)
        x, w = (torch.as_tensor(a) for a in _legendre(self.nodes))
        flat = edges.expand(*like.shape, -1).movedim(axis, 0).reshape(*digits.shape, edges.shape[-1]).double()
        edges = torch.cat([flat.new_zeros(*digits.shape, 1), flat, flat.new_ones(*digits.shape, 1)], -1)
        piece, node = digits // self.nodes, digits % self.nodes
        low = edges.gather(-1, piece[..., None])[..., 0]
        length = edges.gather(-1, piece[..., None] + 1)[..., 0] - low
        self.weight = self.weight * (length * w[node]).prod(1)
        return (low + length * x[node]).to(like).reshape(shape).movedim(0, axis)

    def normal(self, like: Tensor, axis: int) -> Tensor:
        """Gauss-Hermite nodes."""
        digits, shape = self._digits(like, axis, self.nodes)
        x, w = (torch.as_tensor(a) for a in hermite(self.nodes))
        self.weight = self.weight * w[digits].prod(1)
        return x[digits].to(like).reshape(shape).movedim(0, axis)


class NoNoise(Noise):
    """For computations that must not draw, such as exact sums."""

    def uniform(self, like: Tensor, axis: int, jumps: Callable[[], Tensor]) -> Tensor:
        """Refuses."""
        raise TypeError("an exact computation asked for random numbers")

    def normal(self, like: Tensor, axis: int) -> Tensor:
        """Refuses."""
        raise TypeError("an exact computation asked for random numbers")
