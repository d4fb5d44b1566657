"""Verdicts without sampling: exact expectations against enumeration by hand, and what must not be called exact."""

import dataclasses
import functools
import itertools
import math

import numpy as np
import pytest
import torch

from estimator_lab.chain import Chain
from estimator_lab.errors import MeasurementError, UsageError
from estimator_lab.estimator import Estimator
from estimator_lab.estimators import (
    ARM,
    ESTIMATORS,
    DisARM,
    DropIn,
    Exact,
    GumbelSoftmax,
    LeaveOneOut,
    MeanField,
    Pathwise,
    Rebar,
    Reinforce,
    ReinMax,
    StraightThrough,
)
from estimator_lab.expectation import _integrate, exact_group_statistics, exact_moments, expectation
from estimator_lab.families import Bernoulli, Categorical, Normal
from estimator_lab.measurement import prepare, prepare_sampler
from estimator_lab.noise import ProductRule
from estimator_lab.problem import Objective, Problem
from estimator_lab.problems import (
    TOYS,
    Additive,
    CategoricalQuadratic,
    ChainOfFour,
    GaussianCosine,
    GaussianPolynomial,
    OneBit,
    QuadraticForm,
    TwoLayer,
)
from estimator_lab.sampler import GradientSampler
from estimator_lab.site import SiteSpec
from estimator_lab.statistics.exact import EXACT_ORDER, ExactGroup, describe_exact, judge_exact
from estimator_lab.truth import Truth

UNIT = ("unit", "x")


@functools.cache
def truth_of(problem: Problem):
    return Truth.exact(problem).mean


def ready(problem: Problem, estimator: Estimator, reference=None):
    return prepare(problem, estimator, reference=reference or truth_of(problem))


def judged(problem: Problem, estimator: Estimator):
    """Expectation, and the verdict of every group."""
    measurement = ready(problem, estimator)
    found = expectation(measurement)
    if found is None:
        return None, {}
    layout, g = measurement.layout, measurement.reference
    return found, {k: exact_group_statistics(found, k, g[layout.columns(k)])[1] for k in layout.groups}


def bits(f, *theta: float) -> Objective:
    return Objective(Bernoulli(), torch.tensor(theta, dtype=torch.float64), f)


# ---------------------------------------------------------------------- by hand
FEATURES = np.array([[1.0, -0.4], [0.3, 2.0]])
WEIGHT = np.array([[0.7, -1.1, 0.2], [0.4, 0.9, -1.6]])
SLOPE = np.array([[1.0, -2.0, 0.5], [0.3, 0.8, 1.7]])
TARGET = np.array([0.4, -0.7])


class Pair(Problem):
    """Two examples of three bits with unequal probabilities."""

    sites = (SiteSpec("x", Bernoulli(), (3,)),)
    batch = 2

    def weights(self):
        return {"w": torch.as_tensor(WEIGHT)}

    def theta(self, weights, samples):
        return torch.as_tensor(FEATURES) @ weights["w"]

    def loss(self, weights, samples, thetas):
        return ((samples[0] * torch.as_tensor(SLOPE)).sum(-1) - torch.as_tensor(TARGET)).square()


def enumerated(estimator: str):
    """All 64 states of both examples: probabilities, and draws ``[64, 6 units + 6 weights]``; written without torch."""
    p = 1 / (1 + np.exp(-FEATURES @ WEIGHT))
    weights, draws = [], []
    for state in itertools.product([0.0, 1.0], repeat=6):
        x = np.array(state).reshape(2, 3)
        weights.append(np.where(x > 0, p, 1 - p).prod())
        rest = (x * SLOPE).sum(1) - TARGET
        unit = rest[:, None] ** 2 * (x - p) if estimator == "score" else 2 * rest[:, None] * SLOPE * p * (1 - p)
        draws.append(np.concatenate([unit.ravel(), (FEATURES.T @ unit / 2).ravel()]))
    return np.array(weights), np.array(draws)


