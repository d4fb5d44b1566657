"""Truths of networks: flips with a control variate, sums layer by layer, truths that go on, truths that are kept."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from estimator_lab import cache
from estimator_lab.archive import arrays_of, record_of
from estimator_lab.chain import Chain
from estimator_lab.errors import TooLarge, UsageError
from estimator_lab.estimator import Estimator
from estimator_lab.estimators import (
    ControlledFlips,
    Exact,
    LeaveOneOut,
    LocalExpectation,
    PerSite,
    Sample,
    controlled_flips,
)
from estimator_lab.evaluation import group_of
from estimator_lab.expectation import exact_moments
from estimator_lab.families import Bernoulli, Categorical, Normal
from estimator_lab.long_runs import by_layer, least_noisy, whole
from estimator_lab.marginal import _Layers, layer_sum
from estimator_lab.measurement import Measurement, measure, prepare
from estimator_lab.noise import MonteCarlo, Stratified
from estimator_lab.problem import Problem
from estimator_lab.problems import ChainOfFour, OneBit, QuadraticForm, TwoLayer
from estimator_lab.sampler import GradientSampler
from estimator_lab.site import SiteSpec
from estimator_lab.truth import Truth


class Net(Problem):
    """Affine layers of any families; a loss with products of the last units, and terms as each test needs them."""

    def __init__(self, *layers, batch=1, skip=False, coupled=False, penalty=False, dtype=torch.float64):
        self.layers, self.batch, self.dtype = layers, batch, dtype
        self.skip, self.coupled, self.penalty = skip, coupled, penalty
        self.sites = tuple(SiteSpec(f"h{i}", family, (n,)) for i, (family, n) in enumerate(layers, 1))

    def __repr__(self):
        terms = [name for name in ("skip", "coupled", "penalty") if getattr(self, name)]
        return f"Net({', '.join(f'{n} {f!r}' for f, n in self.layers)}, {self.batch}, {self.dtype}, {terms})"

    def sizes(self):
        return [math.prod(s.value_shape) for s in self.sites], [math.prod(s.theta_shape) for s in self.sites]

    def weights(self):
        values, thetas = self.sizes()
        generator = torch.Generator().manual_seed(7)
        found = {"c1": torch.randn(thetas[0], generator=generator, dtype=torch.float64)}
        for i, (a, b) in enumerate(zip(values, thetas[1:], strict=False), 2):
            found[f"w{i}"] = 2.5 * torch.randn(b, a, generator=generator, dtype=torch.float64) / a**0.5
            found[f"c{i}"] = 0.7 * torch.randn(b, generator=generator, dtype=torch.float64)
        found["skip"] = 1.5 * torch.randn(thetas[-1], values[0], generator=generator, dtype=torch.float64)
        found["v"] = 2 * torch.randn(values[-1], generator=generator, dtype=torch.float64)
        return {k: v.to(self.dtype) for k, v in found.items()}

    def theta(self, weights, samples):
        i = len(samples) + 1
        if i == 1:
            x = torch.linspace(-0.8, 1.1, self.batch, dtype=weights["c1"].dtype)
            theta = weights["c1"] + x[:, None]
        else:
            theta = samples[-1].flatten(-len(self.sites[i - 2].value_shape)) @ weights[f"w{i}"].T + weights[f"c{i}"]
        if self.skip and i == len(self.sites) > 2:
            theta = theta + samples[0].flatten(-len(self.sites[0].value_shape)) @ weights["skip"].T
        return theta.reshape(*theta.shape[:-1], *self.sites[i - 1].theta_shape)

    def loss(self, weights, samples, thetas):
        last = samples[-1].flatten(-len(self.sites[-1].value_shape))
        loss = (last @ weights["v"] - 0.4).square() + last[..., 0] * last[..., -1]
        if self.skip:
            loss = loss + last[..., 0] * samples[0].flatten(-len(self.sites[0].value_shape)).sum(-1)
        if self.coupled:
            loss = loss + last[..., -1] * samples[-2].flatten(-len(self.sites[-2].value_shape))[..., 0]
            loss = loss + 0.2 * thetas[-1].tanh().flatten(-len(self.sites[-1].theta_shape)).sum(-1)
        return (
            loss + 0.1 * thetas[0].flatten(-len(self.sites[0].theta_shape)).square().sum(-1) if self.penalty else loss
        )


def bits(*units, **options):
    return Net(*((Bernoulli(), n) for n in units), **options)


THREE = Categorical(3)


def joint(problem, wrt=("unit", "weight")):
    """By the sum over all joint states, whatever `Truth.exact` would take."""
    return Truth._sum(problem, 64, wrt)


def gap(problem, estimator) -> float:
    """Largest error of the exact mean, in units of the largest true gradient."""
    truth = joint(problem)
    found = exact_moments(problem, estimator)
    scale = max(np.abs(t).max() for t in truth.values())
    return max(float(np.abs(found[k].mean - t.ravel()).max()) for k, t in truth.items()) / scale


def close(found, expected, tolerance=1e-12):
    assert set(found) == set(expected)
    scale = max(np.abs(t).max() for t in expected.values())
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=0, atol=tolerance * scale, err_msg=str(key))


# ---------------------------------------------------------------------- flips with a control variate
FIRST = PerSite({"h1": ControlledFlips()}, Exact())
SECOND = PerSite({"h2": ControlledFlips()}, Exact())


@pytest.mark.parametrize(
    ("problem", "estimator"),
    [
        (TwoLayer(batch=1), ControlledFlips()),
        (bits(2, 2), ControlledFlips()),
        (bits(2, 1, batch=2), ControlledFlips()),
        (bits(1, 1, 1), ControlledFlips()),
        (bits(2, 2, 1, coupled=True), FIRST),
        (bits(1, 2, 2), SECOND),
        (ChainOfFour(batch=1), FIRST),
        (Net((THREE, 1), (THREE, 2)), ControlledFlips()),
        (Net((THREE, 2), (THREE, 1), (Bernoulli(), 1)), FIRST),
        (Net((Bernoulli(), 2), (Categorical(4), 1), coupled=True), ControlledFlips()),
        (bits(2, 2, 1, skip=True), FIRST),
        (bits(1, 1, 1, skip=True, penalty=True), ControlledFlips()),
        (Net((THREE, 1), (THREE, 1), (THREE, 1), skip=True), FIRST),
    ],
    ids=repr,
)
def test_exact_mean_of_controlled_flips_is_the_truth(problem, estimator):
    assert gap(problem, estimator) < 1e-12


@dataclasses.dataclass(frozen=True)
class ByHand(Estimator):
    """The control variate of Bernoulli units by D_j = f(h_j := 1) - f(h_j := 0), right or with one mistake."""

    rows: int
    mistake: str = ""

    def surrogate(self, site, downstream):
        value, rows = site.sample(common=True), self.rows
        h, p = value[0], site.mean.detach()
        units = h.shape[-1]
        here = torch.eye(units, dtype=torch.bool).reshape(units, *(1,) * (h.dim() - 1), units)
        loss = downstream(torch.cat([value[:rows], torch.where(here, 1 - h, h)]), using=Sample(common=True))
        sign = torch.ones_like(h) if self.mistake == "sign" else 1 - 2 * h
        slope = sign * (loss[rows:] - loss[0]).movedim(0, -1)
        bracket = value[1:rows] - h - (0 if self.mistake == "mean" else p[1:rows] - p[0])
        if self.mistake == "flipped":  # at the sample whose own number has turned it over
            slope = slope * (1 + h)
        corrected = loss[1:rows] - (bracket * slope).sum(-1)
        return torch.cat([loss[:1], corrected, loss[rows:]])


@pytest.mark.parametrize("mistake", ["", "sign", "mean", "flipped"])
def test_control_variate_by_hand(monkeypatch, mistake):
    """Written anew, it gives the same draws; a D_j that reads unit j's own number, or p' left out, is caught."""
    problem, chain = bits(2, 2), Chain(TwoLayer(), ControlledFlips())
    own = chain.draw(64, MonteCarlo("hand"))
    monkeypatch.setattr(controlled_flips, "_Controlled", lambda rows: ByHand(rows, mistake))
    if mistake:
        assert gap(problem, ControlledFlips()) > 0.01
        return
    assert gap(problem, ControlledFlips()) < 1e-12
    for key, value in chain.draw(64, MonteCarlo("hand")).items():
        torch.testing.assert_close(value, own[key], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("problem", [QuadraticForm(), Net((THREE, 2)), Net((Bernoulli(), 2), (Normal(), 1))], ids=repr)
def test_without_a_discrete_next_layer_it_is_local_expectation(problem):
    last = {s.name: LeaveOneOut(2) for s in problem.sites if not s.family.discrete}
    one, two = (
        Chain(problem, PerSite(last, e)).draw(8, MonteCarlo("last")) for e in (ControlledFlips(), LocalExpectation())
    )
    for key, value in one.items():
        torch.testing.assert_close(value, two[key], rtol=1e-12, atol=1e-13)


def test_controlled_flips_share_random_numbers_downstream():
    """A unit that nothing downstream hears has no gradient, draw by draw, and neither has an additive loss's noise."""

    class Unheard(Net):
        def theta(self, weights, samples):
            if not samples:
                return super().theta(weights, samples)
            return super().theta(
                weights, (*samples[:-1], torch.cat([0 * samples[-1][..., :1], samples[-1][..., 1:]], -1))
            )

    draws = Chain(Unheard(*[(Bernoulli(), 3)] * 3), ControlledFlips(), ("unit",)).draw(50, MonteCarlo("common"))
    assert draws["unit", "h1"][..., 0].abs().max() < 1e-13 and (draws["unit", "h1"][..., 1:].std(0) > 0).all()

    class Additive(Net):
        def loss(self, weights, samples, thetas):
            return samples[-1] @ weights["v"]

    problem = Additive((Bernoulli(), 1), (Bernoulli(), 3))  # one unit: no other unit's noise is left
    draws = Chain(problem, ControlledFlips(), ("unit",)).draw(50, MonteCarlo("additive"))["unit", "h1"]
    np.testing.assert_allclose(draws.numpy(), np.broadcast_to(joint(problem)["unit", "h1"], draws.shape), rtol=1e-12)


