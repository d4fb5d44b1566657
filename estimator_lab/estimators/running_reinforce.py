"""The score-function estimator with a running baseline, over successive minibatches."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from estimator_lab.errors import UsageError
from estimator_lab.estimator import Downstream, Estimator, MeanGradient
from estimator_lab.estimators.reinforce import score_moments
from estimator_lab.estimators.running_baseline import check_decay, running_averages
from estimator_lab.families import Scored
from estimator_lab.site import Site


@dataclass(frozen=True)
class RunningReinforce(Estimator):
    """Score function with one baseline for each unit, tracked by two running averages over minibatches.

    The K paths are K minibatches in succession: each draws all B examples at the same weights, and

        ``N <- c N + (1 - c) mean over examples of s^2 f``,  ``D <- c D + (1 - c) mean over examples of s^2``.

    The estimate is the mean over paths of ``(f - N / D) s``, with N and D from before the path ("lagged"), or with
    the path in them. Before the first path N and D are at their expectations, which ``adapt`` fits: what is
    measured is the noise of tracking, without the start of a training and without the lag behind weights that move.
    For K = 1 the lagged one is `Reinforce` with the baseline "unit". The baseline is common to the examples, whose
    gradients are therefore not independent.

    Bias: none if lagged: N and D are then independent of the path's samples, and E[s] = 0. Otherwise, with b = N / D
    before the path and D' after it, N' / D' = b + (1 - c) / (B D') sum_j s_j^2 (f_j - b), hence for example i
    ``-(1 - c) / B E[s_i sum_j s_j^2 (f_j - b) / D']``, to first order ``-(1 - c) / (B D) E[s_i^3 (f_i - b)]``. For one
    Bernoulli unit at one input that is -(1 - c) / B times the gradient: it shrinks.

    Cost: K losses; no backward pass through the sampled values. The expectations are fitted beforehand, on other draws.

    Reference: Bengio, Léonard, Courville 2013 (arXiv:1308.3432), after Corollary 1. The bias is derived here.

    Args:
        decay: c, the weight of the past, at least 0 and below 1.
        paths: K, minibatches in succession.
        lagged: whether a minibatch uses the averages from before it.

    Raises:
        UsageError: the decay is out of range, or the averages were not fitted.
    """

    decay: float = 0.9
    paths: int = 8
    lagged: bool = True
    fitted: Mapping[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    unbiased = True
    families = (Scored,)
    equation = "hat(g) = 1/K sum_(k=1)^K (f(x_k) - N_(k-1) \\/ D_(k-1)) nabla_theta log p_theta (x_k)"

    def __post_init__(self) -> None:
        check_decay(self.decay)
        object.__setattr__(self, "unbiased", self.lagged)

    @property
    def label(self) -> str:
        """Short name."""
        return f"REINFORCE (running, {self.decay:g}" + (")" if self.lagged else ", not lagged)")

    def adapt(self, mean_gradient: MeanGradient) -> Self:
        """Fits the expectations of both averages for each unit, over the examples."""
        moments = score_moments(mean_gradient, square=True)
        return replace(self, fitted={k: torch.stack(pair).mean(1) for k, pair in moments.items()})

    def surrogate(self, site: Site, downstream: Downstream) -> Tensor:
        """The loss, plus its excess over the running baseline times the score."""
        if site.name not in self.fitted:
            raise UsageError(
                f"{self!r} was not fitted: measure it through estimator_lab.measure, which adapts it first"
            )
        value = site.sample()
        loss = downstream(value)
        score = site.scored.score(site.theta.detach(), value)
        numerator, denominator = self.fitted[site.name]
        centres = []
        for s, f in zip(score.unbind(site.lead - 3), loss.detach().unbind(-3), strict=True):
            after = running_averages(numerator, denominator, s, f, self.decay)
            above, below = (numerator, denominator) if self.lagged else after
            centre = (above / below).where(below > 0, 0)
            centres.append(centre.expand(*f.shape[:-1], *score.shape[site.lead :]))
            numerator, denominator = after
        centre = torch.stack(centres, site.lead - 3).unsqueeze(site.lead - 1)  # [*extra, K, R, 1, *units, *theta]
        return loss + site.inject((site.expand(loss) - centre) * score)
