"""How often is the instrument wrong? Simulates the whole procedure and writes reports/calibration.{json,pdf}.

Run: python analyses/calibration.py   (some hours of one core; --runs for fewer runs, --report for the PDF alone)

Results are kept after every hundred runs of a cell: the same command goes on where it was interrupted, unless the code
that is judged has changed; then it starts again. Seeds derive from names, so that the numbers do not depend on --jobs.
"""

import argparse
import ast
import datetime
import hashlib
import json
import math
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rehearsal import Pair, Rehearsal, reference

import estimator_lab as lab
from estimator_lab.diagnosis import environment
from estimator_lab.estimators import (
    ARM,
    DisARM,
    GumbelSoftmax,
    LeaveOneOut,
    LocalExpectation,
    MuProp,
    Pathwise,
    Rebar,
    Reinforce,
    StraightThrough,
)
from estimator_lab.problems import (
    CategoricalQuadratic,
    GaussianCosine,
    GaussianPolynomial,
    OneBit,
    Parity,
    QuadraticForm,
    SharedLogit,
    TwoLayer,
)
from estimator_lab.study import MARGIN

REPORTS = Path(__file__).parent.parent / "reports"
RUNS = 10_000
CHUNK = 100
PILOT = 40
"""Null runs whose median ``detectable`` is the bias that is planted to measure the power."""


# ---------------------------------------------------------------------- pairs
def bells(a: float, mean: float) -> tuple[lab.Objective, np.ndarray]:
    """``f(x) = exp(a x^2)``, x normal, and its gradient; with REINFORCE the moment of order k is finite for 2 k a < 1.

    With c = 1 - 2 a s^2: ``J = c^(-1/2) exp(a mu^2 / c)``, ``dJ/dmu = 2 a mu / c J``,
    ``dJ/dlog s = 2 a s^2 (1 / c + 2 a mu^2 / c^2) J``; here s = 1.
    """
    c = 1 - 2 * a
    loss = c**-0.5 * math.exp(a * mean**2 / c)
    theta = torch.tensor([[mean, 0.0]], dtype=torch.float64)
    problem = lab.Objective(lab.Normal(), theta, lambda x: (a * x.square().sum(-1)).exp(), f"exp({a} x²)")
    return problem, loss * np.array([[2 * a * mean / c, 2 * a * (1 / c + 2 * a * mean**2 / c**2)]])


def crowd(units: int = 200) -> tuple[lab.Objective, np.ndarray]:
    """``f(b) = (w . b - t)^2`` of many bits, and its gradient ``p (1 - p) (w^2 (1 - 2 p) + 2 w (w . p - t))``."""
    theta = torch.linspace(-2.5, 1.5, units, dtype=torch.float64)
    w = torch.linspace(-1.0, 1.4, units, dtype=torch.float64)
    p, t = theta.sigmoid(), 3.0
    slope = w.square() * (1 - 2 * p) + 2 * w * (w @ p - t)
    problem = lab.Objective(lab.Bernoulli(), theta, lambda x: (x @ w - t).square(), f"{units} bits")
    return problem, (p * (1 - p) * slope).numpy()


