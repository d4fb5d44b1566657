"""The conditional network as a problem, its training with each gate, and what skipping experts saves."""

import dataclasses
import gzip
import itertools
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

import estimator_lab as lab
from estimator_lab.chain import Chain
from estimator_lab.errors import UsageError
from estimator_lab.estimators import Exact, Reinforce, Sample, StraightThrough
from estimator_lab.families import Bernoulli, Deterministic, NoisySigmoid, RectifiedNormal, StochasticTimesSmooth
from estimator_lab.noise import MonteCarlo, NoNoise
from estimator_lab.problems import ConditionalNetwork, conditional_network, images, trained

sys.path.insert(0, str(Path(__file__).parents[1] / "analyses"))

import bengio2013
import bengio2013_gradients
import bengio2013_saving
import bengio2013_training
from bengio2013_gates import BETA, BETA_MEAN, BETA_SCALE, GATES, Gate, ScoreFunction, Visit, adapted
from bengio2013_training import Network, NoiseSource, Setting, Split, bound_norms, evaluate, tuned_threshold

BY_NAME = {g.name: g for g in GATES}


@pytest.fixture(autouse=True)
def apart(tmp_path, monkeypatch):
    """A cache of its own, and no data but the package's."""
    monkeypatch.setenv("ESTIMATOR_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(images.VARIABLE, raising=False)
    trained.trained.cache_clear()
    bengio2013_gradients._weights.cache_clear()


def sigmoid(t):
    return 1 / (1 + np.exp(-t))


# ---------------------------------------------------------------------- the problem
TINY = {"data": "digits", "batch": 3, "hidden": 3, "steps": 0}


def uneven(network):
    """The network at weights that make its gates unlike each other, and those weights."""
    rng = np.random.default_rng(0)
    weights = {k: rng.standard_normal(s) * (s[-1] ** -0.5 if len(s) > 1 else 1) for k, s in network.shapes().items()}
    return network.at({k: torch.from_numpy(v) for k, v in weights.items()}, "uneven"), weights


def by_hand(network, w, offset):
    """Expected loss ``[B]``, written out over all states of the gates."""
    data = images.load_digits()
    x, y = data.pixels.numpy()[-network.batch :] / 16, data.labels.numpy()[-network.batch :]
    t = np.tanh(x @ w["gater1.weight"].T + w["gater1.bias"])
    p = sigmoid(t @ w["gater2.weight"].T + w["gater2.bias"] + offset)
    assert p.std() > 0.1
    total = np.zeros(network.batch)
    for state in itertools.product((0.0, 1.0), repeat=network.gates):
        h = np.array(state)
        chance = np.where(h > 0, p, 1 - p).prod(1)
        z = h * (x @ w["experts.weight"].T + w["experts.bias"])
        logits = z @ w["readout.weight"].T + w["readout.bias"]
        if network.measured == "squared":
            loss = ((np.eye(10)[y] - logits) ** 2).sum(1)
        else:
            loss = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(y)), y]
        total += chance * loss
    return total


@pytest.mark.parametrize("measured", ["cross_entropy", "squared"])
def test_loss_and_gradients_are_those_of_enumeration(measured):
    """Central differences of step 1e-5 err by 1e-8 at most; all 4 gates of 3 examples, weights along a direction."""
    network = ConditionalNetwork(gates=4, measured=measured, **TINY)
    problem, w = uneven(network)
    chain, step = Chain(problem, Exact()), 1e-5
    assert not chain.notes and chain._folded
    zero = np.zeros((3, 4))
    np.testing.assert_allclose(chain.value(NoNoise())[0], by_hand(network, w, zero), rtol=1e-12)
    truth = lab.Truth.exact(problem)
    assert ("closed form" in truth.words) == (measured == "squared")
    for i in range(4):
        bump = zero.copy()
        bump[:, i] = step
        expected = (by_hand(network, w, bump) - by_hand(network, w, -bump)) / (2 * step)
        np.testing.assert_allclose(truth.mean["unit", "gates"][:, i], expected, atol=1e-7)
    rng = np.random.default_rng(1)
    for name, weight in w.items():
        along = rng.standard_normal(weight.shape) * weight.size**-0.5
        up, down = (by_hand(network, w | {name: weight + s * along}, zero) for s in (step, -step))
        expected = (up - down).mean() / (2 * step)
        assert (truth.mean["weight", name] * along).sum() == pytest.approx(expected, abs=1e-7), name


LAWS = [
    Bernoulli(),
    StochasticTimesSmooth(),
    StochasticTimesSmooth(mask=1.0),
    RectifiedNormal(0.7),
    NoisySigmoid(),
    Deterministic("rectifier"),
]


