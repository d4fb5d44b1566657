"""What the base classes promise, for every compatible pair of the tables, and what the package promises of itself."""

import dataclasses
import functools
import itertools
import math
import operator
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from neuron_nets import NETS
from torch import Tensor

from estimator_lab.chain import Chain
from estimator_lab.errors import MeasurementError, UsageError
from estimator_lab.estimator import Estimator, about
from estimator_lab.estimators import (
    ARM,
    ESTIMATORS,
    SPSA,
    Callback,
    ControlledFlips,
    CurveThrough,
    DisARM,
    DropIn,
    Exact,
    FieteSeung,
    FiniteDifferences,
    FittedStraightThrough,
    LeaveOneOut,
    LocalExpectation,
    MeanField,
    MuProp,
    Pathwise,
    Rebar,
    Reinforce,
    ReinMax,
    StraightThrough,
    StraightThroughGumbelSoftmax,
)
from estimator_lab.expectation import exact_moments
from estimator_lab.measurement import fit, measure, prepare
from estimator_lab.noise import MonteCarlo, Noise, NoNoise
from estimator_lab.problem import Problem
from estimator_lab.problems import TOYS, Additive, ChainOfFour, DigitsAutoencoder, OneBit, QuadraticForm, TwoLayer
from estimator_lab.problems.gaussian import Gaussian
from estimator_lab.truth import Truth

DIGITS = DigitsAutoencoder(batch=3, steps=20)
HARD = (
    Reinforce,
    LeaveOneOut,
    ARM,
    DisARM,
    LocalExpectation,
    ControlledFlips,
    MuProp,
    Rebar,
    StraightThrough,
    StraightThroughGumbelSoftmax,
    CurveThrough,
    FittedStraightThrough,
    ReinMax,
    FiniteDifferences,
    SPSA,
    FieteSeung,
)


def fits(estimator: Estimator, problem: Problem) -> bool:
    return all(isinstance(site.family, estimator.families) for site in problem.sites)


PAIRS = [(e, p) for e, p in itertools.product(ESTIMATORS, (*TOYS, *NETS)) if fits(e, p)]
PAIRS += [(e, DIGITS) for e in (DisARM(), LeaveOneOut(4), LocalExpectation(), Rebar(), ReinMax(), MeanField())]


def pairs(cases=PAIRS):
    return pytest.mark.parametrize(("estimator", "problem"), cases, ids=[f"{e!r}-{p!r}" for e, p in cases])


@functools.cache
def fitted(estimator: Estimator, problem: Problem) -> Estimator:
    """With learned parts fitted on few draws."""
    return fit(estimator, problem, 0, 256)


def chain_of(estimator: Estimator, problem: Problem, wrt=("unit", "weight")) -> Chain:
    return Chain(problem, fitted(estimator, problem), wrt)


def same_bytes(a, b) -> bool:
    parts = [(x.moments, x.batches) for x in (a, b)]
    arrays = [[getattr(m, k) for k in ("mean", "m2", "m3")] + [mean for _, mean in n] for m, n in parts]
    keys = [[key for key, _ in n] for _, n in parts]
    return keys[0] == keys[1] and all(x.tobytes() == y.tobytes() for x, y in zip(*arrays, strict=True))


# ---------------------------------------------------------------------- shapes, finiteness, surrogates
@pairs()
def test_draws_have_the_shapes_of_what_is_differentiated_and_are_finite(estimator, problem):
    chain, count = chain_of(estimator, problem), 5
    draws = chain.draw(count, MonteCarlo("draw"))
    expected = {("unit", s.name): (count, problem.batch, *s.theta_shape) for s in problem.sites}
    expected |= {("weight", k): (count, *w.shape) for k, w in problem.weights().items()}
    assert {k: tuple(v.shape) for k, v in draws.items()} == expected
    assert all(torch.isfinite(v).all() and v.dtype == chain.dtype and not v.requires_grad for v in draws.values())
    assert tuple(chain.value(MonteCarlo("draw"), count).shape) == (count, problem.batch)
    for wrt in ("unit", "weight"):
        alone = chain_of(estimator, problem, (wrt,)).draw(count, MonteCarlo("draw"))
        for key, value in alone.items():
            torch.testing.assert_close(value, draws[key], rtol=1e-12, atol=1e-12)
        assert set(alone) == {k for k in expected if k[0] == wrt}


