"""Modules as problems: gradients against a plain enumeration of the module itself, state, refusals, cost."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import estimator_lab as lab
from estimator_lab.estimators import DisARM, Reinforce, StraightThrough
from estimator_lab.loading import load_problems
from estimator_lab.nn import Stochastic

D = torch.float64


# ---------------------------------------------------------------------- an independent enumeration
@dataclass
class Odometer:
    """Runs a module once for every joint outcome of one example's units, each example given the same outcome."""

    straight: bool
    script: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    offsets: list[Tensor] = field(default_factory=list)
    weight: Any = 1.0

    def visit(self, layer: Stochastic, theta: Tensor) -> Tensor:
        i = len(self.counts)
        if i == len(self.offsets):
            self.offsets.append(torch.zeros_like(theta).requires_grad_())
        theta = theta + self.offsets[i]
        family = layer.family
        if isinstance(family, lab.Bernoulli):
            p = theta.sigmoid()
            support, laws, mean = [0.0, 1.0], torch.stack([1 - p, p], -1), p
        elif isinstance(family, lab.Categorical):
            laws = theta.softmax(-1)
            support, mean = list(torch.eye(theta.shape[-1], dtype=theta.dtype)), laws
        else:
            x, w = np.polynomial.hermite_e.hermegauss(24)
            support = [theta[..., 0] + theta[..., 1].exp() * float(node) for node in x]
            laws = (torch.as_tensor(w, dtype=theta.dtype) / math.sqrt(2 * math.pi)).expand(*theta.shape[:-1], -1)
            mean = theta[..., 0]
        units = math.prod(laws.shape[1:-1])
        self.counts.append(len(support) ** units)
        if i == len(self.script):
            self.script.append(0)
        digits = [self.script[i] // len(support) ** k % len(support) for k in range(units)]
        flat = laws.reshape(len(theta), units, -1)
        for k, digit in enumerate(digits):
            self.weight = self.weight * flat[:, k, digit]
        if isinstance(family, lab.Normal):
            columns = [support[digit].reshape(len(theta), units)[:, k] for k, digit in enumerate(digits)]
            return torch.stack(columns, 1).reshape(mean.shape)
        rows = torch.stack([torch.as_tensor(support[digit], dtype=theta.dtype) for digit in digits])
        value = rows.expand(len(theta), *rows.shape).reshape(mean.shape).clone()
        return value + (mean - mean.detach()) if self.straight else value

    def advance(self) -> bool:
        """On to the next outcome, the last visit turning fastest."""
        while self.script and self.script[-1] + 1 == self.counts[len(self.script) - 1]:
            self.script.pop()
        if self.script:
            self.script[-1] += 1
        self.counts, self.weight = [], 1.0
        return bool(self.script)


def enumerated(module: nn.Module, loss: Any, batch: Any, *, straight: bool = False) -> tuple[list[Any], dict[str, Any]]:
    """Unit gradients by visit and weight gradients by name: of the expected loss, or the mean of straight-through."""
    module, (inputs, target) = copy.deepcopy(module), batch
    odometer = Odometer(straight)
    for layer in module.modules():
        if isinstance(layer, Stochastic):
            layer.forward = lambda theta, layer=layer: odometer.visit(layer, theta)
    weights = {k: p for k, p in module.named_parameters() if p.requires_grad}
    total: Any = 0.0
    going = True
    while going:
        given = copy.deepcopy(inputs)
        args, named = ((), given) if isinstance(given, dict) else (given if isinstance(given, tuple) else (given,), {})
        value = loss(module(*args, **named), target)
        w = odometer.weight
        total = total + (w.detach() if straight else w) * value
        going = odometer.advance()
    slopes = torch.autograd.grad(
        total.sum(), [*odometer.offsets, *weights.values()], materialize_grads=True, allow_unused=True
    )
    cut = len(odometer.offsets)
    return (
        [g.numpy() for g in slopes[:cut]],
        {k: g.numpy() / len(value) for k, g in zip(weights, slopes[cut:], strict=True)},
    )


def assert_same(found: Any, problem: lab.Problem, expected: Any, atol: float = 1e-10) -> None:
    units, weights = expected
    assert len(units) == len(problem.sites)
    size = max(float(np.abs(g).max()) for g in (*units, *weights.values()))
    assert size > 1e-3, "a test of zeros"
    for spec, g in zip(problem.sites, units, strict=True):
        np.testing.assert_allclose(np.ravel(found["unit", spec.name]), g.ravel(), rtol=0, atol=atol, err_msg=spec.name)
    assert {k[1] for k in found if k[0] == "weight"} == set(weights)
    for name, g in weights.items():
        np.testing.assert_allclose(np.ravel(found["weight", name]), g.ravel(), rtol=0, atol=atol, err_msg=name)


def squared(output: Tensor, target: Tensor) -> Tensor:
    """A loss that is no polynomial of degree one in anything."""
    return (output - target).square().flatten(1).sum(1) + 0.3 * output.flatten(1).sin().prod(1)


def seeded(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=D, generator=torch.Generator().manual_seed(seed))


def prepared(module: nn.Module) -> nn.Module:
    """In float64, with weights and buffers that no symmetry hides behind."""
    generator = torch.Generator().manual_seed(7)
    module = module.to(D)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, dtype=D, generator=generator) * 0.7)
    return module


