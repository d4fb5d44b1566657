"""The claims of Cho, Bengio 2014 (arXiv:1406.7362), each held against ground truth.

Run: python analyses/cho2014_claims.py   (half a minute; prints the table)

Only the abstract of the paper was at hand. It says that the ratio of parameters to computation can grow up to
exponentially, by weight vectors that bit patterns of hidden units turn on, in a tree whose nodes are prefixes of a
sequence of sign bits or gating units. Claims with ``reconstruction=True`` are what that has to mean for an
implementation (equations, gates, decay on demand), taken from reviews or derived here; they are not quotations.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from cho2014_nets import (
    HIDDEN,
    INPUTS,
    Array,
    GatedNet,
    OneThreshold,
    pathwise_mean,
    patterns,
    prefixes,
)
from claims import Claim, decide, table
from scipy.integrate import quad
from scipy.special import expit
from scipy.stats import norm

import estimator_lab as lab
from estimator_lab.estimators import Pathwise, Reinforce, StraightThrough
from estimator_lab.noise import derive_seed, forked

ROUNDING = 1e-12
"""Relative error that rounding explains in sums of at most some thousand terms."""

ABSTRACT = "abstract"
REVIEW = "reviews of the paper, whose body was not at hand"
OURS = "our derivation"


def tree(name: str, inputs: int, outputs: int, depth: int) -> lab.TreeLinear:
    """A layer with gating units and without bias, the same in every call; touches no global state."""
    with forked(derive_seed(name, inputs, outputs, depth)):
        return lab.TreeLinear(inputs, outputs, depth, gates="units", bias=False, dtype=torch.float64)


# ---------------------------------------------------------------------- capacity and computation
def b1() -> Claim:
    """Parameters over computation grow as 2^k / k."""
    depths = range(1, 13)
    counted = [tree("B1", 2, 1, k).tables.weight.shape[0] // 2 for k in depths]
    distinct = [len(set(prefixes(k))) for k in depths]
    leaves = [len(patterns(k)) for k in depths]
    by_leaf = [n / k for n, k in zip(leaves, depths, strict=True)]
    by_node = [n / k for n, k in zip(counted, depths, strict=True)]
    right = counted == distinct == [2 ** (k + 1) - 2 for k in depths] and leaves == [2**k for k in depths]
    return Claim(
        "B1",
        "The ratio of the number of parameters to the amount of computation can grow up to exponentially.",
        f"{ABSTRACT}; the factor 2^k / k in the evidence from {REVIEW}",
        decide(holds=right and by_leaf[7] == 32.0),
        "With k bits the ratio is 2^k / k, the factor that reviews give: counted in the tables for k = 1 to 12. At "
        f"k = 8 a unit has {leaves[7]} leaf vectors and {counted[7]} vectors in all, and 8 are read: {by_leaf[7]:g} "
        f"leaves, or {by_node[7]:g} vectors, per vector read.",
        {"vectors": counted, "leaves": leaves, "leaves_per_read": by_leaf, "vectors_per_read": by_node},
    )


@dataclass
class Counter:
    """Operations on numbers that count themselves."""

    additions: int = 0
    products: int = 0

    def effective_row(self, vectors: list[list[float]]) -> list[float]:
        """Sum of the vectors; the first is copied."""
        row = list(vectors[0])
        for vector in vectors[1:]:
            for i, value in enumerate(vector):
                row[i] += value
                self.additions += 1
        return row

    def add_product(self, y: list[float], x: float, row: list[float]) -> None:
        """``y += x row``."""
        for i, value in enumerate(row):
            y[i] += x * value
            self.products += 1


def counted_forward(layer: lab.TreeLinear, x: list[float], bits: tuple[int, ...]) -> tuple[list[float], Counter]:
    """The layer's output without its bias in plain Python, and what was counted on the way."""
    counter, tables, y = Counter(), layer.tables, [0.0] * layer.tables.out_features
    for j, value in enumerate(x):
        path = [tables.node(j, bits[:n]) for n in range(1 - tables.root, layer.depth + 1)]
        counter.add_product(y, value, counter.effective_row([tables.weight[i].tolist() for i in path]))
    return y, counter


