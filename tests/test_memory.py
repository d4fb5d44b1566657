"""Peak memory does not grow with the number of replicates."""

import subprocess
import sys
from pathlib import Path

import pytest

MEASURE = """
import sys
import torch
torch.set_num_threads(1)
from estimator_lab.estimators import DisARM
from estimator_lab.measurement import measure
from estimator_lab.problems import TwoLayer
record = measure(TwoLayer(), DisARM(), int(sys.argv[1]))
assert record.replicates >= int(sys.argv[1])
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def peak(replicates: int) -> int:
    """Peak resident memory in KiB. Not getrusage: its maximum counts the parent's memory at the fork."""
    command = [sys.executable, "-c", MEASURE, str(replicates)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from Linux's /proc")
def test_peak_memory_does_not_grow_with_the_number_of_replicates():
    few, many = peak(10_000), peak(100_000)
    assert abs(many - few) < 0.05 * few, f"{few} KiB for 10000 replicates, {many} KiB for 100000"
