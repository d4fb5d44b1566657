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
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pypdf
import pytest

from estimator_lab.diagnosis import Diagnosis, Ratio
from estimator_lab.diagnosis import ratios as compared
from estimator_lab.finding import Curve, Finding, Row, Unit, UnitMap
from estimator_lab.report import advice, figures, pages, reading, render, sections, write
from estimator_lab.report.figures.style import capped
from estimator_lab.report.figures.units import UNITS
from estimator_lab.report.legible import legible
from estimator_lab.report.rounding import last_digit, p_value, rounded
from estimator_lab.report.sections import reach, summary
from estimator_lab.report.story import Story
from estimator_lab.report.trust import trust
from estimator_lab.report.verdict import verdict
from estimator_lab.report.wording import between, some_of
from estimator_lab.statistics import Estimate
from estimator_lab.statistics.group import FEWEST_BATCHES, GATE
from estimator_lab.statistics.tail import ENOUGH

NAN = math.nan


# ------------------------------------------------------------------------------------- a small factory
def near(value: float, error: float, floor: float = -math.inf) -> Estimate:
    return Estimate(value, max(floor, value - 1.96 * error), value + 1.96 * error)


def make_row(
    level: str, name: str, size: int, beta: float, noise: float, norm: float, replicates: int, draw: np.random.Generator
) -> Row:
    """A group whose estimator has relative bias `beta` and relative noise `noise` = sqrt(tr Sigma)/norm(g)."""
    floor = noise / math.sqrt(replicates)
    reach = 1.5 * floor / size**0.25
    seen = 0.0 if beta == 0 else max(0.0, beta + 0.3 * reach * draw.standard_normal())
    low, high = max(0.0, seen - reach), seen + reach
    if noise == 0:
        p = 0.0 if beta else 1.0
    else:
        p = 10 ** -min(12.0, (beta / reach) ** 2) if beta else float(draw.uniform(0.1, 1.0))
    if beta == 0 == noise:
        verdict = "exact"
    elif low > 0.05:
        verdict = "biased beyond"
    elif high < 0.05 and noise:
        verdict = "unbiased within"
    else:
        verdict = "biased" if 5 * p < 0.01 else "undecided"
    variance = (noise * norm) ** 2
    snr = (1 + beta) ** 2 / noise**2 if noise else NAN
    statistics = {
        "bias": Estimate(seen * norm, low * norm, high * norm),
        "relative_bias": Estimate(seen, low, high),
        "bias_squared": near((seen * norm) ** 2, (reach * norm) ** 2),
        "variance": near(variance, 0.05 * variance),
        "mse": near(variance, 0.05 * variance),
        "snr": near(snr, 0.06 * snr),
        "gain": near(1 - beta, floor),
        "cosine_of_mean": near(1 / math.hypot(1, beta), floor**2),
        "mean_cosine": near(1 / math.hypot(1, noise, beta), 0.004),
        "sign_agreement": near(0.7, 0.01),
        "descent": near(0.8, 0.01),
        "effective_rank": near(size / 2, size / 10) if noise else Estimate(NAN, NAN, NAN),
        "leading_share": Estimate(0.4 if noise else NAN, NAN, NAN),
        "kurtosis": Estimate(3.0, NAN, NAN),
        "tail_index": Estimate(0.1, NAN, NAN),
        "effective_sample": Estimate(replicates / 3, NAN, NAN),
        "noise_floor": Estimate(floor, NAN, NAN),
    }
    needed = int(replicates * (high / 0.05) ** 2) if verdict == "undecided" else 0
    tested = level in ("site", "layer")
    adjusted = min(1.0, 5 * p) if tested else NAN
    scores = draw.standard_normal(32 if noise else 0)
    scores = (scores - scores.mean()) / scores.std(ddof=1) if noise else scores
    return Row(
        level=level, name=name, size=size, statistics=statistics, p=p, p_holm=adjusted, verdict=verdict, low=low,
        high=high, detectable=1.6 * reach, needed=needed, truth_needed=0, tested=tested, norm=norm,
        scores=tuple(map(float, scores)), spread=(variance, *(variance * (1 + 0.01 * scores))),
    )  # fmt: skip


def make_finding(
    problem: str = "two layers",
    estimator: str = "REBAR(τ=0.5)",
    claim: bool | None = True,
    beta: float = 0.0,
    noise: float = 3.0,
    sites: int = 2,
    units: int = 3,
    batch: int = 2,
    replicates: int = 65536,
    losses: float = 3.0,
    seconds: float = 2e-6,
    about: dict[str, str] | None = None,
    truth_error: float = 0.0,
    seed: int = 0,
    **changes: Any,
) -> Finding:
    draw = np.random.default_rng([seed, len(problem), *problem.encode()[:6], len(estimator), *estimator.encode()[:6]])
    rows, maps = [], {}
    scale = [1.5**-k for k in range(sites)]
    for k in range(sites):
        rows.append(
            make_row("site", f"h{k + 1}", batch * units, beta * scale[k], noise * scale[k] * 1.3, 1.0, replicates, draw)
        )
        rows.append(make_row("layer", f"h{k + 1}", 4 * units, beta * scale[k], noise * scale[k], 0.8, replicates, draw))
        rows.append(
            make_row("weight", f"w{k + 1}", 4 * units, beta * scale[k], noise * scale[k], 0.8, replicates, draw)
        )
        truth = draw.standard_normal((batch, units)) * 0.3
        error = np.full_like(truth, noise * 0.3 / math.sqrt(replicates))
        mean = truth + error * draw.standard_normal(truth.shape) + beta * truth
        maps[f"h{k + 1}"] = UnitMap(mean, error, error**2 * replicates, truth, np.full_like(truth, NAN), 0, ())
    rows.append(make_row("layer", "loss", 5, beta / 3, noise / 4, 0.5, replicates, draw))
    rows.append(make_row("total", "weights", 40, beta, noise, 1.4, replicates, draw))
    curves = {}
    n = [2**k for k in range(4, int(math.log2(replicates)) + 1)]
    for name, f in [(f"h{k + 1}", scale[k]) for k in range(sites)] + [("total", 1.0)]:
        error_ = [math.hypot(beta * f, noise * f / math.sqrt(m)) * math.exp(0.05 * draw.standard_normal()) for m in n]
        curves[name] = Curve(n, error_, [0.8 * e for e in error_], [1.2 * e for e in error_])
    words = {r.verdict for r in rows if r.tested}
    status = "sound"
    if any(r.p_holm <= 0.01 for r in rows if r.tested):
        overall, status = "biased", "violated" if claim else "sound"
    elif "undecided" in words:
        overall, status = "undecided", "inconclusive" if claim else "sound"
    else:
        overall = "exact" if words == {"exact"} else "unbiased within"
    fields: dict[str, Any] = {
        "problem": f"{problem.title().replace(' ', '')}(batch={batch})",
        "estimator": estimator,
        "problem_label": problem,
        "estimator_label": estimator,
        "about": about or {},
        "claim": claim,
        "truth": "estimated: 65536 replicates" if truth_error else f"exact: enumeration of 2^{sites * units} states",
        "truth_error": truth_error,
        "exact": "",
        "replicates": replicates,
        "planned": replicates,
        "looks": 1,
        "looks_planned": 1,
        "seed": seed,
        "dtype": "float64",
        "verdict": overall,
        "status": status,
        "words": f"{estimator}: {overall} everywhere.",
        "rows": tuple(rows),
        "units": maps,
        "curves": curves,
        "losses": losses,
        "backwards": 2.0,
        "seconds": seconds,
        "notes": (),
    }
    return Finding(**{**fields, **changes})


