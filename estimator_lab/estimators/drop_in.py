"""A user's sampling function with its own backward pass."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from estimator_lab.errors import UsageError
from estimator_lab.estimator import Downstream, Estimator
from estimator_lab.site import Site


@dataclass(frozen=True, repr=False)
class DropIn(Estimator):
    """Any ``theta -> sample`` that carries its own gradient: an ``autograd.Function``, a quantiser, a relaxed sampler.

    The function is applied to theta ``[K, R, B, *units, *theta_shape]``, elementwise over the leading axes. It may draw
    from torch's global random stream, which is seeded for every block and put back.

    Bias: whatever the function brings; no claim.

    Cost: 1 loss, 1 backward pass.

    Args:
        function: ``theta -> value``, shape of the site's value.
        unbiased: the claim to hold it to, if any.
    """

    function: Callable[[Tensor], Tensor]
    unbiased: bool | None = None

    def __post_init__(self) -> None:
        """Refuses what is no function of theta."""
        if isinstance(self.function, type) and issubclass(self.function, torch.autograd.Function):
            name = self.function.__name__
            raise UsageError(f"{name} is a class of torch.autograd.Function; give {name}.apply")
        if not callable(self.function):
            raise UsageError(f"DropIn takes a function theta -> sample; found {type(self.function).__name__}")

    def surrogate(self, site: Site, downstream: Downstream) -> Tensor:
        """The loss at the function's value."""
        return downstream(self.function(site.theta))

    def __repr__(self) -> str:
        owner = getattr(self.function, "__self__", None)  # apply of an autograd.Function is named after torch's class
        own = isinstance(owner, type) and issubclass(owner, torch.autograd.Function)
        named = owner if own else self.function
        return f"DropIn({getattr(named, '__qualname__', type(named).__qualname__)})"