# ---------------------------------------------------------------------- networks
class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 2), nn.Linear(2, 2), nn.Linear(2, 2)
        self.one, self.two = Stochastic(lab.Bernoulli()), Stochastic(lab.Bernoulli())

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).tanh()
        y = h + self.one(self.b(h))
        y = y + self.two(self.c(y).relu())
        return y * h


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 2, 3, padding=0),
            nn.GroupNorm(1, 2),
            Stochastic(lab.Bernoulli()),
            nn.Conv2d(2, 2, 2, padding=1),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.LayerNorm(8),
            nn.Linear(8, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(2, 2)
        self.attend = nn.MultiheadAttention(2, 1, batch_first=True)
        self.norm = nn.LayerNorm(2)
        self.bits = Stochastic(lab.Bernoulli())
        self.out = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        b = self.bits(h)
        y, _ = self.attend(b + 0.1 * h, h, b, need_weights=False)
        return self.out(self.norm(y + h))


class Encoder(nn.Module):
    """A dropout layer that is off, and gradients that are zero but for rounding: those of the keys' bias."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(2, 1, 4, dropout=0.1, batch_first=True)
        self.bits, self.dropout = Stochastic(lab.Bernoulli()), nn.Dropout(0.1)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        h = self.encoder(x)
        return self.dropout(self.encoder(h + self.bits(h[:, 0])[:, None]))


class HandAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(2, 6)
        self.bits, self.more = Stochastic(lab.Bernoulli()), Stochastic(lab.Bernoulli())

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        b = self.bits(x * self.qkv.weight[0, 0])
        q, k, v = self.qkv(b).view(batch, length, 1, 3 * width).transpose(1, 2).chunk(3, -1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        y = y.transpose(1, 2).reshape(batch, length, width)
        return y + self.more(y[:, 0])[:, None]


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(3, 2), nn.BatchNorm1d(2), Stochastic(lab.Bernoulli()), nn.Linear(2, 2), nn.BatchNorm1d(2)
        )
        self.last = Stochastic(lab.Bernoulli())
        generator = torch.Generator().manual_seed(3)
        for norm in (self.net[1], self.net[4]):
            norm.running_mean.copy_(torch.randn(2, generator=generator))
            norm.running_var.copy_(torch.rand(2, generator=generator) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.net(x)) * self.net[0].bias + x[:, :2]


class Tied(nn.Module):
    """One Parameter under two names, and one module used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)
        self.b.weight = self.a.weight
        self.block = nn.Sequential(nn.Linear(2, 2), Stochastic(lab.Bernoulli()))

    def forward(self, x: Tensor) -> Tensor:
        y = self.block(self.a(x))
        y = self.block(self.b(y) - x)
        return self.a(y) + F.linear(y, self.b.weight.T)


