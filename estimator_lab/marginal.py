"""Exact gradients of a Markov chain of discrete layers: one layer is summed out after the other."""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.func import vmap

from estimator_lab.chain import Chain, Key
from estimator_lab.errors import TooLarge, in_a_line
from estimator_lab.estimators import Sample
from estimator_lab.families import Family
from estimator_lab.moments import Array
from estimator_lab.noise import derive_seed
from estimator_lab.problem import Problem
from estimator_lab.site import SiteSpec

NUMBERS = 2**21
"""Most states of one layer, times examples."""

PRODUCTS = 2**33
"""Most products of one sum over a layer for every state of the one before: pairs of states times examples."""

LOSSES = 2**24
"""Most losses where they depend on the last two layers: pairs of states times examples."""

CHUNK = 2**21
"""Numbers in a tensor that is made for some of the states at a time."""

PROBES = 64
"""Random samples, besides those with all units alike, at which dependences are looked for."""

Tensors = tuple[Tensor, ...]


def layer_sum(problem: Problem, wrt: tuple[str, ...] = ("unit", "weight")) -> tuple[dict[Key, Array], tuple[int, ...]]:
    """Gradients of the expected loss, and the number of states of each layer that was summed over.

    ``V_l(h_l) = E[V_(l+1)(h_(l+1)) | h_l]``, from the loss V_L back to the expected loss, in float64. The sum over the
    C^n states of a layer, for all states of the one before, is a product of matrices: P(h_(l+1) | h_l) is the outer
    product of the joint probabilities of either half of the units. The gradient goes the same way forward: dJ/dV_l is
    the probability of h_l, and each step is repeated, some states at a time, to be differentiated.

    The chain has to be Markov: theta of a site depends on the sample before it only, and the loss on the last sample
    and the first theta only; or, at a greater cost, on the last two samples, the first theta and the last. This is
    found out by trial: at 64 samples of equally likely states, and those where all units have the same value,
    everything else is replaced, and theta and the loss must not change. A dependence that none of these samples shows
    is not seen.

    Cost: 2^(a + b) products per example for layers of a and b bits, four times; losses that depend on two layers are
    evaluated as often. Memory does not grow with their number, but for one number per state and example.

    Args:
        problem: its sites are discrete.
        wrt: "unit" and/or "weight".

    Raises:
        TooLarge: a layer or a pair of layers has too many states, or the chain is not Markov; says which.
    """
    chain = Chain(problem, Sample(), wrt)
    layers = _Layers(problem, chain)
    count = len(problem.sites)
    with torch.no_grad():
        values: list[Tensor | None] = [None] * count  # V_i [B, states of layer i]
        if not layers.paired:
            values[-1] = torch.cat([layers.losses(a, b) for a, b in layers.chunks(count)]).T
        for i in range(count - 1, 0, -1):
            values[i - 1] = torch.cat([layers.step(i, a, b, values[i]) for a, b in layers.chunks(i)]).T
    total = {id(leaf): torch.zeros_like(leaf) for leaf in layers.leaves}

    def differentiate(out: Tensor, adjoint: Tensor, above: Sequence[Tensor] = ()) -> Sequence[Tensor | None]:
        if not out.requires_grad:
            return [None] * len(above)
        found = torch.autograd.grad(out, [*layers.leaves, *above], adjoint, allow_unused=True)
        for leaf, gradient in zip(layers.leaves, found, strict=False):
            if gradient is not None:
                total[id(leaf)] += gradient
        return found[len(layers.leaves) :]

    with torch.enable_grad():
        adjoint = torch.ones(1, problem.batch, dtype=torch.float64, device=chain.device)
        for i, value in enumerate(values):
            above = [] if value is None else [value.requires_grad_()]
            follow = [torch.zeros_like(v) for v in above]
            for a, b in layers.chunks(i):
                for kept, gradient in zip(
                    follow, differentiate(layers.step(i, a, b, value), adjoint[a:b], above), strict=True
                ):
                    kept += 0 if gradient is None else gradient
            adjoint = follow[0].T if follow else adjoint
        if not layers.paired:
            for a, b in layers.chunks(count):
                differentiate(layers.losses(a, b), adjoint[a:b])
    units = {("unit", s.name): total[id(o)] for s, o in zip(problem.sites, layers.offsets, strict=True)}
    weights = {("weight", k): total[id(w)] / problem.batch for k, w in layers.weights.items()}
    mean = (units if "unit" in wrt else {}) | (weights if "weight" in wrt else {})
    return {k: v.double().cpu().numpy() for k, v in mean.items()}, tuple(layers.sizes)