def gap(law) -> float:
    """Largest difference of the closed form and a product rule over two gates, relative to the largest gradient."""
    network = ConditionalNetwork(gates=2, family=law, measured="squared", **TINY)
    problem, _ = uneven(network)
    weights = {k: v.clone().requires_grad_() for k, v in problem.weights().items()}
    offset = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    loss = problem.expected_loss(weights, {"gates": offset})
    found = torch.autograd.grad(loss.sum(), [offset, *weights.values()])
    chain = Chain(problem, Exact(48))
    torch.testing.assert_close(loss.detach(), chain.value(NoNoise())[0], rtol=1e-9, atol=0)
    drawn = chain.draw(1, NoNoise())
    expected = [drawn["unit", "gates"][0], *(3 * drawn["weight", k][0] for k in weights)]
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("law", LAWS, ids=repr)
def test_the_closed_form_holds_for_every_law_of_a_gate(law):
    assert gap(law) < 1e-8


def test_the_closed_form_needs_the_variance(monkeypatch):
    """Without it, a gradient is that of a network with gates at their means."""
    right = conditional_network.gate_moments

    def wrong(family, theta):
        mean, variance = right(family, theta)
        return mean, (1 - 1e-4) * variance

    monkeypatch.setattr(conditional_network, "gate_moments", wrong)
    with pytest.raises(AssertionError):
        gap(Bernoulli())


def test_the_closed_form_at_2000_gates_is_the_formula():
    """With V_i, H_i and r as in the docstring: ``p (1 - p) (-2 H_i V_i . r + |V_i|^2 H_i^2 (1 - 2 p))``."""
    network = ConditionalNetwork(data="digits", batch=2, hidden=5, gates=2000, measured="squared", steps=0)
    problem, w = uneven(network)
    data = images.load_digits()
    x, y = data.pixels.numpy()[-2:] / 16, np.eye(10)[data.labels.numpy()[-2:]]
    p = sigmoid(np.tanh(x @ w["gater1.weight"].T + w["gater1.bias"]) @ w["gater2.weight"].T + w["gater2.bias"])
    experts = x @ w["experts.weight"].T + w["experts.bias"]
    v = w["readout.weight"]
    r = y - w["readout.bias"] - (p * experts) @ v.T
    expected = p * (1 - p) * (-2 * experts * (r @ v) + (v**2).sum(0) * experts**2 * (1 - 2 * p))
    truth = lab.Truth.exact(problem).mean["unit", "gates"]
    np.testing.assert_allclose(truth, expected, rtol=1e-10, atol=1e-12)
    # passed straight through with the sigmoid's derivative, the second term is lost
    record = lab.measure(problem, StraightThrough("mean"), 2**12, wrt=("unit",))
    lost = -p * (1 - p) * (1 - 2 * p) * (v**2).sum(0) * experts**2
    error = np.sqrt(record.variance(("unit", "gates")) / record.replicates)
    score = (record.mean(("unit", "gates")) - truth - lost) / error
    assert np.abs(score).max() < 7  # 4000 coordinates; 7 standard errors of 4096 draws: 1e-8
    assert np.abs(lost / error).max() > 10


