"""Recomputes the published cosine curves of a 2-5-5-5-1 Bernoulli network, from its published weights.

Run: python analyses/psa555.py --checkpoint FILE   (about two minutes; --report, without the file, for the PDF alone)

The network, its weights and its 200 points are those of shekhovt/PSA-Neurips2020 (Shekhovtsov, Yanush, Flach 2020, Path
sample-analytic gradient estimators for stochastic binary networks, arXiv:2006.03143), after 100 epochs. That repository
has no licence, so that the file is no part of this one. It is brought as JSON with ``weights`` (matrices
``[out, in]``), ``biases`` (vectors ``[out]``), ``X [N, in]`` and ``Y [N]`` (1 and -1), by ``--checkpoint`` or by
PSA555_CHECKPOINT. What is measured goes to reports/psa555.json and reports/psa555.pdf, the second a pure function of
the first.

Exit codes: 0 all numbers agree, 1 some do not, 3 there is no such file.
"""

import argparse
import datetime
import hashlib
import itertools
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor
from torch.nn.functional import softplus

import estimator_lab as lab
from estimator_lab.chain import Chain
from estimator_lab.diagnosis import environment
from estimator_lab.estimators import ARM, DisARM, Exact, GumbelSoftmax, MeanField, Reinforce, StraightThrough
from estimator_lab.noise import MonteCarlo, NoNoise
from estimator_lab.report.figures import style
from estimator_lab.report.rounding import rounded
from estimator_lab.report.story import table, text
from estimator_lab.report.study import Study

REPORTS = Path(__file__).parents[1] / "reports"
VARIABLE = "PSA555_CHECKPOINT"
SOURCE = "exp/gradeval/5-5-5/chk-100/score.pkl in github.com/shekhovt/PSA-Neurips2020"
COMMAND = "python analyses/psa555.py --checkpoint FILE"

LOSS, NORMS = 0.6838682289076939, (0.004732633, 0.005906350, 0.009689277, 0.053271414)
"""Expected loss, and norms of its gradient by layer: an enumeration made without this package."""

PUBLISHED: dict[str, dict[int, tuple[float, ...]]] = {
    "mean field": {1: (0.99544, 0.91094, 0.93819, 0.95330)},
    "ST": {1: (0.9838, 0.9246, 0.9593, 0.9233), 100: (0.9968,)},
    "ARM": {1: (0.3920, 0.3602, 0.4800, 0.9235), 100: (0.9762,)},
}
"""Mean cosines with the exact gradient, by estimator, samples averaged and layer, read off the published figures; they
call the deterministic method tanh."""

PUBLISHED_DRAWS = 20_000
"""Samples of the publication: its means over n of them are over 20000 / n groups (gradeval/test_grad1.py)."""

READING, DETERMINISTIC, ERRORS = 0.0015, 1e-5, 4.0
"""Allowed: for reading a figure, for a method without noise, and standard errors of the difference."""

BIAS, BIAS_DRAWS, BIAS_ROUNDING = (0.078, 0.329, 0.350, 0.005), 4000, 0.0005
"""Relative error of the mean of 4000 draws of ST by layer, noise included: computed without this package."""

SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
ESTIMATORS = (MeanField(), StraightThrough(), ARM(), DisARM(), Reinforce(), GumbelSoftmax(0.1), GumbelSoftmax(1.0))
BLOCK = 500


