"""Which of several candidates explains a bias: a weighted regression for each of them at each of several places."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from estimator_lab.statistics.gram import Array

CLOSE = 1e-6
"""Share of the root mean square bias that counts as rounding."""

ALMOST = 0.995
"""Share of the squared bias that a candidate has to explain, if none explains all."""

PLACE = 5.0
"""Cost of a place whose bias no candidate explains."""

MOST = 0.9
"""Share of the coordinates of such a place that have a bias."""

DRAWN = 1e-3
"""Root mean square error over root mean square bias that is more than rounding."""

WIDTH = 5.0
"""Standard errors that a residual may have."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Cause:
    """What a bias is consistent with. Never more than that: another mistake may give the same mean.

    Attributes:
        label: in a word or two: "gain 2", "sign", "power of p(1-p)", "baseline", "dead path", "state", ..
        words: the same in words, with its fit.
        fit: share of the squared bias that it explains, each coordinate weighted by its error; nan where it is a law
            that is broken, or what the bias does, that tells the cause.
    """

    label: str
    words: str
    fit: float


@dataclass(frozen=True)
class Bias:
    """A bias at n coordinates.

    Attributes:
        bias: ``[n]``, mean minus truth.
        error: ``[n]``, its standard error, or a bound on rounding.
        truth: ``[n]``.
        there: ``[n]``, where there surely is one.
    """

    bias: Array
    error: Array
    truth: Array
    there: Mask

    @property
    def root(self) -> float:
        """Root mean square."""
        return math.sqrt(float(np.mean(self.bias**2)))

    @property
    def noise(self) -> float:
        """Root mean square error over root mean square bias."""
        return math.sqrt(float(np.mean(self.error**2))) / max(self.root, 1e-300)


@dataclass(frozen=True)
class Candidate:
    """A way to be wrong: ``mean = c term`` or ``mean = truth + c term`` at some place, and the truth elsewhere.

    Attributes:
        label: of the cause.
        words: what is said of it; with ``{}`` for the constant.
        cost: simpler ones first.
        added: whether it comes on top of the truth.
        constants: those that it ought to have; others cost more.
        strict: whether it may have no other.
        yields: whether a place says more than it, and gives the cause its label.
    """

    label: str
    words: str
    cost: float
    added: bool = False
    constants: tuple[float, ...] = (1.0,)
    strict: bool = True
    yields: bool = False


@dataclass(frozen=True)
class Place:
    """Some of the coordinates.

    Attributes:
        label: of the cause, if all of the bias is there and no candidate explains it.
        words: where it is; empty for all coordinates.
        cost: plainer ones first.
    """

    label: str
    words: str
    cost: float


@dataclass(frozen=True)
class Fit:
    """A candidate at a place, or a place that has all of the bias.

    Attributes:
        cause: as it is told.
        cost: of candidate, place and a free constant.
        full: whether nothing but errors is left.
        free: whether the constant is none of those that it ought to have.
    """

    cause: Cause
    cost: float
    full: bool
    free: bool = False


def consistent(words: str, share: float, full: bool, drawn: bool = False) -> str:
    """A sentence without its stop: what a bias is consistent with, and how much of it that explains."""
    part = "all" if full else f"{min(math.floor(100 * share), 99)} %"
    return f"consistent with {words} (explains {part} of the bias{', to the errors of the draws' * (full and drawn)})"


def fits(seen: Bias, terms: Sequence[tuple[Candidate, Array]], places: Sequence[tuple[Place, Mask]]) -> list[Fit]:
    """All candidates at all places that have a part of the bias, and the places that have all of it.

    Args:
        seen: the bias.
        terms: ``[n]`` for each candidate; nan where it means nothing.
        places: ``[n]`` for each place; of two that hold the same coordinates the first counts.
    """
    found: list[Fit] = []
    known: set[bytes] = set()
    for place, mask in places:
        if not (mask & seen.there).any() or mask.tobytes() in known:
            continue
        known.add(mask.tobytes())
        at = f", only {place.words}" if place.words else ""
        for c, term in terms:
            if not np.isfinite(term[mask]).all():
                continue
            constant, share, full = _regress(seen, c, term, mask)
            free = constant not in c.constants
            if free and (c.strict or int(mask.sum()) < 2):
                continue
            times = f" times {constant:.3g}" if free and "{}" not in c.words else ""
            label = place.label if place.words and c.yields else c.label
            words = consistent(c.words.format(f"{constant:.3g}") + times + at, share, full, seen.noise > DRAWN)
            found.append(Fit(Cause(label, words, share), c.cost + place.cost + free, full, free))
        if place.words and not seen.there[~mask].any() and seen.there[mask].mean() >= MOST:
            words = f"consistent with a mistake that shows only {place.words} (all of the bias is there)"
            width = 0.01 * float(mask.mean())  # of places that have all of it the narrowest says most
            found.append(Fit(Cause(place.label, words, math.nan), PLACE + width, False))
    return found


def best(found: Sequence[Fit]) -> list[Fit]:
    """The simplest of those that leave nothing but errors, else what explains clearly more than all others, or a place.

    Of those that are equally simple all are told. Clearly more: `ALMOST` all, and half or less of what the next one
    leaves, with a constant that it ought to have: some free one nearly fits whatever there is.
    """
    full = sorted((f for f in found if f.full), key=lambda f: f.cost)
    if full:
        return [f for f in full if f.cost <= full[0].cost + 0.05]
    terms = [f for f in found if f.cost < PLACE and f.cause.fit >= ALMOST and not f.free]
    terms.sort(key=lambda f: 1 - f.cause.fit + 0.02 * f.cost)
    clear = [f for f in terms[:1] if len(terms) == 1 or 1 - f.cause.fit <= 0.5 * (1 - terms[1].cause.fit)]
    return clear or sorted((f for f in found if f.cost >= PLACE), key=lambda f: f.cost)[:1]


def _regress(seen: Bias, candidate: Candidate, term: Array, mask: Mask) -> tuple[float, float, bool]:
    """Constant, share of the squared bias explained, and whether nothing but errors is left.

    Least squares with weights ``1 / (e^2 + (rms bias / 100)^2)`` for errors e. Where means are drawn, what errors are
    expected to add to a sum of squares is taken off.
    """
    bias, error = seen.bias, seen.error
    weight = 1 / (error**2 + (0.01 * seen.root) ** 2)
    y = np.where(mask, bias + (0 if candidate.added else seen.truth), 0.0)
    x = np.where(mask, term, 0.0)
    square = float(weight @ x**2)
    constant = float(weight @ (x * y)) / square if square > 0 else 1.0
    spread = WIDTH * math.sqrt(float((weight * x) ** 2 @ error**2)) / square if square > 0 else 0.0
    for known in candidate.constants:
        if abs(constant - known) <= 10 * CLOSE + spread and spread < 0.15:
            constant = known
            break
    left = np.where(mask, y - constant * x, bias)
    noise = float(weight @ error**2)
    total = max(float(weight @ bias**2) - noise, 1e-300)
    share = 1 - max(float(weight @ left**2) - noise, 0.0) / total
    full = bool((np.abs(left) <= WIDTH * error + 10 * CLOSE * seen.root).all()) and share > 0.5
    return constant, min(max(share, 0.0), 1.0), full
