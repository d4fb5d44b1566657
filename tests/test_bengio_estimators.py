"""Estimators around Bengio, Léonard, Courville 2013 (arXiv:1308.3432), each against an enumeration made by hand.

``Gates`` has two units and two examples with unequal probabilities, a loss with interactions that is no quadratic, and
a penalty on theta itself. All expectations are finite sums or quadratures: nothing is drawn but where it is said.
"""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

import estimator_lab as lab
from estimator_lab.chain import Chain
from estimator_lab.estimator import Estimator
from estimator_lab.estimators import (
    SPSA,
    CurveThrough,
    Exact,
    FieteSeung,
    FiniteDifferences,
    FittedStraightThrough,
    PerSite,
    Reinforce,
    ReinMax,
    RunningReinforce,
    StraightThrough,
)
from estimator_lab.estimators.perturbed import losses_at
from estimator_lab.families import Bernoulli
from estimator_lab.measurement import fit
from estimator_lab.noise import MonteCarlo, ProductRule
from estimator_lab.problem import Problem
from estimator_lab.problems import Additive, GaussianPolynomial, OneBit, QuadraticForm, TwoLayer
from estimator_lab.site import Site, SiteSpec

THETA = torch.tensor([[-1.3, 0.4], [0.9, -0.6]], dtype=torch.float64)  # p = 0.21, 0.60; 0.71, 0.35
TERMS = torch.tensor([[0.8, -0.5, 1.1], [-0.4, 1.2, -0.7]], dtype=torch.float64)
PENALTY = 0.3
STATES = np.array(list(itertools.product((0.0, 1.0), repeat=2)))


class Gates(Problem):
    """exp(a h1 + b h2) + c h1^2 h2 + 0.3 |theta|^2, with a, b, c of each example; the examples repeated n times."""

    sites = (SiteSpec("h", Bernoulli(), (2,)),)

    def __init__(self, copies: int = 1):
        self.copies, self.batch = copies, 2 * copies

    def weights(self):
        return {"theta": THETA}

    def theta(self, weights, samples):
        return weights["theta"].repeat(self.copies, 1)

    def loss(self, weights, samples, thetas):
        (h,), (a, b, c) = samples, TERMS.repeat(self.copies, 1).T
        value = (a * h[:, 0] + b * h[:, 1]).exp() + c * h[:, 0].square() * h[:, 1]
        return value + PENALTY * thetas[0].square().sum(-1)

    def __repr__(self):
        return f"Gates({self.copies})"


# by hand: probabilities [example, state], losses, slopes and scores [example, state, unit]
LOGITS = THETA.numpy()
P = 1 / (1 + np.exp(-LOGITS))
DIRECT = 2 * PENALTY * LOGITS


def chances(p: np.ndarray) -> np.ndarray:
    """Of every state, at probabilities ``[..., 2]``."""
    return np.where(STATES == 1, p[..., None, :], 1 - p[..., None, :]).prod(-1)


A, B, C = TERMS.numpy().T[:, :, None]
POWER = np.exp(A * STATES[:, 0] + B * STATES[:, 1])
LOSS = POWER + C * STATES[:, 0] ** 2 * STATES[:, 1] + PENALTY * (LOGITS**2).sum(-1)[:, None]
SLOPE = np.stack([A * POWER + 2 * C * STATES[:, 0] * STATES[:, 1], B * POWER + C * STATES[:, 0] ** 2], -1)
SCORE = STATES - P[:, None]
CHANCE = chances(P)
TRUTH = np.einsum("is,isu,is->iu", CHANCE, SCORE, LOSS) + DIRECT
VAR = P * (1 - P)


def mean(draws: np.ndarray) -> np.ndarray:
    """``[example, unit]`` of what every state gives ``[example, state, unit]``."""
    return np.einsum("is,isu->iu", CHANCE, draws)


def variance(draws: np.ndarray) -> np.ndarray:
    return mean(draws**2) - mean(draws) ** 2


def found(estimator: Estimator, problem: Problem | None = None, nodes: int = 1, site: str = "h"):
    """Exact mean and variance of an estimator's unit gradients ``[example, unit]``."""
    problem = problem or Gates()
    moments = lab.exact_moments(problem, estimator, nodes, ("unit",))["unit", site]
    return moments.mean.reshape(problem.batch, -1), moments.variance.reshape(problem.batch, -1)


class FewPieces(ProductRule):
    """One node on every piece of a uniform number, where draws are constant; the given nodes for normal ones."""

    def uniform(self, like, axis, jumps):
        nodes, self.nodes = self.nodes, 1
        try:
            return super().uniform(like, axis, jumps)
        finally:
            self.nodes = nodes


def summed(estimator: Estimator, problem: Problem, nodes: int, site: str = "h"):
    """Mean and variance ``[unit]`` of the one example, of an estimator that draws normal numbers at discrete sites."""
    chain = Chain(problem, estimator, ("unit",))
    learn = FewPieces(nodes)
    chain.draw(1, learn)
    rule = FewPieces(nodes, tuple(learn.sizes), 0, learn.total)
    draws = chain.draw(learn.total, rule)["unit", site][:, 0].numpy()
    average = rule.weight.numpy() @ draws
    return average, rule.weight.numpy() @ draws**2 - average**2


def close(a, b, tolerance=1e-12):
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


