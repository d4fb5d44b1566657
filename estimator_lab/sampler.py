"""Any black box that returns gradients: another library's estimator, a whole training step."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from estimator_lab.chain import Key
from estimator_lab.errors import MeasurementError, UsageError
from estimator_lab.noise import Noise, derive_seed


class GradientSampler:
    """Draws gradients by calling a function; the truth is given, or is another sampler.

    The global random streams (torch's, also on CUDA devices in use, Python's ``random`` and the one of ``np.random``)
    are seeded for every call and put back afterwards, so that draws are independent and can be repeated. A generator of
    the function's own is the function's affair. A function that moves none of these streams and returns the same
    gradients 32 times is taken as deterministic; randomness from elsewhere has to show in these calls.

    Args:
        function: ``() -> {name: gradient}``, the same names and shapes at every call. A name is that of a weight, or
            ``("unit", name)`` for the gradient of an intermediate value.
        truth: the expected gradients of the weights ``{name: tensor}``, or a sampler that is unbiased; none for a
            sampler that is the truth of another one.
        name: what reports call it; by default the function's name.
        unbiased: the claim to hold it to, if any.

    Raises:
        UsageError: the truth is no dict of tensors.
    """

    def __init__(
        self,
        function: Callable[[], Mapping[str, Tensor] | Mapping[Key, Tensor] | Mapping[str | Key, Tensor]],
        truth: "Mapping[str, Tensor] | GradientSampler | None" = None,
        name: str = "",
        unbiased: bool | None = None,
    ):
        self.truth: dict[str, Tensor] | GradientSampler
        if isinstance(truth, GradientSampler):
            self.truth = truth
        elif truth is None:
            self.truth = {}
        else:
            given = _gradients(truth, f"the truth of a GradientSampler over {function!r}")
            self.truth = {key[1]: gradient for key, gradient in given.items() if key[0] == "weight"}
            if units := [key[1] for key in given if key[0] == "unit"]:
                raise UsageError(f"the truth gives gradients of the units {units}; {UNITS_TRUTH}")
        self.function, self.unbiased = function, unbiased
        self.name = name or getattr(function, "__qualname__", type(function).__qualname__)

    @classmethod
    def from_step(
        cls,
        step: Callable[[], object],
        module: nn.Module,
        truth: "Mapping[str, Tensor] | GradientSampler | None" = None,
        *,
        units: Sequence[str] | str = (),
        unbiased: bool | None = None,
        name: str = "",
    ) -> Self:
        """A training step as it stands: draws what it leaves in ``.grad`` of a module's parameters.

        Every call starts without gradients, from the same weights and buffers: gradients, buffers (such as batch
        statistics), training flags and ``requires_grad`` are put back afterwards, also after an error. What else the
        step keeps (an optimizer's state, a data iterator, attributes that are no buffers) is its own affair; the
        gradients of a step that takes the next batch from an iterator have the noise of the batches as well.

        Parameters that the step leaves without a gradient have the gradient zero. Gradients of units are those of
        whatever loss the step differentiates: where that is a mean over B examples, 1/B of those of the examples' own
        losses.

        Cost of a call beside the step: a copy and a comparison of all weights and buffers.

        Args:
            step: ``() -> anything``; runs forward and backward, may zero gradients, does not call ``optimizer.step()``.
                A dict ``{name: tensor}`` that it returns holds intermediate values whose gradients are drawn as well,
                under ``("unit", name)``; each needs ``tensor.retain_grad()`` before backward.
            module: has the parameters; several modules go into one ``nn.ModuleList``. Tied weights count once.
            truth: gradients by parameter name, or a sampler that is unbiased, such as ``from_step`` of an unbiased or
                an exact step; gradients of units need a sampler. None for the truth of another sampler.
            units: submodules, one name or several, whose outputs' gradients are drawn under ``("unit", name)``, by
                hooks that exist during the call only. Outputs of one that is called several times are ``name[0]``,
                ``name[1]``.
            unbiased: the claim to hold it to, if any.
            name: what reports call it; by default the step's name.

        Raises:
            UsageError: the module trains nothing, or has no submodule of such a name. While drawing: the step changed a
                weight or left no gradient, or an intermediate value has none.
        """
        label = name or getattr(step, "__qualname__", type(step).__qualname__)
        units = (units,) if isinstance(units, str) else units
        return cls(_Step(step, module, tuple(units), label), truth, label, unbiased)

    @property
    def label(self) -> str:
        """Short name for tables and figures."""
        return self.name

    def layers(self, keys: Sequence[Key]) -> dict[str, tuple[str, ...]]:
        """The weights that are judged together: those of a submodule, or each on its own; none for plain functions.

        Beside units, whose verdicts share the false-alarm rate with those of layers, every weight belongs to a layer.
        """
        names = [name for kind, name in keys if kind == "weight"]
        if isinstance(self.function, _Step):
            found: dict[str, tuple[str, ...]] = {}
            for name in names:
                owner = name.rpartition(".")[0] or name
                found[owner] = (*found.get(owner, ()), name)
            return found
        return {name: (name,) for name in names} if len(names) < len(keys) else {}

    def __repr__(self) -> str:
        return f"GradientSampler({self.name})"

    def draw(self, replicates: int, noise: Noise) -> dict[Key, Tensor]:
        """Calls the function once per replicate.

        Torch's global stream is left as it was found if no call drew a number from any stream, and elsewhere if one
        did: by this the measurement tells random functions from others.

        Raises:
            UsageError: the function returns something else than a dict of tensors.
            MeasurementError: names or shapes change from call to call.
        """
        rows: list[dict[Key, Tensor]] = []
        state, drew = torch.get_rng_state(), False
        base = torch.initial_seed()  # the measurement has seeded the stream for this block
        with _python_streams_kept():
            for index in range(replicates):
                _seed_streams(derive_seed(base, index))
                fresh = None if drew else _streams()
                rows.append(_gradients(self.function(), f"what {self!r} returned at call {index}"))
                drew = drew or fresh != _streams()
                if _shapes(rows[-1]) != _shapes(rows[0]):
                    raise MeasurementError(
                        f"{self!r} returned {_shapes(rows[-1])} at call {index} and {_shapes(rows[0])} at call 0; "
                        "return the same names and shapes every time"
                    )
        if not drew:
            torch.set_rng_state(state)
        return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}


UNITS_TRUTH = "those take a sampler as truth: GradientSampler.from_step of an unbiased or an exact step"


# ---------------------------------------------------------------------- a training step
class _Step:
    """A training step as a function that returns gradients by key."""

    def __init__(self, step: Callable[[], object], module: nn.Module, units: tuple[str, ...], label: str):
        if not isinstance(module, nn.Module) or not any(p.requires_grad for p in module.parameters()):
            found = type(module).__name__
            raise UsageError(
                f"from_step takes a torch.nn.Module with parameters that require gradients; found {found}: "
                "put several modules into one nn.ModuleList"
            )
        known = [name for name, _ in module.named_modules() if name]
        if unknown := [name for name in units if name not in known]:
            raise UsageError(f"{type(module).__name__} has no submodule {unknown}; units is a list of some of {known}")
        self.step, self.module, self.units, self.label = step, module, units, label

    def __call__(self) -> dict[Key, Tensor]:
        """Gradients of one call; the module is as before."""
        trained = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        with _module_kept(self.module, self.label), _watched(self.module, self.units) as outputs, torch.enable_grad():
            returned = self.step()
            found = {name: p.grad for name, p in trained.items()}
            if all(gradient is None for gradient in found.values()):
                raise UsageError(f"the step {self.label} left no gradient at any parameter; it calls loss.backward()")
            result: dict[Key, Tensor] = {
                ("unit", name): gradient for name, gradient in self._units(outputs, returned).items()
            }
            for name, gradient in found.items():
                zero = torch.zeros_like(trained[name]) if gradient is None else gradient
                result["weight", name] = zero.to_dense() if zero.is_sparse else zero.clone()
        return result

    def _units(self, outputs: Mapping[str, list["_Output"]], returned: object) -> dict[str, Tensor]:
        units: dict[str, Tensor] = {}
        for name, calls in outputs.items():
            if not calls:
                raise UsageError(
                    f"no output of {name!r} took part in the backward pass of {self.label}: it was not called, or "
                    "nothing before it is trained; leave it out of units"
                )
            units |= {f"{name}[{i}]" if len(calls) > 1 else name: call.gradient for i, call in enumerate(calls)}
        for name, value in returned.items() if isinstance(returned, Mapping) else ():
            if not isinstance(value, Tensor) or value.is_leaf or not value.retains_grad:
                raise UsageError(
                    f"{name!r}, which {self.label} returned, has no gradient of its own; return a dict only of tensors "
                    "computed in the step, each after tensor.retain_grad(), or name a submodule in units"
                )
            if name in units:
                raise UsageError(f"{name!r}, which {self.label} returned, is a submodule in units as well; rename it")
            units[str(name)] = torch.zeros_like(value) if value.grad is None else value.grad
        return units


class _Output:
    """One output of a submodule, and the gradient that arrives at it."""

    def __init__(self, output: Tensor):
        self.gradient = torch.zeros_like(output)
        # unlike what retain_grad gives, the gradient of the value before any later change in place
        output.register_hook(self._add)

    def _add(self, gradient: Tensor) -> None:
        self.gradient = self.gradient + gradient.detach()


@contextmanager
def _watched(module: nn.Module, names: Sequence[str]) -> Iterator[dict[str, list[_Output]]]:
    """Collects the outputs of submodules that are in the graph, by hooks that are gone afterwards."""
    outputs: dict[str, list[_Output]] = {name: [] for name in names}

    def hook(name: str) -> Callable[[nn.Module, object, object], None]:
        def keep(_module: nn.Module, _inputs: object, output: object) -> None:
            if not isinstance(output, Tensor):
                raise UsageError(
                    f"the submodule {name!r} returns no tensor but {type(output).__name__}; name another one in units, "
                    "or return the tensor from the step after tensor.retain_grad()"
                )
            if output.requires_grad:
                outputs[name].append(_Output(output))

        return keep

    with ExitStack() as stack:
        for name in names:
            stack.callback(module.get_submodule(name).register_forward_hook(hook(name)).remove)
        yield outputs


@contextmanager
def _module_kept(module: nn.Module, label: str) -> Iterator[None]:
    """Takes the gradients away, and puts back all that a step changed in a module.

    Raises:
        UsageError: a weight was changed; it has been put back.
    """
    rooms = [(m, dict(m._parameters), dict(m._buffers), m.training) for m in module.modules()]
    weights = [(name, p, p.data, p.detach().clone(), p.grad, p.requires_grad) for name, p in module.named_parameters()]
    buffers = [(b, b.data, b.detach().clone()) for b in module.buffers()]
    for _, p, *_ in weights:
        p.grad = None
    changed: list[str] = []
    try:
        yield
    finally:
        for m, own, buffered, training in rooms:
            changed += [str(k) for k, p in own.items() if m._parameters.get(k) is not p]
            m._parameters.clear()
            m._parameters.update(own)
            m._buffers.clear()
            m._buffers.update(buffered)
            m.training = training
        for b, data, value in buffers:
            _put_back(b, data, value)
        for name, p, data, value, gradient, requires in weights:
            changed += [name] if _put_back(p, data, value) else []
            p.requires_grad_(requires)
            p.grad = gradient
    if changed:
        raise UsageError(
            f"the step {label} changed the weights {list(dict.fromkeys(changed))}, which were put back; leave "
            "optimizer.step() and all else that changes weights out of the step"
        )


def _put_back(tensor: Tensor, data: Tensor, value: Tensor) -> bool:
    """Gives a tensor its storage and values back; whether it had others."""
    moved = tensor.data_ptr() != data.data_ptr() or tensor.shape != data.shape
    if moved:
        tensor.data = data
    same = torch.equal(data, value) or bool(((data == value) | (data.isnan() & value.isnan())).all())
    if not same:
        with torch.no_grad():
            data.copy_(value)
    return moved or not same


# ---------------------------------------------------------------------- random streams and returned values
@contextmanager
def _python_streams_kept() -> Iterator[None]:
    """Puts back the streams that torch knows nothing of."""
    python, legacy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)


def _seed_streams(seed: int) -> None:
    """Seeds every global stream; not ``torch.manual_seed``, which formats a stack trace at every call."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def _streams() -> tuple[object, ...]:
    """The states of the global streams, to be compared."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    name, key, *rest = np.random.get_state()
    legacy = (name, np.asarray(key).tobytes(), *rest)
    return (*(t.numpy().tobytes() for t in (torch.get_rng_state(), *cuda)), legacy, random.getstate())


def _gradients(given: object, what: str) -> dict[Key, Tensor]:
    """A detached copy of gradients by key, in float64 or float32."""
    if not isinstance(given, Mapping) or not given or not all(isinstance(v, Tensor) for v in given.values()):
        kinds = {k: type(v).__name__ for k, v in given.items()} if isinstance(given, Mapping) else type(given).__name__
        raise UsageError(f"{what} is no dict of tensors by name, such as {{'w': tensor}}; found {kinds}")
    keys = [k if isinstance(k, tuple) and len(k) == 2 and k[0] in ("unit", "weight") else ("weight", k) for k in given]
    tensors = [
        v.detach().to(torch.float64 if v.dtype == torch.float64 else torch.float32, copy=True) for v in given.values()
    ]
    return {(kind, str(name)): tensor for (kind, name), tensor in zip(keys, tensors, strict=True)}


def _shapes(gradients: Mapping[Key, Tensor]) -> dict[Key, list[int]]:
    return {k: list(v.shape) for k, v in gradients.items()}
