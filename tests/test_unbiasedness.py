"""The claim ``unbiased`` of every estimator, held against every toy, both ways.

Where the noise of one draw makes a small product grid, the mean is an equality. Everywhere else it is a z-test per
coordinate at Z = 7.5: 6.4e-14 for a Gaussian mean. Fewer than 4000 coordinates are tested in this file, nominally
3e-10 in all. Means of skew draws have heavier tails, by the factor exp(|skewness| Z^3 / (6 sqrt n)) to first order
(Cramér 1938); the test requires this to be below 1100, so that the false-alarm rate of the whole file is below 1e-6.
"""

import contextlib
import dataclasses
import functools
import itertools
import math

import numpy as np
import pytest
import torch
from neuron_nets import NETS

from estimator_lab.chain import Chain
from estimator_lab.errors import NotConverged, UsageError
from estimator_lab.estimator import Estimator
from estimator_lab.estimators import (
    ARM,
    ESTIMATORS,
    DisARM,
    DropIn,
    Exact,
    FieteSeung,
    GumbelSoftmax,
    LeaveOneOut,
    LocalExpectation,
    MeanField,
    MuProp,
    PerSite,
    Rebar,
    Reinforce,
    Sample,
    StraightThrough,
)
from estimator_lab.expectation import exact_moments
from estimator_lab.families import Bernoulli
from estimator_lab.measurement import measure
from estimator_lab.noise import ProductRule
from estimator_lab.problem import Problem
from estimator_lab.problems import TOYS, OneBit, QuadraticForm, TwoLayer
from estimator_lab.truth import Truth

GRID = 2 * 10**5  # points of the product grid up to which a mean is taken exactly
DRAWS = 2**16
Z = 7.5
HEAVIER = math.log(1100)


def fits(estimator: Estimator, problem: Problem) -> bool:
    return all(isinstance(site.family, estimator.families) for site in problem.sites)


PAIRS = [(e, p) for e, p in itertools.product(ESTIMATORS, (*TOYS, *NETS)) if fits(e, p)]
UNBIASED = [pair for pair in PAIRS if pair[0].unbiased]


def pairs(cases):
    return pytest.mark.parametrize(("estimator", "problem"), cases, ids=[f"{e!r}-{p!r}" for e, p in cases])


@functools.cache
def truth_of(problem: Problem):
    return Truth.exact(problem).mean


def one_example(problem: Problem) -> Problem:
    """Examples are independent, so that the grid of one of them is enough."""
    return dataclasses.replace(problem, batch=1) if hasattr(problem, "batch") and problem.batch > 1 else problem


def nodes_of(estimator: Estimator, problem: Problem) -> int:
    """Nodes that leave a quadrature error below 1e-9; one where draws are constant, or linear, between jumps."""
    if walk(estimator, problem, 1).normals:
        return 6 if isinstance(estimator, LeaveOneOut) else 24 if isinstance(estimator, FieteSeung) else 40
    return 40 if isinstance(estimator, Rebar | GumbelSoftmax) else 1


def walk(estimator: Estimator, problem: Problem, nodes: int) -> ProductRule:
    """A rule that has learned which numbers are asked for."""
    rule = ProductRule(nodes)
    ready = estimator.adapt(lambda e: {s.name: torch.zeros(problem.batch, *s.theta_shape) for s in problem.sites})
    Chain(problem, ready).draw(1, rule)
    return rule


def grid(estimator: Estimator, problem: Problem, nodes: int) -> float:
    """Size of the product grid."""
    return walk(estimator, problem, nodes).total


def exact_gap(estimator: Estimator, problem: Problem, nodes: int | None = None) -> float:
    """Largest error of the exact mean over all coordinates of all gradients, in units of the largest true gradient."""
    found = exact_moments(problem, estimator, nodes or nodes_of(estimator, problem))
    truth = truth_of(problem)
    assert set(found) == set(truth)
    scale = max(np.abs(t).max() for t in truth.values())
    return max(float(np.abs(found[k].mean - t.ravel()).max()) for k, t in truth.items()) / scale


def z_gap(estimator: Estimator, problem: Problem, draws: int = DRAWS) -> float:
    """Largest |z| over all coordinates; a coordinate without variance must be right to 1e-9, else infinite."""
    record = measure(problem, estimator, draws)
    worst = 0.0
    for key, truth in truth_of(problem).items():
        found = record[key]
        error, variance = np.abs(found.mean - truth.ravel()), found.variance
        constant = variance <= 1e-20 * max(1.0, np.abs(truth).max()) ** 2
        if (error[constant] > 1e-9 * max(1.0, np.abs(truth).max())).any():
            return math.inf
        assert (np.abs(found.skewness[~constant]) * Z**3 / 6 / math.sqrt(record.replicates) < HEAVIER).all()
        worst = max(
            worst, float((error[~constant] / np.sqrt(variance[~constant] / record.replicates)).max(initial=0.0))
        )
    return worst


