"""Every estimator of the table is held against baselines, with what a user of the package has: the pytest fixture.

After a deliberate change: ``pytest tests/test_catalogue.py -k DisARM --estimator-lab-update``, and commit the files.
"""

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from suite import SUITE

import estimator_lab as lab
from estimator_lab.baseline_origin import path_for
from estimator_lab.estimators import ARM, ESTIMATORS, CurveThrough, DisARM, MuProp, Reinforce, ReinMax
from estimator_lab.families import FAMILIES, Categorical

BUDGET = 2**17
"""Draws of a stage at most: enough for all that is planned, see `test_every_baseline_is_long_enough`."""

PAIRS = [
    pytest.param(estimator, problem, id=f"{estimator!r}-{problem.name}")
    for problem in SUITE.values()
    for estimator in ESTIMATORS
    if not any(estimator.refuses(site) for site in problem.sites)
]
FOLDER = Path(__file__).parent / "baselines"


@pytest.mark.parametrize(("estimator", "problem"), PAIRS)
def test_holds_its_baseline(estimator_lab, estimator, problem):
    path = path_for(estimator, problem, FOLDER)
    estimator_lab.hold(estimator, problem, baseline=path, budget=BUDGET)


# ---------------------------------------------------------------------- the files
def test_every_estimator_has_a_baseline_on_every_law_that_it_applies_to():
    reached = {repr(estimator): set() for estimator in ESTIMATORS}
    for estimator, problem in (pair.values for pair in PAIRS):
        reached[repr(estimator)] |= {type(site.family) for site in problem.sites}
    for estimator in ESTIMATORS:
        laws = [law(3) if law is Categorical else law() for law in FAMILIES]
        applies = {type(law) for law in laws if not estimator.refuses(lab.SiteSpec("h", law, (2,)))}
        assert applies and reached[repr(estimator)] == applies, estimator
    sizes = {len(problem.sites) for problem in SUITE.values()}
    assert {1, 2} <= sizes and all(problem.batch > 1 for problem in SUITE.values())


def test_every_baseline_belongs_to_a_pair():
    expected = {path_for(*pair.values, FOLDER).name for pair in PAIRS}
    found = {path.name for path in FOLDER.iterdir()}
    assert found == expected, f"write {expected - found} with --estimator-lab-update, delete {found - expected}"


@pytest.mark.parametrize(("estimator", "problem"), PAIRS)
def test_every_baseline_is_long_enough(estimator, problem):
    """A variance up by 25 % and a mean off by 10 % are found with probability 0.9 at least, when all tests are run."""
    kept = lab.Baseline.load(path_for(estimator, problem, FOLDER))
    assert kept.margin == 0.1 and kept.increase == 0.25
    rate = 1e-4 / len(PAIRS) * 6 / math.pi**2 / (2 * len(kept.groups))
    for group in kept.groups:
        for metric in ("variance", "mean"):
            assert kept.power(group, metric, BUDGET, rate) > 0.9, f"{metric} of {group.name}"


# ---------------------------------------------------------------------- what the files find
@dataclass(frozen=True)
class Louder(ARM):
    """With a gain of 1.3."""

    def surrogate(self, site, downstream):
        loss = super().surrogate(site, downstream)
        return 1.3 * loss - 0.3 * loss.detach()


@dataclass(frozen=True)
class Unpaired(DisARM):
    """The second sample is drawn with numbers of its own."""

    def surrogate(self, site, downstream):
        p = site.mean.detach()
        b, other = ((site.uniform() < p).to(p) for _ in range(2))
        loss = downstream(b)
        with torch.no_grad():
            difference = site.expand(loss - downstream(other, using=lab.estimators.Sample()))
        return loss + site.inject(difference * (b - other) * p.maximum(1 - p) / 2)


@dataclass(frozen=True)
class Bare(Reinforce):
    """The fitted baseline is lost."""

    def adapt(self, mean_gradient):
        fitted = super().adapt(mean_gradient)
        return replace(fitted, fitted={name: 0 * value for name, value in fitted.fitted.items()})


@dataclass(frozen=True)
class Dead(CurveThrough):
    """No gradient passes."""

    def surrogate(self, site, downstream):
        return downstream(site.sample())


@dataclass(frozen=True)
class Undefined(ReinMax):
    """NaN, one time in a hundred."""

    def surrogate(self, site, downstream):
        wrong = torch.where(site.uniform() < 0.01, math.nan, 0.0)
        return super().surrogate(site, downstream) + site.inject(wrong)


@dataclass(frozen=True)
class Dear(MuProp):
    """A loss more than is needed."""

    def surrogate(self, site, downstream):
        downstream(site.sample(), using=lab.estimators.Sample())
        return super().surrogate(site, downstream)


BROKEN = [
    (ARM(), Louder(), "mean", "worse: bias of unit h1"),
    (DisARM(), Unpaired(), "mean", "worse: bias of unit h1"),
    (Reinforce("mean"), Bare("mean"), "variance", "worse: variance of unit h1"),
    (CurveThrough(), Dead(), "variance", "vanished: variance of unit h1"),
    (ReinMax(), Undefined(), "draws", "non-finite: "),
    (MuProp(), Dear(), "loss evaluations", "worse: loss evaluations of one draw: 2 -> 3"),
]


@pytest.mark.parametrize(("healthy", "broken", "metric", "words"), BROKEN, ids=[repr(row[1]) for row in BROKEN])
def test_what_is_broken_fails(healthy, broken, metric, words):
    """Each at several times what is planned for, so that a miss is less probable than 1e-6."""
    problem = SUITE["BITS"]
    kept = lab.Baseline.load(path_for(healthy, problem, FOLDER))
    found = kept.check(broken, problem, seed=time.time_ns(), budget=BUDGET)
    told = f"seed {found.seed}: {found.summary()}"
    assert found.status == "violated" and words in told, told
    assert metric in {m.name for m in found.metrics if m.verdict in ("worse", "vanished", "non-finite")}, told
