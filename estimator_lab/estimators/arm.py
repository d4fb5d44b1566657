"""Augment-REINFORCE-merge for Bernoulli units."""

from dataclasses import dataclass

import torch
from torch import Tensor

from estimator_lab.estimator import Downstream, Estimator
from estimator_lab.estimators.sample import Sample
from estimator_lab.families import Bernoulli
from estimator_lab.site import Site


@dataclass(frozen=True)
class ARM(Estimator):
    """Antithetic pairs weighted by the shared uniform number, for Bernoulli units.

    With b = 1[u > 1 - p] and b' = 1[u < p] the estimate for a unit is ``(f(b) - f(b')) (u - 1/2)``.

    Bias: none: with the other units fixed, the mean of ``f(b) (2 u - 1)`` is (f(1) - f(0)) times the integral of
    2 u - 1 over u > 1 - p, which is p (1 - p); averaging it with its mirror image at 1 - u leaves the difference.

    Cost: 2 losses at one layer, S + 1 in a chain of S layers; no backward pass through the sampled values.

    Reference: Yin and Zhou 2019 (arXiv:1807.11143).
    """

    unbiased = True
    families = (Bernoulli,)
    equation = "hat(g) = (f(b) - f(tilde(b))) (u - 1/2)"

    def surrogate(self, site: Site, downstream: Downstream) -> Tensor:
        """The loss at b, plus the injected antithetic difference."""
        p, u = site.mean.detach(), site.uniform()
        loss = downstream((1 - u < p).to(p.dtype))
        with torch.no_grad():
            other = downstream((u < p).to(p.dtype), using=Sample())
        return loss + site.inject(site.expand(loss - other) * (u - 0.5))