@pytest.mark.parametrize(("name", "estimator"), [("score", Reinforce()), ("st", StraightThrough())])
def test_moments_and_statistics_are_those_of_an_enumeration(name, estimator):
    measurement = ready(Pair(), estimator)
    found = expectation(measurement)
    assert (found.points, found.how) == (64, "sum over 64 outcomes of its random numbers")
    assert not found.unknown
    w, x = enumerated(name)
    mean = np.array([math.fsum(w * column) for column in x.T])
    assert (np.abs(found.moments.mean[:12] - mean) <= found.rounding).all()
    assert (found.rounding <= 1e-12).all()
    np.testing.assert_allclose(found.moments.m2[:12], w @ (x - mean) ** 2, rtol=1e-12, atol=1e-30)
    np.testing.assert_allclose(found.moments.m3[:12], w @ (x - mean) ** 3, rtol=1e-10, atol=1e-13)
    assert abs(found.moments.weight - 1) < 1e-14
    truth = enumerated("score")[0] @ enumerated("score")[1]  # REINFORCE is unbiased
    np.testing.assert_allclose(measurement.reference, truth, rtol=0, atol=1e-13)
    for group, part in ((UNIT, slice(0, 6)), (("weight", "w"), slice(6, 12))):
        g, draws, mu = truth[part], x[:, part], mean[part]
        stats, word = exact_group_statistics(found, group, measurement.reference[part])
        q, inner, trace = ((draws - g) ** 2).sum(1), draws @ g, float((w @ (draws - mu) ** 2).sum())
        bias = 0.0 if name == "score" else float(np.linalg.norm(mu - g))
        length, norm = np.linalg.norm(mu), np.linalg.norm(g)
        expected = {
            "bias": bias,
            "relative_bias": bias / norm,
            "bias_squared": bias**2,
            "variance": trace,
            "mse": w @ q,
            "snr": length**2 / trace,
            "gain": mu @ g / norm**2,
            "cosine_of_mean": mu @ g / length / norm,
            "mean_cosine": w @ (inner / np.linalg.norm(draws, axis=1)) / norm,
            "sign_agreement": w @ (draws * g > 0).mean(1),
            "descent": w @ (inner > 0),
            "kurtosis": w @ q**2 / (w @ q) ** 2,
        }
        assert tuple(stats) == EXACT_ORDER
        for key, value in expected.items():
            np.testing.assert_allclose(stats[key], value, rtol=1e-11, err_msg=key)
        assert word == ("exact" if name == "score" else "biased beyond")


# ---------------------------------------------------------------------- the tables
@pytest.mark.parametrize("problem", [p for p in TOYS if not isinstance(p, ChainOfFour)], ids=repr)
def test_what_is_unbiased_is_exact_wherever_it_can_be_summed(problem):
    summed = set()
    for estimator in ESTIMATORS:
        try:
            found, words = judged(problem, estimator)
        except UsageError:  # another family
            continue
        if found is None:
            continue
        summed.add(type(estimator))
        if estimator.unbiased:
            assert set(words.values()) == {"exact"}, repr(estimator)
        assert found.rounding.max() < 1e-11
    assert {Reinforce, Exact, MeanField} <= summed
    if problem.sites[0].family.discrete:
        assert {StraightThrough, ReinMax} <= summed
    if isinstance(problem.sites[0].family, Normal):
        assert Pathwise in summed


def test_sixteen_bits_are_summed():
    found, words = judged(ChainOfFour(), Reinforce())
    assert found.points == 2**16
    assert set(words.values()) == {"exact"}


@pytest.mark.parametrize(
    "estimator", [StraightThrough(), StraightThrough("identity"), ReinMax(), MeanField()], ids=repr
)
@pytest.mark.parametrize("problem", [QuadraticForm(), TwoLayer(), CategoricalQuadratic()], ids=repr)
def test_biases_are_the_exact_ones(problem, estimator):
    found, words = judged(problem, estimator)
    plain = exact_moments(problem, estimator)
    for key, moments in plain.items():
        g = truth_of(problem)[key].ravel()
        stats, word = exact_group_statistics(found, key, g)
        bias = float(np.linalg.norm(moments.mean - g))
        if word == "exact":
            assert bias < 1e-12
            continue
        np.testing.assert_allclose(stats["bias"], bias, rtol=1e-10, atol=1e-15)
        np.testing.assert_allclose(stats["variance"], moments.m2.sum(), rtol=1e-10, atol=1e-25)
        assert word == ("biased beyond" if bias > 0.05 * np.linalg.norm(g) else "biased")
    # ReinMax is exact on quadratics of one layer, the others are not
    everywhere = set(words.values()) == {"exact"}
    assert everywhere == (isinstance(estimator, ReinMax) and not isinstance(problem, TwoLayer))


