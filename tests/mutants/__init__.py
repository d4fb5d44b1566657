"""Small broken estimators, one mistake each, that conformance checks have to find."""

import inspect

from mutants import antithetic, callers, draws, gaussian, relaxed, score, straight_through
from mutants.mutant import CAUSES, Mutant

KINDS: tuple[type[Mutant], ...] = tuple(
    kind
    for room in (score, draws, antithetic, relaxed, straight_through, gaussian, callers)
    for name, kind in vars(room).items()
    if inspect.isclass(kind) and issubclass(kind, Mutant) and not name.startswith("_") and kind is not Mutant
)
"""Every mutant, by theme."""

__all__ = ["CAUSES", "KINDS", "Mutant"]
