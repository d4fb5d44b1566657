"""REINFORCE with a continuous relaxation as control variate."""

from dataclasses import dataclass

from torch import Tensor

from estimator_lab.errors import UsageError
from estimator_lab.estimator import Downstream, Estimator, derivative
from estimator_lab.estimators.mean_field import MeanField
from estimator_lab.families import Discrete
from estimator_lab.site import Site


@dataclass(frozen=True)
class Rebar(Estimator):
    """Score function with the loss of the Concrete relaxation, conditioned on the sample, as control variate.

    Noisy logits z with hard value b = H(z), and z' drawn given b; c(z) is the loss of the relaxed value, later sites at
    their means: ``(f(b) - eta c(z')) s + eta dc(z)/dtheta - eta dc(z')/dtheta``.

    Bias: none for every temperature and eta: E[c(z') s] + E[dc(z')/dtheta given b] is the gradient of
    E[c(z')] = E[c(z)], which the second term restores. The relaxations' gradients are taken with respect to this
    site's theta only, so that the control variate leaks into no weight and no other site. The loss must accept values
    outside of the support.

    Cost: 3 losses and 2 backward passes at one layer; 2 S + 1 and 2 S in a chain of S layers.

    Reference: Tucker, Mnih, Maddison, Lawson, Sohl-Dickstein 2017 (arXiv:1703.07370).

    Args:
        temperature: of the relaxation, positive.
        eta: scale of the control variate; 0 is REINFORCE.

    Raises:
        UsageError: the temperature is not positive.
    """

    temperature: float = 0.5
    eta: float = 1.0

    unbiased = True
    families = (Discrete,)
    equation = (
        "hat(g) = (f(b) - eta c(tilde(z))) nabla_theta log p_theta (b)"
        " + eta nabla_theta c(z) - eta nabla_theta c(tilde(z))"
    )

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise UsageError(f"the temperature of Rebar is positive; found {self.temperature}")

    @property
    def label(self) -> str:
        """Short name."""
        return f"REBAR, τ = {self.temperature:g}" + ("" if self.eta == 1 else f", η = {self.eta:g}")

    def surrogate(self, site: Site, downstream: Downstream) -> Tensor:
        """The loss, plus the score of its residual, plus the relaxations' gradients injected at this site."""
        family = site.relaxation
        u, v = site.uniform(), site.uniform()
        leaf = site.theta.detach().requires_grad_()
        z = family.perturb(leaf, u)
        value = family.harden(z)
        conditioned = family.condition(leaf, value, v)
        loss = downstream(value)
        free = downstream(family.squash(z, self.temperature), using=MeanField())
        given = downstream(family.squash(conditioned, self.temperature), using=MeanField())
        slope = derivative(free - given, leaf)
        return loss + site.score(value, loss - self.eta * given) + site.inject(self.eta * slope)
