"""Claims of Bengio, Léonard and Courville (2013) about small perturbations.

h is a unit's value, p its probability sigmoid(a), q = sqrt(p), L the loss. Every function takes what its claim is about
as an argument, so that a wrong one can be put in its place; see ``bengio2013_claims``.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from claims import Claim, decide
from enumeration import (
    ORDER,
    QUADRATURE,
    TOLERANCE,
    Array,
    Rule,
    agree,
    bits,
    gaussian,
    lab_moments,
    likelihood_ratio,
    objective,
    order,
    probabilities,
    sigmoid,
    slope,
)
from scipy import integrate, special
from torch import Tensor

import estimator_lab as lab
from estimator_lab.estimators import (
    SPSA,
    FieteSeung,
)
from estimator_lab.noise import derive_seed


def wavy(u: Array) -> Array:
    """A smooth loss ``[..., 3] -> [...]`` whose derivatives of all orders differ."""
    return np.sin(u @ np.array([1.3, 0.4, -0.7])) + 0.5 * np.exp(u @ np.array([0.5, -0.3, 0.2])) + u[..., 0] * u[..., 1]


POINT = np.array([0.4, -0.9, 0.6])
SIZES = 0.4 * 2.0 ** -np.arange(9)
"""Of perturbations; orders are fitted to the smallest four."""


def binary_bias(size: float, rule: Rule = likelihood_ratio) -> float:
    """Relative bias of a rule where each unit moves the loss's argument by ``size``, all or none."""
    h = bits(3)
    loss = wavy(POINT + size * h)
    true = slope(lambda a: probabilities(a) @ loss, POINT)
    mean = probabilities(POINT) @ rule(h, sigmoid(POINT), loss[:, None])
    return float(np.linalg.norm(mean - true) / np.linalg.norm(true))


def correlation_bias(size: float, loss: Callable[[Array], Array] = wavy) -> float:
    """Relative bias of ``L(a + xi) xi / size^2`` with Gaussian xi of standard deviation ``size`` (Fiete and Seung)."""
    x, w = special.roots_hermitenorm(24)
    nodes = np.stack(np.meshgrid(x, x, x, indexing="ij"), -1).reshape(-1, 3)
    weights = np.prod(np.meshgrid(w, w, w, indexing="ij"), axis=0).ravel() / w.sum() ** 3
    mean = weights @ ((loss(POINT + size * nodes) - loss(POINT))[:, None] * nodes) / size
    return _relative_bias(mean, loss)


def simultaneous_bias(size: float, loss: Callable[[Array], Array] = wavy) -> float:
    """Relative bias of ``(L(u + size z) - L(u - size z)) / (2 size z_i)`` with random signs z."""
    z = 2 * bits(3) - 1
    mean = ((loss(POINT + size * z) - loss(POINT - size * z))[:, None] / (2 * size * z)).mean(0)
    return _relative_bias(mean, loss)


def difference_bias(size: float, loss: Callable[[Array], Array] = wavy) -> float:
    """Relative bias of one-sided finite differences."""
    return _relative_bias((loss(POINT + size * np.eye(3)) - loss(POINT)) / size, loss)


def _relative_bias(mean: Array, loss: Callable[[Array], Array]) -> float:
    true = slope(loss, POINT)
    return float(np.linalg.norm(mean - true) / np.linalg.norm(true))