def test_the_enumeration_by_hand_is_the_truth():
    close(lab.Truth.exact(Gates()).mean["unit", "h"], TRUTH)
    h = torch.tensor(STATES).requires_grad_()
    for i in range(2):
        a, b, c = TERMS[i]
        ((a * h[:, 0] + b * h[:, 1]).exp() + c * h[:, 0] ** 2 * h[:, 1]).sum().backward()
        close(h.grad, SLOPE[i])
        h.grad = None


# ---------------------------------------------------------------------- one constant for each unit
MOMENT, NORM = mean(SCORE**2 * LOSS[..., None]).mean(0), mean(SCORE**2).mean(0)
BEST = MOMENT / NORM


def centred(constant: np.ndarray) -> Reinforce:
    return Reinforce("given", fitted={"h": torch.as_tensor(constant)})


def test_the_unit_baseline_is_the_best_constant_for_all_examples():
    """The summed variance is a parabola in the constant, with its least value at E[s^2 L] / E[s^2]."""
    average, least = found(Reinforce("unit"))
    close(average, TRUTH)
    close(least, variance(SCORE * (LOSS[..., None] - BEST)))
    for step in (-0.7, -0.05, 0.05, 0.7, 1e3):
        average, others = found(centred(BEST + step))
        close(average, TRUTH, 1e-10)
        np.testing.assert_allclose(others.sum(0) - least.sum(0), step**2 * 2 * NORM, rtol=1e-9)


def test_other_baselines_are_not_the_best_constant():
    """No baseline, the mean loss, and the mean over examples of their own optima; constants per example are better."""
    _, least = found(Reinforce("unit"))
    own = mean(SCORE**2 * LOSS[..., None]) / mean(SCORE**2)
    level = (CHANCE * LOSS).sum(1).mean()
    for constant in (np.zeros(2), np.full(2, level), own.mean(0)):
        _, others = found(centred(constant))
        np.testing.assert_allclose(others.sum(0) - least.sum(0), (constant - BEST) ** 2 * 2 * NORM, rtol=1e-9)
        assert others.sum() > least.sum() + 3e-4
    assert (found(Reinforce("optimal"))[1].sum(0) < least.sum(0) - 1e-3).all()


def test_a_given_baseline_must_be_given():
    with pytest.raises(lab.UsageError, match=r"no baseline for site 'h': fitted=\{'h': c\} with a tensor c \[2\]"):
        lab.measure(Gates(), Reinforce("given"), 32)
    with pytest.raises(lab.UsageError, match='"unit" or "given"; found \'best\''):
        Reinforce("best")


# ---------------------------------------------------------------------- running averages
JOINT = [(i, j) for i in range(4) for j in range(4)]  # states of both examples


def outcomes():
    """Every joint outcome of a minibatch of both examples: its probability, scores ``[2, 2]`` and losses ``[2]``."""
    for i, j in JOINT:
        yield CHANCE[0, i] * CHANCE[1, j], np.stack([SCORE[0, i], SCORE[1, j]]), np.array([LOSS[0, i], LOSS[1, j]])


def after(numerator, denominator, score, loss, decay):
    """Numerator and denominator after a minibatch, as the paper's authors update them."""
    return (
        decay * numerator + (1 - decay) * (score**2 * loss[:, None]).mean(0),
        decay * denominator + (1 - decay) * (score**2).mean(0),
    )


def contemporaneous_bias(decay: float) -> np.ndarray:
    """-(1 - c) / B E[s_i sum_j s_j^2 (L_j - b) / D'], summed over the joint outcomes."""
    bias = np.zeros((2, 2))
    for chance, score, loss in outcomes():
        _, below = after(MOMENT, NORM, score, loss, decay)
        excess = (score**2 * (loss[:, None] - BEST)).sum(0)
        bias -= chance * (1 - decay) / 2 * score * excess / below
    return bias


@pytest.mark.parametrize("paths", [1, 2, 3])
def test_lagged_averages_leave_the_mean(paths):
    average, _ = found(RunningReinforce(0.8, paths))
    close(average, TRUTH)


def test_the_noise_of_tracking():
    """With K = 2 the second path's baseline is b, from the first: Var = (V(b*) + E over b of V(b)) / 4."""
    decay = 0.6
    noisy = np.zeros((2, 2))
    for chance, score, loss in outcomes():
        above, below = after(MOMENT, NORM, score, loss, decay)
        draws = SCORE * (LOSS[..., None] - above / below)
        noisy += chance * mean(draws**2)
    noisy -= (TRUTH - DIRECT) ** 2
    still = variance(SCORE * (LOSS[..., None] - BEST))
    assert (noisy.sum(0) > still.sum(0) + 1e-3).all()
    _, one = found(RunningReinforce(decay, 1))
    _, two = found(RunningReinforce(decay, 2))
    close(one, still)
    close(two, (still + noisy) / 4)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.99])
def test_averages_with_the_minibatch_in_them_are_biased(decay):
    """Against the sum over joint outcomes of L - N' / D', and against the formula of the docstring."""
    average, _ = found(RunningReinforce(decay, 1, lagged=False))
    expected = DIRECT.copy()
    for chance, score, loss in outcomes():
        above, below = after(MOMENT, NORM, score, loss, decay)
        expected += chance * score * (loss[:, None] - above / below)
    close(average, expected)
    close(average - TRUTH, contemporaneous_bias(decay))
    assert (np.abs(average - TRUTH) > 5e-3 * (1 - decay) * np.abs(TRUTH - DIRECT)).all()


