"""What a black box that returns gradients is held to."""

import torch

from estimator_lab.budget import Budget
from estimator_lab.chain import Key
from estimator_lab.conformance.case import Case, Check, NotApplicable, Open, Violation
from estimator_lab.conformance.means import MARGIN, same_claim
from estimator_lab.conformance.state import changes_of
from estimator_lab.conformance.structure import alike
from estimator_lab.noise import MonteCarlo, derive_seed, forked
from estimator_lab.sampler import GradientSampler
from estimator_lab.study import diagnose

COUNT = 256
"""Calls that are compared."""

DRAWS = 2**12
"""Calls whose mean is tested, at most: each is a step of the user's own, and may be slow."""


def _drawn(case: Case, count: int, *names: object) -> dict[Key, torch.Tensor]:
    assert isinstance(case.subject, GradientSampler)
    with forked(derive_seed("sampler", case.seed, *names)):
        return case.subject.draw(count, MonteCarlo("sampler"))


def is_finite(case: Case) -> None:
    """Gradients are finite, and of the same names and shapes in every call."""
    for key, tensor in _drawn(case, 32, "finite").items():
        if not torch.isfinite(tensor).all():
            raise Violation(f"the gradient {key} is NaN or infinite in {int((~torch.isfinite(tensor)).sum())} places")


def can_be_repeated(case: Case) -> None:
    """Equal seeds give equal gradients."""
    first = _drawn(case, 8, "repeat")
    _drawn(case, 3, "other")
    again = _drawn(case, 8, "repeat")
    for key, tensor in first.items():
        if not alike(tensor, again[key]):
            raise Violation(
                f"the gradient {key} changes from call to call on equal seeds: it keeps a state, or has a generator "
                "that no seed reaches"
            )


def touches_no_global_state(case: Case) -> None:
    """Streams, default dtype, grad mode, threads and flags are afterwards what they were before."""
    if changed := changes_of(lambda: _drawn(case, 4, "state")):
        raise Violation(f"drawing changes the process: {', '.join(changed)}")


def has_no_dead_path(case: Case) -> None:
    """No gradient is zero in every call, but where the truth is zero as well."""
    assert isinstance(case.subject, GradientSampler)
    truth = case.subject.truth if isinstance(case.subject.truth, dict) else {}
    for count in (COUNT, 2**12):  # a path that is rarely taken shows in more calls
        silent = {}
        for (kind, name), tensor in _drawn(case, count, "alive").items():
            moves = truth[name] != 0 if kind == "weight" and name in truth else torch.ones_like(tensor[0]) != 0
            silent[name] = (tensor == 0).all(0) & moves
        if not any(map(torch.any, silent.values())):
            return
    name, zero = next((name, zero) for name, zero in silent.items() if zero.any())
    raise Violation(
        f"{int(zero.sum())} of {zero.numel()} gradients of {name!r} are zero in all {count} calls: no path leads there"
    )


def is_unbiased(case: Case) -> None:
    """Its mean is the truth that it brings."""
    assert isinstance(case.subject, GradientSampler)
    same_claim(case)
    if isinstance(case.subject.truth, dict) and not case.subject.truth:
        raise NotApplicable("it brings no truth")
    found = diagnose(
        case.subject,
        seed=case.seed,
        alpha=case.alpha,
        margin=MARGIN,
        budget=Budget(case.draws),
        truth_replicates=2 * case.draws,
    ).findings[0]
    if found.status == "violated":
        raise Violation(found.words[0].lower() + found.words[1:], found.replicates, found.causes)
    if found.status == "inconclusive":
        raise Open(
            f"{found.words} {found.replicates} draws were made, of the {case.draws} that draws (--draws) allows."
        )


SAMPLER = (
    Check("is finite", is_finite),
    Check("touches no global state", touches_no_global_state),
    Check("has no dead path", has_no_dead_path),
    Check("is unbiased", is_unbiased, statistical=True),
)
