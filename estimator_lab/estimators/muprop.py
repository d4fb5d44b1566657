"""REINFORCE with a first-order Taylor expansion of the mean-field network as control variate."""

from dataclasses import dataclass

from torch import Tensor

from estimator_lab.estimator import Downstream, Estimator, derivative
from estimator_lab.estimators.mean_field import MeanField
from estimator_lab.families import Discrete
from estimator_lab.site import Site


@dataclass(frozen=True)
class MuProp(Estimator):
    """Score function of the loss minus its linearisation at the layer's mean, plus the linear part's exact gradient.

    With m = E[x] and h the mean-field continuation: ``(f(x) - h(m) - h'(m) (x - m)) s + h'(m) dm/dtheta``.

    Bias: none: the control variate is linear in x, and its expectation's gradient is h'(m) dm/dtheta. Zero variance for
    f linear in x. The loss must accept values outside of the support.

    Cost: 2 losses and 1 backward pass at one layer; S + 1 losses and S backward passes in a chain of S layers.

    Reference: Gu, Levine, Sutskever, Mnih 2016 (arXiv:1511.05176).
    """

    unbiased = True
    families = (Discrete,)
    equation = "hat(g) = (f(x) - h(m) - h'(m)^top (x - m)) nabla_theta log p_theta (x) + h'(m)^top nabla_theta m"

    def surrogate(self, site: Site, downstream: Downstream) -> Tensor:
        """The loss, plus the score of its residual, plus the linear term."""
        value, mean = site.sample(), site.mean
        loss = downstream(value)
        centre = mean.detach().requires_grad_()
        smooth = downstream(centre, using=MeanField())
        slope = derivative(smooth, centre)
        linear = (slope * (value - centre.detach())).flatten(site.lead).sum(-1)
        through = (slope * (mean - centre.detach())).flatten(site.lead).sum(-1)
        return loss + site.score(value, loss - smooth - linear) + through
