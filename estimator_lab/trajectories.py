"""Estimators along training: what was found at each checkpoint, saved as JSON."""

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from estimator_lab.diagnosis import writable
from estimator_lab.errors import UsageError, in_a_line
from estimator_lab.finding import Finding, Row
from estimator_lab.saving import plain, restored
from estimator_lab.statistics import Estimate

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "estimator_lab trajectory"
SCHEMA = 1
LEVELS = ("site", "layer", "total")
"""Levels of the rows that are kept: single tensors are not."""


@dataclass(frozen=True)
class Point:
    """One estimator at one checkpoint of one training.

    Attributes:
        trained_with: name of the training; "" where there is only one.
        step: of the training.
        weights: hash of the weights that were measured.
        finding: of the estimator there; sites, layers and the total, without unit maps, curves and batches.
    """

    trained_with: str
    step: int
    weights: str
    finding: Finding

    def __post_init__(self) -> None:
        """Leaves out what would make a long trajectory large."""
        rows = tuple(replace(r, scores=(), spread=()) for r in self.finding.rows if r.level in LEVELS)
        object.__setattr__(self, "finding", replace(self.finding, rows=rows, units={}, curves={}))

    @property
    def estimator(self) -> str:
        """Short name of the estimator."""
        return self.finding.estimator_label


@dataclass(frozen=True)
class Loss:
    """An expected loss at one checkpoint, with its 95 % interval.

    Attributes:
        trained_with: name of the training.
        step: of the training.
        on: which examples: "batch" for those that gradients are measured on.
        run: number of the training among those that differ in their seed only.
        value: mean over examples of the expected loss.
    """

    trained_with: str
    step: int
    on: str
    run: int
    value: Estimate


@dataclass(frozen=True)
class Failure:
    """A measurement that failed; the others went on.

    Attributes:
        trained_with: name of the training.
        step: of the training.
        estimator: short name; "" where the truth could not be found; "the expected loss".
        reason: in a line.
    """

    trained_with: str
    step: int
    estimator: str
    reason: str