def _pairs() -> dict[str, Pair]:
    quadratic, both = QuadraticForm(), ("unit", "weight")
    rare = lab.Objective(
        lab.Bernoulli(),
        torch.tensor([-6.0, -5.0, -6.5], dtype=torch.float64),
        lambda x: (x.sum(-1) - 0.3).square(),
        "rare events",
    )
    many, heavy, wild = crowd(), bells(0.07, 0.5), bells(0.3, 0.5)
    pairs = [
        Pair("REINFORCE, one bit", OneBit(), Reinforce()),
        Pair("REINFORCE, quadratic form", quadratic, Reinforce()),
        Pair("RLOO, quadratic form", quadratic, LeaveOneOut(4)),
        Pair("ARM, quadratic form", quadratic, ARM()),
        Pair("DisARM, quadratic form", quadratic, DisARM()),
        Pair("local expectation, quadratic form", quadratic, LocalExpectation()),
        Pair("REBAR, quadratic form", quadratic, Rebar()),
        Pair("DisARM, parity", Parity(), DisARM()),
        Pair("RLOO, categorical", CategoricalQuadratic(), LeaveOneOut(4)),
        Pair("REINFORCE, shared logit", SharedLogit(), Reinforce()),
        Pair("REINFORCE, Gaussian polynomial", GaussianPolynomial(), Reinforce()),
        Pair("pathwise, Gaussian cosine", GaussianCosine(), Pathwise()),
        Pair("REINFORCE, rare events", rare, Reinforce()),
        Pair("REINFORCE, heavy tail", heavy[0], Reinforce(), heavy[1]),
        Pair("REINFORCE, infinite variance", wild[0], Reinforce(), wild[1]),
        Pair("RLOO, 200 bits", many[0], LeaveOneOut(2), many[1], planned=2**11),
        Pair("REINFORCE, two layers", TwoLayer(), Reinforce(), wrt=both, planned=2**12),
        Pair("MuProp, two layers", TwoLayer(), MuProp(), wrt=both, planned=2**12),
        Pair("straight-through, quadratic form", quadratic, StraightThrough()),
        Pair("Gumbel-softmax, one bit", OneBit(), GumbelSoftmax()),
    ]
    return {pair.name: pair for pair in pairs}


PAIRS = _pairs()
UNBIASED = [name for name, pair in PAIRS.items() if pair.estimator.unbiased]
BIASED = [name for name in PAIRS if name not in UNBIASED]


# ---------------------------------------------------------------------- cells
@dataclass(frozen=True)
class Cell:
    """Runs under the same conditions.

    Attributes:
        part: of the study: "null", "margin", "power", "saving".
        pair: name.
        draws: at most.
        early: sequential or fixed size.
        truth: draws of the truth that every run estimates, 0 for the exact one.
        margin: of the verdicts.
        along: direction of a planted bias, "" for none.
        size: of it: in margins of the gradient's norm, or with part "power" in units of the detectable bias.
        weight: runs, relative to those asked for.
    """

    part: str
    pair: str
    draws: int
    early: bool = True
    truth: int = 0
    margin: float = MARGIN
    along: str = ""
    size: float = 0.0
    weight: float = 1.0

    @property
    def name(self) -> str:
        """What it is kept and seeded by."""
        return " | ".join(f"{v}" for k, v in asdict(self).items() if k != "weight")


def cells() -> list[Cell]:
    """The whole study."""
    noisy = ["REINFORCE, quadratic form", "local expectation, quadratic form", "REINFORCE, one bit", "RLOO, 200 bits"]
    sure = {"local expectation, quadratic form": MARGIN, "RLOO, quadratic form": MARGIN, "RLOO, 200 bits": 0.5}
    wide = ["RLOO, quadratic form", "DisARM, quadratic form", "RLOO, categorical", "RLOO, 200 bits"]
    slow = {"RLOO, 200 bits": 0.25, "REINFORCE, two layers": 0.25, "MuProp, two layers": 0.25}
    found = [Cell("null", p, PAIRS[p].planned, weight=slow.get(p, 1.0)) for p in UNBIASED]
    for draws, weight in ((256, 0.1), (1024, 1.0), (4096, 0.1)):
        for p in PAIRS:
            if draws <= PAIRS[p].planned:
                found += [Cell("null", p, draws, False, weight=weight * slow.get(p, 1.0) if p in UNBIASED else 0.1)]
    for p in noisy:
        found += [Cell("null", p, 2**11, True, truth, weight=0.2) for truth in (2**11, 2**13)]
        found += [Cell("null", p, 1024, False, truth, weight=0.2) for truth in (1024, 4096)]
    for p, margin in sure.items():
        most = PAIRS[p].planned
        for along in ("along", "noisiest", "quietest"):
            found += [Cell("margin", p, most, True, 0, margin, along, 1.0, 0.1)]
            found += [Cell("margin", p, min(4096, most), False, 0, margin, along, 1.0, 0.1)]
        found += [Cell("margin", p, 2**11, True, 2**13, margin, "along", 1.0, 0.1)]
    for p in ["REINFORCE, quadratic form", "REINFORCE, one bit", "RLOO, 200 bits", "pathwise, Gaussian cosine"]:
        for along in ("along", "noisiest"):
            for size in (0.5, 0.75, 1.0, 1.25):
                found += [Cell("power", p, 1024, False, along=along, size=size, weight=0.05)]
            found += [Cell("power", p, 2048, True, 0, 1e-3, along, 1.0, 0.05)]
        found += [Cell("power", p, 1024, False, 4096, along="along", size=1.0, weight=0.05)]
        found += [Cell("power", p, 2048, True, 4096, 1e-3, "along", 1.0, 0.05)]
    found += [Cell("saving", p, 2**16, weight=0.05) for p in BIASED]
    found += [Cell("saving", p, 2**16, along="along", size=5.0, weight=0.05) for p in wide[:2]]
    found += [Cell("saving", p, 2**16, margin=margin, weight=0.05) for p in wide for margin in (0.2, 0.5)]
    return found


