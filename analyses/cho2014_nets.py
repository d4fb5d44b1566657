"""Small nets with tree-structured weights, and their expected losses without the package's code.

What a net computes is written down once more in plain numpy, from tables that are looked up by prefix; expected losses
are sums over bit patterns, or integrals over rectifiers. Gradients of them are complex-step derivatives.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr
from torch import Tensor, nn

import estimator_lab as lab
from estimator_lab.noise import derive_seed, forked

Array = NDArray[Any]
Bits = tuple[int, ...]

INPUTS, HIDDEN = 3, 2


def patterns(depth: int) -> list[Bits]:
    """All sequences of so many bits."""
    return list(itertools.product((0, 1), repeat=depth))


def prefixes(depth: int) -> Iterator[Bits]:
    """All sequences of one to so many bits."""
    for length in range(1, depth + 1):
        yield from patterns(length)


# ---------------------------------------------------------------------- stochastic gates
@dataclass(frozen=True)
class GatedNet:
    """Three inputs, a tree-structured layer of two units with stochastic gates, tanh, one output; squared loss.

    Args:
        gates: of the layer.
        depth: k.
        batch: examples.
        seed: of weights and examples.
        linear: the output is the loss itself, and there is no tanh: a loss that is affine in the layer's output.
    """

    gates: Literal["bernoulli", "rectifier"]
    depth: int
    batch: int = 2
    seed: int = 0
    linear: bool = False

    @cached_property
    def module(self) -> nn.Sequential:
        """In float64; the gating units are spread, so that probabilities are unequal, and tanh is not saturated."""
        double = torch.float64
        with forked(derive_seed("gated net", self.gates, self.depth, self.seed)):
            tree = lab.TreeLinear(INPUTS, HIDDEN, self.depth, gates=self.gates, dtype=double)
            net = nn.Sequential(tree, nn.Identity() if self.linear else nn.Tanh(), nn.Linear(HIDDEN, 1, dtype=double))
            with torch.no_grad():
                for p in net.parameters():
                    p.copy_(torch.randn_like(p))
                for p in tree.parameters():
                    p.mul_(0.5)
        return net

    @cached_property
    def examples(self) -> tuple[Tensor, Tensor]:
        """Inputs ``[batch, 3]`` and targets ``[batch]``."""
        generator = torch.Generator().manual_seed(derive_seed("gated net", "examples", self.seed))
        x = torch.randn(self.batch, INPUTS, generator=generator, dtype=torch.float64)
        return x, torch.randn(self.batch, generator=generator, dtype=torch.float64)

    @cached_property
    def problem(self) -> lab.Problem:
        """For the lab."""
        loss = _output if self.linear else _squared
        return lab.from_module(self.module, loss, self.examples, name=f"tree with {self.gates} gates, k = {self.depth}")

    # ------------------------------------------------------------------ by hand
    @cached_property
    def units(self) -> Array:
        """Gating units ``[batch, k]``."""
        with torch.no_grad():
            return self.module[0].units(self.examples[0]).numpy()

    @cached_property
    def tables(self) -> dict[tuple[int, Bits], Array]:
        """``T(j, prefix)``."""
        tables = self.module[0].tables
        weight = tables.weight.detach().numpy()
        return {(j, prefix): weight[tables.node(j, prefix)] for j in range(INPUTS) for prefix in prefixes(self.depth)}

    def summand(self, example: int, prefix: Bits) -> Array:
        """``sum_j x_j T(j, prefix)``."""
        x = self.examples[0][example].numpy()
        found: Array = sum((x[j] * self.tables[j, prefix] for j in range(INPUTS)), start=np.zeros(HIDDEN))
        return found

    def loss(self, example: int, bits: Bits, scales: Sequence[Array | float]) -> Array:
        """Loss at bits, each summand scaled by a number or an array of numbers."""
        hidden: Array = np.zeros(HIDDEN)
        for length, scale in enumerate(scales, 1):
            hidden = hidden + np.asarray(scale)[..., None] * self.summand(example, bits[:length])
        return self._above(example, hidden)

    def along(self, example: int, bits: Bits, change: Array) -> float:
        """Derivative of the loss at bits as the layer's output moves along a change ``[units]``."""
        hidden = sum((self.summand(example, bits[:n]) for n in range(1, self.depth + 1)), start=np.zeros(HIDDEN))
        return float(self._above(example, hidden + 1e-30j * change).imag / 1e-30)

    def _above(self, example: int, summed: Array) -> Array:
        """The loss, from the layer's output without its bias."""
        tree, _, readout = self.module
        hidden = summed + tree.bias.detach().numpy()
        v, c = readout.weight.detach().numpy()[0], readout.bias.detach().numpy()[0]
        if self.linear:
            return hidden @ v + c
        return (np.tanh(hidden) @ v + c - float(self.examples[1][example])) ** 2

    def states(self, example: int) -> Array:
        """Loss of every bit pattern, in the order of ``patterns``; for Bernoulli gates."""
        return np.array([self.loss(example, bits, [1.0] * self.depth) for bits in patterns(self.depth)])

    def expected(self, example: int, units: Array) -> Array:
        """E[loss] of an example as a function of its gating units ``[..., k]``, which may be complex."""
        on = np.array(patterns(self.depth)) > 0
        if self.gates == "bernoulli":
            p = 1 / (1 + np.exp(-units))[..., None, :]
            return (np.where(on, p, 1 - p).prod(-1) * self.states(example)).sum(-1)
        total = np.zeros(units.shape[:-1], dtype=complex)
        for bits in patterns(self.depth):
            r, weight = grid(bits, self.units[example])
            losses = self.loss(example, bits, r)
            for place in np.ndindex(units.shape[:-1]):
                total[place] += (losses * density(bits, r, units[place]) * weight).sum()
        return total

    def truth(self) -> Array:
        """Gradients of the expected loss at the gating units ``[batch, k]``."""
        step = 1j * 1e-30 * np.eye(self.depth)
        return np.stack([self.expected(i, self.units[i] + step).imag / 1e-30 for i in range(self.batch)])


