"""Straight-through, fitted to the score function by least squares."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from estimator_lab.errors import UsageError
from estimator_lab.estimator import Downstream, Estimator, MeanGradient, derivative
from estimator_lab.estimators.reinforce import Reinforce
from estimator_lab.families import Bernoulli
from estimator_lab.site import Site


@dataclass(frozen=True)
class FittedStraightThrough(Estimator):
    """A cheap biased estimate regressed on a noisy unbiased one: an affine function of straight-through for each unit.

    With x = f'(b) p (1 - p), straight-through's estimate, and y = (f(b) - c) (b - p), the score function's with the
    unit's best constant c ("unit" in `Reinforce`), the estimate is ``alpha x + beta``. Its coefficients minimise the
    mean square of ``alpha x + beta - y`` over draws and examples: alpha = Cov(x, y) / Var(x), beta = E[y] - alpha E[x].
    Layers are fitted from the last to the first, each with those after it as fitted.

    Bias: none in the mean over examples, to which least squares with a constant fits, in one layer; that is the
    gradient of a bias that all examples share. That of single examples, and of weights whose input varies, is biased
    unless E[y given the input] is an affine function of E[x given the input]. Over draws and examples together the
    variance is at most that of y: their ratio is the squared correlation of x and y.

    Cost: 1 loss, 1 backward pass. The coefficients are fitted beforehand, on other draws.

    Reference: the abstract of Bengio 2013 (arXiv:1305.2982) proposes to learn a less noisy biased predictor of an
    unbiased estimator. The form is ours.
    """

    fitted: Mapping[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    unbiased = False
    families = (Bernoulli,)
    equation = "hat(g) = alpha f'(b) p (1 - p) + beta"

    @property
    def label(self) -> str:
        """Short name."""
        return "ST, fitted"

    def adapt(self, mean_gradient: MeanGradient) -> Self:
        """Fits alpha and beta of each unit ``[2, *units]``, over the examples."""
        centres = Reinforce("unit").adapt(mean_gradient).fitted
        fitted: dict[str, Tensor] = {}
        for name in reversed(list(centres)):
            later = replace(self, fitted=dict(fitted))

            def mean(x: int, y: int, shift: Tensor | float, name: str = name, later: Self = later) -> Tensor:
                moment = _Moment(name, x, y, shift, centres[name], later)
                return mean_gradient(moment)[name].mean(0)

            middle = mean(1, 0, 0.0)
            # about its mean: where x hardly varies, E[x y] and E[x] E[y] with errors of their own would not cancel
            spread, joint, level = mean(2, 0, middle), mean(1, 1, middle), mean(0, 1, 0.0)
            rounding = torch.finfo(spread.dtype).eps * middle.square()
            gain = (joint / spread).where(spread > rounding, 0)
            fitted[name] = torch.stack([gain, level - gain * middle])
        return replace(self, fitted=fitted)

    def surrogate(self, site: Site, downstream: Downstream) -> Tensor:
        """The loss at the sample, with alpha times the derivative of its mean, plus beta injected."""
        if site.name not in self.fitted:
            raise UsageError(
                f"{self!r} was not fitted: measure it through estimator_lab.measure, which adapts it first"
            )
        gain, shift = self.fitted[site.name]
        mean, theta = site.mean.detach(), site.theta
        through = gain * mean * (1 - mean) * (theta - theta.detach())
        return downstream(site.sample() + through) + site.inject(shift.expand_as(theta))


@dataclass(frozen=True)
class _Moment(Estimator):
    """Injects ``(x - shift)^a y^b`` at one site, so that its mean gradient there is a moment of the two estimates."""

    where: str
    of_x: int
    of_y: int
    shift: Tensor | float = field(repr=False)
    centre: Tensor = field(repr=False)
    later: FittedStraightThrough = field(repr=False)

    def surrogate(self, site: Site, downstream: Downstream) -> Tensor:
        ours = isinstance(site.family, Bernoulli)  # other sites have an estimator of their own (`PerSite`)
        if ours and site.name in self.later.fitted:
            return self.later.surrogate(site, downstream)
        value = site.sample()
        if not ours or site.name != self.where:
            return downstream(value)
        mean = site.mean.detach()
        leaf = value.requires_grad_()
        loss = downstream(leaf)
        x = derivative(loss, leaf) * mean * (1 - mean) - self.shift
        y = (site.expand(loss.detach()) - self.centre) * (value.detach() - mean)
        return loss.detach() + site.inject(x**self.of_x * y**self.of_y)
