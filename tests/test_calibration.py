"""The whole procedure simulated, as in analyses/calibration.py, with some hundred runs a cell instead of ten thousand.

Every check counts what may happen in at most a stated share of runs, and fails above a number that Binomial(runs,
share) exceeds with a probability of at most 1e-6 / checks. Hence the file fails a correct package in at most one of
1e6 runs.
"""

import dataclasses
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

import estimator_lab as lab

sys.path.insert(0, str(Path(__file__).parent.parent / "analyses"))

import calibration
import calibration_report
from calibration import MARGIN, PAIRS, Cell, simulate
from rehearsal import Rehearsal, prepared

RATE = 1e-6
"""False-alarm rate of this file."""
FORM, LOCAL, RARE = "RLOO, quadratic form", "local expectation, quadratic form", "REINFORCE, rare events"
NOISY = Cell("null", LOCAL, 1024, False, truth=1024)
EDGE = Cell("margin", LOCAL, 2048, True, 0, MARGIN, "noisiest", 1.0)
POWER = Cell("power", "pathwise, Gaussian cosine", 1024, False, 0, MARGIN, "along", 1.0)
COVER = Cell("null", FORM, 1024, False)
TWO_SIDED = ("variance", "mse", "snr", "gain", "mean_cosine", "effective_rank")

# cell, runs, what may happen, in at most which share of them
CHECKS = [
    (Cell("null", FORM, 4096), 150, ["verdict biased"], 0.01),
    (Cell("null", "RLOO, categorical", 2048), 250, ["verdict biased"], 0.01),
    (Cell("null", "REINFORCE, one bit", 4096), 150, ["verdict biased"], 0.01),
    (Cell("null", RARE, 8192), 150, ["verdict biased"], 0.01),
    (NOISY, 150, ["verdict biased"], 0.01),
    (dataclasses.replace(NOISY, truth=256), 150, ["verdict biased"], 0.01),
    (EDGE, 150, ["row unbiased within"], 0.01),
    (EDGE, 150, ["row biased beyond"], 0.01),
    (POWER, 150, ["missed"], 0.05),
    *((COVER, 300, [f"site x | {name} | {end}" for end in ("below", "above")], 0.065) for name in TWO_SIDED),
]


@pytest.fixture(scope="module")
def counted():
    """Counts by cell, each simulated once."""
    found = {}
    for cell, runs, *_ in CHECKS:
        if cell not in found:
            found[cell] = simulate(cell, 0, runs)["counts"]
            found[cell]["missed"] = runs - found[cell]["found at the first site"]
    return found


def most(runs, share):
    """The number that Binomial(runs, share) exceeds with a probability of at most RATE / checks."""
    return int(stats.binom.isf(RATE / len(CHECKS), runs, share))


@pytest.mark.parametrize(("cell", "runs", "names", "share"), CHECKS, ids=lambda x: getattr(x, "name", None))
def test_errors_are_as_rare_as_stated(counted, cell, runs, names, share):
    assert sum(counted[cell].get(name, 0) for name in names) <= most(runs, share)


def test_this_file_has_the_false_alarm_rate_that_it_states():
    assert sum(stats.binom.sf(most(runs, share), runs, share) for _, runs, _, share in CHECKS) <= RATE


@pytest.mark.parametrize("name", [FORM, "REINFORCE, two layers"])
def test_a_rehearsal_is_what_diagnose_does(name):
    """Given the draws that ``diagnose`` makes, a rehearsal finds the same, up to the rounding of other blocks."""
    pair = PAIRS[name]
    budget = lab.Budget(2048)
    real = lab.diagnose(pair.estimator, on=pair.problem, wrt=pair.wrt, budget=budget, exact=False).findings[0]
    rehearsal = Rehearsal(pair, "same", draws=2048)
    base = prepared(pair)[0]
    blocks = [
        base.source.draw(base.plan.size(i), lab.measurement.MonteCarlo(base.plan.block_seed(i)))
        for i in range(base.plan.blocks(real.replicates))
    ]
    rehearsal.measurement.source.left = {k: torch.cat([block[k] for block in blocks]) for k in blocks[0]}
    found = rehearsal.run()
    assert (found.verdict, found.replicates, found.looks) == (real.verdict, real.replicates, real.looks)
    for mine, its in zip(found.rows, real.rows, strict=True):
        assert mine.verdict == its.verdict
        for a, b in zip(_numbers(mine), _numbers(its), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-12)


def _numbers(row):
    return [row.p, row.low, row.high, row.detectable, *(one.high for one in row.statistics.values())]


def test_no_two_runs_share_a_draw():
    rehearsal = Rehearsal(PAIRS["pathwise, Gaussian cosine"], "apart", draws=256, early=False)
    source = rehearsal.measurement.source
    rows = torch.cat([source.draw(n, SimpleNamespace())["unit", "x"] for n in (1, 8191, 256, 10000)]).flatten(1)
    assert len(rows.unique(dim=0)) == len(rows) == 18448


def test_a_study_goes_on_where_it_stopped_and_reports(tmp_path):
    """Results do not depend on how often it was interrupted, and the PDF is a function of them."""
    cells = [Cell("null", "REINFORCE, one bit", 256, False, weight=0.5), Cell("saving", "RLOO, quadratic form", 256)]
    once, twice = (
        {"code": "abc", "created": "2026-01-01", "command": "c", "environment": {}, "cells": {}} for _ in "12"
    )
    path = tmp_path / "calibration.json"
    calibration.study(once, cells, 200, 1, path)
    calibration.study(twice, cells, 100, 1, path)
    calibration.study(twice, cells, 200, 1, path)
    assert json.loads(path.read_text())["cells"][cells[1].name]["runs"] == 200
    for name in once["cells"]:
        assert once["cells"][name]["counts"] == twice["cells"][name]["counts"]
    assert calibration_report.render(twice).startswith(b"%PDF") and calibration_report.render(twice)
