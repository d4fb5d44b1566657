"""``estimator-lab baseline``: save, check, diff and accept. Imports nothing heavy until a command runs."""

import argparse
import json
import math
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from estimator_lab.errors import LabError, MeasurementError, UsageError, in_a_line

if TYPE_CHECKING:
    from estimator_lab.baseline import Baseline, Progress
    from estimator_lab.baseline_check import Comparison
    from estimator_lab.estimator import Estimator
    from estimator_lab.problem import Problem
    from estimator_lab.sampler import GradientSampler

FOLDER = "baselines"
ALPHA = 1e-4

DESCRIPTION = """Keep what an estimator does today, and hold later code against it.

A baseline is a small JSON file for one estimator on one problem: variances
with their errors, means where they are needed, costs, versions. No draw is
kept or compared, so that it holds across devices and versions of torch.

  estimator-lab baseline save DisARM --on OneBit
  estimator-lab baseline check               # all files of the folder baselines
  estimator-lab baseline accept baselines/disarm--one-bit-f8f670.json \\
    --reason 'antithetic pairs'"""

EPILOG = """exit codes of check: 0 nothing got worse, 1 something did, 2 inconclusive
(1 with --strict), 3 wrong usage, 4 the measurement failed, 130 interrupted. A
file that cannot be checked does not keep the others from it; its code is the
one returned. Files of a folder that name no estimator are left to the tests
that wrote them. diff informs: 0 whatever it finds."""

DIFF = """What two files differ in beyond their noise. It informs, and returns 0 whatever it finds; check judges."""


