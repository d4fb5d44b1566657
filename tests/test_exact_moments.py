"""Published and derived numbers, reproduced by product rules; and the laws of the rules.

``printed`` compares with a printed number to half a unit in its last digit; everything else is an equality to rounding.
"""

import dataclasses
import importlib
import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from estimator_lab.chain import Chain
from estimator_lab.errors import TooLarge
from estimator_lab.estimator import Estimator
from estimator_lab.estimators import (
    ARM,
    DisARM,
    Exact,
    GumbelSoftmax,
    LeaveOneOut,
    LocalExpectation,
    MeanField,
    MuProp,
    Pathwise,
    Rebar,
    Reinforce,
    ReinMax,
    StraightThrough,
    StraightThroughGumbelSoftmax,
)
from estimator_lab.expectation import exact_moments
from estimator_lab.families import Bernoulli, Categorical
from estimator_lab.measurement import measure
from estimator_lab.noise import MonteCarlo, ProductRule
from estimator_lab.problem import Objective
from estimator_lab.problems import (
    Additive,
    CategoricalQuadratic,
    GaussianCosine,
    GaussianPolynomial,
    OneBit,
    QuadraticForm,
    SharedLogit,
    TwoLayer,
)
from estimator_lab.truth import Truth

UNIT = ("unit", "x")


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def moments(problem, estimator, nodes=1):
    return exact_moments(problem, estimator, nodes, ("unit",))[UNIT]


def truth(problem) -> np.ndarray:
    return Truth.exact(problem, ("unit",)).mean[UNIT].ravel()


def printed(value: float, text: str) -> None:
    """``value`` rounds to the printed ``text``."""
    mantissa, _, exponent = text.partition("e")
    half = 0.5 * 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    assert abs(float(value) - float(text)) <= half * (1 + 1e-9), f"{float(value)!r} does not round to {text}"


def table(values: Tensor, units: int):
    """``f`` that looks joint states of bits up in a table; bits may carry gradient-free values only."""
    place = 2 ** torch.arange(units)

    def f(x: Tensor) -> Tensor:
        return values[(x.round().long() * place).sum(-1)]

    return f


def random_tables(units: int, count: int):
    """Random functions and logits, drawn from a fixed stream."""
    generator = torch.Generator().manual_seed(20240)
    for _ in range(count):
        values = torch.randn(2**units, generator=generator, dtype=torch.float64)
        theta = 2 * torch.randn(units, generator=generator, dtype=torch.float64)
        yield values, theta


# ---------------------------------------------------------------------- one bit: REBAR, RELAX, ARM
ONE_BIT = {
    # p, t: exact, REINFORCE, mean baseline, optimal baseline, RLOO-2, ARM, DisARM
    (0.5, 0.45): (".025", ".0159390625", "0", ".2525", "6.25e-4", "2.083333e-4", "0"),
    (0.5, 0.499): (".0005", ".01562512500", "0", ".250001", "2.5e-7", "8.3333e-8", "0"),
    (0.2, 0.45): (".016", ".012769", "5.76e-4", ".2825", "5.44e-4", "3.973333e-4", "3.84e-4"),
}


@pytest.mark.parametrize(("p", "t"), ONE_BIT)
def test_one_bit(p, t):
    problem = OneBit(logit(p), t)
    exact, plain, mean, optimal, leave_one_out, arm, disarm = ONE_BIT[p, t]
    printed(truth(problem)[0], exact)
    rows = {
        Reinforce(): (plain, 1),
        Reinforce("mean"): (mean, 1),
        LeaveOneOut(2): (leave_one_out, 1),
        ARM(): (arm, 2),  # a quadratic in u on every piece
        DisARM(): (disarm, 1),
    }
    for estimator, (variance, nodes) in rows.items():
        found = moments(problem, estimator, nodes)
        np.testing.assert_allclose(found.mean, truth(problem), rtol=0, atol=1e-14)
        if variance == "0":
            assert 0 <= found.variance[0] < 1e-30
        else:
            printed(found.variance[0], variance)
    fitted = {}
    adapted = Reinforce("optimal").adapt(
        lambda e: fitted.setdefault(repr(e), {"x": torch.as_tensor(moments(problem, e).mean)[None]})
    )
    printed(adapted.fitted["x"], optimal)
    assert moments(problem, Reinforce("optimal")).variance[0] < 1e-30  # one bit: the optimal baseline leaves nothing


