"""What is to be measured, as a value: equal plans measure the same thing."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from estimator_lab.noise import derive_seed


@dataclass(frozen=True)
class Plan:
    """Frozen description of a measurement: equal plans may be merged.

    Attributes:
        problem: repr of the problem.
        estimator: repr of the estimator.
        purpose: keeps the draws of a truth apart from those of a measurement.
        fingerprint: hash of weights, fitted state and reference gradient.
        dtype: of the draws.
        wrt: which gradients.
        seed: the user's seed.
        block: replicates per block.
        leaves: batch means per block.
    """

    problem: str
    estimator: str
    purpose: str
    fingerprint: str
    dtype: str
    wrt: tuple[str, ...]
    seed: int
    block: int
    leaves: int

    def block_seed(self, index: int) -> int:
        """Seed of a block. It depends on names alone, not on the last bits of weights or truth, nor on who draws it."""
        return derive_seed(self.seed, self.problem, self.estimator, self.purpose, index)


def fingerprint(*groups: Mapping[str, Tensor]) -> str:
    """Hash of named tensors: shapes, dtypes and bytes."""
    digest = hashlib.sha256()
    for group in groups:
        for name, tensor in group.items():
            digest.update(f"{name}{list(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
