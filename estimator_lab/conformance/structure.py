"""What a surrogate is: shapes, values, replicates, examples, state."""

import copy
import random
import warnings
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from estimator_lab.chain import Chain
from estimator_lab.conformance.case import Case, Check, NotApplicable, Violation
from estimator_lab.conformance.points import Point, layers
from estimator_lab.conformance.walk import walk
from estimator_lab.errors import LabError
from estimator_lab.estimator import Downstream, Estimator
from estimator_lab.families import Family, Normal
from estimator_lab.noise import MonteCarlo, derive_seed, forked
from estimator_lab.site import Site, SiteSpec

Draws = dict[tuple[str, str], Tensor]


@lru_cache
def network(family: Family, batch: int) -> Point:
    """Two layers and a few examples; of one unit each where the law is continuous, for those that integrate."""
    return layers(family, (2, 2) if family.discrete else (1, 1), (1.0, -0.6, 0.3)[:batch], "a small network")


def drawn(chain: Chain, replicates: int, *names: object, offsets: dict[str, Tensor] | None = None) -> Draws:
    """Draws on a seed, as a measurement makes them."""
    with forked(derive_seed("stream", *names)):  # not the seed of the source: their numbers would be the same
        return chain.draw(replicates, MonteCarlo(*names), offsets)


def draws_numbers(chain: Chain) -> bool:
    """Whether draws take random numbers, from the lab's source or from torch's stream."""
    noise = MonteCarlo("random")
    with forked(derive_seed("random")):
        before = torch.get_rng_state()
        chain.draw(2, noise)
        return noise.used or not torch.equal(before, torch.get_rng_state())


def alike(a: Tensor, b: Tensor, factor: float = 1e3) -> bool:
    """Equal but for rounding."""
    if a.shape != b.shape:
        return False
    size = float(a.nan_to_num(0, 0, 0).abs().max()) if a.numel() else 0.0
    return torch.allclose(a, b, rtol=0, atol=factor * torch.finfo(a.dtype).eps * max(1.0, size), equal_nan=True)


def says_what_it_is(case: Case) -> None:
    """The repr tells the method: not an address, not the history of calls; the claim is True, False or None."""
    e = case.estimator
    name = repr(e)
    if " object at 0x" in name or " at 0x" in name:
        raise Violation(f"its repr holds an address, {name}: write __repr__, or make it a frozen dataclass")
    if e.unbiased not in (True, False, None):
        raise Violation(f"unbiased is True, False or None; found {e.unbiased!r}")
    if not (isinstance(e.paths, int) and e.paths >= 1):
        raise Violation(f"paths is an integer, at least 1; found {e.paths!r}")
    if repr(copy.copy(e)) != name:
        raise Violation(f"its copy has another repr: {name} and {copy.copy(e)!r}")
    drawn(case.chain(network(case.families[0], 2)), 3, "repr", case.seed)
    if repr(e) != name:
        raise Violation(f"its repr changes as it draws, from {name} to {e!r}: equal reprs mean equal methods")


def has_the_right_shapes(case: Case) -> None:
    """Draws are shaped like what is differentiated and finite, for 1, 2 and 3 examples and for 1 and 5 replicates."""
    for family in case.families[:3]:
        for batch in (1, 2, 3) if family is case.families[0] else (2,):
            problem = network(family, batch)
            chain, count = case.chain(problem), 1 if batch == 2 else 5
            found = drawn(chain, count, "shapes", case.seed)
            expected = {("unit", s.name): (count, batch, *s.theta_shape) for s in problem.sites}
            expected |= {("weight", k): (count, *w.shape) for k, w in problem.weights().items()}
            for key, shape in expected.items():
                if tuple(found[key].shape) != shape:
                    raise Violation(f"the gradient {key} has shape {list(found[key].shape)}, expected {list(shape)}")
                if not torch.isfinite(found[key]).all():
                    raise Violation(
                        f"the gradient {key} is not finite on {problem.label} with {batch} examples and "
                        f"{count} replicates"
                    )


