"""Every estimator of the table on every toy: writes reports/overview.{json,pdf}.

Verdicts are exact where expectations can be summed; elsewhere draws stop as soon as they are settled.

Run: python analyses/overview.py   (three to four minutes; --replicates for another budget)
"""

from catalogue import run

import estimator_lab as lab

if __name__ == "__main__":
    run(
        "overview",
        "Gradient estimators on toy problems with exact truth",
        lab.problems.TOYS,
        lab.Budget(2**20),
        __doc__,
    )