def make_diagnosis(
    *findings: Finding, title: str = "Gradient-estimator diagnosis", ratios: tuple[Ratio, ...] = ()
) -> Diagnosis:
    environment = {
        "estimator_lab": "0.1.0",
        "Python": "3.11.7",
        "torch": "2.13.0",
        "numpy": "2.4.6",
        "platform": "Linux x86_64",
    }
    return Diagnosis(
        title=title,
        findings=findings,
        ratios=ratios,
        command="estimator-lab diagnose rebar --on two_layers --seed 0 \\\n  --replicates 65536",
        environment=environment,
        created="2026-11-20T10:30:00+00:00",
        alpha=0.01,
        margin=0.05,
    )


ABOUT = {
    "name": "REBAR",
    "trusted": "yes",
    "source": "Tucker et al. 2017, arXiv:1703.07370",
    "cost": "3 losses, 2 backward passes",
    "equation": (
        "hat(bold(g)) = [f(b) - eta f(sigma(tilde(z) / tau))] nabla log p(b) + eta nabla f(sigma(z / tau)) - eta nabla"
        " f(sigma(tilde(z) / tau))"
    ),
    "reason": "Unbiased: the correction has the mean of what it replaces, because z given b has the law of z.",
}
TABLE: tuple[tuple[str, bool | None, float, float, float, float], ...] = (  # label, claim, bias, noise, losses, seconds
    ("Exact", True, 0.0, 0.0, 32, 4e-6),
    ("REINFORCE", True, 0.0, 9.0, 1, 0.6e-6),
    ("REINFORCE(baseline)", True, 0.0, 6.0, 1, 0.7e-6),
    ("RLOO(K=4)", True, 0.0, 2.5, 4, 1.5e-6),
    ("DisARM", True, 0.0, 2.2, 2, 1.1e-6),
    ("ARM", True, 0.0, 3.4, 2, 1.0e-6),
    ("MuProp", True, 0.0, 2.8, 2, 1.3e-6),
    ("REBAR(τ=0.5)", True, 0.0, 1.2, 3, 2.0e-6),
    ("RELAX", True, 0.0, 1.0, 4, 3.0e-6),
    ("LocalExpectation", True, 0.0, 0.7, 6, 2.2e-6),
    ("Straight-through", False, 0.22, 0.5, 1, 0.6e-6),
    ("ST identity", False, 1.9, 0.9, 1, 0.6e-6),
    ("Gumbel-softmax(τ=1)", False, 0.35, 0.6, 1, 0.8e-6),
    ("ST-Gumbel(τ=0.5)", False, 0.09, 1.3, 1, 0.9e-6),
    ("ReinMax", False, 0.03, 1.1, 1, 0.9e-6),
    ("mean field", False, 0.15, 0.0, 1, 0.3e-6),
    ("MyEstimator(k=3)", True, 0.08, 1.4, 2, 1.2e-6),
)
TOYS = (
    "one bit",
    "quadratic bits",
    "parity of five",
    "two layers",
    "chain of three",
    "categorical",
    "two categoricals",
    "Poisson counts",
    "Gaussian quartic",
    "noisy rectifier",
    "stochastic rounding",
    "saturated logits",
)


def make_overview(estimators: int = 17, problems: int = 12) -> Diagnosis:
    found = []
    for j, toy in enumerate(TOYS[:problems]):
        for i, (label, claim, beta, noise, losses, seconds) in enumerate(TABLE[:estimators]):
            if toy in ("Poisson counts", "Gaussian quartic") and 4 <= i <= 9:
                continue
            size = 1 + j % 5
            here = 0.0 if j == 0 and label.startswith("ReinMax") else beta * (0.5 + (j * 5 + i * 3) % 4 / 3)
            found.append(
                make_finding(
                    toy,
                    label,
                    claim,
                    here,
                    noise * (1 + j % 3),
                    sites=1 + (toy in ("two layers", "chain of three")) * (1 + j % 2),
                    units=size,
                    losses=losses,
                    seconds=seconds * (1 + j / 4),
                    about={**ABOUT, "name": label},
                )
            )
    return make_diagnosis(*found, title="Seventeen estimators on twelve toy problems", ratios=compared(tuple(found)))


KEPT = ("Exact", "REINFORCE", "Straight-through", "mean field", "MyEstimator(k=3)")


def make_networks() -> Diagnosis:
    found, ratios = [], []
    for name, sites, units, batch in (("digits 64-32-32-10", 2, 32, 32), ("wide 784-200-200-10", 2, 200, 32)):
        for label, claim, beta, noise, losses, seconds in TABLE[1:13]:
            f = make_finding(
                name,
                label,
                claim,
                beta,
                noise * 4,
                sites,
                units,
                batch,
                16384,
                losses,
                seconds * 50,
                truth_error=0.012,
                about={**ABOUT, "name": label},
            )
            found.append(f)
            ratios.append(
                Ratio(
                    f.problem_label,
                    label,
                    "REINFORCE",
                    "total",
                    "weights",
                    near((noise / 9) ** 2, 0.05 * (noise / 9) ** 2),
                    near((noise / 9) ** 2 * seconds / 6e-7, 0.02),
                    True,
                )
            )
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


