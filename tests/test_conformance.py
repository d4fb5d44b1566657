"""The checks find every mutant and leave every healthy estimator alone.

A call has a false-alarm rate of 1e-6, shared by its statistical checks; the catalogue and the doors make fewer than 40
calls here. What is exact, or structural, is certain.
"""

import itertools
import json
import os
import re
import subprocess
import sys
import time
import traceback
import unittest
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mutants import CAUSES, KINDS, Mutant

import estimator_lab as lab
from estimator_lab.conformance import Conformance, ConformanceError, checks
from estimator_lab.conformance.independence import dependence
from estimator_lab.conformance.points import LAWS, Point, points, truth_of
from estimator_lab.conformance.suite import trials
from estimator_lab.errors import UsageError
from estimator_lab.estimators import (
    ESTIMATORS,
    Callback,
    DropIn,
    Exact,
    LeaveOneOut,
    Reinforce,
    Sample,
    StraightThrough,
    StraightThroughGumbelSoftmax,
)
from estimator_lab.families import Bernoulli, Categorical, Normal

EXAMPLE = Path(__file__).parent / "example_package"
SILENT = {"has no dead path": "it drops the gradient through samples, by definition"}
KNOWN = {"Sample(common=False)": SILENT, "MeanField()": {"has no dead path": "a mean does not hear the deviation"}}
"""What the catalogue declares: nothing else may fail."""


@pytest.fixture(autouse=True)
def by_hand(request):
    if request.node.get_closest_marker("slow") and "slow" not in request.config.option.markexpr:
        pytest.skip("run by hand with -m slow")


def laws_of(estimator):
    """Two of the laws that it applies to, for exact sums one: the others are run by hand, with -m slow."""
    if isinstance(estimator, Exact):
        return [Bernoulli()]
    found = [f for f in LAWS if not estimator.refuses(lab.SiteSpec("x", f, (1,)))]
    return [f for f in found if f.discrete][:1] + [f for f in found if not f.discrete][:1]


# ---------------------------------------------------------------------- the corpus of bugs
def first_failure(mutant: Mutant, **options):
    """The first check that fails, in their order, or None."""
    for _, trial in trials([mutant], **options):
        if mutant.like is not None:
            trial = replace(trial, case=replace(trial.case, like=mutant.like))
        try:
            trial(mutant)
        except unittest.SkipTest:
            continue
        except AssertionError as error:
            return trial.check.name, str(error)
    return None


def test_corpus_is_described():
    assert len(KINDS) >= 40 and len({k.__name__ for k in KINDS}) == len(KINDS)
    for kind in KINDS:
        assert kind.__doc__ and kind.__doc__ != Mutant.__doc__, kind
        assert kind.cause in CAUSES, kind
        assert kind.source == "canonical" or re.fullmatch(r"[\w.-]+/[\w.-]+#\d+", kind.source), kind
    assert {kind.cause for kind in KINDS} == set(CAUSES)


@pytest.mark.parametrize("kind", [k for k in KINDS if not k.equivalent], ids=lambda k: k.__name__)
def test_default_checks_kill(kind):
    began = time.process_time()
    found = first_failure(kind())
    assert found is not None
    assert time.process_time() - began < 8  # 71 of them take 15 s


@pytest.mark.parametrize("kind", [k for k in KINDS if k.equivalent], ids=lambda k: k.__name__)
def test_equivalent_mutants_have_the_law_of_the_healthy_one(kind):
    """By enumeration, at several points: the same three moments of every gradient."""
    for point in points(Bernoulli())[:5]:
        ours, theirs = (lab.exact_moments(point, e, 3) for e in (kind(), kind.healthy))
        for key in theirs:
            for name in ("mean", "m2", "m3"):
                a, b = getattr(ours[key], name), getattr(theirs[key], name)
                np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * (1 + np.abs(b).max()))
    assert first_failure(kind()) is None


