"""Every estimator of the table on every toy: writes reports/overview.{json,pdf}.

Verdicts are exact where expectations can be summed; elsewhere draws stop as soon as they are settled.

Run: python analyses/overview.py   (two minutes; --replicates for another budget)
"""

from catalogue import run, without

import estimator_lab as lab

if __name__ == "__main__":
    title = "Gradient estimators on toy problems with exact truth"
    estimators = without(lab.estimators.Exact)  # which is the truth itself
    run("overview", title, estimators, lab.problems.TOYS, lab.Budget(2**18), __doc__)
