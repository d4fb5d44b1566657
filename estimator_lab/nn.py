"""Any torch module as a problem: its stochastic layers are marked, everything else stays as it is."""

import copy
import hashlib
import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves, tree_map_only

from estimator_lab.cut import Cut, close, largest
from estimator_lab.errors import UsageError, in_a_line
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
    it were the mean (Bengio, Léonard, Courville 2013, arXiv:1308.3432), and through any other one at fixed noise
    (reparameterisation; a random mask is held constant), so that a network can be trained as it stands. Under
    ``from_module`` its samples are those of the estimator that is measured.

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
        noise = torch.rand_like(units) if self.family.noise == "uniform" else torch.randn_like(units)
        if not self.family.discrete:
            return self.family.sample(theta, noise)
        mean = self.family.mean(theta)
        return self.family.sample(theta.detach(), noise) + (mean - mean.detach())

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


@dataclass
class _Replay:
    """Hands out samples in the order of visits, and stops at the first visit without one."""

    visits: list[Stochastic]
    samples: Tensors
    thetas: list[Tensor] = field(default_factory=list)

    def __call__(self, layer: Stochastic, theta: Tensor) -> Tensor:
        at = len(self.thetas)
        self.thetas.append(theta.clone())  # what the module goes on to do with it, in place, is not its theta
        if at == len(self.samples):
            raise _Reached
        if layer is not self.visits[at]:
            raise UsageError(f"{layer!r} is visited out of turn on some samples; visit the same layers in every call")
        return self.samples[at].clone()  # the module may change it in place


