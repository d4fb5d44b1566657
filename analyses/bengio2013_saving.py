"""What conditional computation saves: multiply-adds by formula and as counted, and time per example.

D inputs, M units of the gater, N gates and experts of which a share alpha is active, C classes. Multiply-adds of one
example, biases and elementwise operations left out:

- dense, no gates: N (D + C);
- dense with gates: N (D + C) + M (D + N);
- conditional: alpha N (D + C) + M (D + N).

So gating pays, against a dense net without gates, up to M* = (1 - alpha) N (D + C) / (D + N) units of the gater, and
the gater costs as much as the experts that it picks from M = alpha N (D + C) / (D + N) on.

What is timed is the forward pass in torch on one thread, in float32, with weights and inputs that are random numbers:
time does not depend on them. A threshold of each gate is set so that it is open on a share alpha of the inputs.

*Processor time* of the thread is what is compared: it is wall time on a core of its own, and leaves out waits on a
machine that others use. Wall time is kept beside it, with those waits.

The ways to run a net:

- "ungated": all experts, rectified; no gater;
- "masked": nothing is skipped: dense products, then the gates as factors. What the authors' code does;

- "select": one example at a time; the rows of open experts are gathered (``index_select``) and multiplied;
- "gather": a batch at once; the open experts' rows of every example are gathered to ``[B, K, D]``, padded to the most
  that are open, and multiplied in a batched product;
- "sampled": a batch at once; only the entries of ``x W0^T`` where gates are open are computed
  (``torch.sparse.sampled_addmm``), and the sparse result is multiplied with the readout.

``saving`` returns

- ``workload``: the sizes; ``hidden`` is the M of the formulas, the counts and the ratios;
- ``formulas``: multiply-adds of the three nets, ``break_even`` = M*, ``gater_equals_experts``;
- ``counted``: ``way``, ``multiply_adds`` by torch's counter, mean over examples one at a time; it cannot see "sampled";
- ``times``: ``way``, ``batch``, ``hidden``, ``microseconds`` of the processor per example as ``value``, ``low``,
  ``high``: the median over rounds and the order statistics that hold it with 95 %; ``wall_microseconds``: likewise;
- ``wall``: wall time over processor time, of all rounds together;
- ``ratios``: ``way``, ``batch``, and processor time over that of the dense net without gates and with gates, as
  ``ungated`` and ``gated``, each with its interval, from pairs of the same round;
- ``fastest``: ``batch``, ``way``: of the ways that skip;
- ``break_even``: ``batch``, ``way``, and the gater's width at which the fastest way takes as much processor time as the
  dense net without gates, interpolated between the medians of the widths: ``value``, and ``low`` and ``high`` of the
  95 % interval by resampled rounds; null, and ``words`` that say so, where that is outside of the widths that were
  measured.
"""

import math
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from estimator_lab.noise import derive_seed

SKIPPING = ("select", "gather", "sampled")
RESAMPLES = 1000


@dataclass(frozen=True)
class Workload:
    """Sizes, and how long is measured.

    Attributes:
        inputs: D.
        gates: N.
        classes: C.
        widths: values of M, ascending.
        batches: examples at once.
        repeats: rounds; in each, every way is timed once, in an order that is drawn.
        examples: inputs that are gone through in one timing, at least.
        hidden: M of the ratios and the counts, one of the widths.
        alpha: share of open gates.
    """

    inputs: int = 784
    gates: int = 2000
    classes: int = 10
    widths: tuple[int, ...] = (25, 50, 100, 200, 400, 600, 800)
    batches: tuple[int, ...] = (1, 32, 128)
    repeats: int = 15
    examples: int = 128
    hidden: int = 0
    alpha: float = 0.1

    def __post_init__(self) -> None:
        near = min(self.widths, key=lambda width: abs(width - 400))
        object.__setattr__(self, "hidden", self.hidden or near)


def multiply_adds(inputs: int, hidden: int, gates: int, classes: int, alpha: float) -> dict[str, float]:
    """The formulas: of one example in each of the nets, and of the parts."""
    main, gater = gates * (inputs + classes), hidden * (inputs + gates)
    per_width = inputs + gates
    return {
        "ungated": main,
        "gated": main + gater,
        "conditional": alpha * main + gater,
        "gater": gater,
        "experts": alpha * main,
        "break_even": (1 - alpha) * main / per_width,
        "gater_equals_experts": alpha * main / per_width,
    }


