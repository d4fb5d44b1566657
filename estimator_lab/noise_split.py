"""Where the noise of a training step comes from: the choice of examples, the sampled units, and rounding."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from estimator_lab import doors
from estimator_lab.chain import Chain, Key
from estimator_lab.conclusion import percent
from estimator_lab.errors import UsageError
from estimator_lab.estimator import Estimator
from estimator_lab.evaluation import LEVELS
from estimator_lab.measurement import BLOCK_FLOATS, FIT, fit
from estimator_lab.moments import Array, Moments
from estimator_lab.noise import MonteCarlo, Noise, derive_seed, forked
from estimator_lab.problem import Problem
from estimator_lab.record import Layout
from estimator_lab.statistics import Estimate, jackknife

if TYPE_CHECKING:
    import pandas as pd

LEVEL = 0.95
"""Coverage of each interval by itself."""

FEWEST = 8
"""Minibatches, at least: the jackknife leaves out one at a time."""

LEAST = 1e-4
"""Shares below this are not told apart in words."""

SINGLE, DOUBLE = torch.float32, torch.float64


@dataclass(frozen=True)
class Part:
    """The noise of one layer's gradient.

    Attributes:
        level: "layer" (the weights that feed a site, or "loss" for those that feed none) or "total".
        name: of the layer.
        size: number of coordinates.
        data: variance (trace) of the expected gradient over minibatches.
        sampling: mean variance of the gradient given the minibatch.
        numerical: mean squared difference between the gradient in float32 and in float64 of the same random numbers;
            nan where it was not measured.
        total: their sum, without ``numerical`` where that was not measured.
        shares: of "data", "sampling" and "numerical" in the total.
    """

    level: str
    name: str
    size: int
    data: Estimate
    sampling: Estimate
    numerical: Estimate
    total: Estimate
    shares: Mapping[str, Estimate]


@dataclass(frozen=True)
class NoiseSplit:
    """The noise of a training step by its sources.

    Attributes:
        problem: short name.
        estimator: short name.
        minibatch: examples in a step, m.
        examples: examples to choose from, B.
        minibatches: how many were drawn.
        replicates: gradients drawn on each.
        seed: of the draws.
        parts: one per layer, and one of all weights.
        notes: what the runs had to say.
    """

    problem: str
    estimator: str
    minibatch: int
    examples: int
    minibatches: int
    replicates: int
    seed: int
    parts: tuple[Part, ...]
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        step = f"{self.minibatch} of {self.examples} examples"
        return f"<NoiseSplit of {self.estimator} on {self.problem}: steps on {step}>"

    def part(self, name: str = "weights") -> Part:
        """The part of a layer, or of all weights.

        Raises:
            KeyError: there is none.
        """
        for part in self.parts:
            if part.name == name:
                return part
        raise KeyError(f"no layer {name!r}; there are {[p.name for p in self.parts]}")

    def to_frame(self) -> "pd.DataFrame":
        """Tidy frame: one row per layer and source, with variance, share and their intervals."""
        import pandas as pd

        rows = [
            {
                "problem": self.problem, "estimator": self.estimator, "minibatch": self.minibatch,
                "examples": self.examples, "level": p.level, "name": p.name, "size": p.size, "source": source,
                "variance": found.value, "variance_low": found.low, "variance_high": found.high,
                "share": share.value, "share_low": share.low, "share_high": share.high,
            }
            for p in self.parts
            for source in ("data", "sampling", "numerical")
            for found, share in [(getattr(p, source), p.shares[source])]
        ]  # fmt: skip
        return pd.DataFrame(rows)

    def summary(self) -> str:
        """A line for each layer, and for all weights."""
        return "\n".join(f"{_place(p)}: {_said(p)}" for p in self.parts)


def _place(part: Part) -> str:
    if part.level == "layer":
        return f"the weights of {'the ' * (part.name == 'loss')}{part.name}"
    return f"all {part.name}"


def _said(part: Part) -> str:
    """Shares in words."""
    words = {"data": "the choice of examples", "sampling": "the sampled units", "numerical": "rounding in float32"}
    told = [f"{_told(share)} from {words[k]}" for k, share in part.shares.items() if math.isfinite(share.value)]
    return f"variance {part.total.value:.2g}: {', '.join(told)}"


def _told(share: Estimate) -> str:
    """In per cent to two digits, with the interval in brackets; "below 0.01 %" where all of it is smaller."""
    if share.value and max(abs(v) for v in (share.value, share.low, share.high)) < LEAST:
        return "below 0.01 %"
    value, low, high = (percent(round(v, 4) + 0.0) for v in (share.value, share.low, share.high))
    between = f" [{low}, {high}]".replace(" %", "") if share.low < share.high else ""
    return f"{value}{between}".replace("-", "−")


class _Weighted(Problem):
    """A problem whose examples have weights: B / m on a minibatch of m and 0 elsewhere makes it the minibatch's loss.

    Attributes:
        scale: ``[B]`` weights, set before each draw.
    """

    def __init__(self, problem: Problem):
        self.problem, self.sites, self.batch = problem, problem.sites, problem.batch
        self.foldable, self.notes = problem.foldable, problem.notes
        first = next(iter(problem.weights().values()))
        self.scale = torch.ones(problem.batch, dtype=first.dtype, device=first.device)
        self.theta, self.begin, self.advance = problem.theta, problem.begin, problem.advance  # type: ignore[method-assign]

    def weights(self) -> Mapping[str, Tensor]:
        """The problem's own."""
        return self.problem.weights()

    def theta(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...]) -> Tensor:
        """The problem's own."""
        return self.problem.theta(weights, samples)

    def loss(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...], thetas: tuple[Tensor, ...]) -> Tensor:
        """Weighted."""
        return self._weigh(self.problem.loss(weights, samples, thetas))

    def finish(
        self,
        weights: Mapping[str, Tensor],
        carry: tuple[Tensor, ...],
        samples: tuple[Tensor, ...],
        thetas: tuple[Tensor, ...],
    ) -> Tensor:
        """Weighted."""
        return self._weigh(self.problem.finish(weights, carry, samples, thetas))

    def _weigh(self, loss: Tensor) -> Tensor:
        return loss * self.scale.repeat(len(loss) // self.batch)  # folded rows are whole batches

    def __repr__(self) -> str:
        return repr(self.problem)


class _Coarse(Noise):
    """Numbers drawn in float32 whatever the computation's dtype, so that two dtypes see the same ones."""

    def __init__(self, noise: Noise):
        self.noise = noise

    def uniform(self, like: Tensor, axis: int, jumps: Callable[[], Tensor]) -> Tensor:
        """Multiples of 2^-24, zero moved to where a float32 logarithm is taken."""
        u = self.noise.uniform(like.new_empty(like.shape, dtype=SINGLE), axis, jumps)
        return u.clamp(min=torch.finfo(SINGLE).eps / 4).to(like)

    def normal(self, like: Tensor, axis: int, jumps: Callable[[], Tensor]) -> Tensor:
        """Normal numbers, rounded to float32."""
        return self.noise.normal(like.new_empty(like.shape, dtype=SINGLE), axis, jumps).to(like)


def _in(problem: Problem, dtype: torch.dtype) -> Problem:
    """The problem with its weights in another dtype.

    Raises:
        UsageError: it holds tensors that do not follow.
    """
    name = str(dtype).removeprefix("torch.")
    weights = {k: v.to(dtype) for k, v in problem.weights().items()}
    problem = problem.at(weights, name)
    remedy = "let its constants follow weights' dtype with .to(weight), or leave this part out with numerical=False"
    try:
        theta, carry = problem.begin(weights)
        samples: tuple[Tensor, ...] = ()
        thetas: tuple[Tensor, ...] = (theta,)
        for spec in problem.sites:
            per_unit: tuple[Any, ...] = (..., *(0,) * len(spec.family.theta_shape))
            like = theta.detach()[per_unit]
            samples = (*samples, spec.family.sample(theta.detach(), torch.full_like(like, 0.5)))
            if len(samples) < len(problem.sites):
                theta, carry = problem.advance(weights, carry, samples)
                thetas = (*thetas, theta)
        loss = problem.finish(weights, carry, samples, thetas)
    except RuntimeError as error:  # torch refuses products of two dtypes
        raise UsageError(f"{problem!r} does not run with weights in {name} ({_line(error)}): {remedy}") from None
    found = {f"theta of {s.name!r}": t.dtype for s, t in zip(problem.sites, thetas, strict=True)} | {"loss": loss.dtype}
    wrong = [f"{what} is {is_in}" for what, is_in in found.items() if is_in != dtype]
    if wrong:
        raise UsageError(f"{problem!r} does not follow weights in {name}, {wrong[0]}: {remedy}")
    return problem


def _line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:120]


