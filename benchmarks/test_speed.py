"""Time per replicate, side by side in one run with what a user would write. Run: make bench."""

import math

import pytest
from networks import Classifier, loop, plain_batched, toy_loop

import estimator_lab as lab
from estimator_lab.chain import Chain
from estimator_lab.measurement import prepare
from estimator_lab.noise import MonteCarlo
from estimator_lab.study import Terms

ST = lab.estimators.StraightThrough()
SIZES = {"64-32-32-10": (64, 32, 32, 10), "784-200-200-10": (784, 200, 200, 10)}


def drawer(problem, wrt, replicates):
    chain = Chain(problem, ST, wrt)
    return lambda: chain.draw(replicates, MonteCarlo(0))


def test_toy_against_a_loop(side_by_side):
    """A 4-3-2 network with two stochastic layers: at least 300 times as fast as a Python loop of backward()."""
    problem, count = lab.problems.TwoLayer(), 2**14
    ours = drawer(problem, ("unit", "weight"), count)
    name = "(a) toy 4-3-2, unit and weight gradients, against a loop"
    assert side_by_side(name, ours, lambda: toy_loop(problem, 200), count, 200) >= 300


@pytest.mark.parametrize("size", SIZES)
def test_units_against_plain_torch(side_by_side, size):
    """Unit gradients: at most the time of the same network written by hand on one batch of R * B examples."""
    problem = Classifier(SIZES[size])
    count = 256 if size.startswith("64") else 64
    ours = drawer(problem, ("unit",), count)
    ratio = side_by_side(
        f"(b) {size}, unit gradients, against plain batched torch",
        ours,
        lambda: plain_batched(problem, count),
        count,
        count,
    )
    assert ratio >= 1


@pytest.mark.parametrize("size", SIZES)
def test_weights_against_a_loop(side_by_side, size):
    """Per-replicate weight gradients: 1.8 times as fast as the loop at 784-200-200, never slower."""
    problem = Classifier(SIZES[size])
    count = 256 if size.startswith("64") else 64
    ours = drawer(problem, ("weight",), count)
    ratio = side_by_side(
        f"(c) {size}, weight gradients, against a loop", ours, lambda: loop(problem, count), count, count
    )
    assert ratio >= (1.8 if size.startswith("784") else 1)


@pytest.fixture(scope="module")
def digits():
    """Straight-through on the digits classifier, unit and weight gradients, against an estimated truth."""
    problem = lab.problems.DigitsClassifier()
    truth = lab.Truth.of(problem, replicates=2**12)
    return truth, prepare(problem, ST, reference=truth.mean)


def test_statistics_against_drawing(side_by_side, digits):
    """All seven looks at 16384 replicates, every test and interval: at most 15 % on top of measuring."""
    truth, measurement = digits
    terms, count = Terms(0, lab.Budget(2**14, precision=1e-9), 0.05, 0.01), 2**14
    ratio = side_by_side(
        "(d) digits classifier, measuring with all tests, against measuring",
        lambda: terms.find(measurement, truth, ST, "digits", math.inf, None),
        lambda: measurement.run(count),
        count,
        count,
        rounds=5,
    )
    assert ratio >= 1 / 1.15


def test_measuring_against_drawing(side_by_side, digits):
    """Moments, batch means and scalars of every coordinate and group, on top of the draws: for information."""
    _, measurement = digits
    index = measurement.plan.blocks(2**14)
    count = measurement.plan.size(index)
    side_by_side(
        "(e) digits classifier, measuring, against drawing",
        lambda: measurement.block(index),
        lambda: measurement.source.draw(count, MonteCarlo(0)),
        count,
        count,
    )
