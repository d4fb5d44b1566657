"""Every estimator of the table that applies, on the two digits networks: writes reports/digits.{json,pdf}.

Run: python analyses/digits.py   (about two minutes; --replicates for another budget)
"""

import argparse
from pathlib import Path

import torch

import estimator_lab as lab

REPORTS = Path(__file__).parent.parent / "reports"


def main(arguments: list[str] | None = None) -> None:
    """Measures, saves, reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=2**14)
    parser.add_argument("--out", type=Path, default=REPORTS)
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # the tensors are small: threads would only cost
    chosen = [e for e in lab.estimators.ESTIMATORS if not isinstance(e, lab.estimators.Exact)]  # 2^64 states
    result = lab.compare(
        chosen,
        on=lab.problems.NETWORKS,
        budget=options.replicates,
        title="Gradient estimators on networks of binary units, trained on handwritten digits",
        command="python analyses/digits.py",
    )
    result.save(options.out / "digits.json")
    result.report(options.out / "digits.pdf")
    print(result.summary())


if __name__ == "__main__":
    main()
