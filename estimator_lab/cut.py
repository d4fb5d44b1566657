"""A module's forward pass as a graph, cut at its stochastic layers."""

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_map_only, tree_unflatten

Weights = Mapping[str, Tensor]
Operation = Callable[[Weights, tuple[Any, ...], dict[str, Any]], Any]
Known = Mapping[fx.Node, Any]


class _Operations:
    """What the nodes of a trace do."""

    def __init__(self, module: nn.Module):
        self.module = module
        self.parts = dict(module.named_modules())
        self.names = {id(p): name for name, p in module.named_parameters()}
        self.writing = set[fx.Node]()  # what changes its arguments in place is given copies
        self._known: dict[fx.Node, Operation] = {}

    def value(self, node: fx.Node, known: Known, weights: Weights) -> Any:
        """The value of a node, given those of its arguments."""
        if node not in self._known:
            self._known[node] = self._operation(node)
        args = fx.node.map_arg(node.args, known.__getitem__)
        kwargs = fx.node.map_arg(node.kwargs, known.__getitem__)
        if node in self.writing:
            args, kwargs = _copied((args, kwargs))
        return self._known[node](weights, args, kwargs)

    def _operation(self, node: fx.Node) -> Operation:
        target: Any = node.target
        if node.op == "call_module":
            part = self.parts[target]
            own = {k: self.names[id(p)] for k, p in part.named_parameters(remove_duplicate=False)}
            return lambda w, args, kwargs: functional_call(
                part, {k: w[name] for k, name in own.items() if name in w}, args, kwargs
            )
        if node.op == "call_method":
            return lambda _, args, kwargs: getattr(args[0], target)(*args[1:], **kwargs)
        if node.op == "call_function":
            return lambda _, args, kwargs: target(*args, **kwargs)
        value: Any = self.module  # get_attr
        for name in target.split("."):
            value = getattr(value, name)
        return lambda w, args, kwargs: w.get(self.names.get(id(value), ""), value)


class _Tracer(fx.Tracer):
    """Traces what contains stochastic layers, and calls everything else as it is."""

    def __init__(self, layers: Sequence[nn.Module], inputs: Mapping[str, Any]):
        super().__init__()
        self.layers, self.inputs = set(layers), inputs

    def proxy(self, node: fx.Node) -> Any:
        """A proxy; an argument without tensors, such as a flag or a missing mask, is what it is."""
        if node.op == "placeholder" and not _tensors(self.inputs[_name(node)]):
            return self.inputs[_name(node)]
        return super().proxy(node)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is called as it is."""
        return m in self.layers or self.layers.isdisjoint(m.modules())


class _Sized(fx.Proxy):
    """A traced tensor that tells its shape, so that ``torch.zeros(len(x), 8)`` and loops over an axis can be traced."""

    shape = property(lambda self: self.node.meta["value"].shape)
    dtype = property(lambda self: self.node.meta["value"].dtype)
    device = property(lambda self: self.node.meta["value"].device)
    ndim = property(lambda self: self.node.meta["value"].ndim)
    size = property(lambda self: self.node.meta["value"].size)
    dim = property(lambda self: self.node.meta["value"].dim)

    def __len__(self) -> int:
        return len(self.node.meta["value"])

    def __iter__(self) -> Any:
        return iter(torch.unbind(self))  # type: ignore[arg-type]


class _SizedTracer(_Tracer):
    """Carries a value along with every node, for modules that ask for shapes."""

    def __init__(
        self, layers: Sequence[nn.Module], module: nn.Module, inputs: Mapping[str, Any], samples: Iterable[Tensor]
    ):
        super().__init__(layers, inputs)
        self.operations, self.samples = _Operations(module), iter(samples)
        self.evaluating = False

    def proxy(self, node: fx.Node) -> Any:
        """A proxy that knows its shape, if its value is a tensor; a tuple, list or dict of proxies, if it is one."""
        plain = super().proxy(node)
        if node.op == "output" or not isinstance(plain, fx.Proxy):
            return plain
        if node.op == "placeholder":
            value = _copied(self.inputs[_name(node)])
        elif node.op == "call_module" and self.operations.parts[str(node.target)] in self.layers:
            value = next(self.samples).clone()
        else:
            self.evaluating = True
            with _FixedShapes():  # type: ignore[no-untyped-call]
                value = self.operations.value(node, _Carried(self.operations), {})
            self.evaluating = False
        node.meta["value"] = value
        if type(value) in (tuple, list, dict) and _tensors(value):
            keys = value if isinstance(value, dict) else range(len(value))
            parts = [self.create_proxy("call_function", operator.getitem, (plain, key), {}) for key in keys]
            return dict(zip(keys, parts, strict=True)) if isinstance(value, dict) else type(value)(parts)
        return _Sized(node, self) if isinstance(value, Tensor) else plain

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Writes the call down, or carries it out."""
        return forward(*args, **kwargs) if self.evaluating else super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """A traced parameter, or its value."""
        return attr_val if self.evaluating else super().getattr(attr, attr_val, parameter_proxy_cache)