def split_noise(
    problem: Problem,
    estimator: Estimator,
    *,
    minibatch: int,
    replicates: int = 64,
    minibatches: int = 64,
    seed: int = 0,
    numerical: bool = True,
) -> NoiseSplit:
    """How much of the noise of a training step comes from the examples, from the sampled units, and from rounding.

    The B examples of the problem are the data at hand. A step takes m of them at random, without replacement, and
    estimates the gradient G of their mean loss. By the law of total variance

        ``tr Var G = tr Var(E[G | minibatch]) + E[tr Var(G | minibatch)]``: data and sampling.

    With independent examples, ``S^2`` the sample covariance (B - 1) of the examples' expected gradients and ``s^2``
    the mean variance of one example's gradient, data is ``(1/m)(1 - m/B) tr S^2`` and sampling ``tr s^2 / m``; neither
    is taken for granted. I minibatches are drawn, and R gradients on each: a one-way layout of random effects, whose
    mean variance within W and variance of the I means V give sampling = W and data = V - W/R, both unbiased (data may
    come out negative). Intervals leave out one minibatch at a time (jackknife).

    A minibatch is a weight B/m on the losses of its examples and 0 on all others, which are run in vain.

    Numerical is ``E ||G32 - G64||^2``, of the gradient in float32 and in float64 with the same weights, rounded to
    float32, the same minibatch and the same random numbers (drawn in float32). The other two parts are then those in
    float64. A number that falls between the two probabilities of a unit turns its sample over. That has a probability
    of about 1e-8 per unit and draw, and a large effect: draws that met none of them, as most runs do, show rounding
    alone, and the share of the turned samples is of the order of 1e-8 times the number of units.

    Args:
        problem: its examples are the data, its weights are where the step begins.
        estimator: how gradients are estimated, in proportion to the loss.
        minibatch: m.
        replicates: R.
        minibatches: I.
        seed: same seed, same result.
        numerical: measure it; needs a problem whose functions follow the dtype of its weights.

    Raises:
        UsageError: a number is out of range; the problem does not follow the dtype of its weights; the estimates are
            not proportional to the loss, as a normalised advantage or one over a fixed baseline is not, so that a
            minibatch is no weight.

    Cost: I R draws on the whole batch, twice with ``numerical``.
    """
    call = "split_noise(problem, estimator, minibatch=...)"
    problem, estimator = doors.a_problem(problem, call), doors.an_estimator(estimator, call)
    examples = problem.batch
    for name, value, least, most in (
        ("minibatch", minibatch, 1, examples),
        ("replicates", replicates, 2, math.inf),
        ("minibatches", minibatches, FEWEST, math.inf),
    ):
        if not (isinstance(value, Integral) and least <= value <= most):
            limit = f"from 1 to the {examples} examples of {problem!r}" if name == "minibatch" else f"at least {least}"
            raise UsageError(f"{name} is {limit}, a whole number; found {value}")
    fitted = fit(estimator, problem, seed, FIT)
    if numerical:
        rounded = _in(problem, SINGLE)
        weighted = [_Weighted(p) for p in (_in(rounded, DOUBLE), rounded)]
    else:
        weighted = [_Weighted(problem)]
    chains = [Chain(w, fitted, ("weight",)) for w in weighted]
    _check_proportional(chains[0], weighted[0], seed)
    with forked(0):
        drawn = chains[0].draw(2, MonteCarlo("shapes", device=chains[0].device))
    layout = Layout.make({k: tuple(v.shape[1:]) for k, v in drawn.items()}, chains[0].layers())
    size = layout.size + chains[0].tally.losses * examples * sum(math.prod(s.units) for s in problem.sites)
    block = max(1, min(replicates, int(BLOCK_FLOATS / size)))
    means, within, gaps = np.empty((minibatches, layout.size)), np.empty((minibatches, layout.size)), []
    generator = torch.Generator().manual_seed(derive_seed("minibatches", repr(problem), seed))
    for i in range(minibatches):
        rows = torch.randperm(examples, generator=generator)[:minibatch]
        for w in weighted:
            w.scale = torch.zeros_like(w.scale)
            w.scale[rows.to(w.scale.device)] = examples / minibatch
        found, gap = None, np.zeros(layout.size)
        for start in range(0, replicates, block):
            count = min(block, replicates - start)
            vectors = [_draw(c, layout, count, derive_seed("split", repr(problem), seed, i, start)) for c in chains]
            part = Moments.of(vectors[0])
            found = part if found is None else found + part
            gap += (vectors[0] - vectors[-1]).square().sum(0).cpu().numpy() / replicates
        assert found is not None
        means[i], within[i] = found.mean, found.variance
        gaps.append(gap)
    shown = [k for k in layout.groups if k[0] == "layer"] or [k for k in layout.groups if k[0] == "weight"]
    centred = means - means.mean(0)
    parts = tuple(
        _part(key, centred[:, c], within[:, c], np.array(gaps)[:, c] if numerical else None, replicates, whole)
        for whole in [minibatch == examples]
        for key in [*shown, *(k for k in layout.groups if k[0] == "total")]
        for c in [layout.columns(key)]
    )
    notes = tuple(dict.fromkeys(note for c in chains for note in c.notes))
    return NoiseSplit(problem.label, estimator.label, minibatch, examples, minibatches, replicates, seed, parts, notes)


