"""Estimands, intervals, tests and verdicts of a gradient estimator held against a truth (numpy and scipy only)."""

from estimator_lab.statistics.bias import bias_interval, detectable, equivalent, replicates_needed
from estimator_lab.statistics.estimands import describe
from estimator_lab.statistics.group import Estimate, Group
from estimator_lab.statistics.multiplicity import benjamini_hochberg, holm
from estimator_lab.statistics.spectrum import effective_rank, leading_shares
from estimator_lab.statistics.tail import heavy, largest_share, tail_index
from estimator_lab.statistics.unbiasedness import test_unbiased
from estimator_lab.statistics.units import Discoveries, discoveries, unit_tests
from estimator_lab.statistics.verdict import GroupVerdict, Look, Looks, Verdict, verdict

__all__ = [
    "Discoveries",
    "Estimate",
    "Group",
    "GroupVerdict",
    "Look",
    "Looks",
    "Verdict",
    "benjamini_hochberg",
    "bias_interval",
    "describe",
    "detectable",
    "discoveries",
    "effective_rank",
    "equivalent",
    "heavy",
    "holm",
    "largest_share",
    "leading_shares",
    "replicates_needed",
    "tail_index",
    "test_unbiased",
    "unit_tests",
    "verdict",
]
