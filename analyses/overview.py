"""Every estimator of the table on every toy: writes reports/overview.{json,pdf}.

Run: python analyses/overview.py   (about two minutes; --replicates for another budget)
"""

import argparse
from pathlib import Path

import torch

import estimator_lab as lab

REPORTS = Path(__file__).parent.parent / "reports"


def main(arguments: list[str] | None = None) -> None:
    """Measures, saves, reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=2**18)
    parser.add_argument("--out", type=Path, default=REPORTS)
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # the tensors are small: threads would only cost
    chosen = [e for e in lab.estimators.ESTIMATORS if not isinstance(e, lab.estimators.Exact)]  # the truth itself
    result = lab.compare(
        chosen,
        on=lab.problems.TOYS,
        budget=options.replicates,
        title="Gradient estimators on toy problems with exact truth",
        command="python analyses/overview.py",
    )
    result.save(options.out / "overview.json")
    result.report(options.out / "overview.pdf")
    print(result.summary())


if __name__ == "__main__":
    main()