def test_variance_of_controlled_flips():
    """Of the first of two layers of 12: below a third of that of local expectation, where a tenth is expected."""
    problem = bits(12, 12, batch=2)
    plain, controlled = (
        measure(problem, e, 1024, wrt=("unit",)).variance(("unit", "h1")).sum()
        for e in (LocalExpectation(), ControlledFlips())
    )
    assert controlled < plain / 3


def test_cost_of_controlled_flips():
    """As its docstring says: 1 + the sum of m + n + 1 over the layers."""
    for problem, changes in (
        (QuadraticForm(), (3,)),
        (TwoLayer(), (3, 2)),
        (ChainOfFour(), (2, 2, 2, 2)),
        (Net((THREE, 2), (Bernoulli(), 3)), (4, 3)),
    ):
        chain = Chain(problem, ControlledFlips(), ("unit",))
        chain.draw(6, MonteCarlo("cost"))
        assert chain.tally.losses == 1 + sum(m + n + 1 for m, n in zip(changes, (*changes[1:], 0), strict=True))


# ---------------------------------------------------------------------- layer by layer
CHAINS = [
    TwoLayer(),
    ChainOfFour(),
    QuadraticForm(),
    bits(4, 3, 5, batch=3),
    bits(4, 3, 5, batch=3, coupled=True),
    bits(3, 4, batch=2, coupled=True, penalty=True),
    bits(3, 4, 2, 3, penalty=True),
    Net((THREE, 3), (THREE, 2), batch=2),
    Net((THREE, 2), (Bernoulli(), 5), (Categorical(4), 2), batch=2, coupled=True),
    Net((Bernoulli(), 1), (Categorical(4), 1), (Bernoulli(), 1)),
]


