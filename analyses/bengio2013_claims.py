"""The claims of Bengio, Léonard and Courville (2013, arXiv:1308.3432), each held against exact numbers.

Every function takes what the claim is about (a rule, a formula, a law) as an argument, with what the paper means as the
default, so that a wrong one can be put in its place. The verdict is computed from the numbers that are found.
Expectations are sums over all states, or quadratures, in float64: an equality counts as one if the gap is below
`TOLERANCE`, which rounding explains. The lab is run beside the sums, and a disagreement between the two is an error.
Draws decide only A10, which reads the training study, the rates of random networks in A9, and a second verdict in A1.

h is a unit's value, p its probability sigmoid(a), q = sqrt(p), L the loss. "The code" is the experiments' code that the
authors published. A1 to A4, A11, E1 and E4 are in ``bengio2013_score``, A5 and E5 in ``bengio2013_perturbation``, A6 to
A8, E2, E3 and E7 in ``bengio2013_neurons``, A9 and E6 in ``bengio2013_signs``.

Run: python analyses/bengio2013_claims.py   (--json FILE: the claims as data; --study FILE: of the training study)
"""

import argparse
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
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
from claims import Claim, decide, save, table
from scipy import stats

import estimator_lab as lab

TOGETHER = 0.95
"""Confidence of all intervals of differences between trainings together (Bonferroni)."""


def per_seed(study: Mapping[str, Any], gate: str, what: str) -> dict[int, float]:
    """A number of every training of a gate, by seed: "train_nll", or one of its evaluation in the gate's first mode."""
    runs = [run for run in study["trainings"] if run["gate"] == gate]
    return {run["seed"]: float(run[what] if what in run else run["modes"][run["mode"]][what]) for run in runs}


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


COMPARED = (
    ("plain straight-through errs less than its variant (validation, %)", "st", "st-sigmoid", "valid_error"),
    ("noise helps sigmoid gates to fit (train NLL)", "sigmoid-noise", "sigmoid", "train_nll"),
    ("noise helps rectifier gates (validation, %)", "noisy-rectifier", "rectifier", "valid_error"),
)
"""What is compared: a claim, the gate that is said to have the smaller number, the other, and the number."""


def training(study: Mapping[str, Any]) -> Claim:
    """A10: what the experiment shows, from the results of ``bengio2013.json``.

    It holds if all gates with noise learn and every comparison is shown: the interval of the paired differences over
    seeds lies below zero. It does not hold if a training ran away or is no better than guessing, or if a comparison is
    shown to be the other way round. Else the condition is what is not shown.

    Raises:
        UsageError: nothing was trained.
    """
    noisy = [gate["name"] for gate in study["gates"] if gate["noise"]]
    losses = {gate: max(found.values()) for gate in noisy if (found := per_seed(study, gate, "train_nll"))}
    if not losses:
        raise lab.UsageError("the study has no training of a gate with noise; run analyses/bengio2013.py")
    chance, worst = math.log(10), max(losses.values())
    learns = not study["failures"] and worst < chance
    numbers: dict[str, float] = {"largest train NLL of gates with noise": worst, "NLL of guessing": chance}
    numbers |= {"gates with noise": len(noisy), "of these trained": len(losses), "failures": len(study["failures"])}
    told, shown, contrary = [], [len(losses) == len(noisy)], []
    for words, one, other, what in COMPARED:
        found = differences(study, one, other, what)
        shown.append(found is not None and found[2] < 0)
        contrary.append(found is not None and found[1] > 0)
        if found is None:
            told.append(f"{words}: fewer than two seeds")
            continue
        verdict = "shown" if shown[-1] else "the other way round" if contrary[-1] else "not shown"
        told.append(f"{words}: {verdict}, {found[0]:+.3g} [{found[1]:+.3g}, {found[2]:+.3g}]")
        numbers |= {f"{end}, {words}": v for end, v in zip(("difference", "low", "high"), found, strict=True)}
    setting = study["setting"]
    return Claim(
        "A10",
        "Networks train with every one of the estimators; plain straight-through does better than its variant with the "
        "sigmoid's derivative; noise helps the fit as well.",
        "section 5, figure 2",
        decide(holds=learns and all(shown), otherwise=learns and not any(contrary)),
        f"{setting['data']}, {setting['hidden']}-{setting['gates']} units, {setting['epochs']} epochs: {len(losses)} "
        f"of {len(noisy)} gates with noise trained, to a train NLL of {worst:.2g} or less (guessing: {chance:.2f}), "
        f"{len(study['failures'])} runs failed. Paired differences, intervals of {TOGETHER:.0%} together: "
        f"{'; '.join(told)}.",
        numbers,
    )


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
"""All but A10, which takes the training study."""


def claims(study: Mapping[str, Any] | None = None) -> list[Claim]:
    """All claims in order; A10 among them where the results of the training study are given."""
    found = {name: check() for name, check in CLAIMS.items()}
    if study is not None:
        found["A10"] = training(study)
    return [found[name] for name in sorted(found, key=lambda name: (name[0], int(name[1:])))]


def main() -> None:
    """Prints the table; writes the claims as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the claims here")
    parser.add_argument("--study", type=Path, help="bengio2013.json of the training study, for A10")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = claims(json.loads(options.study.read_text()) if options.study else None)
    print(table(found))
    if options.json:
        save(found, options.json)


if __name__ == "__main__":
    main()
