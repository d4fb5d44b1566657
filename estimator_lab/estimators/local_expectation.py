"""Each unit summed over its own values, the others sampled."""

from dataclasses import dataclass

import torch
from torch import Tensor

from estimator_lab.estimator import Downstream, Estimator
from estimator_lab.estimators.sample import Sample
from estimator_lab.families import Discrete
from estimator_lab.site import Site


@dataclass(frozen=True)
class LocalExpectation(Estimator):
    """Sums each unit over all its values with the other units of the layer sampled.

    For unit d with the others fixed at their sample: ``sum_v P(v) f(x with x_d = v) d log P(v) / d theta_d``; for a
    Bernoulli unit ``p (1 - p) (f(b_d = 1) - f(b_d = 0))``. Later layers are re-run for every changed value, with common
    random numbers.

    Bias: none: it is the Rao-Blackwellisation of REINFORCE over the unit's own value. Zero variance for additive f in
    one layer.

    Cost: D (C - 1) + 2 losses for D units of C classes, in a chain 1 + the sum of D (C - 1) + 1 over its
    layers; no backward pass through the sampled values.

    Reference: Titsias and Lázaro-Gredilla 2015; with common random numbers downstream, Tokui and Sato 2017
    (arXiv:1611.01239).
    """

    unbiased = True
    families = (Discrete,)
    equation = "hat(g)_d = sum_v f(x_(-d), x_d = v) nabla_(theta_d) P_theta (x_d = v)"

    @property
    def label(self) -> str:
        """Short name."""
        return "local expectation"

    def surrogate(self, site: Site, downstream: Downstream) -> Tensor:
        """The loss at a sample, plus the injected sums over single-unit changes."""
        family, theta = site.relaxation, site.theta.detach()
        value = site.sample()
        loss = downstream(value)
        options = family.alternatives(value)  # [C, *value]; the first is the sample itself
        here = torch.eye(site.size, dtype=torch.bool, device=value.device)
        here = here.reshape(site.size, *(1,) * site.lead, *site.spec.units, *(1,) * len(family.value_shape))
        changed = torch.where(here, options[1:, None], value).flatten(0, 1)  # [(C - 1) D, *value]
        with torch.no_grad():
            losses = downstream(torch.cat([value[None], changed]), using=Sample(common=True))
        excess = (losses[1:] - losses[0]).unflatten(0, (-1, site.size))  # [C - 1, D, *lead]
        excess = excess.movedim(1, -1).unflatten(-1, site.spec.units)  # [C - 1, *lead, *units]
        gradient = torch.zeros_like(theta)
        for option, difference in zip(options[1:], excess, strict=True):
            weight = family.log_prob(theta, option).exp() * difference
            gradient += weight[(..., *(None,) * len(family.theta_shape))] * family.score(theta, option)
        return loss + site.inject(gradient)