def a_folder_of_mnist(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Files as MNIST's of six random images, two of them held out; returns these two with their labels."""
    rng = np.random.default_rng(4)
    for kind, count in (("train", 4), ("t10k", 2)):
        pixels, labels = rng.integers(0, 256, (count, 784), np.uint8), rng.integers(0, 10, count, np.uint8)
        for name, magic, sizes, values in (
            (f"{kind}-images-idx3-ubyte.gz", 2051, (count, 28, 28), pixels),
            (f"{kind}-labels-idx1-ubyte.gz", 2049, (count,), labels),
        ):
            head = np.array([magic, *sizes], ">u4").tobytes()
            (folder / name).write_bytes(gzip.compress(head + values.tobytes()))
    return pixels, labels


def test_the_closed_form_in_the_size_of_the_paper_is_the_formula_at_gates_and_in_both_layers(tmp_path, monkeypatch):
    """784 pixels, 400 units, 2000 gates; the chain rule through the gater is written out."""
    pixels, labels = a_folder_of_mnist(tmp_path)
    monkeypatch.setenv(images.VARIABLE, str(tmp_path))
    network = dataclasses.replace(ConditionalNetwork.paper(measured="squared"), batch=2, steps=0)
    problem, w = uneven(network)
    x, y = pixels / 255, np.eye(10)[labels]
    t = np.tanh(x @ w["gater1.weight"].T + w["gater1.bias"])
    p, v = sigmoid(t @ w["gater2.weight"].T + w["gater2.bias"]), w["readout.weight"]
    experts = x @ w["experts.weight"].T + w["experts.bias"]
    assert p.shape == (2, 2000) and t.shape == (2, 400) and p.std() > 0.1
    r = y - w["readout.bias"] - (p * experts) @ v.T
    gates = p * (1 - p) * (-2 * experts * (r @ v) + (v**2).sum(0) * experts**2 * (1 - 2 * p))
    units = (gates @ w["gater2.weight"]) * (1 - t**2)
    truth = lab.Truth.exact(bengio2013_gradients.Gater(problem))
    assert "closed form" in truth.words
    for key, expected in {
        ("unit", "gates"): gates,
        ("weight", "gater2.weight"): gates.T @ t / 2,
        ("weight", "gater2.bias"): gates.mean(0),
        ("weight", "gater1.weight"): units.T @ x / 2,
        ("weight", "gater1.bias"): units.mean(0),
    }.items():
        np.testing.assert_allclose(truth.mean[key], expected, rtol=1e-9, atol=1e-11 * np.abs(expected).max())
    without = p * (1 - p) * -2 * experts * (r @ v)  # the gates' variance left out
    assert np.abs(truth.mean["unit", "gates"] - without).max() > 0.01 * np.abs(gates).max()


def test_sizes_of_the_paper():
    assert sum(map(math.prod, conditional_network.shapes(784, 400, 2000).values())) == 2_706_010
    generator = torch.Generator().manual_seed(0)
    drawn = conditional_network.uniform_weights(conditional_network.shapes(784, 400, 2000), generator)
    for name, width in (("gater1", 6 / 1184), ("gater2", 16 * 6 / 2400), ("experts", 6 / 2784), ("readout", 6 / 2010)):
        largest = float(drawn[f"{name}.weight"].abs().max())
        assert 0.999 * math.sqrt(width) < largest <= math.sqrt(width)
        assert not drawn[f"{name}.bias"].any()


def test_it_trains_itself_to_sparse_gates():
    network = ConditionalNetwork(data="digits")
    whole = dataclasses.replace(network, batch=297)
    before, after = (
        Chain(n, Sample()).value(MonteCarlo("x"), 4).mean() for n in (dataclasses.replace(whole, steps=0), whole)
    )
    assert after < 0.5 * before
    p = whole.theta(network.weights(), ()).sigmoid()
    assert 0.1 < float(p.mean()) < 0.35 and float(p.std()) > 0.2
    for law in (StochasticTimesSmooth(), RectifiedNormal()):
        weights = dataclasses.replace(network, family=law, steps=20).weights()
        assert all(torch.isfinite(v).all() for v in weights.values())


def test_the_cost_of_activity_is_least_at_the_target():
    p = torch.tensor([0.1, 0.03, 0.4], dtype=torch.float64, requires_grad=True)
    cost = conditional_network.activity_cost(p, 0.1, rounding=0.0)
    expected = -sum(0.1 * math.log(v) + 0.9 * math.log(1 - v) for v in p.tolist())
    assert cost.item() == pytest.approx(expected, rel=1e-12)
    (slope,) = torch.autograd.grad(cost, p)
    np.testing.assert_allclose(slope, [0, -0.1 / 0.03 + 0.9 / 0.97, -0.1 / 0.4 + 0.9 / 0.6], atol=1e-12)
    # as printed, (1 - s) (log 1 - p): that is least where all gates are open
    printed = torch.autograd.grad(-(0.1 * p.log() - 0.9 * p).sum(), p)[0]
    assert printed[0].abs() > 0.05


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gates": -1}, "at least one of each unit"),
        ({"data": "cifar"}, "no images 'cifar'"),
        ({"batch": 0}, "batch=0"),
        ({"measured": "hinge"}, "found 'hinge'"),
        ({"family": lab.Normal()}, r"one parameter.*Normal\(\)"),
        ({"family": lab.Categorical(3)}, "one parameter"),
        ({"sparsity": 0.0}, "between 0 and 1"),
        ({"penalty": -1.0}, "penalty=-1.0"),
    ],
)
def test_wrong_options_are_named(options, words):
    with pytest.raises(UsageError, match=words):
        ConditionalNetwork(**{"data": "digits", **options})


# ---------------------------------------------------------------------- gradients of a training step
SMALL = Setting("digits", hidden=4, gates=10, epochs=3, train=200, batch=16, norm=2.0)


def a_step(gate: Gate, setting: Setting = SMALL, examples: int = 6):
    """A network in float64 at uneven weights, a minibatch and noise."""
    network = Network(gate, setting, 64, 0)
    generator = torch.Generator().manual_seed(3)
    for k, v in network.weights.items():
        size = v.shape[-1] ** -0.5 if v.dim() > 1 else 1.0
        network.weights[k] = size * torch.randn(v.shape, generator=generator, dtype=torch.float64)
    network.penalty = network.penalty.double()
    network.baseline.numerator = 0.2 * torch.rand(network.units, generator=generator, dtype=torch.float64)
    network.baseline.denominator = 0.1 + 0.1 * torch.rand(network.units, generator=generator, dtype=torch.float64)
    x = torch.rand(examples, 64, generator=generator, dtype=torch.float64)
    y = torch.randint(10, (examples,), generator=generator)
    noise = tuple(n.double() for n in NoiseSource(gate.noise, network.units, 0).draw(examples, generator))
    return network, x, y, noise


