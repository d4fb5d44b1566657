"""The gradient through a reparameterised sample."""

from dataclasses import dataclass

from torch import Tensor

from estimator_lab.estimator import Downstream, Estimator
from estimator_lab.families import Normal
from estimator_lab.site import Site


@dataclass(frozen=True)
class Pathwise(Estimator):
    """Reparameterisation: x = mu + s eps with eps standard normal, differentiated through mu and s.

    Bias: none for differentiable f whose derivative may be taken under the expectation; f with jumps loses the part of
    the gradient that comes from the jumps.

    Cost: 1 loss, 1 backward pass.

    Reference: Kingma and Welling 2014 (arXiv:1312.6114); Rezende, Mohamed, Wierstra 2014 (arXiv:1401.4082).
    """

    unbiased = True
    families = (Normal,)
    equation = "hat(g) = f'(mu + s epsilon) thin nabla_theta (mu + s epsilon), quad epsilon tilde cal(N)(0, 1)"

    def surrogate(self, site: Site, downstream: Downstream) -> Tensor:
        """The loss at a reparameterised sample."""
        return downstream(site.rsample())
