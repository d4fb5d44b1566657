"""Looks, budgets, stopping, paired ratios, truths that are too noisy, the ledger."""

from __future__ import annotations

import dataclasses
import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import estimator_lab as lab
from estimator_lab.budget import FIRST, UNLIMITED
from estimator_lab.errors import UsageError
from estimator_lab.estimators import DisARM, LeaveOneOut, LocalExpectation, MeanField, Reinforce, StraightThrough
from estimator_lab.evaluation import under_test
from estimator_lab.measurement import prepare
from estimator_lab.plan import Plan
from estimator_lab.problems import ChainOfFour, OneBit, QuadraticForm, TwoLayer
from estimator_lab.statistics import Look, Looks, detectable, verdict
from estimator_lab.statistics.bias import equivalent, exceeds, relative_bias_interval, replicates_needed, truth_needed
from estimator_lab.statistics.group import carrying
from estimator_lab.statistics.ratio import variance_ratio
from estimator_lab.statistics.verdict import POWER
from estimator_lab.truth import Truth


# ---------------------------------------------------------------------- blocks and looks
@given(st.integers(0, 8), st.integers(0, 200), st.integers(1, 10**7))
def test_blocks_tile_the_replicates(power, index, replicates):
    plan = Plan("", "", "", "", "float64", (), 0, 32 << power)
    assert plan.before(index + 1) == plan.before(index) + plan.size(index)
    assert plan.before(index) % plan.size(index) == 0  # so that batches of leaves are nodes of one tree
    if plan.largest > 4096:
        last = plan.blocks(replicates)
        assert plan.before(last - 1) < replicates <= plan.before(last)


@given(st.integers(0, 8), st.integers(0, 14))
def test_every_look_is_at_the_end_of_a_block(power, look):
    plan = Plan("", "", "", "", "float64", (), 0, 32 << power)
    if (FIRST << look) // plan.largest < 2000:
        assert plan.before(plan.blocks(FIRST << look)) == FIRST << look


@pytest.mark.parametrize(
    ("budget", "looks"),
    [
        (lab.Budget(), [256, 512, 1024]),
        (lab.Budget(3000), [256, 512, 1024, 2048, 3000]),
        (lab.Budget(2048), [256, 512, 1024, 2048]),
        (lab.Budget(2**16), [2**12, 2**13, 2**14, 2**15, 2**16]),
        (lab.Budget(70000), [4375, 8750, 17500, 35000, 70000]),
        (lab.Budget(257), [256, 257]),
        (lab.Budget(256), [256]),
        (lab.Budget(5), [5]),
        (lab.Budget(2048, early=False), [2048]),
        (lab.Budget(early=False), [1024]),
    ],
)
def test_looks_double_up_to_the_budget(budget, looks):
    assert budget.looks(1024) == looks


def test_a_time_alone_has_a_limit_too():
    assert lab.Budget(seconds=1.0).looks(1024)[-1] == UNLIMITED


@pytest.mark.parametrize("limits", [{"replicates": 0}, {"seconds": -1.0}, {"precision": math.nan}])
def test_budgets_are_positive(limits):
    with pytest.raises(UsageError, match="is positive"):
        lab.Budget(**limits)
    with pytest.raises(UsageError, match="early"):
        lab.Budget(precision=0.1, early=False)


# ---------------------------------------------------------------------- what is decided
@pytest.fixture(scope="module")
def sampled():
    """Groups of leave-one-out on the quadratic form at two sizes, and what a fixed-size verdict says."""
    problem, estimator = QuadraticForm(), LeaveOneOut(4)
    truth = Truth.exact(problem)
    measurement = prepare(problem, estimator, reference=truth.mean)
    small = measurement.run(256)
    return [under_test(record, truth) for record in (small, measurement.extend(small, 8192))]


def test_a_single_look_is_the_fixed_size_verdict(sampled):
    for groups in sampled:
        assert verdict(groups) == verdict(groups, looks=Looks(1).take(groups, 0.05, 0.01))


def test_looks_share_alpha(sampled):
    """A verdict with J looks is one at alpha / J, but for p, which is J times the smallest of all looks."""
    _, groups = sampled
    one = verdict(groups, alpha=0.01 / 7)
    many = verdict(groups, alpha=0.01, looks=Looks(7).take(groups, 0.05, 0.01))
    for name in groups:
        a, b = one.groups[name], many.groups[name]
        assert (a.word, a.low, a.high, a.detectable, a.needed) == (b.word, b.low, b.high, b.detectable, b.needed)
        assert b.p == min(1.0, 7 * a.p)


