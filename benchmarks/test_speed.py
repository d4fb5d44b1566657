"""Time per replicate, side by side in one run with what a user would write. Run: make bench."""

import math

import pytest
import torch
from networks import (
    Classifier,
    Residual,
    as_module,
    least_work,
    loop,
    module_problem,
    plain_batched,
    plain_module,
    toy_loop,
)

import estimator_lab as lab
from estimator_lab.budget import MEMORY
from estimator_lab.chain import Chain
from estimator_lab.layerwise import LayerMeasurement
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
    """Unit gradients against the same network written by hand on one batch of R * B examples.

    At 784-200-200-10 at most 0.8 times its time, at 64-32-32-10 never longer.
    """
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
    assert ratio >= (1 / 0.8 if size.startswith("784") else 1)


def test_units_against_the_least_work(side_by_side):
    """How far unit gradients are from the products and random numbers that they cannot do without: for information."""
    problem, count = Classifier(SIZES["784-200-200-10"]), 256
    ours = drawer(problem, ("unit",), count)
    name = "(b) 784-200-200-10, unit gradients, against products and numbers"
    side_by_side(name, ours, least_work(problem, count), count, count)


def test_layer_statistics_against_units(side_by_side):
    """Norm, projection and sum of every layer's weight gradients: at most 1.5 times the time of unit gradients."""
    problem, count = Classifier(SIZES["784-200-200-10"]), 256
    weights = problem.weights()
    reference = {("weight", k): torch.ones_like(v).numpy() for k, v in weights.items()}
    measurement = LayerMeasurement.prepare(problem, ST, reference, 0, MEMORY)
    index = measurement.plan.blocks(2**14)
    assert measurement.plan.size(index) == count

    def ours():
        summaries, _ = measurement.draw(index, 0, count, 1)
        return measurement.nodes(summaries, 0, count, 1)

    name = "(c) 784-200-200-10, layer statistics, against unit gradients"
    assert side_by_side(name, ours, drawer(problem, ("unit",), count), count, count) >= 1 / 1.5


@pytest.mark.parametrize("kind", ["unit", "weight"])
def test_a_module_against_a_problem(side_by_side, kind):
    """A network given as a module: at most 1.2 times the time of the same one written as a problem."""
    problem = Classifier(SIZES["784-200-200-10"])
    count = 64 if kind == "unit" else 32  # the blocks that a measurement draws
    module = module_problem(as_module(problem), problem)
    name = f"(f) 784-200-200-10, from_module, {kind} gradients, against a Problem"
    ratio = side_by_side(name, drawer(module, (kind,), count), drawer(problem, (kind,), count), count, count)
    assert ratio >= 1 / 1.2


def test_a_residual_module_against_its_own_passes(side_by_side):
    """Four stochastic layers that each see all that came before: no part of the module is run twice.

    Run from the start at every layer its forward pass would be three times as long, and all of it twice; 1.4 times is
    the most that is allowed.
    """
    problem, count = Classifier(SIZES["784-200-200-10"]), 64
    torch.manual_seed(0)
    module = Residual()
    ours = drawer(module_problem(module, problem), ("unit",), count)
    name = "(g) residual, 4 stochastic layers, unit gradients, against plain"
    assert side_by_side(name, ours, lambda: plain_module(module, problem, count), count, count) >= 1 / 1.4


@pytest.mark.parametrize("size", SIZES)
def test_weights_against_a_loop(side_by_side, size):
    """Per-replicate weight gradients: 1.8 times as fast as the loop at 784-200-200, never slower."""
    problem = Classifier(SIZES[size])
    count = 256 if size.startswith("64") else 64
    ours = drawer(problem, ("weight",), count)
    ratio = side_by_side(
        f"(d) {size}, weight gradients, against a loop", ours, lambda: loop(problem, count), count, count
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
        "(e) digits classifier, measuring with all tests, against measuring",
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