def register(commands: Any, kind: type[argparse.ArgumentParser]) -> None:
    """Adds the command to the command line's grammar.

    Args:
        commands: what ``add_subparsers`` returned.
        kind: of the parsers.
    """
    from estimator_lab.cli import TARGET, _positive, _share, _whole

    whole = _positive(_whole, "whole number")
    top = commands.add_parser(
        "baseline",
        help="keep what an estimator does, and hold later code against it",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = top.add_subparsers(dest="action", required=True, metavar="ACTION", parser_class=kind)
    save = actions.add_parser(
        "save",
        help="measure, and write one file for each estimator and problem",
        description="Measure, and write one file for each estimator and problem.",
    )
    save.add_argument("target", nargs="+", metavar="TARGET", help=TARGET)
    save.add_argument("--on", action="append", metavar="PROBLEM", help="a problem, or 'networks' (default: toys)")
    save.add_argument("--folder", type=Path, default=Path(FOLDER), help=f"where to (default: {FOLDER})")
    save.add_argument(
        "--margin",
        type=_share,
        default=0.1,
        metavar="X",
        help="shift of the mean that a check shall find, as a share of the gradient's norm (default: 0.1)",
    )
    save.add_argument(
        "--increase",
        type=_positive(float, "number"),
        default=0.25,
        metavar="X",
        help="rise of the variance that a check shall find, as a share (default: 0.25)",
    )
    save.add_argument("--units-only", action="store_true", help="leave the gradients of weights out")
    save.add_argument("--force", action="store_true", help="replace files that exist; else use accept")
    check = actions.add_parser("check", help="measure again, and compare")
    check.add_argument("path", nargs="*", type=Path, metavar="PATH", help=f"files or folders (default: {FOLDER})")
    check.add_argument(
        "--alpha",
        type=_positive(float, "number", 1),
        default=ALPHA,
        help="chance that anything is called worse although nothing changed, all files together (default: 1e-4)",
    )
    check.add_argument(
        "--slower",
        type=_positive(float, "number"),
        metavar="X",
        help="share by which the time of a draw may rise, on the machine of the baseline (default: time is not judged)",
    )
    check.add_argument("--strict", action="store_true", help="what is inconclusive fails")
    check.add_argument("--json", action="store_true", help="print the numbers, for other programs")
    diff = actions.add_parser(
        "diff", help="what two files differ in, beyond their noise; returns 0 whatever it finds", description=DIFF
    )
    diff.add_argument("old", type=Path, metavar="OLD")
    diff.add_argument("new", type=Path, metavar="NEW")
    accept = actions.add_parser("accept", help="measure again, and replace the file; the old numbers stay as history")
    accept.add_argument("path", nargs="+", type=Path, metavar="FILE")
    accept.add_argument("--reason", required=True, metavar="TEXT", help="why the change is meant; kept in the file")
    for one in (save, check, accept):
        most = "draws of each of its two stages at most" if one is check else "draws at most"
        one.add_argument("--replicates", type=whole, metavar="N", help=most)
        one.add_argument("--seed", type=int, default=None if one is accept else 0, help="of the draws (default: 0)")


def run(arguments: argparse.Namespace) -> int:
    """Runs an action and returns the exit code."""
    actions: dict[str, Callable[[argparse.Namespace], int]] = {
        "save": _save, "check": _check, "diff": _diff, "accept": _accept
    }  # fmt: skip
    return actions[arguments.action](arguments)


def _save(arguments: argparse.Namespace) -> int:
    from estimator_lab.baseline import Baseline, enough, ratio
    from estimator_lab.baseline_origin import path_for
    from estimator_lab.cli import _Progress, _require_writable
    from estimator_lab.diagnosis import writable
    from estimator_lab.loading import load_estimator, load_problems
    from estimator_lab.sampler import GradientSampler
    from estimator_lab.study import misfit

    enough(arguments.replicates)
    pairs: list[tuple[str, Any, str, Any]] = []
    for target in arguments.target:
        estimator = load_estimator(target)
        if isinstance(estimator, GradientSampler):
            if arguments.on:
                raise UsageError(f"{target} is a GradientSampler and brings its own problem; save it without --on")
            pairs.append((target, estimator, "", None))
            continue
        refusals: list[str] = []
        for name in arguments.on or ["toys"]:
            problems = load_problems(name)
            for problem in problems:
                if refusal := misfit(estimator, problem):
                    refusals.append(refusal)
                else:
                    pairs.append((target, estimator, name if len(problems) == 1 else repr(problem), problem))
        if refusals and not any(one is estimator for _, one, _, _ in pairs):
            raise UsageError(f"{refusals[0]}; name a problem with such sites, see estimator-lab list problems")
    plan = {path_for(pair[1], pair[3], arguments.folder): pair for pair in pairs}
    if not arguments.force and (there := [path for path in plan if path.exists()]):
        raise UsageError(f"{there[0]} exists; accept the change with estimator-lab baseline accept, or add --force")
    with writable(arguments.folder):
        arguments.folder.mkdir(parents=True, exist_ok=True)
    _require_writable(*plan)
    with _Progress("baselines") as progress:
        for i, (path, (target, estimator, name, problem)) in enumerate(plan.items()):
            with _told(target):
                found = Baseline.measure(
                    estimator,
                    problem,
                    seed=arguments.seed,
                    budget=arguments.replicates,
                    margin=arguments.margin,
                    increase=arguments.increase,
                    wrt=("unit",) if arguments.units_only else ("unit", "weight"),
                    target=target,
                    named=name,
                    progress=_counted(progress.update, f"{i + 1} of {len(plan)}"),
                )
            found.save(path)
            most = math.inf if arguments.replicates else found.replicates // 4  # a check's share of save's default
            print(f"wrote {path}, {found.replicates:,} draws; {_needs(found, ratio(estimator), most)}")
    return 0


def _counted(progress: "Progress", count: str) -> "Progress":
    """With the number of the pair before what is drawn."""
    return lambda label, done, total: progress(f"{count}, {label}", done, total)


def _needs(baseline: "Baseline", ratio: int, most: float) -> str:
    """What a check against a baseline needs, and the remedy where that is more than it draws by itself."""
    from estimator_lab.conclusion import rounded_up

    needed = baseline.needed(ALPHA)
    if needed == float("inf"):
        do = baseline.needed(ALPHA, stored=ratio)
        remedy = f"--replicates {rounded_up(ratio * do)}" if do < needed else "a larger --margin"
        return f"too few to find what is planned: save it with {remedy}"
    remedy = f": give it --replicates {rounded_up(needed)}, or save with a larger --margin" if needed > most else ""
    return f"a check needs {rounded_up(max(needed, 1024)):,}{remedy}"


def _check(arguments: argparse.Namespace) -> int:
    from estimator_lab.baseline import Baseline, enough
    from estimator_lab.baseline_check import worst
    from estimator_lab.baseline_names import located
    from estimator_lab.cli import EXIT, _Progress

    enough(arguments.replicates)
    paths = arguments.path or [Path(FOLDER)]
    files, left = _files(paths)
    if left and not files:
        raise UsageError(
            f"nothing to check in {', '.join(map(str, paths))}: {_written_by_tests(len(left))}; run pytest"
        )
    told: list[Comparison] = []
    entries: list[dict[str, Any]] = []
    failed: list[tuple[Path, LabError]] = []
    with _Progress("baselines") as progress:
        for path in files:
            try:
                baseline = Baseline.load(path)
                comparison = _compared(baseline, path, arguments, arguments.alpha / len(files), progress.update)
            except LabError as error:
                failed.append((path, error))
                entries.append({"path": str(path), "error": str(error)})
                continue
            told.append(comparison)
            entries.append({"path": str(path), **json.loads(comparison.to_json())})
            if not arguments.json:
                print(comparison.summary())
                if comparison.status == "violated" and comparison.acceptable:
                    print(f"  if that is meant: estimator-lab baseline accept {path} --reason '...'")
                elif comparison.status == "violated" and not comparison.of("non-finite"):
                    named = [
                        located(baseline.target, path),
                        *(["--on", located(baseline.on, path)] if baseline.on else []),
                    ]
                    print(f"  estimator-lab diagnose {shlex.join(named)} says what it looks like")
    _complain(failed)
    status = worst(told)
    if arguments.json:
        head = {"status": "failed" if failed else status, "alpha": arguments.alpha}
        print(json.dumps({**head, "comparisons": entries, "left": [str(path) for path in left]}, indent=1))
    else:
        counts = [f"{sum(c.status == s for c in told)} {s}" for s in EXIT]
        counts += [f"{len(failed)} not checked"] if failed else []
        if left:
            print(f"left out: {_written_by_tests(len(left))}")
        print(
            f"{len(files)} baseline{'s' * (len(files) != 1)}: {', '.join(counts)}; "
            f"at most {100 * arguments.alpha:.2g} % of runs raise a false alarm"
        )
    if failed:
        return failed[0][1].exit_code
    return EXIT["violated"] if arguments.strict and status == "inconclusive" else EXIT[status]


def _compared(
    baseline: "Baseline", path: Path, arguments: argparse.Namespace, alpha: float, progress: "Progress"
) -> "Comparison":
    """One file held against what its estimator does now."""
    from estimator_lab.baseline_check import check

    with _told(str(path)):
        estimator, problem = _named(baseline, path)
        return check(
            baseline,
            estimator,
            problem,
            seed=arguments.seed,
            budget=arguments.replicates,
            alpha=alpha,
            slower=arguments.slower,
            progress=progress,
        )


def _complain(failed: Sequence[tuple[Path, LabError]]) -> None:
    """Tells failures that do not end the command, once for all files that have the same."""
    from estimator_lab.cli import _show_user_traceback

    reasons: dict[str, list[tuple[Path, LabError]]] = {}
    for path, error in failed:
        reasons.setdefault(str(error).replace(str(path), "FILE"), []).append((path, error))
    for (_, error), *more in reasons.values():
        if error.__cause__ is not None:
            _show_user_traceback(error.__cause__)
        others = f" (so do {len(more)} more: {', '.join(path.name for path, _ in more)})" if more else ""
        print(f"estimator-lab: {error}{others}", file=sys.stderr)


def _diff(arguments: argparse.Namespace) -> int:
    from estimator_lab.baseline import Baseline
    from estimator_lab.baseline_diff import diff

    print(diff(Baseline.load(arguments.old), Baseline.load(arguments.new)) or "no difference beyond the noise")
    return 0


def _accept(arguments: argparse.Namespace) -> int:
    from estimator_lab.baseline import Baseline, enough
    from estimator_lab.baseline_check import accept
    from estimator_lab.baseline_diff import diff
    from estimator_lab.cli import _Progress, _require_writable

    enough(arguments.replicates)
    for path in arguments.path:
        if path.is_dir():
            raise UsageError(f"{path} is a folder; name the files whose change is meant")
    _require_writable(*arguments.path)
    with _Progress("baselines") as progress:
        for i, path in enumerate(arguments.path):
            old = Baseline.load(path)
            with _told(str(path)):
                estimator, problem = _named(old, path)
                new = accept(
                    old,
                    estimator,
                    problem,
                    reason=arguments.reason,
                    seed=arguments.seed,
                    budget=arguments.replicates,
                    progress=_counted(progress.update, f"{i + 1} of {len(arguments.path)}"),
                )
            new.save(path)
            print(f"{path}: {arguments.reason}")
            print(diff(old, new) or "no difference beyond the noise")
    return 0


def _files(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """The files that are named and those of folders; and apart from them, those of folders that only a test can hold.

    A file that cannot be read is among the first, whose check tells what it has.
    """
    files, left = list[Path](), list[Path]()
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path} does not exist; write baselines with estimator-lab baseline save")
        found = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not found:
            raise UsageError(f"the folder {path} holds no baselines; write them with estimator-lab baseline save")
        for one in found:
            (left if path.is_dir() and _nameless(one) else files).append(one)
    return files, left


def _nameless(path: Path) -> bool:
    """Whether a file is a baseline and does not say what the command line should load."""
    from estimator_lab.baseline import Baseline

    try:
        return bool(_unnamed(Baseline.load(path)))
    except UsageError:
        return False


def _unnamed(baseline: "Baseline") -> str:
    """What a baseline does not name for the command line; empty where it names all."""
    return "estimator" if not baseline.target else "problem" if baseline.weights and not baseline.on else ""


def _written_by_tests(count: int) -> str:
    what = "1 baseline that does" if count == 1 else f"{count} baselines that do"
    return f"{what} not name estimator and problem: written by tests, which hold them themselves"


def _named(baseline: "Baseline", path: Path) -> "tuple[Estimator | GradientSampler, Problem | None]":
    """Estimator and problem by the names that they were saved with."""
    from estimator_lab.baseline_names import located
    from estimator_lab.loading import load_estimator, load_problems

    if lacking := _unnamed(baseline):
        raise UsageError(
            f"{path} was saved from Python and does not name its {lacking} for the command line; check "
            "it there, with Baseline.load(path).check(estimator, problem), or by its test"
        )
    problem = load_problems(located(baseline.on, path))[0] if baseline.on else None
    return load_estimator(located(baseline.target, path)), problem


@contextmanager
def _told(label: str) -> Iterator[None]:
    """What a user's own code raises, as a failed measurement with its cause; and a mistake with what it belongs to."""
    try:
        yield
    except UsageError as error:
        if label in str(error):
            raise
        raise type(error)(f"{label}: {error}") from error.__cause__
    except LabError:
        raise
    except (Exception, SystemExit) as error:
        raise MeasurementError(f"{label} stopped on {in_a_line(error)}; mend it and measure again") from error