class Buffered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin, self.bits = nn.Linear(2, 2), Stochastic(lab.Bernoulli())
        self.register_buffer("table", seeded((4, 2), 5))
        self.register_buffer("mask", torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
        self.plain = seeded((2,), 8)

    def forward(self, x: Tensor) -> Tensor:
        h = self.lin(x) + self.table[: x.shape[1]]
        b = self.bits(h[:, 0])
        return (b[:, None] * h) @ self.mask + self.plain


class Families(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pick = Stochastic(lab.Categorical(3))
        self.bit = Stochastic(lab.Bernoulli())
        self.real = Stochastic(lab.Normal())
        self.a, self.b, self.c = nn.Linear(2, 3), nn.Linear(3, 2), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.a(x)
        one = self.pick(logits)  # [B, C]: a layer of one unit
        two = self.bit(self.b(one))
        three = self.real((0.5 * self.c(two + x))[:, None])  # [B, 1, 2]
        entropy = -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1)
        return two.sum(1, keepdim=True) * three + one[:, :1] * three.square(), entropy


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.spike, self.out = nn.GRUCell(2, 2), Stochastic(lab.Bernoulli()), nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(len(x), 2, dtype=x.dtype)
        total = 0.0
        for step in x.unbind(1):
            h = self.cell(step, h)
            s = self.spike(h[:, :1])
            h = h * (1 - 0.5 * s)
            total = total + s * self.out(h)
        return total


class TimeFirst(nn.Module):
    """[T, B, D] inside, where T equals B by accident, and states [1, B, D] of a leaf."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.rnn, self.bits, self.out = kind(1, 2), Stochastic(lab.Bernoulli()), nn.Linear(2, 1)
        self.lin = nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        t = x.transpose(0, 1)
        y, state = self.rnn(t)
        b = self.bits(self.lin(y).transpose(0, 1).flatten(1))
        z, _ = self.rnn(b.transpose(0, 1)[..., None] + t, state)
        c = self.bits(self.lin(z)[-1])
        return (self.out(z) * y.sum(-1, keepdim=True)).transpose(0, 1)[..., 0] * c


class Inplace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.one, self.two = nn.Linear(2, 2), Stochastic(lab.Bernoulli()), Stochastic(lab.Bernoulli())

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        b = self.one(h)
        b += 0.3 * x
        b.mul_(2.0)
        c = self.two(b * self.a.bias)
        y = torch.zeros_like(c)
        y[:, 0] = c[:, 0] * b[:, 1]
        y[:, 1:] += b[:, :1]
        return F.relu(y, inplace=True) + h


class Sly(nn.Module):
    """A tensor that is changed in place at some samples only, after a later layer has been promised the old one."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.one, self.two = nn.Linear(2, 2), Stochastic(lab.Bernoulli()), Stochastic(lab.Bernoulli())

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        b = self.one(h)
        h.mul_(1 - b.prod(1, keepdim=True))
        c = self.two(b * self.a.bias)
        return h * c + b


class Rarely(Sly):
    """A tensor that is changed in place, without another name for the result, at samples that are hardly ever met."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        b = self.one(h)
        g = b * h
        g.mul_(1 + (self.two(g - 9) > 0.5))
        return g + b


class Consumed(Sly):
    """What an earlier layer computed is changed in place by the last part, which may run more than once."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        b = self.one(h)
        c = self.two(b + h)
        return h.mul_(-2.0) * b.add_(0.5) + c.sub_(0.3)


class Shaped(nn.Module):
    """Asks for the shape of its input, and for one that depends on samples: the number of events, mostly 0."""

    def __init__(self, mask: bool) -> None:
        super().__init__()
        self.a, self.one, self.mask = nn.Linear(2, 2), Stochastic(lab.Bernoulli()), mask

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        b = self.one(h - 9 * torch.ones(x.shape[0], 1, dtype=x.dtype))
        events = b[b > 0.5] if self.mask else b.nonzero()
        return h[:, [1, 0]] * (1 + events.shape[0]) + b


class Severed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.one, self.two = (
            nn.Linear(2, 2),
            nn.Linear(2, 2),
            Stochastic(lab.Bernoulli()),
            Stochastic(lab.Bernoulli()),
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        b = self.one(h)
        with torch.no_grad():
            frozen = self.b(b)
        c = self.two(h.detach() + self.b(b))
        return c * frozen + h


class Windowed(torch.autograd.Function):
    """The identity; its backward differs from it at large values only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * (1 + (ctx.saved_tensors[0] > 0.9))


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return -0.5 * g


class Backwards(nn.Module):
    """Functions with backward passes of their own, in the skeleton or inside a leaf."""

    def __init__(self, function: Any, leaf: bool) -> None:
        super().__init__()
        self.a, self.one, self.two = nn.Linear(2, 2), Stochastic(lab.Bernoulli()), Stochastic(lab.Bernoulli())

        class Leaf(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return function.apply(x)

        self.odd: Any = Leaf() if leaf else function.apply

    def forward(self, x: Tensor) -> Tensor:
        h = self.odd(self.a(x))
        b = self.one(h)
        return self.two(self.odd(b * self.a.bias)) * h + self.odd(b * h)


class RarelyOdd(nn.Module):
    """A backward pass of its own that differs from the derivative at samples that are hardly ever met."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.one, self.two = nn.Linear(2, 2), Stochastic(lab.Bernoulli()), Stochastic(lab.Bernoulli())

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        rare = self.one(0.1 * h - 6)
        return Windowed.apply(0.1 * h + 10 * rare) * self.two(h)


class Hooked(nn.Module):
    """A gradient hook in the skeleton, which acts at large values only."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.one = nn.Linear(2, 2), Stochastic(lab.Bernoulli())

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        if h.requires_grad:
            large = h.detach() > 0.9
            h.register_hook(lambda g: g * (1 + large))
        return self.one(h) * h


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.one, self.two = nn.Linear(2, 2), Stochastic(lab.Bernoulli()), Stochastic(lab.Bernoulli())

    def forward(self, x: Tensor) -> Tensor:
        b = self.one(self.a(x))
        h = torch.stack([row * 2 if float(row.detach()[0]) > 0.5 else row - 1 for row in b])
        return self.two(h * self.a.bias) + h


class Optional(nn.Module):
    """Arguments that are no tensors: a mask that may be missing, a flag, a number of steps."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.one = nn.Linear(2, 2), Stochastic(lab.Bernoulli())

    def forward(self, x: Tensor, mask: Tensor | None = None, *, steps: int = 1, twice: bool = False) -> Tensor:
        h = self.a(x) if mask is None else self.a(x) * mask
        for _ in range(steps):
            h = self.one(h) + 0.2 * h
        return 2 * h if twice else h


class Mappings(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.a, self.one = nn.Embedding(5, 2), nn.Linear(2, 2), Stochastic(lab.Bernoulli())

    def forward(self, tokens: Tensor, extra: dict[str, Tensor]) -> dict[str, Any]:
        h = self.a(self.words(tokens).mean(1) + extra["shift"])
        b = self.one(h)
        return {"logits": b * h, "aux": (h, [b])}


class Lost(nn.Module):
    """One sample is not used, another one only past all later layers; an early return."""

    def __init__(self, early: bool = False) -> None:
        super().__init__()
        self.a, self.early = nn.Linear(2, 2), early
        self.skip, self.unused, self.last = (Stochastic(lab.Bernoulli()) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        s = self.skip(h[:, :1])
        self.unused(h[:, 1:])
        if self.early:
            return s * h
        y = self.last(h + x)
        return y * x + s


class Listed(nn.Module):
    """Weights in a ParameterList, and in a dict of modules."""

    def __init__(self) -> None:
        super().__init__()
        self.ws = nn.ParameterList([nn.Parameter(torch.zeros(2, 2)) for _ in range(2)])
        self.parts = nn.ModuleDict({"bits": Stochastic(lab.Bernoulli()), "lin": nn.Linear(2, 2)})

    def forward(self, x: Tensor) -> Tensor:
        for w in self.ws:
            x = self.parts["bits"](x @ w) + self.parts["lin"](x)
        return x


class Einops(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.bits = nn.Linear(4, 4), Stochastic(lab.Bernoulli())

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        patches = x.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, -1, c * 4)
        theta = torch.einsum("bpd,de->bpe", patches, self.a.weight)
        z = self.bits(theta[..., :2])
        back = z.reshape(b, h // 2, w // 2, 2).flatten(2).permute(0, 2, 1)
        return torch.einsum("bij,bpd->bi", back, self.a(patches))[:, :2]


class Sums(nn.Module):
    """States changed in place from step to step, begun as constants."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.bits = nn.Linear(2, 1), Stochastic(lab.Bernoulli())

    def forward(self, x: Tensor) -> Tensor:
        v = torch.zeros(x.shape[0], 1, dtype=x.dtype)
        for t in range(x.shape[1]):
            v += self.a(x[:, t])
            s = self.bits(v)
            v = v * (1 - s) + t * s
        return v


X, Y = seeded((2, 2)), seeded((2, 2), 1)


@dataclass(frozen=True)
class Case:
    name: str
    make: Callable[[], nn.Module]
    inputs: Any = field(default_factory=lambda: X.clone())
    loss: Any = squared
    target: Any = field(default_factory=lambda: Y.clone())
    cut: bool = True

    def problem(self) -> tuple[nn.Module, lab.Problem]:
        module = prepared(self.make())
        module.eval() if self.name == "batch norm" else None
        return module, lab.from_module(module, self.loss, (self.inputs, self.target))


def both(output: Any, target: Tensor) -> Tensor:
    return (output[0] - target[:, :1]).square().sum(1) + 0.2 * output[1]


def logits(output: Any, target: Tensor) -> Tensor:
    return squared(output["logits"], target) + output["aux"][0].square().sum(1) * output["aux"][1][0].sum(1)


def three(n: int) -> Tensor:
    return seeded((2, n), 2)


CASES = [
    Case(
        "sequential",
        lambda: nn.Sequential(
            nn.Linear(3, 2), Stochastic(lab.Bernoulli()), nn.Linear(2, 2), nn.Tanh(), Stochastic(lab.Bernoulli())
        ),
        three(3),
    ),
    Case("residual", Residual, three(3)),
    Case("convolution", Convolutional, seeded((2, 1, 3, 4))[..., :4].contiguous()[:, :, :, :3].repeat(1, 1, 1, 1)),
    Case("attention", Attention, seeded((2, 2, 2)), target=seeded((2, 2, 2), 1)),
    Case("encoder", Encoder, seeded((2, 2, 2)), target=seeded((2, 2, 2), 1)),
    Case("attention by hand", HandAttention, seeded((2, 2, 2)), target=seeded((2, 2, 2), 1)),
    Case("batch norm", Normed, three(3)),
    Case("tied", Tied),
    Case("buffers", Buffered, seeded((2, 2, 2)), target=seeded((2, 2, 2), 1)),
    Case("families", Families, loss=both),
    Case("recurrence", Recurrent, seeded((2, 3, 2)), target=Y[:, :1]),
    Case("gru", lambda: TimeFirst(nn.GRU), seeded((2, 2, 1))),
    Case("lstm", lambda: TimeFirst(nn.LSTM), seeded((2, 2, 1))),
    Case("in place", Inplace, cut=False),
    Case("sly in place", Sly, cut=False),
    Case("rarely in place", Rarely, cut=False),
    Case("consumed", Consumed),
    Case("events", lambda: Shaped(False), X[:1], target=Y[:1], cut=False),
    Case("masked", lambda: Shaped(True), X[:1], target=Y[:1], cut=False),
    Case("severed", Severed, cut=False),
    Case("windowed", lambda: Backwards(Windowed, False), cut=False),
    Case("windowed leaf", lambda: Backwards(Windowed, True)),
    Case("rarely windowed", RarelyOdd, cut=False),
    Case("reversed", lambda: Backwards(Reversed, False), cut=False),
    Case("reversed leaf", lambda: Backwards(Reversed, True)),
    Case("hooked", Hooked, cut=False),
    Case("branching", Branching, cut=False),
    Case("no mask", Optional),
    Case("mask", Optional, (X, torch.tensor([[1.0, 0.5], [0.0, 1.0]], dtype=D))),
    Case("steps", Optional, {"x": X, "steps": 2, "twice": True}),
    Case("mappings", Mappings, (torch.tensor([[1, 2, 2], [4, 0, 1]]), {"shift": X}), logits),
    Case("lost", Lost),
    Case("early", lambda: Lost(True)),
    Case("listed", Listed),
    Case("einops", Einops, seeded((2, 1, 2, 4))),
    Case("sums in place", Sums, seeded((2, 2, 2)), target=Y[:, :1], cut=False),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_gradients_are_those_of_the_module(case: Case) -> None:
    module, problem = case.problem()
    batch = (case.inputs, case.target)
    assert any("cannot be cut" in note for note in problem.notes) != case.cut
    assert_same(lab.Truth.exact(problem).mean, problem, enumerated(module, case.loss, batch))
    if all(spec.family.discrete for spec in problem.sites):
        found = lab.exact_moments(problem, StraightThrough())
        expected = enumerated(module, case.loss, batch, straight=True)
        assert_same({k: m.mean for k, m in found.items()}, problem, expected)


@pytest.mark.parametrize("name", ["sequential", "in place", "consumed", "recurrence"])
@pytest.mark.parametrize("estimator", [Reinforce(), DisARM()], ids=repr)
def test_unbiased_estimators_are(name: str, estimator: lab.Estimator) -> None:
    (case,) = [c for c in CASES if c.name == name]
    one = Case(name, case.make, case.inputs[:1], target=case.target[:1])
    module, problem = one.problem()
    found = lab.exact_moments(problem, estimator)
    assert_same({k: m.mean for k, m in found.items()}, problem, enumerated(module, squared, (one.inputs, one.target)))


def small() -> nn.Sequential:
    made = prepared(
        nn.Sequential(nn.Linear(2, 2), Stochastic(lab.Bernoulli()), nn.Linear(2, 2), Stochastic(lab.Bernoulli()))
    )
    assert isinstance(made, nn.Sequential)
    return made


def test_a_hook_is_not_cut_away() -> None:
    class Asking(Hooked):
        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x)
            if torch.is_grad_enabled():
                h.register_hook(lambda g: g * (1 + (h.detach() > 1e9)))
            return self.one(h) * h

    (note,) = lab.from_module(prepared(Asking()), squared, (X, Y)).notes
    assert "cannot be cut: argument of type: <class 'function'>" in note


def test_frozen_parameters_are_no_weights() -> None:
    module = small()
    module[2].weight.requires_grad_(False)
    problem = lab.from_module(module, squared, (X, Y))
    assert set(problem.weights()) == {"0.weight", "0.bias", "2.bias"}
    assert_same(lab.Truth.exact(problem).mean, problem, enumerated(module, squared, (X, Y)))


def test_float32() -> None:
    module = small().float()
    batch = (X.float(), Y.float())
    problem = lab.from_module(module, squared, batch)
    assert not problem.notes
    assert_same(lab.Truth.exact(problem).mean, problem, enumerated(module, squared, batch), atol=1e-5)


def test_three_examples_and_other_weights() -> None:
    batch = (seeded((3, 2), 3), seeded((3, 2), 4))
    problem = lab.from_module(small(), squared, batch)
    other = small()
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(-1.3)
    moved = problem.at(dict(other.named_parameters()), "later")
    assert_same(lab.Truth.exact(moved).mean, moved, enumerated(other, squared, batch))
    assert_same(lab.Truth.exact(problem).mean, problem, enumerated(small(), squared, batch))
    assert moved.label == "Sequential, later"


# ---------------------------------------------------------------------- state
class Everything(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.one = nn.Linear(2, 2), Stochastic(lab.Bernoulli())
        self.norm = nn.BatchNorm1d(2).eval()
        self.calls: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append(1)
        self.seen = x
        x += 1.0
        return self.norm(self.one(self.a(x))) * self.a.bias


def snapshot(module: nn.Module, batch: tuple[Tensor, Tensor]) -> Any:
    import random

    return copy.deepcopy(
        (
            {k: (v.detach(), v.requires_grad, v.grad) for k, v in module.named_parameters()},
            dict(module.named_buffers()),
            [m.training for m in module.modules()],
            [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in module.modules()],
            sorted(k for m in module.modules() for k in vars(m)),
            batch,
            torch.get_rng_state(),
            np.random.get_state(),
            random.getstate(),
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
        )
    ), (nn.Module.__call__, nn.Module.__getattr__, math.sqrt, torch.Tensor.__iadd__)


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[k], b[k]) for k in a)
    return all(map(equal, a, b, strict=True)) if isinstance(a, list | tuple) else a == b


def map(function: Any, *groups: Any, strict: bool = False) -> list[Any]:
    return [function(*row) for row in zip(*groups, strict=strict)]


def test_nothing_is_changed() -> None:
    module = prepared(Everything())
    batch = (X.clone(), Y.clone())
    module.a.weight.grad = torch.ones(2, 2, dtype=D)
    module.a.register_forward_hook(lambda *_: None)
    before = snapshot(module, batch)
    problem = lab.from_module(module, squared, batch)
    lab.diagnose(StraightThrough(), on=problem, budget=256, exact=False)
    with pytest.raises(lab.UsageError):
        lab.from_module(module, lambda o, t: o.sum(), batch)
    with pytest.raises(ZeroDivisionError):
        lab.from_module(module, lambda o, t: 1 / 0, batch)
    assert equal(before, snapshot(module, batch))
    assert module.calls == []


def test_the_problem_is_apart_from_its_module_and_batch() -> None:
    module, batch = small(), (X.clone(), Y.clone())
    problem = lab.from_module(module, squared, batch)
    before = lab.Truth.exact(problem).mean
    with torch.no_grad():
        for t in (*module.parameters(), *batch):
            t.add_(1.0)
    after = lab.Truth.exact(problem).mean
    assert all(np.array_equal(before[k], after[k]) for k in before)


def test_the_name_knows_weights_and_batch() -> None:
    reprs = {repr(lab.from_module(small(), squared, (X, Y))) for _ in range(2)}
    other = small()
    with torch.no_grad():
        other[0].weight[0, 0] += 1
    reprs |= {repr(lab.from_module(other, squared, (X, Y))), repr(lab.from_module(small(), squared, (Y, Y)))}
    assert len(reprs) == 3


@pytest.mark.parametrize("make", [small, lambda: prepared(Inplace())], ids=["cut", "replay"])
def test_draws_leave_no_tensors_behind(make: Any) -> None:
    import gc

    problem = lab.from_module(make(), squared, (X, Y))
    chain = lab.chain.Chain(problem, Reinforce())

    def alive() -> int:
        return sum(issubclass(type(o), Tensor) for o in gc.get_objects())

    def draws(count: int) -> int:
        gc.collect()
        gc.disable()
        try:
            before = alive()
            for i in range(count):
                chain.draw(4, lab.noise.MonteCarlo(i))
            return alive() - before
        finally:
            gc.enable()

    draws(2)
    assert draws(20) <= 0


# ---------------------------------------------------------------------- refusals
class Wraps(nn.Module):
    """A small network around a part that must be refused."""

    def __init__(self, part: nn.Module | None = None, body: Callable[..., Tensor] | None = None) -> None:
        super().__init__()
        self.a, self.one = nn.Linear(2, 2), Stochastic(lab.Bernoulli())
        self.part = nn.Identity() if part is None else part
        self.body = body
        self.kept: Any = None
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        if self.body is not None:
            return self.body(self, h)
        y = self.part(h)
        return self.one(y[0] if isinstance(y, tuple) else y)


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(2, 1, dropout=0.1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attend(x[:, None], x[:, None], x[:, None])[0][:, 0]


def noisy(self: Any, h: Tensor) -> Tensor:
    return self.one(h + 1e-6 * torch.randn(2))


def by_numpy(self: Any, h: Tensor) -> Tensor:
    return self.one(h) + float(np.random.default_rng().random())


def stateful(self: Any, h: Tensor) -> Tensor:
    self.kept = h.detach() if self.kept is None else 0.5 * self.kept + h.detach()
    return self.one(h) * self.kept


def counting(self: Any, h: Tensor) -> Tensor:
    self.count += 1
    return self.one(h)


def varying(self: Any, h: Tensor) -> Tensor:
    b = self.one(h)
    return self.one(b) if float(b.sum()) > 1.5 else b


def listed(self: Any, h: Tensor) -> Tensor:
    return self.one(h) * self.kept[0]


def mixed(self: Any, h: Tensor) -> Tensor:
    return self.one(h.double())


def twofold(self: Any, h: Tensor) -> Tensor:
    return self.one(torch.cat([h, h]))


def again(reentrant: bool) -> Callable[[Any, Tensor], Tensor]:
    def body(self: Any, h: Tensor) -> Tensor:
        return checkpoint(lambda t: self.one(t) * t, h, use_reentrant=reentrant)

    return body


def leafy(self: Any, h: Tensor) -> Tensor:
    return self.one(h) * checkpoint(self.part, h, use_reentrant=False)


def wrapped(part: nn.Module | None = None, body: Any = None) -> nn.Module:
    return prepared(Wraps(part, body)).float()


def with_list() -> nn.Module:
    module = wrapped(body=listed)
    module.kept = [module.a.bias]
    return module


def two_dtypes() -> nn.Module:
    module = wrapped()
    module.a.weight.data = module.a.weight.data.double()
    return module


def no_weights() -> nn.Module:
    return wrapped().requires_grad_(False)


def uncopyable() -> nn.Module:
    module = wrapped()
    module.kept = module.a(torch.zeros(2, 2))
    return module


def scripted() -> nn.Module:
    return wrapped(torch.jit.script(nn.Tanh()))


def compiled() -> nn.Module:
    return wrapped(torch.compile(nn.Tanh()))


SMALL = (X.float(), Y.float())
REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    (lambda: wrapped(nn.Dropout(0.1)), {}, "Dropout 'part' draws random numbers .* call eval()"),
    (lambda: wrapped(Attending()), {}, "MultiheadAttention 'part.attend' draws"),
    (lambda: wrapped(nn.LSTM(2, 2, 2, dropout=0.1)), {}, "LSTM 'part' draws"),
    (lambda: wrapped(body=lambda s, h: s.one(F.dropout(h, 0.01, True))), {}, r"its own forward\(\) draws"),
    (lambda: wrapped(body=noisy), {}, r"its own forward\(\) draws"),
    (lambda: wrapped(nn.RReLU()), {}, "RReLU 'part' draws"),
    (lambda: wrapped(body=by_numpy), {}, "different values on equal samples"),
    (lambda: wrapped(nn.BatchNorm1d(2)), {}, r"BatchNorm1d 'part' normalises over the batch.*eval\(\)"),
    (lambda: wrapped(nn.BatchNorm1d(2, track_running_stats=False)).eval(), {}, "'part' normalises over the batch"),
    (lambda: wrapped(body=stateful), {}, "keeps a state from call to call"),
    (lambda: wrapped(body=counting), {}, r"changes \['count'\]"),
    (
        lambda: wrapped(nn.Linear(2, 2)),
        {"loss": lambda o, t: (o - t).square().mean()},
        r"each of the 2 examples; .*\[\]",
    ),
    (wrapped, {"loss": lambda o, t: (o - t).square()}, r"found \[2, 2\]: use reduction=\"none\""),
    (wrapped, {"loss": lambda o, t: 1.0}, "found float"),
    (lambda: nn.Sequential(nn.Linear(2, 2)), {}, "visits no Stochastic layer"),
    (lambda: wrapped(body=varying), {}, "from sample to sample"),
    (lambda: wrapped(body=mixed), {}, "theta of 'one' is in torch.float64 on cpu, the weights are in torch.float32"),
    (lambda: wrapped(body=twofold), {}, r"'one'.* takes theta with axes \[2, \*units\]; found \[4, 2\]"),
    (lambda: wrapped(body=lambda s, h: s.one(h.sum())), {}, "takes theta with axes"),
    (
        lambda: nn.Sequential(nn.Linear(2, 2), Stochastic(lab.Categorical(3))),
        {},
        r"'1'.* axes \[2, \*units, 3\]; found \[2, 2\]",
    ),
    (with_list, {}, "reads parameters that are not its attributes"),
    (lambda: wrapped(body=again(False)), {}, "again in the backward pass; turn checkpointing off"),
    (lambda: wrapped(body=again(True)), {}, "checkpointing"),
    (lambda: wrapped(nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2)), leafy), {}, "turn checkpointing off"),
    (two_dtypes, {}, "of one dtype; found torch.float32 on cpu and torch.float64 on cpu"),
    (no_weights, {}, "parameters that require a gradient, of one dtype; found none"),
    (uncopyable, {}, r"cannot be copied .*return from forward\(\) what it computes"),
    (scripted, {}, "'part' is compiled or scripted"),
    (compiled, {}, "'part' is compiled or scripted"),
    (lambda: squared, {}, "takes a torch.nn.Module; found function"),
    (wrapped, {"batch": SMALL[0]}, "the batch is a pair"),
    (wrapped, {"batch": (SMALL[0], SMALL[1][:1])}, r"one row for each example; found \[1, 2\] rows"),
    (wrapped, {"batch": (SMALL[0][:0], SMALL[1][:0])}, r"found \[0\] rows"),
    (wrapped, {"batch": (SMALL[0], torch.tensor(1.0))}, r"found \[0, 2\] rows"),
    (wrapped, {"sites": {"prat": lab.Bernoulli()}}, r"no submodule 'prat'; it has \['a', 'one', 'part'\]"),
    (wrapped, {"sites": {"": lab.Bernoulli()}}, "no submodule ''"),
    (
        lambda: wrapped(nn.Sequential(nn.Tanh())),
        {"sites": dict.fromkeys(["part", "part.0"], lab.Bernoulli())},
        "part of",
    ),
    (wrapped, {"sites": {"part": "bernoulli"}}, "takes a law"),
    (lambda: wrapped(nn.Embedding(3, 2, max_norm=0.1), lambda s, h: s.one(h * s.part(h.long() * 0))), {}, "changes"),
]


@pytest.mark.filterwarnings("ignore:`torch.jit", "ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize(("make", "options", "message"), REFUSED, ids=[row[2][:30] for row in REFUSED])
def test_refusals(make: Any, options: dict[str, Any], message: str) -> None:
    module = make()
    loss, batch = options.pop("loss", squared), options.pop("batch", SMALL)
    with pytest.raises(lab.UsageError, match=message) as caught:
        lab.from_module(module, loss, batch, **options)
    assert "\n" not in str(caught.value)


class Late(nn.Module):
    """Visits other layers than usual, on samples that a survey hardly meets."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.a, self.one, self.two, self.kind = (
            nn.Linear(1, 1),
            Stochastic(lab.Bernoulli()),
            Stochastic(lab.Bernoulli()),
            kind,
        )
        nn.init.constant_(self.a.bias, -12.0)

    def forward(self, x: Tensor) -> Tensor:
        b = self.one(self.a(0 * x))
        rare = bool(b.detach().any())
        if rare:
            if self.kind == "fewer":
                return b
            if self.kind == "more":
                b = self.one(b)
        b = (self.one if self.kind == "other" and rare else self.two)(b)
        return self.one(b) if self.kind == "longer" and rare else b


@pytest.mark.parametrize(
    ("kind", "message"),
    [("fewer", "skips"), ("more", "visited out of turn"), ("other", "visited out of turn"), ("longer", "visits more")],
)
def test_visits_that_depend_on_rare_samples(kind: str, message: str) -> None:
    problem = lab.from_module(Late(kind).to(D), squared, (X[:1, :1], Y[:1, :1]))
    with pytest.raises(lab.UsageError, match=message):
        lab.Truth.exact(problem)


def test_losses_that_mix_examples_are_refused() -> None:
    problem = lab.from_module(small(), lambda o, t: squared(o - o.mean(0), t), (X, Y))
    with pytest.raises(lab.UsageError, match="mixes examples"):
        lab.measure(problem, Reinforce(), 16)


def test_nan_is_told_when_it_is_measured() -> None:
    problem = lab.from_module(small(), lambda o, t: (o.sum(1) - 1).log(), (X, Y))
    with pytest.raises(lab.MeasurementError):
        lab.measure(problem, Reinforce(), 64)
    fully = lab.from_module(wrapped(body=lambda s, h: s.one(h) * h / 0 * 0), squared, SMALL)
    with pytest.raises(lab.MeasurementError):
        lab.measure(fully, Reinforce(), 16)


class Broken(nn.Module):
    def __init__(self, when: str) -> None:
        super().__init__()
        self.a, self.one, self.when = nn.Linear(2, 2), Stochastic(lab.Bernoulli()), when

    def forward(self, x: Tensor) -> Tensor:
        if self.when == "always" or (self.when == "with grad" and torch.is_grad_enabled()):
            raise KeyError("a mistake of the module's own")
        return self.one(self.a(x))


@pytest.mark.parametrize("when", ["always", "with grad"])
def test_a_module_s_own_error_is_shown_as_it_is(when: str) -> None:
    with pytest.raises(KeyError, match="a mistake of the module's own") as caught:
        lab.from_module(Broken(when).to(D), squared, (X, Y))
    assert any(entry.name == "forward" and entry.path.name == "test_from_module.py" for entry in caught.traceback)


def test_a_loss_s_own_error_is_shown_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError):
        lab.from_module(small(), lambda o, t: 1 / 0, (X, Y))


# ---------------------------------------------------------------------- the user's own quantisers
class Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, theta: Tensor) -> Tensor:
        return torch.bernoulli(theta.sigmoid())

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


class Quantiser(nn.Module):
    def __init__(self, identity: bool) -> None:
        super().__init__()
        self.identity = identity

    def forward(self, theta: Tensor) -> Tensor:
        if self.identity:
            return Rounded.apply(theta)
        p = theta.sigmoid()
        return torch.bernoulli(p.detach()) + (p - p.detach())


class Quantised(nn.Module):
    """A quantiser that is nested, has two names and is visited twice."""

    def __init__(self, identity: bool) -> None:
        super().__init__()
        self.a, self.inner = nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), Quantiser(identity))
        self.alias = self.inner[1]

    def forward(self, x: Tensor) -> Tensor:
        return self.alias(self.a(self.inner(x)) - x) * self.a.bias


