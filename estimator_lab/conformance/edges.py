"""The edges of what is put in: saturation, ties, one class, low precision."""

import torch
from torch import Tensor

from estimator_lab.conformance.case import Case, Check, NotApplicable, Violation
from estimator_lab.conformance.means import same_claim
from estimator_lab.conformance.walk import Extreme, Rounded, walk
from estimator_lab.errors import LabError
from estimator_lab.families import Categorical, Discrete, Family, Normal
from estimator_lab.noise import derive_seed
from estimator_lab.site import SiteSpec

FAR = (-200.0, -89.0, -40.0, -17.0, -8.0, 8.0, 17.0, 40.0, 89.0, 200.0)
"""Logits at which sigmoids are 0 or 1 in one precision or the other, and exponentials overflow."""

RARE = 1024
"""Replicates where no draw may differ: what happens in one of 256 draws is met, numbers of eight bits for one."""


def _far(family: Family, dtype: torch.dtype) -> Tensor:
    """Theta ``[R, B, 2, *theta]``, one example for each extreme; the second unit is an ordinary one."""
    t = torch.tensor(FAR, dtype=dtype)
    if isinstance(family, Normal):
        edge = torch.stack([t / 40, t / 40], -1)  # standard deviations from 0.007 to 150
    elif family.theta_shape:
        ramp = torch.linspace(1, -0.5, family.theta_shape[0], dtype=dtype)
        edge = t[:, None] * ramp
    else:
        edge = t
    return torch.stack([edge, torch.full_like(edge, 0.3)], 1).expand(16, *(len(FAR), 2, *family.theta_shape)).clone()


def is_finite_under_saturation(case: Case) -> None:
    """Surrogates and gradients are finite for logits up to 200, in double and single precision."""
    for family in case.families:
        for dtype in (torch.float64, torch.float32):
            noise = Rounded(derive_seed("far", case.seed), 24)
            loss, gradient, _ = walk(case, family, _far(family, dtype), noise)
            wrong = ~(torch.isfinite(gradient).flatten(2).all(2) & torch.isfinite(loss).all(0)).all(0)
            if wrong.any():
                where = [FAR[i] for i in wrong.nonzero()[:, 0]]
                raise Violation(
                    f"it is NaN or infinite on {family!r} in {str(dtype).removeprefix('torch.')} at theta of the order "
                    f"of {where}: look for log(0), 0 / 0 and exponentials that overflow"
                )


def is_finite_at_extreme_numbers(case: Case) -> None:
    """Random numbers next to 0 and 1, which generators do return, give no infinities."""
    for family in case.families:
        for dtype in (torch.float64, torch.float32):
            theta = torch.linspace(-2, 2, 8, dtype=dtype).reshape(1, 4, 2, *(1,) * len(family.theta_shape))
            theta = theta.expand(64, 4, 2, *family.theta_shape).clone()
            loss, gradient, _ = walk(case, family, theta, Extreme(derive_seed("ends", case.seed)))
            if not (torch.isfinite(gradient).all() and torch.isfinite(loss).all()):
                raise Violation(
                    f"it is NaN or infinite on {family!r} in {str(dtype).removeprefix('torch.')} when a uniform number "
                    "is next to 0 or 1: guard the logarithm or the division that takes it"
                )


def is_silent_where_nothing_varies(case: Case) -> None:
    """A claim to be unbiased means no gradient where a probability is 0 or 1 to rounding: the unit is what it is."""
    same_claim(case)
    found = [f for f in case.families if isinstance(f, Discrete)]
    if not found:
        raise NotApplicable("no law of finitely many values")
    certain = [i for i, t in enumerate(FAR) if abs(t) > 80]  # where p (1 - p) is below 1e-28
    for family in found:
        noise = Rounded(derive_seed("far", case.seed), 24)
        # every unit is certain: where others vary, single draws of unbiased estimators may be away from zero
        theta = _far(family, torch.float64)[:1, certain, :1].expand(RARE, -1, 2, *family.theta_shape).clone()
        loss, gradient, _ = walk(case, family, theta, noise)
        worst = float(gradient.abs().max())
        if worst > 1e-9 * float(loss.abs().max()):
            raise Violation(
                f"it claims to be unbiased and has a gradient of {worst:.2g} at {family!r} units whose probabilities "
                "are 0 and 1: look for probabilities or logits that are clamped on their way to the score"
            )


