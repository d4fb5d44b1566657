"""Stochastic neurons of Bengio, Léonard, Courville 2013 (arXiv:1308.3432): laws, gradients, and what applies to them.

Exact means are equalities. The one test on draws compares 66 coordinates at Z = 7.5, 6.4e-14 each for a Gaussian mean
and at most 1100 times that for skew ones, as in `test_unbiasedness`: 5e-9 in all.
"""

import dataclasses
import math

import numpy as np
import pytest
import torch
from neuron_nets import NETS, NEURONS, Layers
from scipy import integrate, special, stats
from torch import Tensor, nn

import estimator_lab as lab
from estimator_lab.chain import Chain
from estimator_lab.errors import NotConverged, TooLarge, UsageError
from estimator_lab.estimator import Estimator
from estimator_lab.estimators import (
    ARM,
    ESTIMATORS,
    Callback,
    DropIn,
    Exact,
    FittedStraightThrough,
    HeldMask,
    LeaveOneOut,
    LocalExpectation,
    MaskScore,
    MeanField,
    Pathwise,
    PerSite,
    Reinforce,
    RunningReinforce,
    Sample,
    StraightThrough,
)
from estimator_lab.expectation import expectation
from estimator_lab.families import (
    FAMILIES,
    AdditiveNoise,
    Bernoulli,
    Deterministic,
    Dropout,
    NoisySigmoid,
    RectifiedLogistic,
    RectifiedNormal,
    Reparameterised,
    Scored,
    StochasticTimesSmooth,
)
from estimator_lab.marginal import layer_sum
from estimator_lab.measurement import measure, prepare
from estimator_lab.nn import Stochastic, from_module
from estimator_lab.noise import NoNoise
from estimator_lab.problems.trained import drawn
from estimator_lab.truth import Truth

A = torch.tensor([-30.0, -6.0, -1.3, -0.2, 0.6, 2.5, 30.0], dtype=torch.float64)
PRINTED, CODE = StochasticTimesSmooth(), StochasticTimesSmooth(mask=1.0)
MASKED = [PRINTED, CODE, StochasticTimesSmooth(mask=0.3, smooth=0.8)]
RECTIFIED = [RectifiedNormal(), RectifiedNormal(0.4), RectifiedLogistic(), RectifiedLogistic(0.6)]


def one(family, theta, f, name=""):
    return lab.Objective(family, torch.as_tensor(theta, dtype=torch.float64), f, name)


def unit_moments(problem, estimator, nodes=1):
    return lab.exact_moments(problem, estimator, nodes, ("unit",))["unit", problem.sites[0].name]


def gap(problem: lab.Problem, estimator: Estimator, nodes: int = 1, truth=None) -> float:
    """Largest error of the exact mean, in units of the largest true gradient."""
    truth = truth or Truth.exact(problem).mean
    found = lab.exact_moments(problem, estimator, nodes)
    scale = max(np.abs(t).max() for t in truth.values())
    return max(float(np.abs(found[k].mean - t.ravel()).max()) for k, t in truth.items()) / scale


# ---------------------------------------------------------------------- Proposition 1: noisy rectifiers
@pytest.mark.parametrize("family", RECTIFIED, ids=repr)
def test_rectifiers_are_active_and_have_a_mean_as_stated(family):
    """Proposition 1, and its Gaussian twin; all by integrals of scipy's over the noise itself."""
    logistic = isinstance(family, RectifiedLogistic)
    s, law = (family.scale, stats.logistic) if logistic else (family.deviation, stats.norm)
    for a, kink, mean in zip(A.tolist(), family.jumps(A)[:, 0].tolist(), family.mean(A).tolist(), strict=True):
        t = a / s
        active = special.expit(t) if logistic else special.ndtr(t)
        np.testing.assert_allclose(special.ndtr(-kink), active, rtol=1e-10)  # P(z > kink)
        area, _ = integrate.quad(law.sf, -t, max(-t, 0.0) + 60, epsabs=0, epsrel=1e-12, limit=200)
        # E max(0, t + e) is the integral of P(e > x) from -t on
        np.testing.assert_allclose(mean, s * area, rtol=1e-9, atol=1e-16)
        closed = s * np.logaddexp(0, t) if logistic else a * special.ndtr(t) + s * stats.norm.pdf(t)
        np.testing.assert_allclose(mean, closed, rtol=1e-9, atol=1e-16)
    leaf = A.clone().requires_grad_()
    (slope,) = torch.autograd.grad(family.mean(leaf).sum(), leaf)
    t = A.numpy() / s
    np.testing.assert_allclose(slope, special.expit(t) if logistic else special.ndtr(t), rtol=1e-9, atol=1e-16)


