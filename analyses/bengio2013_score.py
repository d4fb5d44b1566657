"""Claims of Bengio, Léonard and Courville (2013) about (h - p) L, and the constants subtracted from the loss.

h is a unit's value, p its probability sigmoid(a), q = sqrt(p), L the loss. Every function takes what its claim is about
as an argument, so that a wrong one can be put in its place; see ``bengio2013_claims``.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from claims import Claim, decide
from enumeration import (
    ORDER,
    TOLERANCE,
    Array,
    Rule,
    Tables,
    agree,
    beside_the_lab,
    bits,
    everywhere,
    in_the_lab,
    lab_moments,
    likelihood_ratio,
    objective,
    order,
    relative_error,
    sigmoid,
    slope,
)

import estimator_lab as lab
from estimator_lab.estimators import Reinforce, RunningReinforce
from estimator_lab.noise import derive_seed

FALSE_ALARM = 1e-6
"""Chance that a verdict which rests on draws calls an unbiased estimator biased."""

NETWORKS = (Tables((10,), batch=1), Tables((5, 5), batch=1), Tables((3, 2), batch=2))


# ---------------------------------------------------------------------- A1, A2: unbiased
def unbiased(rule: Rule = likelihood_ratio) -> Claim:
    """A1: Theorem 1."""
    errors = {f"error, {net.label}": relative_error(beside_the_lab(net, everywhere(net, rule))) for net in NETWORKS}
    net = NETWORKS[-1]
    sampled = lab.diagnose(
        in_the_lab(everywhere(net, rule), "rule"), on=net, exact=False, alpha=FALSE_ALARM, budget=2**13
    )
    biased = sampled.findings[0].verdict == "biased"
    worst = max(errors.values())
    missed = direct_share(rule)
    return Claim(
        "A1",
        "(h - p) L is an unbiased estimate of the derivative of the expected loss by the pre-activation a of a "
        "stochastic binary unit, if a influences L through h only, whatever comes after h and however L depends on it.",
        "Theorem 1",
        decide(holds=worst <= TOLERANCE and not biased),
        f"Random tables of losses and of second-layer logits, which have no derivative, for 10, 5-5 and 3-2 units: "
        f"the mean over all states is off by at most {worst:.0e} of one draw's size. On draws the lab finds "
        f"{'a' if biased else 'no'} bias (false-alarm rate {FALSE_ALARM:g}). If a enters L directly as well, in a "
        f"penalty p^2, the share {missed:.3f} of the penalty's own derivative, 2 p^2 (1 - p), is lacking.",
        {**errors, "biased on draws": float(biased), "share of a direct derivative that is missed": missed},
    )


def direct_share(rule: Rule = likelihood_ratio) -> float:
    """Share of the derivative of a penalty ``p^2`` in the loss of one unit that the mean of a rule lacks."""
    a, losses, h = np.array([-1.3]), np.array([0.4, 2.7]), np.array([0.0, 1.0])

    def expected(a: Array) -> Array:
        p = sigmoid(a[..., 0])
        return (1 - p) * losses[0] + p * losses[1] + p**2

    p = sigmoid(a)[0]
    mean = float(np.array([1 - p, p]) @ rule(h, p, losses + p**2))
    return (float(slope(expected, a)[0]) - mean) / float(2 * p**2 * (1 - p))


def constants(net: Tables) -> dict[str, dict[str, Array]]:
    """Baselines by name and site: zero, the mean loss, the optimal constant of each unit, and a thousand."""
    named = {"0": np.array(0.0), "E[L]": net.expected().mean(), "1000": np.array(1000.0)}
    found = {name: {site.name: value for site in net.sites} for name, value in named.items()}
    return {**found, "optimal": optimal_constants(net)}


def optimal_constants(net: Tables, power: float = 2.0) -> dict[str, Array]:
    """``E[|h - p|^power L] / E[|h - p|^power]`` of every unit ``[units]``, over states and examples."""
    above = net.moments(everywhere(net, lambda h, p, loss: np.abs(h - p) ** power * loss))
    below = net.moments(everywhere(net, lambda h, p, loss: np.abs(h - p) ** power))
    return {site: above[site][0].mean(0) / below[site][0].mean(0) for site in above}


Centring = Callable[[Tables, Mapping[str, Array]], Mapping[str, Rule]]
"""Rules of a network's sites, given one constant for every unit."""


