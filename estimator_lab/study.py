"""Diagnose and compare: the two questions that people ask."""

import datetime
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from estimator_lab import doors
from estimator_lab.budget import Budget, in_bytes
from estimator_lab.chain import Key
from estimator_lab.diagnosis import Diagnosis, command_line, environment, ratios
from estimator_lab.errors import MeasurementError, UsageError, in_a_line
from estimator_lab.estimator import Estimator, about
from estimator_lab.estimators import Callback, DropIn
from estimator_lab.evaluation import find, under_test
from estimator_lab.expectation import expectation
from estimator_lab.finding import Finding
from estimator_lab.measurement import Measurement, prepare, prepare_sampler
from estimator_lab.noise import MonteCarlo, derive_seed, forked
from estimator_lab.problem import Problem
from estimator_lab.sampler import GradientSampler
from estimator_lab.statistics import Group, Looks, detectable
from estimator_lab.statistics.gains import explain_by_gains
from estimator_lab.statistics.verdict import POWER
from estimator_lab.truth import REPLICATES as TRUTH_REPLICATES
from estimator_lab.truth import Truth

Progress = Callable[[str, int, int], None]
"""Called with what is being measured, replicates drawn and replicates planned."""

MARGIN = 0.05
ALPHA = 0.01
COMPARE = "compare([estimator, ...], on=problem)"
SHOWN = 2**12
"""Draws that show convergence and cost where the expectation is known and nothing has to be decided by them."""


@dataclass(frozen=True)
class Terms:
    """What all pairs of a study have in common."""

    seed: int
    budget: Budget
    margin: float
    alpha: float
    pairs: int = 1
    exact: bool = True

    def __post_init__(self) -> None:
        """Refuses levels that mean nothing."""
        if not (self.margin > 0 and 0 < self.alpha < 1):
            raise UsageError(
                f"margin is positive and alpha between 0 and 1; found margin={self.margin}, alpha={self.alpha}"
            )

    @property
    def share(self) -> float:
        """False-alarm rate of one pair."""
        return self.alpha / self.pairs

    def find(
        self,
        measurement: Measurement,
        truth: Truth,
        estimator: Estimator | GradientSampler,
        problem: str,
        deadline: float,
        progress: Progress | None,
    ) -> Finding:
        """Draws until the verdict is settled or the budget is spent, and holds the draws against the truth."""
        label = f"{estimator.label} on {problem}"
        steps = (lambda done, total: progress(label, done, total)) if progress else None
        sizes = self.budget.looks(measurement.default_replicates)
        known = expectation(measurement) if self.exact and truth.is_exact else None
        looks, record = Looks(len(sizes)), None
        for size in sizes:
            record = measurement.extend(record, size, steps, deadline)
            known = known if known and known.allows(record.largest) else None  # a draw that no outcome explains
            if known:
                settled = size >= SHOWN
            else:
                groups = under_test(record, truth, looks.taken[0] if looks.taken else ())
                looks = looks.take(groups, self.margin, self.share)
                settled = self._settled(groups, looks)
            if record.replicates < size or (settled and self.budget.early):
                break
        assert record is not None
        found = find(
            record,
            truth,
            labels=(problem, estimator.label),
            about=about(estimator) if isinstance(estimator, Estimator) else {"name": estimator.name},
            claim=estimator.unbiased,
            margin=self.margin,
            alpha=self.alpha,
            pairs=self.pairs,
            looks=None if known else looks,
            planned=sizes[-1],
            expectation=known,
        )
        if found.status == "violated":
            found = replace(found, causes=tuple(c.words for c in explain_by_gains(under_test(record, truth))))
        aim = self.budget.precision
        if aim is None or known or self._settled(groups, looks):
            return found
        note = f"the precision was not reached: a bias of {aim:g} of the gradient might have been missed; draw more"
        return replace(found, notes=(*found.notes, note))

    def _settled(self, groups: Mapping[str, Group], looks: Looks) -> bool:
        """Whether every verdict is settled, or the precision reached."""
        if self.budget.precision is None:
            return all(map(looks.settled, groups))
        level = self.share / (len(groups) * looks.planned)
        return all(g.exact or detectable(g, level, POWER) <= self.budget.precision for g in groups.values())


