"""Every estimator of the table that applies, on the two digits networks: writes reports/digits.{json,pdf}.

Run: python analyses/digits.py   (five to six minutes; --replicates for another budget)
"""

from catalogue import run

import estimator_lab as lab

if __name__ == "__main__":
    title = "Gradient estimators on networks of binary units, trained on handwritten digits"
    networks = lab.problems.DigitsAutoencoder(), lab.problems.DigitsClassifier()
    run("digits", title, networks, lab.Budget(2**14, early=False), __doc__)
