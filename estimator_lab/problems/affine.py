"""Affine layers of networks whose weights are tensors by name."""

from collections.abc import Mapping

from torch import Tensor


def shapes(name: str, outputs: int, inputs: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights of a layer: ``name.weight`` ``[outputs, inputs]`` and ``name.bias`` ``[outputs]``."""
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def affine(weights: Mapping[str, Tensor], name: str, inputs: Tensor) -> Tensor:
    """``inputs W^T + b`` ``[..., outputs]``."""
    return inputs @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
