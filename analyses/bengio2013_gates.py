"""The gating units of the training study: what each computes, and what gradient it is trained with.

Every gate sees its pre-activation ``a`` ``[B, N]`` and noise, and returns a value ``h``. Its backward rule gives the
gradient at ``a`` from that at ``h``, both of the mean loss of a minibatch. p = sigmoid(a).

Source: Bengio, Léonard, Courville 2013, arXiv:1308.3432 ("the paper"), and its authors' public code ("the code").
"""

import abc
import math
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from estimator_lab.estimators.running_baseline import RunningBaseline


@dataclass(frozen=True)
class Visit:
    """A forward pass through the gates, and what came back.

    Attributes:
        a: pre-activations ``[B, N]``.
        noise: that the gates took.
        h: their values.
        slope: the gradient at h of the mean loss.
        losses: of each example ``[B]``.
        baseline: of the losses.
    """

    a: Tensor
    noise: tuple[Tensor, ...]
    h: Tensor
    slope: Tensor
    losses: Tensor
    baseline: RunningBaseline


@dataclass(frozen=True)
class Gate(abc.ABC):
    """A kind of gating unit with the settings that it is trained with.

    Attributes:
        name: key in the results.
        label: of figures and tables.
        row: of the published table that it stands beside; "" for none.
        penalty: weight of the cost of activity; for gates with an adaptive L1 the weight it begins with.
        rate: factor on the learning rate of the gater's weights.
        momentum: of all weights.
    """

    name: str
    label: str
    row: str = ""
    penalty: float = 0.0
    rate: float = 1.0
    momentum: float = 0.0

    sparsity: ClassVar[str] = ""
    """How activity is kept low: "kl", "l1" or not at all."""
    mode: ClassVar[str] = "mean"
    """How it is evaluated first of all: with gates at their "mean", or cut off at a "threshold"."""
    share: ClassVar[float] = 1.0
    """Its gates, as a share of those of the other networks."""
    squashed: ClassVar[bool] = False
    """Whether the experts are followed by tanh."""

    @property
    def noise(self) -> tuple[str, ...]:
        """Kinds of noise that it takes: "uniform", "normal", "beta"; by default none."""
        return ()

    @abc.abstractmethod
    def fire(self, a: Tensor, *noise: Tensor) -> Tensor:
        """The gates' values."""

    @abc.abstractmethod
    def back(self, at: Visit) -> Tensor:
        """The gradient at ``a`` ``[B, N]``."""

    @abc.abstractmethod
    def still(self, a: Tensor) -> Tensor:
        """The gates' values without noise: their means, or for a rectifier the value at no noise."""

    def score(self, a: Tensor) -> Tensor:
        """What is held against a threshold to decide whether a gate is open."""
        return self.still(a)

    def cut(self, a: Tensor, threshold: float) -> Tensor:
        """The gates without noise, those closed whose score does not exceed a threshold."""
        return self.still(a) * (self.score(a) > threshold)

    def activity(self, a: Tensor, *noise: Tensor) -> tuple[Tensor, Tensor]:
        """What the cost of activity holds at a target, and its derivative in ``a``; for ``sparsity = "kl"``."""
        p = a.sigmoid()
        return p, p * (1 - p)


@dataclass(frozen=True)
class Rectifier(Gate):
    """``h = max(0, a + z)`` with Gaussian z, or without; the derivative is ``1[h > 0]``.

    Args:
        deviation: standard deviation of z; zero for the plain rectifier.
    """

    deviation: float = 1.0

    sparsity = "l1"

    @property
    def noise(self) -> tuple[str, ...]:
        """Gaussian, or none."""
        return ("normal",) if self.deviation else ()

    def fire(self, a: Tensor, *noise: Tensor) -> Tensor:
        """``max(0, a + z)``."""
        return a.add(noise[0], alpha=self.deviation).relu_() if noise else a.relu()

    def back(self, at: Visit) -> Tensor:
        """The slope where the gate is open."""
        return at.slope * (at.h > 0)

    def still(self, a: Tensor) -> Tensor:
        """``max(0, a)``."""
        return a.relu()


