"""Small networks of binary units summed over all their states in plain numpy: the lab is held against these sums.

No formula of an estimator or of a gradient is used for the truth: it is the complex-step derivative of the enumerated
expected loss, ``Im J(a + i 1e-30) / 1e-30``, which is exact to rounding where J is analytic (Squire and Trapp
1998, doi:10.1137/S003614459631241X).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import estimator_lab as lab
from estimator_lab.noise import derive_seed

Array = NDArray[np.float64]
Rule = Callable[[Array, Array, Array], Array]
"""What a unit computes from its value h, its probability p and the loss: an estimate. All are ``[..., B, units]``."""

STEP = 1e-30

Scalar = Callable[[float], float]
Found = dict[str, tuple[Array, Array, Array]]
"""Truth, mean and mean square of an estimate ``[B, units]``, by site."""

TOLERANCE = 2**12 * float(np.finfo(np.float64).eps)
"""Relative error that rounding explains: sums of up to 2^10 terms, each rounded four times."""

ORDER = 0.02
"""How far a fitted order may lie from the one that is claimed."""

QUADRATURE = 1e-10
"""Relative error of quadratures."""


def sigmoid(a: Array) -> Array:
    """``1 / (1 + exp(-a))``, of complex numbers as well."""
    return 1 / (1 + np.exp(-a))


def bits(units: int) -> Array:
    """All states ``[2^units, units]``; unit j is digit j of the state's index, the lowest first."""
    return (np.arange(2**units)[:, None] >> np.arange(units) & 1).astype(np.float64)


def probabilities(logits: Array) -> Array:
    """``[..., units]`` to the probability of every state ``[..., 2^units]``."""
    on = bits(logits.shape[-1]) > 0.5
    p = sigmoid(logits)[..., None, :]
    return np.where(on, p, 1 - p).prod(-1)


def slope(function: Callable[[Array], Array], at: Array) -> Array:
    """Derivatives of an analytic function ``[..., n] -> [...]`` with respect to each of the n numbers ``[..., n]``."""
    step = 1j * STEP * np.eye(at.shape[-1])
    return np.stack([function(at + row).imag / STEP for row in step], -1)


