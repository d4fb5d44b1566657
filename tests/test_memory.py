"""Peak memory does not grow with the number of replicates, and is what a budget says."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from Linux's /proc")

BEGIN = """
import ctypes
import sys
import torch
from torch import nn
torch.set_num_threads(1)
import estimator_lab as lab
from estimator_lab.chain import Chain
from estimator_lab.estimators import DisARM, StraightThrough
from estimator_lab.layerwise import layer_statistics
from estimator_lab.measurement import measure
from estimator_lab.elementwise import weight_moments

def peak():
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))

def network(*sizes):
    layers = []
    for a, b in zip(sizes, sizes[1:]):
        layers += [nn.Linear(a, b), lab.nn.Stochastic(lab.Bernoulli())]
    x, y = torch.rand(4, sizes[0]), torch.zeros(4, sizes[-1])
    return lab.from_module(nn.Sequential(*layers[:-1]), lambda o, y: (o - y).square().sum(-1), (x, y))
"""
RUNS = {
    "a problem": "measure(lab.problems.TwoLayer(), DisARM(), count)",
    "a module": "measure(network(3, 4, 3, 2), StraightThrough(), count)",
    "layer statistics": "layer_statistics(network(3, 4, 3, 2), StraightThrough(), count)",
    "weight moments": "weight_moments(network(3, 4, 3, 2), StraightThrough(), count)",
}
EACH = """
for count in map(int, sys.argv[1:]):
    assert {}.replicates >= count
    print(peak())
"""


COUNTS = 80_000, 200_000
"""From 65536 replicates on, all blocks have the largest size. The many come second: a peak is that of all so far."""


def run(script: str, *arguments: object) -> list[int]:
    """What a script prints. Not getrusage in here: its maximum counts the parent's memory at the fork."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return [int(x) for x in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()]


@pytest.mark.parametrize("what", RUNS)
def test_peak_memory_does_not_grow_with_the_number_of_replicates(what):
    few, many = run(BEGIN + EACH.format(RUNS[what]), *COUNTS)
    assert abs(many - few) < 0.05 * few, f"{few} KiB for {COUNTS[0]} replicates, {many} KiB for {COUNTS[1]}"


WIDE = """
small = network(3, 4, 3, 2)
weight_moments(small, StraightThrough(), 2)
layer_statistics(small, StraightThrough(), 64)
wide = network(1000, 1000, 500, 2)
parameters = sum(v.numel() for v in wide.weights().values())
assert parameters > 1.5e6

def growth(call):
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak begins anew
    before = peak()
    call()
    return (peak() - before) * 1024

print(parameters * 4)
print(growth(lambda: weight_moments(wide, StraightThrough(), 32, memory=float(sys.argv[1]))))
"""


@pytest.mark.parametrize("memory", [60e6, 120e6])
def test_moments_of_single_weights_take_four_times_the_parameters_and_the_draws(memory):
    """Mean and variance in double precision are four times the bytes of float32 weights; the draws take the rest.

    A fifth more is left to what torch loads on first use. All 32 draws at once would take over 190 MB.
    """
    parameters, grown = run(BEGIN + WIDE, memory)
    assert 4 * parameters < grown < 1.2 * memory, f"{grown / 1e6:.0f} MB"