@dataclass(frozen=True)
class StochasticTimesSmooth(Gate):
    """``h = b sqrt(p)`` with a mask b, which is a constant to the backward pass: ``dh/da = h (1 - p) / 2``.

    Equation 2 of the paper draws b with probability sqrt(p), so that E[h] = p. The code draws it with probability p,
    so that E[h] = p^1.5. Either way the cost of activity is that of sqrt(p).

    With ``decisive`` there is noise at the input of the sigmoid, so that gates make up their mind: (Beta - 0.5) times
    4.595, Beta with parameters 5.3444 and 40.1; without noise, it is at its mean.

    Args:
        form: "printed" or "code".
        decisive: whether there is Beta noise.
    """

    form: str = "printed"
    decisive: bool = False

    sparsity = "kl"
    mode = "threshold"

    @property
    def noise(self) -> tuple[str, ...]:
        """For the mask, and at the input."""
        return ("uniform", "beta") if self.decisive else ("uniform",)

    def fire(self, a: Tensor, *noise: Tensor) -> Tensor:
        """``b sqrt(p)``."""
        p = self._p(a, noise)
        q = p.sqrt()
        return q * (noise[0] < (q if self.form == "printed" else p))

    def back(self, at: Visit) -> Tensor:
        """``slope h (1 - p) / 2``."""
        return at.slope * at.h * (1 - self._p(at.a, at.noise)) / 2

    def still(self, a: Tensor) -> Tensor:
        """The mean over the mask: p, or p^1.5."""
        p = self.score(a)
        return p if self.form == "printed" else p**1.5

    def score(self, a: Tensor) -> Tensor:
        """P."""
        return (a + BETA_MEAN if self.decisive else a).sigmoid()

    def activity(self, a: Tensor, *noise: Tensor) -> tuple[Tensor, Tensor]:
        """``sqrt(p)``."""
        p = self._p(a, noise)
        q = p.sqrt()
        return q, q * (1 - p) / 2

    def _p(self, a: Tensor, noise: tuple[Tensor, ...]) -> Tensor:
        return (a + noise[1] if self.decisive else a).sigmoid()


@dataclass(frozen=True)
class Binary(Gate):
    """Binary gates, 1 with probability p. Without noise: 1 where p exceeds a threshold."""

    sparsity = "kl"
    mode = "threshold"

    @property
    def noise(self) -> tuple[str, ...]:
        """One number for each gate."""
        return ("uniform",)

    def fire(self, a: Tensor, *noise: Tensor) -> Tensor:
        """1 with probability p."""
        return (noise[0] < a.sigmoid()).to(a)

    def still(self, a: Tensor) -> Tensor:
        """P."""
        return a.sigmoid()

    def cut(self, a: Tensor, threshold: float) -> Tensor:
        """1 where p exceeds the threshold."""
        return (a.sigmoid() > threshold).to(a)


@dataclass(frozen=True)
class StraightThrough(Binary):
    """The gradient at h is that at ``a``, times p (1 - p) if ``sigmoid``.

    Args:
        sigmoid: whether the derivative of the sigmoid is taken.
    """

    sigmoid: bool = False

    def back(self, at: Visit) -> Tensor:
        """The slope, or slope p (1 - p)."""
        if not self.sigmoid:
            return at.slope
        p = at.a.sigmoid()
        return at.slope * p * (1 - p)


@dataclass(frozen=True)
class ScoreFunction(Binary):
    """``(h - p) (L - Lbar)``, L the loss of the example and Lbar a ``RunningBaseline`` of each unit, lagged.

    The learning rate hides a trap. The slopes of experts and readout are those of the *mean* loss of a minibatch of B
    examples. The code gives the gates the losses of single examples and sums over the minibatch ("sum"): that is B = 32
    times the gradient of the mean ("mean"). "The gater needs a learning rate 100 times smaller" is one about three
    times smaller for a gradient of the mean loss.

    The cost of activity has one gradient under both. At the *same* rate and weight of that cost, "mean" therefore moves
    the gater 1 / 32 as far along the loss, and is drawn to the target activity 32 times as strongly in proportion: that
    is another training. At 32 times the rate and 1 / 32 of the weight, "mean" is the training of "sum", step for step.

    Args:
        convention: "sum" or "mean".
        decay: of the running averages.
    """

    convention: str = "sum"
    decay: float = 0.9

    def back(self, at: Visit) -> Tensor:
        """The score times the centred loss; the slope is not used."""
        delta = at.h - at.a.sigmoid()
        gradient = delta * (at.losses[:, None] - at.baseline.update(delta, at.losses))
        return gradient if self.convention == "sum" else gradient / len(at.a)