@pytest.mark.parametrize("identity", [False, True])
@pytest.mark.parametrize("path", ["inner.1", "alias"])
def test_a_quantiser_becomes_a_site(identity: bool, path: str) -> None:
    module = prepared(Quantised(identity))
    quantiser = module.get_submodule(path)
    problem = lab.from_module(module, squared, (X[:1], Y[:1]), sites={path: lab.Bernoulli()})
    assert [s.name for s in problem.sites] == ["inner.1[0]", "inner.1[1]"] and not problem.notes
    exact = lab.exact_moments(problem, StraightThrough("identity" if identity else "mean"))
    record = lab.measure(problem, lab.DropIn(quantiser), 2**14)
    # Five and a half standard errors of the mean, for fewer than 20 coordinates: false alarms below 1e-6.
    for key, moments in exact.items():
        error = np.sqrt(moments.variance / 2**14)
        assert (np.abs(np.ravel(record.mean(key)) - moments.mean) <= 5.5 * error + 1e-12).all()
    marked = prepared(Quantised(identity))
    marked.inner[1] = marked.alias = Stochastic(lab.Bernoulli())
    assert_same(lab.Truth.exact(problem).mean, problem, enumerated(marked, squared, (X[:1], Y[:1])))


# ---------------------------------------------------------------------- the layer on its own
def test_a_layer_on_its_own_trains() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(2, 4), Stochastic(lab.Bernoulli()), nn.Linear(4, 1))
    x = seeded((64, 2)).float()
    y = (x[:, :1] > 0).float()
    optimiser = torch.optim.Adam(module.parameters(), 0.05)
    losses = []
    for _ in range(150):
        loss = (module(x) - y).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-20:]) < 0.5 * np.mean(losses[:5])


