"""What a gradient estimator is: a rule that turns *here* and *the rest* into a surrogate loss."""

import abc
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Protocol, Self

import torch
from torch import Tensor

from estimator_lab.families import Family, Reparameterised, Scored
from estimator_lab.site import Site, SiteSpec


class Downstream(Protocol):
    """The rest of the network, from one site's value to the loss."""

    def __call__(self, value: Tensor, using: "Estimator | None" = None) -> Tensor:
        """Loss ``[*lead]`` of running the rest on ``value`` ``[*lead, *units, *value_shape]``, with graph.

        Args:
            value: value of this site; may carry gradient, may have axes prepended.
            using: estimator for the later sites; by default the one that is running.
        """


REASONS: Mapping[type, str] = {
    Scored: "whose values move with theta, so that no log-probability has the whole gradient",
    Reparameterised: "whose samples at fixed noise do not have the whole gradient",
}
"""Why an estimator that needs a law of some type does not apply to the others."""

MeanGradient = Callable[["Estimator"], Mapping[str, Tensor]]
"""Mean unit gradient ``[B, *theta]`` of an estimator at every site, by site name."""


class Estimator(abc.ABC):
    """A gradient estimator.

    Laws: the surrogate has shape ``[K, R, B]``; its value is the loss at the sampled point and its gradient is the
    estimate; replicates (axis R) are never mixed; equal ``repr`` and equal ``fitted`` mean the same estimator.

    A subclass writes ``surrogate`` and states its claim. Its docstring is shown in reports: the first line, and the
    sections ``Bias:``, ``Cost:`` and ``Reference:``.

    Attributes:
        paths: joint sample paths K per gradient estimate; a leave-one-out baseline reads axis -3.
        unbiased: the claim that reports hold it to: True, False, or None for no claim.
        families: laws it applies to.
        equation: the estimate in typst mathematics, for the report.
        fitted: state learned by ``adapt``, by name; empty for estimators without learned parts.
    """

    paths: int = 1
    unbiased: bool | None = None
    families: tuple[type[Family], ...] = (Family,)
    equation: str = ""
    fitted: Mapping[str, Tensor] = {}

    @abc.abstractmethod
    def surrogate(self, site: Site, downstream: Downstream) -> Tensor:
        """The surrogate loss ``[K, R, B]`` (with any axes a caller prepended) at one site."""

    def adapt(self, mean_gradient: MeanGradient) -> Self:
        """The estimator with its learned parts fitted, on noise disjoint from any measurement; by default itself.

        An estimator may not walk the network itself, so it is given ``mean_gradient``, which estimates the mean unit
        gradient of any other estimator on the same problem.
        """
        return self

    def refuses(self, site: SiteSpec) -> str:
        """Why it does not apply to a site, or an empty string."""
        if isinstance(site.family, self.families):
            return ""
        names = " or ".join(family.__name__ for family in self.families)
        reason = "".join(f", {REASONS[family]}" for family in self.families if family in REASONS)
        return f"{self.label} applies to {names} sites, and not to the {site.family!r} site {site.name!r}{reason}"

    @property
    def label(self) -> str:
        """Short name for tables and figures."""
        return repr(self).removesuffix("()")

    def __repr__(self) -> str:
        shown = {k: getattr(v, "__qualname__", None) or repr(v) for k, v in vars(self).items() if not k.startswith("_")}
        arguments = ", ".join(f"{k}={v}" for k, v in shown.items())
        return f"{type(self).__qualname__}({arguments})"


def derivative(loss: Tensor, at: Tensor) -> Tensor:
    """Derivative of a summed loss at a leaf; zero where the loss does not depend on it."""
    if not loss.requires_grad:
        return torch.zeros_like(at)
    (slope,) = torch.autograd.grad(loss.sum(), at, allow_unused=True)
    return torch.zeros_like(at) if slope is None else slope


def about(estimator: Estimator) -> dict[str, str]:
    """What an estimator says of itself, from its docstring's sections; every value is a string, empty if not said.

    Keys: ``name``, ``summary``, ``equation``, ``reason`` (section Bias), ``cost``, ``source`` (section Reference), and
    ``trusted``, which is "yes" when the equation may be typeset because it is the package's own.
    """
    kind = type(estimator)
    text = inspect.cleandoc(kind.__doc__ or "")
    parts = re.split(r"^(Bias|Cost|Reference|Args|Attributes|Raises|Example|Domain):\s*", text, flags=re.M)
    section = {k: " ".join(v.replace("``", "").split()) for k, v in zip(parts[1::2], parts[2::2], strict=True)}
    return {
        "name": kind.__qualname__,
        "summary": parts[0].split("\n\n")[0].replace("\n", " ").strip(),
        "equation": estimator.equation,
        "reason": section.get("Bias", ""),
        "cost": section.get("Cost", ""),
        "source": section.get("Reference", ""),
        "trusted": "yes" if kind.__module__.startswith("estimator_lab.") else "no",
    }
