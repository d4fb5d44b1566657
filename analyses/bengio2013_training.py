"""Training of the conditional network with each kind of gate: stochastic gradient descent with a hand-written pass.

The pass is written out because a gate's backward rule is what is studied: everything around it is the chain rule. The
weights have the names and shapes of ``ConditionalNetwork``, on which they can be measured.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from bengio2013_gates import BETA, BETA_SCALE, Gate, Rectifier, ScoreFunction, Visit, activity_slope, adapted
from torch import Tensor

from estimator_lab import cache
from estimator_lab.errors import MeasurementError
from estimator_lab.estimators.running_baseline import RunningBaseline
from estimator_lab.noise import derive_seed
from estimator_lab.problems.conditional_network import shapes, uniform_weights
from estimator_lab.problems.images import load

RECIPE = 1
"""Of the files that trainings are kept in; another number when what a training does has changed."""

KEEP = 20.0
"""Seconds of training after which it is kept."""

SPARSE = 15
"""Connections of a rectifier gate to the gater at first."""


@dataclass(frozen=True)
class Setting:
    """What is trained, on what, and for how long; the same for all gates.

    Attributes:
        data: "mnist" or "digits".
        hidden: units of the gater.
        gates: gates and experts.
        epochs: passes over the training examples.
        train: training examples; those that follow, up to the held-out ones, are for validation.
        batch: examples of a minibatch.
        rate: learning rate, constant.
        norm: largest 2-norm of a unit's incoming weights, held after every step.
        target: share of the gates that are meant to be active.
    """

    data: str
    hidden: int
    gates: int
    epochs: int
    train: int
    batch: int = 32
    rate: float = 0.1
    norm: float = 2.0
    target: float = 0.1

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """Epochs whose weights are kept: before the first, midway, the last."""
        return tuple(sorted({0, self.epochs // 2, self.epochs}))


@dataclass(frozen=True)
class Split:
    """Images ``[n, pixels]`` and labels ``[n]`` of training, validation and test, in float32."""

    train: tuple[Tensor, Tensor]
    valid: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    digest: str = field(compare=False, default="")


def split(setting: Setting) -> Split:
    """Training, validation and test images: the last training images of the set are for validation."""
    images, like = load(setting.data), torch.empty(())
    parts = (slice(0, setting.train), slice(setting.train, images.training), slice(images.training, None))
    return Split(*(images.rows(part, like) for part in parts), images.digest)


# ---------------------------------------------------------------------- one step
class Network:
    """The network in training: weights and all that a step changes.

    Args:
        gate: its gates.
        setting: sizes and rates.
        pixels: of an image.
        seed: of the initial weights.
    """

    def __init__(self, gate: Gate, setting: Setting, pixels: int, seed: int):
        self.gate, self.setting = gate, setting
        generator = torch.Generator().manual_seed(derive_seed("bengio2013", gate.share, seed, "initial"))
        units = round(gate.share * setting.gates)
        first = uniform_weights(shapes(pixels, setting.hidden, units), generator)
        if isinstance(gate, Rectifier):
            first["gater2.weight"] = _sparse(units, setting.hidden, generator)
        self.weights = {k: v.float() for k, v in first.items()}
        self.velocity = {k: torch.zeros_like(v) for k, v in self.weights.items()} if gate.momentum else {}
        like = self.weights["gater2.bias"]
        decay = gate.decay if isinstance(gate, ScoreFunction) else 0.0
        self.baseline = RunningBaseline((units,), decay, dtype=like.dtype)
        self.penalty = like.new_tensor(gate.penalty)

    @property
    def units(self) -> int:
        """Number of gates."""
        return len(self.weights["gater2.bias"])

    def state(self) -> dict[str, Tensor]:
        """All that a step changes, by name."""
        own = {"numerator": self.baseline.numerator, "denominator": self.baseline.denominator, "penalty": self.penalty}
        return {**self.weights, **{f"velocity.{k}": v for k, v in self.velocity.items()}, **own}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Goes back to what ``state`` gave."""
        self.weights = {k: state[k] for k in self.weights}
        self.velocity = {k: state[f"velocity.{k}"] for k in self.velocity}
        self.baseline.numerator, self.baseline.denominator = state["numerator"], state["denominator"]
        self.penalty = state["penalty"]

    def gradients(self, x: Tensor, y: Tensor, noise: tuple[Tensor, ...]) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Gradients of the weights at a minibatch, its losses ``[B]``, and the gates ``[B, N]``.

        The running averages of the baseline and the weight of the L1 term move on.
        """
        w, gate = self.weights, self.gate
        t, a, experts = forward(w, gate, x)
        h = gate.fire(a, *noise)
        z = h * experts
        log_p = torch.addmm(w["readout.bias"], z, w["readout.weight"].T).log_softmax(-1)
        losses = -log_p.gather(1, y[:, None])[:, 0]
        d_out = log_p.exp()
        d_out.scatter_add_(1, y[:, None], d_out.new_full((len(y), 1), -1.0)).div_(len(y))  # of the mean loss
        d_z = d_out @ w["readout.weight"]
        d_experts = d_z * h
        if gate.squashed:
            d_experts.mul_(1 - experts.square())
        d_h = d_z * experts
        if gate.sparsity == "l1":  # of the sum over the minibatch and the gates, which are not negative
            active = h > 0
            d_h.add_(self.penalty * active)
            self.penalty.copy_(adapted(self.penalty, active.float().mean(), self.setting.target))
        d_a = gate.back(Visit(a, noise, h, d_h, losses, self.baseline))
        if gate.sparsity == "kl":
            d_a = d_a + activity_slope(gate, a, noise, self.setting.target)
        d_t = (d_a @ w["gater2.weight"]) * (1 - t.square())
        found = {}
        for name, slope, below in (
            ("gater1", d_t, x),
            ("gater2", d_a, t),
            ("experts", d_experts, x),
            ("readout", d_out, z),
        ):
            found[f"{name}.weight"], found[f"{name}.bias"] = slope.T @ below, slope.sum(0)
        return found, losses, h

    def step(self, x: Tensor, y: Tensor, noise: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Takes a step: gradient descent with momentum, then the bound on the norms. Returns losses and gates."""
        gradients, losses, h = self.gradients(x, y, noise)
        for name, weight in self.weights.items():
            rate = self.setting.rate * (self.gate.rate if name.startswith("gater") else 1.0)
            if self.velocity:
                self.velocity[name].mul_(self.gate.momentum).add_(gradients[name], alpha=-rate)
                weight.add_(self.velocity[name])
            else:
                weight.add_(gradients[name], alpha=-rate)
            if name.endswith("weight"):
                bound_norms(weight, self.setting.norm)
        return losses, h