@pytest.mark.parametrize("family", RECTIFIED, ids=repr)
def test_noise_has_its_law(family):
    z = torch.linspace(-8, 8, 33, dtype=torch.float64)
    law = stats.logistic if isinstance(family, RectifiedLogistic) else stats.norm
    e = family.noise_of(z)
    np.testing.assert_allclose(law.logcdf(e), stats.norm.logcdf(z), rtol=1e-9)
    np.testing.assert_allclose(family.normal_of(e), z, rtol=1e-9)
    np.testing.assert_allclose(family.log_cdf(e), law.logcdf(e), rtol=1e-9)
    np.testing.assert_allclose(family.log_density(e), law.logpdf(e), rtol=1e-9)


@pytest.mark.parametrize("family", RECTIFIED, ids=repr)
def test_rectifier_backpropagation_of_a_linear_loss(family):
    """Its draws are c 1[h > 0]: mean c P, variance c^2 P (1 - P); exact with one node per piece."""
    c, a = np.array([1.7, -0.6]), np.array([-1.3, 0.6])
    p = special.expit(a / family.scale) if isinstance(family, RectifiedLogistic) else special.ndtr(a / family.scale)
    found = unit_moments(one(family, a, lambda x: x @ torch.as_tensor(c)), Pathwise())
    np.testing.assert_allclose(found.mean, c * p, rtol=1e-12)
    np.testing.assert_allclose(found.variance, c**2 * p * (1 - p), rtol=1e-12)


def brute(family, a: list[float], f) -> float:
    """E f of two rectified units by scipy: four pieces, atom or density for either unit."""
    s, logistic = family.scale, isinstance(family, RectifiedLogistic)
    law = stats.logistic if logistic else stats.norm

    def density(y, m):
        t = (y - m) / s
        return 0.25 / math.cosh(t / 2) ** 2 / s if logistic else math.exp(-t * t / 2) / math.sqrt(2 * math.pi) / s

    zero = [law.cdf(-m / s) for m in a]
    top = [max(m, 0) + (36 if logistic else 9) * s for m in a]
    nodes = [np.polynomial.legendre.leggauss(160) for _ in a]
    y, w = zip(*[((x + 1) * t / 2, v * t / 2) for (x, v), t in zip(nodes, top, strict=True)], strict=True)
    y = [np.append(0.0, v) for v in y]
    w = [np.append(z, v * [density(u, m) for u in x[1:]]) for z, v, x, m in zip(zero, w, y, a, strict=True)]
    grid = torch.as_tensor(np.stack(np.meshgrid(*y, indexing="ij"), -1))
    return float((w[0][:, None] * w[1] * f(grid).numpy()).sum())


def interacting(x: Tensor) -> Tensor:
    return (0.7 * x[..., 0] - 1.1 * x[..., 1] - 0.3).square() + (-(x[..., 0] - 0.5 * x[..., 1]).square()).exp()