def test_learned_parts_stay_as_they_are():
    """They were fitted on draws; exact moments would fit them anew."""
    measurement = ready(QuadraticForm(), Reinforce("optimal"))
    found = expectation(measurement).moments[measurement.layout.columns(UNIT)]
    own = _integrate(measurement.source, 1)[UNIT]
    np.testing.assert_allclose(found.m2, own.m2, rtol=1e-12)
    refitted = exact_moments(QuadraticForm(), Reinforce("optimal"))[UNIT]
    assert np.abs(found.m2 / refitted.m2 - 1).max() > 1e-6


def test_smooth_noise_is_integrated():
    found, words = judged(GaussianPolynomial(), Reinforce())
    assert found.how == "Gauss-Hermite quadrature, 12 nodes for each of 2 random numbers"
    assert set(words.values()) == {"exact"}
    names = {n for k in found.layout.groups for n, i in found.layout.scalar_columns(k).items() if i in found.unknown}
    assert "descent" in names and "square" not in names and "inner" not in names
    stats, _ = exact_group_statistics(found, UNIT, truth_of(GaussianPolynomial())[UNIT])
    assert math.isnan(stats["descent"]) and stats["kurtosis"] > 1
    plain = exact_moments(GaussianPolynomial(), Reinforce(), 40)[UNIT]
    np.testing.assert_allclose(stats["variance"], plain.m2.sum(), rtol=1e-9)
    found, _ = judged(GaussianCosine(), Reinforce())
    assert found.points == 32**2


def test_arm_is_a_quadrature_and_disarm_a_sum():
    found, words = judged(QuadraticForm(), ARM())
    assert found.how == "Gauss-Legendre quadrature, 3 nodes on each piece of 3 random numbers"
    assert set(words.values()) == {"exact"}
    np.testing.assert_allclose(
        found.moments.m2[found.layout.spans[UNIT]], exact_moments(QuadraticForm(), ARM(), 5)[UNIT].m2, rtol=1e-11
    )
    assert judged(QuadraticForm(), DisARM())[0].how == "sum over 27 outcomes of its random numbers"


def test_an_estimator_without_noise_is_one_point():
    found, words = judged(TwoLayer(), MeanField())
    assert (found.points, found.how) == (1, "it draws no random numbers")
    assert words["total", "weights"] == "biased beyond"
    stats, _ = exact_group_statistics(found, ("total", "weights"), total(TwoLayer()))
    assert stats["variance"] == 0 and stats["snr"] == math.inf and stats["kurtosis"] == pytest.approx(1)


def total(problem: Problem) -> np.ndarray:
    return np.concatenate([v.ravel() for k, v in truth_of(problem).items() if k[0] == "weight"])


# ---------------------------------------------------------------------- what must not be called exact
@dataclasses.dataclass(frozen=True)
class Custom(Estimator):
    """A score-function estimate whose sample and added gradient are functions of the site."""

    value: object
    added: object = None
    scale: float = 1.0

    def surrogate(self, site, downstream):
        value = self.value(site)
        loss = downstream(value)
        extra = 0.0 if self.added is None else site.inject(self.added(site))
        return loss + site.score(value, loss * self.scale) + extra


def sampled(site):
    return site.sample()


@pytest.mark.parametrize(
    ("problem", "estimator"),
    [
        (Additive(), Rebar()),
        (QuadraticForm(), Rebar()),
        (CategoricalQuadratic(), GumbelSoftmax()),
        (Additive(), GumbelSoftmax()),
        (OneBit(), GumbelSoftmax(0.01)),
        (OneBit(), Rebar(3.0)),
    ],
    ids=repr,
)
def test_what_does_not_settle_is_refused(problem, estimator):
    assert expectation(ready(problem, estimator)) is None