# ------------------------------------------------------------------------------------- whole reports
@pytest.fixture(scope="module")
def single() -> Diagnosis:
    return make_diagnosis(
        make_finding(about=ABOUT, words="REBAR is unbiased within 5 % on two layers.", notes=("Drawn in float64.",))
    )


@pytest.fixture(scope="module")
def single_pdf(single: Diagnosis) -> bytes:
    return render(single)


@pytest.fixture(scope="module")
def overview() -> tuple[pypdf.PdfReader, str]:
    return read(render(make_diagnosis(*[f for f in make_overview(17, 4).findings if f.estimator_label in KEPT])))


def test_two_renders_are_the_same_bytes(single: Diagnosis, single_pdf: bytes) -> None:
    assert single_pdf.startswith(b"%PDF-")
    assert render(single) == single_pdf


def test_a_saved_diagnosis_renders_to_the_same_bytes(single: Diagnosis, single_pdf: bytes, tmp_path: Path) -> None:
    path = tmp_path / "saved.json"
    single.save(path)
    assert render(Diagnosis.load(path)) == single_pdf


def test_structure_of_one_finding(single_pdf: bytes) -> None:
    reader, text = read(single_pdf)
    assert (
        reader.metadata is not None
        and reader.metadata.title == "Gradient-estimator diagnosis: REBAR(τ=0.5) on two layers"
    )
    root = reader.trailer["/Root"]
    assert "/StructTreeRoot" in root and root["/MarkInfo"]["/Marked"]
    titles = " | ".join(outline(reader))
    for chapter in (
        "Summary",
        "Relative bias by group",
        "Convergence",
        "Layer by layer",
        "Unit by unit",
        "Variance against cost",
        "Resolution",
        "Can the intervals be trusted?",
        "Ground truth",
        "Methods",
        "REBAR",
        "Results for every group",
        "Notes",
        "Environment",
    ):
        assert chapter in titles
    assert "REBAR(τ=0.5) on two layers: unbiased within 5 %, as claimed." in text
    for part in (
        "How sure",
        "What could have been missed",
        "What to do next",
        "What may be wrong, and how often at most",
    ):
        assert part in text
    assert "REBAR is unbiased within 5 % on two layers." in text
    assert "estimator-lab diagnose rebar" in text and "Tucker et al. 2017" in text and "Drawn in float64." in text


def test_structure_of_many_findings(overview: tuple[pypdf.PdfReader, str]) -> None:
    reader, text = overview
    titles = outline(reader)
    assert any("Problem by problem" in t for t in titles)
    for toy in TOYS[:4]:
        assert any(toy in t for t in titles)
    assert "claims of unbiasedness violated" in text and "MyEstimator(k=3) on one bit: relative bias" in text
    assert (
        "and found so Straight-through and mean field. " in text and "not on the logarithmic axis, error zero" in text
    )


def test_a_violated_claim_is_said_first() -> None:
    wrong = make_finding(estimator="Wrong", beta=0.3)
    right = make_finding(estimator="Right")
    said = verdict(Story(make_diagnosis(wrong, right)))
    assert said["tone"] == "bad" and said["headline"] == "1 of 2 claims of unbiasedness violated."
    assert said["blocks"][0]["head"] == "Claim violated" and said["blocks"][0]["lines"][0].startswith(
        "Wrong on two layers: relative bias 3"
    )
    assert said["blocks"][1] == {"head": "Unbiased as claimed", "tone": "good", "lines": ["Right."]}


@pytest.mark.parametrize(
    ("claim", "word", "said"),
    [
        (True, "biased", "violated"),
        (True, "exact", "as claimed"),
        (True, "undecided", "undecided"),
        (False, "biased beyond", "as claimed"),
        (False, "unbiased within", "no bias found"),
        (None, "biased", "no claim"),
    ],
)
def test_standing(claim: bool | None, word: str, said: str) -> None:
    assert reading.standing(make_finding(claim=claim, verdict=word)) == said


HOSTILE = '#panic() $x^2$ _a_ *b* \\ "q" <tag> &amp; @ref `r` ] } 日本 \U0001f600 \x07 \u202e // /* \n tab\t $\\frac{$'


def test_hostile_strings_are_harmless() -> None:
    first = make_finding(
        problem=HOSTILE,
        estimator=HOSTILE,
        about={"equation": "#panic() $ ]", "name": HOSTILE, "reason": HOSTILE, "source": HOSTILE, "cost": HOSTILE},
        truth=HOSTILE,
        dtype=HOSTILE,
        words=HOSTILE,
        notes=(HOSTILE,),
        beta=0.3,
    )
    odd = dataclasses.replace(first, estimator="_under", estimator_label="_under")
    renamed = dataclasses.replace(
        odd,
        estimator="third",
        estimator_label="x" * 200,
        rows=tuple(dataclasses.replace(r, name=HOSTILE) for r in odd.rows),
    )
    diagnosis = dataclasses.replace(
        make_diagnosis(first, odd, renamed), title=HOSTILE, command=HOSTILE, environment={HOSTILE: HOSTILE}
    )
    _, text = read(render(diagnosis))
    assert "#panic()" in text and "\\u{65e5}" in text


def test_an_equation_that_is_no_mathematics_is_shown_as_written() -> None:
    _, text = read(render(make_diagnosis(make_finding(about={**ABOUT, "equation": "frac(a, ] #undefined"}))))
    assert "frac(a, ] #undefined" in text


def test_an_untrusted_equation_is_not_evaluated(single: Diagnosis) -> None:
    about = {k: v for k, v in ABOUT.items() if k != "trusted"}
    (method,) = pages.build(make_diagnosis(make_finding(about=about))).data["methods"]
    assert method["math"] == "" and method["raw"] == ABOUT["equation"]
    (method,) = pages.build(single).data["methods"]
    assert method["math"] == ABOUT["equation"] and method["raw"] == ""


def test_zero_variance_is_said_and_not_drawn() -> None:
    exact = make_finding(estimator="Exact", noise=0.0)
    still = make_finding(estimator="Still", noise=0.0, beta=0.2, claim=False)
    noisy = make_finding(estimator="Noisy"), make_finding(estimator="Noisier", noise=4.0)
    text = json.dumps(pages.build(make_diagnosis(exact)).data)
    assert "exact, no bias and no variance" in text and "It has no variance: one replicate is enough." in text
    _, text = read(render(make_diagnosis(exact, still, *noisy)))
    assert "not on these axes: Exact (zero variance), Still (zero variance)" in text


