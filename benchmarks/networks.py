"""The networks that are timed, and the same ones written by hand in plain torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
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


def least_work(problem: Classifier, replicates: int) -> Callable[[], None]:
    """The matrix products and random numbers that unit gradients of R replicates cannot do without, and nothing else.

    Forward: the first layer once, every later one for each replicate; backward: the derivative by the input of every
    later one. Results go where earlier ones were.
    """
    rows, dtype = replicates * problem.batch, problem.dtype
    later = [problem.tensors[f"w{i}"] for i in range(1, len(problem.sizes) - 1)]
    inputs = [torch.rand(rows, w.shape[1], dtype=dtype) for w in later]
    outputs = [torch.rand(rows, w.shape[0], dtype=dtype) for w in later]
    first = problem.x @ problem.tensors["w0"].T

    def work() -> None:
        torch.mm(problem.x, problem.tensors["w0"].T, out=first)
        for w, before, after in zip(later, inputs, outputs, strict=True):
            torch.rand(before.shape, out=before)
            torch.mm(before, w.T, out=after)
        for w, before, after in zip(later, inputs, outputs, strict=True):
            torch.mm(after, w, out=before)

    return work


def as_module(problem: Classifier) -> nn.Sequential:
    """The same network as a module."""
    layers: list[nn.Module] = []
    pairs = list(zip(problem.sizes, problem.sizes[1:], strict=False))
    for i, (a, b) in enumerate(pairs):
        layer = nn.Linear(a, b)
        layer.load_state_dict({"weight": problem.tensors[f"w{i}"], "bias": problem.tensors[f"b{i}"]})
        layers += [layer, lab.nn.Stochastic(lab.Bernoulli())]
    return nn.Sequential(*layers[:-1])


def module_problem(module: nn.Module, problem: Classifier) -> lab.Problem:
    """A module on the examples of a problem."""
    return lab.from_module(module, partial(cross_entropy, reduction="none"), (problem.x, problem.y))


class Residual(nn.Module):
    """Blocks ``x + W b(V x)`` with Bernoulli units b, each of which sees all that came before it."""

    def __init__(self, inputs: int = 784, width: int = 200, depth: int = 4, classes: int = 10):
        super().__init__()
        self.first, self.last = nn.Linear(inputs, width), nn.Linear(width, classes)
        self.into = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.out = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.draw = lab.nn.Stochastic(lab.Bernoulli())

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for into, out in zip(self.into, self.out, strict=True):
            x = x + out(self.draw(into(x.relu())))
        return self.last(x)


def plain_module(module: nn.Module, problem: Classifier, replicates: int) -> list[Tensor]:
    """Unit gradients by one forward and backward pass over R * B examples, weights frozen."""
    logits: list[Tensor] = []

    def keep(_: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
        theta = given[0] if given[0].requires_grad else given[0].detach().requires_grad_()
        logits.append(theta)
        return (theta,)

    hooks = [m.register_forward_pre_hook(keep) for m in module.modules() if isinstance(m, lab.nn.Stochastic)]
    output = module(problem.x.repeat(replicates, 1))
    for hook in hooks:
        hook.remove()
    loss = cross_entropy(output, problem.y.repeat(replicates), reduction="sum")
    return list(torch.autograd.grad(loss, logits))
