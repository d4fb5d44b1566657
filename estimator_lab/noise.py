"""Where random numbers come from: draws, or the nodes of a product quadrature."""

import abc
import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


class Part(Noise):
    """Some replicates' share of the numbers that a whole block of replicates draws.

    All numbers of the block are drawn and those of the others dropped: a block gives the same draws in however many
    parts it is walked.

    Args:
        noise: draws for the block, begun anew for every part.
        start: first replicate of the part.
        whole: replicates of the block.
    """

    def __init__(self, noise: Noise, start: int, whole: int):
        self.noise, self.start, self.whole = noise, start, whole

    def _like(self, like: Tensor, axis: int) -> Tensor:
        shape = list(like.shape)
        shape[axis] = self.whole
        return like.new_empty(()).expand(shape)

    def uniform(self, like: Tensor, axis: int, jumps: Callable[[], Tensor]) -> Tensor:
        """The part's share of uniform numbers."""
        return self.noise.uniform(self._like(like, axis), axis, jumps).narrow(axis, self.start, like.shape[axis])

    def normal(self, like: Tensor, axis: int) -> Tensor:
        """The part's share of normal numbers."""
        return self.noise.normal(self._like(like, axis), axis).narrow(axis, self.start, like.shape[axis])


@lru_cache
def _legendre(nodes: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gauss-Legendre nodes and weights on (0, 1)."""
    x, w = np.polynomial.legendre.leggauss(nodes)
    return (x + 1) / 2, w / 2


@lru_cache
def _lobatto(nodes: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gauss-Lobatto nodes and weights on [0, 1], both ends among them; exact to degree 2 nodes - 3."""
    last = np.polynomial.legendre.Legendre.basis(nodes - 1)
    x = np.concatenate([[-1.0], np.sort(last.deriv().roots().real), [1.0]])
    w = 1 / last(x) ** 2
    return (x + 1) / 2, w / w.sum()


class ProductRule(Noise):
    """Replicates are the nodes of a product quadrature over all random numbers that one replicate asks for.

    A uniform number is integrated by Gauss-Legendre nodes on every piece between its jumps, a normal number by
    Gauss-Hermite nodes. With one node per piece the rule is exact for functions that are constant on the pieces; smooth
    functions converge geometrically in ``nodes``. The number of replicates is the product over all numbers asked for,
    so the rule is for a handful of units. Replicates past the last one begin again with the first.

    Two other rules show whether the first one is right. With ``places`` the one node of a piece lies anywhere on it, a
    quarter of the time at either end, drawn anew for every number of every point: a function that is constant on the
    pieces does not change. With ``check`` uniform numbers have ``nodes + 1`` Gauss-Lobatto nodes (as exact, no node in
    common, and both ends of the piece), normal ones ``3 nodes / 4`` Gauss-Hermite nodes.

    Use: walk once with ``ProductRule(nodes)`` and one replicate to learn ``sizes``, then with the replicates
    ``start..stop`` of ``ProductRule(nodes, sizes, start, stop)``; ``weight`` then holds one weight per replicate.

    Args:
        nodes: nodes per piece (uniform) or in all (normal).
        sizes: points per random number, in the order they are asked for, from the first walk; None to learn them.
        start: first replicate of the product grid.
        stop: one past the last.
        places: draws where the node of a piece lies, for ``nodes = 1``; the middle by default.
        check: take the rule that checks the one without it.

    Attributes:
        weight: ``[stop - start]`` weights, complete after the walk.
        normals: how many of the numbers asked for were normal.
    """

    def __init__(
        self,
        nodes: int,
        sizes: tuple[int, ...] | None = None,
        start: int = 0,
        stop: int = 1,
        *,
        places: torch.Generator | None = None,
        check: bool = False,
    ):
        if places is not None and nodes != 1:
            raise ValueError(f"a node has its place on a piece to itself; found {nodes} nodes per piece")
        self.nodes, self.places, self.check = nodes, places, check
        self.learning = sizes is None
        self.sizes = list(sizes or ())
        self.normals = 0
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
        x, w = (torch.as_tensor(a) for a in (_lobatto(self.nodes + 1) if self.check else _legendre(self.nodes)))
        digits, shape = self._digits(like, axis, (edges.shape[-1] + 1) * len(x))
        flat = edges.expand(*like.shape, -1).movedim(axis, 0).reshape(*digits.shape, edges.shape[-1]).double().cpu()
        edges = torch.cat([flat.new_zeros(*digits.shape, 1), flat, flat.new_ones(*digits.shape, 1)], -1)
        piece, node = digits // len(x), digits % len(x)
        low = edges.gather(-1, piece[..., None])[..., 0]
        high = edges.gather(-1, piece[..., None] + 1)[..., 0]
        length = high - low
        self.weight = self.weight * (length * w[node]).prod(1)
        u = low + length * (x[node] if self.places is None else self._anywhere(digits.shape, self.places))
        if self.check or self.places is not None:  # on a jump itself rounding would choose the piece
            inside = (4 * torch.finfo(like.dtype).eps * torch.ones_like(u)).minimum(length / 2)
            u = u.maximum(low + inside).minimum(high - inside)
        return u.to(like).reshape(shape).movedim(0, axis)

    @staticmethod
    def _anywhere(shape: torch.Size, generator: torch.Generator) -> Tensor:
        """Uniform in (0, 1), but with probability 1/4 each 0 and 1."""
        u = torch.rand(shape, generator=generator, dtype=torch.float64)
        return (2 * u - 0.5).clamp(0, 1)

    def normal(self, like: Tensor, axis: int) -> Tensor:
        """Gauss-Hermite nodes."""
        x, w = (torch.as_tensor(a) for a in hermite(3 * self.nodes // 4 if self.check else self.nodes))
        digits, shape = self._digits(like, axis, len(x))
        self.normals += digits.shape[1]
        self.weight = self.weight * w[digits].prod(1)
        return x[digits].to(like).reshape(shape).movedim(0, axis)


class Sections(Noise):
    """Draws with short sections through them: along one of their numbers, within its piece, at Gauss-Legendre nodes.

    A function that is smooth in its numbers is predicted at the draw by the polynomial through the nodes of its
    section; one that jumps there is not. Replicates come in sections of ``nodes + 1``: the nodes, and last the draw.

    Args:
        sections: how many.
        numbers: how many random numbers a replicate asks for.
        generator: draws everything.
        nodes: per section.

    Attributes:
        basis: ``[sections, nodes]``: what the nodes contribute to the prediction, complete after the walk.
    """

    def __init__(self, sections: int, numbers: int, generator: torch.Generator, nodes: int = 16):
        self.sections, self.generator, self.nodes = sections, generator, nodes
        self.along = torch.randint(numbers, (sections, 1), generator=generator)
        self.basis = torch.zeros(sections, nodes, dtype=torch.float64)
        self._used = 0

    def _section(self, draw: Tensor, low: Tensor, high: Tensor, width: Tensor) -> Tensor:
        """Numbers ``[sections, nodes + 1, M]`` given draws and limits ``[sections, M]``."""
        start = draw - width * torch.rand(draw.shape, generator=self.generator, dtype=torch.float64)
        start = start.maximum(low).minimum(high - width)
        x, w = (torch.as_tensor(a) for a in _legendre(self.nodes))
        own = self.along == self._used + torch.arange(draw.shape[1])
        self._used += draw.shape[1]
        place = (((draw - start) / width) * own).sum(1)
        signs = (-1.0) ** torch.arange(self.nodes)
        terms = signs * (x * (1 - x) * w).sqrt() / (place[:, None] - x + 1e-14)  # barycentric
        self.basis = torch.where(own.any(1)[:, None], terms / terms.sum(1, keepdim=True), self.basis)
        moved = start[:, None] + width[:, None] * x[:, None]
        found = torch.where(own[:, None], moved, draw[:, None])
        return torch.cat([found, draw[:, None]], 1)

    def uniform(self, like: Tensor, axis: int, jumps: Callable[[], Tensor]) -> Tensor:
        """Draws, and sections over a quarter of their piece."""
        shape = like.movedim(axis, 0).shape
        edges = jumps().detach()
        count = edges.shape[-1]
        flat = edges.expand(*like.shape, -1).movedim(axis, 0).reshape(self.sections, self.nodes + 1, -1, count)
        flat = flat[:, -1].double().cpu()
        eps = 4 * torch.finfo(like.dtype).eps
        u = torch.rand(flat.shape[:2], generator=self.generator, dtype=torch.float64)
        below = flat <= u[..., None]
        low = torch.where(below, flat, 0.0).amax(-1) if count else torch.zeros_like(u)
        high = torch.where(below, 1.0, flat).amin(-1) if count else torch.ones_like(u)
        inside = ((high - low) / 4).clamp(max=eps)  # on a jump itself rounding would choose the piece
        low, high = low + inside, high - inside
        found = self._section(u.maximum(low).minimum(high), low, high, (high - low) / 4)
        return found.reshape(shape[0], -1).to(like).reshape(shape).movedim(0, axis)

    def normal(self, like: Tensor, axis: int) -> Tensor:
        """Draws, and sections of length two."""
        shape = like.movedim(axis, 0).shape
        z = torch.randn(self.sections, math.prod(shape[1:]), generator=self.generator, dtype=torch.float64)
        far = torch.full_like(z, math.inf)
        found = self._section(z, -far, far, torch.full_like(z, 2.0))
        return found.reshape(shape[0], -1).to(like).reshape(shape).movedim(0, axis)


class NoNoise(Noise):
    """For computations that must not draw, such as exact sums."""

    def uniform(self, like: Tensor, axis: int, jumps: Callable[[], Tensor]) -> Tensor:
        """Refuses."""
        raise TypeError("an exact computation asked for random numbers")

    def normal(self, like: Tensor, axis: int) -> Tensor:
        """Refuses."""
        raise TypeError("an exact computation asked for random numbers")


@contextmanager
def forked(seed: int) -> Iterator[None]:
    """Runs with torch's global random streams seeded, for code that draws from them, and puts them back afterwards.

    Not ``torch.manual_seed``, which formats a stack trace at every call; CUDA's streams are touched only once in use.
    """
    cuda = torch.cuda.is_initialized()
    state = torch.get_rng_state()
    states = torch.cuda.get_rng_state_all() if cuda else []
    try:
        torch.default_generator.manual_seed(seed)
        if cuda:
            torch.cuda.manual_seed_all(seed)
        yield
    finally:
        torch.set_rng_state(state)
        if cuda:
            torch.cuda.set_rng_state_all(states)