def grid(bits: Bits, units: Array, nodes: int = 48) -> tuple[list[Array], Array]:
    """Nodes for rectifiers that are positive where a bit is 1 and zero elsewhere, and their weights.

    Gauss-Legendre from zero to ten standard deviations above the mean: what lies beyond has probability 1e-23.
    """
    x, w = np.polynomial.legendre.leggauss(nodes)
    top = np.maximum(units, 0) + 10
    axes = [top[i] * (x + 1) / 2 if b else np.zeros(1) for i, b in enumerate(bits)]
    weights = [top[i] * w / 2 if b else np.ones(1) for i, b in enumerate(bits)]
    weight = np.ones(())
    for part in weights:
        weight = weight[..., None] * part
    return [t for t in np.meshgrid(*axes, indexing="ij")], weight


def density(bits: Bits, r: Sequence[Array], units: Array) -> Array:
    """Joint density of rectifiers with unit noise at units, with the probability of zero where a bit is 0."""
    found: Array = np.ones((), dtype=complex)
    for bit, value, u in zip(bits, r, units, strict=True):
        found = found * (np.exp(-0.5 * (value - u) ** 2) / math.sqrt(2 * math.pi) if bit else ndtr(-u))
    return found


def pathwise_mean(net: GatedNet, example: int) -> tuple[Array, Array]:
    """For rectifiers: the mean ``[k]`` of the gradient through the scales, and the term ``[k]`` of the jumps.

    The derivative of E[L] at unit l is ``E[1[r_l > 0] dL/dr_l] + phi(u_l) E[L(r_l -> 0+, b_l = 1) - L(r_l = 0)]``. The
    first is what is backpropagated; in the second the summand of level l itself vanishes, and the prefixes below jump.
    """
    u, step = net.units[example], 1e-30
    mean, jump = np.zeros(net.depth), np.zeros(net.depth)
    for bits in patterns(net.depth):
        r, weight = grid(bits, u)
        chance = density(bits, r, u).real * weight
        for level in range(net.depth):
            if bits[level]:
                moved = [t + 1j * step if i == level else t for i, t in enumerate(r)]
                mean[level] += (chance * net.loss(example, bits, moved).imag / step).sum()
            else:
                others = chance / ndtr(-u[level])  # all rectifiers but this one
                on = (*bits[:level], 1, *bits[level + 1 :])
                change = net.loss(example, on, r) - net.loss(example, bits, r)
                phi = math.exp(-0.5 * u[level] ** 2) / math.sqrt(2 * math.pi)
                jump[level] += (others * change).sum() * phi
    return mean, jump