def test_samples_of_a_layer_have_its_law() -> None:
    n = 20000
    cases = [
        (lab.Bernoulli(), torch.tensor([-1.0, 0.4], dtype=D)),
        (lab.Categorical(3), torch.tensor([[0.0, 1.0, -0.7]], dtype=D)),
        (lab.Normal(), torch.tensor([[0.3, -0.5]], dtype=D)),
    ]
    with torch.random.fork_rng():
        for family, theta in cases:
            sample = Stochastic(family)(theta.expand(n, *theta.shape))
            mean = family.mean(theta)
            deviation = theta[..., 1].exp() if isinstance(family, lab.Normal) else (mean * (1 - mean)).sqrt()
            # Six standard errors, for seven numbers: false alarms below 1e-7 by the normal law.
            assert ((sample.mean(0) - mean).abs() <= 6 * deviation / n**0.5).all()
            if family.discrete:  # hard to the last bit
                wide = Stochastic(family)(3 * seeded((1000, *theta.shape)))
                assert set(wide.unique().tolist()) == {0.0, 1.0}
                assert set(sample.unique().tolist()) == {0.0, 1.0}
            else:
                assert abs(float(sample.std()) / float(deviation) - 1) < 6 / (2 * n) ** 0.5


def test_gradients_of_a_layer_on_its_own() -> None:
    theta = seeded((3, 2)).requires_grad_()
    v = seeded((3, 2), 1)
    (Stochastic(lab.Bernoulli())(theta) * v).sum().backward()
    p = theta.detach().sigmoid()
    torch.testing.assert_close(theta.grad, v * p * (1 - p))
    theta = seeded((3, 1, 2)).requires_grad_()
    x = Stochastic(lab.Normal())(theta)
    x.sum().backward()
    assert theta.grad is not None
    torch.testing.assert_close(theta.grad[..., 0], torch.ones(3, 1, dtype=D))
    torch.testing.assert_close(theta.grad[..., 1], (x - theta[..., 0]).detach())


