"""What estimators do to full networks: their quality on every shipped network, and where in a network it is lost.

Results go to reports/networks.json, and to reports/networks.pdf, a pure function of them.

Run: python analyses/networks.py   (about a quarter of an hour on two cores; --quick: half a minute, less of everything;
--report: the PDF alone, from the JSON)
"""

import argparse
import datetime
import itertools
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import estimator_lab as lab
from estimator_lab.attribution import Attribution, Deepening
from estimator_lab.diagnosis import writable
from estimator_lab.estimators import (
    DisARM,
    LeaveOneOut,
    Pathwise,
    Reinforce,
    ReinMax,
    StraightThrough,
    StraightThroughGumbelSoftmax,
)
from estimator_lab.finding import Finding
from estimator_lab.noise import derive_seed
from estimator_lab.noise_split import NoiseSplit
from estimator_lab.report import figures
from estimator_lab.report.rounding import count, rounded
from estimator_lab.report.sections import summary
from estimator_lab.report.story import Block, Story, heading, table, text
from estimator_lab.report.study import Study
from estimator_lab.report.wording import percent
from estimator_lab.saving import plain, restored
from estimator_lab.study import gather, misfit

REPORTS = Path(__file__).parents[1] / "reports"
ESTIMATORS = (
    StraightThrough("mean"),
    StraightThrough("identity"),
    StraightThroughGumbelSoftmax(1.0),
    ReinMax(),
    Reinforce("mean"),
    LeaveOneOut(4),
    DisARM(),
    Pathwise(),
)
TYPICAL = StraightThrough("mean")
SPLIT = (TYPICAL, LeaveOneOut(4))
MARGIN, ALPHA = 0.05, 0.01


@dataclass(frozen=True)
class Deep(lab.Problem):
    """Layers of Bernoulli units one after the other, weights drawn at random; loss = squared distance to a target.

    Narrow, so that its truth is a sum layer by layer at any depth.

    Args:
        depth: layers.
        units: of each.
        batch: examples.
        gain: standard deviation of the weights, times the square root of the units.
    """

    depth: int
    units: int = 6
    batch: int = 4
    gain: float = 2.0

    foldable = True

    @property
    def sites(self) -> tuple[lab.SiteSpec, ...]:  # type: ignore[override]
        """``h1`` to ``h<depth>``."""
        return tuple(lab.SiteSpec(f"h{i + 1}", lab.Bernoulli(), (self.units,)) for i in range(self.depth))

    @property
    def label(self) -> str:
        """Its depth."""
        return f"{self.depth} layers of {self.units} bits"

    def weights(self) -> Mapping[str, Tensor]:
        """The first layers of a deeper network are those of a shallower one."""
        found = {}
        for i in range(self.depth + 1):
            generator = torch.Generator().manual_seed(derive_seed("deep", i))
            shape = (self.units, self.units) if i < self.depth else (self.units,)
            found[f"w{i + 1}"] = (
                torch.randn(shape, generator=generator, dtype=torch.float64) * self.gain / self.units**0.5
            )
        return found

    def theta(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...]) -> Tensor:
        """Logits, of bits that are -1 or 1."""
        if not samples:
            x = torch.linspace(-1.0, 1.0, self.batch * self.units, dtype=weights["w1"].dtype)
            return x.reshape(self.batch, self.units) @ weights["w1"].T
        return (2 * samples[-1] - 1) @ weights[f"w{len(samples) + 1}"].T

    def loss(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...], thetas: tuple[Tensor, ...]) -> Tensor:
        """``(v . (2 h - 1) / 2 - 0.3)^2``."""
        return ((samples[-1] - 0.5) @ weights[f"w{self.depth + 1}"] - 0.3).square()