def centred(net: Tables, constant: Mapping[str, Array]) -> dict[str, Rule]:
    """``(h - p) (L - c)``."""

    def rule(c: Array) -> Rule:
        return lambda h, p, loss: (h - p) * (loss - c)

    return {site: rule(c) for site, c in constant.items()}


def action_dependent(net: Tables, constant: Mapping[str, Array]) -> dict[str, Rule]:
    """A mistake found in the code's history: the mean loss of the unit's own value is subtracted.

    ``(h - p) (L - m_h)`` with m_1 = E[L | h = 1] and m_0 = E[L | h = 0] of the example has the mean: truth minus
    p (1 - p) (m_1 - m_0), which is zero in one layer.
    """
    on, off = (
        net.moments(everywhere(net, one)) for one in (lambda h, p, loss: h * loss, lambda h, p, loss: (1 - h) * loss)
    )
    share = net.moments(everywhere(net, lambda h, p, loss: h))

    def rule(zero: Array, one: Array) -> Rule:
        return lambda h, p, loss: (h - p) * (loss - np.where(h > 0.5, one, zero))

    return {k: rule(off[k][0] / (1 - share[k][0]), on[k][0] / share[k][0]) for k in share}


def any_constant(centring: Centring = centred) -> Claim:
    """A2: Corollary 1, unbiased."""
    errors: dict[str, float] = {}
    for net in (NETWORKS[0], NETWORKS[2]):
        for name, constant in constants(net).items():
            key = f"error, c = {name}"
            errors[key] = max(errors.get(key, 0.0), relative_error(beside_the_lab(net, centring(net, constant))))
    told = ", ".join(f"{v:.0e} for {k.removeprefix('error, ')}" for k, v in errors.items())
    return Claim(
        "A2",
        "Subtracting any constant from the loss, one for every unit, leaves (h - p) (L - c) unbiased.",
        "Corollary 1",
        decide(holds=max(errors.values()) <= TOLERANCE),
        f"Largest error of the mean over 10 and over 3-2 units, relative to one draw's size: {told}.",
        errors,
    )


# ---------------------------------------------------------------------- A3, A4, A11: the optimal constant
def variance_at(net: Tables, site: str, constant: Array | float) -> Array:
    """Variance of ``(h - p) (L - c)`` over states and examples ``[units]``, at a constant for each unit of a site."""
    rules = everywhere(net, likelihood_ratio) | {site: lambda h, p, loss: (h - p) * (loss - constant)}
    mean, square = net.moments(rules)[site]
    return square.mean(0) - mean.mean(0) ** 2


Formula = Callable[[Tables], Mapping[str, Array]]
"""The constant of every unit ``[units]``, by site."""


def least_variance(formula: Formula = optimal_constants) -> Claim:
    """A3: Corollary 1, minimum variance.

    The variance is a parabola in the constant: three of its values give the minimum without the formula.
    """
    reach = 10.0
    gaps, rises, saved = [], [], []
    nets = Tables((4,), batch=2), Tables((3, 2), batch=2)
    for net in nets:
        for site, claimed in formula(net).items():
            low, middle, high = (variance_at(net, site, c) for c in (-reach, 0.0, reach))
            bend = low + high - 2 * middle
            square = net.moments(everywhere(net, lambda h, p, loss: (h - p) ** 2))[site][0].mean(0)
            agree("curvature and E[(h - p)^2]", bend / (2 * reach**2), square)
            gaps.append(np.abs(reach * (low - high) / (2 * bend) - claimed) / reach)
            at = variance_at(net, site, claimed)
            rises += [(variance_at(net, site, claimed + c) - at) / middle for c in np.linspace(-3, 3, 31)]
            saved.append(1 - at / middle)
        found = lab.exact_moments(net, Reinforce("optimal"))["unit", "h1"].mean
        agree("optimal constants of each example leave the mean", found.reshape(net.logits[0].shape), net.truth()["h1"])
    own = _variance_per_example(nets[0]) / _noise(nets[0], optimal_constants(nets[0])["h1"])
    _additive_oracle()
    gap, rise, share = (float(np.concatenate(x).max()) for x in (gaps, [-r for r in rises], saved))
    return Claim(
        "A3",
        "E[(h - p)^2 L] / E[(h - p)^2], averaged over all that varies, is the constant of least variance.",
        "Corollary 1, Eq. (10)-(12)",
        decide(holds=gap <= TOLERANCE and rise <= TOLERANCE),
        f"The vertex of the variance, a parabola through three constants, is where the formula puts it, to {gap:.0e}, "
        f"for 4 and 3-2 units over two inputs; up to {share:.0%} of the variance goes. A constant for each input, "
        f"which the corollary does not speak of, leaves {own:.2f} of the noise that is left.",
        {"gap": gap, "variance below that at the formula": max(rise, 0.0), "largest share saved": share}
        | {"noise left by a constant for each input, relative": own},
    )


