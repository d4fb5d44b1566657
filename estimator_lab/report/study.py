"""A study that is no diagnosis as a PDF of the same kind: sections of paragraphs, figures and tables."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from estimator_lab.report import _pdf
from estimator_lab.report.pages import Pages, _methods, _walk
from estimator_lab.report.pages import method as method
from estimator_lab.report.rounding import rounded
from estimator_lab.report.story import Block, Story
from estimator_lab.report.wording import percent
from estimator_lab.statistics.group import GATE, WIDE_GATE

if TYPE_CHECKING:
    from estimator_lab.diagnosis import Diagnosis


@dataclass
class Study:
    """The pages of a study, a pure function of its saved results.

    Attributes:
        kind: word above the title.
        title: of the document.
        subtitle: in one line, what was studied.
        created: ISO date.
        results: what was saved, in the form that identifies it; the digest is its hash.
        command: what reproduces it.
        facts: names and values below the title.
        tone: colour of the box: "good", "bad", "open" or "calm".
        headline: the finding in one sentence.
        lines: what else the box says: heads (or "") with their lines.
        sections: titles with their blocks; one without blocks is left out.
        diagnosis: one whose methods are explained at the end, or None.
        methods: those that are explained if there is no diagnosis, each made by ``method``.
        margin: relative bias that counted as small.
        alpha: false-alarm rate.
        appendix: title and table of all results, or None.
        notes: what else the reader has to know.
        environment: versions and machine.
        figures: by file name, in order of appearance; ``figure`` fills it.
    """

    kind: str
    title: str
    subtitle: str
    created: str
    results: str
    command: str
    facts: Sequence[tuple[str, str]] = ()
    tone: str = "calm"
    headline: str = ""
    lines: Sequence[tuple[str, Sequence[str]]] = ()
    sections: Sequence[tuple[str, Iterable[Block]]] = ()
    diagnosis: Diagnosis | None = None
    methods: Sequence[Mapping[str, str]] = ()
    margin: float = 0.05
    alpha: float = 0.01
    appendix: tuple[str, Block] | None = None
    notes: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)

    def figure(self, drawn: Axes | Figure, alt: str, caption: str) -> Block:
        """A figure as a block."""
        figure = drawn if isinstance(drawn, Figure) else drawn.get_figure(root=True)
        assert figure is not None
        name = f"figure-{len(self.figures) + 1}.svg"
        self.figures[name] = figure
        return {"kind": "figure", "file": name, "alt": alt, "caption": caption}

    def render(self) -> bytes:
        """The PDF; the same results give the same bytes within one version of typst and matplotlib."""
        digest = hashlib.sha256(self.results.encode()).hexdigest()
        title, everything = self.appendix or ("", None)
        methods = _methods(Story(self.diagnosis)) if self.diagnosis else [dict(m) for m in self.methods]
        sections = [(head, [b for b in blocks if b]) for head, blocks in self.sections]
        data: dict[str, Any] = {
            "kind": self.kind,
            "title": self.title,
            "subtitle": self.subtitle,
            "date": self.created,
            "digest": digest,
            "facts": [["Digest", digest[:8]], ["Date", self.created], *map(list, self.facts)],
            "verdict": {
                "tone": self.tone,
                "headline": self.headline,
                "blocks": [{"head": head, "tone": "plain", "lines": list(said)} for head, said in self.lines],
                "parts": [],
            },
            "cover": False,
            "sections": [{"title": head, "blocks": blocks} for head, blocks in sections if blocks],
            "theory": bool(methods),
            "methods": methods,
            "margin": percent(self.margin),
            "alpha": rounded(self.alpha),
            "gate": f"{GATE:.0f} (in several dimensions {WIDE_GATE:.0f})",
            "all-title": title,
            "all": everything,
            "notes": list(self.notes),
            "environment": [[k, v] for k, v in self.environment.items()],
            "command": self.command,
        }
        moment = datetime.datetime.fromisoformat(self.created[:10] + "T12:00:00").replace(tzinfo=datetime.UTC)
        return _pdf(Pages(_walk(data), self.figures), moment)
