"""Statistics of wide networks without a gradient for every draw, and draws in parts: the same numbers as always."""

from argparse import ArgumentTypeError
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

import estimator_lab as lab
from estimator_lab import budget
from estimator_lab.chain import Chain
from estimator_lab.cli import _bytes
from estimator_lab.elementwise import weight_moments
from estimator_lab.estimators import ESTIMATORS
from estimator_lab.factors import of_gradients, of_uses
from estimator_lab.layerwise import SKETCH, _sketch, layer_statistics
from estimator_lab.measurement import fit, measure, prepare
from estimator_lab.noise import MonteCarlo
from estimator_lab.study import misfit
from estimator_lab.taps import Taps

ST = lab.estimators.StraightThrough()


@dataclass(frozen=True)
class Net(lab.Problem):
    """Two Bernoulli layers whose weights are used in one of many ways; unequal probabilities, three examples."""

    style: str = "plain"
    dtype: torch.dtype = field(default=torch.float64, repr=False)

    batch = 3
    sites = (lab.SiteSpec("h1", lab.Bernoulli(), (4,)), lab.SiteSpec("h2", lab.Bernoulli(), (4,)))

    def weights(self) -> dict[str, Tensor]:
        g = torch.Generator().manual_seed(3)
        shapes = {"w1": (4, 5), "w2": (4, 4), "v": (4, 3), "b": (4,)}
        return {k: torch.randn(s, generator=g, dtype=torch.float64).to(self.dtype) for k, s in shapes.items()}

    @property
    def x(self) -> Tensor:
        return torch.linspace(-1, 1.3, 15, dtype=self.dtype).reshape(3, 5)

    def theta(self, weights, samples):
        if not samples:
            first = linear(self.x, weights["w1"], weights["b"])
            return linear(first.tanh(), weights["w2"]) if self.style == "deep prefix" else first
        h, w = samples[0], weights["w2"]
        match self.style:
            case "twice":
                return (h @ w.T).tanh() @ w.t() - 0.3
            case "transposed":
                return torch.addmm(weights["b"], h, w.mT) + h.matmul(w)
            case "elementwise":
                return h @ w.T + (w * w).sum() * h
            case "einsum":
                return torch.einsum("bn,mn->bm", h, w)
            case "detached":
                return h @ w.detach().T + linear(h, w)
            case "skip":
                return linear(h, w) + linear(self.x, weights["w1"])
            case "squared":
                return h @ (w.T @ w)
        return linear(h, w, bias=weights["b"])

    def loss(self, weights, samples, thetas):
        logits = samples[1] @ weights["v"]
        target = torch.tensor([0, 2, 1])
        if self.style == "fixed input":  # does not depend on any draw, and is used once for all of them
            logits = logits + (torch.ones(3, 4, dtype=self.dtype) @ weights["v"]).tanh()
        penalty = 0.1 * thetas[1].square().sum(-1)
        return cross_entropy(logits, target, reduction="none") + penalty


STYLES = {  # style -> weights that may be shared
    "plain": {"w1", "w2", "v"},
    "deep prefix": {"w1", "w2", "v"},
    "twice": {"w1", "w2", "v"},
    "transposed": {"w1", "w2", "v"},
    "elementwise": {"w1", "v"},
    "einsum": {"w1", "v"},
    "detached": {"w1", "w2", "v"},
    "skip": {"w1", "w2", "v"},
    "squared": {"w1", "v"},
    "fixed input": {"w1", "w2", "v"},
}


def tapped(chain: Chain, replicates: int) -> tuple[dict[str, Tensor], set[str]]:
    """Weight gradients put together from what the taps keep, and the weights that leaked."""
    taps = Taps(frozenset(k for k, v in chain.weights.items() if v.dim() == 2))
    while True:
        own = chain.draw(replicates, MonteCarlo("tapped"), taps=taps)
        if not taps.leaked:
            break
        taps = Taps(taps.names - taps.leaked)
    found = {name: g for (_, name), g in own.items()}
    for name, uses in taps.uses.items():
        parts = [left.mT @ right for left, right in uses]
        found[name] = sum(parts, start=torch.zeros(replicates, *chain.weights[name].shape, dtype=chain.dtype))
    return found, set(taps.names)