def by_autograd(gate: Gate, network: Network, x, y, noise):
    """What a step should follow, from a scalar: the chain rule of autograd around each gate's own rule."""
    w = {k: v.clone().requires_grad_() for k, v in network.weights.items()}
    t = (x @ w["gater1.weight"].T + w["gater1.bias"]).tanh()
    a = t @ w["gater2.weight"].T + w["gater2.bias"]
    experts = x @ w["experts.weight"].T + w["experts.bias"]
    p = a.sigmoid()
    extra = torch.zeros(())
    if gate.name in ("noisy-rectifier", "rectifier"):
        h = (a + noise[0] if noise else a).relu()
        extra = network.penalty * h.sum()
    elif gate.name.startswith("sigmoid"):
        h, experts = (a + noise[0] if noise else a).sigmoid(), experts.tanh()
    else:
        if gate.name == "sts-decisive":
            p = (a + noise[1]).sigmoid()
        q = p.sqrt()
        if gate.name.startswith("sts"):
            h = (noise[0] < (q if gate.name == "sts" else p)) * q
        else:
            bit = (noise[0] < p).double()
            h = bit + {"st": a - a.detach(), "st-sigmoid": p - p.detach()}.get(gate.name, 0.0)
        active = (q if gate.name.startswith("sts") else p).mean(0)
        extra = gate.penalty * conditional_network.activity_cost(active, 0.1)
    losses = cross_entropy((h * experts) @ w["readout.weight"].T + w["readout.bias"], y, reduction="none")
    total = losses.mean() + extra
    if isinstance(gate, ScoreFunction):
        centred = losses[:, None] - network.baseline.value
        total = total + (((h - p) * centred).detach() * a).sum() * (1 if gate.convention == "sum" else 1 / len(x))
    return {k: g for k, g in zip(w, torch.autograd.grad(total, list(w.values())), strict=True)}


@pytest.mark.parametrize("gate", GATES, ids=lambda g: g.name)
def test_the_pass_is_the_chain_rule_around_each_gate(gate):
    gate = dataclasses.replace(gate, penalty=0.3 if gate.penalty else 0.0)  # large enough to be seen
    network, x, y, noise = a_step(gate)
    expected = by_autograd(gate, network, x, y, noise)
    found, losses, h = network.gradients(x, y, noise)
    assert set(found) == set(expected) and losses.shape == (6,) and h.shape == (6, network.units)
    for name, value in expected.items():
        assert float(value.abs().max()) > 1e-6
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12)


class Contemporary(ScoreFunction):
    """Centred with averages that include the minibatch."""

    def back(self, at: Visit) -> torch.Tensor:
        delta = at.h - at.a.sigmoid()
        at.baseline.update(delta, at.losses)
        return delta * (at.losses[:, None] - at.baseline.value)


def mean_gradient(gate: Gate, setting: Setting):
    """Expectation of the gater's gradients over all joint states of the gates of two examples, and the truth."""
    problem = ConditionalNetwork(data="digits", batch=2, hidden=4, gates=3, steps=0)
    x, y = problem.images.last(2, torch.empty((), dtype=torch.float64))
    network, *_ = a_step(gate, setting, 2)
    averages = network.baseline.numerator, network.baseline.denominator
    a = bengio2013_training.forward(network.weights, gate, x)[1]
    p = a.sigmoid()
    assert float(p.std()) > 0.1
    total: dict[str, torch.Tensor] = {}
    for state in itertools.product((False, True), repeat=6):
        bits = torch.tensor(state).reshape(2, 3)
        network.baseline.numerator, network.baseline.denominator = averages
        found, _, h = network.gradients(x, y, (torch.where(bits, p / 2, (1 + p) / 2),))
        assert torch.equal(h, bits.double())
        chance = torch.where(bits, p, 1 - p).prod()
        for k, v in found.items():
            total[k] = total.get(k, 0.0) + chance * v
    return total, problem.at(network.weights, "uneven")


THREE = dataclasses.replace(SMALL, gates=3, hidden=4)


def test_the_score_function_is_unbiased_and_summed_or_averaged_over_the_minibatch():
    for convention, factor in (("sum", 2), ("mean", 1)):
        gate = ScoreFunction("x", "x", convention=convention)
        found, problem = mean_gradient(gate, THREE)
        truth = lab.Truth.exact(problem).mean
        for name, value in found.items():
            expected = truth["weight", name] * (factor if name.startswith("gater") else 1)
            np.testing.assert_allclose(value, expected, atol=1e-12, err_msg=f"{convention} {name}")


def test_a_baseline_that_has_seen_the_minibatch_is_biased():
    found, problem = mean_gradient(Contemporary("x", "x"), THREE)
    truth = lab.Truth.exact(problem).mean
    assert np.abs(found["gater2.bias"].numpy() - 2 * truth["weight", "gater2.bias"]).max() > 1e-4


@pytest.mark.parametrize(
    ("name", "rule"), [("st", StraightThrough("identity")), ("st-sigmoid", StraightThrough("mean"))]
)
def test_what_is_trained_is_what_is_measured(name, rule):
    """The mean of a training step's gradient is that of the package's estimator."""
    found, problem = mean_gradient(dataclasses.replace(BY_NAME[name], penalty=0.0), THREE)
    moments = lab.exact_moments(problem, rule)
    for key, value in found.items():
        np.testing.assert_allclose(value.ravel(), moments["weight", key].mean, atol=1e-12, err_msg=key)


