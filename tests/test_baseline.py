"""Two-stage comparisons with a stored sample, baselines and their files, and what a check finds."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from scipy import stats

import estimator_lab as lab
from estimator_lab import cli
from estimator_lab.baseline import Baseline, diff, path_for, projected, rounded
from estimator_lab.baseline_check import Metric, accept, check
from estimator_lab.baseline_schema import SCHEMA
from estimator_lab.estimators import DisARM, FittedStraightThrough, LeaveOneOut, MeanField, Reinforce, StraightThrough
from estimator_lab.statistics import jackknife
from estimator_lab.statistics.gram import Gram
from estimator_lab.statistics.two_sample import (
    Spectrum,
    Spread,
    bias_power,
    correlation,
    deviate,
    fewest,
    joint_tail,
    moved,
    rise,
    rise_power,
    threshold,
)

CHANCE = 1e-6
"""False-alarm rate of each statistical test in this file."""


@pytest.fixture(autouse=True)
def by_hand(request):
    """Long checks run where they are asked for, with ``-m slow``."""
    if request.node.get_closest_marker("slow") and "slow" not in request.config.option.markexpr:
        pytest.skip("long; run it with -m slow")


def most(runs, rate):
    """Events that so many runs stay below, but for a chance of 1e-6, if each has at most this rate."""
    return stats.binom.isf(CHANCE, runs, rate)


# ---------------------------------------------------------------------- thresholds
@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (math.inf, (2.326, 2.730, 3.090, 3.417)),
        (64, (2.347, 2.754, 3.116, 3.445)),
        (16, (2.404, 2.819, 3.188, 3.524)),
        (4, (2.585, 3.024, 3.415, 3.771)),
        (1, (2.955, None, None, None)),
    ],
)
def test_thresholds_of_a_shared_baseline(stored, expected):
    rho = correlation(1, stored)
    for pairs, c in zip((1, 10, 100, 1000), expected, strict=True):
        if c is not None:
            assert threshold(1e-4 / pairs, rho) == pytest.approx(c, abs=6e-4)


def test_both_stages_exceed_with_the_probability_of_the_bivariate_normal_law():
    for rho in (0.0, 1 / 17, 0.3, 0.8, 0.99):
        for c in (-0.5, 0.7, 2.4):
            law = stats.multivariate_normal(cov=[[1, rho], [rho, 1]], allow_singular=True)
            assert joint_tail(c, rho) == pytest.approx(law.cdf([-c, -c]), rel=1e-4)
    assert joint_tail(2.0, 0.0) == pytest.approx(stats.norm.sf(2) ** 2, rel=1e-9)
    assert joint_tail(2.0, 1.0) == pytest.approx(stats.norm.sf(2))
    with pytest.raises(AssertionError):  # a threshold for independent stages is too low
        assert joint_tail(threshold(1e-4, 0.0), 0.5) <= 1e-4 * 1.01


def test_thresholds_hold_for_squares_of_deviates():
    """|Z1| and |Z2| above the two-sided quantile of the same level: at most as often, for every correlation."""
    for rho in np.linspace(0, 0.98, 15):
        for alpha in (1e-2, 1e-4, 1e-7):
            c = stats.norm.isf(stats.norm.sf(threshold(alpha, rho)) / 2)
            u = np.linspace(-12, 12, 4001)
            ends = [stats.norm.cdf((sign * np.sqrt(rho) * u - c) / np.sqrt(1 - rho)) for sign in (1, -1)]
            opposite = float(stats.norm.pdf(u) @ (ends[0] * ends[1])) * (u[1] - u[0])
            assert 2 * joint_tail(c, rho) + 2 * opposite <= alpha * 1.001


# ---------------------------------------------------------------------- synthetic draws
def normal(generator, runs, draws):
    """Three coordinates with unequal variances."""
    return generator.normal(size=(runs, draws, 3)) * [1.0, 0.5, 0.1]


def skewed(generator, runs, draws):
    """Exponential draws, correlated through a common factor."""
    x = generator.exponential(size=(runs, draws, 3)) - 1
    return x + 0.5 * x[..., :1]


def reduced(draws, batches=32):
    """Batch means [runs, K, d] and variances [runs, 1 + K]."""
    runs, count, d = draws.shape
    parts = draws.reshape(runs, batches, -1, d)
    means, square = parts.mean(2), (parts**2).sum(-1).mean(2)
    n = np.append(count, np.full(batches, count * (batches - 1) / batches))
    spread = [n / (n - 1) * (jackknife.mean(q) - jackknife.square(m @ m.T)) for q, m in zip(square, means, strict=True)]
    return means, np.array(spread)


def deviates(law, runs, draws, ratio, generator, scale=1.0, shift=0.0, share=True):
    """Deviates of variance and mean, ``[2, runs, stages]``, against stored samples of ``ratio`` times the draws."""
    stored_means, stored = reduced(law(generator, runs, ratio * draws))
    found = np.empty((2, runs, 2))
    for stage in range(2):
        means, fresh = reduced(scale * law(generator, runs, draws) + shift)
        for i in range(runs):
            a, b = Spread.of(fresh[i], draws), Spread.of(stored[i], ratio * draws)
            found[0, i, stage] = rise(a, b)
            part = b.value / a.value / ratio if share else 0.0
            found[1, i, stage] = deviate(moved(means[i], stored_means[i].mean(0), part))
    return found


@pytest.mark.parametrize("law", [normal, skewed])
@pytest.mark.parametrize("ratio", [1, 16])
def test_two_stages_raise_as_many_false_alarms_as_stated(law, ratio):
    runs, draws, alpha = 400, 256, 0.02
    found = deviates(law, runs, draws, ratio, np.random.default_rng(), share=True)
    c = threshold(alpha, correlation(1, ratio))
    for metric in found:
        assert (metric.min(-1) > c).sum() <= most(runs, 1.3 * alpha)


def test_a_comparison_that_forgets_the_noise_of_the_baseline_is_caught():
    runs, alpha = 400, 0.02
    found = deviates(normal, runs, 256, 1, np.random.default_rng(), share=False)
    assert (found[1].min(-1) > threshold(alpha, 0.0)).sum() > most(runs, 1.3 * alpha)


@pytest.mark.slow
@pytest.mark.parametrize("law", [normal, skewed])
@pytest.mark.parametrize("ratio", [1, 4, 16])
def test_two_stages_at_a_small_rate(law, ratio):
    runs, chunk, alpha, generator = 20_000, 500, 1e-3, np.random.default_rng()
    c, alarms = threshold(alpha, correlation(1, ratio)), np.zeros(2)
    for _ in range(runs // chunk):
        alarms += (deviates(law, chunk, 512, ratio, generator).min(-1) > c).sum(-1)
    assert (alarms <= most(runs, 1.3 * alpha)).all(), alarms / runs


def test_a_rise_of_the_variance_is_found_with_the_planned_power():
    alpha, increase, ratio, runs = 1e-4, 0.25, 16, 300
    cv2 = float(np.mean((q := (normal(np.random.default_rng(), 1, 10**6)[0] ** 2).sum(1)) ** 2) / q.mean() ** 2 - 1)
    need = fewest(lambda n: rise_power(cv2, n, ratio * n, increase, alpha), 0.99)
    draws = 32 * math.ceil(need / 32)
    z = deviates(normal, runs, draws, ratio, np.random.default_rng(), scale=math.sqrt(1 + increase))[0]
    found = (z.min(-1) > threshold(alpha, correlation(1, ratio))).sum()
    assert runs - found <= most(runs, 0.01)
    half = deviates(normal, runs, draws // 4, ratio, np.random.default_rng(), scale=math.sqrt(1 + increase))[0]
    assert (half.min(-1) <= threshold(alpha, correlation(1, ratio))).sum() > most(runs, 0.01)  # a quarter does not do


@pytest.mark.parametrize("direction", [(1.0, 0, 0), (0, 0.6, 0.8)])
def test_a_shift_of_the_mean_is_found_with_the_planned_power(direction):
    alpha, ratio, runs, bias = 1e-4, 16, 300, 0.25
    x = normal(np.random.default_rng(), 1, 2**16)
    means = reduced(x)[0][0]
    spectrum = Spectrum.of(Gram(means @ means.T, 3), 2**16)
    exact = np.array([1.0, 0.25, 0.01])
    assert spectrum.trace == pytest.approx(exact.sum(), rel=0.5)
    need = fewest(lambda n: bias_power(spectrum, n, ratio * n, bias, alpha, 32), 0.99)
    draws = 32 * math.ceil(need / 32)
    z = deviates(normal, runs, draws, ratio, np.random.default_rng(), shift=bias * np.array(direction))[1]
    assert (z.min(-1) <= threshold(alpha, correlation(1, ratio))).sum() <= most(runs, 0.01)


def test_fewest_inverts_and_tells_what_cannot_be_had():
    assert fewest(lambda n: 1 - 1 / n, 0.99) == pytest.approx(100, abs=1)
    assert fewest(lambda n: rise_power(2.0, n, 500, 0.1, 1e-4), 0.99) == math.inf  # against so short a baseline


# ---------------------------------------------------------------------- files
class Scaled(Reinforce):
    """A score-function estimator with a factor."""

    factor = 1.0

    def surrogate(self, site, downstream):
        return self.factor * super().surrogate(site, downstream)


@pytest.fixture(scope="module")
def kept():
    return Baseline.measure(Reinforce(), lab.problems.TwoLayer(), budget=2**15)


def leaning():
    return Baseline.measure(StraightThrough(), lab.problems.OneBit(), budget=2**15)


def test_a_file_is_small_sorted_and_read_back(kept, tmp_path):
    path = tmp_path / "deeper" / "a.json"
    kept.save(path)
    text = path.read_text()
    assert Baseline.load(path) == kept and kept.to_json() == text
    assert len(text) < 4096 and max(map(len, text.splitlines())) < 200
    names = [line.split(":")[0] for line in text.splitlines() if line.startswith(' "')]
    assert names == sorted(names)
    assert not list(path.parent.glob("*.part"))


def test_a_large_group_is_kept_as_projections(tmp_path):
    theta = torch.linspace(-2, 2, 3000, dtype=torch.float64)
    problem = lab.Objective(lab.Bernoulli(), theta, lambda b: b.mean(-1).square(), "mean squared")
    found = Baseline.measure(StraightThrough(), problem, budget=512)
    assert [len(g.mean) for g in found.groups] == [256] and found.groups[0].size == 3000
    assert found.reference == "baseline" and len(found.to_json()) < 2**13
    assert check(found, StraightThrough(), problem, budget=512).status != "violated"


def test_projections_keep_inner_products_on_average_and_are_the_same_everywhere():
    generator = np.random.default_rng(1)
    a, b = generator.normal(size=(2, 5000))
    b += a
    products = [float(np.prod(projected(np.stack([a, b]), f"group {i}"), axis=0).sum()) for i in range(200)]
    assert np.mean(products) == pytest.approx(a @ b, abs=5.5 * np.std(products) / math.sqrt(200))
    assert np.array_equal(projected(a[:256], "x"), a[:256])
    ones = projected(np.ones(2000), "unit x")
    assert ones.shape == (256,) and ones[:8].tolist() == PINNED


PINNED = [5.0, -4.0, 0.0, -3.0, 3.0, 1.0, 1.0, 2.0]


def test_numbers_are_rounded_to_what_their_error_supports():
    for value, error in ((math.pi * 1e3, 2.2), (-math.e * 1e-5, 3e-8), (12345.678, 900.0)):
        gap = rounded(value, error) - value
        assert abs(gap) <= 0.05001 * error
    assert rounded(math.pi * 1e3, 2.2) == 3141.6
    assert rounded(1 / 3, 0.0) == 0.333333333
    assert rounded(0.0, 1.0) == 0.0


def test_a_file_of_schema_0_is_read(kept, tmp_path):
    data = json.loads(kept.to_json())
    data["schema"] = 0
    for later in ("history", "pace", "pace_error"):
        del data[later]
    for group in data["groups"]:
        group["standard_error"] = group.pop("error") * group["variance"]
    (tmp_path / "old.json").write_text(json.dumps(data))
    found = Baseline.load(tmp_path / "old.json")
    assert repr(dataclasses.replace(found, pace=kept.pace, pace_error=kept.pace_error)) == repr(kept)
    assert found.groups == kept.groups and math.isnan(found.pace)
    assert json.loads(found.to_json())["schema"] == SCHEMA == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "truncated or no JSON"),
        ("[]", "no baseline"),
        ('{"format": "estimator_lab diagnosis", "schema": 2}', "no baseline"),
        ('{"format": "estimator_lab baseline", "schema": 99}', "has schema 99, this version reads 0 to 1"),
        ('{"format": "estimator_lab baseline"}', "has schema None"),
        ('{"format": "estimator_lab baseline", "schema": 1}', "lacks something"),
        ('{"format": "estimator_lab baseline", "schema": 0}', "lacks something"),
    ],
)
def test_a_corrupt_or_foreign_file_is_told(tmp_path, text, told):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(lab.UsageError, match=told):
        Baseline.load(path)
    with pytest.raises(lab.UsageError, match="cannot read"):
        Baseline.load(tmp_path / "none.json")


def test_names_of_files_tell_arguments_apart():
    problem = lab.problems.OneBit()
    paths = {path_for(e, problem) for e in (LeaveOneOut(2), LeaveOneOut(3), Reinforce())}
    assert len(paths) == 3 and all(p.name.isascii() and " " not in p.name for p in paths)


def test_a_baseline_that_violates_its_claim_is_refused():
    twice = Scaled()
    twice.factor = 2.0
    with pytest.raises(lab.UsageError, match=r"claims to be unbiased and is not at unit x"):
        Baseline.measure(twice, lab.problems.OneBit(), budget=2**15)


def test_levels_that_mean_nothing_are_refused(kept):
    with pytest.raises(lab.UsageError, match="margin=0"):
        Baseline.measure(Reinforce(), lab.problems.OneBit(), margin=0)
    with pytest.raises(lab.UsageError, match="alpha is between"):
        kept.check(Reinforce(), lab.problems.TwoLayer(), alpha=1.0)


# ---------------------------------------------------------------------- what a check finds
def verdicts(comparison, name):
    return {m.group: m.verdict for m in comparison.metrics if m.name == name}


def test_unchanged_code_is_sound_and_the_plan_is_told(kept):
    found = kept.check(Reinforce(), lab.problems.TwoLayer(), seed=3)
    assert found.status == "sound" and found.passed(strict=True), found.summary()
    assert set(verdicts(found, "variance")) == {"unit h1", "unit h2", "layer h1", "layer h2", "layer loss"}
    powers = [m.power for m in found.metrics if m.name == "variance"]
    assert min(powers) > 0.99
    assert "finds a variance up by 25 % with probability" in found.plan
    assert json.loads(found.to_json())["status"] == "sound"


def test_too_small_a_budget_is_told_with_its_power(kept):
    found = kept.check(Reinforce(), lab.problems.TwoLayer(), budget=1024)
    assert any("would find what is planned with probability 0.99" in note for note in found.notes)
    assert min(m.power for m in found.metrics if m.name == "mean") < 0.9


def test_a_variance_that_rose_fails_and_one_that_fell_does_not():
    problem = lab.problems.QuadraticForm()
    old = Baseline.measure(LeaveOneOut(4), problem, budget=2**15)
    worse = check(old, LeaveOneOut(3), problem)
    assert verdicts(worse, "variance") == {"unit x": "worse"} and worse.stages == 2
    assert verdicts(worse, "mean") == {"unit x": "same"}
    assert verdicts(worse, "loss evaluations") == {"": "better"} and worse.status == "violated"
    better = check(old, LeaveOneOut(5), problem)
    assert verdicts(better, "variance") == {"unit x": "better"}
    assert verdicts(better, "loss evaluations") == {"": "worse"}
    exact = [lab.exact_moments(problem, LeaveOneOut(k))["unit", "x"].variance.sum() for k in (3, 4)]
    metric = next(m for m in worse.metrics if m.name == "variance")
    error = old.groups[0].error * math.sqrt(1 + old.replicates / worse.replicates)
    assert metric.now / metric.was == pytest.approx(exact[0] / exact[1], rel=6 * error)


def test_a_bias_that_appears_fails():
    problem, broken = lab.problems.QuadraticForm(), Scaled()
    old = Baseline.measure(Reinforce(), problem, budget=2**16)
    broken.factor = 1.1  # a bias of 10 %, which is what the check plans for
    found = check(old, broken, problem)
    assert verdicts(found, "mean") == {"unit x": "worse"}
    assert "where it claims none" in found.summary()


def test_a_mean_that_moves_fails_although_it_was_biased_before():
    class Flatter(StraightThrough):
        def surrogate(self, site, downstream):
            p = site.mean
            return downstream(site.sample() + 0.8 * (p - p.detach()))

    problem = lab.problems.TwoLayer()
    old = Baseline.measure(StraightThrough(), problem, budget=2**16)
    assert old.reference == "baseline"
    assert check(old, StraightThrough(), problem, seed=1).status == "sound"
    found = check(old, Flatter(), problem)
    assert "worse" in verdicts(found, "mean").values() and "of its length" in found.summary()


def test_a_bias_that_shrinks_is_better():
    class Half(StraightThrough):
        """Between straight-through and the truth of OneBit, p (1 - p) (1 - 2 t)."""

        def surrogate(self, site, downstream):
            (half,) = (0.5 * super().surrogate(site, downstream),)
            return half + site.inject(torch.full_like(site.theta, 0.5 * 0.016))

    found = check(leaning(), Half(), lab.problems.OneBit())
    assert verdicts(found, "mean") == {"unit x": "better"}, found.summary()


def test_a_claim_that_is_taken_back_fails(kept):
    class Shy(Reinforce):
        unbiased = None

    found = kept.check(Shy(), lab.problems.TwoLayer(), budget=1024)
    assert verdicts(found, "claim") == {"": "vanished"} and found.status == "violated"


def test_gradients_that_are_not_finite_fail(kept):
    class Saturated(Reinforce):
        def surrogate(self, site, downstream):
            return super().surrogate(site, downstream) * torch.tensor(0.0, dtype=torch.float64).log()

    found = kept.check(Saturated(), lab.problems.TwoLayer())
    assert [m.verdict for m in found.metrics] == ["non-finite"] and found.status == "violated"
    assert "NaN or infinite" in found.summary()


def sampler(names, scale=1.0):
    """A black box: p-dependent draws under the names given."""

    def step():
        return {name: scale * torch.randn(3, dtype=torch.float64) + 1 for name in names}

    return lab.GradientSampler(step, {name: torch.ones(3) for name in names}, "step", unbiased=True)


def test_a_black_box_whose_gradients_vanish_or_appear_fails():
    old = Baseline.measure(sampler(["w", "v"]), budget=2**12)
    assert check(old, sampler(["w", "v"]), budget=1024).passed()
    lost = check(old, sampler(["w"]), budget=1024)
    assert "vanished" in verdicts(lost, "gradient").values()
    more = check(old, sampler(["w", "v", "u"]), budget=1024)
    assert verdicts(more, "gradient") == {"weight u": "appeared"}
    assert check(old, sampler(["w", "v"], 1.5), budget=1024).status == "violated"


def test_a_variance_of_zero_that_appears_or_is_lost_fails():
    problem = lab.problems.OneBit()
    still = Baseline.measure(MeanField(), problem)
    assert still.groups[0].still and check(still, MeanField(), problem).status == "sound"
    found = check(still, StraightThrough(), problem)
    assert verdicts(found, "variance") == {"unit x": "appeared"}
    assert verdicts(check(leaning(), MeanField(), problem), "variance") == {"unit x": "vanished"}

    class Off(MeanField):
        def surrogate(self, site, downstream):
            return 1.01 * super().surrogate(site, downstream)

    assert verdicts(check(still, Off(), problem), "mean") == {"unit x": "worse"}


def test_a_variance_that_may_be_infinite_is_inconclusive():
    class Cauchy(Reinforce):
        def surrogate(self, site, downstream):
            return super().surrogate(site, downstream) * (math.pi * (site.uniform() - 0.5)).tan().detach()[..., 0]

    class Declared(Cauchy):
        unbiased = False

    problem = lab.problems.OneBit()
    found = check(Baseline.measure(Declared(), problem, budget=2**14), Declared(), problem, budget=2**13)
    assert verdicts(found, "variance") == {"unit x": "inconclusive"}
    assert found.status == "inconclusive" and found.passed() and not found.passed(strict=True)
    assert "not estimable" in found.summary()


def test_time_is_judged_on_the_same_machine_only_and_where_it_is_asked_for():
    class Slow(DisARM):
        def surrogate(self, site, downstream):
            for _ in range(10):
                downstream(site.sample())
            return super().surrogate(site, downstream)

    problem = lab.problems.TwoLayer()
    old = Baseline.measure(DisARM(), problem, budget=2**10)
    assert verdicts(check(old, Slow(), problem, budget=2**10), "seconds") == {}
    found = check(old, Slow(), problem, budget=2**10, slower=1.0)
    assert verdicts(found, "seconds") == {"": "worse"}, found.summary()
    assert verdicts(check(old, DisARM(), problem, budget=2**10, slower=20.0), "seconds") == {"": "same"}
    elsewhere = dataclasses.replace(old, machine={**old.machine, "identity": "other"})
    assert verdicts(check(elsewhere, Slow(), problem, budget=2**10, slower=1.0), "seconds") == {"": "inconclusive"}


def test_it_holds_across_dtypes():
    def problem(dtype):
        theta = torch.tensor([0.4, -1.3, 2.0], dtype=dtype)
        return lab.Objective(lab.Bernoulli(), theta, lambda b: (b.sum(-1) - 1.4).square(), "votes")

    for estimator in (DisARM(), StraightThrough()):
        old = Baseline.measure(estimator, problem(torch.float64), budget=2**15)
        found = check(old, estimator, problem(torch.float32), seed=2)
        assert found.status == "sound", found.summary()


def test_learned_parts_are_fitted_as_for_the_baseline():
    problem = lab.problems.TwoLayer()
    old = Baseline.measure(FittedStraightThrough(), problem, seed=4, budget=2**14)
    assert check(old, FittedStraightThrough(), problem, seed=9, budget=2**13).status == "sound"


def test_another_problem_is_told(kept):
    shifted = {k: v + 0.1 for k, v in lab.problems.TwoLayer().weights().items()}
    with pytest.raises(lab.UsageError, match=r"the numbers of its weight .* are others"):
        kept.check(Reinforce(), lab.problems.TwoLayer().at(shifted, "shifted"))
    with pytest.raises(lab.UsageError, match="lost the weight"):
        kept.check(Reinforce(), lab.problems.OneBit())
    with pytest.raises(lab.UsageError, match="name the problem"):
        kept.check(Reinforce())


def test_a_suspicion_needs_both_stages():
    nan = math.nan
    first = Metric("unit x", "variance", "suspect", 1.0, 2.0, 5.0, nan, 3.0, nan, "")
    from estimator_lab.baseline_check import _confirmed

    def second(word, z):
        return _confirmed(first, dataclasses.replace(first, verdict=word, first=z))

    assert second("suspect", 4.0).verdict == "worse" and second("suspect", 4.0).second == 4.0
    assert second("same", 1.0).verdict == "same"
    assert second("suspect", -4.0).verdict == "same"  # a rise and a fall
    assert second("inconclusive", nan).verdict == "inconclusive"


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [DisARM(), StraightThrough()])
def test_whole_checks_raise_as_many_false_alarms_as_stated(estimator):
    runs, alpha, problem = 80, 0.1, lab.problems.QuadraticForm()
    alarms = 0
    for seed in range(runs):
        old = Baseline.measure(estimator, problem, seed=int(np.random.default_rng().integers(2**60)), budget=2**13)
        alarms += check(old, estimator, problem, seed=seed, budget=2**10, alpha=alpha).status == "violated"
    assert alarms <= most(runs, alpha)


# ---------------------------------------------------------------------- diff and accept
def test_differences_are_readable_and_noise_is_left_out():
    problem = lab.problems.QuadraticForm()
    old = Baseline.measure(LeaveOneOut(4), problem, budget=2**14)
    again = Baseline.measure(LeaveOneOut(4), problem, seed=1, budget=2**14)
    assert diff(old, again) == "" or "standard error" in diff(old, again)
    assert diff(old, old) == ""
    new = accept(old, LeaveOneOut(3), problem, reason="three paths are enough", budget=2**14)
    told = diff(old, new)
    assert "losses: 4.0 -> 3.0" in told and "variance" in told and "standard error" in told
    assert new.history[0]["replaced"] == "three paths are enough" and "unit x 0.7" in new.history[0]["variance"]
    assert new.margin == old.margin
    with pytest.raises(lab.UsageError, match="give a reason"):
        accept(old, LeaveOneOut(3), problem, reason=" ")


# ---------------------------------------------------------------------- the command line
def test_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = cli.main(["baseline", *map(str, arguments)])
        return code, capsys.readouterr()

    assert run("check")[0] == 3
    few = ("--replicates", 2**14)
    assert run("save", "DisARM", "--on", "OneBit", *few)[0] == 0
    (path,) = tmp_path.glob("baselines/*.json")
    assert path.name.startswith("disarm--one-bit-")
    code, told = run("save", "DisARM", "--on", "OneBit", *few)
    assert code == 3 and "exists" in told.err
    code, told = run("check", "--replicates", 4096)
    assert code == 0 and "1 sound, 0 violated" in told.out and "0.01 % of runs" in told.out
    code, told = run("check", path, "--json", "--seed", 5)
    assert code == 0 and json.loads(told.out)["comparisons"][0]["path"] == str(path)

    data = json.loads(path.read_text())
    data["groups"][0]["variance"] /= 2
    other = tmp_path / "other.json"
    other.write_text(json.dumps(data))
    code, told = run("check", other)
    assert code == 1 and "worse: variance of unit x" in told.out
    code, told = run("diff", path, other)
    assert code == 0 and "variance" in told.out
    code, told = run("accept", other, "--reason", "half was wrong", *few)
    assert code == 0 and "half was wrong" in told.out
    assert run("check", other, "--replicates", 4096)[0] == 0
    assert run("diff", other, path)[1].out.strip() in ("no difference beyond the noise", "")

    code, told = run("save", "Reinforce", "--on", "Gaussian")
    assert code == 3
    python = Baseline.measure(DisARM(), lab.problems.OneBit(), budget=1024)
    python.save("python.json")
    code, told = run("check", "python.json")
    assert code == 3 and "saved from Python" in told.err
    assert run("accept", path)[0] == 3  # a reason is needed


def test_strict_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    old = Baseline.measure(DisARM(), lab.problems.OneBit(), budget=2**12, target="DisARM", named="OneBit")
    unclear = dataclasses.replace(old, groups=tuple(dataclasses.replace(g, estimable=False) for g in old.groups))
    unclear.save("a.json")
    few = ["--replicates", "1024"]
    assert cli.main(["baseline", "check", "a.json", *few]) == 2
    assert cli.main(["baseline", "check", "a.json", "--strict", *few]) == 1
