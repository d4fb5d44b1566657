"""Statistics of the weight gradients of whole layers, without a gradient for every draw."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from estimator_lab import doors
from estimator_lab.budget import MEMORY, in_bytes
from estimator_lab.chain import Chain, Key
from estimator_lab.errors import MeasurementError, UsageError
from estimator_lab.estimator import Estimator
from estimator_lab.factors import Summary, of_gradients, of_uses
from estimator_lab.measurement import BYTES, FIT, block_size, fit, power_of_two
from estimator_lab.moments import BATCHES, Array, Batches
from estimator_lab.noise import MonteCarlo, Part, derive_seed, forked
from estimator_lab.plan import Plan, fingerprint
from estimator_lab.problem import Problem
from estimator_lab.record import Layout
from estimator_lab.statistics import jackknife
from estimator_lab.statistics.bias import norm_interval
from estimator_lab.statistics.gram import Gram
from estimator_lab.statistics.group import WIDE_GATE, Estimate
from estimator_lab.taps import Taps

if TYPE_CHECKING:
    import pandas as pd

SKETCH = 2**16
"""Numbers kept of the mean gradient of a batch, for each weight."""

WIDER = 8
"""How many times as large blocks may be that are drawn for their scalars, and not for every coordinate."""

SCALARS = ("square", "fourth", "norm2", "cosine", "descent")
"""Kept of draws x of every group, against a reference g: |x - g|^2, |x - g|^4, |x|^2, cos(x, g), 1[<x, g> > 0]."""


@dataclass(frozen=True)
class LayerStatistics:
    """Statistics of weight gradients by group: layers, weights, and all weights together.

    Of draws x with mean mu and covariance Sigma, against a reference gradient g:

    - norm2 ``E |x|^2``; variance ``tr Sigma``; snr ``|mu|^2 / tr Sigma``.
    - mse ``E |x - g|^2``; relative_bias ``|mu - g| / |g|``, the root of the square without the noise of the mean (0 if
      that is negative); mean_cosine ``E cos(x, g)``, 0 for a draw of zero; descent ``P(<x, g> > 0)``.
    - effective_sample ``R (E q)^2 / E q^2`` of the squared error ``q = |x - g|^2`` (``|x|^2`` without reference): how
      many draws carry it. Below 100 the others have no interval.

    Intervals have level 0.95 each, from at least 32 batches: delete-one jackknife, and rule B (``statistics.bias``) for
    norms of means.

    Attributes:
        statistics: by group, then by name.
        mean: mean gradient of each weight.
        replicates: draws.
        shared: weights of which no gradient of a single draw was needed.
    """

    statistics: Mapping[Key, Mapping[str, Estimate]]
    mean: Mapping[str, Array]
    replicates: int
    shared: frozenset[str]

    def __getitem__(self, key: Key) -> Mapping[str, Estimate]:
        """Statistics of one group, such as ``("layer", "h1")``, ``("weight", "w1")`` or ``("total", "weights")``."""
        return self.statistics[key]

    def __repr__(self) -> str:
        return f"<LayerStatistics: {len(self.statistics)} groups of {len(self.mean)} weights, {self.replicates} draws>"

    def summary(self) -> str:
        """A line for each group."""
        shown = ("relative_bias", "variance", "snr", "mean_cosine")
        return "\n".join(
            f"{level} {name}: " + ", ".join(f"{k} {found[k].value:.3g}" for k in shown if k in found)
            for (level, name), found in self.statistics.items()
        )

    def to_frame(self) -> "pd.DataFrame":
        """Tidy frame: one row per group and statistic, with its interval."""
        import pandas as pd

        rows = [
            {"level": level, "name": name, "statistic": k, "value": e.value, "low": e.low, "high": e.high}
            for (level, name), found in self.statistics.items()
            for k, e in found.items()
        ]
        return pd.DataFrame(rows)


class Expected(Protocol):
    """What holds expected gradients, such as a ``Truth``."""

    @property
    def mean(self) -> Mapping[Key, Array]:
        """Gradients by key."""


def layer_statistics(
    problem: Problem,
    estimator: Estimator,
    replicates: int,
    *,
    reference: "Mapping[Key, Array] | Expected | None" = None,
    seed: int = 0,
    memory: float | str = MEMORY,
) -> LayerStatistics:
    """Size, variance and direction of the weight gradients of wide networks, layer by layer.

    Every number is exact for the draws: the squared norm of a gradient and its product with the reference follow from
    activations and their derivatives (``factors``), wherever a weight is used in matrix products only. Gradients of
    other weights are made, as ``measure`` makes all. The draws are those of ``measure`` with blocks of this size.

    The mean is exact too. Intervals need the inner products of batch means; of weights with over 65536 entries these
    are estimated from sums of entries with random signs (count sketch: Charikar, Chen, Farach-Colton 2002), whose own
    error can only widen them.

    Cost: about 1.4 times the unit gradients, where layers are wider than the batch. Memory: the sum of all gradients
    and a few batch means, 8 bytes a number; 63 * 65536 numbers of the batch means of a weight at most; and the draws.

    Args:
        problem: what is differentiated.
        estimator: how.
        replicates: number of draws, at least 64, rounded up to whole blocks.
        reference: a ``Truth``, or a gradient for every weight by ``("weight", name)``; it counts as exact.
        seed: same seed, same result.
        memory: bytes that the draws may take, about, or text such as "2GB"; changes no result but for rounding.

    Raises:
        UsageError: too few replicates, or the reference lacks a weight.
        MeasurementError: a gradient is not finite, or the estimator mixes replicates.
    """
    call = "layer_statistics(problem, estimator, replicates)"
    problem, estimator = doors.a_problem(problem, call), doors.an_estimator(estimator, call)
    if replicates < 2 * BATCHES:
        raise UsageError(f"intervals need at least {2 * BATCHES} replicates; found {replicates}")
    given = None if reference is None else doors.numbers_by_key(reference)
    run = LayerMeasurement.prepare(problem, estimator, given, seed, in_bytes(memory))
    batches, total = run.batches(replicates)
    count = batches.leaves
    means = {k: (t / count).cpu().numpy() for k, t in total.items()}
    found = {key: _describe(run, key, batches, means) for key in run.layout.groups}
    return LayerStatistics(found, means, count, run.taps.names)


@dataclass
class LayerMeasurement:
    """What is drawn, and how it is summed up.

    Attributes:
        chain: draws the gradients.
        plan: identity of the measurement; seeds of its blocks.
        layout: groups of weights.
        taps: of the weights that replicates share.
        reference: by weight, or None.
        lengths: squared norms of the reference, by weight.
        part: replicates that are drawn at a time.
    """

    chain: Chain
    plan: Plan
    layout: Layout
    taps: Taps
    reference: dict[str, Tensor] | None
    lengths: Tensor
    part: int

    @classmethod
    def prepare(
        cls, problem: Problem, estimator: Estimator, reference: Mapping[Key, Array] | None, seed: int, memory: float
    ) -> Self:
        """Fitted, checked not to mix replicates, and with the weights found that need no gradients of their own."""
        estimator = fit(estimator, problem, seed, FIT)
        Chain(problem, estimator, ("unit",)).check_mixing()
        chain = Chain(problem, estimator, ("weight",))
        layout = Layout.make({("weight", k): tuple(v.shape) for k, v in chain.weights.items()}, chain.layers())
        given = None if reference is None else _reference(chain, reference)
        matrices = frozenset(k for k, v in chain.weights.items() if v.dim() == 2)
        taps = _usable(chain, frozenset() if chain.looped else matrices)
        # what is kept of a draw: gradients of the other weights, factors of these, and what the walk keeps of its sites
        own = sum(v.numel() for k, v in chain.weights.items() if k not in taps.names)
        factors = problem.batch * sum(sum(v.shape) for k, v in chain.weights.items() if k in taps.names)
        units = problem.batch * sum(math.prod(s.theta_shape) for s in problem.sites)
        floats = own + factors + chain.tally.losses * units * 4
        mark = fingerprint(chain.weights, estimator.fitted, given or {})
        dtype = str(chain.dtype).removeprefix("torch.")
        largest = block_size(floats / WIDER, chain.looped)
        plan = Plan(repr(problem), repr(estimator), "measure", mark, dtype, ("weight",), seed, largest)
        lengths = torch.stack(
            [(given[k] if given else v.new_zeros(1)).double().square().sum() for k, v in chain.weights.items()]
        )
        return cls(chain, plan, layout, taps, given, lengths, power_of_two(memory / (BYTES * floats)))

    def batches(self, replicates: int) -> tuple[Batches, dict[str, Tensor]]:
        """Batch means of scalars and sketches, and sums of gradients."""
        plan = self.plan
        blocks = plan.blocks(replicates)
        size = power_of_two(plan.before(blocks) / BATCHES)
        total = {k: v.new_zeros(v.shape, dtype=torch.float64) for k, v in self.chain.weights.items()}
        found = Batches({}, 0)
        for index in range(blocks):
            whole, start = plan.size(index), 0
            while start < whole:
                draws = min(self.part, whole)
                parts = max(draws // size, 1)
                summaries, of_its_own = self.draw(index, start, draws, parts)
                if of_its_own and draws < whole:  # torch's global stream cannot be divided
                    self.part = plan.largest
                    continue
                first = plan.before(index) + start
                found += Batches(self.nodes(summaries, first, draws, parts), draws)
                for name, (_, _, sums) in summaries.items():
                    total[name] += sums.sum(0, dtype=torch.float64)
                self._check(total, index)
                start += draws
        return found, total

    def nodes(
        self, summaries: Mapping[str, Summary], first: int, draws: int, parts: int
    ) -> dict[tuple[int, int], Array]:
        """Means of some replicates, in equal parts."""
        rows = [self._scalars(summaries).unflatten(0, (parts, -1)).mean(1)]
        rows += [_sketch(k, sums.flatten(1).double() / (draws // parts)) for k, (_, _, sums) in summaries.items()]
        level = (draws // parts).bit_length() - 1
        return {(level, (first >> level) + i): v for i, v in enumerate(torch.cat(rows, 1).cpu().numpy())}

    def _check(self, total: Mapping[str, Tensor], index: int) -> None:
        if wrong := [k for k, t in total.items() if not torch.isfinite(t.sum())]:
            raise MeasurementError(
                f"{self.plan.estimator} on {self.plan.problem}: gradients of {wrong} are NaN or infinite in block "
                f"{index}; look for saturated probabilities, log(0) or a division by zero there"
            )

    def draw(self, index: int, start: int, draws: int, parts: int) -> tuple[dict[str, Summary], bool]:
        """Summaries of some replicates of a block by weight, and whether torch's global random stream was used."""
        seed, whole = self.plan.block_seed(index), self.plan.size(index)
        while True:
            noise = MonteCarlo(seed, device=self.chain.device)
            with forked(seed):
                before = torch.get_rng_state()
                own = self.chain.draw(draws, noise if draws == whole else Part(noise, start, whole), taps=self.taps)
                of_its_own = not torch.equal(before, torch.get_rng_state())
            if not self.taps.leaked:
                break
            self.taps = Taps(self.taps.names - self.taps.leaked)
        found = {}
        for name, weight in self.chain.weights.items():
            g = None if self.reference is None else self.reference[name]
            uses = self.taps.uses.get(name, ())
            if uses:
                found[name] = of_uses(uses, draws, g, parts)
            elif name in self.taps.names:  # no path leads to it
                none = weight.new_zeros(draws, dtype=torch.float64)
                found[name] = none, none, weight.new_zeros(parts, *weight.shape)
            else:
                found[name] = of_gradients(own["weight", name], g, parts)
        self.taps.uses = {}
        return found, of_its_own

    def _scalars(self, summaries: Mapping[str, Summary]) -> Tensor:
        """``[R, groups * scalars]``."""
        squares, inners = (torch.stack([s[i] for s in summaries.values()], 1) for i in (0, 1))
        member = self.layout.membership.to(squares)
        own, inner = squares @ member, inners @ member
        norm2 = self.lengths.to(squares) @ member
        square = own - 2 * inner + norm2
        scale = (own * norm2).sqrt()
        cosine = torch.where(scale > 0, inner / scale, 0.0)
        return torch.stack([square, square.square(), own, cosine, (inner > 0).double()], -1).flatten(1)