@cache
def planted(cell: Cell) -> float:
    """Norm of the planted bias."""
    known = reference(PAIRS[cell.pair])
    if cell.part != "power":
        return cell.size * cell.margin * known.norm
    rehearsal = Rehearsal(
        PAIRS[cell.pair],
        "pilot",
        cell.name,
        draws=cell.draws,
        early=cell.early,
        truth_draws=cell.truth,
        margin=cell.margin,
    )
    stated = [next(row for row in rehearsal.run().rows if row.tested).detectable for _ in range(PILOT)]
    return cell.size * float(np.nanmedian(stated)) * known.norm


def simulate(cell: Cell, chunk: int, runs: int = CHUNK) -> dict[str, Any]:
    """Some runs of a cell, counted: verdicts, draws, and what every interval of every tested row did."""
    torch.set_num_threads(1)
    began, pair = time.process_time(), PAIRS[cell.pair]
    known = reference(pair)
    key = ("unit", pair.problem.sites[0].name)
    size = planted(cell) if cell.along else 0.0
    shift = {key: size * known.directions[cell.along]} if cell.along else {}
    rehearsal = Rehearsal(
        pair,
        cell.name,
        chunk,
        draws=cell.draws,
        early=cell.early,
        truth_draws=cell.truth,
        margin=cell.margin,
        shift=shift,
    )
    prepared, counts = time.process_time() - began, Counter[str]()
    for _ in range(runs):
        try:
            finding = rehearsal.run()
        except lab.MeasurementError as error:
            counts.update(["verdict error", f"error {str(error)[-60:]}"])
            continue
        counts.update([f"verdict {finding.verdict}", f"drawn {finding.replicates}"])
        rows = [row for row in finding.rows if row.tested]
        counts.update(f"row {word}" for word in {row.verdict for row in rows})
        counts["found at the first site"] += rows[0].p_holm <= rehearsal.terms.alpha or "biased" in rows[0].verdict[:6]
        if cell.along:
            continue
        for row in rows:
            true = known.values[f"{row.level} {row.name}"]
            ends = {name: (one.low, one.high) for name, one in row.statistics.items() if name in true}
            ends["simultaneous"] = (row.low, row.high)
            for name, (low, high) in ends.items():
                what = hit(low, true["relative_bias" if name == "simultaneous" else name], high)
                counts[f"{row.level} {row.name} | {name} | {what}"] += 1
    spent = time.process_time() - began
    return {
        "runs": runs,
        "counts": dict(counts),
        "planted": size / known.norm,
        "seconds": spent,
        "preparing": prepared,
        "true": known.values,
        "reference": known.how,
    }


def hit(low: float, true: float, high: float) -> str:
    """What an interval did."""
    if math.isnan(low) or math.isnan(high):
        return "not given"
    if math.isnan(true):
        return "unknown"
    slack = 1e-6 * abs(true) + 1e-12  # references are rounded as well
    return "below" if true < low - slack else "above" if true > high + slack else "covered"