@functools.cache
def by_equality(estimator: Estimator, problem: Problem) -> bool:
    return grid(estimator, one_example(problem), nodes_of(estimator, problem)) <= GRID


def test_every_claim_is_made():
    assert all(e.unbiased in (True, False) for e in ESTIMATORS)
    assert {type(e) for e, _ in UNBIASED} == {type(e) for e in ESTIMATORS if e.unbiased}
    # no unbiased estimator rests on statistics alone
    assert {type(e) for e, p in UNBIASED if by_equality(e, p)} == {type(e) for e in ESTIMATORS if e.unbiased}


def test_number_of_coordinates():
    """The count that the false-alarm rate is stated for."""
    count = sum(t.size for e, p in UNBIASED if p.batch > 1 or not by_equality(e, p) for t in truth_of(p).values())
    count += 4 * len(PARTS) * sum(t.size for t in truth_of(TwoLayer()).values())
    assert count < 4000


@pairs([pair for pair in UNBIASED if by_equality(*pair)])
def test_unbiased_exactly(estimator, problem):
    tolerance = 1e-6 if nodes_of(estimator, problem) == 6 and "Polynomial" not in repr(problem) else 1e-9
    assert exact_gap(estimator, one_example(problem)) < tolerance


@pytest.mark.parametrize("problem", [TwoLayer(batch=1), TOYS[5].__class__(batch=1)], ids=repr)
def test_leave_one_out_of_two_paths_is_unbiased_through_layers(problem):
    assert exact_gap(LeaveOneOut(2), problem) < 1e-9


@pairs([(e, p) for e, p in UNBIASED if p.batch > 1 or not by_equality(e, p)])
def test_unbiased_statistically(estimator, problem):
    assert z_gap(estimator, problem) < Z


@pytest.mark.parametrize("estimator", [e for e in ESTIMATORS if e.unbiased is False], ids=repr)
def test_biased_estimators_are_refuted(estimator):
    """Each has a toy on which its exact mean is off by over 1 %."""
    gaps = {}
    for problem in (p for e, p in PAIRS if e is estimator and by_equality(e, p)):
        with contextlib.suppress(NotConverged):  # smoothed across the kink of a rectifier
            gaps[repr(problem)] = exact_gap(estimator, one_example(problem))
    assert max(gaps.values()) > 0.01, gaps


def test_known_exceptions_of_biased_estimators():
    """Where the docstrings say that a biased estimator is exact, it is."""
    additive, one_bit = TOYS[1], OneBit()
    for estimator in ESTIMATORS:
        if repr(estimator) in ("StraightThrough(derivative='mean')", "ReinMax()", "MeanField()"):
            assert exact_gap(estimator, additive) < 1e-12
    assert exact_gap(next(e for e in ESTIMATORS if repr(e) == "ReinMax()"), QuadraticForm()) < 1e-12
    assert exact_gap(StraightThrough(), one_bit) > 0.01
    assert exact_gap(MeanField(), one_bit) > 0.01


# ---------------------------------------------------------------------- composition
PARTS = [e for e in ESTIMATORS if e.unbiased and Bernoulli in (*e.families, Bernoulli) and fits(e, TwoLayer())]
PARTS = [e for e in PARTS if not isinstance(e, Exact)]


@pytest.mark.parametrize("estimator", PARTS, ids=repr)
def test_exact_elsewhere_keeps_the_claim(estimator):
    """One site under the estimator, the other summed: both orders stay unbiased."""
    problem = TwoLayer(batch=1)
    for mixed in (PerSite({"h1": estimator}, Exact()), PerSite({"h1": Exact(), "h2": estimator})):
        assert mixed.unbiased is True
        if grid(mixed, problem, 1) <= GRID and not isinstance(estimator, Rebar):
            assert exact_gap(mixed, problem, 1) < 1e-9
        else:
            assert z_gap(mixed, problem, 2**14) < Z


@pytest.mark.parametrize("estimator", PARTS, ids=repr)
def test_composition_with_another_estimator(estimator):
    """With local expectation at the other site."""
    for mixed in (PerSite({"h1": estimator}, LocalExpectation()), PerSite({"h2": estimator}, LocalExpectation())):
        assert mixed.unbiased is True and mixed.paths == estimator.paths
        assert z_gap(mixed, TwoLayer(batch=1), 2**14) < Z