def b2() -> Claim:
    """The work is O(kq) a unit."""
    generator = torch.Generator().manual_seed(derive_seed("B2"))
    right, over_dense, ratio = True, [], []
    for k in range(1, 13):
        with forked(derive_seed("B2", k)):
            layer = lab.TreeLinear(12, 4, k, dtype=torch.float64)
        x = torch.randn(12, generator=generator, dtype=torch.float64)
        bits = tuple(int(b) for b in (x[:k] > 0))
        y, counter = counted_forward(layer, x.tolist(), bits)
        cost = layer.cost
        with torch.no_grad():
            same = torch.allclose(layer(x[None])[0], torch.tensor(y, dtype=torch.float64), rtol=0, atol=ROUNDING)
        right &= same and (counter.additions, counter.products) == (cost.additions, cost.multiply_adds)
        over_dense.append(cost.operations / cost.dense)
        ratio.append(cost.parameters_per_operation)
    expected = [(2 ** (k + 1) - 2) / k for k in range(1, 13)]
    return Claim(
        "B2",
        "Building the weights costs O(k q) for each of p units, against O(p q) multiply-adds of the dense product.",
        REVIEW,
        decide(holds=right and over_dense == list(range(1, 13)) and ratio == expected),
        f"Counted while it is computed, k = 1 to 12: (k - 1) p q additions and p q multiply-adds, {over_dense[7]:g} "
        "times "
        f"the dense layer at k = 8 ({over_dense[7] + 1:g} if the first vector is added to zeros); parameters per "
        "operation "
        f"{ratio[0]:g} at k = 1, {ratio[7]:g} at k = 8, {ratio[11]:g} at k = 12.",
        {"operations_over_dense": over_dense, "parameters_per_operation": ratio},
        reconstruction=True,
    )


def b3() -> Claim:
    """Summing along the path is looking up a dense table."""
    worst = 0.0
    for k in (1, 2, 3, 4):
        net = GatedNet("bernoulli", k)
        own = net.module[0]
        x = net.examples[0]
        lookup = {
            bits: np.array([sum(net.tables[j, bits[:n]] for n in range(1, k + 1)) for j in range(INPUTS)])
            for bits in patterns(k)
        }
        for bits, dense in lookup.items():
            gates = torch.tensor([bits] * len(x), dtype=torch.float64)
            with torch.no_grad():
                found = own.tables(x, gates).numpy()
            worst = max(worst, float(np.abs(found - x.numpy() @ dense).max()))
    return Claim(
        "B3",
        "The sum of the vectors on the path is a weight matrix of its own for each of the 2^k patterns.",
        ABSTRACT,
        decide(holds=worst < ROUNDING),
        f"Forward passes equal those with a table of all 2^k matrices, k = 1 to 4, to {worst:.0e}.",
        {"largest_difference": worst},
        reconstruction=True,
    )