@pytest.mark.parametrize("temperature", [0.02, 0.05, 0.1, 0.3, 0.5, 1.0, 2.0, 3.0])
def test_rebar_is_right_within_its_rounding_or_refused(temperature):
    problem = OneBit()
    found, words = judged(problem, Rebar(temperature))
    if found is not None:
        assert (np.abs(found.moments.mean[:1] - truth_of(problem)[UNIT]) <= found.rounding[:1] + 1e-16).all()
        assert set(words.values()) == {"exact"}
    relaxed, _ = judged(problem, GumbelSoftmax(temperature))
    if relaxed is not None:
        fine = exact_moments(problem, GumbelSoftmax(temperature), 300)[UNIT].mean
        assert (np.abs(relaxed.moments.mean[:1] - fine) <= relaxed.rounding[:1] + 1e-14).all()


def hard(site):
    family = site.relaxation
    return family.harden(family.perturb(site.theta.detach(), site.uniform()))


@pytest.mark.parametrize(
    "value",
    [
        lambda site: (site.uniform() < 0.3).to(site.theta),
        lambda site: (site.uniform() < 1e-3).to(site.theta),
        lambda site: (site.uniform() > 1 - 1e-3).to(site.theta),
        lambda site: ((site.uniform() - 0.35).abs() < 0.01).to(site.theta),
        lambda site: ((site.uniform() - 0.6).abs() < 0.005).to(site.theta),
    ],
    ids=["one jump", "in the left tail", "in the right tail", "two jumps on one piece", "closer ones"],
)
def test_jumps_that_nobody_announced_are_seen(value):
    """Between the jumps p and 1 - p = .2, .8: the middle of every piece shows nothing of them."""
    problem = bits(lambda x: (x * x.new_tensor([1.0, 2.0])).sum(-1) + 3, -math.log(4), math.log(4))
    assert expectation(ready(problem, Custom(value))) is None


def test_small_parts_that_are_not_constant_are_integrated():
    """A millionth of u^2 has the mean 1/3 and not that of the middles of the pieces."""
    found, _ = judged(OneBit(), Custom(sampled, lambda site: 1e-6 * site.uniform() ** 2))
    assert found.how.startswith("Gauss-Legendre")
    np.testing.assert_allclose(found.moments.mean[0] - truth_of(OneBit())[UNIT].item(), 1e-6 / 3, rtol=1e-5)


def test_rare_jumps_of_smooth_estimators_are_seen():
    """Too rare for draws; a check rule with nodes at the ends of the pieces meets it."""

    def added(site):
        u = site.uniform()
        return u - 0.5 + (u < 1e-5).to(u)

    assert expectation(ready(OneBit(), Custom(sampled, added))) is None


def test_jumps_of_normal_numbers_are_seen():
    """Between the nodes of both rules: at each of them the addition is zero."""
    measurement = ready(GaussianPolynomial(), Pathwise())
    assert expectation(measurement) is not None

    @dataclasses.dataclass(frozen=True)
    class Dented(Pathwise):
        def surrogate(self, site, downstream):
            value = site.rsample()
            z = ((value - site.theta[..., 0]) / site.theta[..., 1].exp()).detach()
            dent = ((z - 0.75).abs() < 0.03).to(z)
            return downstream(value) + site.inject(dent[..., None].expand_as(site.theta))

    chain = Chain(GaussianPolynomial(), Dented(), measurement.source.wrt)
    assert expectation(dataclasses.replace(measurement, source=chain)) is None


def test_gumbel_maxima_are_refused():
    """No jump is announced, and at the same place for all classes the argmax is that of theta: one point, no noise."""
    theta = torch.tensor([[3.0, 0.0, -1.0]], dtype=torch.float64)
    problem = Objective(Categorical(3), theta, lambda x: (x * x.new_tensor([1.0, 5.0, -2.0])).sum((-1, -2)))
    assert expectation(ready(problem, Custom(hard))) is None