# ---------------------------------------------------------------------- healthy estimators
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_the_catalogue_passes(estimator):
    families = laws_of(estimator)
    expected = KNOWN.get(repr(estimator), {})
    result = lab.check_estimator(estimator, families=families, expected_failures=expected, draws=2**13)
    assert result.ok and len(result.of("expected failure")) == len(expected)
    assert len(result.of("passed")) > 10


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_the_catalogue_passes_on_every_law(estimator):
    lab.check_estimator(estimator, expected_failures=KNOWN.get(repr(estimator), {}), seed=time.time_ns())


def noisy_rounding(theta):
    p = theta.sigmoid()
    return (torch.rand_like(p) < p).to(p) + p - p.detach()


def one_point(theta, f):
    b = (torch.rand_like(theta) < theta.sigmoid()).to(theta)
    return f(b)[..., None] * (b - theta.sigmoid())


def doubled(theta, f):
    return 2 * one_point(theta, f)


LOGITS = torch.tensor([0.3, -1.0], dtype=torch.float64)


def coin_gradient(gain=1.0):
    b = torch.bernoulli(LOGITS.sigmoid())
    return {"w": gain * (b.sum() - 0.4).square() * (b - LOGITS.sigmoid())}


def coin_truth():
    p, found = LOGITS.sigmoid(), torch.zeros(2, dtype=torch.float64)
    for state in itertools.product((0.0, 1.0), repeat=2):
        b = torch.tensor(state, dtype=torch.float64)
        found += torch.where(b == 1, p, 1 - p).prod() * (b.sum() - 0.4).square() * (b - p)
    return {"w": found}


def test_every_door():
    lab.check_estimator(DropIn(noisy_rounding), like=StraightThrough(), draws=2**13)
    lab.check_estimator(Callback(one_point, unbiased=True), draws=2**13)
    lab.check_estimator(lab.GradientSampler(coin_gradient, coin_truth(), unbiased=True))
    with pytest.raises(ConformanceError, match="is unbiased on"):
        lab.check_estimator(Callback(doubled, unbiased=True))
    with pytest.raises(ConformanceError, match="has the mean of the other"):
        lab.check_estimator(DropIn(noisy_rounding), like=StraightThrough("identity"))
    broken = lab.GradientSampler(lambda: coin_gradient(2.0), coin_truth(), "doubled", unbiased=True)
    with pytest.raises(ConformanceError, match="is unbiased: Claims to be unbiased and is not"):
        lab.check_estimator(broken)
    with pytest.raises(ConformanceError, match="calls are independent"):
        kept = {}
        lab.check_estimator(lab.GradientSampler(lambda: shared(kept), coin_truth(), "in pairs"))  # and no repetition


class Round(torch.autograd.Function):
    """Deterministic: the nearest bit, the identity backward."""

    @staticmethod
    def forward(ctx, theta):
        return (theta > 0).to(theta)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def test_a_deterministic_quantiser_passes():
    result = lab.check_estimator(DropIn(Round.apply))
    assert all("do not vary" in o.told for o in result.outcomes[-3:])


def shared(kept):
    """Every second call returns the one before."""
    if "w" in kept:
        return {"w": kept.pop("w")}
    kept["w"] = coin_gradient()["w"]
    return {"w": kept["w"].clone()}


