"""The walk through the sites: the only place that knows the replicate axis, vmap and autograd."""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from copy import copy
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap

from estimator_lab.errors import MeasurementError, UsageError
from estimator_lab.estimator import Estimator
from estimator_lab.estimators.per_site import PerSite
from estimator_lab.noise import MonteCarlo, Noise, derive_seed, forked
from estimator_lab.problem import Problem
from estimator_lab.site import Site
from estimator_lab.taps import Taps

Key = tuple[str, str]
"""``("unit", site)``, ``("weight", name)``, or ``("layer", site)`` for the weights that feed a site."""

PROBES = 8
"""Samples that are walked through a problem before it is measured."""

Weights = Mapping[str, Tensor]
Tensors = tuple[Tensor, ...]
Step = Callable[..., Tensors]


@dataclass
class Tally:
    """What one replicate costs.

    Attributes:
        losses: evaluations of the loss.
        backwards: evaluations of the loss that are differentiated.
    """

    losses: float = 0.0
    backwards: float = 0.0


@dataclass(frozen=True)
class _Walk:
    """What stays the same from the first site to the loss.

    A closure that calls itself would do as well, but as a reference cycle it keeps the tensors of a block until the
    garbage collector comes by.
    """

    weights: Weights
    apart: frozenset[str]  # names of the weights that have an axis of replicates
    taps: Taps | None
    first: Tensor
    carry: Tensors
    offsets: Sequence[Tensor | None]  # None: zero, and no derivative is wanted
    noise: Noise
    replicates: int


