"""Weight decay on demand, for tables of which a step touches few rows."""

import math
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from estimator_lab.errors import UsageError
from estimator_lab.trees import TreeTables


class LazyDecay(torch.optim.Optimizer):
    """Stochastic gradient descent with weight decay that a row of a tree's table gets when it is next visited.

    A step of learning rate e and decay w multiplies every weight by ``1 - e w`` and then subtracts e times its
    gradient. A row that no example visits has gradient zero, so that its steps from s to t - 1 amount to one factor::

        prod_{s <= i < t} (1 - e_i w)

    which it gets at once, before the forward pass that next reads it. So a step costs what the visited rows cost, and
    every number that a network computes is what decay in every step would have given, to rounding; the learning rate
    may follow any schedule (``torch.optim.lr_scheduler``). The products are kept as sums of logarithms, one per row:
    they neither overflow nor vanish.

    The factor comes before the forward pass, not with the update after it: a gradient that depends on the weight would
    else be taken at another weight, and the result be off by a term of order e^2 w.

    Forward passes through the module bring the rows that they read up to date. Call ``finish()`` before weights are
    read in another way: saved, copied (as ``from_module`` does) or summed.

    Parameters other than tables of a ``TreeLinear`` get plain stochastic gradient descent, with the same decay in
    every step in which they have a gradient.

    Reference: decay by ``(1 - e w)^dt`` after dt steps without a visit is that of Cho and Bengio 2014
    (arXiv:1406.7362); the order of the operations, schedules and the sums of logarithms are a reconstruction.

    Args:
        module: holds the layers; all its parameters are updated.
        lr: learning rate e.
        weight_decay: w.
        momentum: zero.

    Raises:
        UsageError: momentum, numbers below zero, or a module without a ``TreeLinear``; and, at a step, ``lr *
            weight_decay`` of 1 or more.
    """

    def __init__(self, module: nn.Module, lr: float, weight_decay: float = 0.0, momentum: float = 0.0):
        if momentum:
            raise UsageError(
                f"LazyDecay is for plain SGD, momentum=0; found {momentum}: a velocity moves a row in steps that "
                "do not visit it, which no factor on the next visit makes good; use torch.optim.SGD"
            )
        if lr < 0 or weight_decay < 0:
            raise UsageError(f"learning rate and decay are not negative; found lr={lr}, weight_decay={weight_decay}")
        tables = [part for part in module.modules() if isinstance(part, TreeTables)]
        if not tables:
            raise UsageError(f"{type(module).__name__} holds no TreeLinear; use torch.optim.SGD")
        super().__init__(module.parameters(), {"lr": lr, "weight_decay": weight_decay})
        self._tables = {part.weight for part in tables}
        self._begin()
        for part in tables:
            part.register_forward_pre_hook(
                partial(_before, weakref.ref(self))
            )  # a copy of the module has no part in it

    def _begin(self) -> None:
        """Takes all rows to be up to date."""
        self._logarithm = 0.0  # of the product of all factors since then
        for weight in self._tables:  # and of what every row has had of it
            self.state[weight]["decayed"] = torch.zeros(len(weight), dtype=torch.float64, device=weight.device)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of all parameters, and of the clock of the tables."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        (group,) = self.param_groups
        rate, decay = group["lr"], group["lr"] * group["weight_decay"]
        if not decay < 1:
            raise UsageError(f"a step keeps 1 - lr * weight_decay of a weight, which is above 0; found {1 - decay}")
        self._logarithm += math.log1p(-decay)
        for weight in group["params"]:
            if weight.grad is None:
                continue
            if weight not in self._tables:
                weight.mul_(1 - decay).sub_(weight.grad, alpha=rate)
                continue
            rows, slopes = _touched(weight.grad)
            self._bring(weight, rows)  # with the factor of this step
            weight[rows] -= rate * slopes
        return loss

    @torch.no_grad()
    def finish(self) -> None:
        """Brings every row up to date."""
        for weight in self._tables:
            self._bring(weight, torch.arange(len(weight), device=weight.device))
        self._begin()

    def state_dict(self) -> dict[str, Any]:
        """Rates; every row is brought up to date, so that there is nothing else to keep."""
        self.finish()
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Rates; all rows of the module, as it is, are taken to be up to date."""
        super().load_state_dict(state_dict)
        self._begin()

    def _bring(self, weight: Tensor, rows: Tensor) -> None:
        """Multiplies rows by what they lack; rows may be named more than once."""
        decayed = self.state[weight]["decayed"]
        lack = self._logarithm - decayed[rows]
        behind = lack != 0
        rows, lack = rows[behind], lack[behind]
        # Written past the version counter: what a graph holds of other forward passes are rows that they have brought
        # up to date, and these are not written.
        data = weight.data
        data[rows] = data[rows] * lack.exp().to(data)[:, None]
        decayed[rows] = self._logarithm


@torch.no_grad()
def _before(reference: weakref.ref[LazyDecay], tables: TreeTables, given: tuple[Any, ...]) -> None:
    """Brings the rows up to date that a forward pass will read, if it is one with the optimiser's own parameters."""
    optimiser = reference()
    if optimiser is None or tables.weight not in optimiser._tables:
        return
    x, gates = given
    optimiser._bring(tables.weight, tables.reads(gates.reshape(-1, *gates.shape[x.dim() - 1 :])))


def _touched(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The rows whose gradient is not zero, each once, and their gradients."""
    if gradient.is_sparse:
        together = gradient.coalesce()
        return together.indices()[0], together.values()
    rows = gradient.ne(0).any(-1).nonzero()[:, 0]
    return rows, gradient[rows]