class _Layers:
    """A problem as functions of the states of single layers.

    Attributes:
        units: number of them in each layer.
        sizes: states of each layer.
        paired: whether the loss depends on the last two samples.
        weights: leaves of the graph.
        offsets: of theta, ``[B, *theta]`` per site; leaves of the graph.
    """

    def __init__(self, problem: Problem, chain: Chain):
        if any(not s.family.discrete for s in problem.sites):
            raise TooLarge(f"{problem!r} has layers without a fixed finite support, which have no states to sum over")
        self.problem, self.batch, self.sites = problem, problem.batch, problem.sites
        self.units = [math.prod(s.units) for s in self.sites]
        self.sizes = [s.family.rule_size(1) ** n for s, n in zip(self.sites, self.units, strict=True)]
        self._refuse(max(self.sizes), NUMBERS, "states of a layer")
        self._like = torch.zeros((), dtype=chain.dtype, device=chain.device)
        self.weights = {k: v.clone().requires_grad_() for k, v in chain.weights.items()}
        self.offsets = [self._like.new_zeros(self.batch, *s.theta_shape).requires_grad_() for s in self.sites]
        self.leaves = [*self.offsets, *self.weights.values()]
        with torch.no_grad():
            self.paired = self._dependences()
        for a, b in list(zip(self.sizes, self.sizes[1:], strict=False))[: -1 if self.paired else None]:
            self._refuse(a * b, PRODUCTS, "pairs of states of adjacent layers")
        if self.paired:
            self._refuse(self.sizes[-2] * self.sizes[-1], LOSSES, "pairs of states that the loss depends on")

    def _refuse(self, count: int, limit: int, what: str) -> None:
        if count * self.batch > limit:
            raise TooLarge(
                f"{self.problem!r} has about 10^{math.log10(count):.1f} {what}, times {self.batch} examples, more than "
                f"the {limit} that are summed over"
            )

    # ------------------------------------------------------------------ who depends on whom
    def _dependences(self) -> bool:
        """Whether the loss depends on the last two samples.

        Raises:
            TooLarge: it depends on more, or a theta does.
        """
        problem, count = self.problem, len(self.sites)
        generator = torch.Generator().manual_seed(derive_seed("dependences", repr(problem)))
        self._filler, *probes = (self._random_states(generator) for _ in range(PROBES + 1))
        probes += [self._equal_states(v) for v in range(max(s.family.rule_size(1) for s in self.sites))]
        self._filler_thetas, *thetas = (self._random_thetas(generator) for _ in range(len(probes) + 1))
        for probe in probes:
            for i in range(2, count):
                alone = problem.theta(self.weights, (*self._filler[: i - 1], probe[i - 1]))
                if not _unmoved(alone, problem.theta(self.weights, probe[:i])):
                    raise TooLarge(
                        f"theta of site {self.sites[i].name!r} of {problem!r} depends on other samples than the one "
                        "before it, so that layers cannot be summed one by one"
                    )
        first = problem.theta(self.weights, ())
        self._check_maps(probes, [(first, *theta[1:]) for theta in thetas])

        def differs(kept: int) -> bool:
            """Whether the loss changes with other things than the first theta, the last samples and their theta."""
            for probe, theta in zip(probes, thetas, strict=True):
                samples = (*self._filler[: count - kept], *probe[count - kept :])
                known = theta[count + 1 - kept :]
                fixed = (first, *self._filler_thetas[1 : count - len(known)], *known)
                whole = problem.loss(self.weights, probe, (first, *theta[1:]))
                if not _unmoved(whole, problem.loss(self.weights, samples, fixed)):
                    return True
            return False

        if count == 1 or not differs(1):
            return False
        if differs(2):
            raise TooLarge(
                f"the loss of {problem!r} depends on more than the last two samples, the first theta and the last, "
                "so that layers cannot be summed one by one"
            )
        return True

    def _check_maps(self, probes: list[Tensors], thetas: list[Tensors]) -> None:
        """Requires the problem to give the same values for many samples at once as for each alone."""
        samples, known = (tuple(torch.stack(t) for t in zip(*rows, strict=True)) for rows in (probes, thetas))
        calls: list[tuple[Callable[..., Tensor], tuple[Tensors, ...]]] = [(self.problem.loss, (samples, known))]
        calls += [(self.problem.theta, (samples[:i],)) for i in range(1, len(samples))]
        for function, groups in calls:
            rows = [tuple(tuple(t[n] for t in group) for group in groups) for n in range(len(probes))]
            alone = torch.stack([function(self.weights, *row) for row in rows])
            try:
                agree, reason = _close(self._map(function, *groups), alone), "other values than one at a time"
            except Exception as error:  # whatever a user's function raises when it is mapped
                agree, reason = False, in_a_line(error)
            if not agree:
                raise TooLarge(f"{self.problem!r} cannot be evaluated at many states at once ({reason})")

    def _random_states(self, generator: torch.Generator) -> Tensors:
        """A sample of every layer ``[B, *value]``, all values of a unit being equally likely."""
        sizes = [s.family.rule_size(1) for s in self.sites]
        index = [
            torch.randint(n, (self.batch * units,), generator=generator)
            for n, units in zip(sizes, self.units, strict=True)
        ]
        return tuple(
            self._support(s)[i].reshape(self.batch, *s.value_shape) for s, i in zip(self.sites, index, strict=True)
        )

    def _equal_states(self, value: int) -> Tensors:
        """A sample of every layer in which all units have the same value, by its number."""
        found = (self._support(s) for s in self.sites)
        return tuple(
            support[min(value, len(support) - 1)].expand(self.batch, *s.units, *s.family.value_shape)
            for s, support in zip(self.sites, found, strict=True)
        )

    def _random_thetas(self, generator: torch.Generator) -> Tensors:
        return tuple(
            2 * torch.randn(self.batch, *s.theta_shape, generator=generator).to(self._like) for s in self.sites
        )

    # ------------------------------------------------------------------ states
    def _support(self, spec: SiteSpec) -> Tensor:
        """The values of one unit ``[C, *value]``."""
        values, _ = spec.family.rule(self._like.new_zeros(1, *spec.family.theta_shape), 1)
        return values[:, 0]

    def _states(self, site: int, start: int, stop: int) -> Tensor:
        """Values of a layer ``[n, B, *value]``, the first unit being the slowest digit."""
        spec = self.sites[site]
        support = self._support(spec)
        place = len(support) ** torch.arange(self.units[site] - 1, -1, -1, device=support.device)
        index = torch.arange(start, stop, device=support.device)[:, None] // place % len(support)
        value = support[index].reshape(-1, 1, *spec.value_shape)
        return value.expand(-1, self.batch, *spec.value_shape)

    def chunks(self, step: int) -> Iterator[tuple[int, int]]:
        """Ranges of the states of the layer before a step, few enough at a time."""
        total = self.sizes[step - 1] if step else 1
        # a guess at what the problem itself makes for one row: its widest layer is as wide as a weight is long
        width = sum(math.prod(s.theta_shape) for s in self.sites[max(step - 1, 0) : step + 1])
        width += max(max(w.shape, default=1) for w in self.weights.values())
        if step < len(self.sites):
            half = (self.units[step] + 1) // 2
            width += 2 * self.sites[step].family.rule_size(1) ** half
            if self.paired and step == len(self.sites) - 1:
                width *= self.sizes[step]
        rows = max(CHUNK // (width * self.batch), 1)
        for start in range(0, total, rows):
            yield start, min(total, start + rows)

    # ------------------------------------------------------------------ the problem, at many states
    def _map(self, function: Callable[..., Tensor], *groups: Tensors) -> Tensor:
        """A function of the problem at rows ``[n, B, ...]`` of its arguments."""
        rows = len(groups[0][0])
        if self.problem.foldable:
            out = function(self.weights, *(tuple(t.flatten(0, 1) for t in group) for group in groups))
            return out.reshape(rows, self.batch, *out.shape[1:])
        mapped: Tensor = vmap(lambda *g: function(self.weights, *g))(*groups)
        return mapped

    def _first(self) -> Tensor:
        return self.problem.theta(self.weights, ()) + self.offsets[0]

    def _theta(self, site: int, before: Tensor | None) -> Tensor:
        """Theta of a site ``[n, B, *theta]`` at values of the layer before it ``[n, B, *value]``."""
        if before is None:
            return self._first()[None]
        earlier = (t.expand(len(before), *t.shape) for t in self._filler[: site - 1])
        return self._map(self.problem.theta, (*earlier, before)) + self.offsets[site]

    def _loss(self, last: Tensor, before: Tensor | None, theta: Tensor | None) -> Tensor:
        """Losses ``[n, B]`` at values of the last layer, and of the one before with the theta that it gives."""
        count, site = len(last), len(self.sites) - 1

        def rows(tensors: Sequence[Tensor]) -> Tensors:
            return tuple(t.expand(count, *t.shape) for t in tensors)

        samples, thetas = rows(self._filler[:site]), rows([self._first(), *self._filler_thetas[1:]])
        if before is not None and theta is not None:
            samples, thetas = (*samples[:-1], before), (*thetas[:-1], theta)
        return self._map(self.problem.loss, (*samples, last), thetas)

    # ------------------------------------------------------------------ one step of the sum
    def losses(self, start: int, stop: int) -> Tensor:
        """V of the last layer ``[n, B]`` at some of its states."""
        return self._loss(self._states(len(self.sites) - 1, start, stop), None, None).double()

    def step(self, site: int, start: int, stop: int, above: Tensor | None) -> Tensor:
        """The sum over a layer ``[n, B]`` for some states of the one before.

        Args:
            site: whose states are summed over.
            start: first state of the layer before it; the first site has one state before it.
            stop: one past the last.
            above: V of the layer that is summed over ``[B, states]``; None where it is the loss itself.
        """
        before = self._states(site - 1, start, stop) if site else None
        theta = self._theta(site, before)
        if above is None:
            size = self.sizes[site]
            assert before is not None, "a loss of two layers has a layer before the last"
            pairs = [t.repeat_interleave(size, 0) for t in (before, theta)]
            last = self._states(site, 0, size)
            last = last.repeat(len(before), *(1,) * (last.dim() - 1))
            above = self._loss(last, *pairs).double().unflatten(0, (-1, size)).movedim(1, 2)
        return _expected(self.sites[site].family, theta, above)


def _unmoved(a: Tensor, b: Tensor) -> bool:
    """Whether the same function gave the same values at other arguments, but for the order of its sums.

    A number that is not finite shows nothing: no is the safe answer.
    """
    return bool(((a - b).abs() <= 16 * torch.finfo(a.dtype).eps * a.abs().max()).all())


def _close(a: Tensor, b: Tensor) -> bool:
    """Whether two ways to compute the same thing agree."""
    eps = torch.finfo(a.dtype).eps
    return torch.allclose(a, b, rtol=1e4 * eps, atol=1e2 * eps, equal_nan=True)


def _expected(family: Family, theta: Tensor, above: Tensor) -> Tensor:
    """``sum_s P(s | theta) above[s]`` ``[n, B]``, for theta ``[n, B, *theta]`` and numbers ``[B, states]`` or per row.

    Args:
        family: of every unit.
        theta: of a layer.
        above: ``[B, states]`` or ``[n, B, states]``.
    """
    weight = family.rule(theta, 1)[1].flatten(3).movedim(0, -1).double()  # [n, B, units, C]
    half = weight.shape[2] // 2
    slow, fast = _joint(weight[:, :, :half]), _joint(weight[:, :, half:])
    # probabilities sum to one, so that a number taken off all values need not cancel in the gradient
    middle = above.detach().mean(-1)
    table = (above - middle[..., None]).unflatten(-1, (slow.shape[-1], fast.shape[-1]))
    kind = "nbs,bsf->nbf" if above.dim() == 2 else "nbs,nbsf->nbf"
    return (torch.einsum(kind, slow, table) * fast).sum(-1) + middle


def _joint(weight: Tensor) -> Tensor:
    """Joint probabilities ``[n, B, C^units]`` of independent units ``[n, B, units, C]``, the first the slowest."""
    joint = weight.new_ones(*weight.shape[:2], 1)
    for unit in range(weight.shape[2]):
        joint = (joint[..., None] * weight[:, :, unit, None]).flatten(2)
    return joint
