"""Schemas of baseline files: what changed from one to the next, how an old file is read, and what is no such file."""

import dataclasses
import json
import re
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from estimator_lab.errors import UsageError

FORMAT = "estimator_lab baseline"
SCHEMA = 1

REMEDY = "save it again with estimator-lab baseline save, or restore a copy"

Data = dict[str, Any]


def _to_1(data: Data) -> Data:
    """From 0: the standard error was that of the variance, now it is of its logarithm; no history, no pace."""
    groups = []
    for group in data["groups"]:
        kept = {k: v for k, v in group.items() if k != "standard_error"}
        groups.append({**kept, "error": _relative(group["standard_error"], group["variance"])})
    return {**data, "groups": groups, "history": [], "pace": None, "pace_error": None}


def _relative(error: float, value: float) -> float:
    return float(f"{error / value:.3g}") if value > 0 else 0.0


MIGRATIONS: Mapping[int, Callable[[Data], Data]] = {0: _to_1}
"""From each earlier schema to the next one."""


def read(path: str | Path, kind: type) -> Data:
    """The data of a baseline file, in the present schema and with the types that the fields of a dataclass declare.

    Args:
        path: of the file.
        kind: the dataclass.

    Raises:
        UsageError: the file is missing, truncated, not JSON, not a baseline, of a schema that this version does not
            know, or holds something else than it should.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # some editors begin a file with a mark
        if re.search("^(<<<<<<<|>>>>>>>)", text, re.M):
            raise UsageError(f"{path} holds the marks of a merge conflict; take one side, and accept the change anew")
        data = json.loads(text, parse_constant=_refuse)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}; name a file of estimator-lab baseline") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is truncated or no JSON ({error}); {REMEDY}") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise UsageError(f"{path} is JSON but no baseline; name a file that estimator-lab baseline save wrote")
    schema = data.get("schema")
    if type(schema) is not int or not 0 <= schema <= SCHEMA:
        raise UsageError(
            f"{path} has schema {schema!r}, this version reads 0 to {SCHEMA}; read it with the version that wrote it"
        )
    try:
        for step in range(schema, SCHEMA):
            data = {**MIGRATIONS[step](data), "schema": step + 1}
    except (KeyError, TypeError, AttributeError):
        raise UsageError(f"{path} is no baseline of the schema {schema} that it names; {REMEDY}") from None
    if wrong := mistyped(kind, data, ""):
        raise UsageError(f"{path}: {wrong}; {REMEDY}")
    return data


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


def mistyped(kind: Any, value: object, place: str) -> str:
    """The first place where a JSON value is not what a type declares, in words; empty where all are.

    Args:
        kind: a dataclass, or the type of a field.
        value: as it was read.
        place: where it lies, as in ``groups[0].mean``.
    """
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            return f"{place} is no object"
        hints, start = typing.get_type_hints(kind), place and f"{place}."
        names = [field.name for field in dataclasses.fields(kind)]
        if lost := next((name for name in names if name not in value), None):
            return f"it lacks {start}{lost}"
        return next(filter(None, (mistyped(hints[n], value[n], f"{start}{n}") for n in names)), "")
    if origin in (typing.Union, types.UnionType):
        return "" if not all(mistyped(k, value, place) for k in inner) else f"{place} is {value!r:.40}"
    if origin is tuple:
        if not isinstance(value, list) or (inner[1:] != (...,) and len(value) != len(inner)):
            return f"{place} is no list{'' if inner[1:] == (...,) else f' of {len(inner)}'}"
        return next(filter(None, (mistyped(inner[0], v, f"{place}[{i}]") for i, v in enumerate(value))), "")
    if origin is Mapping:
        if not isinstance(value, dict):
            return f"{place} is no object"
        return next(filter(None, (mistyped(inner[1], v, f"{place}.{k}") for k, v in value.items())), "")
    if kind is float:
        right = value is None or value in ("inf", "-inf") or type(value) in (int, float)
    else:
        right = type(value) is kind
    return "" if right else f"{place} is {value!r:.40}"


def written(value: Any, indent: int = 0) -> str:
    """Canonical JSON: sorted keys; lists and dictionaries of plain values in one line."""
    pad, inner = "\n" + " " * indent, "\n" + " " * (indent + 1)
    if isinstance(value, dict) and any(isinstance(v, dict | list) for v in value.values()):
        items = [f"{json.dumps(k, ensure_ascii=False)}: {written(value[k], indent + 1)}" for k in sorted(value)]
    elif isinstance(value, list) and any(isinstance(v, dict | list) for v in value):
        items = [written(v, indent + 1) for v in value]
    else:
        return json.dumps(value, ensure_ascii=False, sort_keys=True)
    left, right = "{}" if isinstance(value, dict) else "[]"
    return f"{left}{inner}{f',{inner}'.join(items)}{pad}{right}"