def test_a_chain_under_another_estimator_is_a_chain_of_it():
    chain = Chain(TwoLayer(), DisARM(), ("unit",))
    for other in (LocalExpectation(), Rebar(), DisARM()):
        found, expected = (
            c.draw(5, MonteCarlo("under")) for c in (chain.under(other), Chain(TwoLayer(), other, ("unit",)))
        )
        assert found.keys() == expected.keys() and all(torch.equal(found[k], v) for k, v in expected.items())
    with pytest.raises(UsageError, match="Pathwise"):
        chain.under(Pathwise())


class Spy(Estimator):
    """Runs another estimator and keeps what it passes on by default, and the loss that came back."""

    def __init__(self, inner: Estimator):
        self.inner, self.paths, self.families = inner, inner.paths, inner.families
        self.values: list[Tensor] = []
        self.surrogates: list[tuple[Tensor, Tensor]] = []

    def surrogate(self, site, downstream):
        def spied(value, using=None):
            if using is not None:
                return downstream(value, using=using)
            self.values.append(value.detach())
            self.returned = downstream(value)
            return self.returned

        mine = self.inner.surrogate(site, spied)
        self.surrogates.append((mine.detach(), self.returned.detach()))
        self.returned = mine
        return mine


@pairs([pair for pair in PAIRS if isinstance(pair[0], HARD)])
def test_surrogate_is_the_loss_at_a_hard_sample(estimator, problem):
    """At every site its value is that of the continuation; in the end the problem's own loss, found without a chain."""
    count = 4
    spy = Spy(fit(estimator, problem, 0, 256))
    chain = Chain(problem, spy)
    value = chain.value(MonteCarlo("spy"), count)
    for mine, returned in spy.surrogates:
        torch.testing.assert_close(mine, returned, rtol=1e-13, atol=1e-13)
    values = [
        v.expand(spy.paths, count, problem.batch, *s.value_shape)
        for v, s in zip(spy.values, problem.sites, strict=True)
    ]
    for sample, site in zip(values, problem.sites, strict=True):
        if site.family.discrete:
            assert set(sample.unique().tolist()) <= {0.0, 1.0}
    weights = dict(problem.weights())
    expected = torch.zeros(count, problem.batch, dtype=value.dtype)
    for k, r in itertools.product(range(spy.paths), range(count)):
        samples = tuple(v[k, r] for v in values)
        thetas = tuple(problem.theta(weights, samples[:i]) for i in range(len(samples)))
        expected[r] += problem.loss(weights, samples, thetas) / spy.paths
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("estimator", [Exact(), MeanField()], ids=repr)
def test_deterministic_estimators_draw_nothing(estimator):
    for problem in (TwoLayer(), QuadraticForm(), DIGITS):
        draws = Chain(problem, estimator).draw(3, NoNoise())
        for tensor in draws.values():
            torch.testing.assert_close(tensor, tensor[:1].expand_as(tensor), rtol=1e-13, atol=1e-13)


def test_costs_are_as_stated():
    """Losses and backward passes per estimate, from the docstrings, on three bits and on a chain of two layers."""
    stated = {
        Reinforce(): (1, 0),
        LeaveOneOut(4): (4, 0),
        ARM(): (2, 0),
        DisARM(): (2, 0),
        LocalExpectation(): (3 + 2, 0),
        ControlledFlips(): (3 + 2, 0),
        MuProp(): (2, 1),
        Rebar(): (3, 2),
        StraightThrough(): (1, 1),
        CurveThrough(): (1, 1),
        ReinMax(): (1, 1),
        FiniteDifferences(): (2 * 3 + 1, 0),
        SPSA(): (3, 0),
        FieteSeung(): (3, 0),
        FieteSeung(baseline=None): (2, 0),
        MeanField(): (1, 1),
        Exact(): (8, 0),
    }
    for estimator, (losses, backwards) in stated.items():
        chain = Chain(QuadraticForm(), estimator, ("unit",))
        chain.draw(6, MonteCarlo("cost"))
        assert (chain.tally.losses, chain.tally.backwards) == (losses, backwards), estimator
    for estimator in (ARM(), DisARM()):
        chain = Chain(TwoLayer(), estimator, ("unit",))
        chain.draw(6, MonteCarlo("cost"))
        assert chain.tally.losses == 3  # S + 1


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_every_estimator_says_what_it_is(estimator):
    said = about(estimator)
    assert all(said[k] for k in ("name", "summary", "equation", "reason", "cost"))
    assert eval(repr(estimator), {type(e).__name__: type(e) for e in ESTIMATORS}) == estimator
    assert estimator.label


