"""An estimator in the notation of papers: from theta and f to a gradient."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from estimator_lab.estimator import Downstream, Estimator
from estimator_lab.estimators.sample import Sample
from estimator_lab.site import Site


@dataclass(frozen=True, repr=False)
class Callback(Estimator):
    """Any ``(theta, f) -> gradient``, with f a black box or differentiable, as papers write estimators.

    theta is ``[K, R, B, *units, *theta_shape]``, detached; ``f`` takes ``[..., K, R, B, *units, *value_shape]`` to
    losses ``[..., K, R, B]``, later sites sampled; the gradient has the shape of theta. The function may draw from
    torch's global random stream, which is seeded for every block and put back.

    Bias: whatever the function brings; no claim.

    Cost: what the function evaluates, and 1 loss for the weights after the site.

    Args:
        function: ``(theta, f) -> gradient``.
        unbiased: the claim to hold it to, if any.
    """

    function: Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]
    unbiased: bool | None = None

    def surrogate(self, site: Site, downstream: Downstream) -> Tensor:
        """The loss at a sample, plus the injected gradient."""
        loss = downstream(site.sample())
        theta = site.theta.detach()
        with torch.enable_grad():
            gradient = self.function(theta, lambda value: downstream(value, using=Sample()))
        return loss + site.inject(gradient)

    def __repr__(self) -> str:
        return f"Callback({getattr(self.function, '__qualname__', type(self.function).__qualname__)})"