def is_continuous_at_ties(case: Case) -> None:
    """At theta of 0, 1 and -1 the gradient lies between those just beside, draw by draw.

    Thresholds, clamps and absolute values have their ties there. Numbers that a threshold moves across in so small a
    step are too rare to count: one draw in ten may disagree.
    """
    for family in case.families:
        if isinstance(family, Normal):
            continue
        places = torch.tensor([0.0, 1.0, -1.0], dtype=torch.float64).reshape(1, 3, 1, *(1,) * len(family.theta_shape))
        other = torch.linspace(0, -0.7, max(1, family.theta_shape[0] if family.theta_shape else 1)).double()
        theta = (places + (other if family.theta_shape else 0.0)).expand(64, 3, 2, *family.theta_shape).clone()
        below, at, above = (
            walk(case, family, theta + step, Rounded(derive_seed("ties", case.seed), 24)).gradient
            for step in (-1e-7, 0.0, 1e-7)
        )
        slack = 1e-5 * (1 + below.abs().maximum(above.abs()))
        off = (at < below.minimum(above) - slack) | (at > below.maximum(above) + slack)
        share = off.double().flatten(2).mean((0, 2))
        if (share > 0.1).any():
            where = [float(places.flatten()[i]) for i in (share > 0.1).nonzero()[:, 0]]
            raise Violation(
                f"at theta = {where} on {family!r} its gradient is not between those just beside it, in "
                f"{100 * float(share.max()):.0f} % of the draws: look at the derivative of a threshold, clamp or sign "
                "at its tie"
            )


def takes_one_class(case: Case) -> None:
    """A unit with a single class cannot move the loss: its gradient is finite, and zero if it claims to be unbiased."""
    if not any(isinstance(f, Categorical) for f in case.families):
        raise NotApplicable("not for categorical units")
    family = Categorical(1)
    if case.estimator.refuses(SiteSpec("h1", family, (2,))):
        raise NotApplicable("it refuses units of one class")
    theta = torch.tensor([0.0, 3.0], dtype=torch.float64).reshape(1, 1, 2, 1).expand(64, 1, 2, 1).clone()
    try:
        gradient = walk(case, family, theta, Rounded(derive_seed("one", case.seed), 24)).gradient
    except LabError:
        return
    if not torch.isfinite(gradient).all():
        raise Violation("it is NaN or infinite on units of one class")
    if case.estimator.unbiased and float(gradient.mean(0).abs().max()) > 1e-12:
        raise Violation("units of one class have a gradient, although they cannot change")


def _close(case: Case, narrow: torch.dtype, bits: int, tolerance: float, share: float) -> None:
    name = str(narrow).removeprefix("torch.")
    for family in case.families:
        tail = family.theta_shape
        theta = torch.linspace(-1.5, 1.5, 6, dtype=torch.float64).reshape(1, 3, 2, *(1,) * len(tail))
        theta = (theta + (torch.linspace(0, 0.5, tail[0]).double() if tail else 0.0)).expand(64, 3, 2, *tail)
        theta = theta.to(narrow).double()  # the same numbers in both
        found = []
        for dtype in (torch.float64, narrow):
            noise = Rounded(derive_seed("precision", case.seed), bits)
            try:
                found.append(walk(case, family, theta.to(dtype), noise))
            except (RuntimeError, NotImplementedError) as error:
                if dtype is narrow and ("not implemented for" in str(error) or "not supported" in str(error)):
                    raise NotApplicable(f"torch cannot: {str(error).splitlines()[0]}") from None
                raise
        wide, low = (walked.gradient.double() for walked in found)
        size = float(wide.square().mean().sqrt())
        if not torch.isfinite(low).all():
            raise Violation(f"it is NaN or infinite in {name} on {family!r} at ordinary parameters")
        if found[0].streamed:
            raise NotApplicable("it draws from torch's stream, which has other numbers in every precision")
        off = float(((low - wide).abs() > tolerance * max(size, 1e-12)).double().mean())
        if off > share:
            raise Violation(
                f"in {name} {100 * off:.0f} % of the gradients on {family!r} are off by more than {tolerance:g} of "
                "their root mean square: look for cancellation, or for a constant of another precision"
            )


def is_right_in_single_precision(case: Case) -> None:
    """float32 gives the gradients of float64, to a thousandth of their size, in nine of ten draws at least.

    The others are those that rounding moves across a threshold.
    """
    _close(case, torch.float32, 24, 1e-3, 0.1)


def is_right_in_half_precision(case: Case) -> None:
    """bfloat16 gives the gradients of float64, to a tenth of their size, in three of four draws at least."""
    _close(case, torch.bfloat16, 8, 0.1, 0.25)


EDGES = (
    Check("is finite under saturation", is_finite_under_saturation),
    Check("is silent where nothing varies", is_silent_where_nothing_varies),
    Check("is finite at extreme numbers", is_finite_at_extreme_numbers),
    Check("is continuous at ties", is_continuous_at_ties),
    Check("takes one class", takes_one_class),
    Check("is right in single precision", is_right_in_single_precision),
    Check("is right in half precision", is_right_in_half_precision),
)
