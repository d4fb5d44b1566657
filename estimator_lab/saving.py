"""Results as plain JSON values, and back."""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")


def plain(value: Any) -> Any:
    """Nested results as JSON values: numbers to nine significant digits, nan as null, infinities as strings.

    Fields that are marked "sparse" are left out where they are empty, so that files from before they were there can be
    read and stay as they are.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kept = [f for f in dataclasses.fields(value) if not f.metadata.get("sparse") or getattr(value, f.name)]
        return {f.name: plain(getattr(value, f.name)) for f in kept}
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return None if math.isnan(value) else str(value) if math.isinf(value) else float(f"{value:.9g}")
    return value


def restored(kind: type[T], data: Any) -> T:
    """The result of this type that ``plain`` was given; its fields' annotations say how.

    Raises:
        KeyError, TypeError, ValueError: the data are not those of such a result.
    """
    found: T = _restored(kind, data)
    return found


def _restored(kind: Any, data: Any) -> Any:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return None if data is None else _restored(next(k for k in inner if k is not types.NoneType), data)
    if kind is float:
        return math.nan if data is None else float(data)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        kept = [f for f in dataclasses.fields(kind) if f.name in data or not f.metadata.get("sparse")]
        return kind(**{f.name: _restored(hints[f.name], data[f.name]) for f in kept})  # type: ignore[operator]
    if origin is tuple:
        each = [inner[0]] * len(data) if inner[1:] == (...,) else inner
        return tuple(_restored(k, v) for k, v in zip(each, data, strict=True))
    if origin is list:
        return [_restored(inner[0], v) for v in data]
    if origin is np.ndarray:
        return np.array(data, dtype=np.float64)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {k: _restored(inner[1], v) for k, v in data.items()}
    return data
