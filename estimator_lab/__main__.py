"""``python -m estimator_lab``: the command line."""

import sys

from estimator_lab.cli import main

if __name__ == "__main__":
    sys.exit(main())
