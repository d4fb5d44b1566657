"""Mean and variance of every weight's gradient, in little memory."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from estimator_lab import doors
from estimator_lab.budget import MEMORY, in_bytes
from estimator_lab.chain import Chain
from estimator_lab.errors import MeasurementError
from estimator_lab.estimator import Estimator
from estimator_lab.measurement import FIT, block_size, fit, power_of_two
from estimator_lab.moments import CHUNK, Array
from estimator_lab.noise import MonteCarlo, Part, forked
from estimator_lab.plan import Plan
from estimator_lab.problem import Problem


@dataclass(frozen=True)
class WeightMoments:
    """Moments of the weight gradients, by name.

    Attributes:
        mean: mean gradient, in the weight's shape.
        variance: unbiased variance of one draw.
        replicates: draws.
    """

    mean: Mapping[str, Array]
    variance: Mapping[str, Array]
    replicates: int

    def __repr__(self) -> str:
        size = sum(v.size for v in self.mean.values())
        return f"<WeightMoments: {size} entries of {len(self.mean)} weights, {self.replicates} draws>"


@dataclass
class _Running:
    """Mean and sum of squared deviations of draws that come a few at a time, in place (Chan, Golub, LeVeque 1979)."""

    mean: Tensor
    m2: Tensor

    def add(self, draws: Tensor, before: int) -> None:
        """Takes draws ``[n, d]`` in, after so many others; works on as many numbers at a time as the cache holds."""
        n = len(draws)
        share = n / (before + n)
        width = max(CHUNK // n, 1)
        for part, mean, m2 in zip(draws.split(width, 1), self.mean.split(width), self.m2.split(width), strict=True):
            x = part.double()
            own = x.mean(0)
            m2 += x.sub_(own).square_().sum(0)
            own -= mean
            mean += own * share
            m2 += own.square_().mul_(before * share)


def weight_moments(
    problem: Problem, estimator: Estimator, replicates: int, *, seed: int = 0, memory: float | str = MEMORY
) -> WeightMoments:
    """Mean and variance of every single weight's gradient.

    The draws are those of ``measure`` with ``wrt=("weight",)``, and so are the moments, to rounding.

    Cost: that of weight gradients of every replicate. Memory: mean and variance, 16 bytes per weight, and the few draws
    that are made at a time.

    Args:
        problem: what is differentiated.
        estimator: how.
        replicates: number of draws, at least 2, rounded up to whole blocks.
        seed: same seed, same result.
        memory: bytes that all this may take, about, or text such as "2GB"; one draw is always made. It changes
            no result but for rounding.

    Raises:
        UsageError: a shape or a family does not fit.
        MeasurementError: a gradient is not finite, or the estimator mixes replicates.
    """
    call = "weight_moments(problem, estimator, replicates)"
    problem, limit = doors.a_problem(problem, call), in_bytes(memory)
    estimator = fit(doors.an_estimator(estimator, call), problem, seed, FIT)
    Chain(problem, estimator, ("unit",)).check_mixing()
    chain = Chain(problem, estimator, ("weight",))
    with forked(0):
        chain.draw(1, MonteCarlo("shapes", device=chain.device))
    size = sum(v.numel() for v in chain.weights.values())
    units = problem.batch * sum(math.prod(s.theta_shape) for s in problem.sites)
    largest = block_size(size + chain.tally.losses * units * 4, chain.looped)
    dtype = str(chain.dtype).removeprefix("torch.")
    plan = Plan(repr(problem), repr(estimator), "measure", "", dtype, ("weight",), seed, largest)
    # a draw is made of a late and an early share, and added to their sum
    each = chain.dtype.itemsize * (3 * size + chain.tally.losses * units * 16)
    step = power_of_two((limit - 16 * size) / each)
    flat = {k: v.new_zeros(2, v.numel(), dtype=torch.float64) for k, v in chain.weights.items()}
    running = {k: _Running(*t.unbind()) for k, t in flat.items()}
    blocks, count = plan.blocks(max(replicates, 2)), 0
    for index in range(blocks):
        whole, start = plan.size(index), 0
        while start < whole:
            draws = min(step, whole)
            noise = MonteCarlo(plan.block_seed(index), device=chain.device)
            with forked(plan.block_seed(index)):
                before = torch.get_rng_state()
                found = chain.draw(draws, noise if draws == whole else Part(noise, start, whole))
                if draws < whole and not torch.equal(before, torch.get_rng_state()):
                    step = largest  # torch's global stream cannot be divided
                    continue
            for name, moments in running.items():
                moments.add(found.pop(("weight", name)).flatten(1), count)
            start += draws
            count += draws
    shapes = {k: v.shape for k, v in chain.weights.items()}
    for name, moments in running.items():
        if not torch.isfinite(moments.m2.sum()):
            raise MeasurementError(
                f"{plan.estimator} on {plan.problem}: gradients of {name!r} are NaN or infinite; look for saturated "
                "probabilities, log(0) or a division by zero"
            )
        moments.m2 /= count - 1
    return WeightMoments(
        {k: r.mean.reshape(shapes[k]).cpu().numpy() for k, r in running.items()},
        {k: r.m2.reshape(shapes[k]).cpu().numpy() for k, r in running.items()},
        count,
    )
