"""The command line. Imports nothing heavy until a command runs."""

import argparse
import contextlib
import math
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from estimator_lab import __version__
from estimator_lab.baseline_command import register as register_baseline
from estimator_lab.baseline_command import run as run_baseline
from estimator_lab.check_command import register as register_check
from estimator_lab.check_command import run as run_check
from estimator_lab.errors import LabError, MeasurementError, UsageError, in_a_line

if TYPE_CHECKING:
    from estimator_lab.diagnosis import Diagnosis
    from estimator_lab.finding import Finding, Row

EXIT = {"sound": 0, "violated": 1, "inconclusive": 2}
INTERRUPTED = 130
"""128 and the number of the signal, as shells have it."""

PARTIAL = "estimator-lab-partial.json"
_INNER = ("torch", "importlib")  # whose frames say nothing to a user

DESCRIPTION = """Is this gradient estimator right, and what does it cost?

TARGET is a name from `estimator-lab list estimators`, or your own: file.py,
file.py:Class or package.module:Class; a name may carry arguments, as in
'Rebar(temperature=0.1)'."""

EPILOG = """exit codes: 0 sound, 1 a claim is violated, 2 inconclusive, 3 wrong usage,
4 the measurement failed, 130 interrupted"""

TARGET = "an estimator; estimator-lab --help says how to name it"


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = _Parser(
        "estimator-lab", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("--version", action="version", version=f"estimator-lab {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    study = _Parser(add_help=False)
    study.add_argument(
        "--on",
        action="append",
        metavar="PROBLEM",
        help="a problem, 'toys' or 'networks'; may be repeated (default: toys)",
    )
    study.add_argument(
        "--replicates",
        type=_positive(_whole, "whole number"),
        metavar="N",
        help="draws per pair at most (default: 65536; fewer for large gradients)",
    )
    study.add_argument(
        "--seconds", type=_positive(float, "number"), metavar="S", help="time for the whole study, instead or as well"
    )
    study.add_argument(
        "--precision",
        type=_share,
        metavar="X",
        help="draw until a relative bias of X, a share, would be found with probability 0.95",
    )
    study.add_argument(
        "--memory", type=_bytes, metavar="SIZE", help="for the draws of one block, such as 500MB or 2GB (default: 1GB)"
    )
    study.add_argument(
        "--sequential",
        action=argparse.BooleanOptionalAction,
        help="stop drawing as soon as the verdict is settled (default: diagnose does, compare does not)",
    )
    study.add_argument(
        "--sampled", action="store_true", help="judge by draws, even where expectations can be summed exactly"
    )
    study.add_argument(
        "--truth-replicates",
        type=_positive(_whole, "whole number"),
        default=2**14,
        metavar="N",
        help="draws of a truth that has to be estimated (default: 16384)",
    )
    study.add_argument("--seed", type=int, default=0, help="same seed, same result (default: 0)")
    study.add_argument(
        "--margin",
        type=_share,
        default=0.05,
        help="relative bias that counts as small, as a share: the default, 0.05, is 5 %%",
    )
    study.add_argument(
        "--alpha",
        type=_positive(float, "number", 1),
        default=0.01,
        help="false-alarm rate of the whole study (default: 0.01)",
    )
    study.add_argument("--units-only", action="store_true", help="leave the gradients of weights out, which is faster")
    study.add_argument("--out", type=Path, metavar="JSON", help="save the result, for `estimator-lab report`")
    study.add_argument("--report", type=Path, metavar="PDF", help="write the report")

    one = commands.add_parser(
        "diagnose",
        parents=[study],
        help="measure one estimator",
        description="Measure one estimator against the truth.",
    )
    one.add_argument("target", metavar="TARGET", help=TARGET)
    many = commands.add_parser(
        "compare",
        parents=[study],
        help="measure several estimators on the same problems",
        description="Measure several estimators on the same problems.",
    )
    many.add_argument("target", nargs="+", metavar="TARGET", help=TARGET)
    report = commands.add_parser(
        "report",
        help="write the PDF of a saved result",
        description="Write the PDF of a saved result, without measuring again.",
    )
    report.add_argument("result", type=Path, metavar="RESULT", help="JSON saved with --out")
    report.add_argument("--out", type=Path, metavar="PDF", help="where to (default: beside the result)")
    register_check(commands)
    register_baseline(commands, _Parser)
    listing = commands.add_parser("list", help="list what there is")
    listing.add_argument("what", choices=("estimators", "problems", "families"))
    return top


def _share(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) <= 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"give a share between 0 and 1, such as 0.05 for 5 %; found {text!r}")


def _positive(kind: Callable[[str], float], word: str, below: float = math.inf) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not 0 < value < below:
            limit = f" below {below:g}" if below < math.inf else ""
            raise argparse.ArgumentTypeError(f"give a positive {word}{limit}; found {text!r}")
        return value

    return parse


def _whole(text: str) -> int:
    """A whole number, also as 1e4."""
    with contextlib.suppress(ValueError):
        return int(text)
    if not float(text).is_integer():
        raise ValueError
    return int(float(text))


def _bytes(text: str) -> float:
    from estimator_lab.budget import in_bytes

    try:
        return in_bytes(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


class _Parser(argparse.ArgumentParser):
    """Tells a wrong command line in one line."""

    def error(self, message: str) -> NoReturn:
        """Raises what ends in exit code 3; argparse would exit with 2, which here means inconclusive."""
        raise UsageError(f"{message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code."""
    try:
        arguments = parser().parse_args(argv)
        run = {
            "diagnose": _study,
            "compare": _study,
            "report": _report,
            "check": run_check,
            "baseline": run_baseline,
            "list": _list,
        }
        return run[arguments.command](arguments)
    except SystemExit:  # of --help and --version, and of rich where a reader of a list has seen enough
        return 0
    except LabError as error:
        if error.__cause__ is not None:
            _show_user_traceback(error.__cause__)
        print(f"estimator-lab: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("estimator-lab: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception:
        traceback.print_exc()
        print("estimator-lab: the error above is a fault of estimator_lab itself; please report it", file=sys.stderr)
        return MeasurementError.exit_code


def _show_user_traceback(error: BaseException) -> None:
    """Prints the traceback without the frames of this package, of torch and of the import system."""
    homes = [
        Path(__file__).parent,
        *(Path(m.__file__).parent for m in map(sys.modules.get, _INNER) if m and m.__file__),
    ]
    hidden = ("<frozen", "<string>", *(f"{home}{os.sep}" for home in homes))
    told = traceback.TracebackException.from_exception(error)
    frames = [frame for frame in told.stack if not frame.filename.startswith(hidden)]
    if frames:
        print("Traceback (most recent call last):", file=sys.stderr)
        print("".join(traceback.StackSummary.from_list(frames).format()), end="", file=sys.stderr)
    if frames or isinstance(error, SyntaxError):
        print("".join(told.format_exception_only()), end="", file=sys.stderr)


def _study(arguments: argparse.Namespace) -> int:
    _require_writable(arguments.out, arguments.report)
    from estimator_lab.budget import Budget
    from estimator_lab.loading import load_estimator, load_problems
    from estimator_lab.sampler import GradientSampler
    from estimator_lab.study import compare, diagnose

    targets = [arguments.target] if arguments.command == "diagnose" else arguments.target
    estimators = [load_estimator(target) for target in targets]
    samplers = [e for e in estimators if isinstance(e, GradientSampler)]
    if samplers and (len(estimators) > 1 or arguments.on):
        raise UsageError(f"{samplers[0]!r} brings its own problem and truth; diagnose it on its own, without --on")
    problems = [p for name in arguments.on or ["toys"] for p in load_problems(name)]
    early = arguments.command == "diagnose" if arguments.sequential is None else arguments.sequential
    memory = {} if arguments.memory is None else {"memory": arguments.memory}
    options: dict[str, Any] = {
        "seed": arguments.seed,
        "budget": Budget(arguments.replicates, arguments.seconds, arguments.precision, early, **memory),
        "margin": arguments.margin,
        "alpha": arguments.alpha,
        "exact": not arguments.sampled,
        "truth_replicates": arguments.truth_replicates,
    }
    with _Progress(targets[0]) as progress:
        try:
            if samplers:
                result = diagnose(samplers[0], **options)
            else:
                result = compare(
                    [e for e in estimators if not isinstance(e, GradientSampler)],
                    problems,
                    wrt=("unit",) if arguments.units_only else ("unit", "weight"),
                    progress=progress.update,
                    keep=lambda partial: _keep(partial, arguments.out, progress.label),
                    **options,
                )
        except LabError:
            raise
        except (Exception, SystemExit) as error:
            raise MeasurementError(
                f"{progress.label} stopped on {in_a_line(error)}; mend it and measure again"
            ) from error
    if arguments.out:
        result.save(arguments.out)
    if arguments.report:
        result.report(arguments.report)
    with contextlib.suppress(SystemExit):  # rich leaves by it where nobody reads on; the verdict stands
        _print(result)
        for path in (arguments.out, arguments.report):
            if path:
                print(f"wrote {path}")
    return EXIT[result.status]


def _keep(partial: "Diagnosis", out: Path | None, label: str) -> None:
    """Saves what was measured before a failure, marked as unfinished."""
    path = out or Path(PARTIAL)
    try:
        replace(partial, skipped=(*partial.skipped, f"not measured: the study stopped at {label}")).save(path)
        print(f"estimator-lab: kept the {len(partial.findings)} findings made before in {path}", file=sys.stderr)
    except LabError as error:  # the failure that led here is what the user has to read last
        print(f"estimator-lab: {error}", file=sys.stderr)


def _require_writable(*paths: Path | None) -> None:
    """Refuses before anything is measured, not after; makes a file to find out, since permissions do not tell all."""
    named = [path for path in paths if path is not None]
    for path in named:
        try:
            if path.is_dir():
                raise UsageError(f"cannot write {path}: it is a folder; name a file in it")
            with tempfile.NamedTemporaryFile(dir=path.parent):
                pass
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UsageError(
                f"cannot write {path}: {reason}; name a file in a folder that exists and can be written to"
            ) from None
    if len({path.resolve() for path in named}) < len(named):
        raise UsageError(f"{named[0]} would be written twice; name two files")


def _report(arguments: argparse.Namespace) -> int:
    from estimator_lab.diagnosis import Diagnosis

    result = Diagnosis.load(arguments.result)
    out = arguments.out or arguments.result.with_suffix(".pdf")
    if out.resolve() == arguments.result.resolve():
        raise UsageError(f"the report would replace the result {out}; name another file with --out")
    _require_writable(out)
    try:
        result.report(out)
    except LabError:
        raise
    except Exception as error:
        raise UsageError(
            f"no report can be made of {arguments.result} ({in_a_line(error)}); measure again, or restore a copy"
        ) from error
    print(f"wrote {out}")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    import inspect

    from rich.console import Console
    from rich.table import Table

    from estimator_lab import estimators, families, problems

    rows: list[tuple[str, ...]] = []
    if arguments.what == "problems":
        firsts: dict[type, Any] = {}
        for p in (*problems.TOYS, *problems.NETWORKS):
            table_of = "networks" if p in problems.NETWORKS else "toys"
            first = firsts.setdefault(type(p), p)
            again = first is not p
            name = f"{type(p).__name__}({_changed(p, first)})" if again else type(p).__name__
            said = "the same with other arguments" if again else _first_line(type(p))
            rows.append((name, p.label, table_of, said))
        heads: tuple[str, ...] = ("name", "label", "table", "what it is")
    elif arguments.what == "estimators":
        names = [n for n in estimators.__all__ if inspect.isclass(getattr(estimators, n))]
        claims = {True: "unbiased", False: "biased", None: "none"}
        rows += [
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
        rows += [(f.__name__, _support(f), _first_line(f)) for f in families.FAMILIES]
        heads = ("name", "kind", "what it is")
    table = Table(*heads, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    console = Console()
    console.width = console.width if console.is_terminal else 160
    console.print(table)
    return 0


def _changed(problem: Any, first: Any) -> str:
    """Arguments that differ from those of the first problem of the class, which has the defaults."""
    names = [f.name for f in fields(problem) if f.init and f.repr]
    own = [(name, getattr(problem, name)) for name in names if getattr(problem, name) != getattr(first, name)]
    return ", ".join(f"{name}={value!r}" for name, value in own)


def _support(family: type) -> str:
    """What values a law has."""
    if family.discrete:  # type: ignore[attr-defined]
        return "discrete"
    return "continuous" if family.noise == "normal" else "moves with theta"  # type: ignore[attr-defined]


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
    wide = console.width >= 110
    heads = ("relative bias, %", "variance", *(("cosine", "losses", "µs") if wide else ()), "draws")
    table = Table(box=None, pad_edge=False)
    for head in ("problem", "estimator", "verdict"):
        table.add_column(head, no_wrap=wide, min_width=9)
    for head in heads:
        table.add_column(head, no_wrap=True, justify="right")
    for f in result.findings:
        worst = max((r for r in f.rows if r.tested), key=_relative_bias)
        variance = f.total.statistics["variance"].value
        standing, tone = _standing(f)
        numbers = {
            "relative bias, %": _interval(worst, f.exact or worst.verdict == "exact"),
            "variance": "not estimable" if math.isnan(variance) else f"{variance:.3g}",
            "cosine": f"{f.total.statistics['mean_cosine'].value:.3f}",
            "losses": f"{f.losses:g}",
            "µs": f"{1e6 * f.seconds:.3g}",
            "draws": f"{f.replicates}",
        }
        row = (Text(f.problem_label), Text(f.estimator_label), Text(f"{f.verdict} ({standing})", tone))
        table.add_row(*row, *(numbers[head] for head in heads))
    console.print(table)
    console.print(
        f"variance{', cosine, losses and time' if wide else ''} of one draw; relative bias where it is largest, with "
        "an interval that holds for all groups and looks together",
        style="dim",
        soft_wrap=not console.is_terminal,
    )
    lines = [f"note: {f.estimator_label} on {f.problem_label}: {note}" for f in result.findings for note in f.notes]
    lines += [f"skipped: {reason}" for reason in result.skipped]
    shown = result.findings if len(result.findings) <= 12 else [f for f in result.findings if f.status != "sound"]
    for line in [*lines, ""]:
        console.print(Text(line), soft_wrap=not console.is_terminal)
    for f in shown:
        for line in _told(f, len(result.findings) <= 3):
            console.print(Text(line), soft_wrap=not console.is_terminal)
        if f.witness:  # as it is to be pasted: neither wrapped nor indented
            console.print(Text(f"\n{f.witness}\n"), soft_wrap=True)
    console.print()
    ledger = Table("at most", "may be wrong", box=None, pad_edge=False)
    for entry in result.ledger:
        ledger.add_row(f"{100 * entry.rate:.2g} %", Text(f"{entry.item} ({entry.how})"))
    console.print(ledger, style="dim")


def _relative_bias(row: "Row") -> float:
    value = row.statistics["relative_bias"].value
    return -1.0 if math.isnan(value) else value


def _standing(finding: "Finding") -> tuple[str, str]:
    """How the verdict stands to the claim, and its colour."""
    if finding.status != "sound":
        return finding.status, "red" if finding.status == "violated" else "yellow"
    if finding.claim is None:
        return "no claim", "" if finding.verdict == "biased" else "green"
    if finding.claim:
        return "as claimed", "green"
    return ("as declared", "") if finding.verdict == "biased" else ("declared biased", "")


def _told(finding: "Finding", units: bool) -> list[str]:
    """The verdict in words, what it cost, and the most biased units."""
    lines = [f"{finding.estimator_label} on {finding.problem_label}: {finding.words}{_stopped(finding)}"]
    lines += [f"  {finding.looks_like}"] if finding.looks_like else []
    for site, found in finding.units.items() if units else ():
        if found.worst:
            named = "; ".join(f"{list(u.index)} {_signed(u.bias, u.low, u.high)}" for u in found.worst)
            lines.append(
                f"  {found.found} of {found.mean.size} unit gradients of {site} are biased, most of all {named}"
            )
        if found.insufficient:
            lines.append(f"  {found.insufficient} unit gradients of {site} rest on too few draws to be tested")
    return lines + (["  The smallest problem that shows it, as a test:"] if finding.witness else [])


def _stopped(finding: "Finding") -> str:
    """Why fewer draws were made than planned, if that is so."""
    drawn, planned = finding.replicates, finding.planned
    if finding.exact or drawn == planned or finding.total.statistics["variance"].value == 0:
        return ""
    if finding.verdict == "undecided":
        return f" Stopped by the time limit after {drawn:,} replicates."
    return f" Settled after {drawn:,} of {planned:,} replicates, {planned / drawn:.0f} times fewer."


def _signed(value: float, low: float, high: float) -> str:
    return f"{value:+.2g}" if f"{low:.3g}" == f"{high:.3g}" else f"{value:+.2g} [{low:.2g}, {high:.2g}]"


def _interval(row: "Row", known: object) -> str:
    """The relative bias in per cent; one number where it is known exactly, or has no interval."""
    low, high, shown = row.low, row.high, _percent(row.statistics["relative_bias"].value)
    if known:
        return shown
    return (
        shown
        if low != low or _percent(low) == shown == _percent(high)
        else f"{shown} [{_percent(low)}, {_percent(high)}]"
    )


def _percent(share: float) -> str:
    """Two digits, or whole percents from a hundred on."""
    return f"{100 * share:.2g}" if not share >= 0.995 else f"{100 * share:.0f}"


class _Progress:
    """A bar on a terminal; elsewhere a plain line every five seconds."""

    def __init__(self, label: str):
        self.label = label

    def __enter__(self) -> "_Progress":
        from rich.console import Console

        self._console = Console(stderr=True)
        self._task = None
        self._bar = None
        self._said = time.monotonic()
        if self._console.is_terminal:
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description}", markup=False), BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"), TimeRemainingColumn(),
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
        self.label = label
        if self._bar and self._task is not None:
            self._bar.update(self._task, description=label, completed=done, total=total or None)
        elif time.monotonic() - self._said > 5 and total:
            self._said = time.monotonic()
            print(f"{label}: {done} of {total} replicates", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