def any_size(rule: Rule = likelihood_ratio) -> Claim:
    """A5: no small perturbation is needed."""
    sizes = [*SIZES.tolist(), 1.0, 3.0]
    own = [binary_bias(s, rule) for s in sizes]
    named = {
        "correlation (Fiete and Seung)": correlation_bias,
        "simultaneous perturbation": simultaneous_bias,
        "one-sided differences": difference_bias,
    }
    curves = {name: [bias(s) for s in SIZES] for name, bias in named.items()}
    orders = {name: order(SIZES[-4:], np.array(curve[-4:])) for name, curve in curves.items()}
    claimed = dict(zip(named, (2, 2, 1), strict=True))
    follows = all(abs(orders[k] - claimed[k]) < ORDER for k in claimed)
    _cubic_oracle()
    _lab_perturbs()
    # rounding is relative to a draw, and a smaller step leaves a smaller truth in it
    flat = all(b * s <= TOLERANCE for b, s in zip(own, sizes, strict=True))
    told = ", ".join(f"{k} {curves[k][0]:.1%} (order {orders[k]:.2f})" for k in curves)
    return Claim(
        "A5",
        "The estimate needs no small perturbation, and those of Fiete and Seung and of simultaneous perturbation do: "
        "they are unbiased only in the limit.",
        "section 1.2, Theorem 1",
        decide(holds=flat and follows),
        f"Units that move a smooth loss's argument by {SIZES[-1]:.4f} to 3, all or none: bias at most {max(own):.0e} "
        f"of the gradient. Perturbations of size {SIZES[0]}: {told}.",
        {"sizes": SIZES.tolist(), "sizes, binary": sizes, "relative bias, binary": own}
        | {f"relative bias, {k}": v for k, v in curves.items()}
        | {f"order, {k}": v for k, v in orders.items()},
    )


def _cubic_oracle() -> None:
    """Biases of a cubic in closed form: Gaussian ``s^2/2 grad(Lap f)``, signs ``s^2 (f_iii/6 + sum_j f_ijj/2)``."""
    c = np.random.default_rng(derive_seed("cubic")).normal(size=(3, 3, 3))
    third = sum(np.transpose(c, axes) for axes in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)))

    def cubic(u: Array) -> Array:
        return np.einsum("...i,...j,...k,ijk->...", u, u, u, third / 6)

    size, norm = 0.4, np.linalg.norm(slope(cubic, POINT))
    cross = np.einsum("ijj->i", third)
    own = np.einsum("iii->i", third)
    agree("Gaussian bias", correlation_bias(size, cubic), size**2 / 2 * np.linalg.norm(cross) / norm, QUADRATURE)
    signs = size**2 * (own / 6 + (cross - own) / 2)
    agree("bias of signs", simultaneous_bias(size, cubic), np.linalg.norm(signs) / norm, QUADRATURE)


def _lab_perturbs() -> None:
    """Holds the lab's comparators against the sums, on binary units, whose expected loss J is smooth."""
    size, at = 0.8, np.array([-1.1, 0.6])

    def f(x: Tensor) -> Tensor:
        return (x @ x.new_tensor([1.0, -2.0][: x.shape[-1]]) - 0.4).square()

    def expected(a: Array) -> Array:
        return probabilities(a) @ f(torch.tensor(bits(a.shape[-1]))).numpy()

    z = 2 * bits(2) - 1
    both = ((expected(at + size * z) - expected(at - size * z))[:, None] / (2 * size * z)).mean(0)
    agree("simultaneous perturbation in the lab", lab_moments(objective(at, f, "two units"), SPSA(size))[0], both)
    x, w = special.roots_hermitenorm(24)
    one = w @ (expected(at[:1] + size * x[:, None]) * x) / w.sum() / size
    problem = objective(at[:1], f, "one unit")
    found = lab.exact_moments(problem, FieteSeung(size, None), 24, ("unit",))["unit", "x"].mean
    agree("correlation in the lab", found, one, QUADRATURE)


def away_from_zero(z: Array) -> Array:
    """A symmetric density that vanishes near zero: uniform on 1/2 < |z| < 3/2."""
    return 0.5 * ((np.abs(z) > 0.5) & (np.abs(z) < 1.5))


