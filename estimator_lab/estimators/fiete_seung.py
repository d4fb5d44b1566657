"""Correlation of the loss with a Gaussian perturbation of the parameters."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from estimator_lab.errors import UsageError
from estimator_lab.estimator import Downstream, Estimator
from estimator_lab.estimators.perturbed import losses_at
from estimator_lab.site import Site


@dataclass(frozen=True)
class FieteSeung(Estimator):
    """Node perturbation: moves all parameters of the layer by Gaussian noise and correlates the loss with it.

    With xi of independent N(0, sigma^2): ``(f(x at theta + xi) - f(x at theta)) xi_i / sigma^2``. One layer is moved at
    a time; the layers after it are re-run at their own parameters. Both runs share their random numbers, which is what
    makes the difference small: its variance is then of order 1 / sigma for discrete units, in place of 1 / sigma^2.
    Without a baseline the second loss is left out.

    Bias: with J the expected loss, ``sigma^2 / 2`` times the i-th derivative of its Laplacian, to order sigma^2:
    E[J(theta + xi) xi_i] / sigma^2 is the i-th derivative of J smoothed by the noise. The baseline is independent of
    xi and changes no mean.

    Cost: 3 losses at one layer, 2 S + 1 in a chain of S layers, or 2 and S + 1 without a baseline; no backward pass
    through the sampled values.

    Reference: Fiete and Seung 2006 (doi:10.1103/PhysRevLett.97.048104), who perturb the conductances of spiking
    neurons; the form for the parameters of a law, and the common random numbers, are ours. Compared with in Bengio,
    Léonard, Courville 2013 (arXiv:1308.3432).

    Args:
        deviation: sigma, positive.
        baseline: "unperturbed", the loss at theta, or None.

    Raises:
        UsageError: the deviation is not positive, or the baseline is neither.
    """

    deviation: float = 0.5
    baseline: Literal["unperturbed"] | None = "unperturbed"

    unbiased = False
    equation = "hat(g)_i = (f(x_(theta + xi)) - f(x_theta)) xi_i \\/ sigma^2, quad xi tilde N(0, sigma^2 I)"

    def __post_init__(self) -> None:
        if not self.deviation > 0:
            raise UsageError(f"the deviation of FieteSeung is positive; found {self.deviation}")
        if self.baseline not in ("unperturbed", None):
            raise UsageError(f'the baseline of FieteSeung is "unperturbed" or None; found {self.baseline!r}')

    @property
    def label(self) -> str:
        """Short name."""
        return f"Fiete-Seung, σ = {self.deviation:g}" + ("" if self.baseline else ", no baseline")

    def surrogate(self, site: Site, downstream: Downstream) -> Tensor:
        """The loss at a sample, plus the injected correlation."""
        loss = downstream(site.sample())
        theta, noise = site.theta.detach(), site.normal()
        moved = theta + self.deviation * noise
        thetas = torch.stack([moved, theta]) if self.baseline else moved[None]
        perturbed, *still = losses_at(site, thetas, downstream)
        signal = perturbed - still[0] if still else perturbed
        return loss + site.inject(site.expand(signal) * noise / self.deviation)
