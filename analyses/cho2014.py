"""Tree-structured weights (Cho, Bengio 2014): capacity against computation, and credit for the gates.

Run: python analyses/cho2014.py   (less than ten minutes of one core; --quick in seconds, --report for the PDF alone)

Writes reports/cho2014.json and reports/cho2014_claims.json (the claims of cho2014_claims.py, as analyses/claims.py
saves them). The paper has no experiments: all of this is ours.

The JSON. A *measure* is ``{"value": x, "low": l, "high": h}`` with a 95 % interval. ::

    {
      "command": "python analyses/cho2014.py",
      "created": "2026-01-31",
      "quick": false,
      "seconds": 300.0,                      # of the whole run
      "machine": "x86_64, 1 thread, torch 2.13.0",
      "capacity": {
        "batch": 64, "in_features": 64, "out_features": 64, "repeats": 41,
        "rows": [                             # one per layer, depths 1 to 12
          {"layer": "tree" | "dense, equal width" | "dense, equal parameters",
           "depth": 8,                        # k; 0 for the dense layer of equal width; for "equal parameters", that of
                                              # the tree whose parameters it has
           "parameters": 2088960,             # of the weights or tables; biases and gating units left out
           "additions": 28672,                # counted, one example
           "multiply_adds": 4096,             # counted, one example
           "operations": 32768,               # additions + multiply_adds
           "parameters_per_operation": 63.75,
           "forward_us": measure,             # microseconds per example of one core, median over repeats
           "both_us": measure}                # forward and backward; sparse gradients for trees
        ]
      },
      "credit": {                             # gates of a small net, held against exact truth
        "words": "...",                       # the net, in a sentence
        "rows": [
          {"gates": "Bernoulli" | "noisy rectifier" | "deterministic",
           "rule": "REINFORCE",               # label of the rule
           "group": "bits" | "gating weights" | "tables",     # at the bits: unit gradients
           "relative_bias": 0.0,              # norm of the bias over the norm of the truth
           "cosine_of_mean": 1.0,             # cosine of the expected estimate with the truth; null if that is zero
           "variance": 1.2,                   # of one draw, summed over the group
           "cosine": 0.3,                     # mean cosine of single draws with the truth (zero where a draw is zero);
                                              # null if not known
           "verdict": "exact" | "unbiased within" | "biased" | "biased beyond" | "undecided",
           "how": "exact" | "sampled"}        # sums over all outcomes, or draws (then the four numbers are estimates)
        ],
        "rectifier_levels": [                 # modulation: relative bias of each gate's own gradient, by its level
          {"level": 1, "relative_bias": 0.4, "boundary": 0.4}   # found, and by the formula of the jump
        ]
      },
      "boundary": {                           # one deterministic gate, b = 1[x > theta], x normal (claim B9)
        "truth": 0.7512711,
        "rows": [                             # the gate replaced by Bernoulli(sigmoid((x - theta) / tau)), REINFORCE
          {"temperature": 1.0, "mean": 0.6, "bias": -0.15, "standard_deviation": 2.0}
        ],
        "rules": [{"rule": "ST (identity)", "mean": -0.1}]  # of the deterministic gate itself
      },
      "digits": {                             # does capacity help? the 8x8 digits
        "words": "...", "seeds": 5,
        "rows": [{"model": "tree, k = 4", "depth": 4, "parameters": 61440, "operations": 8192,
                  "train_error": measure, "test_error": measure, "train_loss": measure}]   # errors in %, loss in nats
      }
    }
"""

import argparse
import datetime
import itertools
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import claims
import numpy as np
import torch
from cho2014_claims import CLAIMS, identity, jump, logistic, through_mean
from cho2014_nets import GatedNet, OneThreshold, SignGates, pathwise_mean
from scipy import stats
from scipy.integrate import quad
from scipy.special import expit
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import estimator_lab as lab
from estimator_lab.estimators import Pathwise, Reinforce, Sample, StraightThrough
from estimator_lab.finding import Finding, Row
from estimator_lab.noise import derive_seed, forked
from estimator_lab.problems.images import load_digits

