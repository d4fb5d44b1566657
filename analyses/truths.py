"""What a truth costs: variance and time of unbiased estimators on networks of two layers of Bernoulli units.

Milliseconds are CPU time of one thread per replicate, with unit and weight gradients and their moments, as a truth
takes them. V is the variance of a layer's unit gradients over the squared norm of the true ones, of the mean of many
draws times their number; "s to 1 %" the time until the standard error is 1 % of that norm, and efficiency the same time
of leave-one-out over two paths divided by it. The run of the second layer alone samples the first; "strata" are random
numbers stratified over 32 draws. A truth takes the last two rows.

Run: python analyses/truths.py   (a minute on a free core; --units, --seconds per estimator)
"""

import argparse
import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import estimator_lab as lab
from estimator_lab.estimators import ControlledFlips, LeaveOneOut, LocalExpectation, PerSite, Sample
from estimator_lab.measurement import prepare
from estimator_lab.noise import derive_seed
from estimator_lab.record import Record

ALONE = PerSite({"h1": Sample()}, ControlledFlips())
WAYS: Mapping[str, tuple[lab.Estimator, int]] = {
    **{e.label: (e, 1) for e in (LeaveOneOut(2), LeaveOneOut(16), LocalExpectation(), ControlledFlips())},
    "second layer alone": (ALONE, 1),
    "controlled flips, strata": (ControlledFlips(), 32),
    "second alone, strata": (ALONE, 32),
}
HEAD = ("estimator", "ms", "V layer 1", "V layer 2", "s to 1 %, 1", "s to 1 %, 2", "efficiency 1", "efficiency 2")


@dataclass(frozen=True)
class Network(lab.Problem):
    """A classifier at initialisation: 64 inputs, two layers of Bernoulli units, 10 classes; loss = cross-entropy.

    Args:
        units: of either layer.
        batch: examples.
    """

    units: int
    batch: int = 8

    foldable = True

    @property
    def sites(self) -> tuple[lab.SiteSpec, ...]:  # type: ignore[override]
        """``h1`` and ``h2``."""
        return tuple(lab.SiteSpec(name, lab.Bernoulli(), (self.units,)) for name in ("h1", "h2"))

    def weights(self) -> Mapping[str, Tensor]:
        """Normal, with variance 1 / fan-in."""
        generator = torch.Generator().manual_seed(derive_seed("truths", self.units))
        sizes = (64, self.units, self.units, 10)
        pairs = enumerate(itertools.pairwise(sizes), 1)
        return {f"w{i}": torch.randn(b, a, generator=generator, dtype=torch.float64) / a**0.5 for i, (a, b) in pairs}

    def theta(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...]) -> Tensor:
        """Logits of the next layer, of inputs that are -1 or 1."""
        if samples:
            return (2 * samples[-1] - 1) @ weights[f"w{len(samples) + 1}"].T
        generator = torch.Generator().manual_seed(derive_seed("inputs"))
        x = 2 * torch.randint(2, (self.batch, 64), generator=generator).to(weights["w1"]) - 1
        return x @ weights["w1"].T

    def loss(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...], thetas: tuple[Tensor, ...]) -> Tensor:
        """Cross-entropy in nats; example i has the label i mod 10."""
        logits = (2 * samples[-1] - 1) @ weights["w3"].T
        labels = torch.arange(len(logits)) % self.batch % 10
        found: Tensor = cross_entropy(logits, labels, reduction="none")
        return found


def measured(problem: lab.Problem, estimator: lab.Estimator, strata: int, seconds: float) -> tuple[Record, float]:
    """As many replicates as there is time for, and the CPU seconds that one took."""
    measurement = prepare(problem, estimator, strata=strata)
    measurement.block(-1)  # warm
    began = time.process_time()
    record = measurement.extend(None, 2**20, deadline=time.monotonic() + seconds)
    return record, (time.process_time() - began) / record.replicates


def variance(record: Record, key: tuple[str, str]) -> float:
    """Sum of variances over coordinates, from the means of batches."""
    return float(record.means[:, record.layout.spans[key]].var(0, ddof=1).sum()) * record.batch_size


def table(units: int, seconds: float) -> list[tuple[str, ...]]:
    """One row per way; the squared norm of the gradient is that of the controlled flips' mean, less its error."""
    runs = {name: measured(Network(units), e, strata, seconds) for name, (e, strata) in WAYS.items()}
    best, keys = runs[ControlledFlips().label][0], [("unit", "h1"), ("unit", "h2")]
    norms = [float(np.square(best.mean(k)).sum() - best.variance(k).sum() / best.replicates) for k in keys]
    rows: list[tuple[str, ...]] = []
    first: list[float] = []
    for name, (record, pace) in runs.items():
        spread = [variance(record, key) / norm for key, norm in zip(keys, norms, strict=True)]
        times = [pace * v / 1e-4 for v in spread]
        first = first or times
        numbers = [*spread, *times, *(a / b if b else 0.0 for a, b in zip(first, times, strict=True))]
        alone = WAYS[name][0] == ALONE
        cells = ["-" if alone and i % 2 == 0 else f"{x:.3g}" for i, x in enumerate(numbers)]
        rows.append((name, f"{1e3 * pace:.3g}", *cells))
    return rows


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--units", type=int, nargs="+", default=[25, 100], help="units of either layer")
    parser.add_argument("--seconds", type=float, default=4.0, help="of drawing per estimator")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for units in options.units:
        rows = [HEAD, *table(units, options.seconds)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        print(f"\n64-{units}-{units}-10, batch {Network(units).batch}")
        for name, *cells in rows:
            print(name.ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells, widths[1:], strict=True)), sep="  ")


if __name__ == "__main__":
    main()
