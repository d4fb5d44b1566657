"""The claims of Bengio, Léonard and Courville (2013, arXiv:1308.3432), each held against exact numbers.

Every function takes what the claim is about (a rule, a formula, a law) as an argument, with what the paper means as the
default, so that a wrong one can be put in its place. The verdict is computed from the numbers that are found.
Expectations are sums over all states, or quadratures, in float64: an equality counts as one if the gap is below
`TOLERANCE`, which rounding explains. The lab is run beside the sums, and a disagreement between the two is an error.
Draws decide only A10a to A10d, which read the training study, the rates of random networks in A9, and a second verdict
in A1.

A claim is the paper's (A), a passage of it as it is printed, taken to the letter (E), or ours (``reconstruction``).

h is a unit's value, p its probability sigmoid(a), q = sqrt(p), L the loss. "The code" is the experiments' code that the
authors published. A1 to A4, A11, E1 and E4 are in ``bengio2013_score``, A5 and E5 in ``bengio2013_perturbation``, A6 to
A8, E2, E3 and E7 in ``bengio2013_neurons``, A9 and E6 in ``bengio2013_signs``.

Run: python analyses/bengio2013_claims.py   (--json FILE: the claims as data; --study FILE: of the training study)
"""

import argparse
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bengio2013 import FORMAT, SCHEMA
from bengio2013_neurons import expansion, half_gradient, rectifier, smooth_unit, sparsity, telling
from bengio2013_perturbation import any_size, dividing
from bengio2013_score import (
    any_constant,
    given_and_averaged,
    least_variance,
    mean_is_not_optimal,
    printed_unit,
    running_averages,
    unbiased,
)
from bengio2013_signs import sign_in_one_layer, straight_through
from claims import FAILS, HOLDS, OPEN, Claim, Verdict, read, save, settle, table
from scipy import stats

import estimator_lab as lab
from estimator_lab.diagnosis import writable

TOGETHER = 0.95
"""Confidence of all intervals of differences between trainings together (Bonferroni)."""

WIDTH = 2000
"""Gates and experts of the paper."""

EVALUATED = "evaluated "
DATA = {"mnist": "MNIST", "digits": "8x8 digits"}


@dataclass(frozen=True)
class Comparison:
    """Two gates on equal seeds, of which the first is said to have the smaller number.

    Attributes:
        claim: id of the claim that rests on it.
        words: what is compared.
        first: a gate.
        second: another.
        what: as in `per_seed`.
    """

    claim: str
    words: str
    first: str
    second: str
    what: str


COMPARED = (
    Comparison("A10b", "validation error (%)", "st", "st-sigmoid", "valid_error"),
    Comparison("A10c", "training loss of the sigmoid", "sigmoid-noise", "sigmoid", "train_nll"),
    Comparison("A10c", "training loss of the rectifier", "noisy-rectifier", "rectifier", "train_nll"),
    Comparison("A10d", "validation error (%)", "noisy-rectifier", "rectifier", "valid_error"),
)
STATED = {
    "A10b": (
        "Plain straight-through does better than its variant with the sigmoid's derivative.",
        "section 5",
        "Criterion: a lower validation error.",
    ),
    "A10c": (
        "Noise is no mere regulariser: it helps the fit to the training examples as well.",
        "section 5, figure 2 (baselines with sigmoids)",
        "Criterion: a lower training loss, as trained, for sigmoids and for rectifiers. (In the paper it is lower with "
        "noise for sigmoids, and without for rectifiers.)",
    ),
    "A10d": (
        "The noisy rectifier does better than the rectifier without noise.",
        "section 5, figure 2 (validation error)",
        "Criterion: a lower validation error. (In the paper its test error is higher.)",
    ),
}
"""Statement, source and criterion of the claims that are comparisons."""


def per_seed(study: Mapping[str, Any], gate: str, what: str) -> dict[int, float]:
    """A number of every training of a gate, by seed.

    Args:
        study: the results.
        gate: its name.
        what: "train_nll", as trained, or a number of the evaluation in the gate's first mode, among them "train_nll" as
            "evaluated train_nll".
    """
    runs = [run for run in study["trainings"] if run["gate"] == gate]
    name = what.removeprefix(EVALUATED)
    return {run["seed"]: float(run[what] if what in run else run["modes"][run["mode"]][name]) for run in runs}


def differences(study: Mapping[str, Any], one: str, other: str, what: str) -> tuple[float, float, float] | None:
    """Mean difference between two gates over the seeds of both, with Student's interval; None below two seeds."""
    a, b = per_seed(study, one, what), per_seed(study, other, what)
    gaps = np.array([a[seed] - b[seed] for seed in sorted(set(a) & set(b))])
    if len(gaps) < 2:
        return None
    reach = float(
        stats.t.isf((1 - TOGETHER) / len(COMPARED) / 2, len(gaps) - 1) * gaps.std(ddof=1) / math.sqrt(len(gaps))
    )
    mean = float(gaps.mean())
    return mean, mean - reach, mean + reach


def scale(study: Mapping[str, Any]) -> str:
    """Width, epochs and data of a study, in the words that begin its evidence."""
    setting = study["setting"]
    share = Fraction(setting["gates"], WIDTH)
    width = "At the paper's width" if share == 1 else f"At {share} of the paper's width"
    data = DATA.get(setting["data"], setting["data"])
    return f"{width} ({setting['hidden']} and {setting['gates']} units), {setting['epochs']} epochs on {data}"