# ---------------------------------------------------------------------- cost
class Counted(nn.Module):
    def __init__(self, calls: list[str], name: str) -> None:
        super().__init__()
        self.lin, self.calls, self.name = nn.Linear(2, 2), calls, name

    def forward(self, x: Tensor) -> Tensor:
        CALLS.append(self.name)
        return self.lin(x)


CALLS: list[str] = []


class Deep(nn.Module):
    def __init__(self, cut: bool) -> None:
        super().__init__()
        self.parts = nn.ModuleList([Counted(CALLS, f"part {i}") for i in range(4)])
        self.sites, self.cut = nn.ModuleList([Stochastic(lab.Bernoulli()) for _ in range(3)]), cut

    def forward(self, x: Tensor) -> Tensor:
        skip = self.parts[0](x)
        h = skip
        for part, site in zip(self.parts[1:], self.sites, strict=True):
            h = part(site(h)) + skip
            if not self.cut and float(x.sum()) < -1e9:
                return h
        return h


@pytest.mark.parametrize("wrt", [("unit",), ("unit", "weight")])
def test_a_draw_costs_one_forward_pass(wrt: tuple[str, ...]) -> None:
    problem = lab.from_module(prepared(Deep(True)), squared, (X, Y))
    chain = lab.chain.Chain(problem, StraightThrough(), wrt)
    CALLS.clear()
    chain.draw(8, lab.noise.MonteCarlo(0))
    assert CALLS == ["part 0", "part 1", "part 2", "part 3"]