def test_the_sum_over_a_minibatch_is_as_many_times_the_mean():
    """And training with one convention is training with the other at a rate and a penalty that make up for it."""
    found = {}
    for convention in ("sum", "mean"):
        gate = dataclasses.replace(BY_NAME["sbn"], convention=convention, penalty=0.0)
        network, x, y, noise = a_step(gate, examples=32)
        found[convention] = network.gradients(x, y, noise)[0]
    for name, value in found["sum"].items():
        factor = 32 if name.startswith("gater") else 1
        torch.testing.assert_close(value, factor * found["mean"][name], rtol=1e-12, atol=0)
    weights = []
    for convention, rate, penalty in (("sum", 0.01, 1.0), ("mean", 0.32, 1 / 32), ("mean", 0.01, 1.0)):
        gate = dataclasses.replace(BY_NAME["sbn"], convention=convention, rate=rate, penalty=penalty)
        network, x, y, noise = a_step(gate, examples=32)
        for _ in range(5):
            network.step(x, y, noise)
        weights.append(network.weights)
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-9, atol=1e-12)
    same_rate = weights[2]["gater2.weight"]  # what is trained as sbn-mean
    assert not torch.allclose(weights[0]["gater2.weight"], same_rate, rtol=1e-3)
    assert (BY_NAME["sbn-mean"].rate, BY_NAME["sbn-mean"].penalty) == (BY_NAME["sbn"].rate, BY_NAME["sbn"].penalty)
    assert "same rate" in BY_NAME["sbn-mean"].label


# ---------------------------------------------------------------------- sparsity, norms, thresholds
def test_the_weight_of_the_l1_term_adapts():
    def after(active, penalty=1e-5):
        return float(adapted(torch.tensor(penalty, dtype=torch.float64), torch.tensor(active), 0.1))

    assert after(0.2) == pytest.approx(1.1e-5) and after(0.05) == pytest.approx(0.9e-5)
    assert after(0.109) == after(0.091) == 1e-5
    assert after(0.2, 0.95) == 1.0 and after(0.0, 1.05e-13) == 1e-13


def test_norms_are_bounded_from_above_only():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 7, generator=generator, dtype=torch.float64) * torch.tensor([0.1, 0.5, 1, 3, 0])[:, None]
    before = weight.clone()
    bound_norms(weight, 2.0)
    norms = before.norm(dim=1)
    torch.testing.assert_close(weight.norm(dim=1), norms.clamp(max=2.0))
    assert torch.equal(weight[norms < 2], before[norms < 2]) and not weight[4].any()
    network, x, y, noise = a_step(BY_NAME["st"])
    network.weights["experts.weight"] *= 10
    network.step(x, y, noise)
    assert all(float(v.norm(dim=1).max()) < 2 + 1e-9 for k, v in network.weights.items() if k.endswith("weight"))


def test_thresholds_open_the_share_that_is_wanted():
    for name in ("st", "sts", "sts-decisive", "rectifier"):
        gate = BY_NAME[name]
        network, x, y, _ = a_step(gate, examples=40)
        t = tuned_threshold(network.weights, gate, x, 0.1)
        score = evaluate(network.weights, gate, (x, y), lambda a, gate=gate, t=t: gate.cut(a, t))
        assert score.active == pytest.approx(0.1), name
    opened = BY_NAME["st"].cut(torch.tensor([[-1.0, 0.0, 2.0]]), 0.6)
    assert opened.tolist() == [[0.0, 0.0, 1.0]]
    assert tuned_threshold(network.weights, gate, x, 0.0) == math.inf
    assert tuned_threshold(network.weights, gate, x, 1.0) == -math.inf


