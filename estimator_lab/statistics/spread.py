"""The variance of one draw, batch by batch."""

import numpy as np

from estimator_lab.statistics import jackknife
from estimator_lab.statistics.gram import Array
from estimator_lab.statistics.group import FEWEST_BATCHES, Group


def variances(group: Group) -> Array:
    """[1 + J] unbiased `tr Sigma` of one draw, from all replicates and without each of the J batches in turn.

    `tr Sigma = n/(n - 1) (E||x - g||^2 - ||mean x - g||^2)` with n draws, about the fixed g. Cost: O(J^2).
    """
    pairing, r, j = group.pairing, group.replicates, group.pairing.batches
    about, miss = jackknife.mean(pairing.scalars["square"]), jackknife.square(pairing.error)
    n = np.append(r, np.full(j, r * (j - 1) / j))
    trace = n * (about - miss) / (n - 1)
    trace[0] = group.variance.sum()
    return np.asarray(trace)


def scores(group: Group) -> Array:
    """[J] mean errors of the batches along the true gradient, standardised.

    `<D_k, g>` less its mean, over its deviation. Where batch means are normal, so are these; what they look like is the
    check of the intervals that a run's own draws allow. Where the truth is zero the direction is that of the mean
    difference. Empty below 8 batches or without noise.
    """
    if group.constant or group.pairing.batches < FEWEST_BATCHES:
        return np.zeros(0)
    pairing = group.pairing
    along = pairing.error_along - pairing.noise_along
    if not along.any():
        along = pairing.difference.matrix.mean(1)
    deviation = along.std(ddof=1)
    return (along - along.mean()) / deviation if deviation > 0 else np.zeros(0)