def _examine_sampler(
    sampler: GradientSampler, terms: Terms, truth_replicates: int, progress: Progress | None
) -> Finding:
    if isinstance(sampler.truth, GradientSampler):
        _compare_sides(sampler, sampler.truth, terms.seed)
        steps = partial(progress, f"truth of {sampler.label}") if progress else None
        truth = Truth.sampled(sampler.truth, truth_replicates, terms.seed, steps)
    else:
        truth = Truth.given({("weight", k): v.detach().cpu().double().numpy() for k, v in sampler.truth.items()})
    measurement = prepare_sampler(sampler, seed=terms.seed, reference=truth.mean)
    return terms.find(
        measurement, truth, sampler, "black box", time.monotonic() + (terms.budget.seconds or math.inf), progress
    )


def _compare_sides(sampler: GradientSampler, truth: GradientSampler, seed: int) -> None:
    """Draws once from each side, so that a mistake is told before a long truth is drawn.

    Raises:
        UsageError: names or shapes differ.
        MeasurementError: a gradient is not finite.
    """
    sides: list[dict[Key, list[int]]] = []
    for side in (sampler, truth):
        with forked(derive_seed("sides", seed)):
            drawn = side.draw(1, MonteCarlo("sides", seed))
        if wrong := [name for (_, name), g in drawn.items() if not torch.isfinite(g).all()]:
            raise MeasurementError(
                f"{side!r}: gradients of {wrong} are NaN or infinite in the first draw; look for saturated "
                "probabilities, log(0) or a division by zero"
            )
        sides.append({k: list(v.shape[1:]) for k, v in drawn.items()})
    own, other = sides
    told = [f"{k[1]!r} has shape {own[k]} and {other[k]}" for k in own if k in other and own[k] != other[k]]
    if lacking := [k[1] for k in own if k not in other]:
        told.append(f"the truth lacks {lacking}")
    if told:
        raise UsageError(
            f"{sampler!r} and its truth {truth!r} do not fit: {'; '.join(told)}; return equal names and shapes"
        )


def diagnose(
    estimator: Estimator | GradientSampler,
    on: Problem | Sequence[Problem] | None = None,
    *,
    seed: int = 0,
    budget: int | Budget | None = None,
    truth: Truth | None = None,
    wrt: tuple[str, ...] = ("unit", "weight"),
    margin: float = MARGIN,
    alpha: float = ALPHA,
    exact: bool = True,
    truth_replicates: int = TRUTH_REPLICATES,
    progress: Progress | None = None,
) -> Diagnosis:
    """Is this estimator right, and what does it cost?

    Args:
        estimator: an ``Estimator``, or a ``GradientSampler``, which brings its own truth.
        on: problems; by default all toys that its families allow.
        seed: same seed, same result.
        budget: replicates per problem at most, or a ``Budget``; by default 65536, 16384 for gradients of over 1000
            coordinates, 4096 of over 100000. Draws stop as soon as the verdict is settled; ``Budget(..., early=False)``
            draws them all.
        truth: the truth to use (for a single problem); by default exact where possible, else estimated.
        wrt: "unit" and/or "weight".
        margin: relative bias that counts as small.
        alpha: chance that an unbiased estimator is called biased on any of the problems.
        exact: compare expectations themselves where the random numbers of the estimator can be summed out; else all
            verdicts rest on draws.
        truth_replicates: draws of a truth that has to be estimated.
        progress: called as replicates are drawn.

    Returns:
        A diagnosis with one finding per problem.

    Raises:
        UsageError: estimator and problem do not go together, or something has a wrong shape.
        MeasurementError: a gradient is not finite, or replicates are not independent.
    """
    if isinstance(estimator, GradientSampler):
        if on is not None or truth is not None:
            raise UsageError(f"{estimator!r} brings its own problem and truth; leave `on` and `truth` out")
        terms = Terms(seed, _budget(budget, True), margin, alpha)
        found = _examine_sampler(estimator, terms, truth_replicates, progress)
        return gather([found], estimator.label, margin=margin, alpha=alpha)
    several = "use lab.compare for several"
    return compare(
        [doors.an_estimator(estimator, "diagnose(estimator, on=problem)", several)],
        on,
        seed=seed,
        budget=_budget(budget, True),
        truth=truth,
        wrt=wrt,
        margin=margin,
        alpha=alpha,
        exact=exact,
        truth_replicates=truth_replicates,
        progress=progress,
    )


