"""The checks find every mutant and leave every healthy estimator alone.

A call has a false-alarm rate of 1e-6, shared by its statistical checks; the catalogue and the doors make fewer than 50
calls here. What is exact, or structural, is certain.
"""

import itertools
import os
import re
import shutil
import subprocess
import sys
import time
import traceback
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mutants import CAUSES, KINDS, Mutant
from mutants_held_out import ClampedLogits

import estimator_lab as lab
from estimator_lab.conformance import Conformance, ConformanceError, checks
from estimator_lab.conformance.case import copied
from estimator_lab.conformance.explained import looks_like
from estimator_lab.conformance.independence import dependence
from estimator_lab.conformance.points import LAWS, Point, points, truth_of
from estimator_lab.conformance.state import changes_of
from estimator_lab.conformance.suite import trials
from estimator_lab.errors import UsageError
from estimator_lab.estimators import (
    ARM,
    ESTIMATORS,
    Callback,
    DisARM,
    DropIn,
    Exact,
    LeaveOneOut,
    PerSite,
    Reinforce,
    Sample,
    StraightThrough,
    StraightThroughGumbelSoftmax,
)
from estimator_lab.families import AdditiveNoise, Bernoulli, Categorical, NoisySigmoid, Normal

EXAMPLE = Path(__file__).parent / "example_package"
REPEATED = "can be repeated"
SILENT = {"has no dead path": "it drops the gradient through samples, by definition"}
KNOWN = {"Sample(common=False)": SILENT, "MeanField()": {"has no dead path": "a mean does not hear the deviation"}}
"""What the catalogue declares: nothing else may fail."""


@pytest.fixture(autouse=True)
def by_hand(request):
    if request.node.get_closest_marker("slow") and "slow" not in request.config.option.markexpr:
        pytest.skip("run by hand with -m slow")


def laws_of(estimator):
    """Two of its laws, for exact sums and variants of one estimator one: the others are run by hand, with -m slow."""
    found = [f for f in LAWS if not estimator.refuses(lab.SiteSpec("x", f, (1,)))]
    found = [f for f in found if f.discrete][:1] + [f for f in found if not f.discrete][:1]
    first = next(e for e in ESTIMATORS if type(e) is type(estimator))
    return found if estimator is first and not isinstance(estimator, Exact) else found[:1]


# ---------------------------------------------------------------------- the corpus of bugs
def first_failure(mutant: Mutant, **options):
    """The first check that fails, in their order, or None."""
    for _, trial in trials([mutant], like=mutant.like, **options):
        outcome = trial.run()
        if outcome.status == "failed":
            return outcome.check, outcome.told
    return None


def test_corpus_is_described():
    assert len(KINDS) >= 40 and len({k.__name__ for k in KINDS}) == len(KINDS)
    for kind in KINDS:
        assert kind.__doc__ and kind.__doc__ != Mutant.__doc__, kind
        assert kind.cause in CAUSES, kind
        assert kind.source == "canonical" or re.fullmatch(r"[\w.-]+/[\w.-]+#\d+", kind.source), kind
    assert {kind.cause for kind in KINDS} == set(CAUSES)


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


# ---------------------------------------------------------------------- every check is needed
class _Through(lab.Estimator):
    """Straight-through, which makes no claim, in parts that can be broken."""

    families = (Bernoulli,)

    def value(self, site):
        return site.sample()

    def through(self, site):
        return site.mean

    def passed(self, site, downstream):
        through = self.through(site)
        return downstream(self.value(site) + (through - through.detach()))

    def surrogate(self, site, downstream):
        return self.passed(site, downstream)


class Precise(_Through):
    def surrogate(self, site, downstream):
        torch.set_float32_matmul_precision("high")
        return self.passed(site, downstream)


class Nameless(_Through):
    __repr__ = object.__repr__


class Raised(_Through):
    def surrogate(self, site, downstream):
        loss = self.passed(site, downstream)
        with torch.no_grad():
            other = downstream(site.sample(), using=Sample())
        return loss + 0.3 * other


class Watched(_Through):
    def surrogate(self, site, downstream):
        loss = self.passed(site, downstream)
        assert float(loss.detach().max()) < 1e30
        return loss


