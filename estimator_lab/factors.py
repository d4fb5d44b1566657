"""Squared norms, projections and sums of weight gradients, from their factors."""

from collections.abc import Sequence

import torch
from torch import Tensor

from estimator_lab.moments import CHUNK
from estimator_lab.taps import Use

ROWS = 16
"""Rows from which it is faster to make gradients that fit into the cache than to do without."""

Summary = tuple[Tensor, Tensor, Tensor]
"""Of gradients x of R replicates: ``|x|^2`` and ``<x, g>``, both ``[R]`` in float64, and sums ``[parts, *shape]``."""


def of_gradients(gradients: Tensor, reference: Tensor | None, parts: int) -> Summary:
    """Of gradients ``[R, *shape]`` themselves.

    Args:
        gradients: one for each replicate.
        reference: g, shaped like one of them, or None for zero.
        parts: equal contiguous parts of the replicates that are summed, each on its own.
    """
    flat = gradients.flatten(1)
    square = torch.linalg.vector_norm(flat, dim=1).double().square()
    inner = torch.zeros_like(square) if reference is None else (flat @ reference.flatten()).double()
    return square, inner, gradients.unflatten(0, (parts, -1)).sum(1)


def of_uses(uses: Sequence[Use], replicates: int, reference: Tensor | None, parts: int) -> Summary:
    """Of gradients ``x_r = sum_u left_u[r]^T right_u[r]``, without the gradients where there are few rows.

    With all N rows of a replicate beneath each other, ``x = L^T R``: ``|x|^2 = sum_nm (L L^T)_nm (R R^T)_nm`` and
    ``<x, g> = sum_n (L g)_n . R_n``. That takes N^2 (a + b) + N a b products of numbers for a weight [a, b], and memory
    for N (a + b) numbers in place of a b. Where N is larger than a b / (a + b), or several gradients fit into the
    cache, which makes a pass over them cheap, they are made, a few at a time. What all replicates share,
    such as the examples that the first layer sees, is used once for all of them.

    Args:
        uses: at least one, of one weight.
        replicates: R.
        reference: g ``[a, b]``, or None for zero.
        parts: equal contiguous parts of the replicates that are summed, each on its own.
    """
    left, right = (_stacked(sides, replicates) for sides in zip(*uses, strict=True))
    (rows, a), b = left.shape[1:], right.shape[2]
    cached = len(left) == len(right) and rows >= ROWS and a * b <= CHUNK // 4
    if cached or rows * (a + b) > a * b:
        return _made(left, right, replicates, reference, parts)
    square = ((left @ left.mT) * (right @ right.mT)).sum((1, 2), dtype=torch.float64)
    found = _sum(right, left, parts).mT if len(left) < replicates else _sum(left, right, parts)
    if reference is None:
        inner = torch.zeros_like(square)
    elif len(left) < replicates or (len(right) == replicates and a < b):
        inner = _dots(left @ reference, right)
    else:
        inner = _dots(right @ reference.mT, left)
    return square, inner, found


def _dots(a: Tensor, b: Tensor) -> Tensor:
    """Inner products ``[R]`` of matrices, one of which may be the same for all replicates."""
    b, a = (a, b) if len(a) > len(b) else (b, a)
    x, y = a.flatten(1), b.flatten(1)
    return (y @ x[0] if len(x) == 1 else torch.linalg.vecdot(x, y)).double()


def _stacked(sides: Sequence[Tensor], replicates: int) -> Tensor:
    if len(sides) == 1:
        return sides[0]
    return torch.cat([t.expand(replicates, *t.shape[1:]) for t in sides], 1)


def _sum(left: Tensor, right: Tensor, parts: int) -> Tensor:
    """``[parts, a, b]`` sums of ``left[r]^T right[r]``; the left factor has all replicates, the right one may not."""
    split = left.unflatten(0, (parts, -1))
    if len(right) < len(left):
        return torch.matmul(split.sum(1).mT, right)
    return torch.matmul(split.flatten(1, 2).mT, right.unflatten(0, (parts, -1)).flatten(1, 2))


def _made(left: Tensor, right: Tensor, replicates: int, reference: Tensor | None, parts: int) -> Summary:
    """The same from gradients that are made about as many at a time as the cache holds, in one place."""
    a, b, each = left.shape[2], right.shape[2], replicates // parts
    left, right = (t.expand(replicates, *t.shape[1:]) for t in (left, right))
    step = max(min(2 * CHUNK // (a * b), each), 1)
    place = left.new_empty(step, a, b)
    squares, inners, sums = [], [], left.new_zeros(parts, a, b)
    for part in range(parts):
        for start in range(part * each, (part + 1) * each, step):
            rows = slice(start, min(start + step, (part + 1) * each))
            made = torch.bmm(left[rows].mT, right[rows], out=place[: rows.stop - start])
            square, inner, total = of_gradients(made, reference, 1)
            squares.append(square)
            inners.append(inner)
            sums[part] += total[0]
    return torch.cat(squares), torch.cat(inners), sums
