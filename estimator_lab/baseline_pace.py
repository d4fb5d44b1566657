"""Time of one draw in units of a fixed piece of work on the same machine, timed in turns with it."""

import math
import statistics
import time
from dataclasses import dataclass

import torch

from estimator_lab.measurement import PACE, Measurement
from estimator_lab.noise import MonteCarlo, forked

PAIRS = 9
"""Times that the estimator and the fixed work take turns."""

WIDTH = 128


@dataclass(frozen=True)
class Pace:
    """How long a draw takes, against a fixed piece of work.

    What slows the whole machine slows both, and cancels in the ratio as far as it lasts longer than a pair. Loads come
    and go in ways that no law describes: the error is that of this measurement, not a false-alarm rate.

    Attributes:
        ratio: logarithm of the time of one draw over that of the work, the median over pairs.
        error: its standard error.
        seconds: of one draw.
    """

    ratio: float
    error: float
    seconds: float


def pace(measurement: Measurement) -> Pace:
    """Times an estimator and the fixed work in turns, on draws that nothing else uses; the first pair warms up."""
    size, ratios, seconds = min(measurement.plan.largest, PACE), list[float](), list[float]()
    for index in range(PAIRS + 1):
        seed = measurement.plan.block_seed(-1 - index)
        with forked(seed):
            began = time.perf_counter()
            measurement.source.draw(size, MonteCarlo(seed, device=measurement.device))
            drawn = time.perf_counter()
        _work()
        worked = time.perf_counter()
        if index:
            seconds.append((drawn - began) / size)
            ratios.append(math.log((drawn - began) / size / (worked - drawn)))
    middle = statistics.median(ratios)
    spread = 1.4826 * statistics.median(abs(r - middle) for r in ratios)  # the deviation of a normal law
    return Pace(middle, 1.2533 * spread / math.sqrt(PAIRS), min(seconds))  # the median's error is sqrt(pi/2) a mean's


def _work() -> None:
    """Small and large operations of torch, as networks have them; independent of this package."""
    x = torch.linspace(-1, 1, WIDTH * WIDTH, dtype=torch.float64).reshape(WIDTH, WIDTH)
    for _ in range(20):
        y = (x @ x / WIDTH).tanh()
        x = torch.where(y > 0, y, 0.5 * y).requires_grad_(False)
    for row in x[:64]:
        row.sigmoid().sum()