def test_differences_that_cancel_in_sums_are_seen():
    """``u_1 - u_2`` is zero wherever both lie at the same place of equal pieces, mean and square with it."""
    problem = bits(lambda x: 0 * x.sum(-1), 0.7, 0.7)

    def difference(site):
        u = site.uniform()
        return u - u.flip(-1)

    found = expectation(prepare(problem, Custom(sampled, difference), wrt=("unit",)))
    assert found is not None and found.how.startswith("Gauss-Legendre")
    np.testing.assert_allclose(found.moments.m2[:2], 1 / 6, rtol=1e-12)


def test_a_bias_of_a_billionth_is_a_bias_and_rounding_is_none():
    problem = QuadraticForm()
    for scale, word in ((1 + 1e-9, "biased"), (1 - 1e-9, "biased"), (1 + 1e-15, "exact"), (0.1 * 3 / 0.3, "exact")):
        found, words = judged(problem, Custom(sampled, None, scale))
        assert set(words.values()) == {word}, scale
        stats, _ = exact_group_statistics(found, UNIT, truth_of(problem)[UNIT])
        expected = abs(scale - 1) if word == "biased" else 0.0
        np.testing.assert_allclose(stats["relative_bias"], expected, rtol=1e-3)


def test_a_single_coordinate_decides():
    """An error in one small coordinate beside large ones."""
    g = np.array([1.0, 1e-3])
    group = ExactGroup(g + np.array([0.0, 1e-12]), np.ones(2), g, np.full(2, 1e-14), {}, 2.0**-52)
    assert judge_exact(group) == "biased"
    assert judge_exact(dataclasses.replace(group, mean=g + np.array([0.0, 1e-14]))) == "exact"


def test_randomness_of_its_own_is_refused():
    problem = QuadraticForm()
    generator = np.random.default_rng(0)

    def own(site):
        return torch.as_tensor(generator.random(site.theta.shape)).to(site.theta) - 0.5

    measurement = ready(problem, Reinforce())
    assert expectation(measurement) is not None
    for added in (own, lambda site: (own(site) > 0.499).to(site.theta)):
        chain = Chain(problem, Custom(sampled, added), measurement.source.wrt)
        assert expectation(dataclasses.replace(measurement, source=chain)) is None
    frozen = Chain(problem, Custom(lambda site: site.mean.detach(), own), measurement.source.wrt)
    assert expectation(dataclasses.replace(measurement, source=frozen)) is None


class Restless(Estimator):
    """Asks for other numbers at every call."""

    calls = 0

    def surrogate(self, site, downstream):
        type(self).calls += 1
        return downstream(site.sample() if self.calls % 2 else site.uniform())


class Forgetful(Estimator):
    """Asks for the numbers only where there is a single replicate."""

    def surrogate(self, site, downstream):
        value = site.sample() if site.theta.shape[-3] == 1 else torch.zeros_like(site.theta)
        return downstream(value) + site.score(value, downstream(value))


def test_what_no_rule_can_run_is_refused():
    problem = QuadraticForm()
    measurement = ready(problem, Reinforce())
    for estimator in (
        Restless(),
        Forgetful(),
        DropIn(lambda theta: (torch.rand_like(theta) < theta.sigmoid()).to(theta)),
    ):
        chain = Chain(problem, estimator, measurement.source.wrt)
        assert expectation(dataclasses.replace(measurement, source=chain)) is None

    box = GradientSampler(lambda: {"w": torch.ones(2)}, {"w": torch.ones(2)})
    assert expectation(prepare_sampler(box)) is None


def test_grids_beyond_the_limit_are_refused():
    measurement = ready(TwoLayer(), Reinforce())
    assert expectation(measurement, 1023) is None
    assert expectation(measurement, 1024).points == 1024
    assert expectation(ready(Additive(), LeaveOneOut(8))) is None  # 2^32
    assert expectation(ready(GaussianPolynomial(), Reinforce()), 143) is None