REPORTS = Path(__file__).parent.parent / "reports"
SELECTED = "selected vectors only"

Json = dict[str, Any]


@dataclass(frozen=True)
class Scale:
    """How much is run.

    Attributes:
        depths: of the trees that are timed.
        width: inputs and outputs of the layers that are timed.
        examples: in a batch that is timed.
        repeats: of each timing, in turn over the layers.
        gates: of the net whose credit is measured, and its examples.
        draws: of an estimator whose expectation is not summed.
        temperatures: at which the deterministic gate is smoothed.
        models: depths of the trees that learn the digits.
        seeds: trainings of each.
        steps: of a training.
    """

    depths: tuple[int, ...] = tuple(range(1, 13))
    width: int = 64
    examples: int = 64
    repeats: int = 41
    gates: tuple[int, int] = (4, 3)
    draws: int = 2**15
    temperatures: tuple[float, ...] = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01)
    models: tuple[int, ...] = (1, 2, 3, 4, 6, 8)
    seeds: int = 10
    steps: int = 800


QUICK = Scale((1, 2, 4), 16, 16, 5, (2, 2), 2**10, (1.0, 0.1), (2,), 2, 20)


def measure_of(values: Sequence[float]) -> Json:
    """Mean of numbers that are not negative with its interval by Student's t."""
    mean = statistics.fmean(values)
    width = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return {"value": mean, "low": max(mean - width, 0.0), "high": mean + width}


def median_of(values: Sequence[float]) -> Json:
    """Median with an interval of order statistics: at least 95 % for independent values, if there are six of them."""
    ordered, n = sorted(values), len(values)
    below = max(int(stats.binom.ppf(0.025, n, 0.5)), 1)  # so many lie below the median in all but 2.5 % of cases
    return {"value": statistics.median(ordered), "low": ordered[below - 1], "high": ordered[n - below]}


# ---------------------------------------------------------------------- capacity against computation
def capacity(scale: Scale) -> Json:
    """Counts and times of trees, of the dense layer of equal width, and of dense layers with as many parameters."""
    width, rows = scale.width, []
    dense = nn.Linear(width, width)
    layers: list[tuple[str, int, nn.Module]] = [("dense, equal width", 0, dense)]
    rows.append(_counts("dense, equal width", 0, width**2, 0, width**2))
    for k in scale.depths:
        tree = lab.TreeLinear(width, width, k, sparse=True)
        layers.append(("tree", k, tree))
        cost = tree.cost
        rows.append(_counts("tree", k, cost.parameters, cost.additions, cost.multiply_adds))
        side = round(cost.parameters**0.5)
        layers.append(("dense, equal parameters", k, nn.Linear(side, side)))
        rows.append(_counts("dense, equal parameters", k, side**2, 0, side**2))
    forward: list[list[float]] = [[] for _ in layers]
    both: list[list[float]] = [[] for _ in layers]
    generator = torch.Generator().manual_seed(derive_seed("capacity"))
    for turn in range(scale.repeats + 1):  # the first is for warming up
        for i, (_, _, layer) in enumerate(layers):
            size = layer.in_features if isinstance(layer, nn.Linear) else width
            x = torch.randn(scale.examples, size, generator=generator)
            times = _times(layer, x)
            if turn:
                forward[i].append(times[0])
                both[i].append(times[1])
    for row, a, b in zip(rows, forward, both, strict=True):
        row |= {"forward_us": median_of(a), "both_us": median_of(b)}
    return {
        "batch": scale.examples,
        "in_features": width,
        "out_features": width,
        "repeats": scale.repeats,
        "rows": rows,
    }


def _counts(layer: str, depth: int, parameters: int, additions: int, multiply_adds: int) -> Json:
    operations = additions + multiply_adds
    return {
        "layer": layer,
        "depth": depth,
        "parameters": parameters,
        "additions": additions,
        "multiply_adds": multiply_adds,
        "operations": operations,
        "parameters_per_operation": parameters / operations,
    }