class NeighbourOf(_Through):
    """Adds noise of the size of another's loss; numbers are those of torch's stream."""

    def __init__(self, axis):
        self.axis = axis

    def value(self, site):
        return (torch.rand_like(site.theta) < site.mean).to(site.theta)

    def surrogate(self, site, downstream):
        loss = self.passed(site, downstream)
        signs = (torch.rand_like(site.theta) < 0.5).to(site.theta) * 2 - 1
        return loss + site.inject(site.expand(loss.roll(1, self.axis)) * signs)


class AtOneHalf(_Through):
    def surrogate(self, site, downstream):
        return self.passed(site, downstream) + 0 * (1 / (site.uniform() - 0.5)).flatten(site.lead).sum(-1)


class WindowOpen(_Through):
    def through(self, site):
        return site.theta * ((site.theta.detach().abs() < 1) | (site.theta.detach().abs() > 1))


class Standardised(_Through):
    families = (Categorical,)

    def through(self, site):
        return (site.theta / (site.theta.detach().std(-1, keepdim=True, correction=1) + 1e-6)).softmax(-1)


class Quotient(_Through):
    """A quotient of differences, of a step that is too short for single precision."""

    def through(self, site):
        slope = ((site.theta + 1e-6).sigmoid() - site.theta.sigmoid()) / 1e-6
        return site.theta * slope.detach()


class Offset(_Through):
    """Nothing of theta is left in bfloat16, all but nothing is lost in float32."""

    def through(self, site):
        return ((site.theta + 1024) - 1024).sigmoid()


class OfOneNumber(_Through):
    """Examples or units share a number of torch's stream."""

    def __init__(self, shared):
        self.shared = shared

    def value(self, site):
        lead, units = list(site.theta.shape[: site.lead]), list(site.spec.units)
        if self.shared == "examples":
            lead[-1] = min(1, lead[-1])
        else:
            units = [1] * len(units)
        return (torch.rand(*lead, *units, dtype=site.theta.dtype) < site.mean).to(site.theta)


class OfNumpy(_Through):
    """Draws from the stream of NumPy."""

    def value(self, site):
        return (torch.from_numpy(np.random.random(tuple(site.theta.shape))).to(site.theta) < site.mean).to(site.theta)


class OfItsOwn(_Through):
    """The same numbers in every block."""

    def value(self, site):
        numbers = torch.Generator().manual_seed(3)
        u = torch.rand(site.theta.shape, generator=numbers, dtype=torch.float64).to(site.theta)
        return (u < site.mean).to(site.theta)


class InTheFourth(_Through):
    """Right for the first laws."""

    families = (Bernoulli, Categorical, AdditiveNoise, NoisySigmoid)

    def surrogate(self, site, downstream):
        loss = self.passed(site, downstream)
        if isinstance(site.family, NoisySigmoid):
            loss = loss + 0 * (site.theta.exp() * (-site.theta).exp()).flatten(site.lead).sum(-1)
        return loss


class Factorised(_Through):
    """A constant of one, by a routine that torch has in double and single precision alone."""

    def through(self, site):
        return site.mean * torch.linalg.inv(torch.eye(2, dtype=site.theta.dtype))[0, 0]


class Levelled(_Through):
    """The score without its mean, by one that makes no claim."""

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        return loss + site.inject(site.expand(loss) * value)


class AlsoTheLoss(_Through):
    """Its mean is that of the healthy one and a quarter."""

    def through(self, site):
        return 1.25 * site.mean


def of(name):
    return next(k for k in KINDS if k.__name__ == name)()