def test_what_is_settled_stays_and_p_is_the_smallest(sampled):
    small, groups = sampled
    (name,) = groups
    looks = dataclasses.replace(Looks(5), taken=({name: Look(1e-3, "unbiased within")},)).take(small, 0.05, 0.01)
    found = verdict(small, looks=looks).groups[name]
    assert found.word == "unbiased within" and found.high > 0.05 and found.p <= 5e-3


def test_the_last_look_may_take_back_what_was_settled(sampled):
    """By an interval on the other side of the margin, or by few draws that carry the error."""
    _, groups = sampled
    ((name, group),) = groups.items()

    def settled(word, group):
        looks = dataclasses.replace(Looks(5), taken=({name: Look(1.0, word)},)).take({name: group}, 0.05, 0.01)
        return verdict({name: group}, looks=looks).groups[name].word

    off = dataclasses.replace(group, batches=group.batches + 0.5 * group.truth)
    assert settled("biased beyond", group) == "undecided" and settled("unbiased within", off) == "biased"
    rare = dataclasses.replace(group, kurtosis=np.full(group.dimension, group.replicates / 10.0))
    assert settled("unbiased within", rare) == "undecided"


def test_what_is_significant_stays_so(sampled):
    _, groups = sampled
    (name,) = groups
    early = dataclasses.replace(Looks(5), taken=({name: Look(1e-5, "")},)).take(groups, 1e-9, 0.01)
    assert verdict(groups, 1e-9, looks=early).groups[name].word == "biased"


def test_no_look_is_taken_that_was_not_planned(sampled):
    looks = Looks(1).take(sampled[0], 0.05, 0.01)
    with pytest.raises(ValueError, match="planned"):
        looks.take(sampled[1], 0.05, 0.01)


@pytest.mark.parametrize("bias", [0.0, 0.03, 0.05, 0.2, 1.0])
@pytest.mark.parametrize("margin", [0.01, 0.05, 0.1, 0.5])
def test_both_ends_of_the_interval_are_the_two_decisions(sampled, bias, margin):
    """Evaluated at the margin instead of solved for: the same answers."""
    for groups in sampled:
        (group,) = groups.values()
        shifted = dataclasses.replace(group, batches=group.batches + bias * group.truth)
        low, high = relative_bias_interval(shifted, 1e-3, 1e-3)
        assert exceeds(shifted, margin, 1e-3) == (low > margin)
        assert equivalent(shifted, margin, 1e-3) == (high < margin)


# ---------------------------------------------------------------------- studies
def test_draws_stop_when_all_is_settled():
    found = lab.diagnose(LeaveOneOut(4), on=QuadraticForm(), budget=2**16, exact=False).findings[0]
    assert found.verdict == "unbiased within" and found.replicates < found.planned == 2**16
    assert found.replicates == 4096 << (found.looks - 1) and found.looks_planned == 5


def test_a_fixed_size_is_drawn_in_full():
    budget = lab.Budget(2**12, early=False)
    found = lab.diagnose(LeaveOneOut(4), on=QuadraticForm(), budget=budget, exact=False).findings[0]
    assert (found.replicates, found.planned, found.looks, found.looks_planned) == (2**12, 2**12, 1, 1)
    assert lab.compare([LeaveOneOut(4)], on=QuadraticForm(), budget=2**12).findings[0].replicates == 2**12


def test_a_wider_margin_needs_fewer_draws():
    def drawn(margin):
        found = lab.diagnose(DisARM(), on=QuadraticForm(), margin=margin, budget=2**16, exact=False)
        return found.findings[0].replicates

    assert drawn(0.5) <= drawn(0.1) < drawn(0.05)


def test_a_precision_is_reached():
    budget = lab.Budget(2**18, precision=0.05)
    found = lab.diagnose(DisARM(), on=QuadraticForm(), budget=budget, exact=False).findings[0]
    assert all(r.detectable <= 0.05 for r in found.rows if r.tested) and found.replicates < 2**18
    coarser = lab.diagnose(DisARM(), on=QuadraticForm(), budget=lab.Budget(2**18, precision=0.4), exact=False)
    assert coarser.findings[0].replicates < found.replicates and not found.notes
    missed = lab.diagnose(DisARM(), on=QuadraticForm(), budget=lab.Budget(2**12, precision=1e-3), exact=False)
    assert "precision was not reached" in missed.findings[0].notes[0]


