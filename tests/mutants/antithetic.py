"""Antithetic pairs with one mistake."""

import torch

from estimator_lab.estimators import ARM, DisARM, MeanField, Sample
from mutants.mutant import Mutant


class _Pair(Mutant):
    """DisARM with parts that can be replaced."""

    healthy = DisARM()
    rest = Sample()

    def twin(self, site, u):
        return (u < site.mean.detach()).to(u.dtype)

    def weight(self, theta):
        return theta.abs().sigmoid() / 2

    def surrogate(self, site, downstream):
        theta, u = site.theta.detach(), site.uniform()
        b, twin = (1 - u < theta.sigmoid()).to(theta.dtype), self.twin(site, u)
        loss = downstream(b)
        with torch.no_grad():
            other = downstream(twin, using=self.rest)
        sign = torch.where(b != twin, 1 - 2 * twin, 0.0)
        return loss + site.inject(site.expand(loss - other) * sign * self.weight(theta))


class WithoutTheHalf(_Pair):
    """DisARM without its factor 1/2."""

    cause = "gain 2"

    def weight(self, theta):
        return theta.abs().sigmoid()


class IndependentTwin(_Pair):
    """A pair that is not antithetic: the twin has a number of its own."""

    cause = "coupling"

    def twin(self, site, u):
        return site.sample()


class EqualTwin(_Pair):
    """A twin that is the sample: the difference is always zero."""

    cause = "dead path"

    def twin(self, site, u):
        return (1 - u < site.mean.detach()).to(u.dtype)


class SmallerProbability(_Pair):
    """min(p, 1 - p) in the place of max(p, 1 - p): right at p = 1/2 only."""

    cause = "saturation"

    def weight(self, theta):
        return (-theta.abs()).sigmoid() / 2


class SignOfTheLogit(_Pair):
    """max(p, 1 - p) by the sign of the logit, which is zero at p = 1/2."""

    cause = "ties"

    def weight(self, theta):
        p = theta.sigmoid()
        return (p * (theta > 0) + (1 - p) * (theta < 0)) / 2


class TwinAtTheMean(_Pair):
    """The twin's later layers at their means, the sample's drawn."""

    cause, rest = "depth", MeanField()


class MirroredPair(_Pair):
    """The pair with the mirrored number, 1 - u in the place of u: both have the same law."""

    cause = "coupling"
    equivalent = "u and 1 - u have the same law, and the estimate is symmetric in its pair"

    def surrogate(self, site, downstream):
        theta, u = site.theta.detach(), site.uniform()
        b, twin = (u < theta.sigmoid()).to(theta.dtype), (1 - u < theta.sigmoid()).to(theta.dtype)
        loss = downstream(b)
        with torch.no_grad():
            other = downstream(twin, using=Sample())
        sign = torch.where(b != twin, 1 - 2 * twin, 0.0)
        return loss + site.inject(site.expand(loss - other) * sign * self.weight(theta))


class _Merged(Mutant):
    healthy = ARM()

    def weight(self, u, p):
        raise NotImplementedError

    def surrogate(self, site, downstream):
        p, u = site.mean.detach(), site.uniform()
        loss = downstream((1 - u < p).to(p.dtype))
        with torch.no_grad():
            other = downstream((u < p).to(p.dtype), using=Sample())
        return loss + site.inject(site.expand(loss - other) * self.weight(u, p))


class TurnedNumber(_Merged):
    """ARM with the sign of its number turned."""

    cause = "sign"

    def weight(self, u, p):
        return 0.5 - u


class CentredAtP(_Merged):
    """2 u - 1 in the place of u - 1/2."""

    cause = "gain 2"

    def weight(self, u, p):
        return 2 * u - 1


class ProbabilityOfTheNumber(_Merged):
    """u - 1/2 divided by p (1 - p): the gradient in p."""

    cause = "power of p(1-p)"

    def weight(self, u, p):
        return (u - 0.5) / (p * (1 - p)).clamp(min=1e-12)
