"""A classifier whose experts are switched on and off by stochastic gates."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from estimator_lab.errors import UsageError
from estimator_lab.families import Bernoulli, Family, NoisySigmoid, StochasticTimesSmooth
from estimator_lab.problems import affine
from estimator_lab.problems.images import Images, at_hand, load
from estimator_lab.problems.trained import TrainedNetwork, drawn
from estimator_lab.site import SiteSpec

CLASSES = 10
DATA = ("digits", "mnist")
LOSSES = ("cross_entropy", "squared")
NODES = 64
RATES = (Bernoulli, StochasticTimesSmooth, NoisySigmoid)
"""Laws of values in [0, 1]."""


@dataclass(frozen=True)
class ConditionalNetwork(TrainedNetwork):
    """Linear experts times stochastic gates: logits = V (h * (W0 x + b0)) + c, gates h drawn given the image.

    The gater is a narrow tanh layer, t = tanh(W1 x + b1), and theta = W2 t + b2 of the one site ``gates``. The loss is
    the cross entropy of the label, or the squared distance of the logits to its one-hot vector y. In the latter case
    the expected loss has a closed form in the mean m and variance v of a gate (``gate_moments`` says for which laws
    these are exact): with r = y - c - V (m * H), H = W0 x + b0 and V_i the i-th column of V,

    ``E[loss] = |r|^2 + sum_i |V_i|^2 H_i^2 v_i``,

    since gates are independent given the image. For Bernoulli gates v = p (1 - p), and a logit's gradient is
    ``p (1 - p) (-2 H_i V_i . r + |V_i|^2 H_i^2 (1 - 2 p))``. It costs no more than a forward pass, at any width.

    Training adds ``penalty`` times the cross entropy of the gates' mean activity with the target ``sparsity``
    (``activity_cost``), or times the sum of that activity where gates may exceed one. This is a function of theta
    alone: its gradient is an ordinary one, the same under every estimator. It is left out of the measured loss.

    Reference: Bengio, Léonard, Courville 2013, arXiv:1308.3432, section 5.

    Args:
        batch: examples that gradients are measured on.
        steps: training steps.
        seed: of initialisation and training.
        dtype: of the computation.
        data: ``"digits"`` or ``"mnist"``; by default MNIST where ``ESTIMATOR_LAB_DATA`` names its folder.
        hidden: units of the gater; by default 16 for the digits, 40 for MNIST.
        gates: gates, and experts; by default 50 for the digits, 200 for MNIST.
        family: law of a gate, a number with one parameter.
        measured: the loss, ``"cross_entropy"`` or ``"squared"``.
        sparsity: mean activity that training aims at.
        penalty: weight of the term that does so.

    Raises:
        UsageError: no such images, sizes or examples that are not positive, another loss, a law with several
            parameters, or no rate.
    """

    data: str = ""
    hidden: int = 0
    gates: int = 0
    family: Family = field(default_factory=Bernoulli)
    measured: str = "cross_entropy"
    sparsity: float = 0.1
    penalty: float = 0.02

    foldable = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", self.data or at_hand())
        if self.data not in DATA:
            raise UsageError(f"there are no images {self.data!r}; name 'digits' or 'mnist'")
        if self.batch < 1:
            raise UsageError(f"a batch is at least one example; found batch={self.batch}")
        small = self.data == "digits"
        object.__setattr__(self, "hidden", self.hidden or (16 if small else 40))
        object.__setattr__(self, "gates", self.gates or (50 if small else 200))
        if min(self.hidden, self.gates) < 1:
            raise UsageError(f"there is at least one of each unit; found hidden={self.hidden}, gates={self.gates}")
        if self.measured not in LOSSES:
            raise UsageError(f"the measured loss is one of {list(LOSSES)}; found {self.measured!r}")
        if self.family.theta_shape or self.family.value_shape:
            raise UsageError(f"a gate is a number with one parameter, as under Bernoulli(); found {self.family!r}")
        if not 0 < self.sparsity < 1 or self.penalty < 0:
            raise UsageError(
                "sparsity is a rate between 0 and 1, and its penalty is not negative; found "
                f"sparsity={self.sparsity}, penalty={self.penalty}"
            )

    @classmethod
    def paper(cls, family: Family | None = None, measured: str = "cross_entropy") -> Self:
        """In the size of the paper: 784 pixels, 400 units of the gater, 2000 gates and experts."""
        return cls(data="mnist", hidden=400, gates=2000, family=family or Bernoulli(), measured=measured)

    @property
    def images(self) -> Images:
        """What it is trained and measured on."""
        return load(self.data)

    @property
    def sites(self) -> tuple[SiteSpec, ...]:  # type: ignore[override]
        """The gates."""
        return (SiteSpec("gates", self.family, (self.gates,)),)

    @property
    def label(self) -> str:
        """Sizes, law and loss."""
        law = "" if isinstance(self.family, Bernoulli) else f", {self.family!r}".removesuffix("()")
        loss = ", squared loss" if self.measured == "squared" else ""
        sizes = f"{self.images.pixels.shape[1]}-{self.hidden}-{self.gates}"
        return f"conditional network {sizes}{law}{loss}"

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Two layers of the gater, the experts and the readout."""
        return shapes(self.images.pixels.shape[1], self.hidden, self.gates)

    def initial(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Uniform weights, as ``uniform_weights`` draws them."""
        return uniform_weights(self.shapes(), generator)

    def theta_at(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...], x: Tensor) -> Tensor:
        """Pre-activations of the gates."""
        return affine.affine(weights, "gater2", affine.affine(weights, "gater1", x).tanh())

    def loss_at(
        self,
        weights: Mapping[str, Tensor],
        samples: tuple[Tensor, ...],
        thetas: tuple[Tensor, ...],
        x: Tensor,
        y: Tensor,
    ) -> Tensor:
        """Loss of the gated experts."""
        return self._read(weights, samples[0], affine.affine(weights, "experts", x), y)

    def begin(self, weights: Mapping[str, Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The gater's output; the experts' outputs are handed on, which do not depend on the gates."""
        x, y = self.examples(weights)
        return self.theta_at(weights, (), x), (affine.affine(weights, "experts", x), y)

    def finish(
        self,
        weights: Mapping[str, Tensor],
        carry: tuple[Tensor, ...],
        samples: tuple[Tensor, ...],
        thetas: tuple[Tensor, ...],
    ) -> Tensor:
        """The loss given the experts' outputs."""
        return self._read(weights, samples[0], *carry)

    def expected_loss(self, weights: Mapping[str, Tensor], offsets: Mapping[str, Tensor]) -> Tensor | None:
        """The closed form of the squared loss ``[B]``; None for the cross entropy, which has none."""
        if self.measured != "squared":
            return None
        x, y = self.examples(weights)
        mean, variance = gate_moments(self.family, self.theta_at(weights, (), x) + offsets["gates"])
        experts, readout = affine.affine(weights, "experts", x), weights["readout.weight"]
        spread = readout.square().sum(0) * experts.square() * variance
        return self._read(weights, mean, experts, y) + spread.sum(-1)

    def surrogate(self, weights: Mapping[str, Tensor], x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        """The loss passed straight through binary gates and pathwise through others, plus the cost of activity."""
        (site,) = self.sites
        theta = self.theta_at(weights, (), x)
        mean = self.family.mean(theta)
        if self.family.discrete:
            value = drawn(site, theta.detach(), generator) + mean - mean.detach()
        else:
            value = drawn(site, theta, generator)
        activity = mean.mean(0)
        bounded = isinstance(self.family, RATES)
        cost = activity_cost(activity, self.sparsity) if bounded else activity.abs().sum()
        return self.loss_at(weights, (value,), (theta,), x, y).mean() + self.penalty * cost

    def _read(self, weights: Mapping[str, Tensor], gates: Tensor, experts: Tensor, y: Tensor) -> Tensor:
        logits = affine.affine(weights, "readout", gates * experts)
        if self.measured == "squared":
            return (one_hot(y, CLASSES).to(logits) - logits).square().sum(-1)
        loss: Tensor = cross_entropy(logits, y, reduction="none")
        return loss


def shapes(pixels: int, hidden: int, gates: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights: ``gater1`` and ``gater2``, ``experts``, ``readout``; a matrix is ``[out, in]``."""
    sizes = {"gater1": (hidden, pixels), "gater2": (gates, hidden), "experts": (gates, pixels)}
    found: dict[str, tuple[int, ...]] = {}
    for name, size in {**sizes, "readout": (CLASSES, gates)}.items():
        found |= affine.shapes(name, *size)
    return found


def uniform_weights(shapes: Mapping[str, tuple[int, ...]], generator: torch.Generator) -> dict[str, Tensor]:
    """Uniform on +-sqrt(6 / (inputs + outputs)), four times as wide for ``gater2``; biases zero; in float64.

    The factor four is that of logistic units (Glorot and Bengio 2010), and of the code of arXiv:1308.3432.
    """
    weights = {}
    for name, shape in shapes.items():
        width = (4 if name.startswith("gater2") else 1) * math.sqrt(6 / sum(shape)) if len(shape) > 1 else 0.0
        weights[name] = width * (2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1)
    return weights


def gate_moments(family: Family, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of a gate's value, differentiable in theta.

    They are sums over the law's own rule: exact for laws of finitely many values (Bernoulli, stochastic times smooth,
    deterministic units), and for others a quadrature of 64 nodes, good to about 1e-12 at deviations up to one.
    """
    values, chances = family.rule(theta, NODES)
    mean = (chances * values).sum(0)
    return mean, (chances * (values - mean).square()).sum(0)


def activity_cost(activity: Tensor, target: float, rounding: float = 1e-6) -> Tensor:
    """``-sum_i (s log p_i + (1 - s) log(1 - p_i))`` of mean activities p and a target rate s.

    It is least at p = s. Bengio, Léonard, Courville 2013, arXiv:1308.3432, equation 14, where the second logarithm is
    printed as log 1 - p_i.

    Args:
        activity: p ``[units]``, each the mean of a gate over examples.
        target: s.
        rounding: is added in the logarithms.
    """
    cost: Tensor = -(target * (activity + rounding).log() + (1 - target) * (1 - activity + rounding).log()).sum()
    return cost
