"""Trajectories as tables and as curves of TensorBoard."""

import math
from pathlib import Path
from typing import Any, Protocol

from estimator_lab.diagnosis import writable
from estimator_lab.errors import UsageError
from estimator_lab.trajectories import Trajectory

EXTRA = "pip install 'estimator-lab[tracking]'"
STATISTICS = ("relative_bias", "variance", "snr", "mean_cosine", "cosine_of_mean", "descent")
"""What is logged of every group."""
TOTAL, LAYER = "gradient", "gradient by layer"
"""Groups of curves: one of totals, one of layers and sites."""


class Writer(Protocol):
    """What is used of a ``torch.utils.tensorboard.SummaryWriter``."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> Any:
        """Adds a point to a curve."""


def to_tensorboard(trajectory: Trajectory, writer: Writer | str | Path, *, step: int | None = None) -> None:
    """Logs statistics as scalars: ``gradient/variance/DisARM`` in total, ``gradient by layer/variance/h1/DisARM``.

    Expected losses are logged as ``loss/batch``, failed measurements as ``gradient/failed`` where there are any. What
    is nan or infinite is left out. Where several trainings were measured, their names follow the estimators'.

    Args:
        trajectory: what is logged.
        writer: a ``SummaryWriter``, anything with its ``add_scalar``, or a folder to write to.
        step: log this step only, as in a training loop; by default all.

    Raises:
        UsageError: a folder is given and tensorboard is not installed.
    """
    if isinstance(writer, str | Path):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UsageError(f"writing for TensorBoard needs the package tensorboard: {EXTRA}") from None
        with writable(writer), SummaryWriter(str(writer)) as opened:
            to_tensorboard(trajectory, opened, step=step)
        return
    several = len(trajectory.trainings) > 1

    def add(parts: tuple[str, ...], trained_with: str, at: int, value: float) -> None:
        tail = (f"trained with {trained_with}",) if several and trained_with else ()
        if math.isfinite(value):
            writer.add_scalar("/".join(part.replace("/", "|") for part in (*parts, *tail)), value, at)

    for p in trajectory.points:
        for row in p.finding.rows if step in (None, p.step) else ():
            group = row.name if row.level == "site" else f"{row.name} weights"
            for name in STATISTICS:
                parts = (TOTAL, name) if row.level == "total" else (LAYER, name, group)
                if name in row.statistics:
                    add((*parts, p.estimator), p.trained_with, p.step, row.statistics[name].value)
    for loss in trajectory.losses:
        if step in (None, loss.step):
            run = (f"run {loss.run}",) if loss.run else ()
            add(("loss", loss.on, *run), loss.trained_with, loss.step, loss.value.value)
    for at in sorted({f.step for f in trajectory.failures}):
        if step in (None, at):
            writer.add_scalar(f"{TOTAL}/failed", sum(f.step == at for f in trajectory.failures), at)


def write_table(trajectory: Trajectory, path: str | Path) -> None:
    """Writes ``Trajectory.to_frame`` as a table: ``.csv``, or ``.parquet`` with pyarrow.

    Raises:
        UsageError: the suffix is another one, pyarrow is not installed, or the folder cannot be written to.
    """
    suffix = Path(path).suffix
    frame = trajectory.to_frame()
    if suffix == ".csv":
        with writable(path):
            frame.to_csv(path, index=False)
    elif suffix == ".parquet":
        try:
            import pyarrow  # type: ignore[import-not-found, unused-ignore]  # noqa: F401
        except ImportError:
            raise UsageError(f"writing parquet needs the package pyarrow: {EXTRA}; or name a .csv file") from None
        with writable(path):
            frame.to_parquet(path, index=False)
    else:
        raise UsageError(f"a table is written as .csv or .parquet; found {str(path)!r}")