def leading(examples: int) -> np.ndarray:
    """The bias over (1 - c) to first order, with so many examples: -E[s^3 (L - b)] / (B D)."""
    return -mean(SCORE**3 * (LOSS[..., None] - BEST)) / (examples * NORM)


def test_the_bias_is_of_first_order_in_one_minus_the_decay():
    gaps = [np.abs(contemporaneous_bias(1 - e) / e - leading(2)).max() for e in (1e-2, 1e-3, 1e-4)]
    assert gaps[0] < 0.02 * np.abs(leading(2)).max()
    np.testing.assert_allclose([gaps[0] / gaps[1], gaps[1] / gaps[2]], 10, rtol=0.05)


def test_the_bias_is_of_first_order_in_one_over_the_batch():
    """At a decay of 0.5; over 2, 4 and 6 examples what is left after the first order falls like 1 / B^2 or faster."""
    decay, left = 0.5, []
    for copies in (1, 2, 3):
        average, _ = found(RunningReinforce(decay, 1, lagged=False), Gates(copies))
        bias = (average - np.tile(TRUTH, (copies, 1)))[:2]
        first = (1 - decay) * leading(2 * copies)
        assert (np.abs(bias - first) < 0.6 * np.abs(first).max()).all()
        left.append(np.abs(bias - first).max())
    assert left[1] < left[0] / 3 and left[2] < left[0] / 7


@pytest.mark.parametrize("logit", [-1.5, 0.0, 2.0])
def test_one_unit_shrinks_by_the_weight_of_a_minibatch(logit):
    """At any p, one half included: the bias is -(1 - c) times the gradient, to first order."""
    problem, e = OneBit(logit=logit), 1e-5
    truth = lab.Truth.exact(problem).mean["unit", "x"]
    average, _ = found(RunningReinforce(1 - e, 1, lagged=False), problem, site="x")
    np.testing.assert_allclose((average - truth) / e, -truth, rtol=1e-4)


def test_running_baselines_in_chains_and_under_sums():
    problem = Deep()
    truth = lab.Truth.exact(problem).mean
    for estimator in (RunningReinforce(0.7, 2), PerSite({"h1": Exact(), "h2": RunningReinforce(0.7, 2)})):
        assert estimator.unbiased is True
        for key, moments in lab.exact_moments(problem, estimator).items():
            close(moments.mean, truth[key].ravel())
    Chain(problem, fit(RunningReinforce(0.7, 3), problem, 0, 64)).check_mixing()
    assert RunningReinforce(lagged=False).unbiased is False and RunningReinforce.unbiased is True


def test_costs_of_estimators_that_are_fitted():
    for estimator, cost in ((RunningReinforce(paths=5), (5, 0)), (FittedStraightThrough(), (1, 1))):
        chain = Chain(QuadraticForm(), fit(estimator, QuadraticForm(), 0, 64), ("unit",))
        chain.draw(6, MonteCarlo("cost"))
        assert (chain.tally.losses, chain.tally.backwards) == cost
    for estimator in (RunningReinforce(), FittedStraightThrough()):
        with pytest.raises(lab.UsageError, match="was not fitted"):
            Chain(Gates(), estimator).draw(2, MonteCarlo("unfitted"))


# ---------------------------------------------------------------------- the baseline of a training loop
def minibatch(score, loss):
    return torch.as_tensor(score), torch.as_tensor(loss)


def baseline(decay: float) -> lab.RunningBaseline:
    return lab.RunningBaseline((2,), decay, dtype=torch.float64)


def test_a_running_baseline_begins_at_one_and_returns_the_value_from_before():
    running, numerator, denominator = baseline(0.7), np.full(2, 1e-6), np.full(2, 1e-6)
    for _, score, loss in itertools.islice(outcomes(), 3, 9):
        lagged = running.update(*minibatch(score, loss))
        close(lagged, numerator / denominator)
        numerator, denominator = after(numerator, denominator, score, loss, 0.7)
        close(running.value, numerator / denominator)
    close(baseline(0.9).value, 1.0)


def test_a_running_baseline_reaches_the_best_constant():
    """Minibatches that hold every state as often as it is probable: then the averages have no noise."""
    p = np.array([0.25, 0.75])
    h = np.array([[1, 1], [0, 1], [0, 1], [0, 0]] * 4)
    h[:, 1] = np.repeat([1, 1, 1, 0], 4)  # independent of the first unit
    loss, score = 2.7 * h[:, 0] - 1.1 * h[:, 1] + 0.6 * h[:, 0] * h[:, 1] + 0.4, h - p
    best = (score**2 * loss[:, None]).mean(0) / (score**2).mean(0)
    running = baseline(0.9)
    for _ in range(50):
        running.update(*minibatch(score, loss))
    share = 0.9**50
    above = share * 1e-6 + (1 - share) * (score**2 * loss[:, None]).mean(0)
    close(running.numerator, above)
    np.testing.assert_allclose(running.value, best, rtol=1e-6)
    # by hand: (1 - p) L1 + p L0, the other unit at its mean
    level = [2.7 * p[0] + 0.4, -1.1 * p[1] + 0.4]
    close(best[0], 0.75 * (2.7 + 0.6 * p[1]) - 1.1 * p[1] + 0.4)
    close(best[1], 0.25 * (-1.1 + 0.6 * p[0]) + level[0])


