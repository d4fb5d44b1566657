"""Losses of a site's samples at other parameters than its own."""

from dataclasses import replace

import torch
from torch import Tensor

from estimator_lab.estimator import Downstream
from estimator_lab.estimators.sample import Sample
from estimator_lab.site import Site


def losses_at(site: Site, thetas: Tensor, downstream: Downstream) -> Tensor:
    """Losses ``[n, *lead]`` at samples with n other parameters ``[n, *theta.shape]``, without gradient.

    Random numbers are common to all n, here and at the later sites, so that differences between the losses are those
    that the parameters make. The sample of the site itself has other numbers.
    """
    with torch.no_grad():
        return downstream(replace(site, theta=thetas).sample(common=True), using=Sample(common=True))