def nothing_but_nan(finding: Finding) -> Finding:
    nan = Estimate(NAN, NAN, NAN)
    rows = tuple(
        dataclasses.replace(
            r, statistics=dict.fromkeys(r.statistics, nan), p=NAN, p_holm=NAN, detectable=NAN, verdict="undecided"
        )
        for r in finding.rows
    )
    curves = {k: Curve(c.n, [NAN] * len(c.n), [NAN] * len(c.n), [NAN] * len(c.n)) for k, c in finding.curves.items()}
    units = {k: dataclasses.replace(m, mean=m.mean * NAN) for k, m in finding.units.items()}
    return dataclasses.replace(
        finding, rows=rows, curves=curves, units=units, verdict="undecided", losses=NAN, backwards=NAN, seconds=NAN
    )


def test_nan_statistics() -> None:
    void = nothing_but_nan(make_finding(estimator="Void"))
    _, text = read(render(make_diagnosis(void)))
    assert "relative bias not estimable" in text and "nan" not in text.lower().replace("variance", "")
    pages.build(make_diagnosis(void, make_finding(estimator="Sound")))
    pages.build(make_diagnosis(*[dataclasses.replace(void, problem=p, problem_label=p) for p in "abcd"]))


def test_infinite_and_empty() -> None:
    base = make_finding()
    inf = Estimate(math.inf, 0.0, math.inf)
    wild = dataclasses.replace(
        base,
        rows=tuple(
            dataclasses.replace(r, statistics={**r.statistics, "relative_bias": inf, "snr": inf}) for r in base.rows
        ),
    )
    bare = dataclasses.replace(base, estimator="bare", estimator_label="bare", rows=(), units={}, curves={})
    render(make_diagnosis(wild, bare))
    pages.build(make_diagnosis(bare))
    assert "Nothing was measured." in read(render(make_diagnosis()))[1]


def test_the_undecided_are_grouped_by_estimator() -> None:
    found = [make_finding(p, e, noise=60.0) for e in ("A", "B") for p in TOYS[:9]]
    assert {f.verdict for f in found} == {"undecided"}
    blocks = {b["head"]: b["lines"] for b in verdict(Story(make_diagnosis(*found)))["blocks"]}
    lines = blocks["Undecided after 65\u202f536 replicates"]
    assert [line.split(":")[0] for line in lines] == ["A on all 9 problems", "B on all 9 problems"]
    assert not any("more" in line for line in lines)


def test_many_violations_have_a_line_for_each_estimator() -> None:
    found = [make_finding(p, e, beta=0.3) for e in ("A", "B") for p in TOYS[:5]]
    (block,) = [b for b in verdict(Story(make_diagnosis(*found)))["blocks"] if b["tone"] == "bad"]
    assert len(block["lines"]) == 2 and all(
        line[1:].startswith(" on all 5 problems; most on") for line in block["lines"]
    )


def test_some_of_names_the_fewer() -> None:
    every = list("abcdef")
    assert some_of("abc", every, "problem") == "a, b and c" and some_of(every, every, "problem") == "all 6 problems"
    assert some_of("abcde", every, "problem") == "all problems but f" and some_of("a", "a", "problem") == "a"


def test_an_interval_without_width_is_said_once() -> None:
    assert between(20.2301, 20.2301) == "20.2" and between(1.0, 2.0) == "1.00 to 2.00"
    still = make_finding(estimator="Still", noise=0.0, beta=0.202301, claim=False)
    data = json.dumps(pages.build(make_diagnosis(still)).data, ensure_ascii=False)
    assert "20.2" in data and "20.23" not in data and "20.2 to" not in data


def test_a_report_of_many_findings_has_a_cover(overview: tuple[pypdf.PdfReader, str], single_pdf: bytes) -> None:
    reader, _ = overview
    first, second = (" ".join(reader.pages[k].extract_text().split()) for k in (0, 1))
    assert "Contents" in first and "Results for every group" in first and "1 Summary" in second
    assert "Contents" not in pypdf.PdfReader(io.BytesIO(single_pdf)).pages[0].extract_text()


def test_a_figure_joins_the_report_by_one_line(single: Diagnosis, monkeypatch: pytest.MonkeyPatch) -> None:
    def new(findings: tuple[Finding, ...]) -> matplotlib.axes.Axes:
        """A new look at it.

        Not in the caption.
        """
        return figures.bias(findings[0])

    monkeypatch.setattr(pages, "CHAPTERS", (sections.Chapter("New", sections.plate(new)),))
    built = pages.build(single)
    (section,) = built.data["sections"]
    assert section["title"] == "New" and section["blocks"][0]["caption"] == "A new look at it."
    assert list(built.figures) == [section["blocks"][0]["file"]]


def test_few_problems_have_variance_against_cost_each() -> None:
    found = [make_finding(p, e, noise=n) for p in TOYS[:2] for e, n in (("A", 1.0), ("B", 3.0))]
    built = pages.build(make_diagnosis(*found))
    (cost,) = [c for c in built.data["sections"] if c["title"] == "Variance against cost"]
    assert [b["caption"].split(":")[0] for b in cost["blocks"] if b["kind"] == "figure"] == list(TOYS[:2])


def test_an_estimated_truth_is_said() -> None:
    _, text = read(render(make_diagnosis(make_finding(truth_error=0.0123))))
    assert "The truth is itself estimated" in text and "1.23 %" in text and "estimated: 65536 replicates" in text


def test_equal_labels_are_told_apart() -> None:
    twins = [make_finding(), dataclasses.replace(make_finding(), estimator="Rebar(temperature=0.5, eta=0.9)")]
    text = json.dumps(pages.build(make_diagnosis(*twins)).data["sections"])
    assert "Rebar(temperature=0.5, eta=0.9)" in text


def test_what_is_left_out_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "LONG", 10)
    monkeypatch.setattr(summary, "PROBLEMS", 2)
    diagnosis = make_overview(2, 5)
    data = pages.build(diagnosis).data
    lines = sum(r.tested or r.level == "total" for f in diagnosis.findings for r in f.rows)
    tensors = sum(len(f.rows) for f in diagnosis.findings) - lines
    kept = sum(len(p["rows"]) for p in data["all"]["parts"])
    assert 0 < kept <= 10 and f"{lines - kept} of {lines} lines are left out" in data["all"]["caption"]
    assert f"{tensors} lines of single tensors" in data["all"]["caption"]
    assert "3 of 5 problems left out" in json.dumps(data["sections"])
    assert capped(range(5), 3, "panels") == ([0, 1, 2], "2 of 5 panels left out")
    assert capped(range(3), 3, "panels") == ([0, 1, 2], "")


