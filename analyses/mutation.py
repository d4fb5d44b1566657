"""Mutation score of the conformance checks: which of them finds which mistake, how soon, and at what cost.

Every mutant of ``tests/mutants`` goes through every check of `estimator_lab.check_estimator`, those that were held out
(``tests/mutants_held_out.py``, ``tests/mutants_third_set.py``) and every healthy estimator of the catalogue as well,
and `estimator_lab.name_causes` is asked what it sees in them. ``python analyses/mutation.py`` writes
``reports/mutation.json`` and ``reports/mutation.pdf`` and prints a table; ``--quick`` takes one mutant for each cause
and leaves the others out; ``--out`` names another file, ``--report`` renders the PDF from the file alone. It takes some
seven minutes of processor time, in two processes by default (``--jobs``).

The file holds:

- ``schema``: 1. ``created``: date. ``command``: what makes it. ``quick``: whether it is a part only. ``seconds``:
  processor time of everything. ``alpha``: false-alarm rate of one call. ``draws``: replicates of a statistical check,
  at most. ``limit``: replicates of draws alone, at most. ``environment``: versions and machine.
- ``themes``: for each file of mutants, its docstring; that of those held out is ``mutants_held_out``.
- ``mutants``: one entry for each, with ``name``, ``theme`` (the file it is in), ``told`` (its docstring), ``cause``
  (one of the labels of ``mutants.CAUSES``), ``source`` ("canonical" or a public thread), ``healthy`` (repr), ``like``
  (repr of the implementation that its mean is held to, or null), ``equivalent`` (why its law is that of the healthy
  one, or ""), ``same`` (where that is so: ``points`` at which all gradients of both were summed exactly, and ``gap``,
  the largest difference of a mean, variance or third moment, relative to the largest), ``killed``, ``first`` (the first
  check that kills it, in their order, or null), ``seconds`` (processor time up to and with that check), ``sampled``
  (replicates after which draws alone show a wrong mean, looked at after 256, 512, .. 65536 at the points where it is
  wrong, or null) and ``unseen`` (why they do not), ``named`` (what `name_causes` says, likeliest first: ``label``,
  ``words``, ``fit`` or null), ``naming`` (its processor time), and ``outcomes``: for every check ``check``,
  ``status``, ``told``, ``draws`` (replicates that the failure took, 0: no chance involved), ``seconds`` (processor
  time).
- ``held_out``: the same of mutants that were written before they were tried, in three sets, and are no part of the
  corpus. `name_causes` was revised after each set was first measured (13 of 20, 11 of 17 and 8 of 26 true causes named
  first), so that what is measured now is no longer blind.
- ``checks``: for each name, of the corpus without equivalent mutants: ``run`` (those it was run on and had something to
  say of: it was not skipped), ``kills``, ``rate`` (kills over run), ``share`` (kills over all mutants), ``only``
  (mutants that no other check kills), ``first`` (how many it kills first), ``certain`` (kills without chance: exact, or
  of structure), ``draws`` (the median of the replicates over its other kills, or null), ``seconds`` (the median over
  all that it was run on).
- ``healthy``: for each of the catalogue ``estimator`` (repr), ``counts`` by status, ``failed`` (names of checks, those
  that were declared left out), ``named`` (labels of causes, where there is nothing to name) and ``seconds`` (processor
  time).
- ``summary``: ``mutants``, ``equivalent``, ``killed``, ``rate``, ``seconds`` until all are killed, ``named`` (mutants
  whose true cause is named first), ``sampled`` (mutants that draws alone show), ``alarms`` on healthy estimators and
  ``misnamed`` (healthy estimators in which a cause is seen; both null with ``--quick``); ``held_out``: of those that
  were held out the same five numbers ``mutants``, ``killed``, ``seconds``, ``named``, ``sampled``.
"""

import argparse
import datetime
import json
import math
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from mutants import CAUSES, KINDS, Mutant  # noqa: E402
from mutants_held_out import HELD_OUT  # noqa: E402
from mutants_third_set import THIRD_SET  # noqa: E402

import estimator_lab as lab  # noqa: E402
from estimator_lab.conformance.case import Held  # noqa: E402
from estimator_lab.conformance.points import Point, points, truth_of  # noqa: E402
from estimator_lab.conformance.suite import ALPHA, DRAWS, laws, trials  # noqa: E402
from estimator_lab.diagnosis import environment  # noqa: E402
from estimator_lab.errors import NotConverged, TooLarge, in_a_line  # noqa: E402
from estimator_lab.estimators import ESTIMATORS, DisARM  # noqa: E402
from estimator_lab.evaluation import under_test  # noqa: E402
from estimator_lab.expectation import expectation  # noqa: E402
from estimator_lab.measurement import prepare  # noqa: E402
from estimator_lab.statistics import Looks, verdict  # noqa: E402