def test_a_time_ends_a_study():
    began = time.monotonic()
    found = lab.diagnose(Reinforce(), on=ChainOfFour(), budget=lab.Budget(seconds=1.0), margin=1e-4, exact=False)
    assert time.monotonic() - began < 20
    assert found.findings[0].verdict == "undecided" and 256 < found.findings[0].replicates < UNLIMITED


def test_more_draws_go_on_with_the_same_ones():
    """The draws of a small budget are the first ones of a large budget."""
    measurement = prepare(TwoLayer(), DisARM())
    small, large = measurement.run(300), measurement.run(5000)
    for index in range(small.stop):
        np.testing.assert_array_equal(measurement.block(index).moments.mean, measurement.block(index).moments.mean)
    again = measurement.extend(small, 5000)
    assert again.moments.mean.tobytes() == large.moments.mean.tobytes()
    assert again.moments.m4.tobytes() == large.moments.m4.tobytes()


def test_a_violated_claim_is_found_in_draws_and_exactly():
    class Half(Reinforce):
        """Forgets a factor of two."""

        def surrogate(self, site, downstream):
            return 0.5 * super().surrogate(site, downstream)

    exact = lab.diagnose(Half(), on=QuadraticForm()).findings[0]
    drawn = lab.diagnose(Half(), on=QuadraticForm(), exact=False).findings[0]
    assert exact.status == drawn.status == "violated"
    assert exact.row("site").low == pytest.approx(0.5) and "exactly" in exact.words
    assert drawn.row("site").low < 0.5 < drawn.row("site").high
    assert exact.row("site").statistics["gain"].value == pytest.approx(0.5)
    assert exact.units["x"].found == 3 and exact.units["x"].worst[0].low == pytest.approx(
        exact.units["x"].worst[0].high
    )


# ---------------------------------------------------------------------- common random numbers
def test_all_estimators_get_the_same_random_numbers():
    """Mean-field's draws are no draws; straight-through's samples are those of the score function."""
    problem = QuadraticForm()
    seeds = {prepare(problem, e).plan.block_seed(3) for e in (Reinforce(), StraightThrough(), MeanField())}
    assert len(seeds) == 1
    assert prepare(problem, Reinforce(), purpose="truth").plan.block_seed(3) not in seeds


def jackknifed(x, batches=32):
    k = x.reshape(batches, -1)
    rest = [np.delete(k, i, 0).var(ddof=1) for i in range(batches)]
    return np.array([x.var(ddof=1), *rest])


def test_paired_ratios_cover_and_are_narrower():
    """Correlated draws: the paired interval covers 95 %, the unpaired one is wider and covers nearly always.

    Binomial bounds at 1e-6 for 2000 studies and a miss rate of 5 to 6.5 % (jackknife of a logarithm, K = 32).
    """
    rng, truth, hits, widths = np.random.default_rng(1), 0.8**2, np.zeros(2), np.zeros(2)
    for _ in range(2000):
        common, own = rng.standard_normal((2, 512))
        a, b = jackknifed(0.8 * (0.95 * common + math.sqrt(1 - 0.95**2) * own)), jackknifed(common)
        for i, paired in enumerate((True, False)):
            ratio = variance_ratio(a, b, paired)
            hits[i] += ratio.low <= truth <= ratio.high
            widths[i] += math.log(ratio.high / ratio.low) / 2000
    assert 1815 <= hits[0] <= 1945 and hits[1] >= hits[0]
    assert widths[0] < 0.6 * widths[1]


def test_ratios_of_what_is_known():
    known, sample = np.array([2.0]), jackknifed(np.random.default_rng(2).standard_normal(512))
    assert variance_ratio(known, np.array([4.0]), False) == lab.statistics.Estimate(0.5, 0.5, 0.5)
    half = variance_ratio(known, sample, True)
    assert half.low < half.value < half.high
    assert math.isnan(variance_ratio(sample, np.array([0.0]), False).value)
    with pytest.raises(ValueError, match="equally many"):
        variance_ratio(sample, sample[:-1], True)


def test_ratios_are_paired_where_draws_are_equally_many():
    found = lab.compare([Reinforce(), LeaveOneOut(2)], on=TwoLayer(), budget=2**12, exact=False)
    assert all(r.paired for r in found.ratios)
    early = lab.Budget(2**15)
    other = lab.compare([Reinforce(), LeaveOneOut(2)], on=TwoLayer(), budget=early, margin=0.25, exact=False)
    drawn = {f.replicates for f in other.findings}
    assert len(drawn) == 2 and not any(r.paired for r in other.ratios)


