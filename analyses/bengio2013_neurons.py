"""Claims of Bengio, Léonard and Courville (2013) about the noisy rectifier, stochastic times smooth and sparsity.

h is a unit's value, p its probability sigmoid(a), q = sqrt(p), L the loss. Every function takes what its claim is about
as an argument, so that a wrong one can be put in its place; see ``bengio2013_claims``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from claims import Claim, decide
from enumeration import ORDER, QUADRATURE, TOLERANCE, Array, Scalar, agree, gaussian, lab_moments, order, sigmoid, slope
from scipy import optimize, special
from torch import Tensor

import estimator_lab as lab
from estimator_lab.estimators import HeldMask, MaskScore, Pathwise
from estimator_lab.families import Family, RectifiedLogistic, RectifiedNormal, StochasticTimesSmooth

SMALL = np.logspace(-6, -2, 9)
"""Probabilities at which orders in p are read off."""


# ---------------------------------------------------------------------- A6: the noisy rectifier
@dataclass(frozen=True)
class Law:
    """Noise added before a rectifier.

    Attributes:
        family: of the lab.
        above: a to P(z > -a).
        density: of z; even.
        slope: derivative of the density.
        mean: a to E[max(0, a + z)] in closed form.
    """

    family: Family
    above: Scalar
    density: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    mean: Scalar


def logistic(z: Array) -> Array:
    """The standard logistic density."""
    return sigmoid(z) * sigmoid(-z)


LOGISTIC = Law(
    RectifiedLogistic(),
    lambda a: float(sigmoid(np.array(a))),
    logistic,
    lambda z: logistic(z) * (sigmoid(-z) - sigmoid(z)),
    lambda a: float(np.logaddexp(0, a)),
)
GAUSSIAN = Law(
    RectifiedNormal(),
    lambda a: float(special.ndtr(a)),
    gaussian,
    lambda z: -z * gaussian(z),
    lambda a: float(a * special.ndtr(a) + gaussian(np.array(a))),
)
PIECES = np.arange(0.0, 46.0)


def half_line() -> tuple[Array, Array]:
    """Nodes and weights of a composite Gauss rule on (0, 45)."""
    x, w = np.polynomial.legendre.leggauss(12)
    return (PIECES[:-1, None] + (x + 1) / 2).ravel(), np.tile(w / 2, len(PIECES) - 1)


def rectified(law: Law, a: float) -> tuple[Array, Array, Array]:
    """Values of a rectifier, zero first, with their weights and the derivatives of these by a."""
    x, w = half_line()
    weights = np.concatenate([[1 - law.above(a)], w * law.density(x - a)])
    slopes = np.concatenate([[-float(law.density(np.array(a)))], -w * law.slope(x - a)])
    return np.concatenate([[0.0], x]), weights, slopes


def rectifier(law: Law = LOGISTIC) -> Claim:
    """A6: Proposition 1, and the gradient that is propagated through the rectifier."""
    points = (-4.0, -1.0, 0.3, 2.0)
    chances, means, closed = [], [], []
    for a in points:
        values, weights, _ = rectified(law, a)
        agree("weights sum to one", weights.sum(), 1.0, QUADRATURE)
        chances.append(abs(float(weights[1:].sum()) - float(sigmoid(np.array(a)))))
        means.append(abs(float(weights @ values) - float(np.logaddexp(0, a))))
        closed.append(abs(float(weights @ values) - law.mean(a)))
        agree("probability in closed form", weights[1:].sum(), law.above(a), QUADRATURE)
    agree("mean in closed form", max(closed), 0.0, QUADRATURE)
    logits = (-1.2, 0.7)
    (x, wx, dx), (y, wy, dy) = (rectified(law, a) for a in logits)
    loss = np.sin(x)[:, None] * np.exp(-0.3 * y) + (x[:, None] - 0.4 * y) ** 2
    by_x = np.cos(x)[:, None] * np.exp(-0.3 * y) + 2 * (x[:, None] - 0.4 * y)
    by_y = -0.3 * np.sin(x)[:, None] * np.exp(-0.3 * y) - 0.8 * (x[:, None] - 0.4 * y)
    true = np.array([dx @ loss @ wy, wx @ loss @ dy])
    passed = np.array([(wx * (x > 0)) @ by_x @ wy, wx @ by_y @ (wy * (y > 0))])

    def f(h: Tensor) -> Tensor:
        one, two = h.unbind(-1)
        return one.sin() * (-0.3 * two).exp() + (one - 0.4 * two).square()

    problem = lab.Objective(law.family, torch.tensor(logits, dtype=torch.float64), f, "two rectifiers")
    inside = lab.exact_moments(problem, Pathwise(), 64)["unit", "x"].mean
    agree("backpropagation in the lab", inside, passed, 1e-8)
    agree("truth of the lab", lab.Truth.exact(problem).mean["unit", "x"][0], true, 1e-8)
    bias = float(np.linalg.norm(passed - true) / np.linalg.norm(true))
    worst = max(max(chances), max(means))
    return Claim(
        "A6",
        "With logistic noise a rectifier max(0, a + z) is active with probability sigmoid(a) and has the mean "
        "log(1 + exp a); the gradient is that of ordinary backpropagation.",
        "Proposition 1",
        decide(holds=worst <= QUADRATURE and bias <= QUADRATURE),
        f"Quadrature at a = -4 to 2: probability off by {max(chances):.0e}, mean by {max(means):.0e}. For two units "
        f"under a loss that is not additive, backpropagation is unbiased (ours): {bias:.0e} of the gradient.",
        {"gap of P(h > 0)": max(chances), "gap of E[h]": max(means), "relative bias of backpropagation": bias},
    )


# ---------------------------------------------------------------------- A7, A8, E2, E3: stochastic times smooth
@dataclass(frozen=True)
class Smooth:
    """A smooth function of one number, with two derivatives."""

    name: str
    value: Callable[[Array], Array]
    first: Callable[[Array], Array]
    second: Callable[[Array], Array]


EXPONENTIAL = Smooth(
    "exp(1.3 h)", lambda h: np.exp(1.3 * h), lambda h: 1.3 * np.exp(1.3 * h), lambda h: 1.69 * np.exp(1.3 * h)
)
SMOOTHS = (
    EXPONENTIAL,
    Smooth("1 / (1 + h)", lambda h: 1 / (1 + h), lambda h: -1 / (1 + h) ** 2, lambda h: 2 / (1 + h) ** 3),
    Smooth(
        "sin 2h - h^2",
        lambda h: np.sin(2 * h) - h**2,
        lambda h: 2 * np.cos(2 * h) - 2 * h,
        lambda h: -4 * np.sin(2 * h) - 2,
    ),
)

Masked = Callable[[Array], Array]
"""Probability of the mask given p."""


def remainder(f: Smooth, p: Array, mask: Masked = np.sqrt) -> Array:
    """``E[f(h)] - f(p)`` of h = b sqrt(p), b one with probability ``mask(p)``."""
    q, zero = np.sqrt(p), np.zeros(())
    return mask(p) * (f.value(q) - f.value(zero)) - (f.value(p) - f.value(zero))


def binary_remainder(f: Smooth, p: Array) -> Array:
    """The same of a plain binary unit."""
    zero, one = np.zeros(()), np.ones(())
    return p * (f.value(one) - f.value(zero)) - (f.value(p) - f.value(zero))


def smooth_unit(mask: Masked = np.sqrt) -> Claim:
    """A7: Proposition 2.

    Args:
        mask: probability of the mask; the code draws it with p.
    """
    p = np.concatenate([SMALL, sigmoid(np.array([-3.0, -1.0, 0.4, 2.5]))])
    mean = float(np.abs(mask(p) * np.sqrt(p) / p - 1).max())
    active = float(np.abs(mask(p) / np.sqrt(p) - 1).max())
    orders = {f.name: order(SMALL, remainder(f, SMALL, mask)) for f in SMOOTHS}
    binary = {f.name: order(SMALL, binary_remainder(f, SMALL)) for f in SMOOTHS}
    leading = {f.name: float(remainder(f, SMALL[:1], mask)[0] / SMALL[0] ** 1.5) for f in SMOOTHS}
    sharp = all(abs(leading[f.name] / (f.second(np.zeros(())) / 2) - 1) < ORDER for f in SMOOTHS)
    follows = all(abs(v - 1.5) < ORDER for v in orders.values()) and all(abs(v - 1) < ORDER for v in binary.values())
    if mask is np.sqrt:
        theta, family = torch.logit(torch.tensor(p)), StochasticTimesSmooth()
        agree("mean in the lab", family.mean(theta).numpy(), p)
        agree("probability in the lab", family.probability(theta).numpy(), np.sqrt(p))
    return Claim(
        "A7",
        "Stochastic times smooth, h = b sqrt(p) with P(b) = sqrt(p): E[h] = p, P(h > 0) = sqrt(p), and "
        "E[f(h)] = f(p) + o(sqrt p).",
        "Proposition 2",
        decide(holds=mean <= TOLERANCE and active <= TOLERANCE and follows and sharp),
        f"Two-point sums: E[h] / p is off by {mean:.0e}, P(h > 0) / sqrt(p) by {active:.0e}. Sharper (ours): the "
        f"remainder is f''(0)/2 p^1.5 (fitted orders {', '.join(f'{v:.3f}' for v in orders.values())} for three "
        f"functions), that of a plain binary unit of order p ({', '.join(f'{v:.3f}' for v in binary.values())}).",
        {"gap of E[h] / p": mean, "gap of P(h > 0) / sqrt(p)": active, "p": SMALL.tolist()}
        | {f"order, {k}": v for k, v in orders.items()}
        | {f"order of a binary unit, {k}": v for k, v in binary.items()}
        | {f"remainder / p^1.5 at 1e-6, {k}": v for k, v in leading.items()}
        | {f"remainder, {EXPONENTIAL.name}": remainder(EXPONENTIAL, SMALL, mask).tolist()}
        | {f"remainder of a binary unit, {EXPONENTIAL.name}": binary_remainder(EXPONENTIAL, SMALL).tolist()},
    )


Gradient = Callable[[Array, Array, Array, Array], Array]
"""From mask b, probability p, derivative f'(h) and loss f(h) to an estimate."""