@pytest.mark.parametrize(
    ("temperature", "eta", "variance"),
    [
        (0.5, 1.0, ".0226531"),
        (0.5, 0.5, ".0175387"),
        (1.0, 1.0, ".0184891"),
        (0.1, 1.0, ".0872517"),
        (0.5, 0.0, ".0159391"),
    ],
)
def test_rebar_variance(temperature, eta, variance):
    found = moments(OneBit(0.0, 0.45), Rebar(temperature, eta), 60)
    printed(found.variance[0], variance)
    np.testing.assert_allclose(found.mean, 0.025, rtol=0, atol=1e-12)


def test_published_closed_forms_at_049():
    problem = OneBit(logit(0.2), 0.49)
    printed(moments(problem, ARM(), 2).variance[0], "1.58933e-5")
    printed(moments(problem, DisARM()).variance[0], "1.536e-5")
    printed(moments(problem, LeaveOneOut(2)).variance[0], "2.176e-5")


TEMPERATURES = {
    # tau: Gumbel-softmax mean, variance; straight-through Gumbel-softmax variance
    2.0: (".010730", ".001037", ".011988"),
    1.0: (".016667", ".004817", ".033389"),
    0.5: (".021460", ".014244", ".077934"),
    0.1: (".024799", ".086194", ".418872"),
}


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_gumbel_softmax_temperature(temperature):
    problem = OneBit(0.0, 0.45)
    mean, relaxed, hard = TEMPERATURES[temperature]
    found = moments(problem, GumbelSoftmax(temperature), 200)
    printed(found.mean[0], mean)
    printed(found.variance[0], relaxed)
    found = moments(problem, StraightThroughGumbelSoftmax(temperature), 200)
    printed(found.mean[0], mean)
    printed(found.variance[0], hard)


def cubic(x: Tensor) -> Tensor:
    return (x**3).sum(-1)


def bits(f, *probabilities: float) -> Objective:
    return Objective(Bernoulli(), torch.tensor([logit(p) for p in probabilities], dtype=torch.float64), f)


def test_gumbel_softmax_of_a_cube():
    problem = bits(cubic, 0.8)
    np.testing.assert_allclose(truth(problem), 0.16, rtol=1e-12)
    for temperature, relaxed, hard in [(1.0, ".185924", ".302868"), (0.1, ".174291", ".259852")]:
        printed(moments(problem, GumbelSoftmax(temperature), 200).mean[0], relaxed)
        printed(moments(problem, StraightThroughGumbelSoftmax(temperature), 200).mean[0], hard)


def extrapolated(quantity, temperature: float) -> float:
    """Limit of temperature to zero, its error being linear and then quadratic in the temperature (Richardson)."""
    a, b, c = (quantity(temperature / k) for k in (1, 2, 4))
    return float((a - 6 * b + 8 * c) / 3)


def test_relaxations_at_zero_temperature():
    """S11, S12: straight-through Gumbel-softmax tends to the trapezoid; both variances go as 1 / temperature."""
    problem, pq = bits(cubic, 0.8), 0.16
    soft = {t: moments(problem, GumbelSoftmax(t), 400) for t in (0.1, 0.05, 0.025)}
    hard = {t: moments(problem, StraightThroughGumbelSoftmax(t), 400) for t in (0.1, 0.05, 0.025)}
    close = {"rtol": 0, "atol": 2e-3}
    np.testing.assert_allclose(extrapolated(lambda t: (soft[t].mean[0] - 0.16) / t, 0.1), 0.144, **close)
    np.testing.assert_allclose(extrapolated(lambda t: t * soft[t].variance[0], 0.1), pq * 9 / 42, **close)
    np.testing.assert_allclose(extrapolated(lambda t: hard[t].mean[0], 0.1), 0.24, **close)
    np.testing.assert_allclose(extrapolated(lambda t: t * hard[t].variance[0], 0.1), pq * 9 / 12, **close)