@pytest.mark.parametrize("problem", CHAINS, ids=repr)
def test_layer_by_layer_is_the_joint_sum(problem):
    mean, sizes = layer_sum(problem)
    close(mean, joint(problem))
    assert sizes == tuple(s.family.rule_size(1) ** math.prod(s.units) for s in problem.sites)
    for wrt in (("unit",), ("weight",)):
        close(layer_sum(problem, wrt)[0], joint(problem, wrt))


def test_layer_by_layer_in_chunks(monkeypatch):
    monkeypatch.setattr("estimator_lab.marginal.CHUNK", 300)
    for problem in (bits(4, 3, 5, batch=2), bits(3, 4, 3, batch=2, coupled=True)):
        close(layer_sum(problem)[0], joint(problem))


def test_layer_by_layer_of_rows_that_may_be_folded():
    class Folded(Net):
        foldable = True

        def theta(self, weights, samples):
            if not samples:
                return super().theta(weights, samples)
            assert samples[0].dim() == 2
            return super().theta(weights, samples)

    close(layer_sum(Folded((Bernoulli(), 3), (Bernoulli(), 4), batch=3))[0], joint(bits(3, 4, batch=3)))


class MixesRows(Net):
    """Says that rows may be folded, and forgets what depends on the example."""

    foldable = True

    def loss(self, weights, samples, thetas):
        return super().loss(weights, samples, thetas) + torch.arange(len(samples[0])) * samples[0][..., 0]


class OneAtATime(Net):
    """Looks at its values, which no map allows."""

    def loss(self, weights, samples, thetas):
        return super().loss(weights, samples, thetas) * (2.0 if float(samples[0].sum()) > 1 else 1.0)


@pytest.mark.parametrize("kind", [MixesRows, OneAtATime], ids=lambda k: k.__name__)
def test_layer_by_layer_refuses_what_it_cannot_evaluate_at_once(kind):
    with pytest.raises(TooLarge, match="cannot be evaluated at many states at once"):
        layer_sum(kind((Bernoulli(), 2), (Bernoulli(), 3)))


def test_layer_by_layer_in_single_precision_sums_in_double():
    problem = bits(5, 6, batch=2, dtype=torch.float32)
    close(layer_sum(problem)[0], joint(bits(5, 6, batch=2)), 1e-5)