def gained(density: Callable[[Array], Array]) -> list[float]:
    """What E|z_2 / z_1| over ``|z_1| > e`` gains as e falls from 1 to 1e-8, for every factor of ten."""
    edges = np.logspace(0, -8, 9)
    x, w = np.polynomial.legendre.leggauss(40)

    def integral(f: Callable[[Array], Array], low: float, high: float) -> float:
        return float((high - low) / 2 * (w @ f((low + high) / 2 + (high - low) / 2 * x)))

    pieces = [0.0, 0.5, 1.0, 1.5, 2.0, 4.0, 6.0, 9.0, 12.0]
    absolute = 2 * sum(integral(lambda z: z * density(z), a, b) for a, b in itertools.pairwise(pieces))
    grown = []
    for high, low in itertools.pairwise(edges):
        cuts = sorted({*np.geomspace(low, high, 9), *(c for c in pieces if low < c < high)})
        inner = sum(integral(lambda z: density(z) / z, a, b) for a, b in itertools.pairwise(cuts))
        grown.append(2 * absolute * inner)
    return grown


def diverges(grown: Sequence[float]) -> bool:
    """Whether the gain per factor of ten does not fall off."""
    return grown[-1] > 0 and grown[-1] > 0.5 * max(grown)


def dividing(
    density: Callable[[Array], Array] = gaussian, cautious: Callable[[Array], Array] = away_from_zero
) -> Claim:
    """E5: dividing by a perturbation.

    For L = w . u in two dimensions the first component is w_1 + w_2 C with C = z_2 / z_1, which is Cauchy if z is
    Gaussian. E|C| restricted to |z_1| > e then grows by ``2 phi(0) E|z_2| log 10`` for every factor of ten in e.

    Args:
        density: of each component of z, symmetric; the paper's example is Gaussian.
        cautious: a density that meets the paper's caution.
    """
    grown, kept = gained(density), gained(cautious)
    never = diverges(grown)
    numbers: dict[str, Any] = {
        "E|z_2 / z_1| gained per factor of ten": grown,
        "the same with none around zero": kept,
    }
    told = f"E|z_2/z_1| over |z_1| > e gains {grown[0]:.3f} from e = 1 to 0.1, and {grown[-1]:.3f} from 1e-7 to 1e-8"
    if density is gaussian:
        gap = max(abs(_ratio_transform(t / 100) ** 100 - _ratio_transform(t)) for t in (0.3, 1.0, 3.0))
        agree("characteristic function of a Cauchy variable", _ratio_transform(0.7), math.exp(-0.7), QUADRATURE)
        agree("gain per decade", grown[-1], 2 / math.pi * math.log(10), QUADRATURE)
        numbers["gap between the laws of one draw and of the mean of 100"] = gap
        told += f" (2/pi log 10). The mean of 100 draws has the law of one (characteristic functions, {gap:.0e})"
    signs = simultaneous_bias(0.0125)
    return Claim(
        "E5",
        "Dividing the change of the loss by a random perturbation of each component, say a Gaussian one, estimates the "
        "gradient, with the hedge that there be not too much probability around zero.",
        "section 1.2; imprecise",
        decide(holds=not never, otherwise=not diverges(kept)),
        f"Gaussian: {told}: from two dimensions on there is no mean to be unbiased. The hedge has to be a condition, "
        "which a Gaussian does not meet: for a density that vanishes around zero (uniform on 1/2 < |z| < 3/2) the gain "
        f"is {kept[-1]:.0f}, and random signs have the relative bias {signs:.0e} at size 0.0125."
        if never
        else f"{told}: the mean exists, and by symmetry it is the gradient of a linear loss.",
        {**numbers, "relative bias of random signs at 0.0125": signs},
    )


def _ratio_transform(t: float) -> float:
    """``E cos(t z_2 / z_1)`` of two normal numbers, the inner expectation in closed form."""

    def f(z: float) -> float:
        return float(gaussian(np.array(z))) * math.exp(-(t**2) / (2 * z**2)) if z > 0 else 0.0

    return 2 * integrate.quad(f, 0, 12, epsabs=1e-14, epsrel=1e-13, limit=400, points=[t, math.sqrt(t), 1.0])[0]
