"""Every statistic of a group, each with its interval."""

import numpy as np
from scipy import special

from estimator_lab.statistics import jackknife
from estimator_lab.statistics.bias import (
    TRUTH_SHARE,
    bias_interval,
    noisy,
    norm_interval,
    relative_bias_interval,
    truth_interval,
    truth_norm,
)
from estimator_lab.statistics.gram import Array, Gram
from estimator_lab.statistics.group import FEWEST_BATCHES, Estimate, Group
from estimator_lab.statistics.spectrum import effective_rank, leading_shares
from estimator_lab.statistics.spread import variances
from estimator_lab.statistics.tail import ENOUGH

STEADY, PLENTY = 10.0, 1000.0
RESOLVED = 0.5


def describe(group: Group, level: float = 0.95) -> dict[str, Estimate]:
    """All statistics of a group, with separate (not simultaneous) intervals at the given level.

    b = bias, g = truth, mu = g + b, Sigma = covariance of one draw, Omega = covariance of the mean difference
    (Sigma/R, and the noise of the truth).

    - bias `||b||` and relative_bias `||b||/||g||`: root of the debiased square (0 if that is negative), rule B.
    - bias_squared: unbiased for `||b||^2`, may be negative; its interval is that of the bias, squared.
    - variance `tr Sigma`; mse `E||x - g||^2`: jackknife of the logarithm.
    - snr `||mu||^2 / tr Sigma`; gain `<mu, g>/||g||^2` (1 = right length): jackknife.
    - cosine_of_mean `cos(mu, g)`: from intervals for the parts of mu along and orthogonal to g, see `cosine_of_mean`.
      The value is nan, "not resolved", when the mean is not distinguishable from 0.
    - mean_cosine `E cos(x, g)` over draws that are not zero: jackknife, debiased for the noise of the truth.
    - sign_agreement: expected share of coordinates with `g_j != 0` whose sign is right; descent `P(<x, g> > 0)`.
    - effective_rank `(tr Sigma)^2 / tr Sigma^2`, leading_share `lambda_1 / tr Sigma`: see `spectrum`.
    - kurtosis `E q^2 / (E q)^2` of the squared error `q = ||x - g||^2` (1 + 2/d for a normal law that varies alike in
      d directions), without interval: that of the jackknife covers 0.1 to 0.9 of the time where 0.95 is asked.
    - tail_index: Pareto shape of the tail of `||x - g||`, see `tail`.
    - effective_sample `R / kurtosis`: how many draws carry the squared error (claims need 30).
    - noise_floor `sqrt(tr Omega)/||g||`: what the naive relative bias of an unbiased estimator would read.

    Relative statistics are nan where g is 0 (or, estimated, has a negative debiased square; the interval of
    relative_bias already where g may be 0). Intervals are nan below 8 paired batches unless the group has no noise.
    Rounding (`group.floor`) widens the bias.

    Where the tail is so heavy that the variance may be infinite (`tail.heavy`), "variance not estimable" is the answer:
    variance, mse, snr, effective_rank, leading_share and noise_floor are nan, value and interval. Where too few draws
    carry the error for an interval, there is a value without one: see `_without_interval`.

    Args:
        group: replicates and truth.
        level: coverage of each interval.

    Cost: O(K^2 d) once per group, 0.1 s for K = 40 and d = 1e5.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        if group.constant:
            found = _without_noise(group)
        else:
            found = _errors(group, level) | _moments(group, level) | _shape(group, level) | _directions(group, level)
            found |= dict.fromkeys(_without_answer(group), UNKNOWN)
            found |= {name: _valued(found[name].value) for name in _without_interval(group)}
    return {name: found[name] for name in ORDER}


ORDER = (
    "bias",
    "relative_bias",
    "bias_squared",
    "variance",
    "mse",
    "snr",
    "gain",
    "cosine_of_mean",
    "mean_cosine",
    "sign_agreement",
    "descent",
    "effective_rank",
    "leading_share",
    "kurtosis",
    "tail_index",
    "effective_sample",
    "noise_floor",
)
UNKNOWN = Estimate(np.nan, np.nan, np.nan)


def _without_answer(group: Group) -> tuple[str, ...]:
    names = ("variance", "mse", "snr", "effective_rank", "leading_share", "noise_floor")
    return names if group.heavy else ()


def _without_interval(group: Group) -> tuple[str, ...]:
    """Statistics whose intervals would miss too often, although there is a value.

    All below 8 batches. The direction of the mean where the group is not decidable, as its bias. The variance of one
    draw, and what rests on it, where n_eff < 100, and below n_eff = 1000 also where the kurtosis of the error is above
    10: then too few draws carry the fourth moments that the error of a variance is made of, and those samples that met
    none of them would look the best.
    """
    if group.pairing.batches < FEWEST_BATCHES:
        return ORDER
    n, kurtosis = group.effective_sample, group.replicates / group.effective_sample
    spread = () if n >= PLENTY or (n >= ENOUGH and kurtosis <= STEADY) else ("variance", "mse", "snr", "effective_rank")
    return spread if group.decidable else (*spread, "gain", "cosine_of_mean", "mean_cosine")


def _valued(value: float) -> Estimate:
    return Estimate(value, np.nan, np.nan)


def _without_noise(group: Group) -> dict[str, Estimate]:
    norm, trace = truth_norm(group) or np.nan, 0.0  # what variance there is, is rounding
    mean, truth = group.mean, group.truth_mean
    low, high = bias_interval(group, 0.5, 0.5)
    size = 0.0 if group.exact else float(np.linalg.norm(mean - truth))
    inner, square = float(mean @ truth), float(mean @ mean)
    cosine = np.float64(inner) / (np.sqrt(square) * norm)
    shares = {name: float(group.scalars[name].mean()) * norm / norm for name in ("agreement", "descent")}
    single = {
        "variance": trace,
        "snr": float(np.float64(square) / trace),
        "gain": inner / norm**2,
        "cosine_of_mean": float(cosine),
        "mean_cosine": float(cosine),
        "sign_agreement": shares["agreement"],
        "descent": shares["descent"],
    }
    return {name: Estimate(value, value, value) for name, value in single.items()} | {
        "bias": Estimate(size, low, high),
        "relative_bias": Estimate(size / norm, low / norm, high / norm),
        "bias_squared": Estimate(size**2, low**2, high**2),
        "mse": Estimate(size**2 + trace, low**2 + trace, high**2 + trace),
        "effective_rank": UNKNOWN,  # a spectrum of rounding
        "leading_share": UNKNOWN,
        "kurtosis": _valued(group.replicates / group.effective_sample),
        "tail_index": _valued(-np.inf),
        "effective_sample": _valued(group.effective_sample),
        "noise_floor": _valued(float(np.sqrt(trace / group.replicates)) / norm),
    }


def _errors(group: Group, level: float) -> dict[str, Estimate]:
    tail = (1 - level) / 2
    norm = truth_norm(group) or np.nan
    low, high = bias_interval(group, tail, tail)
    relative = relative_bias_interval(group, tail, tail) if noisy(group) else (low / norm, high / norm)
    difference = group.pairing.difference
    square, noise = difference.debiased, max(difference.trace, 0.0)
    size = float(np.sqrt(max(square, 0.0)))
    return {
        "bias": Estimate(size, low, high),
        "relative_bias": Estimate(size / norm, *relative),
        "bias_squared": Estimate(square, low**2, high**2),
        "noise_floor": _valued(float(np.sqrt(noise)) / norm),
    }


def _moments(group: Group, level: float) -> dict[str, Estimate]:
    pairing = group.pairing
    trace = variances(group)
    # about the mean of the truth batches instead of g, less the noise of that mean
    noise = jackknife.square(pairing.noise) - jackknife.product(pairing.noise)
    about, miss = jackknife.mean(pairing.scalars["square"]), jackknife.square(pairing.error)
    mse = about + jackknife.square(pairing.difference.matrix) - miss - noise
    return {
        "variance": jackknife.interval(trace, level, log=True),
        "mse": jackknife.interval(mse, level, log=True),
        "snr": _signal(group, trace, level),
    }


def _signal(group: Group, trace: Array, level: float) -> Estimate:
    """`||mu||^2 / tr Sigma`: jackknife where the mean is well resolved, else the interval of its norm by rule B.

    The jackknife knows that mean and variance err together, but covers 77 to 92 % where the mean is hardly resolved
    (where the lower end of rule B is below half the norm); there the error of the variance is the smaller part.
    """
    gram = group.pairing.estimate
    found = jackknife.interval(jackknife.product(gram.matrix) / trace, level)
    value = max(found.value, 0.0)
    if gram.batches < FEWEST_BATCHES or not trace[0] > 0:
        return _valued(value)
    low, high = norm_interval(gram, (1 - level) / 2, (1 - level) / 2)
    if low < RESOLVED * np.sqrt(max(gram.debiased, 0.0)):
        return Estimate(value, low**2 / float(trace[0]), high**2 / float(trace[0]))
    return Estimate(value, max(found.low, 0.0), found.high)


def _shape(group: Group, level: float) -> dict[str, Estimate]:
    scatter = Gram(group.pairing.error, group.dimension)  # of the estimate alone, about the fixed g
    return {
        "effective_rank": effective_rank(scatter, level),
        "leading_share": _valued(float(leading_shares(scatter, 1)[0])),
        "kurtosis": _valued(group.replicates / group.effective_sample),
        "tail_index": _valued(group.tail),
        "effective_sample": _valued(group.effective_sample),
    }


def _directions(group: Group, level: float) -> dict[str, Estimate]:
    names = ("gain", "cosine_of_mean", "mean_cosine", "sign_agreement", "descent")
    if not truth_norm(group) > 0:
        return dict.fromkeys(names, UNKNOWN)
    gain = jackknife.product(group.pairing.overlap) / jackknife.product(group.pairing.truth.matrix)
    found = (
        jackknife.interval(gain, level),
        cosine_of_mean(group, level),
        mean_cosine(group, level),
        sign_agreement(group, level),
        descent(group, level),
    )
    return dict(zip(names, found, strict=True))


def mean_cosine(group: Group, level: float) -> Estimate:
    """`E cos(x, g)` over draws that are not zero: jackknife of the ratio of batch means.

    The cosine with a noisy truth T is shorter by `||g|| / sqrt(||g||^2 + tr Gamma/S)`, which is divided out. The error
    of the direction of T turns `E x/||x||` by its part orthogonal to g; that part is taken proportional to the one of
    the mean, and its variance is added.
    """
    pairing = group.pairing
    truth = pairing.truth.matrix
    attenuation = np.sqrt(jackknife.product(truth) / jackknife.square(truth))
    kept = 1 - jackknife.mean(pairing.scalars["zero"])
    found = jackknife.interval(jackknife.mean(pairing.scalars["cosine"]) / kept / attenuation, level)
    if not noisy(group):
        return found
    j, norm2 = pairing.batches, jackknife.product(truth)[0]
    gain = jackknife.product(pairing.overlap)[0] / norm2
    aside = (pairing.overlap - gain * truth).mean(0)  # <mean (Y - gain T), T_l>
    turn = found.value / (gain * norm2) * aside.std(ddof=1) / np.sqrt(j)
    width = float(np.hypot(found.high - found.value, special.stdtrit(j - 1, (1 + level) / 2) * turn))
    return Estimate(found.value, found.value - width, found.value + width)


def cosine_of_mean(group: Group, level: float) -> Estimate:
    """Cosine between the expectation of the estimator and the truth.

    Value: `<mu, g> / sqrt(||mu||^2 ||g||^2)` with all three products debiased, cut to [-1, 1]; the plain cosine of two
    noisy means is too small, its jackknife interval misses the truth always.
    Interval: `cos = p / hypot(p, q)` over intervals for p = gain (jackknife) and q = `||mu - gain g|| / ||g||`
    (rule B on the batches `Y_k - gain T_k`, projected off the mean truth), each tail at a quarter of 1 - level.
    When p may have either sign and q may be 0, the mean may be 0 and has no direction: value nan, interval [-1, 1].
    """
    pairing = group.pairing
    if pairing.batches < FEWEST_BATCHES:
        return Estimate(_debiased_cosine(group), np.nan, np.nan)
    miss = 1 - level
    share = TRUTH_SHARE if noisy(group) else 0.0
    truth = pairing.truth
    ratio = jackknife.product(pairing.overlap) / jackknife.product(truth.matrix)
    along = jackknife.interval(ratio, 1 - (1 - share) * miss / 2)
    gain = along.value
    residual = pairing.estimate.matrix - gain * (pairing.overlap + pairing.overlap.T) + gain**2 * truth.matrix
    shadow = (pairing.overlap - gain * truth.matrix).mean(1)  # <Y_k - gain T_k, mean T>
    across = Gram(residual - np.outer(shadow, shadow) / truth.square, group.dimension - 1)
    if group.dimension == 1:
        thin, thick = 0.0, 0.0
    else:
        tail = (1 - share) * miss / 4
        near, far = norm_interval(across, tail, tail)
        shortest, longest = truth_interval(group, share * miss / 2, share * miss / 2)
        thin, thick = near / longest, far / shortest if shortest > 0 else np.inf
    if along.low <= 0 <= along.high and thin == 0:
        return Estimate(np.nan, -1.0, 1.0)
    low = along.low / np.hypot(along.low, thick if along.low > 0 else thin)
    high = along.high / np.hypot(along.high, thin if along.high > 0 else thick)
    return Estimate(_debiased_cosine(group), float(low), float(high))


def _debiased_cosine(group: Group) -> float:
    pairing = group.pairing
    families = (pairing.overlap, pairing.estimate.matrix, pairing.truth.matrix)
    inner, own, truth = (float(jackknife.product(family)[0]) for family in families)
    return float(np.clip(inner / np.sqrt(own * truth), -1.0, 1.0)) if own > 0 and truth > 0 else np.nan


def sign_agreement(group: Group, level: float) -> Estimate:
    """Expected share of the coordinates with `g_j != 0` whose sign the estimate gets right.

    Jackknife; Clopper-Pearson on R draws where a single coordinate counts or no batch differs. With a noisy truth,
    coordinates whose own sign is not resolved by the truth may count either way, which widens both ends.
    """
    values = group.pairing.scalars["agreement"]
    found = jackknife.interval(jackknife.mean(values), level)
    counted = np.count_nonzero(group.truth)
    if counted == 1 or np.ptp(values) <= 1e-12:
        found = clopper_pearson(found.value, group.replicates, level)
    open_share = 0.0
    if group.truth_batches is not None and noisy(group):
        t = len(group.truth_batches)
        error = group.truth_batches.std(0, ddof=1) / np.sqrt(t)
        unresolved = np.abs(group.truth_mean) < special.stdtrit(t - 1, (1 + level) / 2) * error
        open_share = float(np.count_nonzero(unresolved[group.truth != 0])) / float(counted)
    return Estimate(found.value, max(found.low - open_share, 0.0), min(found.high + open_share, 1.0))


def descent(group: Group, level: float) -> Estimate:
    """`P(<x, g> > 0)`: how often a step against one draw goes downhill, to first order. Clopper-Pearson.

    A noisy truth turns the sign of draws with `|<x, g>| < z s`, `s^2 = E x' Gamma x / S`; both ends are widened by the
    probability of that band, taken from a normal law for `<x, g>` with the mean and the variance of its batches.
    """
    scalars = group.pairing.scalars
    found = clopper_pearson(float(group.scalars["descent"].mean()), group.replicates, level)
    if not noisy(group):
        return found
    pairing = group.pairing
    j = pairing.batches
    across = _centred(pairing.cross)
    offsets = pairing.noise_along + pairing.cross.mean(0)  # <mean Y, T_l - g>
    # x' (Gamma/S) x = mean part + tr(Sigma Gamma)/S
    spread = offsets.var(ddof=1) / j + group.replicates / j * (across**2).sum() / ((j - 1) ** 2 * j)
    inner = scalars["inner"]
    deviation = np.sqrt(inner.var(ddof=1) * group.replicates / j)
    reach = special.ndtri((1 + level) / 2) * np.sqrt(spread)
    ends = np.array([reach, -reach]) - inner.mean()
    band = float(np.diff(special.ndtr(ends[::-1] / deviation))[0])
    return Estimate(found.value, max(found.low - band, 0.0), min(found.high + band, 1.0))


def clopper_pearson(share: float, draws: int, level: float) -> Estimate:
    """Exact interval for a probability from the share of `draws` independent draws.

    Source: Clopper & Pearson (1934).
    """
    hits = round(share * draws)
    tail = (1 - level) / 2
    low = float(special.betaincinv(hits, draws - hits + 1, tail)) if hits > 0 else 0.0
    high = float(special.betaincinv(hits + 1, draws - hits, 1 - tail)) if hits < draws else 1.0
    return Estimate(share, low, high)


def _centred(matrix: Array) -> Array:
    return np.asarray(matrix - matrix.mean(0)[None, :] - matrix.mean(1)[:, None] + matrix.mean())