def test_write_replaces_the_file_or_leaves_it(
    single: Diagnosis, single_pdf: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("estimator_lab.report.render", lambda _: single_pdf)
    target = tmp_path / "report.pdf"
    target.write_bytes(b"old")
    with monkeypatch.context() as patch:

        def refuse(*_: object) -> None:
            raise OSError("no")

        patch.setattr(os, "replace", refuse)
        with pytest.raises(OSError, match="no"):
            write(single, target)
    assert target.read_bytes() == b"old" and list(tmp_path.iterdir()) == [target]
    write(single, target)
    assert target.read_bytes() == single_pdf and list(tmp_path.iterdir()) == [target]


def test_a_date_is_needed(single: Diagnosis) -> None:
    with pytest.raises(ValueError, match="isoformat"):
        render(dataclasses.replace(single, created="yesterday"))


# ------------------------------------------------------------------------------------- what is exact, and what is sure
def exactly(finding: Finding) -> Finding:
    """The finding as if its expectation were known."""

    def known(row: Row) -> Row:
        value = row.statistics["relative_bias"].value
        kept = {k: Estimate(e.value, e.value, e.value) for k, e in row.statistics.items() if k not in OF_DRAWS}
        word = "exact" if value == 0 else "biased beyond" if value > 0.05 else "biased"
        p = float(value == 0)
        return dataclasses.replace(
            row, statistics={**row.statistics, **kept}, verdict=word, low=value, high=value, p=p, detectable=1e-15,
            p_holm=p if row.tested else NAN, needed=0,
        )  # fmt: skip

    rows = tuple(map(known, finding.rows))
    word = "exact" if all(r.verdict == "exact" for r in rows if r.tested) else "biased"
    status = "violated" if word == "biased" and finding.claim else "sound"
    how = "sum over 8 outcomes of its random numbers"
    return dataclasses.replace(finding, rows=rows, verdict=word, status=status, exact=how, words=f"{word}.")


OF_DRAWS = ("effective_rank", "leading_share", "tail_index", "effective_sample", "noise_floor")


def boxed(*findings: Finding) -> dict[str, str]:
    """The parts of the verdict box by head, and the headline."""
    box = verdict(Story(make_diagnosis(*findings)))
    return {"": box["headline"], **{part["head"]: " ".join(part["lines"]) for part in box["parts"]}}


def with_rows(finding: Finding, *levels: str, **changes: Any) -> Finding:
    """The finding with changes to its rows of some levels; statistics are merged."""
    statistics = changes.pop("statistics", {})

    def changed(row: Row) -> Row:
        merged = {**row.statistics, **statistics}
        return dataclasses.replace(row, statistics=merged, **changes) if row.level in levels else row

    return dataclasses.replace(finding, rows=tuple(map(changed, finding.rows)))


def exact_number(value: float) -> Estimate:
    return Estimate(value, value, value)


def test_an_exact_expectation_with_variance_is_not_called_noiseless() -> None:
    f = exactly(make_finding())
    box = boxed(f)
    assert box[""].endswith("exactly unbiased.") and "sum over 8 outcomes" in box["How sure"]
    assert "expectations were compared" in box["What could have been missed"]
    data = pages.build(make_diagnosis(f)).data
    text = json.dumps(data, ensure_ascii=False)
    assert "no variance" not in text.replace("no bias and no variance", "") and "no noise" not in text
    assert "An event too rare" not in text and "95 % of" not in text and "would have been found with power" not in text
    assert ["Tests", "none, exact"] in data["facts"]
    assert all(line[3] == {"text": "exact", "tone": "muted"} for part in data["all"]["parts"] for line in part["rows"])
    declared = boxed(exactly(make_finding(claim=False)))
    assert declared[""].endswith("exactly unbiased, though declared biased.")


def test_an_exact_bias_has_no_interval_and_no_p_value() -> None:
    f = exactly(make_finding(beta=0.3))
    box = boxed(f)
    assert "adjusted p" not in " ".join(box.values()) and "factor" not in box["What to do next"]
    data = pages.build(make_diagnosis(f)).data
    tested = [line for part in data["all"]["parts"] for line in part["rows"]]
    assert {line[4] for line in tested} == {"–"} and {line[3]["text"] for line in tested} == {"exact"}
    mixed = json.dumps(pages.build(make_diagnosis(f, make_finding(estimator="Drawn"))).data, ensure_ascii=False)
    assert "a marker without interval is exact" in mixed and "5 groups need none: the bias is exact" in mixed
    assert "1 rests on expectations that are known exactly" in mixed


@pytest.mark.parametrize(
    ("gain", "cosine", "beta", "said"),
    [
        (2.0, 1.0, 1.0, "a factor of 2"),
        (0.5, 1.0, 0.5, "a factor of 0.5"),
        (-1.0, -1.0, 2.0, "a wrong sign"),
        (0.0, NAN, 1.0, "a factor of 0"),
        (0.0, 0.0, 1.4, ""),
        (2.0, 0.8, 1.8, ""),
        (1.7, 1.0, 0.7, ""),
    ],
)
def test_a_factor_is_named_where_the_mean_is_that_multiple(gain: float, cosine: float, beta: float, said: str) -> None:
    known = make_row("site", "x", 3, beta, 1.0, 1.0, 4096, np.random.default_rng(0))
    numbers = {"gain": gain, "cosine_of_mean": cosine, "relative_bias": beta, "bias": beta}
    known = dataclasses.replace(
        known, statistics={**known.statistics, **{k: exact_number(v) for k, v in numbers.items()}}
    )
    sampled = {
        "gain": near(gain, 0.03),
        "cosine_of_mean": Estimate(cosine, *((-1, 1) if math.isnan(cosine) else sorted((cosine, 0.98 * cosine)))),
        "relative_bias": near(beta, 0.03),
    }  # fmt: skip
    drawn = dataclasses.replace(known, statistics={**known.statistics, **sampled, "bias": near(beta, 0.03)})
    assert said in advice.factor(known) and bool(advice.factor(known)) == bool(said)
    assert said in advice.factor(drawn) and bool(advice.factor(drawn)) == bool(said)
    assert not said or ("consistent with" in advice.factor(drawn) and "exactly" in advice.factor(known))
    vague = dataclasses.replace(drawn, statistics={**drawn.statistics, "gain": near(gain, 0.3)})
    assert advice.factor(vague) == ""


def test_what_the_sequential_rule_saved() -> None:
    f = make_finding(replicates=4096, planned=65536, looks=5, looks_planned=9)
    box = boxed(f)
    assert "at look 5 of 9: 4\u202f096 of 65\u202f536 replicates, 16 times fewer" in box["How sure"]
    assert "A test of fixed size, at 65\u202f536 replicates" in boxed(make_finding())["How sure"]
    both = boxed(f, make_finding(estimator="Full"), exactly(make_finding(estimator="Known")))["How sure"]
    assert "1 rests on expectations" in both and "1 rests on a sequential test" in both
    assert "1 of 2 sampled pairs stopped early, at 4\u202f096 of 65\u202f536 replicates (16 times fewer)" in both


def test_a_variance_that_cannot_be_estimated() -> None:
    nan = Estimate(NAN, NAN, NAN)
    heavy = {"tail_index": Estimate(0.8, NAN, NAN), "variance": nan, "effective_sample": Estimate(12, NAN, NAN)}
    f = with_rows(
        make_finding(noise=60.0), "site", "layer", "total", statistics=heavy | {"snr": nan}, needed=10**6, low=0.1
    )
    f = dataclasses.replace(
        with_rows(f, "site", "layer", verdict="undecided"), verdict="undecided", status="inconclusive"
    )
    box = boxed(f)
    assert "more replicates may never decide" in box["What to do next"] and "Draw more" not in box["What to do next"]
    assert "all 5 tested groups are not trusted" in box["How sure"]
    text = json.dumps(pages.build(make_diagnosis(f)).data, ensure_ascii=False)
    assert "None of the 5 groups can be judged: the variance is not estimable." in text and "slope of" not in text
    assert "the variance may be infinite" in text and "Replicates that would decide" not in text


def carried_by(draws: float, **changes: Any) -> Finding:
    """A finding of a single group that so many draws carry, which is not enough."""
    f = make_finding(noise=60.0, sites=1)
    none = {"bias": Estimate(0.0, NAN, NAN), "relative_bias": Estimate(0.0, NAN, NAN)}
    statistics = {**none, "effective_sample": Estimate(draws, NAN, NAN)}
    rows = tuple(dataclasses.replace(r, verdict="undecided", low=NAN, high=NAN, detectable=NAN) for r in f.rows[:1])
    f = dataclasses.replace(f, rows=rows, verdict="undecided", status="inconclusive", **changes)
    return with_rows(f, "site", statistics=statistics)


def test_a_group_that_cannot_be_judged_is_not_shown_as_unbiased() -> None:
    f = carried_by(53.0, words="Undecided: about 2,800,000 replicates would decide it.")
    data = pages.build(make_diagnosis(f)).data
    said = json.dumps(data, ensure_ascii=False)
    assert "The one group cannot be judged: too few draws carry the error." in said and "show a bias" not in said
    assert "The one group has no trustworthy interval: 53 effective draws, 100 needed. No verdict rests on it." in said
    assert "A bias of any size could have been missed at the units of h1" in said and "noise floor, what" not in said
    assert "about 2\u202f800\u202f000 replicates" in said and "relative bias 0" not in said
    (line,) = data["all"]["parts"][0]["rows"]
    assert line[2] == line[6] == "–" and line[3]["text"] == "–"
    ax = figures.bias(f)
    assert [t.get_text() for t in ax.texts] == ["not judged"] and not ax.get_legend().get_texts()
    assert not any(len(mark.get_xdata()) for mark in ax.lines if mark.get_marker() == "D")
    some = json.dumps(pages.build(make_diagnosis(f, make_finding(estimator="Other"))).data, ensure_ascii=False)
    assert "None of the 6 groups shows a bias. 1 cannot be judged" in some


def test_only_groups_without_a_found_bias_can_hide_one() -> None:
    f = make_finding(beta=0.3, noise=1.0)
    assert "Where no bias was found" not in boxed(f).get("What could have been missed", "")
    both = boxed(f, make_finding(estimator="Other"))["What could have been missed"]
    assert "with probability 95 % in every group (least resolved:" in both and "Other on two layers)" in both


def test_what_is_needed_is_rounded_alike() -> None:
    f = with_rows(make_finding(noise=60.0), "site", "layer", verdict="undecided", needed=2_710_001, p=0.5, p_holm=1.0)
    f = dataclasses.replace(f, verdict="undecided")
    said = json.dumps(pages.build(make_diagnosis(f, make_finding(estimator="B"))).data, ensure_ascii=False)
    assert said.count("2\u202f800\u202f000") > 2 and "2\u202f700\u202f000" not in said


def test_a_bias_without_a_claim() -> None:
    step = boxed(make_finding(beta=0.3, claim=None, noise=0.5))["What to do next"]
    assert step.startswith("It makes no claim. If it was meant to be unbiased, set unbiased = True: it is off by ")
    assert " % at the " in step and "of h1." in step


def test_a_bias_as_declared_is_no_warning() -> None:
    declared, broken = (make_finding(estimator=str(c), beta=0.3, noise=0.5, claim=c) for c in (False, True))
    box = verdict(Story(make_diagnosis(declared, broken)))
    assert {b["head"]: b["tone"] for b in box["blocks"]}["Declared biased, and found so"] == "calm"
    section = pages.build(make_diagnosis(declared, broken)).data["sections"][0]
    assert [line[1]["tone"] for line in section["blocks"][1]["parts"][0]["rows"]] == ["calm", "alarm"]


def test_a_figure_of_cost_has_something_to_compare() -> None:
    data = pages.build(make_diagnosis(*[make_finding(p) for p in TOYS[:2]])).data
    (cost,) = [c for c in data["sections"] if c["title"] == "Variance against cost"]
    assert not [b for b in cost["blocks"] if b["kind"] == "figure"]


def test_trust_follows_the_gates_of_the_statistics() -> None:
    row = make_finding().row("site", "h1")

    def judged(level: float = 1e-6, **changes: Any) -> str:
        statistics = {k: Estimate(*e) for k, e in changes.pop("statistics", {}).items()}
        new = dataclasses.replace(row, statistics={**row.statistics, **statistics}, **changes)
        return trust(new, level).word

    unsure = {"variance": (9.0, NAN, NAN)}
    assert judged() == "trusted"
    no_interval = {"bias": (0.1, NAN, NAN), "effective_sample": (GATE - 1, NAN, NAN)}
    assert judged(statistics=no_interval | unsure) == "not trusted"
    assert judged(statistics={"effective_sample": (GATE, NAN, NAN)} | unsure) == "trusted with care"
    assert judged(statistics={"effective_sample": (ENOUGH, NAN, NAN)}) == "trusted"
    assert judged(statistics=unsure) == "trusted with care"
    assert judged(scores=(*[0.0] * 30, 9.0)) == "trusted with care"
    assert judged(spread=row.spread[:FEWEST_BATCHES]) == "not trusted"
    assert judged(verdict="exact", statistics={"bias": (0.0, 0.0, 0.0)}) == "not needed"
    assert judged(verdict="undecided", statistics={"variance": (0.0, 0.0, 0.0)}) == "not trusted"


def test_biased_units_are_named_with_their_intervals() -> None:
    f = make_finding(beta=0.3, sites=1)
    u = f.units["h1"]
    worst = (Unit((1, 2), 0.31, 0.25, 0.37), Unit((0, 1), -0.2, -0.26, -0.14))
    adjusted = np.where(np.arange(6).reshape(2, 3) < 4, 0.001, 0.7)
    f = dataclasses.replace(f, units={"h1": dataclasses.replace(u, adjusted=adjusted, insufficient=1, worst=worst)})
    built = pages.build(make_diagnosis(f))
    (section,) = [c for c in built.data["sections"] if c["title"] == "Unit by unit"]
    said = json.dumps(section, ensure_ascii=False)
    assert "4 were found to be off, at a false discovery rate of 5 % within each site; 1 rests on too few draws" in said
    (lines,) = [b["parts"][0]["rows"] for b in section["blocks"] if b["kind"] == "table"]
    assert [line[:4] for line in lines] == [["h1", "4 of 6", "1", "[1, 2]"], ["", "", "", "[0, 1]"]]
    assert lines[0][5] == "0.310" and lines[0][6]["text"] == "0.250 to 0.370" and "A dot marks" in said
    assert "4 of 6 unit gradients of h1 are off, most of all units [1, 2] and [0, 1]" in boxed(f)["What to do next"]
    none = pages.build(make_diagnosis(make_finding())).data["sections"]
    assert "there is none" in json.dumps(none)


def test_the_truth_that_is_too_noisy_is_what_to_improve() -> None:
    f = with_rows(
        make_finding(noise=60.0, truth_error=0.1), "site", "layer", verdict="undecided", needed=0, truth_needed=123456
    )
    f = dataclasses.replace(f, verdict="undecided")
    assert "about 130\u202f000 draws of it would do" in boxed(f)["What to do next"]


def test_pairing_is_said() -> None:
    found = make_finding(), make_finding(estimator="Other", noise=2.0)
    paired = compared(found)
    for ratios, said in (
        (paired, "(paired)"),
        (tuple(dataclasses.replace(r, paired=False) for r in paired), "(unpaired)"),
    ):
        assert said in json.dumps(pages.build(make_diagnosis(*found, ratios=ratios)).data)


# ------------------------------------------------------------------------------------- figures
PANEL = {
    "bias": lambda d, ax: figures.bias(d.findings[0], ax),
    "convergence": lambda d, ax: figures.convergence(d.findings[0], ax),
    "heat": lambda d, ax: figures.heat(d.findings, "snr", ax),
    "units": lambda d, ax: figures.units(d.findings[0], "h1", ax),
    "cost": lambda d, ax: figures.cost(d.findings, ax),
    "cost_strip": lambda d, ax: figures.cost_strip(d.findings, d.ratios, ax),
    "resolution": lambda d, ax: figures.resolution(d.findings, ax),
    "spread": lambda d, ax: figures.spread(d.findings[0], ax),
    "normal": lambda d, ax: figures.normal({r.name: r.scores for r in d.findings[0].rows if r.level == "site"}, ax),
}
SEVERAL = {
    "bias_by_group": figures.bias_by_group,
    "convergence_by_estimator": figures.convergence_by_estimator,
    "convergence_by_problem": figures.convergence_by_problem,
    "heat_maps": figures.heat_maps,
    "unit_maps": lambda found: figures.unit_maps([(f, "h1", f.estimator_label) for f in found]),
    "bias_column": figures.bias_column,
    "normal_panels": lambda found: figures.normal_panels(
        {f.estimator_label: {f.problem_label: f.total.scores} for f in found}
    ),
}


@pytest.fixture(scope="module")
def pair() -> Diagnosis:
    found = make_finding(), make_finding(estimator="Straight-through", claim=False, beta=0.3, noise=0.5, losses=1.0)
    return make_diagnosis(*found, ratios=compared(found))


@pytest.mark.parametrize("name", PANEL)
def test_a_panel_draws_into_the_axes_it_is_given(name: str, pair: Diagnosis) -> None:
    from matplotlib import pyplot

    before, opened = dict(matplotlib.rcParams), pyplot.get_fignums()
    own = PANEL[name](pair, None)
    assert own.has_data()
    ax = matplotlib.figure.Figure().subplots()
    assert PANEL[name](pair, ax) is ax and ax.has_data()
    assert dict(matplotlib.rcParams) == before and pyplot.get_fignums() == opened


@pytest.mark.parametrize("name", SEVERAL)
def test_figures_with_panels(name: str, pair: Diagnosis) -> None:
    from matplotlib import pyplot

    before, opened = dict(matplotlib.rcParams), pyplot.get_fignums()
    figure = SEVERAL[name](pair.findings)
    assert isinstance(figure, matplotlib.figure.Figure) and any(ax.has_data() for ax in figure.axes)
    assert dict(matplotlib.rcParams) == before and pyplot.get_fignums() == opened


def test_a_figure_says_how_many_panels_it_left_out(pair: Diagnosis) -> None:
    figure = figures.unit_maps([(pair.findings[0], "h1", str(k)) for k in range(24)])
    assert "4 of 24 maps left out" in figure.get_supxlabel()


def test_no_point_vanishes_from_a_logarithmic_axis() -> None:
    f = make_finding(noise=0.0)
    assert "not on the logarithmic axis, error zero or not finite: all weights" in figures.convergence(f).get_xlabel()
    assert "zero or not estimable, so not shown: h1, h1 weights" in figures.resolution([f]).get_xlabel()
    assert "no variance" in figures.spread(f).get_xlabel()


def test_names_in_the_cost_figure_do_not_collide() -> None:
    found = [make_finding(estimator=name, noise=noise, losses=losses) for name, _, _, noise, losses, _ in TABLE[1:15]]
    ax = figures.cost(found)
    ax.figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert len(boxes) == 14
    for k, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:k])
        assert ax.figure.bbox.x0 <= box.x0 and box.x1 <= ax.figure.bbox.x1