def _usable(chain: Chain, names: frozenset[str]) -> Taps:
    """Taps of those weights that are used in products only."""
    with forked(derive_seed("taps")):
        while True:
            taps = Taps(names)
            try:
                chain.draw(2, MonteCarlo("taps", device=chain.device), taps=taps)
            except RuntimeError:  # a backward function of the user's that cannot be mapped
                names = frozenset() if names else names
                continue
            if not taps.leaked:
                return taps
            names -= taps.leaked


def _reference(chain: Chain, reference: Mapping[Key, Array]) -> dict[str, Tensor]:
    for name, weight in chain.weights.items():
        shape = tuple(weight.shape)
        if ("weight", name) not in reference or tuple(reference["weight", name].shape) != shape:
            raise UsageError(f'the reference needs a gradient of shape {list(shape)} under ("weight", {name!r})')
    return {k: torch.as_tensor(reference["weight", k]).to(v) for k, v in chain.weights.items()}


def _sketch(name: str, vectors: Tensor) -> Tensor:
    """Linear map to at most ``SKETCH`` numbers that keeps inner products in the mean; the identity where they suffice.

    Coordinate j goes to place j modulo ``SKETCH``, with a random sign that is the same in every call.
    """
    if vectors.shape[1] <= SKETCH:
        return vectors
    generator = torch.Generator().manual_seed(derive_seed("sketch", name))
    found = vectors.new_zeros(len(vectors), SKETCH)
    for piece in vectors.split(SKETCH, 1):
        signs = torch.randint(2, piece.shape[1:], generator=generator).mul_(2).sub_(1).to(piece)
        found[:, : piece.shape[1]] += piece * signs
    return found