@dataclass
class _Survey:
    """Draws hard samples and writes down which layer was visited with what shape of theta."""

    generator: torch.Generator
    paths: Mapping[nn.Module, str]
    batch: int
    like: Tensor
    visits: list[tuple[Stochastic, tuple[int, ...]]] = field(default_factory=list)
    samples: list[Tensor] = field(default_factory=list)

    def __call__(self, layer: Stochastic, theta: Tensor) -> Tensor:
        family, tail = layer.family, layer.family.theta_shape
        shape = tuple(theta.shape) if isinstance(theta, Tensor) else ()
        if len(shape) < 1 + len(tail) or shape[0] != self.batch or shape[len(shape) - len(tail) :] != tail:
            axes = ", ".join([str(self.batch), "*units", *map(str, tail)])
            found = list(shape) if isinstance(theta, Tensor) else type(theta).__name__
            raise UsageError(f"{self.paths[layer]!r}, {layer!r}, takes theta with axes [{axes}]; found {found}")
        like = layer.units(theta)
        if (like.dtype, like.device) != (self.like.dtype, self.like.device):
            raise UsageError(
                f"theta of {self.paths[layer]!r} is in {like.dtype} on {like.device}, the weights are in "
                f"{self.like.dtype} on {self.like.device}; convert it in forward(), or the module with to()"
            )
        draw = torch.rand if family.noise == "uniform" else torch.randn
        noise = draw(like.shape, generator=self.generator, dtype=like.dtype).to(like.device)
        self.visits.append((layer, shape))
        self.samples.append(family.sample(theta.detach(), noise))
        return self.samples[-1].clone()


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
        if not (isinstance(batch, tuple | list) and len(batch) == 2):
            raise UsageError("the batch is a pair (inputs, target): the module gets the inputs, the loss the target")
        self._name = name or type(module).__name__
        compiled = [path for path, part in module.named_modules() if _is_compiled(part)]
        if compiled:
            raise UsageError(
                f"{self._name}: {compiled[0]!r} is compiled or scripted; give the module that it was made of"
            )
        try:
            self._module = copy.deepcopy(module)
        except Exception as error:
            raise UsageError(
                f"{self._name} cannot be copied ({in_a_line(error)}); return from forward() what it computes, do not "
                "keep it as an attribute"
            ) from error
        self._refuse_coupled()
        rows = {len(t) if t.dim() else 0 for t in _tensors(batch)}
        if len(rows) != 1 or 0 in rows:
            raise UsageError(f"the tensors of the batch have one row for each example; found {sorted(rows)} rows")
        (self.batch,) = rows
        self._loss, (self._inputs, self._target) = loss, _repeated(batch, 1)
        self._replace(sites)
        own = dict(self._module.named_parameters())
        self._weights = {k: p.detach().clone() for k, p in own.items() if p.requires_grad}
        kinds = {f"{v.dtype} on {v.device}" for v in self._weights.values()}
        if len(kinds) != 1:
            found = " and ".join(sorted(kinds)) or "none"
            raise UsageError(f"{self._name} needs parameters that require a gradient, of one dtype; found {found}")
        digest = hashlib.sha256(f"{self._module} {getattr(loss, '__qualname__', type(loss).__qualname__)}".encode())
        for tensor in (*_tensors(batch), *own.values(), *self._module.buffers()):
            digest.update(f"{list(tensor.shape)}{tensor.dtype}".encode())
            flat = tensor.detach().cpu().flatten().clone(memory_format=torch.contiguous_format)  # of one stride
            digest.update(flat.view(torch.uint8).numpy().tobytes())
        self._digest = digest.hexdigest()[:8]
        state = {**self._weights, **dict(self._module.named_buffers())}
        before = {k: v.clone() for k, v in state.items()}
        surveys = self._surveys()
        self._layers = [layer for layer, _ in surveys[0].visits]
        self.sites = self._named(surveys[0])
        self._values = [tuple(sample.shape[1:]) for sample in surveys[0].samples]
        self._cut: Cut | None = None
        self._refuse_state(surveys[0])
        if changed := [k for k, v in state.items() if not bool(((v == before[k]) | (v != v)).all())]:
            raise UsageError(f"{self._name} changes {changed} when it runs; call eval(), or keep them fixed")
        rounds = [tuple(survey.samples) for survey in surveys]
        wholes = [self._slopes(samples, whole=True) for samples in rounds]
        self._refuse_own(wholes[0], rounds[0])
        for sized in (False, True):
            reason = self._try_cut(rounds, wholes, sized)
            if not reason:
                return
        self.notes = (f"{self._name} is run from the start at every stochastic layer, as it cannot be cut: {reason}",)

    def _try_cut(self, rounds: list[Tensors], wholes: list["_Slopes"], sized: bool) -> str:
        """Cuts the module, and says why not if that cannot be done."""
        try:
            self._cut = Cut(self._module, self._layers, self._bound, rounds[0], sized)
            for samples, whole in zip(rounds, wholes, strict=True):
                parts = self._slopes(samples, whole=False)
                if not _same(whole, parts) or any(
                    count > part[kind]
                    for count_of, part in zip(whole.own, parts.own, strict=True)
                    for kind, count in count_of.items()
                ):
                    raise ValueError("its parts give other values or gradients than the whole")
        except Exception as error:  # whatever a module does that cannot be traced
            self._cut = None
            return (str(error) or type(error).__name__).splitlines()[0][:120]
        # A trace goes one way, whatever the values are: rows may be added without changing it. Inputs are repeated.
        self.foldable = True
        return ""

    def _replace(self, sites: Mapping[str, Family]) -> None:
        """Puts stochastic layers in the place of the submodules that sites name, under each of their names."""
        parts = dict(self._module.named_modules(remove_duplicate=False))
        layers = {path: Stochastic(family) for path, family in sites.items()}
        for path in sites:
            if not path or path not in parts:
                raise UsageError(f"{self._name} has no submodule {path!r}; it has {[k for k in parts if k]}")
            if any(path.startswith(f"{other}.") for other in sites):
                raise UsageError(f"{self._name}: site {path!r} is part of another site; name one of them")
        self._check_laws({path: (parts[path], family) for path, family in sites.items()})
        for path, layer in layers.items():
            for name in [k for k, part in parts.items() if part is parts[path]]:
                self._module.set_submodule(name, layer)

    def _check_laws(self, sites: Mapping[str, tuple[nn.Module, Family]]) -> None:
        """Runs the module as it is, and holds what the submodules draw against the laws that they are said to have.

        Values must be ones that the law has, and the mean of 400 draws its mean to 6 standard errors and 12 events.
        """
        calls: dict[str, Any] = {}

        def write_down(path: str, _: nn.Module, given: Any, out: Any) -> None:
            calls.setdefault(path, (given, out))

        hooks = [part.register_forward_hook(partial(write_down, path)) for path, (part, _) in sites.items()]
        arguments, named = self._arguments(1)
        draws = 400
        with torch.no_grad(), forked(derive_seed("laws")):
            if sites:
                self._module(*arguments, **named)
            for hook in hooks:
                hook.remove()
            for path, (given, out) in calls.items():
                part, family = sites[path]
                remedy = "name a submodule that takes theta and returns a sample of that law"
                if len(given) != 1 or not all(isinstance(t, Tensor) for t in (*given, out)):
                    raise UsageError(f"{self._name}: site {path!r} takes and returns other than one tensor; {remedy}")
                theta = given[0]
                shape = (*theta.shape[: theta.dim() - len(family.theta_shape)], *family.value_shape)
                if tuple(out.shape) != shape:
                    raise UsageError(
                        f"{self._name}: site {path!r} returns {list(out.shape)} for theta {list(theta.shape)}, where "
                        f"{family!r} has values of shape {list(shape)}; {remedy}"
                    )
                values, weights = family.rule(theta, 8)
                weights = weights[(..., *(None,) * len(family.value_shape))]
                mean = (values * weights).sum(0)
                deviation = ((values - mean).square() * weights).sum(0).sqrt()
                finite = family.noise == "uniform"
                if finite and not ((out - values).abs() < 1e-4).any(0).all():
                    raise UsageError(
                        f"{self._name}: site {path!r} draws values that {family!r} does not have; {remedy}"
                    )
                found = torch.stack([part(theta.clone()) for _ in range(draws)]).to(mean).mean(0)
                rare = 12 / draws * values.abs().amax(0) * finite
                if ((found - mean).abs() > 6 * deviation / draws**0.5 + rare).any():
                    raise UsageError(
                        f"{self._name}: the mean of what site {path!r} draws is not that of {family!r} at its theta; "
                        f"{remedy}, and scale theta outside of it"
                    )

    # ------------------------------------------------------------------ what a module may not do
    def _refuse_coupled(self) -> None:
        """Refuses layers that mix the examples of a batch."""
        for path, part in self._module.named_modules():
            norm = isinstance(part, nn.modules.batchnorm._BatchNorm)
            if norm and (part.training or part.running_mean is None):
                raise UsageError(
                    f"{self._name}: {type(part).__name__} {path!r} normalises over the batch, so that an "
                    "example has no gradient of its own; call eval() on it to use its running statistics, or use "
                    "GroupNorm or LayerNorm"
                )

    def _surveys(self) -> list["_Survey"]:
        """Runs the module on hard samples, and requires the same visits every time, and no noise besides."""
        like, paths = next(iter(self._weights.values())), {m: path or "x" for path, m in self._module.named_modules()}
        surveys: list[_Survey] = []
        for seed in range(3):
            surveys.append(_Survey(torch.Generator().manual_seed(derive_seed("survey", seed)), paths, self.batch, like))
            with torch.no_grad(), forked(seed):
                before = _stream(like.device)
                self._evaluate(self._weights, surveys[-1])
                if not torch.equal(before, _stream(like.device)):
                    self._refuse_noise(surveys[-1])
        first = surveys[0]
        if not first.visits:
            raise UsageError(
                f"{self._name} visits no Stochastic layer; put lab.nn.Stochastic(family) where it draws, or name the "
                "submodules that draw: sites={'path': family}"
            )
        if any(s.visits != first.visits for s in surveys):
            raise UsageError(f"{self._name} visits other stochastic layers, or other shapes, from sample to sample")
        return surveys

    def _refuse_noise(self, survey: "_Survey") -> None:
        """Names the innermost submodules that draw from torch's global random stream."""
        device = survey.like.device
        opened: list[tuple[Tensor, int]] = []
        found: list[str] = []
        hooks = []
        for path, part in self._module.named_modules():

            def leave(part: nn.Module, _: Any, __: Any, path: str = path) -> None:
                before, count = opened.pop()
                if count == len(found) and not torch.equal(before, _stream(device)):
                    found.append(f"{type(part).__name__} {path!r}" if path else "its own forward()")

            hooks.append(part.register_forward_pre_hook(lambda *_: opened.append((_stream(device), len(found)))))
            hooks.append(part.register_forward_hook(leave))
        with torch.no_grad(), forked(0):
            self._evaluate(self._weights, survey)
        for hook in hooks:
            hook.remove()
        culprits = ", ".join(dict.fromkeys(found)) or "its loss"
        raise UsageError(
            f"{self._name}: {culprits} draws random numbers that no estimator sees; call eval() on it, if it is a "
            "dropout, make it a Stochastic layer, or name it in sites"
        )

    def _refuse_state(self, survey: "_Survey") -> None:
        """Requires equal values on equal samples."""
        results = []
        for seed in range(2):
            with torch.no_grad(), forked(seed):
                try:
                    results.append(list(self._results(self._weights, tuple(survey.samples), whole=True)))
                except _Reached:
                    results.append([])
        if len(results[0]) != len(results[1]) or not all(close(a, b, 64) for a, b in zip(*results, strict=True)):
            raise UsageError(
                f"{self._name} gives different values on equal samples: it draws random numbers outside of its "
                "Stochastic layers, or keeps a state from call to call; turn that off, or reset the state in forward()"
            )

    def _named(self, survey: "_Survey") -> tuple[SiteSpec, ...]:
        """A site for every visit, named after its layer, with a number where a layer is visited more than once."""
        visited = [layer for layer, _ in survey.visits]
        specs = []
        for i, (layer, shape) in enumerate(survey.visits):
            path = survey.paths[layer]
            name = path if visited.count(layer) == 1 else f"{path}[{visited[:i].count(layer)}]"
            units = shape[1 : len(shape) - len(layer.family.theta_shape)]
            specs.append(SiteSpec(name, layer.family, units or (1,)))  # logits [batch, classes] are a layer of one unit
        return tuple(specs)

    def _refuse_own(self, whole: "_Slopes", samples: Tensors) -> None:
        """Requires that nothing reads the parameters of the copy, since others stand in for them: moves them."""
        own = {k: p for k, p in self._module.named_parameters() if k in self._weights}
        with torch.no_grad():
            for p in own.values():
                p.add_(1)
        moved = self._slopes(samples, whole=True)
        with torch.no_grad():
            for k, p in own.items():
                p.copy_(self._weights[k])
        if not _same(whole, moved):
            raise UsageError(
                f"{self._name} reads parameters that are not its attributes during forward(): name them there, or keep "
                "them in a ParameterList; turn checkpointing off, which reads them again in the backward pass"
            )

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
        replay = _Replay(self._layers, self._given(samples))
        try:
            self._evaluate(weights, replay, self._times(samples))
        except _Reached:
            return self._shown(replay.thetas[-1], len(samples))
        raise UsageError(f"{self._name} skips stochastic layers on some samples; visit the same ones in every call")

    def loss(self, weights: Weights, samples: Tensors, thetas: Tensors) -> Tensor:
        """Runs the whole module on given samples."""
        try:
            return self._evaluate(weights, _Replay(self._layers, self._given(samples)), self._times(samples))
        except _Reached:
            raise UsageError(f"{self._name} visits more stochastic layers on some samples than on others") from None

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

    def _slopes(self, samples: Tensors, whole: bool) -> "_Slopes":
        """Theta of every site and the loss, and their gradients in the weights and the samples."""
        weights = {k: v.clone().requires_grad_() for k, v in self._weights.items()}
        leaves = tuple(t.clone().requires_grad_() for t in samples)
        inputs = [*weights.values(), *leaves]
        with torch.enable_grad(), _visiting(self._refuse_again):
            values = list(self._results(weights, leaves, whole))
            own = [_functions(v) for v in values]
            if any("CheckpointFunctionBackward" in kinds for kinds in own):
                raise UsageError(f"{self._name} runs a part of it again in the backward pass; turn checkpointing off")
            live = [v for v in values if v.requires_grad]
            slopes = torch.autograd.grad(
                live, inputs, [_cotangent(v) for v in live], allow_unused=True, materialize_grads=True
            )
        return _Slopes([*(v.detach() for v in values), *slopes], own)

    def _refuse_again(self, layer: Stochastic, theta: Tensor) -> Tensor:
        raise UsageError(f"{self._name} runs {layer!r} again in the backward pass; turn checkpointing off")

    def _results(self, weights: Weights, samples: Tensors, whole: bool) -> Iterator[Tensor]:
        """Theta of every site, and the loss."""
        if whole:
            replay = _Replay(self._layers, self._given(samples))
            loss = self._evaluate(weights, replay)
            yield from (self._shown(theta, i) for i, theta in enumerate(replay.thetas))
            yield loss
            return
        theta, carry = self.begin(weights)
        yield theta
        for i in range(1, len(samples)):
            theta, carry = self.advance(weights, carry, samples[:i])
            yield theta
        yield self.finish(weights, carry, samples, ())

    def at(self, weights: Weights, name: str) -> Problem:
        """The same with other weights; in another dtype, with the batch and the buffers in it too."""
        dtypes = {v.dtype for v in weights.values() if v.is_floating_point()}
        dtype = next(iter(dtypes), None)
        if len(dtypes) != 1 or dtype == next(iter(self._weights.values())).dtype:
            return super().at(weights, name)
        batch = tree_map_only(
            Tensor, lambda t: t.to(dtype) if t.is_floating_point() else t, (self._inputs, self._target)
        )
        twin = ModuleProblem(copy.deepcopy(self._module).to(dtype), self._loss, batch, {}, self._name)
        return twin.at(weights, name)

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


