"""Estimators measured at the checkpoints of a training."""

import datetime
import math
import operator
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from estimator_lab import doors
from estimator_lab.budget import Budget
from estimator_lab.diagnosis import command_line, environment
from estimator_lab.errors import MeasurementError, UsageError, in_a_line
from estimator_lab.estimator import Estimator
from estimator_lab.measurement import prepare
from estimator_lab.plan import fingerprint
from estimator_lab.problem import Problem
from estimator_lab.study import ALPHA, MARGIN, Progress, Terms, misfit
from estimator_lab.training import expected_loss
from estimator_lab.trajectories import Failure, Loss, Point, Trajectory, settings_differ
from estimator_lab.truth import REPLICATES as TRUTH_REPLICATES
from estimator_lab.truth import Truth

StepFn = Callable[[int], Problem]
"""Trains up to a step, in whatever way, and returns the problem that is to be measured there."""

BROKEN = (
    MeasurementError,
    ValueError,
    ArithmeticError,
    torch.linalg.LinAlgError,  # type: ignore[attr-defined]
    torch.OutOfMemoryError,
)
"""How a measurement ends at weights that have run away, or on a full device."""


@dataclass(frozen=True)
class Scheme:
    """What is measured at every checkpoint, and how.

    Attributes:
        estimators: what is measured.
        terms: seed, budget and error rates, shared by all checkpoints.
        wrt: "unit" and/or "weight".
        truth_replicates: draws of a truth that has to be estimated.
        truth: finds the truth; by default ``Truth.of``.
        progress: called as replicates are drawn.

    Raises:
        UsageError: there are no estimators, or two of one name.
    """

    estimators: tuple[Estimator, ...]
    terms: Terms
    wrt: tuple[str, ...]
    truth_replicates: int
    truth: Callable[[Problem], Truth] | None = None
    progress: Progress | None = None

    def __post_init__(self) -> None:
        """Refuses what cannot be told apart."""
        if not self.estimators:
            raise UsageError("name at least one estimator")
        for e in self.estimators:
            doors.an_estimator(e, "a list of estimators")
        twice = [name for name, count in Counter(map(repr, self.estimators)).items() if count > 1]
        if twice:
            raise UsageError(f"{twice[0]} is the name of two estimators; give each its own repr")

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides the numbers, as plain values."""
        terms, limits = self.terms, ("replicates", "seconds", "precision", "early")
        return {
            "estimators": list(map(repr, self.estimators)),
            "truth": "given" if self.truth else f"exact, or {self.truth_replicates} replicates",
            "wrt": list(self.wrt),
            "budget": {name: getattr(terms.budget, name) for name in limits},
            **{name: getattr(terms, name) for name in ("seed", "margin", "alpha", "pairs", "exact")},
        }

    def at(
        self,
        problem: Problem,
        step: int,
        trained_with: str = "",
        deadline: Callable[[], float] = lambda: math.inf,
        known: Collection[str] = (),
    ) -> Iterator[Point | Failure]:
        """Measures every estimator on a problem; a measurement that breaks down is a failure, and the others go on.

        Args:
            problem: at the weights of the checkpoint.
            step: of the checkpoint.
            trained_with: name of the training.
            deadline: of ``time.monotonic()``, asked for before each estimator.
            known: reprs of estimators that are left out, since their points are there.

        Raises:
            UsageError: an estimator does not apply.
        """
        for e in self.estimators:
            if refusal := misfit(e, problem):
                raise UsageError(f"{refusal}; leave {e.label} out, or measure it apart")
        alike = Counter(e.label for e in self.estimators)
        seed = self.terms.seed
        try:
            steps = partial(self.progress, f"truth of {problem.label}") if self.progress else None
            truth = (
                self.truth(problem)
                if self.truth
                else Truth.of(problem, seed, self.wrt, self.truth_replicates, progress=steps)
            )
        except BROKEN as error:
            yield Failure(trained_with, step, "", in_a_line(error))
            return
        mark = fingerprint(problem.weights())
        for e in self.estimators:
            if repr(e) in known:
                continue
            name = e.label if alike[e.label] == 1 else repr(e)
            try:
                measurement = prepare(problem, e, seed=seed, wrt=self.wrt, reference=truth.mean)
                found = self.terms.find(measurement, truth, e, problem.label, deadline(), self.progress)
            except BROKEN as error:
                yield Failure(trained_with, step, name, in_a_line(error))
            else:
                yield Point(trained_with, step, mark, replace(found, estimator_label=name))


def trajectory(
    step_fn: StepFn | Mapping[str, StepFn],
    checkpoints: Sequence[int],
    estimators: Sequence[Estimator] | Mapping[str, Sequence[Estimator]],
    *,
    seed: int = 0,
    budget: int | Budget | None = None,
    truth: Callable[[Problem], Truth] | None = None,
    wrt: tuple[str, ...] = ("unit", "weight"),
    margin: float = MARGIN,
    alpha: float = ALPHA,
    exact: bool = True,
    truth_replicates: int = TRUTH_REPLICATES,
    file: str | Path | None = None,
    title: str = "",
    command: str = "",
    progress: Progress | None = None,
) -> Trajectory:
    """How do bias, variance and cosine of estimators change as a network is trained?

    ``step_fn`` is called with every checkpoint, in ascending order. It trains up to that step in whatever way (or loads
    the weights of that step) and returns the problem to be measured there, say ``problem.at(weights, "step 100")``.
    There each estimator is held against the truth of that checkpoint, as ``compare`` does. A measurement that breaks
    down is kept as a failure, and the others go on.

    Args:
        step_fn: of one training, or of several by name, which are gone through one after the other.
        checkpoints: steps, ascending.
        estimators: what to measure; the same ones on every training, or by the name of the training.
        seed: same seed, same result.
        budget: replicates of each estimator at each checkpoint, or a ``Budget``. A number is drawn in full.
        truth: finds the truth of a checkpoint's problem; by default ``Truth.of``: exact where possible, else estimated.
        wrt: "unit" and/or "weight".
        margin: relative bias that counts as small.
        alpha: chance that any unbiased estimator is called biased anywhere, shared equally by all estimators,
            checkpoints and trainings.
        exact: compare expectations themselves where that is possible.
        truth_replicates: draws of a truth that has to be estimated.
        file: where the result is kept after every checkpoint, and whatever ends the run. If it is there already, of
            equal settings, what it holds is not measured again; the weights there must be the same.
        title: of figures and reports.
        command: what reproduces it; by default the command line of this process.
        progress: called as replicates are drawn.

    Raises:
        UsageError: an estimator does not go with a problem, the checkpoints do not ascend, or the file holds something
            else.
    """
    runs = dict(step_fn) if isinstance(step_fn, Mapping) else {"": step_fn}
    steps = _ascending(checkpoints)
    if wrong := [name for name, run in runs.items() if not callable(run)]:
        raise UsageError(f"the step function {wrong[0] or 'that was given'!r} is no function of a step; write one")
    wanted = {name: _listed(estimators, name) for name in runs}
    pairs = len(steps) * sum(map(len, wanted.values()))
    terms = Terms(
        seed, budget if isinstance(budget, Budget) else Budget(budget, early=False), margin, alpha, max(pairs, 1), exact
    )
    schemes = {name: Scheme(own, terms, wrt, truth_replicates, truth, progress) for name, own in wanted.items()}
    settings = {"checkpoints": steps, "trainings": {name: scheme.settings for name, scheme in schemes.items()}}
    found = begun(title or "Estimators along training", settings, command)
    if file is not None and Path(file).exists():
        kept = Trajectory.load(file)
        if differ := settings_differ(kept.settings, settings):
            raise UsageError(f"{file} was measured with other {', '.join(differ)}; name another file, or remove it")
        found = replace(kept, failures=())
    if file is not None:
        found.save(file)  # a folder that cannot be written to is told before anything is measured
    end = time.monotonic() + (terms.budget.seconds or math.inf)

    def deadline() -> float:
        now = time.monotonic()
        return now + (end - now) / max(pairs - len(found.points) - len(found.failures), 1)

    try:
        for name, scheme in schemes.items():
            for step in steps:
                problem = runs[name](step)
                if not isinstance(problem, Problem):
                    raise UsageError(
                        f"the step function returned {type(problem).__name__} at step {step}; return a Problem, such "
                        'as problem.at(weights, "step 100")'
                    )
                known = [p for p in found.points if (p.trained_with, p.step) == (name, step)]
                if any(p.weights != fingerprint(problem.weights()) for p in known):
                    raise UsageError(
                        f"{file} was measured at other weights at step {step}; train as before, or name another file"
                    )
                if other := [p.finding.problem for p in known if p.finding.problem != repr(problem)]:
                    raise UsageError(
                        f"{file} was measured on {other[0]} at step {step}, and not on {problem!r}; name another file"
                    )
                have = {p.finding.estimator for p in known}
                if have.issuperset(map(repr, scheme.estimators)):
                    continue
                for item in scheme.at(problem, step, name, deadline, have):
                    found = found.plus([item]) if isinstance(item, Point) else found.plus(failures=[item])
                if not any((s.trained_with, s.step) == (name, step) for s in found.losses):
                    try:
                        found = found.plus(losses=[Loss(name, step, "batch", 0, expected_loss(problem, seed=seed))])
                    except BROKEN as error:
                        found = found.plus(failures=[Failure(name, step, "the expected loss", in_a_line(error))])
                if file is not None:
                    found.save(file)
    except BaseException:
        if file is not None:
            found.save(file)
        raise
    return found


def begun(title: str, settings: Mapping[str, Any], command: str = "") -> Trajectory:
    """A trajectory without points, of today."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return Trajectory(title, settings, (), (), (), command or command_line(), today, environment())


def _listed(estimators: Sequence[Estimator] | Mapping[str, Sequence[Estimator]], name: str) -> tuple[Estimator, ...]:
    """The estimators of a training."""
    if isinstance(estimators, Mapping):
        if name not in estimators:
            raise UsageError(f"the training {name!r} has no estimators, only {list(estimators)}; name some for it")
        estimators = estimators[name]
    if not isinstance(estimators, Iterable):
        raise UsageError(f"give a list of estimators; found {estimators!r}")
    return tuple(estimators)


def _ascending(checkpoints: Sequence[int]) -> list[int]:
    try:
        steps = [operator.index(step) for step in checkpoints]
    except TypeError:
        raise UsageError(f"checkpoints are whole numbers in a list; found {checkpoints!r}") from None
    if not steps or steps[0] < 0 or any(a >= b for a, b in pairwise(steps)):
        raise UsageError(f"checkpoints are steps in ascending order, from 0 on; found {list(checkpoints)}")
    return steps
