"""Problems and estimators on which an instrument is easily wrong: each was called wrongly once, or crashed."""

from dataclasses import dataclass

import pytest
import torch

import estimator_lab as lab
from estimator_lab.estimators import (
    DisARM,
    DropIn,
    LeaveOneOut,
    LocalExpectation,
    MeanField,
    MuProp,
    Pathwise,
    Rebar,
    Reinforce,
    StraightThrough,
)

THETA = torch.tensor([0.3, -0.7, 1.2], dtype=torch.float64)
TWO = lab.problems.TwoLayer()


def objective(name, f, dtype=torch.float64):
    return lab.Objective(lab.Bernoulli(), THETA.to(dtype), f, name)


@pytest.mark.parametrize("estimator", [DisARM(), Reinforce(), LeaveOneOut(4)], ids=repr)
def test_an_event_that_no_draw_showed_is_no_bias(estimator):
    """At p = 6e-6 nearly all runs of 4096 draws are constant and off the truth; the estimator is not to blame."""
    rare = lab.problems.OneBit(logit=-12.0)
    found = lab.diagnose(estimator, on=rare, budget=4096, exact=False)
    assert found.status == "inconclusive"
    assert found.findings[0].row("site").needed == 0
    assert lab.diagnose(estimator, on=rare, budget=4096).verdict == "exact"


def test_without_random_numbers_a_constant_difference_is_a_bias():
    assert lab.diagnose(MeanField(), on=lab.problems.OneBit(logit=-12.0), budget=4096).verdict == "biased"


@pytest.mark.parametrize("estimator", [LeaveOneOut(4), LocalExpectation(), DisARM(), MuProp(), Rebar()], ids=repr)
def test_a_constant_loss_has_no_gradient_and_no_bias(estimator):
    constant = objective("constant", lambda x: 3.0 + 0 * x.sum(-1))
    assert lab.diagnose(estimator, on=constant, budget=4096).status == "sound"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("estimator", [LocalExpectation(), MuProp()], ids=repr)
def test_what_cancels_in_a_large_loss_is_no_bias(estimator, dtype):
    offset = objective("offset", lambda x: 1e4 + x.sum(-1), dtype)
    assert lab.diagnose(estimator, on=offset, budget=4096).status == "sound"


def test_the_exact_sum_keeps_its_precision_under_a_large_loss():
    truth = lab.Truth.exact(objective("offset", lambda x: 1e6 + x.sum(-1)))
    p = THETA.sigmoid()
    # the loss itself carries a rounding of 1e6 * 2^-53 = 1e-10
    assert truth.mean["weight", "theta"] == pytest.approx((p * (1 - p)).numpy(), abs=1e-9)


def test_exact_moments_refuse_the_global_random_stream():
    def through(theta):
        return torch.bernoulli(theta.sigmoid()) + theta.sigmoid() - theta.sigmoid().detach()

    before = torch.get_rng_state()
    with pytest.raises(lab.UsageError, match="global random stream"):
        lab.exact_moments(lab.problems.OneBit(), DropIn(through))
    assert torch.equal(before, torch.get_rng_state())


def test_two_of_one_name_are_refused():
    """Equal names would share seeds and be compared with each other."""
    twins = [lab.problems.OneBit(), lab.problems.OneBit(dtype=torch.float32)]
    with pytest.raises(lab.UsageError, match="name of two"):
        lab.compare([Reinforce()], on=twins, budget=100)
    same = objective("f", lambda x: x.sum(-1))
    other = lab.Objective(lab.Bernoulli(), -THETA, lambda x: x.sum(-1), "f")
    assert len(lab.compare([Reinforce()], on=[same, other, same], budget=100).findings) == 2


class Mixing(lab.problems.TwoLayer):
    def loss(self, weights, samples, thetas):
        return (samples[0] - samples[0].mean(0)).square().sum(-1)


def test_a_loss_that_mixes_examples_is_refused():
    with pytest.raises(lab.UsageError, match=r"loss\(\) .* mixes examples"):
        lab.diagnose(LeaveOneOut(4), on=Mixing(), budget=100)


class Branching(lab.problems.TwoLayer):
    def loss(self, weights, samples, thetas):
        return super().loss(weights, samples, thetas) * (1 if weights["v"].sum() > -100 else 2)


def test_a_branch_on_the_weights_runs_in_a_loop():
    found = lab.diagnose(LeaveOneOut(4), on=Branching(), budget=64).findings[0]
    assert "runs in a loop" in found.notes[0]