def test_gates_without_noise_are_at_their_means():
    """Means over 2^16 draws at 7 standard errors, of laws of the package where they are one."""
    a = torch.tensor([[-2.0, -0.4, 0.9]], dtype=torch.float64)
    for name in ("st", "sts", "sts-code"):
        gate = BY_NAME[name]
        u = torch.rand(2**16, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        drawn = gate.fire(a, u)
        error = drawn.std(0) / 2**8
        assert ((drawn.mean(0) - gate.still(a)[0]).abs() < 7 * error).all(), name
    for gate in (BY_NAME["st"], BY_NAME["sts"], BY_NAME["sts-code"], BY_NAME["noisy-rectifier"]):
        law, _ = bengio2013_gradients.measured(gate)
        z = torch.rand(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        torch.testing.assert_close(gate.fire(a, z), law.sample(a.expand(5, 3), z))
        if gate.name != "noisy-rectifier":
            torch.testing.assert_close(gate.still(a), law.mean(a))


def test_the_beta_noise_has_its_mode_at_the_target_and_its_mean_is_known():
    alpha, beta = BETA
    assert (alpha - 1) / (alpha + beta - 2) == pytest.approx(0.1) and alpha == pytest.approx(5.3444, abs=1e-4)
    assert pytest.approx(4.595, abs=1e-3) == BETA_SCALE
    source = NoiseSource(("beta",), 200, 0)
    assert float(source.rows.mean()) == pytest.approx(BETA_MEAN, abs=0.01)
    first = source.draw(32, torch.Generator())[0]
    for _ in range(99):
        source.draw(32, torch.Generator())
    assert torch.equal(source.draw(32, torch.Generator())[0], first)  # 3200 rows, gone through


# ---------------------------------------------------------------------- trainings
def examples() -> Split:
    like = torch.empty(())
    return Split(*(images.load_digits().rows(part, like) for part in (slice(0, 200), slice(200, 260), slice(260, 330))))


FOUR = dataclasses.replace(SMALL, epochs=4)


@pytest.mark.parametrize("name", ["sbn", "sts-decisive", "rectifier"])
def test_a_training_that_was_interrupted_goes_on_to_the_same_numbers(name, monkeypatch):
    """The score function has running averages, the second momentum and a place in its noise, the last a penalty."""
    monkeypatch.setattr(bengio2013_training, "KEEP", 0.0)
    gate, data = BY_NAME[name], examples()
    whole = bengio2013_training.train(gate, FOUR, 1, data)
    weights = bengio2013_training.checkpoints(gate, FOUR, 1, "")
    bengio2013_training.cache.path("bengio2013", _identity(gate)).unlink()
    seen: list[int] = []

    def stop(epoch, row):
        seen.append(epoch)
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bengio2013_training.train(gate, FOUR, 1, data, stop)
    again = bengio2013_training.train(gate, FOUR, 1, data, lambda e, row: seen.append(e))
    assert seen == [1, 2, 3, 4]
    assert _plain(again) == _plain(whole)
    kept = bengio2013_training.checkpoints(gate, FOUR, 1, "")
    assert kept.keys() == weights.keys() == {0, 2, 4}
    assert all(torch.equal(kept[e][k], weights[e][k]) for e in kept for k in kept[e])
    other = bengio2013_training.train(gate, FOUR, 2, data)
    assert _plain(other) != _plain(whole)


def _identity(gate):
    return bengio2013_training.identity(gate, FOUR, 1, "")


def _plain(entry):
    return json.dumps(lab.saving.plain({k: v for k, v in entry.items() if k not in ("seconds", "seed")}))


def test_a_training_learns_and_picks_the_epoch_by_validation():
    setting = dataclasses.replace(SMALL, epochs=12, hidden=8, gates=30)
    entry = bengio2013_training.train(BY_NAME["st"], setting, 0, examples())
    errors = entry["history"]["valid_error"]
    assert errors[entry["best_epoch"] - 1] == min(errors) < 0.6 * errors[0]
    assert entry["modes"]["threshold"]["valid_error"] == min(errors)
    assert entry["train_nll"] == entry["history"]["train_nll"][entry["best_epoch"] - 1]
    assert set(entry["modes"]) == {"mean", "threshold", "drawn"}
    assert entry["modes"]["threshold"]["valid_active"] == pytest.approx(0.1, abs=0.01)
    assert bengio2013_training.train(BY_NAME["sigmoid"], SMALL, 0, examples())["modes"].keys() == {"mean"}


# ---------------------------------------------------------------------- saving
def test_multiply_adds_are_those_of_the_formulas_and_of_the_counter():
    found = bengio2013_saving.multiply_adds(784, 400, 2000, 10, 0.1)
    assert (found["ungated"], found["gater"], found["experts"]) == (1_588_000, 1_113_600, 158_800)
    assert found["conditional"] == 1_272_400
    assert (round(found["break_even"]), round(found["gater_equals_experts"])) == (513, 57)
    workload = bengio2013_saving.Workload(20, 50, 4, (5, 30), (1, 8), 2, 64)
    x = torch.randn(64, 20, generator=torch.Generator().manual_seed(0))
    net = bengio2013_saving.Net(workload, 30, x)
    counted = {row["way"]: row["multiply_adds"] for row in bengio2013_saving._counted(net, x)}
    share = float(net.gates(x).float().mean())
    assert share == pytest.approx(0.1, abs=0.02)
    formulas = bengio2013_saving.multiply_adds(20, 30, 50, 4, share)
    assert counted["ungated"] == formulas["ungated"] and counted["masked"] == formulas["gated"]
    for way in ("select", "gather"):
        assert counted[way] == pytest.approx(formulas["conditional"], rel=1e-6)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_nets_that_skip_give_what_the_dense_gated_net_gives():
    workload = bengio2013_saving.Workload(20, 50, 4, (5,), (1, 8), 2, 32)
    x = torch.randn(32, 20, generator=torch.Generator().manual_seed(0))
    net = bengio2013_saving.Net(workload, 5, x)
    expected = net.masked(x)
    for way in bengio2013_saving.SKIPPING:
        torch.testing.assert_close(bengio2013_saving.WAYS[way](net, x), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(net.ungated(x), expected, atol=0.1)


def test_medians_have_intervals_where_there_are_enough_rounds():
    assert bengio2013_saving.median(range(1, 16)) == {"value": 8, "low": 4, "high": 12}  # 1 - 2 P(Bin(15) < 4) = 0.965
    few = bengio2013_saving.median([1.0, 2.0, 3.0])
    assert few["value"] == 2.0 and math.isnan(few["low"])


def test_break_even_is_found_between_widths():
    workload = bengio2013_saving.Workload(widths=(100, 200, 400), batches=(1,), repeats=9, hidden=400)
    times = {("select", 1, m): [50 + 0.5 * m + i for i in range(9)] for m in (100, 200, 400)}

    def found(dense):
        times["ungated", 1, 400] = [dense + i for i in range(9)]
        return bengio2013_saving._break_even(workload, times, 1, "select")

    inside = found(175)
    assert inside["value"] == pytest.approx(250) and inside["words"] == ""
    assert inside["low"] == pytest.approx(250) and inside["high"] == pytest.approx(250)  # the rounds are paired
    assert math.isnan(found(55)["value"]) and "slower at every width" in found(55)["words"]
    assert math.isnan(found(555)["value"]) and "faster at every width" in found(555)["words"]
    times["select", 1, 100][5:] = [1000] * 4
    assert math.isnan(found(175)["low"]) and "beyond the widths" in found(175)["words"]


# ---------------------------------------------------------------------- the study
@pytest.fixture
def quick(monkeypatch):
    """The quick study with fewer examples, and without claims and PDF."""
    monkeypatch.setattr(bengio2013, "publish", lambda folder: folder / "bengio2013.pdf")
    workload = bengio2013_saving.Workload(10, 20, 4, (2, 8), (1, 4), 2, 4)
    small = dataclasses.replace(bengio2013.SCALES["quick"], workload=workload)
    monkeypatch.setitem(bengio2013.SCALES, "quick", small)
    monkeypatch.setattr(bengio2013, "DIGITS_TRAIN", 200)


def test_the_study_runs_goes_on_and_refuses_other_settings(quick, tmp_path, capsys):
    out = tmp_path / "reports"
    arguments = ["--quick", "--out", str(out), "--gates", "sbn", "noisy-rectifier", "sigmoid"]
    bengio2013.main([*arguments, "--seeds", "1"])
    path = out / "bengio2013.json"
    first = json.loads(path.read_text())
    assert first["setting"]["data"] == "digits" and str(tmp_path) not in path.read_text()
    assert [(t["gate"], t["seed"]) for t in first["trainings"]] == [("noisy-rectifier", 0), ("sbn", 0), ("sigmoid", 0)]
    assert first["summary"][0]["test_error"]["low"] is None
    course = lab.Trajectory.from_json(json.dumps(first["trajectory"]))
    assert course.trainings == ["noisy-rectifier", "noisy-rectifier, squared loss", "sbn", "sbn, squared loss"]
    assert course.steps == [0, 1, 2] and not course.failures
    truths = {p.trained_with: p.finding.truth for p in course.points}
    assert truths["sbn, squared loss"] == truths["noisy-rectifier, squared loss"] == "exact: closed form"
    assert "estimated" in truths["sbn"]
    exact = course.of(trained_with="sbn, squared loss", estimator="REINFORCE (unit)")
    assert {row.name for p in exact for row in p.finding.rows if row.level == "site"} == {"gates"}
    assert {f["name"] for f in first["gates"]} == {"noisy-rectifier", "sbn", "sigmoid"}

    bengio2013.main([*arguments, "--seeds", "2"])
    second = json.loads(path.read_text())
    assert [t for t in second["trainings"] if t["seed"] == 0] == first["trainings"]
    assert len(second["trainings"]) == 6 and second["summary"][0]["runs"] == 2
    assert second["trajectory"] == first["trajectory"] and second["saving"] == first["saving"]
    low, value, high = (second["summary"][0]["test_error"][k] for k in ("low", "value", "high"))
    own = [t["modes"]["mean"]["test_error"] for t in second["trainings"][:2]]
    assert value == pytest.approx(np.mean(own)) and high - low == pytest.approx(
        2 * 12.7062 * abs(own[0] - own[1]) / 2, rel=1e-4
    )
    assert "Stoch. Binary" not in capsys.readouterr().out
    bengio2013.main([*arguments, "--seeds", "2", "--retime"])
    third = json.loads(path.read_text())
    assert third["trainings"] == second["trainings"] and third["saving"]["times"] != second["saving"]["times"]
    assert all(t["wall_microseconds"]["value"] >= 0.9 * t["microseconds"]["value"] for t in third["saving"]["times"])
    with pytest.raises(UsageError, match=r"was made with other epochs; name another folder as --out"):
        bengio2013.main([*arguments, "--epochs", "3"])
    path.write_text("{}")
    with pytest.raises(UsageError, match="holds something else"):
        bengio2013.main(arguments)


def test_gradients_are_measured_again_where_gates_have_come_and_one_epoch_will_do(quick, tmp_path):
    def course(*gates):
        bengio2013.main(["--quick", "--out", str(tmp_path), "--seeds", "1", "--epochs", "1", "--gates", *gates])
        found = json.loads((tmp_path / "bengio2013.json").read_text())
        return found["trajectory"], {p["trained_with"].partition(",")[0] for p in found["trajectory"]["points"]}

    first, gates = course("st", "sigmoid")
    assert gates == {"st"} and {p["step"] for p in first["points"]} == {0, 1}
    assert course("sts")[1] == {"st", "sts"}
    both = course("sts-code")
    assert both[1] == {"st", "sts", "sts-code"} and course("st") == both


def test_the_size_of_the_paper_has_a_file_of_its_own_and_the_closed_form_alone(quick, tmp_path, monkeypatch, capsys):
    toy = dataclasses.replace(bengio2013.SCALES["paper"], hidden=4, gates=20, examples=2, replicates=64)
    monkeypatch.setitem(bengio2013.SCALES, "paper", toy)
    bengio2013.main(["--quick", "--out", str(tmp_path), "--seeds", "1", "--gates", "sigmoid"])
    small = (tmp_path / "bengio2013.json").read_text()
    arguments = ["--scale", "paper", "--out", str(tmp_path), "--seeds", "1", "--epochs", "2", "--workers", "1"]
    bengio2013.main([*arguments, "--gates", "sbn"])
    assert "the 8x8 digits: neither --data nor ESTIMATOR_LAB_DATA names a folder" in capsys.readouterr().out
    assert (tmp_path / "bengio2013.json").read_text() == small
    found = json.loads((tmp_path / "bengio2013_paper.json").read_text())
    assert found["scale"] == "paper" and found["saving"] is None  # it is timed already
    assert {(p["trained_with"], p["finding"]["truth"]) for p in found["trajectory"]["points"]} == {
        ("sbn, squared loss", "exact: closed form")
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "nowhere"], r"--data nowhere holds no MNIST.*leave --data out"),
        (["--data", "."], r"--data \. holds no MNIST"),
        (["--epochs", "-1"], "--epochs is at least 1; found -1"),
        (["--epochs", "0"], "--epochs is at least 1; found 0"),
        (["--seeds", "0"], "--seeds is at least 1; found 0"),
        (["--workers", "0"], "--workers is at least 1; found 0"),
        (["--quick", "--data", "."], "leave --data out"),
        (["--quick", "--out", "a file"], "cannot write a file"),
        (["--report"], "measure first, without --report"),
        (["--report", "--out", "damaged"], "bengio2013.json"),
    ],
)
def test_mistakes_are_told_before_any_work(arguments, words, quick, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bengio2013, "study", None)
    Path("a file").write_text("")
    Path("damaged").mkdir()
    Path("damaged/bengio2013.json").write_text('{"format": ')
    monkeypatch.setenv(images.VARIABLE, "")
    with pytest.raises(UsageError, match=words):
        bengio2013.main(["--out", str(tmp_path), *arguments])


