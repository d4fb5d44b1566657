"""What two baselines differ in, and whether one may take the place of the other."""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from estimator_lab.baseline import APART, Baseline
from estimator_lab.baseline_group import Kept
from estimator_lab.conclusion import percent
from estimator_lab.errors import UsageError

BEYOND = 3.0
"""Standard errors by which two variances differ that are told."""

SAME = 1e-3
"""Share of its length by which a weight may be off and be the same: another dtype rounds it."""

LENGTH = 20
"""Entries of a history, at most."""


def diff(old: Baseline, new: Baseline) -> str:
    """What two baselines differ in, line by line; empty where it is nothing but draws, times and dates.

    Variances that agree within three standard errors are left out, and means whose gap their noise explains.
    """
    lines: list[str] = []
    simple = ("estimator", "problem", "claim", "reference", "dtype", "wrt", "margin", "increase", "replicates")
    for name in (*simple, "losses", "backwards"):
        was, now = getattr(old, name), getattr(new, name)
        if was != now and not (was != was and now != now):
            lines.append(f"{name}: {_said(was)} -> {_said(now)}")
    for name in sorted({*old.versions, *new.versions}):
        was, now = old.versions.get(name, "none"), new.versions.get(name, "none")
        lines += [f"{name}: {was} -> {now}"] * (was != now)
    if differs := alteration(old.weights, new.weights):
        lines.append(f"the problem is another one: {differs}")
    before, after = {g.name: g for g in old.groups}, {g.name: g for g in new.groups}
    for word, one, other in (("vanished", old, new), ("appeared", new, old)):
        lines += [f"the gradient {key} {word}" for key in one.keys if key not in other.keys]
        names = {g.name for g in other.groups}.union(one.keys)
        lines += [f"{g.name} {word}" for g in one.groups if g.name not in names]
    for name in (n for n in before if n in after):
        lines += _of_groups(before[name], after[name], old, new)
    return "\n".join(lines)


def _said(value: object) -> str:
    """A value as a line shows it; "none" where a file has null."""
    return "none" if value is None or value != value else str(value)


def signed(change: float) -> str:
    """A relative change in percent, to two digits or to a whole number."""
    return f"{100 * change:+,.0f} %" if abs(change) >= 0.995 else f"{100 * change:+.2g} %"


def alteration(was: Mapping[str, tuple[float, ...]], now: Mapping[str, tuple[float, ...]]) -> str:
    """How the weights of a problem differ from those of another one, by their signatures; empty if they do not."""
    for name in dict.fromkeys((*was, *now)):
        a, b = was.get(name), now.get(name)
        if a is None or b is None:
            return f"it has {'lost' if b is None else 'gained'} the weight {name!r}"
        if a[:-2] != b[:-2]:
            return f"its weight {name!r} had the shape {list(map(int, a[:-2]))} and has {list(map(int, b[:-2]))}"
        if not np.allclose(a[-2:], b[-2:], rtol=0, atol=SAME * max(a[-2], 1e-300)):
            return f"the numbers of its weight {name!r} are others"
    return ""


def successor(old: Baseline, new: Baseline, reason: str) -> Baseline:
    """A baseline in the place of an older one, whose headline numbers stay in its history.

    The mean of an estimator that claims to be unbiased cannot move while the problem stays: one of both is biased.
    Where the truth is exact that was tested when they were drawn; where it is not, this is all that can be said.

    Args:
        old: what is replaced.
        new: what replaces it.
        reason: why the change is meant.

    Raises:
        UsageError: no reason is given; or a mean moved that the claim does not allow to move.
    """
    if not reason.strip():
        raise UsageError("say why the change is meant: give a reason")
    if old.claim and new.claim and not alteration(old.weights, new.weights):
        before = {g.name: g for g in old.groups}
        for group in new.groups:
            if group.name in before and _moved(before[group.name], group, old, new):
                raise UsageError(
                    f"{new.estimator} claims to be unbiased, and yet its mean moved at {group.name} of {new.problem}: "
                    "the old or the new one is biased; mend it, declare unbiased = False, or delete the old file"
                )
    entry = {
        "created": old.created,
        "estimator-lab": old.versions.get("estimator-lab", ""),
        "variance": "; ".join(f"{g.name} {g.variance:.4g}" for g in old.groups),
        "replaced": reason,
    }
    history = (*old.history, entry)[-LENGTH:]
    return replace(new, history=history, target=new.target or old.target, on=new.on or old.on)


def _of_groups(a: Kept, b: Kept, old: Baseline, new: Baseline) -> list[str]:
    """What one group differs in."""
    lines = []
    error = math.hypot(a.error, b.error)
    if a.variance > 0 and b.variance > 0:
        change = math.log(b.variance / a.variance)
        if not abs(change) <= BEYOND * error:
            lines.append(
                f"{a.name}: variance {a.variance:.4g} -> {b.variance:.4g} ({signed(math.expm1(change))}, "
                f"standard error {percent(error)})"
            )
    elif a.variance != b.variance:
        lines.append(f"{a.name}: variance {a.variance:.4g} -> {b.variance:.4g}")
    if a.size != b.size:
        lines.append(f"{a.name}: {a.size} -> {b.size} coordinates")
    elif _moved(a, b, old, new):
        gap = float(np.linalg.norm(np.subtract(a.mean, b.mean)))
        lengths = [float(np.linalg.norm(one.mean)) for one in (a, b)]
        lines.append(f"{a.name}: mean moved by {gap:.2g}, its length {lengths[0]:.4g} -> {lengths[1]:.4g}")
    return lines


def _moved(a: Kept, b: Kept, old: Baseline, new: Baseline) -> bool:
    """Whether two kept means differ by more than their noise, of variance `tr O`, `O = S/R + S'/R'`.

    The square of the gap has the standard deviation `sqrt(2 tr O^2)`; `tr O^2` is that of both terms and at most the
    product of their roots between them.
    """
    if not (a.mean and b.mean) or a.size != b.size:
        return False
    square = float(np.square(np.subtract(a.mean, b.mean)).sum())
    pairs = (a.covariance, old.replicates), (b.covariance, new.replicates)
    noise = sum(one.trace / draws for one, draws in pairs)
    scatter = sum(math.sqrt(one.trace2) / draws for one, draws in pairs)
    return square > noise + APART * math.sqrt(2) * scatter + (1e-8 * max(old.scale(a), new.scale(b))) ** 2