def held_mask(b: Array, p: Array, first: Array, loss: Array) -> Array:
    """``f'(h) b sqrt(p) (1 - p) / 2``: the mask is a constant."""
    return first * b * np.sqrt(p) * (1 - p) / 2


def mask_score(b: Array, p: Array, first: Array, loss: Array) -> Array:
    """``(f(h) - c) (b - q) (1 + q) / 2`` with c = 0.7: what the mask's law adds."""
    q = np.sqrt(p)
    return (loss - 0.7) * (b - q) * (1 + q) / 2


def through_mask(f: Smooth, a: float, estimate: Gradient, mask: Masked = np.sqrt) -> tuple[float, float]:
    """Gradient of E[f(h)] by a, and the mean of an estimate."""
    at, b = np.array([a]), np.array([0.0, 1.0])

    def expected(a: Array) -> Array:
        p = sigmoid(a[..., 0])
        return mask(p) * f.value(np.sqrt(p)) + (1 - mask(p)) * f.value(0 * p)

    p = sigmoid(at)[0]
    h, chance = b * np.sqrt(p), np.array([1 - mask(p), mask(p)])
    return float(slope(expected, at)[0]), float(chance @ estimate(b, p, f.first(h), f.value(h)))


def half_gradient(mask: Masked = np.sqrt, repair: Gradient = mask_score) -> Claim:
    """A8: backpropagation with the mask held constant.

    Args:
        mask: probability of the mask.
        repair: what is added to make it unbiased.
    """
    logits = (-6.0, -2.0, 0.0, 1.5)
    linear = Smooth("2.4 h - 0.3", lambda h: 2.4 * h - 0.3, lambda h: 2.4 + 0 * h, lambda h: 0 * h)
    parabola = Smooth("(h - 0.3)^2", lambda h: (h - 0.3) ** 2, lambda h: 2 * (h - 0.3), lambda h: 2 + 0 * h)
    plain = Smooth("exp h", np.exp, np.exp, np.exp)
    shares = [mean / true for true, mean in (through_mask(linear, a, held_mask, mask) for a in logits)]
    ratios = [mean / true for true, mean in (through_mask(plain, a, held_mask, mask) for a in logits)]
    true, passed = through_mask(parabola, -2.0, held_mask, mask)
    errors = []
    for f in (*SMOOTHS, linear, parabola):
        for a in logits:
            whole, mean = through_mask(f, a, lambda *given: held_mask(*given) + repair(*given), mask)
            errors.append(abs(mean / whole - 1))
    if mask is np.sqrt:
        _lab_masks(parabola, true, passed)
    half, repaired = max(abs(share - 0.5) for share in shares), max(errors)
    return Claim(
        "A8",
        "Backpropagation through stochastic times smooth with its mask held constant, which is what was trained with, "
        "has exactly half of the gradient of a linear loss as its mean; the mask's score term supplies the rest.",
        "Eq. (2) and the code (ours)",
        decide(holds=half <= TOLERANCE and repaired <= 1e3 * TOLERANCE),
        f"Share of the gradient of a linear loss {min(shares):.3f} to {max(shares):.3f}; of exp(h) "
        f"{', '.join(f'{v:.3f}' for v in ratios[:3])} at a = -6, -2, 0. Of (h - 0.3)^2 at a = -2 the sign is wrong: "
        f"{true:.6f} is passed on as {passed:+.6f}. With (f(h) - c)(b - q)(1 + q)/2 added the mean is right to "
        f"{repaired:.0e}.",
        {"gap of the share from 1/2": half, "relative error with the score of the mask": repaired}
        | {f"share for exp h at a = {a:g}": v for a, v in zip(logits, ratios, strict=True)}
        | {"gradient of (h - 0.3)^2 at a = -2": true, "passed on": passed},
        reconstruction=True,
    )


