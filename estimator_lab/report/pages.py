"""A diagnosis as the data of the report's pages.

`build` returns the JSON data for `report.typ` and the figures it names. The data are sections of blocks (paragraph,
heading, figure, table, matrix); the template knows how a block looks and nothing of what it says. Every sentence with
a number or a comparison is computed from the diagnosis: the verdict box in `verdict`, the rest in `sections`.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from matplotlib.figure import Figure

from estimator_lab.report.figures.style import capped
from estimator_lab.report.legible import legible
from estimator_lab.report.rounding import count, rounded
from estimator_lab.report.sections import CHAPTERS
from estimator_lab.report.sections.reach import every_group
from estimator_lab.report.story import Story
from estimator_lab.report.verdict import verdict
from estimator_lab.report.wording import listed, pair, percent, plural
from estimator_lab.statistics.group import GATE, WIDE_GATE

if TYPE_CHECKING:
    from estimator_lab.diagnosis import Diagnosis
    from estimator_lab.finding import Finding

COVER = 8  # findings from which on the first page is a cover with a table of contents
NOTES = 40


class Pages(NamedTuple):
    """The data of the template and the figures it names, in order of appearance."""

    data: dict[str, Any]
    figures: dict[str, Figure]


def build(diagnosis: Diagnosis) -> Pages:
    """The pages of a diagnosis; pure, costs a fraction of a second for each figure."""
    s = Story(diagnosis)
    chapters = [c for c in CHAPTERS if c.many in (None, s.many)] if s.findings else []
    data = {
        "kind": "diagnosis",
        "title": diagnosis.title,
        "subtitle": _subtitle(s) if s.findings else "",
        "date": diagnosis.created[:10],
        "digest": s.digest,
        "facts": _facts(s),
        "verdict": verdict(s),
        "cover": len(s.findings) >= COVER,
        "sections": [{"title": c.title, "blocks": blocks} for c in chapters if (blocks := c.blocks(s))],
        "theory": True,
        "methods": _methods(s),
        "margin": percent(s.margin),
        "alpha": rounded(s.alpha),
        "gate": f"{GATE:.0f} (in several dimensions {WIDE_GATE:.0f})",
        "all-title": "Results for every group",
        "all": every_group(s) if s.findings else None,
        "notes": _notes(s),
        "environment": [[k, v] for k, v in diagnosis.environment.items()],
        "command": diagnosis.command,
    }
    return Pages(_walk(data), s.figures)


def stamp(diagnosis: Diagnosis) -> datetime.datetime:
    """The time of the diagnosis, in UTC; noon for a bare date.

    Raises:
        ValueError: if `created` is not an ISO date.
    """
    text = diagnosis.created
    moment = datetime.datetime.fromisoformat(text + "T12:00:00" if len(text) == 10 else text)
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)


def _walk(value: Any, lines: bool = False) -> Any:
    """The data with every string legible; mathematics stays as it is."""
    if isinstance(value, str):
        return legible(value, lines)
    if isinstance(value, Mapping):
        return {k: v if k == "math" else _walk(v, k in ("command", "raw")) for k, v in value.items()}
    return [_walk(v) for v in value] if isinstance(value, list | tuple) else value


def _subtitle(s: Story) -> str:
    if s.single:
        return pair(s.findings[0])
    estimators = s.estimators[0] if len(s.estimators) == 1 else f"{len(s.estimators)} estimators"
    return f"{estimators} on {s.problems[0] if len(s.problems) == 1 else plural(len(s.problems), 'problem')}"


def _facts(s: Story) -> list[list[str]]:
    drawn = sorted({f.replicates for f in s.findings}) or [0]
    seeds = sorted({f.seed for f in s.findings})
    tests = sum(r.tested for f in s.sampled for r in f.rows)
    facts = [["Estimators", count(len(s.estimators))], ["Problems", count(len(s.problems))]] if not s.single else []
    return [
        ["Digest", s.digest[:8]],
        ["Date", s.diagnosis.created[:10]],
        *facts,
        ["Replicates", count(drawn[0]) if len(drawn) == 1 else f"{count(drawn[0])} – {count(drawn[-1])}"],
        ["Seed", str(seeds[0]) if len(seeds) == 1 else f"{len(seeds)} seeds"],
        ["Tests", f"{count(tests)}, Holm at {rounded(s.alpha)}" if tests else "none, exact"],
        ["Margin", percent(s.margin)],
    ]


def method(estimator: str, about: Mapping[str, str], claim: bool | None) -> dict[str, str]:
    """An estimator as the methods of a report show it.

    Args:
        estimator: its repr.
        about: what `estimator_lab.estimator.about` says; the equation is typeset only where it is trusted.
        claim: whether it is declared unbiased; None without a claim.
    """
    equation, trusted = about.get("equation", ""), about.get("trusted") == "yes"
    return {
        "name": about.get("name") or estimator,
        "repr": estimator,
        "math": equation if trusted else "",
        "raw": "" if trusted else equation,
        "claim": {True: "declared unbiased", False: "declared biased", None: "no claim about bias"}[claim],
        **{k: about.get(k, "") for k in ("reason", "source", "cost")},
    }


def _methods(s: Story) -> list[dict[str, str]]:
    """What is said of each method, its settings together; an equation is typst source only where it is trusted."""
    settings: dict[tuple[str, ...], list[Finding]] = {}
    for f in s.findings:
        said = tuple(f.about.get(k, "") for k in ("name", "equation", "reason", "source", "cost", "trusted"))
        settings.setdefault(said if said[0] else (f.estimator, *said[1:]), []).append(f)
    out = []
    for members in settings.values():
        names = ", ".join(dict.fromkeys(f.estimator for f in members))
        out.append(method(names, members[0].about, members[0].claim))
    return out


def _notes(s: Story) -> list[str]:
    notes: dict[str, list[str]] = {}
    for f in s.findings:
        for note in f.notes:
            notes.setdefault(note, []).append(pair(f))
    lines = [note if s.single else f"{listed(owners, 4)}: {note}" for note, owners in notes.items()]
    lines += s.diagnosis.skipped
    shown, left = capped(lines, NOTES, "notes")
    return [*shown, *([f"{left}; the saved diagnosis has them all."] if left else [])]