def measure(quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Everything that the report shows."""
    networks = list(lab.problems.NETWORKS)
    if quick:
        networks = [lab.problems.DigitsClassifier(), lab.problems.LinearNetwork()]
    draws, truth_draws = (2**9, 2**8) if quick else (2**13, 2**12)
    pairs = sum(not misfit(e, p) for e in ESTIMATORS for p in networks)
    findings: list[Finding] = []
    described = []
    for network in networks:
        say(f"truth of {network.label}")
        began = time.perf_counter()
        truth = lab.Truth.of(network, replicates=truth_draws)
        described.append(describe(network, truth, time.perf_counter() - began))
        fitting = [e for e in ESTIMATORS if not misfit(e, network)]
        # each network by itself, at its share of the false-alarm rate
        found = lab.compare(
            fitting,
            on=network,
            budget=draws,
            truth=truth,
            margin=MARGIN,
            alpha=ALPHA * len(fitting) / pairs,
            progress=lambda what, done, total: say(what) if not done else None,
        )
        findings += found.findings
    where = [lab.problems.DigitsClassifier(batch=4)]
    if not quick:
        where.append(lab.problems.SigmoidBeliefNetwork(data="digits", hidden=(32, 32), batch=4))
    causes = []
    for network in where:
        say(f"causes on {network.label}")
        causes.append(lab.attribute(TYPICAL, network, budget=2**9 if quick else 2**13))
    say("depth")
    deep = lab.deepening(TYPICAL, [Deep(d) for d in range(1, 4 if quick else 9)], budget=2**9 if quick else 2**14)
    splits = []
    for e in SPLIT:
        say(f"noise of {e.label}")
        many = 8 if quick else 64
        network = lab.problems.DigitsClassifier(batch=64)
        splits.append(lab.split_noise(network, e, minibatch=16, replicates=many, minibatches=many))
    command = "python analyses/networks.py" + " --quick" * quick
    return {
        "created": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": command,
        "networks": described,
        "diagnosis": plain(
            gather([slim(f) for f in findings], "Networks", margin=MARGIN, alpha=ALPHA, command=command)
        ),
        "causes": plain(causes),
        "depth": plain(deep),
        "splits": plain(splits),
    }


def slim(finding: Finding) -> Finding:
    """Without what the report does not show: single units and weights, and curves."""
    rows = tuple(replace(r, scores=(), spread=()) for r in finding.rows if r.level != "weight")
    return replace(finding, rows=rows, curves={}, units={})


def describe(network: lab.Problem, truth: lab.Truth, seconds: float) -> dict[str, Any]:
    """What is said of a network and its truth."""
    keys = [k for k in truth.mean if k[0] == "weight"]
    error, size = (math.sqrt(sum(float((of[k] ** 2).sum()) for k in keys)) for of in (truth.standard_error, truth.mean))
    return {
        "network": network.label,
        "layers": layers(network),
        "weights": sum(w.numel() for w in network.weights().values()),
        "examples": network.batch,
        "truth": truth.words,
        "error": error / size,
        "seconds": seconds,
    }


def layers(network: lab.Problem) -> str:
    """The stochastic layers, equal ones that follow each other counted."""
    said = [f"{'×'.join(map(str, s.units))} {repr(s.family).removesuffix('()')}" for s in network.sites]
    groups = [(name, len(list(group))) for name, group in itertools.groupby(said)]
    return ", ".join(name if number == 1 else f"{number} times {name}" for name, number in groups)


def render(results: Mapping[str, Any]) -> bytes:
    """The PDF of the results."""
    diagnosis = restored(lab.Diagnosis, results["diagnosis"])
    causes = restored(tuple[Attribution, ...], results["causes"])
    deep = restored(Deepening, results["depth"])
    splits = restored(tuple[NoiseSplit, ...], results["splits"])
    claimed = [f for f in diagnosis.findings if f.claim]
    refuted = [f for f in claimed if f.verdict.startswith("biased")]
    biased = [f for f in diagnosis.findings if f.claim is False and f.verdict.startswith("biased")]
    story = Story(diagnosis)
    study = Study(
        "networks",
        "Full networks",
        "What estimators do where the gradient is used, and where in a network it is lost",
        results["created"],
        json.dumps(results, sort_keys=True),
        results["command"],
        facts=[
            ("Networks", count(len(results["networks"]))),
            ("Estimators", count(len(story.estimators))),
            ("Pairs", count(len(diagnosis.findings))),
            ("Seed", "0"),
            ("Margin", percent(MARGIN)),
        ],
        tone="bad" if refuted else "calm",
        headline=(
            f"{count(len(refuted))} of {count(len(claimed))} claims of unbiasedness are violated."
            if refuted
            else f"No claim of unbiasedness is violated; {len(biased)} of "
            f"{sum(f.claim is False for f in diagnosis.findings)} pairs that are declared biased were found to be."
        ),
        lines=[
            ("Where the bias comes from", [f"{c.estimator} on {c.problem}, {last(c.summary())}" for c in causes]),
            ("With depth", [last(deep.summary())]),
            ("Where the noise comes from", [f"{s.estimator}, {last(s.summary())}" for s in splits]),
        ],
        diagnosis=diagnosis,
        margin=MARGIN,
        alpha=ALPHA,
        environment=diagnosis.environment,
        notes=sorted({note for f in diagnosis.findings for note in f.notes}),
    )
    story.figures = study.figures  # both number their figures in one row
    study.sections = [
        ("The networks", _networks(results["networks"])),
        ("Estimators on networks", summary.summary(story)),
        ("Where the bias comes from", [block for c in causes for block in _causes(study, c)]),
        ("With depth", _depth(study, deep)),
        ("Where the noise comes from", _splits(study, splits)),
    ]
    return study.render()


def last(summary: str) -> str:
    """Its last line."""
    return summary.splitlines()[-1]


def _networks(described: Sequence[Mapping[str, Any]]) -> list[Block]:
    """A table of those whose truth is exact, and one of the others."""
    columns = [("Network", "left", "auto"), ("Stochastic layers", "left", "1fr"), ("Weights", "right", "auto")]
    columns += [("Batch", "right", "auto"), ("Truth", "left", "1fr")]
    exact: list[list[str]] = []
    estimated: list[list[str]] = []
    for n in described:
        line = [n["network"], n["layers"], count(n["weights"]), count(n["examples"]), n["truth"].partition(": ")[2]]
        if n["error"]:
            estimated.append([*line, rounded(100 * n["error"], most=2)])
        else:
            exact.append(line)
    blocks = []
    if exact:
        words = "Networks with an exact truth, and the weights that they train themselves to from a seed."
        blocks.append(table(columns, [("", exact)], words))
    if estimated:
        words = (
            "Networks with an estimated truth. Error: standard error of the truth of all weights, relative to its norm;"
            " it is part of every interval."
        )
        blocks.append(table([*columns, ("Error (%)", "right", "auto")], [("", estimated)], words))
    return blocks


def _causes(study: Study, found: Attribution) -> list[Block]:
    return [
        heading(f"{found.estimator} on {found.problem}"),
        text(
            "What a site adds is the difference that the estimator makes there, with it at the earlier sites too and"
            f" {found.reference} at the later ones; the parts add up to the whole."
        ),
        study.figure(
            figures.attribution(found),
            f"Bias and variance of every layer of {found.problem} by the site that causes them.",
            f"{found.estimator} on {found.problem}: bias and variance of each layer's gradient by the site that causes"
            f" them. Truth: {found.truth}.",
        ),
        *(text(f"{line[0].upper()}{line[1:]}") for line in found.summary().splitlines()),
    ]


def _depth(study: Study, found: Deepening) -> list[Block]:
    return [
        text(
            f"{found.estimator} on chains of narrow layers of bits, whose truth is summed layer by layer."
            " The first layers of a deeper chain are those of a shallower one."
        ),
        study.figure(
            figures.depth(found),
            "Relative bias, cosine and signal-to-noise ratio against the number of stochastic layers.",
            f"{found.estimator}: a to c, the gradient of the first layer against depth; d, every layer of the deepest"
            " chain. Bars are 95 % intervals.",
        ),
        *(text(f"{line}.") for line in found.summary().splitlines()[:: max(len(found.depths) - 1, 1)]),
    ]


def _splits(study: Study, found: Sequence[NoiseSplit]) -> list[Block]:
    first = found[0]
    blocks: list[Block] = [
        text(
            f"A step on {first.minibatch} of {first.examples} examples, {first.problem}: the variance of the gradient"
            " is that of its mean over the choice of examples, plus the mean of its variance over the sampled units,"
            " plus the rounding of float32 against float64 at equal random numbers."
        )
    ]
    for split in found:
        blocks.append(
            study.figure(
                figures.noise_split(split),
                f"Shares of the variance of each layer's gradient, {split.estimator}.",
                f"{split.estimator} on {split.problem}, {split.minibatches} minibatches of {split.minibatch} with"
                f" {split.replicates} draws each.",
            )
        )
    return blocks


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, or only renders again; writes both files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two networks, few draws")
    parser.add_argument("--report", action="store_true", help="render the PDF from the JSON alone")
    parser.add_argument("--out", type=Path, default=REPORTS)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    path = options.out / "networks.json"
    try:
        if options.report and not path.exists():
            raise lab.UsageError(f"there is no {path}; measure first, without --report")
        with writable(path):
            options.out.mkdir(parents=True, exist_ok=True)
            if not options.report:
                results = measure(options.quick, lambda what: print(what, file=sys.stderr, flush=True))
                path.write_text(json.dumps(results, ensure_ascii=False), encoding="utf-8")
            path.with_suffix(".pdf").write_bytes(render(json.loads(path.read_text(encoding="utf-8"))))
    except lab.LabError as error:
        print(f"networks: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
