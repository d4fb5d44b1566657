"""The axes that draws are spread over: paths, replicates, examples, units, and those that others prepend."""

import inspect
import warnings

import torch

from estimator_lab.conformance.case import Case, Check, NotApplicable, Violation
from estimator_lab.conformance.structure import alike, drawn, network
from estimator_lab.conformance.walk import Window, walk
from estimator_lab.errors import LabError, TooLarge
from estimator_lab.estimators import Callback, DropIn
from estimator_lab.families import Normal
from estimator_lab.noise import MonteCarlo
from estimator_lab.site import SiteSpec


def replicates_do_not_mix(case: Case) -> None:
    """One replicate stays as it is when the parameters of the others move."""
    for family in case.families:
        case.chain(network(family, 2)).check_mixing()


def examples_do_not_mix(case: Case) -> None:
    """One example's gradient stays as it is when the parameters of the others move."""
    for family in case.families:
        problem = network(family, 2)
        chain, count = case.chain(problem, ("unit",)), 8
        still = {s.name: torch.zeros(count, 2, *s.theta_shape, dtype=chain.dtype) for s in problem.sites}
        moved = {name: t.clone() for name, t in still.items()}
        for t in moved.values():
            move = torch.arange(1, 1 + t[:, 1:].numel(), dtype=t.dtype).sin().reshape(t[:, 1:].shape)
            t[:, 1:] = (0.5 if isinstance(family, Normal) else 3.0) * move
        before, after = (drawn(chain, count, "examples", case.seed, offsets=o) for o in (still, moved))
        for key, tensor in before.items():
            if not alike(tensor[:, 0], after[key][:, 0]):
                raise Violation(
                    f"it mixes examples on {problem.label}: the gradient {key} of one example changes when the "
                    "parameters of others do; reduce over the path axis -3, never over the batch axis -1"
                )


def is_the_same_in_any_block(case: Case) -> None:
    """A replicate and an example have the gradient that they have alone, on the same random numbers."""
    whole, everything = (6, 3), slice(None)
    for family in case.families:
        tail = family.theta_shape
        theta = torch.linspace(-1, 0.8, 6, dtype=torch.float64).reshape(1, 3, 2, *(1,) * len(tail))
        theta = theta.expand(*whole, 2, *tail).contiguous()
        _, expected, streamed = walk(case, family, theta, MonteCarlo("block", case.seed))
        if streamed:
            raise NotApplicable("it draws from torch's stream, which gives other numbers to other shapes")
        for what, part in (
            ("replicate", (slice(0, 1), everything)),
            ("replicate", (slice(1, 6), everything)),
            ("example", (everything, slice(0, 1))),
            ("example", (everything, slice(1, 3))),
        ):
            noise = Window(MonteCarlo("block", case.seed), whole, part)
            if not alike(expected[part], walk(case, family, theta[part], noise).gradient):
                raise Violation(
                    f"the gradient of one {what} on {family!r} depends on how many are drawn together: neither divide "
                    f"by their number nor make the random numbers of one {what} from those of others"
                )


def takes_prepended_axes(case: Case) -> None:
    """Axes that others prepend, as by a sum over the states of an earlier layer: each entry is an estimate of its own.

    One entry stays as it is when the parameters of the others move; one alone is no special case.
    """
    for family in case.families:
        still = torch.full((3, 4, 2, 2, *family.theta_shape), 0.2, dtype=torch.float64)
        moved = still.clone()
        moved[1:] += 0.3 * torch.arange(1, 1 + moved[1:].numel(), dtype=moved.dtype).sin().reshape(moved[1:].shape)
        before, after, _ = (
            walk(case, family, theta, MonteCarlo("prepended", case.seed)).gradient
            for theta in (still, moved, still[:1])
        )
        if not alike(before[0], after[0]):
            raise Violation(
                f"it mixes the entries of an axis that others prepend, on {family!r}: count axes from the end, paths "
                "are -3"
            )


def takes_several_axes_of_units(case: Case) -> None:
    """A layer of 2 x 3 units has the gradients of the same six units in a row.

    A function at the doors `DropIn` and `Callback` may be written for one axis and raise; it may not be wrong.
    """
    for family in case.families:
        tail = family.theta_shape
        theta = torch.linspace(-1, 0.8, 6, dtype=torch.float64).reshape(6, *(1,) * len(tail))
        theta = theta.expand(4, 2, 6, *tail).contiguous()
        row, grid = theta, theta.unflatten(2, (2, 3))
        if told := case.estimator.refuses(SiteSpec("h1", family, (2, 3))):
            raise NotApplicable(told)
        try:
            expected = walk(case, family, row, MonteCarlo("units", case.seed)).gradient
        except TooLarge:
            continue
        try:
            found = walk(case, family, grid, MonteCarlo("units", case.seed), axes=2).gradient
        except Exception as error:
            if isinstance(case.estimator, DropIn | Callback):
                raise NotApplicable(f"the function is written for one axis of units: {error}") from None
            raise
        if not alike(expected, found.flatten(2, 3)):
            raise Violation(
                f"a layer of 2 x 3 {family!r} units, as of a convolution, has other gradients than the same six units "
                "in a row: sum over all axes from site.lead on"
            )


def takes_an_empty_batch(case: Case) -> None:
    """No examples: the surrogate is ``[K, R, 0]``, and what is drawn next is what it would have been; or an error."""
    for family in case.families:
        other = case.fresh()
        theta = torch.zeros(3, 0, 2, *family.theta_shape, dtype=torch.float64)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of means of nothing
                walk(case, family, theta, MonteCarlo("empty"))
        except LabError:
            return
        theta = torch.full((4, 2, 2, *family.theta_shape), 0.2, dtype=torch.float64)
        before, after = (walk(c, family, theta, MonteCarlo("empty", case.seed)).gradient for c in (other, case))
        if torch.isfinite(before).all() and not torch.isfinite(after).all():
            raise Violation(
                "after a batch without examples its gradients are NaN: a mean of nothing stays in its state"
            )
        if other.estimator is not case.estimator and not alike(before, after):
            raise Violation("a batch without examples changes the gradients of those after it: it keeps a state")


def takes_one_path(case: Case) -> None:
    """With ``paths=1``, where its class takes that, the gradient is finite; or that number is refused."""
    kind = type(case.estimator)
    own = [
        p.name for p in inspect.signature(kind).parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if "paths" not in own:
        raise NotApplicable(f"its number of paths is fixed: {kind.__name__}(...) takes no argument paths")
    if lacking := [name for name in own if not hasattr(case.estimator, name)]:
        raise NotApplicable(f"it cannot be made again with paths=1: it has no attribute {lacking[0]!r}, which it takes")
    arguments = {name: getattr(case.estimator, name) for name in own}
    try:
        one = kind(**(arguments | {"paths": 1}))
    except Exception:  # whatever the class raises, it refuses
        return
    family = case.families[0]
    theta = torch.full((4, 2, 2, *family.theta_shape), 0.2, dtype=torch.float64)
    if not torch.isfinite(walk(case.other(one), family, theta, MonteCarlo("path", case.seed)).gradient).all():
        raise Violation("with paths=1 it is NaN or infinite: take it, or raise an error that says what it needs")


AXES = (
    Check("replicates do not mix", replicates_do_not_mix),
    Check("examples do not mix", examples_do_not_mix),
    Check("is the same in any block", is_the_same_in_any_block),
    Check("takes prepended axes", takes_prepended_axes),
    Check("takes several axes of units", takes_several_axes_of_units),
    Check("takes an empty batch", takes_an_empty_batch),
    Check("takes one path", takes_one_path),
)