@pytest.mark.parametrize("family", RECTIFIED, ids=repr)
def test_rectifiers_against_finite_differences_of_brute_force(family):
    """Truth, score function and backpropagation agree with sums that share nothing with the package."""
    a, h = [-1.3, 0.6], 1e-3
    problem = one(family, a, interacting)
    truth = Truth.exact(problem, ("unit",)).mean["unit", "x"][0]
    for unit in range(2):
        value = [brute(family, [m + k * h * (i == unit) for i, m in enumerate(a)], interacting) for k in (2, 1, -1, -2)]
        slope = (-value[0] + 8 * value[1] - 8 * value[2] + value[3]) / (12 * h)
        np.testing.assert_allclose(truth[unit], slope, rtol=1e-8, atol=1e-9)
    for estimator in (Pathwise(), Reinforce(), Reinforce("optimal"), Exact()):
        np.testing.assert_allclose(unit_moments(problem, estimator, 40).mean, truth, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("family", RECTIFIED, ids=repr)
def test_second_moments_of_one_rectified_unit(family):
    """Of score function and backpropagation, by quadrature over the value: an atom and a density."""
    a, s = -0.7, family.scale
    law = stats.logistic if isinstance(family, RectifiedLogistic) else stats.norm
    problem = one(family, [a], lambda x: (0.4 * x[..., 0] - 1).square())

    def over(g, zero):
        return integrate.quad(lambda y: g(y) * law.pdf((y - a) / s) / s, 0, 40 * s, limit=400, epsrel=1e-12)[
            0
        ] + zero * law.cdf(-a / s)

    def score(y):
        t = (y - a) / s
        return (np.tanh(t / 2) if law is stats.logistic else t) / s

    at_zero = -law.pdf(-a / s) / law.cdf(-a / s) / s
    found = unit_moments(problem, Reinforce(), 48)
    np.testing.assert_allclose(found.mean[0], over(lambda y: (0.4 * y - 1) ** 2 * score(y), at_zero), rtol=1e-8)
    square = over(lambda y: (0.4 * y - 1) ** 4 * score(y) ** 2, at_zero**2)
    np.testing.assert_allclose(found.variance[0] + found.mean[0] ** 2, square, rtol=1e-8)
    found = unit_moments(problem, Pathwise(), 48)
    np.testing.assert_allclose(found.mean[0], over(lambda y: 0.8 * (0.4 * y - 1), 0.0), rtol=1e-8)
    square = over(lambda y: 0.64 * (0.4 * y - 1) ** 2, 0.0)
    np.testing.assert_allclose(found.variance[0] + found.mean[0] ** 2, square, rtol=1e-8)


class Unannounced(RectifiedNormal):
    """Does not say where it is cut."""

    def jumps(self, theta):
        return theta.new_empty(*theta.shape, 0)


def test_a_kink_that_nobody_announced_is_refused_and_not_integrated():
    """By exact moments, which used to take any number of nodes, and by what judges a measurement."""
    a = [-0.4, 0.9]
    plain, hidden = (one(family, a, interacting, "f") for family in (RectifiedNormal(), Unannounced()))
    truth = Truth.exact(plain)
    assert expectation(prepare(plain, Pathwise(), reference=truth.mean)) is not None
    assert expectation(prepare(hidden, Pathwise(), reference=truth.mean)) is None
    for estimator in (Pathwise(), Reinforce()):
        unit_moments(plain, estimator, 32)
        with pytest.raises(NotConverged, match=r"('unit', 'x')|has not converged: .* by 32 and 33 nodes differs"):
            unit_moments(hidden, estimator, 32)


def test_too_few_nodes_are_refused():
    for family in (RectifiedNormal(), RectifiedLogistic(), AdditiveNoise(), NoisySigmoid()):
        with pytest.raises(NotConverged, match=r"by 1 and 2 nodes differs by a relative .* use more nodes"):
            unit_moments(one(family, [-1.3, 0.6], interacting), Pathwise())


# ---------------------------------------------------------------------- Proposition 2: stochastic times smooth
def test_stochastic_times_smooth_has_the_mean_and_the_rate_of_proposition_2():
    """Printed: E h = p and P(h > 0) = sqrt(p). As coded: E h = p^1.5 and P(h > 0) = p."""
    a = A[1:-1]
    p = a.sigmoid()
    for family, mean, rate in ((PRINTED, p, p.sqrt()), (CODE, p**1.5, p)):
        values, weights = family.rule(a, 1)
        torch.testing.assert_close(family.mean(a), mean, rtol=1e-13, atol=0)
        torch.testing.assert_close((values * weights).sum(0), mean, rtol=1e-13, atol=0)
        torch.testing.assert_close(weights[1], rate, rtol=1e-13, atol=0)
        torch.testing.assert_close(values[1], p.sqrt(), rtol=1e-13, atol=0)
        u = (torch.arange(4096, dtype=torch.float64) + 0.5) / 4096
        active = family.sample(a.expand(4096, -1), u[:, None].expand(-1, len(a))) > 0
        assert ((active.double().mean(0) - rate).abs() <= 1 / 4096).all()


def exponential(c: float):
    return lambda x: (c * x).exp().sum(-1)


def test_golden_numbers_of_the_held_mask():
    """Half of the gradient for linear f, some other share else, and at times the wrong sign."""
    for a, ratio in ((-6.0, 0.506), (-2.0, 0.542), (0.0, 0.582)):
        problem = one(PRINTED, [a], exponential(1.0))
        truth = Truth.exact(problem).mean["unit", "x"].item()
        q, p = special.expit(a) ** 0.5, special.expit(a)
        np.testing.assert_allclose(truth, q * (1 - p) / 2 * (math.exp(q) - 1 + q * math.exp(q)), rtol=1e-12)
        np.testing.assert_allclose(unit_moments(problem, HeldMask()).mean[0] / truth, ratio, atol=5e-4)
    problem = one(PRINTED, [-2.0], lambda x: (x[..., 0] - 0.3).square())
    np.testing.assert_allclose(Truth.exact(problem).mean["unit", "x"].item(), -0.008621, atol=5e-7)
    np.testing.assert_allclose(unit_moments(problem, HeldMask()).mean[0], 0.004752, atol=5e-7)


@pytest.mark.parametrize("family", MASKED, ids=repr)
def test_the_gradient_of_masked_units_is_the_formula_of_the_docstring(family):
    m, k, a = family.mask, family.smooth, np.array([-4.0, -1.3, 0.6, 2.0])
    p = special.expit(a)
    expected = k * (1 - p) * p ** (m + k) * 1.3 * np.exp(1.3 * p**k)
    expected += m * (1 - p) * p**m * (np.exp(1.3 * p**k) - 1)
    truth = Truth.exact(one(family, a, exponential(1.3))).mean["unit", "x"][0]
    np.testing.assert_allclose(truth, expected, rtol=1e-12)


@pytest.mark.parametrize("family", MASKED, ids=repr)
def test_the_held_mask_has_its_share_of_a_linear_loss(family):
    """k / (k + m): a half in the printed form, a third as coded; for units and for the weights that feed them."""
    problem = Layers((family,), (3,), linear=True)
    truth, found = Truth.exact(problem).mean, lab.exact_moments(problem, HeldMask())
    share = family.smooth / (family.smooth + family.mask)
    for key in (("unit", "h1"), ("weight", "w1")):
        np.testing.assert_allclose(found[key].mean, share * truth[key].ravel(), rtol=1e-12)
    np.testing.assert_allclose(found["weight", "v"].mean, truth["weight", "v"], rtol=1e-12)  # no share of the mask's
    p, v = problem.theta(problem.weights(), ()).sigmoid(), problem.weights()["v"]
    k, m = family.smooth, family.mask
    variance = (k * v * (1 - p) * p**k).square() * p**m * (1 - p**m)
    np.testing.assert_allclose(found["unit", "h1"].variance, variance.ravel(), rtol=1e-11)


@dataclasses.dataclass(frozen=True)
class WrongMaskScore(MaskScore):
    """With one of four mistakes."""

    mistake: str = ""

    def surrogate(self, site, downstream):
        value = site.sample() if self.mistake == "value left out" else site.rsample()
        loss = downstream(value)
        theta, b = site.theta.detach(), (value.detach() > 0).to(value)
        p = theta.sigmoid()
        wrong = {
            "score of a plain bit": b - p,
            "score of the printed form": (b - p.sqrt()) * (1 + p.sqrt()) / 2,
            "slope left out": (b - p.sqrt()) / (1 - p.sqrt()),
        }
        score = wrong.get(self.mistake, site.family.mask_score(theta, value.detach()))
        return loss + site.inject(site.expand(loss.detach()) * score)


@pytest.mark.parametrize("family", MASKED, ids=repr)
def test_the_mask_score_is_exactly_unbiased(family):
    """By enumeration on 3 units, 2 examples and a loss with interactions, and in a chain; with and without baseline."""
    problem = Layers((family,), (3,))
    truth = Truth.exact(problem).mean
    assert gap(problem, MaskScore(), truth=truth) < 1e-13
    assert gap(dataclasses.replace(problem, batch=1), MaskScore(2)) < 1e-13
    chain = Layers((family, family), (2, 2))
    assert gap(chain, MaskScore()) < 1e-13
    assert gap(problem, HeldMask(), truth=truth) > 0.1
    mistakes = ["slope left out", "value left out"]
    mistakes += ["score of a plain bit"] * (family != CODE) + ["score of the printed form"] * (family != PRINTED)
    for mistake in mistakes:
        assert gap(problem, WrongMaskScore(mistake=mistake), truth=truth) > 0.01, mistake
    assert gap(problem, WrongMaskScore(), truth=truth) < 1e-13


def test_the_mask_score_of_the_printed_form_is_the_formula():
    """(b - q) (1 + q) / 2, to rounding; and E = 0 and the derivative of log P for every form."""
    a = A[1:-1]
    for family in MASKED:
        for b in (0.0, 1.0):
            leaf = a.clone().requires_grad_()
            big_p = leaf.sigmoid() ** family.mask
            (slope,) = torch.autograd.grad((b * big_p.log() + (1 - b) * (1 - big_p).log()).sum(), leaf)
            torch.testing.assert_close(family.mask_score(a, torch.full_like(a, b)), slope, rtol=1e-11, atol=1e-13)
    q = a.sigmoid().sqrt()
    for b in (0.0, 1.0):
        expected = (b - q) * (1 + q) / 2
        torch.testing.assert_close(PRINTED.mask_score(a, torch.full_like(a, b)), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("size", [40.0, 300.0, 1e4])
def test_saturated_neurons_stay_finite(dtype, size):
    theta = torch.tensor([-size, size], dtype=dtype)
    for family in NEURONS:
        leaf = theta.clone().requires_grad_()
        for noise in (0.01, 0.5, 0.99) if family.noise == "uniform" else (-3.0, 0.1, 3.0):
            value = family.sample(leaf, torch.full_like(theta, noise))
            found = [value, family.mean(leaf), *family.rule(leaf, 16)]
            if isinstance(family, StochasticTimesSmooth):
                assert torch.isfinite(family.mask_score(theta, value.detach())).all()
            if isinstance(family, Scored):
                assert torch.isfinite(family.score(theta, value.detach())).all()
            for t in found:
                if not t.requires_grad:
                    continue
                (slope,) = torch.autograd.grad(t.sum(), leaf, retain_graph=True, allow_unused=True)
                assert torch.isfinite(t).all() and (slope is None or torch.isfinite(slope).all()), (family, t)


# ---------------------------------------------------------------------- every estimator on every law
FIT = {
    Reinforce(): Scored,
    LeaveOneOut(4): Scored,
    Pathwise(): Reparameterised,
    HeldMask(): StochasticTimesSmooth,
    MaskScore(): StochasticTimesSmooth,
    ARM(): Bernoulli,
    LocalExpectation(): Bernoulli,
    StraightThrough(): Bernoulli,
    Sample(): lab.Family,
    MeanField(): lab.Family,
    Exact(): lab.Family,
    DropIn(torch.sigmoid): lab.Family,
    Callback(lambda theta, f: theta): lab.Family,
}


@pytest.mark.parametrize("family", [Bernoulli(), *NEURONS], ids=repr)
def test_who_applies_to_what(family):
    """And a refusal is one line that says why."""
    problem = one(family, [0.3, -1.2], interacting)
    for estimator, kind in FIT.items():
        if isinstance(family, kind):
            Chain(problem, estimator, ("unit",)).check_mixing()
            continue
        with pytest.raises(UsageError) as told:
            Chain(problem, estimator)
        assert f"sites, and not to the {family!r} site 'x'" in str(told.value) and "\n" not in str(told.value)
        reason = {Scored: "whose values move with theta", Reparameterised: "do not have the whole gradient"}
        assert reason.get(kind, "") in str(told.value)


def test_laws_are_of_the_types_that_they_should_be():
    types = {f: (issubclass(f, Scored), issubclass(f, Reparameterised)) for f in FAMILIES if f not in (lab.Normal,)}
    assert types == {
        Bernoulli: (True, False),
        lab.Categorical: (True, False),
        AdditiveNoise: (True, True),
        Dropout: (False, True),
        NoisySigmoid: (False, True),
        RectifiedNormal: (True, True),
        RectifiedLogistic: (True, True),
        StochasticTimesSmooth: (False, False),
        Deterministic: (False, True),
    }


class Scores(Estimator):
    """A user's, which takes the score of any site."""

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        return loss + site.score(value, loss)


def test_a_score_that_a_law_does_not_have_is_told_to_a_users_estimator():
    assert gap(one(AdditiveNoise(), [0.3], exponential(0.4)), Scores(), 40) < 1e-9
    with pytest.raises(UsageError, match=r"the StochasticTimesSmooth\(.*\) site 'x' move with theta: it has no score"):
        measure(one(PRINTED, [0.3], exponential(0.4)), Scores(), 32)


SINGLE = [Layers((f,), (3,) if f.noise == "uniform" else (2,), batch=1) for f in NEURONS]


@pytest.mark.parametrize("problem", SINGLE, ids=lambda p: repr(p.families[0]))
def test_unbiased_estimators_are_unbiased_on_every_law_and_the_others_are_not(problem):
    """Exact means of units and weights; a family that takes normal numbers gets 32 nodes on a piece."""
    truth = Truth.exact(problem).mean
    nodes = 32 if problem.families[0].noise == "normal" else 1
    for estimator in (Reinforce(), Reinforce("optimal"), Pathwise(), HeldMask(), MaskScore(), MeanField(), Sample()):
        if estimator.refuses(problem.sites[0]):
            continue
        off = gap(problem, estimator, nodes, truth)
        exact = isinstance(problem.families[0], Deterministic) and estimator != Sample()
        assert off < 1e-8 if estimator.unbiased or exact else off > 1e-3, (estimator, off)


@pytest.mark.parametrize("problem", SINGLE, ids=lambda p: repr(p.families[0]))
def test_what_judges_a_measurement_sees_the_same(problem):
    """Where it finds a rule of its own its mean is right, and it finds one for every law."""
    truth = Truth.exact(problem).mean
    found = 0
    for estimator in (Reinforce(), Pathwise(), HeldMask(), MaskScore(), MeanField()):
        if estimator.refuses(problem.sites[0]):
            continue
        known = expectation(prepare(problem, estimator, reference=truth))
        if known is None:
            continue
        found += estimator != MeanField()
        flat = np.concatenate([truth[k].ravel() for k in known.layout.shapes])
        off = np.abs(known.moments.mean[: len(flat)] - flat)
        assert (off <= known.rounding + 1e-11).all() == bool(estimator.unbiased or off.max() < 1e-11)
    assert found


CHAINS = [
    (NETS[-3], {"h1": MaskScore(), "h2": Reinforce()}, 1),
    (NETS[-3], {"h1": MaskScore(), "h2": Reinforce("optimal")}, 1),
    (NETS[-3], {"h1": MaskScore(), "h2": RunningReinforce(paths=2)}, 1),
    (NETS[-3], {"h1": MaskScore(), "h2": LocalExpectation()}, 1),
    (NETS[-3], {"h1": MaskScore(), "h2": ARM()}, 1),
    (NETS[-2], {"h1": Pathwise(), "h2": MaskScore(), "h3": Pathwise()}, 24),
    (NETS[-2], {"h1": Reinforce(), "h2": MaskScore(), "h3": Pathwise()}, 24),
    (NETS[-2], {"h1": Pathwise(), "h2": MaskScore(), "h3": Exact()}, 24),
    (NETS[-1], {"h1": LocalExpectation(), "h2": Pathwise(), "h3": Pathwise()}, 24),
    (NETS[-1], {"h1": Reinforce(), "h2": Reinforce(), "h3": Pathwise()}, 24),
]


@pytest.mark.parametrize(("problem", "parts", "nodes"), CHAINS, ids=lambda x: str(x)[:60])
def test_unbiased_estimators_stay_so_in_chains(problem, parts, nodes):
    """Next to discrete layers, flips with common random numbers among them; one example, all gradients."""
    estimator = PerSite(parts)
    assert estimator.unbiased
    off = gap(dataclasses.replace(problem, batch=1), estimator, nodes)
    assert off < (1e-13 if nodes == 1 else 1e-6), off


def test_a_learned_part_is_fitted_next_to_sites_it_does_not_apply_to():
    """Fitted straight-through is unbiased in the mean over examples of the one layer that it runs."""
    problem = Layers((Dropout(0.3), Bernoulli()), (2, 2))
    found = lab.exact_moments(problem, PerSite({"h1": Exact(), "h2": FittedStraightThrough()}))["unit", "h2"].mean
    truth = Truth.exact(problem).mean["unit", "h2"]
    np.testing.assert_allclose(found.reshape(truth.shape).mean(0), truth.mean(0), atol=1e-12)
    assert np.abs(found.reshape(truth.shape) - truth).max() > 1e-3
    with pytest.raises(UsageError, match="ST, fitted applies to Bernoulli sites, and not to the Dropout"):
        lab.exact_moments(problem, FittedStraightThrough())


@pytest.mark.parametrize("problem", [n for n in NETS if any(f.noise == "normal" for f in n.families)], ids=repr)
def test_quadratures_settle_in_single_precision(problem):
    """64 and 48 nodes then differ by some 1e-7, which is rounding."""
    double, single = (Truth.exact(dataclasses.replace(problem, dtype=d)).mean for d in (torch.float64, torch.float32))
    scale = max(np.abs(t).max() for t in double.values())
    assert max(np.abs(single[k] - t).max() for k, t in double.items()) < 1e-5 * scale


@pytest.mark.parametrize(("family", "how"), [
    (RectifiedNormal(), "Gauss quadrature, 64 nodes on each piece of 1 random number"),
    (AdditiveNoise(), "Gauss-Hermite quadrature, 12 nodes for each of 1 random number"),
], ids=repr)  # fmt: skip
def test_quadratures_are_called_by_their_names(family, how):
    problem = lab.Objective(family, torch.tensor([0.3], dtype=torch.float64), lambda x: (x[..., 0] - 0.7) ** 2)
    assert expectation(prepare(problem, Pathwise())).how == how


def test_a_biased_part_is_seen_in_a_chain():
    problem = dataclasses.replace(NETS[-3], batch=1)
    assert gap(problem, PerSite({"h1": HeldMask(), "h2": Reinforce()})) > 0.01


def z_gap(problem, estimator, draws=2**15) -> tuple[float, int]:
    record, worst, count = measure(problem, estimator, draws), 0.0, 0
    for key, truth in Truth.exact(problem).mean.items():
        found = record[key]
        error = np.sqrt(found.variance / record.replicates)
        assert (np.abs(found.skewness) * 7.5**3 / 6 / math.sqrt(record.replicates) < math.log(1100)).all()
        worst, count = max(worst, float((np.abs(found.mean - truth.ravel()) / error).max())), count + truth.size
    return worst, count


def test_draws_agree_with_the_truth():
    """Several paths, whose grids are too large to sum."""
    tried = 0
    for family, estimator in (
        (RectifiedNormal(0.8), LeaveOneOut(4)),
        (RectifiedLogistic(0.5), LeaveOneOut(4)),
        (PRINTED, MaskScore(4)),
        (CODE, MaskScore(4)),
    ):
        worst, count = z_gap(Layers((family,), (2,)), estimator)
        tried += count
        assert worst < 7.5, (family, worst)
    assert tried <= 66
    assert z_gap(Layers((CODE,), (2,)), WrongMaskScore(mistake="score of the printed form"))[0] > 30


# ---------------------------------------------------------------------- sites without noise
def test_deterministic_units_are_ordinary_backpropagation():
    problem = Layers((Deterministic("rectifier"), Deterministic()), (3, 2))
    weights = {k: v.clone().requires_grad_() for k, v in problem.weights().items()}
    first = problem.theta(weights, ())
    second = problem.theta(weights, (first.relu(),))
    problem.loss(weights, (first.relu(), second.sigmoid()), (first, second)).mean().backward()
    truth = Truth.exact(problem).mean
    for name, weight in weights.items():
        np.testing.assert_allclose(truth["weight", name], weight.grad, rtol=1e-12, atol=1e-14)
    for estimator in (Pathwise(), MeanField(), Exact()):
        draws = Chain(problem, estimator).draw(3, NoNoise() if estimator != Pathwise() else lab.noise.MonteCarlo("d"))
        for key, value in draws.items():
            np.testing.assert_allclose(value, np.broadcast_to(truth[key], value.shape), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("estimator", [Exact(), MeanField()], ids=repr)
@pytest.mark.parametrize("problem", SINGLE, ids=lambda p: repr(p.families[0]))
def test_single_precision_agrees(problem, estimator):
    wide = Chain(problem, estimator).draw(1, NoNoise())
    narrow = Chain(dataclasses.replace(problem, dtype=torch.float32), estimator).draw(1, NoNoise())
    scale = max(float(t.abs().max()) for t in wide.values())
    for key, value in wide.items():
        torch.testing.assert_close(narrow[key].double(), value, rtol=0, atol=3e-5 * scale)


def test_layers_whose_values_move_are_not_summed_as_if_they_stayed():
    with pytest.raises(TooLarge, match="no states to sum over"):
        layer_sum(Layers((PRINTED, Bernoulli()), (2, 2)))


# ---------------------------------------------------------------------- modules
class Net(nn.Module):
    """The network of `Layers` with one layer."""

    def __init__(self, problem: Layers):
        super().__init__()
        weights = problem.weights()
        self.first = nn.Parameter(weights["w1"].clone())
        self.v = nn.Parameter(weights["v"].clone())
        self.h = Stochastic(problem.families[0])

    def forward(self, x: Tensor) -> Tensor:
        theta = x @ self.first.T
        h = self.h(theta)
        bump = (-(h[:, 0] + 0.5 * h[:, -1] - 0.6).square() / 4).exp()
        return (h @ self.v - 0.3).square() + bump + 0.1 * theta.square().sum(-1)


@pytest.mark.parametrize("family", NEURONS, ids=repr)
def test_stochastic_layers_of_a_module(family):
    """Its truth is that of the problem; on its own it draws the law, with the derivative of its sample."""
    problem = Layers((family,), (2,))
    net = Net(problem)
    x = torch.linspace(-1, 1.3, 6, dtype=torch.float64).reshape(2, 3)
    module = from_module(net, lambda out, _: out, (x, torch.zeros(2)))
    own, given = Truth.exact(module).mean, Truth.exact(problem).mean
    np.testing.assert_allclose(own["weight", "first"], given["weight", "w1"], rtol=1e-10, atol=1e-12)
    theta = torch.full((4000, 1), 0.4, dtype=torch.float64, requires_grad=True)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        value = Stochastic(family)(theta)
        torch.manual_seed(3)
        again = family.sample(theta, (torch.rand_like if family.noise == "uniform" else torch.randn_like)(theta))
    assert torch.equal(value, again)
    deviation = float(value.detach().std()) / math.sqrt(4000)  # eight standard errors of nine means: 1e-14
    assert abs(float(value.detach().mean() - family.mean(theta.detach()[0]))) <= 8 * deviation + 1e-12
    slopes = [torch.autograd.grad(v.sum(), theta, retain_graph=True)[0] for v in (value, again)]
    assert torch.equal(*slopes) and slopes[0].any()


def test_submodules_that_draw_are_sites():
    """Dropout as it is in torch, a rectifier as a deterministic layer, and a mask of another law is told."""
    net = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Dropout(0.3), nn.Linear(2, 1)).double()
    x = torch.linspace(-1, 1.3, 12, dtype=torch.float64).reshape(4, 3)

    def problem(keep, function="rectifier"):
        sites = {"1": Deterministic(function), "2": Dropout(keep)}
        return from_module(net, lambda out, t: (out[:, 0] - t).square(), (x, torch.ones(4).double()), sites=sites)

    assert gap(problem(0.7), Pathwise()) < 1e-12
    with pytest.raises(UsageError, match=r"site '2' draws values that Dropout\(keep=0.5\) does not have"):
        problem(0.5)
    with pytest.raises(UsageError, match=r"site '1' draws values that Deterministic\(function='sigmoid'\) does not"):
        problem(0.7, "sigmoid")


def test_trained_networks_draw_the_law():
    """Their sampler takes the numbers that the law asks for; eight standard errors of ten means: 1e-14."""
    theta = torch.full((4000, 1), -1.2, dtype=torch.float64)
    for family in (Bernoulli(), *NEURONS):
        value = drawn(lab.SiteSpec("x", family, (1,)), theta, torch.Generator().manual_seed(5))
        assert abs(float(value.mean() - family.mean(theta[0]))) <= 8 * float(value.std()) / math.sqrt(4000) + 1e-12


def test_every_estimator_of_the_table_has_been_tried_on_every_law():
    """A new one is refused by, or draws finite gradients on, every law of neurons."""
    for family in NEURONS:
        problem = one(family, [0.3, -1.2], interacting)
        for estimator in ESTIMATORS:
            if not estimator.refuses(problem.sites[0]) and not isinstance(estimator, Exact):
                found = measure(problem, estimator, 32)
                assert np.isfinite(found.moments.mean).all()