@dataclass(frozen=True)
class Tables(lab.Problem):
    """One or two layers of binary units whose logits and losses are looked up in tables of random numbers.

    The logits of the second layer depend on the state of the first in any way, the loss on both states; neither has a
    derivative with respect to a unit's value.

    Args:
        units: of each layer.
        batch: examples, each with tables of its own.
        seed: of the tables.
    """

    units: tuple[int, ...]
    batch: int = 2
    seed: int = 0

    @property
    def sites(self) -> tuple[lab.SiteSpec, ...]:  # type: ignore[override]
        """``h1``, ``h2``."""
        return tuple(lab.SiteSpec(f"h{i}", lab.Bernoulli(), (n,)) for i, n in enumerate(self.units, 1))

    @property
    def label(self) -> str:
        """The sizes."""
        return f"tables {'-'.join(map(str, self.units))}"

    @cached_property
    def logits(self) -> tuple[Array, ...]:
        """``[B, n1]``, and ``[B, 2^n1, n2]`` for every state of the first layer: normal, standard deviation 1.5."""
        generator = np.random.default_rng(derive_seed("logits", self.units, self.batch, self.seed))
        sizes = [(self.batch, *(2**m for m in self.units[:i]), n) for i, n in enumerate(self.units)]
        return tuple(1.5 * generator.normal(size=size) for size in sizes)

    @cached_property
    def losses(self) -> Array:
        """``[B, 2^n1, 2^n2]`` (the last axis of size one with one layer): normal, mean 1, standard deviation 2."""
        generator = np.random.default_rng(derive_seed("losses", self.units, self.batch, self.seed))
        found = 1 + 2 * generator.normal(size=(self.batch, *(2**n for n in self.units)))
        return found.reshape(self.batch, 2 ** self.units[0], -1)

    # ------------------------------------------------------------------ the lab's view
    def weights(self) -> Mapping[str, Tensor]:
        """The tables of logits, ``theta1`` and ``theta2``."""
        return {f"theta{i}": torch.as_tensor(t) for i, t in enumerate(self.logits, 1)}

    def theta(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...]) -> Tensor:
        """The row of the first layer's state."""
        if not samples:
            return weights["theta1"]
        table = weights["theta2"]
        return table.gather(1, _index(samples[0])[:, None, None].expand(-1, 1, table.shape[-1]))[:, 0]

    def loss(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...], thetas: tuple[Tensor, ...]) -> Tensor:
        """The entry of both states."""
        found = torch.as_tensor(self.losses)
        found = found.gather(1, _index(samples[0])[:, None, None].expand(-1, 1, found.shape[-1]))[:, 0]
        return found.gather(1, _index(samples[1])[:, None])[:, 0] if len(samples) > 1 else found[:, 0]

    # ------------------------------------------------------------------ by hand
    def chances(self, first: Array | None = None, second: Array | None = None) -> tuple[Array, Array]:
        """P of the first layer's states ``[B, S1]`` and of the second's given those ``[B, S1, S2]``."""
        own = probabilities(self.logits[0] if first is None else first)
        if len(self.units) == 1:
            return own, np.ones((self.batch, own.shape[1], 1))
        return own, probabilities(self.logits[1] if second is None else second)

    def expected(self, first: Array | None = None, second: Array | None = None) -> Array:
        """E[loss] of each example ``[B]`` at logits, those of the problem by default."""
        own, later = self.chances(first, second)
        return (own * (later * self.losses).sum(-1)).sum(-1)

    def truth(self) -> dict[str, Array]:
        """Derivative of the expected loss with respect to an offset of each unit's logit: ``[B, units]`` by site."""
        found = {"h1": slope(lambda a: self.expected(first=a), self.logits[0])}
        if len(self.units) > 1:
            base = self.logits[1]
            found["h2"] = slope(
                lambda d: self.expected(second=base + d[:, None]), np.zeros((self.batch, self.units[1]))
            )
        return found

    def truth_given(self) -> Array:
        """The same of the second layer given each state of the first: ``[B, S1, n2]``."""
        return slope(lambda a: (probabilities(a) * self.losses).sum(-1), self.logits[1])

    def estimates(self, rules: Mapping[str, Rule]) -> dict[str, Array]:
        """What each site's rule gives in every joint state: ``[S1, S2, B, units]``."""
        states = self.losses.shape[1:]
        loss = self.losses.transpose(1, 2, 0)[..., None]
        found = {}
        for i, (spec, rule) in enumerate(zip(self.sites, rules.values(), strict=True)):
            h, p = bits(spec.units[0])[:, None], sigmoid(self.logits[i])
            h, p = (h[:, None], p) if i == 0 else (h, p.transpose(1, 0, 2)[:, None])
            full = (*states, self.batch, *spec.units)
            h, p, shown = (np.broadcast_to(x, full) for x in (h, p, loss))
            found[spec.name] = np.broadcast_to(rule(h, p, shown), full)
        return found

    def moments(self, rules: Mapping[str, Rule]) -> dict[str, tuple[Array, Array]]:
        """Mean and mean square ``[B, units]`` of what each site's rule gives, by site."""
        own, later = self.chances()
        weight = (own[..., None] * later).transpose(1, 2, 0)[..., None]
        found = self.estimates(rules)
        return {k: ((weight * v).sum((0, 1)), (weight * v**2).sum((0, 1))) for k, v in found.items()}

    def mean_given(self, rule: Rule) -> Array:
        """Mean of what the second layer's rule gives, given each state of the first: ``[B, S1, n2]``."""
        found = self.estimates({"h1": likelihood_ratio, "h2": rule})["h2"]
        return (self.chances()[1].transpose(1, 2, 0)[..., None] * found).sum(1).transpose(1, 0, 2)


def _index(samples: Tensor) -> Tensor:
    """Index of a layer's state ``[B]``."""
    place = 2 ** torch.arange(samples.shape[-1])
    return (samples.detach().round().long() * place).sum(-1)


