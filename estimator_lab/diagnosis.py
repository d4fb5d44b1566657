"""The result of a study: findings, comparisons between them, and where they came from; saved as JSON."""

import hashlib
import json
import math
import platform
import shlex
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from estimator_lab.errors import UsageError, in_a_line
from estimator_lab.finding import DISCOVERY, Finding, Row
from estimator_lab.saving import plain, restored
from estimator_lab.statistics import Estimate
from estimator_lab.statistics.ratio import variance_ratio

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "estimator_lab diagnosis"
SCHEMA = 2


@dataclass(frozen=True)
class Ratio:
    """Variance of one estimator over that of a reference, on one problem, with 95 % intervals.

    Attributes:
        problem: short name.
        estimator: short name.
        reference: short name of the reference.
        level: of the row compared.
        name: of the row compared.
        variance: ratio of the total variances of one draw.
        work: the same times the ratio of loss evaluations: below one, the estimator is the better buy.
        paired: whether both were drawn from the same random numbers, which cancels what they have in common.
    """

    problem: str
    estimator: str
    reference: str
    level: str
    name: str
    variance: Estimate
    work: Estimate
    paired: bool


@dataclass(frozen=True)
class Entry:
    """A line of the ledger: what may go wrong, how often at most, and how that is kept.

    Attributes:
        item: what the rate is for.
        rate: a probability, or for units the false discovery rate.
        how: by which method, and what was spent.
    """

    item: str
    rate: float
    how: str


def ratios(findings: tuple[Finding, ...]) -> tuple[Ratio, ...]:
    """Every estimator against the first one measured on the same problem with a variance, per site and in total.

    Equally many draws from the same seed are paired: all estimators of a problem get the same random numbers.
    """
    result = []
    for problem in dict.fromkeys(f.problem for f in findings):
        own = [f for f in findings if f.problem == problem]
        reference = next((f for f in own if f.total.statistics["variance"].value > 0), None)
        for finding in own:
            if reference is None or finding is reference:
                continue
            paired = (finding.seed, finding.replicates) == (reference.seed, reference.replicates)
            for row in finding.rows:
                if row.level not in ("site", "total"):
                    continue
                other = reference.row(row.level, row.name)
                ratio = _quotient(row, other, paired)
                cost = finding.losses / reference.losses if reference.losses else math.nan
                work = Estimate(ratio.value * cost, ratio.low * cost, ratio.high * cost)
                labels = finding.problem_label, finding.estimator_label, reference.estimator_label
                sampled = bool(row.spread and other.spread)
                result.append(Ratio(*labels, row.level, row.name, ratio, work, paired and sampled))
    return tuple(result)


def _quotient(row: Row, other: Row, paired: bool) -> Estimate:
    """The ratio of two variances, without an interval where one of them has none."""
    a, b = row.statistics["variance"], other.statistics["variance"]
    if math.isnan(a.value) or math.isnan(b.value):
        return Estimate(math.nan, math.nan, math.nan)
    ratio = variance_ratio(np.array(row.spread or (a.value,)), np.array(other.spread or (b.value,)), paired)
    return ratio if math.isfinite(a.low + b.low) else Estimate(ratio.value, math.nan, math.nan)


def environment() -> dict[str, str]:
    """Versions and machine that results depend on."""
    packages = ("estimator-lab", "torch", "numpy", "scipy", "pandas", "matplotlib", "seaborn", "typst")
    import torch

    return {
        "Python": platform.python_version(),
        **{name: version(name) for name in packages},
        "platform": f"{platform.system()} {platform.machine()}",
        "threads": str(torch.get_num_threads()),
    }


