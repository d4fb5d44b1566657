"""One-of-C units."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from estimator_lab.families.family import Discrete


@dataclass(frozen=True)
class Categorical(Discrete):
    """One-hot values over ``classes`` classes; theta holds their logits on its last axis: pi = softmax(theta).

    The relaxation is the Concrete (Gumbel-softmax) law: z = theta + Gumbel noise, hard value one-hot argmax z, relaxed
    value softmax(z / temperature) (Maddison et al. 2017, arXiv:1611.00712; Jang et al. 2017, arXiv:1611.01144).
    ``sample`` inverts the distribution function with one uniform number instead, so that product rules stay small.

    Attributes:
        classes: number of classes C, at least 2.
    """

    classes: int

    def __post_init__(self) -> None:
        shape = (self.classes,)
        object.__setattr__(self, "value_shape", shape)
        object.__setattr__(self, "theta_shape", shape)

    def mean(self, theta: Tensor) -> Tensor:
        """softmax(theta)."""
        return theta.softmax(-1)

    def log_prob(self, theta: Tensor, value: Tensor) -> Tensor:
        """``log pi`` of the chosen class."""
        return (value * theta.log_softmax(-1)).sum(-1)

    def score(self, theta: Tensor, value: Tensor) -> Tensor:
        """``value - pi``."""
        return value - theta.softmax(-1)

    def sample(self, theta: Tensor, noise: Tensor) -> Tensor:
        """The class whose cell of the distribution function holds the uniform number."""
        index = (noise.unsqueeze(-1) >= self.jumps(theta)).sum(-1)
        return one_hot(index, self.classes).to(theta.dtype)

    def rule(self, theta: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
        """Every class with its probability."""
        classes = torch.eye(self.classes, dtype=theta.dtype, device=theta.device)
        values = classes.reshape(self.classes, *(1,) * (theta.dim() - 1), self.classes).expand(-1, *theta.shape)
        return values, theta.softmax(-1).movedim(-1, 0)

    def rule_size(self, nodes: int) -> int:
        """C."""
        return self.classes

    def alternatives(self, value: Tensor) -> Tensor:
        """The one-hot vector rolled by 0, 1, ..., C - 1 classes."""
        return torch.stack([value.roll(shift, -1) for shift in range(self.classes)])

    def jumps(self, theta: Tensor) -> Tensor:
        """The distribution function at all classes but the last."""
        return theta.softmax(-1).cumsum(-1)[..., :-1].clamp(max=1)

    def perturb(self, theta: Tensor, uniform: Tensor) -> Tensor:
        """``theta - log(-log(uniform))``: Gumbel noise."""
        return theta - (-uniform.log()).log()

    def perturb_jumps(self, theta: Tensor) -> Tensor:
        """None: the argmax jumps on surfaces that couple the classes; product rules over Gumbel noise are slow."""
        return theta.new_empty(*theta.shape, 0)

    def condition(self, theta: Tensor, value: Tensor, uniform: Tensor) -> Tensor:
        """Gumbel noise given its argmax (Maddison et al. 2014, arXiv:1411.0030).

        The maximum is a Gumbel variable at log-sum-exp(theta) whatever the argmax; every other coordinate is a Gumbel
        variable at theta_k truncated below the maximum T: -log(exp(-T) - exp(-theta_k) log v_k).
        """
        gumbel = -(-uniform.log()).log()
        top = theta.logsumexp(-1, keepdim=True) + (value * gumbel).sum(-1, keepdim=True)
        below = -torch.logaddexp(-top, -(theta + gumbel))
        return torch.where(value > 0.5, top, below)

    def squash(self, perturbed: Tensor, temperature: float) -> Tensor:
        """``softmax(perturbed / temperature)``."""
        return (perturbed / temperature).softmax(-1)

    def harden(self, perturbed: Tensor) -> Tensor:
        """One-hot argmax."""
        return one_hot(perturbed.detach().argmax(-1), self.classes).to(perturbed.dtype)