# ---------------------------------------------------------------------- sharing and learning
def b4() -> Claim:
    """Patterns that begin alike share summands."""
    k = 5
    layer = tree("B4", INPUTS, HIDDEN, k)
    all_bits = patterns(k)
    gates = torch.tensor(all_bits, dtype=torch.float64)
    path = layer.tables.path(gates)[:, 0].tolist()
    shared = [
        (next((i for i in range(k) if a[i] != b[i]), k), len(set(p) & set(q)))
        for a, p in zip(all_bits, path, strict=True)
        for b, q in zip(all_bits, path, strict=True)
    ]
    right = all(m == n for m, n in shared)
    with torch.no_grad():
        before = layer.tables.effective(gates)
    x = torch.tensor([[0.7, -1.3, 0.4]], dtype=torch.float64)
    layer.tables(x, gates[:1]).sum().backward()
    torch.optim.SGD(layer.parameters(), lr=0.1).step()
    with torch.no_grad():
        change = (layer.tables.effective(gates) - before).norm(dim=(1, 2))
    part = (change / change[0]).tolist()
    first = [next((i for i in range(k) if b[i] != all_bits[0][i]), k) for b in all_bits]
    gap = max(abs(p - m / k) for p, m in zip(part, first, strict=True))
    return Claim(
        "B4",
        "Short prefixes are shared by many patterns: patterns with m common first bits share m of k summands.",
        f"{ABSTRACT} (nodes are prefixes, to control overfitting)",
        decide(holds=right and gap < ROUNDING),
        f"All {len(shared)} pairs of patterns at k = 5; a step on one pattern moves the weights of another by m / k "
        "of its "
        f"own change, to {gap:.0e}.",
        {"pairs": len(shared), "largest_gap": gap, "share_by_common_bits": [m / k for m in range(k + 1)]},
        reconstruction=True,
    )


def b5() -> Claim:
    """All vectors on the path get one gradient."""
    k, rate = 6, 0.1
    layer = tree("B5", INPUTS, HIDDEN, k)
    gates = torch.tensor([[1, 0, 0, 1, 1, 0]], dtype=torch.float64)
    x, target = torch.tensor([[0.7, -1.3, 0.4]], dtype=torch.float64), torch.tensor([[0.3, -0.8]], dtype=torch.float64)
    with torch.no_grad():
        before = layer.tables.effective(gates)[0]
    y = layer.tables(x, gates)
    y.retain_grad()
    (y - target).square().sum().backward()
    gradient, slope = layer.tables.weight.grad, y.grad
    assert gradient is not None and slope is not None
    on = layer.tables.path(gates)[0]
    expected = x[0, :, None, None] * slope
    gap = float((gradient[on] - expected).abs().max())
    off = float(gradient.abs().sum() - gradient[on].abs().sum())
    torch.optim.SGD(layer.parameters(), lr=rate).step()
    with torch.no_grad():
        moved = layer.tables.effective(gates)[0] - before
    steps = float((moved / (-rate * x[0, :, None] * slope)).mean())
    return Claim(
        "B5",
        "The k vectors on the path receive the same gradient x_j dL/dy, all others none; so a step of plain SGD "
        "moves the "
        "effective weights k times as far as it would move dense ones.",
        OURS,
        decide(holds=gap < ROUNDING and abs(off) < ROUNDING and abs(steps - k) < 1e-9),
        f"k = {k}: all gradients on the path are x_j dL/dy, off by {gap:.0e}, and sum to {abs(off):.0e} "
        f"elsewhere; the effective weights moved {steps:.9f} "
        "times "
        "a dense layer's step. The learning rate of a tree is to be divided by k to compare it with a dense layer.",
        {"largest_difference": gap, "elsewhere": abs(off), "steps": steps},
        reconstruction=True,
    )


# ---------------------------------------------------------------------- decay on demand
def scalar_decay(eager: bool, late: bool = False, momentum: float = 0.0) -> float:
    """One weight under ``L = (T - 0.3)^2 / 2``, visited in 4 of 16 steps: e = 0.1, w = 0.05, begun at 1.

    Args:
        eager: decay in every step; else on demand.
        late: on demand, but with the visit's own factor before its gradient is taken as well.
        momentum: of the gradient with its decay; on demand the velocity waits for the next visit.
    """
    rate, decay, visits, weight, velocity, last = 0.1, 0.05, (2, 3, 9, 14), 1.0, 0.0, -1
    for t in range(16):
        if not eager:
            if t not in visits:
                continue
            weight *= (1 - rate * decay) ** (t - last - (not late))
            last = t
        push = weight - 0.3 if t in visits else 0.0
        velocity = momentum * velocity + push + (0.0 if late else decay * weight)
        weight -= rate * velocity
    return weight if eager else weight * (1 - rate * decay) ** (15 - last)