def test_a_variable_that_names_no_mnist_is_a_mistake_too(quick, tmp_path, monkeypatch):
    monkeypatch.setenv(images.VARIABLE, str(tmp_path))
    with pytest.raises(UsageError, match=r"ESTIMATOR_LAB_DATA name the folder of MNIST"):
        bengio2013.main(["--out", str(tmp_path)])
    a_folder_of_mnist(tmp_path)
    assert bengio2013.data_of(None) == bengio2013.data_of(tmp_path) == "mnist"
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    images.load_mnist.cache_clear()
    with pytest.raises(UsageError, match=r"lacks train-labels-idx1-ubyte\.gz"):
        bengio2013.data_of(tmp_path)


def test_a_training_that_runs_away_is_told_and_the_others_go_on(quick, tmp_path, monkeypatch):
    wild = dataclasses.replace(BY_NAME["st"], penalty=math.nan)
    monkeypatch.setattr(bengio2013, "GATES", (BY_NAME["sigmoid"], wild))
    bengio2013.main(["--quick", "--out", str(tmp_path), "--seeds", "1"])
    found = json.loads((tmp_path / "bengio2013.json").read_text())
    assert [f["gate"] for f in found["failures"]] == ["st"] and "ran away in epoch 1" in found["failures"][0]["reason"]
    assert [t["gate"] for t in found["trainings"]] == ["sigmoid"] and found["trajectory"] is None