@dataclass(frozen=True)
class _Slopes:
    """Values and gradients of a module, or of its parts; and how many functions with a backward pass of their own."""

    tensors: list[Tensor]
    own: list[Counter[str]]


def _same(a: _Slopes, b: _Slopes) -> bool:
    scale = 0.1 * max(map(largest, a.tensors))  # what is zero but for rounding has the rounding of the others
    return all(close(x, y, 1e3, scale) for x, y in zip(a.tensors, b.tensors, strict=True))


def _functions(value: Tensor) -> Counter[str]:
    """How many ``autograd.Function``s of each name a tensor depends on."""
    found = Counter[str]()
    stack, seen = [value.grad_fn], set[Any]()
    while stack:
        node = stack.pop()
        if node is not None and node not in seen:
            seen.add(node)
            stack += [before for before, _ in node.next_functions]
            if isinstance(node, torch.autograd.function.BackwardCFunction):
                found[node.name()] += 1
    return found


def _is_compiled(part: nn.Module) -> bool:
    return (
        isinstance(part, torch.jit.ScriptModule) or hasattr(part, "_orig_mod") or part._compiled_call_impl is not None
    )


def _stream(device: torch.device) -> Tensor:
    """State of torch's global random streams."""
    states = [torch.get_rng_state()] + ([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])
    return torch.cat(states)