def trained_layer(lazy: bool, sparse: bool, steps: int = 300) -> Array:
    """Weights of a small layer after training with decay on demand, or in every step; a schedule of three pieces."""
    with forked(derive_seed("B6")):
        layer = lab.TreeLinear(6, 3, 5, gates="signs", sparse=sparse and lazy, dtype=torch.float64)
        x, t = torch.randn(steps, 2, 6, dtype=torch.float64), torch.randn(steps, 2, 3, dtype=torch.float64)
    optimiser: torch.optim.Optimizer = (
        lab.LazyDecay(layer, lr=0.2, weight_decay=0.3)
        if lazy
        else torch.optim.SGD(layer.parameters(), lr=0.2, weight_decay=0.3)
    )
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, [100, 200], 0.3)
    for step in range(steps):
        optimiser.zero_grad()
        (layer(x[step]) - t[step]).square().mean().backward()
        optimiser.step()
        schedule.step()
    if isinstance(optimiser, lab.LazyDecay):
        optimiser.finish()
    return layer.tables.weight.detach().numpy().copy()


def b6() -> Claim:
    """Decay on demand equals decay in every step."""
    eager = trained_layer(False, False)
    gaps = [float(np.abs(trained_layer(True, sparse) - eager).max() / np.abs(eager).max()) for sparse in (False, True)]
    one, on_demand, late = scalar_decay(True), scalar_decay(False), scalar_decay(False, late=True)
    moving = scalar_decay(False, momentum=0.5) - scalar_decay(True, momentum=0.5)
    equal = max(gaps) < ROUNDING and abs(one - on_demand) < ROUNDING
    always = equal and abs(late - one) < ROUNDING and abs(moving) < ROUNDING
    return Claim(
        "B6",
        "Decay of vectors that no example visits can wait: (1 - e w)^dt on the next visit is decay in every step.",
        REVIEW,
        decide(holds=always, otherwise=equal),
        f"Equal to {max(gaps):.0e} after 300 steps of plain SGD with a schedule (products of 1 - e_t w). Two "
        "conditions: "
        "the gradient is taken after the missed factors and before the visit's own, and there is no momentum. One "
        "weight, 16 "
        f"steps, 4 visits: {on_demand:.16g} both ways; with the visit's own factor before the gradient as well "
        f"{late:.7g}; with momentum 0.5 decay on demand is off by {moving:+.2g}.",
        {
            "largest_relative_difference": max(gaps),
            "eager": one,
            "on_demand": on_demand,
            "late": late,
            "momentum_difference": moving,
        },
        reconstruction=True,
    )


def b7() -> Claim:
    """Deep vectors are shrunk more."""
    k, rate, decay, rounds = 6, 0.1, 0.2, 12
    layer = tree("B7", 1, 1, k)
    optimiser = lab.LazyDecay(layer, lr=rate, weight_decay=decay)
    x = torch.ones(1, 1, dtype=torch.float64)
    for step in range(rounds * 2**k):  # a counter, lowest digit first: a prefix of l bits comes back every 2^l steps
        bits = torch.tensor([[step >> i & 1 for i in range(k)]], dtype=torch.float64)
        optimiser.zero_grad()
        (-layer.tables(x, bits)).sum().backward()  # every visit pushes by the learning rate
        optimiser.step()
    last = [step >> i & 1 for i in range(k)]
    weight = layer.tables.weight.detach()
    found = [float(weight[layer.tables.node(0, last[:n]), 0]) for n in range(1, k + 1)]
    keep = 1 - rate * decay
    # just after a visit: T = keep^(2^l) T + e, reached up to what is left of the first value
    expected = [rate / (1 - keep ** (2**n)) for n in range(1, k + 1)]
    mean = [rate * 2.0**-n / (1 - keep) for n in range(1, k + 1)]  # over time, visits of probability 2^-l
    left = keep ** (rounds * 2**k)
    gap = max(abs(a - b) / b for a, b in zip(found, expected, strict=True))
    per_visit = [keep ** (2**n) for n in range(1, k + 1)]
    chance = [2.0**-n for n in range(1, k + 1)]
    average = [p * keep / (1 - (1 - p) * keep) for p in chance]  # gaps of independent fair bits are geometric
    right = gap < 10 * left + 1e-9
    return Claim(
        "B7",
        "With fair bits a vector at depth l is visited with probability 2^-l, so that decay shrinks it by "
        "(1 - e w)^(2^l) between visits: deep vectors are regularised exponentially more.",
        OURS,
        decide(holds=right and np.allclose(average, per_visit, rtol=0, atol=ROUNDING), otherwise=right),
        f"Bits of a counter, k = 6, e w = {rate * decay:g}, equal pushes: after a visit T = e / (1 - (1 - e "
        "w)^(2^l)), to "
        f"{gap:.0e}. The condition is regular visits: for independent bits (1 - e w)^(2^l) is the geometric mean of "
        "the "
        f"factor, and its mean is larger ({average[-1]:.3f} against {per_visit[-1]:.3f} at l = 6); the mean of T "
        "over time "
        "falls as 2^-l in both.",
        {
            "after_visit": found,
            "expected": expected,
            "factor_per_visit": per_visit,
            "mean_factor_independent": average,
            "mean_over_time": mean,
            "largest_relative_difference": gap,
        },
        reconstruction=True,
    )


