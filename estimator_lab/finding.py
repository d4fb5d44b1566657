"""What was found of one estimator on one problem, as plain numbers and words."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from scipy import special

from estimator_lab.statistics import Estimate
from estimator_lab.statistics.gram import Array

DISCOVERY = 0.05
"""False discovery rate among the units of a site."""


@dataclass(frozen=True)
class Row:
    """One group of coordinates.

    Attributes:
        level: "site" (unit gradients of one site, examples times units), "layer" (the weights that feed one site, or
            "loss" for those that feed none), "weight" (one tensor), or "total".
        name: of the site, layer or weight.
        size: number of coordinates.
        statistics: by name, with 95 % intervals; see ``estimator_lab.statistics.describe``.
        p: p-value of "no bias"; after several looks the smallest, times the number of looks planned.
        p_holm: the same, adjusted for all tested rows of the finding (Holm) and all pairs of the study (Bonferroni).
        verdict: "exact", "unbiased within", "biased", "biased beyond" or "undecided".
        low: lower end of the simultaneous interval for the relative bias.
        high: its upper end.
        detectable: smallest relative bias that the test would have found with probability 0.95.
        needed: replicates that would probably decide the row; 0 when it is decided, or when none would.
        truth_needed: draws of the truth that it takes to decide the row, where the truth is too noisy for the margin;
            else 0.
        tested: True for sites and layers, which share the false-alarm rate; other rows are shown for information.
        norm: of the true gradient; where that is estimated, with the noise of the estimate removed.
        scores: of the K batches, their mean errors along the true gradient, standardised: normal where the intervals
            can be trusted. Empty without noise.
        spread: variance of one draw from all batches, and without each of the K batches in turn, for ratios of
            variances; empty without noise.
    """

    level: str
    name: str
    size: int
    statistics: Mapping[str, Estimate]
    p: float
    p_holm: float
    verdict: str
    low: float
    high: float
    detectable: float
    needed: int
    truth_needed: int
    tested: bool
    norm: float
    scores: tuple[float, ...]
    spread: tuple[float, ...]


@dataclass(frozen=True)
class Curve:
    """Relative error of the mean of n replicates: root mean square over disjoint stretches, and their 10-90 % range."""

    n: list[int]
    error: list[float]
    low: list[float]
    high: list[float]


@dataclass(frozen=True)
class Unit:
    """A unit gradient that was found to be biased.

    Attributes:
        index: ``(example, *unit, *parameter)``.
        bias: mean error, in the unit of the gradient.
        low: lower end of its interval; the expected share of such intervals that miss is at most 5 %.
        high: upper end.
    """

    index: tuple[int, ...]
    bias: float
    low: float
    high: float


@dataclass(frozen=True)
class UnitMap:
    """Unit gradients of one site, each array ``[B, *units, *theta_shape]``.

    Attributes:
        mean: of the estimates; the exact expectation where that is known.
        standard_error: of ``mean - truth``; 0 where both are exact.
        variance: of one draw.
        truth: the true gradient.
        adjusted: p-values of "no bias" for each, adjusted for a false discovery rate (Benjamini and Hochberg) within
            the site; nan throughout where the site as a whole shows no bias, since single units are tested only then.
        insufficient: how many of them too few draws carry to be tested.
        worst: the most biased of those found (adjusted p at most 5 %), largest first; at most five.
    """

    mean: Array
    standard_error: Array
    variance: Array
    truth: Array
    adjusted: Array
    insufficient: int
    worst: tuple[Unit, ...]

    def bias(self, level: float = 0.95) -> tuple[Array, Array, Array]:
        """Bias of every unit with its own interval: ``mean - truth``, low, high (normal law of the mean)."""
        gap, width = self.mean - self.truth, float(special.ndtri((1 + level) / 2)) * self.standard_error
        return gap, gap - width, gap + width

    @property
    def found(self) -> int:
        """How many units were found to be biased."""
        return int((self.adjusted <= DISCOVERY).sum())


@dataclass(frozen=True)
class Finding:
    """One estimator on one problem.

    Attributes:
        problem: repr of the problem.
        estimator: repr of the estimator.
        problem_label: short name.
        estimator_label: short name.
        about: what the estimator says of itself.
        claim: whether it declares itself unbiased.
        truth: how the truth was found, in words.
        exact: how the expectation of the estimator was found, in words, where it is known exactly; else "". Bias,
            variance and verdict are then exact, and draws only show how such means converge and what they cost.
        truth_error: relative standard error of the truth over all weights; 0 when exact.
        replicates: draws of the gradient.
        planned: draws at the last look that the budget allowed.
        looks: how often the draws were looked at; 0 where the expectation is known.
        looks_planned: how often they might have been; each has an equal share of the false-alarm rate.
        seed: of the draws.
        dtype: of the draws.
        verdict: "exact", "unbiased within", "biased" or "undecided", over all tested rows.
        status: "sound" (its claim holds within the margin, or it makes none), "violated" or "inconclusive".
        words: the verdict in a sentence.
        rows: one per group.
        units: unit gradients by site.
        curves: convergence by site and "total".
        losses: loss evaluations per replicate.
        backwards: differentiated loss evaluations per replicate.
        seconds: per replicate, of blocks of 2048 where memory allows.
        notes: what the run had to say.
        causes: what a violated claim looks like, in words, most likely first; empty otherwise, and where nothing fits.
        witness: a test in Python on the smallest problem that shows a violated claim; empty otherwise, where none of
            those tried does, and where another finding of the same estimator has it.
    """

    problem: str
    estimator: str
    problem_label: str
    estimator_label: str
    about: Mapping[str, str]
    claim: bool | None
    truth: str
    truth_error: float
    exact: str
    replicates: int
    planned: int
    looks: int
    looks_planned: int
    seed: int
    dtype: str
    verdict: str
    status: str
    words: str
    rows: tuple[Row, ...]
    units: Mapping[str, UnitMap]
    curves: Mapping[str, Curve]
    losses: float
    backwards: float
    seconds: float
    notes: tuple[str, ...]
    causes: tuple[str, ...] = field(default=(), metadata={"sparse": True})
    witness: str = field(default="", metadata={"sparse": True})

    @property
    def looks_like(self) -> str:
        """A sentence on the causes, or an empty string."""
        return f"Looks like: {'; or '.join(self.causes)}." if self.causes else ""

    def row(self, level: str, name: str | None = None) -> Row:
        """The row of a level, by name where the level has several.

        Raises:
            KeyError: there is none.
        """
        for row in self.rows:
            if row.level == level and name in (None, row.name):
                return row
        raise KeyError(f"no row {level!r} {name!r}; there are {[(r.level, r.name) for r in self.rows]}")

    @property
    def total(self) -> Row:
        """All weights together (all units, where weights were not measured)."""
        return self.row("total")
