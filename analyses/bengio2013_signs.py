"""Claims of Bengio, Léonard and Courville (2013) about straight-through.

h is a unit's value, p its probability sigmoid(a), q = sqrt(p), L the loss. Every function takes what its claim is about
as an argument, so that a wrong one can be put in its place; see ``bengio2013_claims``.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from claims import Claim, decide
from enumeration import TOLERANCE, Array, agree, bits, lab_moments, objective, probabilities, sigmoid, slope
from scipy import special
from torch import Tensor

import estimator_lab as lab
from estimator_lab.estimators import CurveThrough, ReinMax, StraightThrough
from estimator_lab.noise import derive_seed
from estimator_lab.statistics.estimands import clopper_pearson

CONFIDENCE = 0.99
"""Of the intervals of rates."""

NETS = 12_000
"""Random networks per rate."""


@dataclass(frozen=True)
class Layers:
    """Random networks that can be summed, one axis for them: losses of one layer and their derivatives.

    Attributes:
        name: what they are.
        logits: ``[M, n]``.
        losses: ``[M, S]`` of every state.
        slopes: ``[M, S, n]`` derivatives of the loss by the units' values.
        monotone: whether the loss is monotone in every unit, whatever the others are.
    """

    name: str
    logits: Array
    losses: Array
    slopes: Array
    monotone: bool

    @property
    def truth(self) -> Array:
        """Gradients by the logits ``[M, n]``: ``p (1 - p) E[L(h_i = 1) - L(h_i = 0)]``."""
        return self._mean(self.losses[..., None] * (bits(self.logits.shape[1]) - sigmoid(self.logits)[:, None]))

    def passed(self, through: "Through") -> Array:
        """Mean of what straight-through gives ``[M, n]``."""
        return self._mean(through(sigmoid(self.logits)[:, None], self.slopes))

    def _mean(self, found: Array) -> Array:
        return (probabilities(self.logits)[..., None] * found).sum(1)


Through = Callable[[Array, Array], Array]
"""From p and the derivative of the loss by the unit's value to an estimate."""


def identity(p: Array, slopes: Array) -> Array:
    """Straight-through: ``dL/dh``."""
    return slopes


def sloped(p: Array, slopes: Array) -> Array:
    """The possible variant: ``dL/dh p (1 - p)``."""
    return slopes * p * (1 - p)


def _drawn(name: str, *sizes: tuple[int, ...]) -> list[Array]:
    """Standard normal tensors with an axis of networks."""
    generator = np.random.default_rng(derive_seed("straight-through", name))
    return [generator.normal(size=(NETS, *size)) for size in sizes]


def logistic_networks() -> Layers:
    """Three units, a logit affine in them, binary logistic loss: monotone in every unit."""
    name = "binary logistic loss"
    logits, w, c = _drawn(name, (3,), (3,), ())
    margin = w @ bits(3).T + c[:, None]
    return Layers(name, logits, np.logaddexp(0, -margin), -sigmoid(-margin)[..., None] * w[:, None], True)


def class_networks() -> Layers:
    """Two units, three logits affine in them, cross-entropy with the first class."""
    name = "softmax of three classes"
    logits, w, c = _drawn(name, (2,), (3, 2), (3,))
    scores = np.einsum("mcn,sn->msc", w, bits(2)) + c[:, None]
    shares = np.exp(scores - special.logsumexp(scores, -1, keepdims=True))
    errors = shares - np.eye(3)[0]
    return Layers(name, logits, -np.log(shares[..., 0]), np.einsum("msc,mcn->msn", errors, w), False)


def squared_networks() -> Layers:
    """Two units, squared error of an affine output."""
    name = "squared error"
    logits, w, c = _drawn(name, (2,), (2,), ())
    error = w @ bits(2).T + c[:, None]
    return Layers(name, logits, error**2, 2 * error[..., None] * w[:, None], False)


def deep_signs(through: Through) -> Array:
    """For 1-2 networks under a loss linear in the last layer: truth times the mean that reaches the first unit."""
    a, w, b, v = _drawn("two layers", (), (2,), (2,), (2,))
    true, passed = deep(a, w, b, v, through)
    return true * passed


def deep(a: Array, w: Array, b: Array, v: Array, through: Through) -> tuple[Array, Array]:
    """Gradient by the first unit's logit a ``[...]``, and straight-through's mean, in a 1-2 network.

    The second layer's logits are ``w h + b`` ``[..., 2]`` and the loss is ``v . h2``; straight-through is at both.
    """
    p, states = sigmoid(a), bits(1)[:, 0]
    second = sigmoid(w * states.reshape(2, *(1,) * w.ndim) + b)
    losses = (v * second).sum(-1)
    chance = np.stack([1 - p, p])
    slopes = (w * through(second, np.broadcast_to(v, second.shape))).sum(-1)
    return p * (1 - p) * (losses[1] - losses[0]), (chance * through(p, slopes)).sum(0)


def wrong_signs(networks: Layers, through: Through = identity) -> tuple[float, float, float]:
    """Share of networks whose first unit gets a wrong sign, with its interval."""
    product = (networks.truth * networks.passed(through))[:, 0]
    return _rate(product)