def _tensors(tree: Any) -> list[Tensor]:
    """All tensors in nested tuples, lists and dicts."""
    return [t for t in tree_leaves(tree) if isinstance(t, Tensor)]


def _repeated(tree: Any, times: int) -> Any:
    """The rows of all tensors so many times, one whole batch after the other; always a copy."""
    return tree_map_only(Tensor, lambda t: t.detach().repeat(times, *(1,) * (t.dim() - 1)), tree)


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
    A sample that the module detaches has no derivative there: estimators that relax samples, such as ``Rebar``, are
    then biased.

    Args:
        module: its weights are the parameters that require a gradient, by their names in ``named_parameters()``.
        loss: ``(output, target) -> [batch]``, one value for each example, of what the module returns; what a loss reads
            off the module itself is not that of the copy.
        batch: ``(inputs, target)``; inputs is a tensor, a tuple of arguments or a dict of named ones. Every tensor has
            one row for each example; a copy is kept.
        sites: laws of submodules that draw without being ``Stochastic``, by path: their input is theta, their output
            the sample. They are held against that law. ``DropIn(module.path)`` is then the estimator that they bring.
        name: what reports call it; by default the name of the class.

    Raises:
        UsageError: no stochastic layer is visited, or which ones depends on the samples; the module draws random
            numbers besides (dropout), mixes examples (batch normalisation in training mode), keeps state from call to
            call, runs again in the backward pass (checkpointing), reads parameters past its attributes, is compiled, or
            cannot be copied; the loss has a wrong shape. What the module or the loss raise themselves is not caught.

    Cost: five passes to see what it does; seven to ten, forward and backward, to prove the cut.
    """
    return ModuleProblem(module, loss, batch, sites or {}, name)