def _noise(net: Tables, constant: Array) -> float:
    """Variance of one draw given its example, averaged over examples and summed over the units of the first layer."""
    mean, square = net.moments({"h1": lambda h, p, loss: (h - p) * (loss - constant)})["h1"]
    return float((square - mean**2).mean(0).sum())


def _variance_per_example(net: Tables) -> float:
    """The same with the optimal constant of every example and unit, by hand and in the lab."""
    above = net.moments({"h1": lambda h, p, loss: (h - p) ** 2 * loss})["h1"][0]
    below = net.moments({"h1": lambda h, p, loss: (h - p) ** 2})["h1"][0]
    own = _noise(net, above / below)
    found = lab.exact_moments(net, Reinforce("optimal"))["unit", "h1"].variance
    agree("variance with the optimal constant of each example", own, found.sum() / net.batch)
    return own


def _additive_oracle() -> None:
    """For L = c + sum_j w_j h_j: constants and variances in closed form, which need no sum over states."""
    generator = np.random.default_rng(derive_seed("additive"))
    p, w, c = sigmoid(1.5 * generator.normal(size=8)), generator.normal(size=8), 0.7
    h = bits(8)
    chance, loss, delta = np.where(h > 0.5, p, 1 - p).prod(-1), c + h @ w, h - p
    own = p * (1 - p)
    constant = c + w @ p - w * p + w * (1 - p)
    agree("constant of an additive loss", chance @ (delta**2 * loss[:, None]) / (chance @ delta**2), constant)
    draw = delta * (loss[:, None] - constant)
    agree("variance under an additive loss", chance @ draw**2 - (chance @ draw) ** 2, own * (w**2 @ own - w**2 * own))


def mean_is_not_optimal(weights: Callable[[float], tuple[float, float]] = lambda p: (1 - p, p)) -> Claim:
    """A11: the optimal constant of a unit is not the mean loss.

    Args:
        weights: of L(1) and L(0) in the constant of one unit on one input.
    """
    a, one, zero = -1.3, 2.7, 0.4
    p = float(sigmoid(np.array(a)))
    problem = objective([a], lambda x: zero + (one - zero) * x[..., 0], "one unit")
    named = {"no constant": 0.0, "mean loss": p * one + (1 - p) * zero}
    named["claimed constant"] = weights(p)[0] * one + weights(p)[1] * zero
    variances = {k: _variance_one(p, one, zero, c) for k, c in named.items()}
    for name, c in named.items():
        agree(f"variance with {name}", variances[name], lab_moments(problem, Reinforce(c))[1])
    agree("mean constant in the lab", variances["mean loss"], lab_moments(problem, Reinforce("mean"))[1])
    agree("variance with the mean loss", variances["mean loss"], p * (1 - p) * (1 - 2 * p) ** 2 * (one - zero) ** 2)
    ratios = []
    for net in (Tables((6,), batch=1), Tables((4, 3), batch=1)):
        for site, best in optimal_constants(net).items():
            ratios.append(variance_at(net, site, best) / variance_at(net, site, float(net.expected().mean())))
    ratio = np.concatenate(ratios)
    vanishes = variances["claimed constant"] <= TOLERANCE * variances["no constant"]
    least = f"{variances['claimed constant']:.4f}"
    return Claim(
        "A11",
        "The constant of least variance is not the mean loss: for one unit on one input it is (1 - p) L(1) + p L(0), "
        "with the probabilities exchanged, and leaves no variance.",
        "Corollary 1 (closed form ours)",
        decide(holds=vanishes and float(ratio.max()) < 1),
        f"One unit, p = {p:.3f}, L = {zero} or {one}: variance {variances['no constant']:.4f} without a constant, "
        f"{variances['mean loss']:.4f} with the mean loss, {'0 within rounding' if vanishes else least} with the one "
        "claimed. "
        f"In random networks of 6 and 4-3 units the optimal constants leave {ratio.min():.2f} to {ratio.max():.3f} "
        "of the variance that mean losses leave.",
        {f"variance, {k}": v for k, v in variances.items()}
        | {"least ratio to the mean loss": float(ratio.min()), "largest ratio": float(ratio.max())},
        reconstruction=True,
    )


