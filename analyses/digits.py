"""Estimators of the table that apply, on the two digits networks: writes reports/digits.{json,pdf}.

Finite differences are left out: a draw takes two losses for each of hundreds of parameters.

Run: python analyses/digits.py   (four minutes; --replicates for another budget)
"""

from catalogue import run, without

import estimator_lab as lab

if __name__ == "__main__":
    title = "Gradient estimators on networks of binary units, trained on handwritten digits"
    estimators = without(lab.estimators.Exact, lab.estimators.FiniteDifferences)
    networks = lab.problems.DigitsAutoencoder(), lab.problems.DigitsClassifier()
    run("digits", title, estimators, networks, lab.Budget(2**14, early=False), __doc__)
