"""Doors for code that is not ours: training steps, and estimators of other libraries."""

import importlib
import itertools
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import estimator_lab as lab
from estimator_lab.measurement import prepare_sampler
from estimator_lab.sampler import GradientSampler
from estimator_lab.truth import Truth

ROOT = Path(__file__).parents[1]
ALPHA = 1e-6
"""False-alarm rate of a whole diagnosis below."""
STATES = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=torch.float64)


class Network(nn.Module):
    """Three examples through batch normalisation, two Bernoulli units and a quadratic loss."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.norm, self.encoder, self.decoder = nn.BatchNorm1d(3), nn.Linear(3, 2), nn.Linear(2, 1)
        self.register_buffer("calls", torch.zeros(()))
        self.double()
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype))
        self.x = torch.randn(3, 3, generator=generator, dtype=torch.float64)
        self.y = torch.tensor([0.4, -0.9, 1.3], dtype=torch.float64)

    def logits(self):
        self.calls += 1
        return self.encoder(self.norm(self.x))

    def losses(self, bits):
        return (self.decoder(bits)[..., 0] - self.y).square()

    def probability(self, logits, bits):
        return torch.distributions.Bernoulli(logits=logits).log_prob(bits).sum(-1)

    def exact(self):
        """The mean over examples of the expected loss, by its four states."""
        logits = self.logits()
        logits.retain_grad()
        bits = STATES[:, None].expand(4, 3, 2)
        (self.probability(logits, bits).exp() * self.losses(bits)).sum(0).mean().backward()
        return {"logits": logits}

    def reinforce(self):
        logits = self.logits()
        logits.retain_grad()
        bits = torch.bernoulli(logits.detach().sigmoid())
        losses = self.losses(bits)
        (losses + losses.detach() * self.probability(logits, bits)).mean().backward()
        return {"logits": logits}

    def straight_through(self):
        logits = self.logits()
        logits.retain_grad()
        p = logits.sigmoid()
        self.losses(torch.bernoulli(p.detach()) + p - p.detach()).mean().backward()
        return {"logits": logits}


def by_hand(net):
    """Exact gradients of logits and decoder in numpy, from the definition of the expectation."""
    with torch.no_grad():
        fresh = Network()
        logits = fresh.encoder(fresh.norm(fresh.x)).numpy()
    w, c, y = net.decoder.weight.detach().numpy()[0], net.decoder.bias.item(), net.y.numpy()
    p = 1 / (1 + np.exp(-logits))
    unit, weight, bias = np.zeros((3, 2)), np.zeros((1, 2)), np.zeros(1)
    for i in range(3):
        for a in (0, 1):
            for b in (0, 1):
                bits = np.array([a, b])
                mass = np.prod(np.where(bits == 1, p[i], 1 - p[i]))
                residual = bits @ w + c - y[i]
                unit[i] += mass * residual**2 * (bits - p[i]) / 3
                weight[0] += mass * 2 * residual * bits / 3
                bias += mass * 2 * residual / 3
    return unit, weight, bias


def state_of(net):
    """Everything that a step must leave as it was."""
    return (
        {k: (v.clone(), v.data_ptr()) for k, v in net.state_dict().items()},
        [id(t) for m in net.modules() for t in (*m._parameters.values(), *m._buffers.values())],
        [None if p.grad is None else (id(p.grad), p.grad.clone()) for p in net.parameters()],
        [p.requires_grad for p in net.parameters()],
        [m.training for m in net.modules()],
        [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in net.modules()],
        torch.get_rng_state(),
        random.getstate(),
        [a.tolist() if isinstance(a, np.ndarray) else a for a in np.random.get_state()],
        torch.is_grad_enabled(),
    )


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def box(net, step="reinforce", truth=None, **options):
    truth = truth or GradientSampler.from_step(net.exact, net, units=("encoder",))
    return GradientSampler.from_step(getattr(net, step), net, truth, **({"units": ("encoder",)} | options))


# ---------------------------------------------------------------------- what is measured
def test_an_exact_step_gives_the_gradients_of_units_and_weights():
    net = Network()
    truth = Truth.sampled(box(net, "exact"), 64)
    unit, weight, bias = by_hand(net)
    for key, expected in {
        ("unit", "logits"): unit,
        ("unit", "encoder"): unit,
        ("weight", "decoder.weight"): weight,
        ("weight", "decoder.bias"): bias,
        ("weight", "encoder.bias"): unit.sum(0),
    }.items():
        np.testing.assert_allclose(truth.mean[key], expected, atol=1e-12)
        assert np.abs(expected).max() > 1e-2


def test_an_unbiased_step_is_sound_at_units_and_layers(tmp_path):
    net = Network()
    result = lab.diagnose(box(net, unbiased=True), budget=2**11, alpha=ALPHA, margin=0.5)
    (found,) = result.findings
    tested = {(r.level, r.name) for r in found.rows if r.tested}
    assert {level for level, _ in tested} == {"site", "layer"}
    assert {name for level, name in tested if level == "layer"} == {"norm", "encoder", "decoder"}
    assert {name for level, name in tested if level == "site"} <= {"encoder", "logits"} == set(found.units)
    assert found.status != "violated", found.words
    assert "reinforce on black box" in result.summary()
    result.report(tmp_path / "step.pdf")
    assert (tmp_path / "step.pdf").stat().st_size > 10_000


def test_a_biased_step_is_found_out_at_its_units():
    net = Network()
    (found,) = lab.diagnose(box(net, "straight_through", unbiased=True), budget=2**11, alpha=ALPHA).findings
    assert found.status == "violated"
    assert found.row("site", "encoder").verdict.startswith("biased")
    assert not found.row("layer", "decoder").verdict.startswith("biased")  # after the sample, nothing is estimated


def test_truths_by_name_are_for_weights():
    net = Network()
    exact = Truth.sampled(box(net, "exact"), 32).mean
    named = {k[1]: torch.as_tensor(v) for k, v in exact.items() if k[0] == "weight"}

    def quiet():
        net.reinforce()

    sampler = GradientSampler.from_step(quiet, net, named, unbiased=True)
    (found,) = lab.diagnose(sampler, budget=2**11, alpha=ALPHA, margin=0.5).findings
    assert found.status != "violated" and not found.units
    with pytest.raises(lab.UsageError, match=r"lacks the units \['encoder', 'logits'\]; those take a sampler"):
        lab.diagnose(box(net, truth=named), budget=64)
    with pytest.raises(lab.UsageError, match=r"gives gradients of the units \['encoder'\]; those take a sampler"):
        box(net, truth=named | {("unit", "encoder"): torch.ones(1)})


def test_parameters_without_a_gradient_are_zero_and_tied_ones_count_once():
    net = nn.ModuleList([nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False), nn.Linear(2, 1), nn.Linear(1, 1)])
    net[1].weight = net[0].weight
    net[3].bias.requires_grad_(False)
    x = torch.tensor([[0.3, -1.2]])

    def step():
        net[2](net[1](net[0](x))).sum().backward()

    draws = GradientSampler.from_step(step, net, {"0.weight": x}).draw(2, None)
    assert list(draws) == [("weight", name) for name in ("0.weight", "2.weight", "2.bias", "3.weight")]
    assert not draws["weight", "3.weight"].any() and draws["weight", "0.weight"].all()
    step()
    torch.testing.assert_close(draws["weight", "0.weight"][1], net[0].weight.grad)


def test_a_submodule_called_twice_has_two_units():
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(inplace=True))
    x = torch.tensor([[0.3, -1.2]])

    def step():
        with torch.no_grad():
            net[0](x)  # not in the graph: not a unit
        (net(x) + 2 * net(net(x))).sum().backward()

    draws = GradientSampler.from_step(step, net, {"0.weight": x}, units=["0"]).draw(1, None)
    assert [name for kind, name in draws if kind == "unit"] == ["0[0]", "0[1]", "0[2]"]
    # of the values before the change in place, so that the sum over calls is the gradient of the bias
    total = sum(draws["unit", f"0[{i}]"][0, 0] for i in range(3))
    torch.testing.assert_close(total, draws["weight", "0.bias"][0])


def test_one_unit_by_its_name():
    assert ("unit", "encoder") in box(Network(), units="encoder").draw(1, None)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"w": torch.ones(3)}, lab.UsageError, r"'w' has shape \[2\] and \[3\]"),
        ({"v": torch.ones(2)}, lab.UsageError, r"the truth lacks \['w'\]"),
        ({"w": torch.tensor([1.0, torch.inf])}, lab.MeasurementError, r"\['w'\] are NaN or infinite in the first draw"),
    ],
)
def test_mistakes_are_told_before_a_long_truth_is_drawn(given, error, words):
    calls = []

    def truth():
        calls.append(0)
        return given

    sampler = GradientSampler(lambda: {"w": torch.rand(2)}, GradientSampler(truth))
    with pytest.raises(error, match=words):
        lab.diagnose(sampler, budget=64)
    assert len(calls) == 1


def test_half_precision_is_widened():
    net = nn.Linear(2, 1).to(torch.bfloat16)
    sampler = GradientSampler.from_step(
        lambda: net(torch.ones(1, 2, dtype=torch.bfloat16)).sum().backward(),
        net,
        {"weight": torch.ones(1, 2), "bias": torch.ones(1)},
    )
    assert lab.diagnose(sampler, budget=64).findings[0].verdict == "exact"


def test_a_truth_needs_none_itself_and_is_not_diagnosed():
    with pytest.raises(lab.UsageError, match=r"GradientSampler\(Network.exact\) has no truth to be held against"):
        lab.diagnose(box(Network()).truth)


# ---------------------------------------------------------------------- deterministic or not
def test_a_deterministic_function_is_drawn_once():
    calls = []

    def constant():
        calls.append(0)
        return {"w": torch.tensor([1.0, 2.0])}

    for truth, verdict in (([1.0, 2.0], "exact"), ([1.0, 2.001], "biased")):
        calls.clear()
        (found,) = lab.diagnose(GradientSampler(constant, {"w": torch.tensor(truth)}), budget=2**12).findings
        assert (found.verdict, len(calls)) == (verdict, 33)


@pytest.mark.parametrize(
    "rare",
    [lambda: torch.rand(()) < 1e-9, lambda: np.random.rand() < 1e-9, lambda: random.random() < 1e-9],
    ids=["torch", "numpy", "python"],
)
def test_functions_that_draw_from_any_stream_are_random(rare):
    """All draws alike, and yet nothing is known of the event that no draw met."""
    sampler = GradientSampler(lambda: {"w": torch.ones(2) * (1 + bool(rare()))}, {"w": torch.tensor([1.0, 1.5])})
    record = prepare_sampler(sampler).run(64)
    assert record.random and record.replicates == 64
    assert lab.diagnose(sampler, budget=256).findings[0].verdict == "undecided"


@pytest.mark.parametrize("draw", [lambda: torch.rand(2), lambda: torch.as_tensor(np.random.rand(2))])
def test_draws_are_independent_and_repeatable(draw):
    sampler = GradientSampler(lambda: {"w": draw()}, {"w": torch.ones(2)})
    first, second = (prepare_sampler(sampler).run(64) for _ in range(2))
    assert np.array_equal(first.moments.mean, second.moments.mean)
    assert len({row.tobytes() for row in first.means}) == len(first.means)


# ---------------------------------------------------------------------- everything is put back
def spoil(net):
    """What a training step may do to a module, on purpose or not."""
    net.eval()
    net.norm.training = True
    net.decoder.bias.requires_grad_(False)
    net.calls = net.calls + 5
    net.norm.running_mean.fill_(7.0)
    for p in net.parameters():
        if p.grad is not None:
            p.grad.zero_()
    random.random(), np.random.rand(), torch.rand(())


@pytest.mark.parametrize("fails", [False, True])
def test_all_is_as_before(fails):
    net = Network()
    net.norm.bias.requires_grad_(False)
    net.exact()
    net.encoder.bias.grad = None
    before = state_of(net)

    def step():
        net.zero_grad(set_to_none=False)
        found = net.reinforce()
        spoil(net)
        if fails:
            raise ZeroDivisionError("the user's own")
        return found

    sampler = GradientSampler.from_step(step, net, box(net, "exact"), units=["encoder"])
    with torch.no_grad():
        inner = state_of(net)
        if fails:
            with pytest.raises(ZeroDivisionError, match="the user's own") as caught:
                lab.diagnose(sampler, budget=64)
            assert caught.traceback[-1].path == Path(__file__)
        else:
            lab.diagnose(sampler, budget=64)
        assert equal(inner, state_of(net))
    assert equal(before, state_of(net))


def test_the_comparison_sees_what_a_bare_step_leaves_behind():
    net = Network()
    before = state_of(net)
    net.reinforce()
    after = state_of(net)
    assert not equal(before[0], after[0]) and not equal(before[2], after[2]) and not equal(before[6], after[6])
    spoil(net)
    assert sum(not equal(a, b) for a, b in zip(before, state_of(net), strict=True)) == 8


def test_draws_start_from_the_same_buffers():
    net = Network()

    def step():
        net.logits()
        (net.calls * net.encoder.bias.sum()).backward()

    draws = GradientSampler.from_step(step, net, {"encoder.bias": torch.ones(2)}).draw(3, None)
    assert torch.equal(draws["weight", "encoder.bias"], torch.ones(3, 2, dtype=torch.float64))


@pytest.mark.parametrize("how", ["optimizer", "data", "replaced", "storage"])
def test_a_changed_weight_is_an_error(how):
    net = Network()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    before = state_of(net)

    def step():
        net.reinforce()
        if how == "optimizer":
            optimizer.step()
        elif how == "data":
            net.encoder.weight.data[0, 0] = float("nan")
        elif how == "replaced":
            net.encoder.weight = nn.Parameter(net.encoder.weight.detach().clone())
        else:
            net.encoder.weight.data = torch.zeros(5, 3, dtype=torch.float64)

    sampler = GradientSampler.from_step(step, net, box(net, "exact"), name="train")
    with pytest.raises(lab.UsageError, match=r"the step train changed the weights .*optimizer\.step\(\)"):
        lab.diagnose(sampler, budget=64)
    assert equal(before, state_of(net))


# ---------------------------------------------------------------------- one clear message for each mistake
def leaf():
    return {"x": torch.ones(1, requires_grad=True)}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"step": lambda net: None}, "left no gradient at any parameter; it calls loss.backward"),
        ({"units": ("coder",)}, r"has no submodule \['coder'\]; units is a list of some of \['norm', 'encoder'"),
        ({"units": ("unused",)}, r"no output of 'unused' took part"),
        ({"units": ("pair",)}, r"'pair' returns no tensor but tuple"),
        ({"step": lambda net: net.exact() and leaf()}, r"'x', which .* has no gradient of its own"),
        (
            {"step": lambda net: net.exact() and {"h": net.encoder(net.x)}},
            r"'h', which .* each after tensor.retain_grad",
        ),
        ({"step": lambda net: {"encoder": net.exact()["logits"]}}, r"is a submodule in units as well"),
        ({"module": [Network()]}, r"takes a torch.nn.Module .* found list: put several modules"),
        ({"module": Network().requires_grad_(False)}, "parameters that require gradients"),
    ],
)
def test_mistakes(options, words):
    net = Network()
    net.unused, net.pair = nn.Linear(3, 1).double(), nn.Identity()
    net.pair.forward = lambda x: (x, x)
    step = options.get("step", Network.exact)

    def run():
        net.pair(net.x)
        return step(net)

    module, units = options.get("module", net), options.get("units", ("encoder",))
    with pytest.raises(lab.UsageError, match=words):
        GradientSampler.from_step(run, module, {"w": torch.ones(1)}, units=units).draw(1, None)
    assert all(not m._forward_hooks for m in net.modules())


# ---------------------------------------------------------------------- a published network
sys.path.insert(0, str(ROOT / "analyses"))
psa555 = importlib.import_module("psa555")


@pytest.fixture
def checkpoint(tmp_path):
    """A 2-2-3-2-1 network and five points, of the format of the published one."""
    generator = np.random.default_rng(5)
    widths = [2, 2, 3, 2, 1]
    data = {
        "weights": [generator.normal(size=(b, a)).tolist() for a, b in itertools.pairwise(widths)],
        "biases": [generator.normal(size=b).tolist() for b in widths[1:]],
        "X": generator.normal(size=(5, 2)).tolist(),
        "Y": [1.0, -1.0, -1.0, 1.0, -1.0],
    }
    path = tmp_path / "checkpoint.json"
    path.write_text(json.dumps(data))
    return path


def by_transitions(data):
    """Expected loss and its gradient by layer, by the transition matrices between the states of the layers."""
    weights, biases = (
        [torch.tensor(t, dtype=torch.float64, requires_grad=True) for t in data[k]] for k in ("weights", "biases")
    )
    x, y = (torch.tensor(data[k], dtype=torch.float64) for k in ("X", "Y"))
    inputs, mass = x, torch.eye(len(x), dtype=torch.float64)
    for w, b in zip(weights[:-1], biases[:-1], strict=True):
        p = (inputs @ w.T + b).sigmoid()
        states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=len(b))), dtype=torch.float64)
        chosen = torch.where(states > 0, p[:, None], 1 - p[:, None])
        mass, inputs = mass @ chosen.prod(-1), states
    outputs = (inputs @ weights[-1].T + biases[-1])[:, 0]
    loss = (mass * torch.log(1 + torch.exp(-y[:, None] * outputs))).sum(1).mean()
    loss.backward()
    return loss.item(), [torch.cat([w.grad.flatten(), b.grad]) for w, b in zip(weights, biases, strict=True)]


def test_the_exact_gradient_of_the_published_network(checkpoint):
    data = json.loads(checkpoint.read_text())
    network = psa555.Network.load(checkpoint)
    loss, layers = psa555.exact(network)
    expected, gradients = by_transitions(data)
    assert loss == pytest.approx(expected, abs=1e-14) and network.label == "2-2-3-2-1"
    for found, wanted in zip(layers, gradients, strict=True):
        torch.testing.assert_close(found[0], wanted, rtol=0, atol=1e-14)
        assert wanted.abs().min() > 1e-6
    data["biases"][1][0] += 1e-6  # the comparison sees a small mistake
    assert any(
        (found[0] - wanted).abs().max() > 1e-8 for found, wanted in zip(layers, by_transitions(data)[1], strict=True)
    )


def test_other_weights_do_not_pass_for_the_published_ones(checkpoint, tmp_path, capsys):
    assert psa555.main(["--checkpoint", str(checkpoint), "--draws", "8000", "--out", str(tmp_path)]) == 1
    assert "differs" in capsys.readouterr().out
    saved = json.loads((tmp_path / "psa555.json").read_text())
    assert psa555.render(saved) == (tmp_path / "psa555.pdf").read_bytes()
    (tmp_path / "psa555.pdf").unlink()
    assert psa555.main(["--report", "--out", str(tmp_path)]) == 1
    assert psa555.render(saved) == (tmp_path / "psa555.pdf").read_bytes()
    assert psa555.main(["--report", "--out", str(tmp_path / "none")]) == 3
    assert sum(not row["agrees"] for row in saved["comparisons"]) > 15


def test_published_numbers_pass_where_they_are_measured():
    """Cosines as published, with the spread that 100000 draws showed, agree; moved by more than the allowance, not."""
    deviations = {("ST", 1): 0.04, ("ST", 100): 0.001, ("ARM", 1): 0.3, ("ARM", 100): 0.01, ("mean field", 1): 0.0}
    for shift, agrees in ((0.0, True), (0.02, False)):
        curves = {
            name: [
                {"n": n, "layer": i, "groups": 100_000 // n, "cosine": v - shift, "deviation": deviations[name, n]}
                for n, values in sizes.items()
                for i, v in enumerate(values)
            ]
            for name, sizes in psa555.PUBLISHED.items()
        }
        lines = psa555.comparisons({"loss": psa555.LOSS, "norms": psa555.NORMS, "curves": curves, "bias": []})
        assert all(row["agrees"] == agrees for row in lines if row["group"].startswith("Mean cosine"))
        assert len(lines) == 5 + 14


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "the published network is needed: give a JSON file by --checkpoint or PSA555_CHECKPOINT"),
        (["--checkpoint", "nowhere.json"], "cannot read a network from nowhere.json (FileNotFoundError"),
        (["--checkpoint", "{other}"], "(KeyError: 'weights'); it is JSON with weights"),
        (["--checkpoint", "{checkpoint}", "--draws", "10"], "at least 8000 draws are needed; found 10"),
    ],
)
def test_what_the_published_network_needs(arguments, words, checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("PSA555_CHECKPOINT", raising=False)
    (tmp_path / "other.json").write_text("{}")
    places = {"checkpoint": str(checkpoint), "other": str(tmp_path / "other.json")}
    assert psa555.main([a.format(**places) for a in arguments]) == 3
    assert words in capsys.readouterr().err


# ---------------------------------------------------------------------- other libraries
def test_estimators_of_other_libraries():
    for library in ("pyro", "snntorch"):
        pytest.importorskip(library, reason=f"{library} is not installed: pip install -c constraints.txt -e '.[peers]'")
    run = [sys.executable, str(ROOT / "examples" / "other_libraries.py"), "--draws", "2048", "--toys-only"]
    out = subprocess.run(run, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    apart = [float(line.split("at most ")[1].split()[0]) for line in out.splitlines() if "means at most" in line]
    # the largest of 3 or 6 normal deviates, four times: beyond 6.5 with a probability below 1e-8
    assert len(apart) == 4 and max(apart) < 6.5
    assert "DropIn(pyro_categorical) on categorical: Biased" in out
