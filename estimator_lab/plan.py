"""What is to be measured, as a value: equal plans measure the same thing."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from estimator_lab.noise import derive_seed

SMALLEST = 32
"""Replicates of the first blocks: few, so that a measurement can stop early; later ones double, to cost less each."""


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
        largest: replicates in the largest block, a power of two.
        strata: replicates over which random numbers are stratified; 1: they are independent.
    """

    problem: str
    estimator: str
    purpose: str
    fingerprint: str
    dtype: str
    wrt: tuple[str, ...]
    seed: int
    largest: int
    strata: int = 1

    def size(self, index: int) -> int:
        """Replicates of a block: sixteen of `SMALLEST`, then eight of each power of two up to the largest."""
        return min(SMALLEST << max(index // 8 - 1, 0), self.largest)

    def before(self, index: int) -> int:
        """Replicates of all blocks before this one, a multiple of its size."""
        doubled = min(max(index // 8, 1), (self.largest // SMALLEST).bit_length())
        first = 8 * doubled  # the first block of its size, or with doubled = 1 the ninth
        return (8 * SMALLEST << (doubled - 1)) + (index - first) * self.size(index)

    def blocks(self, replicates: int) -> int:
        """Number of blocks that hold at least so many replicates."""
        index = 0
        while self.before(index) < replicates:
            index += 1
        return index

    def rounded(self, replicates: int) -> int:
        """Replicates of the fewest blocks that hold at least so many."""
        return self.before(self.blocks(replicates))

    def block_seed(self, index: int) -> int:
        """Seed of a block. It depends on names alone, not on the last bits of weights or truth, nor on who draws it.

        All estimators of a problem get the same random numbers, so that differences between them are seen with less
        noise.
        """
        return derive_seed(self.seed, self.problem, self.purpose, index)


def fingerprint(*groups: Mapping[str, Tensor]) -> str:
    """Hash of named tensors: shapes, dtypes and bytes."""
    digest = hashlib.sha256()
    for group in groups:
        for name, tensor in group.items():
            digest.update(f"{name}{list(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