def _rate(product: Array) -> tuple[float, float, float]:
    found = clopper_pearson(float((product < 0).mean()), len(product), CONFIDENCE)
    return found.value, found.low, found.high


@dataclass(frozen=True)
class Pyramid(lab.Problem):
    """The 1-2 network of `deep` with the weights of the counterexample, in the lab."""

    batch = 1

    @property
    def sites(self) -> tuple[lab.SiteSpec, ...]:  # type: ignore[override]
        """One unit, then two."""
        return lab.SiteSpec("h1", lab.Bernoulli(), (1,)), lab.SiteSpec("h2", lab.Bernoulli(), (2,))

    def weights(self) -> Mapping[str, Tensor]:
        """First logit, weights and biases of the second layer."""
        numbers = {"a": [0.0], "w": [1.0, 1.0], "b": [0.0, 5.0]}
        return {k: torch.tensor(v, dtype=torch.float64) for k, v in numbers.items()}

    def theta(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...]) -> Tensor:
        """The logits."""
        return samples[0] * weights["w"] + weights["b"] if samples else weights["a"][None]

    def loss(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...], thetas: tuple[Tensor, ...]) -> Tensor:
        """``h2 . (1, -1.5)``."""
        return samples[1] @ samples[1].new_tensor([1.0, -1.5])


@dataclass(frozen=True)
class Case:
    """A counterexample of one unit: a loss whose straight-through gradient has the wrong sign."""

    name: str
    p: float
    f: Callable[[Tensor], Tensor]

    def found(self) -> tuple[float, float, float]:
        """Gradient by the logit, mean of straight-through, and of the variant, by hand; the lab finds the same."""
        h = torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)
        loss = self.f(h)
        (slopes,) = torch.autograd.grad(loss.sum(), h)
        zero, one = loss.tolist()
        true, passed = self.p * (1 - self.p) * (one - zero), float(slopes @ h.new_tensor([1 - self.p, self.p]))
        problem = objective([math.log(self.p / (1 - self.p))], lambda x: self.f(x[..., 0]), self.name)
        agree(f"gradient of {self.name}", lab.Truth.exact(problem).mean["unit", "x"], true)
        means = [lab_moments(problem, StraightThrough(way))[0][0] for way in ("identity", "mean")]
        agree(f"straight-through on {self.name}", means[0], passed)
        agree(f"its variant on {self.name}", means[1], passed * self.p * (1 - self.p))
        return true, passed, passed * self.p * (1 - self.p)


CASES = (
    Case("(h - 0.35)^2", float(sigmoid(np.array(-1.0))), lambda h: (h - 0.35).square()),
    Case("three classes", 0.8, lambda h: (1 + (4 * h - 4).exp() + (1 - 3 * h).exp()).log()),
)


def straight_through(through: Through = identity) -> Claim:
    """A9: bias and signs of straight-through.

    Its mean is E[f'(h)], the truth p (1 - p) times f(1) - f(0), the integral of f': the signs agree where f' has one
    sign between 0 and 1, whatever the other units are.
    """
    monotone, *others = (logistic_networks(), class_networks(), squared_networks())
    never = wrong_signs(monotone, through)
    everyone = monotone.truth * monotone.passed(through)
    violations = int((everyone < 0).sum())
    rates = {networks.name: wrong_signs(networks, through) for networks in others}
    rates["two layers"] = _rate(deep_signs(through))
    variant = {networks.name: wrong_signs(networks, sloped) for networks in others}
    variant["two layers"] = _rate(deep_signs(sloped))
    bias = np.linalg.norm(monotone.passed(through) - monotone.truth) / np.linalg.norm(monotone.truth)
    cases = {case.name: case.found() for case in CASES}
    pyramid = _pyramid(through)
    parameter = _parameter()
    _affine_and_quadratic()
    _gates()
    biased, right = bool(bias > TOLERANCE), violations == 0
    single = any(rates[networks.name][0] > 0 for networks in others)
    told = "; ".join(f"{k} {v[0]:.1%} [{v[1]:.1%}, {v[2]:.1%}]" for k, v in rates.items())
    return Claim(
        "A9",
        "Straight-through, which passes dL/dh on as the gradient by a, is clearly biased; for a single layer its sign "
        "is right, and that is no longer guaranteed through several layers.",
        "section 4, Eq. (13)",
        decide(holds=biased and right and not single, otherwise=biased and right),
        f"Condition for the single layer: the loss is monotone in the unit (E6: without it). Logit affine in three "
        f"units, binary logistic loss: {violations} of {everyone.size} signs wrong, by enumeration. Shares of wrong "
        f"signs in networks with standard normal weights ({CONFIDENCE:.0%} intervals, {NETS} each): {told}; "
        "the first two have one layer.",
        {
            "wrong signs, monotone": violations,
            "signs, monotone": everyone.size,
            "bias relative to the truth": float(bias),
        }
        | {"upper end of the rate, monotone": never[2]}
        | {f"{end} of wrong signs, {k}": v for k, ends in rates.items() for end, v in _named_ends(ends)}
        | {f"{end} of wrong signs, variant, {k}": v for k, ends in variant.items() for end, v in _named_ends(ends)}
        | {f"{what}, {k}": v for k, found in cases.items() for what, v in _named_means(found)}
        | {f"{what}, two layers": v for what, v in _named_means(pyramid)}
        | {f"{what}, a weight of two examples": v for what, v in zip(("truth", "mean"), parameter, strict=True)},
    )


