"""Linear layers whose weights are sums along a path of a binary tree, chosen by bits of their input."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from estimator_lab.errors import UsageError
from estimator_lab.families import Bernoulli, RectifiedNormal
from estimator_lab.nn import Stochastic

Gates = Literal["signs", "units", "bernoulli", "rectifier"]
Through = Literal["identity", "sigmoid"]


@dataclass(frozen=True)
class Cost:
    """Capacity and computation of a layer, biases left out.

    Attributes:
        parameters: numbers in the tables.
        additions: for one example, to sum the rows of the effective weights; the first row of each sum is copied.
        multiply_adds: for one example: of the product of the input with the effective weights, and of gating units.
        dense: parameters of a linear layer between as many units, which are also its multiply-adds.
    """

    parameters: int
    additions: int
    multiply_adds: int
    dense: int

    @property
    def operations(self) -> int:
        """Additions and multiply-adds together."""
        return self.additions + self.multiply_adds

    @property
    def parameters_per_operation(self) -> float:
        """Capacity over computation; 1 for a linear layer."""
        return self.parameters / self.operations


class TreeLinear(nn.Module):
    """A linear layer whose weights depend on the input, through k bits that name a path in a tree of weight vectors.

    Input unit j has a table of vectors ``T(j, b_1..b_l)``, one of ``out_features`` numbers for each prefix of one to k
    bits. Its row of the weights is the sum along the path that the bits of the example name::

        W_j(x) = sum_l T(j, b_1..b_l)        y = sum_j x_j W_j(x) + c

    Two examples whose bits agree in the first m places share m of the k summands. The tables hold ``2^(k+1) - 2``
    vectors a unit (one more with a root), of which k are read for an example: parameters grow as 2^k, the work as k.

    Cost: k in out multiply-adds for an example, in the form in which they are carried out here (k - 1 additions of
    vectors a unit and a product in the form in which they are counted, ``cost``), nothing of order 2^k. That holds for
    the backward pass with ``sparse=True``; a dense gradient fills the whole table with zeros.

    Bits, by ``gates``:

    - ``"signs"``: ``b_l = 1[x_i > 0]`` of chosen activations of the input, the first k unless ``chosen`` says others.
    - ``"units"``: ``b_l = 1[u_l > 0]`` of gating units, affine in the input.
    - ``"bernoulli"``: ``b_l ~ Bernoulli(sigmoid(u_l))``, a ``Stochastic`` layer: one site under ``from_module``.
    - ``"rectifier"``: ``r_l = max(0, u_l + z_l)`` with Gaussian noise z, a ``Stochastic`` layer as well; the bit is
      ``1[r_l > 0]`` and each summand is scaled, ``W_j = sum_l r_l T(j, b_1..b_l)``. A vector whose prefix ends in 0 is
      scaled by 0, so that half of the table has no part.

    Gradients: the vectors on the path receive ``x_j dL/dy`` (scaled as they are). A sign or a unit passes none to what
    its bit was made of, unless ``through`` says so. Where a derivative with respect to bits is asked for (straight
    through, here or in an estimator), it is that of the multilinear function of the bits that the tables define::

        dL/db_l = sum_j x_j <dL/dy, W_j(b_l = 1) - W_j(b_l = 0)>

    which reads k (k + 1) / 2 further vectors a unit, in the backward pass only. Bits that are not 0 or 1, as
    estimators that relax a sample pass on, are rounded: such estimators meet the jump at 1/2.

    Reference: the parametrization by prefixes of sign bits or gating units is that of Cho and Bengio 2014
    (arXiv:1406.7362, abstract). Equations, the form of the gates and the derivative in the bits are a reconstruction.

    Args:
        in_features: units of the input.
        out_features: units of the output.
        depth: k, the number of bits.
        gates: where the bits come from.
        per_unit: bits of its own for every input unit, in place of k bits that all share. Gating units of their own
            are ``in_features`` times as many and cost as much more than the table's own reads; signs cost nothing.
        chosen: for signs, indices of the activations ``[k]``, or ``[in_features, k]`` with ``per_unit``.
        root: adds a vector ``T(j)`` to every sum, which all examples share.
        bias: adds c.
        through: for signs and units, what the backward pass puts in the place of the step's derivative: that of the
            identity, or of the sigmoid; None for zero.
        noise: for rectifiers, the standard deviation.
        sparse: gradients of the tables are sparse tensors, which ``LazyDecay`` and ``torch.optim.SGD`` take. Where
            other tensors stand in for the parameters (``torch.func.functional_call``, ``from_module``) they are dense.
        dtype: of the parameters.
        device: of the parameters.

    Attributes:
        tables: holds the vectors as ``tables.weight``, ``[in_features * nodes, out_features]``.

    Raises:
        UsageError: arguments that do not fit.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        depth: int,
        *,
        gates: Gates = "signs",
        per_unit: bool = False,
        chosen: Tensor | Sequence[Any] | None = None,
        root: bool = False,
        bias: bool = True,
        through: Through | None = None,
        noise: float = 1.0,
        sparse: bool = False,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        super().__init__()
        if min(in_features, out_features, depth) < 1:
            raise UsageError(
                "a TreeLinear has at least one input, one output and one bit; found "
                f"{in_features}, {out_features}, depth={depth}"
            )
        if gates not in get_args(Gates):
            raise UsageError(f"gates of a TreeLinear are one of {get_args(Gates)}; found {gates!r}")
        hard = gates in ("signs", "units")
        if through is not None and not (hard and through in get_args(Through)):
            raise UsageError(
                f"through is one of {get_args(Through)}, for signs and units (a Stochastic layer passes gradients by "
                f"itself); found {through!r} with gates={gates!r}"
            )
        if chosen is not None and gates != "signs":
            raise UsageError(f"chosen names the activations whose signs are bits; found gates={gates!r}")
        like: dict[str, Any] = {"dtype": dtype, "device": device}
        self.depth, self.per_unit, self.gates = depth, per_unit, gates
        shape = (in_features, depth) if per_unit else (depth,)
        source: nn.Module
        if gates == "signs":
            source = _Chosen(shape, in_features, chosen, device)
        else:
            source = nn.Sequential(
                nn.Linear(in_features, in_features * depth if per_unit else depth, **like), nn.Unflatten(-1, shape)
            )
        self.units = source
        self.bits: nn.Module
        if hard:
            self.bits = _Step(through)
        elif gates == "bernoulli":
            self.bits = Stochastic(Bernoulli())
        else:
            self.bits = Stochastic(RectifiedNormal(noise))
        self.tables = TreeTables(in_features, out_features, depth, root, gates == "rectifier", sparse, **like)
        self.bias = nn.Parameter(torch.zeros(out_features, **like)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in_features] -> [..., out_features]``; stochastic gates want one axis of examples.

        Raises:
            UsageError: the input has another number of features.
        """
        if x.shape[-1] != self.tables.in_features:
            raise UsageError(
                f"this TreeLinear takes {self.tables.in_features} features on the last axis; found {list(x.shape)}"
            )
        y: Tensor = self.tables(x, self.bits(self.units(x)))
        return y if self.bias is None else y + self.bias

    @property
    def cost(self) -> Cost:
        """Parameters of the tables, and operations for one example."""
        t = self.tables
        dense, summands = t.in_features * t.out_features, self.depth + t.root
        affine = 0 if self.gates == "signs" else t.in_features * self.depth * (t.in_features if self.per_unit else 1)
        return Cost(t.weight.numel(), (summands - 1) * dense, dense + affine, dense)

    def extra_repr(self) -> str:
        """Depth and bits."""
        return f"depth={self.depth}, gates={self.gates!r}, per_unit={self.per_unit}"


class TreeTables(nn.Module):
    """The weight vectors of a ``TreeLinear``, and their sums along paths.

    The vectors of unit j are rows ``j nodes`` to ``(j + 1) nodes - 1`` of the weight, in the order of a binary heap:
    the root if there is one, then the prefixes of one bit, of two bits, ..., each in the order of binary numbers.

    They are drawn so that a sum of them has the variance of the weights of ``nn.Linear``.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        depth: int,
        root: bool,
        modulated: bool,
        sparse: bool,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        super().__init__()
        self.in_features, self.out_features, self.depth = in_features, out_features, depth
        self.root, self.modulated, self.sparse = root, modulated, sparse
        self.nodes = (2 << depth) - 2 + root
        bound = (in_features * (depth + root)) ** -0.5
        weight = torch.empty(in_features * self.nodes, out_features, dtype=dtype, device=device)
        self.weight = nn.Parameter(weight.uniform_(-bound, bound))

    def node(self, unit: int, prefix: Sequence[int]) -> int:
        """Row of the weight that holds ``T(unit, prefix)``.

        Raises:
            UsageError: the prefix is no sequence of at most k bits, or there is no root and it is empty.
        """
        if not (1 - self.root <= len(prefix) <= self.depth and set(prefix) <= {0, 1}):
            least = 1 - self.root
            raise UsageError(f"a prefix holds {least} to {self.depth} bits, each 0 or 1; found {list(prefix)}")
        place = (1 << len(prefix)) - 2 + self.root + sum(b << i for i, b in enumerate(reversed(prefix)))
        return unit * self.nodes + place

    def path(self, gates: Tensor) -> Tensor:
        """Rows of the weight on the paths ``[B, in_features, k]``, ``k + 1`` with a root.

        Args:
            gates: bits or rectifiers ``[B, k]``, or ``[B, in_features, k]``.
        """
        return self._path(self._bits(self._shared(gates)))

    def reads(self, gates: Tensor) -> Tensor:
        """Rows that a forward and a backward pass read, flat: the paths, and where bits take a gradient, their flips.

        Args:
            gates: bits or rectifiers ``[B, k]``, or ``[B, in_features, k]``.
        """
        bits = self._bits(self._shared(gates))
        index = self._path(bits)
        flips = [_flipped(index, bits, i) for i in range(self.depth)] if bits.requires_grad else []
        return torch.cat([index.flatten(), *(t.flatten() for t in flips)])

    def effective(self, gates: Tensor) -> Tensor:
        """The weights of each example ``[B, in_features, out_features]``, summed row by row.

        Args:
            gates: bits or rectifiers ``[B, k]``, or ``[B, in_features, k]``.
        """
        shared = self._shared(gates)
        rows = F.embedding(self._path(self._bits(shared)), self.weight)
        return (rows * self._scale(shared)[..., None]).sum(-2)

    def forward(self, x: Tensor, gates: Tensor) -> Tensor:
        """``sum_j x_j W_j`` at bits or rectifiers ``[..., k]``, or ``[..., in_features, k]``."""
        rows = x.reshape(-1, self.in_features)
        shared = self._shared(gates.reshape(len(rows), *gates.shape[x.dim() - 1 :]))
        bits = self._bits(shared)
        index = self._path(bits)
        weights = rows[..., None] * self._scale(shared)
        sparse = self.sparse and isinstance(self.weight, nn.Parameter)
        y: Tensor = _Path.apply(self.weight, weights.expand(index.shape), bits, index, sparse)  # type: ignore[no-untyped-call]
        return y.reshape(*x.shape[:-1], self.out_features)

    def _shared(self, gates: Tensor) -> Tensor:
        """With an axis of units, of size one if they share the bits."""
        return gates if gates.dim() == 3 else gates[:, None]

    def _bits(self, gates: Tensor) -> Tensor:
        return (gates > 0).to(gates.dtype) if self.modulated else gates

    def _scale(self, gates: Tensor) -> Tensor:
        """Factors of the summands, the root's included."""
        scale = gates if self.modulated else torch.ones_like(gates)
        return torch.cat([torch.ones_like(scale[..., :1]), scale], -1) if self.root else scale

    def _path(self, bits: Tensor) -> Tensor:
        level = torch.arange(self.depth, device=bits.device)
        leaf = (bits > 0.5).long() * 2 ** (self.depth - 1 - level)
        code = leaf.cumsum(-1) // 2 ** (self.depth - 1 - level)  # the first l bits as a binary number
        place = code + 2 ** (level + 1) - 2 + self.root
        if self.root:
            place = torch.cat([torch.zeros_like(place[..., :1]), place], -1)
        return place + torch.arange(self.in_features, device=bits.device)[:, None] * self.nodes

    def extra_repr(self) -> str:
        """Sizes."""
        return f"{self.in_features}, {self.out_features}, nodes={self.nodes}"