# ---------------------------------------------------------------------- noisy truths
def test_a_truth_that_is_too_noisy_is_said_and_what_would_do():
    problem = QuadraticForm()
    truth = Truth.estimated(problem, Reinforce(), 2048)
    found = lab.diagnose(LocalExpectation(), on=problem, truth=truth, budget=2**14).findings[0]
    assert found.verdict == "undecided" and "the truth is too noisy for this margin" in found.words
    (row,) = [r for r in found.rows if r.tested]
    assert row.truth_needed > 2048 and row.needed == 0
    enough = Truth.estimated(problem, Reinforce(), row.truth_needed)
    again = lab.diagnose(LocalExpectation(), on=problem, truth=enough, budget=2**14).findings[0]
    assert again.verdict == "unbiased within"


def test_needs_of_estimate_and_truth_add_up(sampled):
    """With an exact truth nothing is needed of it; with a noisy one the estimate needs more."""
    _, groups = sampled
    (group,) = groups.values()
    level = 0.01 / 9
    assert truth_needed(group, 1e-3, level, POWER) == 1.0
    noise = np.random.default_rng(0).standard_normal((32, group.dimension))
    noisy = dataclasses.replace(group, truth_batches=group.truth + 0.05 * np.linalg.norm(group.truth) * noise)
    alone = replicates_needed(group, 0.2, level, POWER)
    assert alone < replicates_needed(noisy, 0.2, level, POWER)
    assert truth_needed(noisy, 1e-3, level, POWER) > 100 and replicates_needed(noisy, 1e-3, level, POWER) == 0
    assert detectable(noisy, level, POWER) > detectable(group, level, POWER)


# ---------------------------------------------------------------------- the ledger
def test_the_ledger_adds_up():
    found = lab.compare([Reinforce(), StraightThrough()], on=[QuadraticForm(), OneBit()], budget=512, exact=False)
    rates = [e.rate for e in found.ledger]
    groups = max(sum(r.tested for r in f.rows) for f in found.findings)
    assert groups == 1 and rates[:4] == pytest.approx([0.01, 0.01 / 4, 0.01, 0.01])
    assert rates[4:] in ([0.05], [0.05, 0.05])
    early = lab.diagnose(DisARM(), on=QuadraticForm(), exact=False)
    assert early.ledger[1].rate == pytest.approx(0.01 / 5) and f"{early.findings[0].looks} taken" in early.ledger[1].how


def test_nothing_is_spent_on_what_is_known():
    ledger = lab.diagnose(DisARM(), on=QuadraticForm()).ledger
    assert [e.rate for e in ledger] == [0.0]