def _variance_one(p: float, one: float, zero: float, c: float) -> float:
    """Variance of ``(h - p) (L - c)`` of one unit: of two values, p (1 - p) times their squared difference."""
    return p * (1 - p) * ((1 - p) * (one - c) + p * (zero - c)) ** 2


@dataclass(frozen=True)
class Tracked:
    """One unit's estimate with running averages on one input, over every history of some minibatches.

    Attributes:
        bias: of the last minibatch's estimate, relative to the truth.
        limit: of the ratio of the expected averages after many steps.
        wobble: root mean square of the ratio about its limit after many steps, to first order in its variations.
        best: the optimal constant.
    """

    bias: float
    limit: float
    wobble: float
    best: float


STILL = Tables((2,), batch=1, seed=5)
"""One input on which averages are tracked."""


def tracked(decay: float, *, lagged: bool, power: float = 2.0, fresh: bool = True, draws: int = 2) -> Tracked:
    """Running averages of ``|h - p|^power L`` and ``|h - p|^power`` of the first of two units.

    Args:
        decay: c in ``average <- c average + (1 - c) minibatch``.
        lagged: the estimate takes the averages as they were before its own minibatch.
        power: 2 in the paper.
        fresh: three minibatches from where the code begins; else one, from averages that have arrived.
        draws: of a minibatch.
    """
    steps, net = 3 if fresh else 1, STILL
    p = sigmoid(net.logits[0][0, 0])
    chance, loss, h = net.chances()[0][0], net.losses[0, :, 0], bits(2)[:, 0]
    weight = np.abs(h - p) ** power
    arrived = float(chance @ (weight * loss)), float(chance @ weight)
    history = np.stack(np.meshgrid(*[np.arange(4)] * (steps * draws), indexing="ij"), -1).reshape(-1, steps, draws)
    above, below = (np.full(len(history), 1e-6 if fresh else start) for start in arrived)
    for states in history.transpose(1, 0, 2):
        constant = above / below
        above = decay * above + (1 - decay) * (weight * loss)[states].mean(-1)
        below = decay * below + (1 - decay) * weight[states].mean(-1)
        constant = constant if lagged else above / below
    drawn = ((h - p)[states] * (loss[states] - constant[:, None])).mean(-1)
    bias = float(chance[history].prod((1, 2)) @ drawn) / float(net.truth()["h1"][0, 0]) - 1
    # E[average] tends to its expectation; above - limit * below is a running average of a variable of mean zero
    limit = arrived[0] / arrived[1]
    rest = float(chance @ (weight * (loss - limit)) ** 2) / draws
    wobble = math.sqrt((1 - decay) / (1 + decay) * rest) / arrived[1]
    return Tracked(bias, limit, wobble, float(optimal_constants(net)["h1"][0]))