# ---------------------------------------------------------------------- three bits, three classes, eight states
def test_three_units():
    problem = QuadraticForm()
    expected = Chain(problem, Exact()).value(MonteCarlo("unused"))
    printed(expected[0, 0], "2.0419504646")
    gradient = truth(problem)
    for value, text in zip(gradient, ("-.3209315927", ".7265865423", "-.1905688091"), strict=True):
        printed(value, text)
    rows = {
        Reinforce(): (".940911", ".955344", "2.304693"),
        LeaveOneOut(2): (".713606", ".930793", ".951411"),
        DisARM(): (".474847", ".265496", ".982200"),
    }
    for estimator, variances in rows.items():
        found = moments(problem, estimator)
        np.testing.assert_allclose(found.mean, gradient, rtol=0, atol=1e-13)
        for value, text in zip(found.variance, variances, strict=True):
            printed(value, text)
    through = moments(problem, StraightThrough()).mean
    for value, text in zip(through, ("-.39551", ".87217", "-.16712"), strict=True):
        printed(value, text)
    printed(through @ gradient / np.linalg.norm(through) / np.linalg.norm(gradient), ".997989")


def test_three_classes():
    problem = CategoricalQuadratic(logits=((-0.7, 0.3, 1.1),))
    for value, text in zip(truth(problem), ("-.1433703", "1.1965115", "-1.0531412"), strict=True):
        printed(value, text)
    # three printed digits, and 2^16 draws: 6 standard errors of three means, false-alarm rate below 1e-8
    record = measure(problem, StraightThroughGumbelSoftmax(1.0), 2**16, wrt=("unit",))
    error = np.sqrt(record.variance(UNIT).ravel() / record.replicates)
    assert (np.abs(record.mean(UNIT).ravel() - (-0.196, 0.647, -0.451)) < 6 * error + 5e-4).all()


def test_shared_logit():
    problem, key = SharedLogit(0.0), ("weight", "logit")
    printed(Chain(problem, Exact()).value(MonteCarlo("unused"))[0, 0], ".7605")
    printed(Truth.exact(problem).mean[key], "-.045")
    rows = {
        Reinforce(): ".4384201875",
        LeaveOneOut(2): ".007275",
        LeaveOneOut(3): ".0032",
        LeaveOneOut(4): ".0019875",
    }
    for estimator, variance in rows.items():
        found = exact_moments(problem, estimator)[key]
        np.testing.assert_allclose(found.mean, -0.045, rtol=0, atol=1e-13)
        printed(found.variance[0], variance)
    states = torch.eye(8, dtype=torch.float64)[:, None]
    losses = problem.loss({}, (states,), ())
    printed(losses[0], ".8505")
    printed(losses[7], ".6705")


@pytest.mark.parametrize("power", [1.5, 2.0, 3.0])
def test_power_toy(power):
    """Mean over truth for f = sum |x - 0.45|^r: straight-through depends on p, ReinMax does not."""
    reinmax = {1.5: ".500837", 2.0: "1.000000", 3.0: "1.993355"}
    through = {
        0.1: {1.5: "-7.492", 2.0: "-7.000", 3.0: "-6.060"},
        0.5: reinmax,
        0.9: {1.5: "8.494", 2.0: "9.000", 3.0: "10.047"},
    }
    problem = bits(lambda x: (x - 0.45).abs().pow(power).sum(-1), *through)
    gradient = truth(problem)
    for ratio in moments(problem, ReinMax()).mean / gradient:
        printed(ratio, reinmax[power])
    for ratio, texts in zip(moments(problem, StraightThrough()).mean / gradient, through.values(), strict=True):
        printed(ratio, texts[power])