def _squared(y: Tensor, t: Tensor) -> Tensor:
    return (y[:, 0] - t).square()


def _output(y: Tensor, t: Tensor) -> Tensor:
    return y[:, 0]


# ---------------------------------------------------------------------- deterministic gates
@dataclass(frozen=True)
class SignGates(lab.Problem):
    """Normal inputs, thresholds that make one bit of each, and one output with tree-structured weights; squared loss.

    The bits are deterministic, ``b_l = 1[x_l > theta_l]``; what is random is the input, so that the expected loss has
    a gradient in the thresholds, which no single example shows. It is known in closed form: a pattern of bits confines
    every input to one side of its threshold, where the output is linear, and truncated normal moments do the rest.

    Args:
        thresholds: theta; the bits and the inputs are as many.
        through: what the backward pass puts in the place of the step's derivative, as in ``TreeLinear``.
        seed: of the tables.
    """

    thresholds: tuple[float, ...] = (0.4, -0.7, 0.2)
    through: Literal["identity", "sigmoid"] | None = None
    seed: int = 0

    batch = 1
    target = 0.5

    @property
    def sites(self) -> tuple[lab.SiteSpec, ...]:
        """The inputs."""
        return (lab.SiteSpec("x", lab.Normal(), (len(self.thresholds),)),)

    @cached_property
    def tree(self) -> lab.TreeLinear:
        """The layer, whose tables are weights of the problem."""
        k = len(self.thresholds)
        with forked(derive_seed("sign gates", self.seed)):
            return lab.TreeLinear(k, 1, k, through=self.through, bias=False, dtype=torch.float64)

    @property
    def label(self) -> str:
        """With the rule."""
        return f"signs, {self.through or 'no gradient'}"

    def weights(self) -> Mapping[str, Tensor]:
        """Thresholds and tables."""
        tables = self.tree.tables.weight.detach()
        return {"thresholds": torch.tensor(self.thresholds, dtype=torch.float64), "tables": 3 * tables}

    def theta(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...]) -> Tensor:
        """Standard normal inputs."""
        return weights["tables"].new_zeros(1, len(self.thresholds), 2)

    def loss(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...], thetas: tuple[Tensor, ...]) -> Tensor:
        """``(y - t)^2``."""
        (x,) = samples
        bits = self.tree.bits(x - weights["thresholds"])
        y = torch.func.functional_call(self.tree.tables, {"weight": weights["tables"]}, (x, bits))
        return (y[:, 0] - self.target).square()

    def expected_loss(self, weights: Mapping[str, Tensor], offsets: Mapping[str, Tensor]) -> Tensor:
        """Sum over the patterns of bits, by truncated moments."""
        mean, deviation = offsets["x"][0, :, 0], offsets["x"][0, :, 1].exp()
        above, below = _truncated(weights["thresholds"], mean, deviation)
        total = weights["tables"].new_zeros(())
        for bits in patterns(len(self.thresholds)):
            on = torch.tensor(bits) > 0
            m0, m1, m2 = (torch.where(on, a, b) for a, b in zip(above, below, strict=True))
            total = total + self._of_pattern(weights["tables"], bits, m0, m1, m2)
        return total[None]

    def _of_pattern(self, tables: Tensor, bits: Bits, m0: Tensor, m1: Tensor, m2: Tensor) -> Tensor:
        """``E[(y - t)^2 1[pattern]]``, y = a . x: moments of independent inputs multiply."""
        a = []
        for j in range(len(bits)):
            path = [self.tree.tables.node(j, bits[:length]) for length in range(1, len(bits) + 1)]
            a.append(tables[path].sum())
        total = self.target**2 * m0.prod()
        for i in range(len(bits)):
            rest = torch.cat([m0[:i], m0[i + 1 :]]).prod()
            total = total + (a[i] ** 2 * m2[i] - 2 * self.target * a[i] * m1[i]) * rest
            for j in range(i):
                others = torch.stack([m0[n] for n in range(len(bits)) if n not in (i, j)] or [m0.new_ones(())]).prod()
                total = total + 2 * a[i] * a[j] * m1[i] * m1[j] * others
        return total


