"""Any torch module as a problem: its stochastic layers are marked, everything else stays as it is."""

import copy
import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from estimator_lab.cut import Cut
from estimator_lab.errors import UsageError
from estimator_lab.families import Family
from estimator_lab.noise import derive_seed, forked
from estimator_lab.problem import Problem
from estimator_lab.site import SiteSpec

Weights = Mapping[str, Tensor]
Tensors = tuple[Tensor, ...]
Visitor = Callable[["Stochastic", Tensor], Tensor]

_visitor: ContextVar[Visitor | None] = ContextVar("visitor", default=None)


class Stochastic(nn.Module):
    """A layer of random units: takes theta, returns a sample.

    On its own it draws from torch's global random stream and passes gradients straight through a discrete sample, as if
    it were the mean (Bengio, Léonard, Courville 2013, arXiv:1308.3432), and through a Gaussian one by
    reparameterisation, so that a network can be trained as it stands. Under ``from_module`` its samples are those of
    the estimator that is measured.

    Args:
        family: law of the units. Theta has axes ``[batch, *units, *family.theta_shape]``: logits, for Bernoulli units;
            mean and log standard deviation on the last axis, for Gaussian ones.
    """

    def __init__(self, family: Family):
        super().__init__()
        if not isinstance(family, Family):
            raise UsageError(f"Stochastic takes a law, such as lab.Bernoulli(); found {family!r}")
        self.family = family

    def forward(self, theta: Tensor) -> Tensor:
        """A sample ``[batch, *units, *value_shape]``."""
        visit = _visitor.get()
        if visit is not None:
            return visit(self, theta)
        units = self.units(theta)
        if not self.family.discrete:
            return self.family.sample(theta, torch.randn_like(units))
        mean = self.family.mean(theta)
        return self.family.sample(theta.detach(), torch.rand_like(units)) + mean - mean.detach()

    def units(self, theta: Tensor) -> Tensor:
        """A tensor with one number per unit, of theta's dtype and device."""
        place: tuple[Any, ...] = (..., *(0,) * len(self.family.theta_shape))
        return theta.detach()[place]

    def extra_repr(self) -> str:
        """The law."""
        return repr(self.family)


@contextmanager
def _visiting(visit: Visitor) -> Iterator[None]:
    token = _visitor.set(visit)
    try:
        yield
    finally:
        _visitor.reset(token)


class _Reached(BaseException):
    """Leaves a module at a stochastic layer; no ``except Exception`` of the module's stops it."""

    def __init__(self, theta: Tensor):
        self.theta = theta


@dataclass
class _Replay:
    """Hands out samples in the order of visits, and stops at the first visit without one."""

    samples: Tensors
    at: int = 0

    def __call__(self, layer: Stochastic, theta: Tensor) -> Tensor:
        if self.at == len(self.samples):
            raise _Reached(theta)
        self.at += 1
        return self.samples[self.at - 1]


@dataclass
class _Survey:
    """Draws hard samples and writes down which layer was visited with what shape of theta."""

    generator: torch.Generator
    visits: list[tuple[Stochastic, tuple[int, ...]]] = field(default_factory=list)
    samples: list[Tensor] = field(default_factory=list)

    def __call__(self, layer: Stochastic, theta: Tensor) -> Tensor:
        family = layer.family
        if not isinstance(theta, Tensor) or theta.dim() < 1 + len(family.theta_shape):
            raise UsageError(f"{layer!r} takes theta with axes [batch, *units, *{list(family.theta_shape)}]")
        tail = tuple(theta.shape[theta.dim() - len(family.theta_shape) :])
        if tail != family.theta_shape:
            raise UsageError(
                f"{layer!r} was given theta of shape {list(theta.shape)}; its last axes are {list(family.theta_shape)}"
            )
        like = layer.units(theta)
        draw = torch.rand if family.discrete else torch.randn
        noise = draw(like.shape, generator=self.generator, dtype=like.dtype).to(like.device)
        self.visits.append((layer, tuple(theta.shape)))
        self.samples.append(family.sample(theta.detach(), noise))
        return self.samples[-1]


