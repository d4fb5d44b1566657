"""Straight-through estimators with one mistake: they claim the mean of the healthy one, or nothing."""

import torch

from estimator_lab.estimators import ReinMax, StraightThrough
from mutants.mutant import Mutant


class _Through(Mutant):
    healthy, unbiased = StraightThrough(), False

    def through(self, site):
        raise NotImplementedError

    def surrogate(self, site, downstream):
        through = self.through(site)
        return downstream(site.sample() + (through - through.detach()))


class ExtraDetach(Mutant):
    """The soft value is detached twice: nothing is left to differentiate."""

    cause, healthy, unbiased = "dead path", StraightThrough(), False

    def surrogate(self, site, downstream):
        through = site.mean.detach()
        return downstream(site.sample() + (through - through.detach()))


class MissingSigmoidDerivative(_Through):
    """The identity where the derivative of the mean was meant."""

    cause, like = "power of p(1-p)", StraightThrough()

    def through(self, site):
        return site.theta


class _Clamped(torch.autograd.Function):
    """The identity inside [-1, 1], with the subgradient 0 at its ends."""

    @staticmethod
    def forward(ctx, theta):
        ctx.save_for_backward(theta)
        return theta.clone()

    @staticmethod
    def backward(ctx, gradient):
        (theta,) = ctx.saved_tensors
        return gradient * ((theta > -1) & (theta < 1))


class ClampedThrough(StraightThrough):
    """The healthy one: passes the gradient inside [-1, 1], its ends included."""

    def surrogate(self, site, downstream):
        through = site.theta.clamp(-1, 1)
        return downstream(site.sample() + (through - through.detach()))


class ZeroAtTies(_Through):
    """The subgradient of a clamp is zero at its ends, where saturated values lie (pytorch/ao#4806)."""

    cause, source = "ties", "pytorch/ao#4806"
    healthy = like = ClampedThrough()

    def through(self, site):
        return _Clamped.apply(site.theta)


class _Slope(torch.autograd.Function):
    @staticmethod
    def forward(ctx, theta):
        ctx.save_for_backward(theta)
        return theta.sigmoid()

    @staticmethod
    def backward(ctx, gradient):
        (theta,) = ctx.saved_tensors
        return gradient * (-25 * theta).exp() / ((-25 * theta).exp() + 1).square()


class OverflowingSlope(_Through):
    """exp / (exp + 1)^2 with a slope of 25 is inf / inf a few units below threshold (jeshraghian/snntorch#427)."""

    cause, source = "non-finite", "jeshraghian/snntorch#427"

    def through(self, site):
        return _Slope.apply(site.theta)


class HeunWithoutTheMean(_Through):
    """ReinMax with b (b - 1/2) in the place of (b - 1/2)(b - p)."""

    cause = "missing term"
    healthy = like = ReinMax()

    def surrogate(self, site, downstream):
        value = site.sample()
        through = (value - 0.5) * value * site.theta
        return downstream(value + (through - through.detach()))


class ThresholdNoted(_Through):
    """The derivative is taken at another threshold than the sample (synsense/sinabs#97: thresholds other than 1)."""

    cause, source, like = "parametrisation", "synsense/sinabs#97", StraightThrough()

    def through(self, site):
        return (site.theta - 1).sigmoid()