def trains(study: Mapping[str, Any]) -> Claim:
    """A10a: every training with noise ends below the loss of guessing.

    It does not hold if a training failed or is no better than guessing, and is not decided while a gate is untrained.

    Raises:
        UsageError: nothing was trained.
    """
    noisy = [gate["name"] for gate in study["gates"] if gate["noise"]]
    losses = {gate: found for gate in noisy if (found := per_seed(study, gate, "train_nll"))}
    if not losses:
        raise lab.UsageError("the study has no training of a gate with noise; run analyses/bengio2013.py")
    chance, worst = math.log(10), max(max(found.values()) for found in losses.values())
    slowest = max(losses, key=lambda gate: max(losses[gate].values()))
    errors = [error for gate in losses for error in per_seed(study, gate, "valid_error").values()]
    failures = len(study["failures"])
    verdict: Verdict = FAILS if failures or worst >= chance else HOLDS if len(losses) == len(noisy) else OPEN
    return Claim(
        "A10a",
        "Networks train with every one of the estimators.",
        "section 5, figure 2",
        verdict,
        f"{scale(study)}: {len(losses)} of {len(noisy)} gates with noise, {len(errors)} trainings ended and {failures} "
        f"failed. Criterion: a training loss below that of guessing, {chance:.2f}. The largest is {worst:.2g} "
        f"({slowest}); validation errors are {min(errors):.3g} to {max(errors):.3g} %.",
        {"largest training loss of gates with noise": worst, "loss of guessing": chance, "failures": failures}
        | {"gates with noise": len(noisy), "of these trained": len(losses), "trainings": len(errors)}
        | {"least validation error (%)": min(errors), "largest validation error (%)": max(errors)},
    )


def compared(study: Mapping[str, Any], claim: str) -> Claim:
    """A10b, A10c or A10d: comparisons of gates over seeds; see `settle` for the verdict."""
    statement, source, criterion = STATED[claim]
    shown, contrary = [], []
    told: list[str] = []
    numbers: dict[str, float] = {}
    for own in (c for c in COMPARED if c.claim == claim):
        found = differences(study, own.first, own.second, own.what)
        shown.append(found is not None and found[2] < 0)
        contrary.append(found is not None and found[1] > 0)
        if found is None:
            told.append(f"{own.words}: fewer than two seeds of both")
            continue
        seeds = len(set(per_seed(study, own.first, own.what)) & set(per_seed(study, own.second, own.what)))
        word = "lower" if shown[-1] else "higher" if contrary[-1] else "not decided"
        told.append(f"{own.words} {found[0]:+.3g} [{found[1]:+.3g}, {found[2]:+.3g}] ({seeds} seeds): {word}")
        numbers |= {f"{end}, {own.words}": v for end, v in zip(("difference", "low", "high"), found, strict=True)}
        numbers[f"seeds, {own.words}"] = seeds
        if own.what == "train_nll" and (quiet := differences(study, own.first, own.second, EVALUATED + own.what)):
            told[-1] += f", without noise {quiet[0]:+.3g}"
            numbers[f"difference without noise, {own.words}"] = quiet[0]
    return Claim(
        claim,
        statement,
        source,
        settle(shown, contrary),
        f"{scale(study)}. {criterion} Paired differences, intervals of {TOGETHER:.0%} for all {len(COMPARED)} "
        f"comparisons together: {'; '.join(told)}.",
        numbers,
    )


def training(study: Mapping[str, Any]) -> list[Claim]:
    """A10a to A10d: what the experiment shows, from the results of ``bengio2013.json``.

    Raises:
        UsageError: nothing was trained.
    """
    return [trains(study), *(compared(study, claim) for claim in STATED)]


def read_study(path: Path) -> Mapping[str, Any]:
    """Results of the training study.

    Raises:
        UsageError: the file cannot be read, or holds something else.
    """

    def ours(found: Any) -> bool:
        parts = {"setting", "gates", "trainings", "failures"}
        return (
            isinstance(found, dict)
            and (found.get("format"), found.get("schema")) == (FORMAT, SCHEMA)
            and parts <= set(found)
        )

    found: Mapping[str, Any] = read(path, ours, "analyses/bengio2013.py")
    return found


# ---------------------------------------------------------------------- all of them
CLAIMS: dict[str, Callable[[], Claim]] = {
    "A1": unbiased,
    "A2": any_constant,
    "A3": least_variance,
    "A4": running_averages,
    "A5": any_size,
    "A6": rectifier,
    "A7": smooth_unit,
    "A8": half_gradient,
    "A9": straight_through,
    "A11": mean_is_not_optimal,
    "E1": printed_unit,
    "E2": expansion,
    "E3": telling,
    "E4": given_and_averaged,
    "E5": dividing,
    "E6": sign_in_one_layer,
    "E7": sparsity,
}
"""All but A10a to A10d, which take the training study."""


def claims(study: Mapping[str, Any] | None = None) -> list[Claim]:
    """All claims in order; A10a to A10d among them where the results of the training study are given."""
    found = [*(training(study) if study is not None else []), *(check() for check in CLAIMS.values())]
    return sorted(found, key=lambda claim: (claim.id[0], int(re.sub(r"\D", "", claim.id)), claim.id))


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; writes the claims as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the claims here")
    parser.add_argument("--study", type=Path, help="bengio2013.json of the training study, for A10a to A10d")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        found = claims(read_study(options.study) if options.study else None)
        print(table(found))
        if options.json:
            with writable(options.json):
                save(found, options.json)
    except lab.LabError as error:
        print(f"bengio2013_claims: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