def test_a_replay_costs_a_pass_per_layer_and_says_so() -> None:
    problem = lab.from_module(prepared(Deep(False)), squared, (X, Y))
    assert "run from the start at every stochastic layer" in problem.notes[0]
    chain = lab.chain.Chain(problem, StraightThrough(), ("unit",))
    assert problem.notes[0] in chain.notes
    CALLS.clear()
    chain.draw(8, lab.noise.MonteCarlo(0))
    assert len(CALLS) == 1 + 2 + 3 + 4


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.GRUCell, nn.LSTMCell])
def test_states_of_a_recurrent_leaf_are_handed_on(kind: Any) -> None:
    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.bits = kind(2, 2), Stochastic(lab.Bernoulli())

        def forward(self, x: Tensor) -> Tensor:
            state = None
            for step in x.unbind(1):
                CALLS.append("cell")
                if isinstance(self.cell, nn.RNNBase):
                    y, state = self.cell(step[None], state)
                    y = y[0]
                else:
                    state = self.cell(step, state)
                    y = state[0] if isinstance(state, tuple) else state
                b = self.bits(y)
            return b * y

    module = prepared(Steps())
    problem = lab.from_module(module, squared, (seeded((2, 3, 2)), Y))
    counted: list[int] = []
    problem._module.cell.register_forward_hook(lambda *_: counted.append(1))
    chain = lab.chain.Chain(problem, StraightThrough())
    counted.clear()
    chain.draw(1, lab.noise.MonteCarlo(0))
    assert len(counted) == 3