class Network(lab.Problem):
    """Bernoulli layers with states 0 and 1, a linear output and the loss softplus(-y out): J is the mean over points.

    Args:
        weights: matrices ``[out, in]``, the last one that of the output.
        biases: vectors ``[out]``.
        x: points ``[N, in]``.
        y: 1 or -1 for each point ``[N]``.
    """

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor], x: Tensor, y: Tensor):
        self.x, self.y, self.batch = x, y, len(x)
        self._weights = {f"w{i}": w for i, w in enumerate(weights)} | {f"b{i}": b for i, b in enumerate(biases)}
        self.layers = len(weights)
        self.sites = tuple(lab.SiteSpec(f"h{i}", lab.Bernoulli(), (len(b),)) for i, b in enumerate(biases[:-1]))

    @classmethod
    def load(cls, path: Path) -> "Network":
        """From a JSON file, in float64.

        Raises:
            UsageError: the file cannot be read, or holds something else.
        """
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            weights, biases = ([torch.tensor(t, dtype=torch.float64) for t in found[k]] for k in ("weights", "biases"))
            x, y = (torch.tensor(found[k], dtype=torch.float64) for k in ("X", "Y"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise lab.UsageError(
                f"cannot read a network from {path} ({type(error).__name__}: {error}); it is JSON with weights, "
                "biases, X and Y, see the head of this script"
            ) from error
        return cls(weights, biases, x, y)

    def weights(self) -> Mapping[str, Tensor]:
        """``w0, w1, ..., b0, b1, ...``."""
        return self._weights

    def _affine(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...]) -> Tensor:
        inputs = samples[-1] if samples else self.x
        return inputs @ weights[f"w{len(samples)}"].T + weights[f"b{len(samples)}"]

    def theta(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...]) -> Tensor:
        """Logits of the next layer."""
        return self._affine(weights, samples)

    def loss(self, weights: Mapping[str, Tensor], samples: tuple[Tensor, ...], thetas: tuple[Tensor, ...]) -> Tensor:
        """Logistic loss of the output."""
        return softplus(-self.y * self._affine(weights, samples)[..., 0])

    def by_layer(self, gradients: Mapping[tuple[str, str], Tensor]) -> list[Tensor]:
        """Weights and biases of each layer, flat: ``[R, d]`` of gradients ``[R, *shape]``."""
        return [torch.cat([gradients["weight", f"{k}{i}"].flatten(1) for k in "wb"], 1) for i in range(self.layers)]

    @property
    def label(self) -> str:
        """Units of each layer."""
        return "-".join(str(w.shape[1]) for k, w in self._weights.items() if k[0] == "w") + "-1"

    def __repr__(self) -> str:
        return f"Network({self.label})"


# ---------------------------------------------------------------------- measuring
def exact(network: Network) -> tuple[float, list[Tensor]]:
    """Expected loss, and its gradient by layer ``[1, d]``: sums over all states."""
    loss = float(Chain(network, Exact(), ("weight",)).value(NoNoise()).mean())
    truth = lab.Truth.exact(network, ("weight",))
    return loss, network.by_layer({k: torch.as_tensor(v)[None] for k, v in truth.mean.items()})


