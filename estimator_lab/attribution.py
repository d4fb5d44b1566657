"""Where in the network an estimator goes wrong: its bias and noise by the site that causes them, and with depth."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from estimator_lab import doors
from estimator_lab.chain import Key
from estimator_lab.conclusion import percent
from estimator_lab.errors import NotConverged, TooLarge, UsageError
from estimator_lab.estimator import Estimator, about
from estimator_lab.estimators import ControlledFlips, Exact, MaskScore, Pathwise, PerSite
from estimator_lab.evaluation import EPSILON, LEVELS, find, group_of
from estimator_lab.expectation import LIMIT, Expectation, expectation
from estimator_lab.families import Discrete, Family, StochasticTimesSmooth
from estimator_lab.finding import Finding, Row
from estimator_lab.measurement import Measurement, prepare
from estimator_lab.problem import Problem
from estimator_lab.record import Layout, Record
from estimator_lab.statistics import Estimate, jackknife
from estimator_lab.statistics.bias import TRUTH_SHARE, norm_interval
from estimator_lab.statistics.gram import Array, Gram
from estimator_lab.statistics.group import CANCELLATION, FEWEST_BATCHES, FLOOR, GATE, WIDE_GATE, carrying
from estimator_lab.statistics.pairing import contraction
from estimator_lab.statistics.spread import variances
from estimator_lab.truth import Truth

if TYPE_CHECKING:
    import pandas as pd

REPLICATES = 2**14
"""Draws of each choice of estimators whose expectation is not summed."""

STATES = 2**12
"""Joint states, at most, of all sites whose sums are the reference when nothing else is said."""

WORK = 2**24
"""Evaluations of the loss, at most, that an exact expectation may take."""

LEVEL = 0.95
"""Coverage of each interval by itself."""

RESOLVED = 0.5
"""A share has an interval where the lower end of the total bias is above this part of it."""

LEAST = 1e-4
"""Shares below this are not told apart in words."""

CROSSED = 0.05
"""An interaction below this share of the bias is not told in words."""

REFERENCE, ALL, INTERACTION = "the reference", "all sites", "interaction"
UNKNOWN = Estimate(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Effect:
    """What one cause does to one group of gradients.

    Attributes:
        cause: a site; or "the reference" (at all sites), "all sites" (the estimator at all of them), "interaction".
        kind: "added" (the estimator at this site and all earlier ones, less at the earlier ones only), "alone" (at this
            site only), or "reference", "total" and "interaction" for the causes of these names.
        level: where it is seen: "site" (unit gradients), "layer" (the weights that feed a site) or "total".
        name: of that site or layer.
        bias: norm of the effect on the mean gradient, debiased for noise.
        relative_bias: the same over the norm of the true gradient.
        share: part of the total bias that it makes up, ``<effect, total bias> / ||total bias||^2``; may be negative.
            nan where the total bias is not resolved.
        variance: what it adds to the variance of one draw (trace); of "all sites" and "the reference" their own.
        verdict: of the effect, as a relative bias: "exact" (none, to rounding), "unbiased within" the margin, "biased
            beyond" it, "biased" or "undecided".
    """

    cause: str
    kind: str
    level: str
    name: str
    bias: Estimate
    relative_bias: Estimate
    share: Estimate
    variance: Estimate
    verdict: str


@dataclass(frozen=True)
class Attribution:
    """The bias and noise of an estimator by the site that causes them.

    Attributes:
        problem: short name.
        estimator: short name.
        reference: short name of what ran at the other sites.
        sites: names, in the order they are drawn.
        groups: (level, name) of what is seen: unit gradients, weights, and all of them.
        effects: one for each cause, kind and group.
        truth: how the truth was found, in words.
        exact: how many of the measured choices of estimators have an expectation that was summed exactly.
        runs: how many choices were measured.
        replicates: draws of each of the others.
        seed: of the draws.
        margin: relative bias that counts as small.
        alpha: chance that any effect which is none is called a bias; intervals are 95 % each.
        notes: what the runs had to say.
    """

    problem: str
    estimator: str
    reference: str
    sites: tuple[str, ...]
    groups: tuple[tuple[str, str], ...]
    effects: tuple[Effect, ...]
    truth: str
    exact: int
    runs: int
    replicates: int
    seed: int
    margin: float
    alpha: float
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        return (
            f"<Attribution of {self.estimator} on {self.problem}: {len(self.sites)} sites, {len(self.effects)} effects>"
        )

    @cached_property
    def _index(self) -> dict[tuple[str, str, str, str], Effect]:
        return {(e.cause, e.kind, e.level, e.name): e for e in self.effects}

    def effect(self, cause: str, level: str = "total", name: str | None = None, kind: str = "added") -> Effect:
        """One effect; ``kind`` tells "added" from "alone" and is not needed for causes that are no sites.

        Raises:
            KeyError: there is none.
        """
        kind = {REFERENCE: "reference", ALL: "total", INTERACTION: "interaction"}.get(cause, kind)
        name = next((n for found, n in self.groups if found == level), "") if name is None else name
        try:
            return self._index[cause, kind, level, name]
        except KeyError:
            raise KeyError(
                f"no effect of {cause!r} ({kind}) at {level!r} {name!r}; causes are {self.sites} and "
                f"{(REFERENCE, ALL, INTERACTION)}, groups {self.groups}"
            ) from None

    def to_frame(self) -> "pd.DataFrame":
        """Tidy frame: one row per cause, kind, group and statistic, with its interval."""
        import pandas as pd

        rows = [
            {
                "problem": self.problem, "estimator": self.estimator, "reference": self.reference,
                "cause": e.cause, "kind": e.kind, "level": e.level, "name": e.name, "verdict": e.verdict,
                "statistic": name, "value": found.value, "low": found.low, "high": found.high,
            }
            for e in self.effects
            for name in ("bias", "relative_bias", "share", "variance")
            for found in [getattr(e, name)]
        ]  # fmt: skip
        return pd.DataFrame(rows)

    def summary(self) -> str:
        """Where the bias and the noise of each layer, and of all weights, come from: two sentences each.

        Groups of which the same is said, such as the steps of a recurrence with the same weights, share a line.
        """
        shown = [g for g in self.groups if g[0] == "layer"] or [g for g in self.groups if g[0] == "site"]
        lines: dict[str, list[tuple[str, str]]] = {}
        for group in [*shown, *(g for g in self.groups if g[0] == "total")]:
            lines.setdefault(self._sentence(*group), []).append(group)
        return "\n".join(f"{_places(groups)}: {said}" for said, groups in lines.items())

    def _sentence(self, level: str, name: str) -> str:
        whole = self.effect(ALL, level, name)
        parts = [(site, self.effect(site, level, name)) for site in self.sites]
        size = whole.relative_bias
        if whole.verdict == "exact":
            said = "no bias"
        elif math.isnan(whole.share.value):
            known = math.isfinite(size.high)
            said = f"no bias found, at most {_few(size.high)} %" if known else "bias not estimable"
        else:
            said = f"a bias of {_told(size)} of the gradient's norm"
            if len(self.sites) > 1:
                said += "; " + _listed([(e.share, site) for site, e in parts], "it")
            together = self.effect(INTERACTION, level, name)
            crossed = together.share
            resolved = together.verdict.startswith("biased") and not crossed.low <= 0 <= crossed.high
            if len(self.sites) > 1 and abs(crossed.value) >= CROSSED and resolved:
                said += (
                    "; a separate count, with the estimator at one site at a time and the reference at all others,"
                    f" leaves {_told(crossed)} of it to sites acting together"
                )
        variance = whole.variance.value
        if not variance > 0:
            return f"{said}. {'No noise.' if variance == 0 else 'Its variance is not estimable.'}"
        own = self.effect(REFERENCE, level, name).variance.value
        if len(self.sites) == 1:
            return f"{said}." if own <= 0.005 * variance else f"{said}. Its variance is {_times(variance / own)}."
        if own <= 0.005 * variance:
            noise = _listed([(e.variance, site) for site, e in parts], "the variance", variance)
            return f"{said}. Of the noise, {noise}."
        noise = _listed([(e.variance, site) for site, e in parts], "it", variance, own)
        return f"{said}. Its variance is {_times(variance / own)}; {noise}."


def _times(ratio: float) -> str:
    """A variance beside that of the reference."""
    return f"{'that' if abs(ratio - 1) < 0.005 else f'{ratio:.3g} times that'} of the reference"


def _listed(parts: Sequence[tuple[Estimate, str]], of: str, whole: float = 1.0, base: float = 0.0) -> str:
    """Parts of a whole from the largest to the smallest, without those that round to nothing.

    ``base`` is what the reference has of the whole, which together with all parts makes it up.
    """
    shown = sorted(((e, name) for e, name in parts if not abs(e.value / whole) < 0.005), key=lambda p: -p[0].value)
    if not shown:
        return f"no single site adds to {of}"
    (first, name), *rest = shown
    said = [f"{_told(first, whole)} of {of} comes from {name}", *(f"{_told(e, whole)} from {n}" for e, n in rest)]
    if base:
        said.append(f"{_few(base / whole)} % is the reference's own")
    against = any((e.value if math.isnan(e.high) else e.high) < -0.005 * whole for e, _ in shown)
    beyond = any((e.value if math.isnan(e.low) else e.low) > 1.005 * whole for e, _ in shown)
    return ", ".join(said) + " (parts partly cancel)" * (against or beyond)


def _places(groups: Sequence[tuple[str, str]]) -> str:
    """Names of groups of which the same is said."""
    names = [_place(*g) for g in groups]
    for k in range(len(names) - 1, 0, -1):  # "the weights of h1 and h2"
        if groups[k][0] == groups[k - 1][0] == "layer":
            names[k] = names[k].removeprefix("the weights of ")
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]} alike"


def _place(level: str, name: str) -> str:
    kinds = {"site": f"the units of {name}", "layer": f"the weights of {'the ' * (name == 'loss')}{name}"}
    return kinds.get(level, f"all {name}")


def _told(found: Estimate, unit: float = 1.0) -> str:
    """In per cent of a unit, with the interval in brackets where there is one."""
    value, low, high = (v / unit for v in (found.value, found.low, found.high))
    if math.isnan(value):
        return "an unknown part"
    if value and max(abs(value), abs(low), abs(high)) < LEAST:
        return "below 0.01 %"
    return f"{_few(value)} %" + (
        f" [{_few(low)}, {_few(high)}]" if math.isfinite(low + high) and _few(low) != _few(high) else ""
    )


def _few(value: float) -> str:
    """Per cent to two digits, nothing below the least."""
    shown = round(value, 4)
    return "−" * (shown < 0) + percent(abs(shown)).removesuffix(" %")


def reference_for(problem: Problem) -> Estimator:
    """What runs at the sites that are not blamed: exact sums of at most 4096 joint states, else the least noisy.

    That is controlled flips at discrete sites, and the pathwise gradient at others: with the score of the mask for
    stochastic times smooth.
    """
    states = math.prod(site.family.rule_size(Exact().nodes) ** math.prod(site.units) for site in problem.sites)
    if states <= STATES:
        return Exact()

    def at(family: Family) -> Estimator:
        if isinstance(family, Discrete):
            return ControlledFlips()
        return MaskScore() if isinstance(family, StochasticTimesSmooth) else Pathwise()

    chosen = {site.name: at(site.family) for site in problem.sites}
    kinds = list(dict.fromkeys(chosen.values()))
    return kinds[0] if len(kinds) == 1 else PerSite(chosen)


# ---------------------------------------------------------------------- the measured choices
@dataclass(frozen=True, eq=False)
class _Run:
    """Gradients under one choice of estimators.

    Attributes:
        batches: ``[K, d]`` batch means, or ``[1, d]`` where the mean is known.
        known: the exact moments behind it, or None.
        record: the draws behind it, or None.
        truth: that it is, or None.
        ratio: variances are those of ``record`` times this.
    """

    batches: Array
    known: Expectation | None = None
    record: Record | None = None
    truth: Truth | None = None
    ratio: float = 1.0

    @property
    def certain(self) -> bool:
        """Whether the mean is known without noise."""
        return len(self.batches) == 1

    def spread(self, key: Key, columns: NDArray[np.intp], floor: Array, anchor: Truth) -> Array:
        """``[1 + K]`` variance of one draw, from all batches and without each in turn; ``[1]`` where it is known."""
        if self.known is not None:
            own = self.known.moments.variance[columns]
            return np.array([float(np.where(np.sqrt(own) <= floor, 0.0, own).sum())]) * self.ratio
        assert self.record is not None
        group = group_of(self.record, anchor, key)
        if self.certain or group.still:
            return np.zeros(1)
        return (variances(group) if not group.heavy else np.full(len(self.batches) + 1, math.nan)) * self.ratio

    def carried(self, key: Key, members: Sequence[Key]) -> bool:
        """Whether enough batches, and enough draws in them, carry the error of the mean of a group."""
        if self.certain or (self.record is None and self.truth is None):
            return True
        if self.truth is not None:
            draws, size = self.truth.carried(members), sum(self.truth.mean[k].size for k in members)
        else:
            assert self.record is not None
            own = self.record[key]
            draws, size = carrying(self.record.replicates, own.variance, own.kurtosis), own.mean.size
        return len(self.batches) >= FEWEST_BATCHES and draws >= (GATE if size == 1 else WIDE_GATE)


def _run(
    measurement: Measurement, budget: int, ratio: float, progress: Callable[[int, int], None] | None = None
) -> _Run:
    """The exact moments of a measurement where they can be summed at a bearable cost, else draws."""
    tally = getattr(measurement.source, "tally", None)
    known = expectation(measurement, int(min(LIMIT, WORK / max(tally.losses, 1.0)))) if tally else None
    size = measurement.layout.size
    if known is not None:
        return _Run(known.moments.mean[None, :size], known=known, ratio=ratio)
    record = measurement.run(budget, progress)
    batches = record.means[:, :size] if record.random else record.moments.mean[None, :size]
    return _Run(batches, record=record, ratio=ratio)


def _truth(problem: Problem, given: Truth | None) -> Truth | None:
    if given is not None:
        return given
    try:
        return Truth.exact(problem)
    except (TooLarge, NotConverged):
        return None


def attribute(
    estimator: Estimator,
    on: Problem,
    *,
    reference: Estimator | None = None,
    truth: Truth | None = None,
    seed: int = 0,
    budget: int = REPLICATES,
    margin: float = 0.05,
    alpha: float = 0.01,
    progress: Callable[[str, int, int], None] | None = None,
) -> Attribution:
    """Which site causes the bias and the noise that are seen at each layer.

    Let E(S) be the mean gradient with the estimator at the sites S and an unbiased reference at all others. Two
    decompositions of the total bias ``E(all) - g`` are measured:

    - added: ``E(1..s) - E(1..s-1)``, what site s brings in when the sites before it already run the estimator. These
      add up to the total bias by construction, and so do their shares and variances (with the reference's).
    - alone: ``E({s}) - g``; what is left, ``E(all) - g - sum_s (E({s}) - g)``, is the interaction.

    An estimator that samples its layer's own law changes gradients of its own site and, through the value it passes
    on, of earlier sites: all effects on later ones are zero. They reach an earlier site only if that one passes
    gradients on. `Exact` and `ControlledFlips` on finite units do not, they compare values of the loss: there site s
    alone is seen at s only, and what straight-through, say, does to the layers before is in "added" and "interaction".

    All choices get the same random numbers, and their differences are taken batch by batch; g is the truth, or the mean
    of the reference's own draws where the total bias scatters less about that. Where the expectation of a
    choice can be summed (see `expectation`) it has no noise, and what rests on such choices only has no interval.
    Norms are debiased and have the interval of rule B, shares and variances that of the jackknife.

    Args:
        estimator: what is blamed.
        on: the problem.
        reference: unbiased; runs at the other sites. By default see `reference_for`.
        truth: by default summed exactly, or where that is too large the mean of the reference's own draws.
        seed: same seed, same result.
        budget: draws of every choice that cannot be summed.
        margin: relative bias that counts as small.
        alpha: chance that any effect which is none is called a bias.
        progress: called with what is being measured, replicates drawn and replicates planned.

    Raises:
        UsageError: the reference makes no claim to be unbiased, or needs other paths than the estimator; estimator and
            problem do not go together; a level means nothing.
        MeasurementError: a gradient is not finite, or replicates are not independent.

    Cost: 2 S measurements for S > 1 sites.
    """
    if not (margin > 0 and 0 < alpha < 1):
        raise UsageError(f"margin is positive and alpha between 0 and 1; found margin={margin}, alpha={alpha}")
    call = "attribute(estimator, on=problem)"
    estimator, on = doors.an_estimator(estimator, call), doors.a_problem(on, call)
    if reference is not None:
        reference = doors.an_estimator(reference, call)
    reference = reference or reference_for(on)
    if reference.unbiased is not True:
        raise UsageError(f"a reference is unbiased; {reference!r} does not claim to be: use Exact() or the default")
    if estimator.paths % reference.paths:
        raise UsageError(
            f"{reference!r} has {reference.paths} paths and {estimator!r} {estimator.paths}: the variance of one draw "
            "would not be the estimator's own; use a reference of one path"
        )
    sites = tuple(site.name for site in on.sites)
    prefixes = [frozenset(sites[:k]) for k in range(len(sites) + 1)]
    choices = list(dict.fromkeys([*prefixes, *(frozenset({s}) for s in sites)]))
    prepared: dict[frozenset[str], Measurement] = {}
    for on_sites in choices:
        mixed = PerSite({s: estimator for s in sites if s in on_sites}, reference)
        chosen = reference if not on_sites else estimator if len(on_sites) == len(sites) else mixed
        prepared[on_sites] = prepare(on, chosen, seed=seed)
    layout = prepared[prefixes[0]].layout
    if progress:
        progress(f"truth of {on.label}", 0, 0)
    target = _truth(on, truth)
    if target is not None and (found := {k: v.shape for k, v in target.mean.items()}) != dict(layout.shapes):
        raise UsageError(
            f"the truth that was given is not that of {on!r}: it has gradients of shapes {found}, and not "
            f"{dict(layout.shapes)}; give one of units and weights, or none"
        )
    exact = target is not None and target.is_exact
    anchor = target if target and exact else Truth.given({k: np.zeros(s) for k, s in layout.shapes.items()})
    flat = np.concatenate([np.asarray(anchor.mean[k], dtype=np.float64).ravel() for k in layout.shapes])
    largest = min(m.plan.largest for m in prepared.values())  # equal blocks: equal random numbers, batch by batch
    runs = {}
    for s, m in prepared.items():
        named = f"{estimator.label} at {', '.join(n for n in sites if n in s)}" if s else reference.label
        steps = partial(progress, f"{named} on {on.label}") if progress else None
        if steps:
            steps(0, 0)
        measurement = replace(m, plan=replace(m.plan, largest=largest), reference=flat)
        runs[s] = _run(measurement, budget, 1.0 if s else reference.paths / estimator.paths, steps)
    if target is None:
        base, words = runs[frozenset()], f"estimated: {reference.label}, {budget} replicates"
    else:
        batches = target.batches(tuple(layout.shapes))
        base, words = _Run(flat[None] if batches is None else batches, truth=target), target.words
    records = [run.record for run in runs.values() if run.record]
    ledger = _Ledger(layout, sites, runs, base, anchor, EPSILON[prepared[prefixes[0]].plan.dtype], margin)
    kinds = ("unit", "layer", "total")
    groups = [key for key in layout.groups if key[0] in kinds]
    level = alpha / (len(groups) * (2 * len(sites) + 3))  # effects of a group
    return Attribution(
        on.label,
        estimator.label,
        reference.label,
        sites,
        tuple((LEVELS[kind], name) for kind, name in groups),
        tuple(itertools.chain.from_iterable(ledger.effects(key, level) for key in groups)),
        words,
        sum(run.certain for run in runs.values()),
        len(runs),
        max((record.replicates for record in records), default=0),
        seed,
        margin,
        alpha,
        tuple(dict.fromkeys(note for record in records for note in record.notes)),
    )


@dataclass(frozen=True, eq=False)
class _Ledger:
    """All runs of an attribution, and how effects are read off them."""

    layout: Layout
    sites: tuple[str, ...]
    runs: Mapping[frozenset[str], _Run]
    base: _Run
    anchor: Truth
    resolution: float
    margin: float

    def effects(self, key: Key, alpha: float) -> Iterable[Effect]:
        """Every effect on one group, each word at the given one-sided level."""
        columns = self.layout.columns(key)
        truth = self.base.batches[:, columns]
        floor = self._floor(columns, truth)
        count = min((len(b) for b in [truth, *(r.batches for r in self.runs.values())] if len(b) > 1), default=1)
        spreads = {s: run.spread(key, columns, floor, self.anchor) for s, run in self.runs.items()}
        sound = {run: run.carried(key, self.layout.groups[key]) for run in (self.base, *self.runs.values())}
        means = {s: _paired(run.batches[:, columns], count) for s, run in self.runs.items()}
        goal = _paired(truth, count)
        norm = _norm(goal, not self.base.certain, floor)
        prefixes = [frozenset(self.sites[:k]) for k in range(len(self.sites) + 1)]
        none, every = prefixes[0], prefixes[-1]
        alone = [frozenset({s}) for s in self.sites]
        start, zero = self._start(goal, means[none], means[every])
        ends = (start, self.runs[every])
        total = means[every] - zero
        certain, carried = all(run.certain for run in ends), all(sound[run] for run in ends)
        judge = _Judge(floor, norm, self.margin, alpha, total, certain, carried)

        def made(cause: str, kind: str, rows: Array, used: Sequence[_Run], spread: Array) -> Effect:
            bias, share, verdict = judge(rows, all(run.certain for run in used), all(sound[run] for run in used))
            relative = UNKNOWN
            if norm.value > 0:
                relative = Estimate(bias.value / norm.value, bias.low / norm.high, bias.high / norm.low)
            found = _interval(spread, kind in ("total", "reference"))
            return Effect(cause, kind, LEVELS[key[0]], key[1], bias, relative, share, found, verdict)

        run = self.runs
        yield made(REFERENCE, "reference", means[none] - goal, [self.base, run[none]], spreads[none])
        for before, after, site in zip(prefixes, prefixes[1:], self.sites, strict=False):
            first, low = (run[before], means[before]) if before else (start, zero)
            yield made(site, "added", means[after] - low, [first, run[after]], spreads[after] - spreads[before])
        for own, site in zip(alone, self.sites, strict=True):
            yield made(site, "alone", means[own] - zero, [start, run[own]], spreads[own] - spreads[none])
        yield made(ALL, "total", total, ends, spreads[every])
        rows = total - sum(means[s] - zero for s in alone)
        rest = spreads[every] - spreads[none] - sum(spreads[s] - spreads[none] for s in alone)
        yield made(INTERACTION, "interaction", rows, [*ends, *(run[s] for s in alone)], rest)

    def _start(self, truth: Array, reference: Array, every: Array) -> tuple[_Run, Array]:
        """What biases are taken from: the truth, or the reference's draws if with them the total bias scatters less.

        Both have the same expectation; the reference shares its random numbers with all other choices. What is chosen
        depends on how batches scatter about their mean, and not on that mean.
        """
        noise = [float((every - x).var(0).sum()) for x in (truth, reference)]
        return (self.base, truth) if noise[0] <= noise[1] else (self.runs[frozenset()], reference)

    def _floor(self, columns: NDArray[np.intp], truth: Array) -> Array:
        """``[d]``, difference that rounding explains: that of `ExactGroup.floor`, for all runs together."""
        g = truth.mean(0)
        loss = max((r.known.loss if r.known else r.record.loss if r.record else 0.0) for r in self.runs.values())
        own = FLOOR * np.maximum(np.abs(g), np.sqrt(np.mean(g**2)))
        rounding = sum(run.known.rounding[columns] for run in self.runs.values() if run.known)
        return np.asarray(self.resolution * np.maximum(own, CANCELLATION * loss) + rounding)


def _paired(batches: Array, count: int) -> Array:
    """Batch means as ``count`` rows; a known mean as so many equal ones."""
    if len(batches) == 1:
        return np.repeat(batches, count, 0)
    matrix = contraction(len(batches), count)
    return batches if matrix is None else matrix @ batches


def _interval(values: Array, scale: bool) -> Estimate:
    value = float(values[0])
    if values.size == 1:
        return Estimate(value, value, value)
    if values.size <= FEWEST_BATCHES or math.isnan(value):
        return Estimate(value, math.nan, math.nan)
    return jackknife.interval(values, LEVEL, log=scale)


def _norm(truth: Array, noisy: bool, floor: Array) -> Estimate:
    """``||g||``, with an interval that spends a part of the error where the truth is estimated."""
    if not noisy:
        norm = float(np.linalg.norm(truth[0]))
        norm = norm if norm > float(np.linalg.norm(floor)) else 0.0
        return Estimate(norm, norm, norm)
    gram = Gram(truth @ truth.T, truth.shape[1])
    if gram.batches < FEWEST_BATCHES or not gram.debiased > 0:
        return Estimate(0.0, 0.0, 0.0)
    tail = TRUTH_SHARE * (1 - LEVEL) / 2
    low, high = norm_interval(gram, tail, tail)
    return Estimate(math.sqrt(gram.debiased), low, high) if low > 0 else Estimate(0.0, 0.0, 0.0)


@dataclass(frozen=True, eq=False)
class _Judge:
    """Size, share and verdict of the mean of batch vectors ``[K, d]`` in one group."""

    floor: Array
    norm: Estimate
    margin: float
    alpha: float
    total: Array
    total_fixed: bool
    total_sound: bool

    def __call__(self, rows: Array, fixed: bool, sound: bool) -> tuple[Estimate, Estimate, str]:
        """Norm with its interval, share of the total, and the verdict.

        Args:
            rows: batch means of the effect.
            fixed: their mean is known without noise.
            sound: enough draws carry it for an interval.
        """
        if (np.abs(rows) <= self.floor).all():
            nothing = Estimate(0.0, 0.0, 0.0)
            return nothing, nothing if self._resolved else UNKNOWN, "exact"
        if fixed:
            size = float(np.linalg.norm(rows[0]))
            beyond = size - float(np.linalg.norm(self.floor)) > self.margin * self.norm.value > 0
            return Estimate(size, size, size), self._share(rows, True, sound), "biased beyond" if beyond else "biased"
        gram = Gram(rows @ rows.T, rows.shape[1])
        size = math.sqrt(max(gram.debiased, 0.0))
        if not sound or gram.batches < FEWEST_BATCHES:
            return Estimate(size, math.nan, math.nan), self._share(rows, False, False), "undecided"
        low, high = self._ends(gram, (1 - LEVEL) / 2)
        return Estimate(size, low, high), self._share(rows, False, True), self._verdict(gram)

    def _ends(self, gram: Gram, tail: float) -> tuple[float, float]:
        reach = float(np.linalg.norm(self.floor))
        low, high = norm_interval(gram, tail, tail)
        return max(low - reach, 0.0), high + reach

    def _verdict(self, gram: Gram) -> str:
        low, high = self._ends(gram, self.alpha)
        if high < self.margin * self.norm.low:
            return "unbiased within"
        if low > self.margin * self.norm.high > 0:
            return "biased beyond"
        return "biased" if low > 0 else "undecided"

    @cached_property
    def _size(self) -> Estimate:
        """Of the total bias; 0 where rounding explains it, open-ended where too few draws carry it."""
        if (np.abs(self.total) <= self.floor).all():
            return Estimate(0.0, 0.0, 0.0)
        if self.total_fixed:
            size = float(np.linalg.norm(self.total[0]))
            return Estimate(size, size, size)
        gram = Gram(self.total @ self.total.T, self.total.shape[1])
        if not gram.debiased > 0 or not self.total_sound or gram.batches < FEWEST_BATCHES:
            return Estimate(0.0, 0.0, math.inf)
        return Estimate(math.sqrt(gram.debiased), *self._ends(gram, (1 - LEVEL) / 2))

    @property
    def _resolved(self) -> bool:
        return self._size.low > 0

    def _share(self, rows: Array, fixed: bool, sound: bool) -> Estimate:
        """``<mean, total> / ||total||^2``, products of different batches: jackknife."""
        if not self._resolved:
            return UNKNOWN
        if fixed and self.total_fixed:
            share = float(rows[0] @ self.total[0]) / float(self.total[0] @ self.total[0])
            return Estimate(share, share, share)
        parts = jackknife.product(rows @ self.total.T) / jackknife.product(self.total @ self.total.T)
        if not sound or not self.total_sound or self._size.low < RESOLVED * self._size.value:
            return Estimate(float(parts[0]), math.nan, math.nan)
        return jackknife.interval(parts, LEVEL)


# ---------------------------------------------------------------------- depth
@dataclass(frozen=True)
class Deepening:
    """One estimator on problems with more and more stochastic layers.

    Attributes:
        estimator: short name.
        depths: number of stochastic layers, ascending.
        findings: of each depth.
    """

    estimator: str
    depths: tuple[int, ...]
    findings: tuple[Finding, ...]

    def __repr__(self) -> str:
        return f"<Deepening of {self.estimator}: {', '.join(map(str, self.depths))} stochastic layers>"

    def to_frame(self) -> "pd.DataFrame":
        """Tidy frame: for every depth, layer and statistic its value and interval.

        The columns ``layer`` and ``from_loss`` count layers from the input and from the loss, both from 1.
        """
        import pandas as pd

        rows = [
            {
                "problem": f.problem_label, "estimator": self.estimator, "depth": depth, "site": site,
                "layer": i + 1, "from_loss": depth - i, "verdict": row.verdict, "statistic": name,
                "value": found.value, "low": found.low, "high": found.high,
            }
            for depth, f in zip(self.depths, self.findings, strict=True)
            for i, site in enumerate(f.units)
            for row in [layer_row(f, site)]
            for name in ("relative_bias", "cosine_of_mean", "mean_cosine", "snr")
            for found in [row.statistics[name]]
        ]  # fmt: skip
        return pd.DataFrame(rows)

    def summary(self) -> str:
        """The first layer at every depth, a line each."""
        lines = []
        for depth, finding in zip(self.depths, self.findings, strict=True):
            found = layer_row(finding, next(iter(finding.units))).statistics
            cosines = [f"{found[k].value:.2f}".replace("-", "−") for k in ("cosine_of_mean", "mean_cosine")]
            lines.append(
                f"{depth} stochastic layer{'s' * (depth > 1)}: relative bias of the first"
                f" {_told(found['relative_bias'])}, its cosine to the truth {cosines[0]}, of a single draw {cosines[1]}"
            )
        return "\n".join(lines)


def layer_row(finding: Finding, site: str) -> Row:
    """The row of the weights that feed a site, or of its units where it has no weights of its own."""
    try:
        return finding.row("layer", site)
    except KeyError:
        return finding.row("site", site)


def deepening(
    estimator: Estimator,
    problems: Sequence[Problem],
    *,
    seed: int = 0,
    budget: int = REPLICATES,
    margin: float = 0.05,
    alpha: float = 0.01,
    progress: Callable[[str], None] | None = None,
) -> Deepening:
    """How bias, direction and signal of the first layer's gradient change with the number of stochastic layers.

    Each problem is measured by itself: exactly where the expectation of the estimator can be summed, else with
    ``budget`` draws, against a truth that is exact where possible and else estimated.

    Args:
        estimator: what is measured.
        problems: of different depth.
        seed: same seed, same result.
        budget: draws on every problem.
        margin: relative bias that counts as small.
        alpha: false-alarm rate of all problems together.
        progress: called with the label of each problem.

    Raises:
        UsageError: no problem, or two of the same depth.
    """
    call = "deepening(estimator, [problem, ...])"
    estimator, problems = doors.an_estimator(estimator, call), doors.problems(problems, call)
    depths = [len(p.sites) for p in problems]
    if not problems or len(set(depths)) < len(depths):
        raise UsageError(f"give problems with different numbers of sites, one for each depth; found depths {depths}")
    findings = []
    ordered = sorted(problems, key=lambda p: len(p.sites))
    for problem in ordered:
        if progress:
            progress(problem.label)
        truth = Truth.of(problem, seed)
        measurement = prepare(problem, estimator, seed=seed, reference=truth.mean)
        known = expectation(measurement) if truth.is_exact else None
        findings.append(
            find(
                measurement.run(budget),
                truth,
                labels=(problem.label, estimator.label),
                about=about(estimator),
                claim=estimator.unbiased,
                margin=margin,
                alpha=alpha,
                pairs=len(problems),
                expectation=known,
            )
        )
    return Deepening(estimator.label, tuple(len(p.sites) for p in ordered), tuple(findings))
