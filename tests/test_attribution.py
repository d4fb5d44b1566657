"""Where the network goes wrong: attribution to sites, depth, and the split of a training step's noise."""

from __future__ import annotations

import io
import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import matplotlib
import numpy as np
import pytest
import torch
from scipy import special
from torch import Tensor

import estimator_lab as lab
from estimator_lab import noise_split as split_module
from estimator_lab.attribution import ALL, INTERACTION, REFERENCE, STATES, attribute, deepening, reference_for
from estimator_lab.errors import UsageError
from estimator_lab.estimators import (
    ControlledFlips,
    DisARM,
    Exact,
    GumbelSoftmax,
    LeaveOneOut,
    LocalExpectation,
    MeanField,
    Pathwise,
    Reinforce,
    StraightThrough,
)
from estimator_lab.noise_split import split_noise
from estimator_lab.problem import Problem
from estimator_lab.report.figures.attribution import attribution
from estimator_lab.report.figures.depth import depth
from estimator_lab.report.figures.noise_split import noise_split as noise_figure
from estimator_lab.site import SiteSpec
from estimator_lab.statistics import Estimate
from estimator_lab.truth import Truth

TINY = 1e-12


@dataclass(frozen=True)
class Deep(Problem):
    """L layers of n Bernoulli units with fixed weights without symmetry; the loss is quadratic in the last layer."""

    depth: int = 3
    units: int = 2
    batch: int = 2

    @property
    def sites(self) -> tuple[SiteSpec, ...]:  # type: ignore[override]
        return tuple(SiteSpec(f"h{i + 1}", lab.Bernoulli(), (self.units,)) for i in range(self.depth))

    @property
    def label(self) -> str:
        return f"{self.depth} layers of {self.units}"

    def weights(self) -> Mapping[str, Tensor]:
        n = self.units
        numbers = torch.arange(1, 1 + n * n * self.depth, dtype=torch.float64)
        numbers = (2.3 * numbers + 0.07 * numbers.square()).cos() * 1.7
        return {f"w{i + 1}": numbers[n * n * i : n * n * (i + 1)].reshape(n, n) for i in range(self.depth)}

    def theta(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...]) -> Tensor:
        like = weights["w1"]
        if not samples:
            x = torch.linspace(-1, 1.5, self.batch * self.units, dtype=like.dtype, device=like.device)
            return x.reshape(self.batch, self.units) @ like.T
        return (2 * samples[-1] - 1) @ weights[f"w{len(samples) + 1}"].T

    def loss(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...], thetas: tuple[Tensor, ...]) -> Tensor:
        v = torch.linspace(0.7, -1.1, self.units, dtype=samples[-1].dtype, device=samples[-1].device)
        return (samples[-1] @ v - 0.3).square()


@dataclass(frozen=True)
class Scaled(lab.Estimator):
    """A sum over all values whose gradient is too long: broken on purpose."""

    factor: float = 1.3
    families = (lab.Bernoulli,)

    def surrogate(self, site: lab.Site, downstream: lab.Downstream) -> Tensor:
        loss = LocalExpectation().surrogate(site, downstream)
        (gradient,) = torch.autograd.grad(loss.sum(), site.theta, retain_graph=True)
        return loss + site.inject((self.factor - 1) * gradient)