@dataclass(frozen=True)
class Trajectory:
    """Estimators along one training or several.

    Attributes:
        title: of figures and reports.
        settings: all that decides what is measured and how; results of equal settings may be gone on with.
        points: one per estimator, checkpoint and training.
        losses: expected losses at checkpoints.
        failures: what could not be measured, and why.
        command: what reproduces it.
        created: date, ISO 8601.
        environment: versions and machine.
    """

    title: str
    settings: Mapping[str, Any]
    points: tuple[Point, ...]
    losses: tuple[Loss, ...]
    failures: tuple[Failure, ...]
    command: str
    created: str
    environment: Mapping[str, str]

    def __repr__(self) -> str:
        failed = f", {len(self.failures)} failed" if self.failures else ""
        return f"<Trajectory {self.title!r}: {len(self.points)} points at {len(self.steps)} steps{failed}>"

    @property
    def steps(self) -> list[int]:
        """Steps of the checkpoints, ascending."""
        return sorted({p.step for p in self.points})

    @property
    def estimators(self) -> list[str]:
        """Short names in the order of measurement."""
        return list(dict.fromkeys(p.estimator for p in self.points))

    @property
    def trainings(self) -> list[str]:
        """Names of the trainings in the order of measurement."""
        return list(dict.fromkeys(p.trained_with for p in self.points))

    def of(self, *, trained_with: str | None = None, estimator: str | None = None) -> list[Point]:
        """The points of a training, an estimator, or both, by step."""
        found = [p for p in self.points if trained_with in (None, p.trained_with) and estimator in (None, p.estimator)]
        return sorted(found, key=lambda p: p.step)

    def plus(self, points: Iterable[Point] = (), losses: Iterable[Loss] = (), failures: Iterable[Failure] = ()) -> Self:
        """With more of them."""
        return replace(
            self,
            points=(*self.points, *points),
            losses=(*self.losses, *losses),
            failures=(*self.failures, *failures),
        )

    def summary(self) -> str:
        """One line for each estimator and training: bias, variance and cosine at the first and the last checkpoint."""
        lines = []
        for training in self.trainings:
            for estimator in dict.fromkeys(p.estimator for p in self.of(trained_with=training)):
                own = self.of(trained_with=training, estimator=estimator)
                first, last = own[0].finding.total, own[-1].finding.total
                said = [
                    f"{name} {_said(first, key)} to {_said(last, key)}"
                    for name, key in (
                        ("relative bias", "relative_bias"),
                        ("variance", "variance"),
                        ("cosine of a draw", "mean_cosine"),
                    )
                ]
                where = f" where trained with {training}" if training else ""
                lines.append(f"{estimator}{where}, step {own[0].step} to {own[-1].step}: {', '.join(said)}")
        for f in self.failures:
            lines.append(f"not measured: {f.estimator or 'the truth'} at step {f.step}: {f.reason}")
        return "\n".join(lines)

    def to_frame(self) -> "pd.DataFrame":
        """Tidy frame: one row per statistic of every row of every point, and per loss, each with its interval."""
        import pandas as pd

        rows: list[dict[str, Any]] = [
            {
                "trained_with": p.trained_with, "step": p.step, "run": 0, "estimator": p.estimator,
                "level": r.level, "name": r.name, "statistic": name, "value": e.value, "low": e.low, "high": e.high,
                "verdict": r.verdict, "replicates": p.finding.replicates,
            }
            for p in self.points
            for r in p.finding.rows
            for name, e in r.statistics.items()
        ]  # fmt: skip
        rows += [
            {
                "trained_with": s.trained_with, "step": s.step, "run": s.run, "estimator": "", "level": "examples",
                "name": s.on, "statistic": "loss", "value": s.value.value, "low": s.value.low, "high": s.value.high,
                "verdict": "", "replicates": 0,
            }
            for s in self.losses
        ]  # fmt: skip
        columns = (
            "trained_with", "step", "run", "estimator", "level", "name", "statistic", "value", "low", "high", "verdict",
            "replicates",
        )  # fmt: skip
        return pd.DataFrame(rows, columns=list(columns))

    def to_json(self) -> str:
        """JSON with a line for each point; numbers to nine significant digits, nan as null, infinities as strings."""
        head = {"format": FORMAT, "schema": SCHEMA}
        parts = ("points", "losses", "failures")
        rest = {k: getattr(self, k) for k in ("title", "settings", "command", "created", "environment")}

        def line(value: Any) -> str:
            return json.dumps(plain(value), ensure_ascii=False)

        entries = [f"{line(k)}: {line(v)}" for k, v in {**head, **rest}.items()]
        entries += [f"{line(k)}: [\n" + ",\n".join(map(line, getattr(self, k))) + "\n]" for k in parts]
        return "{\n" + ",\n".join(entries) + "\n}\n"

    def save(self, path: str | Path) -> None:
        """Writes the JSON; a reader sees the old file or the whole new one, never a part.

        Raises:
            UsageError: the folder cannot be written to.
        """
        target = Path(path)
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        with writable(path):
            try:
                part.write_text(self.to_json(), encoding="utf-8")
                part.replace(target)
            finally:
                part.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads what ``save`` wrote.

        Raises:
            UsageError: the file is missing, truncated, not JSON, not a trajectory, or of another version.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"cannot read {path}: {in_a_line(error)}; name a file that Trajectory.save wrote"
            ) from None
        return cls.from_json(text, str(path))

    @classmethod
    def from_json(cls, text: str, name: str = "the text") -> Self:
        """Reads what ``to_json`` gave.

        Raises:
            UsageError: it is truncated, not JSON, not a trajectory, or of another version.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise UsageError(f"{name} is truncated or no JSON ({error}); measure again, or restore a copy") from None
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise UsageError(f"{name} is JSON but no trajectory; name a file that Trajectory.save wrote")
        if data.get("schema") != SCHEMA:
            raise UsageError(
                f"{name} has schema {data.get('schema')}, this version reads {SCHEMA}; "
                "read it with the version that wrote it"
            )
        try:
            return restored(cls, data)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise UsageError(
                f"{name} lacks something a trajectory has ({in_a_line(error)}); measure again, or restore a copy"
            ) from None


def _said(row: Row, key: str) -> str:
    value = row.statistics[key].value
    return "unknown" if math.isnan(value) else f"{value:.3g}"


def settings_differ(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Names of settings that are not the same, as they are when saved; of nested ones the innermost."""
    first, second = (json.loads(json.dumps(plain(dict(s)))) for s in (a, b))
    names: list[str] = []
    for key in dict.fromkeys([*first, *second]):
        one, other = first.get(key), second.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            names += settings_differ(one, other)
        elif one != other:
            names.append(key)
    return list(dict.fromkeys(names))