def expected_loss(problem: Net, weights: dict[str, Tensor], offsets: dict[str, Tensor]) -> Tensor:
    """Mean expected loss of two layers of bits by their dense transition matrix, written without the package."""
    rows = [torch.tensor(list(itertools.product((0.0, 1.0), repeat=n)), dtype=torch.float64) for _, n in problem.layers]
    total = torch.zeros((), dtype=torch.float64)
    for b in range(problem.batch):
        x = torch.linspace(-0.8, 1.1, problem.batch, dtype=torch.float64)[b]
        first = weights["c1"] + x + offsets["h1"][b]
        second = rows[0] @ weights["w2"].T + weights["c2"] + offsets["h2"][b]
        p1 = (rows[0] @ first - torch.nn.functional.softplus(first).sum()).exp()
        p2 = (second @ rows[1].T - torch.nn.functional.softplus(second).sum(-1, keepdim=True)).exp()
        f = (rows[1] @ weights["v"] - 0.4).square() + rows[1][:, 0] * rows[1][:, -1]
        total += p1 @ (p2 @ f) / problem.batch
    return total


def test_layer_by_layer_of_wide_layers_is_the_slope():
    """Two layers of 11 bits: 2^22 joint states. Derivatives in random directions, by fourth-order differences."""
    problem = bits(11, 11, batch=2)
    truth = Truth.exact(problem)
    assert truth.words == "exact: layer-by-layer sum over 2048 x 2048 states" and truth.is_exact
    weights = problem.weights()
    generator = torch.Generator().manual_seed(3)
    for kind in ("unit", "weight"):
        shapes = {k: v.shape for k, v in truth.mean.items() if k[0] == kind}
        move = {k: torch.randn(shape, generator=generator, dtype=torch.float64) for k, shape in shapes.items()}
        slope = 0.0
        for step, factor in ((2, -1), (1, 8), (-1, -8), (-2, 1)):
            h = 1e-3 * step
            moved = {k: v + h * move.get(("weight", k), 0) for k, v in weights.items()}
            offsets = {
                f"h{i}": torch.zeros(2, 11, dtype=torch.float64) + h * move.get(("unit", f"h{i}"), 0) for i in (1, 2)
            }
            slope += factor * float(expected_loss(problem, moved, offsets)) / 12e-3
        found = sum(float((truth.mean[k] * v.numpy()).sum()) for k, v in move.items())
        # unit gradients are those of an example's own loss, and the mean is over two
        assert found / (2 if kind == "unit" else 1) == pytest.approx(slope, rel=1e-8)


def test_layer_by_layer_refuses_what_it_cannot_sum():
    with pytest.raises(TooLarge, match=r"theta of site 'h3' .* depends on other samples"):
        layer_sum(bits(2, 2, 2, skip=True))

    class Everywhere(Net):
        def loss(self, weights, samples, thetas):
            return super().loss(weights, samples, thetas) + samples[0].prod(-1) * samples[-1][..., 0]

    with pytest.raises(TooLarge, match=r"the loss of .* depends on more than the last two samples"):
        layer_sum(Everywhere(*[(Bernoulli(), 5)] * 3))
    with pytest.raises(TooLarge, match="states of a layer"):
        layer_sum(bits(3, 24))
    with pytest.raises(TooLarge, match="pairs of states of adjacent layers"):
        layer_sum(bits(18, 18))
    with pytest.raises(TooLarge, match="pairs of states that the loss depends on"):
        layer_sum(bits(13, 13, coupled=True))
    with pytest.raises(TooLarge, match="without a fixed finite support"):
        layer_sum(Net((Bernoulli(), 2), (Normal(), 1)))
    with pytest.raises(TooLarge, match=r"more than the 67108864 that are summed.*layers be summed one by one"):
        Truth.exact(bits(18, 18))


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 1e-4), (torch.float64, 1e-12)])
def test_dependences_far_smaller_than_the_loss_are_found(dtype, size):
    class Slightly(Net):
        def loss(self, weights, samples, thetas):
            return super().loss(weights, samples, thetas) + size * samples[0].sum(-1) + 10

    layers = [(Bernoulli(), 3)] * 3
    layer_sum(Net(*layers, dtype=dtype))
    with pytest.raises(TooLarge, match="depends on more"):
        layer_sum(Slightly(*layers, dtype=dtype))


def test_values_that_are_not_numbers_show_no_independence():
    class Log(Net):
        def loss(self, weights, samples, thetas):
            return super().loss(weights, samples, thetas) + thetas[1].log().sum(-1)

    with pytest.raises(TooLarge, match="depends on more"):
        layer_sum(Log(*[(Bernoulli(), 12)] * 3))


class Silent(Net):
    """The loss depends on a theta that is always the same: its value does not show it, its gradient does."""

    def theta(self, weights, samples):
        theta = super().theta(weights, samples)
        return weights["c2"].expand_as(theta) if len(samples) == 1 else theta

    def loss(self, weights, samples, thetas):
        return super().loss(weights, samples, thetas) + thetas[1].square().sum(-1)


def test_a_theta_in_the_loss_is_found_although_it_never_changes():
    problem = Silent((Bernoulli(), 3), (Bernoulli(), 2))
    close(layer_sum(problem)[0], joint(problem))
    with pytest.raises(TooLarge, match="depends on more"):
        layer_sum(Silent(*[(Bernoulli(), 2)] * 3))


