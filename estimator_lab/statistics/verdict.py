"""What may be claimed of an estimator, at one look at the data or at several."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from estimator_lab.statistics.bias import (
    detectable,
    equivalent,
    exceeds,
    relative_bias_interval,
    replicates_needed,
    truth_needed,
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
        p: p-value of a zero bias; with several looks the smallest times their planned number.
        p_holm: the same, adjusted for the number of groups.
        low: lower end of the relative bias, simultaneous over groups and looks; nan where there is none.
        high: upper end.
        detectable: smallest relative bias that would have been found with probability 0.95.
        needed: replicates that would probably decide it if the bias is zero; 0 when it is decided, or when no number
            of them can (no relative margin exists, or the truth is too noisy).
        truth: how many times the draws of the truth it takes, where the truth is too noisy for the margin; else 1.
    """

    word: str
    p: float
    p_holm: float
    low: float
    high: float
    detectable: float
    needed: int
    truth: float


@dataclass(frozen=True)
class Look:
    """What one look at a group told.

    Args:
        p: p-value of a zero bias, at this look.
        word: "exact", "unbiased within" or "biased beyond" where that is settled, else "".
    """

    p: float
    word: str


@dataclass(frozen=True)
class Looks:
    """Looks at growing data, each at an equal share of the false-alarm rate.

    With looks after R, 2R, 4R, .. replicates equal shares cost little against the best division of the rate (the
    correlation of neighbouring looks is only 0.71), and hold for any statistic (a union bound).

    Args:
        planned: how many there may be.
        taken: those before the present one; name of the group -> what it told.
    """

    planned: int = 1
    taken: tuple[Mapping[str, Look], ...] = ()

    def settled(self, name: str) -> str:
        """The word that an earlier look settled for a group, or ""."""
        return next((seen[name].word for seen in self.taken if seen[name].word), "")

    def take(self, groups: Mapping[str, Group], margin: float, alpha: float) -> "Looks":
        """One look more. What is settled stays; a zero bias is tested at every look."""
        if len(self.taken) >= self.planned:
            raise ValueError(f"all {self.planned} planned looks were taken; a further one would not be paid for")
        level = alpha / (len(groups) * self.planned)
        seen = {name: _look(group, margin, level, self.settled(name)) for name, group in groups.items()}
        return Looks(self.planned, (*self.taken, seen))


def _look(group: Group, margin: float, level: float, settled: str) -> Look:
    word = settled
    if not word and group.exact and not group.random:  # random draws that are all alike may yet differ
        word = "exact"
    elif not word and exceeds(group, margin, level):
        word = "biased beyond"
    elif not word and not group.deterministic and equivalent(group, margin, level):
        word = "unbiased within"
    return Look(test_unbiased(group), word)


@dataclass(frozen=True)
class Verdict:
    """What may be claimed of all groups together.

    Args:
        word: "biased" if any group is, "unbiased within" only if every group is that or exact, else "undecided".
        groups: name -> verdict of the group.
    """

    word: str
    groups: Mapping[str, GroupVerdict]


def verdict(
    groups: Mapping[str, Group], margin: float = 0.05, alpha: float = 0.01, looks: Looks | None = None
) -> Verdict:
    """Judge a family of groups; margin is relative to the norm of the truth of each.

    Over all groups and looks together, the chance to call any unbiased one biased is at most alpha (Holm over groups,
    an equal share to each planned look), and so is the chance to call any one "unbiased within" whose bias is at least
    the margin, and to call any one "biased beyond" whose bias is at most the margin (both Bonferroni). "unbiased
    within" comes only from the equivalence test, never from a test that found nothing; a significant bias that is
    proved smaller than the margin is "unbiased within" it. The first look that settles a group settles it, unless
    the last one contradicts it, or shows that too few draws carry the error; then it is "undecided".

    A group whose truth is zero has no relative margin: it is "biased", "exact" or "undecided"; one whose noisy truth is
    not distinguishable from zero can moreover be "biased beyond", but not "unbiased within". A group that is not
    `decidable` is "undecided".

    Args:
        groups: name -> group, at the last look.
        margin: relative bias that counts as small.
        alpha: of the whole family.
        looks: all looks, the last one at these groups; by default this is the only one.

    Raises:
        ValueError: no groups, or margin or alpha not positive, or alpha >= 1.
    """
    if not groups or not margin > 0 or not 0 < alpha < 1:
        raise ValueError(f"needs groups, margin > 0 and 0 < alpha < 1, got {len(groups)} groups, {margin}, {alpha}")
    looks = looks or Looks().take(groups, margin, alpha)
    level = alpha / (len(groups) * looks.planned)
    p = [
        min(1.0, looks.planned * min(seen[name].p for seen in looks.taken)) if group.decidable else 1.0
        for name, group in groups.items()
    ]
    judged: dict[str, GroupVerdict] = {}
    for (name, group), raw, adjusted in zip(groups.items(), p, holm(p), strict=True):
        low, high = relative_bias_interval(group, level, level)
        word = _word(group, looks.settled(name), adjusted <= alpha, margin, low, high)
        more = truth_needed(group, margin, level, POWER) if word == "undecided" else 1.0
        needed = _needed(group, margin, level) if word == "undecided" and more == 1.0 else 0
        judged[name] = GroupVerdict(word, raw, adjusted, low, high, detectable(group, level, POWER), needed, more)
    words = {one.word for one in judged.values()}
    if words & {"biased", "biased beyond"}:
        return Verdict("biased", judged)
    return Verdict("undecided" if "undecided" in words else "unbiased within", judged)


def _word(group: Group, settled: str, significant: bool, margin: float, low: float, high: float) -> str:
    if group.exact:
        return "exact"
    contradicted = low > margin if settled == "unbiased within" else high < margin
    if settled and group.decidable and not contradicted:
        return settled
    return "biased" if significant else "undecided"


def _needed(group: Group, margin: float, level: float) -> int:
    if not truth_norm(group) > 0 or group.constant or group.heavy:  # nothing to plan from
        return 0
    # these draws did not decide it, so no plan may say that so many would; n_eff grows like R at best
    short = max(
        group.gate / group.effective_sample, GATE / group.central_sample, FEWEST_BATCHES / group.pairing.batches
    )
    gate = group.replicates * max(2.0, short)
    return max(replicates_needed(group, margin, level, POWER), int(np.ceil(gate)))
