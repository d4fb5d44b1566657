"""``estimator-lab baseline``: save, check, diff and accept. Imports nothing heavy until a command runs."""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from estimator_lab.errors import LabError, MeasurementError, UsageError, in_a_line

if TYPE_CHECKING:
    from estimator_lab.baseline import Baseline
    from estimator_lab.estimator import Estimator
    from estimator_lab.problem import Problem
    from estimator_lab.sampler import GradientSampler

FOLDER = "baselines"
ALPHA = 1e-4

DESCRIPTION = """Keep what an estimator does today, and hold later code against it.

A baseline is a small JSON file for one estimator on one problem: variances with their errors, means where they are
needed, costs, versions. No draw is kept or compared, so that it holds across devices and versions of torch.

  estimator-lab baseline save DisARM --on OneBit
  estimator-lab baseline check                       # all files of the folder 'baselines'
  estimator-lab baseline accept baselines/disarm--onebit.json --reason 'antithetic pairs'"""

EPILOG = """exit codes: 0 nothing got worse, 1 something did, 2 inconclusive (1 with --strict), 3 wrong usage, 4 the
measurement failed"""


def register(commands: Any, kind: type[argparse.ArgumentParser]) -> None:
    """Adds the command to the command line's grammar.

    Args:
        commands: what ``add_subparsers`` returned.
        kind: of the parsers.
    """
    from estimator_lab.cli import _positive, _share, _whole

    whole = _positive(_whole, "whole number")
    top = commands.add_parser(
        "baseline",
        help="keep what an estimator does, and hold later code against it",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = top.add_subparsers(dest="action", required=True, metavar="ACTION", parser_class=kind)
    save = actions.add_parser("save", help="measure, and write one file for each estimator and problem")
    save.add_argument("target", nargs="+", metavar="TARGET", help="an estimator, as for diagnose")
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
        help="chance that anything is called worse although nothing changed, all files together (default: 0.0001)",
    )
    check.add_argument(
        "--slower",
        type=_positive(float, "number"),
        metavar="X",
        help="share by which the time of a draw may rise, on the machine of the baseline (default: time is not judged)",
    )
    check.add_argument("--strict", action="store_true", help="what is inconclusive fails")
    check.add_argument("--json", action="store_true", help="print the numbers, for other programs")
    diff = actions.add_parser("diff", help="what two files differ in, beyond their noise")
    diff.add_argument("old", type=Path, metavar="OLD")
    diff.add_argument("new", type=Path, metavar="NEW")
    accept = actions.add_parser("accept", help="measure again, and replace the file; the old numbers stay as history")
    accept.add_argument("path", nargs="+", type=Path, metavar="FILE")
    accept.add_argument("--reason", required=True, metavar="TEXT", help="why the change is meant; kept in the file")
    for one in (save, check, accept):
        one.add_argument("--replicates", type=whole, metavar="N", help="draws at most, of a stage where it is a check")
        one.add_argument("--seed", type=int, default=None if one is accept else 0, help="of the draws (default: 0)")


def run(arguments: argparse.Namespace) -> int:
    """Runs an action and returns the exit code."""
    actions: dict[str, Callable[[argparse.Namespace], int]] = {
        "save": _save, "check": _check, "diff": _diff, "accept": _accept
    }  # fmt: skip
    return actions[arguments.action](arguments)


