"""The sections of a report, each a function of the story that returns blocks, in the order of CHAPTERS.

To add a figure: write a function of findings in a file of its own under `estimator_lab.report.figures`, and add a line
to CHAPTERS: `Chapter("Title", plate(new.figure))` shows it under the first paragraph of its docstring. A section that
has more to say is a function in a file here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from estimator_lab.report.sections import convergence, cost, layers, reach, summary, trust, units
from estimator_lab.report.story import Block, Story

if TYPE_CHECKING:
    from estimator_lab.finding import Finding


class Chapter(NamedTuple):
    """A section: its title, its blocks, and whether it is for reports of many problems, of few, or (None) of any."""

    title: str
    blocks: Callable[[Story], list[Block]]
    many: bool | None = None


def plate(draw: Callable[[Sequence[Finding]], Axes | Figure]) -> Callable[[Story], list[Block]]:
    """A section of one figure of all findings; its caption is the first paragraph of the function's docstring."""
    caption = " ".join((inspect.getdoc(draw) or draw.__name__).split("\n\n")[0].split())
    return lambda story: [story.figure(draw(story.findings), caption, caption)]


CHAPTERS: tuple[Chapter, ...] = (
    Chapter("Summary", summary.summary),
    Chapter("Relative bias by group", summary.by_group, many=False),
    Chapter("Convergence", convergence.convergence),
    Chapter("Variance against cost", cost.cost),
    Chapter("Layer by layer", layers.layers),
    Chapter("Unit by unit", units.units),
    Chapter("Resolution", reach.resolution),
    Chapter("Can the intervals be trusted?", trust.intervals),
    Chapter("Ground truth", reach.truth),
    Chapter("Problem by problem", summary.one_by_one, many=True),
)
