"""Causes that are named first, silence on what is right, and witnesses that run.

Means are exact for most estimators here. Where they are drawn, a bias is called established at a rate of 1e-6 in all
coordinates and probes together.
"""

import dataclasses
import json

import numpy as np
import pytest
import torch
from mutants import CAUSES, KINDS, gaussian, relaxed, score, straight_through

import estimator_lab as lab
from estimator_lab.causes import ADDED, FACTORS, _Broken, _exactly, _Moved, _Probe, _terms
from estimator_lab.chain import Chain
from estimator_lab.diagnosis import Diagnosis
from estimator_lab.estimators import ESTIMATORS, Exact, Reinforce, StraightThrough

CLEAR = (
    score.DoubledScore,
    score.DividedByBatch,
    score.SelfIncludingBaseline,
    score.WrongSign,
    score.ScoreOfTheProbability,
    score.ConstantOfTheScore,
    score.BaselineOfTheMean,
    score.NormalisedAdvantage,
    score.SingletonLeftOut,
    score.RunningBaseline,
    score.DetachedLoss,
    score.SinglePrecision,
    relaxed.LaterLayersAtTheirMeans,
    relaxed.LeakingControlVariate,
    gaussian.MissingPrecision,
    gaussian.PathAndScore,
    straight_through.ExtraDetach,
)
"""At least one of most causes: each of them has to be named. All mutants are run by hand."""


@pytest.fixture(autouse=True)
def by_hand(request):
    if request.node.get_closest_marker("slow") and "slow" not in request.config.option.markexpr:
        pytest.skip("run by hand with -m slow")
    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)  # one of the mutants sets it


def named(kind):
    mutant = kind()
    return lab.name_causes(mutant, like=mutant.like or (mutant.healthy if mutant.unbiased is False else None))


def rate(kinds):
    rows = [(kind.__name__, kind.cause, named(kind)) for kind in kinds if not kind.equivalent]
    for name, cause, found in rows:
        print(f"{name:26s} {cause:22s} {found[0].label if found else '-':22s} {found[0].words[:90] if found else ''}")
    assert {c.label for _, _, found in rows for c in found} <= {*CAUSES, "gain"}
    return sum(bool(found) and found[0].label == cause for _, cause, found in rows) / len(rows)


@pytest.mark.parametrize("kind", CLEAR, ids=lambda kind: kind.__name__)
def test_names_the_true_cause_first(kind):
    assert named(kind)[0].label == kind.cause


@pytest.mark.slow
def test_names_the_true_cause_of_all():
    assert rate(KINDS) >= 0.8


QUICK = [
    e
    for e in ESTIMATORS
    if e.unbiased is False
    or type(e).__name__ in ("ARM", "DisARM", "LocalExpectation", "MuProp", "Pathwise", "MaskScore")
]


@pytest.mark.parametrize("estimator", QUICK, ids=repr)
def test_says_nothing_of_what_is_right(estimator):
    assert lab.name_causes(estimator) == []


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_says_nothing_of_any_in_the_catalogue(estimator):
    assert lab.name_causes(estimator) == []
    for problem in lab.problems.TOYS:
        if not any(estimator.refuses(site) for site in problem.sites):
            assert lab.name_causes(estimator, problem) == []


@pytest.mark.parametrize("problem", [lab.problems.TwoLayer(1), lab.problems.QuadraticForm()], ids=repr)
def test_says_nothing_on_toys(problem):
    assert lab.name_causes(lab.estimators.DisARM(), problem) == []


def test_a_mean_that_equals_that_of_the_other_has_no_cause():
    assert lab.name_causes(StraightThrough(), like=StraightThrough()) == []
    assert lab.name_causes(StraightThrough("identity")) == []


@dataclasses.dataclass(frozen=True)
class Times(lab.Estimator):
    """REINFORCE whose score is multiplied."""

    gain: float
    below: float = 1.0

    unbiased = True
    families = (lab.Bernoulli,)

    def surrogate(self, site, downstream):
        value, p = site.sample(), site.mean.detach()
        loss = downstream(value)
        factor = torch.where(p * (1 - p) <= self.below, self.gain, 1.0)
        return loss + site.inject(site.expand(loss) * (value - p) * factor)


