"""Training with an estimator of the package, and the expected loss on the way."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from estimator_lab import doors
from estimator_lab.chain import Chain
from estimator_lab.errors import MeasurementError, TooLarge, UsageError
from estimator_lab.estimator import Estimator
from estimator_lab.estimators import Exact, Sample
from estimator_lab.measurement import BLOCK_FLOATS, FIT, fit
from estimator_lab.noise import MonteCarlo, NoNoise, derive_seed, forked
from estimator_lab.problem import Problem
from estimator_lab.statistics import Estimate

REPLICATES = 2**10
"""Draws of an expected loss."""


class Training:
    """Trains the weights of a problem with the gradients of an estimator, one draw a step.

    An object of it can be called with a step, as ``trajectory`` does: it trains up to that step and returns the problem
    at the weights reached. Random numbers derive from seed and step, so that every estimator gets the same ones; no
    global stream is touched. The learned parts of an estimator (a baseline) are fitted at the first weights and stay.

    Cost: a draw of the estimator and a step of the optimiser; for every minibatch that is an object of its own, also
    the checks that each new problem is put to, a few draws more.

    Args:
        problem: where training begins, and what is measured at the checkpoints.
        estimator: gives the gradients.
        batches: the problem on the minibatch of a step, counted from 0, with weights of the same names and shapes (its
            own values are not used); by default always ``problem``.
        optimiser: made from the list of weights; by default Adam with a step of 0.003.
        seed: of the estimator's random numbers.

    Attributes:
        step: steps taken.
        weights: the current ones.

    Raises:
        UsageError: the estimator learns something for each example, and minibatches are given.
    """

    def __init__(
        self,
        problem: Problem,
        estimator: Estimator,
        *,
        batches: Callable[[int], Problem] | None = None,
        optimiser: Callable[[Sequence[Tensor]], torch.optim.Optimizer] | None = None,
        seed: int = 0,
    ):
        call = "Training(problem, estimator)"
        problem, estimator = doors.a_problem(problem, call), doors.an_estimator(estimator, call)
        if optimiser is not None and not callable(optimiser):
            raise UsageError(
                "optimiser is a function of the weights, such as lambda weights: torch.optim.SGD(weights, lr=0.1); "
                f"found {type(optimiser).__name__}"
            )
        if batches is not None and not callable(batches):
            raise UsageError(
                f"batches is a function of the step that returns the problem on a minibatch; found {batches!r}"
            )
        self.problem, self.seed, self.step = problem, seed, 0
        self.estimator = fit(estimator, problem, seed, FIT)
        if batches is not None and self.estimator.fitted:
            raise UsageError(
                f"{estimator!r} learns something for each example, which minibatches exchange; train with another "
                "estimator, or on all examples in every step"
            )
        self.weights = {k: v.detach().clone() for k, v in problem.weights().items()}
        self._batches = batches or (lambda step: problem)
        made = optimiser or (lambda weights: torch.optim.Adam(weights, 3e-3))
        self._optimiser = made(list(self.weights.values()))
        self._batch: Problem | None = None
        self._chain: Chain | None = None

    def __call__(self, step: int) -> Problem:
        """Trains up to a step.

        Returns:
            The problem at the weights reached.

        Raises:
            UsageError: that step is past.
            MeasurementError: a gradient is not finite.
        """
        if step < self.step:
            raise UsageError(f"training is at step {self.step} and cannot go back to {step}; begin a new Training")
        while self.step < step:
            self._advance()
        return self.problem.at(self.weights, f"{self.estimator.label}, step {step}")

    def _advance(self) -> None:
        batch = self._batches(self.step)
        if not isinstance(batch, Problem):
            raise UsageError(f"batches({self.step}) gave {type(batch).__name__}; return the problem on a minibatch")
        if self._chain is None or batch is not self._batch:
            self._batch, self._chain = batch, Chain(batch.at(self.weights, "training"), self.estimator, ("weight",))
        for name, tensor in self._chain.weights.items():
            tensor.copy_(self.weights[name])
        with forked(derive_seed("training", self.seed, self.step)):
            noise = MonteCarlo("training", self.seed, self.step, device=self._chain.device)
            drawn = self._chain.draw(1, noise)
        for name, tensor in self.weights.items():
            gradient = drawn["weight", name][0]
            if not torch.isfinite(gradient).all():
                raise MeasurementError(
                    f"training with {self.estimator!r} broke down at step {self.step}: the gradient of {name} is not "
                    "finite; take smaller steps"
                )
            tensor.grad = gradient
        self._optimiser.step()
        self.step += 1


def expected_loss(problem: Problem, replicates: int = REPLICATES, seed: int = 0) -> Estimate:
    """Mean over examples of the expected loss, with its 95 % interval.

    The closed form, if the problem has one, or a sum over all states where that is possible, without an interval; for
    Gaussian sites a quadrature, if one with three quarters of the nodes agrees. Else the mean of draws, with Student's
    interval.

    Args:
        problem: at the weights in question.
        replicates: draws of the whole network, where it must be sampled.
        seed: of the draws.

    Raises:
        UsageError: fewer than two draws, of which no interval can be made.
    """
    problem = doors.a_problem(problem, "expected_loss(problem)")
    if replicates < 2:
        raise UsageError(f"an expected loss takes at least 2 replicates; found {replicates}")
    with forked(derive_seed("loss", seed)):
        if (exact := _summed(problem)) is not None:
            return Estimate(exact, exact, exact)
        chain = Chain(problem, Sample(), ("unit",))
        noise = MonteCarlo("loss", repr(problem), seed, device=chain.device)
        widest = max(int(np.prod(site.theta_shape)) for site in problem.sites)
        most = max(BLOCK_FLOATS // (problem.batch * widest), 1)
        sizes = [min(most, replicates - done) for done in range(0, replicates, most)]
        means = torch.cat([chain.value(noise, size).double().mean(1) for size in sizes]).cpu().numpy()
    mean = float(means.mean())
    width = float(stats.t.ppf(0.975, len(means) - 1) * means.std(ddof=1) / np.sqrt(len(means)))
    return Estimate(mean, mean - width, mean + width)


def _summed(problem: Problem) -> float | None:
    """The expected loss without draws, or None."""
    weights = problem.weights()
    like = next(iter(weights.values()))
    offsets = {site.name: like.new_zeros(problem.batch, *site.theta_shape) for site in problem.sites}
    if (closed := problem.expected_loss(weights, offsets)) is not None:
        return float(closed.detach().double().mean())
    nodes = Exact().nodes
    rules = (nodes, 3 * nodes // 4) if any(site.family.noise == "normal" for site in problem.sites) else (nodes,)
    try:
        found = [float(Chain(problem, Exact(n), ("unit",)).value(NoNoise()).double().mean()) for n in rules]
    except TooLarge:
        return None
    tolerance = max(1e-7, 1e2 * torch.finfo(like.dtype).eps)
    return None if abs(found[0] - found[-1]) > tolerance * abs(found[0]) else found[0]