class Net:
    """Weights of the net, and the ways to run it.

    Args:
        workload: sizes.
        hidden: M.
        x: inputs that the gates' bias is set on.
    """

    def __init__(self, workload: Workload, hidden: int, x: Tensor):
        generator = torch.Generator().manual_seed(derive_seed("saving", hidden))

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator) / shape[-1] ** 0.5

        self.gater1, self.gater2 = normal(hidden, workload.inputs), normal(workload.gates, hidden)
        self.experts, self.bias = normal(workload.gates, workload.inputs), normal(1, workload.gates)[0]
        self.readout = normal(workload.classes, workload.gates)
        self.columns = self.readout.T.contiguous()  # a row for each expert
        self.cut = torch.quantile(torch.tanh(x @ self.gater1.T) @ self.gater2.T, 1 - workload.alpha, 0)

    def gates(self, x: Tensor) -> Tensor:
        """Whether each gate is open ``[B, N]``."""
        return torch.mm(torch.mm(x, self.gater1.T).tanh_(), self.gater2.T) > self.cut

    def ungated(self, x: Tensor) -> Tensor:
        """All experts, rectified."""
        return torch.mm(torch.addmm(self.bias, x, self.experts.T).relu_(), self.readout.T)

    def masked(self, x: Tensor) -> Tensor:
        """All experts, times the gates."""
        return torch.mm(torch.addmm(self.bias, x, self.experts.T).mul_(self.gates(x)), self.readout.T)

    def select(self, x: Tensor) -> Tensor:
        """The open experts of each example, one after the other."""
        rows = []
        for one in x.split(1):
            open_experts = self.gates(one)[0].nonzero()[:, 0]
            weights = self.experts.index_select(0, open_experts)
            values = torch.addmm(self.bias.index_select(0, open_experts), one, weights.T)
            rows.append(torch.mm(values, self.columns.index_select(0, open_experts)))
        return torch.cat(rows) if len(rows) > 1 else rows[0]

    def gather(self, x: Tensor) -> Tensor:
        """The open experts of all examples, as many for each as the one with the most has."""
        open_gates = self.gates(x)
        most = int(open_gates.sum(1).max())
        held, chosen = open_gates.to(x).topk(most, 1, sorted=False)  # [B, K]; those padded are held at zero
        values = torch.bmm(self.experts[chosen], x[..., None])[..., 0] + self.bias[chosen]
        return torch.bmm((values * held)[:, None], self.columns[chosen])[:, 0]

    def sampled(self, x: Tensor) -> Tensor:
        """Only the entries of the experts' outputs where gates are open."""
        pattern = self.gates(x).to(x).to_sparse_csr()
        chosen = pattern.col_indices()
        values = torch.sparse.sampled_addmm(pattern, x, self.experts.T, beta=0.0).values() + self.bias[chosen]
        sparse = torch.sparse_csr_tensor(pattern.crow_indices(), chosen, values, pattern.shape, check_invariants=False)
        return torch.mm(sparse, self.columns)


WAYS: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "ungated": Net.ungated,
    "masked": Net.masked,
    "select": Net.select,
    "gather": Net.gather,
    "sampled": Net.sampled,
}


def timed(run: Callable[[Tensor], Tensor], batches: Sequence[Tensor]) -> tuple[float, float]:
    """Microseconds per example of one pass over batches: of the processor, and of the wall clock."""
    wall, own = time.perf_counter(), time.thread_time()
    for x in batches:
        run(x)
    wall, own = time.perf_counter() - wall, time.thread_time() - own
    each = 1e6 / sum(map(len, batches))
    return each * own, each * wall


def median(values: Sequence[float]) -> dict[str, float]:
    """Median, and the order statistics that hold the true one with at least 95 % if there are enough of them."""
    ordered, n = sorted(values), len(values)
    below = int(stats.binom.ppf(0.025, n, 0.5))  # P(Bin < below) < 0.025: ordered[below - 1] is the lower end
    if stats.binom.cdf(below - 1, n, 0.5) > 0.025 or below < 1:
        return {"value": statistics.median(ordered), "low": math.nan, "high": math.nan}
    return {"value": statistics.median(ordered), "low": ordered[below - 1], "high": ordered[n - below]}


@torch.no_grad()
def saving(workload: Workload) -> dict[str, Any]:
    """Counts and times, as the module's docstring says."""
    generator = torch.Generator().manual_seed(derive_seed("saving", "inputs"))
    x = torch.randn(max(workload.examples, *workload.batches), workload.inputs, generator=generator)
    nets = {hidden: Net(workload, hidden, x) for hidden in workload.widths}
    sizes = workload.inputs, workload.hidden, workload.gates, workload.classes
    wall, own = time.perf_counter(), time.thread_time()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        rounds, walls = _rounds(workload, nets, x, generator)
    wall, own = time.perf_counter() - wall, time.thread_time() - own
    times = [
        {
            **dict(zip(("way", "batch", "hidden"), key, strict=True)),
            "microseconds": median(values),
            "wall_microseconds": median(walls[key]),
        }
        for key, values in rounds.items()
    ]
    fastest = {}
    for batch in workload.batches:
        fastest[batch] = min(SKIPPING, key=lambda way: statistics.median(rounds[way, batch, workload.hidden]))
    return {
        "workload": asdict(workload),
        "formulas": multiply_adds(*sizes, workload.alpha),
        "counted": _counted(nets[workload.hidden], x),
        "times": times,
        "wall": wall / own,
        "ratios": _ratios(workload, rounds),
        "fastest": [{"batch": batch, "way": way} for batch, way in fastest.items()],
        "break_even": [
            {"batch": batch, "way": way, **_break_even(workload, rounds, batch, way)} for batch, way in fastest.items()
        ],
    }