class _Chosen(nn.Module):
    """Activations of the input, by index."""

    index: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        in_features: int,
        chosen: Tensor | Sequence[Any] | None,
        device: torch.device | str | None,
    ):
        super().__init__()
        index = torch.arange(shape[-1]).expand(shape) if chosen is None else torch.as_tensor(chosen)
        if tuple(index.shape) != shape or index.is_floating_point():
            raise UsageError(
                f"chosen holds indices of activations of shape {list(shape)}; found {index.dtype} {list(index.shape)}"
            )
        if index.min() < 0 or index.max() >= in_features:
            raise UsageError(
                f"bits are signs of the {in_features} inputs; found the indices {int(index.min())} to "
                f"{int(index.max())}: name others in chosen, or take a smaller depth, or gates='units'"
            )
        self.register_buffer("index", index.clone().to(device))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = x[..., self.index]
        return found


class _Step(nn.Module):
    """``1[u > 0]``, with the backward pass of something else."""

    def __init__(self, through: Through | None):
        super().__init__()
        self.through = through

    def forward(self, u: Tensor) -> Tensor:
        bits = (u > 0).to(u.dtype)
        if self.through is None:
            return bits
        smooth = u if self.through == "identity" else u.sigmoid()
        return bits + (smooth - smooth.detach())

    def extra_repr(self) -> str:
        return f"through={self.through!r}"


