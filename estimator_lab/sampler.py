"""Any black box that returns gradients: another library's estimator, a whole training step."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from estimator_lab.chain import Key
from estimator_lab.errors import MeasurementError, UsageError
from estimator_lab.noise import Noise, derive_seed


class GradientSampler:
    """Draws gradients by calling a function; the truth is given, or is another sampler.

    Torch's global random stream is seeded for every call and put back afterwards, so that draws are independent and can
    be repeated. Randomness from elsewhere (numpy, a generator of the function's own) is the function's affair.

    Args:
        function: ``() -> {name: gradient}``, the same names and shapes at every call.
        truth: the expected gradients ``{name: tensor}``, or a sampler that is unbiased.
        name: what reports call it; by default the function's name.
        unbiased: the claim to hold it to, if any.

    Raises:
        UsageError: the truth is no dict of tensors.
    """

    def __init__(
        self,
        function: Callable[[], Mapping[str, Tensor]],
        truth: "Mapping[str, Tensor] | GradientSampler",
        name: str = "",
        unbiased: bool | None = None,
    ):
        if not isinstance(truth, GradientSampler):
            truth = _gradients(truth, f"the truth of a GradientSampler over {function!r}")
        self.function, self.truth, self.unbiased = function, truth, unbiased
        self.name = name or getattr(function, "__qualname__", type(function).__qualname__)

    @property
    def label(self) -> str:
        """Short name for tables and figures."""
        return self.name

    def __repr__(self) -> str:
        return f"GradientSampler({self.name})"

    def draw(self, replicates: int, noise: Noise) -> dict[Key, Tensor]:
        """Calls the function once per replicate.

        Raises:
            UsageError: the function returns something else than a dict of tensors.
            MeasurementError: names or shapes change from call to call.
        """
        rows: list[dict[str, Tensor]] = []
        base = torch.initial_seed()  # the measurement has seeded the stream for this block
        for index in range(replicates):
            torch.manual_seed(derive_seed(base, index))
            rows.append(_gradients(self.function(), f"what {self!r} returned at call {index}"))
            if _shapes(rows[-1]) != _shapes(rows[0]):
                raise MeasurementError(
                    f"{self!r} returned {_shapes(rows[-1])} at call {index} and {_shapes(rows[0])} at call 0; "
                    "return the same names and shapes every time"
                )
        return {("weight", k): torch.stack([row[k] for row in rows]) for k in rows[0]}


def _gradients(given: object, what: str) -> dict[str, Tensor]:
    """A detached copy of gradients by name."""
    if not isinstance(given, Mapping) or not given or not all(isinstance(v, Tensor) for v in given.values()):
        kinds = {k: type(v).__name__ for k, v in given.items()} if isinstance(given, Mapping) else type(given).__name__
        raise UsageError(f"{what} is no dict of tensors by name, such as {{'w': tensor}}; found {kinds}")
    return {str(k): v.detach().clone() for k, v in given.items()}


def _shapes(gradients: Mapping[str, Tensor]) -> dict[str, list[int]]:
    return {k: list(v.shape) for k, v in gradients.items()}
