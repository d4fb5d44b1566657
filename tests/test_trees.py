"""Tree-structured weights: against tables looked up by prefix, decayed on demand, in the lab, and what is claimed."""

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap

import estimator_lab as lab
from estimator_lab import lazy_decay, trees
from estimator_lab.errors import UsageError
from estimator_lab.estimators import Exact, Pathwise, Reinforce, Sample, StraightThrough
from estimator_lab.trees import TreeTables

sys.path.insert(0, str(Path(__file__).parent.parent / "analyses"))
import cho2014
import cho2014_claims as said
from cho2014_nets import GatedNet, OneThreshold, SignGates, pathwise_mean, patterns

DOUBLE = torch.float64
KINDS = [
    (gates, per_unit, root)
    for gates in ("signs", "units", "bernoulli", "rectifier")
    for per_unit in (False, True)
    for root in (False, True)
]


def made(gates="units", per_unit=False, root=False, depth=3, **more):
    torch.manual_seed(1)
    return lab.TreeLinear(5, 2, depth, gates=gates, per_unit=per_unit, root=root, dtype=DOUBLE, **more)


def drawn(layer, examples=6):
    torch.manual_seed(2)
    x = torch.randn(examples, 5, dtype=DOUBLE)
    with torch.no_grad():
        return x, layer.bits(layer.units(x))


def looked_up(layer, x, gates):
    """The output without its bias, from the tables by prefix, in plain Python."""
    weight, tables = layer.tables.weight.detach(), layer.tables
    y = torch.zeros(len(x), tables.out_features, dtype=DOUBLE)
    for n, j in itertools.product(range(len(x)), range(tables.in_features)):
        own = (gates[n, j] if gates.dim() == 3 else gates[n]).tolist()
        bits = [int(g > 0) for g in own]
        summands = [
            (1.0, bits[: i + 1]) if layer.gates != "rectifier" else (own[i], bits[: i + 1]) for i in range(layer.depth)
        ]
        if tables.root:
            summands.append((1.0, []))
        y[n] += x[n, j] * sum(scale * weight[tables.node(j, prefix)] for scale, prefix in summands)
    return y


# ---------------------------------------------------------------------- the layer
@pytest.mark.parametrize(("gates", "per_unit", "root"), KINDS)
def test_output_is_that_of_tables_by_prefix(gates, per_unit, root):
    layer = made(gates, per_unit, root)
    x, g = drawn(layer)
    assert g.shape == ((6, 5, 3) if per_unit else (6, 3))
    expected = looked_up(layer, x, g)
    with torch.no_grad():
        torch.testing.assert_close(layer.tables(x, g), expected, rtol=0, atol=1e-14)
        effective = torch.einsum("bp,bpq->bq", x, layer.tables.effective(g))
        torch.testing.assert_close(effective, expected, rtol=0, atol=1e-14)
        torch.testing.assert_close(layer.tables(x[0], g[0]), expected[0], rtol=0, atol=1e-14)
        if gates in ("signs", "units"):
            torch.testing.assert_close(layer(x), expected + layer.bias, rtol=0, atol=1e-14)
            torch.testing.assert_close(layer(x.reshape(2, 3, 5)), layer(x).reshape(2, 3, 2), rtol=0, atol=0)


def test_rows_are_a_heap_and_every_prefix_has_its_own():
    for root in (False, True):
        tables = made(root=root).tables
        prefixes = [p for n in range(1 - root, 4) for p in patterns(n)]
        assert [tables.node(0, p) for p in prefixes] == list(range(tables.nodes))
        assert tables.node(2, prefixes[0]) == 2 * tables.nodes
    for prefix in ([], [0, 2], [0, 0, 0, 0]):
        with pytest.raises(UsageError, match="a prefix holds 1 to 3 bits"):
            made().tables.node(0, prefix)


def test_chosen_signs():
    layer = made("signs", chosen=[4, 0, 2])
    x, g = drawn(layer)
    assert torch.equal(g, (x[:, [4, 0, 2]] > 0).to(DOUBLE))
    own = torch.randint(5, (5, 3))
    assert torch.equal(drawn(made("signs", True, chosen=own))[1], (x[:, own] > 0).to(DOUBLE))