def _describe(
    run: LayerMeasurement, key: Key, batches: Batches, means: Mapping[str, Array], level: float = 0.95
) -> dict[str, Estimate]:
    """Statistics of one group."""
    layout, members = run.layout, [name for _, name in run.layout.groups[key]]
    kept, count = batches.means(), batches.leaves
    whole = sum((v * float(1 << at) for (at, _), v in batches), start=np.zeros(kept.shape[1])) / count
    at, k = list(layout.groups).index(key) * len(SCALARS), len(kept)
    scalar = {name: np.append(whole[at + i], jackknife.mean(kept[:, at + i])[1:]) for i, name in enumerate(SCALARS)}
    columns, start = [], len(layout.groups) * len(SCALARS)
    for name, mean in means.items():
        width = min(mean.size, SKETCH)
        if name in members:
            columns.append(np.arange(start, start + width))
        start += width
    own = kept[:, np.concatenate(columns)]
    dimension = sum(means[name].size for name in members)
    mean2 = jackknife.square(own @ own.T)
    mean2[0] = sum(float(np.vdot(means[name], means[name])) for name in members)
    n = np.append(count, np.full(k, count * (k - 1) / k))
    trace = np.maximum(n * (scalar["norm2"] - mean2) / (n - 1), 0.0)
    signal = mean2 - trace / n
    with np.errstate(divide="ignore", invalid="ignore"):
        found = {
            "norm2": jackknife.interval(scalar["norm2"], level, log=True),
            "variance": jackknife.interval(trace, level, log=True),
            "snr": _snr(signal / trace, Gram(own @ own.T, dimension), float(trace[0]), level),
        }
        sample = float(count * scalar["square"][0] ** 2 / scalar["fourth"][0]) if scalar["fourth"][0] else float(count)
        if run.reference is not None:
            g = {name: run.reference[name].double().cpu() for name in members}
            norm2 = float(sum(t.square().sum() for t in g.values()))
            miss2 = sum(float(np.sum((means[name] - t.numpy()) ** 2)) for name, t in g.items())
            reference = torch.cat([_sketch(name, t.reshape(1, -1)) for name, t in g.items()], 1).numpy()
            gap = own - reference
            low, high = norm_interval(Gram(gap @ gap.T, dimension), (1 - level) / 2, (1 - level) / 2)
            size = np.sqrt(max(miss2 - float(trace[0]) / count, 0.0))
            found["mse"] = jackknife.interval(scalar["square"], level, log=True)
            found["relative_bias"] = Estimate(*(float(np.divide(x, np.sqrt(norm2))) for x in (size, low, high)))
            found["mean_cosine"] = jackknife.interval(scalar["cosine"], level)
            found["descent"] = jackknife.interval(scalar["descent"], level)
    if sample < WIDE_GATE:
        found = {name: Estimate(e.value, np.nan, np.nan) for name, e in found.items()}
    return found | {"effective_sample": Estimate(sample, np.nan, np.nan)}


def _snr(ratio: Array, gram: Gram, trace: float, level: float) -> Estimate:
    """Jackknife where the mean is well resolved, else the interval of its norm by rule B."""
    found = jackknife.interval(ratio, level)
    low, high = norm_interval(gram, (1 - level) / 2, (1 - level) / 2)
    value = max(found.value, 0.0)
    if low**2 > gram.square / 4:
        return Estimate(value, found.low, found.high)
    return Estimate(value, float(np.divide(low**2, trace)), float(np.divide(high**2, trace)))