def test_gains_without_a_name_and_places():
    (found,) = lab.name_causes(Times(1.37))
    assert found.label == "gain" and "a gain of 1.37" in found.words and found.fit == pytest.approx(1)
    (found,) = lab.name_causes(Times(0.0, 0.02))
    assert found.label == "saturation" and "only at saturated units" in found.words
    assert lab.name_causes(Times(1.0)) == []


@dataclasses.dataclass(frozen=True)
class Raised(lab.Estimator):
    """Leave-one-out of a loss that is squared on the way: no candidate explains it."""

    unbiased = True
    families = (lab.Bernoulli,)

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        return loss + site.score(value, loss.square())


def test_what_no_candidate_explains_is_probed():
    found = lab.name_causes(Raised())
    assert found[0].label in ("baseline", "loss scale")  # (f + c)^2 hears the constant, and does not scale
    assert all("consistent with a gain" not in c.words for c in found)


def test_the_learned_problem_of_a_draw_is_named():
    """Numbers from torch's own stream cannot be summed: the mean is that of draws, and the words are the same."""

    def doubled(theta, f):
        b = torch.bernoulli(theta.sigmoid())
        return 2 * f(b)[..., None] * (b - theta.sigmoid())

    found = lab.name_causes(lab.Callback(doubled, unbiased=True), lab.SmallProblem((2,), 2))
    assert [c.label for c in found] == ["gain 2"]


def test_terms_are_what_they_say():
    """Of one layer: products with the gradient, and expectations, by hand."""
    problem = lab.SmallProblem((2,), 3)
    probe = _Probe(problem)
    terms = _terms(probe)
    truth = lab.Truth.exact(problem, ("unit",)).mean["unit", "h1"].ravel()
    p = 1 / (1 + np.exp(-problem.theta(problem.weights(), ()).numpy().ravel()))
    np.testing.assert_allclose(terms["target"], truth, atol=1e-12)
    np.testing.assert_allclose(terms["p(1-p)"], truth * p * (1 - p), atol=1e-12)
    np.testing.assert_allclose(terms["1/p"], truth / p, atol=1e-12)
    np.testing.assert_allclose(terms["+E[h]"], p, atol=1e-12)
    np.testing.assert_allclose(terms["+sigma'"], p * (1 - p), atol=1e-12)
    v = problem.weights()["v"].numpy()
    s = [a * v[0] + b * v[1] for a in (0, 1) for b in (0, 1)]
    f = np.array([0.5 + x - 0.6 * x**2 + 0.35 * x**3 for x in s])
    weight = np.array([(p[0] if a else 1 - p[0]) * (p[1] if b else 1 - p[1]) for a in (0, 1) for b in (0, 1)])
    np.testing.assert_allclose(terms["f E[h]"], (weight @ f) * p, atol=1e-12)


@pytest.mark.parametrize("name", ["p", "1/(p(1-p))", "sigma'(theta - 1) / sigma'(theta)"])
def test_terms_of_two_layers_are_means_of_estimators(name):
    """A broken exact sum has the mean of REINFORCE that is broken in the same way."""
    problem = lab.SmallProblem((2, 1), 3)
    factor = FACTORS[name][1]

    class Broken(lab.Estimator):
        def surrogate(self, site, downstream):
            value = site.sample()
            loss = downstream(value)
            return loss + site.inject(site.expand(loss) * (value - site.mean.detach()) * factor(site))

    mean = lab.exact_moments(problem, Broken(), wrt=("unit",))
    found = _exactly(Chain(_Moved(problem), Exact(), ("unit",)), _Broken(Exact(), factor))
    np.testing.assert_allclose(found, np.concatenate([mean["unit", s.name].mean for s in problem.sites]), atol=1e-12)
    assert set(ADDED) == {"sigma'", "E[h]", "a constant"}