def test_without_the_check_of_dependences_the_sum_would_be_wrong(monkeypatch):
    problem = bits(3, 4, batch=2, coupled=True)
    real = _Layers._dependences
    monkeypatch.setattr(_Layers, "_dependences", lambda self: bool(real(self)) and False)
    with pytest.raises(AssertionError):
        close(layer_sum(problem)[0], joint(problem), 1e-2)


# ---------------------------------------------------------------------- which truth
def test_the_truth_is_found_in_the_best_way():
    assert Truth.of(TwoLayer()).words == "exact: sum over 32 states"
    assert Truth.of(bits(12, 12), wrt=("unit",)).words == "exact: layer-by-layer sum over 4096 x 4096 states"
    assert least_noisy(bits(30, 30)) == ControlledFlips()
    assert least_noisy(bits(30)) == LocalExpectation()
    assert least_noisy(Net((Normal(), 3), (Normal(), 2))) == LeaveOneOut(16)
    assert least_noisy(Net((Bernoulli(), 3), (Normal(), 2))).estimators == {
        "h1": ControlledFlips(),
        "h2": LeaveOneOut(16),
    }
    assert least_noisy(bits(2000, 2000, batch=16)) == LeaveOneOut(16)  # flips would make 4001 x 32 x 16 x 2000 numbers
    runs = Truth.of(bits(24, 3), replicates=64).runs
    assert [run.estimator for run in runs] == [ControlledFlips(), PerSite({"h1": Sample()}, ControlledFlips())]


class Tied(Problem):
    """Three layers; one weight feeds the first and the second, one all but the first, one the last and the loss."""

    batch = 2
    sites = tuple(SiteSpec(name, Bernoulli(), (n,)) for name, n in (("a", 2), ("b", 1), ("c", 1)))

    def weights(self):
        values = {"first": [0.4, -0.9], "later": [1.3, -0.6], "last": [0.8, -1.7], "loss": [0.5]}
        return {k: torch.tensor(v, dtype=torch.float64) for k, v in values.items()}

    def theta(self, weights, samples):
        x = torch.tensor([[0.7], [-1.2]], dtype=torch.float64)
        if not samples:
            return weights["first"] * x + 0.3
        if len(samples) == 1:
            return samples[0] @ weights["first"][:, None] + samples[0] @ weights["later"][:, None] - x
        return samples[1] * weights["later"][0] + samples[0][:, :1] * weights["last"][0] - 0.4

    def loss(self, weights, samples, thetas):
        a, b, c = (x[:, 0] for x in samples)
        return weights["loss"] * (c - 0.3 * a) ** 2 + weights["last"][1] * b * c + a * b * c


@pytest.mark.parametrize("problem", [Tied(), bits(2, 1, 1, skip=True)], ids=repr)
def test_every_layer_has_a_run_that_is_unbiased_for_it(problem):
    """By exact moments; the run of a later layer is wrong for what feeds an earlier one."""
    truth, missed = joint(problem), 0
    schedule = by_layer(problem, 0, ("unit", "weight"))
    assert [stretch.name for stretch in schedule] == [site.name for site in problem.sites]
    assert sorted(k for stretch in schedule for k in stretch.keys) == sorted(truth)
    scale = max(np.abs(t).max() for t in truth.values())
    for stretch in schedule:
        found = exact_moments(problem, stretch.estimator)
        for key, exact in truth.items():
            right = np.allclose(found[key].mean, exact.ravel(), rtol=0, atol=1e-12 * scale)
            assert right or key not in stretch.keys, (stretch.name, key)
            missed += not right
    assert missed >= 3
    if isinstance(problem, Tied):
        keys = {stretch.name: {name for kind, name in stretch.keys if kind == "weight"} for stretch in schedule}
        assert keys == {"a": {"first"}, "b": {"later"}, "c": {"last", "loss"}}


class Branches(Tied):
    """Which weight feeds the second layer depends on the sample of the first: examples are walked one at a time."""

    batch = 1

    def theta(self, weights, samples):
        if not samples:
            return weights["first"][None] + 0.3
        if len(samples) == 1:
            on = float(samples[0][0, 0]) > 0.5
            return weights["last"][None, :1] * 2 if on else weights["later"][None, :1]
        return samples[1] * weights["last"][0] + weights["later"][0] - 0.4


def test_weights_are_those_of_the_first_run_where_they_may_depend_on_samples():
    """One draw tells of one branch. With the weight that it misses in a later run, the truth would be wrong."""
    problem = Branches()
    truth, schedule = joint(problem), by_layer(problem, 0, ("unit", "weight"))
    assert [stretch.name for stretch in schedule] == ["a", "b", "c"]
    assert all(kind == "unit" for stretch in schedule[1:] for kind, _ in stretch.keys)
    assert sorted(k for stretch in schedule for k in stretch.keys) == sorted(truth)
    for stretch in schedule:
        found = exact_moments(problem, stretch.estimator)
        for key in stretch.keys:
            np.testing.assert_allclose(found[key].mean, truth[key].ravel(), atol=1e-12)
    late = exact_moments(problem, schedule[2].estimator)
    assert all(np.abs(late["weight", k].mean - truth["weight", k]).max() > 1e-3 for k in ("later", "last"))


