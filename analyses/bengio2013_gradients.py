"""Bias, variance and cosine of each gate's gradient along its training, at the gates and in the gater's weights.

At the weights before, midway and at the end of a training, the gradient that it was trained with is held against the
truth, on a few test images. Binary gates have three rules, and all three are measured along each of their trainings.

At the cross entropy the truth is a long run of an unbiased estimator. At the squared distance to the one-hot label it
is a closed form, at any number of gates; there the same weights are measured, which were trained on the other loss.

The cost of activity has an ordinary gradient of its own, which is no estimate; it is not part of what is measured. The
gates with Beta noise are left out: their noise is not a law of the package. So are gates without noise, whose
gradient is exact, and sigmoid gates, over whose experts there is a tanh.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from bengio2013_gates import Gate, Rectifier, ScoreFunction, StochasticTimesSmooth, StraightThrough
from bengio2013_training import Setting, checkpoints, options, split, train
from torch import Tensor

import estimator_lab as lab
from estimator_lab import cache
from estimator_lab.along import trajectory
from estimator_lab.estimators import HeldMask, MaskScore, Pathwise, Reinforce
from estimator_lab.estimators import StraightThrough as PassedThrough
from estimator_lab.families import Bernoulli, Family, RectifiedNormal
from estimator_lab.families import StochasticTimesSmooth as TimesSmooth
from estimator_lab.problems import ConditionalNetwork

RULES = (PassedThrough("identity"), PassedThrough("mean"), Reinforce("unit"))
"""Of binary gates. The last one's baseline is what the running averages of a training track, at its expectation."""
SQUARED = ", squared loss"


class Gater(lab.Problem):
    """A conditional network of whose weights the gater's alone are differentiated.

    Args:
        network: the whole, at weights.
    """

    def __init__(self, network: lab.Problem):
        self.network = network
        self.sites, self.batch, self.foldable = network.sites, network.batch, network.foldable
        self._fixed = {k: v for k, v in network.weights().items() if not k.startswith("gater")}

    def weights(self) -> Mapping[str, Tensor]:
        """Those of both layers of the gater."""
        return {k: v for k, v in self.network.weights().items() if k.startswith("gater")}

    def theta(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...]) -> Tensor:
        """The network's."""
        return self.network.theta({**self._fixed, **weights}, samples)

    def loss(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...], thetas: tuple[Tensor, ...]) -> Tensor:
        """The network's."""
        return self.network.loss({**self._fixed, **weights}, samples, thetas)

    def begin(self, weights: Mapping[str, Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The network's."""
        return self.network.begin({**self._fixed, **weights})

    def finish(
        self,
        weights: Mapping[str, Tensor],
        carry: tuple[Tensor, ...],
        samples: tuple[Tensor, ...],
        thetas: tuple[Tensor, ...],
    ) -> Tensor:
        """The network's."""
        return self.network.finish({**self._fixed, **weights}, carry, samples, thetas)

    def expected_loss(self, weights: Mapping[str, Tensor], offsets: Mapping[str, Tensor]) -> Tensor | None:
        """The network's."""
        return self.network.expected_loss({**self._fixed, **weights}, offsets)

    @property
    def label(self) -> str:
        """The network's."""
        return f"gater of the {self.network.label}"

    def __repr__(self) -> str:
        return f"Gater({self.network!r})"


def measured(gate: Gate) -> tuple[Family, tuple[lab.Estimator, ...]] | None:
    """The law of a gate and the rules that are measured along its training; None where it is left out."""
    if isinstance(gate, StraightThrough | ScoreFunction):
        return Bernoulli(), RULES
    if isinstance(gate, Rectifier) and gate.deviation:
        return RectifiedNormal(gate.deviation), (Pathwise(),)
    if isinstance(gate, StochasticTimesSmooth) and not gate.decisive:
        return TimesSmooth(mask=0.5 if gate.form == "printed" else 1.0), (HeldMask(),)
    return None


def truth_of(replicates: int) -> Callable[[lab.Problem], lab.Truth]:
    """A function that finds the truth: the closed form where there is one, else a long run of what is unbiased."""

    def found(problem: lab.Problem) -> lab.Truth:
        try:
            return lab.Truth.exact(problem)
        except lab.errors.TooLarge:
            law = problem.sites[0].family
        if isinstance(law, Bernoulli):
            return lab.Truth.of(problem, replicates=replicates)
        unbiased = MaskScore(16) if isinstance(law, TimesSmooth) else Pathwise()
        return lab.Truth.estimated(problem, unbiased, replicates)

    return found


def course(
    gates: Sequence[Gate],
    setting: Setting,
    examples: int,
    replicates: int,
    truth: int,
    command: str,
) -> dict[str, Any] | None:
    """The trajectory of all gates that can be measured, as saved; None if there are none.

    Args:
        gates: whose trainings with the first seed are gone along; one whose weights are not kept is trained again.
        setting: of the trainings.
        examples: the last test images, that gradients are measured on.
        replicates: of each estimator at each checkpoint.
        truth: replicates of a truth that is not a closed form; 0 leaves out the cross entropy, which has none.
        command: what reproduces it.

    Points are kept in the cache's folder as they are found, so that an interrupted course is gone on with.
    """
    runs: dict[str, Callable[[int], lab.Problem]] = {}
    rules: dict[str, tuple[lab.Estimator, ...]] = {}
    for gate in gates:
        if (found := measured(gate)) is None:
            continue
        law, estimators = found
        for loss, suffix in (("cross_entropy", ""), ("squared", SQUARED)) if truth else (("squared", SQUARED),):
            network = ConditionalNetwork(
                batch=examples,
                steps=0,
                data=setting.data,
                hidden=setting.hidden,
                gates=setting.gates,
                family=law,
                measured=loss,
            )
            name = f"{gate.name}{suffix}"
            runs[name], rules[name] = _steps(network, gate, setting), estimators
    if not runs:
        return None
    described = repr((setting, [options(gate) for gate in gates], examples, replicates, truth, sorted(rules)))
    file = cache.path("bengio2013-course", described).with_suffix(".json")
    file.parent.mkdir(parents=True, exist_ok=True)
    result = trajectory(
        runs,
        setting.checkpoints,
        rules,
        budget=replicates,
        truth=truth_of(truth),
        file=file,
        title="Gradients of the gates along training",
        command=command,
    )
    kept: dict[str, Any] = json.loads(result.to_json())
    return kept


def _steps(network: ConditionalNetwork, gate: Gate, setting: Setting) -> Callable[[int], lab.Problem]:
    def step(epoch: int) -> lab.Problem:
        return Gater(network.at(_weights(gate, setting)[epoch], f"{gate.name}, epoch {epoch}"))

    return step


@lru_cache
def _weights(gate: Gate, setting: Setting) -> dict[int, dict[str, Tensor]]:
    """Weights at the checkpoints of the first seed's training."""
    data = split(setting)
    found = checkpoints(gate, setting, 0, data.digest)
    if found is None:
        train(gate, setting, 0, data)
        found = checkpoints(gate, setting, 0, data.digest)
    if found is None:
        raise lab.UsageError(
            "the weights of trainings are not kept, as there is no folder for them that can be written; let "
            "ESTIMATOR_LAB_CACHE name one"
        )
    return found
