"""What a paper claims, and what was found of it: the form that the analyses of both founding papers share."""

import json
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

Verdict = Literal["holds", "holds with a condition", "does not hold"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
HOLDS, CONDITION, FAILS = VERDICTS


@dataclass(frozen=True)
class Claim:
    """One claim of a paper, with its verdict.

    Attributes:
        id: "A1", "E3", "B9", ...
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


def save(claims: Iterable[Claim], path: Path) -> None:
    """Writes claims as JSON, which `load` reads back."""
    path.write_text(json.dumps([asdict(claim) for claim in claims], indent=1) + "\n")


def load(path: Path) -> list[Claim]:
    """Claims of a file that `save` wrote."""
    return [Claim(**fields) for fields in json.loads(path.read_text())]


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
