"""What may be claimed of an estimator."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from estimator_lab.statistics.bias import (
    detectable,
    equivalent,
    relative_bias_interval,
    replicates_needed,
    truth_norm,
)
from estimator_lab.statistics.group import FEWEST_BATCHES, GATE, Group
from estimator_lab.statistics.multiplicity import holm
from estimator_lab.statistics.unbiasedness import test_unbiased

POWER = 0.95


@dataclass(frozen=True)
class GroupVerdict:
    """What may be claimed of one group.

    Args:
        word: "exact" (no noise, equal to the truth up to rounding), "unbiased within" (the margin), "biased beyond"
            (the margin), "biased" (not zero, size against the margin open, or an exactly known bias inside it),
            "undecided".
        p: p-value of a zero bias.
        p_holm: the same, adjusted for the number of groups.
        low: lower end of the relative bias, simultaneous over groups; nan where there is none.
        high: upper end.
        detectable: smallest relative bias that would have been found with probability 0.95.
        needed: replicates that would probably decide it if the bias is zero; 0 when it is decided, or when no number
            of them can (no relative margin exists).
    """

    word: str
    p: float
    p_holm: float
    low: float
    high: float
    detectable: float
    needed: int


@dataclass(frozen=True)
class Verdict:
    """What may be claimed of all groups together.

    Args:
        word: "biased" if any group is, "unbiased within" only if every group is that or exact, else "undecided".
        groups: name -> verdict of the group.
    """

    word: str
    groups: Mapping[str, GroupVerdict]


def verdict(groups: Mapping[str, Group], margin: float = 0.05, alpha: float = 0.01) -> Verdict:
    """Judge a family of groups; margin is relative to the norm of the truth of each.

    Over all groups together, the chance to call any unbiased one biased is at most alpha (Holm), and so is the chance
    to call any one "unbiased within" whose bias is at least the margin, and to call any one "biased beyond" whose bias
    is at most the margin (both Bonferroni). "unbiased within" comes only from the equivalence test, never from a test
    that found nothing; a significant bias that is proved smaller than the margin is "unbiased within" it.

    A group whose truth is zero has no relative margin: it is "biased", "exact" or "undecided"; one whose noisy truth is
    not distinguishable from zero can moreover be "biased beyond", but not "unbiased within". A group with n_eff < 30 or
    with fewer than 8 paired batches is "undecided".

    Raises:
        ValueError: no groups, or margin or alpha not positive, or alpha >= 1.
    """
    if not groups or not margin > 0 or not 0 < alpha < 1:
        raise ValueError(f"needs groups, margin > 0 and 0 < alpha < 1, got {len(groups)} groups, {margin}, {alpha}")
    share = alpha / len(groups)
    p = [test_unbiased(group) for group in groups.values()]
    judged: dict[str, GroupVerdict] = {}
    for (name, group), raw, adjusted in zip(groups.items(), p, holm(p), strict=True):
        low, high = relative_bias_interval(group, share, share)
        word = _word(group, margin, alpha, share, adjusted, low)
        needed = _needed(group, margin, share) if word == "undecided" else 0
        judged[name] = GroupVerdict(word, raw, adjusted, low, high, detectable(group, share, POWER), needed)
    words = {one.word for one in judged.values()}
    if words & {"biased", "biased beyond"}:
        return Verdict("biased", judged)
    return Verdict("undecided" if "undecided" in words else "unbiased within", judged)


def _word(group: Group, margin: float, alpha: float, share: float, adjusted: float, low: float) -> str:
    if group.exact:
        return "exact"
    if not group.decidable:
        return "undecided"
    if low > margin:
        return "biased beyond"
    if not group.deterministic and equivalent(group, margin, share):
        return "unbiased within"
    return "biased" if adjusted <= alpha else "undecided"


def _needed(group: Group, margin: float, share: float) -> int:
    if not truth_norm(group) > 0 or group.constant:  # constant draws show no noise to plan from
        return 0
    # these draws did not decide it, so no plan may say that so many would; n_eff grows like R at best
    gate = group.replicates * max(2.0, GATE / group.effective_sample, FEWEST_BATCHES / group.pairing.batches)
    return max(replicates_needed(group, margin, share, POWER), int(np.ceil(gate)))
