"""Central differences of the loss in every parameter of a layer."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from estimator_lab.errors import UsageError
from estimator_lab.estimator import Downstream, Estimator
from estimator_lab.estimators.perturbed import losses_at
from estimator_lab.site import Site


@dataclass(frozen=True)
class FiniteDifferences(Estimator):
    """Moves one parameter of the layer at a time, up and down, and re-runs the network with common random numbers.

    For parameter i of D: ``(f(x at theta + h e_i) - f(x at theta - h e_i)) / (2 h)``, samples and all later ones drawn
    with the same numbers in all 2 D runs.

    Bias: with J the expected loss, ``h^2 / 6`` times its third derivative in parameter i, to order h^2. For a Bernoulli
    unit in any network the mean is the gradient times ``(sigmoid(theta + h) - sigmoid(theta - h)) / (2 h p (1 - p))``,
    since J is affine in p. Its variance there is of order 1 / h: the sample changes with a probability of order h.

    Cost: 2 D + 1 losses for D parameters; in a chain 1 + the sum of 2 D over its layers; no backward pass through the
    sampled values.

    Reference: Kiefer and Wolfowitz 1952 (doi:10.1214/aoms/1177729392); compared with in Bengio, Léonard, Courville 2013
    (arXiv:1308.3432), section 1.2.

    Args:
        step: h, positive.

    Raises:
        UsageError: the step is not positive.
    """

    step: float = 0.5

    unbiased = False
    equation = "hat(g)_i = (f(x_(theta + h e_i)) - f(x_(theta - h e_i))) \\/ (2 h)"

    def __post_init__(self) -> None:
        if not self.step > 0:
            raise UsageError(f"the step of FiniteDifferences is positive; found {self.step}")

    @property
    def label(self) -> str:
        """Short name."""
        return f"finite differences, h = {self.step:g}"

    def surrogate(self, site: Site, downstream: Downstream) -> Tensor:
        """The loss at a sample, plus the injected differences."""
        loss = downstream(site.sample())
        theta, shape = site.theta.detach(), site.spec.theta_shape
        count = math.prod(shape)
        moves = self.step * torch.eye(count, dtype=theta.dtype, device=theta.device)
        moves = moves.reshape(count, *(1,) * site.lead, *shape)
        up, down = losses_at(site, torch.cat([theta + moves, theta - moves]), downstream).chunk(2)
        slope = ((up - down) / (2 * self.step)).movedim(0, -1)
        return loss + site.inject(slope.reshape(theta.shape))