# ---------------------------------------------------------------------- Gaussian table of Mohamed et al. 2020
@pytest.mark.parametrize(("s", "d"), [(1.0, 0.5), (1.0, 0.0), (1.0, 3.0), (1.0, -1.3), (0.6, 0.8)])
def test_gaussian_square(s, d):
    """f = (x - k)^2, d = mu - k. The published column is for d / ds; d / d log s carries s, its variance s^2."""
    problem = GaussianPolynomial(mean=(1.0,), deviation=(s,), k=(1.0 - d,))
    mean = np.array([2 * d, 2 * s * s])
    scale = np.array([1.0, s * s])
    score = np.array([(d**4 + 14 * d**2 * s**2 + 15 * s**4) / s**2, (2 * d**4 + 60 * d**2 * s**2 + 74 * s**4) / s**2])
    optimal = score - np.array([(d**2 + 3 * s**2) ** 2 / s**2, 2 * (d**2 + 5 * s**2) ** 2 / s**2])
    rows = {
        Pathwise(): np.array([4 * s**2, 4 * d**2 + 8 * s**2]),
        Reinforce(): score,
        Reinforce("optimal"): optimal,
    }
    for estimator, variance in rows.items():
        found = moments(problem, estimator, 10)  # exact for polynomials of degree 19; these have 8
        np.testing.assert_allclose(found.mean, mean, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(found.variance, variance * scale, rtol=1e-11)


def test_gaussian_optimal_baseline():
    s, d = 0.6, 0.8
    problem = GaussianPolynomial(mean=(1.0,), deviation=(s,), k=(1.0 - d,))
    adapted = Reinforce("optimal").adapt(
        lambda e: {"x": torch.as_tensor(moments(problem, e, 10).mean).reshape(1, 1, 2)}
    )
    expected = [d**2 + 3 * s**2, d**2 + 5 * s**2]
    np.testing.assert_allclose(adapted.fitted["x"].ravel(), expected, rtol=1e-12)


@pytest.mark.parametrize(("k", "path", "score"), [(2.0, "1.939863", ".441069"), (0.5, ".039285", ".455248")])
def test_gaussian_cosine(k, path, score):
    """The score function wins at k = 2, the pathwise estimator at k = 0.5."""
    problem = GaussianCosine(mean=(1.0,), deviation=(1.0,), k=(k,))
    gradient = -k * math.sin(k) * math.exp(-k * k / 2)
    damping = math.cos(2 * k) * math.exp(-2 * k * k)
    pathwise, plain = moments(problem, Pathwise(), 60), moments(problem, Reinforce(), 60)
    np.testing.assert_allclose([pathwise.mean[0], plain.mean[0]], gradient, rtol=1e-12)
    np.testing.assert_allclose(pathwise.variance[0], k * k * (1 - damping) / 2 - gradient**2, rtol=1e-11)
    np.testing.assert_allclose(plain.variance[0], 0.5 + damping * (1 - 4 * k * k) / 2 - gradient**2, rtol=1e-11)
    printed(pathwise.variance[0], path)
    printed(plain.variance[0], score)


@pytest.mark.parametrize("site", ["h1", "h2"])
def test_fitted_baselines_next_to_a_gradient_of_theta_itself(site):
    """The penalty on the first logits is part of the loss, and its own gradient part of the estimate."""
    problem, key = TwoLayer(batch=1), ("unit", site)
    shapes = {s.name: (1, *s.theta_shape) for s in problem.sites}

    def mean_gradient(estimator):
        found = exact_moments(problem, estimator, 1, ("unit",))
        return {name: torch.as_tensor(found["unit", name].mean).reshape(shape) for name, shape in shapes.items()}

    expected = float(Chain(problem, Exact()).value(MonteCarlo("unused")))
    fitted = Reinforce("mean").adapt(mean_gradient).fitted[site]
    np.testing.assert_allclose(fitted, np.full(fitted.shape, expected), rtol=1e-12)
    # the variance is a parabola in the baseline; the optimal one is at its vertex
    low, middle, high = (exact_moments(problem, Reinforce(c))[key].variance for c in (-1.0, 0.0, 1.0))
    curvature, slope = (low + high) / 2 - middle, (high - low) / 2
    fitted = Reinforce("optimal").adapt(mean_gradient).fitted[site]
    np.testing.assert_allclose(fitted.ravel(), -slope / (2 * curvature), rtol=1e-10)
    found = exact_moments(problem, Reinforce("optimal"))[key].variance
    np.testing.assert_allclose(found, middle - slope**2 / (4 * curvature), rtol=1e-10)


# ---------------------------------------------------------------------- analytic statements
@pytest.mark.parametrize("p", [0.03, 0.2, 0.5, 0.77])
def test_one_bernoulli_in_closed_form(p):
    """S1, S2, S3: variances of REINFORCE with a baseline, RLOO-K, ARM and DisARM for any f(0), f(1)."""
    zero, one = -0.8, 1.7
    problem, pq, jump = bits(lambda x: (zero + (one - zero) * x).sum(-1), p), p * (1 - p), one - zero
    close = {"rtol": 1e-11, "atol": 1e-14}
    np.testing.assert_allclose(truth(problem), pq * jump, rtol=1e-12)
    for c in (0.0, 0.9, -2.0):
        expected = pq * ((1 - p) * one + p * zero - c) ** 2
        np.testing.assert_allclose(moments(problem, Reinforce(c)).variance, expected, **close)
    for k in (2, 3, 4, 7):
        expected = jump**2 * (pq * (1 - 3 * pq) / k - pq**2 * (k - 3) / (k * (k - 1)))
        np.testing.assert_allclose(moments(problem, LeaveOneOut(k)).variance, expected, **close)
    low, high = min(p, 1 - p), max(p, 1 - p)
    np.testing.assert_allclose(moments(problem, DisARM()).variance, jump**2 * pq * (high - 2 * pq) / 2, **close)
    arm = jump**2 * (2 / 3 * (1 / 8 - (0.5 - low) ** 3) - pq**2)
    np.testing.assert_allclose(moments(problem, ARM(), 2).variance, arm, **close)


def test_disarm_is_never_noisier_than_arm():
    """S4, unit by unit, for any function of three bits; both are exact in the mean."""
    for values, theta in random_tables(3, 50):
        problem = Objective(Bernoulli(), theta, table(values, 3))
        arm, disarm = moments(problem, ARM(), 2), moments(problem, DisARM())
        np.testing.assert_allclose(arm.mean, truth(problem), rtol=0, atol=1e-12)
        np.testing.assert_allclose(disarm.mean, truth(problem), rtol=0, atol=1e-12)
        assert (disarm.variance <= arm.variance + 1e-12).all()


def test_local_expectation_is_never_noisier_than_reinforce():
    """S6, whatever the baseline; and it has no variance where there are no interactions."""
    for values, theta in random_tables(3, 20):
        problem = Objective(Bernoulli(), theta, table(values, 3))
        local = moments(problem, LocalExpectation())
        np.testing.assert_allclose(local.mean, truth(problem), rtol=0, atol=1e-12)
        for baseline in (None, 0.7, "mean", "optimal"):
            assert (local.variance <= moments(problem, Reinforce(baseline)).variance + 1e-12).all()
    assert (moments(Additive(), LocalExpectation()).variance < 1e-28).all()


def test_straight_through_is_exact_for_multilinear_functions():
    """S7: any function of four bits, written as a polynomial of degree one in each."""
    states = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 4)
    for values, theta in random_tables(4, 10):

        def f(x: Tensor, values: Tensor = values) -> Tensor:
            return torch.where(states > 0.5, x[..., None, :], 1 - x[..., None, :]).prod(-1) @ values

        problem = Objective(Bernoulli(), theta, f)
        for estimator in (StraightThrough(), MeanField()):
            np.testing.assert_allclose(moments(problem, estimator).mean, truth(problem), rtol=0, atol=1e-12)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_straight_through_is_biased_for_a_square(p):
    """S7: a x^2 + c x is off by p q a (2 p - 1)."""
    problem = bits(lambda x: (1.3 * x**2 - 0.4 * x).sum(-1), p)
    bias = moments(problem, StraightThrough()).mean - truth(problem)
    np.testing.assert_allclose(bias, p * (1 - p) * 1.3 * (2 * p - 1), rtol=0, atol=1e-13)


