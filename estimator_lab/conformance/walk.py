"""One layer under an estimator, without a chain: any precision, any batch, any theta."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from estimator_lab.conformance.case import Case, Violation
from estimator_lab.conformance.points import pattern
from estimator_lab.estimator import Downstream, Estimator, derivative
from estimator_lab.families import Family
from estimator_lab.noise import Noise, derive_seed, forked
from estimator_lab.site import Site, SiteSpec
from estimator_lab.small import numbers


class Rounded(Noise):
    """The same draws in every precision: multiples of a power of two, and rounded normal numbers.

    Args:
        seed: of the draws.
        bits: of the multiples, at most as many as the coarsest precision has.
    """

    def __init__(self, seed: int, bits: int):
        self.generator, self.bits = torch.Generator().manual_seed(seed), bits

    def uniform(self, like: Tensor, axis: int, jumps: Callable[[], Tensor]) -> Tensor:
        """Multiples of ``2^-bits`` in (0, 1)."""
        u = torch.rand(like.shape, generator=self.generator, dtype=torch.float64) * 2**self.bits
        found: Tensor = (u.floor().clamp(min=1) / 2**self.bits).to(like)
        return found

    def normal(self, like: Tensor, axis: int, jumps: Callable[[], Tensor]) -> Tensor:
        """Normal numbers, rounded to half precision."""
        return torch.randn(like.shape, generator=self.generator, dtype=torch.float64).to(torch.bfloat16).to(like)


class Extreme(Noise):
    """The numbers that are hardest on logarithms, among ordinary ones.

    Args:
        seed: of the draws.
    """

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)

    def uniform(self, like: Tensor, axis: int, jumps: Callable[[], Tensor]) -> Tensor:
        """0, the least number of the generator, 1/2, the largest below 1, or anything between."""
        eps = torch.finfo(like.dtype).eps
        ends = torch.tensor([0.0, eps / 2, 0.5, 1 - eps / 2], dtype=torch.float64)
        chosen = ends[torch.randint(4, like.shape, generator=self.generator)]
        plain = torch.rand(like.shape, generator=self.generator, dtype=torch.float64)
        keep = torch.rand(like.shape, generator=self.generator) < 0.5
        return torch.where(keep, chosen, plain.clamp(max=1 - eps / 2)).to(like)

    def normal(self, like: Tensor, axis: int, jumps: Callable[[], Tensor]) -> Tensor:
        """Normal numbers."""
        return torch.randn(like.shape, generator=self.generator, dtype=torch.float64).to(like)


class Window(Noise):
    """The numbers of some replicates and examples of a block, of which all are drawn.

    Args:
        noise: draws for the block.
        whole: replicates and examples of the block.
        part: which of them.
    """

    def __init__(self, noise: Noise, whole: tuple[int, int], part: tuple[slice, slice]):
        self.noise, self.whole, self.part = noise, whole, part

    def _like(self, like: Tensor, axis: int) -> Tensor:
        return like.new_empty(()).expand(*like.shape[:axis], *self.whole, *like.shape[axis + 2 :])

    def uniform(self, like: Tensor, axis: int, jumps: Callable[[], Tensor]) -> Tensor:
        """The part's share of uniform numbers."""
        return self.noise.uniform(self._like(like, axis), axis, jumps)[(slice(None),) * axis + self.part]

    def normal(self, like: Tensor, axis: int, jumps: Callable[[], Tensor]) -> Tensor:
        """The part's share of normal numbers."""
        return self.noise.normal(self._like(like, axis), axis, jumps)[(slice(None),) * axis + self.part]


class Walked(NamedTuple):
    """What a walk gives.

    Attributes:
        surrogate: ``[K, R, B]``.
        gradient: ``[R, B, *units, *theta]``.
        streamed: whether numbers of torch's stream were drawn.
    """

    surrogate: Tensor
    gradient: Tensor
    streamed: bool


def walk(
    case: Case,
    family: Family,
    theta: Tensor,
    noise: Noise,
    *,
    axes: int = 1,
    flat: float | None = None,
    graph: bool = True,
) -> Walked:
    """One draw at a loss that is quadratic in the units; torch's stream is the same in every walk.

    Learned parts are those that a mean gradient of zero gives.

    Args:
        case: the estimator, and the seed of torch's stream.
        family: law of the units.
        theta: ``[R, B, *units, *theta]``, or with one axis prepended, which results then have as well; a leaf that
            requires a gradient is used as it is.
        noise: where random numbers come from.
        axes: number of axes of units.
        flat: value of a loss that hears no unit, in the place of the quadratic one.
        graph: whether gradients are recorded; without, the gradient is zero.

    Raises:
        Violation: what is passed on, or the surrogate, is no tensor of the right shape and of theta's dtype.
    """
    lead = theta.dim() - axes - len(family.theta_shape)
    spec = SiteSpec("h1", family, tuple(theta.shape[lead : lead + axes]))
    nothing = torch.zeros(theta.shape[lead - 1 :], dtype=theta.dtype)
    ready = case.estimator.adapt(lambda _: {"h1": nothing})
    v = 0.4 + pattern(3, math.prod(spec.units), theta.dtype)

    def downstream(value: Tensor, using: Estimator | None = None) -> Tensor:
        _expect(value, theta.dtype, (*shape[: lead + 1], *spec.value_shape), "what it passed on")
        y = numbers(family, value).flatten(-axes)
        if flat is not None:
            return torch.full_like(y[..., 0].detach(), flat)
        # as in a network the loss has a graph, which here leads nowhere
        return ((y * v).sum(-1) - 0.35).square() + 0.6 * y[..., 0] * y[..., -1] + 0.8 + 0 * leaf.sum()

    shape = (*theta.shape[: lead - 2], ready.paths, *theta.shape[lead - 2 :])
    rest: Downstream = downstream
    with torch.set_grad_enabled(graph), forked(derive_seed("walk", case.seed)):
        before = torch.get_rng_state()
        leaf = theta if theta.requires_grad else theta.detach().clone().requires_grad_()
        site = Site(spec, leaf.unsqueeze(lead - 2).expand(shape), noise)
        surrogate = ready.surrogate(site, rest)
        _expect(surrogate, theta.dtype, shape[: lead + 1], "its surrogate")
        gradient = derivative(surrogate.mean(-3), leaf)
        streamed = not torch.equal(before, torch.get_rng_state())
    return Walked(surrogate.detach(), gradient, streamed)


def _expect(found: object, dtype: torch.dtype, shape: tuple[int, ...], what: str) -> None:
    """Requires a tensor of a dtype and a shape; axes may be prepended to what is passed on."""
    if not isinstance(found, Tensor) or tuple(found.shape)[-len(shape) :] != shape:
        told = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise Violation(f"{what}: expected axes [.., paths, replicates, batch, ..] = {list(shape)}; found {told}")
    if found.dtype != dtype:
        raise Violation(f"{what} is {found.dtype} where theta is {dtype}; convert it with value.to(theta)")