class Unheard(TwoLayer):
    """The second layer does not hear the first unit of the first."""

    def theta(self, weights, samples):
        return super().theta(weights, samples) if not samples else samples[0][..., 1:] @ weights["w2"][:, 1:].T


def test_local_expectation_shares_random_numbers_downstream():
    """A unit that changes nothing downstream has no gradient but the penalty's, draw by draw."""
    problem = Unheard()
    draws = Chain(problem, LocalExpectation(), ("unit",)).draw(50, MonteCarlo("common"))["unit", "h1"]
    direct = 0.2 * problem.theta(problem.weights(), ())
    torch.testing.assert_close(draws[..., 0], direct[:, 0].expand(50, -1), rtol=1e-12, atol=1e-13)
    assert (draws[..., 1:].std(0) > 0).all()


def test_wrong_shapes_are_told():
    class Summed(Estimator):
        def surrogate(self, site, downstream):
            return downstream(site.sample()).sum(-1)

    class Squeezed(Estimator):
        def surrogate(self, site, downstream):
            return downstream(site.sample()[..., 0])

    with pytest.raises(UsageError, match=r"axes \[paths, replicates, batch\] = \[1, 8, 1\]; found \[1, 8\]"):
        measure(OneBit(), Summed(), 10)
    with pytest.raises(UsageError, match=r"passed a value with shape .* on from site 'h1'"):
        measure(TwoLayer(), Squeezed(), 10)
    with pytest.raises(UsageError, match=r"applies to Reparameterised sites, and not to the Bernoulli\(\) site 'x'"):
        measure(OneBit(), Pathwise(), 10)


# ---------------------------------------------------------------------- reproducibility
@pairs([(e, p) for e, p in PAIRS if isinstance(p, TwoLayer | OneBit | Gaussian) or p is DIGITS])
def test_same_seed_same_bytes(estimator, problem):
    one, two = measure(problem, estimator, 100), measure(problem, estimator, 100)
    assert same_bytes(one, two) and one.plan == two.plan
    other = measure(problem, estimator, 100, seed=1)
    assert same_bytes(one, other) != bool(one.moments.m2.any())


def small_blocks(problem, estimator, **options):
    measurement = prepare(problem, estimator, **options)
    return dataclasses.replace(measurement, plan=dataclasses.replace(measurement.plan, largest=64))


@pairs([(DisARM(), TwoLayer()), (Rebar(), QuadraticForm()), (LeaveOneOut(4), TOYS[6])])
def test_records_of_blocks_join_in_any_split(estimator, problem):
    """Batches to the byte; moments to rounding."""
    reference = Truth.exact(problem).mean
    measurement = small_blocks(problem, estimator, reference=reference)
    blocks = [measurement.block(i) for i in np.random.default_rng(0).permutation(18)]  # drawn in any order
    blocks.sort(key=lambda r: r.start)
    whole = measurement.run(16 * 32 + 2 * 64)
    assert same_bytes(whole, functools.reduce(operator.add, blocks))
    assert same_bytes(whole, measurement.extend(measurement.run(100), 600))
    for cut in range(1, 18):
        left, right = blocks[0], blocks[cut]
        for block in blocks[1:cut]:
            left = left + block
        for block in blocks[cut + 1 :]:
            right = right + block
        joined = left + right
        assert (joined.start, joined.stop, joined.replicates) == (0, 18, 640)
        assert [k for k, _ in joined.batches] == [k for k, _ in whole.batches]
        assert all(a.tobytes() == b.tobytes() for (_, a), (_, b) in zip(joined.batches, whole.batches, strict=True))
        assert joined.largest.tobytes() == whole.largest.tobytes()
        for name in ("mean", "m2", "m3", "m4"):
            a, b = getattr(joined.moments, name), getattr(whole.moments, name)
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12 * np.abs(b).max())
    with pytest.raises(UsageError, match="adjacent"):
        blocks[0] + blocks[2]
    with pytest.raises(UsageError, match="adjacent"):
        blocks[1] + blocks[0]
    with pytest.raises(UsageError, match="different plans"):
        blocks[0] + small_blocks(problem, estimator, reference=reference, seed=7).block(1)