def gradients(network: Network, estimator: lab.Estimator, draws: int) -> list[Tensor]:
    """Independent draws by layer ``[R, d]``; one draw has one independent pass for each point."""
    chain, noise = Chain(network, estimator, ("weight",)), MonteCarlo("psa555", repr(estimator))
    blocks = [network.by_layer(chain.draw(BLOCK, noise)) for _ in range(draws // BLOCK)]
    return [torch.cat(rows) for rows in zip(*blocks, strict=True)]


def averaged(draws: Tensor, n: int) -> Tensor:
    """Means of n draws each ``[R // n, d]``."""
    return draws[: len(draws) // n * n].unflatten(0, (-1, n)).mean(1)


def measure(network: Network, draws: int) -> dict[str, Any]:
    """All numbers of the report: plain, to be saved.

    Raises:
        UsageError: there are not two groups of the largest size.
    """
    if draws < 2 * BIAS_DRAWS:
        raise lab.UsageError(f"at least {2 * BIAS_DRAWS} draws are needed; found {draws}")
    loss, targets = exact(network)
    curves: dict[str, list[dict[str, Any]]] = {}
    bias: list[dict[str, float]] = []
    for estimator in ESTIMATORS:
        layers = gradients(network, estimator, 2 * SIZES[-1] if isinstance(estimator, MeanField) else draws)
        curves[estimator.label] = rows = []
        for n in SIZES:
            for i, (drawn, target) in enumerate(zip(layers, targets, strict=True)):
                found = torch.cosine_similarity(averaged(drawn, n), target, dim=1, eps=1e-300)
                spread = {"cosine": float(found.mean()), "deviation": float(found.std())}
                rows.append({"n": n, "layer": i, "groups": len(found), **spread})
        if isinstance(estimator, StraightThrough):
            for drawn, target in zip(layers, targets, strict=True):
                off = (averaged(drawn, BIAS_DRAWS) - target).norm(dim=1) / target.norm()
                whole = float((drawn.mean(0) - target[0]).norm() / target.norm())
                bias.append(
                    {"mean": float(off.mean()), "deviation": float(off.std()), "all": whole, "groups": len(off)}
                )
    norms = [float(t.norm()) for t in targets]
    return {"network": network.label, "loss": loss, "norms": norms, "draws": draws, "curves": curves, "bias": bias}


# ---------------------------------------------------------------------- comparing
def comparisons(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every number known elsewhere beside ours: names, both values, standard error of the difference, and agreement.

    A published mean over g groups has the standard error of one of ours, scaled to g.
    """
    lines: list[dict[str, Any]] = []

    def add(what: str, layer: int | str, theirs: float, ours: float, error: float, slack: float, digits: int) -> None:
        agrees = abs(ours - theirs) <= ERRORS * error + slack
        named = {"group": group, "what": what, "layer": str(layer), "known": f"{theirs:.{digits}f}"}
        allowed = ERRORS * error + slack
        lines.append({**named, "ours": ours, "error": error, "allowed": allowed, "agrees": agrees})

    group = "Exact, by enumeration"
    add("expected loss", "", LOSS, results["loss"], 0.0, 1e-12, 9)
    for i, (theirs, ours) in enumerate(zip(NORMS, results["norms"], strict=False)):
        add("norm of the gradient", i, theirs, ours, 0.0, 6e-10, 9)
    group = "Mean cosine with the exact gradient"
    for name, sizes in PUBLISHED.items():
        for n, values in sizes.items():
            rows = [row for row in results["curves"][name] if row["n"] == n]
            for theirs, row in zip(values, rows, strict=False):
                what = f"{name}, mean of {n}" if n > 1 else name
                if name == "mean field":
                    add(what, row["layer"], theirs, row["cosine"], 0.0, DETERMINISTIC, 5)
                else:
                    error = row["deviation"] * math.sqrt(1 / row["groups"] + n / PUBLISHED_DRAWS)
                    add(what, row["layer"], theirs, row["cosine"], error, READING, 4)
    group = f"Relative error of the mean of {BIAS_DRAWS:,} draws"
    for i, (theirs, row) in enumerate(zip(BIAS, results["bias"], strict=False)):
        error = row["deviation"] * math.sqrt(1 + 1 / row["groups"])
        add("ST", i, theirs, row["mean"], error, BIAS_ROUNDING, 3)
    return lines


# ---------------------------------------------------------------------- the report
@style.styled
def curves_figure(results: Mapping[str, Any]) -> Figure:
    """A panel for each layer: one minus the mean cosine against the number of draws averaged, both logarithmic."""
    layers = len(results["norms"])
    figure, axes = style.panels(layers, 2, 2.25, sharex=True, sharey=True)
    for i, ax in enumerate(axes):
        for k, (name, rows) in enumerate(results["curves"].items()):
            own = [row for row in rows if row["layer"] == i]
            y = np.array([1 - row["cosine"] for row in own])
            error = np.array([2 * row["deviation"] / math.sqrt(row["groups"]) for row in own])
            ax.plot([row["n"] for row in own], y, color=style.SERIES[k], marker=style.MARKERS[k], ms=2.5, lw=1)
            ax.fill_between([row["n"] for row in own], y - error, y + error, color=style.SERIES[k], alpha=0.25, lw=0)
            for n, values in PUBLISHED.get(name, {}).items():
                if i < len(values):
                    ax.plot(n, 1 - values[i], "+", color=style.INK, ms=8, mew=0.9, zorder=5, clip_on=False)
        ax.set_title(f"layer {i}" + " (output)" * (i == layers - 1))
        style.logarithmic(ax, "x", (SIZES[0] / 1.15, SIZES[-1] * 1.15))
        style.logarithmic(ax, "y", (2e-5, 1.5))
    for ax in axes[-2:]:
        ax.set_xlabel("draws averaged")
    for ax in axes[::2]:
        ax.set_ylabel("1 − mean cosine")
    keys = [
        Line2D([], [], color=style.SERIES[k], marker=style.MARKERS[k], ms=3, label=style.plain(name))
        for k, name in enumerate(results["curves"])
    ]
    keys.append(Line2D([], [], color=style.INK, marker="+", ls="", ms=8, label="published"))
    figure.legend(handles=keys, ncols=4, loc="outside upper left")
    return figure


def signed(z: float) -> str:
    """To one decimal with a sign, which zero has not."""
    shown = f"{z:+.1f}".replace("-", "−")
    return shown if shown[1:] != "0.0" else "0.0"


def _line(row: Mapping[str, Any]) -> list[Any]:
    """A comparison as cells; our value with two digits more than its error has, or as many as are known."""
    known, error = row["known"], row["error"]
    digits = 5 if error else len(known.partition(".")[2])
    z = (row["ours"] - float(known)) / error if error else 0.0
    return [
        row["what"],
        row["layer"],
        known,
        f"{row['ours']:.{digits}f}",
        f"{error:.5f}" if error else "",
        f"{row['allowed']:.4f}" if error else rounded(row["allowed"]),
        signed(z) if error else "",
        {"text": "agrees", "tone": "good"} if row["agrees"] else {"text": "differs", "tone": "bad"},
    ]


def render(results: Mapping[str, Any]) -> bytes:
    """The PDF."""
    lines = comparisons(results)
    wrong = [f"{row['what']}, layer {row['layer']}" for row in lines if not row["agrees"]]
    worst = max((abs(r["ours"] - float(r["known"])) / r["error"] for r in lines if r["error"]), default=math.nan)
    read = sum(map(len, itertools.chain.from_iterable(sizes.values() for sizes in PUBLISHED.values())))
    agreement = (
        f"All {len(lines)} known numbers agree: {read} read off the publication, {len(lines) - read} computed without "
        "this package."
    )
    study = Study(
        kind="benchmark",
        title="A published benchmark, recomputed",
        subtitle="Shekhovtsov, Yanush, Flach 2020 (arXiv:2006.03143): gradients of a small stochastic network",
        created=results["created"],
        results=json.dumps(results, sort_keys=True),
        command="\n".join(
            [
                COMMAND,
                "# FILE: JSON of weights, biases, X and Y in",
                f"# {SOURCE}",
                "# (no licence, so no part of this)",
            ]
        ),
        facts=[
            ("Network", results["network"]),
            ("Draws", f"{results['draws']:,}"),
            ("Checkpoint", results["checkpoint"][:8]),
        ],
        tone="bad" if wrong else "good",
        headline=f"{len(wrong)} of {len(lines)} numbers do not agree." if wrong else agreement,
        lines=[
            ("", wrong[:8] or [f"The largest difference is {worst:.1f} standard errors."]),
            (
                "Not compared",
                [
                    "The curves of REINFORCE and of the relaxations (Gumbel) were published too, but their values were "
                    "not read off. DisARM has no published value."
                ],
            ),
        ],
        environment=results["environment"],
    )
    said = (
        f"The {results['network']} network has {len(results['norms']) - 1} layers of Bernoulli units with states 0 and "
        "1, and the loss softplus(−y out), averaged over the points. One draw is one independent pass for each point. "
        "The gradient of a layer is that of its weights and biases together, layers are counted from 0 and from the "
        f"input, and layer {len(results['norms']) - 1} is the output layer."
    )
    curves = study.figure(
        curves_figure(results),
        "One minus the mean cosine of averages of n draws with the exact gradient, a panel for each layer.",
        "Mean of the cosines of n-draw averages with the exact gradient, not the cosine of the mean; bands are two "
        "standard errors. Crosses: published values. In the output layer the curves of ST, ARM, DisARM and REINFORCE "
        "coincide: there all four take the derivative of the loss at a sampled state.",
    )
    errors = (
        f"z is the difference over its standard error; the published means are over {PUBLISHED_DRAWS:,} draws in "
        f"groups of n. Allowed: 0.00001 for the deterministic method (mean field), else {ERRORS:g} standard errors and "
        f"{READING:g} for reading a figure. The relative error contains the noise of {BIAS_DRAWS:,} draws; of all "
        f"{results['draws']:,} draws it is " + ", ".join(f"{row['all']:.4f}" for row in results["bias"]) + "."
    )
    columns = [("Quantity", "left", "1fr"), ("Layer", "right", "auto"), ("Known", "right", "auto")]
    columns += [("Here", "right", "auto"), ("Std. error", "right", "auto")]
    columns += [("Allowed", "right", "auto"), ("z", "right", "auto")]
    groups: dict[str, list[list[Any]]] = {}
    for row in lines:
        groups.setdefault(row["group"], []).append(_line(row))
    compared = table(
        [*columns, ("", "left", "auto")],
        list(groups.items()),
        "Known and measured. The cosines were published, the other known values computed without this package.",
    )
    study.sections = [("Cosine curves", [text(said), curves]), ("Known and measured", [text(errors), compared])]
    return study.render()


def run(checkpoint: str | Path | None, draws: int) -> dict[str, Any]:
    """What is saved: the measurements, their comparison with what is known, and where they come from.

    Raises:
        UsageError: there is no network, or there are too few draws.
    """
    if checkpoint is None:
        raise lab.UsageError(
            f"the published network is needed: give a JSON file by --checkpoint or {VARIABLE}, with weights, "
            f"biases, X and Y of {SOURCE}; it is "
            "not part of this repository, since it has no licence"
        )
    path = Path(checkpoint)
    measured = measure(Network.load(path), draws)
    results = {
        "created": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "checkpoint": hashlib.sha256(path.read_bytes()).hexdigest(),
        "environment": environment(),
        **measured,
    }
    return {**results, "comparisons": comparisons(results)}


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, or only renders again; writes both files, prints the comparison."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--checkpoint", type=Path, default=os.environ.get(VARIABLE))
    parser.add_argument("--draws", type=int, default=100_000, help="per estimator (default: 100000)")
    parser.add_argument("--out", type=Path, default=REPORTS)
    parser.add_argument("--report", action="store_true", help="render the PDF from the JSON alone")
    options = parser.parse_args(argv)
    file = options.out / "psa555.json"
    try:
        if options.report and not file.exists():
            raise lab.UsageError(f"there is no {file}; measure first, without --report")
        if not options.report:
            results = run(options.checkpoint, options.draws)
            options.out.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        results = json.loads(file.read_text(encoding="utf-8"))
    except lab.UsageError as error:
        print(f"psa555: {error}", file=sys.stderr)
        return error.exit_code
    file.with_suffix(".pdf").write_bytes(render(results))
    lines = comparisons(results)
    for row in lines:
        print("  ".join(c if isinstance(c, str) else c["text"] for c in _line(row)))
    return 0 if all(row["agrees"] for row in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