DECLARED = {
    "Sample(common=False)": {"has no dead path": "it drops the gradient through samples, by definition"},
    "MeanField()": {"has no dead path": "a mean does not hear the deviation"},
}
"""Checks that healthy estimators fail by definition: they drop a gradient."""

SIZES = tuple(2**k for k in range(8, 17))
"""Looks at draws alone."""

MARGIN = 0.1
"""Relative bias below which it is of no interest whether one was found."""

STANDARD = 2**18
"""Draws of another implementation whose mean cannot be summed."""

FEW = 8
"""Tasks that are not worth a process."""

CLAIM = "is unbiased on "
LIKE = "has the mean of the other"
Json = dict[str, Any]


class Standard(Held):
    """Another implementation, whose mean is taken for the truth."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "unbiased", True)


def standard(point: Point, like: lab.Estimator) -> lab.Truth:
    """The mean of another implementation: summed where that is possible, else drawn."""
    truth = truth_of(point)
    known = expectation(prepare(point, like, reference=truth.mean), 2**14)
    if known is None:
        return lab.Truth.estimated(point, Standard(like), STANDARD)
    spans = known.layout.spans
    return lab.Truth.given({k: known.moments.mean[spans[k]].reshape(mean.shape) for k, mean in truth.mean.items()})


def sampled(kind: type[Mutant], failed: Sequence[str]) -> tuple[int | None, str]:
    """Replicates after which draws alone show a wrong mean, or why they do not.

    All points of its laws share a false-alarm rate of `ALPHA`, and so do all looks. Those where its mean is known to be
    right are not looked at.
    """
    mutant, like = kind(), kind.like
    places = [p for family in laws(mutant) for p in points(family) if not refused(mutant, p)]
    level = ALPHA / len(places)
    if like is None:
        wrong = [p for p in places if f"{CLAIM}{p.label}" in failed]
    else:
        wrong = [p for p in places if not refused(like, p)] if LIKE in failed else []
    if not wrong:
        return None, "no mean is wrong at these points"
    truths = [truth_of(p) if like is None else standard(p, like) for p in wrong]
    told = f"not in {SIZES[-1]} draws"
    try:
        runs = [(prepare(p, mutant, reference=t.mean), t) for p, t in zip(wrong, truths, strict=True)]
        records: list[Any] = [None] * len(runs)
        looks = [Looks(len(SIZES))] * len(runs)
        for size in SIZES:
            for i, (measurement, truth) in enumerate(runs):
                records[i] = measurement.extend(records[i], size)
                groups = under_test(records[i], truth, looks[i].taken[0] if looks[i].taken else ())
                looks[i] = looks[i].take(groups, MARGIN, level)
                if verdict(groups, MARGIN, level, looks[i]).word == "biased":
                    return records[i].replicates, ""
    except lab.LabError as error:  # what does not sample at all, is not finite, or mixes replicates
        told = f"refused: {in_a_line(error)}"
    return None, told


def refused(estimator: lab.Estimator, point: Point) -> bool:
    """Whether an estimator is not for a layer of a point."""
    return any(estimator.refuses(site) for site in point.sites)


def checked(kind: type[Mutant]) -> tuple[list[Json], float]:
    """What came of every check, each with its processor time, and that up to and with the first failure."""
    began, until, found = time.process_time(), 0.0, []
    for _, trial in trials([kind()], like=kind.like):
        start = time.process_time()
        outcome = trial.run()
        now = time.process_time()
        if not any(o["status"] == "failed" for o in found):
            until = now - began
        kept = {name: getattr(outcome, name) for name in ("check", "status", "told", "draws")}
        found.append({**kept, "seconds": round(now - start, 4)})
    return found, until


def same_law(kind: type[Mutant]) -> Json:
    """The first three moments of every gradient beside those of the healthy one, summed over all outcomes."""
    gap, count = 0.0, 0
    for point in (p for family in laws(kind()) for p in points(family) if not refused(kind.healthy, p)):
        try:
            ours, theirs = (lab.exact_moments(point, e, 3) for e in (kind(), kind.healthy))
        except (TooLarge, NotConverged):
            continue
        count += 1
        for key, name in ((k, n) for k in theirs for n in ("mean", "m2", "m3")):
            a, b = getattr(ours[key], name), getattr(theirs[key], name)
            gap = max(gap, float(np.abs(a - b).max() / (1 + np.abs(b).max())))
    return {"points": count, "gap": gap}


def causes(estimator: lab.Estimator, like: lab.Estimator | None = None) -> list[Json]:
    """What is said to be wrong with an estimator."""
    found = lab.name_causes(estimator, like=like)
    return [{"label": c.label, "words": c.words, "fit": c.fit if math.isfinite(c.fit) else None} for c in found]


def examine(kind: type[Mutant]) -> Json:
    """Everything about one mutant."""
    kept = torch.get_default_dtype()
    try:
        found, until = checked(kind)
        failed = [o["check"] for o in found if o["status"] == "failed"]
        alone, unseen = sampled(kind, failed)
        began = time.process_time()
        named = causes(kind(), kind.like or (kind.healthy if kind.unbiased is False else None))
        naming = time.process_time() - began
    finally:
        torch.set_default_dtype(kept)  # one of them sets it
    return {
        "name": kind.__name__,
        "theme": kind.__module__.rpartition(".")[2],
        "told": kind.__doc__,
        "cause": kind.cause,
        "source": kind.source,
        "healthy": repr(kind.healthy),
        "like": None if kind.like is None else repr(kind.like),
        "equivalent": kind.equivalent,
        "same": same_law(kind) if kind.equivalent else None,
        "killed": bool(failed),
        "first": failed[0] if failed else None,
        "seconds": round(until, 3),
        "sampled": alone,
        "unseen": unseen,
        "named": named,
        "naming": round(naming, 3),
        "outcomes": found,
    }


def vet(estimator: lab.Estimator) -> Json:
    """A healthy estimator, on all its laws."""
    began = time.process_time()
    result = lab.check_estimator(estimator, expected_failures=DECLARED.get(repr(estimator)), raises=False)
    return {
        "estimator": repr(estimator),
        "counts": result.counts,
        "failed": [o.check for o in result.of("failed")],
        "named": [c["label"] for c in causes(estimator)],
        "seconds": round(time.process_time() - began, 3),
    }


def by_check(mutants: Sequence[Json]) -> Json:
    """What each check found."""
    real = [m for m in mutants if not m["equivalent"]]
    found: Json = {}
    for name in dict.fromkeys(o["check"] for m in mutants for o in m["outcomes"]):
        own = [(m, o) for m in real for o in m["outcomes"] if o["check"] == name and o["status"] != "skipped"]
        kills = [(m, o) for m, o in own if o["status"] == "failed"]
        drawn = [o["draws"] for _, o in kills if o["draws"]]
        found[name] = {
            "run": len(own),
            "kills": len(kills),
            "rate": round(len(kills) / len(own), 4) if own else None,
            "share": round(len(kills) / len(real), 4) if real else None,
            "only": [m["name"] for m, _ in kills if sum(o["status"] == "failed" for o in m["outcomes"]) == 1],
            "first": sum(m["first"] == name for m in real),
            "certain": len(kills) - len(drawn),
            "draws": median(drawn) if drawn else None,
            "seconds": round(median(o["seconds"] for _, o in own), 4) if own else None,
        }
    return found


def warm() -> None:
    """What is imported on the way is no cost of the first mutant; the truths of its points are."""
    torch.set_num_threads(1)
    lab.check_estimator(DisARM())
    lab.name_causes(DisARM())
    truth_of.cache_clear()


def timed(work: Callable[[Any], Json], what: Any) -> tuple[Json, float]:
    """The result of a task, and its processor time."""
    began = time.process_time()
    return work(what), time.process_time() - began


def outcomes(tasks: Sequence[tuple[Callable[[Any], Json], Any]], jobs: int) -> Iterator[tuple[int, Json, float]]:
    """Index, result and processor time of each task as they get ready; few tasks, or one job, in this process."""
    if jobs == 1 or len(tasks) <= FEW:
        warm()
        yield from ((i, *timed(*task)) for i, task in enumerate(tasks))
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), warm) as pool:
        waiting = {pool.submit(timed, *task): i for i, task in enumerate(tasks)}
        try:
            for future in as_completed(waiting):
                yield (waiting[future], *future.result())
        finally:
            pool.shutdown(cancel_futures=True)


def run(kinds: Sequence[type[Mutant]], held_out: Sequence[type[Mutant]], catalogue: bool, jobs: int) -> Json:
    """The whole analysis as plain data."""
    healthy = ESTIMATORS if catalogue else ()
    tasks = [*((examine, kind) for kind in (*kinds, *held_out)), *((vet, estimator) for estimator in healthy)]
    found: list[Json] = [{}] * len(tasks)
    began, spent = time.monotonic(), 0.0
    for done, (i, result, seconds) in enumerate(outcomes(tasks, jobs), 1):
        found[i] = result
        spent += seconds
        what = result.get("name") or result["estimator"]
        print(f"{done} of {len(tasks)}, {time.monotonic() - began:.0f} s: {what}", flush=True)
    mutants, others = found[: len(kinds)], found[len(kinds) : len(kinds) + len(held_out)]
    rows = found[len(kinds) + len(held_out) :]
    real = [m for m in mutants if not m["equivalent"]]
    score = scores(real)
    return {
        "schema": 1,
        "created": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": "python analyses/mutation.py" + " --quick" * (not catalogue),
        "quick": not catalogue,
        "seconds": round(spent, 1),
        "alpha": ALPHA,
        "draws": DRAWS,
        "limit": SIZES[-1],
        "environment": dict(environment()),
        "themes": {k.__module__.rpartition(".")[2]: sys.modules[k.__module__].__doc__ for k in (*kinds, *held_out)},
        "mutants": mutants,
        "held_out": others,
        "checks": by_check(mutants),
        "healthy": rows,
        "summary": {
            **score,
            "equivalent": len(mutants) - len(real),
            "rate": score["killed"] / len(real) if real else None,
            "alarms": sum(len(row["failed"]) for row in rows) if catalogue else None,
            "misnamed": sum(bool(row["named"]) for row in rows) if catalogue else None,
            "held_out": scores([m for m in others if not m["equivalent"]]),
        },
    }


def scores(mutants: Sequence[Json]) -> Json:
    """How many were found, how soon, and how."""
    return {
        "mutants": len(mutants),
        "killed": sum(m["killed"] for m in mutants),
        "seconds": round(sum(m["seconds"] for m in mutants), 2),
        "named": sum(named_first(m) for m in mutants),
        "sampled": sum(m["sampled"] is not None for m in mutants),
    }


def named_first(mutant: Mapping[str, Any]) -> bool:
    """Whether its true cause is the first that is named."""
    return bool(mutant["named"]) and mutant["named"][0]["label"] == mutant["cause"]


def table(found: Json) -> str:
    """The mutants, then the checks."""
    lines = [
        f"{'mutant':26} {'cause':20} {'named first':20} {'first check that fails':44} {'s':>6} {'draws alone':>11}"
    ]
    for m in found["mutants"]:
        first = m["first"] or ("equivalent" if m["equivalent"] else "SURVIVES")
        named = m["named"][0]["label"] if m["named"] else "-"
        lines.append(
            f"{m['name']:26} {m['cause']:20} {named[:20]:20} {first[:44]:44} {m['seconds']:6.2f} "
            f"{m['sampled'] or '-':>11}"
        )
    lines += ["", f"{'check':60} {'run':>4} {'kills':>6} {'only':>5} {'first':>6} {'draws':>7} {'s':>7}"]
    for name, c in found["checks"].items():
        draws = "-" if c["draws"] is None else f"{c['draws']:.0f}"
        seconds = "-" if c["seconds"] is None else f"{c['seconds']:.3f}"
        lines.append(
            f"{name[:60]:60} {c['run']:4} {c['kills']:6} {len(c['only']):5} {c['first']:6} {draws:>7} {seconds:>7}"
        )
    s, h = found["summary"], found["summary"]["held_out"]
    alarms = "" if s["alarms"] is None else f"; {s['alarms']} alarms on {len(found['healthy'])} healthy estimators"
    lines += [
        "",
        f"{s['killed']} of {s['mutants']} killed in {s['seconds']} s, {s['equivalent']} equivalent{alarms};"
        f" true cause named first: {s['named']}; shown by draws alone: {s['sampled']}; {found['seconds']:.0f} s in all",
        f"held out: {h['killed']} of {h['mutants']} killed, true cause named first: {h['named']}",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the analysis, writes the file and the report, and prints the table."""
    parser = argparse.ArgumentParser(description="Mutation score of the conformance checks.")
    parser.add_argument("--quick", action="store_true", help="one mutant for each cause and nothing else")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "reports" / "mutation.json", help="the JSON; the PDF is beside it"
    )
    parser.add_argument("--report", action="store_true", help="render the PDF from the JSON alone")
    options = parser.parse_args(arguments)
    saved = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    if options.report and not saved:
        raise lab.UsageError(f"there is no {options.out}; measure first, without --report")
    if options.quick and not options.report and saved.get("quick") is False:
        raise lab.UsageError(
            f"{options.out} holds the whole analysis, which --quick would overwrite; name another --out"
        )
    if options.report:
        found = saved
    else:
        kinds = [next(k for k in KINDS if k.cause == cause) for cause in CAUSES] if options.quick else KINDS
        found = run(kinds, () if options.quick else (*HELD_OUT, *THIRD_SET), not options.quick, options.jobs)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(table(found))
    from mutation_report import render

    options.out.with_suffix(".pdf").write_bytes(render(found))


if __name__ == "__main__":
    try:
        main()
    except lab.LabError as error:
        print(f"mutation: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
