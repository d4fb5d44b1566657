"""Watches estimators while a network trains, beside the training and in a small share of its time."""

import operator
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from estimator_lab import doors
from estimator_lab.along import BROKEN, Scheme, begun
from estimator_lab.budget import Budget
from estimator_lab.errors import UsageError, in_a_line
from estimator_lab.estimator import Estimator
from estimator_lab.nn import ModuleProblem
from estimator_lab.noise import derive_seed, forked
from estimator_lab.plan import fingerprint
from estimator_lab.problem import Problem, unlike
from estimator_lab.study import ALPHA, MARGIN, Terms
from estimator_lab.trajectories import Failure, Point, Trajectory, settings_differ

SCHEMA = 1
CALL = "Probe(problem, [estimator, ...])"
REPLICATES = 2**10
"""Draws of each estimator, and of a truth that has to be estimated."""


class Probe:
    """Measures estimators now and then while a network trains, in any training loop.

    ``step`` is called on a hook of the user's choice. When a measurement is due it copies the weights and measures on
    the examples of one stored problem. It works on that copy, and puts the random streams of torch, numpy and Python
    back: weights, gradients, the mode of the module and all that training draws stay bitwise as they would have been.

    A measurement is due at the first call, and then whenever ``every`` steps have passed; by default at steps 0, 1, 2,
    4, 8 and so on. It is left out, and counted in ``skipped``, if with one more that takes as long as the last one the
    probe's time would exceed its share of the training time. Only the first measurement is made in any case, since
    nothing is known of its cost before; ``share`` says what the probe has taken.

    Numbers derive from seed and step: whatever was skipped, and wherever the training was resumed, a step that is
    measured gives the same ones. As the number of measurements is not known beforehand, the k-th one that is due gets
    alpha / (k (k + 1)) of the false-alarm rate; over all k that adds up to alpha.

    A measurement that breaks down, as on gradients that are not finite, is kept in ``trajectory.failures`` and does not
    stop the training.

    In a plain loop::

        probe = Probe(problem, [StraightThrough(), DisARM()])
        for step, batch in enumerate(batches):
            train_on(batch)
            probe.step(step, model)

    In Lightning, on one process, where the problem was made of the network ``net`` in the LightningModule::

        class Watch(lightning.Callback):
            def on_before_optimizer_step(self, trainer, module, optimizer):
                probe.step(trainer.global_step, module.net)

            def state_dict(self):
                return probe.state_dict()

            def load_state_dict(self, state):
                probe.load_state_dict(state)

    In the Trainer of Hugging Face, on one process::

        class Watch(transformers.TrainerCallback):
            def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
                probe.step(state.global_step, model)

    Args:
        problem: what is measured: a problem whose weights have the names of the module's, or a function that makes it
            of copied weights and buffers. A stored problem gets new weights only: where buffers change as well, as the
            running means of batch normalisation do, every finding says so in its notes.
        estimators: what to measure on it.
        every: steps between measurements; None for steps 0, 1, 2, 4, 8 and so on.
        overhead: share of the training time that measuring may take.
        replicates: draws of each estimator, and of a truth that has to be estimated.
        seed: of the draws.
        wrt: "unit" and/or "weight".
        margin: relative bias that counts as small.
        alpha: chance that any unbiased estimator is called biased at any step.
        clock: seconds that pass.

    Attributes:
        trajectory: everything measured so far.
        skipped: measurements that were due and left out for their time.
        spent: seconds spent measuring.
        trained: seconds between the calls, since the first one.

    Raises:
        UsageError: an argument means nothing, or two estimators have one name.
    """

    def __init__(
        self,
        problem: Problem | Callable[[dict[str, Tensor]], Problem],
        estimators: Sequence[Estimator],
        *,
        every: int | None = None,
        overhead: float = 0.02,
        replicates: int = REPLICATES,
        seed: int = 0,
        wrt: tuple[str, ...] = ("unit", "weight"),
        margin: float = MARGIN,
        alpha: float = ALPHA,
        clock: Callable[[], float] = time.perf_counter,
    ):
        if (every is not None and every < 1) or not overhead > 0:
            raise UsageError(f"every is at least 1 and overhead positive; found every={every}, overhead={overhead}")
        if isinstance(problem, nn.Module | Estimator | type):
            doors.a_problem(problem, CALL)
        if not isinstance(problem, Problem) and not callable(problem):
            raise UsageError(f"give the problem, or a function that makes it of weights; found {problem!r}")
        self.problem, self.every, self.overhead = problem, every, overhead
        terms = Terms(seed, Budget(replicates, early=False), margin, alpha, exact=False)
        self._scheme = Scheme(tuple(doors.estimators(estimators, CALL)), terms, wrt, replicates)
        settings = {"every": every, **self._scheme.settings}
        self.trajectory = begun("Estimators while training", settings)
        self.skipped, self.spent, self.trained = 0, 0.0, 0.0
        self._clock, self._last, self._due = clock, 0.0, 0
        self._since: float | None = None
        self._buffers: dict[str, str] = {}

    @property
    def share(self) -> float:
        """Time spent measuring over time spent training; 0 before there is any."""
        return self.spent / self.trained if self.trained else 0.0

    def __repr__(self) -> str:
        counts = f"measured at {len(self.trajectory.steps)}, skipped at {self.skipped}"
        failed = f", failed {len(self.trajectory.failures)} times" if self.trajectory.failures else ""
        return f"<Probe: {counts}{failed}, {100 * self.share:.2g} % of the training time>"

    def step(self, step: int, source: nn.Module | Mapping[str, Tensor]) -> tuple[Point, ...]:
        """Measures, if that is due at this step and there is time for it.

        Args:
            step: of the training.
            source: the module that is trained, or its weights by name.

        Returns:
            What was found, one point per estimator; nothing if nothing was measured.

        Raises:
            UsageError: the source lacks a weight of the problem, or an estimator does not apply.
        """
        try:
            step = operator.index(step)
        except TypeError:
            raise UsageError(f"a step is a whole number; found {step!r}") from None
        if step < 0:
            raise UsageError(f"a step is at least 0; found {step}")
        now = self._clock()
        self.trained += 0.0 if self._since is None else now - self._since
        points: tuple[Point, ...] = ()
        due = (step // self.every if self.every else step.bit_length()) + 1
        if due > self._due:
            self._due = due
            if self._last and self.spent + self._last > self.overhead * self.trained:
                self.skipped += 1
            else:
                points = self._measure(step, due, source)
                self._last = self._clock() - now
                self.spent += self._last
        self._since = self._clock()
        return points

    def _measure(self, step: int, due: int, source: nn.Module | Mapping[str, Tensor]) -> tuple[Point, ...]:
        pairs = len(self._scheme.estimators) * due * (due + 1)
        scheme = replace(self._scheme, terms=replace(self._scheme.terms, pairs=pairs))
        with _aside(derive_seed("probe", scheme.terms.seed, step)):
            problem = self._problem(_copied(source), step)
            notes = self._stale(source)
            try:
                found = list(scheme.at(problem, step))
            except BROKEN as error:
                found = [Failure("", step, "", in_a_line(error))]
        points = tuple(_noted(item, notes) for item in found if isinstance(item, Point))
        self.trajectory = self.trajectory.plus(points, (), [item for item in found if isinstance(item, Failure)])
        return points

    def _problem(self, weights: dict[str, Tensor], step: int) -> Problem:
        if not isinstance(self.problem, Problem):
            made = self.problem(weights)
            if not isinstance(made, Problem):
                raise UsageError(f"the function of weights gave {type(made).__name__}; return a Problem")
            return made
        own = self.problem.weights()
        found = {k: weights[k].to(v) for k, v in own.items() if k in weights} or weights
        if told := unlike(self.problem, found):
            if (part := _part(own, weights)) not in ("", "module"):  # of a wrapper, which was told
                told = (
                    f"the weights of {self.problem!r} are those of the part {part!r} of the module; give model.{part}"
                )
            raise UsageError(f"{told}, or a function that makes the problem of the module's weights")
        return self.problem.at(found, f"step {step}")

    def _stale(self, source: nn.Module | Mapping[str, Tensor]) -> tuple[str, ...]:
        """A note if buffers have changed, such as running means: a stored problem keeps those it was made with."""
        if not isinstance(source, nn.Module) or not isinstance(self.problem, Problem):
            return ()
        own = self.problem.weights()
        present = {
            _plain(name, source): tensor for name, tensor in source.named_buffers() if tensor.is_floating_point()
        }
        marks = {name: _mark(tensor) for name, tensor in present.items() if name not in own}
        if not self._buffers:
            stored = _buffers_of(self.problem)
            self._buffers = marks | {k: _mark(stored[k].to(present[k].dtype)) for k in marks if k in stored}
        changed = [name for name, mark in marks.items() if mark != self._buffers.get(name)]
        if not changed:
            return ()
        return (
            f"the buffers {changed} of the module have changed, and the problem does not follow them; give the probe a "
            "function that makes the problem of weights and buffers",
        )

    def state_dict(self) -> dict[str, Any]:
        """What to save with the training, as plain numbers and text; ``load_state_dict`` goes on from there."""
        return {
            "schema": SCHEMA,
            "trajectory": self.trajectory.to_json(),
            "skipped": self.skipped,
            "spent": self.spent,
            "trained": self.trained,
            "last": self._last,
            "due": self._due,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a saved state.

        Raises:
            UsageError: it was saved by a probe of other settings or of another version.
        """
        if state.get("schema") != SCHEMA:
            raise UsageError(
                f"the state of the probe has schema {state.get('schema')}, this version reads {SCHEMA}; "
                "resume with the version that saved it, or with a new probe"
            )
        if lacking := [name for name in self.state_dict() if name not in state]:
            raise UsageError(f"the state of the probe lacks {lacking}; resume with what state_dict gave")
        kept = Trajectory.from_json(state["trajectory"], "the state of the probe")
        if differ := settings_differ(kept.settings, self.trajectory.settings):
            raise UsageError(
                f"the state of the probe was saved with other {', '.join(differ)}; resume with the same settings"
            )
        self.trajectory = kept
        self.skipped, self.spent, self.trained = state["skipped"], state["spent"], state["trained"]
        self._last, self._due, self._since = state["last"], state["due"], None


def _noted(point: Point, notes: tuple[str, ...]) -> Point:
    return replace(point, finding=replace(point.finding, notes=(*point.finding.notes, *notes)))


def _copied(source: nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Floating-point tensors by name, copied; half precision in float32; without the prefixes of wrapped modules."""
    tensors: Mapping[str, Tensor]
    if isinstance(source, nn.Module):
        tensors = {  # a tied weight under each of its names
            **dict(source.named_buffers(remove_duplicate=False)),
            **dict(source.named_parameters(remove_duplicate=False)),
        }
    elif isinstance(source, Mapping) and all(isinstance(tensor, Tensor) for tensor in source.values()):
        tensors = source
    else:
        raise UsageError(f"give the module that is trained, or its weights by name; found {type(source).__name__}")
    found = {}
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            dtype = torch.promote_types(tensor.dtype, torch.float32)
            found[_plain(name, source)] = tensor.detach().to(dtype, copy=True)
    return found


def _part(own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """The path under which all of a problem's weights are found, or an empty string."""
    first = next(iter(own))
    paths = (name.removesuffix(first) for name in found if name.endswith(f".{first}"))
    return next((path[:-1] for path in paths if all(path + name in found for name in own)), "")


def _plain(name: str, source: object) -> str:
    """A name without the prefixes of wrapped modules."""
    parallel = isinstance(source, nn.parallel.DataParallel | nn.parallel.DistributedDataParallel)
    return name.replace("_orig_mod.", "").removeprefix("module." if parallel else "")


def _mark(tensor: Tensor) -> str:
    return fingerprint({"": tensor.float()})


def _buffers_of(problem: Problem) -> dict[str, Tensor]:
    """Buffers of the module that a problem was made of; none for other problems."""
    while isinstance(inner := getattr(problem, "problem", None), Problem):  # the same problem at other weights
        problem = inner
    return dict(problem._module.named_buffers()) if isinstance(problem, ModuleProblem) else {}


@contextmanager
def _aside(seed: int) -> Iterator[None]:
    """Runs in full precision with gradients, and leaves every random stream as it was."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with ExitStack() as stack:
            stack.enter_context(forked(seed))
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            for device in ("cpu", *(("cuda",) if torch.cuda.is_initialized() else ())):
                stack.enter_context(torch.autocast(device, enabled=False))
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
