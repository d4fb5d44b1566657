"""Each unit summed over its own values, with a control variate of mean zero for the next layer's noise."""

from dataclasses import dataclass

import torch
from torch import Tensor

from estimator_lab.estimator import Downstream, Estimator
from estimator_lab.estimators.local_expectation import LocalExpectation
from estimator_lab.estimators.sample import Sample
from estimator_lab.families import Discrete
from estimator_lab.site import Site


def _flipped(family: Discrete, value: Tensor, units: int) -> tuple[Tensor, Tensor]:
    """The other values of every unit ``[C - 1, *value]``, and the layer with one unit changed to each of them.

    The second is ``[(C - 1) units, *value]``, the unit being the faster index.
    """
    others = family.alternatives(value)[1:]
    tail = len(family.value_shape)
    shape = value.shape[value.dim() - tail :]
    flat, options = value.reshape(-1, units, *shape), others.reshape(len(others), -1, units, *shape)
    here = torch.eye(units, dtype=torch.bool, device=value.device).reshape(units, 1, units, *(1,) * tail)
    changed = torch.where(here, options[:, None], flat)  # [C - 1, units, -1, units, *shape]
    return others, changed.reshape(-1, *value.shape)


class _Peek(Estimator):
    """Finds out how many single-unit changes the next site has, and evaluates nothing.

    Attributes:
        reached: whether there is a next site.
        changes: units times other values, 0 for a continuous site.
    """

    reached = False
    changes = 0

    def surrogate(self, site: Site, downstream: Downstream) -> Tensor:
        """Zeros."""
        self.reached = True
        if isinstance(site.family, Discrete):
            self.changes = site.size * (site.family.rule_size(1) - 1)
        return site.theta.new_zeros(site.theta.shape[: site.lead])


def _first_order(family: Discrete, value: Tensor, theta: Tensor, others: Tensor, gain: Tensor) -> Tensor:
    """``sum_j sum_v (1[x_j = v] - p_jv) gain_jv`` ``[rows, *lead]``, of samples x and their probabilities p.

    Args:
        family: of the units.
        value: samples ``[rows, *lead, *units, *value]``, that of the first row being h.
        theta: their parameters.
        others: the values v that h does not have ``[C - 1, *lead, *units, *value]``; its own has no gain.
        gain: ``[C - 1, units, *lead]``.
    """
    lead = gain.dim() - 1
    if family.rule_size(1) == 2 and not family.value_shape:
        # for two values 1[x = v] is (x - h) / (v - h), and p_v the same of the mean: no exponentials are needed
        noise, step = (value - family.mean(theta)).flatten(lead), (others - value[0]).flatten(lead)
        return torch.einsum("i...j,...j->i...", noise, gain[0].movedim(0, -1) / step[0])
    total = value.new_zeros(value.shape[:lead])
    for other, one in zip(others, gain, strict=True):
        same = value == other
        hit = same.all(-1) if family.value_shape else same
        noise = hit.to(value.dtype) - family.log_prob(theta, other).exp()
        total += torch.einsum("i...j,j...->i...", noise.flatten(lead), one)
    return total


@dataclass(frozen=True)
class _Controlled(Estimator):
    """Losses at a sample of this site, the first-order effect of its noise taken off.

    The first axis holds the unchanged earlier layers, then ``rows - 1`` changed ones, and then the unchanged ones
    again, once for each change of a single unit here.
    """

    rows: int

    def surrogate(self, site: Site, downstream: Downstream) -> Tensor:
        """Losses of all entries; those of the first ``rows`` less their control variate."""
        family, rows = site.relaxation, self.rows
        value = site.sample(common=True)
        others, changed = _flipped(family, value[0], site.size)
        loss = downstream(torch.cat([value[:rows], changed]), using=Sample(common=True))
        gain = (loss[rows:] - loss[0]).unflatten(0, (len(others), site.size))  # f(h with h_j := v) - f(h)
        noise = _first_order(family, value[:rows], site.theta.detach()[:rows], others, gain)
        return torch.cat([loss[:rows] - (noise - noise[0]), loss[rows:]])


@dataclass(frozen=True)
class ControlledFlips(Estimator):
    """Local expectation whose flips are compared with the first-order noise of the next layer taken off.

    As in local expectation, each unit i of a layer is changed alone, and later layers are re-run with common random
    numbers. Let h be the next layer's sample, p its probabilities, and h', p' the same after the change. The noise of
    f(h') - f(h) is mostly that of the few units j that turn over, so that

        ``f(h') - f(h) - sum_j sum_v (1[h'_j = v] - 1[h_j = v] - p'_jv + p_jv) f(h with h_j := v)``

    takes its place. What is subtracted costs one run for each single change of h, shared by all i. At the last layer it
    is local expectation itself.

    Bias: none. The bracket depends on the random number u_j of unit j alone and has the expectation 0; f(h with
    h_j := v) depends on all other numbers, and not on u_j: the two are independent, and their product has the
    expectation 0. It need not hold that later layers see h only: f may depend on the changed layer directly.

    Cost: D (C - 1) + 2 losses for D units of C classes; in a chain 1 + the sum of m + n + 1 over its layers, with
    m = D (C - 1) changes there and n in the next layer; no backward pass through the sampled values.

    Reference: Titsias and Lázaro-Gredilla 2015 for the flips; with common random numbers downstream, Tokui and Sato
    2017 (arXiv:1611.01239). The control variate is derived in the comment below.
    """

    unbiased = True
    families = (Discrete,)
    equation = (
        "hat(g)_i = sum_v nabla_(theta_i) P_theta (x_i = v) [f(h^(i v)) - f(h) - sum_(j,w) "
        "(bold(1)[h_j^(i v) = w] - bold(1)[h_j = w] - p_(j w)^(i v) + p_(j w)) f(h_(-j), h_j = w)]"
    )

    @property
    def label(self) -> str:
        """Short name."""
        return "controlled flips"

    # Why E[sum_v c_v F_v] = 0 here, for unit j of the next layer, with c_v the bracket and F_v = f(h with h_j := v):
    # 1. `_Controlled` draws one uniform number u_j per unit, common to all rows. h_j and h'_j are functions of u_j and
    #    of the probabilities, which the earlier layers fix; so E c_v = (p'_v - p_v) - (p'_v - p_v) = 0.
    # 2. F_v sets unit j itself. Its other units read u_k, k != j; the layers above draw numbers of their own, the same
    #    ones in every row, whose count and place do not depend on u. So F_v and u_j are independent.
    # 3. The code uses F_v - f(h), and f(h) does depend on u_j. But sum_v c_v = 0, for any u_j: taking one number off
    #    all F_v changes nothing. It spares the evaluation at v = h_j, which is f(h) itself.
    # The main path, `downstream(value)` of local expectation, has numbers of its own and enters nowhere.
    def surrogate(self, site: Site, downstream: Downstream) -> Tensor:
        """Local expectation with controlled losses of the flips."""

        def controlled(value: Tensor, using: Estimator | None = None) -> Tensor:
            if using is None:
                return downstream(value)
            peek = _Peek()
            first = downstream(value[0], using=peek)
            if not peek.reached:  # the last layer: this was the loss itself
                return torch.cat([first[None], downstream(value[1:], using=using)])
            if not peek.changes:
                return downstream(value, using=using)
            again = value[:1].expand(peek.changes, *value.shape[1:])
            return downstream(torch.cat([value, again]), using=_Controlled(len(value)))[: len(value)]

        return LocalExpectation().surrogate(site, controlled)
