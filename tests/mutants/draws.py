"""Mistakes in how numbers are drawn: replicates, examples and units that share them, states, global streams."""

import torch

from estimator_lab.estimators import ARM, Reinforce
from mutants.mutant import Mutant


def hard(u, site):
    return (u < site.mean.detach()).to(site.theta.dtype)


class _Drawn(Mutant):
    def number(self, site):
        raise NotImplementedError

    def surrogate(self, site, downstream):
        value = hard(self.number(site), site)
        loss = downstream(value)
        return loss + site.score(value, loss)


class SharedByReplicates(_Drawn):
    """One draw reused by every replicate."""

    cause = "correlated replicates"

    def number(self, site):
        u = site.uniform()
        return u[..., :1, :, :].expand_as(u)


class SharedByNeighbours(_Drawn):
    """Each draw used twice, by two neighbouring replicates."""

    cause = "correlated replicates"

    def number(self, site):
        u = site.uniform()
        axis = u.dim() - 3
        half = u.narrow(axis, 0, (u.shape[axis] + 1) // 2)
        return half.repeat_interleave(2, axis).narrow(axis, 0, u.shape[axis])


class SharedByExamples(_Drawn):
    """The same noise for every example of a batch."""

    cause = "correlated examples"

    def number(self, site):
        u = site.uniform()
        return u[..., :1, :].expand_as(u)


class SharedByUnits(_Drawn):
    """The same number for every unit of a layer."""

    cause = "correlated units"

    def number(self, site):
        u = site.uniform()
        return u[..., :1].expand_as(u)


class SeededInside(_Drawn):
    """Seeds torch's stream at every call, so that every block has the same draws."""

    cause = "state"

    def number(self, site):
        torch.manual_seed(0)
        return torch.rand(site.theta.shape, dtype=site.theta.dtype)


class OwnGenerator(_Drawn):
    """A generator of its own that goes on from call to call."""

    cause = "state"

    def __init__(self):
        self._generator = torch.Generator().manual_seed(1)

    def number(self, site):
        return torch.rand(site.theta.shape, dtype=site.theta.dtype, generator=self._generator)


class FirstDrawKept(_Drawn):
    """Keeps the noise of the first call."""

    cause = "state"

    def __init__(self):
        self._kept = {}

    def number(self, site):
        return self._kept.setdefault((site.name, site.theta.shape), site.uniform())


class MeanOverReplicates(Mutant):
    """The mean over all replicates as baseline."""

    cause = "correlated replicates"

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        return loss + site.score(value, loss - loss.mean(-2, keepdim=True))


class DefaultPrecision(Mutant):
    """Sets the default dtype of the process."""

    cause = "state"

    def surrogate(self, site, downstream):
        torch.set_default_dtype(torch.float64)
        return Reinforce().surrogate(site, downstream)


class NeverInTheGraph(Mutant):
    """Runs the rest of the network without a graph."""

    cause, healthy = "dead path", ARM()

    def surrogate(self, site, downstream):
        value = site.sample()
        with torch.no_grad():
            loss = downstream(value)
        return loss + site.score(value, loss)