# ---------------------------------------------------------------------- credit for the gates
def b8() -> Claim:
    """REINFORCE credits stochastic gates without bias."""
    net = GatedNet("bernoulli", 4)
    truth = net.truth()
    key = ("unit", "0.bits")
    scale = np.abs(truth).max()
    moments = {b: lab.exact_moments(net.problem, Reinforce(b))[key] for b in (None, "mean", "optimal", 1.0, -2.0)}
    bias = max(float(np.abs(m.mean - truth.ravel()).max() / scale) for m in moments.values())
    variance = {str(b): float(m.variance.sum()) for b, m in moments.items()}
    # constants around the best one of a unit: its variance is the least
    p = 1 / (1 + np.exp(-net.units))
    on = np.array(patterns(4)) > 0
    chance = np.where(on, p[:, None], 1 - p[:, None]).prod(-1)[..., None]
    score = on - p[:, None]
    losses = np.stack([net.states(i) for i in range(net.batch)])[..., None]
    best = (chance * score**2 * losses).sum(1) / (chance * score**2).sum(1)

    def spread(constant: Array) -> Array:
        g = (losses - constant[:, None]) * score
        return (chance * g**2).sum(1) - (chance * g).sum(1) ** 2

    least = bool(all((spread(best) <= spread(best + d)).all() for d in (-0.5, -0.01, 0.01, 0.5)))
    agree = abs(float(spread(best).sum()) / variance["optimal"] - 1)
    return Claim(
        "B8",
        "Gating units that are drawn can be trained by REINFORCE: it is unbiased for every constant baseline, and the "
        "baseline E[L (b - p)^2] / E[(b - p)^2] has the least variance.",
        REVIEW,
        decide(holds=bias < 1e-10 and least and agree < 1e-9),
        f"Four gates, two examples, all 16 patterns summed: the expectation is the truth to {bias:.0e} for every "
        "baseline. "
        f"Variance {variance['None']:.3g} without one, {variance['mean']:.3g} with the mean loss, "
        f"{variance['optimal']:.3g} with the best.",
        {
            "largest_relative_bias": bias,
            "variance": variance["None"],
            "variance_mean": variance["mean"],
            "variance_optimal": variance["optimal"],
            "formula_agrees_to": agree,
        },
        reconstruction=True,
    )


def jump(threshold: float) -> float:
    """Derivative of the expected loss of ``OneThreshold``: minus the density there times the jump of the loss."""
    return -float(norm.pdf(threshold)) * ((threshold - 1) ** 2 - (threshold + 2))


