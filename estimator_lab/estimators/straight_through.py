"""The backward pass of a hard sample replaced by that of its mean, or by the identity."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from estimator_lab.errors import UsageError
from estimator_lab.estimator import Downstream, Estimator
from estimator_lab.families import Discrete
from estimator_lab.site import Site


@dataclass(frozen=True)
class StraightThrough(Estimator):
    """A hard sample forward; backward the derivative of the mean ("mean") or the identity in the logits ("identity").

    For a Bernoulli unit: ``f'(b) p (1 - p)`` or ``f'(b)``.

    Bias: "mean" is exact for f multilinear in the units of one layer; a quadratic a x^2 + c x in one Bernoulli unit is
    off by a p (1 - p) (2 p - 1). "identity" has another scale for every unit as well. Both need a meaningful f'(b).

    Cost: 1 loss, 1 backward pass.

    Reference: Bengio, Léonard, Courville 2013 (arXiv:1308.3432), section 4; Hinton 2012 (lectures).

    Args:
        derivative: "mean" or "identity".

    Raises:
        UsageError: the derivative is neither.
    """

    derivative: Literal["mean", "identity"] = "mean"

    unbiased = False
    families = (Discrete,)
    equation = "hat(g) = f'(b) thin nabla_theta EE[b] quad \"or\" quad hat(g) = f'(b)"

    def __post_init__(self) -> None:
        if self.derivative not in ("mean", "identity"):
            raise UsageError(f'the derivative of StraightThrough is "mean" or "identity"; found {self.derivative!r}')

    @property
    def label(self) -> str:
        """Short name."""
        return "ST" if self.derivative == "mean" else "ST (identity)"

    def surrogate(self, site: Site, downstream: Downstream) -> Tensor:
        """The loss at the sample, with the other's derivative."""
        through = site.mean if self.derivative == "mean" else site.theta
        return downstream(site.sample() + (through - through.detach()))
