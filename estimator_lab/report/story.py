"""What the sections of a report are made from, a diagnosis with its index, and what they are made of, blocks."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from estimator_lab.report.reading import standing, word

if TYPE_CHECKING:
    from estimator_lab.diagnosis import Diagnosis
    from estimator_lab.finding import Finding

Block = dict[str, Any]
Column = tuple[str, str, str]  # head, alignment, width: "auto", or a share such as "1fr"
FEW = 3  # problems up to which each gets its own figures; beyond, figures show all problems at once
TONES = {"unbiased within": "good", "exact": "good", "undecided": "open", "biased": "bad", "biased beyond": "bad"}
WORDS = {"unbiased within": "within", "biased beyond": "beyond"}  # of the tables


class Story:
    """One diagnosis, indexed.

    Attributes:
        findings: with detailed verdicts, and the full repr as label wherever two things share a short one.
        figures: by file name, in order of appearance.
        sampled: those whose verdict rests on draws.
        doubt: level at which the normality of batch errors is doubted, group by group.
        single: one estimator on one problem.
        many: more problems than get figures of their own.
    """

    def __init__(self, diagnosis: Diagnosis) -> None:
        estimators = Counter(label for label, _ in {(f.estimator_label, f.estimator) for f in diagnosis.findings})
        problems = Counter(label for label, _ in {(f.problem_label, f.problem) for f in diagnosis.findings})
        self.findings = tuple(
            dataclasses.replace(
                f,
                estimator_label=f.estimator if estimators[f.estimator_label] > 1 else f.estimator_label,
                problem_label=f.problem if problems[f.problem_label] > 1 else f.problem_label,
                verdict=word(f),
            )
            for f in diagnosis.findings
        )
        self.diagnosis = diagnosis
        self.digest = diagnosis.digest
        self.problems = list(dict.fromkeys(f.problem_label for f in self.findings))
        self.estimators = list(dict.fromkeys(f.estimator_label for f in self.findings))
        self.figures: dict[str, Figure] = {}
        self.margin, self.alpha = diagnosis.margin, diagnosis.alpha
        self.sampled = [f for f in self.findings if not f.exact]
        self.doubt = self.alpha / max(1, sum(r.tested for f in self.sampled for r in f.rows))
        self.many = len(self.problems) > FEW
        self.single = len(self.findings) == 1

    def on(self, problem: str) -> list[Finding]:
        """The findings on a problem."""
        return [f for f in self.findings if f.problem_label == problem]

    def by(self, estimator: str) -> list[Finding]:
        """The findings of an estimator."""
        return [f for f in self.findings if f.estimator_label == estimator]

    def file(self, drawn: Axes | Figure) -> str:
        """Keeps a figure under a name, by which blocks call it."""
        figure = drawn if isinstance(drawn, Figure) else drawn.get_figure(root=True)
        assert figure is not None
        name = f"figure-{len(self.figures) + 1}.svg"
        self.figures[name] = figure
        return name

    def figure(self, drawn: Axes | Figure, alt: str, caption: str) -> Block:
        """A figure as a block."""
        return {"kind": "figure", "file": self.file(drawn), "alt": alt, "caption": caption}


def text(*sentences: str) -> Block:
    """A paragraph."""
    return {"kind": "text", "body": " ".join(s for s in sentences if s)}


def heading(words: str) -> Block:
    """A heading within a section."""
    return {"kind": "heading", "body": words}


def table(columns: Sequence[Column], parts: Sequence[tuple[str, Sequence[Sequence[Any]]]], caption: str) -> Block:
    """A table of parts (name or "", lines); a cell is a string or `{"text", "tone"}`."""
    return {
        "kind": "table",
        "columns": [{"head": h, "align": a, "width": w} for h, a, w in columns],
        "parts": [{"name": n, "rows": [list(r) for r in rows]} for n, rows in parts],
        "caption": caption,
    }


def muted(words: str) -> dict[str, str]:
    """A cell of lesser weight."""
    return {"text": words, "tone": "muted"}


def chip(verdict: str, declared: bool = False) -> dict[str, str]:
    """A verdict as a coloured cell, in grey where a bias is as declared."""
    tone = "calm" if declared and verdict.startswith("biased") else TONES.get(verdict, "plain")
    return {"text": WORDS.get(verdict, verdict), "tone": tone}


def verdict_chip(finding: Finding) -> dict[str, str]:
    """The verdict of a finding; white on red where it violates the claim."""
    return {
        **chip(finding.verdict, finding.claim is False),
        **({"tone": "alarm"} if standing(finding) == "violated" else {}),
    }