def test_no_noise_does_not_drive_the_scale_of_the_heat_map() -> None:
    found = [make_finding(estimator="Noisy"), make_finding(estimator="Still", noise=0.0, beta=0.2, claim=False)]
    ax = figures.heat(found, "snr")
    low, high = ax.collections[0].get_clim()
    assert -100 < low < high < 100 and [t.get_text() for t in ax.get_legend().get_texts()] == ["no noise"]


def test_cells_without_a_finding_are_grey_and_in_brackets() -> None:
    open_ = make_finding(estimator="Open", noise=60.0)
    ax = figures.heat([open_, make_finding(estimator="Biased", beta=0.3, noise=0.5)])
    cells = [t.get_text() for t in ax.texts]
    assert sum(c.startswith("(") for c in cells) == len(reading.groups(open_)) == len(cells) / 2


def test_panels_of_convergence_have_room_and_a_scale_for_each_row() -> None:
    found = [make_finding(estimator=f"E{k}", noise=10.0 ** (k - 2)) for k in range(5)]
    figure = figures.convergence_by_estimator(found)
    figure.draw_without_rendering()
    shown = [ax for ax in figure.axes if ax.get_visible()]
    assert min(ax.get_window_extent().height for ax in shown) / figure.dpi * 2.54 >= 3
    assert shown[0].get_ylim() == shown[2].get_ylim() != shown[3].get_ylim()