@pytest.mark.parametrize("lagged", [True, False])
def test_a_training_loop_is_unbiased_with_the_value_from_before_and_with_that_only(lagged):
    """Over all outcomes of two minibatches in succession, the first baseline being 1."""
    average = DIRECT.copy()
    for first, s1, l1 in outcomes():
        for second, s2, l2 in outcomes():
            running = baseline(0.9)
            running.update(*minibatch(s1, l1))
            centre = running.update(*minibatch(s2, l2))
            centre = (centre if lagged else running.value).numpy()
            average += first * second * s2 * (l2[:, None] - centre)
    assert (np.abs(average - TRUTH).max() < 1e-12) == lagged
    assert lagged or np.abs(average - TRUTH).max() > 0.02


def test_a_running_baseline_takes_losses_of_examples_and_no_graph():
    running = lab.RunningBaseline((3,))
    assert running.value.dtype == torch.get_default_dtype()
    with pytest.raises(lab.UsageError, match=r"units being \[3\]; found \[4, 3\] and \[\]"):
        running.update(torch.zeros(4, 3), torch.tensor(1.0))
    with pytest.raises(lab.UsageError, match=r"found \[4, 2\] and \[4\]"):
        running.update(torch.zeros(4, 2), torch.zeros(4))
    running.update(torch.ones(4, 3), torch.ones(4, requires_grad=True))
    assert not running.value.requires_grad
    for make in (lambda: lab.RunningBaseline((3,), 1.0), lambda: RunningReinforce(-0.1)):
        with pytest.raises(lab.UsageError, match="the decay of running averages is at least 0 and below 1; found"):
            make()


def test_a_baseline_of_a_training_is_measured_as_it_stands():
    running = baseline(0.9)
    for _, score, loss in itertools.islice(outcomes(), 5):
        running.update(*minibatch(score, loss))
    average, noise = found(Reinforce("given", fitted={"h": running.value}))
    close(average, TRUTH)
    close(noise, variance(SCORE * (LOSS[..., None] - running.value.numpy())))


# ---------------------------------------------------------------------- perturbations
def expected(logits: np.ndarray) -> np.ndarray:
    """J of each example at other logits ``[..., example, unit]``, the penalty at its own."""
    return (chances(1 / (1 + np.exp(-logits))) * LOSS).sum(-1)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


FIRST, SECOND, THIRD = VAR, VAR * (1 - 2 * P), VAR * (1 - 6 * VAR)  # derivatives of the sigmoid
CROSS = LOSS @ np.array([1.0, -1.0, -1.0, 1.0])  # coefficient of p1 p2 in J
ALONE = (TRUTH - DIRECT) / FIRST  # dJ / dp
THIRDS = ALONE * THIRD  # J_iii
MIXED = CROSS[:, None] * FIRST * SECOND[:, ::-1]  # J_ijj


def test_derivatives_of_the_expected_loss():
    """The closed forms that leading biases are held against, by differences."""
    e = 1e-2 * np.eye(2)
    for i in range(2):
        j = 1 - i
        third = sum(w * expected(LOGITS + k * e[i]) for k, w in ((2, 1), (1, -2), (-1, 2), (-2, -1))) / (2 * 1e-6)
        curve = [expected(LOGITS + s * e[i] + e[j]) + expected(LOGITS + s * e[i] - e[j]) for s in (1, -1)]
        still = [2 * expected(LOGITS + s * e[i]) for s in (1, -1)]
        mixed = ((curve[0] - still[0]) - (curve[1] - still[1])) / (2 * 1e-6)
        np.testing.assert_allclose(third, THIRDS[:, i], atol=1e-3)
        np.testing.assert_allclose(mixed, MIXED[:, i], atol=1e-3)


def shares(step: float) -> np.ndarray:
    """Mean of central differences over the gradient."""
    return (sigmoid(LOGITS + step) - sigmoid(LOGITS - step)) / (2 * step * VAR)


@pytest.mark.parametrize("step", [0.05, 0.5, 2.0])
def test_finite_differences(step):
    """J is affine in every p; the sample changes with the probability p(theta + h) - p(theta - h)."""
    average, noise = found(FiniteDifferences(step))
    close(average - DIRECT, shares(step) * (TRUTH - DIRECT))
    # of the change, the other unit at its value: [example, other, unit]
    jump = np.stack([LOSS[:, 2:] - LOSS[:, :2], LOSS[:, 1::2] - LOSS[:, ::2]], -1)
    chance = np.stack([np.stack([1 - P[:, 1], P[:, 1]], 1), np.stack([1 - P[:, 0], P[:, 0]], 1)], -1)
    square = shares(step) * VAR * (chance * jump**2).sum(1) / (2 * step)
    close(noise, square - (average - DIRECT) ** 2, 1e-10)
    assert np.abs(average - TRUTH).max() > 1e-2 * step**2


def test_the_bias_of_finite_differences():
    gaps = [np.abs((found(FiniteDifferences(h))[0] - TRUTH) / h**2 - THIRDS / 6).max() for h in (0.2, 0.1)]
    assert gaps[0] / gaps[1] == pytest.approx(4, rel=0.05)