def _draw(chain: Chain, layout: Layout, count: int, seed: int) -> Tensor:
    with forked(seed):
        return layout.vector(chain.draw(count, _Coarse(MonteCarlo(seed, device=chain.device))), None)


def _check_proportional(chain: Chain, weighted: _Weighted, seed: int) -> None:
    """Four times the loss must give four times the gradient.

    The factor is a power of two: what is proportional to the loss does not even change its rounding.
    """
    ones = torch.ones_like(weighted.scale)
    ramp = 1 + torch.arange(len(ones), dtype=ones.dtype, device=ones.device)
    draws = []
    for scale in (ones * ramp, 4 * ones * ramp):
        weighted.scale = scale
        with forked(derive_seed("proportional", seed)):
            draws.append(chain.draw(4, _Coarse(MonteCarlo("proportional", seed, device=chain.device))))
    weighted.scale = ones
    for key, first in draws[0].items():
        tolerance = 1e2 * torch.finfo(chain.dtype).eps * float(draws[1][key].abs().max())
        if not torch.allclose(4 * first, draws[1][key], rtol=0, atol=tolerance):
            raise UsageError(
                f"{chain.estimator!r} is not proportional to the loss at {key}: four times the loss gives another "
                "gradient than four times the gradient, so that a minibatch cannot be had by weighting examples; "
                "leave normalisations and fixed baselines out, or measure a problem that holds the minibatch only"
            )