def square(x: Tensor) -> Tensor:
    """A quadratic in all classes of all units, cross terms between units included."""
    flat = x.flatten(-2) if x.shape[-1] == 3 else x
    count = flat.shape[-1]
    i = torch.arange(count, dtype=x.dtype)
    form = torch.sin(1 + i[:, None] * 1.9 + i * 2.3)
    return ((flat @ form) * flat).sum(-1) + flat @ (0.5 + i).cos()


@pytest.mark.parametrize("family", [Bernoulli(), Categorical(3)], ids=repr)
def test_reinmax_is_exact_for_quadratics(family):
    """S8."""
    theta = torch.tensor([-0.7, 0.3, 1.1, -2.0, 0.4, 0.9], dtype=torch.float64).reshape(2, 3)
    problem = Objective(family, theta if family.theta_shape else theta.ravel()[:4], square)
    np.testing.assert_allclose(moments(problem, ReinMax()).mean, truth(problem), rtol=0, atol=1e-12)
    assert np.abs(moments(problem, StraightThrough()).mean - truth(problem)).max() > 0.01


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_reinmax_is_half_as_large_again_for_a_cube(p):
    """S8: the slopes 0 and 3 at the ends average to 3/2."""
    problem = bits(cubic, p)
    np.testing.assert_allclose(moments(problem, ReinMax()).mean, 1.5 * truth(problem), rtol=1e-12)


