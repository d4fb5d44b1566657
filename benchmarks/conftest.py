"""Side-by-side timing: ours and theirs in turn, so that both see the same machine."""

import statistics
import time

import pytest
import torch

RATIOS: list[str] = []


@pytest.fixture
def side_by_side(benchmark):
    """Times two functions alternately and returns how many times as long theirs takes per replicate."""

    def run(name, ours, theirs, ours_replicates, theirs_replicates, rounds=9):
        for function in (ours, theirs):
            function()
        ratios = []
        for _ in range(rounds):
            spent = []
            for function, count in ((ours, ours_replicates), (theirs, theirs_replicates)):
                start = time.perf_counter()
                function()
                spent.append((time.perf_counter() - start) / count)
            ratios.append(spent[1] / spent[0])
        median = statistics.median(ratios)
        low, high = sorted(ratios)[1], sorted(ratios)[-2]
        benchmark.extra_info |= {"ratio": median, "low": low, "high": high, "threads": torch.get_num_threads()}
        benchmark.pedantic(ours, rounds=5)
        micro = 1e6 * benchmark.stats.stats.median / ours_replicates
        RATIOS.append(
            f"{name:66s} {micro:10.2f} µs/replicate   theirs / ours = {median:7.2f}"
            f"  [{low:.2f}, {high:.2f}], {rounds} rounds"
        )
        return median

    return run


def pytest_terminal_summary(terminalreporter):
    if RATIOS:
        threads = torch.get_num_threads()
        terminalreporter.section(
            f"side by side, torch {torch.__version__}, {threads} threads; range without the extremes"
        )
        for line in RATIOS:
            terminalreporter.write_line(line)