class _FixedShapes(TorchDispatchMode):
    """Refuses operations that make a shape, or a number of Python's, of values: they are others at other samples."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Carries the operation out, if its kind is allowed."""
        dynamic = not {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output}.isdisjoint(func.tags)
        if func is torch.ops.aten.index.Tensor:
            dynamic = any(t is not None and t.dtype in (torch.bool, torch.uint8) for t in args[1])
        if dynamic:
            raise ValueError(f"a shape or a number depends on values ({func})")
        return func(*args, **(kwargs or {}))


class _Carried(dict[fx.Node, Any]):
    """The values that nodes carry; a constant that tracing has found is looked up."""

    def __init__(self, operations: _Operations):
        super().__init__()
        self.operations = operations

    def __missing__(self, node: fx.Node) -> Any:
        return node.meta["value"] if "value" in node.meta else self.operations.value(node, self, {})


class Cut:
    """The parts of a module between its stochastic layers.

    Part i runs from the sample of the i-th visit (the first from the inputs) to the next theta, the last one to the
    output. What depends on the first i samples only is computed in part i, once, and handed on if a later part needs
    it. Only tensors with the batch as one of their axes are handed on, and tuples of such; others, such as what depends
    on weights alone, are computed again from what is.

    Args:
        module: what is cut.
        layers: its stochastic layers in the order of visits.
        inputs: arguments of ``forward`` by name.
        samples: hard samples, one for each visit.
        sized: trace with the shapes of these inputs, for modules that ask for them; the parts then take no other batch.

    Attributes:
        reads: names of the inputs that each part reads.

    Raises:
        ValueError: other layers are met than given, a tensor is changed in place and read again. Besides, whatever
            tracing raises; it knows no functions as arguments, such as the hook of a tensor.
    """

    def __init__(
        self,
        module: nn.Module,
        layers: Sequence[nn.Module],
        inputs: Mapping[str, Any],
        samples: tuple[Tensor, ...],
        sized: bool,
    ):
        tracer = _SizedTracer(layers, module, inputs, samples) if sized else _Tracer(layers, inputs)
        with torch.enable_grad():  # a module may ask, say before it hangs up a hook
            nodes = list(tracer.trace(module).nodes)
        root = tracer.root  # the module with the constants that tracing found
        assert isinstance(root, nn.Module)
        self._operations = _Operations(root)
        self._visits = [
            n for n in nodes if n.op == "call_module" and self._operations.parts[str(n.target)] in tracer.layers
        ]
        if [self._operations.parts[str(n.target)] for n in self._visits] != list(layers):
            raise ValueError("its trace meets other stochastic layers than a run of it")
        self._inputs = [n for n in nodes if n.op == "placeholder"]
        (output,) = (n for n in nodes if n.op == "output")
        # what each part is for: a theta, in the end the output
        self._targets: list[Any] = [*(n.args[0] for n in self._visits), output.args[0]]
        with torch.no_grad():
            self._plan(nodes[:-1], inputs, samples)
        for n in nodes:
            n.meta.clear()  # values that were carried along

    def _values(
        self, nodes: list[fx.Node], inputs: Mapping[str, Any], samples: tuple[Tensor, ...]
    ) -> dict[fx.Node, Any]:
        """Values of all nodes; finds those that change a tensor in place.

        They change a copy from now on, which is the same as long as nothing reads the changed tensor by its old name.
        """
        known: dict[fx.Node, Any] = {n: _copied(inputs[_name(n)]) for n in self._inputs}
        known |= dict(zip(self._visits, _copied(samples), strict=True))
        order = {n: i for i, n in enumerate(nodes)}
        for n in nodes:
            if n in known:
                continue
            arguments = [t for a in n.all_input_nodes for t in _tensors(known[a])]
            versions = [t._version for t in arguments]
            value = self._operations.value(n, known, {})
            written = {_storage(t) for t, v in zip(arguments, versions, strict=True) if t._version != v}
            if written:
                old = [a for a in known if not written.isdisjoint(map(_storage, _tensors(known[a])))]
                later = [u for a in old for u in a.users if order.get(u, len(nodes)) > order[n]]
                if later or not n.users or any(a.op == "get_attr" for a in old):
                    raise ValueError("it changes a tensor in place and reads it again")
                self._operations.writing.add(n)
            known[n] = value
        return known

    def _axes(
        self, nodes: list[fx.Node], inputs: Mapping[str, Any], samples: tuple[Tensor, ...]
    ) -> dict[fx.Node, tuple[list[int], TreeSpec]]:
        """The batch axes of what nodes hold: its rows change places when those of inputs and samples do."""
        straight = self._values(nodes, inputs, samples)
        turned = self._values(nodes, *tree_map_only(Tensor, lambda t: t.flip(0), (dict(inputs), samples)))
        found = {}
        for n in nodes:
            (a, spec), b = tree_flatten(straight[n]), tree_leaves(turned[n])
            axes = [_axis(*pair, len(samples[0])) for pair in zip(a, b, strict=False)]
            if a and len(a) == len(b) and None not in axes:
                found[n] = ([axis for axis in axes if axis is not None], spec)
        return found

    def _plan(self, nodes: list[fx.Node], inputs: Mapping[str, Any], samples: tuple[Tensor, ...]) -> None:
        """Which nodes each part computes, and which it hands on."""
        level = dict.fromkeys(self._inputs, 0) | {n: i + 1 for i, n in enumerate(self._visits)}
        given, order = set(level), {n: i for i, n in enumerate(nodes)}
        fixed = {n for n in nodes if n.op == "get_attr"}
        for n in nodes:
            level.setdefault(n, max((level[a] for a in n.all_input_nodes), default=0))
            if n not in given and fixed.issuperset(n.all_input_nodes):
                fixed.add(n)
        self._rows = self._axes(nodes, inputs, samples)
        rowed = self._rows.keys() - given - fixed
        wanted = [_nodes(target) for target in self._targets]
        needed = _before([n for group in wanted for n in group], given)
        uses = [(level[n], a) for n in needed - given for a in n.all_input_nodes]
        uses += [(i, n) for i, group in enumerate(wanted) for n in group]
        self._handed: list[list[fx.Node]] = []
        self._steps: list[list[fx.Node]] = []
        self.reads: list[frozenset[str]] = []
        for i in range(len(wanted)):
            late = [a for at, a in uses if at > i >= level[a]]
            handed = _before(late, given | rowed) & rowed
            known = given.union(self._handed[-1] if i else ())
            steps = _before([*wanted[i], *handed], known) - known
            self._handed.append(sorted(handed, key=order.__getitem__))
            self._steps.append(sorted(steps, key=order.__getitem__))
            read = {a for n in steps for a in n.all_input_nodes}.union(wanted[i])
            self.reads.append(frozenset(_name(n) for n in read.intersection(self._inputs)))

    def run(
        self, weights: Weights, inputs: Mapping[str, Any], carry: tuple[Tensor, ...], samples: tuple[Tensor, ...]
    ) -> tuple[Any, tuple[Tensor, ...]]:
        """The part that follows the given samples: its theta, or the output; and what it hands on.

        Of the inputs only those that it ``reads`` are needed.
        """
        part = len(samples)
        known: dict[fx.Node, Any] = {n: inputs[_name(n)] for n in self._inputs if _name(n) in inputs}
        known |= dict(zip(self._visits, samples, strict=False))
        rest = iter(carry)
        for node in self._handed[part - 1] if part else ():
            axes, spec = self._rows[node]
            known[node] = tree_unflatten([next(rest).movedim(0, axis) for axis in axes], spec)
        for node in self._steps[part]:
            known[node] = self._operations.value(node, known, weights)
        result = fx.node.map_arg(self._targets[part], known.__getitem__)
        pairs = [pair for n in self._handed[part] for pair in zip(tree_leaves(known[n]), self._rows[n][0], strict=True)]
        return result, tuple(t.movedim(axis, 0) for t, axis in pairs)