@pytest.mark.parametrize(
    "schedule",
    [
        [whole(Net((Bernoulli(), 2), (Normal(), 1)), least_noisy(Net((Bernoulli(), 2), (Normal(), 1))), 0, ("unit",))],
        by_layer(bits(3, 3, 2, skip=True, batch=2), 0, ("unit", "weight")),
        by_layer(Tied(), 0, ("unit", "weight")),
    ],
    ids=["mixed", "skip", "tied"],
)
def test_long_runs_are_unbiased(schedule):
    """At most 100 coordinates at 9 standard errors of at least 31 degrees of freedom: 4e-8."""
    truth = Truth._drawn(schedule, 2**12, False, None)
    problem = schedule[0].measurement.source.problem
    exact = Truth.exact(problem).mean
    assert [run.record.replicates for run in truth.runs] == [2**12 * stretch.times for stretch in schedule]
    for key, mean in truth.mean.items():
        assert (np.abs(mean - exact[key]) <= 9 * truth.standard_error[key] + 1e-9).all(), key
    keys = tuple(truth.mean)
    batches = truth.batches(keys)
    assert batches.shape == (32, sum(m.size for m in truth.mean.values()))
    np.testing.assert_allclose(batches.mean(0), np.concatenate([m.ravel() for m in truth.mean.values()]), atol=1e-12)
    assert truth.carried(keys) == min(run.carried(run.keys) for run in truth.runs) < truth.replicates


def test_strata_hold_each_interval_once():
    """Every number on its own, and together independent: the intervals of two numbers are all pairs equally often.

    4 x 4 pairs of 2^15 groups: chi-squared with 15 - 6 degrees of freedom, as rows and columns are fixed, below 60 but
    for 1e-9.
    """
    noise = Stratified(MonteCarlo("strata"), 4)
    u = noise.uniform(torch.empty(3, 2**17, 2, dtype=torch.float64), 1, lambda: torch.empty(0))
    interval = (4 * u).long()
    assert torch.equal(interval.unflatten(1, (-1, 4)).sort(2).values[..., 0], torch.arange(4).expand(3, 2**15, 4))
    place = 4 * u - interval
    assert abs(float(place.mean()) - 0.5) < 6 * (1 / 12 / place.numel()) ** 0.5
    for k in range(3):
        counts = torch.bincount(4 * interval[k, :, 0] + interval[k, :, 1], minlength=16).double()
        # of n random permutations the count of a pair has the variance n (1/4) / 3 times 4 of a multinomial one
        assert float(((counts - 2**13) ** 2).sum() / 2**13 * 0.75) < 60
    low = Stratified(MonteCarlo("strata"), 32).uniform(torch.empty(2**15, 8), 0, lambda: torch.empty(0))
    assert low.min() >= 0 and low.max() < 1
    z = noise.normal(torch.empty(2**17, 1, dtype=torch.float64), 0, lambda: torch.empty(0))
    assert z.isfinite().all() and abs(float(z.mean())) < 6 / 2**17**0.5 and abs(float(z.var()) - 1) < 0.05


def test_strata_do_not_depend_on_parts():
    whole_, parts = (prepare(bits(3), LocalExpectation(), purpose="truth", strata=32, memory=m) for m in (2**30, 2**9))
    assert parts.part < 256
    index = next(i for i in range(99) if whole_.plan.size(i) == 256)
    np.testing.assert_allclose(whole_.block(index).moments.mean, parts.block(index).moments.mean, atol=1e-14)


def test_standard_errors_are_those_of_strata():
    """The scatter of 64 truths is what they say of it, and less than that of independent draws.

    Were all six coordinates one, the scatter would be chi-squared with 63 degrees of freedom: between 1/2 and 2 times
    its expectation but for 3e-6, and nearer for several.
    """
    problem = bits(3, batch=2)
    truths = [Truth.estimated(problem, LocalExpectation(), 1024, seed, wrt=("unit",)) for seed in range(64)]
    key = ("unit", "h1")
    scatter = np.var([t.mean[key] for t in truths], axis=0, ddof=1).sum()
    told = np.mean([t.standard_error[key] ** 2 for t in truths], axis=0).sum()
    independent = np.mean([t.runs[0].record.variance(key) / 1024 for t in truths], axis=0).sum()
    assert 0.5 < scatter / told < 2
    assert told < 0.7 * independent


# ---------------------------------------------------------------------- going on
def same(a, b):
    """Equal records, but for the time they took."""
    one, two = (arrays_of(dataclasses.replace(r, seconds=0.0)) for r in (a, b))
    assert set(one) == set(two)
    return all(np.asarray(one[k]).tobytes() == np.asarray(two[k]).tobytes() for k in one)