def forward(weights: Mapping[str, Tensor], gate: Gate, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden units of the gater ``[B, M]``, pre-activations of the gates and experts ``[B, N]``."""
    t = torch.addmm(weights["gater1.bias"], x, weights["gater1.weight"].T).tanh_()
    a = torch.addmm(weights["gater2.bias"], t, weights["gater2.weight"].T)
    experts = torch.addmm(weights["experts.bias"], x, weights["experts.weight"].T)
    return t, a, experts.tanh_() if gate.squashed else experts


def bound_norms(weight: Tensor, most: float) -> None:
    """Scales the rows of a matrix ``[out, in]`` whose 2-norm exceeds a bound down to it, in place."""
    norms = torch.linalg.vector_norm(weight, dim=1, keepdim=True)
    weight.mul_((most / norms).clamp_(max=1.0))


def _sparse(units: int, hidden: int, generator: torch.Generator) -> Tensor:
    """Normal weights of at most 15 connections per unit, the others zero."""
    chosen = torch.rand(units, hidden, generator=generator).argsort(1)[:, :SPARSE]
    drawn = torch.randn(chosen.shape, generator=generator, dtype=torch.float64)
    return torch.zeros(units, hidden, dtype=torch.float64).scatter_(1, chosen, drawn)


class NoiseSource:
    """Noise of minibatches, from a generator of its own; Beta noise is one of 3200 rows that are gone through."""

    ROWS = 3200

    def __init__(self, kinds: tuple[str, ...], units: int, seed: int):
        self.kinds, self.units, self.place = kinds, units, 0
        if "beta" in kinds:
            rng = np.random.default_rng(derive_seed("bengio2013", seed, "beta"))
            drawn = (rng.beta(*BETA, (self.ROWS, units)) - 0.5) * BETA_SCALE
            self.rows = torch.from_numpy(drawn.astype(np.float32))

    def draw(self, examples: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """One tensor ``[B, N]`` of each kind."""
        return tuple(self._draw(kind, examples, generator) for kind in self.kinds)

    def _draw(self, kind: str, examples: int, generator: torch.Generator) -> Tensor:
        if kind == "beta":
            index = torch.arange(self.place, self.place + examples) % self.ROWS
            self.place = (self.place + examples) % self.ROWS
            return self.rows[index]
        make = torch.rand if kind == "uniform" else torch.randn
        return make(examples, self.units, generator=generator)


# ---------------------------------------------------------------------- evaluation
@dataclass(frozen=True)
class Score:
    """How a network does on some examples: mean loss in nats, errors in per cent, share of gates that are not zero."""

    nll: float
    error: float
    active: float


def evaluate(
    weights: Mapping[str, Tensor],
    gate: Gate,
    examples: tuple[Tensor, Tensor],
    gates_of: Callable[[Tensor], Tensor],
    block: int = 5000,
) -> Score:
    """Runs the network with gates that a function of their pre-activations gives."""
    total, wrong, open_gates, count = 0.0, 0, 0, 0
    for x, y in zip(*(part.split(block) for part in examples), strict=True):
        _, a, experts = forward(weights, gate, x)
        h = gates_of(a)
        logits = torch.addmm(weights["readout.bias"], h * experts, weights["readout.weight"].T)
        total += float(torch.nn.functional.cross_entropy(logits, y, reduction="sum"))
        wrong += int((logits.argmax(1) != y).sum())
        open_gates += int((h != 0).sum())
        count += h.numel()
    return Score(total / len(examples[0]), 100 * wrong / len(examples[0]), open_gates / count)


def tuned_threshold(weights: Mapping[str, Tensor], gate: Gate, x: Tensor, target: float) -> float:
    """The score that a share ``target`` of all gates at the examples ``x`` exceeds; the mean of the two next to it."""
    scores = torch.cat([gate.score(forward(weights, gate, part)[1]).flatten() for part in x.split(5000)])
    rank = scores.numel() - round(target * scores.numel())
    if not 0 < rank < scores.numel():
        return -math.inf if rank <= 0 else math.inf
    return sum(float(scores.kthvalue(k).values) for k in (rank, rank + 1)) / 2


# ---------------------------------------------------------------------- a training
HISTORY = ("epoch", "train_nll", "active", "penalty", "valid_error", "valid_nll", "threshold")
"""Of every epoch: running means over its minibatches, and validation in the gate's own mode."""


def identity(gate: Gate, setting: Setting, seed: int, digest: str) -> str:
    """All that a training follows from."""
    return "\n".join(map(repr, (RECIPE, type(gate).__name__, options(gate), setting, seed, digest)))


def options(gate: Gate) -> dict[str, Any]:
    """All that a gate is trained with, without what it is called."""
    return {k: v for k, v in asdict(gate).items() if k not in ("name", "label", "row")}


def train(
    gate: Gate,
    setting: Setting,
    seed: int,
    data: Split,
    progress: Callable[[int, Mapping[str, float]], None] | None = None,
) -> dict[str, Any]:
    """Trains a network, or goes on with a training that was interrupted, and evaluates it.

    Every epoch has random numbers of its own, which derive from the seed: what is trained does not depend on where it
    was interrupted.

    Returns:
        The entry of the results: see the module ``bengio2013``.

    Raises:
        MeasurementError: weights are no longer finite.
    """
    key = identity(gate, setting, seed, data.digest)
    network = Network(gate, setting, data.train[0].shape[1], seed)
    noise = NoiseSource(gate.noise, network.units, seed)
    history: list[list[float]] = []
    best = {k: v.clone() for k, v in network.weights.items()}
    kept: dict[str, Tensor] = {f"at 0.{k}": v.clone() for k, v in network.weights.items()}
    seconds, began, saved = 0.0, time.perf_counter(), time.perf_counter()
    if (found := cache.load("bengio2013", key)) is not None:
        arrays = {k: torch.from_numpy(v) for k, v in found.items()}
        network.restore({k.removeprefix("state."): v for k, v in arrays.items() if k.startswith("state.")})
        best = {k: arrays[f"best.{k}"] for k in best}
        kept = {k: v for k, v in arrays.items() if k.startswith("at ")}
        history, noise.place = found["history"].tolist(), int(found["place"])
        seconds = float(found["seconds"])

    def keep() -> None:
        tensors = {f"state.{k}": v for k, v in network.state().items()} | {f"best.{k}": v for k, v in best.items()}
        arrays = {k: v.numpy() for k, v in (tensors | kept).items()}
        rest = {"history": history, "place": noise.place, "seconds": seconds + time.perf_counter() - began}
        cache.store("bengio2013", key, arrays | {k: np.asarray(v, np.float64) for k, v in rest.items()})

    count = len(data.train[0])
    own = HISTORY.index("valid_error")
    for epoch in range(len(history) + 1, setting.epochs + 1):
        generator = torch.Generator().manual_seed(derive_seed("bengio2013", seed, "epoch", epoch))
        total, active = torch.zeros(()), torch.zeros(())
        for rows in torch.randperm(count, generator=generator).split(setting.batch):
            x, y = data.train[0][rows], data.train[1][rows]
            losses, h = network.step(x, y, noise.draw(len(rows), generator))
            total += losses.sum()
            active += (h != 0).sum() / network.units
        if not all(bool(torch.isfinite(v).all()) for v in network.weights.values()):
            raise MeasurementError(f"the training of {gate.name}, seed {seed}, ran away in epoch {epoch}")
        threshold, gates_of = quiet(network.weights, gate, data.valid[0], gate.mode, setting.target)
        valid = evaluate(network.weights, gate, data.valid, gates_of)
        row = [epoch, float(total) / count, float(active) / count, float(network.penalty)]
        history.append([*row, valid.error, valid.nll, threshold])
        if valid.error <= min(r[own] for r in history):
            best = {k: v.clone() for k, v in network.weights.items()}
        if epoch in setting.checkpoints:
            kept |= {f"at {epoch}.{k}": v.clone() for k, v in network.weights.items()}
        if time.perf_counter() - saved > KEEP or epoch == setting.epochs:
            keep()
            saved = time.perf_counter()
        if progress:
            progress(epoch, dict(zip(HISTORY, history[-1], strict=True)))
    seconds += time.perf_counter() - began
    first = min(range(len(history)), key=lambda i: (history[i][own], -i))
    return {
        "gate": gate.name,
        "seed": seed,
        "mode": gate.mode,
        "epochs": setting.epochs,
        "best_epoch": int(history[first][0]),
        "train_nll": history[first][1],
        "train_active": history[first][2],
        "modes": evaluations(best, gate, setting, seed, data),
        "history": {name: [float(row[i]) for row in history] for i, name in enumerate(HISTORY)},
        "seconds": seconds,
    }


def quiet(
    weights: Mapping[str, Tensor], gate: Gate, x: Tensor, mode: str, target: float
) -> tuple[float, Callable[[Tensor], Tensor]]:
    """The threshold tuned on examples ``x`` (nan in the mode "mean"), and the gates without noise in a mode."""
    if mode == "mean":
        return math.nan, gate.still
    threshold = tuned_threshold(weights, gate, x, target)
    return threshold, lambda a: gate.cut(a, threshold)


def evaluations(
    weights: Mapping[str, Tensor], gate: Gate, setting: Setting, seed: int, data: Split
) -> dict[str, dict[str, Any]]:
    """Train, validation and test in every mode: gates at their mean, cut at a threshold, or drawn once."""
    units = len(weights["gater2.bias"])
    noise = NoiseSource(gate.noise, units, seed)
    generator = torch.Generator().manual_seed(derive_seed("bengio2013", seed, "evaluation"))
    modes: dict[str, Callable[[Tensor], Tensor]] = {"mean": gate.still}
    threshold = math.nan
    if gate.sparsity:
        threshold, modes["threshold"] = quiet(weights, gate, data.valid[0], "threshold", setting.target)
    if gate.noise:
        modes["drawn"] = lambda a: gate.fire(a, *noise.draw(len(a), generator))
    found: dict[str, dict[str, Any]] = {}
    for mode, gates_of in modes.items():
        found[mode] = {"threshold": threshold if mode == "threshold" else math.nan}
        for name in ("train", "valid", "test"):
            score = evaluate(weights, gate, getattr(data, name), gates_of)
            found[mode] |= {f"{name}_nll": score.nll, f"{name}_error": score.error, f"{name}_active": score.active}
    return found


def checkpoints(gate: Gate, setting: Setting, seed: int, digest: str) -> dict[int, dict[str, Tensor]] | None:
    """Weights in float64 at the epochs that were kept of a training; None if they are not at hand."""
    if (found := cache.load("bengio2013", identity(gate, setting, seed, digest))) is None:
        return None
    weights: dict[int, dict[str, Tensor]] = {}
    for name, array in found.items():
        if name.startswith("at "):
            epoch, key = name.removeprefix("at ").split(".", 1)
            weights.setdefault(int(epoch), {})[key] = torch.from_numpy(array).double()
    return weights if set(weights) >= set(setting.checkpoints) else None