def _named_ends(ends: tuple[float, float, float]) -> list[tuple[str, float]]:
    return list(zip(("rate", "lower end", "upper end"), ends, strict=True))


def _named_means(found: tuple[float, float, float]) -> list[tuple[str, float]]:
    return list(zip(("truth", "mean", "mean of the variant"), found, strict=True))


def _pyramid(through: Through) -> tuple[float, float, float]:
    """The counterexample of two layers: truth, and the means of straight-through and its variant."""
    numbers = (np.array(0.0), np.array([1.0, 1.0]), np.array([0.0, 5.0]), np.array([1.0, -1.5]))
    (true, passed), (_, variant) = deep(*numbers, through), deep(*numbers, sloped)
    problem = Pyramid()
    agree("truth of two layers", lab.Truth.exact(problem).mean["unit", "h1"], true)
    if through is identity:
        agree("straight-through in two layers", lab_moments(problem, StraightThrough("identity"), "h1")[0], passed)
    agree("its variant in two layers", lab_moments(problem, StraightThrough("mean"), "h1")[0], variant)
    return float(true), float(passed), float(variant)


def _parameter() -> tuple[float, float]:
    """A bias shared by two examples, linear losses: the signs of both units are right, that of the bias is not."""
    p, change = np.array([0.99, 0.5]), np.array([3.0, -1.0])
    return float((p * (1 - p) * change).sum()), float(change.sum())


def _affine_and_quadratic() -> None:
    """One unit: exact for an affine loss, ``p (1 - p) (p - 1/2) f''`` off for a quadratic one; the trapezoid rule."""
    for p, slope_, curve in ((0.17, 1.3, 0.0), (0.83, -0.4, 2.2)):
        problem = objective([math.log(p / (1 - p))], lambda x, s=slope_, c=curve: (s * x + c * x**2 / 2)[..., 0], "f")
        true = float(lab.Truth.exact(problem).mean["unit", "x"].item())
        own = p * (1 - p)
        agree("truth", true, own * (slope_ + curve / 2))
        agree("variant", lab_moments(problem, StraightThrough("mean"))[0] - true, own * (p - 0.5) * curve)
        agree("curve-through", lab_moments(problem, CurveThrough())[0] - true, -own * (p - 0.5) * curve)
        agree("trapezoid rule", lab_moments(problem, ReinMax())[0], true)


def _gates() -> None:
    """Squared error of gated experts in closed form, of which 2000 can be summed as well as five."""
    generator = np.random.default_rng(derive_seed("gates"))
    logits, expert = 1.5 * generator.normal(size=5), generator.normal(size=5)
    readout, target = generator.normal(size=(3, 5)), generator.normal(size=3)
    p = sigmoid(logits)
    rest = target - readout @ (p * expert)
    square = (readout**2).sum(0) * expert**2
    true = p * (1 - p) * (-2 * expert * (readout.T @ rest) + square * (1 - 2 * p))

    def f(h: Tensor) -> Tensor:
        return (torch.tensor(target) - (h * torch.tensor(expert)) @ torch.tensor(readout).T).square().sum(-1)

    agree("gradient at the gates", slope(lambda a: probabilities(a) @ f(torch.tensor(bits(5))).numpy(), logits), true)
    problem = objective(logits, f, "gates")
    agree("gates in the lab", lab.Truth.exact(problem).mean["unit", "x"][0], true)
    passed = -2 * expert * (readout.T @ rest)
    agree("straight-through at the gates", lab_moments(problem, StraightThrough("identity"))[0], passed)
    bias = lab_moments(problem, StraightThrough("mean"))[0] - true
    agree("variant at the gates", bias, -p * (1 - p) * (1 - 2 * p) * square)


def sign_in_one_layer(cases: Sequence[Case] = CASES) -> Claim:
    """E6: the right sign in a single layer, under any loss."""
    found = {case.name: case.found() for case in cases}
    wrong = [name for name, (true, passed, _) in found.items() if true * passed < 0]
    told = "; ".join(
        f"{case.name} at p = {case.p:.4g}, gradient {found[case.name][0]:+.5f}, mean {found[case.name][1]:+.5f}"
        for case in cases
    )
    return Claim(
        "E6",
        "The sentence that A9 restates, without a condition on the loss: whatever the loss, the sign is right for a "
        "single layer.",
        "section 4; imprecise",
        decide(holds=not wrong),
        f"{'Counterexamples of one unit' if wrong else 'One unit'}: {told}. "
        f"{'The loss has to be monotone in the unit between 0 and 1, as in A9.' if wrong else 'All signs are right.'}",
        {f"{what}, {k}": v for k, means in found.items() for what, v in _named_means(means)},
    )
