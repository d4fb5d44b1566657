"""Control variates and relaxations with one mistake."""

import torch

from estimator_lab.estimator import derivative
from estimator_lab.estimators import GumbelSoftmax, MeanField, MuProp, Rebar, StraightThroughGumbelSoftmax
from estimator_lab.families import Bernoulli
from mutants.mutant import Mutant


class _Rebar(Mutant):
    """REBAR in parts that can be replaced."""

    healthy = Rebar()

    def conditioned(self, family, leaf, value, z, v):
        return family.condition(leaf, value, v)

    def relaxed(self, family, z):
        return family.squash(z, 0.5)

    def slope(self, free, given, leaf):
        return derivative(free - given, leaf)

    def surrogate(self, site, downstream):
        family = site.relaxation
        u, v = site.uniform(), site.uniform()
        leaf = site.theta.detach().requires_grad_()
        z = family.perturb(leaf, u)
        value = family.harden(z)
        conditioned = self.conditioned(family, leaf, value, z, v)
        loss = downstream(value)
        free = downstream(family.squash(z, 0.5), using=MeanField())
        given = downstream(self.relaxed(family, conditioned), using=MeanField())
        return loss + site.score(value, loss - given) + site.inject(self.slope(free, given, leaf))


class DetachedLogits(_Rebar):
    """The conditional noise does not carry the logits (duvenaud/relax#6, thirteen months in the reference code)."""

    cause, source = "missing term", "duvenaud/relax#6"

    def conditioned(self, family, leaf, value, z, v):
        return family.condition(leaf.detach(), value, v)


class TemperatureOnce(_Rebar):
    """Two temperatures, one of them in the conditional relaxation only."""

    cause = "temperature"

    def relaxed(self, family, z):
        return family.squash(z, 1.5)


class NoiseReused(_Rebar):
    """The noise that made the sample takes the place of noise given the sample."""

    cause = "coupling"

    def conditioned(self, family, leaf, value, z, v):
        return z


class SlopeOfTheFree(_Rebar):
    """The gradient of the unconditional relaxation is forgotten."""

    cause = "missing term"

    def slope(self, free, given, leaf):
        return -derivative(given, leaf)


class LeakingControlVariate(Mutant):
    """The control variate's gradient reaches the weights after the layer (sdrobert/pydrobert-pytorch PR 9)."""

    cause, healthy, source = "extra term", Rebar(), "sdrobert/pydrobert-pytorch#9"

    def surrogate(self, site, downstream):
        family = site.relaxation
        relaxed = family.squash(family.perturb(site.theta.detach(), site.uniform()), 0.5)
        leak = downstream(relaxed, using=MeanField())
        return Rebar().surrogate(site, downstream) + leak - leak.detach()


class MissingLinearTerm(Mutant):
    """MuProp without the exact gradient of its linear part."""

    cause, healthy = "missing term", MuProp()

    def surrogate(self, site, downstream):
        value, mean = site.sample(), site.mean.detach()
        loss = downstream(value)
        centre = mean.requires_grad_()
        smooth = downstream(centre, using=MeanField())
        linear = (derivative(smooth, centre) * (value - mean.detach())).flatten(site.lead).sum(-1)
        return loss + site.score(value, loss - smooth - linear)


class LinearAtTheSample(Mutant):
    """MuProp that expands about the sample, so that its control variate depends on it."""

    cause, healthy = "baseline", MuProp()

    def surrogate(self, site, downstream):
        value, mean = site.sample(), site.mean
        loss = downstream(value)
        centre = value.clone().requires_grad_()
        slope = derivative(downstream(centre, using=MeanField()), centre)
        through = (slope * (mean - mean.detach())).flatten(site.lead).sum(-1)
        linear = (slope * (value - mean.detach())).flatten(site.lead).sum(-1)
        return loss + site.score(value, loss - linear) + through


class TemperatureMultiplied(Mutant):
    """A relaxation that is multiplied with its temperature."""

    cause, healthy, unbiased = "temperature", GumbelSoftmax(0.5), False
    like = GumbelSoftmax(0.5)

    def surrogate(self, site, downstream):
        family = site.relaxation
        return downstream((family.perturb(site.theta, site.uniform()) * 0.5).sigmoid())


class _GumbelRao(Mutant):
    """Straight-through Gumbel-softmax, its Jacobian averaged over noise given the sample."""

    healthy, unbiased = StraightThroughGumbelSoftmax(), False
    like = StraightThroughGumbelSoftmax()

    def through(self, family, theta, value, v):
        noise = family.condition(theta.detach(), value, v) - theta.detach()
        return theta + noise

    def surrogate(self, site, downstream):
        family, theta = site.relaxation, site.theta
        value = site.sample()
        relaxed = family.squash(self.through(family, theta, value, site.uniform()), 1.0)
        return downstream(value + (relaxed - relaxed.detach()))


class DifferentiatedConditional(_GumbelRao):
    """Gumbel-Rao that differentiates through the conditional noise, whose law moves with theta."""

    cause = "extra term"
    families = (Bernoulli,)

    def through(self, family, theta, value, v):
        return family.condition(theta, value, v)


class LaterLayersAtTheirMeans(Mutant):
    """The rest of the network at its means: right in one layer."""

    cause = "depth"

    def surrogate(self, site, downstream):
        value = site.sample()
        loss = downstream(value)
        with torch.no_grad():
            smooth = downstream(value, using=MeanField())
        return loss + site.score(value, smooth)