@dataclasses.dataclass(frozen=True, repr=False)
class Linear(Estimator):
    """A hard sample forward, ``jacobian(pi, D)`` backward."""

    jacobian: object

    def surrogate(self, site, downstream):
        value, mean, theta = site.sample(), site.mean.detach(), site.theta
        through = self.jacobian(mean, value, theta - theta.detach())
        return downstream(value + through)


def zgr(pi: Tensor, hard: Tensor, step: Tensor) -> Tensor:
    """((D - pi)(D - pi)^T + diag(pi) - pi pi^T) / 2 times a step."""
    error = hard - pi
    along = (error * step).sum(-1, keepdim=True)
    return 0.5 * (error * along + pi * (step - (pi * step).sum(-1, keepdim=True)))


def trapezoid(p: Tensor, hard: Tensor, step: Tensor) -> Tensor:
    """Weight q / 2 at 1 and p / 2 at 0."""
    return torch.where(hard > 0.5, (1 - p) / 2, p / 2) * step


@pytest.mark.parametrize(
    ("family", "jacobian"),
    [(Categorical(3), zgr), (Bernoulli(), trapezoid)],
    ids=lambda x: getattr(x, "__name__", repr(x)),
)
def test_reinmax_is_zgr_draw_by_draw(family, jacobian):
    """S8 and S9, for a function that is not quadratic."""
    theta = torch.tensor([-0.7, 0.3, 1.1, -2.0, 0.4, 0.9], dtype=torch.float64).reshape(2, 3)
    problem = Objective(family, theta if family.theta_shape else theta.ravel(), lambda x: square(x).sin())
    a, b = (Chain(problem, e, ("unit",)).draw(50, MonteCarlo("same"))[UNIT] for e in (ReinMax(), Linear(jacobian)))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-13)
    assert a.std(0).min() > 0


@pytest.mark.parametrize(("temperature", "tolerance"), [(0.1, 1e-10), (0.4, 1e-10), (1.0, 1e-10), (3.0, 1e-6)])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, -2.5])
def test_rebar_is_exact_for_every_temperature_and_scale(temperature, tolerance, eta):
    """S13; at eta = 0 it is REINFORCE.

    The relaxed value goes as u^(1 / temperature) at the ends, which above 1 slows the rule down.
    """
    problem = bits(lambda x: (x**3 - 0.4 * x).exp().sum(-1), 0.2)
    found = moments(problem, Rebar(temperature, eta), 200)
    np.testing.assert_allclose(found.mean, truth(problem), rtol=0, atol=tolerance)
    if eta == 0:
        np.testing.assert_allclose(found.variance, moments(problem, Reinforce()).variance, rtol=1e-9)


def test_rebar_is_exact_for_two_interacting_units():
    problem = bits(lambda x: (x @ x.new_tensor([1.0, -2.0]) - 0.45).square(), 0.3, 0.8)
    np.testing.assert_allclose(moments(problem, Rebar(1.0), 10).mean, truth(problem), rtol=0, atol=1e-6)


def test_muprop_is_exact_and_without_variance_for_linear_functions():
    """S14."""
    for problem in (QuadraticForm(), bits(lambda x: x.sum(-1).exp(), 0.2, 0.9), CategoricalQuadratic()):
        np.testing.assert_allclose(moments(problem, MuProp()).mean, truth(problem), rtol=0, atol=1e-12)
    for problem in (Additive(), SharedLogit()):
        found = moments(problem, MuProp())
        np.testing.assert_allclose(found.mean, truth(problem), rtol=0, atol=1e-12)
        assert (found.variance < 1e-28).all()


# ---------------------------------------------------------------------- laws of the rule
def run_rule(nodes: int, chunk: int) -> dict[str, Tensor]:
    """Two uniforms with jumps, one without, one normal: their values and weights over the whole grid."""
    p = torch.tensor([0.2, 0.7], dtype=torch.float64)

    def ask(rule: ProductRule, count: int) -> Tensor:
        jumps = torch.stack([p.minimum(1 - p), p.maximum(1 - p)], -1).expand(1, count, 2, 2)
        a = rule.uniform(torch.empty(1, count, 2, dtype=torch.float64), 1, lambda: jumps)[0]
        like = torch.empty(count, 1, dtype=torch.float64)
        none = partial(like.new_empty, count, 1, 0)
        return torch.cat([a, rule.uniform(like, 0, none), rule.normal(like, 0, none)], 1)

    learn = ProductRule(nodes)
    ask(learn, 1)
    assert learn.sizes == [3 * nodes, 3 * nodes, nodes, nodes]
    parts = []
    for start in range(0, learn.total, chunk):
        stop = min(learn.total, start + chunk)
        rule = ProductRule(nodes, tuple(learn.sizes), start, stop)
        parts.append((ask(rule, stop - start), rule.weight))
    values, weights = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return {"values": values, "weights": weights}