DRAWN = TwoLayer()


@pytest.mark.parametrize("estimator", [ControlledFlips(), LeaveOneOut(4)], ids=repr)
def test_a_refined_truth_is_one_that_was_drawn_at_once(estimator):
    few, many = (Truth.estimated(DRAWN, estimator, n, seed=5) for n in (500, 3000))
    fine = few.refine(DRAWN, 3000)
    assert same(fine.runs[0].record, many.runs[0].record) and not same(few.runs[0].record, many.runs[0].record)
    assert fine.words == many.words and all(np.array_equal(fine.mean[k], many.mean[k]) for k in many.mean)
    assert fine.refine(DRAWN, 100) is fine
    assert Truth.exact(DRAWN).refine(DRAWN, 10**9).is_exact
    with pytest.raises(UsageError, match=r"truth of TwoLayer\(batch=2\) .* and not of TwoLayer\(batch=3\)"):
        few.refine(TwoLayer(batch=3), 3000)
    weights = {k: v + 0.1 for k, v in DRAWN.weights().items()}
    with pytest.raises(UsageError, match="refine a truth with the problem it was drawn from"):
        few.refine(DRAWN.at(weights, "later"), 3000)


class Rows(Problem):
    """Examples that neither repr nor weights tell."""

    batch, sites = 2, (SiteSpec("h", Bernoulli(), (2,)),)

    def __init__(self, shift: float):
        self.shift = shift

    def weights(self):
        return {"w": torch.tensor([0.3, -0.8], dtype=torch.float64)}

    def theta(self, weights, samples):
        return weights["w"] * torch.tensor([[1.0], [self.shift]], dtype=torch.float64)

    def loss(self, weights, samples, thetas):
        return (samples[0].sum(-1) - 0.3) ** 2

    def __repr__(self):
        return "Rows()"


@pytest.mark.parametrize("replicates", [32, 100, 4000])
def test_a_truth_of_other_examples_is_not_refined(replicates):
    few = Truth.estimated(Rows(2.0), LocalExpectation(), replicates)
    assert few.refine(Rows(2.0), 5000).runs[0].record.replicates >= 5000
    with pytest.raises(UsageError, match=r"Rows\(\) no longer gives the draws"):
        few.refine(Rows(-1.0), 5000)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (lambda w: w["w"].sum(), r"expected axes \[batch\] = \[2\]; found \[\]"),
        (lambda w: 3.0, "found float"),
        (lambda w: torch.ones(2), "uses neither the weights nor the offsets"),
    ],
)
def test_closed_forms_of_a_wrong_shape_are_told(monkeypatch, value, words):
    monkeypatch.setattr(Rows, "expected_loss", lambda self, weights, offsets: value(weights))
    with pytest.raises(UsageError, match=words):
        Truth.of(Rows(2.0))


@pytest.mark.parametrize("weights", [{}, {"w": torch.tensor([1, 2])}])
def test_problems_without_floating_weights_are_told(monkeypatch, weights):
    monkeypatch.setattr(Rows, "weights", lambda self: weights)
    with pytest.raises(UsageError, match=r"Rows\(\) (lacks weights|has weights that are no floating)"):
        Truth.of(Rows(2.0))


def test_a_black_box_is_refined_as_well():
    sampler = GradientSampler(lambda: {"w": torch.randn(3)}, truth={"w": torch.zeros(3)}, name="noise")
    few, many = (Truth.sampled(sampler, n) for n in (64, 512))
    assert same(few.refine(sampler, 512).runs[0].record, many.runs[0].record)
    with pytest.raises(UsageError, match="black box"):
        few.refine(DRAWN, 512)


# ---------------------------------------------------------------------- keeping
@pytest.fixture
def kept(monkeypatch, tmp_path):
    """A folder for truths, however little time they took; and the blocks that are drawn."""
    monkeypatch.setenv("ESTIMATOR_LAB_CACHE", str(tmp_path / "kept"))
    monkeypatch.setattr("estimator_lab.long_runs.LONG", -1.0)
    drawn, real = [], Measurement.block
    monkeypatch.setattr(Measurement, "block", lambda self, index: drawn.append(index) or real(self, index))
    return tmp_path / "kept", drawn


def estimate(problem=DRAWN, replicates=1000, seed=0, keep=True):
    return Truth.estimated(problem, ControlledFlips(), replicates, seed, cache=keep)


def test_a_record_is_the_same_after_a_file():
    for problem, reference in ((DRAWN, None), (DRAWN, joint(DRAWN)), (OneBit(), None)):
        record = prepare(problem, LeaveOneOut(2), reference=reference).run(300)
        record = dataclasses.replace(record, notes=("a note",))
        again = record_of(arrays_of(record))
        assert same(record, again) and again.seconds == record.seconds
        for field in ("plan", "layout", "start", "stop", "dead", "notes", "losses", "backwards", "random", "loss"):
            assert getattr(again, field) == getattr(record, field)
        more = dataclasses.replace(record, start=record.stop, stop=record.stop + 1)
        assert same(again + more, record + more)


