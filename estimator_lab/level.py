"""What a constant added to the loss does to the variance of an estimator: nothing, where its baseline is right."""

import math
from dataclasses import dataclass

from estimator_lab import doors
from estimator_lab.conformance.points import LAWS
from estimator_lab.errors import UsageError
from estimator_lab.estimator import Estimator
from estimator_lab.problem import Problem
from estimator_lab.site import SiteSpec
from estimator_lab.small import SmallProblem
from estimator_lab.small_means import Moved, see

LEVEL = 2.0
"""What is added to the loss."""

SURE = 5.0
"""Standard errors of a ratio of drawn variances."""


@dataclass(frozen=True)
class LevelEffect:
    """Variance of an estimator, summed over unit gradients, with a constant c added to the loss: V + 2 a c + b c^2.

    A gradient does not hear c, and an estimate that is linear in the loss has this variance: b is that of what the loss
    is multiplied by, the scores. Where b is zero, c is taken off by a baseline, or never enters.

    Attributes:
        variance: V, at the loss as it is.
        cross: a, the covariance of the estimate with the scores.
        scores: b, the variance of the scores; zero where it is not established.
        error: standard error of ``2 b c^2 / V`` at c = 2; 0 where it is exact.
        variance_error: of V; 0 where it is exact.
        factor_error: of ``factor()``; 0 where it is exact.
    """

    variance: float
    cross: float
    scores: float
    error: float
    variance_error: float = 0.0
    factor_error: float = 0.0

    def factor(self, level: float = LEVEL) -> float:
        """The variance at this level over that at the loss as it is."""
        if not self.scores:
            return 1.0
        return (self.variance + 2 * self.cross * level + self.scores * level**2) / self.variance

    @property
    def removable(self) -> float:
        """Share of the variance that the best constant baseline takes away, ``a^2 / (b V)``; 0 where b is zero."""
        # not above 1 by Cauchy and Schwarz, if it is linear in the loss; and up to the errors of draws
        return min(self.cross**2 / (self.scores * self.variance), 1.0) if self.scores else 0.0

    @property
    def words(self) -> str:
        """A sentence, or an empty string where the variance does not hear the constant."""
        if not self.scores:
            return ""
        return (
            f"adding {LEVEL:g} to the loss multiplies the variance by {self.factor():.3g}, and leaves the gradient as "
            f"it is; the best constant baseline would take {100 * self.removable:.0f} % of the variance away"
        )


def level_effect(estimator: Estimator, problem: Problem | None = None) -> LevelEffect:
    """What a constant added to the loss does to the variance of an estimator.

    Variances are exact where the random numbers can be summed, else those of 16384 draws on the same random numbers;
    then a change counts from five standard errors and 10 % on.

    Args:
        estimator: any.
        problem: by default two unequal units of the first law that it applies to, under a cubic loss.

    Raises:
        UsageError: it refuses every law of the package, and no problem is given.

    Cost: three means on the problem; some 0.05 s by default.
    """
    estimator = doors.an_estimator(estimator, "level_effect(estimator, problem)")
    if problem is None:
        family = next((f for f in LAWS if not estimator.refuses(SiteSpec("h1", f, (1,)))), None)
        if family is None:
            raise UsageError(f"{estimator!r} refuses every law of the package; give a problem that it applies to")
        problem = SmallProblem((2,), 3, 1, family)
    low, mid, high = (see(Moved(problem, level=level), estimator) for level in (-LEVEL, 0.0, LEVEL))
    here, up, down = (float(s.variance.sum()) for s in (mid, high, low))
    if not here > 0:
        return LevelEffect(here, 0.0, 0.0, 0.0)
    error = variance_error = factor_error = 0.0
    if high.spreads is not None and mid.spreads is not None and low.spreads is not None:
        curves, rests = high.spreads + low.spreads - 2 * mid.spreads, high.spreads - up / here * mid.spreads
        root = math.sqrt(len(curves))
        error, factor_error = (float(x.std(ddof=1)) / root / here for x in (curves, rests))
        variance_error = float(mid.spreads.std(ddof=1)) / root
    curve = up + down - 2 * here
    heard = curve > max(SURE * error, 0.1 if error else 1e-9) * here
    cross, scores = ((up - down) / (4 * LEVEL), curve / (2 * LEVEL**2)) if heard else (0.0, 0.0)
    return LevelEffect(here, cross, scores, error, variance_error, factor_error)