Key = tuple[str, int, int]


def _rounds(
    workload: Workload, nets: Mapping[int, Net], x: Tensor, generator: torch.Generator
) -> tuple[dict[Key, list[float]], dict[Key, list[float]]]:
    """Microseconds per example of each way, batch and width, one number for each round: processor and wall time."""
    keys = [  # the dense net has no gater: its time stands at one width
        (way, batch, hidden)
        for way in WAYS
        for batch in workload.batches
        for hidden in ((workload.hidden,) if way == "ungated" else workload.widths)
    ]
    pieces = {batch: [p for p in x.split(batch) if len(p) == batch] for batch in workload.batches}
    found: tuple[dict[Key, list[float]], dict[Key, list[float]]] = ({k: [] for k in keys}, {k: [] for k in keys})
    for turn in range(workload.repeats + 1):
        for i in torch.randperm(len(keys), generator=generator).tolist():
            way, batch, hidden = keys[i]
            net, run = nets[hidden], WAYS[way]
            values = timed(lambda part, run=run, net=net: run(net, part), pieces[batch])  # type: ignore[misc]
            if turn:  # the first round warms up
                for rounds, value in zip(found, values, strict=True):
                    rounds[keys[i]].append(value)
    return found


def _ratios(workload: Workload, rounds: Mapping[Key, Sequence[float]]) -> list[dict[str, Any]]:
    found = []
    for batch in workload.batches:
        dense = {kind: rounds[kind, batch, workload.hidden] for kind in ("ungated", "masked")}
        for way in ("masked", *SKIPPING):
            own = rounds[way, batch, workload.hidden]
            over = {kind: median([a / b for a, b in zip(own, v, strict=True)]) for kind, v in dense.items()}
            found.append({"way": way, "batch": batch, "ungated": over["ungated"], "gated": over["masked"]})
    return found


def _break_even(workload: Workload, rounds: Mapping[Key, Sequence[float]], batch: int, way: str) -> dict[str, Any]:
    """Where the median time of a way, linear between widths, meets that of the dense net; rounds are resampled."""
    dense = np.array(rounds["ungated", batch, workload.hidden])
    times = np.array([rounds[way, batch, hidden] for hidden in workload.widths])
    found = _crossing(workload.widths, np.median(times, 1) - np.median(dense))
    rng, again = np.random.default_rng(derive_seed("saving", "rounds")), []
    for _ in range(RESAMPLES):
        chosen = rng.integers(len(dense), size=len(dense))
        again.append(_crossing(workload.widths, np.median(times[:, chosen], 1) - np.median(dense[chosen])))
    low, high = (float(v) for v in np.quantile(again, [0.025, 0.975], method="nearest"))
    first, last = workload.widths[0], workload.widths[-1]
    words = ""
    if not 0 < found < math.inf:
        words = f"{'slower' if found == 0 else 'faster'} at every width measured, {first} to {last}"
    elif low == 0 or high == math.inf:
        words = f"the interval reaches beyond the widths measured, {first} to {last}"
    ends = {"value": found, "low": low, "high": high}
    return {**{k: v if 0 < v < math.inf else math.nan for k, v in ends.items()}, "words": words}


def _crossing(widths: Sequence[int], excess: Sequence[float]) -> float:
    """Where what is linear between widths becomes positive: zero if it is so at first, infinity if nowhere."""
    if excess[0] > 0:
        return 0.0
    for (a, b), (low, high) in zip(pairwise(widths), pairwise(excess), strict=True):
        if low <= 0 < high:
            return float(a + (b - a) * low / (low - high))
    return math.inf


def _counted(net: Net, x: Tensor) -> list[dict[str, Any]]:
    """Multiply-adds of one example by torch's counter, mean over examples one by one; sparse products it cannot see."""
    found = []
    part = x[:64]
    for way in ("ungated", "masked", "select", "gather"):
        counter = FlopCounterMode(display=False)
        with counter:
            for one in part.split(1):
                WAYS[way](net, one)
        found.append({"way": way, "multiply_adds": counter.get_total_flops() / 2 / len(part)})
    return found
