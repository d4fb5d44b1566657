"""The command line. Imports nothing heavy until a command runs."""

import argparse
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from estimator_lab import __version__
from estimator_lab.errors import LabError, MeasurementError, UsageError

if TYPE_CHECKING:
    from estimator_lab.diagnosis import Diagnosis

EXIT = {"sound": 0, "violated": 1, "inconclusive": 2}
PARTIAL = "estimator-lab-partial.json"

DESCRIPTION = """Is this gradient estimator right, and what does it cost?

TARGET is a name from `estimator-lab list estimators`, or your own: file.py, file.py:Class or package.module:Class;
a name may carry arguments, as in 'Rebar(temperature=0.1)'."""

EPILOG = """exit codes: 0 sound, 1 a claim is violated, 2 inconclusive, 3 wrong usage, 4 the measurement failed"""


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = argparse.ArgumentParser(
        "estimator-lab", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("--version", action="version", version=f"estimator-lab {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    study = argparse.ArgumentParser(add_help=False)
    study.add_argument(
        "--on",
        action="append",
        metavar="PROBLEM",
        help="a problem, 'toys' or 'networks'; may be repeated (default: toys)",
    )
    study.add_argument(
        "--replicates",
        type=_positive(int),
        metavar="N",
        help="draws per pair (default: 65536; 4096 for large gradients)",
    )
    study.add_argument("--seed", type=int, default=0, help="same seed, same result (default: 0)")
    study.add_argument(
        "--margin", type=_positive(float), default=0.05, help="relative bias that counts as small (default: 0.05)"
    )
    study.add_argument("--alpha", type=_positive(float), default=0.01, help="false-alarm rate per pair (default: 0.01)")
    study.add_argument("--units-only", action="store_true", help="leave the gradients of weights out, which is faster")
    study.add_argument("--out", type=Path, metavar="JSON", help="save the result, for `estimator-lab report`")
    study.add_argument("--report", type=Path, metavar="PDF", help="write the report")

    one = commands.add_parser(
        "diagnose",
        parents=[study],
        help="measure one estimator",
        description="Measure one estimator against the truth.",
    )
    one.add_argument("target", metavar="TARGET")
    many = commands.add_parser("compare", parents=[study], help="measure several estimators on the same problems")
    many.add_argument("target", nargs="+", metavar="TARGET")
    report = commands.add_parser(
        "report",
        help="write the PDF of a saved result",
        description="Write the PDF of a saved result, without measuring again.",
    )
    report.add_argument("result", type=Path, metavar="RESULT", help="JSON saved with --out")
    report.add_argument("--out", type=Path, metavar="PDF", help="where to (default: beside the result)")
    listing = commands.add_parser("list", help="list what there is")
    listing.add_argument("what", choices=("estimators", "problems", "families"))
    return top


def _positive(kind: type) -> object:
    def parse(text: str) -> float:
        value: float = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"{text} is not positive")
        return value

    parse.__name__ = f"positive {kind.__name__}"
    return parse


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code."""
    try:
        arguments = parser().parse_args(argv)
    except SystemExit as stop:  # argparse exits with 2, which here means inconclusive
        return 3 if stop.code else 0
    try:
        run = {"diagnose": _study, "compare": _study, "report": _report, "list": _list}[arguments.command]
        return run(arguments)
    except LabError as error:
        if error.__cause__ is not None:
            _show_user_traceback(error.__cause__)
        print(f"estimator-lab: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        return 0
    except KeyboardInterrupt:
        print("estimator-lab: interrupted", file=sys.stderr)
        return MeasurementError.exit_code
    except Exception as error:
        _show_user_traceback(error)
        print("estimator-lab: the measurement stopped on the error above", file=sys.stderr)
        return MeasurementError.exit_code


def _show_user_traceback(error: BaseException) -> None:
    """Prints the traceback from the first frame that is not this package's own."""
    home = str(Path(__file__).parent)
    frames = error.__traceback__
    while frames and (frames.tb_frame.f_code.co_filename.startswith((home, "<frozen"))) and frames.tb_next:
        frames = frames.tb_next
    traceback.print_exception(type(error), error, frames, chain=False)


def _study(arguments: argparse.Namespace) -> int:
    for path in (arguments.out, arguments.report):
        if path is not None:
            _require_writable(path)
    from estimator_lab.loading import load_estimator, load_problems
    from estimator_lab.sampler import GradientSampler
    from estimator_lab.study import compare, diagnose

    targets = [arguments.target] if arguments.command == "diagnose" else arguments.target
    estimators = [load_estimator(target) for target in targets]
    problems = [p for name in arguments.on or ["toys"] for p in load_problems(name)]
    options = {
        "seed": arguments.seed,
        "budget": arguments.replicates,
        "margin": arguments.margin,
        "alpha": arguments.alpha,
    }
    with _Progress() as progress:
        if len(estimators) == 1 and isinstance(estimators[0], GradientSampler):
            result = diagnose(estimators[0], **options)
        else:
            plain = [e for e in estimators if not isinstance(e, GradientSampler)]
            if len(plain) != len(estimators):
                raise UsageError("a GradientSampler brings its own truth and problem; diagnose it on its own")
            wrt = ("unit",) if arguments.units_only else ("unit", "weight")
            result = compare(
                plain, problems, wrt=wrt, progress=progress.update, keep=lambda d: _keep(d, arguments.out), **options
            )
    if arguments.out:
        result.save(arguments.out)
    if arguments.report:
        result.report(arguments.report)
    _print(result)
    for path in (arguments.out, arguments.report):
        if path:
            print(f"wrote {path}")
    return EXIT[result.status]


def _keep(partial: "Diagnosis", out: Path | None) -> None:
    """Saves what was measured before a failure."""
    path = out or Path(PARTIAL)
    partial.save(path)
    print(f"estimator-lab: kept {len(partial.findings)} finished findings in {path}", file=sys.stderr)


def _require_writable(path: Path) -> None:
    """Refuses before anything is measured, not after."""
    import os

    if not path.parent.is_dir():
        raise UsageError(f"cannot write {path}: there is no folder {path.parent}; make it first")
    if path.is_dir() or not os.access(path.parent, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise UsageError(
            f"cannot write {path}: no permission, or it is a folder; name a file in a folder that can be written to"
        )


def _report(arguments: argparse.Namespace) -> int:
    out = arguments.out or arguments.result.with_suffix(".pdf")
    _require_writable(out)
    from estimator_lab.diagnosis import Diagnosis

    Diagnosis.load(arguments.result).report(out)
    print(f"wrote {out}")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    import inspect

    from rich.console import Console
    from rich.table import Table

    from estimator_lab import estimators, families, problems

    if arguments.what == "problems":
        rows = [
            (type(p).__name__, p.label, "networks" if p in problems.NETWORKS else "toys", _first_line(type(p)))
            for p in (*problems.TOYS, *problems.NETWORKS)
        ]
        heads = ("name", "label", "table", "what it is")
    elif arguments.what == "estimators":
        names = [n for n in estimators.__all__ if inspect.isclass(getattr(estimators, n))]
        claims = {True: "unbiased", False: "biased", None: "none"}
        rows = [
            (
                n,
                claims[getattr(estimators, n).unbiased],
                _families(getattr(estimators, n)),
                _first_line(getattr(estimators, n)),
            )
            for n in names
        ]
        heads = ("name", "claim", "sites", "what it is")
    else:
        rows = [(f.__name__, "discrete" if f.discrete else "continuous", _first_line(f)) for f in families.FAMILIES]
        heads = ("name", "kind", "what it is")
    table = Table(*heads, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    console = Console()
    console.width = console.width if console.is_terminal else 160
    console.print(table)
    return 0


def _families(estimator: type) -> str:
    return ", ".join({"Family": "any", "Discrete": "discrete"}.get(f.__name__, f.__name__) for f in estimator.families)  # type: ignore[attr-defined]


def _first_line(kind: type) -> str:
    return (kind.__doc__ or "").strip().split("\n")[0].replace("``", "")


def _print(result: "Diagnosis") -> None:
    """The result as a table, and in words where a person has to act."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console.width = 140
    tone = {"sound": "green", "violated": "red", "inconclusive": "yellow"}
    table = Table(
        "problem",
        "estimator",
        "verdict",
        "relative bias",
        "variance",
        "cosine of a draw",
        "losses",
        "µs",
        box=None,
        pad_edge=False,
    )
    for i in (3, 4, 5, 6, 7):
        table.columns[i].justify = "right"
    for f in result.findings:
        worst = max((r for r in f.rows if r.tested), key=lambda r: r.statistics["relative_bias"].value)
        bias = worst.statistics["relative_bias"]
        table.add_row(
            f.problem_label, f.estimator_label, Text(f"{f.verdict} ({f.status})", tone[f.status]),
            f"{100 * bias.value:.2g} % [{100 * bias.low:.2g}, {100 * bias.high:.2g}]",
            f"{f.total.statistics['variance'].value:.3g}", f"{f.total.statistics['mean_cosine'].value:.3f}",
            f"{f.losses:g}", f"{1e6 * f.seconds:.3g}",
        )  # fmt: skip
    console.print(table)
    for f in result.findings:
        for note in f.notes:
            console.print(Text(f"note: {f.estimator_label} on {f.problem_label}: {note}"))
    for reason in result.skipped:
        console.print(Text(f"skipped: {reason}"))
    console.print()
    for f in result.findings if len(result.findings) <= 12 else [f for f in result.findings if f.status != "sound"]:
        console.print(Text(f"{f.estimator_label} on {f.problem_label}: {f.words}"))


class _Progress:
    """A bar on a terminal; elsewhere a plain line every five seconds."""

    def __enter__(self) -> "_Progress":
        from rich.console import Console

        self._console = Console(stderr=True)
        self._task = None
        self._bar = None
        self._said = 0.0
        if self._console.is_terminal:
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeRemainingColumn(),
                console=self._console, transient=True,
            )  # fmt: skip
            self._bar.start()
            self._task = self._bar.add_task("", total=None)
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, label: str, done: int, total: int) -> None:
        """Shows how far the pair is."""
        import time

        if self._bar and self._task is not None:
            self._bar.update(self._task, description=label, completed=done, total=total or None)
        elif time.monotonic() - self._said > 5 and total:
            self._said = time.monotonic()
            print(f"{label}: {done} of {total} replicates", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
