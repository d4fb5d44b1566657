"""The report: bytes, structure, hostile strings, figures that leave no trace."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import matplotlib
import numpy as np
import pypdf
import pytest
from estimator_lab.report import figures, pages, render, write
from estimator_lab.report.legible import legible
from estimator_lab.report.rounding import last_digit, p_value, rounded

try:
    from estimator_lab.diagnosis import Curve, Diagnosis, Estimate, Finding, Ratio, Row, UnitMap
except ImportError:
    from _stand_in import Curve, Diagnosis, Estimate, Finding, Ratio, Row, UnitMap

NAN = math.nan


# ------------------------------------------------------------------------------------- a small factory
def near(value: float, error: float, floor: float = -math.inf) -> Estimate:
    return Estimate(value, max(floor, value - 1.96 * error), value + 1.96 * error)


def make_row(level: str, name: str, size: int, beta: float, noise: float, norm: float, replicates: int, draw: np.random.Generator) -> Row:
    """A group whose estimator has relative bias `beta` and relative noise `noise` = sqrt(tr Sigma)/norm(g)."""
    floor = noise / math.sqrt(replicates)
    reach = 1.5 * floor / size**0.25
    seen = 0.0 if beta == 0 else max(0.0, beta + 0.3 * reach * draw.standard_normal())
    low, high = max(0.0, seen - reach), seen + reach
    p = 10 ** -min(12.0, (beta / reach) ** 2) if noise and beta else (1.0 if not noise else float(draw.uniform()))
    verdict = "exact" if noise == 0 and beta == 0 else "biased beyond" if low > 0.05 else "biased" if p < 0.01 else "unbiased within" if high < 0.05 else "undecided"
    variance = (noise * norm) ** 2
    snr = math.inf if variance == 0 else (1 + beta) ** 2 / noise**2
    nothing = Estimate(NAN, NAN, NAN)
    statistics = {
        "bias": Estimate(seen * norm, low * norm, high * norm), "relative_bias": Estimate(seen, low, high),
        "bias_squared": near((seen * norm) ** 2, (reach * norm) ** 2), "variance": near(variance, 0.05 * variance), "mse": near(variance, 0.05 * variance),
        "snr": Estimate(snr, snr, snr) if variance == 0 else near(snr, 0.06 * snr), "gain": near(1 - beta, floor), "cosine_of_mean": near(1 / math.hypot(1, beta), floor**2),
        "mean_cosine": near(1 / math.hypot(1, noise, beta), 0.004), "sign_agreement": near(0.7, 0.01), "descent": near(0.8, 0.01),
        "effective_sample": dataclasses.replace(nothing, value=replicates / 3), "noise_floor": dataclasses.replace(nothing, value=floor),
    }  # fmt: skip
    needed = int(replicates * (high / 0.05) ** 2) if verdict == "undecided" else 0
    return Row(level, name, size, statistics, p, min(1.0, 5 * p), verdict, 1.6 * reach, needed, level in ("site", "layer"))


def make_finding(
    problem: str = "two layers", estimator: str = "REBAR(τ=0.5)", claim: bool | None = True, beta: float = 0.0, noise: float = 3.0,
    sites: int = 2, units: int = 3, batch: int = 2, replicates: int = 65536, losses: float = 3.0, seconds: float = 2e-6, about: dict[str, str] | None = None,
    truth_error: float = 0.0, seed: int = 0, **changes: Any,
) -> Finding:  # fmt: skip
    draw = np.random.default_rng([seed, len(problem), *problem.encode()[:6], len(estimator), *estimator.encode()[:6]])
    rows, maps = [], {}
    scale = [1.5**-k for k in range(sites)]
    for k in range(sites):
        rows.append(make_row("site", f"h{k + 1}", batch * units, beta * scale[k], noise * scale[k] * 1.3, 1.0, replicates, draw))
        rows.append(make_row("layer", f"h{k + 1}", 4 * units, beta * scale[k], noise * scale[k], 0.8, replicates, draw))
        rows.append(make_row("weight", f"w{k + 1}", 4 * units, beta * scale[k], noise * scale[k], 0.8, replicates, draw))
        truth = draw.standard_normal((batch, units)) * 0.3
        error = np.full_like(truth, noise * 0.3 / math.sqrt(replicates))
        mean = truth + error * draw.standard_normal(truth.shape) + beta * truth
        maps[f"h{k + 1}"] = UnitMap(mean, error, error**2 * replicates, truth)
    rows.append(make_row("layer", "loss", 5, beta / 3, noise / 4, 0.5, replicates, draw))
    rows.append(make_row("total", "weights", 40, beta, noise, 1.4, replicates, draw))
    curves = {}
    n = [2**k for k in range(4, int(math.log2(replicates)) + 1)]
    for name, f in [(f"h{k + 1}", scale[k]) for k in range(sites)] + [("total", 1.0)]:
        error_ = [math.hypot(beta * f, noise * f / math.sqrt(m)) * math.exp(0.05 * draw.standard_normal()) for m in n]
        curves[name] = Curve(n, error_, [0.8 * e for e in error_], [1.2 * e for e in error_])
    verdicts = [r.verdict for r in rows if r.tested]
    overall = ("biased beyond" if "biased beyond" in verdicts else "biased" if "biased" in verdicts else "undecided" if "undecided" in verdicts
               else "exact" if set(verdicts) == {"exact"} else "unbiased within")  # fmt: skip
    fields: dict[str, Any] = {
        "problem": f"{problem.title().replace(' ', '')}(batch={batch})", "estimator": estimator, "problem_label": problem, "estimator_label": estimator,
        "about": about or {}, "claim": claim, "truth": f"exact: enumeration of 2^{sites * units} states" if not truth_error else "estimated: LocalExpectation, 65536 replicates",
        "truth_error": truth_error, "replicates": replicates, "seed": seed, "dtype": "float64", "verdict": overall,
        "words": f"{estimator}: {overall} on all {len(verdicts)} groups.", "rows": tuple(rows), "units": maps, "curves": curves,
        "losses": losses, "backwards": 2.0, "seconds": seconds, "notes": (),
    }  # fmt: skip
    return Finding(**{**fields, **changes})


def make_diagnosis(*findings: Finding, title: str = "Gradient-estimator diagnosis", ratios: tuple[Ratio, ...] = ()) -> Diagnosis:
    environment = {"estimator_lab": "0.1.0", "Python": "3.11.7", "torch": "2.13.0", "numpy": "2.4.6", "platform": "Linux x86_64"}
    return Diagnosis(
        title=title, findings=findings, ratios=ratios, command="estimator-lab diagnose rebar --on two_layers --seed 0 \\\n  --replicates 65536",
        environment=environment, created="2026-11-20T10:30:00+00:00", alpha=0.01, margin=0.05,
    )  # fmt: skip


ABOUT = {
    "name": "REBAR", "trusted": "yes", "source": "Tucker et al. 2017, arXiv:1703.07370", "cost": "3 losses, 2 backward passes",
    "equation": "hat(bold(g)) = [f(b) - eta f(sigma(tilde(z) / tau))] nabla log p(b) + eta nabla f(sigma(z / tau)) - eta nabla f(sigma(tilde(z) / tau))",
    "reason": "Unbiased: the correction has the mean of what it replaces, because z given b has the law of z.",
}  # fmt: skip
TABLE: tuple[tuple[str, bool | None, float, float, float, float], ...] = (  # label, claim, bias, noise, losses, seconds
    ("Exact", True, 0.0, 0.0, 32, 4e-6), ("REINFORCE", True, 0.0, 9.0, 1, 0.6e-6), ("REINFORCE(baseline)", True, 0.0, 6.0, 1, 0.7e-6), ("RLOO(K=4)", True, 0.0, 2.5, 4, 1.5e-6),
    ("DisARM", True, 0.0, 2.2, 2, 1.1e-6), ("ARM", True, 0.0, 3.4, 2, 1.0e-6), ("MuProp", True, 0.0, 2.8, 2, 1.3e-6), ("REBAR(τ=0.5)", True, 0.0, 1.2, 3, 2.0e-6),
    ("RELAX", True, 0.0, 1.0, 4, 3.0e-6), ("LocalExpectation", True, 0.0, 0.7, 6, 2.2e-6), ("Straight-through", False, 0.22, 0.5, 1, 0.6e-6),
    ("ST identity", False, 1.9, 0.9, 1, 0.6e-6), ("Gumbel-softmax(τ=1)", False, 0.35, 0.6, 1, 0.8e-6), ("ST-Gumbel(τ=0.5)", False, 0.09, 1.3, 1, 0.9e-6),
    ("ReinMax", False, 0.03, 1.1, 1, 0.9e-6), ("mean field", False, 0.15, 0.0, 1, 0.3e-6), ("MyEstimator(k=3)", True, 0.08, 1.4, 2, 1.2e-6),
)  # fmt: skip
TOYS = ("one bit", "quadratic bits", "parity of five", "two layers", "chain of three", "categorical", "two categoricals", "Poisson counts", "Gaussian quartic", "noisy rectifier", "stochastic rounding", "saturated logits")


def make_overview(estimators: int = 17, problems: int = 12) -> Diagnosis:
    found = []
    for j, toy in enumerate(TOYS[:problems]):
        for i, (label, claim, beta, noise, losses, seconds) in enumerate(TABLE[:estimators]):
            if toy in ("Poisson counts", "Gaussian quartic") and 4 <= i <= 9:
                continue
            size = 1 + j % 5
            here = 0.0 if j == 0 and label.startswith("ReinMax") else beta * (0.5 + (j * 5 + i * 3) % 4 / 3)
            found.append(make_finding(toy, label, claim, here, noise * (1 + j % 3), sites=1 + (toy in ("two layers", "chain of three")) * (1 + j % 2), units=size,
                                      losses=losses, seconds=seconds * (1 + j / 4), about={**ABOUT, "name": label}))  # fmt: skip
    return make_diagnosis(*found, title="Seventeen estimators on twelve toy problems")


def make_networks() -> Diagnosis:
    found, ratios = [], []
    for name, sites, units, batch in (("digits 64-32-32-10", 2, 32, 32), ("wide 784-200-200-10", 2, 200, 32)):
        for label, claim, beta, noise, losses, seconds in TABLE[1:13]:
            f = make_finding(name, label, claim, beta, noise * 4, sites, units, batch, 16384, losses, seconds * 50, truth_error=0.012, about={**ABOUT, "name": label})
            found.append(f)
            ratios.append(Ratio(f.problem, label, "REINFORCE", "total", "weights", near((noise / 9) ** 2, 0.05 * (noise / 9) ** 2), near((noise / 9) ** 2 * seconds / 6e-7, 0.02)))
    return make_diagnosis(*found, title="Twelve estimators on two networks", ratios=tuple(ratios))


def read(pdf: bytes) -> tuple[pypdf.PdfReader, str]:
    reader = pypdf.PdfReader(io.BytesIO(pdf))
    return reader, " ".join(" ".join(page.extract_text() for page in reader.pages).split())


def outline(reader: pypdf.PdfReader) -> list[str]:
    def flat(items: list[Any]) -> Iterator[str]:
        for item in items:
            if isinstance(item, list):
                yield from flat(item)
            else:
                yield item.title

    return list(flat(reader.outline))