class Spy(Estimator):
    """Runs an estimator and keeps what it passes on, what comes back, and what it returns."""

    def __init__(self, inner: Estimator):
        self.inner, self.paths, self.families = inner, inner.paths, inner.families
        self.values: dict[str, list[Tensor]] = {}
        self.returned: dict[str, list[Tensor]] = {}
        self.surrogates: dict[str, Tensor] = {}

    def refuses(self, site: SiteSpec) -> str:
        """What the estimator refuses."""
        return self.inner.refuses(site)

    def surrogate(self, site: Site, downstream: Downstream) -> Tensor:
        """The estimator's own."""
        values, returned = self.values.setdefault(site.name, []), self.returned.setdefault(site.name, [])

        def spied(value: Tensor, using: Estimator | None = None) -> Tensor:
            if using is not None:
                return downstream(value, using=using)
            values.append(value.detach())
            returned.append(downstream(value))
            return returned[-1]

        mine = self.inner.surrogate(site, spied)
        self.surrogates[site.name] = mine.detach()
        return mine


def value_is_the_loss(case: Case) -> None:
    """Where an estimator walks on once, from one value, its surrogate's value is the loss that comes back."""
    seen = 0
    for family in case.families[:3]:
        problem = network(family, 2)
        spy = Spy(case.ready(problem))
        with forked(derive_seed("stream", "spy", case.seed)):
            Chain(problem, spy).value(MonteCarlo("spy", case.seed), 4)
        for name, mine in spy.surrogates.items():
            losses = spy.returned[name]
            if len(losses) != 1 or losses[0].shape != mine.shape:
                continue
            seen += 1
            if not alike(losses[0].detach(), mine):
                gap = float((losses[0].detach() - mine).abs().max())
                raise Violation(
                    f"the surrogate's value is not the loss that downstream returned at site {name!r} (off by up to "
                    f"{gap:.2g}): add terms of value zero, such as site.score and site.inject give"
                )
    if not seen:
        raise NotApplicable("it runs the rest of the network on several values at once")


def can_be_repeated(case: Case) -> None:
    """Equal seeds give equal draws, whatever was drawn before, here or elsewhere."""
    chain = case.chain(network(case.families[0], 2))
    first = drawn(chain, 6, "repeat", case.seed)
    drawn(chain, 5, "other", case.seed)
    drawn(case.chain(network(case.families[0], 1)), 5, "another", case.seed)
    again = drawn(chain, 6, "repeat", case.seed)
    for key, tensor in first.items():
        if not alike(tensor, again[key]):
            raise Violation(
                f"the gradient {key} changes from call to call on equal seeds: it keeps a state, or draws from a "
                "stream that no seed reaches; take random numbers from site, and fit constants in adapt"
            )


def replicates_do_not_mix(case: Case) -> None:
    """One replicate stays as it is when the parameters of the others move."""
    for family in case.families[:3]:
        case.chain(network(family, 2)).check_mixing()


def examples_do_not_mix(case: Case) -> None:
    """One example's gradient stays as it is when the parameters of the others move."""
    for family in case.families[:3]:
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


def touches_no_global_state(case: Case) -> None:
    """Streams, default dtype, grad mode, threads and flags are after a draw what they were before.

    With either default dtype: one that was set before, by an earlier draw, would not show.
    """
    kept = torch.get_default_dtype()
    changed: list[str] = []
    try:
        for dtype in (torch.float32, torch.float64):
            torch.set_default_dtype(dtype)
            before = process_state()
            drawn(case.chain(network(case.families[0], 2)), 4, "state", case.seed)
            changed += [name for name, value in process_state().items() if value != before[name]]
    finally:
        torch.set_default_dtype(kept)
    if changed:
        names = ", ".join(dict.fromkeys(changed))
        raise Violation(f"drawing changes the process: {names}; draw from site, and set nothing global")


def process_state() -> dict[str, object]:
    """What is global, by name, to be compared."""
    kept: dict[str, Callable[[], object]] = {
        "torch's random stream": lambda: torch.get_rng_state().numpy().tobytes(),
        "torch's default dtype": torch.get_default_dtype,
        "torch's grad mode": torch.is_grad_enabled,
        "torch's threads": torch.get_num_threads,
        "torch's deterministic flag": torch.are_deterministic_algorithms_enabled,
        "torch's anomaly detection": torch.is_anomaly_enabled,
        "Python's random stream": random.getstate,
        "NumPy's random stream": lambda: str(np.random.get_state()),
        "NumPy's error state": np.geterr,
    }
    return {name: read() for name, read in kept.items()}


