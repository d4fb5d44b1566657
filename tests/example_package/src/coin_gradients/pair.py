"""A sample and its mirror image."""

from dataclasses import dataclass

import torch

import estimator_lab as lab
from estimator_lab.estimators import Sample


@dataclass(frozen=True)
class Pair(lab.Estimator):
    """Score function, averaged over a sample and the one that the mirrored uniform numbers give."""

    unbiased = True
    families = (lab.Bernoulli,)

    def surrogate(self, site, downstream):
        p, u = site.mean.detach(), site.uniform()
        b, mirrored = (u < p).to(p.dtype), (1 - u < p).to(p.dtype)
        loss = downstream(b)
        with torch.no_grad():
            other = downstream(mirrored, using=Sample())
        return loss + 0.5 * (site.score(b, loss) + site.score(mirrored, other))