class Deep(Problem):
    """Two layers, of two units and one; the loss hears both layers."""

    sites = (SiteSpec("h1", Bernoulli(), (2,)), SiteSpec("h2", Bernoulli(), (1,)))

    def __init__(self, batch: int = 2):
        self.batch = batch

    def weights(self):
        return {"a": THETA[: self.batch], "w": torch.tensor([[1.4, -0.8]], dtype=torch.float64)}

    def theta(self, weights, samples):
        return samples[0] @ weights["w"].T + 0.3 if samples else weights["a"]

    def loss(self, weights, samples, thetas):
        h1, h2 = samples
        return (1.3 * h2[:, 0] + 0.7 * h1[:, 0] - 0.4).square() * (1 + h1[:, 1])

    def __repr__(self):
        return f"Deep({self.batch})"


def test_finite_differences_in_a_chain():
    truth = lab.Truth.exact(Deep(1)).mean["unit", "h1"]
    average, _ = found(FiniteDifferences(0.8), Deep(1), site="h1")
    close(average, shares(0.8)[:1] * truth)
    chain = Chain(Deep(), FiniteDifferences(), ("unit",))
    chain.draw(3, MonteCarlo("cost"))
    assert chain.tally.losses == 1 + 2 * 2 + 2 * 1
    for estimator, losses in ((SPSA(), 5), (FieteSeung(), 5), (FieteSeung(baseline=None), 3)):
        chain = Chain(Deep(), estimator, ("unit",))
        chain.draw(3, MonteCarlo("cost"))
        assert chain.tally.losses == losses


class Unheard(Deep):
    """Nothing hears the second unit of the first layer."""

    def theta(self, weights, samples):
        return samples[0][:, :1] * 1.4 if samples else weights["a"]

    def loss(self, weights, samples, thetas):
        h1, h2 = samples
        return (1.3 * h2[:, 0] + 0.7 * h1[:, 0] - 0.4).square()


def test_later_layers_have_common_random_numbers_as_well():
    """So that a unit that nothing hears has no gradient, draw by draw."""
    draws = Chain(Unheard(), FiniteDifferences(), ("unit",)).draw(50, MonteCarlo("common"))["unit", "h1"]
    assert not draws[..., 1].any() and draws[..., 0].any()


def test_signs_and_normal_numbers():
    """Their moments, each within 7 standard errors of 2^16 numbers: 3e-12 for each of four."""
    count = 2**16
    site = Site(SiteSpec("h", Bernoulli(), (1,)), torch.zeros(1, count, 1, 1, dtype=torch.float64), MonteCarlo("moves"))
    signs, normal = site.signs().flatten(), site.normal().flatten()
    assert set(signs.tolist()) == {-1.0, 1.0} and abs(signs.mean()) < 7 / count**0.5
    assert abs(normal.mean()) < 7 / count**0.5 and abs(normal.square().mean() - 1) < 7 * (2 / count) ** 0.5
    assert abs(normal.pow(4).mean() - 3) < 7 * (96 / count) ** 0.5


def by_signs(step: float) -> np.ndarray:
    """Mean of SPSA over all signs."""
    total = np.zeros((2, 2))
    for z in itertools.product((-1.0, 1.0), repeat=2):
        z = np.array(z)
        total += ((expected(LOGITS + step * z) - expected(LOGITS - step * z)) / (2 * step))[:, None] * z / 4
    return total


@pytest.mark.parametrize("step", [0.1, 0.5])
def test_simultaneous_perturbation(step):
    average, _ = found(SPSA(step))
    close(average - DIRECT, by_signs(step))
    assert np.abs(average - TRUTH).max() > 1e-4


def test_the_bias_of_simultaneous_perturbation():
    constant = THIRDS / 6 + MIXED / 2
    gaps = [np.abs((found(SPSA(h))[0] - TRUTH) / h**2 - constant).max() for h in (0.2, 0.1)]
    assert gaps[0] / gaps[1] == pytest.approx(4, rel=0.05)
    assert np.abs(constant - THIRDS / 6).max() > 10 * gaps[1]  # the mixed term is needed


def smoothed(function, nodes: int = 40) -> np.ndarray:
    """Mean of a function of two standard normal numbers, by a Gauss-Hermite rule."""
    x, w = np.polynomial.hermite_e.hermegauss(nodes)
    w = w / w.sum()
    pairs = itertools.product(zip(x, w, strict=True), repeat=2)
    return sum(w1 * w2 * function(np.array([x1, x2])) for (x1, w1), (x2, w2) in pairs)


def by_noise(deviation: float) -> np.ndarray:
    """Mean of (J(theta + xi) - J(theta)) xi / sigma^2."""
    return smoothed(lambda z: (expected(LOGITS + deviation * z) - expected(LOGITS))[:, None] * z / deviation)


