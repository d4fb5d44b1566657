"""Shipped modules with stochastic layers: against enumeration, cut and folded, trained, under every estimator."""

import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import estimator_lab as lab
from estimator_lab import measurement
from estimator_lab.chain import Chain
from estimator_lab.errors import UsageError
from estimator_lab.estimators import ESTIMATORS, Exact, LocalExpectation, Rebar, Reinforce, Sample, StraightThrough
from estimator_lab.nn import Stochastic
from estimator_lab.noise import MonteCarlo
from estimator_lab.problems import (
    NETWORKS,
    BinaryClassifier,
    BinaryConvNet,
    Router,
    SpikingNetwork,
    binary_classifier,
    images,
    router,
    trained_module,
)
from estimator_lab.problems.trained_module import TrainedModule

MODULES = [p for p in NETWORKS if isinstance(p, TrainedModule)]
FEW = dict(steps=100, batch=4)


@pytest.fixture(scope="module", autouse=True)
def apart(tmp_path_factory):
    """A cache of its own, and digits of one and of 4x4 pixels besides those of 8x8."""
    digits, load = images.load_digits(), images.load

    def small(name):
        if name not in ("one", "four"):
            return load(name)
        side = {"one": 1, "four": 4}[name]
        pixels = digits.pixels.reshape(-1, side, 8 // side, side, 8 // side).double().mean((2, 4)).reshape(-1, side**2)
        return dataclasses.replace(digits, name=name, pixels=pixels)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESTIMATOR_LAB_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv(images.VARIABLE, raising=False)
        patch.setattr(trained_module, "load", small)
        yield
    trained_module.trained.cache_clear()
    trained_module._problem.cache_clear()


# ---------------------------------------------------------------------- ground truth by enumeration
TINY = {
    "binary": lambda: BinaryClassifier(data="four", hidden=(3, 2), batch=2, steps=30),
    "levels": lambda: BinaryClassifier(data="four", hidden=(2, 2), levels=3, batch=2, steps=30),
    "signs": lambda: BinaryClassifier(data="four", hidden=(3, 2), connections="sign", batch=2, steps=30),
    "drawn": lambda: BinaryClassifier(data="one", hidden=(1,), connections="drawn", batch=2, steps=30),
    "maps": lambda: BinaryConvNet(data="four", channels=(2, 2), batch=2, steps=30),
    "spikes": lambda: SpikingNetwork(data="four", neurons=3, time=3, sharpness=2.0, batch=2, steps=30),
    "routes": lambda: Router(data="four", patch=2, width=4, experts=3, batch=2, steps=30),
}
UNITS = {
    "binary": {"h1": (3,), "h2": (2,)},
    "levels": {"h1": (2,), "h2": (2,)},
    "signs": {"h1": (3,), "h2": (2,)},
    "drawn": {"linear1.signs": (1, 1), "h1": (1,), "linear.signs": (10, 1)},
    "maps": {"h1": (2, 2, 2), "h2": (2, 1, 1)},
    "spikes": {"spike[0]": (3,), "spike[1]": (3,), "spike[2]": (3,)},
    "routes": {"route[0]": (4,), "route[1]": (4,)},
}
CLASSES = {"levels": 3, "routes": 3}


class Given(nn.Module):
    """In place of a stochastic layer: takes the next values of a list, and writes down their log-probability."""

    def __init__(self, classes, values, offsets):
        super().__init__()
        self.classes, self.values, self.offsets, self.logs = classes, values, offsets, []

    def forward(self, theta):
        value, offset = self.values[len(self.logs)], self.offsets[len(self.logs)]
        theta = theta + offset.repeat(len(theta) // len(offset), *(1,) * (theta.dim() - 1))
        if self.classes:
            log = (value * theta.log_softmax(-1)).sum(-1)
        else:
            log = value * theta.sigmoid().log() + (1 - value) * (1 - theta.sigmoid()).log()
        self.logs.append(log.flatten(1).sum(1))
        return value


def enumerated(problem, units, classes, weights):
    """Gradients of the sum over all joint states of probability times loss, and the states' probabilities."""
    module = problem.module()
    for name, parameter in module.named_parameters():
        parameter.data = weights[name].clone().requires_grad_()
    count = sum(math.prod(shape) for shape in units.values())
    states = torch.cartesian_prod(*[torch.arange(classes or 2)] * count).repeat_interleave(problem.batch, 0)
    values, offsets, at = [], [], 0
    for shape in units.values():
        part = states[:, at : at + math.prod(shape)].reshape(-1, *shape)
        values.append((nn.functional.one_hot(part, classes) if classes else part).double())
        offsets.append(torch.zeros(problem.batch, *values[-1].shape[1:], dtype=torch.float64, requires_grad=True))
        at += math.prod(shape)
    given = Given(classes, values, offsets)
    for path, part in list(module.named_modules()):
        if isinstance(part, Stochastic):
            module.set_submodule(path, given)
    x, y = problem.images.last(problem.batch, offsets[0])
    times = len(states) // problem.batch
    losses = cross_entropy(module(x.repeat(times, 1)), y.repeat(times), reduction="none")
    probability = torch.stack(given.logs).sum(0).exp()
    expected = (probability * losses).reshape(times, -1).sum(0)
    parameters = dict(module.named_parameters())
    found = {
        ("unit", k): g
        for k, g in zip(units, torch.autograd.grad(expected.sum(), offsets, retain_graph=True), strict=True)
    }
    slopes = torch.autograd.grad(expected.mean(), list(parameters.values()), materialize_grads=True, allow_unused=True)
    found |= {("weight", k): g for k, g in zip(parameters, slopes, strict=True)}
    return found, probability.detach().reshape(times, -1), states[:: problem.batch]


def furthest(truth, found):
    """The largest difference, relative to the largest number of its gradient."""
    assert truth.keys() == found.keys()
    return max(float((found[k] - torch.from_numpy(v)).abs().max()) / max(abs(v).max(), 1e-6) for k, v in truth.items())


@pytest.mark.parametrize("name", TINY)
def test_the_exact_truth_is_the_sum_over_all_states(name):
    problem = TINY[name]()
    assert {s.name: s.units for s in problem.sites} == UNITS[name]
    truth = lab.Truth.exact(problem).mean
    found, probability, _ = enumerated(problem, UNITS[name], CLASSES.get(name), problem.weights())
    assert probability.sum(0) == pytest.approx([1, 1], abs=1e-12)
    assert furthest(truth, found) < 1e-9
    for key in truth:
        assert key[0] == "weight" or abs(truth[key]).max() > 1e-5  # there is something to be told


def test_the_comparison_would_find_another_leak_and_a_missing_mask(monkeypatch):
    problem = TINY["spikes"]()
    truth = lab.Truth.exact(problem).mean
    other = dataclasses.replace(problem, decay=0.7)
    assert furthest(truth, enumerated(other, UNITS["spikes"], None, problem.weights())[0]) > 1e-3
    problem = TINY["routes"]()
    truth = lab.Truth.exact(problem).mean
    monkeypatch.setattr(router, "MASK", 0.0)
    assert furthest(truth, enumerated(problem, UNITS["routes"], 3, problem.weights())[0]) > 1e-3


def test_no_patch_goes_to_an_expert_twice():
    problem = TINY["routes"]()
    _, probability, states = enumerated(problem, UNITS["routes"], 3, problem.weights())
    twice = (states[:, :4] == states[:, 4:]).any(1)
    assert probability[twice].sum() < 1e-10 < probability[~twice].max()


def test_rounding_keeps_the_mean():
    levels = 5
    a = torch.linspace(-6, 6, 101, dtype=torch.float64)
    p = binary_classifier._Neighbours(levels)(a).softmax(-1)
    places = torch.arange(levels, dtype=torch.float64)
    m, rare = (levels - 1) * a.sigmoid(), binary_classifier.RARE
    # (hat_c + r) / (1 + k r), of mean (m + r (0 + ... + k - 1)) / (1 + k r)
    assert p @ places == pytest.approx((m + rare * places.sum()) / (1 + levels * rare), abs=1e-12)
    below = m.floor()
    likely = ((p > 1e-2).int() * (1 + places)).amax(-1) - 1
    assert ((likely == below) | (likely == below + 1)).all()
    assert ((p > 2 * rare).sum(-1) <= 2).all()


# ---------------------------------------------------------------------- how they are run
@pytest.mark.parametrize("network", MODULES, ids=lambda n: n.label)
def test_is_cut_folded_and_mapped(network):
    problem = dataclasses.replace(network, **FEW)
    chain = Chain(problem, Sample())
    assert (problem.foldable, problem.notes, chain.notes, chain.looped, chain._folded) == (True, (), (), False, True)
    weights, generator = problem.weights(), torch.Generator().manual_seed(0)
    theta, carry = problem.begin(weights)
    samples, thetas = (), ()
    for spec in problem.sites:
        torch.testing.assert_close(theta, problem.theta(weights, samples), rtol=1e-10, atol=1e-10)
        samples = (*samples, drawn(spec, theta, generator))
        thetas = (*thetas, theta)
        if len(samples) < len(problem.sites):
            theta, carry = problem.advance(weights, carry, samples)
    parts = problem.finish(weights, carry, samples, thetas)
    torch.testing.assert_close(parts, problem.loss(weights, samples, thetas), rtol=1e-10, atol=1e-10)


def drawn(spec, theta, generator):
    shape = theta.shape[: theta.dim() - len(spec.family.theta_shape)]
    return spec.family.sample(theta.detach(), torch.rand(shape, generator=generator, dtype=theta.dtype))


@pytest.mark.parametrize("network", MODULES, ids=lambda n: n.label)
def test_every_estimator_runs(network, monkeypatch):
    monkeypatch.setattr(measurement, "FIT", 64)
    problem = dataclasses.replace(network, batch=2, steps=100)
    for estimator in ESTIMATORS:
        if estimator == Exact() or any(estimator.refuses(site) for site in problem.sites):
            continue
        record = lab.measure(problem, estimator, 32)
        assert record.replicates >= 32
        assert not record.notes


def along(problem, estimator, direction, draws):
    """Means and squared standard errors of the gradients' products with a direction."""
    chain, noise = Chain(problem, estimator), MonteCarlo("along", repr(estimator))
    blocks = [chain.draw(256, noise) for _ in range(draws // 256)]
    found = {k: torch.cat([(b[k] * direction[k]).flatten(1).sum(1) for b in blocks]) for k in direction}
    return {k: (float(v.mean()), float(v.var()) / len(v)) for k, v in found.items()}


def gap(problem, other, draws):
    """How far an estimator is from local expectation, along each gradient, in standard errors; the largest."""
    rough = Chain(problem, LocalExpectation()).draw(32, MonteCarlo("direction"))
    direction = {k: v.mean(0) for k, v in rough.items()}
    a, b = along(problem, LocalExpectation(), direction, 256), along(problem, other, direction, draws)
    return max(abs(a[k][0] - b[k][0]) / math.sqrt(a[k][1] + b[k][1] + 1e-24) for k in a)


@pytest.mark.parametrize("network", MODULES, ids=lambda n: n.label)
def test_local_expectation_and_reinforce_agree(network):
    """At most 35 gradients at 6 standard errors: a false alarm has a probability of 7e-8 where means are normal."""
    problem = dataclasses.replace(network, batch=2, steps=100)
    if getattr(network, "connections", "") == "drawn":  # every weight is flipped
        problem = dataclasses.replace(problem, hidden=(2,))
    assert gap(problem, Reinforce(), 4096) < 6


def test_the_comparison_would_find_a_bias():
    assert gap(Router(data="digits"), StraightThrough(), 1024) > 20


class Detached:
    """A mask without derivative."""

    def __mul__(self, choice):
        return 30.0 * choice.detach()


def test_a_choice_that_is_relaxed_needs_the_derivative_of_the_mask(monkeypatch):
    problem = Router(data="digits", batch=8)
    problem.weights()
    assert gap(problem, Rebar(), 2048) < 6
    monkeypatch.setattr(router, "MASK", Detached())
    trained_module._problem.cache_clear()
    assert gap(problem, Rebar(), 2048) > 6
    trained_module._problem.cache_clear()


# ---------------------------------------------------------------------- training and identity
@pytest.mark.parametrize("network", MODULES, ids=lambda n: n.label)
def test_training_beats_chance(network):
    problem = dataclasses.replace(network, batch=200, steps=200)
    losses = Chain(problem, Sample(), ("unit",)).value(MonteCarlo("loss"), 16)
    assert losses.mean() < 0.9 * math.log(10)


def test_weights_follow_from_the_recipe_and_nothing_global_changes():
    problem = SpikingNetwork(data="digits", steps=5)
    before = torch.get_rng_state()
    first = problem.weights()
    assert torch.equal(before, torch.get_rng_state())
    trained_module.trained.cache_clear()
    with pytest.MonkeyPatch.context() as patch:  # the second time they come from the file
        patch.setattr(SpikingNetwork, "train", None)
        again = dataclasses.replace(problem, batch=3).weights()
    assert all(torch.equal(again[k], v) for k, v in first.items())
    same = problem.train()
    assert all(torch.equal(same[k], v) for k, v in first.items())
    other = dataclasses.replace(problem, seed=1).weights()
    assert not any(torch.equal(other[k], v) for k, v in first.items())
    single = dataclasses.replace(problem, dtype=torch.float32)
    assert {v.dtype for v in single.weights().values()} == {torch.float32}
    assert lab.measure(single, StraightThrough(), 32).replicates >= 32
    assert lab.measure(single.at(first, "double"), StraightThrough(), 32).replicates >= 32


def test_initial_weights_do_not_depend_on_the_default_dtype():
    for network in MODULES:
        assert {p.dtype for p in network.initial().parameters()} == {torch.float64}


def test_names_tell_them_apart():
    assert len({repr(n) for n in MODULES}) == len({n.label for n in MODULES}) == len(MODULES)
    assert repr(Router(data="digits")) == (
        "Router(batch=16, steps=100, seed=0, data='digits', patch=4, width=16, heads=2, experts=4, chosen=2)"
    )
    assert SpikingNetwork().data == "digits"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BinaryClassifier(hidden=(3, 0)), "at least one unit"),
        (lambda: BinaryClassifier(levels=1), "two levels"),
        (lambda: BinaryClassifier(connections="ternary"), r"one of \['real', 'sign', 'drawn'\]"),
        (lambda: BinaryConvNet(channels=(4,)), "two layers"),
        (lambda: SpikingNetwork(time=0), "one step"),
        (lambda: SpikingNetwork(decay=1.5), "decay in"),
        (lambda: Router(patch=3), "divide an image of side 8"),
        (lambda: Router(heads=3), "heads divide"),
        (lambda: Router(chosen=4), "not to all"),
        (lambda: Router(data="cifar"), "no images 'cifar'"),
        (lambda: SpikingNetwork(batch=1000).sites, "held out"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(make, message):
    with pytest.raises(UsageError, match=message):
        make()
