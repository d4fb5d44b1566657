"""What a paper claims, and what was found of it: the form that the analyses of both founding papers share."""

import json
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from estimator_lab.errors import UsageError, in_a_line

Verdict = Literal["holds", "holds with a condition", "not decided", "does not hold"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
HOLDS, CONDITION, OPEN, FAILS = VERDICTS


@dataclass(frozen=True)
class Claim:
    """One claim of a paper, with its verdict.

    Attributes:
        id: "A1", "A10b", "E3", "B9", ...
        statement: the claim in our own words.
        source: theorem, equation or section of the paper that makes it.
        verdict: computed from ``numbers`` by the function that made this, never written down.
        evidence: one or two sentences with numbers.
        numbers: what the verdict rests on, by name: single numbers, or a curve as a sequence.
        reconstruction: True for what is not in the paper.

    Raises:
        ValueError: the verdict is none of ``VERDICTS``, or a number is not a finite real number.
    """

    id: str
    statement: str
    source: str
    verdict: Verdict
    evidence: str
    numbers: Mapping[str, float | Sequence[float]]
    reconstruction: bool = False

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"the verdict of {self.id} is one of {VERDICTS}; found {self.verdict!r}")
        for name, value in self.numbers.items():
            for number in value if isinstance(value, Sequence) else (value,):
                if not math.isfinite(number):
                    raise ValueError(f"the number {name!r} of {self.id} is finite; found {number!r}")


def decide(*, holds: bool, otherwise: bool = False) -> Verdict:
    """The verdict of a claim that holds as printed, that holds under a condition which is met, or that does not."""
    return HOLDS if holds else CONDITION if otherwise else FAILS


def settle(shown: Sequence[bool], contrary: Sequence[bool]) -> Verdict:
    """The verdict of a claim that is a number of statistical comparisons.

    Args:
        shown: for each comparison, whether its interval lies on the side that is claimed.
        contrary: whether it lies on the other side. An interval that includes both settles nothing.

    Returns:
        It holds if all are shown, under a condition if some are shown and others are contrary. It does not hold if some
        are contrary and none is shown. Else it is not decided.
    """
    if shown and all(shown):
        return HOLDS
    if any(contrary):
        return CONDITION if any(shown) else FAILS
    return OPEN


def read(path: Path, ours: Callable[[Any], bool], remedy: str) -> Any:
    """What a JSON file holds.

    Args:
        path: of the file.
        ours: whether what it holds is what is looked for.
        remedy: what makes the file.

    Raises:
        UsageError: the file cannot be read, is truncated or no JSON, or holds something else.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}; {remedy} makes it") from None
    except ValueError as error:
        raise UsageError(f"{path} is truncated or no JSON ({in_a_line(error)}); {remedy} makes it again") from None
    if not ours(found):
        raise UsageError(f"{path} is JSON but holds something else; {remedy} makes what is looked for")
    return found


def save(claims: Iterable[Claim], path: Path) -> None:
    """Writes claims as JSON, which `load` reads back."""
    path.write_text(json.dumps([asdict(claim) for claim in claims], indent=1) + "\n")


def load(path: Path) -> list[Claim]:
    """Claims of a file that `save` wrote.

    Raises:
        UsageError: the file cannot be read, or holds something else.
    """
    made: list[Claim] = []

    def ours(found: Any) -> bool:
        try:
            made.extend(Claim(**fields) for fields in found)
        except (TypeError, ValueError):
            return False
        return isinstance(found, list)

    read(path, ours, "the analysis of the claims")
    return made


def table(claims: Iterable[Claim], width: int = 120) -> str:
    """Claims as text: id, verdict, statement with its source, evidence below it."""
    left = 4 + 2 + max(map(len, VERDICTS)) + 2
    lines: list[str] = []
    for claim in claims:
        marked = " (reconstruction)" if claim.reconstruction else ""
        told = [*textwrap.wrap(f"{claim.statement} [{claim.source}{marked}]", width - left)]
        told += textwrap.wrap(claim.evidence, width - left, initial_indent="  ", subsequent_indent="  ")
        heads = [f"{claim.id:<4}  {claim.verdict:<{left - 8}}  ", *[" " * left] * (len(told) - 1)]
        lines += [f"{head}{text}".rstrip() for head, text in zip(heads, told, strict=True)]
    return "\n".join(lines)