class OneExample(Gates):
    """One of the two: both together draw too many numbers."""

    batch = 1

    def __init__(self, which: int):
        self.which, self.copies = which, 1

    def theta(self, weights, samples):
        return weights["theta"][self.which, None]

    def loss(self, weights, samples, thetas):
        (h,), (a, b, c) = samples, TERMS[self.which]
        value = (a * h[:, 0] + b * h[:, 1]).exp() + c * h[:, 0].square() * h[:, 1]
        return value + PENALTY * thetas[0].square().sum(-1)

    def __repr__(self):
        return f"OneExample({self.which})"


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("baseline", ["unperturbed", None])
def test_fiete_seung(which, baseline):
    sigma = 0.7
    average, noise = summed(FieteSeung(sigma, baseline), OneExample(which), 26)
    close(average - DIRECT[which], by_noise(sigma)[which], 1e-9)
    assert np.abs(average - TRUTH[which]).max() > 1e-3
    if baseline is None:  # E[f^2 z^2] / sigma^2, the loss drawn at the moved probabilities

        def square(z):
            return (chances(sigmoid(LOGITS + sigma * z)) * LOSS**2).sum(-1)[:, None] * (z / sigma) ** 2

        close(noise, smoothed(square)[which] - (average - DIRECT[which]) ** 2, 1e-8)


def test_the_bias_of_fiete_seung():
    constant = (THIRDS + MIXED) / 2
    gaps = [np.abs((by_noise(s) - (TRUTH - DIRECT)) / s**2 - constant).max() for s in (0.2, 0.1)]
    assert gaps[0] / gaps[1] == pytest.approx(4, rel=0.1)
    assert np.abs(constant - THIRDS / 2).max() > 10 * gaps[1]


def test_common_random_numbers_cost_one_order_less():
    """A quarter of the deviation makes the variance four times as large, and without a baseline sixteen times."""
    for estimator, ratio in ((FieteSeung(), 4), (FieteSeung(baseline=None), 16)):
        large, small = (summed(replace(estimator, deviation=s), OneExample(0), 8)[1] for s in (0.02, 0.005))
        np.testing.assert_allclose(small / large, ratio, rtol=0.02)
    # one bit: E[z^2 |p(theta + sigma z) - p(theta)|] (f(1) - f(0))^2 / sigma^2, to first order; E|z|^3 = 2 sqrt(2 / pi)
    sigma, p, jump = 1e-3, 0.2, (1 - 0.45) ** 2 - 0.45**2
    _, noise = found(FieteSeung(sigma), OneBit(), 20, site="x")
    assert noise[0, 0] == pytest.approx(p * (1 - p) * jump**2 * 2 * np.sqrt(2 / np.pi) / sigma, rel=0.01)


def test_fiete_seung_on_gaussian_units():
    """J = (mu - k)^2 + s^2, smoothed in mu and log s: 2 (mu - k) and 2 s^2 exp(2 sigma^2)."""
    mu, s, k, sigma = 1.0, 0.6, 0.5, 0.4
    problem = GaussianPolynomial(mean=(mu,), deviation=(s,), k=(k,))
    average, _ = found(FieteSeung(sigma), problem, 20, site="x")
    np.testing.assert_allclose(average[0], [2 * (mu - k), 2 * s**2 * np.exp(2 * sigma**2)], rtol=1e-6)


class Mistaken(Estimator):
    """Perturbations with a mistake in each."""

    families = (Bernoulli,)

    def __init__(self, mistake: str):
        self.mistake = mistake

    def surrogate(self, site, downstream):
        loss = downstream(site.sample())
        theta, step = site.theta.detach(), 0.5
        if self.mistake == "not divided by the variance":
            noise = site.normal()
            moved, still = losses_at(site, torch.stack([theta + step * noise, theta]), downstream)
            return loss + site.inject(site.expand(moved - still) * noise * step)
        signs = site.signs()
        up, down = losses_at(site, torch.stack([theta + step * signs, theta - step * signs]), downstream)
        if self.mistake == "not divided by the sign":
            return loss + site.inject(site.expand((up - down) / (2 * step)) * torch.ones_like(signs))
        assert self.mistake == "one-sided, divided by two steps"
        still = losses_at(site, theta[None], downstream)[0]
        return loss + site.inject(site.expand((up - still) / (2 * step)) * signs)


def test_mistaken_perturbations_are_seen():
    average, _ = summed(Mistaken("not divided by the variance"), OneExample(0), 8)
    assert np.abs(average - DIRECT[0] - by_noise(0.5)[0]).max() > 0.05
    for mistake in ("not divided by the sign", "one-sided, divided by two steps"):
        average, _ = found(Mistaken(mistake), OneExample(0))
        assert np.abs(average - DIRECT[0] - by_signs(0.5)[0]).max() > 0.05


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: FiniteDifferences(0.0), "the step of FiniteDifferences is positive; found 0.0"),
        (lambda: SPSA(-1.0), "the step of SPSA is positive; found -1.0"),
        (lambda: FieteSeung(0.0), "the deviation of FieteSeung is positive; found 0.0"),
        (lambda: FieteSeung(baseline="mean"), "the baseline of FieteSeung is \"unperturbed\" or None; found 'mean'"),
    ],
)
def test_steps_are_positive(make, told):
    with pytest.raises(lab.UsageError, match=told):
        make()


# ---------------------------------------------------------------------- curve-through and the trapezoid rule
def test_curve_through():
    average, noise = found(CurveThrough())
    close(average, mean(SLOPE * SCORE**2) + DIRECT)
    close(noise, variance(SLOPE * SCORE**2))
    at = {h: SLOPE[:, STATES[:, 0] == h, 0] for h in (0, 1)}  # [example, other unit]
    weight = np.stack([1 - P[:, 1], P[:, 1]], 1)
    by_hand = VAR[:, 0] * (weight * ((1 - P[:, :1]) * at[1] + P[:, :1] * at[0])).sum(1)
    close(average[:, 0] - DIRECT[:, 0], by_hand)
    assert np.abs(average - TRUTH).max() > 0.05  # the loss is no quadratic
    close(found(CurveThrough(True))[0] - DIRECT, VAR * (average - DIRECT))