ONLY = {
    "touches no global state": Precise(),
    "says what it is": Nameless(),
    "leaves what it is given": of("ThetaChangedInPlace"),
    "keeps no graph": of("GraphKept"),
    "value is the loss": Raised(),
    "has no dead path": Sample(),
    "takes a loss without gradient": of("RelativeLoss"),
    "takes an evaluation without graph": of("MeanWithoutGraph"),
    "replicates do not mix": NeighbourOf(-2),
    "examples do not mix": NeighbourOf(-1),
    "is the same in any block": of("SlopeDividedByBatch"),
    "takes prepended axes": of("PathAxisFromTheFront"),
    "takes several axes of units": of("OneAxisOfUnits"),
    "takes an empty batch": Watched(),
    "takes one path": of("PathsUnchecked"),
    "is finite under saturation": of("OverflowingSlope"),
    "is silent where nothing varies": of("ScoreOfClamped"),
    "is finite at extreme numbers": AtOneHalf(),
    "is continuous at ties": WindowOpen(),
    "takes one class": Standardised(),
    "is right in single precision": Quotient(),
    "is right in half precision": Offset(),
    "is unbiased on three layers (Bernoulli(), Bernoulli(), Bernoulli())": of("ThirdLayerHalved"),
    "scales with the loss": of("GradientClipped"),
    "hears no constant": Levelled(),
    "has the mean of the other": AlsoTheLoss(),
    "replicates are independent": of("MirroredReplicates"),
    "examples are independent": OfOneNumber("examples"),
    "units are drawn independently": OfOneNumber("units"),
}
"""An estimator that fails this check and no other."""


@pytest.mark.parametrize("name", ONLY)
def test_a_mistake_that_only_this_check_finds(name):
    subject, matmul = ONLY[name], torch.get_float32_matmul_precision()
    like = StraightThrough() if name == "has the mean of the other" else None
    result = lab.check_estimator(subject, families=laws_of_(subject), like=like, draws=2**13, raises=False)
    assert torch.get_float32_matmul_precision() == matmul
    also = {"is right in half precision"} if name == "is right in single precision" else set()
    assert {o.check for o in result.of("failed")} == {name} | also, result.summary()


def test_what_is_global_is_put_back():
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    acts = {
        "torch's threads": lambda: torch.set_num_threads(threads + 1),
        "torch's default dtype": lambda: torch.set_default_dtype(torch.float64),
        "torch's grad mode": lambda: torch.set_grad_enabled(False),
        "NumPy's random stream": lambda: np.random.seed(3),
        "NumPy's error state": lambda: np.seterr(all="ignore"),
    }
    for name, act in acts.items():
        assert changes_of(act) == [name] and changes_of(lambda: None) == []
    assert (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()) == (threads, dtype, True)


def laws_of_(subject):
    """The first law of those that it applies to."""
    return [next(f for f in LAWS if not subject.refuses(lab.SiteSpec("x", f, (1,))))]


@pytest.mark.parametrize(
    ("subject", "name", "told"),
    [
        (OfItsOwn(), "replicates are independent", "two blocks of draws"),
        (InTheFourth(), "is finite under saturation", "NoisySigmoid"),
    ],
    ids=["numbers of its own", "the fourth law"],
)
def test_a_mistake_that_this_check_finds(subject, name, told):
    (check,) = [trial for _, trial in trials([subject]) if trial.check.name == name]
    outcome = check.run()
    assert outcome.status == "failed" and told in outcome.told


@pytest.mark.parametrize(
    "subject",
    [Reinforce(0.5), PerSite({"h1": ARM(), "h2": DisARM()}), Factorised()],
    ids=["a fixed baseline", "two sites", "no half precision"],
)
def test_what_is_unusual_passes(subject):
    assert lab.check_estimator(subject, families=[Bernoulli()]).ok


OTHERS = [k for k in KINDS if not k.equivalent and k not in map(type, ONLY.values())]


@pytest.mark.parametrize("kind", OTHERS, ids=lambda k: k.__name__)
def test_default_checks_kill(kind):
    """With those of `ONLY` every mutant dies."""
    began = time.process_time()
    assert first_failure(kind()) is not None
    assert time.process_time() - began < 8


def test_only_the_rest_of_the_checks_has_no_mistake_of_its_own():
    """They are met by mistakes that others find as well."""
    every = {c.name for s in ("Standardised", "_Through") for c in checks(globals()[s]())}
    rest = {name for name in every - set(ONLY) if not name.startswith("is unbiased on")}
    assert rest == {"can be repeated", "has the right shapes"}


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


def sampler_of_coins():
    return lab.GradientSampler(coin_gradient, coin_truth(), unbiased=True)