def _lab_masks(parabola: Smooth, true: float, passed: float) -> None:
    """Holds the lab's estimators against the two-point sums, and the variance under a linear loss."""

    def f(h: Tensor) -> Tensor:
        return (h[..., 0] - 0.3).square()

    problem = lab.Objective(StochasticTimesSmooth(), torch.tensor([-2.0], dtype=torch.float64), f, parabola.name)
    agree("truth of the lab", lab.Truth.exact(problem).mean["unit", "x"], true)
    agree("mask held constant in the lab", lab_moments(problem, HeldMask())[0], passed)
    agree("mask and score in the lab", lab_moments(problem, MaskScore())[0], true)
    linear = lab.Objective(
        StochasticTimesSmooth(), torch.tensor([-2.0], dtype=torch.float64), lambda h: 2.4 * h[..., 0], "linear"
    )
    p = float(sigmoid(np.array(-2.0)))
    q = math.sqrt(p)
    closed = 2.4**2 * (1 - p) ** 2 / 4 * p * q * (1 - q)
    agree("variance under a linear loss", lab_moments(linear, HeldMask())[1], closed)


def expansion(sign: float = 1.0) -> Claim:
    """E2: the note after Proposition 2.

    Args:
        sign: of (x - p) f'(x); +1 as printed.
    """
    f = EXPONENTIAL

    def rest(p: Array) -> Array:
        x = np.sqrt(p)  # a point whose distance from p counts
        mean = np.sqrt(p) * f.value(np.sqrt(p)) + (1 - np.sqrt(p)) * f.value(0 * p)
        return mean - (f.value(x) + sign * (x - p) * f.first(x))

    found = order(SMALL, rest(SMALL))
    p = 4e-4
    x = math.sqrt(p)
    mean = x * math.exp(1.3 * x) + 1 - x
    printed = math.exp(1.3 * x) * (1 + sign * (x - p) * 1.3)
    return Claim(
        "E2",
        "E[f(h)] = f(x) + (x - p) f'(x) + o(sqrt p) for x near p.",
        "note after Proposition 2; misprint of a sign",
        decide(holds=found > 0.5 + ORDER),
        f"For f = exp(1.3 h) at x = sqrt(p) the remainder has order p^{found:.2f}, where o(sqrt p) is claimed; at "
        f"p = 4e-4 E = {mean:.6f} and the formula gives {printed:.6f}. The sign of (p - x) f'(x) is the right one: "
        f"{math.exp(1.3 * x) * (1 - sign * (x - p) * 1.3):.6f}."
        if sign > 0
        else f"For f = exp(1.3 h) at x = sqrt(p) the remainder has order p^{found:.2f}; at p = 4e-4 E = {mean:.6f} and "
        f"the formula gives {printed:.6f}.",
        {"order of the remainder": found, "E[f(h)] at p = 4e-4": mean, "formula at p = 4e-4": printed},
    )


