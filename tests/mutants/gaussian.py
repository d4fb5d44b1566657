"""Estimators for Gaussian units with one mistake."""

import torch

from estimator_lab.estimators import Pathwise, Reinforce
from estimator_lab.families import Normal
from mutants.mutant import Mutant


class _Score(Mutant):
    healthy, families = Reinforce(), (Normal,)

    def scores(self, z, scale):
        return torch.stack([z / scale, z.square() - 1], -1)

    def surrogate(self, site, downstream):
        value, theta = site.sample(), site.theta.detach()
        loss = downstream(value)
        scale = theta[..., 1].exp()
        scores = self.scores((value - theta[..., 0]) / scale, scale)
        return loss + site.inject(site.expand(loss) * scores)


class DeviationNotItsLogarithm(_Score):
    """The gradient in the standard deviation for that in its logarithm (normal-computing/posteriors PR 15)."""

    cause, source = "parametrisation", "normal-computing/posteriors#15"

    def scores(self, z, scale):
        return torch.stack([z / scale, (z.square() - 1) / scale], -1)


class MissingPrecision(_Score):
    """x - mu without 1 / s^2 (RussTedrake/manipulation#231, an exercise for over three years)."""

    cause, source = "parametrisation", "RussTedrake/manipulation#231"

    def scores(self, z, scale):
        return torch.stack([z * scale, z.square() - 1], -1)


class MissingOne(_Score):
    """z^2 in the place of z^2 - 1: the score has a mean, and the bias grows with the level of the loss."""

    cause = "baseline"

    def scores(self, z, scale):
        return torch.stack([z / scale, z.square()], -1)


class PathAndScore(Mutant):
    """Both the derivative through the sample and the score: the gradient twice."""

    cause, families, healthy = "gain 2", (Normal,), Pathwise()

    def surrogate(self, site, downstream):
        value = site.rsample()
        loss = downstream(value)
        return loss + site.score(value, loss)


class DetachedScale(Mutant):
    """The standard deviation leaves the graph."""

    cause, families, healthy = "dead path", (Normal,), Pathwise()

    def surrogate(self, site, downstream):
        theta, value = site.theta, site.sample()
        return downstream(value + (theta[..., 0] - theta[..., 0].detach()))