def test_moments_of_a_record_are_those_of_its_draws():
    problem, estimator = TwoLayer(), DisARM()
    measurement = small_blocks(problem, estimator)
    record = measurement.run(192)
    draws = [measurement.source.draw(32, MonteCarlo(measurement.plan.block_seed(i))) for i in range(6)]
    for key in draws[0]:
        x = torch.cat([d[key] for d in draws]).numpy()
        np.testing.assert_allclose(record.mean(key), x.mean(0), rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(record.variance(key), x.var(0, ddof=1), rtol=1e-12, atol=1e-15)
        batches = x.reshape(len(record.batches.means()), -1, *x.shape[1:]).mean(1)
        columns = record.layout.spans[key]
        np.testing.assert_allclose(
            record.batches.means()[:, columns], batches.reshape(len(batches), -1), rtol=1e-12, atol=1e-15
        )
    assert record.batch_size * len(record.batches.means()) == 192
    np.testing.assert_array_equal(record["layer", "h1"].mean, record.mean(("weight", "w1")).ravel())


def test_scalars_of_a_record():
    """Against their definitions, replicate by replicate."""
    problem, estimator = TwoLayer(), Reinforce()
    truth = Truth.exact(problem).mean
    measurement = small_blocks(problem, estimator, reference=truth)
    draws = measurement.source.draw(64, MonteCarlo("scalars"))
    vector = measurement.layout.vector(draws, torch.as_tensor(measurement.reference)).numpy()
    for group, keys in measurement.layout.groups.items():
        x = np.concatenate([draws[k].reshape(64, -1).numpy() for k in keys], 1)
        g = np.concatenate([truth[k].ravel() for k in keys])
        square, norm2 = ((x - g) ** 2).sum(1), (x**2).sum(1)
        cosine = np.divide(x @ g, np.sqrt(norm2) * np.linalg.norm(g), where=norm2 > 0, out=np.zeros(64))
        expected = {
            "square": square,
            "fourth": square**2,
            "inner": x @ g,
            "norm2": norm2,
            "cosine": cosine,
            "zero": norm2 == 0,
            "descent": x @ g > 0,
            "agreement": (np.sign(x) == np.sign(g))[:, g != 0].mean(1),
        }
        for name, column in measurement.layout.scalar_columns(group).items():
            np.testing.assert_allclose(
                vector[:, column], expected[name], rtol=1e-12, atol=1e-14, err_msg=f"{group} {name}"
            )


# ---------------------------------------------------------------------- replicates
@pairs()
def test_replicates_do_not_mix(estimator, problem):
    chain_of(estimator, problem).check_mixing()


class MeanOverReplicates(Estimator):
    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        return loss + site.score(value, loss - loss.mean(-2, keepdim=True))


class OtherReplicates(Estimator):
    """Leave-one-out over the wrong axis: unbiased, but its replicates are not independent."""

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        others = (loss.sum(-2, keepdim=True) - loss) / max(1, loss.shape[-2] - 1)
        return loss + site.score(value, loss - others)


class Normalised(Estimator):
    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        return loss + site.score(value, loss / (1e-6 + loss.square().mean(-2, keepdim=True)))


@pytest.mark.parametrize("kind", [MeanOverReplicates, OtherReplicates, Normalised], ids=lambda k: k.__name__)
@pytest.mark.parametrize("problem", [*TOYS, DIGITS], ids=repr)
def test_mixing_of_replicates_is_found(kind, problem):
    if kind is Normalised and problem.label == "parity":
        pytest.skip("the square of a parity is one, whatever the sample: nothing mixes")
    with pytest.raises(MeasurementError, match=r"mixes replicates.*never over the replicate axis -2"):
        measure(problem, kind(), 10)


class Recorder(Noise):
    """Draws and remembers."""

    def __init__(self):
        self.source = MonteCarlo("recorded")
        self.drawn: list[tuple[Tensor, int]] = []

    def uniform(self, like, axis, jumps):
        self.drawn.append((self.source.uniform(like, axis, jumps), axis))
        return self.drawn[-1][0].clone()

    def normal(self, like, axis, jumps):
        self.drawn.append((self.source.normal(like, axis, jumps), axis))
        return self.drawn[-1][0].clone()


class Replay(Noise):
    """The recorded numbers of one replicate."""

    def __init__(self, recorder: Recorder, replicate: int):
        self.numbers = iter([t.narrow(axis, replicate, 1) for t, axis in recorder.drawn])

    def uniform(self, like, axis, jumps):
        number = next(self.numbers)
        assert number.shape == like.shape
        return number.clone()

    def normal(self, like, axis, jumps):
        return self.uniform(like, axis, jumps)


@pairs()
def test_a_batch_of_replicates_is_single_draws(estimator, problem):
    chain, recorder, count = chain_of(estimator, problem), Recorder(), 4
    batched = chain.draw(count, recorder)
    for r in range(count):
        single = chain.draw(1, Replay(recorder, r))
        for key, value in single.items():
            torch.testing.assert_close(value[0], batched[key][r], rtol=1e-11, atol=1e-12)


@pairs([(e, p) for e, p in PAIRS if isinstance(p, TwoLayer)])
def test_examples_are_independent(estimator, problem):
    """Moving one example's first logits leaves the unit gradients of the others as they are."""
    chain = chain_of(estimator, problem, ("unit",))
    offsets = {s.name: torch.zeros(3, problem.batch, *s.theta_shape, dtype=chain.dtype) for s in problem.sites}
    before = chain.draw(3, MonteCarlo("examples"), offsets)
    offsets["h1"][:, 0] = 3.0
    after = chain.draw(3, MonteCarlo("examples"), offsets)
    for key in before:
        torch.testing.assert_close(before[key][:, 1:], after[key][:, 1:], rtol=1e-13, atol=1e-13)


# ---------------------------------------------------------------------- truth
def unit_differences(problem: Problem, h: float) -> dict[str, Tensor]:
    """Fourth-order central differences of the expected loss in every offset: ``[theta coordinates, B]`` per site."""
    chain = Chain(problem, Exact())
    slopes = {}
    for site in problem.sites:
        size = math.prod(site.theta_shape)
        count = 4 * size
        offsets = {s.name: torch.zeros(count, problem.batch, *s.theta_shape, dtype=chain.dtype) for s in problem.sites}
        steps = torch.tensor([2.0, 1.0, -1.0, -2.0], dtype=chain.dtype) * h
        moves = torch.einsum("s,ij->sij", steps, torch.eye(size, dtype=chain.dtype)).reshape(
            count, 1, *site.theta_shape
        )
        offsets[site.name] += moves
        a, b, c, d = chain.value(NoNoise(), count, offsets).reshape(4, size, problem.batch)
        slopes[site.name] = (-a + 8 * b - 8 * c + d) / (12 * h)
    return slopes


@pytest.mark.parametrize("problem", [p for p in TOYS if p.sites[0].family.discrete] + [DIGITS, *NETS], ids=repr)
def test_unit_truth_is_the_slope_of_the_expected_loss(problem):
    truth = Truth.exact(problem, ("unit",))
    assert truth.is_exact and "exact" in truth.words
    for name, slopes in unit_differences(problem, 1e-3).items():
        found = truth.mean["unit", name].reshape(problem.batch, -1).T
        np.testing.assert_allclose(found, slopes, rtol=1e-8, atol=1e-9 * max(1, np.abs(found).max()))


class Moved(Problem):
    """A problem at other weights."""

    def __init__(self, problem: Problem, weights: dict[str, Tensor]):
        self.problem, self._weights, self.sites, self.batch = problem, weights, problem.sites, problem.batch

    def weights(self):
        return self._weights

    def theta(self, weights, samples):
        return self.problem.theta(weights, samples)

    def loss(self, weights, samples, thetas):
        return self.problem.loss(weights, samples, thetas)


@pytest.mark.parametrize("problem", [TwoLayer(), ChainOfFour(), TOYS[7]], ids=repr)
def test_weight_truth_is_the_slope_of_the_mean_expected_loss(problem):
    h, truth = 1e-3, Truth.exact(problem).mean
    weights = dict(problem.weights())

    def expected(name: str, index: int, step: float) -> float:
        moved = {k: v.clone() for k, v in weights.items()}
        moved[name].view(-1)[index] += step
        return float(Chain(Moved(problem, moved), Exact()).value(NoNoise()).mean())

    for name, weight in weights.items():
        for index in range(0, weight.numel(), 3):
            a, b, c, d = (expected(name, index, k * h) for k in (2, 1, -1, -2))
            slope = (-a + 8 * b - 8 * c + d) / (12 * h)
            np.testing.assert_allclose(truth["weight", name].ravel()[index], slope, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("problem", [p for p in TOYS if isinstance(p, Gaussian)], ids=repr)
def test_quadrature_of_gaussian_toys_is_their_closed_form(problem):
    truth = Truth.exact(problem).mean
    np.testing.assert_allclose(truth["unit", "x"][0], problem.closed_form(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(truth["weight", "theta"], problem.closed_form(), rtol=1e-9, atol=1e-12)


def test_estimated_truth():
    problem = TwoLayer()
    truth = Truth.estimated(problem, LocalExpectation(), 2**12)
    assert not truth.is_exact and truth.standard_error["unit", "h1"].shape == (2, 3)
    for key, exact in Truth.exact(problem).mean.items():  # 30 coordinates at 6.5 standard errors: 3e-9
        assert (np.abs(truth.mean[key] - exact) <= 6.5 * truth.standard_error[key] + 1e-12).all()
    with pytest.raises(UsageError, match="does not claim to be"):
        Truth.estimated(problem, StraightThrough(), 100)
    # other draws than a measurement's of the same estimator and seed
    assert not np.array_equal(
        truth.runs[0].record.moments.mean, measure(problem, LocalExpectation(), 2**12).moments.mean
    )


# ---------------------------------------------------------------------- global state
def state():
    return (
        torch.get_rng_state().tolist(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        random.getstate(),
        str(np.random.get_state()),
    )


def noisy_rounding(theta: Tensor) -> Tensor:
    """Draws from the global stream."""
    p = theta.sigmoid()
    return (torch.rand_like(p) < p).to(p) + p - p.detach()


def probe(theta, f):
    """One-point smoothing, drawing from the global stream."""
    b = (torch.rand_like(theta) < theta.sigmoid()).to(theta)
    return f(b)[..., None] * (b - theta.sigmoid())


@pytest.mark.parametrize("grad", [True, False])
def test_no_global_state_is_touched(grad):
    with torch.set_grad_enabled(grad):
        before = state()
        for estimator in (*ESTIMATORS[:4], Rebar(), DropIn(noisy_rounding), Callback(probe)):
            measure(TwoLayer(), estimator, 40)
            assert state() == before
        Truth.exact(TwoLayer())
        Truth.estimated(OneBit(), DisARM(), 40)
        exact_moments(OneBit(), Reinforce("mean"))
        DigitsAutoencoder(steps=2, seed=1).weights()
        assert state() == before
        with pytest.raises(MeasurementError):
            measure(OneBit(), DropIn(lambda theta: theta * torch.rand_like(theta) / 0), 40)
        assert state() == before


@pytest.mark.parametrize("estimator", [DropIn(noisy_rounding), Callback(probe)], ids=repr)
def test_draws_from_the_global_stream_are_repeatable(estimator):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        one = measure(TwoLayer(), estimator, 100)
        torch.manual_seed(2)
        two = measure(TwoLayer(), estimator, 100)
    assert same_bytes(one, two) and one.moments.m2.any()


def test_weights_keep_their_gradients_and_values():
    theta = torch.tensor([0.3, -1.2], dtype=torch.float64, requires_grad=True)
    problem = Moved(Additive(logits=(0.0, 0.0), coefficients=(1.0, 2.0)), {"theta": theta})
    measure(problem, StraightThrough(), 40)
    assert theta.grad is None and theta.requires_grad and theta.tolist() == [0.3, -1.2]


def test_importing_the_package_loads_no_torch():
    code = "import sys, estimator_lab; print(sorted({'torch', 'scipy', 'matplotlib', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]" and not done.stderr


def test_public_names_stay_what_they_are():
    """A submodule with the name of a function would take its place in the package once it is imported."""
    code = (
        "import importlib, pkgutil, types, estimator_lab as lab\n"
        "for m in pkgutil.iter_modules(lab.__path__): importlib.import_module('estimator_lab.' + m.name)\n"
        "rooms = {'estimators', 'families', 'nn', 'problems', 'report', 'statistics', 'tracking'}\n"
        "print([n for n in lab.__all__ if isinstance(getattr(lab, n), types.ModuleType) != (n in rooms)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]", done.stdout


# ---------------------------------------------------------------------- precision
@pytest.mark.parametrize("estimator", [Exact(), MeanField()], ids=repr)
@pytest.mark.parametrize("problem", [p for p in TOYS], ids=repr)
def test_single_precision_agrees(estimator, problem):
    if isinstance(problem, Gaussian) and isinstance(estimator, Exact):
        estimator = Exact(nodes=24)
    wide = Chain(problem, estimator).draw(1, NoNoise())
    narrow = Chain(dataclasses.replace(problem, dtype=torch.float32), estimator).draw(1, NoNoise())
    scale = max(float(t.abs().max()) for t in wide.values())
    for key, value in wide.items():
        assert narrow[key].dtype == torch.float32
        torch.testing.assert_close(
            narrow[key].double(), value, rtol=0, atol=200 * torch.finfo(torch.float32).eps * scale
        )


@pytest.mark.parametrize("estimator", [Reinforce(), DisARM(), Rebar(), LocalExpectation()], ids=repr)
def test_single_precision_has_the_same_moments(estimator):
    """Means at 7 standard errors: 30 coordinates of four estimators, 3e-10; variances to 15 %, 10 standard errors."""
    problem, count = TwoLayer(), 2**15
    wide, narrow = (
        measure(dataclasses.replace(problem, dtype=d), estimator, count) for d in (torch.float64, torch.float32)
    )
    assert (wide.plan.dtype, narrow.plan.dtype) == ("float64", "float32")
    size = wide.layout.size
    a, b = wide.moments[:size], narrow.moments[:size]
    error = np.sqrt((a.variance + b.variance) / count)
    assert (np.abs(a.mean - b.mean) < 7 * error + 1e-5).all()
    assert abs(a.variance.sum() / b.variance.sum() - 1) < 0.15


# ---------------------------------------------------------------------- problems that cannot be vmapped
class Itemised(TwoLayer):
    """Reads a number out of its loss."""

    def loss(self, weights, samples, thetas):
        bonus = 0.5 if samples[1].detach().sum().item() < 0 else 0.0
        return super().loss(weights, samples, thetas) + bonus


class Branching(TwoLayer):
    """Decides by a value in its theta."""

    def theta(self, weights, samples):
        if samples and samples[0].detach().sum() < 0:
            return samples[0] @ weights["w2"].T + 1
        return super().theta(weights, samples)


@pytest.mark.parametrize("kind", [Itemised, Branching], ids=lambda k: k.__name__)
@pytest.mark.parametrize(
    "estimator", [DisARM(), LeaveOneOut(4), LocalExpectation(), Rebar(), Exact(), StraightThrough()], ids=repr
)
def test_a_problem_that_vmap_refuses_runs_in_a_loop(kind, estimator):
    """And gives the same gradients, to rounding, as its twin that can be mapped."""
    slow, fast = Chain(kind(), estimator), Chain(TwoLayer(), estimator)
    assert not fast.notes
    (note,) = slow.notes
    assert "runs in a loop over replicates, which is slow: vmap refuses it" in note
    a, b = (c.draw(3, MonteCarlo("loop")) for c in (slow, fast))
    for key in b:
        torch.testing.assert_close(a[key], b[key], rtol=1e-12, atol=1e-13)


def test_a_loop_is_noted_in_the_record_and_gives_the_truth():
    record = measure(Itemised(), DisARM(), 32)
    assert any("loop" in note for note in record.notes)
    slow, fast = Truth.exact(Itemised()).mean, Truth.exact(TwoLayer()).mean
    for key in fast:
        np.testing.assert_allclose(slow[key], fast[key], rtol=1e-12, atol=1e-13)


class Fickle(TwoLayer):
    """Gives other values under vmap than in a loop."""

    def loss(self, weights, samples, thetas):
        mapped = torch._C._functorch.is_batchedtensor(samples[0])
        return super().loss(weights, samples, thetas) * (2.0 if mapped else 1.0)


def test_a_problem_that_vmap_maps_wrongly_runs_in_a_loop():
    chain = Chain(Fickle(), DisARM())
    assert "vmap gives other values or derivatives than a loop" in chain.notes[0]


@dataclasses.dataclass(frozen=True)
class Blunt(TwoLayer):
    """Gives the right values under vmap, but no derivatives of its loss, or others than in a loop."""

    lost: str = "all"

    def loss(self, weights, samples, thetas):
        if not torch._C._functorch.is_batchedtensor(samples[0]):
            return super().loss(weights, samples, thetas)
        if self.lost == "all":
            return super().loss(weights, samples, thetas).detach()
        if self.lost == "of v":
            return super().loss({**weights, "v": weights["v"].detach()}, samples, thetas)
        more = samples[-1].sum(-1)  # a slope without a value
        return super().loss(weights, samples, thetas) + (more - more.detach())


@pytest.mark.parametrize(
    ("lost", "told"), [("all", "loses the derivatives"), ("of v", "gives other"), ("none", "gives other")]
)
def test_a_problem_whose_derivatives_vmap_gets_wrong_runs_in_a_loop(lost, told):
    """The values are right: only the derivatives tell. Gradients are those of the twin that can be mapped."""
    slow, fast = (Chain(problem, StraightThrough()) for problem in (Blunt(lost=lost), TwoLayer()))
    assert slow.looped and f"vmap {told}" in slow.notes[0] and not fast.looped
    a, b, mapped = (c.draw(3, MonteCarlo("loop")) for c in (slow, fast, _mapped(Blunt(lost=lost))))
    for key in b:
        torch.testing.assert_close(a[key], b[key], rtol=1e-12, atol=1e-13)
    assert any(not torch.allclose(mapped[key], b[key]) for key in b)  # mapped all the same, it would be wrong


def _mapped(problem):
    chain = Chain(problem, StraightThrough())
    chain.looped = False
    return chain


# ---------------------------------------------------------------------- doors for a user's estimator
def test_user_functions_reproduce_the_table():
    """Straight-through as a drop-in and REINFORCE as a callback, against the exact means of the package's own."""
    problem = QuadraticForm()
    doors = {DropIn(noisy_rounding): StraightThrough(), Callback(probe): Reinforce()}
    for door, own in doors.items():
        assert door.unbiased is None
        found, exact = (
            measure(problem, door, 2**14, wrt=("unit",)),
            exact_moments(problem, own, 1, ("unit",))["unit", "x"],
        )
        error = np.sqrt(exact.variance / found.replicates)
        assert (np.abs(found.mean(("unit", "x")).ravel() - exact.mean) < 6.5 * error).all()  # 6 means: 5e-10


def test_an_old_style_function_works():
    class Round(torch.autograd.Function):
        @staticmethod
        def forward(ctx, theta):
            return (theta > 0).to(theta)

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    record = measure(Additive(), DropIn(Round.apply), 32)
    np.testing.assert_allclose(record.mean(("unit", "x"))[0], Additive().coefficients)
    assert np.abs(record.variance(("unit", "x"))).max() < 1e-20


def test_not_a_number_is_told_and_what_was_measured_is_kept():
    class Late(Estimator):
        calls = 0

        def surrogate(self, site, downstream):
            type(self).calls += 1
            value = site.sample()
            return downstream(value) + site.inject(
                torch.full_like(site.theta, math.nan if self.calls > 6 else 1.0) * value
            )

    with pytest.raises(
        MeasurementError, match=r"NaN or infinite in block \d+, first at replicate 0, index \[0, 0\]"
    ) as caught:
        measure(OneBit(), Late(), 2**16)
    assert caught.value.record is not None and caught.value.record.replicates > 0


def test_table_rows_are_immutable():
    for row in (*ESTIMATORS, *TOYS):
        with pytest.raises(dataclasses.FrozenInstanceError):
            row.paths = 3