def telling(power: float = 0.5) -> Claim:
    """E3: the remainder of Proposition 2 (c), and whether it tells the unit from others.

    Args:
        power: of p in the remainder o(p^power).
    """
    f = EXPONENTIAL
    own = order(SMALL, remainder(f, SMALL))
    others = {
        "a binary unit": order(SMALL, binary_remainder(f, SMALL)),
        "f(0) in the place of E[f(h)]": order(SMALL, f.value(np.zeros(())) - f.value(SMALL)),
    }
    meet = sum(found > power + ORDER for found in others.values())
    told = ", ".join(f"{v:.2f} for {k}" for k, v in others.items())
    remains = "sqrt p" if power == 0.5 else f"p^{power:g}"
    holds = own > power + ORDER
    says = f"{'True' if holds else 'Not true'}: the remainder has order {own:.2f} in p (f = exp(1.3 h))."
    weak = f" But {meet} of two others meet it too" if meet else " The others do not meet it"
    sharp = "; the remainder o(p) would tell the unit from both" if meet else ""
    return Claim(
        "E3",
        f"For stochastic times smooth E[f(h)] = f(p) + o({remains}) as p tends to 0.",
        "Proposition 2 (c); weaker than what is true",
        decide(holds=holds),
        f"{says}{weak} (orders {told}): it does {'not ' * bool(meet)}discriminate{sharp}.",
        {"order, stochastic times smooth": own, "others that meet it": meet}
        | {f"order, {k}": v for k, v in others.items()},
    )


# ---------------------------------------------------------------------- E7: sparsity
def sparsity(log_off: Scalar = lambda p: math.log(1) - p) -> Claim:
    """E7: the term that Eq. (14) prints as log 1 - p.

    Args:
        log_off: the factor of (1 - s) as a function of the mean activity p; log 1 - p as printed.
    """
    target = 0.1

    def penalty(p: float) -> float:
        return -(target * math.log(p) + (1 - target) * log_off(p))

    found = float(optimize.minimize_scalar(penalty, bounds=(1e-6, 1 - 1e-6), options={"xatol": 1e-12}).x)
    return Claim(
        "E7",
        "The sparsity term -(s log p + (1 - s) (log 1 - p)) is least where the mean activity p is the target s.",
        "Eq. (14); misprint, a parenthesis is missing",
        decide(holds=abs(found - target) < 1e-6),
        f"For s = {target} it is least at p = {found:.6f}. log(1 - p) is meant, which is least at s; (log 1) - p to "
        f"the letter is least at s / (1 - s) = {target / (1 - target):.6f}.",
        {"activity of least penalty": found, "target": target},
    )