@pytest.mark.parametrize("nodes", [1, 2, 5])
def test_rule_weights_sum_to_one_in_any_chunks(nodes):
    whole = run_rule(nodes, 10**9)
    assert abs(float(whole["weights"].sum()) - 1) < 1e-13
    assert (whole["weights"] > 0).all()
    assert len(whole["values"].unique(dim=0)) == len(whole["values"])
    for chunk in (7, 100):
        parts = run_rule(nodes, chunk)
        assert all(torch.equal(parts[k], whole[k]) for k in whole)


def test_rule_integrates_polynomials_on_pieces():
    """Degree 2 nodes - 1 in every number: E u^5 = 1/6, E 1[u < p] u^3 = p^4 / 4, E n^4 = 3; and products of them."""
    rule = run_rule(3, 10**9)
    u, v, w, n = rule["values"].T
    powers = [((u < 0.2) * u**3, 0.2**4 / 4), ((v < 0.7) * v**5, 0.7**6 / 6), (w**5, 1 / 6), (n**4, 3.0)]
    total, expected = torch.ones_like(u), 1.0
    for function, integral in powers:
        np.testing.assert_allclose(float(rule["weights"] @ function), integral, rtol=1e-12)
        total, expected = total * function, expected * integral
    np.testing.assert_allclose(float(rule["weights"] @ total), expected, rtol=1e-12)


def test_chunks_agree_with_one_chunk(monkeypatch):
    problem = TwoLayer(batch=1)
    whole = exact_moments(problem, DisARM())
    chunks = count_chunks(monkeypatch, 100)
    parts = exact_moments(problem, DisARM())
    assert chunks[0] > 5
    for key, found in whole.items():
        assert abs(found.weight - 1) < 1e-12
        for name in ("mean", "m2", "m3"):
            np.testing.assert_allclose(getattr(parts[key], name), getattr(found, name), rtol=1e-10, atol=1e-13)


def count_chunks(monkeypatch, size: int) -> list[int]:
    """Makes exact moments take the grid in chunks of ``size``; counts them."""
    module = importlib.import_module("estimator_lab.expectation")
    plain, count = module._chunks, [0]

    def chunks(total, _):
        for pair in plain(total, size):
            count[0] += 1
            yield pair

    monkeypatch.setattr(module, "_chunks", chunks)
    return count


def test_third_moments_are_exact():
    """Of REINFORCE on one bit: two values with probabilities q and p."""
    p, t = 0.2, 0.45
    found = moments(OneBit(logit(p), t), Reinforce())
    values, weights = np.array([t**2 * -p, (1 - t) ** 2 * (1 - p)]), np.array([1 - p, p])
    centred = values - weights @ values
    np.testing.assert_allclose(found.m3[0], weights @ centred**3, rtol=1e-12)
    np.testing.assert_allclose(found.skewness[0], weights @ centred**3 / (weights @ centred**2) ** 1.5, rtol=1e-12)


def test_too_large_a_grid_says_what_to_do():
    with pytest.raises(TooLarge, match=r"grid of 3\.57e\+12 points for 5 random numbers.*estimator_lab\.measure"):
        exact_moments(TwoLayer(batch=1), StraightThroughGumbelSoftmax(), nodes=108)  # (3 * 108)^5
    with pytest.raises(TooLarge, match=r"more than the 67108864 that are summed.*Truth\.estimated"):
        Truth.exact(bits(lambda x: x.sum(-1), *[0.3] * 23))


def test_an_estimator_that_asks_for_other_numbers_at_every_call_is_refused():
    class Restless(Estimator):
        calls = 0

        def surrogate(self, site, downstream):
            type(self).calls += 1
            return downstream(site.sample() if self.calls % 2 else site.uniform())

    with pytest.raises(TooLarge, match="same random numbers at every call"):
        exact_moments(OneBit(), Restless())