def difference(threshold: float, step: float = 1e-4) -> float:
    """The same by a central difference of two integrals."""

    def expected(t: float) -> float:
        above = quad(lambda x: (x - 1) ** 2 * norm.pdf(x), t, 12, epsabs=1e-13, epsrel=1e-13)[0]
        below = quad(lambda x: (x + 2) * norm.pdf(x), -12, t, epsabs=1e-13, epsrel=1e-13)[0]
        return float(above + below)

    return (expected(threshold + step) - expected(threshold - step)) / (2 * step)


def through_mean(threshold: float, derivative: Callable[[float], float]) -> float:
    """Mean of straight-through estimates: ``-E[(L(1, x) - L(0, x)) s(x - theta)]``, s in the place of the delta."""

    def at(x: float) -> float:
        return -((x - 1) ** 2 - (x + 2)) * derivative(x - threshold) * float(norm.pdf(x))

    return float(quad(at, -12, 12, epsabs=1e-12, points=[threshold])[0])


def identity(u: float) -> float:
    """Derivative of the identity."""
    return 1.0


def logistic(u: float) -> float:
    """Derivative of the sigmoid."""
    return float(expit(u) * expit(-u))


def b9() -> Claim:
    """Deterministic gates get no credit by backpropagation."""
    threshold = 0.4
    truth, by_integrals = jump(threshold), difference(threshold)
    problem = OneThreshold(threshold)
    closed = float(lab.Truth.exact(problem).mean["weight", "threshold"][0])
    found = lab.measure(problem, Pathwise(), 1024, wrt=("weight",)).mean(("weight", "threshold"))
    zero = not np.any(found)
    right = abs(truth - by_integrals) < 1e-6 and abs(truth - closed) < ROUNDING
    return Claim(
        "B9",
        "Gating decisions may be treated as non-differentiable, and backpropagation goes into the selected vectors "
        "only.",
        REVIEW,
        decide(holds=right and zero and abs(truth) < ROUNDING, otherwise=right and zero),
        "It is right for the vectors. A deterministic gate gets zero from every example, while the expected loss "
        "does have "
        f"a gradient, the density at the threshold times the jump of the loss: {truth:.7f} in the fixture "
        f"({by_integrals:.7f} by differences). The bias is -100 %: gates stay as they were initialised.",
        {"truth": truth, "central_difference": by_integrals, "backpropagated": float(np.abs(found).max())},
        reconstruction=True,
    )


def wrong_signs(nets: int = 40, depth: int = 3) -> tuple[float, float]:
    """Share of gate gradients whose mean straight-through estimate has the wrong sign: affine loss, squared loss."""
    shares = []
    for linear in (True, False):
        wrong = total = 0
        for seed in range(nets):
            net = GatedNet("bernoulli", depth, seed=seed, linear=linear)
            mean = through_by_hand(net)
            wrong += int((mean * net.truth() < 0).sum())
            total += mean.size
        shares.append(wrong / total)
    return shares[0], shares[1]


def through_by_hand(net: GatedNet) -> Array:
    """Mean of straight-through with p (1 - p), summed over the patterns: ``E[p (1 - p) dL/dy (y(1) - y(0))]``."""
    found = np.zeros((net.batch, net.depth))
    p = 1 / (1 + np.exp(-net.units))
    for example in range(net.batch):
        for bits in patterns(net.depth):
            chance = np.where(bits, p[example], 1 - p[example]).prod()
            for level in range(net.depth):
                on, off = ((*bits[:level], v, *bits[level + 1 :]) for v in (1, 0))
                change = sum(
                    net.summand(example, on[:n]) - net.summand(example, off[:n]) for n in range(1, net.depth + 1)
                )
                # the slope of the loss along that change, by a complex step in a summand that is added
                slope = net.along(example, bits, np.asarray(change))
                found[example, level] += chance * slope * p[example, level] * (1 - p[example, level])
    return found


