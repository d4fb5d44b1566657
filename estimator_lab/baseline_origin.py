"""Where a baseline came from: the problem's weights, versions, machine, and the name of its file."""

import hashlib
import os
import platform
import re
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from estimator_lab.estimator import Estimator
from estimator_lab.problem import Problem
from estimator_lab.sampler import GradientSampler

FOLDER = "baselines"


def signature(problem: Problem | None) -> dict[str, tuple[float, ...]]:
    """Shape, length and a signed sum of each weight: what tells one problem from another in any dtype."""
    found: dict[str, tuple[float, ...]] = {}
    for name, weight in problem.weights().items() if problem is not None else ():
        flat = weight.detach().double().cpu().numpy().ravel()
        signs = np.where(np.random.PCG64(len(flat)).random_raw(len(flat)) & 1, 1.0, -1.0)
        found[name] = (*map(float, weight.shape), float(f"{np.linalg.norm(flat):.6g}"), float(f"{flat @ signs:.6g}"))
    return found


def versions() -> dict[str, str]:
    """What results depend on."""
    own = {name: version(name) for name in ("estimator-lab", "torch", "numpy")}
    return {"Python": platform.python_version(), **own}


def machine(problem: Problem | None) -> dict[str, str]:
    """The machine that times were taken on; the hash tells whether another one is the same, with as many threads."""
    device = next((str(w.device.type) for w in problem.weights().values()), "cpu") if problem is not None else "cpu"
    threads = str(torch.get_num_threads())
    parts = (platform.node(), platform.machine(), platform.processor(), os.cpu_count(), device, threads)
    return {
        "platform": f"{platform.system()} {platform.machine()}",
        "processors": str(os.cpu_count()),
        "threads": threads,
        "device": device,
        "identity": hashlib.sha256(repr(parts).encode()).hexdigest()[:12],
    }


def path_for(
    estimator: Estimator | GradientSampler, problem: Problem | None = None, folder: str | Path = FOLDER
) -> Path:
    """Where the baseline of a pair lies: a file named after both labels, with a hash that tells arguments apart."""
    mark = hashlib.sha256(f"{estimator!r}\x1f{problem!r}".encode()).hexdigest()[:6]
    labels = [estimator.label, *([] if problem is None else [problem.label])]
    slugs = [re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:50].rstrip("-") for text in labels]
    return Path(folder) / f"{'--'.join(filter(None, slugs))}-{mark}.json"