# ---------------------------------------------------------------------- the study
NOT_JUDGED = (
    *("report/", "diagnosis", "cli", "__main__", "loading", "check_command", "pytest_plugin"),
    *("conformance/", "baseline", "causes", "bias_terms", "small", "witness", "level"),
)
"""Files, by how they begin, that have no part in a finding."""


def code() -> str:
    """Hash of the code that is judged, without its docstrings: results of another version are not added to."""
    digest = hashlib.sha256()
    package = Path(lab.__file__).parent
    for path in sorted(package.rglob("*.py")):
        if not path.relative_to(package).as_posix().startswith(NOT_JUDGED):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for node in ast.walk(tree):
                if (
                    isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
                    and ast.get_docstring(node) is not None
                ):
                    node.body[0] = ast.Pass()
            digest.update(ast.dump(tree).encode())
    return digest.hexdigest()[:16]


def save(results: dict[str, Any], path: Path) -> None:
    """Whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(results, indent=0, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(part, path)


def merge(entry: dict[str, Any], chunk: int, found: dict[str, Any]) -> None:
    """Adds a chunk to what is kept of its cell."""
    entry["chunks"] = sorted([*entry["chunks"], chunk])
    for name in ("runs", "seconds", "preparing"):
        entry[name] += found[name]
    entry |= {name: found[name] for name in ("planted", "true", "reference")}
    entry["counts"] = dict(sorted((Counter(entry["counts"]) + Counter(found["counts"])).items()))


def study(results: dict[str, Any], wanted: list[Cell], runs: int, jobs: int, path: Path) -> None:
    """Runs what is missing."""
    tasks = []
    for cell in wanted:
        empty = {**asdict(cell), "chunks": [], "runs": 0, "seconds": 0.0, "preparing": 0.0, "counts": {}}
        entry = results["cells"].setdefault(cell.name, empty)
        todo = set(range(math.ceil(runs * cell.weight / CHUNK))) - set(entry["chunks"])
        tasks += [(cell, chunk) for chunk in sorted(todo)]
    tasks.sort(key=lambda task: task[1])  # an interrupted study has some of everything
    began, saved = time.monotonic(), 0.0
    for done, (cell, chunk, found) in enumerate(outcomes(tasks, jobs), 1):
        merge(results["cells"][cell.name], chunk, found)
        now = time.monotonic()
        if now - saved > 10 or done == len(tasks):
            save(results, path)
            saved = now
            left = (now - began) / done * (len(tasks) - done) / 60
            print(f"{done} of {len(tasks)} chunks, {left:.0f} minutes to go: {cell.name}", flush=True)


def outcomes(tasks: list[tuple[Cell, int]], jobs: int) -> Iterator[tuple[Cell, int, dict[str, Any]]]:
    """Chunks as they get ready; with one job in this process."""
    if jobs == 1:
        yield from ((cell, chunk, simulate(cell, chunk)) for cell, chunk in tasks)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        waiting = {pool.submit(simulate, *task): task for task in tasks}
        try:
            for future in as_completed(waiting):
                yield (*waiting[future], future.result())
        finally:
            pool.shutdown(cancel_futures=True)


def main() -> None:
    """Simulates and reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=RUNS, help="of a headline cell")
    parser.add_argument("--pairs", nargs="*", default=[""], help="parts of the names of pairs to run")
    parser.add_argument("--parts", nargs="*", default=["null", "margin", "power", "saving"])
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--out", type=Path, default=REPORTS)
    parser.add_argument("--report", action="store_true", help="render the PDF from the JSON alone")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "calibration.json"
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if not options.report:
        if results.get("code") != code():
            results = {"code": code(), "cells": {}}
        results["created"] = datetime.datetime.now(datetime.UTC).date().isoformat()
        results["command"] = f"python analyses/calibration.py --runs {options.runs}"
        results["environment"] = dict(environment())
        wanted = [c for c in cells() if c.part in options.parts and any(p in c.pair for p in options.pairs)]
        study(results, wanted, options.runs, options.jobs, path)
    from calibration_report import render

    (options.out / "calibration.pdf").write_bytes(render(results))


if __name__ == "__main__":
    main()