def test_every_door():
    lab.check_estimator(DropIn(noisy_rounding), like=StraightThrough(), draws=2**13)
    lab.check_estimator(Callback(one_point, unbiased=True), draws=2**13)
    lab.check_estimator(lab.GradientSampler(coin_gradient, coin_truth(), unbiased=True))
    for broken, like, name in (
        (Callback(doubled, unbiased=True), None, "is unbiased on"),
        (DropIn(noisy_rounding), StraightThrough("identity"), "has the mean of the other"),
    ):
        result = lab.check_estimator(broken, like=like, draws=2**13, raises=False)
        assert any(o.check.startswith(name) for o in result.of("failed"))
    broken = lab.GradientSampler(lambda: coin_gradient(2.0), coin_truth(), "doubled", unbiased=True)
    with pytest.raises(
        ConformanceError, match=r"looks like: .*gain.*\n  is unbiased: claims to be unbiased and is not"
    ):
        lab.check_estimator(broken)
    with pytest.raises(ConformanceError, match=r"fails 1 of 5 checks.*\n.*\n  can be repeated"):
        kept = {}
        lab.check_estimator(lab.GradientSampler(lambda: shared(kept), coin_truth(), "in pairs"))


class Round(torch.autograd.Function):
    """Deterministic: the nearest bit, the identity backward."""

    @staticmethod
    def forward(ctx, theta):
        return (theta > 0).to(theta)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def test_a_deterministic_quantiser_passes():
    result = lab.check_estimator(DropIn(Round.apply), families=[Bernoulli()])
    assert all("do not vary" in o.told for o in result.outcomes[-3:])


def shared(kept):
    """Every second call returns the one before."""
    if "w" in kept:
        return {"w": kept.pop("w")}
    kept["w"] = coin_gradient()["w"]
    return {"w": kept["w"].clone()}


# ---------------------------------------------------------------------- results
@pytest.fixture(scope="module")
def sound():
    return lab.check_estimator(Reinforce(), families=[Bernoulli()])


def test_counts(sound):
    assert isinstance(sound, Conformance) and sound.ok
    assert sum(sound.counts.values()) == len(sound.outcomes) == len(checks(Reinforce(), families=[Bernoulli()]))
    assert sound.counts["failed"] == 0 and sound.counts["passed"] >= 30
    assert sound.counts["skipped"] == 3 and "no other implementation is given" in sound.summary()
    assert f"{sound.counts['passed']} passed" in repr(sound)


def test_what_claims_to_be_biased_passes_if_nothing_breaks():
    result = lab.check_estimator(StraightThroughGumbelSoftmax(), families=[Bernoulli()])
    claims = [o for o in result.outcomes if o.check.startswith("is unbiased on")]
    assert claims and all(o.status == "skipped" and "claims to be biased" in o.told for o in claims)


class WithoutExamples(Reinforce):
    """Its surrogate lacks an axis."""

    def surrogate(self, site, downstream):
        return super().surrogate(site, downstream).sum(-1)


def test_expected_failures_are_strict():
    with pytest.raises(ConformanceError, match="was expected to fail \\(a reason\\) and passes"):
        lab.check_estimator(Reinforce(), families=[Bernoulli()], expected_failures={"can be repeated": "a reason"})
    with pytest.raises(ConformanceError, match=r"fails 1 of \d+ checks.*\n  has no dead path: 4 of 4 unit gradients"):
        lab.check_estimator(Sample(), families=[Bernoulli()])
    result = lab.check_estimator(Sample(), families=[Bernoulli()], expected_failures=SILENT)
    assert result.counts["expected failure"] == 1 and result.ok and result.status == "sound"
    with pytest.raises(ConformanceError, match=r"was expected to fail \(a reason\) and says nothing \(no other"):
        lab.check_estimator(
            Sample(), families=[Bernoulli()], expected_failures={**SILENT, "has the mean of the other": "a reason"}
        )
    with pytest.raises(UsageError, match="has no check 'has a dead path'"):
        lab.check_estimator(Sample(), expected_failures={"has a dead path": "a slip"})
    # what was not looked at, because of another failure, is not to be taken off
    skipped = lab.check_estimator(WithoutExamples(), expected_failures={"hears no constant": "a reason"}, raises=False)
    assert [o.check for o in skipped.of("failed")] == ["has the right shapes"]


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
    for families in ([], [Bernoulli], Bernoulli(), "Bernoulli"):
        with pytest.raises(UsageError, match="families is a list of laws"):
            lab.check_estimator(Reinforce(), families=families)
    for draws in (0, 10, 1.5):
        with pytest.raises(UsageError, match="draws is a whole number of replicates, at least 256"):
            lab.check_estimator(Reinforce(), draws=draws)
    with pytest.raises(UsageError, match=r"one_point is a function; wrap it: lab.Callback\(one_point\)"):
        lab.check_estimator(one_point)
    for like in (Reinforce, [Reinforce()], 3, sampler_of_coins()):
        with pytest.raises(UsageError, match=r"is a class; pass|found a list of 1|int is no|GradientSampler is no"):
            lab.check_estimator(Reinforce(), like=like)
    with pytest.raises(UsageError, match="found a list of 1"):
        lab.check_estimator(Reinforce(), like=[Reinforce()])
    with pytest.raises(UsageError, match="gives reasons by name of a check"):
        lab.check_estimator(Reinforce(), expected_failures=["can be repeated"])
    with pytest.raises(UsageError, match="did you mean 'can be repeated'"):
        lab.check_estimator(Reinforce(), expected_failures={"can be repeatd": "a slip"})
    sampler = lab.GradientSampler(coin_gradient, coin_truth())
    for options in ({"families": [Bernoulli()]}, {"problems": [lab.problems.OneBit()]}, {"like": Reinforce()}):
        with pytest.raises(UsageError, match="brings its own"):
            lab.check_estimator(sampler, **options)