# ---------------------------------------------------------------------- the command line
def test_a_problem_in_a_file_is_found(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text(
        "import torch\nfrom torch import nn\nimport estimator_lab as lab\n"
        "net = nn.Sequential(nn.Linear(3, 2), lab.nn.Stochastic(lab.Bernoulli()))\n"
        "batch = torch.ones(2, 3), torch.ones(2, 2)\n"
        "problem = lab.from_module(net, lambda o, t: (o - t).square().sum(1), batch, name='mine')\n"
    )
    for target in (str(file), f"{file}:problem"):
        assert [found.label for found in load_problems(target)] == ["mine"]


class Spike(torch.nn.Module):
    """A user's quantiser: draws what it is told to."""

    def __init__(self, draw):
        super().__init__()
        self.draw = draw

    def forward(self, theta):
        return self.draw(theta)


def quantised(draw):
    torch.manual_seed(5)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), Spike(draw), torch.nn.Linear(4, 2))
    return lab.from_module(
        net, torch.nn.CrossEntropyLoss(reduction="none"), (torch.randn(3, 3), torch.tensor([0, 1, 1])),
        sites={"1": lab.Bernoulli()},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (lambda t: 2 * torch.bernoulli(t.sigmoid()) - 1, "draws values that Bernoulli"),
        (lambda t: torch.bernoulli((5 * t).sigmoid()), "the mean of what site '1' draws"),
        (lambda t: (t > 0).to(t), "the mean of what site '1' draws"),
    ],
)
def test_submodules_that_draw_otherwise_than_said_are_refused(draw, said):
    with pytest.raises(lab.UsageError, match=said):
        quantised(draw)


def test_a_straight_through_submodule_is_taken_and_its_noise_split():
    problem = quantised(lambda t: torch.bernoulli(t.sigmoid()) + t.sigmoid() - t.sigmoid().detach())
    assert [s.name for s in problem.sites] == ["1"]
    split = lab.split_noise(problem, StraightThrough(), minibatch=2, replicates=8, minibatches=8)
    assert 0 < split.part().shares["numerical"].value < 1e-6
    found = problem.at({k: v.double() for k, v in problem.weights().items()}, "double").at(problem.weights(), "back")
    again, once = lab.Truth.exact(found).mean, lab.Truth.exact(problem).mean
    for key, g in once.items():
        np.testing.assert_array_equal(again[key], g)


def test_a_submodule_that_changes_the_shape_is_no_site():
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    batch = torch.randn(3, 3), torch.tensor([0, 1, 1])
    with pytest.raises(lab.UsageError, match=r"returns \[3, 4\] for theta \[3, 3\]"):
        lab.from_module(net, torch.nn.CrossEntropyLoss(reduction="none"), batch, sites={"0": lab.Bernoulli()})


def test_state_that_only_theta_shows_is_named():
    class Leaky(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)
            self.spike, self.v = lab.nn.Stochastic(lab.Bernoulli()), 0.0

        def forward(self, x):
            self.v = (0.5 * self.v + self.up(x)).detach() + self.up(x) * 0
            return self.down(self.spike(self.v))

    with pytest.raises(lab.UsageError, match="keeps a state from call to call"):
        lab.from_module(
            Leaky(), torch.nn.CrossEntropyLoss(reduction="none"), (torch.randn(3, 3), torch.tensor([0, 1, 1]))
        )


def test_a_batch_of_one_strided_example() -> None:
    """A column of a matrix of one row is no view of bytes."""
    net = nn.Sequential(nn.Linear(3, 2), Stochastic(lab.Bernoulli()), nn.Linear(2, 1))
    columns = torch.arange(8.0).reshape(1, 8)
    problem = lab.from_module(net, lambda out, y: (out[:, 0] - y) ** 2, (columns[:, :3], columns[:, 3]))
    other = lab.from_module(net, lambda out, y: (out[:, 0] - y) ** 2, (columns[:, :3], columns[:, 4]))
    assert repr(problem) != repr(other) and lab.Truth.of(problem).is_exact
