"""Exact moments of an estimator, by a product rule over its own random numbers."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from estimator_lab import doors
from estimator_lab.chain import Chain, Key
from estimator_lab.errors import MeasurementError, NotConverged, TooLarge, UsageError
from estimator_lab.estimator import Estimator
from estimator_lab.measurement import Measurement
from estimator_lab.moments import Array, Moments
from estimator_lab.noise import Noise, ProductRule, Sections, derive_seed, forked
from estimator_lab.problem import Problem
from estimator_lab.record import Layout
from estimator_lab.statistics.exact import ExactGroup, describe_exact, judge_exact
from estimator_lab.statistics.group import CANCELLATION, FLOOR, SCALARS

GRID_LIMIT = 2**22
"""Largest product grid that exact moments are taken over."""

LIMIT = 2**17
"""Largest product grid that a measurement is summed over."""

ROWS = 2**8
"""Terms of one sum; sums are added in pairs, so that rounding grows with the logarithm of their number."""

CHUNK_FLOATS = 2**21
"""Numbers in the vectors of one chunk of the grid."""

PLACES = 2**14
"""Points, at least, at which an estimator is seen to be constant between its jumps."""

RULES = (3, 12, 32, 64)
"""Nodes of the quadratures that are tried, in this order."""

SECTIONS = 2**10
"""Draws, with a section through each, at which an estimator is seen to be smooth."""

SMOOTH = 1e-3
"""How well a section has to predict its draw, relative to its largest value."""

SETTLED = 1e-10
"""How well two quadratures have to agree, relative to the root mean square of a column."""

MEANS, SQUARES = 1e-6, 1e-4
"""How well means, and root mean squares, of quadratures of n and n + 1 nodes that a user asks for have to agree."""


def exact_moments(
    problem: Problem, estimator: Estimator, nodes: int = 1, wrt: tuple[str, ...] = ("unit", "weight")
) -> dict[Key, Moments]:
    """Exact mean, variance and third moment of an estimator, by a product quadrature over its own noise.

    Replicates are the nodes of the rule, so this runs the very code that draws. One node per piece is exact for
    estimators that are piecewise constant in their uniform numbers (score-function ones, DisARM, straight-through on
    Bernoulli units); those that are linear, such as ARM, have their mean by one node and their variance by two; smooth
    ones, such as REBAR, need 20 to 200 nodes per piece on one or two units. That uniform numbers have nodes enough is
    not checked. Where normal numbers are drawn, one node more must give the same. Learned parts are fitted with the
    same exact expectation.

    Args:
        problem: what is differentiated; small, since the grid has (pieces x nodes)^(numbers drawn) points.
        estimator: how.
        nodes: per piece between jumps.
        wrt: "unit" and/or "weight".

    Returns:
        Moments of unit weight per key, flat: ``.mean`` and ``.variance`` are the exact ones of one draw.

    Raises:
        TooLarge: the grid has more than 2^22 points; says how many.
        NotConverged: with one node more, means differ by more than 1e-6 of a root mean square, or that by 1e-4.
    """
    call = "exact_moments(problem, estimator)"
    problem, estimator = doors.a_problem(problem, call), doors.an_estimator(estimator, call)

    def mean_gradient(other: Estimator) -> dict[str, Tensor]:
        chain = Chain(problem, other, ("unit",))
        found = _integrate(chain, nodes)
        shapes = {s.name: (problem.batch, *s.theta_shape) for s in problem.sites}
        return {
            site: torch.as_tensor(m.mean, dtype=chain.dtype).reshape(shapes[site]) for (_, site), m in found.items()
        }

    return _integrate(Chain(problem, estimator.adapt(mean_gradient), wrt), nodes)


def _learn(chain: Chain, rule: ProductRule) -> ProductRule:
    """The rule, which now knows what one replicate asks for."""
    with forked(derive_seed("integrate")):
        before = torch.get_rng_state()
        chain.draw(1, rule)
        if not torch.equal(before, torch.get_rng_state()):
            raise UsageError(
                f"{chain.estimator!r} draws from torch's global random stream, which no product rule can integrate; "
                "draw from site.uniform() and site.sample(), or sample with estimator_lab.measure"
            )
    return rule


def _integrate(chain: Chain, nodes: int) -> dict[Key, Moments]:
    """Moments over the whole product grid, held against those with one node more where normal numbers are drawn."""
    learn = _learn(chain, ProductRule(nodes))
    found = _grid(chain, nodes, learn)
    if not learn.normals:
        return found
    other = _grid(chain, nodes + 1, _learn(chain, ProductRule(nodes + 1)))
    top = max(float(_rms(moments).max(initial=0.0)) for moments in found.values())
    for key, fine in other.items():
        rms = np.maximum(_rms(fine), 1e-9 * top + 1e-300)
        mean = float((np.abs(fine.mean - found[key].mean) / rms).max(initial=0.0))
        square = float((np.abs(_rms(fine) - _rms(found[key])) / rms).max(initial=0.0))
        if not (mean <= MEANS and square <= SQUARES):
            raise NotConverged(
                f"the quadrature of {chain.estimator!r} on {chain.problem!r} has not converged: {key} by {nodes} and "
                f"{nodes + 1} nodes differs by a relative {mean:.1e} in the mean and {square:.1e} in the root mean "
                "square; use more nodes, or sample with estimator_lab.measure"
            )
    return found


def _grid(chain: Chain, nodes: int, learn: ProductRule) -> dict[Key, Moments]:
    """Moments over the whole product grid, a chunk of nodes at a time."""
    if learn.total > GRID_LIMIT:
        raise TooLarge(
            f"exact moments of {chain.estimator!r} on {chain.problem!r} need a grid of {learn.total:.3g} points for "
            f"{len(learn.sizes)} random numbers, more than {GRID_LIMIT}; use fewer nodes or units, or sample with "
            "estimator_lab.measure"
        )
    total: dict[Key, Moments] = {}
    weight = 0.0
    for start, stop in _chunks(learn.total, 2**14):
        rule = ProductRule(nodes, tuple(learn.sizes), start, stop)
        draws = chain.draw(stop - start, rule)
        weight += float(rule.weight.sum())
        if not rule.weight.any():
            continue
        for key, tensor in draws.items():
            part = Moments.of(tensor.reshape(len(tensor), -1), rule.weight)
            total[key] = total[key] + part if key in total else part
    if abs(weight - 1) > 1e-9:
        raise MeasurementError(
            f"the weights of the product rule sum to {weight!r} and not to one: an estimator mixes replicates"
        )
    return total


def _chunks(total: int, size: int) -> Iterator[tuple[int, int]]:
    for start in range(0, total, size):
        yield start, min(total, start + size)


# ---------------------------------------------------------------------- of a measurement
@dataclass(frozen=True, eq=False)
class Expectation:
    """The exact moments of what a measurement samples.

    Attributes:
        moments: of every column of ``layout.vector``, gradients and scalars, with unit weight: ``.mean`` and
            ``.variance`` are those of one draw.
        points: how many outcomes, or nodes, were summed.
        how: the same in words.
        rounding: ``[d]``, bound on the error of the mean of every coordinate: of floating point, and of a quadrature.
        unknown: columns whose mean is not known: scalars that jump where no rule can see it.
        layout: order of the columns.
        reference: gradient that the scalars were taken against, flat, or None.
        resolution: relative rounding of the dtype of the draws.
        loss: typical absolute value of the loss.
        top: largest absolute value that each column can have, where the outcomes are finitely many; else None.
    """

    moments: Moments
    points: int
    how: str
    rounding: Array
    unknown: frozenset[int]
    layout: Layout
    reference: Array | None
    resolution: float
    loss: float
    top: Array | None = None

    def allows(self, largest: Array) -> bool:
        """Whether draws with these largest squared errors ``[M, groups]`` may have come from what was summed."""
        if self.top is None or self.reference is None or not largest.size:
            return True
        limits = [self.top[self.layout.scalar_columns(group)["square"]] for group in self.layout.groups]
        return bool((largest[0] <= np.array(limits) + 1e-20).all())

    def scalars(self, group: Key) -> dict[str, float]:
        """Expected scalars of a group by name, nan where not known; none without a reference."""
        if self.reference is None:
            return {}
        columns = self.layout.scalar_columns(group)
        return {k: math.nan if i in self.unknown else float(self.moments.mean[i]) for k, i in columns.items()}

    def group(self, group: Key, truth: Array) -> ExactGroup:
        """One group of coordinates beside its exact gradient ``[d of the group]``.

        The scalars were taken against ``reference``: where that is another vector they are not known.
        """
        columns = self.layout.columns(group)
        truth = np.asarray(truth, dtype=np.float64).ravel()
        same = self.reference is not None and np.array_equal(self.reference[columns], truth)
        found = self.moments[columns]
        return ExactGroup(
            found.mean,
            found.m2,
            truth,
            self.rounding[columns],
            self.scalars(group) if same else {},
            self.resolution,
            self.loss,
        )


def exact_group_statistics(
    expectation: Expectation, group: Key, truth: Array, margin: float = 0.05
) -> tuple[dict[str, float], str]:
    """The statistics of a group that have an exact value (`describe_exact`), and its verdict (`judge_exact`).

    Args:
        expectation: exact moments.
        group: key in ``expectation.layout.groups``.
        truth: exact gradient of the group's coordinates ``[d]``.
        margin: relative bias that counts as small.

    Returns:
        Statistics by name, nan where undefined or not known; and "exact", "biased beyond" or "biased".

    Raises:
        ValueError: shapes disagree, or the margin is not positive.
    """
    found = expectation.group(group, truth)
    return describe_exact(found), judge_exact(found, margin)


class _Unsettled(Exception):
    """No rule can be shown to be right."""


def expectation(measurement: Measurement, limit: int = LIMIT) -> Expectation | None:
    """The exact moments of what a measurement samples, if the estimator's randomness can be summed; else None.

    The grid of a `ProductRule` runs through the very code that draws, with the learned parts as they are. It counts as
    exact only when that is shown:

    - Constant between jumps. One node per piece gives the exact law, provided that the draw is the same on the whole
      piece. Each point of the grid is drawn again with every number elsewhere on its piece, a quarter of the time at
      either end, at 16384 points or more; every gradient must be the same to 64 eps of its largest value and 4 eps of
      the loss. This compares draws and not sums, so that nothing can cancel. A draw that is a polynomial of low degree
      in its numbers would have to return to its value in the middle at the same time on every piece, for many places
      that have nothing in common: a linear one cannot even once per number. One that jumps where nobody said, once on
      a piece, takes different values at its ends. What cannot be seen is a difference on less than some 1/16384 of all
      outcomes that touches no end of a piece.
    - Smooth, such as Gaussian draws, or ARM, which is linear on pieces. Two rules that share no node, of 3, 12, 32 or
      64 nodes (normal numbers: against 3/4 as many; uniform ones: Gauss-Legendre against Gauss-Lobatto, whose end
      nodes see a jump that nobody announced), must agree in mean and second moment of every gradient to 1e-10 of its
      root mean square. Scalars that jump ("descent", "cosine") mostly do not settle while gradients do: they
      are reported as unknown. So that nothing hides between the nodes of both, 1024 draws must be predicted, to 1e-3,
      by the polynomial through 16 points close by, along one of their numbers (`Sections`). Third and fourth moments
      are those of the same rule, not checked.

    ``rounding`` bounds the error of the means by the sum of: ``(256 + 8 log2(sums) + 8) u rms`` for adding up (u =
    2^-53; at most 256 terms per sum, sums added in pairs); ``2 eps k max|x|`` for the probabilities of the pieces of k
    uniform numbers, each of which is a difference of numbers in [0, 1] rounded in the dtype of the draws
    (``16 u k rms`` for the weights and nodes of normal numbers); the largest difference seen on one piece; or four
    times that of the two quadratures.

    None for black boxes, for grids of more than ``limit`` points, and for estimators that draw from torch's global
    stream, ask for other numbers at every call, bring randomness of their own, or whose quadrature meets values that
    are not finite.

    Args:
        measurement: prepared; not changed.
        limit: points of the largest grid.

    Raises:
        MeasurementError: a gradient is not finite on an outcome that has a positive probability.

    Cost: twice as many draws as points, at least 16384; quadratures 17408 more, for their sections. 10 us a
    point on 16 bits; a few ms where the grid is too large; up to 1 s where two large quadratures do not agree.
    """
    chain = measurement.source
    if not isinstance(chain, Chain):
        return None
    try:
        learn = _learn(chain, ProductRule(1))
        if learn.total > limit:
            return None
        if not learn.normals:
            try:
                return _constant(measurement, chain, learn)
            except _Unsettled:
                if not learn.sizes:
                    return None
        return _smooth(measurement, chain, learn, limit)
    except (_Unsettled, UsageError):
        return None


@dataclass
class _Total:
    """Sums so far: moments of pairs of pairs of .. of 256 rows, the largest absolute values, and the number of sums."""

    stack: list[tuple[int, Moments]]
    top: Tensor
    sums: int = 0

    def add(self, x: Tensor, weight: Tensor) -> None:
        """Takes rows ``[R, D]`` in."""
        self.top = self.top.maximum(x.abs().amax(0))
        weight = weight.to(x.device)
        for rows, w in zip(x.split(ROWS), weight.split(ROWS), strict=True):
            if not w.sum() > 0:
                continue
            self.sums += 1
            level, part = 0, Moments.of(rows, w)
            while self.stack and self.stack[-1][0] == level:
                part = self.stack.pop()[1] + part
                level += 1
            self.stack.append((level, part))

    def moments(self) -> Moments:
        """Of all rows."""
        if not self.stack:
            raise _Unsettled
        found = self.stack[-1][1]
        for _, part in reversed(self.stack[:-1]):
            found = part + found
        if abs(found.weight - 1) > 1e-9:
            raise _Unsettled  # the estimator did not ask for the numbers that it had asked for
        return found

    def error(self, moments: Moments, size: int) -> Array:
        """``[d]``, bound on what adding up did to the means."""
        terms = ROWS + 8 * math.log2(max(self.sums, 1)) + 8
        return np.asarray(2.0**-53 * terms * _rms(moments)[:size])


def _rms(moments: Moments) -> Array:
    return np.asarray(np.sqrt(moments.mean**2 + moments.m2 / moments.weight))


def _rows(measurement: Measurement, chain: Chain, rule: ProductRule, count: int) -> tuple[Tensor, Tensor]:
    """Vectors ``[R, D]`` and weights ``[R]`` of ``count`` points; rows without weight are zero."""
    draws = _draw(chain, rule, count)
    return _finite(measurement, draws, rule, True), rule.weight


def _draw(chain: Chain, rule: Noise, count: int) -> dict[Key, Tensor]:
    with forked(derive_seed("expectation")):
        before = torch.get_rng_state()
        draws = chain.draw(count, rule)
        if not torch.equal(before, torch.get_rng_state()):
            raise _Unsettled  # torch's global stream is no part of the rule
    return draws


def _finite(measurement: Measurement, draws: dict[Key, Tensor], rule: ProductRule, scalars: bool) -> Tensor:
    """Vectors of draws, with the scalars or without; zero where a point has no weight."""
    kept = scalars and measurement.reference is not None
    x = measurement.layout.vector(draws, torch.as_tensor(measurement.reference) if kept else None)
    empty = ~(rule.weight > 0)
    if empty.any():
        x[empty.to(x.device)] = 0.0
    if not torch.isfinite(x).all():
        raise _Unsettled
    return x


def _refuse_infinite(measurement: Measurement, draws: dict[Key, Tensor], weight: Tensor) -> None:
    """An outcome of positive probability whose gradient is not finite has no expectation, however rare it is.

    Raises:
        MeasurementError: there is one; says how likely.
    """
    for key, tensor in draws.items():
        wrong = ~torch.isfinite(tensor.reshape(len(tensor), -1)).all(1).cpu() & (weight > 0)
        if wrong.any():
            raise MeasurementError(
                f"{measurement.plan.estimator} on {measurement.plan.problem}: numbers of the gradient {key} are NaN or "
                f"infinite on outcomes that have a probability of {float(weight[wrong].sum()):.2g} or more; "
                "look for saturated probabilities, log(0) or a division by zero there"
            )


def _chunk_rows(measurement: Measurement, chain: Chain) -> int:
    """Points per chunk: a power of two, so that chunks are whole sums."""
    layout = measurement.layout
    width = layout.size + len(layout.groups) * len(SCALARS) + 4 * chain.tally.losses * chain.problem.batch
    return int(min(2**13, max(32, 2 ** int(math.log2(max(CHUNK_FLOATS / width, 1))))))


def _scale(layout: Layout, top: Tensor, reference: Array | None, loss: float) -> Tensor:
    """``[D]``: size of the numbers that each column is computed from, given their largest absolute values."""
    scale = top.clone()
    scale[: layout.size] = top[: layout.size].clamp_min(CANCELLATION / FLOOR * loss)
    if reference is not None:
        for group in layout.groups:
            column = layout.scalar_columns(group)
            square = float(top[column["norm2"]]) + float((reference[layout.columns(group)] ** 2).sum())
            scale[[column[name] for name in ("square", "inner", "norm2")]] = square
            scale[column["fourth"]] = square**2
            scale[[column[name] for name in ("cosine", "zero", "descent", "agreement")]] = 1.0
    return scale


def _constant(measurement: Measurement, chain: Chain, learn: ProductRule) -> Expectation:
    """One node per piece, compared point by point with nodes elsewhere."""
    layout, size, total, sizes = measurement.layout, measurement.layout.size, learn.total, tuple(learn.sizes)
    eps, loss = torch.finfo(chain.dtype).eps, chain.loss_scale
    copies = -(-PLACES // total) if sizes else 8
    rows = _chunk_rows(measurement, chain)
    generator = torch.Generator().manual_seed(derive_seed("places"))
    drift, unknown, found = 0.0, set[int](), _Total([], torch.zeros(()))
    # the first few points tell at little cost whether the others are worth it
    few = ROWS if copies == 1 else 0
    bounds = [*_chunks(few, ROWS), *((few + a, few + b) for a, b in _chunks(total - few, rows))]
    for start, stop in bounds:
        rule = ProductRule(1, sizes, start, stop)
        draws = _draw(chain, rule, stop - start)
        _refuse_infinite(measurement, draws, rule.weight)
        x, weight = _finite(measurement, draws, rule, True), rule.weight
        found.top = found.top.to(x.device)
        found.add(x, weight)
        tolerance = FLOOR * eps * _scale(layout, x.abs().amax(0), measurement.reference, loss)
        again = [(c * total + start, c * total + stop) for c in range(copies)]
        if stop - start == total:  # several rounds through the grid at once
            again = list(_chunks(copies * total, max(rows // total, 1) * total))
        for first, after in again:
            rule = ProductRule(1, sizes, first, after, places=generator)
            draws = _draw(chain, rule, after - first)
            rounds = (after - first) // (stop - start)
            if not torch.allclose(rule.weight, weight.repeat(rounds), rtol=1e-9, atol=0):
                raise _Unsettled
            y = _finite(measurement, draws, rule, False)
            gap = (y - x[:, :size].repeat(rounds, 1)).abs().amax(0)
            if (gap > tolerance[:size]).any():
                raise _Unsettled
            if gap.any():  # else the scalars are the same as well
                drift = max(drift, float(gap.max()))
                y = _finite(measurement, draws, rule, True)
                gap = (y - x.repeat(rounds, 1)).abs().amax(0)
                unknown |= set(torch.nonzero(gap > tolerance)[:, 0].tolist())
    moments = found.moments()
    lengths = 2 * eps * len(sizes) * found.top[:size].cpu().numpy()
    how = f"sum over {total} outcomes of its random numbers" if sizes else "it draws no random numbers"
    return Expectation(
        moments,
        total,
        how,
        found.error(moments, size) + lengths + drift,
        frozenset(unknown),
        layout,
        measurement.reference,
        eps,
        loss,
        found.top.cpu().numpy() * (1 + 1e-6),
    )


def _check_sections(measurement: Measurement, chain: Chain, numbers: int, noise: float) -> None:
    """Two rules that agree may both have missed what lies between their nodes."""
    generator = torch.Generator().manual_seed(derive_seed("sections"))
    nodes = 16
    for start, stop in _chunks(SECTIONS, max(_chunk_rows(measurement, chain) // (nodes + 1), 1)):
        rule = Sections(stop - start, numbers, generator, nodes)
        x = measurement.layout.vector(_draw(chain, rule, (stop - start) * (nodes + 1)), None)
        x = x.unflatten(0, (stop - start, nodes + 1))
        gap = (x[:, -1] - torch.einsum("sn,snd->sd", rule.basis.to(x.device), x[:, :-1])).abs()
        if not (gap <= SMOOTH * x.abs().amax(1) + noise).all():
            raise _Unsettled


def _smooth(measurement: Measurement, chain: Chain, first: ProductRule, limit: int) -> Expectation:
    """Two quadratures, with more and more nodes until they agree."""
    layout, size = measurement.layout, measurement.layout.size
    eps, u = torch.finfo(chain.dtype).eps, 2.0**-53
    normals, numbers = first.normals, len(first.sizes) - first.normals
    smallest = (
        RULES[1] if normals else RULES[0]
    )  # of 3 Gauss-Hermite nodes the outermost leaves out 8 % of all outcomes
    smooth, steps = numbers - first.constants, 2**first.constants
    sizes = {
        n: first.total * max(n ** (normals + smooth), (3 * n // 4) ** normals * (n + 1) ** smooth * steps)
        for n in RULES
    }
    tried = [n for n in RULES if n >= smallest and sizes[n] <= limit]
    for nodes in tried:
        rules = [partial(ProductRule, nodes), partial(ProductRule, nodes, check=True)]
        learned = [_learn(chain, rule()) for rule in rules]
        totals = [_Total([], torch.zeros(())) for _ in rules]
        for total, rule, one in zip(totals, rules, learned, strict=True):
            for start, stop in _chunks(one.total, _chunk_rows(measurement, chain)):
                x, weight = _rows(measurement, chain, rule(tuple(one.sizes), start, stop), stop - start)
                total.top = total.top.to(x.device)
                total.add(x, weight)
        fine, rough = (total.moments() for total in totals)
        rms = _rms(fine)
        noise = FLOOR * eps * max(float(rms[:size].max()), CANCELLATION / FLOOR * chain.loss_scale)
        means = np.abs(fine.mean - rough.mean)
        squares = np.abs(rms - _rms(rough))  # of the root: half as much, relatively
        settled = means <= max(SETTLED, FLOOR * eps) * rms
        settled[:size] = np.maximum(means, 2 * squares)[:size] <= SETTLED * rms[:size] + noise
        if settled[:size].all():
            _check_sections(measurement, chain, len(first.sizes), noise)
            cut = numbers > 0 or first.total > 1  # uniform numbers, or normal ones with jumps
            kind = "Gauss quadrature" if cut else "Gauss-Hermite quadrature"
            kind = kind if normals else "Gauss-Legendre quadrature"
            each = "on each piece" if cut else "for each"
            plural = "" if len(first.sizes) == 1 else "s"
            weights = 16 * u * normals * rms[:size]
            weights += 2 * eps * numbers * totals[0].top[:size].cpu().numpy() if numbers else 0.0
            return Expectation(
                fine,
                learned[0].total,
                f"{kind}, {nodes} nodes {each} of {len(first.sizes)} random number{plural}",
                totals[0].error(fine, size) + weights + 4 * means[:size],
                frozenset((size + np.flatnonzero(~settled[size:])).tolist()),
                layout,
                measurement.reference,
                eps,
                chain.loss_scale,
            )
        reach = SETTLED ** (nodes / tried[-1])  # what geometric convergence leaves here on its way to SETTLED
        worst = float((means[:size] / np.maximum(rms[:size], noise)).max())
        if worst > 30 * reach:
            break
    raise _Unsettled