def test_problems_of_one_label_are_told_apart():
    places = [lab.problems.OneBit(), lab.problems.OneBit(target=0.3)]
    assert places[0].label == places[1].label
    names = [c.name for c in checks(Reinforce(), problems=places) if c.name.startswith("is unbiased on")]
    assert names == [f"is unbiased on {p!r}" for p in places]
    with pytest.raises(UsageError, match="two problems are called"):
        checks(Reinforce(), problems=[lab.problems.OneBit()] * 2)


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
    assert len(set(ids)) == len(ids) and all(i.isascii() for i in ids)
    turned = lab.parametrize_with_checks([Reinforce(0.5), Sample()], families=[Bernoulli()])
    assert {v.id for v in turned.args[1]} == set(ids)
    by_id = {v.id: v.values for v in values}
    estimator, check = by_id["Reinforce(baseline=0.5)-can be repeated"]
    check(estimator)
    with pytest.raises(UsageError, match="is one of Reinforce"):
        check(Reinforce())
    with pytest.raises(pytest.skip.Exception, match="skipped: no other implementation"):
        by_id["Reinforce(baseline=0.5)-has the mean of the other"][1](estimator)
    estimator, check = by_id["Sample(common=False)-has no dead path"]
    with pytest.raises(pytest.xfail.Exception, match="by definition"):
        check(estimator)
    values = {v.id: v.values for v in turned.args[1]}
    estimator, check = values["Sample(common=False)-has no dead path"]
    with pytest.raises(AssertionError, match=r"^4 of 4 unit.*\n  \(Sample\(common=False\): has no dead path\)"):
        check(estimator)


def test_what_the_decorator_refuses():
    for two in ([Callback(lambda t, f: t), Callback(lambda t, f: 2 * t)], [Reinforce(), Reinforce()]):
        with pytest.raises(UsageError, match="two estimators are called"):
            lab.parametrize_with_checks(two)
    for none in (Reinforce(), [], iter([Reinforce()])):
        with pytest.raises(UsageError, match="give a list of estimators"):
            lab.parametrize_with_checks(none)
    with pytest.raises(UsageError, match="Reinforce is a class"):
        lab.parametrize_with_checks([Reinforce])


STRICT = """
import estimator_lab as lab
from estimator_lab.estimators import Rebar, Sample
REASONS = {"has no dead path": "by definition", "can be repeated": "stale", "has the mean of the other": "mute"}
@lab.parametrize_with_checks([Sample()], families=[lab.Bernoulli()], expected_failures=REASONS)
def test_strict(estimator, check):
    check(estimator)
@lab.parametrize_with_checks(
    [Rebar()], families=[lab.Categorical(3)], problems=[lab.problems.CategoricalQuadratic()], draws=256,
    like=lambda e: None,
)
def test_open(estimator, check):
    if check.check.name.startswith("is unbiased on"):
        check(estimator)
class Doubled(lab.Estimator):
    unbiased, families = True, (lab.Bernoulli,)
    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        return loss + 2 * site.score(value, loss)
def test_whole():
    lab.check_estimator(Doubled())
"""


