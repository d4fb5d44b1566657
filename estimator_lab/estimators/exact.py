"""The expectation itself, by summing over every state of a site."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from estimator_lab.errors import TooLarge
from estimator_lab.estimator import Downstream, Estimator
from estimator_lab.site import Site

NUMBER_LIMIT = 2**26
"""Largest tensor of values that a sum may make: joint states of all sites walked so far, times replicates, examples and
units."""


@dataclass(frozen=True)
class Exact(Estimator):
    """Sums over all values of a layer, weighted by their probabilities; Gauss-Hermite quadrature for Gaussian units.

    The gradient of sum_x P(x; theta) f(x) by automatic differentiation: ground truth as an estimator without variance.

    Bias: none for finite families. For Gaussian units the quadrature is exact for polynomials of degree 2 nodes - 1.

    Cost: C^D losses for D units of C classes; nodes^D for Gaussian units.

    Args:
        nodes: quadrature nodes per Gaussian unit.

    Raises:
        TooLarge: more than 2^26 numbers: joint states times replicates, examples and units.
    """

    nodes: int = 64

    unbiased = True
    equation = "g = nabla_theta sum_x P_theta (x) f(x)"

    @property
    def label(self) -> str:
        """Short name."""
        return "exact sum"

    def surrogate(self, site: Site, downstream: Downstream) -> Tensor:
        """The expected loss over this site, the sum prepended as an axis and taken at once."""
        size = site.family.rule_size(self.nodes)
        powers = float(size) ** min(site.size, 64)  # more would overflow, and is too large in any case
        states = math.prod(site.theta.shape[: site.lead - 2]) * powers
        numbers = states * math.prod(site.theta.shape[site.lead - 2 :])
        if numbers > NUMBER_LIMIT:
            raise TooLarge(
                f"site {site.name!r} brings {states:.3g} joint states and so {numbers:.3g} numbers, more than the "
                f"{NUMBER_LIMIT} that are summed at once; use an estimator that samples, and estimate the truth "
                "(estimator_lab.Truth.estimated)"
            )
        value, weight = site.family.rule(site.theta, self.nodes)
        # one index per unit and state of the layer: unit d takes its point (state // size^d) % size
        place = size ** torch.arange(site.size, device=value.device).reshape(site.spec.units)
        state = torch.arange(size**site.size, device=value.device)
        index = state.reshape(-1, *(1,) * (site.lead + len(site.spec.units))) // place % size
        index = index.expand(-1, *weight.shape[1:])
        tail = (1,) * len(site.family.value_shape)
        values = value.gather(0, index.reshape(*index.shape, *tail).expand(-1, *value.shape[1:]))
        weights = weight.gather(0, index).flatten(1 + site.lead).prod(-1)
        loss = downstream(values)
        # The gradients of the weights sum to zero: taking the mean off the loss changes nothing but what has to cancel.
        mean = (weights * loss).sum(0).detach()
        return (weights * (loss - mean)).sum(0) + mean
