"""What is differentiated: a chain of stochastic layers and a loss."""

import abc
import hashlib
from collections.abc import Callable, Mapping

from torch import Tensor

from estimator_lab.errors import UsageError
from estimator_lab.families import Family
from estimator_lab.site import SiteSpec


class Problem(abc.ABC):
    """Stochastic layers drawn one after the other, and a loss: J(weights) = mean over examples of E[loss].

    A problem is two pure functions. They are written for one draw of the whole network: batch axis first, no replicate
    axis. They must not draw random numbers, and example i of their result must depend on example i only.

    Attributes:
        sites: the stochastic layers in the order they are drawn.
        batch: number of examples B.
        foldable: whether the functions also take n * B rows, n draws of the whole batch one after the other.
        notes: what to tell the user of how it is run.
    """

    sites: tuple[SiteSpec, ...]
    batch: int
    foldable: bool = False
    notes: tuple[str, ...] = ()

    @abc.abstractmethod
    def weights(self) -> Mapping[str, Tensor]:
        """The trainable tensors by name. They fix dtype and device of the whole computation."""

    @abc.abstractmethod
    def theta(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...]) -> Tensor:
        """Parameters of the next site given the earlier samples: ``[B, *units, *theta_shape]``."""

    @abc.abstractmethod
    def loss(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...], thetas: tuple[Tensor, ...]) -> Tensor:
        """Loss of each example ``[B]`` given all samples; ``thetas`` for terms such as an entropy."""

    # A walk calls the next three. They are for problems whose layers share work, such as the features that a skip
    # connection carries past a stochastic layer: what is computed once is handed on, each tensor with the batch axis
    # first, and the last samples are all that is new.
    def begin(self, weights: Mapping[str, Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Theta of the first site, and what later steps need of the work done so far."""
        return self.theta(weights, ()), ()

    def advance(
        self, weights: Mapping[str, Tensor], carry: tuple[Tensor, ...], samples: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Theta of the next site given what was handed on, and what is handed on from here."""
        return self.theta(weights, samples), ()

    def finish(
        self,
        weights: Mapping[str, Tensor],
        carry: tuple[Tensor, ...],
        samples: tuple[Tensor, ...],
        thetas: tuple[Tensor, ...],
    ) -> Tensor:
        """The loss given what was handed on."""
        return self.loss(weights, samples, thetas)

    def expected_loss(self, weights: Mapping[str, Tensor], offsets: Mapping[str, Tensor]) -> Tensor | None:
        """E[loss] of each example ``[B]`` in closed form, by default None: there is none.

        Ground truth is its derivative with respect to the weights and to the offsets, which are added to the sites'
        theta, by site name, ``[B, *units, *theta_shape]``. Only offsets of zero count: the value and the first
        derivatives must be right there.
        """
        return None

    def at(self, weights: Mapping[str, Tensor], name: str) -> "Problem":
        """The same problem with other weights, say those of a checkpoint.

        Args:
            weights: one tensor for each of this problem's weights, of its shape.
            name: of the weights; it becomes part of the problem's repr and label.

        Raises:
            UsageError: names or shapes differ from this problem's.
        """
        return _At(self, weights, name)

    @property
    def label(self) -> str:
        """Short name for tables and figures."""
        return repr(self)

    def __repr__(self) -> str:
        return f"{type(self).__qualname__}()"


def unlike(problem: Problem, weights: Mapping[str, Tensor]) -> str:
    """How names and shapes of weights differ from those of a problem, or an empty string."""
    own = {k: list(v.shape) for k, v in problem.weights().items()}
    found = {k: list(v.shape) if isinstance(v, Tensor) else type(v).__name__ for k, v in weights.items()}
    lacking, more = [k for k in own if k not in found], [k for k in found if k not in own]
    if lacking and more and all(k.startswith("module.") for k in found):
        return (
            f"the weights that were given to {problem!r} begin with 'module.', as those of a module in a wrapper do; "
            "give those of model.module"
        )
    told = [f"{k!r} has shape {own[k]}, found {found[k]}" for k in own if k in found and own[k] != found[k]]
    told += [f"the problem has weights {lacking}, which were not given"] * bool(lacking)
    told += [f"it has no weights {more}"] * bool(more)
    return f"{problem!r} and the weights do not fit: {'; '.join(told)}; give each of its weights" if told else ""


class _At(Problem):
    """A problem with other weights."""

    def __init__(self, problem: Problem, weights: Mapping[str, Tensor], name: str):
        if told := unlike(problem, weights):
            raise UsageError(told)
        self.problem, self.name = problem, name
        self.sites, self.batch, self.foldable = problem.sites, problem.batch, problem.foldable
        self.notes = problem.notes
        self.begin, self.advance, self.finish = problem.begin, problem.advance, problem.finish  # type: ignore[method-assign]
        self._weights = {k: v.detach().clone() for k, v in weights.items()}

    def weights(self) -> Mapping[str, Tensor]:
        """Those that were given."""
        return self._weights

    def theta(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...]) -> Tensor:
        """The problem's own."""
        return self.problem.theta(weights, samples)

    def loss(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...], thetas: tuple[Tensor, ...]) -> Tensor:
        """The problem's own."""
        return self.problem.loss(weights, samples, thetas)

    def expected_loss(self, weights: Mapping[str, Tensor], offsets: Mapping[str, Tensor]) -> Tensor | None:
        """The problem's own."""
        return self.problem.expected_loss(weights, offsets)

    def at(self, weights: Mapping[str, Tensor], name: str) -> Problem:
        """The problem's own, at both names."""
        return self.problem.at(weights, f"{self.name}, {name}")

    @property
    def label(self) -> str:
        """The problem's label and the weights' name."""
        return f"{self.problem.label}, {self.name}"

    def __repr__(self) -> str:
        return f"{self.problem!r}.at({self.name!r})"