def test_effective_weights_are_as_large_as_those_of_a_linear_layer():
    torch.manual_seed(0)
    layer = lab.TreeLinear(50, 400, 6, gates="units", root=True)
    weights = layer.tables.effective((torch.rand(1, 6) > 0.5).float()).detach()
    # 20000 numbers: the error of the variance is below 2 %, five of which are 10 %
    assert float(weights.var()) == pytest.approx(1 / (3 * 50), rel=0.1)


def test_wrong_arguments_are_told():
    for message, arguments in (
        ("at least one input", dict(depth=0)),
        ("gates of a TreeLinear", dict(gates="sign")),
        ("through is one of", dict(through="relu")),
        ("through is one of", dict(gates="bernoulli", through="identity")),
        ("chosen names the activations", dict(chosen=[0, 1, 2])),
        ("take a smaller depth", dict(gates="signs", depth=6)),
        ("of shape \\[3\\]", dict(gates="signs", chosen=[0, 1])),
    ):
        with pytest.raises(UsageError, match=message):
            made(**arguments)
    with pytest.raises(UsageError, match="takes 3 features on the last axis; found \\[4, 5\\]"):
        lab.TreeLinear(3, 2, 2)(torch.randn(4, 5))


# ---------------------------------------------------------------------- gradients
def multilinear(layer, x, bits, root=False):
    """The output at bits between 0 and 1: every pattern with its product of bits and complements."""
    k, total = layer.depth, 0
    for pattern in patterns(k):
        on = torch.tensor(pattern, dtype=DOUBLE)
        gates = on.expand_as(bits)
        chance = torch.where(on > 0, bits, 1 - bits).prod(-1)  # [B], or [B, in] with bits for every unit
        rows = layer.tables.effective(gates).detach()
        total = total + (x * chance[:, None] if chance.dim() == 1 else x * chance)[..., None] * rows
    return total.sum(1)