def _truncated(threshold: Tensor, mean: Tensor, deviation: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """``E[x^n 1[x > threshold]]`` for n = 0, 1, 2, and the same below.

    With c = (threshold - mean) / deviation, of a standard normal z above c: the probability Q = Phi(-c), E[z] = phi(c),
    E[z^2] = c phi(c) + Q; below, what these leave of 1, 0 and 1.
    """
    c = (threshold - mean) / deviation
    q = torch.special.ndtr(-c)
    phi = (-0.5 * c.square()).exp() / math.sqrt(2 * math.pi)

    def scaled(z0: Tensor, z1: Tensor, z2: Tensor) -> tuple[Tensor, ...]:
        return z0, mean * z0 + deviation * z1, mean**2 * z0 + 2 * mean * deviation * z1 + deviation**2 * z2

    return scaled(q, phi, c * phi + q), scaled(1 - q, -phi, 1 - c * phi - q)


@dataclass(frozen=True)
class OneThreshold(lab.Problem):
    """One normal input, one deterministic gate ``b = 1[x > theta]``, loss ``(x - 1)^2`` if it is open, else ``x + 2``.

    ``d/dtheta E[L] = -phi(theta) (L(1, theta) - L(0, theta))``: only inputs at the threshold tell.

    Args:
        threshold: theta.
        through: in the backward pass the loss is taken to be linear in the bit, and the bit to have this derivative.
    """

    threshold: float = 0.4
    through: Literal["identity", "sigmoid"] | None = None

    batch = 1
    sites = (lab.SiteSpec("x", lab.Normal(), (1,)),)

    def weights(self) -> Mapping[str, Tensor]:
        """The threshold."""
        return {"threshold": torch.tensor([self.threshold], dtype=torch.float64)}

    def theta(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...]) -> Tensor:
        """A standard normal input."""
        return weights["threshold"].new_zeros(1, 1, 2)

    def loss(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...], thetas: tuple[Tensor, ...]) -> Tensor:
        """``b (x - 1)^2 + (1 - b) (x + 2)``."""
        x = samples[0][:, 0]
        u = x - weights["threshold"]
        b = (u > 0).to(u)
        if self.through is not None:
            smooth = u if self.through == "identity" else u.sigmoid()
            b = b + (smooth - smooth.detach())
        return b * (x - 1).square() + (1 - b) * (x + 2)

    def expected_loss(self, weights: Mapping[str, Tensor], offsets: Mapping[str, Tensor]) -> Tensor:
        """By truncated moments."""
        mean, deviation = offsets["x"][0, :, 0], offsets["x"][0, :, 1].exp()
        (a0, a1, a2), (b0, b1, _) = _truncated(weights["threshold"], mean, deviation)
        return a2 - 2 * a1 + a0 + b1 + 2 * b0