class OneSite(Problem):
    """A single layer whose theta is the weight itself: J(theta) = E f(x).

    Attributes:
        family: law of the units.
    """

    family: Family
    batch = 1

    @abc.abstractmethod
    def f(self, x: Tensor) -> Tensor:
        """``[..., units, *value_shape] -> [...]``."""

    @property
    def sites(self) -> tuple[SiteSpec, ...]:  # type: ignore[override]
        """The one site, ``"x"``."""
        return (SiteSpec("x", self.family, (self.weights()["theta"].shape[0],)),)

    def theta(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...]) -> Tensor:
        """Theta with a batch axis of one."""
        return weights["theta"][None]

    def loss(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...], thetas: tuple[Tensor, ...]) -> Tensor:
        """``f`` of the sample."""
        return self.f(samples[0])


class Objective(OneSite):
    """One site and a callable: J(theta) = E f(x), x drawn from the family at theta.

    Args:
        family: law of the units.
        theta: parameters ``[units, *theta_shape]``.
        f: ``[..., units, *value_shape] -> [...]``, written in torch operations that keep leading axes.
        name: what reports call it; by default the name of ``f``.

    Raises:
        UsageError: theta does not have the shape the family needs.
    """

    def __init__(self, family: Family, theta: Tensor, f: Callable[[Tensor], Tensor], name: str = ""):
        if not isinstance(family, Family):
            raise UsageError(f"an Objective takes a law that is an object, such as lab.Bernoulli(); found {family!r}")
        if not isinstance(theta, Tensor) or not theta.is_floating_point():
            found = theta.dtype if isinstance(theta, Tensor) else type(theta).__name__
            raise UsageError(
                f"theta of an Objective is a tensor of real numbers, such as torch.tensor([0.1, 0.2]); found {found}"
            )
        tail, shape = family.theta_shape, tuple(theta.shape)
        if len(shape) != 1 + len(tail) or shape[1:] != tail:
            axes = ", ".join(["units", *map(str, tail)])
            raise UsageError(f"theta of an Objective over {family!r} has axes [{axes}]; found shape {list(shape)}")
        self.family, self._theta, self._f = family, theta.detach().clone(), f
        self.name = name or getattr(f, "__qualname__", type(f).__qualname__)

    def weights(self) -> Mapping[str, Tensor]:
        """Theta itself, as the one weight."""
        return {"theta": self._theta}

    def f(self, x: Tensor) -> Tensor:
        """The callable."""
        return self._f(x)

    def __repr__(self) -> str:
        digest = hashlib.sha256(self._theta.cpu().numpy().tobytes()).hexdigest()[:8]
        return f"Objective({self.family!r}, f={self.name}, units={self._theta.shape[0]}, theta={digest})"

    @property
    def label(self) -> str:
        """Name of the function."""
        return self.name
