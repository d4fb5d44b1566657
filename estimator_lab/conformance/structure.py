"""What a surrogate is: its shapes, its value, its paths to what is trained."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from estimator_lab.chain import Chain
from estimator_lab.conformance.case import Case, Check, Violation
from estimator_lab.conformance.points import Point, layers
from estimator_lab.conformance.walk import walk
from estimator_lab.estimator import Downstream, Estimator
from estimator_lab.families import Family
from estimator_lab.noise import MonteCarlo, derive_seed, forked
from estimator_lab.problem import Problem
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
    """Whether draws take random numbers: from the lab's source, torch's stream, or a generator that no seed reaches."""
    noise = MonteCarlo("random")
    with forked(derive_seed("random")):
        before = torch.get_rng_state()
        found = chain.draw(4, noise)
        return (
            noise.used
            or not torch.equal(before, torch.get_rng_state())
            or any(not alike(tensor[0], other) for tensor in found.values() for other in tensor[1:])
        )


def alike(a: Tensor, b: Tensor) -> bool:
    """Equal but for rounding, to a millionth of the largest: a part may well compute in single precision."""
    if a.shape != b.shape:
        return False
    size = float(a.nan_to_num(0, 0, 0).abs().max()) if a.numel() else 0.0
    return torch.allclose(a, b, rtol=0, atol=1e-6 * max(1.0, size), equal_nan=True)


def has_the_right_shapes(case: Case) -> None:
    """Draws are shaped like what is differentiated and finite, for 1, 2 and 3 examples and for 1 and 5 replicates."""
    for family in case.families:
        for batch in (1, 2, 3) if family is case.families[0] else (2,):
            problem = network(family, batch)
            chain, count = case.chain(problem), 1 if batch == 2 else 5
            found = drawn(chain, count, "shapes", case.seed)  # the chain expects shapes and dtypes at every site
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


@dataclass(frozen=True)
class Call:
    """What an estimator did at a site.

    Attributes:
        site: its name.
        passed: values that it passed on.
        returned: losses that came back.
        surrogate: what it returned.
        changed: what of all that, or of theta, it changed in place; empty: nothing.
    """

    site: str
    passed: tuple[Tensor, ...]
    returned: tuple[Tensor, ...]
    surrogate: Tensor
    changed: str


class Spy(Estimator):
    """Runs an estimator and keeps what it passes on, what comes back, and what it returns."""

    def __init__(self, inner: Estimator):
        self.inner, self.paths, self.families = inner, inner.paths, inner.families
        self.calls: list[Call] = []

    def refuses(self, site: SiteSpec) -> str:
        """What the estimator refuses."""
        return self.inner.refuses(site)

    def surrogate(self, site: Site, downstream: Downstream) -> Tensor:
        """The estimator's own."""
        given = [("theta", site.theta.detach(), site.theta.detach().clone())]

        def kept(what: str, tensor: Tensor) -> None:
            given.append((what, tensor.detach(), tensor.detach().clone()))

        def spied(value: Tensor, using: Estimator | None = None) -> Tensor:
            kept("a value that it passed on", value)
            loss = downstream(value, using=using)
            kept("a loss that came back", loss)
            return loss

        mine = self.inner.surrogate(site, spied)
        if isinstance(mine, Tensor):
            changed = next((what for what, now, then in given if not _equal(now, then)), "")
            passed, returned = tuple(c for _, _, c in given[1::2]), tuple(c for _, _, c in given[2::2])
            self.calls.append(Call(site.name, passed, returned, mine.detach().clone(), changed))
        return mine

    def __repr__(self) -> str:
        return repr(self.inner)


def calls(case: Case, problem: Problem, replicates: int) -> list[Call]:
    """What the estimator does at the sites of a problem."""
    spy = Spy(case.ready(problem))
    with forked(derive_seed("stream", "spy", case.seed)):
        Chain(problem, spy).value(MonteCarlo("spy", case.seed), replicates)
    return spy.calls


def _equal(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.nan_to_num(), b.nan_to_num()) and torch.equal(a.isnan(), b.isnan())


def value_is_the_loss(case: Case) -> None:
    """The surrogate's value is the loss that came back; where several did, it is none of more or less than they are."""
    for family in case.families:
        for call in calls(case, network(family, 2), 4):
            if not call.returned:
                continue
            losses = torch.cat([loss.reshape(-1, *call.surrogate.shape) for loss in call.returned])
            low, high = losses.amin(0), losses.amax(0)
            nearest = call.surrogate.clamp(low, high)
            if not alike(nearest, call.surrogate):
                gap = float((nearest - call.surrogate).abs().max())
                raise Violation(
                    f"the surrogate's value is not the loss that downstream returned at site {call.site!r} (off by up "
                    f"to {gap:.2g}): add terms of value zero, such as site.score and site.inject give"
                )


def has_no_dead_path(case: Case) -> None:
    """Weights that feed the loss get a gradient, and so does every unit that has one."""
    for family in case.families:
        problem = network(family, 2)
        chain = case.chain(problem)
        counts = (2**9, 2**14) if draws_numbers(chain) else (2,)
        for count in counts:  # a path that is rarely taken shows in more draws
            found = drawn(chain, count, "alive", case.seed)
            silent = {s.name: (found["unit", s.name] == 0).all(0).flatten() for s in problem.sites}
            if not any(map(torch.any, silent.values())):
                break
        if ("weight", "v") in chain.dead:
            raise Violation(
                f"the weights after the last site get no gradient on {problem.label}: return what downstream returned, "
                "in the graph, plus terms of value zero"
            )
        for name, zero in silent.items():
            if zero.any():
                why = "no path leads to theta" if ("unit", name) in chain.dead else "what reaches theta is zero"
                raise Violation(
                    f"{int(zero.sum())} of {zero.numel()} unit gradients of site {name!r} are zero in all "
                    f"{count} draws on {problem.label}: {why} there"
                )


def takes_a_loss_without_gradient(case: Case) -> None:
    """A loss that hears no unit and is no part of the graph, of value one and zero."""
    for family in case.families:
        theta = 0.3 + torch.zeros(64, 2, 2, *family.theta_shape, dtype=torch.float64)
        for flat in (1.0, 0.0):
            if not torch.isfinite(walk(case, family, theta, MonteCarlo("flat", case.seed), flat=flat).gradient).all():
                raise Violation(f"at a constant loss of {flat:g} on {family!r} its gradient is not finite")


def takes_an_evaluation_without_graph(case: Case) -> None:
    """Under ``torch.no_grad``, as where others evaluate the rest of a network, its value is the same."""
    for family in case.families:
        theta = torch.linspace(-1, 0.8, 4, dtype=torch.float64).reshape(2, 2, *(1,) * len(family.theta_shape))
        theta = theta.expand(4, 2, 2, *family.theta_shape)
        with_graph, without = (
            walk(case, family, theta, MonteCarlo("graph", case.seed), graph=graph).surrogate for graph in (True, False)
        )
        if not alike(with_graph, without):
            raise Violation(f"under torch.no_grad() the value of its surrogate on {family!r} is another")


STRUCTURE = (
    Check("value is the loss", value_is_the_loss),
    Check("has no dead path", has_no_dead_path),
    Check("takes a loss without gradient", takes_a_loss_without_gradient),
    Check("takes an evaluation without graph", takes_an_evaluation_without_graph),
)