def has_no_dead_path(case: Case) -> None:
    """Weights that feed the loss get a gradient, and so does every unit that has one."""
    for family in case.families[:3]:
        problem = network(family, 2)
        chain = case.chain(problem)
        count = 512 if draws_numbers(chain) else 2
        found = drawn(chain, count, "alive", case.seed)
        if ("weight", "v") in chain.dead:
            raise Violation(
                f"the weights after the last site get no gradient on {problem.label}: return what downstream returned, "
                "in the graph, plus terms of value zero"
            )
        for site in problem.sites:
            silent = (found["unit", site.name] == 0).all(0).flatten()
            if silent.any():
                raise Violation(
                    f"{int(silent.sum())} of {silent.numel()} unit gradients of site {site.name!r} are zero in all "
                    f"{count} draws on {problem.label}: no path leads to theta there"
                )


def takes_prepended_axes(case: Case) -> None:
    """Axes that others prepend, as by a sum over the states of an earlier layer: each entry is an estimate of its own.

    One entry stays as it is when the parameters of the others move; one alone is no special case.
    """
    for family in case.families[:3]:
        still = torch.full((3, 4, 2, 2, *family.theta_shape), 0.2, dtype=torch.float64)
        moved = still.clone()
        moved[1:] += 0.3 * torch.arange(1, 1 + moved[1:].numel(), dtype=moved.dtype).sin().reshape(moved[1:].shape)
        found = []
        for theta in (still, moved, still[:1]):
            with forked(derive_seed("stream", "prepended", case.seed)):
                surrogate, gradient = walk(case.estimator, family, theta, MonteCarlo("prepended", case.seed))
            expected = (len(theta), case.estimator.paths, 4, 2)
            if tuple(surrogate.shape) != expected or not torch.isfinite(gradient).all():
                raise Violation(
                    f"with an axis of {len(theta)} prepended the surrogate on {family!r} has shape "
                    f"{list(surrogate.shape)}, expected {list(expected)}, all finite"
                )
            found.append(gradient)
        if not alike(found[0][0], found[1][0]):
            raise Violation(
                f"it mixes the entries of an axis that others prepend, on {family!r}: count axes from the end, paths "
                "are -3"
            )


def takes_an_empty_batch(case: Case) -> None:
    """No examples: the surrogate is ``[K, R, 0]`` and the gradient as empty; or one clear error."""
    for family in case.families[:3]:
        theta = torch.zeros(3, 0, 2, *family.theta_shape, dtype=torch.float64)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of means of nothing
                surrogate, gradient = walk(case.estimator, family, theta, MonteCarlo("empty"))
        except LabError:
            return
        expected = (case.estimator.paths, 3, 0)
        if tuple(surrogate.shape) != expected or gradient.shape != theta.shape:
            raise Violation(
                f"without examples the surrogate has shape {list(surrogate.shape)}, expected {list(expected)}"
            )


def takes_a_loss_without_gradient(case: Case) -> None:
    """A loss that hears no unit, and one that is no part of the graph: finite, of the right shape."""
    for family in case.families[:3]:
        theta = 0.3 + torch.zeros(64, 2, 2, *family.theta_shape, dtype=torch.float64)
        _, gradient = walk(case.estimator, family, theta, MonteCarlo("flat", case.seed), constant=True)
        if gradient.shape != theta.shape or not torch.isfinite(gradient).all():
            raise Violation(f"at a constant loss on {family!r} its gradient is not finite")


STRUCTURE = (
    Check("touches no global state", "", touches_no_global_state),
    Check("says what it is", "", says_what_it_is),
    Check("has the right shapes", "", has_the_right_shapes),
    Check("value is the loss", "one walk", value_is_the_loss),
    Check("can be repeated", "", can_be_repeated),
    Check("replicates do not mix", "", replicates_do_not_mix),
    Check("examples do not mix", "", examples_do_not_mix),
    Check("has no dead path", "", has_no_dead_path),
    Check("takes prepended axes", "", takes_prepended_axes),
    Check("takes an empty batch", "", takes_an_empty_batch),
    Check("takes a loss without gradient", "", takes_a_loss_without_gradient),
)