def test_biases_of_straight_through_and_curve_through_cancel_for_quadratics():
    """a p (1 - p) (1 - 2 p), with a the coefficient of the square, in one unit and with interactions."""
    for problem, a in ((OneBit(), np.ones(1)), (QuadraticForm(), np.square(QuadraticForm().coefficients))):
        p = sigmoid(problem.weights()["theta"].numpy())
        truth = lab.Truth.exact(problem).mean["unit", "x"]
        curve = found(CurveThrough(), problem, site="x")[0] - truth
        straight = found(StraightThrough(), problem, site="x")[0] - truth
        close(curve[0], a * p * (1 - p) * (1 - 2 * p))
        close(curve, -straight)
        assert np.abs(curve).max() > 0.05


def test_the_trapezoid_rule_is_reinmax():
    """Draw by draw: half of straight-through plus half of curve-through. Exact for quadratics, not beyond."""
    for problem, site in ((Gates(), "h"), (QuadraticForm(), "x")):
        draws = [
            Chain(problem, e, ("unit",)).draw(64, MonteCarlo("trapezoid"))["unit", site]
            for e in (StraightThrough(), CurveThrough(), ReinMax())
        ]
        # of the penalty, which has no part in it, each holds the whole
        close((draws[0] + draws[1]) / 2, draws[2])
        truth = lab.Truth.exact(problem).mean["unit", site]
        exact = np.abs(found(ReinMax(), problem, site=site)[0] - truth).max() < 1e-12
        assert exact == isinstance(problem, QuadraticForm)


# ---------------------------------------------------------------------- fitted straight-through
X, Y = SLOPE * VAR[:, None], SCORE * (LOSS[..., None] - BEST)


def regressed(x, y, chance):
    """Weighted least squares of y on x and a constant, over draws and examples ``[example, state]``."""
    root = np.sqrt(chance.ravel())
    design = np.stack([x.ravel(), np.ones(x.size)], 1) * root[:, None]
    return np.linalg.lstsq(design, y.ravel() * root, rcond=None)[0]


def test_the_fit_is_least_squares():
    coefficients = np.stack([regressed(X[..., u], Y[..., u], CHANCE) for u in range(2)], 1)  # [2, unit]
    gain, shift = coefficients
    average, noise = found(FittedStraightThrough())
    close(average, gain * mean(X) + shift + DIRECT)
    close(noise, gain**2 * variance(X))
    # right in the mean over examples, and for none of them
    close(average.mean(0), TRUTH.mean(0))
    assert (np.abs(average - TRUTH) > 5e-3).all()
    # over draws and examples together: the squared correlation is what is left of the variance
    pooled = {"x": X, "y": Y, "fit": gain * X + shift}
    spread = {k: (mean(v**2).mean(0) - mean(v).mean(0) ** 2) for k, v in pooled.items()}
    joint = mean(X * Y).mean(0) - mean(X).mean(0) * mean(Y).mean(0)
    close(spread["fit"], joint**2 / spread["x"])
    assert (spread["fit"] < spread["y"]).all()
    assert (found(Reinforce("unit"))[1] > noise).all()


def test_other_fits_are_seen():
    """Without the constant, or to scores without a baseline, the mean over examples or the error is another."""
    fitted = np.stack([regressed(X[..., u], Y[..., u], CHANCE) for u in range(2)], 1)
    alone = (mean(X * Y) / 1).mean(0) / mean(X**2).mean(0)
    assert np.abs((alone * mean(X)).mean(0) - (TRUTH - DIRECT).mean(0)).max() > 5e-3
    raw = np.stack([regressed(X[..., u], (SCORE * LOSS[..., None])[..., u], CHANCE) for u in range(2)], 1)
    assert np.abs(raw - fitted).max() > 0.05

    def error(gain, shift):
        return mean((gain * X + shift - Y) ** 2).mean(0)

    assert (error(*fitted) < error(*raw) - 1e-3).all() and (error(*fitted) < error(alone, 0) - 1e-5).all()


def test_with_one_example_the_constant_makes_the_mean_right():
    average, noise = found(FittedStraightThrough(), OneExample(1))
    close(average, TRUTH[1:])
    assert (noise < found(Reinforce("optimal"), OneExample(1))[1]).all()