def _part(key: Key, means: Array, within: Array, gaps: Array | None, replicates: int, whole: bool) -> Part:
    """Variance components from ``[I, d]`` centred means, and variances within; as arrays for the jackknife."""
    count = len(means)
    n = np.append(count, np.full(count, count - 1))
    products = means @ means.T
    between = n / (n - 1) * (jackknife.mean(products.diagonal()) - jackknife.square(products))
    sampling = jackknife.mean(within.sum(1))
    data = np.zeros_like(sampling) if whole else between - sampling / replicates  # all examples: the same minibatch
    numerical = np.zeros_like(sampling) if gaps is None else jackknife.mean(gaps.sum(1))
    total = data + sampling + numerical
    sources = {"data": data, "sampling": sampling, "numerical": numerical}
    unknown = Estimate(math.nan, math.nan, math.nan)
    estimates = {name: _interval(values) for name, values in sources.items()}
    shares = {name: _interval(values / total) if total.all() else unknown for name, values in sources.items()}
    if gaps is None:
        estimates["numerical"] = shares["numerical"] = unknown
    return Part(LEVELS[key[0]], key[1], means.shape[1], **estimates, total=_interval(total), shares=shares)


def _interval(values: Array) -> Estimate:
    """Jackknife; a number that no minibatch changes is its own interval."""
    if np.ptp(values) == 0:
        return Estimate(float(values[0]), float(values[0]), float(values[0]))
    return jackknife.interval(values, LEVEL)