def _flipped(index: Tensor, bits: Tensor, level: int) -> Tensor:
    """Rows ``[B, in, k - level]`` of the path from a level on, with the bit of that level flipped.

    From level l to level m the code of a prefix is shifted by m - l places, and so is what the flip adds to it.
    """
    depth = bits.shape[-1]
    sign = 1 - 2 * (bits[..., level, None] > 0.5).long()
    step = 2 ** torch.arange(depth - level, device=bits.device)
    return index[..., index.shape[-1] - depth + level :] + sign * step


class _Path(torch.autograd.Function):
    """``sum_n weights_n table[index_n]`` for every example, with the derivative in the bits that made the index.

    Shapes: table ``[N, out]``, weights and index ``[B, in, K]``, bits ``[B, in or 1, k]``, with ``K - k`` the number of
    roots. Mapped over by ``vmap``, tables are put below each other and rows beside each other: one call in any case.
    """

    @staticmethod
    def forward(table: Tensor, weights: Tensor, bits: Tensor, index: Tensor, sparse: bool) -> Tensor:
        return F.embedding_bag(index.flatten(1), table, mode="sum", per_sample_weights=weights.flatten(1))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[:4])
        ctx.sparse = inputs[4]

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        table, weights, bits, index = ctx.saved_tensors
        by_table: Tensor | None = None
        by_weights: Tensor | None = None
        by_bits: Tensor | None = None

        def along(rows: Tensor) -> Tensor:
            """``<dL/dy, table[row]>`` for rows ``[B, in, n]``."""
            found = torch.bmm(F.embedding(rows.flatten(1), table), slope[..., None])
            return found.reshape(rows.shape)

        if ctx.needs_input_grad[0]:
            values = (weights.flatten(1)[..., None] * slope[:, None]).flatten(0, 1)
            if ctx.sparse:
                by_table = torch.sparse_coo_tensor(index.reshape(1, -1), values, table.shape, check_invariants=False)
            else:
                by_table = torch.zeros_like(table).index_add(0, index.flatten(), values)
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            by_weights = along(index)
            if ctx.needs_input_grad[2]:
                by_bits = _by_bits(weights, bits, index, by_weights, along)
        return by_table, by_weights, by_bits, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Tensor, int]:
        table, *rows, sparse = inputs
        count = info.batch_size
        spread = [
            t.expand(count, *t.shape) if dim is None else t.movedim(dim, 0)
            for t, dim in zip(rows, in_dims[1:4], strict=True)
        ]
        if in_dims[0] is not None:
            table = table.movedim(in_dims[0], 0)
            first = torch.arange(count, device=table.device) * table.shape[1]
            spread[2] = spread[2] + first[:, None, None, None]
            table = table.flatten(0, 1)
        y: Tensor = _Path.apply(table, *(t.flatten(0, 1) for t in spread), sparse)  # type: ignore[no-untyped-call]
        return y.unflatten(0, (count, -1)), 0


def _by_bits(weights: Tensor, bits: Tensor, index: Tensor, inner: Tensor, along: Callable[[Tensor], Tensor]) -> Tensor:
    """``dL/db_l``: the summands from level l on, against those of the path with that bit flipped."""
    depth = bits.shape[-1]
    roots = index.shape[-1] - depth
    found = []
    for level in range(depth):
        below = slice(roots + level, None)
        change = (weights[..., below] * (inner[..., below] - along(_flipped(index, bits, level)))).sum(-1)
        found.append(change * (2 * (bits[..., level] > 0.5).to(change.dtype) - 1))
    slopes = torch.stack(found, -1)
    return slopes if bits.shape[1] == slopes.shape[1] else slopes.sum(1, keepdim=True)