# ---------------------------------------------------------------------- witnesses
WITNESSED = (
    (score.DoubledScore, "SmallProblem()"),
    (score.DividedByBatch, "SmallProblem(examples=2)"),
    (score.AveragedUnits, "SmallProblem(units=(2,))"),
    (relaxed.LaterLayersAtTheirMeans, "SmallProblem(units=(1, 1), degree=2)"),
    (gaussian.MissingPrecision, "SmallProblem(family=lab.Normal())"),
    (score.SingletonLeftOut, "SmallProblem()"),
)


@pytest.mark.parametrize(("kind", "expected"), WITNESSED, ids=lambda x: getattr(x, "__name__", None))
def test_the_smallest_witness_fails_for_the_mutant_and_passes_for_its_twin(kind, expected):
    witness = lab.smallest_witness(kind())
    assert repr(witness.problem) == expected
    assert lab.smallest_witness(kind()).code == witness.code
    assert not np.allclose(witness.mean, witness.truth)
    room: dict[str, object] = {}
    exec(witness.code, room)
    (test,) = (v for k, v in room.items() if k.startswith("test_"))
    with pytest.raises((AssertionError, lab.MeasurementError)):
        test()
    healthy = witness.code.replace(repr(kind()), "twin")
    assert healthy != witness.code
    room = {"twin": kind.healthy}
    exec(healthy, room)
    next(v for k, v in room.items() if k.startswith("test_"))()


def test_what_is_right_has_no_witness():
    assert lab.smallest_witness(lab.estimators.DisARM()) is None
    assert lab.smallest_witness(StraightThrough()) is None


def test_small_problems_say_how_they_are_made():
    for problem in (lab.SmallProblem((2, 1), 3, 2), lab.SmallProblem(family=lab.Categorical(3)), lab.SmallProblem()):
        assert eval(f"lab.{problem!r}", {"lab": lab}) == problem
    with pytest.raises(lab.UsageError, match="degree"):
        lab.SmallProblem(degree=4)


# ---------------------------------------------------------------------- in a diagnosis
def test_a_violated_claim_says_what_it_looks_like(tmp_path):
    result = lab.diagnose(score.DoubledScore(), on=lab.problems.OneBit(), budget=4096)
    (found,) = result.findings
    assert found.causes == ("consistent with a gain of 2 (explains all of the bias)",)
    assert result.summary().splitlines()[1] == "  Looks like: consistent with a gain of 2 (explains all of the bias)."
    result.save(tmp_path / "a.json")
    assert Diagnosis.load(tmp_path / "a.json").findings[0].causes == found.causes


def test_results_without_causes_stay_as_they_are(tmp_path):
    result = lab.diagnose(Reinforce(), on=lab.problems.OneBit(), budget=4096)
    assert result.findings[0].causes == () and "Looks like" not in result.summary()
    data = json.loads(result.to_json())
    assert "causes" not in data["findings"][0]
    result.save(tmp_path / "a.json")
    assert Diagnosis.load(tmp_path / "a.json").digest == result.digest


def test_an_estimator_that_fails_elsewhere_is_still_diagnosed():
    def three(theta, f):
        b = torch.bernoulli(theta.sigmoid())
        if theta.shape[-1] != 3:
            raise RuntimeError("three units only")
        return 2 * f(b)[..., None] * (b - theta.sigmoid())

    result = lab.diagnose(lab.Callback(three, unbiased=True), on=lab.problems.QuadraticForm(), budget=2**13)
    assert result.status == "violated" and result.findings[0].causes == ()


def test_an_estimator_that_fails_on_small_problems_is_still_diagnosed():
    """It is written for the problem at hand; the finding stands, and says that the cause could not be examined."""

    class Particular(lab.Estimator):
        unbiased = True

        def surrogate(self, site, downstream):
            if site.size != 3:
                raise ZeroDivisionError("written for three units")
            return 2 * downstream(site.mean)

    found = lab.diagnose(Particular(), on=lab.problems.QuadraticForm(), budget=256).findings[0]
    assert found.status == "violated" and not found.causes
    assert "could not be examined: ZeroDivisionError: written for three units" in " ".join(found.notes)
