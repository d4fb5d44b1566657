"""A module's forward pass as a graph, cut at its stochastic layers."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

Weights = Mapping[str, Tensor]
Operation = Callable[[Weights, tuple[Any, ...], dict[str, Any]], Any]
Known = Mapping[fx.Node, Any]


class _Operations:
    """What the nodes of a trace do."""

    def __init__(self, module: nn.Module):
        self.module = module
        self.parts = dict(module.named_modules())
        self.names = {id(p): name for name, p in module.named_parameters()}
        self._known: dict[fx.Node, Operation] = {}

    def value(self, node: fx.Node, known: Known, weights: Weights) -> Any:
        """The value of a node, given those of its arguments."""
        if node not in self._known:
            self._known[node] = self._operation(node)
        args = fx.node.map_arg(node.args, known.__getitem__)
        kwargs = fx.node.map_arg(node.kwargs, known.__getitem__)
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

    def __init__(self, layers: Sequence[nn.Module]):
        super().__init__()
        self.layers = set(layers)

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
        super().__init__(layers)
        self.operations, self.inputs, self.samples = _Operations(module), inputs, iter(samples)
        self.evaluating = False

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """A proxy that knows its shape, if its value is a tensor."""
        if node.op == "output":
            return super().proxy(node)
        if node.op == "placeholder":
            value = self.inputs[str(node.target)]
        elif node.op == "call_module" and self.operations.parts[str(node.target)] in self.layers:
            value = next(self.samples)
        else:
            self.evaluating = True
            value = self.operations.value(node, _Carried(self.operations), {})
            self.evaluating = False
        node.meta["value"] = value
        return _Sized(node, self) if isinstance(value, Tensor) else super().proxy(node)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Writes the call down, or carries it out."""
        return forward(*args, **kwargs) if self.evaluating else super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """A traced parameter, or its value."""
        return attr_val if self.evaluating else super().getattr(attr, attr_val, parameter_proxy_cache)


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
    it. Only tensors with the batch as their first axis are handed on; others, such as a transposed copy or what depends
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
        ValueError: other layers are met than given. Besides, whatever tracing raises.
    """

    def __init__(
        self,
        module: nn.Module,
        layers: Sequence[nn.Module],
        inputs: Mapping[str, Any],
        samples: tuple[Tensor, ...],
        sized: bool,
    ):
        tracer = _SizedTracer(layers, module, inputs, samples) if sized else _Tracer(layers)
        with torch.no_grad():
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

    def _rowed(self, nodes: list[fx.Node], inputs: Mapping[str, Any], samples: tuple[Tensor, ...]) -> set[fx.Node]:
        """Tensors whose first axis is the batch: their rows change places when those of inputs and samples do."""
        both: list[dict[fx.Node, Any]] = []
        for turned in (False, True):
            known: dict[fx.Node, Any] = {n: inputs[str(n.target)] for n in self._inputs}
            known |= dict(zip(self._visits, samples, strict=True))
            if turned:
                known = {n: v.flip(0) if isinstance(v, Tensor) else v for n, v in known.items()}
            for n in nodes:
                if n not in known:
                    known[n] = self._operations.value(n, known, {})
            both.append(known)
        pairs = {n: (v, both[1][n]) for n, v in both[0].items() if isinstance(v, Tensor) and v.dim()}
        return {
            n
            for n, (a, b) in pairs.items()
            if a.shape == b.shape and _close(a.flip(0), b) and len(a) == len(samples[0])
        }

    def _plan(self, nodes: list[fx.Node], inputs: Mapping[str, Any], samples: tuple[Tensor, ...]) -> None:
        """Which nodes each part computes, and which it hands on."""
        level = dict.fromkeys(self._inputs, 0) | {n: i + 1 for i, n in enumerate(self._visits)}
        given, order = set(level), {n: i for i, n in enumerate(nodes)}
        fixed = {n for n in nodes if n.op == "get_attr"}
        for n in nodes:
            level.setdefault(n, max((level[a] for a in n.all_input_nodes), default=0))
            if n not in given and fixed.issuperset(n.all_input_nodes):
                fixed.add(n)
        rowed = self._rowed(nodes, inputs, samples) - given - fixed
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
            self.reads.append(frozenset(str(n.target) for n in read.intersection(self._inputs)))

    def run(
        self, weights: Weights, inputs: Mapping[str, Any], carry: tuple[Tensor, ...], samples: tuple[Tensor, ...]
    ) -> tuple[Any, tuple[Tensor, ...]]:
        """The part that follows the given samples: its theta, or the output; and what it hands on.

        Of the inputs only those that it ``reads`` are needed.
        """
        part = len(samples)
        known: dict[fx.Node, Any] = {n: inputs[str(n.target)] for n in self._inputs if str(n.target) in inputs}
        known |= dict(zip(self._visits, samples, strict=False))
        if part:
            known |= dict(zip(self._handed[part - 1], carry, strict=True))
        for node in self._steps[part]:
            known[node] = self._operations.value(node, known, weights)
        result = fx.node.map_arg(self._targets[part], known.__getitem__)
        return result, tuple(known[n] for n in self._handed[part])


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


def _close(a: Tensor, b: Tensor) -> bool:
    if not a.is_floating_point():
        return torch.equal(a, b)
    return torch.allclose(a, b, rtol=0, atol=1e3 * torch.finfo(a.dtype).eps * max(1.0, float(a.abs().max())))
