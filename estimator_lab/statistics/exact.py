"""What can be said of a group whose moments are known exactly: numbers without intervals, a verdict without a test."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from estimator_lab.statistics.gram import Array
from estimator_lab.statistics.group import CANCELLATION, FLOOR, SCALARS

EXACT_ORDER = (
    "bias",
    "relative_bias",
    "bias_squared",
    "variance",
    "mse",
    "snr",
    "gain",
    "cosine_of_mean",
    "mean_cosine",
    "sign_agreement",
    "descent",
    "kurtosis",
)
"""Statistics that have an exact value."""


@dataclass(frozen=True, eq=False)
class ExactGroup:
    """Exact moments of one draw in d coordinates, and the exact gradient beside them.

    Args:
        mean: [d] expectation of the estimate.
        variance: [d] variance of one draw.
        truth: [d] the true gradient g.
        rounding: [d] bound on the error of ``mean``: of floating point, and of a quadrature.
        scalars: expectations of the per-replicate scalars against g (see `SCALARS`); nan, or absent, where not known.
        resolution: relative rounding of the dtype that drew the estimate.
        loss: typical absolute value of the loss, 0 if not known.

    Raises:
        ValueError: shapes disagree, or a mean, a variance or the truth is not finite.
    """

    mean: Array
    variance: Array
    truth: Array
    rounding: Array
    scalars: Mapping[str, float]
    resolution: float
    loss: float = 0.0

    def __post_init__(self) -> None:
        """Check shapes and finiteness once."""
        shape = self.mean.shape
        for name in ("mean", "variance", "truth", "rounding"):
            values = getattr(self, name)
            if values.ndim != 1 or values.shape != shape or not np.isfinite(values).all():
                raise ValueError(f"{name} must be finite and of shape [d] = {list(shape)}, got {list(values.shape)}")

    @cached_property
    def floor(self) -> Array:
        """[d] difference between mean and truth that rounding explains.

        That of `Group.coordinate_floor`: 64 resolutions of the coordinate's truth, or of the root mean square of all
        where that is larger (of the draws, where the truth is zero throughout), and 4 of the loss. And that of the sum:
        ``rounding``.
        """
        square = float(np.mean(self.truth**2)) or float(np.mean(self.mean**2 + self.variance))
        own = FLOOR * np.maximum(np.abs(self.truth), np.sqrt(square))
        return self.resolution * np.maximum(own, CANCELLATION * self.loss) + self.rounding

    @cached_property
    def agrees(self) -> bool:
        """The mean is the truth up to rounding in every coordinate."""
        return bool((np.abs(self.mean - self.truth) <= self.floor).all())

    @cached_property
    def constant(self) -> bool:
        """Every draw is the mean, up to rounding."""
        return bool((np.sqrt(self.variance) <= self.floor).all())

    @property
    def bias(self) -> float:
        """``||mean - g||``; 0 where rounding explains every coordinate."""
        return 0.0 if self.agrees else float(np.linalg.norm(self.mean - self.truth))

    @property
    def norm(self) -> float:
        """``||g||``; 0 where that is rounding."""
        norm = float(np.linalg.norm(self.truth))
        return norm if norm > float(np.linalg.norm(self.floor)) else 0.0


def describe_exact(group: ExactGroup) -> dict[str, float]:
    """The statistics of `describe` that have an exact value, in the order of ``EXACT_ORDER``.

    b = mean - g, Sigma = covariance of one draw, q = ``||x - g||^2``:

    - bias ``||b||``, relative_bias ``||b||/||g||``, bias_squared ``||b||^2``: 0 where rounding explains b.
    - variance ``tr Sigma``: 0 where rounding explains it; mse ``||b||^2 + tr Sigma``; snr ``||mean||^2 / tr Sigma``.
    - gain ``<mean, g>/||g||^2``, cosine_of_mean ``cos(mean, g)``.
    - mean_cosine ``E cos(x, g)`` over draws that are not zero; sign_agreement: expected share of coordinates with
      ``g_j != 0`` whose sign is right; descent ``P(<x, g> > 0)``.
    - kurtosis ``E q^2 / (E q)^2``: 1 when all draws err alike.

    nan where undefined (relative to a zero truth; snr and kurtosis of nothing, the direction of a zero mean) and where
    the scalar behind it is not known. snr is infinite for a constant that is not zero.
    """
    bias, norm = group.bias, group.norm or np.nan
    trace = 0.0 if group.constant else float(group.variance.sum())
    mean = np.where(np.abs(group.mean) <= group.floor, 0.0, group.mean) if group.constant else group.mean
    length, inner = float(np.linalg.norm(mean)), float(mean @ group.truth)
    vanishes = length <= float(np.linalg.norm(group.rounding))
    known = {name: float(group.scalars.get(name, np.nan)) for name in SCALARS}
    directed = norm / norm  # 1, or nan without a truth to point along
    drawn = np.float64(1 - known["zero"]) or np.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        found = {
            "bias": bias,
            "relative_bias": bias / norm,
            "bias_squared": bias**2,
            "variance": trace,
            "mse": bias**2 + trace,
            "snr": float(np.float64(length**2) / trace),
            "gain": inner / norm**2,
            "cosine_of_mean": float(np.clip(inner / (length * norm), -1.0, 1.0)) if not vanishes else np.nan,
            "mean_cosine": float(known["cosine"] / drawn) * directed,
            "sign_agreement": known["agreement"] * directed,
            "descent": known["descent"] * directed,
            "kurtosis": float(np.float64(known["fourth"]) / known["square"] ** 2) if bias + trace > 0 else np.nan,
        }
    return {name: found[name] for name in EXACT_ORDER}


def judge_exact(group: ExactGroup, margin: float = 0.05) -> str:
    """The verdict on one group, without any chance of error.

    "exact": no coordinate of the mean is further from the truth than its `ExactGroup.floor`. "biased beyond": the
    relative bias exceeds the margin by more than rounding explains. "biased": it does not, or the truth is zero, which
    leaves no relative margin.

    Raises:
        ValueError: the margin is not positive.
    """
    if not margin > 0:
        raise ValueError(f"needs margin > 0, got {margin}")
    if group.agrees:
        return "exact"
    surely = group.bias - float(np.linalg.norm(group.floor))
    return "biased beyond" if group.norm > 0 and surely > margin * group.norm else "biased"
