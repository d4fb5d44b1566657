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
from estimator_lab.families.quadrature import hermite, legendre, normal_piece


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

    def steps(self, like: Tensor, axis: int, jumps: Callable[[], Tensor]) -> Tensor:
        """Uniform numbers whose use is constant between the jumps, as in samples with finitely many values."""
        return self.uniform(like, axis, jumps)

    @abc.abstractmethod
    def normal(self, like: Tensor, axis: int, jumps: Callable[[], Tensor]) -> Tensor:
        """Standard normal numbers shaped like ``like``; arguments as for uniform ones."""


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

    def normal(self, like: Tensor, axis: int, jumps: Callable[[], Tensor]) -> Tensor:
        """Standard normal draws."""
        self.used = True
        return torch.randn(like.shape, generator=self.generator, dtype=like.dtype, device=like.device)


class Stratified(Noise):
    """A Latin hypercube: of some adjacent replicates, each has every one of its numbers in another equal interval.

    A single replicate keeps its law, independent uniform numbers; replicates of one group depend on each other. The
    variance of a group's mean loses what is a sum of functions of single numbers, and is never more than n / (n - 1)
    times that of n independent draws.

    Reference: McKay, Beckman, Conover 1979 (doi:10.2307/1268522); Owen 1997 (doi:10.1137/S0036142994277468) for the
    bound.

    Args:
        noise: draws uniform numbers.
        strata: replicates of a group, which divides every number of replicates that is asked for.
    """

    def __init__(self, noise: Noise, strata: int):
        self.noise, self.strata = noise, strata

    def uniform(self, like: Tensor, axis: int, jumps: Callable[[], Tensor]) -> Tensor:
        """For every number: the intervals in random order, and a uniform place in each."""
        order, within = (self.noise.uniform(like, axis, jumps) for _ in range(2))
        interval = order.unflatten(axis, (-1, self.strata)).argsort(axis + 1).flatten(axis, axis + 1)
        largest = 1 - torch.finfo(like.dtype).eps / 2  # rounding must not make a one
        found: Tensor = ((interval + within) / self.strata).clamp(max=largest)
        return found

    def normal(self, like: Tensor, axis: int, jumps: Callable[[], Tensor]) -> Tensor:
        """The normal quantiles of uniform numbers."""
        u = self.uniform(like, axis, jumps)
        found: Tensor = torch.special.ndtri(u.clamp(min=torch.finfo(u.dtype).eps / 4))
        return found


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

    def normal(self, like: Tensor, axis: int, jumps: Callable[[], Tensor]) -> Tensor:
        """The part's share of normal numbers."""
        return self.noise.normal(self._like(like, axis), axis, jumps).narrow(axis, self.start, like.shape[axis])