@dataclass(frozen=True)
class Sigmoid(Gate):
    """``h = sigmoid(a + z)``, Gaussian z or none, over experts with tanh; a tenth of the units, all of them computed.

    Args:
        deviation: standard deviation of z.
    """

    deviation: float = 0.0

    share = 0.1
    squashed = True

    @property
    def noise(self) -> tuple[str, ...]:
        """Gaussian, or none."""
        return ("normal",) if self.deviation else ()

    def fire(self, a: Tensor, *noise: Tensor) -> Tensor:
        """``sigmoid(a + z)``."""
        return (a.add(noise[0], alpha=self.deviation) if noise else a).sigmoid()

    def back(self, at: Visit) -> Tensor:
        """``slope h (1 - h)``."""
        return at.slope * at.h * (1 - at.h)

    def still(self, a: Tensor) -> Tensor:
        """``sigmoid(a)``."""
        return a.sigmoid()


# ---------------------------------------------------------------------- noise
BETA = (0.1 * 38.1 + 1) / 0.9, 40.1
"""Parameters with the mode at 0.1: alpha = (s (beta - 2) + 1) / (1 - s)."""
BETA_SCALE = math.log(99.0)
BETA_MEAN = (BETA[0] / sum(BETA) - 0.5) * BETA_SCALE


# ---------------------------------------------------------------------- costs of activity
def activity_slope(gate: Gate, a: Tensor, noise: tuple[Tensor, ...], target: float, rounding: float = 1e-6) -> Tensor:
    """Derivative ``[B, N]`` at ``a`` of ``penalty`` times the cost of activity of the minibatch's mean activity.

    The cost is ``-sum_i (s log q_i + (1 - s) log(1 - q_i))``, q_i the mean over the minibatch (equation 14, corrected).
    """
    q, slope = gate.activity(a, *noise)
    mean = q.mean(0)
    cost = (1 - target) / (1 - mean + rounding) - target / (mean + rounding)
    return gate.penalty / len(a) * cost * slope


def adapted(penalty: Tensor, active: Tensor, target: float) -> Tensor:
    """The weight of the L1 term after a minibatch.

    It grows by a tenth where the share of gates that are not zero is above ``target`` + 0.01, shrinks by a tenth where
    it is below ``target`` - 0.01, and stays in [1e-13, 1].
    """
    factor = 1 + 0.1 * (active > target + 0.01).to(penalty) - 0.1 * (active < target - 0.01).to(penalty)
    return (penalty * factor).clamp(1e-13, 1.0)


# ---------------------------------------------------------------------- what is trained
SCORE = ScoreFunction("sbn", "stochastic binary (score function)", "Stoch. Binary Neuron", 1.0, 0.01)
STS = StochasticTimesSmooth("sts", "STS, printed form", "", 1e-2, momentum=0.5)
GATES: tuple[Gate, ...] = (
    Rectifier("noisy-rectifier", "noisy rectifier", "Noisy Rectifier", 1e-5),
    Rectifier("rectifier", "rectifier", "Baseline Rectifier", 1e-5, deviation=0.0),
    StraightThrough("st", "straight-through", "Straight-through", 0.1),
    StraightThrough("st-sigmoid", "straight-through with the sigmoid's derivative", "", 0.1, sigmoid=True),
    STS,
    replace(STS, name="sts-code", label="STS as in the code", penalty=1e-3, form="code"),
    replace(
        STS,
        name="sts-decisive",
        label="STS as in the code, Beta noise",
        row="Smooth Times Stoch.",
        penalty=1e-3,
        form="code",
        decisive=True,
    ),
    SCORE,
    replace(SCORE, name="sbn-mean", label="stochastic binary, batch mean at the same rate", row="", convention="mean"),
    Sigmoid("sigmoid", "sigmoid", "Baseline Sigmoid"),
    Sigmoid("sigmoid-noise", "sigmoid with noise", "Baseline Sigmoid + Noise", deviation=1.0),
)
"""One of each, in the order of tables."""
