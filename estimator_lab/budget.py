"""How much may be drawn, and when to stop."""

import math
import re
from dataclasses import dataclass

from estimator_lab.errors import UsageError

FIRST = 256
"""Replicates at the first look, at least."""

LOOKS = 5
"""Looks at most where a number of replicates limits the draws: the first at a sixteenth of them."""

EARLIEST = 2**12
"""Replicates at the first look where only a time is given."""

UNLIMITED = 2**24
"""Replicates at most where only a time is given."""

MEMORY = 2.0**30
"""Bytes that one draw of several replicates may take, when nothing else is said."""


SMALLEST_MEMORY = 2.0**20
"""Bytes, at least: whoever asks for less has left out the unit."""


def in_bytes(size: float | str) -> float:
    """Bytes of a size: a number, or text such as "2GB", "500 MB" or "1KiB"; K, M, G, T are powers of 1024.

    Raises:
        UsageError: it is no size, or less than 1 MB.
    """
    found = re.fullmatch(r"\s*([0-9.]+(?:e\+?[0-9]+)?)\s*([kmgt]?)(?:i?b)?\s*", str(size), re.IGNORECASE)
    try:
        number = float(found[1]) * 2.0 ** (10 * " kmgt".index(found[2].lower() or " ")) if found else float(size)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(size, bool) or not number >= SMALLEST_MEMORY:
        raise UsageError(f"a memory is at least 1 MB, in bytes or with a unit, such as 500MB or 2GB; found {size!r}")
    return number


@dataclass(frozen=True)
class Budget:
    """A limit on the draws of each estimator on each problem, and what may end them sooner.

    The draws are looked at when a sixteenth of the limit is reached, and each time that they have doubled; the
    false-alarm rate is shared equally by these looks, so that stopping at any of them is paid for. No look comes
    sooner, because what has not been drawn cannot be seen: 256 draws do not meet an event of one in a thousand. Where
    only a time is given the first look is at 4096. With ``early=False`` there is one look, at the end: the fixed size
    that comparisons of variance want.

    Args:
        replicates: at most; by default 65536, or 16384 for gradients of over 1000 coordinates, or 4096 of over 100000,
            or 2^24 where a time is given.
        seconds: for the whole study, shared equally by what is still to be measured. No block of draws is begun after
            it, so that it may be exceeded by one block, and by preparing, estimating a truth and reporting.
        precision: go on until a relative bias of this size would be found with probability 0.95 in every tested group,
            instead of until the verdict is settled.
        early: stop as soon as every verdict is settled (or the precision is reached).
        memory: bytes that one draw of several replicates may take, about, or text such as "2GB"; blocks of draws that
            are larger are walked in parts. Results do not depend on it, but for rounding. What is kept of the draws
            comes on top of it: moments and batch means, at most 70 numbers of 8 bytes for every coordinate. An
            estimator that draws from torch's global random stream is not divided.

    Raises:
        UsageError: a limit is not positive, or the memory below 1 MB.
    """

    replicates: int | None = None
    seconds: float | None = None
    precision: float | None = None
    early: bool = True
    memory: float | str = MEMORY

    def __post_init__(self) -> None:
        """Refuses what is not positive."""
        object.__setattr__(self, "memory", in_bytes(self.memory))
        for name in ("replicates", "seconds", "precision"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"{name} of a budget is positive; found {value!r}")
        if self.precision is not None and not self.early:
            raise UsageError(
                "a precision is reached by looking at the draws as they come: leave out early=False, or --no-sequential"
            )

    def looks(self, default: int) -> list[int]:
        """Replicates at each look, given those that are drawn when nothing is said."""
        most = self.replicates or (UNLIMITED if self.seconds is not None else default)
        if not self.early:
            return [most]
        first = max(FIRST, math.ceil(most / 2 ** (LOOKS - 1)) if self.replicates or self.seconds is None else EARLIEST)
        return [*(first << j for j in range(max(math.ceil(math.log2(most / first)), 0))), most]