class Chain:
    """A problem under an estimator: draws gradient estimates, R at a time.

    Replicates are a tensor axis. The problem is mapped over it with ``torch.func.vmap``, or the axis is
    folded into that of the examples where the problem allows it; estimators run outside of vmap on tensors
    ``[*extra, K, R, B, *units]``. A problem that can be mapped neither way, or gives other values than a loop does, is
    run in a loop; ``notes`` then says so.

    Args:
        problem: what is differentiated.
        estimator: how.
        wrt: which gradients: "unit" (with respect to an offset added to each site's theta, per example) and "weight".

    Raises:
        UsageError: the estimator does not apply to a site's family, or a function returns a wrong shape.
    """

    def __init__(self, problem: Problem, estimator: Estimator, wrt: tuple[str, ...] = ("unit", "weight")):
        if not wrt or set(wrt) - {"unit", "weight"}:
            raise UsageError(f'wrt holds "unit", "weight" or both; found {wrt!r}')
        self.problem, self.estimator, self.wrt = problem, estimator, wrt
        given = problem.weights()
        wrong = [k for k, v in given.items() if not (isinstance(v, Tensor) and v.is_floating_point())]
        if wrong or not given or not problem.sites:
            lacks = f"has weights that are no floating-point tensors: {wrong}" if wrong else "lacks weights or sites"
            raise UsageError(f"{problem!r} {lacks}; give at least one site, and tensors by name, which fix the dtype")
        self.weights: dict[str, Tensor] = {k: v.detach() for k, v in given.items()}
        first = next(iter(self.weights.values()))
        self.dtype, self.device = first.dtype, first.device
        if self.dtype not in (torch.float64, torch.float32):
            raise UsageError(f"{problem!r} computes in {self.dtype}; give it weights in float64 or float32")
        self.notes: tuple[str, ...] = problem.notes
        self.loss_scale = 0.0
        self.dead: frozenset[Key] = frozenset()  # gradients that no path led to in the last draw
        self.tally = Tally()
        self.looped = False
        self._folded = problem.foldable
        self._ranks: list[tuple[int, ...]] = []  # of what each step hands on
        self._value_ranks = [1 + len(spec.value_shape) for spec in problem.sites]
        self._theta_ranks = [1 + len(spec.theta_shape) for spec in problem.sites]
        self._check_family(estimator)
        self._probe()

    def under(self, estimator: Estimator) -> "Chain":
        """The same problem under another estimator; what was found out about the problem is not found out again.

        Raises:
            UsageError: the estimator does not apply to a site's family.
        """
        self._check_family(estimator)
        other = copy(self)
        other.estimator, other.dead, other.tally = estimator, frozenset(), Tally()
        return other

    def _check_family(self, estimator: Estimator) -> None:
        names = [spec.name for spec in self.problem.sites]
        if isinstance(estimator, PerSite) and (unknown := [n for n in estimator.estimators if n not in names]):
            raise UsageError(
                f"{self.problem!r} has no site {unknown}, which {estimator!r} names; its sites are {names}"
            )
        for spec in self.problem.sites:
            if reason := estimator.refuses(spec):
                raise UsageError(reason)

    def _probe(self) -> None:
        """Walks a few hard samples through the problem, checks every shape, and compares its maps with a loop."""
        problem, batch = self.problem, self.problem.batch
        noise = MonteCarlo("probe", repr(problem), device=self.device)
        rows: list[tuple[Tensors, Tensors, list[Tensors]]] = []
        with forked(derive_seed("probe")):
            for _ in range(PROBES):
                theta, handed = problem.begin(self.weights)
                samples: Tensors = ()
                thetas: Tensors = ()
                carries: list[Tensors] = []
                for spec in problem.sites:
                    shape = (batch, *spec.theta_shape)
                    self._expect(theta, shape, f"theta() of site {spec.name!r}", "[batch, *units, *theta]")
                    site = Site(spec, theta.detach()[None, None], noise)
                    samples, thetas = (*samples, site.sample()[0, 0]), (*thetas, theta.detach())
                    carries.append(tuple(t.detach() for t in handed))
                    if len(samples) < len(problem.sites):
                        theta, handed = problem.advance(self.weights, carries[-1], samples)
                loss = problem.finish(self.weights, carries[-1], samples, thetas)
                self._expect(loss, (batch,), "loss()", "[batch]")
                rows.append((samples, thetas, carries))
            self.loss_scale = float(loss.detach().abs().mean())
            self._ranks = [tuple(t.dim() for t in carry) for carry in carries]
            # paths of two replicates: an estimator may ask for both axes, and weights are copied for each replicate
            lead = (PROBES // 2, 2)
            drawn, known, *kept = (
                tuple(torch.stack(t).unflatten(0, lead) for t in zip(*group, strict=True))
                for group in zip(*((samples, thetas, *carries) for samples, thetas, carries in rows), strict=True)
            )
            calls: list[tuple[Step, tuple[Tensors, ...]]] = [(self._finish, (kept[-1], drawn, known))]
            calls += [(self._advance, (kept[i - 1], drawn[:i])) for i in range(1, len(drawn))]
            self._check_examples(calls)
            none: frozenset[str] = frozenset()
            if self._folded:
                self._folded = not self._differs(lambda f, w, *groups: self._fold(f, w, *groups), none, calls)
            apart = frozenset(self.weights) if "weight" in self.wrt else none
            if apart or not self._folded:
                reason = self._differs(lambda f, w, *groups: self._vmap(f, w, apart, *groups), apart, calls)
                if reason:
                    self.looped = True
                    self.notes += (f"{problem!r} runs in a loop over replicates, which is slow: {reason}",)

    def _differs(
        self, run: Callable[..., Tensors], apart: frozenset[str], calls: list[tuple[Step, tuple[Tensors, ...]]]
    ) -> str:
        """Why a map of the problem cannot be used, or an empty string: values and derivatives are those of a loop."""
        weights = {k: v.expand(2, *v.shape) if k in apart else v for k, v in self.weights.items()}
        for function, groups in calls:
            expected = self._sloped(lambda f, w, *g: self._loop(f, w, apart, *g), function, weights, groups)
            try:
                found = self._sloped(run, function, weights, groups)
            except Exception as error:  # whatever the user's function raises under vmap, the loop ran it
                return f"vmap refuses it ({(str(error) or type(error).__name__).splitlines()[0][:120]})"
            if len(found) != len(expected):
                return "vmap loses the derivatives"
            for a, b in zip(found, expected, strict=True):
                scale = float(b.abs().nan_to_num(0.0, 0.0, 0.0).max()) if b.numel() else 0.0
                tolerance = 1e4 * torch.finfo(self.dtype).eps * max(scale, 1e-6)
                if not torch.allclose(a, b, rtol=0, atol=tolerance, equal_nan=True):
                    return "vmap gives other values or derivatives than a loop"
        return ""

    @staticmethod
    def _sloped(
        run: Callable[..., Tensors], function: Step, weights: Weights, groups: tuple[Tensors, ...]
    ) -> list[Tensor]:
        """Values, and the derivatives of a fixed sum of them in weights and samples."""

        def leaf(t: Tensor) -> Tensor:
            return t.detach().requires_grad_() if t.is_floating_point() else t

        free = {k: leaf(v) for k, v in weights.items()}
        tensors = [tuple(map(leaf, group)) for group in groups]
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Converting a tensor with requires_grad=True")  # most have none
            values = run(function, free, *tensors)
            total = torch.zeros(())
            for value in values:
                if value.requires_grad:
                    turn = torch.arange(value.numel(), dtype=value.dtype, device=value.device).add(0.5).sin()
                    total = total + (value * turn.reshape(value.shape)).sum()
            given = [t for group in (tuple(free.values()), *tensors) for t in group if t.requires_grad]
            slopes: tuple[Tensor, ...] = ()
            if total.requires_grad:
                found = torch.autograd.grad(total, given, allow_unused=True)
                # zero without its shape, for weights that have no part in it: they are large
                slopes = tuple(t.new_zeros(()) if g is None else g for t, g in zip(given, found, strict=True))
        return [t.detach() for t in (*values, *slopes)]

    def _close(self, a: Tensor, b: Tensor) -> bool:
        return torch.allclose(a, b, rtol=1e4 * torch.finfo(self.dtype).eps, equal_nan=True)

    def _check_examples(self, calls: list[tuple[Step, tuple[Tensors, ...]]]) -> None:
        """Requires the first example's values to stay when the samples of all others change."""
        for function, groups in calls:
            flat = [tuple(t.flatten(0, 1) for t in group) for group in groups]
            one = function(self.weights, *(tuple(t[0] for t in group) for group in flat))
            for other in range(1, PROBES):
                mixed = (tuple(torch.cat([t[0, :1], t[other, 1:]]) for t in group) for group in flat)
                results = function(self.weights, *mixed)
                if all(self._close(a[:1], b[:1]) for a, b in zip(one, results, strict=True)):
                    continue
                name = "loss" if function == self._finish else "theta"
                raise UsageError(
                    f"{name}() of {self.problem!r} mixes examples: the first one's value changes with the "
                    "samples of others; write it per example (batch normalisation and in-batch losses are not)"
                )

    def _expect(
        self, tensor: object, shape: tuple[int, ...], what: str, axes: str, remedy: str = "", *, extra: bool = False
    ) -> None:
        """Requires a tensor of a shape, or with ``extra`` of one with axes prepended to it."""
        found = tuple(tensor.shape) if isinstance(tensor, Tensor) else None
        if found is None or (found[-len(shape) :] if extra else found) != shape:
            where = f"axes {axes} = {list(shape)}; found {_shape(tensor)}{remedy and ': '}{remedy}"
            raise UsageError(f"{what} on {self.problem!r}: expected {where}")

    # ------------------------------------------------------------------ mapping the problem over leading axes
    def _advance(self, weights: Weights, carry: Tensors, samples: Tensors) -> Tensors:
        theta, handed = self.problem.advance(weights, carry, samples)
        return (theta, *handed)

    def _finish(self, weights: Weights, carry: Tensors, samples: Tensors, thetas: Tensors) -> Tensors:
        return (self.problem.finish(weights, carry, samples, thetas),)

    def _map(self, function: Step, walk: "_Walk", *groups: Tensors) -> Tensors:
        weights, apart, taps = walk.weights, walk.apart, walk.taps
        if not torch.is_grad_enabled():  # a mere evaluation: all replicates share the weights
            weights, apart, taps = self.weights, frozenset(), None
        if self._folded and not apart and not taps:
            return self._fold(function, weights, *groups)
        if self.looped:
            return self._loop(function, weights, apart, *groups)
        return self._vmap(function, weights, apart, *groups, taps=taps)

    def _flatten(self, groups: tuple[Tensors, ...]) -> tuple[list[Tensor], torch.Size]:
        """All tensors broadcast to their common leading axes ``[*extra, K, R]``."""
        _, samples, *thetas = groups
        tails = list(self._ranks[len(samples) - 1])
        for ranks, group in zip((self._value_ranks, self._theta_ranks), (samples, *thetas), strict=False):
            tails += ranks[: len(group)]
        flat = [t for group in groups for t in group]
        leads = [t.shape[: t.dim() - tail] for t, tail in zip(flat, tails, strict=True)]
        if all(lead == leads[0] for lead in leads):
            return flat, leads[0]
        lead = torch.Size(np.broadcast_shapes(*leads))
        return [t.expand(*lead, *t.shape[t.dim() - tail :]) for t, tail in zip(flat, tails, strict=True)], lead

    @staticmethod
    def _grouped(tensors: Iterable[Tensor], groups: tuple[Tensors, ...]) -> Iterator[Tensors]:
        """A flat list in groups of the lengths of others."""
        rest = iter(tensors)
        return (tuple(islice(rest, len(group))) for group in groups)

    def _fold(self, function: Step, weights: Weights, *groups: Tensors) -> Tensors:
        flat, lead = self._flatten(groups)
        out = function(weights, *self._grouped([t.flatten(0, len(lead)) for t in flat], groups))
        return tuple(t.reshape(*lead, self.problem.batch, *t.shape[1:]) for t in out)

    def _vmap(
        self, function: Step, weights: Weights, apart: frozenset[str], *groups: Tensors, taps: Taps | None = None
    ) -> Tensors:
        flat, lead = self._flatten(groups)
        # vmap's own time goes with the nesting of its arguments: they are flat, and shared weights are none of them
        own = [weights[k] for k in weights if k in apart] + ([flat[0].new_empty(lead[-1])] if taps else [])

        def call(*tensors: Tensor) -> Tensors:
            rest = iter(tensors)
            w = {k: next(rest) if k in apart else v for k, v in weights.items()}
            with taps.watching(next(rest)) if taps else nullcontext():
                return function(w, *self._grouped(rest, groups))

        if not own or math.prod(lead[:-1]) == 1:
            # shared weights, or one path and hence plain batched products: every leading axis is one axis
            out: Tensors = vmap(call)(*own, *(t.flatten(0, len(lead) - 1) for t in flat))
            return tuple(t.reshape(*lead, *t.shape[1:]) for t in out)
        paths = vmap(call, (*[None] * len(own), *[0] * len(flat)))
        out = vmap(paths, (*[0] * len(own), *[1] * len(flat)), 1)(*own, *(t.flatten(0, len(lead) - 2) for t in flat))
        return tuple(t.reshape(*lead, *t.shape[2:]) for t in out)

    def _loop(self, function: Step, weights: Weights, apart: frozenset[str], *groups: Tensors) -> Tensors:
        flat, lead = self._flatten(groups)
        rows = [t.flatten(0, len(lead) - 1) for t in flat]
        own = {k: weights[k].unbind() for k in apart}
        results = []
        for i in range(math.prod(lead)):
            w = {k: own[k][i % lead[-1]] if k in apart else v for k, v in weights.items()}
            results.append(function(w, *self._grouped([t[i] for t in rows], groups)))
        return tuple(torch.stack(t).reshape(*lead, *t[0].shape) for t in zip(*results, strict=True))

    # ------------------------------------------------------------------ the walk
    def _step(self, walk: "_Walk", carry: Tensors, samples: Tensors, thetas: Tensors, active: Estimator) -> Tensor:
        """Surrogate loss ``[*lead, B]`` from the next site on, under the estimator that is active there."""
        problem = self.problem
        if len(samples) == len(problem.sites):
            return self._loss(walk, carry, samples, thetas)
        spec, offset = problem.sites[len(samples)], walk.offsets[len(samples)]
        if samples:
            theta, *handed = self._map(self._advance, walk, carry, samples)
            theta, carry = theta if offset is None else theta + offset, tuple(handed)
        else:
            assert offset is not None
            theta, carry = (walk.first + offset).expand(self.estimator.paths, *offset.shape), walk.carry
        site = Site(spec, theta, walk.noise)
        lead, tail = theta.shape[: site.lead], (self.estimator.paths, walk.replicates, problem.batch, *spec.value_shape)

        def downstream(value: Tensor, using: Estimator | None = None) -> Tensor:
            self._expect(
                value,
                tail,
                f"{active!r} passed a value with shape {_shape(value)} on from site {spec.name!r}",
                "[..., paths, replicates, batch, *units]",
                extra=True,
            )
            if value.dtype != theta.dtype:
                raise UsageError(
                    f"{active!r} passed {value.dtype} on from site {spec.name!r}, where theta is {theta.dtype}; "
                    "convert it with value.to(theta)"
                )
            return self._step(walk, carry, (*samples, value), (*thetas, theta), using or active)

        loss = active.surrogate(site, downstream)
        self._expect(
            loss,
            tuple(lead),
            f"the surrogate of {active!r} at site {spec.name!r}",
            "[paths, replicates, batch]",
            "return what downstream returned, summed over the axes you prepended",
        )
        return loss

    def _loss(self, walk: "_Walk", carry: Tensors, samples: Tensors, thetas: Tensors) -> Tensor:
        (loss,) = self._map(self._finish, walk, carry, samples, thetas)
        count = loss.numel() / (walk.replicates * self.problem.batch)
        self.tally.losses += count
        if loss.requires_grad:
            tally = self.tally
            loss.register_hook(lambda _: _count_backward(tally, count))
        return loss

    # ------------------------------------------------------------------ what callers use
    def draw(
        self,
        replicates: int,
        noise: Noise,
        offsets: Mapping[str, Tensor] | None = None,
        taps: Taps | None = None,
    ) -> dict[Key, Tensor]:
        """R independent gradient estimates.

        The gradient of a unit is that of its example's own loss; the gradient of a weight is that of the mean over
        examples. The first site's theta does not depend on the replicate and is computed once; its share of the weight
        gradients is pulled back from the unit gradients.

        Args:
            replicates: R.
            noise: where random numbers come from.
            offsets: values of the offsets added to theta, by site name, ``[R, B, *theta]``; zero by default.
            taps: collects what is known of the gradients of its weights, which are then left out of the result.

        Returns:
            ``("unit", site)``: ``[R, B, *units, *theta_shape]`` and ``("weight", name)``: ``[R, *shape]``.

        Raises:
            UsageError: the surrogate has a wrong shape.
        """
        problem, batch = self.problem, self.problem.batch
        by_weight = "weight" in self.wrt
        leaves = [
            (
                offsets[s.name].clone()
                if offsets
                else torch.zeros(replicates, batch, *s.theta_shape, dtype=self.dtype, device=self.device)
            ).requires_grad_()
            for s in (problem.sites if offsets or "unit" in self.wrt else problem.sites[:1])
        ]
        later = [None] * (len(problem.sites) - len(leaves))
        self.tally = Tally()
        with torch.enable_grad():
            if by_weight:
                shared = {k: v.clone().requires_grad_() for k, v in self.weights.items()}
                apart = frozenset(self.weights).difference(taps.names if taps else ())
                weights = {
                    k: v.expand(replicates, *v.shape).requires_grad_() if k in apart else shared[k]
                    for k, v in self.weights.items()
                }
            else:
                shared, weights, apart = self.weights, self.weights, frozenset()
            if taps:
                taps.start(shared)
            with taps.watching(None) if taps else nullcontext():
                begun = self._begin(shared)
            theta, *carry = (t.detach() for t in begun)
            # What no replicate changes is computed once. Its derivatives are taken for every replicate and pulled back.
            early = [i for i, t in enumerate(begun[1:]) if t.requires_grad]
            for i in early:
                carry[i] = carry[i].expand(replicates, *carry[i].shape).requires_grad_()
            walk = _Walk(weights, apart, taps, theta, tuple(carry), [*leaves, *later], noise, replicates)
            loss = self._step(walk, (), (), (), self.estimator)
            inputs = leaves + (list(weights.values()) + [carry[i] for i in early] if by_weight else [])
            # Weight gradients are the large tensors: they come out scaled by 1 / B, and unit gradients are scaled back.
            scale = batch if by_weight else 1
            grads: tuple[Tensor | None, ...] = (None,) * len(inputs)  # of a dead path, whose estimate is zero
            if loss.requires_grad:
                with taps.collecting() if taps else nullcontext():
                    grads = torch.autograd.grad(loss.mean(0).sum() / scale, inputs, allow_unused=True)
            result: dict[Key, Tensor] = {}
            dead: set[Key] = set()
            if "unit" in self.wrt:
                for spec, leaf, g in zip(problem.sites, leaves, grads, strict=False):
                    result["unit", spec.name] = torch.zeros_like(leaf) if g is None else g if scale == 1 else g * scale
                    dead |= {("unit", spec.name)} if g is None else set()
            if by_weight:
                last = grads[len(leaves) + len(weights) :]
                values = [begun[0], *(begun[1 + i] for i in early)]
                pairs = [
                    (value, g)
                    for value, g in zip(values, (grads[0], *last), strict=True)
                    if value.requires_grad and g is not None
                ]
                with taps.collecting() if taps else nullcontext():
                    pulled_back = self._pull_back(pairs, list(shared.values()), taps)
                own = grads[len(leaves) : len(leaves) + len(weights)]
                for (name, leaf), late, pulled in zip(weights.items(), own, pulled_back, strict=True):
                    parts = [g.detach() for g in (late, pulled) if g is not None]
                    if name not in apart:
                        assert taps
                        taps.leaked |= {name} if parts else set()
                        dead |= set() if parts or taps.uses[name] else {("weight", name)}
                        continue
                    result["weight", name] = sum(parts[1:], start=parts[0]) if parts else torch.zeros_like(leaf)
                    dead |= set() if parts else {("weight", name)}
            self.dead = frozenset(dead)
        return result

    def _begin(self, weights: Weights) -> Tensors:
        theta, handed = self.problem.begin(weights)
        return (theta, *handed)

    def _pull_back(
        self, pairs: Sequence[tuple[Tensor, Tensor]], shared: list[Tensor], taps: Taps | None
    ) -> Sequence[Tensor | None]:
        """Products ``[R, *shape]`` of Jacobians of values with cotangents ``[R, *value.shape]``, summed over values."""
        if not pairs:
            return [None] * len(shared)
        values, cotangents = zip(*pairs, strict=True)
        if taps:
            return self._mapped_pull_back(values, cotangents, shared)
        if not self.looped:
            try:
                return torch.autograd.grad(
                    values, shared, cotangents, is_grads_batched=True, allow_unused=True, retain_graph=True
                )
            except RuntimeError:  # a backward function of the user's that cannot be batched
                pass
        rows = [
            torch.autograd.grad(values, shared, row, retain_graph=True, allow_unused=True)
            for row in zip(*cotangents, strict=True)
        ]
        return [None if c[0] is None else torch.stack([t for t in c if t is not None]) for c in zip(*rows, strict=True)]

    @staticmethod
    def _mapped_pull_back(values: Tensors, cotangents: Tensors, shared: list[Tensor]) -> Sequence[Tensor | None]:
        """The same under ``torch.func.vmap``, which the taps know."""
        found: list[int] = []

        def pull(rows: Tensors) -> Tensors:
            slopes = torch.autograd.grad(values, shared, rows, retain_graph=True, allow_unused=True)
            found.extend(i for i, g in enumerate(slopes) if g is not None)
            return (rows[0].new_zeros(()), *(g for g in slopes if g is not None))

        _, *slopes = vmap(pull)(cotangents)
        by_place = dict(zip(found, slopes, strict=True))
        return [by_place.get(i) for i in range(len(shared))]

    def value(self, noise: Noise, replicates: int = 1, offsets: Mapping[str, Tensor] | None = None) -> Tensor:
        """Loss ``[R, B]``, mean over paths, at given offsets; for exact estimators the expected loss.

        Ground truth for gradients: finite differences of it are taken in the tests.
        """
        leaves = [
            offsets[s.name]
            if offsets
            else torch.zeros(replicates, self.problem.batch, *s.theta_shape, dtype=self.dtype, device=self.device)
            for s in self.problem.sites
        ]
        with torch.enable_grad():
            leaves = [leaf.detach().requires_grad_() for leaf in leaves]
            theta, *carry = self._begin(self.weights)
            walk = _Walk(self.weights, frozenset(), None, theta, tuple(carry), leaves, noise, leaves[0].shape[0])
            return self._step(walk, (), (), (), self.estimator).detach().mean(0)

    def layers(self) -> dict[str, tuple[str, ...]]:
        """Names of the weights that feed each site directly; ``"loss"`` collects those that feed no site."""
        weights = {k: v.clone().requires_grad_() for k, v in self.weights.items()}
        fed: dict[str, tuple[str, ...]] = {}
        samples: Tensors = ()
        noise = MonteCarlo("layers", device=self.device)
        for spec in self.problem.sites:
            names: tuple[str, ...] = ()
            with torch.enable_grad():
                theta = self.problem.theta(weights, samples)
                if theta.requires_grad:
                    grads = torch.autograd.grad(theta.sum(), list(weights.values()), allow_unused=True)
                    names = tuple(k for k, g in zip(weights, grads, strict=True) if g is not None)
            fed[spec.name] = names
            samples = (*samples, Site(spec, theta.detach()[None, None], noise).sample()[0, 0])
        used = {name for names in fed.values() for name in names}
        rest = tuple(k for k in weights if k not in used)
        return {k: v for k, v in fed.items() if v} | ({"loss": rest} if rest else {})

    def check_mixing(self) -> None:
        """Moves the parameters of all replicates but the first, and requires the first to stay as it was.

        The moves are large and differ between replicates, units and classes, so that samples and losses change
        with them.

        Raises:
            MeasurementError: the estimator reads other replicates than its own, or draws numbers that no seed repeats.
        """
        count = 8
        still = {
            s.name: torch.zeros(count, self.problem.batch, *s.theta_shape, dtype=self.dtype, device=self.device)
            for s in self.problem.sites
        }
        moved = {name: t.clone() for name, t in still.items()}
        for t in moved.values():
            t[1:] = 4 * torch.arange(1, 1 + t[1:].numel(), dtype=t.dtype, device=t.device).reshape(t[1:].shape).sin()
        results = []
        for offsets in (still, still, moved):
            with forked(derive_seed("mixing")):
                results.append(self.draw(count, MonteCarlo("mixing", device=self.device), offsets))
        for key, first in results[0].items():
            again, after = (found[key][0] for found in results[1:])
            tolerance = 1e3 * torch.finfo(self.dtype).eps * max(1.0, float(first.abs().max()) if first.numel() else 1.0)
            if not torch.allclose(first[0], again, rtol=0, atol=tolerance, equal_nan=True):
                raise MeasurementError(
                    f"{self.estimator!r} cannot be repeated: its gradient {key} differs from call to call on the "
                    "same seeds; draw from site.uniform() and site.sample(), or from torch's global random stream"
                )
            if not torch.allclose(first[0], after, rtol=0, atol=tolerance, equal_nan=True):
                raise MeasurementError(
                    f"{self.estimator!r} mixes replicates: the gradient {key} of one replicate changes when another's "
                    "parameters do; reduce over the path axis -3, never over the replicate axis -2"
                )


def _count_backward(tally: Tally, count: float) -> None:
    tally.backwards += count


def _shape(value: object) -> object:
    return list(value.shape) if isinstance(value, Tensor) else type(value).__name__
