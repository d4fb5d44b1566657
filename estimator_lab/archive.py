"""A record as named arrays, and back: what a file keeps of it."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from estimator_lab.chain import Key
from estimator_lab.moments import Batches, Moments
from estimator_lab.plan import Plan
from estimator_lab.record import Layout, Record

SUMS = ("mean", "m2", "m3", "m4")


def arrays_of(record: Record) -> dict[str, Any]:
    """Arrays by name, from which ``record_of`` makes an equal record, to the last bit."""
    layout, nodes = record.layout, list(record.batches)
    said = {
        "plan": asdict(record.plan),
        "shapes": list(layout.shapes.items()),
        "groups": list(layout.groups.items()),
        "start": record.start,
        "stop": record.stop,
        "weight": record.moments.weight,
        "leaves": record.batches.leaves,
        "nodes": [key for key, _ in nodes],
        "losses": record.losses,
        "backwards": record.backwards,
        "seconds": record.seconds,
        "random": record.random,
        "loss": record.loss,
        "dead": sorted(record.dead),
        "notes": record.notes,
    }
    arrays = {name: getattr(record.moments, name) for name in SUMS}
    arrays |= {
        "said": np.array(json.dumps(said)),
        "batches": np.stack([mean for _, mean in nodes]),
        "largest": record.largest,
    }
    return arrays if record.reference is None else arrays | {"reference": record.reference}


def record_of(arrays: Mapping[str, Any]) -> Record:
    """The record that ``arrays_of`` was given.

    Raises:
        KeyError, TypeError, ValueError: these are not the arrays of a record.
    """
    said = json.loads(str(arrays["said"]))
    plan = Plan(**(said["plan"] | {"wrt": tuple(said["plan"]["wrt"])}))
    shapes = {_key(k): tuple(shape) for k, shape in said["shapes"]}
    groups = {_key(k): tuple(map(_key, keys)) for k, keys in said["groups"]}
    rows = zip(map(tuple, said["nodes"]), arrays["batches"], strict=True)
    return Record(
        plan,
        Layout(shapes, groups),
        said["start"],
        said["stop"],
        Moments(said["weight"], *(arrays[name] for name in SUMS)),
        Batches(dict(rows), said["leaves"]),
        arrays["largest"],
        arrays.get("reference"),
        said["losses"],
        said["backwards"],
        said["seconds"],
        said["random"],
        said["loss"],
        frozenset(map(_key, said["dead"])),
        tuple(said["notes"]),
    )


def _key(names: Iterable[str]) -> Key:
    kind, name = names
    return kind, name