def test_the_command_line_prints_it(capsys):
    from estimator_lab.cli import main

    assert main(["diagnose", "LeaveOneOut(4)", "--on", "QuadraticForm", "--sampled"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "Settled after" in out and "times fewer" in out
    assert "an unbiased estimator is called biased, anywhere in the study" in out
    arguments = ["--on", "QuadraticForm", "--sampled", "--no-sequential", "--replicates", "1024", "--margin", "1"]
    assert main(["diagnose", "LeaveOneOut(4)", *arguments]) == 0
    assert "Settled after" not in capsys.readouterr().out


def test_float32_draws_are_judged_too():
    theta = torch.tensor([-0.7, 0.3, 1.1])
    problem = lab.Objective(lab.Bernoulli(), theta, lambda b: (b @ torch.tensor([1.0, -2.0, 0.5]) - 0.4) ** 2)
    assert lab.diagnose(DisARM(), on=problem).verdict == "exact"
    assert lab.diagnose(DisARM(), on=problem, exact=False).verdict == "unbiased within"


# ---------------------------------------------------------------------- what has not been drawn
@pytest.mark.parametrize("temperature", [0.1, 0.5])
@pytest.mark.parametrize("logit", [-7.0, -9.2, -13.8])
def test_draws_at_one_place_off_the_truth_violate_nothing(logit, temperature):
    """Most draws sit at zero: all err alike about the truth, but few carry the variance."""
    for seed in range(4):
        found = lab.diagnose(
            lab.estimators.Rebar(temperature), on=OneBit(logit=logit), budget=2**14, exact=False, seed=seed
        )
        assert found.status == "inconclusive"


def test_random_draws_that_are_all_alike_are_drawn_to_the_end():
    found = lab.diagnose(LocalExpectation(), on=lab.problems.Additive(), budget=2**12, exact=False).findings[0]
    assert found.verdict == "exact" and found.replicates == 2**12


def test_without_random_numbers_no_draw_is_missing():
    """Decided against an estimated truth, after one block."""
    problem = TwoLayer()
    truth = Truth.estimated(problem, LeaveOneOut(4), 2**14)
    found = lab.diagnose(MeanField(), on=problem, truth=truth).findings[0]
    assert found.verdict == "biased" and found.replicates == 32


def test_how_many_draws_carry_a_variance():
    """`R (E q)^2 / E q^2` about the mean: equal in one dimension, a lower bound in several; few events count as few."""
    rng = np.random.default_rng(3)
    p, size = np.array([0.02, 0.3, 0.1]), np.array([5.0, 1.0, -2.0])
    x = size * (rng.random((4000, 3)) < p)
    centred = x - x.mean(0)
    variance, kurtosis = (centred**2).mean(0), (centred**4).mean(0) / (centred**2).mean(0) ** 2

    def direct(columns):
        q = (centred[:, columns] ** 2).sum(1)
        return q.sum() ** 2 / (q**2).sum()

    for j in range(3):
        assert carrying(4000, variance[[j]], kurtosis[[j]]) == pytest.approx(direct([j]))
        share = (x[:, j] != 0).mean()  # of a law of two values: the kurtosis is 1 / (p q) - 3
        scatter = share * (1 - share)
        assert carrying(4000, variance[[j]], kurtosis[[j]]) == pytest.approx(4000 * scatter / (1 - 3 * scatter))
    assert carrying(4000, variance, kurtosis) <= direct([0, 1, 2])
    assert carrying(4000, np.tile(variance[:1], 3), np.tile(kurtosis[:1], 3)) == pytest.approx(direct([0]))
    assert carrying(7, np.zeros(3), np.zeros(3)) == 7


def test_rare_events_in_the_truth_are_gated(sampled):
    _, groups = sampled
    (group,) = groups.values()
    assert group.decidable and not dataclasses.replace(group, truth_sample=20.0).decidable
    truth = Truth.estimated(OneBit(logit=-6.0), Reinforce(), 2048)  # five events or so
    assert lab.diagnose(LocalExpectation(), on=OneBit(logit=-6.0), truth=truth).status == "inconclusive"


def test_an_outcome_without_a_number_is_told_however_rare():
    class Rare(Reinforce):
        """Divides by zero where all bits are one."""

        def surrogate(self, site, downstream):
            value = site.sample()
            loss = downstream(value)
            return loss + site.score(value, loss / (1 - value.prod(-1)))

    logits = torch.tensor([-5.0, -5.5, -5.0], dtype=torch.float64)
    problem = lab.Objective(lab.Bernoulli(), logits, lambda b: (b.sum(-1) - 0.4) ** 2)
    with pytest.raises(lab.MeasurementError, match=r"probability of 1\.8e-07 or more"):
        lab.diagnose(Rare(), on=problem)


def test_a_draw_that_no_outcome_explains_is_not_called_exact():
    class Window(Reinforce):
        """Adds something large in a window of its random number that it announces to nobody."""

        def surrogate(self, site, downstream):
            u = site.uniform()
            value = (u < site.mean.detach()).to(u.dtype)
            loss = downstream(value)
            extra = torch.where((u > 0.45) & (u < 0.4505), 2000.0, 0.0).sum(-1)
            return loss + site.score(value, loss + extra)

    found = lab.diagnose(Window(), on=OneBit())
    assert not found.findings[0].exact and found.status != "sound"


def test_the_groups_under_test_stay_those_of_the_first_look():
    """Site and layer hold the same numbers until an event makes them differ."""
    theta = torch.tensor([-6.0, -0.5], dtype=torch.float64)
    problem = lab.Objective(lab.Bernoulli(), theta, lambda b: (b.sum(-1) - 0.3).square())
    for seed in range(5):
        assert lab.diagnose(Reinforce(), on=problem, budget=2**13, exact=False, seed=seed).findings[0].rows


def test_a_sampled_truth_has_its_own_number_of_draws():
    calls = [0, 0]

    def noisy(index):
        def draw():
            calls[index] += 1
            return {"w": torch.randn(2) + 1}

        return draw

    sampler = lab.GradientSampler(noisy(0), truth=lab.GradientSampler(noisy(1), truth={"w": torch.ones(2)}))
    lab.diagnose(sampler, budget=512, truth_replicates=1024)
    assert calls[1] <= 1030
