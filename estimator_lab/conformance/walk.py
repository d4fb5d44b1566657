"""One layer under an estimator, without a chain: any precision, any batch, any theta."""

import torch
from torch import Tensor

from estimator_lab.conformance.points import numbers, pattern
from estimator_lab.estimator import Downstream, Estimator
from estimator_lab.families import Family
from estimator_lab.noise import Noise
from estimator_lab.site import Site, SiteSpec


class Rounded(Noise):
    """The same draws in every precision: multiples of a power of two, and rounded normal numbers.

    Args:
        seed: of the draws.
        bits: of the multiples, at most as many as the coarsest precision has.
    """

    def __init__(self, seed: int, bits: int):
        self.generator, self.bits = torch.Generator().manual_seed(seed), bits

    def uniform(self, like: Tensor, axis: int, jumps: object) -> Tensor:
        """Multiples of ``2^-bits`` in (0, 1)."""
        u = torch.rand(like.shape, generator=self.generator, dtype=torch.float64) * 2**self.bits
        found: Tensor = (u.floor().clamp(min=1) / 2**self.bits).to(like)
        return found

    def normal(self, like: Tensor, axis: int, jumps: object) -> Tensor:
        """Normal numbers, rounded to half precision."""
        return torch.randn(like.shape, generator=self.generator, dtype=torch.float64).to(torch.bfloat16).to(like)


class Extreme(Noise):
    """The numbers that are hardest on logarithms, among ordinary ones.

    Args:
        seed: of the draws.
    """

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)

    def uniform(self, like: Tensor, axis: int, jumps: object) -> Tensor:
        """0, the least number of the generator, 1/2, the largest below 1, or anything between."""
        eps = torch.finfo(like.dtype).eps
        ends = torch.tensor([0.0, eps / 2, 0.5, 1 - eps / 2], dtype=torch.float64)
        chosen = ends[torch.randint(4, like.shape, generator=self.generator)]
        plain = torch.rand(like.shape, generator=self.generator, dtype=torch.float64)
        keep = torch.rand(like.shape, generator=self.generator) < 0.5
        return torch.where(keep, chosen, plain.clamp(max=1 - eps / 2)).to(like)

    def normal(self, like: Tensor, axis: int, jumps: object) -> Tensor:
        """Normal numbers."""
        return torch.randn(like.shape, generator=self.generator, dtype=torch.float64).to(like)


def walk(
    estimator: Estimator, family: Family, theta: Tensor, noise: Noise, *, constant: bool = False
) -> tuple[Tensor, Tensor]:
    """Surrogate ``[K, R, B]`` and gradient ``[R, B, *units, *theta]`` at a loss quadratic in the units.

    Learned parts are those that a mean gradient of zero gives.

    Args:
        estimator: how.
        family: law of the units.
        theta: ``[R, B, units, *theta]``, or with one axis prepended, which results then have as well.
        noise: where random numbers come from.
        constant: a loss that hears no unit.
    """
    units = theta.dim() - 1 - len(family.theta_shape)
    spec = SiteSpec("h1", family, (theta.shape[units],))
    nothing = torch.zeros(theta.shape[units - 1 :], dtype=theta.dtype)
    ready = estimator.adapt(lambda _: {"h1": nothing})
    v = 0.4 + pattern(3, theta.shape[units], theta.dtype)

    def downstream(value: Tensor, using: Estimator | None = None) -> Tensor:
        y = numbers(family, value)
        if constant:
            return torch.ones_like(y[..., 0].detach())
        return ((y * v).sum(-1) - 0.35).square() + 0.6 * y[..., 0] * y[..., -1] + 0.8

    rest: Downstream = downstream
    with torch.enable_grad():
        leaf = theta.detach().clone().requires_grad_()
        front = leaf.dim() - 3 - len(family.theta_shape)
        shape = (*leaf.shape[:front], ready.paths, *leaf.shape[front:])
        site = Site(spec, leaf.unsqueeze(front).expand(shape), noise)
        surrogate = ready.surrogate(site, rest)
        if not surrogate.requires_grad:
            return surrogate.detach(), torch.zeros_like(theta)
        (gradient,) = torch.autograd.grad(surrogate.mean(-3).sum(), leaf, allow_unused=True)
    return surrogate.detach(), torch.zeros_like(theta) if gradient is None else gradient
