"""Deep networks whose expected loss and gradients have a closed form at any width and depth."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from numbers import Integral

import numpy as np
import torch
from torch import Tensor

from estimator_lab.errors import UsageError
from estimator_lab.families import Bernoulli, Normal
from estimator_lab.noise import derive_seed
from estimator_lab.problem import Problem
from estimator_lab.problems import affine
from estimator_lab.site import SiteSpec


@dataclass(frozen=True)
class LinearNetwork(Problem):
    """Layers whose mean is affine in the sample before; squared loss; exact gradients at any width and depth.

    Bernoulli layers, with s = 2 h - 1: the mean of s is t = (W s' + b) / (1 + |b| + sum |W|), the sum being over a
    unit's inputs, so that |t| < 1 whatever s' is; theta = logit((1 + t) / 2). Normal layers, with s = h:
    mu = W s' + b, and a weight log s. The loss is |V s - y|^2 / 2 of the last layer. Inputs, targets and weights are
    random numbers that the seed gives; nothing is trained.

    Mean and covariance of a layer follow from those of the one before, and the expected loss from those of the last.
    The unit gradients of Bernoulli layers need third moments besides; they take n^4 operations per example and layer
    of n units, everything else n^3.

    Args:
        family: ``"bernoulli"`` or ``"normal"``.
        sizes: inputs, units of each layer, outputs.
        batch: number of examples.
        seed: of inputs, targets and weights.
        dtype: of the computation.

    Raises:
        UsageError: another family, or sizes without a layer.
    """

    family: str = "bernoulli"
    sizes: tuple[int, ...] = (10, 30, 20, 5)
    batch: int = 4
    seed: int = 0
    dtype: torch.dtype = field(default=torch.float64, repr=False)

    def __post_init__(self) -> None:
        if self.family not in ("bernoulli", "normal"):
            raise UsageError(f"a LinearNetwork has 'bernoulli' or 'normal' layers; found {self.family!r}")
        object.__setattr__(self, "sizes", tuple(self.sizes))
        counts = (*self.sizes, self.batch)
        if len(self.sizes) < 3 or not all(isinstance(n, Integral) and n >= 1 for n in counts):
            raise UsageError(
                "sizes are those of the input, of each layer and of the output, each at least 1, and so is the batch; "
                f"found sizes={self.sizes}, batch={self.batch}"
            )

    @property
    def binary(self) -> bool:
        """Whether the layers are Bernoulli."""
        return self.family == "bernoulli"

    @property
    def depth(self) -> int:
        """Number of stochastic layers."""
        return len(self.sizes) - 2

    @property
    def sites(self) -> tuple[SiteSpec, ...]:  # type: ignore[override]
        """``h1``, ``h2``, ..."""
        law = Bernoulli() if self.binary else Normal()
        return tuple(SiteSpec(f"h{i}", law, (n,)) for i, n in enumerate(self.sizes[1:-1], 1))

    @property
    def label(self) -> str:
        """Family and sizes."""
        return f"linear {self.family} network {'-'.join(map(str, self.sizes))}"

    def weights(self) -> Mapping[str, Tensor]:
        """Of each layer, ``log_s`` of Normal ones, and ``output.weight``."""
        return {k: v.to(self.dtype, copy=True) for k, v in _numbers(self)[0].items()}

    def theta(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...]) -> Tensor:
        """Parameters of the next layer."""
        i = len(samples) + 1
        slope, shift = self._layer(weights, i)
        mean = (self._signed(samples[-1]) if samples else self._data(weights)[0]) @ slope.T + shift
        if self.binary:
            return mean.log1p() - (-mean).log1p()
        return torch.stack([mean, weights[f"layer{i}.log_s"].expand_as(mean)], -1)

    def loss(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...], thetas: tuple[Tensor, ...]) -> Tensor:
        """Half the squared error."""
        return 0.5 * (self._signed(samples[-1]) @ weights["output.weight"].T - self._data(weights)[1]).square().sum(-1)

    def expected_loss(self, weights: Mapping[str, Tensor], offsets: Mapping[str, Tensor]) -> Tensor:
        """``(|V m - y|^2 + tr V C V^T) / 2`` ``[B]`` of mean m and covariance C of the last layer.

        Layer by layer m = M m' + d, C = M C' M^T + noise. The noise is diag(s^2) for Normal units. The values of
        Bernoulli units square to one: all of C's diagonal is 1 - m^2.

        Offsets of Normal layers enter exactly; those of Bernoulli layers to first order, which is their derivative at
        zero.
        """
        x, y = self._data(weights)
        mean, covariance = x, x.new_zeros(self.batch, x.shape[1], x.shape[1])
        for i, site in enumerate(self.sites, 1):
            slope, shift = self._layer(weights, i)
            mean, covariance = mean @ slope.T + shift, slope @ covariance @ slope.T
            if self.binary:
                off = ~torch.eye(len(slope), dtype=torch.bool, device=x.device)
                covariance = off * covariance + torch.diag_embed(1 - mean.square())
            else:
                offset = offsets[site.name]
                mean = mean + offset[..., 0]
                spread = (2 * (weights[f"layer{i}.log_s"] + offset[..., 1])).exp()
                covariance = covariance + torch.diag_embed(spread)
        out = weights["output.weight"]
        loss = 0.5 * ((mean @ out.T - y).square().sum(-1) + ((out @ covariance) * out).sum((-2, -1)))
        if self.binary:
            for name, slopes in self._unit_gradients(weights).items():
                loss = loss + (offsets[name] * slopes).sum(-1)
        return loss

    @torch.no_grad()
    def _unit_gradients(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Derivatives of the expected loss with respect to the logits of Bernoulli layers, ``[B, units]`` by site.

        Let V(s) be the expected loss given a layer's values. It is quadratic: the last one's is, and if V is
        c + g . s + s^T Q s with a zero diagonal of Q (s_j^2 = 1 is part of c), then the expectation of V given the
        layer's means t is c + g . t + t^T Q t, since units are independent given t; with t = M s' + d it is
        quadratic in the values s' before: Q' = M^T Q M, g' = M^T (g + 2 Q d), and the diagonal of Q' moves into c'.

        A logit moves t_j by (1 - t_j^2) / 2. So its derivative is E[(1 - t_j^2) (g_j + 2 (Q t)_j)] / 2, which needs
        E[t_j^2 t_k] = k_jjk + 2 m_j K_jk + m_k K_jj + m_j^2 m_k
        with m, K and k the first three central moments of t.
        """
        x, y = self._data(weights)
        layers = [self._layer(weights, i) for i in range(1, self.depth + 1)]
        out = weights["output.weight"]
        values = [(0.5 * _hollow(out.T @ out), -y @ out)]  # (Q [n, n], g [B, n]) of each layer, the last one first
        for slope, shift in layers[:0:-1]:
            q, g = values[-1]
            values.append((_hollow(slope.T @ q @ slope), (g + 2 * q @ shift) @ slope))
        found = {site.name: torch.empty_like(g) for site, (_, g) in zip(self.sites, reversed(values), strict=True)}
        for b in range(self.batch):
            mean, second, third = x[b], x.new_zeros(len(x[b]), len(x[b])), None
            for site, (slope, shift), (q, g) in zip(self.sites, layers, reversed(values), strict=True):
                mean, second = slope @ mean + shift, slope @ second @ slope.T
                # the input is fixed: the first layer's means have no moments
                third = x.new_zeros(3 * (len(mean),)) if third is None else _carried(third, slope)
                square = second.diagonal() + mean.square()  # E t_j^2
                cubic = third.diagonal(dim1=0, dim2=1).T + 2 * mean[:, None] * second + square[:, None] * mean
                slopes = (1 - square) * g[b] + 2 * q @ mean - 2 * (q * cubic).sum(-1)
                found[site.name][b] = slopes / 2
                second, third = _sampled(mean, second, third)
        return found

    def _layer(self, weights: Mapping[str, Tensor], i: int) -> tuple[Tensor, Tensor]:
        """Slope M and shift d of a layer's mean."""
        slope, shift = weights[f"layer{i}.weight"], weights[f"layer{i}.bias"]
        if not self.binary:
            return slope, shift
        size = 1 + shift.abs() + slope.abs().sum(-1)
        return slope / size[:, None], shift / size

    def _signed(self, value: Tensor) -> Tensor:
        return 2 * value - 1 if self.binary else value

    def _data(self, weights: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Inputs and targets."""
        like = weights["output.weight"]
        _, x, y = _numbers(self)
        return x.to(like), y.to(like)


def _hollow(matrix: Tensor) -> Tensor:
    """A matrix with a zero diagonal."""
    return matrix - torch.diag(matrix.diagonal())


def _carried(third: Tensor, slope: Tensor) -> Tensor:
    """Third central moments of M s: ``sum M_ai M_bj M_ck T_ijk``."""
    for _ in range(3):  # contracts the first axis and puts it last: after three times all are in their places
        third = torch.tensordot(third, slope, ([0], [1]))
    return third


def _sampled(mean: Tensor, second: Tensor, third: Tensor) -> tuple[Tensor, Tensor]:
    """Central moments of values -1 and 1 drawn independently at means t, from the mean and central moments of t.

    Different units keep the moments of t. Where an index is repeated, s_a^2 = 1 gives
    (s_a - m_a)^2 = 1 - m_a^2 - 2 m_a (s_a - m_a), hence C_aa = 1 - m_a^2 and T_aac = -2 m_a C_ac.
    """
    second = _hollow(second) + torch.diag(1 - mean.square())
    pair = -2 * mean[:, None] * second
    third = third.clone()
    for axes in ((0, 1), (0, 2), (1, 2)):
        third.diagonal(dim1=axes[0], dim2=axes[1]).copy_(pair.T)  # [c, a], the repeated index last
    return second, third


@lru_cache(maxsize=16)
def _numbers(network: LinearNetwork) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Weights, inputs ``[B, n]`` and targets ``[B, m]``, in float64."""
    rng = np.random.default_rng(derive_seed("linear network", network.family, network.sizes, network.seed))
    inputs, *_, outputs = network.sizes
    weights = {}
    for i, (n, m) in enumerate(zip(network.sizes[:-2], network.sizes[1:-1], strict=True), 1):
        for name, shape in affine.shapes(f"layer{i}", m, n).items():
            # cubes have heavy tails: few inputs matter to a unit, so that probabilities stay away from one half
            drawn = rng.standard_normal(shape)
            weights[name] = drawn**3 if network.binary else drawn * n**-0.5
        if not network.binary:
            weights[f"layer{i}.log_s"] = rng.uniform(-1.5, 0, m)
    weights["output.weight"] = rng.standard_normal((outputs, network.sizes[-2])) * network.sizes[-2] ** -0.5
    x, y = rng.uniform(-1, 1, (network.batch, inputs)), rng.standard_normal((network.batch, outputs))
    return {k: torch.from_numpy(v) for k, v in weights.items()}, torch.from_numpy(x), torch.from_numpy(y)