def running_averages(power: float = 2.0) -> Claim:
    """A4: two running averages per unit track the optimal constant.

    Args:
        power: of |h - p| in the weights of the averages.
    """
    decays = (0.5, 0.9, 0.99, 0.999)
    lagged, same = ([tracked(c, lagged=first, power=power) for c in decays] for first in (True, False))
    later = [tracked(c, lagged=False, power=power, fresh=False).bias for c in decays]
    for first in (True, False):
        inside = lab_moments(STILL, RunningReinforce(0.9, paths=1, lagged=first), "h1")[0][0]
        outside = tracked(0.9, lagged=first, fresh=False, draws=1).bias
        agree("bias of running averages in the lab", inside / STILL.truth()["h1"][0, 0] - 1, outside)
    gap = max(abs(found.limit / found.best - 1) for found in lagged)
    wobbles = [found.wobble / abs(found.best) for found in lagged]
    reached = gap <= TOLERANCE and order(1 - np.array(decays[2:]), np.array(wobbles[2:])) > 0.5 - ORDER
    clean, with_own = (max(abs(found.bias) for found in runs) <= TOLERANCE for runs in (lagged, same))
    return Claim(
        "A4",
        "The optimal constant can be tracked online by two running averages per unit, of (h - p)^2 L and (h - p)^2.",
        "Corollary 1, Eq. (10)",
        decide(holds=reached and clean and with_own, otherwise=reached and clean),
        f"The ratio of the expected averages tends to the optimal constant ({gap:.0e} off) and varies by "
        f"{wobbles[1]:.0%} at decay 0.9, {wobbles[-1]:.1%} at 0.999 (minibatches of two). Condition: averages from "
        f"before the minibatch. Over all histories of three they leave a bias of {abs(lagged[1].bias):.0e} of the "
        f"gradient; with the minibatch in them it is {same[1].bias:.0%} at decay 0.9, {later[1]:.1%} once they have "
        "arrived.",
        {"relative gap of the limit": gap, "decays": list(decays), "relative variation": wobbles}
        | {"relative bias, lagged": [found.bias for found in lagged]}
        | {"relative bias, with the minibatch": [found.bias for found in same]}
        | {"relative bias, with the minibatch, arrived": later},
    )


# ---------------------------------------------------------------------- E1, E4: how Theorem 1 is stated
def printed_unit(fires: Callable[[float], float] = lambda p: 1 - p) -> Claim:
    """E1: Eq. (3) prints h = 1[z > sigmoid(a)] with z uniform.

    Args:
        fires: probability of h = 1 given p; 1 - p as printed.
    """
    a, one, zero = -1.3, 2.7, 0.4

    def expected(logit: Array) -> Array:
        p = fires(sigmoid(logit[..., 0]))
        return p * one + (1 - p) * zero

    true = float(slope(expected, np.array([a]))[0])
    p = float(sigmoid(np.array(a)))
    mean = fires(p) * (1 - p) * one + (1 - fires(p)) * (0 - p) * zero
    problem = objective([a], lambda x: zero + (one - zero) * x[..., 0], "one unit")
    right = float(lab.Truth.exact(problem).mean["unit", "x"].item())
    agree("estimate for the unit that is meant", lab_moments(problem, Reinforce())[0], right)
    return Claim(
        "E1",
        "For h = 1[z > sigmoid(a)], z uniform, the mean of (h - p) L is the gradient.",
        "Eq. (3) and appendix; misprint of a relation",
        decide(holds=abs(mean - true) <= TOLERANCE * abs(one)),
        f"a = {a}, L = {zero} or {one}: gradient {true:.7f}, mean {mean:.7f}. With h = 1[z < sigmoid(a)], which all "
        f"proofs use and the code draws, both are {right:.7f}.",
        {"gradient": true, "mean": mean, "gradient of the unit that is meant": right},
    )


def given_and_averaged(rule: Rule = likelihood_ratio) -> Claim:
    """E4: Theorem 1 given the noise upstream, and averaged over it as in Eq. (9)."""
    net = Tables((4, 3), batch=2)
    found = net.estimates({"h1": likelihood_ratio, "h2": rule})["h2"]
    later = net.chances()[1].transpose(1, 2, 0)[..., None]
    size = np.sqrt((later * found**2).sum(1)).transpose(1, 0, 2)
    given = float((np.abs(net.mean_given(rule) - net.truth_given()) / size).max())
    mean, square = net.moments({"h1": likelihood_ratio, "h2": rule})["h2"]
    averaged = float((np.abs(mean - net.truth()["h2"]) / np.sqrt(square)).max())
    weight = lab.Truth.exact(net).mean["weight", "theta2"]
    agree("the lab given the first layer", weight, net.chances()[0][..., None] * net.truth_given() / net.batch)
    return Claim(
        "E4",
        "Theorem 1 holds given the noise upstream, as it is stated, and averaged over it, as Eq. (9) has it.",
        "Theorem 1, Eq. (9)",
        decide(holds=max(given, averaged) <= TOLERANCE, otherwise=averaged <= TOLERANCE),
        f"Second layer of a 4-3 network of tables: error of the mean {given:.0e} of one draw's size given each of the "
        f"16 states of the first layer (worst state), {averaged:.0e} averaged over them.",
        {"error given the first layer": given, "error averaged over it": averaged},
    )