class Unbatchable(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        return x.clone()

    @staticmethod
    def backward(context, gradient):
        return gradient * (2.0 if float(gradient.sum()) > 1e9 else 1.0)


class Custom(lab.problems.TwoLayer):
    def theta(self, weights, samples):
        return super().theta(weights, samples) if samples else Unbatchable.apply(super().theta(weights, samples))


def test_a_backward_that_cannot_be_batched_is_looped():
    plain, custom = (lab.Truth.exact(p).mean["weight", "w1"] for p in (TWO, Custom()))
    assert custom == pytest.approx(plain, rel=1e-12)
    assert lab.measure(Custom(), DisARM(), 64).replicates >= 64


class OneGaussian(lab.Problem):
    batch = 1
    sites = (lab.SiteSpec("x", lab.Normal(), (1,)),)

    def weights(self):
        return {"mu": torch.zeros(1, dtype=torch.float64), "log_s": torch.zeros(1, dtype=torch.float64)}

    def theta(self, weights, samples):
        return torch.stack([weights["mu"], weights["log_s"]], -1)[None]

    def loss(self, weights, samples, thetas):
        return samples[0].square().sum(-1)


class Kink(OneGaussian):
    def loss(self, weights, samples, thetas):
        return (samples[0] - 0.3).relu().sum(-1)


def test_a_gradient_that_is_zero_by_symmetry_has_converged():
    assert lab.Truth.exact(OneGaussian()).mean["weight", "log_s"] == pytest.approx(2.0)


def test_a_quadrature_that_does_not_settle_is_replaced_by_an_estimate():
    with pytest.raises(lab.UsageError, match="has not converged"):
        lab.Truth.exact(Kink())
    assert not lab.Truth.of(Kink(), replicates=1024).is_exact
    assert lab.diagnose(Pathwise(), on=Kink(), budget=4096).status != "violated"


def test_a_truth_may_hold_more_than_is_diagnosed():
    truth = lab.Truth.estimated(TWO, LeaveOneOut(4), 8192)
    assert lab.diagnose(DisARM(), on=TWO, truth=truth, wrt=("unit",), budget=4096).status != "violated"


def test_a_tiny_alpha_still_ends_in_words():
    found = lab.diagnose(StraightThrough("identity"), on=lab.problems.QuadraticForm(), budget=65536, alpha=1e-9)
    assert found.verdict == "biased"


def test_a_plain_dataclass_is_a_problem():
    @dataclass
    class Mine(lab.Problem):
        batch: int = 2
        sites = TWO.sites

        def weights(self):
            return TWO.weights()

        def theta(self, weights, samples):
            return TWO.theta(weights, samples)

        def loss(self, weights, samples, thetas):
            return TWO.loss(weights, samples, thetas)

    assert lab.diagnose(DisARM(), on=Mine(), budget=256).status != "violated"


def test_half_precision_is_refused():
    with pytest.raises(lab.UsageError, match="float64 or float32"):
        lab.measure(lab.problems.OneBit(dtype=torch.bfloat16), DisARM(), 64)


def test_a_sum_too_large_for_memory_is_refused_by_its_size():
    """2^22 states fit; with 22 units and 8 examples each they do not."""
    theta = torch.zeros(22, dtype=torch.float64)
    with pytest.raises(lab.TooLarge, match="joint states"):
        lab.Truth.exact(lab.Objective(lab.Bernoulli(), theta, lambda x: x.sum(-1), "wide"))


class Detached(lab.Estimator):
    """A gradient path that is cut by mistake."""

    unbiased = True

    def surrogate(self, site, downstream):
        return downstream((site.sample() + site.mean - site.mean.detach()).detach())


def test_a_path_that_is_cut_is_a_bias():
    """The draws are random and all alike here too, but no event could ever make a difference."""
    found = lab.diagnose(Detached(), on=lab.problems.QuadraticForm(), budget=4096).findings[0]
    assert found.status == "violated"
    assert "zero in every draw" in found.notes[0]


def test_a_black_box_takes_no_other_problem_or_truth():
    sampler = lab.GradientSampler(lambda: {"w": torch.randn(2)}, {"w": torch.zeros(2)}, "noise")
    with pytest.raises(lab.UsageError, match="brings its own"):
        lab.diagnose(sampler, on=TWO)
