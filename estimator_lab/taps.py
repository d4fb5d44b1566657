"""Weights in matrix products: activations and cotangents in place of every replicate's weight gradient."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

Use = tuple[Tensor, Tensor]
"""One use of a weight: (left, right) ``[R, N, rows of the weight]``, ``[R, N, columns]``; its share of replicate r's
gradient is ``left[r].T @ right[r]``. An axis R of size one is the same for every replicate."""

_PRODUCTS = {torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, Tensor.mm}
_SUMS = {torch.addmm, Tensor.addmm}
_TRANSPOSES = {
    *(torch.t, Tensor.t, torch.transpose, Tensor.transpose, torch.swapaxes, Tensor.swapaxes),
    *(Tensor.T.__get__, Tensor.mT.__get__),  # type: ignore[attr-defined]
}


class Taps:
    """What is known of the gradients of weights that all replicates share.

    The gradient of a weight W that was used in z = x W^T is ``sum_rows dz^T x``: it is known from x and dz, which are
    smaller than one W for each replicate where there are fewer rows than units. So the replicates can share the weight.

    Only products are recognised (``F.linear``, ``@``, ``mm``, ``addmm``, with the weight or its transpose on the
    right). Their own backward pass gives the weight no gradient, so that any gradient which nevertheless arrives at a
    weight came by another use: it is then ``leaked``, and has to be expanded over the replicates as usual. No list of
    modules is needed, and none can be incomplete.

    Args:
        names: weights that the replicates share, each a matrix.

    Attributes:
        uses: of every weight, in the last draw.
        leaked: weights that were also used in another way.
        open: whether backward passes are kept; those that an estimator runs for itself are of no interest.
    """

    def __init__(self, names: frozenset[str]):
        self.names = names
        self.uses: dict[str, list[Use]] = {}
        self.leaked: set[str] = set()
        self.open = False
        self._known: dict[int, tuple[Tensor, Tensor, str, bool]] = {}

    def start(self, weights: Mapping[str, Tensor]) -> None:
        """Forgets the last draw, and takes the tensors of the next one."""
        self.uses = {k: [] for k in weights if k in self.names}
        self.leaked = set()
        self._known = {id(weights[k]): (weights[k], weights[k], k, False) for k in self.uses}

    def watching(self, mark: Tensor | None) -> "_Watch":
        """A context in which products are recognised.

        Args:
            mark: a number for each replicate, by which also what does not depend on the replicate gets their axis; None
                before the first site, where there is no such axis.
        """
        return _Watch(self, mark)

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Keeps what the backward passes know that run meanwhile; afterwards the draw is over."""
        self.open = True
        try:
            yield
        finally:
            self.open = False
            self._known = {}

    def find(self, tensor: object) -> tuple[Tensor, str, bool] | None:
        """The weight that a tensor is, its name, and whether it is transposed."""
        known = self._known.get(id(tensor))
        return known and known[1:]

    def follow(self, source: Tensor, result: Tensor) -> None:
        """Remembers the transpose of a weight."""
        known = self.find(source)
        if known and result.stride() == source.stride()[::-1]:
            self._known[id(result)] = (result, known[0], known[1], not known[2])

    def keep(self, name: str, x: Tensor, cotangent: Tensor, transposed: bool) -> None:
        """One more use, both with an axis of replicates in front."""
        x, d = (t.detach().reshape(len(t), -1, t.shape[-1]) for t in (x, cotangent))
        self.uses[name].append((d, x) if transposed else (x, d))


class _Watch(TorchFunctionMode):
    """Puts a product of its own in the place of those with a weight."""

    def __init__(self, taps: Taps, mark: Tensor | None):
        super().__init__()
        self.taps, self.mark = taps, mark

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """A product with a weight, or what was called."""
        named = dict(kwargs or {})
        if func is F.linear:
            x, weight, bias = _bound(("input", "weight", "bias"), args, named)
            z = self._product(x, weight, True)
            if z is not None:
                return z if bias is None else z + bias
        elif func in _PRODUCTS and len(args) == 2 and not named:
            z = self._product(args[0], args[1], False)
            if z is not None:
                return z
        elif func in _SUMS and len(args) == 3 and not named:
            z = self._product(args[1], args[2], False)
            if z is not None:
                return args[0] + z
        result = func(*args, **named)
        if func in _TRANSPOSES:
            self.taps.follow(args[0], result)
        return result

    def _product(self, x: Tensor, weight: Tensor, transposed: bool) -> Tensor | None:
        known = self.taps.find(weight)
        if known is None:
            return None
        base, name, turned = known
        found: Tensor = _Product.apply(x, base, self.mark, self.taps, name, transposed != turned)  # type: ignore[no-untyped-call]
        return found


def _bound(names: tuple[str, ...], args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    given = dict(zip(names, args, strict=False)) | dict(kwargs)
    return [given.get(name) for name in names]


class _Product(torch.autograd.Function):
    """``x W^T``, or ``x W``; passes no gradient to W."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, mark: Tensor | None, taps: Taps, name: str, transposed: bool) -> Tensor:
        return x @ (weight.mT if transposed else weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        x, weight, mark, *rest = inputs
        ctx.save_for_backward(x, weight)
        ctx.rest, ctx.replicated = rest, mark is not None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, *rest: Any) -> tuple[Tensor, int]:
        at = in_dims[0]
        whole = x.expand(info.batch_size, *x.shape) if at is None else x.movedim(at, 0)
        found: Tensor = _Product.apply(whole, *rest)  # type: ignore[no-untyped-call]
        return found, 0

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        taps, name, transposed = ctx.rest
        if taps.open and ctx.replicated:
            taps.keep(name, x, d, transposed)
        elif taps.open:
            _Keep.apply(x, d, taps, name, transposed)  # type: ignore[no-untyped-call]
        slope = d @ (weight if transposed else weight.mT) if ctx.needs_input_grad[0] else None
        return slope, None, None, None, None, None


class _Keep(torch.autograd.Function):
    """Keeps a cotangent that is mapped over replicates, of a product that is not."""

    @staticmethod
    def forward(x: Tensor, d: Tensor, taps: Taps, name: str, transposed: bool) -> Tensor:
        taps.keep(name, x[None], d[None], transposed)
        return d.new_zeros(())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        return

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], x: Tensor, d: Tensor, taps: Taps, name: str, transposed: bool
    ) -> tuple[Tensor, None]:
        at = in_dims[1]
        assert at is not None
        taps.keep(name, x[None], d.movedim(at, 0), transposed)
        return d.new_zeros(()), None