@dataclass(frozen=True)
class Broadcast(lab.Estimator):
    """Every unit gets what its rule makes of its value, its probability and the loss; nothing is backpropagated.

    Args:
        rule: of the units.
        name: of the rule; equal names mean equal rules.
    """

    rule: Rule
    name: str

    unbiased = True
    families = (lab.Bernoulli,)

    def surrogate(self, site: lab.Site, downstream: lab.Downstream) -> Tensor:
        """The loss, plus the injected estimate."""
        h, p = site.sample(), site.mean.detach()
        loss = downstream(h)
        shown = site.expand(loss.detach()).expand_as(h)
        return loss + site.inject(torch.as_tensor(self.rule(h.numpy(), p.expand_as(h).numpy(), shown.numpy())))

    def __repr__(self) -> str:
        return f"Broadcast({self.name})"


def in_the_lab(rules: Mapping[str, Rule], name: str) -> lab.Estimator:
    """The rules as an estimator of the lab."""
    return lab.PerSite({site: Broadcast(rule, f"{name}, {site}") for site, rule in rules.items()})


def likelihood_ratio(h: Array, p: Array, loss: Array) -> Array:
    """``(h - p) L``."""
    return (h - p) * loss


# ---------------------------------------------------------------------- the lab beside the sums
def everywhere(net: Tables, rule: Rule) -> dict[str, Rule]:
    """The same rule at every site."""
    return {site.name: rule for site in net.sites}


def beside_the_lab(net: Tables, rules: Mapping[str, Rule]) -> Found:
    """What the sums over states find, after the lab has found the same.

    Raises:
        MeasurementError: the lab and the sums disagree.
    """
    truth, moments = net.truth(), net.moments(rules)
    exact, found = lab.Truth.exact(net).mean, lab.exact_moments(net, in_the_lab(rules, "rule"))
    for site, true in truth.items():
        mean, square = moments[site]
        scale = float(np.sqrt(square.max()))
        own = found["unit", site]
        gaps = (exact["unit", site] - true) / scale, (own.mean.reshape(true.shape) - mean) / scale
        spread = (own.variance.reshape(true.shape) - (square - mean**2)) / scale**2
        if max(np.abs(gap).max() for gap in (*gaps, spread)) > TOLERANCE:
            raise lab.MeasurementError(f"the lab and the sums over the states of {net.label} disagree at {site}")
    return {site: (true, *moments[site]) for site, true in truth.items()}


def relative_error(found: Found) -> float:
    """Largest error of a mean, in units of the root mean square of one draw."""
    return max(float((np.abs(mean - true) / np.sqrt(square)).max()) for true, mean, square in found.values())


def lab_moments(problem: lab.Problem, estimator: lab.Estimator, site: str = "x") -> tuple[Array, Array]:
    """The lab's exact mean and variance of the unit gradients of a site, flat."""
    found = lab.exact_moments(problem, estimator, wrt=("unit",))["unit", site]
    return found.mean, found.variance


def objective(logits: Sequence[float] | Array, f: Callable[[Tensor], Tensor], name: str) -> lab.Objective:
    """One layer of binary units in the lab."""
    return lab.Objective(lab.Bernoulli(), torch.tensor(logits, dtype=torch.float64), f, name)


def agree(what: str, one: Array | float, other: Array | float, tolerance: float = TOLERANCE) -> None:
    """Requires two ways to the same numbers to agree.

    Raises:
        MeasurementError: they do not.
    """
    scale = max(float(np.abs(one).max()), float(np.abs(other).max()), 1e-300)
    if float(np.abs(np.asarray(one) - other).max()) > tolerance * max(scale, 1.0):
        raise lab.MeasurementError(f"{what}: {one} by one way and {other} by the other")


def order(sizes: Array, errors: Array) -> float:
    """Slope of log error against log size, by least squares."""
    return float(np.polyfit(np.log(sizes), np.log(np.abs(errors)), 1)[0])


def gaussian(z: Array) -> Array:
    """The standard normal density."""
    return np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
