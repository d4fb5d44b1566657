"""Every estimator of the table on every toy: writes reports/overview.{json,pdf}.

Run: python analyses/overview.py   (about two minutes; --replicates for another budget)
"""

from catalogue import run

import estimator_lab as lab

if __name__ == "__main__":
    run("overview", "Gradient estimators on toy problems with exact truth", lab.problems.TOYS, 2**18, __doc__)
