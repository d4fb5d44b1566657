import os
from pathlib import Path

import torch

torch.set_num_threads(1)
# trained weights are kept between runs, in the checkout and not in the user's folder
os.environ["ESTIMATOR_LAB_CACHE"] = str(Path(__file__).parents[1] / ".cache")