class ModuleProblem(Problem):
    """A module with stochastic layers, a loss and a batch; made by ``from_module``."""

    def __init__(
        self,
        module: nn.Module,
        loss: Callable[[Any, Any], Tensor],
        batch: tuple[Any, Any],
        sites: Mapping[str, Family],
        name: str,
    ):
        if not isinstance(module, nn.Module):
            raise UsageError(f"from_module takes a torch.nn.Module; found {type(module).__name__}")
        if not (isinstance(batch, tuple) and len(batch) == 2):
            raise UsageError("the batch is a pair (inputs, target): the module gets the inputs, the loss the target")
        self._name = name or type(module).__name__
        try:
            self._module = copy.deepcopy(module)
        except Exception as error:
            raise UsageError(f"{self._name} cannot be copied ({error}); detach tensors kept as attributes") from error
        for path, family in sites.items():
            if path not in dict(module.named_modules()):
                known = [k for k, _ in module.named_modules() if k]
                raise UsageError(f"{self._name} has no submodule {path!r}; it has {known}")
            self._module.set_submodule(path, Stochastic(family))
        self._refuse_coupled()
        self._loss, (self._inputs, self._target) = loss, batch
        rows = {len(t) if t.dim() else 0 for t in _tensors(batch)}
        if len(rows) != 1 or 0 in rows:
            raise UsageError(f"the tensors of the batch have one row for each example; found {sorted(rows)} rows")
        (self.batch,) = rows
        parameters = dict(self._module.named_parameters())
        self._weights = {k: v.detach() for k, v in parameters.items() if v.requires_grad}
        digest = hashlib.sha256(f"{self._module} {getattr(loss, '__qualname__', loss)}".encode())
        for tensor in (*_tensors(batch), *self._module.buffers()):
            digest.update(f"{list(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        self._digest = digest.hexdigest()[:8]
        survey = self._survey()
        self.sites = self._named(survey)
        self._values = [tuple(sample.shape[1:]) for sample in survey.samples]
        self._cut: Cut | None = None
        reasons = [self._try_cut(survey, sized) for sized in (False, True)]
        if self._cut is None:
            self.notes = (
                f"{self._name} is run from the start at every stochastic layer, as it cannot be cut: {reasons[-1]}",
            )

    def _try_cut(self, survey: "_Survey", sized: bool) -> str:
        """Cuts the module, and says why not if that cannot be done."""
        if self._cut is not None:
            return ""
        samples = tuple(survey.samples)
        try:
            layers = [layer for layer, _ in survey.visits]
            self._cut = Cut(self._module, layers, self._bound, samples, sized)
            # A trace goes one way, whatever the values are: rows may be added without changing it. Inputs are repeated.
            self.foldable = True
            self._check_cut(samples)
        except Exception as error:  # whatever a module does that cannot be traced
            self._cut = None
            return (str(error) or type(error).__name__).splitlines()[0][:120]
        return ""

    # ------------------------------------------------------------------ what a module may not do
    def _refuse_coupled(self) -> None:
        """Refuses modules that draw random numbers of their own, or mix the examples of a batch."""
        for path, part in self._module.named_modules():
            kind = type(part).__name__
            if part.training and float(getattr(part, "p" if "Dropout" in kind else "dropout", 0) or 0) > 0:
                raise UsageError(
                    f"{self._name}: {kind} {path!r} in training mode draws random numbers that no estimator sees; "
                    "call eval() on it, or make the mask a Stochastic layer"
                )
            norm = isinstance(part, nn.modules.batchnorm._BatchNorm)
            if norm and (part.training or part.running_mean is None):
                raise UsageError(
                    f"{self._name}: {kind} {path!r} normalises over the batch, so that an example has no gradient of "
                    "its own; call eval() on it to use its running statistics, or use GroupNorm or LayerNorm"
                )

    def _survey(self) -> "_Survey":
        """Runs the module on hard samples, and requires the same visits every time, no state and no other noise."""
        buffers = {k: v.clone() for k, v in self._module.named_buffers()}
        surveys: list[_Survey] = []
        for seed in range(3):
            generator = torch.Generator().manual_seed(derive_seed("survey", seed))
            surveys.append(_Survey(generator))
            with torch.no_grad(), forked(seed):
                self._evaluate(self._weights, surveys[-1])
        changed = [k for k, v in self._module.named_buffers() if not torch.equal(v, buffers[k])]
        if changed:
            raise UsageError(
                f"{self._name} changes its buffers {changed} when it runs; call eval(), or keep them fixed"
            )
        first = surveys[0]
        if not first.visits:
            raise UsageError(
                f"{self._name} visits no Stochastic layer; put lab.nn.Stochastic(family) where it draws, or name the "
                "submodules that draw: sites={'path': family}"
            )
        if any(s.visits != first.visits for s in surveys):
            raise UsageError(f"{self._name} visits other stochastic layers, or other shapes, from sample to sample")
        results = []
        for seed in range(2):
            with torch.no_grad(), forked(seed):
                results.append(self._evaluate(self._weights, _Replay(tuple(first.samples))))
        if not torch.equal(*results):
            raise UsageError(
                f"{self._name} gives different losses on equal samples: it draws random numbers outside of its "
                "Stochastic layers, or keeps a state from call to call; turn that off, or reset the state in forward()"
            )
        return first

    def _named(self, survey: "_Survey") -> tuple[SiteSpec, ...]:
        """A site for every visit, named after its layer, with a number where a layer is visited more than once."""
        paths = {layer: path or "x" for path, layer in self._module.named_modules()}
        visited = [layer for layer, _ in survey.visits]
        specs = []
        for i, (layer, shape) in enumerate(survey.visits):
            if shape[0] != self.batch:
                raise UsageError(
                    f"{self._name}: theta of {paths[layer]!r} has shape {list(shape)}; its first axis is the batch, "
                    f"{self.batch}"
                )
            name = paths[layer] if visited.count(layer) == 1 else f"{paths[layer]}[{visited[:i].count(layer)}]"
            units = shape[1 : len(shape) - len(layer.family.theta_shape)]
            specs.append(SiteSpec(name, layer.family, units or (1,)))  # logits [batch, classes] are a layer of one unit
        return tuple(specs)

    # ------------------------------------------------------------------ running the module
    def _arguments(self, times: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        inputs = _repeated(self._inputs, times)
        if isinstance(inputs, Mapping):
            return (), dict(inputs)
        return (tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)), {}

    @cached_property
    def _bound(self) -> dict[str, Any]:
        """The inputs by the names of forward()'s parameters, defaults included."""
        arguments, named = self._arguments(1)
        bound = inspect.signature(self._module.forward).bind(*arguments, **named)
        bound.apply_defaults()
        return dict(bound.arguments)

    def _evaluate(self, weights: Weights, visit: Visitor, times: int = 1) -> Tensor:
        """The loss of every example ``[times * batch]``, layers handled by a visitor."""
        arguments, named = self._arguments(times)
        with _visiting(visit):
            output = functional_call(self._module, dict(weights), arguments, named)
        return self._value(output, times)

    def _value(self, output: Any, times: int) -> Tensor:
        loss = self._loss(output, _repeated(self._target, times))
        if not isinstance(loss, Tensor) or loss.shape != (times * self.batch,):
            found = list(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise UsageError(
                f"the loss of {self._name} has one value for each of the {times * self.batch} examples; found {found}: "
                'use reduction="none", and sum over further axes'
            )
        return loss

    def _times(self, samples: Tensors) -> int:
        return len(samples[0]) // self.batch if samples else 1

    def _given(self, samples: Tensors) -> Tensors:
        """Samples as the module expects them, without the unit axis that it does not have."""
        return tuple(t.reshape(len(t), *shape) for t, shape in zip(samples, self._values, strict=False))

    def _shown(self, theta: Tensor, site: int) -> Tensor:
        """Theta with the axes of its site."""
        return theta.reshape(len(theta), *self.sites[site].theta_shape)

    def weights(self) -> Weights:
        """The parameters that require a gradient, under their own names."""
        return self._weights

    def theta(self, weights: Weights, samples: Tensors) -> Tensor:
        """Runs the module up to the stochastic layer that has no sample yet."""
        try:
            self._evaluate(weights, _Replay(self._given(samples)), self._times(samples))
        except _Reached as reached:
            return self._shown(reached.theta, len(samples))
        raise UsageError(f"{self._name} skipped a stochastic layer on these samples")

    def loss(self, weights: Weights, samples: Tensors, thetas: Tensors) -> Tensor:
        """Runs the whole module on given samples."""
        return self._evaluate(weights, _Replay(self._given(samples)), self._times(samples))

    def _run(self, cut: Cut, weights: Weights, carry: Tensors, samples: Tensors) -> tuple[Any, Tensors]:
        """The part of the module that follows these samples."""
        inputs = {k: _repeated(self._bound[k], self._times(samples)) for k in cut.reads[len(samples)]}
        return cut.run(weights, inputs, carry, self._given(samples))

    def begin(self, weights: Weights) -> tuple[Tensor, Tensors]:
        """Runs the module up to its first stochastic layer."""
        if self._cut is None:
            return super().begin(weights)
        theta, handed = self._run(self._cut, weights, (), ())
        return self._shown(theta, 0), handed

    def advance(self, weights: Weights, carry: Tensors, samples: Tensors) -> tuple[Tensor, Tensors]:
        """Runs the module from one stochastic layer to the next."""
        if self._cut is None:
            return super().advance(weights, carry, samples)
        theta, handed = self._run(self._cut, weights, carry, samples)
        return self._shown(theta, len(samples)), handed

    def finish(self, weights: Weights, carry: Tensors, samples: Tensors, thetas: Tensors) -> Tensor:
        """Runs the module from its last stochastic layer to the loss."""
        if self._cut is None:
            return super().finish(weights, carry, samples, thetas)
        output, _ = self._run(self._cut, weights, carry, samples)
        return self._value(output, self._times(samples))

    def _check_cut(self, samples: Tensors) -> None:
        """Requires values and gradients of the parts to be those of the whole."""
        found = []
        for whole in (True, False):
            weights = {k: v.clone().requires_grad_() for k, v in self._weights.items()}
            leaves = tuple(t.clone().requires_grad_() for t in samples)
            with torch.enable_grad():
                values = list(self._results(weights, leaves, whole))
                total = torch.stack([(v * _cotangent(v)).sum() for v in values]).sum()
                inputs = [*weights.values(), *leaves]
                slopes = torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True)
            found.append([*values, *slopes])
        for a, b in zip(*found, strict=True):
            tolerance = 1e4 * torch.finfo(a.dtype).eps * max(float(a.detach().abs().max()), 1e-6)
            if not torch.allclose(a, b, rtol=0, atol=tolerance, equal_nan=True):
                raise ValueError("its parts give other values or gradients than the whole")

    def _results(self, weights: Weights, samples: Tensors, whole: bool) -> Iterator[Tensor]:
        """Theta of every site, and the loss."""
        if whole:
            yield from (self.theta(weights, samples[:i]) for i in range(len(samples)))
            yield self.loss(weights, samples, ())
            return
        theta, carry = self.begin(weights)
        yield theta
        for i in range(1, len(samples)):
            theta, carry = self.advance(weights, carry, samples[:i])
            yield theta
        yield self.finish(weights, carry, samples, ())

    @property
    def label(self) -> str:
        """The name given, or that of the module's class."""
        return self._name

    def __repr__(self) -> str:
        return f"from_module({self._name}, batch={self.batch}, {self._digest})"


def _cotangent(value: Tensor) -> Tensor:
    """Fixed unequal numbers shaped like a value."""
    count = torch.arange(value.numel(), dtype=value.dtype, device=value.device)
    return (count + 0.5).sin().reshape(value.shape)


def _tensors(tree: Any) -> list[Tensor]:
    """All tensors in nested tuples, lists and dicts."""
    if isinstance(tree, Tensor):
        return [tree]
    parts = tree.values() if isinstance(tree, Mapping) else tree if isinstance(tree, tuple | list) else ()
    return [t for part in parts for t in _tensors(part)]


def _repeated(tree: Any, times: int) -> Any:
    """The rows of all tensors so many times, one whole batch after the other."""
    if times == 1:
        return tree
    if isinstance(tree, Tensor):
        return tree.repeat(times, *(1,) * (tree.dim() - 1))
    if isinstance(tree, Mapping):
        return {k: _repeated(v, times) for k, v in tree.items()}
    return type(tree)(_repeated(v, times) for v in tree) if isinstance(tree, tuple | list) else tree


def from_module(
    module: nn.Module,
    loss: Callable[[Any, Any], Tensor],
    batch: tuple[Any, Any],
    *,
    sites: Mapping[str, Family] | None = None,
    name: str = "",
) -> ModuleProblem:
    """A problem made of a module: any ``nn.Module`` with ``Stochastic`` layers, and nothing else changed.

    Every visit of a stochastic layer is a site, named after the layer (``"spike[3]"`` is the fourth visit). The module
    is copied; nothing of the original is wrapped, hooked or changed. Where its forward pass can be traced with
    ``torch.fx``, it is cut at the stochastic layers, and a single-path estimator costs one forward pass; submodules
    without stochastic layers are called as they are, so that whatever they contain is allowed. A module that cannot be
    traced, or whose parts give other values or gradients than the whole, is run again from the start at every
    stochastic layer, and ``notes`` says so.

    A unit gradient is that with respect to an offset added where theta enters the stochastic layer. What the module
    itself computes from theta elsewhere, such as an entropy, does not see the offset; weight gradients are complete.

    Args:
        module: its weights are the parameters that require a gradient, by their names in ``named_parameters()``.
        loss: ``(output, target) -> [batch]``, one value for each example.
        batch: ``(inputs, target)``; inputs is a tensor, a tuple of arguments or a dict of named ones. Every tensor has
            one row for each example.
        sites: laws of submodules that draw without being ``Stochastic``, by path: their input is theta, their output
            the sample. ``DropIn(module.path)`` is then the estimator that they bring.
        name: what reports call it; by default the name of the class.

    Raises:
        UsageError: no stochastic layer is visited, or which ones depends on the samples; the module draws random
            numbers besides (dropout), mixes examples (batch normalisation in training mode), or keeps state from call
            to call; the loss has a wrong shape.
    """
    return ModuleProblem(module, loss, batch, sites or {}, name)
