"""Laws that every gradient estimator is held to, for its author's tests."""

from estimator_lab.conformance.case import Check, Outcome
from estimator_lab.conformance.suite import (
    Conformance,
    ConformanceError,
    check_estimator,
    checks,
    parametrize_with_checks,
)

__all__ = [
    "Check",
    "Conformance",
    "ConformanceError",
    "Outcome",
    "check_estimator",
    "checks",
    "parametrize_with_checks",
]
