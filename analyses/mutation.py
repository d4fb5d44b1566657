"""Mutation score of the conformance checks: which of them finds which mistake, how soon, and at what cost.

Every mutant of ``tests/mutants`` goes through every check of `estimator_lab.check_estimator`, every healthy estimator
of the catalogue as well. ``python analyses/mutation.py`` writes ``reports/mutation.json`` and prints a table;
``--quick`` takes one mutant for each cause and leaves the catalogue out; ``--out`` names another file.

The file holds:

- ``schema``: 1. ``alpha``: false-alarm rate of one call. ``draws``: replicates of a statistical check, at most.
  ``environment``: versions and machine.
- ``mutants``: one entry for each, with ``name``, ``theme`` (the file it is in), ``told`` (its docstring), ``cause``
  (one of the labels of ``mutants.CAUSES``), ``source`` ("canonical" or a public thread), ``healthy`` (repr), ``like``
  (repr of the implementation that its mean is held to, or null), ``equivalent`` (why its law is that of the healthy
  one, or ""), ``killed``, ``first`` (the first check that kills it, in their order, or null), ``seconds`` (processor
  time up to and with that check), ``sampled`` (replicates after which draws alone show its bias at the point of the
  first claim that fails, looked at after 256, 512, .. 65536; null where they do not or no claim fails), and
  ``outcomes``: for every check ``check``, ``status``, ``told``, ``draws`` (replicates that the failure took, 0: no
  chance involved), ``seconds``.
- ``checks``: for each name ``run`` (mutants it was run on and had something to say of), ``kills``, ``rate`` (kills
  over mutants that are not equivalent), ``only`` (mutants that no other check kills), ``first`` (how many it kills
  first), ``draws`` (the median over its kills), ``seconds`` (mean).
- ``healthy``: for each of the catalogue ``estimator`` (repr), ``counts`` by status, ``failed`` (names of checks, those
  that were declared left out) and ``seconds``.
- ``summary``: ``mutants``, ``equivalent``, ``killed``, ``rate``, ``seconds`` until all are killed, ``alarms`` on
  healthy estimators (null with ``--quick``).
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from mutants import CAUSES, KINDS, Mutant  # noqa: E402

import estimator_lab as lab  # noqa: E402
from estimator_lab.conformance import checks  # noqa: E402
from estimator_lab.conformance.points import Point, points, truth_of  # noqa: E402
from estimator_lab.conformance.suite import ALPHA, DRAWS, laws  # noqa: E402
from estimator_lab.diagnosis import environment  # noqa: E402
from estimator_lab.estimators import ESTIMATORS  # noqa: E402
from estimator_lab.evaluation import under_test  # noqa: E402
from estimator_lab.measurement import prepare  # noqa: E402
from estimator_lab.statistics import Looks, verdict  # noqa: E402

DECLARED = {"Sample(common=False)": ("has no dead path",), "MeanField()": ("has no dead path",)}
"""Checks that healthy estimators fail by definition: they drop a gradient."""

SIZES = tuple(2**k for k in range(8, 17))
"""Looks at draws alone."""

CLAIM = "is unbiased on "


def sampled(mutant: Mutant, point: Point) -> int | None:
    """Replicates after which draws alone show a bias, at a false-alarm rate of `ALPHA` for all looks together."""
    truth = truth_of(point)
    measurement = prepare(point, mutant, reference=truth.mean)
    looks, record = Looks(len(SIZES)), None
    for size in SIZES:
        record = measurement.extend(record, size)
        groups = under_test(record, truth, looks.taken[0] if looks.taken else ())
        looks = looks.take(groups, 0.1, ALPHA)
        if verdict(groups, 0.1, ALPHA, looks).word == "biased":
            return record.replicates
        if not record.random:
            return None
    return None


def examine(kind: type[Mutant]) -> dict[str, Any]:
    """Everything about one mutant."""
    began = time.process_time()
    result = lab.check_estimator(kind(), like=kind.like, raises=False)
    spent = time.process_time() - began
    failed = [o.check for o in result.of("failed")]
    wall = sum(o.seconds for o in result.outcomes) or 1.0
    until = 0.0
    for outcome in result.outcomes:
        until += outcome.seconds * spent / wall
        if outcome.status == "failed":
            break
    by_label = {f"{CLAIM}{p.label}": p for family in laws(kind()) for p in points(family)}
    claim = next((by_label[name] for name in failed if name in by_label), None)
    try:
        alone = None if claim is None else sampled(kind(), claim)
    except lab.LabError:  # what does not sample at all, is not finite, or mixes replicates
        alone = None
    return {
        "name": kind.__name__,
        "theme": kind.__module__.rpartition(".")[2],
        "told": kind.__doc__,
        "cause": kind.cause,
        "source": kind.source,
        "healthy": repr(kind.healthy),
        "like": None if kind.like is None else repr(kind.like),
        "equivalent": kind.equivalent,
        "killed": bool(failed),
        "first": failed[0] if failed else None,
        "seconds": round(until, 3),
        "sampled": alone,
        "outcomes": [
            {"check": o.check, "status": o.status, "told": o.told, "draws": o.draws, "seconds": round(o.seconds, 4)}
            for o in result.outcomes
        ],
    }


def by_check(mutants: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What each check found."""
    count = sum(not m["equivalent"] for m in mutants)
    names = dict.fromkeys(o["check"] for m in mutants for o in m["outcomes"])
    found: dict[str, Any] = {}
    for name in names:
        own = [(m, o) for m in mutants for o in m["outcomes"] if o["check"] == name and o["status"] != "skipped"]
        kills = [(m, o) for m, o in own if o["status"] == "failed"]
        alone = [m["name"] for m, _ in kills if sum(o["status"] == "failed" for o in m["outcomes"]) == 1]
        found[name] = {
            "run": len(own),
            "kills": len(kills),
            "rate": round(len(kills) / count, 4) if count else None,
            "only": alone,
            "first": sum(m["first"] == name for m in mutants),
            "draws": median(o["draws"] for _, o in kills) if kills else None,
            "seconds": round(fmean(o["seconds"] for _, o in own), 4) if own else None,
        }
    return found