def _times(layer: nn.Module, x: Tensor) -> tuple[float, float]:
    """Microseconds per example: forward alone, and forward with the gradients of input and parameters.

    Of the processor: waiting while others have the core is no part of it. On an idle core it is wall time.
    """
    parameters = list(layer.parameters())
    with torch.no_grad():
        began = time.thread_time()
        layer(x)
        forward = time.thread_time() - began
    free = x.clone().requires_grad_()
    began = time.thread_time()
    y = layer(free)
    torch.autograd.grad(y, [free, *parameters], torch.ones_like(y))
    both = time.thread_time() - began
    return 1e6 * forward / len(x), 1e6 * both / len(x)


# ---------------------------------------------------------------------- credit for the gates
def credit(scale: Scale) -> Json:
    """Rules for the gates, held against exact truth by the lab."""
    depth, batch = scale.gates
    bernoulli, rectifier = GatedNet("bernoulli", depth, batch), GatedNet("rectifier", min(depth, 3), batch)
    rows = []
    for rule, estimator in (
        (SELECTED, Sample()),
        ("REINFORCE", Reinforce()),
        ("REINFORCE, mean baseline", Reinforce("mean")),
        ("REINFORCE, optimal baseline", Reinforce("optimal")),
        ("straight-through", StraightThrough("identity")),
        ("straight-through, sigmoid", StraightThrough()),
    ):
        rows += _stochastic("Bernoulli", rule, estimator, bernoulli, scale)
    for rule, estimator in (
        (SELECTED, Sample()),
        ("REINFORCE", Reinforce()),
        ("REINFORCE, optimal baseline", Reinforce("optimal")),
        ("modulation, backpropagated", Pathwise()),
    ):
        rows += _stochastic("noisy rectifier", rule, estimator, rectifier, scale)
    for rule, through in DETERMINISTIC:
        rows += _deterministic(rule, SignGates(through=through), scale)
    levels = []
    truth = rectifier.truth()
    found = [pathwise_mean(rectifier, i) for i in range(rectifier.batch)]
    for level in range(rectifier.depth):
        mean, jumps = (np.array([f[part][level] for f in found]) for part in (0, 1))
        norm = np.linalg.norm(truth[:, level])
        relative = float(np.linalg.norm(mean - truth[:, level]) / norm)
        levels.append({"level": level + 1, "relative_bias": relative, "boundary": float(np.linalg.norm(jumps) / norm)})
    words = (
        f"3 inputs, a tree of depth k to 2 units, tanh, 1 output, squared loss, {batch} examples, random weights; "
        f"{depth} Bernoulli gates or {rectifier.depth} noisy rectifiers, all units sharing them. Deterministic "
        "gates: 3 "
        "normal inputs with a threshold each, a tree of depth 3 to the output, squared loss; the truth is the "
        "gradient of "
        "the loss expected over inputs."
    )
    return {"words": words, "rows": rows, "rectifier_levels": levels}


DETERMINISTIC: tuple[tuple[str, Literal["identity", "sigmoid"] | None], ...] = (
    (SELECTED, None),
    ("straight-through", "identity"),
    ("straight-through, sigmoid", "sigmoid"),
)


def _stochastic(gates: str, rule: str, estimator: lab.Estimator, net: GatedNet, scale: Scale) -> list[Json]:
    budget = lab.Budget(replicates=scale.draws, early=False)
    (finding,) = lab.diagnose(estimator, on=net.problem, budget=budget).findings
    groups = {
        "bits": ("site", "0.bits"),
        "gating weights": ("layer", "0.bits"),
        "tables": ("weight", "0.tables.weight"),
    }
    return [_credit(gates, rule, group, finding, finding.row(*place)) for group, place in groups.items()]


