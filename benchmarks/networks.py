"""The networks that are timed, and the same ones written by hand in plain torch."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import estimator_lab as lab


@dataclass(frozen=True)
class Classifier(lab.Problem):
    """``sizes[0] - sizes[1] - ... - classes`` with Bernoulli layers between, random weights and inputs."""

    sizes: tuple[int, ...] = (64, 32, 32, 10)
    batch: int = 32
    dtype: torch.dtype = torch.float32

    def __post_init__(self):
        generator = torch.Generator().manual_seed(0)
        pairs = list(zip(self.sizes, self.sizes[1:], strict=False))
        weights = {f"w{i}": torch.randn(b, a, generator=generator) * a**-0.5 for i, (a, b) in enumerate(pairs)}
        weights |= {f"b{i}": torch.zeros(b) for i, (_, b) in enumerate(pairs)}
        object.__setattr__(self, "tensors", {k: v.to(self.dtype) for k, v in weights.items()})
        object.__setattr__(self, "x", torch.rand(self.batch, self.sizes[0], generator=generator).to(self.dtype))
        object.__setattr__(self, "y", torch.randint(self.sizes[-1], (self.batch,), generator=generator))
        sites = [lab.SiteSpec(f"h{i}", lab.Bernoulli(), (n,)) for i, n in enumerate(self.sizes[1:-1])]
        object.__setattr__(self, "sites", tuple(sites))

    def weights(self) -> Mapping[str, Tensor]:
        return self.tensors

    def theta(self, weights, samples):
        i = len(samples)
        return (samples[-1] if samples else self.x) @ weights[f"w{i}"].T + weights[f"b{i}"]

    def loss(self, weights, samples, thetas):
        i = len(samples)
        return cross_entropy(samples[-1] @ weights[f"w{i}"].T + weights[f"b{i}"], self.y, reduction="none")


def straight_through(a: Tensor) -> Tensor:
    p = a.sigmoid()
    return torch.bernoulli(p.detach()) + p - p.detach()


def by_hand(problem: Classifier, weights: Mapping[str, Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Summed loss and pre-activations of one batch, as anyone would write it."""
    h, logits = x, []
    for i in range(len(problem.sizes) - 2):
        a = h @ weights[f"w{i}"].T + weights[f"b{i}"]
        if not a.requires_grad:
            a.requires_grad_()
        logits.append(a)
        h = straight_through(a)
    i = len(problem.sizes) - 2
    return cross_entropy(h @ weights[f"w{i}"].T + weights[f"b{i}"], y, reduction="sum"), logits


def plain_batched(problem: Classifier, replicates: int) -> list[Tensor]:
    """Unit gradients of R replicates as one batch of R * B examples, weights frozen."""
    loss, logits = by_hand(problem, problem.tensors, problem.x.repeat(replicates, 1), problem.y.repeat(replicates))
    return list(torch.autograd.grad(loss, logits))


def loop(problem: Classifier, replicates: int) -> dict[str, Tensor]:
    """Weight gradients of R replicates by R backward passes."""
    rows = []
    for _ in range(replicates):
        weights = {k: v.detach().requires_grad_() for k, v in problem.tensors.items()}
        loss, _ = by_hand(problem, weights, problem.x, problem.y)
        (loss / problem.batch).backward()
        rows.append({k: v.grad for k, v in weights.items()})
    return {k: torch.stack([row[k] for row in rows]) for k in rows[0]}


def toy_loop(problem: lab.Problem, replicates: int) -> dict[str, Tensor]:
    """Weight gradients of ``problems.TwoLayer`` by R backward passes of the same network written by hand."""
    x = torch.linspace(-1, 1, 4 * problem.batch, dtype=torch.float64).reshape(problem.batch, 4)
    rows = []
    for _ in range(replicates):
        weights = {k: v.detach().requires_grad_() for k, v in problem.weights().items()}
        first = x @ weights["w1"].T
        second = straight_through(first) @ weights["w2"].T
        loss = (straight_through(second) @ weights["v"] - 0.3).square() + 0.1 * first.square().sum(-1)
        loss.mean().backward()
        rows.append({k: v.grad for k, v in weights.items()})
    return {k: torch.stack([row[k] for row in rows]) for k in rows[0]}
