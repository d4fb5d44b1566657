"""The score-function estimator with a baseline that is constant over draws."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Self

from torch import Tensor

from estimator_lab.errors import UsageError
from estimator_lab.estimator import Downstream, Estimator, MeanGradient
from estimator_lab.families import Scored
from estimator_lab.site import Site


@dataclass(frozen=True)
class _Weighted(Estimator):
    """Injects ``loss^a * score^b`` at every unit, so that mean gradients of it are the moments a baseline needs.

    Sites without a score, which another estimator runs (`PerSite`), get nothing.
    """

    by_loss: bool
    by_square: bool

    def surrogate(self, site: Site, downstream: Downstream) -> Tensor:
        value = site.sample()
        loss = downstream(value)
        if not isinstance(site.family, Scored):
            return loss
        scores = site.family.score(site.theta.detach(), value)
        quantity = scores.square() if self.by_square else scores.new_ones(()).expand_as(scores)
        return loss + site.inject(quantity * site.expand(loss) if self.by_loss else quantity)


@dataclass(frozen=True)
class _Nothing(Estimator):
    """No gradient through samples: what reaches theta directly."""

    def surrogate(self, site: Site, downstream: Downstream) -> Tensor:
        return downstream(site.sample())


def score_moments(mean_gradient: MeanGradient, square: bool) -> dict[str, tuple[Tensor, Tensor]]:
    """E[f s^2] and E[s^2] of every example and unit by site name, or E f and 1: ``[B, *units, *theta_shape]``.

    Gradients that reach theta directly, not through the sample, are the same in every term and cancel in the
    differences.
    """
    moment, plain = mean_gradient(_Weighted(True, square)), mean_gradient(_Weighted(False, square))
    nothing = mean_gradient(_Nothing())
    return {k: (moment[k] - v, plain[k] - v) for k, v in nothing.items()}


@dataclass(frozen=True)
class Reinforce(Estimator):
    """Score function: the loss times the gradient of the sample's log-probability.

    With baseline c the estimate for one unit is ``(f(x) - c) d log p(x) / d theta``; for a Bernoulli unit
    ``(f(b) - c) (b - p)``. "mean" takes c = E f, "optimal" the constant of least variance for each unit,
    c = E[f s^2] / E[s^2] with s the unit's score; for one Bernoulli unit that is (1 - p) f(1) + p f(0), not E f. Both
    are fitted for each example. "unit" is one constant for each unit: both expectations are over the examples as well.

    Bias: none: E[s] = 0, so any c that does not depend on the sample leaves E[(f - c) s] = E[f s] = d E[f] / d theta.

    Cost: 1 loss; no backward pass through the sampled values. Baselines are fitted beforehand, on other draws.

    Reference: Williams 1992 (doi:10.1007/BF00992696); Weaver and Tao 2001 and Bengio et al. 2013 (arXiv:1308.3432,
    Corollary 1) for the optimal baseline.

    Args:
        baseline: None, a number, "mean", "optimal", "unit", or "given": constants ``[*units, *theta_shape]`` that are
            handed over by site name as ``fitted``, such as those of a `RunningBaseline` at a point of a training.

    Raises:
        UsageError: the baseline is none of these, or is to be fitted or given and was not.
    """

    baseline: float | Literal["mean", "optimal", "unit", "given"] | None = None
    fitted: Mapping[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    unbiased = True
    families = (Scored,)
    equation = "hat(g) = (f(x) - c) nabla_theta log p_theta (x)"

    def __post_init__(self) -> None:
        if isinstance(self.baseline, str) and self.baseline not in ("mean", "optimal", "unit", "given"):
            raise UsageError(
                'the baseline of Reinforce is None, a number, "mean", "optimal", "unit" or "given"; '
                f"found {self.baseline!r}"
            )

    @property
    def label(self) -> str:
        """Short name."""
        return "REINFORCE" if self.baseline is None else f"REINFORCE ({self.baseline})"

    def adapt(self, mean_gradient: MeanGradient) -> Self:
        """Fits E f or E[f s^2] / E[s^2] per example and unit, or the latter over the examples per unit."""
        if not isinstance(self.baseline, str) or self.baseline == "given":
            return self
        found = score_moments(mean_gradient, self.baseline != "mean")
        if self.baseline == "unit":
            found = {k: (moment.mean(0), norm.mean(0)) for k, (moment, norm) in found.items()}
        return replace(self, fitted={k: (moment / norm).where(norm > 0, 0) for k, (moment, norm) in found.items()})

    def surrogate(self, site: Site, downstream: Downstream) -> Tensor:
        """The loss, plus its centred value times the score."""
        value = site.sample()
        loss = downstream(value)
        if isinstance(self.baseline, str):
            if site.name not in self.fitted:
                raise UsageError(self._lacks(site))
            centre = self.fitted[site.name]
        else:
            centre = loss.new_tensor(self.baseline or 0.0)
        scores = site.scored.score(site.theta.detach(), value)
        return loss + site.inject((site.expand(loss) - centre) * scores)

    def _lacks(self, site: Site) -> str:
        if self.baseline != "given":
            return f"{self!r} was not fitted: measure it through estimator_lab.measure, which adapts it first"
        shape = list(site.spec.theta_shape)
        return f"{self!r} has no baseline for site {site.name!r}: fitted={{{site.name!r}: c}} with a tensor c {shape}"