@pytest.mark.parametrize("style", STYLES)
def test_gradients_from_factors_are_the_gradients(style):
    """Whatever a weight is used for: in products, in products twice, or in any other way."""
    chain = Chain(Net(style), ST, ("weight",))
    assert not chain.looped
    found, shared = tapped(chain, 5)
    assert shared == STYLES[style]
    for (_, name), expected in chain.draw(5, MonteCarlo("tapped")).items():
        torch.testing.assert_close(found[name], expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_every_estimator_has_the_same_gradients_from_factors(estimator):
    """Paths, prepended axes, and backward passes that an estimator runs for itself."""
    problem = Net("twice")
    if reason := misfit(estimator, problem):
        pytest.skip(reason)
    chain = Chain(problem, fit(estimator, problem, 0, 64), ("weight",))
    found, shared = tapped(chain, 3)
    assert shared == {"w1", "w2", "v"}
    for (_, name), expected in chain.draw(3, MonteCarlo("tapped")).items():
        torch.testing.assert_close(found[name], expected, rtol=1e-9, atol=1e-12)


def module_problem(body: nn.Module, features: tuple[int, ...]) -> lab.Problem:
    torch.manual_seed(0)
    x = torch.linspace(-1, 1, 3 * int(np.prod(features))).sin().reshape(3, *features)
    return lab.from_module(body, lambda out, y: (out - y).square().sum(-1), (x, torch.ones(3, 2)))


class Recurrent(nn.Module):
    """One cell used before and after every draw."""

    def __init__(self):
        super().__init__()
        self.cell, self.out = nn.Linear(4, 4), nn.Linear(4, 2)
        self.spike = lab.nn.Stochastic(lab.Bernoulli())

    def forward(self, x):
        state = x
        for _ in range(3):
            state = self.spike(self.cell(state)) + 0.5 * state
        return self.out(state)


def modules() -> dict[str, tuple[lab.Problem, set[str]]]:
    torch.manual_seed(1)
    bits = lab.Bernoulli
    conv = nn.Sequential(
        *(nn.Conv1d(1, 2, 3), lab.nn.Stochastic(bits()), nn.Conv1d(2, 3, 3), nn.Flatten()),
        *(nn.LayerNorm(6), nn.Linear(6, 4), lab.nn.Stochastic(bits()), nn.Linear(4, 2)),
    )
    return {
        "convolutions": (module_problem(conv, (1, 6)), {"5.weight", "7.weight"}),
        "recurrent": (module_problem(Recurrent(), (4,)), {"cell.weight", "out.weight"}),
    }


@pytest.mark.parametrize("name", modules())
def test_modules(name):
    problem, expected_shared = modules()[name]
    chain = Chain(problem, ST, ("weight",))
    found, shared = tapped(chain, 4)
    assert shared == expected_shared
    for (_, weight), expected in chain.draw(4, MonteCarlo("tapped")).items():
        torch.testing.assert_close(found[weight], expected, rtol=1e-4, atol=1e-6)


def test_a_product_that_is_not_told_apart_by_replicate_would_be_wrong():
    """The mark is what gives products of constants the axis of replicates: without it their cotangents are sums."""
    chain = Chain(Net("fixed input"), ST, ("weight",))
    taps = Taps(frozenset({"v"}))
    watching = taps.watching
    taps.watching = lambda mark: watching(None if mark is None else torch.zeros(()))  # type: ignore[method-assign]
    try:
        chain.draw(5, MonteCarlo("tapped"), taps=taps)
        uses = taps.uses["v"]
        wrong = any(len(left) != 5 for left, _ in uses)
    except (RuntimeError, ValueError, AssertionError):
        wrong = True
    assert wrong


def test_a_leak_that_is_not_heeded_would_be_wrong():
    """The gradient of a weight that is also used elementwise is more than its products say."""
    chain, taps = Chain(Net("elementwise"), ST, ("weight",)), Taps(frozenset({"w2"}))
    chain.draw(5, MonteCarlo("tapped"), taps=taps)
    assert taps.leaked == {"w2"}
    from_products = sum(left.mT @ right for left, right in taps.uses["w2"])
    whole = chain.draw(5, MonteCarlo("tapped"))["weight", "w2"]
    assert not torch.allclose(from_products, whole, rtol=0.01)


@pytest.mark.parametrize("rows", [2, 40])
@pytest.mark.parametrize("shared", ["neither", "left", "right"])
def test_summaries(rows, shared):
    """Norms, projections and sums, whether gradients are made or not."""
    g = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64)

    uses = [
        (normal(1 if shared == "left" else 8, rows, 30), normal(1 if shared == "right" else 8, rows, 20))
        for _ in range(2)
    ]
    reference = normal(30, 20)
    for some in (uses[:1], uses):
        made = sum(left.mT @ right for left, right in some)
        expected = of_gradients(made, reference, 4)
        for a, b in zip(of_uses(some, 8, reference, 4), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(expected[0], made.flatten(1).square().sum(1))
        torch.testing.assert_close(expected[1], (made * reference).flatten(1).sum(1))


@pytest.mark.parametrize("memory", [2.0**30, 1e5])
def test_layer_statistics_are_those_of_the_gradients(memory, any_memory):
    """Every number against a measurement that makes every gradient, with the same blocks."""
    problem, count = Net("twice"), 576
    truth = {k: 1.2 * v + 0.01 for k, v in lab.Truth.exact(problem).mean.items()}
    found = layer_statistics(problem, ST, count, reference=truth, memory=memory)
    assert found.shared == {"w1", "w2", "v"}
    assert found.replicates == count
    record = measure(problem, ST, count, wrt=("weight",))
    weights = {k: v for k, v in truth.items() if k[0] == "weight"}
    draws: dict = {k: [] for k in weights}
    chain, plan = Chain(problem, ST, ("weight",)), record.plan
    for i in range(plan.blocks(count)):
        for k, v in chain.draw(plan.size(i), MonteCarlo(plan.block_seed(i))).items():
            draws[k].append(v.flatten(1).numpy())
    for group, members in record.layout.groups.items():
        x = np.concatenate([np.concatenate(draws[k]) for k in members], 1)
        g = np.concatenate([weights[k].ravel() for k in members])
        inner, norm2 = x @ g, (x**2).sum(1)
        expected = {
            "norm2": norm2.mean(),
            "variance": record[group].variance.sum(),
            "mse": ((x - g) ** 2).sum(1).mean(),
            "mean_cosine": (inner / np.sqrt(np.where(norm2 > 0, norm2, 1) * (g @ g))).mean(),
            "descent": (inner > 0).mean(),
        }
        trace = expected["variance"]
        mean2 = (x.mean(0) ** 2).sum() - trace / count
        expected["snr"] = max(mean2 / trace, 0)
        expected["relative_bias"] = np.sqrt(max(((x.mean(0) - g) ** 2).sum() - trace / count, 0) / (g @ g))
        for name, value in expected.items():
            estimate = found[group][name]
            np.testing.assert_allclose(estimate.value, value, rtol=1e-9, err_msg=f"{group} {name}")
            assert estimate.low <= estimate.value <= estimate.high
    for (_, name), pieces in draws.items():
        np.testing.assert_allclose(found.mean[name].ravel(), np.concatenate(pieces).mean(0), rtol=1e-10, atol=1e-14)


def test_layer_statistics_against_the_exact_moments():
    """Intervals of level 0.95 of 24 independent runs contain the exact variance, and the bias.

    If they did with probability 0.9 each, 12 of 24 or fewer would be seen in one of 10^6 runs, and 11 in one of 10^7;
    there are four statistics.
    """
    problem = lab.problems.QuadraticForm()
    exact = lab.exact_moments(problem, ST)["weight", "theta"]
    truth = lab.Truth.exact(problem).mean
    g = truth["weight", "theta"]
    bias = np.linalg.norm(exact.mean - g.ravel()) / np.linalg.norm(g)
    hits = np.zeros(4)
    for seed in range(24):
        found = layer_statistics(problem, ST, 512, reference=truth, seed=seed)["total", "weights"]
        wanted = {
            "variance": exact.variance.sum(),
            "relative_bias": bias,
            "norm2": exact.variance.sum() + exact.mean @ exact.mean,
            "snr": exact.mean @ exact.mean / exact.variance.sum(),
        }
        hits += [found[k].low <= v <= found[k].high for k, v in wanted.items()]
    assert hits.min() >= 12, hits


def test_layer_statistics_of_what_has_no_noise_and_of_nothing():
    problem = Net()
    found = layer_statistics(problem, lab.estimators.MeanField(), 64)
    assert found["total", "weights"]["variance"].value < 1e-15
    assert set(found.to_frame().columns) == {"level", "name", "statistic", "value", "low", "high"}
    with pytest.raises(lab.UsageError, match="at least 64 replicates"):
        layer_statistics(problem, ST, 10)
    with pytest.raises(lab.UsageError, match="the reference needs a gradient of shape"):
        layer_statistics(problem, ST, 64, reference={})


def test_sketches_change_intervals_only(monkeypatch):
    problem = Net()
    truth = {k: 1.2 * v + 0.01 for k, v in lab.Truth.exact(problem).mean.items()}
    whole = layer_statistics(problem, ST, 2048, reference=truth)
    monkeypatch.setattr("estimator_lab.layerwise.SKETCH", 8)
    sketched = layer_statistics(problem, ST, 2048, reference=truth)
    wider = 0
    for key, statistics in whole.statistics.items():
        for name, a in statistics.items():
            b = sketched[key][name]
            assert a.value == b.value
            wider += (b.high - b.low) != (a.high - a.low)
    assert wider > 0


def test_sketches_keep_inner_products():
    """Off by less than ``7 |a| |b| sqrt(2 / SKETCH)``: seven standard deviations at most, by the variance of the sum of
    ``2 s_i s_j a_i b_j`` over pairs at one place, which is at most ``2 |a|^2 |b|^2 / SKETCH`` for entries all alike."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4 * SKETCH - 5, generator=g, dtype=torch.float64) + 1
    small = _sketch("w", x)
    assert small.shape == (2, SKETCH)
    error = (small @ small.mT - x @ x.mT).abs().max() / x.square().sum(1).max()
    assert error < 7 * (2 / SKETCH) ** 0.5
    folded = torch.cat([x, x.new_zeros(2, 5)], 1).unflatten(1, (4, SKETCH)).sum(1)  # without signs
    assert (folded @ folded.mT - x @ x.mT).abs().max() / x.square().sum(1).max() > 0.1
    torch.testing.assert_close(_sketch("w", x), small)
    torch.testing.assert_close(_sketch("w", x[:, :7]), x[:, :7])


# ---------------------------------------------------------------------- parts of blocks
PROBLEMS = {"toy": lab.problems.TwoLayer(), "network": Net("twice", torch.float64)}


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_results_do_not_depend_on_the_memory(problem, estimator):
    """Blocks in parts of 8 against whole ones: moments to 1e-12, batch means too."""
    on = PROBLEMS[problem]
    if reason := misfit(estimator, on):
        pytest.skip(reason)
    reference = lab.Truth.exact(on).mean
    whole = prepare(on, estimator, reference=reference)
    assert whole.part is not None
    assert whole.part >= whole.plan.largest
    part = replace(whole, part=8)
    a, b = whole.run(64), part.run(64)
    size = np.abs(a.moments.mean).max()
    for power, name in enumerate(("mean", "m2", "m3", "m4"), 1):
        x, y = getattr(a.moments, name), getattr(b.moments, name)
        scale = np.abs(x).max() + size**power
        np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12 * scale)
    np.testing.assert_allclose(a.means, b.means, rtol=1e-12, atol=1e-12 * np.abs(a.means).max())
    np.testing.assert_allclose(a.largest, b.largest, rtol=1e-12, atol=1e-24 * size**2)
    assert (a.replicates, a.losses, a.backwards, a.random, a.dead) == (
        *(b.replicates, b.losses, b.backwards, b.random, b.dead),
    )


def test_parts_draw_different_numbers():
    """A part that began the block's numbers anew would repeat the first part."""
    one = replace(prepare(lab.problems.OneBit(), lab.estimators.Reinforce()), part=8)
    nodes = one.block(0).batches.nodes
    first, second = (np.stack([nodes[0, i] for i in range(start, start + 8)]) for start in (0, 8))
    assert not np.array_equal(first, second)


def noisy(theta: Tensor) -> Tensor:
    return theta.sigmoid() + torch.rand_like(theta)


def test_a_global_stream_is_not_divided(any_memory):
    drop_in = lab.estimators.DropIn(noisy)
    whole = prepare(lab.problems.TwoLayer(), drop_in)
    a, b = whole.block(0), replace(whole, part=4).block(0)
    assert np.array_equal(a.moments.m2, b.moments.m2)
    c = layer_statistics(lab.problems.TwoLayer(), drop_in, 64)
    d = layer_statistics(lab.problems.TwoLayer(), drop_in, 64, memory=1)
    assert c["total", "weights"] == d["total", "weights"]
    e = weight_moments(lab.problems.TwoLayer(), drop_in, 64)
    f = weight_moments(lab.problems.TwoLayer(), drop_in, 64, memory=1)
    assert all(np.array_equal(e.variance[k], f.variance[k]) for k in e.variance)


def test_the_memory_of_a_budget_sets_the_parts(any_memory):
    problem = lab.problems.TwoLayer()
    assert prepare(problem, ST, memory=1).part == 1
    small = lab.diagnose(ST, on=problem, budget=lab.Budget(64, memory=1e5), exact=False)
    large = lab.diagnose(ST, on=problem, budget=lab.Budget(64), exact=False)
    pairs = zip(small.to_frame()["value"], large.to_frame()["value"], strict=True)
    assert all(np.isclose(a, b, rtol=1e-9, equal_nan=True) for a, b in pairs)
    with pytest.raises(lab.UsageError, match="a memory is at least"):
        lab.Budget(memory=0)


@pytest.fixture
def any_memory(monkeypatch):
    """Small problems take less than the least memory; parts of their blocks are wanted all the same."""
    monkeypatch.setattr(budget, "SMALLEST_MEMORY", 1.0)


# ---------------------------------------------------------------------- moments of single weights
@pytest.mark.parametrize("memory", [2.0**30, 5e4])
def test_weight_moments_are_those_of_a_measurement(memory, any_memory):
    problem = Net("elementwise")
    record = measure(problem, lab.estimators.Reinforce(), 300, wrt=("weight",))
    found = weight_moments(problem, lab.estimators.Reinforce(), 300, memory=memory)
    assert found.replicates == record.replicates
    for name, variance in found.variance.items():
        np.testing.assert_allclose(found.mean[name], record.mean(("weight", name)), rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(variance, record.variance(("weight", name)), rtol=1e-10, atol=1e-14)


SIZES = {"2GB": 31, "2GiB": 31, "2gb": 31, "500 MB": 20, "4096KB": 22, "2TB": 41, "2097152": 21, "2097152.": 21}


@pytest.mark.parametrize(("text", "power"), SIZES.items())
def test_sizes_are_read_alike_everywhere(text, power):
    number = (500 if text == "500 MB" else 1) * 2.0**power
    assert _bytes(text) == lab.Budget(memory=text).memory == number
    assert lab.Budget(memory=number).memory == number and _bytes("1e9") == 1e9


@pytest.mark.parametrize("size", ["1KB", 2, "2", "much", "", "-2GB", "nan", None, True, [1], "2GBB"])
def test_sizes_that_mean_nothing(size):
    problem = lab.problems.TwoLayer()
    for ask in (
        lambda: lab.Budget(memory=size),
        lambda: layer_statistics(problem, ST, 64, memory=size),
        lambda: weight_moments(problem, ST, 64, memory=size),
    ):
        with pytest.raises(lab.UsageError, match="a memory is at least 1 MB"):
            ask()


def test_a_truth_is_a_reference_and_results_have_short_names():
    problem = lab.problems.TwoLayer()
    truth = lab.Truth.exact(problem)
    found = layer_statistics(problem, ST, 64, reference=truth, memory="2GB")
    assert found.statistics == layer_statistics(problem, ST, 64, reference=truth.mean).statistics
    assert "total weights: relative_bias" in found.summary()
    with pytest.raises(lab.UsageError, match="a reference is a Truth"):
        layer_statistics(problem, ST, 64, reference=torch.ones(3))
    for result in (truth, found, weight_moments(problem, ST, 64, memory="1GB")):
        assert len(repr(result)) < 100 and "array" not in repr(result) and "\n" not in repr(result)


def test_a_wrong_size_is_told():
    with pytest.raises(ArgumentTypeError, match="such as 500MB or 2GB; found 'much'"):
        _bytes("much")