def test_the_convergence_axis_holds_what_is_not_zero() -> None:
    exact = make_finding(estimator="Exact", noise=0.0)
    figure = figures.convergence_by_problem([exact, make_finding(estimator="Noisy", noise=1.0)])
    low, high = figure.axes[0].get_ylim()
    assert high / low < 1e4 and "Exact" in figure.get_supxlabel()


def test_units_by_strength() -> None:
    f = make_finding(units=300, batch=1, sites=1)
    kept = figures.strongest([figures.standardised(f, "h1")])
    t = np.abs(figures.standardised(f, "h1"))[:, 0]
    assert len(kept) == UNITS and (np.diff(kept) > 0).all()
    assert t[kept].min() >= np.delete(t, kept).max()
    assert f"{300 - UNITS} of 300 units left out" in figures.units(f, "h1").get_xlabel().replace("\n", " ")


def test_relative_variance_is_the_one_put_in() -> None:
    value, low, high = reading.relative_variance(reading.total(make_finding(noise=3.0)))
    assert value == pytest.approx(9.0) and low < 9 < high


def test_draws_alike_and_off_the_truth_are_named_and_not_called_resolved() -> None:
    still = make_finding(estimator="Still", noise=0.0, beta=0.3)
    rows = tuple(dataclasses.replace(r, verdict="undecided", detectable=NAN, low=NAN, high=NAN) for r in still.rows)
    still = dataclasses.replace(still, rows=rows, verdict="undecided")
    assert math.isnan(reading.detectable(rows[0]))
    text = json.dumps(pages.build(make_diagnosis(still, make_finding())).data, ensure_ascii=False)
    assert "Still on two layers: all draws are alike." in text and "in every other group" in text
    assert "all draws are alike and off the truth (Still: 30 %)" in text
    assert "2 pairs share one false-alarm rate" in text


