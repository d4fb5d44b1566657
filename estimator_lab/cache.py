"""Files that can be made again: trained weights and long truths, kept between runs."""

import hashlib
import io
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from estimator_lab.moments import Array


def folder() -> Path:
    """``$ESTIMATOR_LAB_CACHE``, or ``estimator_lab`` in the user's cache folder."""
    if own := os.environ.get("ESTIMATOR_LAB_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "estimator_lab"


def path(kind: str, identity: str) -> Path:
    """Where something of this identity is kept."""
    return folder() / f"{kind}-{hashlib.sha256(identity.encode()).hexdigest()[:24]}.npz"


def load(kind: str, identity: str) -> dict[str, Array] | None:
    """The arrays kept under an identity; None if there are none, or the file is damaged or of something else."""
    try:
        data = path(kind, identity).read_bytes()
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if archive.testzip():  # numpy reads as far as an array's header says, which may end before the checksum
                return None
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception:  # whatever zipfile, numpy and the parser of its headers raise on a damaged file
        return None
    found = arrays.pop("identity", None)
    return arrays if found is not None and str(found) == identity else None


def store(kind: str, identity: str, arrays: Mapping[str, Array]) -> None:
    """Keeps arrays; in a folder that cannot be written, nothing is kept, and they are made again next time."""
    try:
        target = path(kind, identity)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, suffix=".tmp", delete=False) as file:
            try:
                np.savez(file, allow_pickle=False, identity=np.array(identity), **arrays)
                os.replace(file.name, target)  # whole or not at all, also when two processes write
            except BaseException:
                os.unlink(file.name)  # a full disk keeps no halves
                raise
    except (OSError, RuntimeError):  # of pathlib, where there is no home folder
        return


def cached(kind: str, identity: str, make: Callable[[], Mapping[str, Array]]) -> dict[str, Array]:
    """The arrays kept under an identity, made and kept if there are none."""
    found = load(kind, identity)
    if found is None:
        found = dict(make())
        store(kind, identity, found)
    return found