def test_layers_are_fitted_from_the_last_to_the_first():
    """On two layers, by hand: the first layer's estimate goes through the second's as fitted."""
    w, bias = np.array([1.4, -0.8]), 0.3
    q = sigmoid(STATES @ w + bias)  # of h2, at each state of h1
    h2 = np.array([0.0, 1.0])
    inner = 1.3 * h2 + 0.7 * STATES[:, :1] - 0.4  # [h1, h2]
    outer = 1 + STATES[:, 1:]
    loss = inner**2 * outer
    slope2 = 2 * 1.3 * inner * outer
    slope1 = np.stack([2 * 0.7 * inner * outer, inner**2], -1)  # [h1, h2, unit]
    chance = CHANCE[..., None] * np.stack([1 - q, q], -1)  # [example, h1, h2]

    def fitted(x, score):
        """Coefficients, with the unit's best constant as baseline."""
        best = (chance * score**2 * loss).sum() / (chance * score**2).sum()
        return regressed(np.broadcast_to(x, chance.shape), score * (loss - best), chance)

    spread = (q * (1 - q))[:, None]
    score2 = np.broadcast_to(h2 - q[:, None], chance.shape)
    gain2, shift2 = fitted(slope2 * spread, score2)
    passed = slope1 + (gain2 * slope2 * spread + shift2)[..., None] * w
    found_ = lab.exact_moments(Deep(), FittedStraightThrough())
    truth = lab.Truth.exact(Deep()).mean
    for unit in range(2):
        x = passed[..., unit] * VAR[:, unit, None, None]
        score = np.broadcast_to(SCORE[:, :, None, unit], chance.shape)
        gain, shift = fitted(x, score)
        close(found_["unit", "h1"].mean.reshape(2, 2)[:, unit], gain * (chance * x).sum((1, 2)) + shift)
    close(found_["unit", "h2"].mean, gain2 * (chance * slope2 * spread).sum((1, 2)) + shift2)
    # a bias that all examples share has the right mean; the weight between the layers has not
    for site in ("h1", "h2"):
        close(found_["unit", site].mean.reshape(2, -1).mean(0), truth["unit", site].mean(0))
    assert np.abs(found_["weight", "w"].mean - truth["weight", "w"].ravel()).max() > 2e-3


def test_a_cheap_estimate_that_never_varies_is_left_out():
    """For an additive loss x is the gradient itself: the fit is its mean, on draws as in the sum."""
    problem = Additive(logits=(-0.7, 0.3), coefficients=(1.0, -2.0))
    truth = lab.Truth.exact(problem).mean["unit", "x"]
    average, noise = found(FittedStraightThrough(), problem, site="x")
    close(average, truth)
    close(noise, 0)
    drawn = fit(FittedStraightThrough(), problem, 0, 2**12)
    assert drawn.fitted["x"][0].tolist() == [0, 0]
    # the constant is a mean of 2^12 draws: within 7 standard errors, which is 3e-12 for either
    _, spread = found(Reinforce("unit"), problem, site="x")
    assert (np.abs(drawn.fitted["x"][1].numpy() - truth[0]) < 7 * np.sqrt(spread[0] / 2**12)).all()


def test_a_fit_on_draws_is_near_the_exact_one():
    """Where x hardly varies its coefficient is still known: the moments are taken about the mean.

    The coefficient's standard error is about sd(residual) / (sd(x) sqrt n); 10 of them, for both coefficients.
    """
    count = 2**14
    drawn = fit(FittedStraightThrough(), Gates(), 0, count).fitted["h"].numpy()
    for u in range(2):
        gain, shift = regressed(X[..., u], Y[..., u], CHANCE)
        sd = np.sqrt([mean(v**2).mean(0)[u] - mean(v).mean(0)[u] ** 2 for v in (X, Y)])
        assert abs(drawn[0, u] - gain) < 10 * sd[1] / (sd[0] * np.sqrt(count))
        assert abs(drawn[1, u] - shift) < 10 * (sd[1] + abs(mean(X).mean(0)[u]) * sd[1] / sd[0]) / np.sqrt(count)


def cubic(x):
    return (x - 0.3).pow(3).sum(-1) + x[..., 0] * x[..., 1]


SMOOTH = lab.Objective(lab.StochasticTimesSmooth(), THETA[0], cubic)


def test_perturbations_where_values_move_with_theta():
    """Stochastic times smooth: the mask's law and the value both move, and no score tells. J by hand, at two units."""

    def j(logits):
        q = np.sqrt(sigmoid(logits))
        values = np.stack([np.zeros(2), q])  # [state, unit]
        weights = np.stack([1 - q, q])
        (x, y), (v, w) = values.T[:, :, None], weights.T[:, :, None]
        table = (x - 0.3) ** 3 + (y.T - 0.3) ** 3 + x * y.T
        return (v * w.T * table).sum()

    h, a = 0.4, LOGITS[0]
    differences = [(j(a + h * e) - j(a - h * e)) / (2 * h) for e in np.eye(2)]
    close(found(FiniteDifferences(h), SMOOTH, site="x")[0][0], differences)
    signs = [np.array(z) for z in itertools.product((-1.0, 1.0), repeat=2)]
    close(found(SPSA(h), SMOOTH, site="x")[0][0], sum((j(a + h * z) - j(a - h * z)) / (2 * h) * z / 4 for z in signs))
    average, _ = summed(FieteSeung(h), SMOOTH, 26, site="x")
    close(average, smoothed(lambda z: (j(a + h * z) - j(a)) * z / h), 1e-9)


def test_estimators_apply_where_they_say():
    for estimator in (CurveThrough(), FittedStraightThrough()):
        with pytest.raises(lab.UsageError, match="applies to Bernoulli sites, and not to the Normal"):
            lab.measure(GaussianPolynomial(), estimator, 32)
    with pytest.raises(lab.UsageError, match="applies to Scored sites, and not to the StochasticTimesSmooth"):
        Chain(SMOOTH, RunningReinforce())
    for estimator in (Reinforce("unit"), RunningReinforce(), FiniteDifferences(), SPSA(), FieteSeung()):
        for problem in (TwoLayer(), GaussianPolynomial()):
            assert lab.measure(problem, estimator, 32).replicates >= 32