def test_values_that_are_not_finite_are_refused():
    def added(site):
        return torch.where(site.sample() > 0.5, math.inf, 0.0)

    measurement = ready(QuadraticForm(), Reinforce())
    chain = Chain(QuadraticForm(), Custom(sampled, added), measurement.source.wrt)
    with pytest.raises(MeasurementError, match=r"NaN or infinite on outcomes that have a probability of 0\.93"):
        expectation(dataclasses.replace(measurement, source=chain))


def test_saturated_bits_have_one_outcome():
    """Pieces without length carry no weight, whatever the draw is worth there."""

    def added(site):
        return torch.where((site.theta > 100) & (site.sample() < 0.5), math.nan, 0.0)

    problem = bits(lambda x: x.sum(-1).exp(), 800.0, 0.4)
    found, words = judged(problem, Custom(sampled, added))
    assert set(words.values()) == {"exact"}
    assert np.isfinite(found.moments.mean).all()


@pytest.mark.parametrize("estimator", [Reinforce(), StraightThrough(), ARM()], ids=repr)
def test_single_precision(estimator):
    double, single = QuadraticForm(), QuadraticForm(dtype=torch.float32)
    found, words = judged(single, estimator)
    assert 1e-8 < found.rounding.max() < 1e-3
    assert found.resolution == 2.0**-23
    wide, expected = judged(double, estimator)
    assert words == expected
    size = found.layout.size
    scale = float(np.sqrt((wide.moments.mean**2 + wide.moments.m2)[:size]).max())
    assert (np.abs(found.moments.mean - wide.moments.mean)[:size] <= found.rounding + 64 * 2.0**-23 * scale).all()
    g = truth_of(double)[UNIT]
    a, b = exact_group_statistics(found, UNIT, truth_of(single)[UNIT])[0], exact_group_statistics(wide, UNIT, g)[0]
    for name in ("bias", "variance", "descent", "kurtosis"):
        np.testing.assert_allclose(a[name], b[name], rtol=1e-4, atol=1e-6)


def test_many_chunks_are_one(monkeypatch):
    whole = expectation(ready(TwoLayer(), Reinforce()))
    quadrature = expectation(ready(QuadraticForm(), ARM()))
    calls = []
    draw = Chain.draw
    monkeypatch.setattr(Chain, "draw", lambda self, count, *a: (calls.append(count), draw(self, count, *a))[1])
    monkeypatch.setattr("estimator_lab.expectation.CHUNK_FLOATS", 1)
    for problem, estimator, before in ((TwoLayer(), Reinforce(), whole), (QuadraticForm(), ARM(), quadrature)):
        measurement = ready(problem, estimator)
        calls.clear()
        parts = expectation(measurement)
        assert len(calls) > 20 and max(calls) <= 64
        np.testing.assert_allclose(parts.moments.mean, before.moments.mean, rtol=0, atol=1e-13)
        np.testing.assert_allclose(parts.moments.m2, before.moments.m2, rtol=1e-10, atol=1e-20)
        assert parts.unknown == before.unknown and parts.how == before.how


def test_a_measurement_draws_the_same_before_and_after():
    measurement = ready(TwoLayer(), Reinforce())
    before = measurement.block(0).moments
    torch.manual_seed(3)
    state = torch.get_rng_state()
    expectation(measurement)
    assert torch.equal(state, torch.get_rng_state())
    assert np.array_equal(before.mean, measurement.block(0).moments.mean)


def test_draws_agree_with_their_expectation():
    """All columns, scalars too, within 6 standard errors: a false alarm in 1e8 per column, of some 200."""
    measurement = ready(TwoLayer(), StraightThrough())
    exact, drawn = expectation(measurement).moments, measurement.run(2**15).moments
    error = np.sqrt(np.maximum(exact.m2, 0) / drawn.weight)
    assert (np.abs(drawn.mean - exact.mean) <= 6 * error + 1e-12).all()


# ---------------------------------------------------------------------- numbers
def group(**other) -> ExactGroup:
    g = np.array([3.0, 4.0])
    given = {"mean": g, "variance": np.array([1.0, 3.0]), "truth": g, "rounding": np.zeros(2), "scalars": {}}
    return ExactGroup(**given | {"resolution": 2.0**-52} | other)