def compare(
    estimators: Sequence[Estimator],
    on: Problem | Sequence[Problem] | None = None,
    *,
    seed: int = 0,
    budget: int | Budget | None = None,
    truth: Truth | None = None,
    wrt: tuple[str, ...] = ("unit", "weight"),
    margin: float = MARGIN,
    alpha: float = ALPHA,
    exact: bool = True,
    truth_replicates: int = TRUTH_REPLICATES,
    title: str = "",
    command: str = "",
    progress: Progress | None = None,
    keep: Callable[[Diagnosis], None] | None = None,
) -> Diagnosis:
    """Several estimators on the same problems, with variance ratios to the first of them.

    Pairs whose family does not fit are skipped and named in ``skipped``; if nothing is left, that is an error. The
    other arguments are those of ``diagnose``.

    Args:
        estimators: what to compare.
        on: problems; by default all toys.
        seed: same seed, same result.
        budget: replicates per pair, or a ``Budget``. A number is drawn in full, since variances are to be compared.
        truth: the truth to use, for a single problem.
        wrt: "unit" and/or "weight".
        margin: relative bias that counts as small.
        alpha: chance that any unbiased estimator is called biased, shared equally by all pairs measured.
        exact: compare expectations themselves where that is possible.
        truth_replicates: draws of a truth that has to be estimated.
        title: of the report.
        command: what the report says reproduces it; by default the command line of this process.
        progress: called as replicates are drawn.
        keep: called with everything found so far before an error is passed on.

    Raises:
        UsageError: no estimator goes with any problem.
        MeasurementError: a gradient is not finite, or replicates are not independent.
    """
    from estimator_lab.problems import TOYS

    if isinstance(estimators, GradientSampler):
        estimators = [estimators]  # type: ignore[list-item]
    for given in estimators if isinstance(estimators, list | tuple) else ():
        if isinstance(given, GradientSampler):
            raise UsageError(f"{given!r} brings its own problem and truth; lab.diagnose it on its own")
    estimators = doors.estimators(estimators, COMPARE)
    several = isinstance(on, Iterable) and not isinstance(on, str | nn.Module)
    problems = list(TOYS) if on is None else doors.problems(on, COMPARE) if several else [doors.a_problem(on, COMPARE)]
    if truth is not None and len(problems) != 1:
        raise UsageError(f"a truth belongs to one problem; {len(problems)} were given")
    if not estimators or not problems:
        raise UsageError("name at least one estimator and one problem")
    problems = list({id(p): p for p in problems}.values())
    for named in (problems, estimators):
        names = [repr(x) for x in named]
        if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise UsageError(f"{twice[0]} is the name of two; names seed and label the draws: give each its own repr")
    terms = Terms(seed, _budget(budget, False), margin, alpha, exact=exact)
    refusals = [[misfit(e, p) for p in problems] for e in estimators]
    skipped: list[str] = []
    for row in refusals:
        places = [p.label for p, refusal in zip(problems, row, strict=True) if refusal]
        if places:
            skipped.append(f"{next(filter(None, row))}: not measured on {', '.join(places)}")
    count = sum(not refusal for row in refusals for refusal in row)
    if not count:
        raise UsageError("; ".join(skipped) + "; name a problem with such sites, see estimator-lab list problems")
    measured = [e for e, row in zip(estimators, refusals, strict=True) if not all(row)]
    name = title or (
        f"Diagnosis of {measured[0].label}" if len(measured) == 1 else f"{len(measured)} estimators compared"
    )
    terms = replace(terms, pairs=count)
    end = time.monotonic() + (terms.budget.seconds or math.inf)
    findings: list[Finding] = []

    def gathered() -> Diagnosis:
        return gather(findings, name, margin=margin, alpha=alpha, skipped=skipped, command=command)

    try:
        for i, problem in enumerate(problems):
            fitting = [e for e, row in zip(estimators, refusals, strict=True) if not row[i]]
            if not fitting:
                continue
            steps = partial(progress, f"truth of {problem.label}") if progress else None
            if steps:
                steps(0, 0)
            against = truth or Truth.of(problem, seed, wrt, truth_replicates, progress=steps)
            for e in fitting:
                if progress:
                    progress(f"{e.label} on {problem.label}", 0, 0)
                measurement = prepare(
                    problem, e, seed=seed, wrt=wrt, reference=against.mean, memory=in_bytes(terms.budget.memory)
                )
                now = time.monotonic()
                deadline = now + (end - now) / (count - len(findings))
                found = terms.find(measurement, against, e, problem.label, deadline, progress)
                findings.append(replace(found, seconds=measurement.pace()))
                if found.status == "violated":  # what was measured is kept, whatever happens from here on
                    witnessed = any(f.witness for f in findings if f.estimator == found.estimator)
                    findings[-1] = _explained(findings[-1], e, problem, deadline, witnessed)
    except BaseException:
        if keep and findings:
            keep(gathered())
        raise
    return gathered()


