"""Simultaneous perturbation with random signs."""

from dataclasses import dataclass

import torch
from torch import Tensor

from estimator_lab.errors import UsageError
from estimator_lab.estimator import Downstream, Estimator
from estimator_lab.estimators.perturbed import losses_at
from estimator_lab.site import Site


@dataclass(frozen=True)
class SPSA(Estimator):
    """Moves all parameters of the layer at once, along random signs, and re-runs it with common random numbers.

    With z_i = -1 or 1: ``(f(x at theta + h z) - f(x at theta - h z)) / (2 h z_i)``, samples and all later ones drawn
    with the same numbers in both runs. The signs are bounded away from zero: divided by a normal z_i, the estimate
    would have no mean in two dimensions or more.

    Bias: with J the expected loss, ``h^2 (J_iii / 6 + sum over j != i of J_ijj / 2)``, to order h^2.

    Cost: 3 losses at one layer, 2 S + 1 in a chain of S layers; no backward pass through the sampled values.

    Reference: Spall 1992 (doi:10.1109/9.119632); compared with in Bengio, Léonard, Courville 2013 (arXiv:1308.3432),
    section 1.2.

    Args:
        step: h, positive.

    Raises:
        UsageError: the step is not positive.
    """

    step: float = 0.5

    unbiased = False
    equation = "hat(g)_i = (f(x_(theta + h z)) - f(x_(theta - h z))) \\/ (2 h z_i), quad z_i = plus.minus 1"

    def __post_init__(self) -> None:
        if not self.step > 0:
            raise UsageError(f"the step of SPSA is positive; found {self.step}")

    @property
    def label(self) -> str:
        """Short name."""
        return f"SPSA, h = {self.step:g}"

    def surrogate(self, site: Site, downstream: Downstream) -> Tensor:
        """The loss at a sample, plus the injected quotients."""
        loss = downstream(site.sample())
        theta, signs = site.theta.detach(), site.signs()
        move = self.step * signs
        up, down = losses_at(site, torch.stack([theta + move, theta - move]), downstream)
        return loss + site.inject(site.expand((up - down) / (2 * self.step)) * signs)