@dataclass(frozen=True)
class Diagnosis:
    """Findings of one or more estimators on one or more problems.

    Attributes:
        title: of the report.
        findings: one per estimator and problem.
        ratios: variance comparisons; empty for a single estimator.
        command: what reproduces it.
        created: date, ISO 8601.
        margin: relative bias that counts as small.
        alpha: chance that any unbiased estimator is called biased anywhere in the study.
        environment: versions and machine.
        skipped: pairs that do not go together, with the reason.
    """

    title: str
    findings: tuple[Finding, ...]
    ratios: tuple[Ratio, ...]
    command: str
    created: str
    margin: float
    alpha: float
    environment: Mapping[str, str]
    skipped: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """The verdict of a single finding; of several, the worst status: "violated", "inconclusive" or "sound"."""
        return self.findings[0].verdict if len(self.findings) == 1 else self.status

    @property
    def status(self) -> str:
        """The worst of the findings': "violated", else "inconclusive", else "sound"."""
        found = {f.status for f in self.findings}
        return next((s for s in ("violated", "inconclusive") if s in found), "sound")

    def __repr__(self) -> str:
        return f"<Diagnosis {self.title!r}: {len(self.findings)} findings, {self.status}>"

    def summary(self) -> str:
        """One line per finding, in words; below a violated claim another on what it looks like."""
        lines = [(f"{f.estimator_label} on {f.problem_label}: {f.words}", f"  {f.looks_like}") for f in self.findings]
        return "\n".join(line for pair in lines for line in pair if line.strip())

    @property
    def ledger(self) -> tuple[Entry, ...]:
        """What the study spends its error rates on: every claim that it makes has its line."""
        sampled = [f for f in self.findings if not f.exact]
        single = Entry("a 95 % interval of a single statistic misses", 0.05, "each for itself, beside the above")
        if not sampled:
            return (Entry("a verdict errs by chance", 0.0, "every expectation is known exactly, nothing was tested"),)
        pairs, exact = len(self.findings), len(self.findings) - len(sampled)
        looks = max(f.looks_planned for f in sampled)
        groups = max(1, *(sum(r.tested for r in f.rows) for f in sampled))
        taken = " to ".join(str(n) for n in sorted({min(f.looks for f in sampled), max(f.looks for f in sampled)}))
        free = f"; {exact} of them known exactly, which spend nothing" if exact else ""
        found = sum(u.found for f in sampled for u in f.units.values())
        shares = (
            (pairs, f"on one of the {pairs} pairs", f"equal shares{free}"),
            (looks, f"at one of {looks} looks at its draws", f"equal shares; {taken} taken"),
            (groups, f"in one of up to {groups} groups", "at least this much: Holm's method"),
        )
        lines = [Entry("an unbiased estimator is called biased, anywhere in the study", self.alpha, "in all")]
        rate = self.alpha
        for number, item, how in shares:
            rate /= number
            lines += [Entry(item, rate, how)] if number > 1 else []
        lines += [
            Entry("a bias of the margin or more is called within it", self.alpha, "in all, in the same shares"),
            Entry("a bias of the margin or less is called beyond it", self.alpha, "in all, in the same shares"),
        ]
        if found:
            how = f"{found} named; Benjamini and Hochberg inside sites found biased, beside the above"
            lines.append(Entry("share of unbiased ones among the single units named", DISCOVERY, how))
        return (*lines, single)

    def to_frame(self) -> "pd.DataFrame":
        """Tidy frame: one row per statistic of every row of every finding, with its interval."""
        import pandas as pd

        rows = [
            {
                "problem": f.problem_label, "estimator": f.estimator_label, "claim": f.claim, "status": f.status,
                "exact": bool(f.exact), "replicates": f.replicates, "planned": f.planned, "losses": f.losses,
                "level": r.level, "name": r.name, "size": r.size, "statistic": name, "value": e.value, "low": e.low,
                "high": e.high, "p": r.p, "p_holm": r.p_holm,
                "verdict": r.verdict, "detectable": r.detectable, "needed": r.needed,
            }
            for f in self.findings
            for r in f.rows
            for name, e in r.statistics.items()
        ]  # fmt: skip
        return pd.DataFrame(rows)

    def ratio_frame(self) -> "pd.DataFrame":
        """Variance ratios to the reference, plain and times the ratio of loss evaluations ("work"), with intervals."""
        import pandas as pd

        rows = [
            {
                "problem": r.problem, "estimator": r.estimator, "reference": r.reference, "level": r.level,
                "name": r.name, "variance": r.variance.value, "variance_low": r.variance.low,
                "variance_high": r.variance.high, "work": r.work.value, "work_low": r.work.low,
                "work_high": r.work.high, "paired": r.paired,
            }
            for r in self.ratios
        ]  # fmt: skip
        return pd.DataFrame(rows)

    def report(self, path: str | Path) -> None:
        """Writes the report as a PDF.

        Raises:
            UsageError: the folder cannot be written to.
        """
        from estimator_lab.report import write

        with writable(path):
            write(self, path)

    def to_json(self) -> str:
        """Canonical JSON; numbers to nine significant digits, nan as null, infinities as strings."""
        return json.dumps({"format": FORMAT, "schema": SCHEMA, **plain(self)}, ensure_ascii=False, indent=1)

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Writes the JSON, through a temporary file so that a full disk or an interrupt leaves no half file.

        Raises:
            UsageError: the folder cannot be written to.
        """
        with writable(path):
            path = Path(path)
            with tempfile.NamedTemporaryFile(
                "w", encoding="utf-8", dir=path.parent, delete=False, suffix=".part"
            ) as file:
                part = Path(file.name)
                try:
                    file.write(self.to_json())
                    file.close()
                    part.chmod(0o644)
                    part.replace(path)
                finally:
                    part.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads what ``save`` wrote.

        Raises:
            UsageError: the file is missing, truncated, not JSON, not ours, or of another version.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise UsageError(
                f"cannot read {path}: {error.strerror}; name a file that estimator-lab saved with --out"
            ) from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UsageError(
                f"{path} is truncated or no JSON ({error}); measure again, or restore it from a copy"
            ) from None
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise UsageError(f"{path} is JSON but not a result of estimator-lab; name a file that it saved with --out")
        if data.get("schema") != SCHEMA:
            raise UsageError(
                f"{path} has schema {data.get('schema')}, this version reads {SCHEMA}; "
                "read it with the version that wrote it"
            )
        try:
            return restored(cls, data)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(
                f"{path} lacks something a result has ({in_a_line(error)}); measure again, or restore it from a copy"
            ) from None


class writable:
    """Turns a failure to write into one line that names the place and the remedy."""

    def __init__(self, path: str | Path):
        self.path = path

    def __enter__(self) -> None:
        """Nothing to set up."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Tells an operating-system error in one line."""
        if isinstance(error, OSError):
            reason = error.strerror or error
            raise UsageError(
                f"cannot write {self.path}: {reason}; name a folder that exists and can be written to"
            ) from None


def command_line() -> str:
    """The command that this process was started with, or the interpreter's name for a session."""
    if not sys.argv or not sys.argv[0]:
        return "Python session"
    script = Path(sys.argv[0]).name
    if script == "__main__.py":
        return shlex.join(["python", "-m", Path(sys.argv[0]).parent.name, *sys.argv[1:]])
    return shlex.join([*(["python"] if script.endswith(".py") else []), script, *sys.argv[1:]])
