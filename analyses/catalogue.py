"""What the two catalogue studies share: estimators of the table on some problems, saved and reported."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

import estimator_lab as lab

REPORTS = Path(__file__).parent.parent / "reports"


def without(*kinds: type[lab.Estimator]) -> list[lab.Estimator]:
    """The estimators of the table but for those of these classes."""
    return [e for e in lab.estimators.ESTIMATORS if not isinstance(e, kinds)]


def run(
    name: str,
    title: str,
    estimators: Sequence[lab.Estimator],
    problems: Sequence[lab.Problem],
    budget: lab.Budget,
    about: str | None,
) -> None:
    """Measures, saves and reports as ``reports/<name>.{json,pdf}``; takes --replicates and --out."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=budget.replicates)
    parser.add_argument("--out", type=Path, default=REPORTS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # the tensors are small: threads would only cost
    result = lab.compare(
        estimators,
        on=problems,
        budget=replace(budget, replicates=options.replicates),
        title=title,
        command=f"python analyses/{name}.py --replicates {options.replicates}",
    )
    result.save(options.out / f"{name}.json")
    result.report(options.out / f"{name}.pdf")
    print(result.summary())