# ---------------------------------------------------------------------- attribution
def by_hand() -> dict[str, np.ndarray]:
    """Unit gradients of h1 of TwoLayer, one example: truth, straight-through at h1 only, straight-through at both.

    Written out without the package: sums over the 8 values of h1 and the 4 of h2.
    """
    numbers = np.arange(1, 21)
    numbers = np.sin(1.7 * numbers + 0.11 * numbers**2) * 1.5
    w1, w2, v = numbers[:12].reshape(3, 4), numbers[12:18].reshape(2, 3), numbers[18:]
    theta1 = w1 @ np.linspace(-1, 1, 4)
    p = special.expit(theta1)
    penalty = 0.2 * theta1

    def f(h2: np.ndarray) -> float:
        return float((v @ h2 - 0.3) ** 2)

    def inner(h1: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """E f given h1, its gradient in theta_2, and that of straight-through."""
        q = special.expit(w2 @ h1)
        value, exact, through = 0.0, np.zeros(2), np.zeros(2)
        for bits in itertools.product((0.0, 1.0), repeat=2):
            b = np.array(bits)
            chance = np.prod(np.where(b == 1, q, 1 - q))
            value += chance * f(b)
            exact += chance * f(b) * (b - q)
            through += chance * 2 * (v @ b - 0.3) * v * q * (1 - q)
        return value, exact, through

    found = {"truth": penalty.copy(), "first": penalty.copy(), "both": penalty.copy()}
    for bits in itertools.product((0.0, 1.0), repeat=3):
        b = np.array(bits)
        chance = np.prod(np.where(b == 1, p, 1 - p))
        value, exact, through = inner(b)
        found["truth"] += chance * value * (b - p)
        found["first"] += chance * p * (1 - p) * (w2.T @ exact)
        found["both"] += chance * p * (1 - p) * (w2.T @ through)
    return found


def test_straight_through_on_two_layers_is_what_sums_by_hand_give() -> None:
    found = attribute(StraightThrough(), lab.problems.TwoLayer(batch=1))
    hand = by_hand()
    norm, total = np.linalg.norm(hand["truth"]), hand["both"] - hand["truth"]
    assert found.exact == found.runs == 4
    for cause, kind, vector in (
        ("h1", "added", hand["first"] - hand["truth"]),
        ("h1", "alone", hand["first"] - hand["truth"]),
        ("h2", "added", hand["both"] - hand["first"]),
        ("h2", "alone", np.zeros(3)),
        (ALL, "added", total),
        (INTERACTION, "added", hand["both"] - hand["first"]),
    ):
        effect = found.effect(cause, "site", "h1", kind)
        assert effect.bias.value == pytest.approx(np.linalg.norm(vector), abs=TINY)
        assert effect.relative_bias.value == pytest.approx(np.linalg.norm(vector) / norm, abs=TINY)
        assert effect.share.value == pytest.approx(vector @ total / (total @ total), abs=1e-10)
        assert effect.bias.low == effect.bias.high == effect.bias.value


@pytest.mark.parametrize("problem", [lab.problems.TwoLayer(batch=1), lab.problems.ChainOfFour(batch=1), Deep(3, 2, 2)])
def test_shares_and_variances_add_up(problem: Problem) -> None:
    found = attribute(StraightThrough(), problem, budget=1024)
    for level, name in found.groups:
        whole, base = found.effect(ALL, level, name), found.effect(REFERENCE, level, name)
        parts = [found.effect(s, level, name) for s in found.sites]
        assert whole.variance.low == whole.variance.high  # the choices that are added up are all summed exactly
        assert sum(e.variance.value for e in parts) + base.variance.value == pytest.approx(whole.variance.value)
        if whole.verdict != "exact":
            assert sum(e.share.value for e in parts) == pytest.approx(1, abs=1e-9)
            alone = [found.effect(s, level, name, "alone") for s in found.sites]
            crossed = found.effect(INTERACTION, level, name)
            assert sum(e.share.value for e in [*alone, crossed]) == pytest.approx(1, abs=1e-9)
        alone = [found.effect(s, level, name, "alone") for s in found.sites]
        crossed = found.effect(INTERACTION, level, name)
        parts_sum = sum(e.variance.value for e in [*alone, crossed]) + base.variance.value
        assert parts_sum == pytest.approx(whole.variance.value)


@pytest.mark.parametrize("estimator", [StraightThrough(), StraightThrough("identity"), Reinforce()])
def test_nothing_reaches_later_sites(estimator: lab.Estimator) -> None:
    """An estimator that samples its layer's own law changes gradients of its own and of earlier sites only."""
    found = attribute(estimator, lab.problems.ChainOfFour(batch=1), budget=1024)
    for i, cause in enumerate(found.sites):
        for j, seen in enumerate(found.sites):
            if j > i:
                assert found.effect(cause, "site", seen).verdict == "exact"
                assert found.effect(cause, "site", seen).bias == Estimate(0.0, 0.0, 0.0)
                assert found.effect(cause, "layer", seen).verdict == "exact"


def test_a_soft_forward_pass_does_reach_later_sites() -> None:
    """The law above has a condition, and the test of it finds what does not meet it."""
    found = attribute(MeanField(), lab.problems.ChainOfFour(batch=1), budget=512)
    assert found.effect("h1", "site", "h4").verdict.startswith("biased")


@pytest.mark.parametrize("estimator", [Reinforce(), LocalExpectation()])
def test_an_unbiased_estimator_causes_no_bias_exactly(estimator: lab.Estimator) -> None:
    found = attribute(estimator, Deep(2, 2, 1))
    assert found.exact == found.runs
    assert {e.verdict for e in found.effects} == {"exact"}
    assert all(math.isnan(e.share.value) or e.share.value == 0 for e in found.effects)
    assert "no bias" in found.summary()


def test_an_unbiased_estimator_is_not_called_biased_when_sampled() -> None:
    """The chance to call any effect a bias is at most alpha = 1e-6, as the one-sided levels of all effects add up."""
    for reference in (Exact(), ControlledFlips()):
        found = attribute(DisARM(), Deep(2, 2, 2), reference=reference, budget=2**11, alpha=1e-6)
        assert found.exact < found.runs
        assert not [e for e in found.effects if e.verdict.startswith("biased")]


@pytest.mark.parametrize(
    ("site", "reference"), [("h2", Exact()), *((s, LocalExpectation()) for s in ("h1", "h2", "h3"))]
)
def test_what_is_broken_at_one_site_is_blamed_on_it(site: str, reference: lab.Estimator) -> None:
    """The levels of all effects add up to a false-alarm rate of 1e-6."""
    broken = lab.PerSite({site: Scaled()}, default=LocalExpectation())
    budget = 2**14 if site == "h1" else 2**11  # the signal of h1 is the smallest
    found = attribute(broken, Deep(3, 2, 1), reference=reference, budget=budget, alpha=1e-6)
    for level, name in found.groups:
        for cause in found.sites:
            for kind in ("added", "alone"):
                effect = found.effect(cause, level, name, kind)
                if cause == site and (name == site or level == "total"):
                    small = level == "total" and effect.bias.low > 0  # found, and within the margin of all weights
                    assert small or effect.verdict.startswith("biased"), (cause, kind, level, name)
                    if name == site:  # three tenths too long
                        assert effect.relative_bias.low - TINY <= 0.3 <= effect.relative_bias.high + TINY or (
                            abs(effect.relative_bias.value - 0.3) < 0.05
                        )
                else:
                    assert not effect.verdict.startswith("biased"), (cause, kind, level, name)
    if reference == LocalExpectation():  # random numbers in common: all else is the same in every draw
        assert f"100 % of it comes from {site}" in found.summary()
        others = [e for e in found.effects if e.kind in ("added", "alone") and e.cause != site]
        assert {e.verdict for e in others} == {"exact"}


def test_sampled_attribution_covers_the_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 95 % intervals of correlated numbers few may miss; at five times their half-width none (rate below 1e-6).

    Half-widths are about two standard errors, so that ten of these are asked for.
    """
    exact = attribute(StraightThrough(), Deep(2, 2, 1))
    monkeypatch.setattr("estimator_lab.attribution.expectation", lambda *_: None)
    drawn = attribute(StraightThrough(), Deep(2, 2, 1), budget=2**13)
    assert drawn.exact <= 1 < exact.exact
    near, checked = 0, 0
    for one, other in zip(exact.effects, drawn.effects, strict=True):
        for name in ("bias", "share", "variance"):
            truth, found = getattr(one, name).value, getattr(other, name)
            if not math.isfinite(truth) or not found.low < found.high:
                continue
            checked += 1
            near += found.low <= truth <= found.high
            assert found.low - 2 * (found.high - found.low) <= truth <= found.high + 2 * (found.high - found.low)
    assert checked > 40 and near > 0.7 * checked


def test_without_an_exact_truth_the_reference_is_the_truth() -> None:
    assert 2 ** (3 * 4) <= STATES < 2 ** (3 * 5)
    assert isinstance(reference_for(Deep(3, 4, 1)), Exact)
    problem = Deep(3, 5, 1)
    assert isinstance(reference_for(problem), ControlledFlips)
    found = attribute(StraightThrough(), problem, budget=512)
    assert found.truth.startswith("exact")
    given = lab.Truth.estimated(problem, ControlledFlips(), 512)
    noisy = attribute(StraightThrough(), problem, budget=256, truth=given)
    assert noisy.truth.startswith("estimated")
    for which in (found, noisy):
        resolved = [g for g in which.groups if math.isfinite(which.effect(ALL, *g).share.value)]
        assert resolved
        for group in resolved:
            assert sum(which.effect(s, *group).share.value for s in which.sites) == pytest.approx(1, abs=1e-9)


def test_a_truth_too_large_to_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("estimator_lab.attribution._truth", lambda *_: None)
    found = attribute(StraightThrough(), Deep(2, 2, 2), reference=LocalExpectation(), budget=2**12, alpha=1e-6)
    exact = attribute(StraightThrough(), Deep(2, 2, 2))
    assert found.truth.startswith("estimated: local expectation")
    assert found.effect(REFERENCE).verdict == "exact"
    for site in found.sites:
        one, other = found.effect(site).relative_bias, exact.effect(site).relative_bias
        assert one.value == pytest.approx(other.value, abs=5 * (one.high - one.low) + TINY)


def test_variance_of_one_draw_with_several_paths_is_the_estimators_own() -> None:
    found = attribute(LeaveOneOut(4), Deep(2, 2, 1), reference=LocalExpectation(), budget=2**12)
    for cause, estimator, paths in ((ALL, LeaveOneOut(4), 1), (REFERENCE, LocalExpectation(), 4)):
        moments = lab.exact_moments(Deep(2, 2, 1), estimator, wrt=("weight",)).values()
        variance = sum(float(m.variance.sum()) for m in moments) / paths
        assert found.effect(cause).variance.value == pytest.approx(variance, rel=1e-9)


def test_a_gaussian_site_takes_the_pathwise_reference() -> None:
    assert isinstance(reference_for(lab.problems.GaussianPolynomial()), Exact | Pathwise)


def test_frame_and_words() -> None:
    found = attribute(StraightThrough(), lab.problems.TwoLayer(batch=1))
    frame = found.to_frame()
    assert len(frame) == 4 * len(found.effects) == 4 * len(found.groups) * (2 * 2 + 3)
    words = found.summary()
    assert "the weights of h1: a bias of 4.4 % of the gradient's norm; 104 % of it comes from h2" in words
    assert "(parts partly cancel)" in words and "of it to sites acting together" in words
    assert len(words.splitlines()) == 4
    one = attribute(StraightThrough(), lab.problems.OneBit()).summary()
    assert one.startswith("the weights of x and all weights alike: a bias of") and "comes from" not in one
    with pytest.raises(KeyError, match="no effect of 'h9'"):
        found.effect("h9")


@pytest.mark.parametrize("units", [2, 5])
def test_progress_tells_what_is_measured(units: int) -> None:
    """Draws of each choice that is not summed; what is summed is named once. Nothing else changes."""
    problem, seen = Deep(3, units, 1), []
    found = attribute(StraightThrough(), problem, budget=512, progress=lambda *told: seen.append(told))
    reference = reference_for(problem).label
    choices = [reference, "ST at h1", "ST at h1, h2", "ST at h1, h2, h3", "ST at h2", "ST at h3"]
    names = [f"truth of {problem.label}", *(f"{choice} on {problem.label}" for choice in choices)]
    assert list(dict.fromkeys(name for name, _, _ in seen)) == names
    assert [(name, 0, 0) for name in names] == [told for told in seen if not told[2]]
    assert len({name for name, done, planned in seen if done == planned > 0}) == found.runs - found.exact
    assert found == attribute(StraightThrough(), problem, budget=512)


def test_mistakes_are_named() -> None:
    problem = Deep(2, 2, 1)
    with pytest.raises(UsageError, match="a reference is unbiased"):
        attribute(StraightThrough(), problem, reference=GumbelSoftmax())
    with pytest.raises(UsageError, match="use a reference of one path"):
        attribute(StraightThrough(), problem, reference=LeaveOneOut(4))
    with pytest.raises(UsageError, match="pass an object of it"):
        attribute(StraightThrough, problem)
    for truth in (Truth.exact(problem, ("unit",)), Truth.exact(Deep(3, 2, 1)), Truth.exact(Deep(2, 2, 3))):
        with pytest.raises(UsageError, match="is not that of"):
            attribute(StraightThrough(), problem, truth=truth)
    with pytest.raises(UsageError, match="margin is positive"):
        attribute(StraightThrough(), problem, margin=0.0)
    with pytest.raises(UsageError, match="applies to Reparameterised sites"):
        attribute(Pathwise(), problem)


def test_layers_of_any_width_have_a_reference() -> None:
    assert reference_for(Deep(2, 1500, 1)) == ControlledFlips()


# ---------------------------------------------------------------------- depth
@pytest.fixture(scope="module")
def chains() -> list[Problem]:
    return [Deep(d, 2, 1) for d in (1, 2, 3, 4, 6)]


def test_deepening_is_what_exact_moments_say(chains: list[Problem]) -> None:
    found = deepening(StraightThrough(), chains[::-1], budget=256)
    assert found.depths == (1, 2, 3, 4, 6)
    frame = found.to_frame()
    for problem in chains[:4]:
        moments = lab.exact_moments(problem, StraightThrough())["weight", "w1"]
        truth = lab.Truth.exact(problem).mean["weight", "w1"].ravel()
        rows = frame[(frame["depth"] == len(problem.sites)) & (frame["layer"] == 1)].set_index("statistic")
        bias = np.linalg.norm(moments.mean - truth) / np.linalg.norm(truth)
        cosine = moments.mean @ truth / np.linalg.norm(truth) / np.linalg.norm(moments.mean)
        snr = moments.mean @ moments.mean / moments.variance.sum()
        for name, value in (("relative_bias", bias), ("cosine_of_mean", cosine), ("snr", snr)):
            assert rows["value"][name] == pytest.approx(value, rel=1e-6, abs=1e-9)
    last = frame[(frame["depth"] == 6) & (frame["statistic"] == "snr")]
    assert list(last["layer"]) == [1, 2, 3, 4, 5, 6] and list(last["from_loss"]) == [6, 5, 4, 3, 2, 1]
    assert len(found.summary().splitlines()) == 5


def test_an_unbiased_estimator_stays_unbiased_with_depth(chains: list[Problem]) -> None:
    frame = deepening(Reinforce(), chains[:3], budget=256).to_frame()
    assert (frame[frame["statistic"] == "relative_bias"]["value"] == 0).all()


def test_results_have_short_names(chains: list[Problem]) -> None:
    split = split_noise(chains[0], StraightThrough(), minibatch=1, minibatches=8, replicates=2, numerical=False)
    for result in (attribute(StraightThrough(), chains[0]), deepening(StraightThrough(), chains[:2], budget=64), split):
        assert repr(result).startswith(f"<{type(result).__name__} of ST") and len(repr(result)) < 120


def test_one_problem_for_each_depth() -> None:
    for problems in ([], [Deep(2), Deep(2, 3)]):
        with pytest.raises(UsageError, match="one for each depth"):
            deepening(StraightThrough(), problems)


# ---------------------------------------------------------------------- noise split
def exact_split(problem: Problem, estimator: lab.Estimator, minibatch: int) -> tuple[float, float]:
    """Data and sampling part of all weights: every minibatch, every outcome of the random numbers."""
    weighted = split_module._Weighted(problem)
    means, variances = [], []
    for rows in itertools.combinations(range(problem.batch), minibatch):
        weighted.scale = torch.zeros(problem.batch, dtype=torch.float64)
        weighted.scale[list(rows)] = problem.batch / minibatch
        found = lab.exact_moments(weighted, estimator, wrt=("weight",)).values()
        means.append(np.concatenate([m.mean for m in found]))
        variances.append(sum(float(m.variance.sum()) for m in found))
    return float(np.var(means, axis=0).sum()), float(np.mean(variances))


@pytest.mark.parametrize("minibatch", [1, 2, 3])
def test_total_variance_is_that_of_a_finite_population(minibatch: int) -> None:
    """(1/m)(1 - m/B) S^2 and s^2 / m, from the gradients of single examples, equal the sums over all minibatches."""
    problem, estimator = Deep(2, 2, 3), StraightThrough()
    size = problem.batch
    weighted, means, variances = split_module._Weighted(problem), [], []
    for b in range(size):
        weighted.scale = torch.zeros(size, dtype=torch.float64)
        weighted.scale[b] = size
        found = lab.exact_moments(weighted, estimator, wrt=("weight",)).values()
        means.append(np.concatenate([m.mean for m in found]))
        variances.append(sum(float(m.variance.sum()) for m in found))
    data = (1 - minibatch / size) / minibatch * float(np.var(means, axis=0, ddof=1).sum())
    assert exact_split(problem, estimator, minibatch) == pytest.approx((data, np.mean(variances) / minibatch), abs=TINY)


@pytest.mark.parametrize("estimator", [StraightThrough(), Reinforce()])
def test_the_split_is_the_exact_one(estimator: lab.Estimator) -> None:
    """Within 6 standard errors of 256 minibatches: false alarms below 1e-7 by the t law of 255 degrees of freedom."""
    problem, minibatch = Deep(2, 2, 3), 2
    data, sampling = exact_split(problem, estimator, minibatch)
    found = split_noise(problem, estimator, minibatch=minibatch, replicates=128, minibatches=256).part()
    for truth, part in ((data, found.data), (sampling, found.sampling), (data + sampling, found.total)):
        assert abs(part.value - truth) < 6 * (part.high - part.low) / 2 / 1.969
        assert part.high - part.low < truth  # so that the line above means something


def test_the_correction_for_few_replicates_is_needed() -> None:
    """The variance of minibatch means, taken for the data part, is off by far more than the 6 errors above."""
    problem, draws = Deep(2, 2, 3), 8
    data, _ = exact_split(problem, Reinforce(), 2)
    found = split_noise(problem, Reinforce(), minibatch=2, replicates=draws, minibatches=256, numerical=False).part()
    error = (found.data.high - found.data.low) / 2 / 1.969
    assert abs(found.data.value - data) < 6 * error < abs(found.data.value + found.sampling.value / draws - data)


def test_words_have_no_more_digits_than_mean_something() -> None:
    """Two digits, intervals in brackets, and no powers of ten: rounding is some 1e-12 per cent."""
    found = split_noise(Deep(2, 2, 3), Reinforce(), minibatch=2, minibatches=8, replicates=4)
    assert 0 < found.part().shares["numerical"].value < 1e-8
    lines = found.summary().splitlines()
    assert all(line.endswith(" from the sampled units, below 0.01 % from rounding in float32") for line in lines)
    words = [*lines, *attribute(StraightThrough(), Deep(2, 2, 2), budget=512).summary().splitlines()]
    words += deepening(StraightThrough(), [Deep(d, 2, 1) for d in (1, 2)], budget=256).summary().splitlines()
    for number in re.findall(r"[\d.]+(?:e[+-]\d+)?(?= %|, |\])", " ".join(words)):
        assert "e" not in number and len(number.replace(".", "").lstrip("0")) <= 3, number


def test_all_noise_of_an_exact_sum_comes_from_the_data() -> None:
    problem = Deep(2, 2, 6)
    found = split_noise(problem, Exact(), minibatch=2, replicates=2, minibatches=200)
    for part in found.parts:
        assert part.shares["data"].value == pytest.approx(1, abs=1e-6)
        assert part.sampling.value <= 1e-25
    truth = exact_split(problem, Exact(), 2)[0]
    total = found.part().data
    assert abs(total.value - truth) < 6 * (total.high - total.low) / 2 / 1.972


def test_the_whole_batch_leaves_no_choice() -> None:
    found = split_noise(Deep(2, 2, 3), Reinforce(), minibatch=3, numerical=False)
    assert all(p.data == Estimate(0.0, 0.0, 0.0) and p.shares["sampling"].value == 1 for p in found.parts)
    assert all(math.isnan(p.numerical.value) for p in found.parts)
    assert "rounding" not in found.summary()


def test_float32_is_off_by_its_rounding() -> None:
    """Of the order of 2^-24 of the gradient, squared; with a gradient rounded to 10 bits on purpose a million times."""
    found = split_noise(Deep(2, 2, 3), StraightThrough(), minibatch=2, minibatches=8, replicates=16).part()
    unit = found.total.value * 2.0**-48
    assert 1e-3 * unit < found.numerical.value < 1e4 * unit
    again = split_noise(Deep(2, 2, 3), StraightThrough(), minibatch=2, minibatches=8, replicates=16).part()
    assert found == again


def test_both_dtypes_see_the_same_numbers() -> None:
    """The wrapped noise hands the same numbers to both; without it the difference is that of independent draws."""
    from estimator_lab.noise import MonteCarlo

    single, double = (torch.zeros(4, 5, dtype=d) for d in (torch.float32, torch.float64))
    for method in ("uniform", "normal"):
        more = (0, lambda: None)
        a, b = (getattr(split_module._Coarse(MonteCarlo(7)), method)(like, *more) for like in (single, double))
        assert torch.equal(a.double(), b) and a.dtype == torch.float32 and b.dtype == torch.float64
        a, b = (getattr(MonteCarlo(7), method)(like, *more) for like in (single, double))
        assert not torch.allclose(a.double(), b)


def test_folded_rows_are_weighted_alike() -> None:
    weighted = split_module._Weighted(Deep(1, 2, 3))
    weighted.scale = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    assert weighted._weigh(torch.ones(6, dtype=torch.float64)).tolist() == [0, 1, 2, 0, 1, 2]


class Stubborn(Deep):
    """Its loss stays in float64 whatever the weights are."""

    def loss(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...], thetas: tuple[Tensor, ...]) -> Tensor:
        return super().loss(weights, samples, thetas) * torch.ones(self.batch, dtype=torch.float64)


class Clashing(Deep):
    """Multiplies weights with a constant in float64."""

    def theta(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...]) -> Tensor:
        return super().theta(weights, samples) @ torch.eye(self.units, dtype=torch.float64)


@dataclass(frozen=True)
class Normalised(lab.Estimator):
    """Divides the loss by its size: not proportional to it."""

    families = (lab.Bernoulli,)

    def surrogate(self, site: lab.Site, downstream: lab.Downstream) -> Tensor:
        value = site.sample()
        loss = downstream(value)
        return loss + site.score(value, loss / (1 + loss.detach().abs()))


def test_what_cannot_be_split_is_refused() -> None:
    problem = Deep(2, 2, 3)
    for number, words in (({"minibatch": 4}, "from 1 to the 3 examples"), ({"replicates": 1}, "at least 2")):
        with pytest.raises(UsageError, match=words):
            split_noise(problem, Reinforce(), **{"minibatch": 2, **number})
    with pytest.raises(UsageError, match="minibatches is at least 8"):
        split_noise(problem, Reinforce(), minibatch=1, minibatches=2)
    with pytest.raises(UsageError, match=r"does not follow weights in float32, loss is torch.float64.*numerical=False"):
        split_noise(Stubborn(2, 2, 3), Reinforce(), minibatch=2)
    with pytest.raises(UsageError, match=r"does not run with weights in float32.*numerical=False"):
        split_noise(Clashing(2, 2, 3), Reinforce(), minibatch=2)
    split_noise(Stubborn(2, 2, 3), Reinforce(), minibatch=2, minibatches=8, replicates=2, numerical=False)
    with pytest.raises(UsageError, match=r"a whole number; found 1\.5"):
        split_noise(problem, Reinforce(), minibatch=1.5)
    for estimator in (Normalised(), Reinforce("mean")):
        with pytest.raises(UsageError, match="not proportional to the loss"):
            split_noise(problem, estimator, minibatch=2)


class Faint(Deep):
    """Gradients far smaller than one, in float32."""

    def weights(self) -> Mapping[str, Tensor]:
        return {k: v.float() for k, v in super().weights().items()}

    def loss(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...], thetas: tuple[Tensor, ...]) -> Tensor:
        return 1e-4 * super().loss(weights, samples, thetas)


def test_small_gradients_out_of_proportion_are_seen() -> None:
    split_noise(Faint(2, 2, 3), Reinforce(), minibatch=2, minibatches=8, replicates=2, numerical=False)
    with pytest.raises(UsageError, match="not proportional to the loss"):
        split_noise(Faint(2, 2, 3), Reinforce(1e-4), minibatch=2, numerical=False)


@pytest.mark.parametrize("problem", [lab.problems.TwoLayer(), lab.problems.ChainOfFour()])
def test_problems_that_ship_follow_the_dtype_of_their_weights(problem: Problem) -> None:
    assert next(iter(split_module._in(problem, torch.float32).weights().values())).dtype == torch.float32


# ---------------------------------------------------------------------- figures
def test_figures_leave_no_trace(chains: list[Problem]) -> None:
    from matplotlib import pyplot

    blamed = attribute(StraightThrough(), lab.problems.TwoLayer(batch=1))
    deep = deepening(StraightThrough(), chains[:3], budget=256)
    noise = split_noise(Deep(2, 2, 3), StraightThrough(), minibatch=2, minibatches=8, replicates=4)
    before, opened = dict(matplotlib.rcParams), pyplot.get_fignums()
    for draw, given in ((attribution, blamed), (depth, deep)):
        figure = draw(given)
        assert isinstance(figure, matplotlib.figure.Figure) and all(ax.has_data() for ax in figure.axes)
        figure.savefig(io.BytesIO(), format="svg")
    assert noise_figure(noise).has_data()
    ax = matplotlib.figure.Figure().subplots()
    assert noise_figure(noise, ax) is ax and ax.has_data()
    assert dict(matplotlib.rcParams) == before and pyplot.get_fignums() == opened
