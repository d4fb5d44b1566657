"""Mistakes that one network of one shape does not show: other blocks, layers and losses, and what is left behind."""

from dataclasses import dataclass

import torch

from estimator_lab.estimator import derivative
from estimator_lab.estimators import LeaveOneOut, MeanField, Rebar, StraightThrough
from estimator_lab.families import Categorical
from mutants.mutant import Mutant


class _Scored(Mutant):
    """The score function in parts that can be replaced."""

    def sample(self, site):
        return site.sample()

    def scores(self, site, value):
        return site.scored.score(site.theta.detach(), value)

    def weight(self, site, loss):
        return loss

    def surrogate(self, site, downstream):
        value = self.sample(site)
        loss = downstream(value)
        return loss + site.inject(site.expand(self.weight(site, loss.detach())) * self.scores(site, value))


class _Through(Mutant):
    healthy, unbiased = StraightThrough(), False

    def through(self, site):
        return site.mean

    def surrogate(self, site, downstream):
        through = self.through(site)
        return downstream(site.sample() + (through - through.detach()))


class ThetaChangedInPlace(_Through):
    """A detached theta shares its memory: the sigmoid in place is everybody's theta."""

    cause = "state"

    def surrogate(self, site, downstream):
        p = site.theta.detach().sigmoid_()
        value = (site.uniform() < p).to(p)
        return downstream(value + (site.theta - site.theta.detach()) * p * (1 - p))


class LossChangedInPlace(_Through):
    """Takes the baseline off the loss that came back, in place."""

    cause = "state"

    def surrogate(self, site, downstream):
        through = self.through(site)
        loss = downstream(site.sample() + (through - through.detach()))
        loss.detach().sub_(0.5)
        return loss


class GraphKept(_Scored):
    """Logs its losses without detach: every graph stays in memory."""

    cause = "state"

    def __init__(self):
        self._log = []

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        self._log.append(loss)
        return loss + site.score(value, loss)


class MeanWithoutGraph(_Through):
    """Samples in training and takes the mean elsewhere, told apart by the grad mode."""

    cause = "state"

    def surrogate(self, site, downstream):
        through = self.through(site)
        value = site.sample() if torch.is_grad_enabled() else through.detach()
        return downstream(value + (through - through.detach()))


class SlopeDividedByBatch(_Through):
    """A biased estimator that divides by the batch: no truth tells."""

    cause = "gain batch"

    def through(self, site):
        return site.mean / site.theta.shape[site.lead - 1]


class StratifiedReplicates(_Scored):
    """A Latin hypercube over the replicates: each is right, together they are not independent."""

    cause = "correlated replicates"

    def sample(self, site):
        order = site.uniform().argsort(site.lead - 2).argsort(site.lead - 2)
        u = (order + site.uniform()) / site.theta.shape[site.lead - 2]
        return (u < site.mean.detach()).to(site.theta.dtype)


class MirroredReplicates(_Scored):
    """The second half of the replicates takes the mirrored numbers of the first, last to first."""

    cause = "correlated replicates"

    def sample(self, site):
        u = torch.rand(site.theta.shape, dtype=site.theta.dtype)
        axis, count = site.lead - 2, site.theta.shape[site.lead - 2]
        first = u.narrow(axis, 0, (count + 1) // 2)
        u = torch.cat([first, 1 - first.flip(axis).narrow(axis, count % 2, count // 2)], axis)
        return (u < site.mean.detach()).to(site.theta.dtype)


class OneAxisOfUnits(_Scored):
    """Takes the last axis for the layer: units of a convolution are weighted by their row."""

    cause = "axes"

    def scores(self, site, value):
        scores = super().scores(site, value)
        return scores if len(site.spec.units) == 1 else scores * torch.ones_like(scores).cumsum(-2)


class ThirdLayerHalved(_Scored):
    """Right in two layers, half in the third."""

    cause = "depth"

    def weight(self, site, loss):
        return loss * (0.5 if site.name == "h3" else 1.0)


class ThreeClasses(_Scored):
    """A constant of three classes, for any number of them."""

    cause, families = "family", (Categorical,)

    def weight(self, site, loss):
        return loss * (site.theta.shape[-1] - 1) / 2


class ScoreOfClamped(_Scored):
    """The score of a probability that is kept from 0 and 1, at units that are saturated further."""

    cause = "saturation"

    def scores(self, site, value):
        return value - site.mean.detach().clamp(1e-3, 1 - 1e-3)


class GradientClipped(_Scored):
    """Clips the weight of the score, as gradients are clipped, at a size that small losses do not reach."""

    cause = "loss scale"

    def weight(self, site, loss):
        return loss.clamp(-20, 20)


class RelativeLoss(_Through):
    """Divides by the loss, which may be zero."""

    cause = "non-finite"

    def surrogate(self, site, downstream):
        loss = super().surrogate(site, downstream)
        return loss + site.inject(site.expand(loss / loss.abs() - loss.sign()) * site.mean)


class DoubleNumbers(_Through):
    """Its numbers are double precision, whatever the network's are."""

    cause = "precision"

    def surrogate(self, site, downstream):
        u, through = site.uniform().double(), site.mean
        value = (u < through.detach()).double()
        return downstream(value + (through - through.detach()))


@dataclass(frozen=True, repr=False)
class PathsUnchecked(Mutant):
    """Leave-one-out that takes any number of paths, also one."""

    paths: int = 3

    cause, healthy = "non-finite", LeaveOneOut(3)

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        others = (loss.sum(-3, keepdim=True) - loss) / (self.paths - 1)
        return loss + site.score(value, loss - others)


class TopOfTheChosen(Mutant):
    """REBAR of a class whose maximum is drawn at its own logit, in the place of the log-sum-exp of all."""

    cause, healthy, families = "coupling", Rebar(), (Categorical,)

    def surrogate(self, site, downstream):
        family = site.relaxation
        u, v = site.uniform(), site.uniform()
        leaf = site.theta.detach().requires_grad_()
        z = family.perturb(leaf, u)
        value, gumbel = family.harden(z), -(-v.log()).log()
        top = (value * (leaf + gumbel)).sum(-1, keepdim=True)
        conditioned = torch.where(value > 0.5, top, -torch.logaddexp(-top, -(leaf + gumbel)))
        loss = downstream(value)
        free, given = (downstream(family.squash(x, 0.5), using=MeanField()) for x in (z, conditioned))
        return loss + site.score(value, loss - given) + site.inject(derivative(free - given, leaf))
