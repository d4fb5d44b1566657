import hashlib, json, dataclasses
from dataclasses import dataclass
from typing import Any, Mapping
@dataclass(frozen=True)
class Estimate:
    value: float; low: float; high: float
@dataclass(frozen=True)
class Row:
    level: str; name: str; size: int; statistics: Mapping[str, Estimate]; p: float; p_holm: float; verdict: str; detectable: float; needed: int; tested: bool
@dataclass(frozen=True)
class Curve:
    n: list; error: list; low: list; high: list
@dataclass(frozen=True)
class UnitMap:
    mean: Any; standard_error: Any; variance: Any; truth: Any
@dataclass(frozen=True)
class Finding:
    problem: str; estimator: str; problem_label: str; estimator_label: str; about: Mapping; claim: Any; truth: str; truth_error: float
    replicates: int; seed: int; dtype: str; verdict: str; words: str; rows: tuple; units: Mapping; curves: Mapping
    losses: float; backwards: float; seconds: float; notes: tuple
@dataclass(frozen=True)
class Ratio:
    problem: str; estimator: str; reference: str; level: str; name: str; variance: Estimate; work: Estimate
@dataclass(frozen=True)
class Diagnosis:
    title: str; findings: tuple; ratios: tuple; command: str; environment: Mapping; created: str; alpha: float; margin: float
    @property
    def digest(self):
        return hashlib.sha256(repr([(f.problem,f.estimator) for f in self.findings]).encode()).hexdigest()