ALONE = """
import sys, estimator_lab as lab
lab.check_estimator
print("no pytest:", "pytest" not in sys.modules)
import pytest
sys.exit(pytest.main([*sys.argv[1:], "-W", "ignore::pytest.PytestAssertRewriteWarning"]))
"""


def test_in_pytest(tmp_path):
    """No pytest until it is asked for; a third party's three lines; strict failures; what is open; user's lines."""
    shutil.copytree(EXAMPLE, tmp_path / "example", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "example" / "tests" / "test_it.py").write_text(STRICT)
    done = subprocess.run(
        [sys.executable, "-c", ALONE, "-v", "-p", "no:cacheprovider", "-rsfx"], cwd=tmp_path / "example",
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "300"},
    )  # fmt: skip
    shown = done.stdout
    assert "no pytest: True" in shown
    assert done.returncode == 1, shown + done.stderr
    ended = Counter(re.findall(r"^tests/test_laws_of_pair.py::.* (PASSED|SKIPPED|FAILED)", shown, re.M))
    assert ended == {"PASSED": len(checks(Reinforce(), families=[Bernoulli()])) - 3, "SKIPPED": 3}, shown
    assert re.search(r"3 failed, \d+ passed, \d+ skipped, 1 xfailed", shown), shown
    failed = re.findall(
        r"FAILED .*-(.*)\] - AssertionError: was expected to fail \((.*?)\) and (passes|says nothing)", shown
    )
    assert failed == [("can be repeated", "stale", "passes"), ("has the mean of the other", "mute", "says nothing")]
    line = STRICT.splitlines().index("        check(estimator)") + 1
    assert len(re.findall(rf"SKIPPED .* tests/test_it.py:{line}: inconclusive: [\d,]+ draws on", shown)) == 1
    whole = shown.partition("___ test_whole ___")[2].partition("short test summary")[0]
    assert "suite.py" not in re.sub(r"estimator_lab\.conformance\.suite\.Conf", "", whole)
    assert len(whole.splitlines()) < 16, whole
    assert "looks like: consistent with a gain of 2" in whole and "smallest_witness" in whole


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
    """2000 pairs of skew samples: the rate at 5 % is at most 5 % and five of its standard errors more (3e-7)."""
    generator = np.random.default_rng(time.time_ns())
    p = [dependence(*generator.exponential(size=(2, 60)).round(1)) for _ in range(2000)]
    assert np.mean(np.array(p) <= 0.05) <= 0.05 + 5 * (0.05 * 0.95 / 2000) ** 0.5
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


# ---------------------------------------------------------------------- what one check leaves to the next
class Running(lab.Estimator):
    """A baseline that moves from call to call: NaN after a batch without examples."""

    unbiased, families = True, (Bernoulli,)

    def __init__(self):
        self._mean = 0.0

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        found = loss + site.score(value, loss - self._mean)
        self._mean = 0.9 * self._mean + 0.1 * loss.detach().mean()
        return found


def test_a_check_leaves_nothing_to_the_next():
    subject = Running()
    forward, backward = (
        {
            t.check.name: t.run().told
            for _, t in order(list(trials([subject], expected_failures={REPEATED: "it moves"})))
        }
        for order in (list, reversed)
    )
    assert subject._mean == 0.0 and forward == backward
    assert "a mean of nothing stays in its state" in forward["takes an empty batch"]
    assert not any("nan" in told.lower() for name, told in forward.items() if name != "takes an empty batch")


def running_in_a_closure():
    """The same, kept where no copy reaches it."""
    means = [0.0]

    def function(theta, f):
        b = torch.bernoulli(theta.sigmoid())
        loss = f(b).detach()
        means.append(0.9 * means[-1] + 0.1 * loss.mean())
        return (loss - means[-2])[..., None] * (b - theta.sigmoid())

    return Callback(function, unbiased=True)