def _nodes(tree: Any) -> list[fx.Node]:
    """All nodes in nested arguments."""
    found: list[fx.Node] = []
    fx.node.map_arg(tree, found.append)
    return found


def _before(ends: Iterable[fx.Node], stops: set[fx.Node]) -> set[fx.Node]:
    """The nodes that some nodes depend on, themselves included, as far as the stops."""
    found: set[fx.Node] = set()
    stack = list(ends)
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            stack += [] if node in stops else node.all_input_nodes
    return found


def _name(placeholder: fx.Node) -> str:
    """Name of the argument, without the stars of ``*args``."""
    return str(placeholder.target).lstrip("*")


def _tensors(tree: Any) -> list[Tensor]:
    return [t for t in tree_leaves(tree) if isinstance(t, Tensor)]


def _copied(tree: Any) -> Any:
    return tree_map_only(Tensor, Tensor.clone, tree)


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _axis(a: Any, b: Any, rows: int) -> int | None:
    """The axis that has so many rows, in opposite order in a and b; None if there is none."""
    if not isinstance(a, Tensor) or a.shape != b.shape:
        return None
    return next((i for i, n in enumerate(a.shape) if n == rows and close(a.flip(i), b)), None)


def close(a: Tensor, b: Tensor, ulps: float = 1e3, scale: float = 1e-6) -> bool:
    """Whether tensors differ by no more than so many roundings of the largest value, or of a scale; NaN equals NaN."""
    if not a.is_floating_point() or not a.numel():
        return torch.equal(a, b)
    tolerance = ulps * torch.finfo(a.dtype).eps * max(largest(a), scale)
    return torch.allclose(a, b, rtol=0, atol=tolerance, equal_nan=True)


def largest(a: Tensor) -> float:
    """The largest absolute value, zero where there is none."""
    return float(a.detach().nan_to_num().abs().max()) if a.numel() else 0.0
