"""Broken estimators that were written before they were tried, and are no part of the corpus.

They were written in two sets of 20 and 17, with their labels, from the list of historic mistakes; their author had read
the candidate terms. When new, before the terms were revised, the true cause was named first for 13 of 20 and for 11 of
17. The terms have been revised since, so that what is measured now is no longer blind.
"""

import numpy as np
import torch
from mutants import antithetic, relaxed, straight_through
from mutants.mutant import Mutant

from estimator_lab.estimators import LeaveOneOut, LocalExpectation, MeanField, Rebar, Sample, StraightThrough
from estimator_lab.families import Bernoulli, Categorical, Normal


class SummedPaths(Mutant):
    """Sums over paths where their mean is taken anyway."""

    cause, healthy, paths = "gain 1/K", LeaveOneOut(4), 4

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        others = (loss.sum(-3, keepdim=True) - loss) / (self.paths - 1)
        return loss + self.paths * site.score(value, loss - others)


class WeightOfOneSide(Mutant):
    """The difference of both values weighted by p in the place of p (1 - p)."""

    cause, healthy = "power of p(1-p)", LocalExpectation()

    def surrogate(self, site, downstream):
        loss = LocalExpectation().surrogate(site, downstream)
        (gradient,) = torch.autograd.grad(loss.sum(), site.theta, retain_graph=True, allow_unused=True)
        p = site.mean.detach()
        return loss + site.inject(gradient / (1 - p) - gradient)


class SwappedSides(antithetic._Pair):
    """f(twin) - f(b) in the place of f(b) - f(twin)."""

    cause = "sign"

    def weight(self, theta):
        return -theta.abs().sigmoid() / 2


class BaselineAdded(Mutant):
    """Adds the mean of the other paths where it should be taken off: the mean is right, the variance is not."""

    cause, paths = "baseline", 4
    healthy = like = LeaveOneOut(4)

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        others = (loss.sum(-3, keepdim=True) - loss) / (self.paths - 1)
        return loss + site.score(value, loss + others)


class TemperatureOfTheFree(Mutant):
    """The slope of the control variate's mean is taken at another temperature than the control variate."""

    cause, healthy = "temperature", Rebar()

    def surrogate(self, site, downstream):
        family = site.relaxation
        u, v = site.uniform(), site.uniform()
        leaf = site.theta.detach().requires_grad_()
        z = family.perturb(leaf, u)
        value = family.harden(z)
        loss = downstream(value)
        free = downstream(family.squash(z, 0.1), using=MeanField())
        given = downstream(family.squash(family.condition(leaf, value, v), 0.5), using=MeanField())
        slope = relaxed.derivative(free - given, leaf)
        return loss + site.score(value, loss - given) + site.inject(slope)


class VarianceNotItsLogarithm(Mutant):
    """The gradient in the variance for that in the logarithm of the deviation."""

    cause, families = "parametrisation", (Normal,)

    def surrogate(self, site, downstream):
        value, theta = site.sample(), site.theta.detach()
        loss = downstream(value)
        scale = theta[..., 1].exp()
        z = (value - theta[..., 0]) / scale
        scores = torch.stack([z / scale, (z.square() - 1) / (2 * scale.square())], -1)
        return loss + site.inject(site.expand(loss) * scores)


class LaterLayersSampled(Mutant):
    """Runs the rest by plain sampling: only the first layer is trained."""

    cause = "dead path"

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value, using=Sample())
        return loss + site.score(value, loss)


class BatchMaximum(Mutant):
    """The largest loss of the batch as baseline, the example's own among them."""

    cause = "baseline"

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        return loss + site.score(value, loss - loss.amax(-1, keepdim=True))


class SecondLayerScaled(Mutant):
    """A learning rate of the second layer that is applied in the estimator."""

    cause = "site"

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        return loss + site.score(value, loss) * (1.7 if site.name == "h2" else 1.0)


class ClippedLoss(Mutant):
    """Clips the loss that the score is multiplied with."""

    cause = "loss scale"

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        return loss + site.score(value, loss.clamp(-0.9, 0.9))


class ClampedProbability(Mutant):
    """Keeps probabilities away from 0 and 1 in the score, not in the draw."""

    cause = "saturation"

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        return loss + site.inject(site.expand(loss) * (value - site.mean.detach().clamp(0.05, 0.95)))