def test_verdicts():
    g = np.array([3.0, 4.0])
    assert judge_exact(group()) == "exact"
    assert judge_exact(group(mean=g * 1.04)) == "biased"
    assert judge_exact(group(mean=g * 1.06)) == "biased beyond"
    assert judge_exact(group(mean=g * 1.06), margin=0.1) == "biased"
    assert judge_exact(group(mean=g * 1.06, rounding=np.full(2, 0.3))) == "exact"
    assert judge_exact(group(mean=g * 1.06, rounding=np.array([0.3, 0.0]))) == "biased"
    assert judge_exact(group(truth=np.zeros(2))) == "biased"  # no relative margin
    assert judge_exact(group(truth=np.zeros(2), mean=np.full(2, 1e-15))) == "exact"
    assert judge_exact(group(mean=g + 1e-10, loss=1e6)) == "exact"  # losses of a million cancel
    assert judge_exact(group(mean=g + 1e-8, loss=1e6)) == "biased"
    with pytest.raises(ValueError, match="margin > 0"):
        judge_exact(group(), margin=0.0)
    with pytest.raises(ValueError, match="variance must be finite"):
        group(variance=np.array([np.nan, 0.0]))


def test_what_is_undefined_is_nan():
    known = {"square": 4.0, "fourth": 20.0, "cosine": 0.3, "zero": 0.25, "agreement": 0.6, "descent": 0.7}
    found = describe_exact(group(scalars=known))
    assert found["mean_cosine"] == pytest.approx(0.4)
    assert (found["sign_agreement"], found["descent"], found["kurtosis"]) == (0.6, 0.7, 1.25)
    assert (found["bias"], found["variance"], found["mse"], found["snr"]) == (0.0, 4.0, 4.0, 6.25)
    assert all(math.isnan(describe_exact(group())[k]) for k in ("mean_cosine", "sign_agreement", "descent", "kurtosis"))
    zero = describe_exact(group(truth=np.zeros(2), scalars=known))
    relative = ("relative_bias", "gain", "cosine_of_mean", "mean_cosine", "sign_agreement", "descent")
    assert all(math.isnan(zero[k]) for k in relative)
    assert zero["bias"] == 5.0 and zero["kurtosis"] == 1.25
    nothing = describe_exact(group(mean=np.zeros(2), variance=np.zeros(2), scalars=known | {"zero": 1.0}))
    assert all(math.isnan(nothing[k]) for k in ("snr", "cosine_of_mean", "mean_cosine"))
    assert (nothing["relative_bias"], nothing["gain"]) == (1.0, 0.0)
    still = describe_exact(group(variance=np.full(2, 1e-34), scalars=known))
    assert still["variance"] == 0 and math.isnan(still["kurtosis"]) and still["snr"] == math.inf


def test_scalars_against_another_vector_are_not_known():
    found = expectation(ready(QuadraticForm(), Reinforce()))
    g = truth_of(QuadraticForm())[UNIT]
    assert math.isnan(exact_group_statistics(found, UNIT, 2 * g)[0]["descent"])
    assert not math.isnan(exact_group_statistics(found, UNIT, g)[0]["descent"])


def test_places_cover_pieces_and_their_ends():
    like = torch.empty(4096, 1, dtype=torch.float64)
    jumps = torch.tensor([0.2, 0.9], dtype=torch.float64).expand(4096, 1, 2)
    rule = ProductRule(1, (3,), 1, 4097, places=torch.Generator().manual_seed(0))
    u = rule.uniform(like, 0, lambda: jumps)[:, 0]
    edges = torch.tensor([0.0, 0.2, 0.9, 1.0], dtype=torch.float64)
    piece = torch.arange(1, 4097) % 3
    low, high = edges[piece], edges[piece + 1]
    assert ((u > low) & (u < high)).all()
    torch.testing.assert_close(rule.weight, high - low)
    for near in (u - low < 1e-12, high - u < 1e-12):
        assert 0.2 < near.double().mean() < 0.3
    with pytest.raises(ValueError, match="place"):
        ProductRule(2, places=torch.Generator())