def _deterministic(rule: str, problem: SignGates, scale: Scale) -> list[Json]:
    budget = lab.Budget(replicates=scale.draws, early=False)
    (finding,) = lab.diagnose(Pathwise(), on=problem, budget=budget, wrt=("weight",)).findings
    groups = {"gating weights": "thresholds", "tables": "tables"}
    return [_credit("deterministic", rule, k, finding, finding.row("weight", name)) for k, name in groups.items()]


def _credit(gates: str, rule: str, group: str, finding: Finding, row: Row) -> Json:
    def number(name: str) -> float | None:
        value = row.statistics[name].value if name in row.statistics else float("nan")
        return float(value) if np.isfinite(value) else None

    return {
        "gates": gates,
        "rule": rule,
        "group": group,
        "relative_bias": number("relative_bias"),
        "cosine_of_mean": number("cosine_of_mean"),
        "variance": number("variance"),
        "cosine": number("mean_cosine"),
        "verdict": row.verdict,
        "how": "exact" if finding.exact else "sampled",
    }


def boundary(scale: Scale) -> Json:
    """The deterministic gate of claim B9, and what REINFORCE makes of it once it is smoothed."""
    threshold = OneThreshold().threshold
    truth = jump(threshold)
    rows = []
    for temperature in scale.temperatures:

        def mean(x: float, tau: float = temperature) -> float:
            p = float(expit((x - threshold) / tau))
            return -p * (1 - p) / tau * ((x - 1) ** 2 - (x + 2))

        def square(x: float, tau: float = temperature) -> float:
            p = float(expit((x - threshold) / tau))
            return p * (1 - p) / tau**2 * ((1 - p) * (x - 1) ** 4 + p * (x + 2) ** 2)

        first, second = _normal(mean, threshold, temperature), _normal(square, threshold, temperature)
        rows.append(
            {
                "temperature": temperature,
                "mean": first,
                "bias": first - truth,
                "standard_deviation": (second - first**2) ** 0.5,
            }
        )
    rules = [
        {"rule": SELECTED, "mean": 0.0},
        {"rule": "straight-through", "mean": through_mean(threshold, identity)},
        {"rule": "straight-through, sigmoid", "mean": through_mean(threshold, logistic)},
    ]
    return {"truth": truth, "rows": rows, "rules": rules}


def _normal(function: Callable[[float], float], centre: float, width: float) -> float:
    """Expectation of a function of a standard normal number that changes fast near a centre."""
    edges = sorted({-10.0, 10.0, *(min(max(centre + s * width, -10.0), 10.0) for s in (-40, -8, 0, 8, 40))})
    return sum(
        quad(lambda x: function(x) * float(stats.norm.pdf(x)), a, b, epsabs=1e-12, limit=200)[0]
        for a, b in itertools.pairwise(edges)
    )


# ---------------------------------------------------------------------- does capacity help?
HIDDEN = 32
RATE, MINIBATCH = 3e-3, 100


def digits(scale: Scale) -> Json:
    """A classifier of the 8x8 digits whose output layer is a tree over the signs of its hidden units."""
    rows = []
    makers: list[tuple[str, int, Callable[[], nn.Sequential], int]] = [
        ("dense", 0, lambda: _classifier(HIDDEN, nn.Linear(HIDDEN, 10)), HIDDEN)
    ]
    for k in scale.models:
        makers.append((f"tree, k = {k}", k, lambda k=k: _classifier(HIDDEN, lab.TreeLinear(HIDDEN, 10, k)), HIDDEN))
    same = max(k for k in scale.models if k <= 4)
    # as many parameters in both layers together as the net with that tree
    wide = round((64 * HIDDEN + lab.TreeLinear(HIDDEN, 10, same).cost.parameters) / 74)
    makers.append((f"dense, as many parameters as k = {same}", 0, lambda: _classifier(wide, nn.Linear(wide, 10)), wide))
    for name, k, make, hidden in makers:
        found = [_train(make, seed, scale.steps) for seed in range(scale.seeds)]
        last = make()[-1]
        cost = last.cost if isinstance(last, lab.TreeLinear) else None
        rows.append(
            {
                "model": name,
                "depth": k,
                "parameters": 64 * hidden + (cost.parameters if cost else 10 * hidden),
                "operations": 64 * hidden + (cost.operations if cost else 10 * hidden),
                **{what: measure_of([f[what] for f in found]) for what in ("train_error", "test_error", "train_loss")},
            }
        )
    words = (
        f"8x8 digits, {load_digits().training} for training, {load_digits().held_out} held out; 64 inputs, {HIDDEN} "
        "tanh "
        "units, 10 classes. The output layer is dense, or a tree whose bits are the signs of the first k hidden "
        "units. "
        f"Adam, rate {RATE:g} (tables: over k, so that effective weights move as fast), {scale.steps} steps of "
        f"{MINIBATCH} examples; intervals over initialisations and "
        "minibatches, the split is one. Gates get no gradient."
    )
    return {"words": words, "seeds": scale.seeds, "rows": rows}