def test_the_published_table_is_as_printed():
    rows = {r["row"]: r for r in bengio2013.PUBLISHED["rows"]}
    assert len(rows) == 7 and {g.row for g in GATES} - {""} == set(rows)
    assert rows["Straight-through"] == {
        "row": "Straight-through", "train_nll": 3.3e-3, "valid_error": 1.42, "test_error": 1.39
    }  # fmt: skip


def test_gates_that_are_no_law_of_the_package_are_left_out_of_the_course():
    kept = [g.name for g in GATES if bengio2013_gradients.measured(g)]
    assert kept == ["noisy-rectifier", "st", "st-sigmoid", "sts", "sts-code", "sbn", "sbn-mean"]
    assert Reinforce("unit") in bengio2013_gradients.measured(BY_NAME["st"])[1]


def test_two_workers_give_what_one_gives():
    setting = dataclasses.replace(SMALL, train=120, epochs=1)
    tasks = [(BY_NAME["sigmoid"], 0), (BY_NAME["st"], 1)]
    runs = []
    for workers in (1, 2):
        bengio2013_training.cache.path("bengio2013", "").parent.mkdir(exist_ok=True)
        for file in bengio2013_training.cache.folder().iterdir():
            file.unlink()  # what one has kept is not there for two
        found = {(gate.name, seed): _plain(entry) for gate, seed, entry in bengio2013.trained(tasks, setting, workers)}
        assert set(found) == {("sigmoid", 0), ("st", 1)}
        runs.append(found)
    assert runs[0] == runs[1]
