"""The gradient through a reparameterised sample."""

from dataclasses import dataclass

from torch import Tensor

from estimator_lab.estimator import Downstream, Estimator
from estimator_lab.families import Reparameterised
from estimator_lab.site import Site


@dataclass(frozen=True)
class Pathwise(Estimator):
    """Reparameterisation: x = g(theta, eps) with noise eps whose law is fixed, differentiated at fixed noise.

    Gaussian units x = mu + s eps; noisy rectifiers x = max(0, theta + eps), where it is plain backpropagation with the
    slope 1[x > 0]; injected noise, added before a sigmoid or multiplied as by dropout.

    Bias: none for continuous f that is differentiable almost everywhere and whose derivative may be taken under the
    expectation; f with jumps loses the part of the gradient that comes from the jumps.

    Cost: 1 loss, 1 backward pass.

    Reference: Kingma and Welling 2014 (arXiv:1312.6114); Rezende, Mohamed, Wierstra 2014 (arXiv:1401.4082); Bengio,
    Léonard, Courville 2013 (arXiv:1308.3432) for noisy rectifiers.
    """

    unbiased = True
    families = (Reparameterised,)
    equation = 'hat(g) = f\'(g_theta (epsilon)) thin nabla_theta g_theta (epsilon), quad epsilon "fixed in law"'

    def surrogate(self, site: Site, downstream: Downstream) -> Tensor:
        """The loss at a reparameterised sample."""
        return downstream(site.rsample())