def _classifier(hidden: int, last: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, hidden), nn.Tanh(), last)


def _train(make: Callable[[], nn.Sequential], seed: int, steps: int) -> Mapping[str, float]:
    """Errors in per cent and the loss of a training."""
    images = load_digits()
    like = torch.empty(0)
    with forked(derive_seed("cho2014", "digits", seed)):
        net = make()
        depth, named = getattr(net[-1], "depth", 1), net.named_parameters()
        groups = [{"params": [p], "lr": RATE / depth if name == "2.tables.weight" else RATE} for name, p in named]
        optimiser = torch.optim.Adam(groups)
        for _ in range(steps):
            x, y = images.rows(torch.randint(images.training, (MINIBATCH,)), like)
            optimiser.zero_grad()
            cross_entropy(net(x), y).backward()
            optimiser.step()
    found = {}
    with torch.no_grad():
        for what, rows in (("train", slice(0, images.training)), ("test", slice(images.training, None))):
            x, y = images.rows(rows, like)
            logits = net(x)
            found[f"{what}_error"] = 100 * float((logits.argmax(-1) != y).double().mean())
            found[f"{what}_loss"] = float(cross_entropy(logits, y))
    return found


# ---------------------------------------------------------------------- all of it
def study(scale: Scale, command: str) -> Json:
    """Everything that the JSON holds."""
    began = time.perf_counter()
    found: Json = {
        "command": command,
        "created": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "quick": scale == QUICK,
        "machine": f"{platform.machine()}, 1 thread, torch {torch.__version__.split('+')[0]}",
    }
    for part in (capacity, credit, boundary, digits):
        found[part.__name__] = part(scale)
        print(f"{part.__name__}: {time.perf_counter() - began:.0f} s in all", flush=True)
    return found | {"seconds": time.perf_counter() - began}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, and writes the JSON and the PDF."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small study that shows that everything runs")
    parser.add_argument("--out", type=Path, default=REPORTS)
    parser.add_argument("--report", action="store_true", help="render the PDF from the JSON alone")
    options = parser.parse_args(arguments)
    if options.report and not any((options.out / name).exists() for name in ("cho2014.json", "cho2014_claims.json")):
        raise lab.UsageError(f"there is no {options.out / 'cho2014.json'}; measure first, without --report")
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # times of one core
    if not options.report:
        command = "python analyses/cho2014.py" + " --quick" * options.quick
        saved = options.out / "cho2014.json"
        if options.quick and saved.exists() and '"quick": false' in saved.read_text():
            raise lab.UsageError(f"{saved} holds the whole study, which --quick would overwrite; name another --out")
        found = study(QUICK if options.quick else Scale(), command)
        (options.out / "cho2014.json").write_text(json.dumps(found, indent=1) + "\n")
        claims.save((claim() for claim in CLAIMS), options.out / "cho2014_claims.json")
    from cho2014_report import report

    print(report(options.out))


if __name__ == "__main__":
    try:
        main()
    except lab.LabError as error:
        print(f"cho2014: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