def test_no_torch_and_no_pyplot() -> None:
    code = "import sys, estimator_lab.report; assert not {'torch', 'matplotlib.pyplot'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# ------------------------------------------------------------------------------------- numbers and characters
@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (1.23456, 0.012, "1.235"),
        (1.23456, 0.05, "1.23"),
        (1.23456, 0.096, "1.23"),
        (12345.6, 120, "12\u202f350"),
        (-0.5, 0.2, "−0.50"),
        (0.0, 0.01, "0.000"),
        (0.0, NAN, "0"),
        (5.0, NAN, "5"),
        (3.14159, NAN, "3.14"),
        (NAN, 1.0, "–"),
        (math.inf, 1.0, "∞"),
        (-math.inf, 1.0, "−∞"),
        (2.5e-7, 1e-8, "2.50\u202f×\u202f10⁻⁷"),
        (123456789.0, NAN, "1.23\u202f×\u202f10⁸"),
        (0.3, 1e-12, "0.30000"),
        (9.996, 0.05, "10.00"),
        (1e-9, 1.0, "0.0"),
    ],
)
def test_numbers_have_the_digits_their_error_supports(value: float, error: float, text: str) -> None:
    assert rounded(value, error) == text


@pytest.mark.parametrize("error", [0.1, 0.354, 0.356, 0.94, 0.96, 3.0, 42.0, 1e-5])
def test_last_digit_is_the_rule_of_the_particle_data_group(error: float) -> None:
    unit = 10.0 ** last_digit(error)
    assert 3.54 < error / unit < 35.6


def test_last_digit_wants_an_error() -> None:
    with pytest.raises(ValueError, match="positive"):
        last_digit(0.0)


def test_p_values() -> None:
    assert [p_value(p) for p in (0.5, 0.001, 3.4e-7, 0.0, NAN)] == [
        "0.500",
        "0.001",
        "3\u202f×\u202f10⁻⁷",
        "< 10⁻³⁰⁰",
        "–",
    ]


def test_legible() -> None:
    assert legible("τ=0.5 × 10⁻³ ‖b‖ ñ") == "τ=0.5 × 10⁻³ ‖b‖ ñ"
    assert legible("a\x00b\u202e\u00ad日") == "a\\u{0}b\\u{202e}\\u{ad}\\u{65e5}"
    assert legible("up to 2,800,000, or 1,5 f(1,000)") == "up to 2\u202f800\u202f000, or 1,5 f(1,000)"
    assert legible("a\nb") == "a b" and legible("a\nb", lines=True) == "a\nb"
