"""REINFORCE whose baseline is the mean loss of the other paths."""

from dataclasses import dataclass

from torch import Tensor

from estimator_lab.errors import UsageError
from estimator_lab.estimator import Downstream, Estimator
from estimator_lab.families import Scored
from estimator_lab.site import Site


@dataclass(frozen=True)
class LeaveOneOut(Estimator):
    """Score function with a leave-one-out baseline over K joint sample paths (RLOO, LOORF).

    ``(1/K) sum_k (f_k - mean of the other f_j) s_k``, which equals ``1/(K - 1) sum_k (f_k - mean f) s_k``.

    Bias: none: the baseline of path k is independent of path k.

    Cost: K losses; no backward pass through the sampled values.

    Reference: Salimans and Knowles 2014 (arXiv:1401.1022); Kool, van Hoof, Welling 2019, "Buy 4 REINFORCE samples".

    Args:
        paths: K, at least 2.

    Raises:
        UsageError: fewer than 2 paths.
    """

    paths: int = 4

    unbiased = True
    families = (Scored,)
    equation = "hat(g) = 1/K sum_(k=1)^K (f(x_k) - 1/(K - 1) sum_(j != k) f(x_j)) nabla_theta log p_theta (x_k)"

    def __post_init__(self) -> None:
        if self.paths < 2:
            raise UsageError(f"LeaveOneOut needs at least 2 paths to leave one out; found paths={self.paths}")

    @property
    def label(self) -> str:
        """Short name."""
        return f"RLOO, K = {self.paths}"

    def surrogate(self, site: Site, downstream: Downstream) -> Tensor:
        """The loss, plus its excess over the other paths times the score."""
        value = site.sample()
        loss = downstream(value)
        paths = loss.shape[-3]
        others = (loss.sum(-3, keepdim=True) - loss) / (paths - 1)
        return loss + site.score(value, loss - others)
