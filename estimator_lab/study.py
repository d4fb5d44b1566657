"""Diagnose and compare: the two questions that people ask."""

import datetime
from collections.abc import Callable, Iterable, Sequence

from estimator_lab.diagnosis import Diagnosis, command_line, environment, ratios
from estimator_lab.errors import UsageError
from estimator_lab.estimator import Estimator, about
from estimator_lab.finding import Finding, find
from estimator_lab.measurement import prepare, prepare_sampler
from estimator_lab.problem import Problem
from estimator_lab.sampler import GradientSampler
from estimator_lab.truth import Truth

Progress = Callable[[str, int, int], None]
"""Called with what is being measured, replicates drawn and replicates planned."""

MARGIN = 0.05
ALPHA = 0.01


def _examine(
    problem: Problem,
    estimator: Estimator,
    seed: int,
    budget: int | None,
    truth: Truth,
    wrt: tuple[str, ...],
    margin: float,
    alpha: float,
    pairs: int,
    progress: Progress | None,
) -> Finding:
    """Measures one estimator on one problem and holds it against the truth."""
    label = f"{estimator.label} on {problem.label}"
    if progress:
        progress(label, 0, 0)
    measurement = prepare(problem, estimator, seed=seed, wrt=wrt, reference=truth.mean, replicates=budget or 0)
    steps = (lambda done, total: progress(label, done, total)) if progress else None
    record = measurement.run(budget or measurement.default_replicates, steps)
    return find(
        record,
        truth,
        labels=(problem.label, estimator.label),
        about=about(estimator),
        claim=estimator.unbiased,
        margin=margin,
        alpha=alpha,
        pairs=pairs,
    )


def _examine_sampler(sampler: GradientSampler, seed: int, budget: int | None, margin: float, alpha: float) -> Finding:
    replicates = budget or 2**12
    if isinstance(sampler.truth, GradientSampler):
        truth = Truth.sampled(sampler.truth, 4 * replicates, seed)
    else:
        truth = Truth.given({("weight", k): v.detach().cpu().double().numpy() for k, v in sampler.truth.items()})
    record = prepare_sampler(sampler, seed=seed, reference=truth.mean).run(replicates)
    labels = "black box", sampler.label
    return find(
        record, truth, labels=labels, about={"name": sampler.name}, claim=sampler.unbiased, margin=margin, alpha=alpha
    )


def diagnose(
    estimator: Estimator | GradientSampler,
    on: Problem | Sequence[Problem] | None = None,
    *,
    seed: int = 0,
    budget: int | None = None,
    truth: Truth | None = None,
    wrt: tuple[str, ...] = ("unit", "weight"),
    margin: float = MARGIN,
    alpha: float = ALPHA,
    progress: Progress | None = None,
) -> Diagnosis:
    """Is this estimator right, and what does it cost?

    Args:
        estimator: an ``Estimator``, or a ``GradientSampler``, which brings its own truth.
        on: problems; by default all toys that its families allow.
        seed: same seed, same result.
        budget: replicates per problem; by default 65536, or 4096 for gradients of over 1000 coordinates.
        truth: the truth to use (for a single problem); by default exact where possible, else estimated.
        wrt: "unit" and/or "weight".
        margin: relative bias that counts as small.
        alpha: chance that an unbiased estimator is called biased on any of the problems.
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
        return gather(
            [_examine_sampler(estimator, seed, budget, margin, alpha)], estimator.label, margin=margin, alpha=alpha
        )
    return compare(
        [estimator], on, seed=seed, budget=budget, truth=truth, wrt=wrt, margin=margin, alpha=alpha, progress=progress
    )


def compare(
    estimators: Sequence[Estimator],
    on: Problem | Sequence[Problem] | None = None,
    *,
    seed: int = 0,
    budget: int | None = None,
    truth: Truth | None = None,
    wrt: tuple[str, ...] = ("unit", "weight"),
    margin: float = MARGIN,
    alpha: float = ALPHA,
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
        budget: replicates per pair.
        truth: the truth to use, for a single problem.
        wrt: "unit" and/or "weight".
        margin: relative bias that counts as small.
        alpha: chance that any unbiased estimator is called biased, shared equally by all pairs measured.
        title: of the report.
        command: what the report says reproduces it; by default the command line of this process.
        progress: called as replicates are drawn.
        keep: called with everything found so far before an error is passed on.

    Raises:
        UsageError: no estimator goes with any problem.
        MeasurementError: a gradient is not finite, or replicates are not independent.
    """
    from estimator_lab.problems import TOYS

    problems = list(TOYS if on is None else on if isinstance(on, Sequence) else [on])
    if truth is not None and len(problems) != 1:
        raise UsageError(f"a truth belongs to one problem; {len(problems)} were given")
    if not estimators or not problems:
        raise UsageError("name at least one estimator and one problem")
    problems = list({id(p): p for p in problems}.values())
    for named in (problems, estimators):
        names = [repr(x) for x in named]
        if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise UsageError(f"{twice[0]} is the name of two; names seed and label the draws: give each its own repr")
    for given in (*estimators, *problems):
        if isinstance(given, type):
            raise UsageError(f"{given.__name__} is a class; pass an object of it, such as {given.__name__}()")
    if not (margin > 0 and 0 < alpha < 1):
        raise UsageError(f"margin is positive and alpha between 0 and 1; found margin={margin}, alpha={alpha}")
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
    findings: list[Finding] = []

    def gathered() -> Diagnosis:
        return gather(findings, name, margin=margin, alpha=alpha, skipped=skipped, command=command)

    try:
        for i, problem in enumerate(problems):
            fitting = [e for e, row in zip(estimators, refusals, strict=True) if not row[i]]
            if not fitting:
                continue
            if progress:
                progress(f"truth of {problem.label}", 0, 0)
            against = truth or Truth.of(problem, seed, wrt)
            for e in fitting:
                findings.append(_examine(problem, e, seed, budget, against, wrt, margin, alpha, count, progress))
    except BaseException:
        if keep and findings:
            keep(gathered())
        raise
    return gathered()


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