def test_a_kept_truth_is_read_and_goes_on(kept):
    folder, drawn = kept
    fresh, more = estimate(keep=False), estimate(replicates=3000, keep=False)
    assert not folder.exists()
    assert same(estimate().runs[0].record, fresh.runs[0].record)
    (file,) = folder.iterdir()
    drawn.clear()
    assert same(estimate().runs[0].record, fresh.runs[0].record) and drawn == [
        0
    ]  # the one that shows whether the file still holds
    drawn.clear()
    assert same(estimate(replicates=3000).runs[0].record, more.runs[0].record)
    assert min(set(drawn) - {0}) == fresh.runs[0].record.stop and list(folder.iterdir()) == [file]
    drawn.clear()
    assert same(estimate(replicates=200).runs[0].record, more.runs[0].record) and drawn == [0]
    assert not same(estimate(seed=1).runs[0].record, fresh.runs[0].record) and len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("damage", ["cut", "text", "other", "fields"])
def test_a_damaged_file_is_drawn_again(kept, damage):
    folder, drawn = kept
    fresh = estimate()
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    if damage == "cut":
        file.write_bytes(whole[: len(whole) // 2])
    elif damage == "text":
        file.write_text("not a file of numbers")
    else:
        with np.load(file) as found:
            arrays = dict(found)
        if damage == "other":
            arrays["identity"] = np.array("the truth of something else")
        else:
            del arrays["m3"]
        np.savez(file, **arrays)
    drawn.clear()
    assert same(estimate().runs[0].record, fresh.runs[0].record) and len(drawn) > 2
    drawn.clear()
    assert same(estimate().runs[0].record, fresh.runs[0].record) and drawn == [0]  # it was written anew


def test_whatever_a_bit_of_a_file_says_it_is_read_right_or_not_at_all(monkeypatch, tmp_path):
    monkeypatch.setenv("ESTIMATOR_LAB_CACHE", str(tmp_path))
    numbers = np.arange(40.0)
    cache.store("t", "it", {"a": numbers})
    file = cache.path("t", "it")
    whole = file.read_bytes()
    for place in range(len(whole)):
        file.write_bytes(bytes([*whole[:place], whole[place] ^ 0x21, *whole[place + 1 :]]))
        found = cache.load("t", "it")
        assert not found or np.array_equal(found["a"], numbers), place


def test_without_a_home_nothing_is_kept(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    for name in ("ESTIMATOR_LAB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cache.Path, "home", homeless)
    assert cache.cached("t", "it", lambda: {"a": np.arange(4.0)})["a"].sum() == 6


def test_a_full_disk_keeps_no_halves(monkeypatch, tmp_path):
    monkeypatch.setenv("ESTIMATOR_LAB_CACHE", str(tmp_path))

    def full(file, **arrays):
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez", full)
    cache.store("t", "it", {"a": np.arange(4.0)})
    assert not list(tmp_path.iterdir())


class Edited(TwoLayer):
    """Another loss under the same name, with the same weights: what a user's edit leaves."""

    def loss(self, weights, samples, thetas):
        return super().loss(weights, samples, thetas) + 1e-6 * samples[1][..., 0]

    def __repr__(self):
        return repr(DRAWN)


def test_a_truth_of_code_that_has_changed_is_drawn_again(kept):
    estimate()
    found = estimate(Edited())
    assert found.runs[0].record.plan == estimate(keep=False).runs[0].record.plan
    assert same(found.runs[0].record, estimate(Edited(), keep=False).runs[0].record)


def test_short_truths_are_not_kept(kept, monkeypatch):
    folder, _ = kept
    monkeypatch.setattr("estimator_lab.long_runs.LONG", 1e6)
    estimate()
    assert not folder.exists()
    Truth.of(bits(24, 3), replicates=64)
    assert not folder.exists()


def test_a_kept_truth_gives_the_same_verdicts(kept):
    """All that statistics see of a truth: its mean, the means of its batches, and how many draws carry its error."""
    at_once = estimate(replicates=3000, keep=False)
    refined = estimate(keep=False).refine(DRAWN, 3000)
    estimate(replicates=3000)
    loaded = estimate(replicates=3000)
    assert cache.load("truth", f"2 {at_once.runs[0].record.plan!r}") is not None
    for truth in (refined, loaded):
        for key, error in at_once.standard_error.items():
            assert np.array_equal(truth.standard_error[key], error)
        record = prepare(DRAWN, LeaveOneOut(2), reference=truth.mean).run(2048)
        for key in record.layout.groups:
            one, two = (dataclasses.asdict(group_of(record, t, key)) for t in (at_once, truth))
            one, two = (found | found.pop("scalars") for found in (one, two))
            assert all(np.array_equal(one[k], two[k]) for k in one), key
