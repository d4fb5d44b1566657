"""Estimands, intervals, tests and verdicts of a gradient estimator held against a truth (numpy and scipy only)."""

from estimator_lab.statistics.bias import bias_interval, detectable, equivalent, replicates_needed
from estimator_lab.statistics.estimands import describe
from estimator_lab.statistics.group import Estimate, Group
from estimator_lab.statistics.multiplicity import holm
from estimator_lab.statistics.unbiasedness import test_unbiased
from estimator_lab.statistics.verdict import GroupVerdict, Verdict, verdict

__all__ = [
    "Estimate",
    "Group",
    "GroupVerdict",
    "Verdict",
    "bias_interval",
    "describe",
    "detectable",
    "equivalent",
    "holm",
    "replicates_needed",
    "test_unbiased",
    "verdict",
]
