"""Another estimator at every site."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from torch import Tensor

from estimator_lab.estimator import Downstream, Estimator, MeanGradient
from estimator_lab.site import Site, SiteSpec

SHOWN = 2
"""Parts that a label names."""


@dataclass(frozen=True)
class PerSite(Estimator):
    """Runs its own estimator at each site; ``Exact()`` at all sites but one isolates that site's error.

    Bias: unbiased if all parts are, and claims so; otherwise it makes no claim.

    Cost: that of its parts, the number of paths being their least common multiple.

    Args:
        estimators: by site name.
        default: for the sites not named.
    """

    estimators: Mapping[str, Estimator]
    default: Estimator | None = None
    paths: int = field(init=False, repr=False, default=1)

    def __post_init__(self) -> None:
        parts = [*self.estimators.values(), *([self.default] if self.default else [])]
        object.__setattr__(self, "paths", math.lcm(*(part.paths for part in parts)))
        object.__setattr__(self, "unbiased", True if all(part.unbiased for part in parts) else None)
        object.__setattr__(self, "fitted", {f"{part!r}.{k}": v for part in parts for k, v in part.fitted.items()})

    def adapt(self, mean_gradient: MeanGradient) -> Self:
        """Adapts every part."""
        adapted = {name: part.adapt(mean_gradient) for name, part in self.estimators.items()}
        return replace(self, estimators=adapted, default=self.default and self.default.adapt(mean_gradient))

    def refuses(self, site: SiteSpec) -> str:
        """Why the site's own estimator does not apply, or that it has none."""
        part = self.estimators.get(site.name, self.default)
        if part is None:
            return f"{self!r} has no estimator for site {site.name!r}: name it, or give a default"
        return part.refuses(site)

    @property
    def label(self) -> str:
        """The first parts with their sites; the repr names all of them."""
        places: dict[str, list[str]] = {}
        for site, part in self.estimators.items():
            places.setdefault(part.label, []).append(site)
        told = [f"{name} at {s[0] if len(s) == 1 else f'{len(s)} sites'}" for name, s in places.items()]
        told = [*told[:SHOWN], *([f"{len(told) - SHOWN} more"] if len(told) > SHOWN else [])]
        return ", ".join([*told, *([f"{self.default.label} elsewhere"] if self.default else [])]) or "PerSite"

    def surrogate(self, site: Site, downstream: Downstream) -> Tensor:
        """The surrogate of the site's own estimator."""
        part = self.estimators.get(site.name, self.default)
        assert part is not None, "refused by refuses()"
        return part.surrogate(site, downstream)
