"""Straight-through to second order."""

from dataclasses import dataclass

import torch
from torch import Tensor

from estimator_lab.estimator import Downstream, Estimator
from estimator_lab.families import Bernoulli, Categorical
from estimator_lab.site import Site


@dataclass(frozen=True)
class ReinMax(Estimator):
    """A hard sample D forward; backward ``2 J((pi + D) / 2) - J(pi) / 2`` with J(m) = diag(m) - m m^T (Heun's method).

    For a Bernoulli unit ``f'(b) (b - 1/2) (b - p)``.

    Bias: none for f quadratic in the units of one layer, cross terms between units included; biased beyond.

    Cost: 1 loss, 1 backward pass.

    Reference: Liu, Dong, Liu, Yu, Gao 2023 (arXiv:2304.08612), at temperature 1; for binary units it is the DARN(1/2)
    estimator of Gregor et al. 2014 (arXiv:1310.8499).
    """

    unbiased = False
    families = (Bernoulli, Categorical)
    equation = 'hat(g) = [2 J((pi + D) \\/ 2) - 1/2 J(pi)] f\'(D), quad J(m) = "diag"(m) - m m^top'

    def surrogate(self, site: Site, downstream: Downstream) -> Tensor:
        """The loss at the sample, with the second-order Jacobian."""
        value, mean, theta = site.sample(), site.mean, site.theta
        if isinstance(site.family, Bernoulli):
            # one logit: J has the single entry m (1 - m), and at m = (p + b) / 2
            # 2 m (1 - m) - p (1 - p) / 2 = (b - 1/2)(b - p)
            slope = (value - 0.5) * (value - mean.detach())
            through = slope * theta
        else:
            # softmax at the logits log((pi + D) / 2), moved with theta, has the Jacobian J((pi + D) / 2)
            middle = (0.5 * (mean.detach() + value)).clamp_min(torch.finfo(theta.dtype).tiny).log()
            through = 2 * (middle + (theta - theta.detach())).softmax(-1) - 0.5 * mean
        return downstream(value + (through - through.detach()))
