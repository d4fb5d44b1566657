"""Schemas of baseline files: what changed from one to the next, and how an old file is read."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from estimator_lab.errors import UsageError

FORMAT = "estimator_lab baseline"
SCHEMA = 1

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


def migrated(data: object, path: str | Path = "the file") -> Data:
    """The data of a baseline file in the present schema.

    Raises:
        UsageError: it is no baseline, or of a schema that this version does not know.
    """
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise UsageError(f"{path} is JSON but no baseline; name a file that estimator-lab baseline save wrote")
    schema = data.get("schema")
    if not isinstance(schema, int) or not 0 <= schema <= SCHEMA:
        raise UsageError(
            f"{path} has schema {schema}, this version reads 0 to {SCHEMA}; read it with the version that wrote it"
        )
    for step in range(schema, SCHEMA):
        data = {**MIGRATIONS[step](data), "schema": step + 1}
    return data