# ---------------------------------------------------------------------- the analysis
def test_mutation_analysis(tmp_path, monkeypatch, capsys):
    """On three mutants, one of them equivalent: the file says what its docstring promises."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "analyses")
    import mutation

    chosen = [k for k in KINDS if k.__name__ in ("DoubledScore", "SharedByExamples", "MirroredPair")]
    monkeypatch.setattr(mutation, "KINDS", chosen)
    monkeypatch.setattr(mutation, "ESTIMATORS", (StraightThrough(),))
    mutation.main(["--out", str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert found["schema"] == 1
    for key in ("alpha", "draws", "environment", "mutants", "checks", "healthy", "summary"):
        assert f"``{key}``" in mutation.__doc__ and key in found
    for row in (*found["mutants"], *found["checks"].values(), *found["healthy"], found["summary"]):
        assert all(f"``{key}``" in mutation.__doc__ for key in row), row.keys()
    doubled, correlated, mirrored = found["mutants"]
    assert doubled["first"] == "is unbiased on one unit (Bernoulli())" and doubled["sampled"] >= 256
    assert correlated["first"] == "examples are independent" and correlated["sampled"] is None
    assert not mirrored["killed"] and mirrored["equivalent"]
    s = found["summary"]
    assert (s["mutants"], s["equivalent"], s["killed"], s["rate"], s["alarms"]) == (2, 1, 2, 1.0, 0)
    assert "2 of 2 killed" in capsys.readouterr().out


# ---------------------------------------------------------------------- results
@pytest.fixture(scope="module")
def sound():
    return lab.check_estimator(Reinforce(), families=[Bernoulli()])


def test_counts(sound):
    assert isinstance(sound, Conformance) and sound.ok
    assert sum(sound.counts.values()) == len(sound.outcomes) == len(checks(Reinforce(), families=[Bernoulli()]))
    assert sound.counts["failed"] == 0 and sound.counts["passed"] >= 30
    assert sound.counts["skipped"] == 2 and "no other implementation is given" in sound.summary()
    assert "30 passed" in repr(sound) or f"{sound.counts['passed']} passed" in repr(sound)


def test_what_claims_to_be_biased_passes_if_nothing_breaks():
    result = lab.check_estimator(StraightThroughGumbelSoftmax(), families=[Bernoulli()])
    claims = [o for o in result.outcomes if o.check.startswith("is unbiased on")]
    assert claims and all(o.status == "skipped" and "claims to be biased" in o.told for o in claims)


def test_expected_failures_are_strict():
    with pytest.raises(ConformanceError, match="was expected to fail \\(a reason\\) and passes"):
        lab.check_estimator(Reinforce(), families=[Bernoulli()], expected_failures={"can be repeated": "a reason"})
    with pytest.raises(ConformanceError, match=r"fails 1 of \d+ checks.*\n  has no dead path: 4 of 4 unit gradients"):
        lab.check_estimator(Sample(), families=[Bernoulli()])
    result = lab.check_estimator(Sample(), families=[Bernoulli()], expected_failures=SILENT)
    assert result.counts["expected failure"] == 1 and result.ok
    with pytest.raises(UsageError, match="has no check 'has a dead path'"):
        lab.check_estimator(Sample(), expected_failures={"has a dead path": "a slip"})


def test_a_failure_is_returned_where_that_is_asked_for():
    result = lab.check_estimator(Sample(), families=[Bernoulli()], raises=False)
    (failed,) = result.of("failed")
    assert failed.check == "has no dead path" and not result.ok


def test_the_same_seed_gives_the_same_outcomes(sound):
    again = lab.check_estimator(Reinforce(), families=[Bernoulli()])
    assert [replace(o, seconds=0) for o in again.outcomes] == [replace(o, seconds=0) for o in sound.outcomes]


def test_what_is_given_is_checked():
    with pytest.raises(UsageError, match="Reinforce is a class; pass an object"):
        lab.check_estimator(Reinforce)
    with pytest.raises(UsageError, match="applies to Bernoulli sites"):
        lab.check_estimator(lab.estimators.ARM(), families=[Normal()])
    with pytest.raises(UsageError, match="alpha is a false-alarm rate"):
        lab.check_estimator(Reinforce(), alpha=0.0)
    with pytest.raises(UsageError, match="give a list of estimators"):
        lab.parametrize_with_checks(Reinforce())
    with pytest.raises(UsageError, match="no law is given"):
        lab.check_estimator(Reinforce(), families=[])


def test_problems_of_the_user():
    problems = [lab.problems.OneBit(), lab.problems.Additive()]
    result = lab.check_estimator(LeaveOneOut(2), problems=problems, families=[Bernoulli()])
    names = [o.check for o in result.outcomes if o.check.startswith("is unbiased on")]
    assert names == ["is unbiased on one bit", "is unbiased on additive"]


# ---------------------------------------------------------------------- pytest
def test_decorator_gives_pairs_with_stable_ids():
    decorator = lab.parametrize_with_checks(
        [Sample(), Reinforce(0.5)], families=[Bernoulli()], expected_failures=lambda e: KNOWN.get(repr(e), {})
    )
    names, values = decorator.args
    assert names == ("estimator", "check")
    ids = [v.id for v in values]
    assert len(set(ids)) == len(ids) and "Reinforce(baseline=0.5)-can be repeated" in ids
    (strict,) = [m for v in values for m in v.marks]
    (same,) = [
        m
        for v in lab.parametrize_with_checks([Sample()], families=[Bernoulli()], expected_failures=SILENT).args[1]
        for m in v.marks
    ]
    assert same == strict
    assert strict.name == "xfail" and strict.kwargs["strict"] is True
    by_id = {v.id: v.values for v in values}
    estimator, check = by_id["Reinforce(baseline=0.5)-can be repeated"]
    check(estimator)
    with pytest.raises(unittest.SkipTest, match="skipped: no other implementation"):
        by_id["Reinforce(baseline=0.5)-has the mean of the other"][1](estimator)
    with pytest.raises(AssertionError, match=r"Sample\(common=False\) has no dead path: 4 of 4"):
        by_id["Sample(common=False)-has no dead path"][1]()


def run_example(*more):
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *more],
        cwd=EXAMPLE, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_a_third_party_runs_the_checks_with_three_lines():
    done = run_example("-rs")
    assert done.returncode == 0, done.stdout + done.stderr
    count = len(checks(Reinforce(), families=[Bernoulli()]))
    assert re.search(rf"{count - 2} passed, 2 skipped", done.stdout), done.stdout


def test_importing_the_package_needs_no_pytest():
    code = "import sys, estimator_lab as lab; lab.check_estimator; print('pytest' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# ---------------------------------------------------------------------- parts
@pytest.mark.parametrize("point", [p for f in (Bernoulli(), Categorical(3), Normal()) for p in points(f)], ids=repr)
def test_truth_of_the_points_is_the_slope_of_the_expected_loss(point):
    """By central differences of the summed loss in w1, and the truth of other weights is not zero everywhere."""
    step, truth = 1e-5, truth_of(point).mean
    for i in range(len(point.first)):
        ends = []
        for sign in (1, -1):
            first = tuple(x + sign * step * (i == j) for j, x in enumerate(point.first))
            ends.append(expected(replace(point, first=first)))
        np.testing.assert_allclose(truth["weight", "w1"][i], (ends[0] - ends[1]) / (2 * step), rtol=1e-6, atol=1e-8)


def expected(point: Point) -> float:
    from estimator_lab.chain import Chain
    from estimator_lab.noise import NoNoise

    return float(Chain(point, Exact()).value(NoNoise()).mean())


def test_dependence_holds_its_level_and_sees_a_shared_number():
    """4000 pairs of skew samples: the rate at 5 % is at most 5 % and five of its standard errors more (3e-7)."""
    generator = np.random.default_rng(time.time_ns())
    p = [dependence(*generator.exponential(size=(2, 60)).round(1)) for _ in range(4000)]
    assert np.mean(np.array(p) <= 0.05) <= 0.05 + 5 * (0.05 * 0.95 / 4000) ** 0.5
    x = generator.exponential(size=500)
    assert dependence(x, x) < 1e-100 and dependence(x, np.ones(500)) == 1.0
    rare = (np.arange(500) % 50 == 0).astype(float)
    assert dependence(rare, rare) < 1e-10


class Faulty(lab.Estimator):
    """Raises in its own code."""

    unbiased = True

    def surrogate(self, site, downstream):
        raise ZeroDivisionError("of the user")


def test_an_error_of_the_users_code_keeps_its_traceback():
    with pytest.raises(lab.LabError, match="raises ZeroDivisionError: of the user") as caught:
        lab.check_estimator(Faulty())
    cause = caught.value.__cause__
    assert isinstance(cause, ZeroDivisionError)
    assert "surrogate" in [frame.name for frame in traceback.extract_tb(cause.__traceback__)]