class TiesArePadding(Mutant):
    """Takes units whose logit is exactly zero for padding."""

    cause = "ties"

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        scores = site.scored.score(site.theta.detach(), value)
        return loss + site.inject(site.expand(loss) * scores * (site.theta.detach() != 0))


class AntitheticReplicates(Mutant):
    """Every second replicate is the mirror image of the one before."""

    cause = "correlated replicates"

    def surrogate(self, site, downstream):
        u = site.uniform()
        axis = u.dim() - 3
        half = u.narrow(axis, 0, (u.shape[axis] + 1) // 2)
        u = torch.stack([half, 1 - half], axis + 1).flatten(axis, axis + 1).narrow(axis, 0, u.shape[axis])
        value = (u < site.mean.detach()).to(u.dtype)
        loss = downstream(value)
        return loss + site.score(value, loss)


class CentredAtUniform(Mutant):
    """The score of a class centred at 1 / C, as if the classes were equally likely."""

    cause, families = "family", (Bernoulli, Categorical)

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        if isinstance(site.family, Bernoulli):
            return loss + site.score(value, loss)
        return loss + site.inject(site.expand(loss) * (value - 1 / value.shape[-1]))


class EntropyBonus(Mutant):
    """A bonus for entropy that belongs to the training, not to the estimate."""

    cause = "extra term"

    def surrogate(self, site, downstream):
        value, p = site.sample(), site.mean.detach()
        loss = downstream(value)
        return loss + site.score(value, loss) + site.inject(0.1 * site.theta.detach() * p * (1 - p))


class SlopeOfTheGiven(relaxed._Rebar):
    """The gradient of the relaxation given the sample is forgotten."""

    cause = "missing term"

    def slope(self, free, given, leaf):
        return relaxed.derivative(free, leaf)


class QuarterPair(antithetic._Pair):
    """Halves a difference that is halved already."""

    cause = "gain 1/2"

    def weight(self, theta):
        return theta.abs().sigmoid() / 4


class HalfPrecisionLoss(Mutant):
    """The loss is kept in half precision."""

    cause = "precision"

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        return loss + site.score(value, loss.detach().to(torch.bfloat16).to(loss.dtype))


class TwinOfTheNeighbour(antithetic._Pair):
    """The twin has the mirrored number of the next unit: right for a single one."""

    cause, healthy = "coupling", antithetic.DisARM()

    def twin(self, site, u):
        return (u.roll(1, -1) < site.mean.detach()).to(u.dtype)


class LogOfTheClasses(Mutant):
    """Differentiates x log pi, which is 0 * inf where a class has no probability."""

    cause, families = "non-finite", (Categorical,)

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        term = (value * site.mean.log()).flatten(site.lead).sum(-1) * loss.detach()
        return loss + term - term.detach()


# ---------------------------------------------------------------------- written after the naming was as it is now
class FirstPathOnly(Mutant):
    """The score of the first path alone, while the mean is taken over all."""

    cause, healthy, paths = "gain 1/K", LeaveOneOut(3), 3

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        others = (loss.sum(-3, keepdim=True) - loss) / (self.paths - 1)
        first = torch.zeros_like(loss)
        first[..., 0, :, :] = 1
        return loss + site.score(value, (loss - others) * first)


class ScoreOfAnotherSample(Mutant):
    """The loss of one sample with the score of another one."""

    cause = "coupling"

    def surrogate(self, site, downstream):
        value, other = site.sample(), site.sample()
        loss = downstream(value)
        return loss + site.score(other, loss)


class SlopeOfTheTanh(straight_through._Through):
    """The derivative of tanh for that of the sigmoid."""

    cause, like = "parametrisation", StraightThrough()

    def through(self, site):
        return site.theta.tanh()


class LogarithmOfTheVariance(Mutant):
    """The gradient in the logarithm of the variance for that in the logarithm of the deviation."""

    cause, families = "parametrisation", (Normal,)

    def surrogate(self, site, downstream):
        value, theta = site.sample(), site.theta.detach()
        loss = downstream(value)
        scale = theta[..., 1].exp()
        z = (value - theta[..., 0]) / scale
        return loss + site.inject(site.expand(loss) * torch.stack([z / scale, (z.square() - 1) / 2], -1))


class WeightInOnePlace(relaxed._Rebar):
    """The weight of the control variate is in the score and not in the gradient of its mean."""

    cause = "missing term"

    def surrogate(self, site, downstream):
        family = site.relaxation
        u, v = site.uniform(), site.uniform()
        leaf = site.theta.detach().requires_grad_()
        z = family.perturb(leaf, u)
        value = family.harden(z)
        loss = downstream(value)
        free = downstream(family.squash(z, 0.5), using=MeanField())
        given = downstream(family.squash(family.condition(leaf, value, v), 0.5), using=MeanField())
        return loss + site.score(value, loss - 0.3 * given) + site.inject(relaxed.derivative(free - given, leaf))


class SignOfTheSecondLayer(Mutant):
    """The second layer ascends."""

    cause = "sign"

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        return loss + site.score(value, loss) * (-1 if site.name == "h2" else 1)


class SummedBatch(Mutant):
    """A sum over the batch where the mean is taken elsewhere."""

    cause = "gain batch"

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        return loss + site.score(value, loss) * loss.shape[-1]


class ShrunkTwice(Mutant):
    """Leaves one out, and shrinks by (K - 1) / K as if it had not."""

    cause, healthy, paths = "gain K/(K-1)", LeaveOneOut(4), 4

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        others = (loss.sum(-3, keepdim=True) - loss) / (self.paths - 1)
        return loss + site.score(value, loss - others) * (1 - 1 / self.paths)


class SquaredLoss(Mutant):
    """Squares what is squared already."""

    cause = "loss scale"

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        return loss + site.score(value, loss.square())


class NumpyNoise(Mutant):
    """Draws from the stream of NumPy."""

    cause = "state"

    def surrogate(self, site, downstream):
        u = torch.from_numpy(np.random.uniform(size=tuple(site.theta.shape))).to(site.theta.dtype)
        value = (u < site.mean.detach()).to(u.dtype)
        loss = downstream(value)
        return loss + site.score(value, loss)


class ShiftedUnits(Mutant):
    """Every unit gets the gradient of its neighbour."""

    cause = "axes"

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        return loss + site.inject(site.expand(loss) * site.scored.score(site.theta.detach(), value).roll(1, -1))


class ClampedLogits(Mutant):
    """Clamps logits to [-3, 3] on the way, in the draw as well, and differentiates through the clamp."""

    cause = "saturation"

    def surrogate(self, site, downstream):
        theta = site.theta.detach().clamp(-3, 3)
        value = (site.uniform() < theta.sigmoid()).to(theta.dtype)
        loss = downstream(value)
        inside = site.theta.detach().abs() <= 3
        return loss + site.inject(site.expand(loss) * (value - theta.sigmoid()) * inside)


class FirstExampleLeftOut(Mutant):
    """A loop over examples that begins at one."""

    cause = "dead path"

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        keep = torch.ones_like(loss)
        if keep.shape[-1] > 1:
            keep[..., 0] = 0
        return loss + site.score(value, loss * keep)


class BaselineOfTheSample(Mutant):
    """A baseline that is a part of the loss, the larger the more units are on."""

    cause = "baseline"

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        return loss + site.score(value, loss * (1 - 0.4 * value.flatten(site.lead).mean(-1)))


class WeightDecay(Mutant):
    """Pulls logits to zero inside of the estimate."""

    cause = "extra term"

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        return loss + site.score(value, loss) + site.inject(0.02 * site.theta.detach())


class AntitheticPaths(Mutant):
    """Leave-one-out over a pair that is antithetic: the baseline knows the sample."""

    cause, healthy, paths = "coupling", LeaveOneOut(2), 2

    def surrogate(self, site, downstream):
        u = site.uniform()
        u = torch.cat([u[..., :1, :, :, :], 1 - u[..., :1, :, :, :]], -4)
        value = (u < site.mean.detach()).to(u.dtype)
        loss = downstream(value)
        return loss + site.score(value, loss - loss.flip(-3))


class ShiftedClasses(Mutant):
    """Counts classes from one in the score of categorical units."""

    cause, families = "family", (Bernoulli, Categorical)

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        scores = site.scored.score(site.theta.detach(), value)
        return loss + site.inject(
            site.expand(loss) * (scores if isinstance(site.family, Bernoulli) else scores.roll(1, -1))
        )


FIRST = 20
"""How many of them were written before the naming was revised: their share was measured before, and after."""

HELD_OUT = tuple(
    kind
    for kind in list(vars().values())
    if isinstance(kind, type) and issubclass(kind, Mutant) and kind.__module__ == __name__
)
"""All of them."""
