"""Can the intervals of a group be trusted? Judged by the gates of the statistics and by the run's own batches."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from scipy import stats

from estimator_lab.report.reading import alike, estimate, gate, gated, known, unestimable
from estimator_lab.statistics.group import FEWEST_BATCHES
from estimator_lab.statistics.tail import ENOUGH

if TYPE_CHECKING:
    from estimator_lab.finding import Row

TONES = {"not needed": "muted", "trusted": "good", "trusted with care": "open", "not trusted": "bad"}
"""Verdicts on intervals, from the best to the worst."""


class Trust(NamedTuple):
    """A verdict on the intervals of a group, a key of TONES, and its reason."""

    word: str
    reason: str

    @property
    def rank(self) -> int:
        """0 for the best verdict."""
        return list(TONES).index(self.word)

    @property
    def said(self) -> str:
        """The verdict with its reason."""
        return f"not needed ({self.reason})" if not self.rank else ": ".join(filter(None, self))


def normality(row: Row) -> float:
    """p-value of "the batch errors along the gradient are normal" (Shapiro and Wilk); nan without any."""
    return float(stats.shapiro(row.scores).pvalue) if len(row.scores) >= FEWEST_BATCHES else math.nan


def trust(row: Row, level: float) -> Trust:
    """The verdict on a group; batch errors that are normal are doubted with a probability of at most `level`."""
    if known(row):
        return Trust("not needed", "exact")
    if alike(row):
        return Trust("not trusted", "all draws alike, off the truth")
    if 0 < len(row.spread) <= FEWEST_BATCHES:
        return Trust("not trusted", f"{len(row.spread) - 1} batches, {FEWEST_BATCHES} needed")
    if unestimable(row):
        return Trust("not trusted", "the variance may be infinite")
    if not gated(row):
        carried = estimate(row, "effective_sample")[0]
        few = f"{carried:.0f} effective draws, {gate(row):.0f} needed"
        return Trust("not trusted", few if carried < gate(row) else "too few draws carry the error")
    if math.isnan(row.high):
        return Trust("not trusted", "the gradient may be zero")
    if normality(row) < level:
        return Trust("trusted with care", "batch errors are not normal")
    if estimate(row, "effective_sample")[0] < ENOUGH:
        return Trust("trusted with care", f"fewer than {ENOUGH:.0f} effective draws")
    if math.isnan(estimate(row, "variance")[1]):
        return Trust("trusted with care", "single draws carry the variance")
    return Trust("trusted", "")


def least_trusted(rows: Iterable[Row], level: float) -> tuple[Trust, Row] | None:
    """The worst verdict among rows and the row that has it, of several the one with the fewest effective draws."""

    def rank(pair: tuple[Trust, Row]) -> tuple[int, float]:
        carried = estimate(pair[1], "effective_sample")[0]
        return -pair[0].rank, carried if carried == carried else math.inf

    return min(((trust(r, level), r) for r in rows), key=rank, default=None)
