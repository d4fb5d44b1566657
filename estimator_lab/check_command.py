"""``estimator-lab check``: holds estimators to their laws. Imports nothing heavy until it runs."""

import argparse
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from estimator_lab.conformance import Conformance

SCHEMA = 1

DESCRIPTION = """Hold estimators to the laws that every estimator keeps: shapes, values, replicates and examples that do
not mix and are independent, saturation, ties, low precision, and where one claims to be unbiased, its mean."""

EPILOG = """exit codes: 0 no check failed, 1 one did, 2 none did but draws left some open, 3 wrong usage, 4 the
examination itself failed, 130 interrupted"""


def register(commands: Any) -> None:
    """Adds the command to the command line's grammar.

    Args:
        commands: what ``add_subparsers`` returned.
    """
    from estimator_lab.cli import TARGET, _positive, _whole

    one = commands.add_parser(
        "check",
        help="hold estimators to the laws that all of them keep",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    one.add_argument("target", nargs="+", metavar="TARGET", help=TARGET)
    one.add_argument("--like", metavar="OTHER", help="an estimator that has the same mean, for those that are biased")
    one.add_argument(
        "--alpha",
        type=_positive(float, "number", 1),
        default=1e-6,
        help="chance that any check fails although nothing is wrong, all targets together (default: 1e-6)",
    )
    one.add_argument(
        "--draws",
        type=_positive(_whole, "whole number"),
        metavar="N",
        help="replicates of a mean that is tested, at most (default: 131072; for a GradientSampler 4096 calls)",
    )
    one.add_argument("--seed", type=int, default=0, help="same seed, same result (default: 0)")
    one.add_argument("--json", type=Path, metavar="FILE", help="save what came of every check")


def run(arguments: argparse.Namespace) -> int:
    """Runs the checks, prints what came of them and returns the exit code."""
    from rich.console import Console

    from estimator_lab.cli import EXIT, _require_writable, _show_user_traceback
    from estimator_lab.conformance import check_estimator
    from estimator_lab.conformance.explained import looks_like
    from estimator_lab.loading import load_estimator

    _require_writable(arguments.json)
    subjects = [load_estimator(target) for target in arguments.target]
    like: Any = None if arguments.like is None else load_estimator(arguments.like)
    console, found, causes = Console(highlight=False), [], []
    for target, subject in zip(arguments.target, subjects, strict=True):
        result = check_estimator(
            subject,
            like=like,
            alpha=arguments.alpha / len(subjects),
            seed=arguments.seed,
            draws=arguments.draws,
            raises=False,
        )
        errors = [o.error for o in result.of("failed") if o.error]
        found.append(result)
        causes.append(list(looks_like(subject, like, result.of("failed"))))
        _print(console, result, causes[-1])
        if any(o.told.startswith("claims to be") for o in result.of("failed")):
            told = "prints the smallest problem that shows the bias, as a test"
            _line(console, f"  estimator-lab diagnose {shlex.quote(target)} {told}", "dim")
        if errors:
            _show_user_traceback(errors[0])
    counts = {status: sum(r.status == status for r in found) for status in EXIT}
    if len(found) > 1:
        _line(console, f"{len(found)} estimators: {', '.join(f'{n} {status}' for status, n in counts.items())}", "")
    if arguments.json:
        arguments.json.write_text(json.dumps(_data(arguments, found, causes), indent=1), encoding="utf-8")
        _line(console, f"wrote {arguments.json}", "")
    worst = "violated" if counts["violated"] else "inconclusive" if counts["inconclusive"] else "sound"
    return EXIT[worst]


def _print(console: "Console", result: "Conformance", causes: list[str]) -> None:
    head, *lines = result.summary().split("\n")
    _line(console, head, {"sound": "green", "violated": "bold red", "inconclusive": "yellow"}[result.status])
    for line in [*(f"  looks like: {words}" for words in causes), *lines]:
        kind = line.strip().partition(":")[0]
        _line(console, line, {"failed": "red", "looks like": "red", "inconclusive": "yellow"}.get(kind, "dim"))


def _line(console: "Console", text: str, style: str) -> None:
    from rich.text import Text

    console.print(Text(text, style), soft_wrap=not console.is_terminal)


def _data(arguments: argparse.Namespace, found: "list[Conformance]", causes: list[list[str]]) -> dict[str, Any]:
    """The outcome for other programs."""
    from estimator_lab.diagnosis import environment

    return {
        "schema": SCHEMA,
        "alpha": arguments.alpha,
        "seed": arguments.seed,
        "draws": arguments.draws,
        "environment": environment(),
        "estimators": [
            {
                "target": target,
                "estimator": result.subject,
                "status": result.status,
                "counts": result.counts,
                "looks_like": words,
                "checks": [
                    {
                        "check": o.check,
                        "status": o.status,
                        "told": o.told,
                        "draws": o.draws,
                        "seconds": round(o.seconds, 4),
                    }
                    for o in result.outcomes
                ],
            }
            for target, result, words in zip(arguments.target, found, causes, strict=True)
        ],
    }