def b10() -> Claim:
    """Straight-through credits bits with a bias."""
    threshold = 0.4
    truth = jump(threshold)
    plain, smooth = through_mean(threshold, identity), through_mean(threshold, logistic)
    net, affine = GatedNet("bernoulli", 3), GatedNet("bernoulli", 3, linear=True)
    key = ("unit", "0.bits")

    def relative(of: GatedNet) -> tuple[float, float]:
        mean = lab.exact_moments(of.problem, StraightThrough())[key].mean
        by_hand = float(np.abs(mean - through_by_hand(of).ravel()).max())
        gap = np.linalg.norm(mean - of.truth().ravel()) / np.linalg.norm(of.truth())
        return float(gap), by_hand

    (biased, same), (unbiased, same_affine) = relative(net), relative(affine)
    wrong_affine, wrong = wrong_signs()
    right = unbiased < 1e-10 and max(same, same_affine) < 1e-10 and wrong_affine == 0
    return Claim(
        "B10",
        "Straight-through can credit the bits: with the sigmoid's derivative it is unbiased where the loss is affine "
        "in the "
        "layer's output, and has the sign of the gradient.",
        OURS,
        decide(holds=right and biased < 1e-10 and wrong == 0, otherwise=right),
        f"Stochastic bits: exact for an affine loss; biased by {100 * biased:.0f} % of the gradient for a squared "
        "loss after "
        f"tanh, where {100 * wrong:.1f} % of the gates of 40 random nets get the wrong sign. The deterministic gate "
        "of B9 "
        f"({truth:.4f}) gets {plain:.4f} with the identity, as both branches lose 2 on average there, and {smooth:.4f} "
        "with the sigmoid's derivative.",
        {
            "relative_bias_affine": unbiased,
            "relative_bias_squared": biased,
            "wrong_signs_affine": wrong_affine,
            "wrong_signs_squared": wrong,
            "deterministic_truth": truth,
            "deterministic_identity": plain,
            "deterministic_sigmoid": smooth,
        },
        reconstruction=True,
    )


def b11() -> Claim:
    """Modulation by rectifiers gives gates a gradient, biased by the jumps below."""
    one, net = GatedNet("rectifier", 1), GatedNet("rectifier", 3, batch=1)
    key = ("unit", "0.bits")
    lone = float(np.abs(pathwise_mean(one, 0)[0] - one.truth()[0]).max())
    truth = net.truth()[0]
    mean, jumps = pathwise_mean(net, 0)
    closes = float(np.abs(mean + jumps - truth).max() / np.abs(truth).max())
    exact = float(np.abs(lab.Truth.exact(net.problem).mean[key][0] - truth).max() / np.abs(truth).max())
    relative = [float(abs(j / t)) for j, t in zip(jumps, truth, strict=True)]
    last = float(abs(mean[-1] - truth[-1]) / abs(truth[-1]))
    right = lone < 1e-8 and closes < 1e-6 and exact < 1e-6 and last < 1e-6
    return Claim(
        "B11",
        "Gates modelled on noisy rectifiers, which scale the vectors that they switch on, can be trained by "
        "backpropagation.",
        REVIEW,
        decide(holds=right and max(relative) < 1e-6, otherwise=right),
        "Unbiased for a gate below which nothing is switched: k = 1, and the last of three gates "
        f"(to {last:.0e}). The gates above it jump from one subtree to another as they open, which backpropagation "
        "does not "
        f"see: bias {100 * relative[0]:.0f} % and {100 * relative[1]:.0f} % of the gradient at the first and second "
        "gate, "
        f"equal to the density at zero times the jump (to {closes:.0e}).",
        {
            "relative_bias_by_level": relative,
            "single_gate_gap": lone,
            "last_gate_gap": last,
            "jump_formula_gap": closes,
            "lab_truth_gap": exact,
            "truth": [float(t) for t in truth],
            "pathwise_mean": [float(m) for m in mean],
        },
        reconstruction=True,
    )


CLAIMS: tuple[Callable[[], Claim], ...] = (b1, b2, b3, b4, b5, b6, b7, b8, b9, b10, b11)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(table(claim() for claim in CLAIMS))