@lru_cache
def _lobatto(nodes: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gauss-Lobatto nodes and weights on [0, 1], both ends among them; exact to degree 2 nodes - 3."""
    last = np.polynomial.legendre.Legendre.basis(nodes - 1)
    x = np.concatenate([[-1.0], np.sort(last.deriv().roots().real), [1.0]])
    w = 1 / last(x) ** 2
    return (x + 1) / 2, w / w.sum()


class ProductRule(Noise):
    """Replicates are the nodes of a product quadrature over all random numbers that one replicate asks for.

    A uniform number is integrated by Gauss-Legendre nodes on every piece between its jumps, or by one node where its
    use is known to be constant on a piece; a normal number by Gauss-Hermite nodes, or where it has jumps by those of
    `normal_piece` on every piece. With one node per piece the rule is exact for functions that are constant on the
    pieces; smooth functions converge geometrically in ``nodes``.
    The number of replicates is the product over all numbers asked for, so the rule is for a handful of units.
    Replicates past the last one begin again with the first.

    Two other rules show whether the first one is right. With ``places`` the one node of a piece lies anywhere on it, a
    quarter of the time at either end, drawn anew for every number of every point: a function that is constant on the
    pieces does not change. With ``check`` uniform numbers have ``nodes + 1`` Gauss-Lobatto nodes (as exact, no node in
    common, and both ends of the piece; where one node is enough, two: the ends), normal ones 3/4 as many nodes.

    Use: walk once with ``ProductRule(nodes)`` and one replicate to learn ``sizes``, then with the replicates
    ``start..stop`` of ``ProductRule(nodes, sizes, start, stop)``; ``weight`` then holds one weight per replicate.

    Args:
        nodes: nodes per piece.
        sizes: points per random number, in the order they are asked for, from the first walk; None to learn them.
        start: first replicate of the product grid.
        stop: one past the last.
        places: draws where the node of a piece lies, for ``nodes = 1``; the middle by default.
        check: take the rule that checks the one without it.

    Attributes:
        weight: ``[stop - start]`` weights, complete after the walk.
        normals: how many of the numbers asked for were normal.
        constants: how many were uniform and of constant use between their jumps.
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
        self.constants = 0
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
        return self._uniform(like, axis, jumps(), self.nodes)[0]

    def steps(self, like: Tensor, axis: int, jumps: Callable[[], Tensor]) -> Tensor:
        """One node on each piece."""
        numbers, count = self._uniform(like, axis, jumps(), 1)
        self.constants += count
        return numbers

    def _uniform(self, like: Tensor, axis: int, edges: Tensor, nodes: int) -> tuple[Tensor, int]:
        """Numbers, and how many there are for each replicate."""
        x, w = (torch.as_tensor(a) for a in (_lobatto(nodes + 1) if self.check else legendre(nodes)))
        digits, shape = self._digits(like, axis, (edges.shape[-1] + 1) * len(x))
        low, high = self._piece(edges, like, axis, digits // len(x), (0.0, 1.0))
        node, length = digits % len(x), high - low
        self.weight = self.weight * (length * w[node]).prod(1)
        u = low + length * (x[node] if self.places is None else self._anywhere(digits.shape, self.places))
        if self.check or self.places is not None:  # on a jump itself rounding would choose the piece
            inside = (4 * torch.finfo(like.dtype).eps * torch.ones_like(u)).minimum(length / 2)
            u = u.maximum(low + inside).minimum(high - inside)
        return u.to(like).reshape(shape).movedim(0, axis), digits.shape[1]

    @staticmethod
    def _piece(
        edges: Tensor, like: Tensor, axis: int, piece: Tensor, ends: tuple[float, float]
    ) -> tuple[Tensor, Tensor]:
        """Limits ``[R, M]`` of the pieces that the numbers are on."""
        flat = edges.detach().expand(*like.shape, -1).movedim(axis, 0).reshape(*piece.shape, edges.shape[-1])
        flat = flat.double().cpu()
        low, high = (flat.new_full((*piece.shape, 1), end) for end in ends)
        edges = torch.cat([low, flat, high], -1)
        return edges.gather(-1, piece[..., None])[..., 0], edges.gather(-1, piece[..., None] + 1)[..., 0]

    @staticmethod
    def _anywhere(shape: torch.Size, generator: torch.Generator) -> Tensor:
        """Uniform in (0, 1), but with probability 1/4 each 0 and 1."""
        u = torch.rand(shape, generator=generator, dtype=torch.float64)
        return (2 * u - 0.5).clamp(0, 1)

    def normal(self, like: Tensor, axis: int, jumps: Callable[[], Tensor]) -> Tensor:
        """Gauss-Hermite nodes, or Gauss-Legendre nodes on the pieces between the jumps."""
        edges = jumps()
        nodes = 3 * self.nodes // 4 if self.check else self.nodes
        digits, shape = self._digits(like, axis, (edges.shape[-1] + 1) * nodes)
        self.normals += digits.shape[1]
        if edges.shape[-1]:
            low, high = self._piece(edges, like, axis, digits // nodes, (-math.inf, math.inf))
            node = (digits % nodes)[None]
            x, w = (t.gather(0, node)[0] for t in normal_piece(low, high, nodes))
        else:
            x, w = (torch.as_tensor(a)[digits] for a in hermite(nodes))
        self.weight = self.weight * w.prod(1)
        return x.to(like).reshape(shape).movedim(0, axis)


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
        x, w = (torch.as_tensor(a) for a in legendre(self.nodes))
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
        return self._numbers(torch.rand, like, axis, jumps(), (0.0, 1.0))

    def normal(self, like: Tensor, axis: int, jumps: Callable[[], Tensor]) -> Tensor:
        """Draws, and sections over a quarter of their piece, or of length two on longer ones."""
        return self._numbers(torch.randn, like, axis, jumps(), (-math.inf, math.inf))

    def _numbers(
        self, draw: Callable[..., Tensor], like: Tensor, axis: int, edges: Tensor, ends: tuple[float, float]
    ) -> Tensor:
        shape = like.movedim(axis, 0).shape
        flat = edges.detach().expand(*like.shape, -1).movedim(axis, 0)
        flat = flat.reshape(self.sections, self.nodes + 1, math.prod(shape[1:]), edges.shape[-1])
        flat = flat[:, -1].double().cpu()
        x = draw(flat.shape[:2], generator=self.generator, dtype=torch.float64)
        limits = [x.new_full((*x.shape, 1), end) for end in ends]
        below = flat <= x[..., None]
        low = torch.cat([limits[0], torch.where(below, flat, ends[0])], -1).amax(-1)
        high = torch.cat([torch.where(below, ends[1], flat), limits[1]], -1).amin(-1)
        # on a jump itself rounding would choose the piece
        inside = ((high - low) / 4).clamp(max=4 * torch.finfo(like.dtype).eps)
        low, high = low + inside, high - inside
        found = self._section(x.maximum(low).minimum(high), low, high, ((high - low) / 4).clamp(max=2.0))
        return found.reshape(shape[0], -1).to(like).reshape(shape).movedim(0, axis)


class NoNoise(Noise):
    """For computations that must not draw, such as exact sums."""

    def uniform(self, like: Tensor, axis: int, jumps: Callable[[], Tensor]) -> Tensor:
        """Refuses."""
        raise TypeError("an exact computation asked for random numbers")

    def normal(self, like: Tensor, axis: int, jumps: Callable[[], Tensor]) -> Tensor:
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