def _explained(found: Finding, estimator: Estimator, problem: Problem, deadline: float, witnessed: bool) -> Finding:
    """The finding of a violated claim with what it looks like, and with the smallest witness where there is none yet.

    It costs no more than the time that is left. Where problems cannot be changed or summed, what the draws alone tell
    stays.
    """
    from estimator_lab.causes import looks_like
    from estimator_lab.witness import smallest_witness

    try:
        causes = looks_like(estimator, problem, seconds=deadline - time.monotonic())
        found = replace(found, causes=causes or found.causes)
        own = [problem.sites[0].family] if isinstance(estimator, DropIn | Callback) else None
        if not witnessed and (
            witness := smallest_witness(estimator, families=own, seconds=deadline - time.monotonic())
        ):
            found = replace(found, witness=witness.code)
        return found
    except TimeoutError:
        note = "no time was left to examine what the bias looks like; lab.name_causes(estimator, problem) does"
    except Exception as error:  # of the user's code, on small problems that it was not written for
        note = f"what the bias looks like could not be examined: {in_a_line(error)}"
    return replace(found, notes=(*found.notes, note))


def _budget(budget: int | Budget | None, early: bool) -> Budget:
    return budget if isinstance(budget, Budget) else Budget(budget, early=early)


def misfit(estimator: Estimator, problem: Problem) -> str:
    """Why an estimator does not apply to a problem, or an empty string."""
    return next(filter(None, (estimator.refuses(site) for site in problem.sites)), "")


def gather(
    findings: Sequence[Finding],
    title: str,
    *,
    margin: float,
    alpha: float,
    skipped: Iterable[str] = (),
    command: str = "",
) -> Diagnosis:
    """A diagnosis of findings, with ratios, date and environment."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    found = tuple(findings)
    said = command or command_line()
    return Diagnosis(title, found, ratios(found), said, today, margin, alpha, environment(), tuple(skipped))