@pytest.mark.parametrize("per_unit", [False, True])
@pytest.mark.parametrize("root", [False, True])
def test_derivative_in_bits_is_that_of_the_multilinear_function(per_unit, root, monkeypatch):
    layer = made("bernoulli", per_unit, root)
    x, g = drawn(layer)
    slope = torch.randn(6, 2, dtype=DOUBLE)

    def found(function):
        bits = g.clone().requires_grad_()
        return torch.autograd.grad((function(x, bits) * slope).sum(), bits)[0]

    expected = found(lambda x, b: multilinear(layer, x, b))
    torch.testing.assert_close(found(layer.tables), expected, rtol=0, atol=1e-13)
    assert expected.abs().min() > 0

    def only_own_level(index, bits, level):  # a flip that forgets the prefixes below
        right = flipped(index, bits, level)
        below = index[..., index.shape[-1] - bits.shape[-1] + level :]
        return torch.cat([right[..., :1], below[..., 1:]], -1)

    flipped = trees._flipped
    monkeypatch.setattr(trees, "_flipped", only_own_level)
    assert not torch.allclose(found(layer.tables), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize(("gates", "per_unit", "root"), KINDS)
def test_gradients_of_inputs_tables_and_scales(gates, per_unit, root):
    layer = made(gates, per_unit, root)
    x, g = drawn(layer, 3)
    modulated = gates == "rectifier"

    def output(weight, x, g):
        return functional_call(layer.tables, {"weight": weight}, (x, g))

    free = (layer.tables.weight.detach().clone().requires_grad_(), x.clone().requires_grad_())
    on = g if not modulated else torch.where(g > 0, g, -1)  # away from the kink, and zero below it
    assert torch.autograd.gradcheck(lambda w, x: output(w, x, g), free)
    if modulated:
        assert torch.autograd.gradcheck(lambda g: output(free[0].detach(), x, g.relu()), on.clone().requires_grad_())


def test_sparse_gradients_hold_the_path_and_equal_dense_ones():
    for per_unit, root in itertools.product((False, True), repeat=2):
        dense, sparse = made(per_unit=per_unit, root=root), made(per_unit=per_unit, root=root, sparse=True)
        x, g = drawn(dense)
        for layer in (dense, sparse):
            layer(x).square().sum().backward()
        found = sparse.tables.weight.grad
        assert found.is_sparse
        torch.testing.assert_close(found.to_dense(), dense.tables.weight.grad, rtol=0, atol=1e-14)
        rows = found.coalesce().indices()[0]
        assert set(rows.tolist()) == set(dense.tables.path(g).flatten().tolist())


@pytest.mark.parametrize("gates", ["bernoulli", "rectifier"])
def test_mapped_over_replicates_it_equals_a_loop(gates):
    layer = made(gates, root=True)
    x, _ = drawn(layer)
    torch.manual_seed(3)
    g = torch.stack([drawn(layer)[1].roll(i, 0) for i in range(4)])
    weights = torch.randn(4, *layer.tables.weight.shape, dtype=DOUBLE)

    def output(weight, x, g):
        return functional_call(layer.tables, {"weight": weight}, (x, g))

    for dims, loop in (
        ((0, None, 0), lambda i: (weights[i], x, g[i])),
        ((None, None, 0), lambda i: (weights[0], x, g[i])),
    ):
        given = weights if dims[0] == 0 else weights[0]
        expected = torch.stack([output(*loop(i)) for i in range(4)])
        torch.testing.assert_close(vmap(output, dims)(given, x, g), expected, rtol=0, atol=1e-14)
    twice = vmap(vmap(output, (0, None, 0)), (None, None, 0))(weights, x, g.expand(2, *g.shape))
    torch.testing.assert_close(
        twice[1], torch.stack([output(weights[i], x, g[i]) for i in range(4)]), rtol=0, atol=1e-14
    )


def test_bits_pass_what_through_says():
    for through, factor in ((None, 0.0), ("identity", 1.0), ("sigmoid", None)):
        layer = made("units", through=through)
        x, g = drawn(layer)
        units = layer.units(x).detach().requires_grad_()
        bits = layer.bits(units)
        assert torch.equal(bits.detach(), g)
        (found,) = torch.autograd.grad(bits.sum() + 0 * units.sum(), units)
        expected = torch.full_like(g, factor) if factor is not None else units.sigmoid() * (1 - units.sigmoid())
        torch.testing.assert_close(found, expected.detach())


# ---------------------------------------------------------------------- counts
def test_counts_are_those_of_a_count():
    for k, root in itertools.product((1, 3, 5), (False, True)):
        layer = lab.TreeLinear(6, 4, k, gates="signs", root=root, dtype=DOUBLE)
        _, counter = said.counted_forward(layer, [0.5] * 6, (1, 0, 1, 1, 0)[:k])
        assert (counter.additions, counter.products) == (layer.cost.additions, layer.cost.multiply_adds)
        assert layer.cost.parameters == 6 * 4 * (2 ** (k + 1) - 2 + root) and layer.cost.operations == 24 * (k + root)
    assert lab.TreeLinear(6, 4, 3, gates="units").cost.multiply_adds == 24 + 18
    assert lab.TreeLinear(6, 4, 3, gates="units", per_unit=True).cost.multiply_adds == 24 + 108
    assert lab.TreeLinear(64, 64, 8).cost.parameters_per_operation == 63.75


# ---------------------------------------------------------------------- in the lab
@pytest.mark.parametrize("gates", ["bernoulli", "rectifier"])
def test_truth_of_the_lab_is_that_by_hand(gates):
    for depth in (1, 2, 3):
        net = GatedNet(gates, depth)
        problem = net.problem
        assert problem.foldable and not problem.notes and [s.name for s in problem.sites] == ["0.bits"]
        truth, by_hand = lab.Truth.exact(problem).mean["unit", "0.bits"], net.truth()
        scale = np.abs(by_hand).max()
        np.testing.assert_allclose(truth, by_hand, rtol=0, atol=(1e-12 if gates == "bernoulli" else 1e-6) * scale)
        if gates == "bernoulli":
            p = 1 / (1 + np.exp(-net.units))
            assert np.abs(p - 0.5).min() > 0.01 and np.ptp(p) > 0.2


def test_weight_gradients_are_those_of_the_enumerated_loss():
    net = GatedNet("bernoulli", 3)
    weights = {k: v.clone().requires_grad_() for k, v in net.problem.weights().items()}
    x, t = net.examples
    total = 0
    for i, bits in itertools.product(range(net.batch), patterns(3)):
        tree = net.module[0]
        g = torch.tensor([bits], dtype=DOUBLE)
        logits = x[i] @ weights["0.units.0.weight"].T + weights["0.units.0.bias"]
        p = torch.where(g[0] > 0, logits.sigmoid(), 1 - logits.sigmoid()).prod()
        rows = sum(weights["0.tables.weight"][[tree.tables.node(j, bits[:n]) for j in range(3)]] for n in range(1, 4))
        y = torch.tanh(x[i] @ rows + weights["0.bias"]) @ weights["2.weight"].T + weights["2.bias"]
        total = total + p * (y[0] - t[i]).square() / net.batch
    slopes = dict(zip(weights, torch.autograd.grad(total, list(weights.values())), strict=True))
    truth = lab.Truth.exact(net.problem).mean
    moments = lab.exact_moments(net.problem, Reinforce())
    dropped = lab.exact_moments(net.problem, Sample())
    for name, slope in slopes.items():
        np.testing.assert_allclose(truth["weight", name], slope, rtol=0, atol=1e-12)
        np.testing.assert_allclose(moments["weight", name].mean, slope.flatten(), rtol=0, atol=1e-12)
        same = np.allclose(dropped["weight", name].mean, slope.flatten(), rtol=0, atol=1e-12)
        assert same == ("units" not in name)  # without credit the gating units get nothing, the others all


def test_two_trees_are_two_sites_under_every_map():
    torch.manual_seed(4)
    net = nn.Sequential(
        lab.TreeLinear(3, 2, 2, gates="bernoulli", per_unit=True, dtype=DOUBLE),
        nn.Tanh(),
        lab.TreeLinear(2, 1, 2, gates="bernoulli", root=True, dtype=DOUBLE),
    )
    x, t = torch.randn(1, 3, dtype=DOUBLE), torch.randn(1, dtype=DOUBLE)
    problem = lab.from_module(net, lambda y, t: (y[:, 0] - t).square(), (x, t))
    assert [(s.name, s.units) for s in problem.sites] == [("0.bits", (3, 2)), ("2.bits", (2,))]
    assert problem.foldable and not problem.notes
    truth = lab.Truth.exact(problem).mean
    for key, moments in lab.exact_moments(problem, Reinforce()).items():
        np.testing.assert_allclose(moments.mean, truth[key].ravel(), rtol=0, atol=1e-12)
    biased = lab.exact_moments(problem, StraightThrough())["unit", "0.bits"]
    assert np.abs(biased.mean - truth["unit", "0.bits"].ravel()).max() > 1e-4
    assert not lab.diagnose(Exact(), on=problem, budget=32).findings[0].notes


def test_a_tree_trains_outside_of_the_lab():
    for gates in ("signs", "units", "bernoulli", "rectifier"):
        layer = made(gates, through="sigmoid" if gates == "units" else None)
        x, _ = drawn(layer)
        layer(x).square().mean().backward()
        credited = gates != "signs" and layer.units[0].weight.grad is not None
        assert credited == (gates != "signs") and layer.tables.weight.grad is not None


# ---------------------------------------------------------------------- deterministic gates
@pytest.mark.parametrize("problem", [OneThreshold(), SignGates()])
def test_closed_forms_of_deterministic_gates(problem):
    truth = lab.Truth.exact(problem).mean
    name = "threshold" if isinstance(problem, OneThreshold) else "thresholds"
    base = problem.weights()
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(2**18, base[name].numel(), generator=rng, dtype=DOUBLE)

    def losses(weights):  # example by example is the same function
        if isinstance(problem, OneThreshold):
            return problem.loss(weights, (x,), ())
        gates = (x > weights[name]).to(DOUBLE)
        y = functional_call(problem.tree.tables, {"weight": weights["tables"]}, (x, gates))
        return (y[:, 0] - problem.target).square()

    # values at thresholds moved far, so that the difference stands out of the noise; 6 standard errors (1e-8)
    for i in range(base[name].numel()):
        moved = {**base, name: base[name] + 0.5 * torch.eye(base[name].numel(), dtype=DOUBLE)[i]}
        change = losses(moved) - losses(base)
        zero = {"x": torch.zeros(1, base[name].numel(), 2, dtype=DOUBLE)}
        closed = problem.expected_loss(moved, zero) - problem.expected_loss(base, zero)
        assert abs(float(change.mean() - closed)) < 6 * float(change.std()) / 2**9
        assert abs(float(closed)) > 6 * float(change.std()) / 2**9
    step = 1e-5  # and the derivative is that of the values
    for i in range(base[name].numel()):
        e = step * torch.eye(base[name].numel(), dtype=DOUBLE)[i]
        up, down = (problem.expected_loss({**base, name: base[name] + s * e}, zero) for s in (1, -1))
        assert float(up - down) / (2 * step) == pytest.approx(truth["weight", name][i], abs=1e-8)
    found = lab.measure(problem, Pathwise(), 256, wrt=("weight",)).mean(("weight", name))
    assert not found.any() and np.abs(truth["weight", name]).min() > 0.05


# ---------------------------------------------------------------------- decay on demand
def stepped(optimiser, layer, x, t, steps, schedule=None):
    """The outputs of every step."""
    outputs = []
    for step in range(steps):
        optimiser.zero_grad()
        y = layer(x[step])
        (y - t[step]).square().mean().backward()
        optimiser.step()
        if schedule:
            schedule.step()
        outputs.append(y.detach())
    return torch.stack(outputs)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("gates", ["signs", "units"])
def test_decay_on_demand_equals_decay_in_every_step(gates, sparse):
    torch.manual_seed(5)
    x, t = torch.randn(200, 2, 5, dtype=DOUBLE), torch.randn(200, 2, 2, dtype=DOUBLE)
    through = "sigmoid" if gates == "units" else None  # reads siblings in the backward pass
    eager, lazy = made(gates, depth=5, through=through), made(gates, depth=5, through=through, sparse=sparse)
    sgd = torch.optim.SGD(eager.parameters(), lr=0.05, weight_decay=2.0)
    on_demand = lab.LazyDecay(lazy, lr=0.05, weight_decay=2.0)
    runs = [
        stepped(o, layer, x, t, 200, torch.optim.lr_scheduler.LambdaLR(o, lambda step: 1 + 0.5 * np.sin(step)))
        for o, layer in ((sgd, eager), (on_demand, lazy))
    ]
    torch.testing.assert_close(runs[1], runs[0], rtol=0, atol=1e-13)
    late = float((lazy.tables.weight - eager.tables.weight).detach().abs().max())
    on_demand.finish()
    assert late > 1e-3
    for a, b in zip(lazy.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


def only_paths(patch):
    patch.setattr(TreeTables, "reads", lambda self, gates: self.path(gates.detach()).flatten())


def no_hook(patch):
    patch.setattr(lazy_decay, "_before", lambda *_: None)


@pytest.mark.parametrize(("gates", "wrong"), [("signs", no_hook), ("units", only_paths)])
def test_decay_that_comes_after_the_read_is_another(gates, wrong, monkeypatch):
    wrong(monkeypatch)
    torch.manual_seed(5)
    x, t = torch.randn(200, 2, 5, dtype=DOUBLE), torch.randn(200, 2, 2, dtype=DOUBLE)
    through = "sigmoid" if gates == "units" else None
    eager, lazy = made(gates, depth=5, through=through), made(gates, depth=5, through=through)
    stepped(torch.optim.SGD(eager.parameters(), lr=0.05, weight_decay=2.0), eager, x, t, 200)
    optimiser = lab.LazyDecay(lazy, lr=0.05, weight_decay=2.0)
    stepped(optimiser, lazy, x, t, 200)
    optimiser.finish()
    assert float((lazy.tables.weight - eager.tables.weight).detach().abs().max()) > 1e-6


def test_long_pauses_neither_overflow_nor_lose_the_small_numbers():
    layer = made("signs", depth=1)
    optimiser = lab.LazyDecay(layer, lr=0.5, weight_decay=1e-3)
    before = layer.tables.weight.detach().clone()
    for _ in range(20_000):
        optimiser.step()
    optimiser.finish()
    torch.testing.assert_close(layer.tables.weight.detach(), before * (1 - 5e-4) ** 20_000, rtol=1e-11, atol=0)
    strong = lab.LazyDecay(made("signs", depth=1), lr=0.99, weight_decay=1.0)
    for _ in range(1000):  # a factor of 1e-2000
        strong.step()
    strong.finish()
    assert not torch.isnan(strong.param_groups[0]["params"][0]).any()


def test_two_forward_passes_before_one_backward_pass():
    layer, other = made("signs", depth=4), made("signs", depth=4)
    x, _ = drawn(layer)
    sgd = torch.optim.SGD(other.parameters(), lr=0.2, weight_decay=0.5)
    lazy = lab.LazyDecay(layer, lr=0.2, weight_decay=0.5)
    for optimiser, module in ((sgd, other), (lazy, layer)):
        for i in range(4):
            optimiser.zero_grad()
            (module(x[i : i + 1]).square().sum() + module(x[i + 1 : i + 2]).square().sum()).backward()
            optimiser.step()
    lazy.finish()
    torch.testing.assert_close(layer.tables.weight, other.tables.weight, rtol=1e-13, atol=1e-13)


def test_a_layer_that_is_trained_on_demand_goes_into_the_lab():
    net = GatedNet("bernoulli", 2)
    twin = GatedNet("bernoulli", 2)
    net.module[0].tables.sparse = True
    lazy = lab.LazyDecay(net.module, lr=0.1, weight_decay=0.5)
    x, t = net.examples
    for _ in range(3):
        lazy.zero_grad()
        (net.module(x)[:, 0] - t).square().mean().backward()
        lazy.step()
    lazy.finish()
    assert not net.problem.notes
    twin.module.load_state_dict(net.module.state_dict())
    found, expected = (lab.Truth.exact(n.problem).mean for n in (net, twin))
    assert all(np.array_equal(found[k], expected[k]) for k in expected)
    before = net.module[0].tables.weight.detach().clone()
    lab.measure(net.problem, Reinforce(), 64)
    assert torch.equal(net.module[0].tables.weight, before)


def test_training_goes_on_from_a_saved_state():
    torch.manual_seed(6)
    x, t = torch.randn(60, 2, 5, dtype=DOUBLE), torch.randn(60, 2, 2, dtype=DOUBLE)
    through, resumed = made("signs", depth=4), made("signs", depth=4)
    one = lab.LazyDecay(through, lr=0.05, weight_decay=2.0)
    stepped(one, through, x, t, 30)
    kept = (one.state_dict(), {k: v.clone() for k, v in through.state_dict().items()})
    stepped(one, through, x[30:], t[30:], 30)
    one.finish()
    two = lab.LazyDecay(resumed, lr=1.0, weight_decay=0.0)
    resumed.load_state_dict(kept[1])
    two.load_state_dict(kept[0])
    stepped(two, resumed, x[30:], t[30:], 30)
    two.finish()
    torch.testing.assert_close(resumed.tables.weight, through.tables.weight, rtol=0, atol=1e-15)


def test_what_decay_on_demand_refuses():
    with pytest.raises(UsageError, match="plain SGD, momentum=0; found"):
        lab.LazyDecay(made(), lr=0.1, weight_decay=0.1, momentum=0.9)
    with pytest.raises(UsageError, match="not negative"):
        lab.LazyDecay(made(), lr=0.1, weight_decay=-0.1)
    with pytest.raises(UsageError, match="holds no TreeLinear"):
        lab.LazyDecay(nn.Linear(2, 2), lr=0.1)
    with pytest.raises(UsageError, match="keeps 1 - lr"):
        lab.LazyDecay(made(), lr=2.0, weight_decay=0.5).step()


# ---------------------------------------------------------------------- claims
VERDICTS = {
    "B1": "holds",
    "B2": "holds",
    "B3": "holds",
    "B4": "holds",
    "B5": "holds",
    "B6": "holds with a condition",
    "B7": "holds with a condition",
    "B8": "holds",
    "B9": "holds with a condition",
    "B10": "holds with a condition",
    "B11": "holds with a condition",
}


@pytest.fixture(scope="module")
def claimed():
    return {claim.id: claim for claim in (make() for make in said.CLAIMS)}


def test_verdicts(claimed):
    assert {k: c.verdict for k, c in claimed.items()} == VERDICTS
    assert [k for k, c in claimed.items() if not c.reconstruction] == ["B1"]


def test_golden_numbers(claimed):
    numbers = {k: c.numbers for k, c in claimed.items()}
    assert numbers["B1"]["leaves_per_read"][7] == 32 and numbers["B1"]["vectors"][7] == 510
    assert numbers["B1"]["vectors_per_read"][7] == 63.75
    assert numbers["B2"]["operations_over_dense"] == list(range(1, 13))
    assert numbers["B5"]["steps"] == pytest.approx(6)
    # by hand: 0.995 eager in 12 steps, in 4 of them less 0.1 (T - 0.3)
    weight = 1.0
    for t in range(16):
        weight = 0.995 * weight - (0.1 * (weight - 0.3) if t in (2, 3, 9, 14) else 0)
    assert numbers["B6"]["eager"] == pytest.approx(weight, abs=1e-15) == pytest.approx(0.7035311872520972, abs=1e-15)
    assert numbers["B6"]["on_demand"] == pytest.approx(weight, abs=1e-15)
    both = []
    for lazy in (False, True):  # momentum 0.5: steps without a visit move a weight, which no factor makes good
        weight_now, velocity = 1.0, 0.0
        for t in range(16):
            if lazy and t not in (2, 3, 9, 14):
                weight_now *= 0.995
                continue
            velocity = 0.5 * velocity + 0.05 * weight_now + (weight_now - 0.3 if t in (2, 3, 9, 14) else 0)
            weight_now -= 0.1 * velocity
        both.append(weight_now)
    assert numbers["B6"]["momentum_difference"] == pytest.approx(both[1] - both[0], abs=1e-14) and both[1] - both[0] > 0
    # each visit's gradient is smaller by e w T: e^2 w = 5e-4 a visit, four of them
    assert 5e-4 < numbers["B6"]["late"] - weight < 4 * 5e-4
    assert numbers["B9"]["truth"] == pytest.approx(0.7512711, abs=5e-8)
    assert numbers["B9"]["backpropagated"] == 0
    assert numbers["B10"]["deterministic_identity"] == pytest.approx(0, abs=1e-10)  # E (x - 1)^2 = 2 = E (x + 2)
    assert numbers["B11"]["relative_bias_by_level"][2] == pytest.approx(0, abs=1e-6)


def test_rectifier_bias_is_the_jump_at_every_seed():
    for seed in range(3):
        net = GatedNet("rectifier", 2, batch=1, seed=seed)
        mean, jumps = pathwise_mean(net, 0)
        truth = net.truth()[0]
        np.testing.assert_allclose(mean + jumps, truth, rtol=0, atol=1e-8 * np.abs(truth).max())
        assert abs(jumps[0]) > 1e-4 and jumps[1] == 0
        found = lab.exact_moments(net.problem, Pathwise(), nodes=24, wrt=("unit",))["unit", "0.bits"].mean
        np.testing.assert_allclose(found, mean, rtol=0, atol=1e-4 * np.abs(truth).max())


BROKEN = {}


def breaks(claim):
    def keep(function):
        BROKEN[claim] = function
        return function

    return keep


@breaks("B1")
def a_level_too_few(patch):
    made, count = (
        TreeTables.__init__,
        lambda self, p, q, k, *rest, **more: made(self, p, q, max(k - 1, 1), *rest, **more),
    )
    patch.setattr(TreeTables, "__init__", count)


@breaks("B2")
def a_free_addition(patch):
    patch.setattr(lab.TreeLinear, "cost", property(lambda self: trees.Cost(self.tables.weight.numel(), 0, 48, 48)))


def paths_by_reversed_bits(patch):
    path = TreeTables._path
    patch.setattr(TreeTables, "_path", lambda self, bits: path(self, bits.flip(-1)))


BROKEN["B3"] = paths_by_reversed_bits


@breaks("B4")
def every_level_has_the_whole_pattern(patch):
    path = TreeTables._path

    def scrambled(self, bits):  # a vector of a level is chosen by all bits up to there, and by the last one
        return path(self, torch.cat([(bits[..., :1] + bits[..., -1:]) % 2, bits[..., 1:]], -1))

    patch.setattr(TreeTables, "_path", scrambled)


@breaks("B5")
def deeper_vectors_count_less(patch):
    patch.setattr(
        TreeTables, "_scale", lambda self, gates: gates.new_ones(gates.shape) * 0.5 ** torch.arange(self.depth)
    )


@breaks("B6")
def no_decay_before_the_forward_pass(patch):
    patch.setattr(lazy_decay, "_before", lambda *_: None)


@breaks("B7")
def decay_of_one_step_whatever_the_pause(patch):
    bring = lab.LazyDecay._bring

    def once(self, weight, rows):
        self.state[weight]["decayed"].clamp_(max=self._logarithm - np.log1p(-0.02))
        bring(self, weight, rows)

    patch.setattr(lab.LazyDecay, "_bring", once)


@breaks("B8")
def a_biased_score(patch):
    patch.setattr(lab.Bernoulli, "score", lambda self, theta, value: value - 0.9 * theta.sigmoid())


@breaks("B9")
def gates_that_pass_a_gradient(patch):
    patch.setattr(said, "OneThreshold", lambda threshold: OneThreshold(threshold, through="sigmoid"))


@breaks("B10")
def bits_without_the_prefixes_below(patch):
    patch.setattr(trees, "_flipped", lambda index, bits, level: index[..., index.shape[-1] - bits.shape[-1] + level :])


@breaks("B11")
def no_jump(patch):
    found = said.pathwise_mean
    patch.setattr(said, "pathwise_mean", lambda net, i: (found(net, i)[0], 0 * found(net, i)[1]))


def test_every_claim_has_a_broken_version():
    assert set(BROKEN) == set(VERDICTS)


@pytest.mark.parametrize("claim", list(VERDICTS))
def test_a_claim_fails_on_a_broken_version(claim, monkeypatch):
    BROKEN[claim](monkeypatch)
    make = next(f for f in said.CLAIMS if f.__name__ == claim.lower())
    assert make().verdict == "does not hold"


# ---------------------------------------------------------------------- the study
def test_the_study_at_toy_size(tmp_path):
    scale = cho2014.Scale((1, 2), 8, 8, 2, (2, 1), 2**6, (1.0,), (1,), 2, 2)
    found = json.loads(json.dumps(cho2014.study(scale, "test"), allow_nan=False))
    assert [(r["layer"], r["depth"]) for r in found["capacity"]["rows"]] == [
        ("dense, equal width", 0),
        ("tree", 1),
        ("dense, equal parameters", 1),
        ("tree", 2),
        ("dense, equal parameters", 2),
    ]
    credit = {(r["gates"], r["rule"], r["group"]): r for r in found["credit"]["rows"]}
    for gates in ("Bernoulli", "noisy rectifier", "deterministic"):
        row = credit[gates, cho2014.SELECTED, "gating weights"]
        assert row["relative_bias"] == pytest.approx(1) and row["variance"] == 0 and row["cosine_of_mean"] is None
    assert credit["Bernoulli", "REINFORCE", "bits"]["verdict"] == "exact"
    assert credit["Bernoulli", "straight-through", "bits"]["relative_bias"] > 0.1
    levels = found["credit"]["rectifier_levels"]
    assert levels[0]["relative_bias"] == pytest.approx(levels[0]["boundary"], rel=1e-6) and levels[1]["boundary"] == 0
    assert found["boundary"]["truth"] == pytest.approx(0.7512711, abs=5e-8)
    # at temperature 1, smoothed REINFORCE has the mean of straight-through with the sigmoid's derivative
    assert found["boundary"]["rows"][0]["mean"] == pytest.approx(found["boundary"]["rules"][2]["mean"], abs=1e-9)
    assert [r["model"] for r in found["digits"]["rows"]][:2] == ["dense", "tree, k = 1"]


def test_nothing_is_overwritten_and_nothing_is_reported_of_nothing(tmp_path):
    with pytest.raises(UsageError, match="measure first"):
        cho2014.main(["--report", "--out", str(tmp_path / "new")])
    assert not (tmp_path / "new").exists()
    (tmp_path / "cho2014.json").write_text(json.dumps({"quick": False}, indent=1))
    with pytest.raises(UsageError, match="holds the whole study"):
        cho2014.main(["--quick", "--out", str(tmp_path)])
    assert json.loads((tmp_path / "cho2014.json").read_text()) == {"quick": False}


def test_intervals():
    assert cho2014.median_of([3.0, 1.0, 2.0, 5.0, 4.0, 6.0]) == {"value": 3.5, "low": 1.0, "high": 6.0}
    # 41 values: ranks 14 and 28 cover the median with probability 0.956 (binomial)
    assert cho2014.median_of(list(range(1, 42))) == {"value": 21, "low": 14, "high": 28}
    found = cho2014.measure_of([1.0, 2.0, 3.0])
    assert (found["value"], found["low"]) == (2, 0) and found["high"] - 2 == pytest.approx(4.302652729911275 / 3**0.5)