def test_what_follows_from_a_state_is_left_out():
    """One failure, and what it looks like, wherever the state is; what is global is put back."""
    for subject in (Running(), running_in_a_closure(), OfNumpy()):
        state = str(np.random.get_state())
        with pytest.raises(
            ConformanceError, match=r"fails 1 of .* checks .*\n  looks like: a state that is kept"
        ) as error:
            lab.check_estimator(subject)
        assert [o.check for o in error.value.result.of("failed")] == [REPEATED]
        assert error.value.result.of("skipped")[0].told == f"fails {REPEATED!r}, from which all else may follow"
        assert str(np.random.get_state()) == state


def test_what_cannot_be_copied_is_used_as_it_is():
    kept = (torch.ones(2, requires_grad=True) * 2,)  # no leaf: deepcopy refuses it
    assert copied(kept) is kept
    sampler = sampler_of_coins()
    assert copied(sampler) is sampler


class Shapeless(lab.Estimator):
    families = (Bernoulli,)

    def surrogate(self, site, downstream):
        return downstream(site.sample()).sum()


@pytest.mark.parametrize("subject", [DropIn(lambda theta: None), DropIn(lambda theta: theta.sum(-1)), Shapeless()])
def test_wrong_shapes_are_told_once(subject):
    result = lab.check_estimator(subject, raises=False)
    assert [o.check for o in result.of("failed")] == ["has the right shapes"]
    assert {o.told for o in result.of("skipped")} == {"fails 'has the right shapes', from which all else may follow"}
    assert looks_like(subject, None, result.of("failed")) == () and "Point(" not in result.summary()


class Times(lab.Estimator):
    """REINFORCE with a gain, from one path or more; no dataclass."""

    unbiased, families = True, (Bernoulli,)

    def __init__(self, gain=2.0, paths=2):
        self.gain, self.paths = gain, paths

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        return loss + self.gain * site.score(value, loss - 0 * loss.detach() / (self.paths - 1))


def test_a_failure_says_what_it_looks_like_and_tells_a_claim_once():
    with pytest.raises(ConformanceError) as error:
        lab.check_estimator(of("DoubledScore"))
    _, first, second, *rest = str(error.value).splitlines()
    assert first.startswith("  looks like: consistent with a gain of 2")
    assert second.startswith("  is unbiased on one unit") and "; and 9 more: unequal units (Bernoulli())" in second
    assert rest == ["  lab.smallest_witness(estimator).code is a test on the smallest problem that shows it"]
    told = []
    for subject, trial in trials([of("DoubledScore")]):
        if trial.check.name.startswith("is unbiased on") and "constant" not in trial.check.name:
            with pytest.raises(AssertionError, match=r"^claims to be unbiased and is not") as error:
                trial(subject)
            told.append("looks like: consistent with a gain of 2" in str(error.value))
    assert told == [True] + [False] * 9


def test_a_cause_that_repeats_a_check_is_left_out():
    with pytest.raises(ConformanceError, match="is finite under saturation") as error:
        lab.check_estimator(of("OverflowingSlope"))
    assert "looks like" not in str(error.value)


def test_one_path_of_a_class_that_is_no_dataclass():
    outcomes = {o.check: o for o in lab.check_estimator(Times(), raises=False).outcomes}
    assert "with paths=1 it is NaN" in outcomes["takes one path"].told
    skipped = {o.check: o.told for o in lab.check_estimator(Reinforce(), families=[Bernoulli()]).of("skipped")}
    assert skipped["takes one path"] == "its number of paths is fixed: Reinforce(...) takes no argument paths"


def test_a_mean_that_never_moves_and_is_not_the_truth_is_a_failure():
    name, told = first_failure(ClampedLogits())
    assert name == "is unbiased on saturated units (Bernoulli())" and "are the same in all 131072 draws" in told


def test_draws_of_a_black_box_are_as_many_as_are_allowed():
    truth = coin_truth()

    def noisy():
        return {"w": truth["w"] + 0.4 * truth["w"].norm() * torch.randn(2, dtype=torch.float64)}

    subject = lab.GradientSampler(noisy, truth, unbiased=True)
    (told,) = [o.told for o in lab.check_estimator(subject, draws=256).of("inconclusive")]
    assert "256 draws were made, of the 256 that draws (--draws) allows" in told
    assert lab.check_estimator(subject, draws=2**12).status == "sound"