def healthy() -> list[dict[str, Any]]:
    """The catalogue, on all its laws."""
    rows = []
    for estimator in ESTIMATORS:
        began = time.process_time()
        result = lab.check_estimator(estimator, raises=False)
        allowed = DECLARED.get(repr(estimator), ())
        rows.append(
            {
                "estimator": repr(estimator),
                "counts": result.counts,
                "failed": [o.check for o in result.of("failed") if o.check not in allowed],
                "seconds": round(time.process_time() - began, 3),
            }
        )
    return rows


def run(kinds: Sequence[type[Mutant]], catalogue: bool) -> dict[str, Any]:
    """The whole analysis as plain data."""
    mutants = [examine(kind) for kind in kinds]
    rows = healthy() if catalogue else []
    real = [m for m in mutants if not m["equivalent"]]
    return {
        "schema": 1,
        "alpha": ALPHA,
        "draws": DRAWS,
        "environment": environment(),
        "mutants": mutants,
        "checks": by_check(mutants),
        "healthy": rows,
        "summary": {
            "mutants": len(real),
            "equivalent": len(mutants) - len(real),
            "killed": sum(m["killed"] for m in real),
            "rate": sum(m["killed"] for m in real) / len(real) if real else None,
            "seconds": round(sum(m["seconds"] for m in mutants), 2),
            "alarms": sum(len(row["failed"]) for row in rows) if catalogue else None,
        },
    }


def table(found: dict[str, Any]) -> str:
    """The mutants, then the checks."""
    lines = [f"{'mutant':28} {'cause':22} {'first check that fails':46} {'s':>6} {'draws alone':>11}"]
    for m in found["mutants"]:
        first = m["first"] or ("equivalent" if m["equivalent"] else "SURVIVES")
        lines.append(f"{m['name']:28} {m['cause']:22} {first[:46]:46} {m['seconds']:6.2f} {m['sampled'] or '-':>11}")
    lines += ["", f"{'check':60} {'run':>4} {'kills':>6} {'only':>5} {'first':>6} {'draws':>7} {'s':>7}"]
    for name, c in found["checks"].items():
        draws = "-" if c["draws"] is None else f"{c['draws']:.0f}"
        seconds = "-" if c["seconds"] is None else f"{c['seconds']:.3f}"
        lines.append(
            f"{name[:60]:60} {c['run']:4} {c['kills']:6} {len(c['only']):5} {c['first']:6} {draws:>7} {seconds:>7}"
        )
    s = found["summary"]
    alarms = "" if s["alarms"] is None else f"; {s['alarms']} alarms on {len(found['healthy'])} healthy estimators"
    lines += ["", f"{s['killed']} of {s['mutants']} killed in {s['seconds']} s, {s['equivalent']} equivalent{alarms}"]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the analysis, writes the file and prints the table."""
    parser = argparse.ArgumentParser(description="Mutation score of the conformance checks.")
    parser.add_argument("--quick", action="store_true", help="one mutant for each cause, no catalogue")
    parser.add_argument("--out", type=Path, default=ROOT / "reports" / "mutation.json")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    kinds = [next(k for k in KINDS if k.cause == cause) for cause in CAUSES] if options.quick else KINDS
    checks(lab.estimators.DisARM())  # imports are no cost of the first mutant
    found = run(kinds, not options.quick)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1, ensure_ascii=False), encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