def _save(arguments: argparse.Namespace) -> int:
    from estimator_lab.baseline import Baseline, path_for
    from estimator_lab.cli import _Progress
    from estimator_lab.loading import load_estimator, load_problems
    from estimator_lab.sampler import GradientSampler
    from estimator_lab.study import misfit

    pairs: list[tuple[str, Any, str, Any]] = []
    for target in arguments.target:
        estimator = load_estimator(target)
        if isinstance(estimator, GradientSampler):
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
    paths = [path_for(estimator, problem, arguments.folder) for _, estimator, _, problem in pairs]
    if not arguments.force and (there := [path for path in paths if path.exists()]):
        raise UsageError(f"{there[0]} exists; accept the change with estimator-lab baseline accept, or add --force")
    with _Progress("baselines") as progress:
        for i, ((target, estimator, name, problem), path) in enumerate(zip(pairs, paths, strict=True)):
            progress.update(f"{i + 1} of {len(pairs)}", i, len(pairs))
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
                )
            found.save(path)
            print(f"wrote {path}, {found.replicates:,} draws")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from estimator_lab.baseline_check import check, worst
    from estimator_lab.cli import EXIT, _Progress

    files = list(_files(arguments.path or [Path(FOLDER)]))
    kept = [_read(path) for path in files]
    told = []
    with _Progress("baselines") as progress:
        for path, baseline in zip(files, kept, strict=True):
            with _told(str(path)):
                estimator, problem = _named(baseline, path)
                comparison = check(
                    baseline,
                    estimator,
                    problem,
                    seed=arguments.seed,
                    budget=arguments.replicates,
                    alpha=arguments.alpha / len(files),
                    slower=arguments.slower,
                    progress=progress.update,
                )
            told.append(comparison)
            if not arguments.json:
                print(comparison.summary())
    status = worst(told)
    if arguments.json:
        entries = [{"path": str(p), **json.loads(c.to_json())} for p, c in zip(files, told, strict=True)]
        print(json.dumps({"status": status, "alpha": arguments.alpha, "comparisons": entries}, indent=1))
    else:
        counts = {s: sum(c.status == s for c in told) for s in EXIT}
        print(
            f"{len(told)} baselines: {counts['sound']} sound, {counts['violated']} violated, "
            f"{counts['inconclusive']} inconclusive; at most {100 * arguments.alpha:.2g} % of runs raise a false alarm"
        )
    return EXIT["violated"] if arguments.strict and status == "inconclusive" else EXIT[status]


def _diff(arguments: argparse.Namespace) -> int:
    from estimator_lab.baseline import diff

    print(diff(_read(arguments.old), _read(arguments.new)) or "no difference beyond the noise")
    return 0


def _accept(arguments: argparse.Namespace) -> int:
    from estimator_lab.baseline import diff
    from estimator_lab.baseline_check import accept

    for path in arguments.path:
        old = _read(path)
        with _told(str(path)):
            estimator, problem = _named(old, path)
            new = accept(
                old, estimator, problem, reason=arguments.reason, seed=arguments.seed, budget=arguments.replicates
            )
        new.save(path)
        print(f"{path}: {arguments.reason}")
        print(diff(old, new) or "no difference beyond the noise")
    return 0


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    """The files that are named, and those of folders."""
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path} does not exist; write baselines with estimator-lab baseline save")
        found = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not found:
            raise UsageError(f"the folder {path} holds no baselines; write them with estimator-lab baseline save")
        yield from found


def _read(path: Path) -> "Baseline":
    from estimator_lab.baseline import Baseline

    return Baseline.load(path)


def _named(baseline: "Baseline", path: Path) -> "tuple[Estimator | GradientSampler, Problem | None]":
    """Estimator and problem by the names that they were saved with."""
    from estimator_lab.loading import load_estimator, load_problems

    if not baseline.target:
        raise UsageError(
            f"{path} was saved from Python and does not name its estimator for the command line; check it there, with "
            "Baseline.load(path).check(estimator, problem)"
        )
    return load_estimator(baseline.target), load_problems(baseline.on)[0] if baseline.on else None


@contextmanager
def _told(label: str) -> Iterator[None]:
    """What a user's own code raises, as a failed measurement with its cause."""
    try:
        yield
    except LabError:
        raise
    except (Exception, SystemExit) as error:
        raise MeasurementError(f"{label} stopped on {in_a_line(error)}; mend it and measure again") from error
