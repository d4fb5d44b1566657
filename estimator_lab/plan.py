"""What is to be measured, as a value: equal plans measure the same thing."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Plan:
    """Frozen description of a measurement. Its ``repr`` is its identity: it seeds the draws and guards every merge.

    Attributes:
        problem: repr of the problem.
        estimator: repr of the estimator.
        fingerprint: hash of weights, fitted state and reference gradient.
        dtype: of the draws.
        wrt: which gradients.
        seed: the user's seed.
        block: replicates per block; block i draws from a seed derived from plan and i.
        leaves: batch means per block.
    """

    problem: str
    estimator: str
    fingerprint: str
    dtype: str
    wrt: tuple[str, ...]
    seed: int
    block: int
    leaves: int


def fingerprint(*groups: Mapping[str, Tensor], words: Iterable[str] = ()) -> str:
    """Hash of named tensors: shapes, dtypes and bytes."""
    digest = hashlib.sha256()
    for word in words:
        digest.update(word.encode())
    for group in groups:
        for name, tensor in group.items():
            digest.update(f"{name}{list(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
