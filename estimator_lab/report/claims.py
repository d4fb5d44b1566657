"""Claims of a paper as a table: what is claimed, the verdict, the evidence."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from estimator_lab.report.rounding import power_of_ten
from estimator_lab.report.story import Block
from estimator_lab.report.wording import listed

MARKS: Mapping[str, tuple[str, str]] = {  # sign and tone of each verdict; the word stands beside them
    "holds": ("●", "good"),
    "holds with a condition": ("◐", "open"),
    "not decided": ("◇", "calm"),
    "does not hold": ("○", "bad"),
}


class Claim(Protocol):
    """What the table shows of a claim."""

    @property
    def id(self) -> str:
        """Short name, e.g. A1."""

    @property
    def statement(self) -> str:
        """What is claimed."""

    @property
    def source(self) -> str:
        """Where."""

    @property
    def verdict(self) -> str:
        """A key of ``MARKS``."""

    @property
    def evidence(self) -> str:
        """What was found."""

    @property
    def reconstruction(self) -> bool:
        """Whether this is not in the paper."""


def tally(claims: Iterable[Claim]) -> dict[str, list[str]]:
    """The ids by verdict, in the order of ``MARKS``; every verdict has an entry."""
    found: dict[str, list[str]] = {verdict: [] for verdict in MARKS}
    for claim in claims:
        found[claim.verdict].append(claim.id)
    return found


def tally_words(claims: Sequence[Claim], one: str = "statement", many: str = "") -> str:
    """How many there are of each verdict, as one sentence.

    Args:
        claims: of one kind.
        one: what one of them is called.
        many: what several are called; by default with an s.
    """
    many = many or f"{one}s"
    counts = {verdict: len(ids) for verdict, ids in tally(claims).items() if ids}
    if not counts:
        return f"No {one} was tested."
    if len(counts) == 1:
        said = _verb(len(claims), next(iter(counts)))
        return f"All {len(claims)} {many} {said}." if len(claims) > 1 else f"The {one} {said}."
    return f"Of {len(claims)} {many} {listed([f'{n} {_verb(n, verdict)}' for verdict, n in counts.items()])}."


def tally_lines(claims: Sequence[Claim]) -> list[str]:
    """One line for each verdict that occurs: sign, word and ids."""
    return [f"{MARKS[verdict][0]} {verdict}: {', '.join(ids)}" for verdict, ids in tally(claims).items() if ids]


def _verb(number: int, verdict: str) -> str:
    if verdict.startswith("not"):
        return f"{'is' if number == 1 else 'are'} {verdict}"
    return verdict if number == 1 else verdict.replace("holds", "hold", 1).replace("does not", "do not", 1)


def claims_table(
    parts: Sequence[tuple[str, Sequence[Claim]]], caption: str, figures: Mapping[str, Sequence[Block]] | None = None
) -> Block:
    """Claims with verdict and evidence; no row is divided between two pages.

    Args:
        parts: titles ("" for none) with their claims; a part without claims is left out.
        caption: of the table.
        figures: by id of a claim, figures of the same report that show more of it; they are named and linked.

    Raises:
        KeyError: a verdict is no key of ``MARKS``.
    """
    shown = figures or {}
    return {
        "kind": "claims",
        "parts": [{"name": name, "rows": [_row(c, shown.get(c.id, ())) for c in own]} for name, own in parts if own],
        "caption": caption,
    }


def typeset(words: str) -> str:
    """Numbers and formulas as they are typed in code, with the signs of print.

    >>> typeset("-0.1 to 3e-16, p^2 - sqrt(p) <= 1")
    '−0.1 to 3\u202f×\u202f10⁻¹⁶, p² − √p ≤ 1'
    """
    words = _SCIENTIFIC.sub(_power, words)
    words = re.sub(r"\b([Tt]heorem|Corollary|Proposition|[Ss]ection|Eq\.) (?=[\d(])", "\\1\u00a0", words)
    words = re.sub(r"\bsqrt(?:\((\w+)\)| (\w)\b)", lambda m: f"√{m[1] or m[2]}", words)
    words = re.sub(r"\^(\d)(?![\d.]|\w)", lambda m: power_of_ten(int(m[1]))[2:], words)
    words = re.sub(r"(?<![\w)\]−])-(?=[\d.(])| - ", lambda m: m[0].replace("-", "−"), words)
    return (
        words.replace("<=", "≤")
        .replace(">=", "≥")
        .replace("+-", "±")
        .replace("%", "\u202f%")
        .replace(" \u202f%", "\u202f%")
    )


_SCIENTIFIC = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)e([+-]?\d+)\b")


def _power(found: re.Match[str]) -> str:
    digits, exponent = found[1], int(found[2])
    if float(digits) == 0:
        return "0"
    return f"{digits}\u202f×\u202f{power_of_ten(exponent)}" if float(digits) != 1 else power_of_ten(exponent)


def _row(claim: Claim, figures: Sequence[Block]) -> dict[str, Any]:
    mark, tone = MARKS[claim.verdict]
    return {
        "id": claim.id,
        "statement": typeset(claim.statement),
        "source": typeset(claim.source),
        "reconstruction": claim.reconstruction,
        "mark": mark,
        "tone": tone,
        "verdict": claim.verdict,
        "evidence": typeset(claim.evidence),
        "see": [block["file"] for block in figures],
    }