def test_claim_of_a_composition():
    assert PerSite({"h1": DisARM(), "h2": Reinforce()}).unbiased is True
    assert PerSite({"h1": DisARM()}, StraightThrough()).unbiased is None
    assert PerSite({"h1": StraightThrough()}, MeanField()).unbiased is None
    assert PerSite({"h1": DropIn(torch.sigmoid)}, Exact()).unbiased is None
    assert PerSite({"h1": LeaveOneOut(4)}, LeaveOneOut(6)).paths == 12
    # a biased part shows in its own site's gradient
    assert exact_gap(PerSite({"h1": StraightThrough()}, Exact()), TwoLayer(batch=1), 1) > 1e-3


def test_composition_needs_an_estimator_for_every_site():
    with pytest.raises(UsageError, match="no estimator for site 'h2'"):
        measure(TwoLayer(), PerSite({"h1": DisARM()}), 10)
    with pytest.raises(UsageError, match=r"applies to Reparameterised sites, and not to the Bernoulli\(\) site 'h2'"):
        measure(TwoLayer(), PerSite({"h1": DisARM()}, next(e for e in ESTIMATORS if repr(e) == "Pathwise()")), 10)


# ---------------------------------------------------------------------- the check can fail
class Broken(Estimator):
    """An estimator with one mistake; claims to be unbiased."""

    unbiased = True


class Doubled(Broken):
    """DisARM without its factor 1/2."""

    def surrogate(self, site, downstream):
        loss = DisARM().surrogate(site, downstream)
        return 2 * loss - loss.detach()


class SelfIncluding(Broken):
    """A leave-one-out baseline that does not leave one out: shrinks the gradient by (K - 1) / K."""

    paths = 2

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        return loss + site.score(value, loss - loss.mean(-3, keepdim=True))


class DetachedRebar(Broken):
    """REBAR whose conditional noise does not carry the logits."""

    def surrogate(self, site, downstream):
        family, u, v = site.relaxation, site.uniform(), site.uniform()
        leaf = site.theta.detach().requires_grad_()
        z = family.perturb(leaf, u)
        value = family.harden(z)
        conditioned = family.condition(leaf.detach(), value, v)
        loss = downstream(value)
        free = downstream(family.squash(z, 0.5), using=MeanField())
        given = downstream(family.squash(conditioned, 0.5), using=MeanField())
        (slope,) = torch.autograd.grad(free.sum(), leaf)
        return loss + site.score(value, loss - given) + site.inject(slope)


class Unweighted(Broken):
    """Local expectation of a Bernoulli unit without p (1 - p)."""

    def surrogate(self, site, downstream):
        loss = LocalExpectation().surrogate(site, downstream)
        p = site.mean.detach()
        (gradient,) = torch.autograd.grad(loss.sum(), site.theta, retain_graph=True, allow_unused=True)
        return loss + site.inject(gradient / (p * (1 - p)) - gradient)


class AliveBaseline(Broken):
    """REINFORCE with its own loss as baseline of the other unit: a baseline that reads the sample."""

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        return loss + site.score(value, loss - value.flatten(site.lead).sum(-1))


class Untwinned(Broken):
    """ARM with the sign of the shared number turned."""

    def surrogate(self, site, downstream):
        loss = ARM().surrogate(site, downstream)
        return 2 * loss.detach() - loss


class Mislinearised(Broken):
    """MuProp that forgets the linear term's exact gradient."""

    def surrogate(self, site, downstream):
        loss = MuProp().surrogate(site, downstream)
        centre = site.mean
        smooth = downstream(centre, using=MeanField())
        return loss - (smooth - smooth.detach())


BROKEN = [Doubled, SelfIncluding, DetachedRebar, Unweighted, AliveBaseline, Untwinned, Mislinearised]


@pytest.mark.parametrize("kind", BROKEN, ids=lambda k: k.__name__)
def test_a_broken_estimator_is_caught(kind):
    problem = OneBit() if kind is DetachedRebar else QuadraticForm()
    nodes = 40 if kind is DetachedRebar else 1
    assert grid(kind(), problem, nodes) <= GRID
    assert exact_gap(kind(), problem, nodes) > 0.05
    assert z_gap(kind(), problem) > Z


def test_sample_gives_only_the_direct_gradient():
    """Of the penalty on the first logits, and of weights that feed the loss."""
    found = exact_moments(TwoLayer(batch=1), Sample())
    theta = TwoLayer(batch=1).theta(TwoLayer().weights(), ())
    np.testing.assert_allclose(found["unit", "h1"].mean, 0.2 * theta.ravel(), rtol=1e-12)
    np.testing.assert_allclose(found["unit", "h2"].mean, 0, atol=1e-15)
    np.testing.assert_allclose(found["weight", "v"].mean, truth_of(TwoLayer(batch=1))["weight", "v"], rtol=1e-12)
