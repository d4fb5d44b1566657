"""The study of Bengio, Léonard and Courville (2013) as a PDF: a pure function of its saved claims and measurements."""

import datetime
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import bengio2013_figures as draw
from bengio2013_claims import read_study
from claims import Claim, load
from lines import Spot
from scipy import stats

from estimator_lab.report.claims import claims_table, tally_lines, tally_words, typeset
from estimator_lab.report.reading import blind, estimate
from estimator_lab.report.rounding import ABSENT, count, rounded
from estimator_lab.report.story import Block, chip, heading, muted, table, text
from estimator_lab.report.study import Study
from estimator_lab.report.wording import bias_percent, cosine, listed, percent, value
from estimator_lab.trajectories import Point, Trajectory

Row = Mapping[str, Any]
STUDY = "python analyses/bengio2013.py"
COMMAND = "python analyses/bengio2013_claims.py --study reports/bengio2013.json --json reports/bengio2013_claims.json"
FILES = ("bengio2013.json", "bengio2013_paper.json")
SQUARED = ", squared loss"
DATA = {"mnist": "MNIST", "digits": "8×8 digits"}
SHOWN = {  # figures that show more of a claim
    "A3": "baselines",
    "A5": "perturbations",
    "A6": "laws",
    "A7": "smooth_units",
    "A8": "smooth_units",
    "A9": "wrong_sign",
    **dict.fromkeys(("A10a", "A10b", "A10c", "A10d"), "courses"),
    "A11": "baselines",
    "E3": "smooth_units",
    "E6": "wrong_sign",
}
COMPARED = (  # first and second gate, criterion, and which one is better in the paper
    ("st", "st-sigmoid", "valid_error", "first"),
    ("noisy-rectifier", "rectifier", "valid_error", "first, 1.52 and 1.66"),
    ("noisy-rectifier", "rectifier", "train_nll", "second, 6.7 and 0.63 × 10⁻⁴"),
    ("sigmoid-noise", "sigmoid", "train_nll", "first, 1.8 and 3.2 × 10⁻³"),
    ("sts-decisive", "sts-code", "valid_error", "first"),
    ("sts", "sts-code", "valid_error", ""),
    ("sbn", "sbn-mean", "valid_error", ""),
)
CRITERIA = {"train_nll": "training loss", "valid_error": "validation error, %", "test_error": "test error, %"}


class Kind(NamedTuple):
    """A kind of statement: what one is called, several, the title above them, and the fact that counts them."""

    one: str
    many: str
    title: str
    fact: str


KINDS = (
    Kind("claim of the paper", "claims of the paper", "What the paper claims", "Claims"),
    Kind(
        "passage taken to the letter",
        "passages taken to the letter",
        "Misprints and errata: passages taken to the letter",
        "Passages",
    ),
    Kind("statement of ours", "statements of ours", "What the paper does not say (ours)", "Ours"),
)


def sorted_out(claims: Sequence[Claim]) -> list[tuple[Kind, list[Claim]]]:
    """Claims by kind; a kind without any is left out."""

    def kind(claim: Claim) -> int:
        return 2 if claim.reconstruction else int(claim.id.startswith("E"))

    own = [[c for c in claims if kind(c) == k] for k in range(len(KINDS))]
    return [(k, found) for k, found in zip(KINDS, own, strict=True) if found]


def headline(claims: Sequence[Claim]) -> str:
    """A tally for every kind."""
    return " ".join(tally_words(own, k.one, k.many) for k, own in sorted_out(claims)) or tally_words([], "claim")


def main_results(folder: Path) -> Row:
    """Results of the training study: those of a tenth of the paper's size, else those of its size; empty without any.

    Raises:
        UsageError: a file cannot be read, or holds something else.
    """
    return next((read_study(folder / name) for name in FILES if (folder / name).exists()), {})


def report(folder: Path) -> Path:
    """Writes ``bengio2013.pdf`` from ``bengio2013_claims.json`` and the results of the trainings in one folder.

    The results are ``bengio2013.json``, and ``bengio2013_paper.json`` at the paper's size, of which gradients are shown
    beside the others, or everything where it is alone. Returns the path of the PDF. Any file may be missing, and any
    part of the results; the report then says so in the place of its sections.

    Raises:
        UsageError: a file cannot be read, or holds something else.
    """
    claimed, wide = folder / "bengio2013_claims.json", folder / FILES[1]
    results = main_results(folder)
    paper = read_study(wide) if wide.exists() and (folder / FILES[0]).exists() else {}
    path = folder / "bengio2013.pdf"
    path.write_bytes(render(load(claimed) if claimed.exists() else [], results, paper))
    return path


def render(claims: Sequence[Claim], results: Row, paper: Row) -> bytes:
    """The PDF, of claims, the results that are shown throughout, and those at the paper's size or nothing."""
    created = results.get("created") or datetime.datetime.now(datetime.UTC).date().isoformat()
    study = Study(
        kind="founding papers",
        title="Stochastic neurons, claim by claim",
        subtitle="Bengio, Léonard and Courville 2013, arXiv:1308.3432",
        created=created[:10],
        results=json.dumps([[c.__dict__ for c in claims], results, paper], sort_keys=True, default=list),
        command="\n".join([*(r["command"] for r in (results, paper) if r), *([] if results else [STUDY]), COMMAND]),
        facts=facts(claims, results),
        headline=headline(claims),
        lines=[(kind.title, tally_lines(own)) for kind, own in sorted_out(claims)],
        environment=results.get("environment", {}),
        appendix=every_gradient(results),
    )
    figures = closed_forms(study)
    trained = training(study, results)
    figures["courses"] = next((b for b in trained if b["kind"] == "figure"), {})
    seen = {claim: [figures[name]] for claim, name in SHOWN.items() if figures[name]}
    study.sections = [
        ("Claims", claimed(claims, seen)),
        ("The neurons", [neuron_words(), figures["clouds"], figures["laws"]]),
        (
            "The estimators",
            [
                heading("Perturbations of any size"),
                perturbation_words(),
                figures["perturbations"],
                heading("Which baseline"),
                baseline_words(),
                figures["baselines"],
                heading("Stochastic times smooth"),
                smooth_words(),
                figures["smooth_units"],
                heading("Straight through, and where it points the wrong way"),
                straight_words(),
                figures["wrong_sign"],
            ],
        ),
        ("The conditional network, trained with each gate", trained),
        ("The gradients of the gates along training", [*gradients(study, results), *at_full_width(study, paper)]),
        ("What conditional computation saves", saving(study, results.get("saving"))),
        ("Method", method(results)),
    ]
    return study.render()


def facts(claims: Sequence[Claim], results: Row) -> list[tuple[str, str]]:
    """Below the title."""
    found = [(kind.fact, str(len(own))) for kind, own in sorted_out(claims)]
    if results:
        setting, scale = results["setting"], results["scale"]
        found += [
            ("Data", DATA.get(setting["data"], setting["data"])),
            ("Scale", {"paper": "as published", "quick": "toy"}.get(scale, "scaled down")),
            ("Gates", count(setting["gates"])),
            ("Trainings", str(len(results["trainings"]))),
            ("Epochs", count(setting["epochs"])),
        ]
    return found


def claimed(claims: Sequence[Claim], seen: Mapping[str, Sequence[Block]]) -> list[Block]:
    """The table of claims."""
    if not claims:
        return [text("The claims have not been tested yet: python analyses/bengio2013_claims.py tests them.")]
    return [
        text(
            "Each verdict is computed from the numbers beside it, by the code that prints them; sums over all states"
            " or quadratures, unless the evidence says that it rests on draws. A condition is one that the paper does"
            " not state, or no more than hints at. A comparison of trainings is not decided where its interval includes"
            " both signs, and does not hold where the interval excludes the claimed one. What is printed in passing,"
            " and misprints, are counted apart, and so is what the paper does not say. Here h is the value of a unit,"
            " p the probability s(a) that it is 1, s the sigmoid and L the loss."
        ),
        claims_table([(kind.title, own) for kind, own in sorted_out(claims)], "Claims, verdicts and evidence.", seen),
    ]


# ---------------------------------------------------------------------- from formulas
def closed_forms(study: Study) -> dict[str, Block]:
    """Figures that are drawn from formulas, in order of appearance."""
    return {
        "clouds": study.figure(
            draw.clouds(),
            "Draws of five neurons against the pre-activation, each with the curve of its mean.",
            "Draws of h (dots) and their mean (line). The binary unit is 0 or 1; the rectifier max(0, a + z) is often"
            " exactly 0; STS is a random mask times the square root of p.",
        ),
        "laws": study.figure(
            draw.laws(),
            "Mean, probability to be active, standard deviation and slope of the mean of five neurons.",
            "The same neurons. d, solid: the derivative of the mean, which is the gradient for a loss L = h; broken:"
            " the mean of what backpropagation passes on, and for the binary unit straight-through. For the rectifiers"
            " both are the same; STS passes on a half, in the form of the code a third.",
        ),
        "perturbations": study.figure(
            draw.perturbations(),
            "Relative bias of finite differences, Fiete and Seung and (h − p) L against the size of the perturbation.",
            "The gradient of L(u) = exp(u) at u = 0. Differences and correlations are biased by the curvature that they"
            " step over. The binary unit moves by a whole 1 and has no bias.",
        ),
        "baselines": study.figure(
            draw.baselines(),
            "Variance of the centred estimator of one unit against its baseline and against p.",
            "One unit with L(1) = 2.7 and L(0) = 0.4; a, at p = 0.214; b, at every p.",
        ),
        "smooth_units": study.figure(
            draw.smooth_units(),
            "Orders in p of the error of STS and of a binary unit; ratio of what STS passes on to the truth.",
            "a, f(h) = exp(1.3 h); broken lines: leading terms f″(0)/2 · p to the 3/2 for STS, (f(1) − f(0) − f′(0)) p"
            " for the binary unit. b, backpropagation with the mask held constant over the true derivative, for three"
            " losses.",
        ),
        "wrong_sign": study.figure(
            draw.wrong_sign(),
            "Regions of the probability and the target, and of a bias, where straight-through has the wrong sign.",
            "a, one binary unit: straight-through has the wrong sign on average if t lies between p and ½ (diamond:"
            " p = 0.269, t = 0.35, truth +0.0590, straight-through −0.1621). b, the unit below two others, L = h₂ · (1,"
            " −1.5): plain straight-through always gives −0.5.",
        ),
    }


def neuron_words() -> Block:
    """What the families are."""
    return text(
        "Five ways to make a unit noisy. The paper prints STS with a mask that is on with probability √p, so that its"
        " mean is p; its authors' public code draws the mask with probability p, so that the mean is p to the 3/2. Both"
        " are kept apart here. The derivative of a binary unit is zero almost everywhere: it needs an estimator. The"
        " noisy rectifier has a derivative that is right on average. STS has one that is wrong, because the law of its"
        " mask moves with a as well."
    )


def perturbation_words() -> Block:
    """A5."""
    return text(
        "The estimator (h − p) L multiplies the loss by the perturbation of the unit, where finite differences divide"
        " by it. It therefore needs no small perturbation, and is unbiased for all-or-none units."
    )


def baseline_words() -> Block:
    """A3 and A11."""
    return text(
        "Any constant may be subtracted from the loss. The one of least variance is the mean of L weighted with"
        " (h − p)². For one unit it is (1 − p) L(1) + p L(0): the probabilities are swapped compared with the mean"
        " loss, and nothing of the variance is left. The usual baseline, the mean loss, is as good at p = ½ only."
    )


def smooth_words() -> Block:
    """A7 and A8."""
    return text(
        "For small p the mean of a smooth function of an STS unit is that of its mean to order 3/2, and for a binary"
        " unit to order 1: this is what tells the two apart, and not the remainder o(√p) of the proposition, which"
        " both satisfy. Backpropagation through STS passes on half of the gradient to first order, and may point the"
        " wrong way where the loss is curved."
    )


def straight_words() -> Block:
    """A9."""
    return text(
        "Straight-through takes the gradient at h for that at a. Its sign is right for one layer if the loss is"
        " monotone in h; the factor p (1 − p) makes it exact if the loss is affine, and does not change the sign. A"
        " loss that has its minimum between 0 and 1, or a second layer, is enough for a wrong sign."
    )


# ---------------------------------------------------------------------- trainings
def labels(results: Row) -> dict[str, str]:
    """Of gates, by name."""
    return {g["name"]: g["label"] for g in results["gates"]}


def histories(results: Row, key: str, names: Sequence[str] | None = None) -> dict[str, list[list[float]]]:
    """A quantity of every epoch, of the trainings of each gate."""
    found: dict[str, list[list[float]]] = {}
    for t in results["trainings"]:
        if names is None or t["gate"] in names:
            found.setdefault(t["gate"], []).append([math.nan if v is None else v for v in t["history"][key]])
    return found


def training(study: Study, results: Row) -> list[Block]:
    """Errors, losses and activity of the trainings beside the published ones."""
    if not results.get("trainings"):
        return [text(f"No network has been trained yet: {STUDY} trains them.")]
    setting = results["setting"]
    sparse = [g["name"] for g in results["gates"] if g["sparsity"]]
    runs = {len([t for t in results["trainings"] if t["gate"] == s["gate"]]) for s in results["summary"]}
    shown = "Mean over the seeds and their range" if max(runs) > 1 else "One seed"
    seeds = f"{min(runs)} to {max(runs)} seeds" if len(runs) > 1 else f"{max(runs)} seed{'s' * (max(runs) > 1)}"
    return [
        text(
            f"The network of the paper's section 5 on {DATA.get(setting['data'], setting['data'])}: linear experts,"
            f" each multiplied by a gate, {count(setting['gates'])} of both; a gater with {count(setting['hidden'])}"
            f" tanh units; softmax. {count(setting['epochs'])} epochs, {seeds} of each gate.",
            "" if results["scale"] == "paper" else scaled(results),
        ),
        study.figure(
            draw.courses(
                [
                    draw.Course("validation error (%)", histories(results, "valid_error")),
                    draw.Course("training loss (nats)", histories(results, "train_nll")),
                    draw.Course("active gates", histories(results, "active", sparse), False, setting["target"]),
                ]
            ),
            "Validation error, training loss and share of active gates against the epoch, for every gate.",
            f"{shown}; all other gates in grey. Training loss and activity are running means over an epoch, with noise;"
            " validation is without noise. The broken line is the activity that the cost of activity aims at; it holds"
            " the mean of p, or of √p for STS, at this value, not the share of gates that are open. “Batch mean” is at"
            " the rate of “batch sum”.",
        ),
        training_table(results, seeds),
        text(*compared_words(results)),
        *compared_table(results),
        modes_table(results),
    ]


def scaled(results: Row) -> str:
    """That the setting is not the paper's."""
    setting = results["setting"]
    return (
        f"This is not the size of the paper, which has 2\u202f000 gates, 400 units of the gater and hundreds of epochs"
        f" on MNIST: here a column of numbers beside the published one shows an order of gates at"
        f" {count(setting['gates'])} gates, not a reproduction of values."
    )


def spread(found: Row, scale: float = 1) -> str:
    """A mean over seeds with half its 95 % interval."""
    half = math.nan if found["high"] is None else scale * (found["high"] - found["value"])
    mean = scale * found["value"]
    if not math.isfinite(half) or half <= 0:
        return rounded(mean)
    return f"{rounded(mean, half / 1.96, most=3)} ± {rounded(half, most=2)}"


def training_table(results: Row, seeds: str) -> Block:
    """Beside the published table."""
    published = {r["row"]: r for r in results["published"]["rows"]}
    several = any(s["runs"] > 1 for s in results["summary"])
    rows = {g["name"]: published.get(g["row"]) for g in results["gates"]}
    name = labels(results)

    def line(s: Row) -> list[Any]:
        known = rows[s["gate"]] or {}
        cells = [name[s["gate"]]]
        for key in ("train_nll", "valid_error", "test_error"):
            cells += [spread(s[key]), muted(as_published(known[key], key) if known else ABSENT)]
        return [*cells, spread(s["active"], 100)]

    columns = [("Gate", "left", "1fr")]
    for head in ("Training loss", "Validation (%)", "Test (%)"):
        columns += [(head, "right", "auto"), ("paper", "right", "auto")]
    columns += [("Active (%)", "right", "auto")]
    parts = [
        ("in the published table", [line(s) for s in results["summary"] if rows[s["gate"]]]),
        ("variants", [line(s) for s in results["summary"] if not rows[s["gate"]]]),
    ]
    return table(
        columns,
        [part for part in parts if part[1]],
        f"At the epoch of least validation error: {'mean over ' * several}{seeds}"
        f"{' ± half of Student’s 95 % interval' * several}, beside the"
        " published value (one run, no error given). Loss in nats, with noise; errors and the share of open gates"
        " without noise.",
    )


def as_published(found: float, key: str) -> str:
    """With the digits of the paper."""
    return typeset(f"{found:.1e}") if key == "train_nll" else f"{found:.2f}"


def differences(results: Row, first: str, second: str, key: str) -> Row | None:
    """Mean difference of two gates over the seeds that both have, with Student's 95 % interval; None without two."""
    values: dict[str, dict[int, float]] = {first: {}, second: {}}
    for t in results["trainings"]:
        if t["gate"] in values:
            values[t["gate"]][t["seed"]] = t[key] if key == "train_nll" else t["modes"][t["mode"]][key]
    both = sorted(values[first].keys() & values[second].keys())
    if len(both) < 2:
        return None
    found = [values[first][s] - values[second][s] for s in both]
    half = float(stats.t.ppf(0.975, len(found) - 1)) * statistics.stdev(found) / math.sqrt(len(found))
    mean = statistics.fmean(found)
    return {"value": mean, "low": mean - half, "high": mean + half, "seeds": len(both)}


def verdict(found: Row) -> str:
    """Which of two is lower."""
    return "first" if found["high"] < 0 else "second" if found["low"] > 0 else "undecided"


def compared_words(results: Row) -> list[str]:
    """What the differences say."""
    decided = [d for *pair, _ in COMPARED if (d := differences(results, *pair)) and verdict(d) != "undecided"]
    known = [d for *pair, _ in COMPARED if (d := differences(results, *pair))]
    if not known:
        return ["With one seed of each gate no two gates can be compared."]
    return [f"Of {len(known)} comparisons between gates on equal seeds {len(decided)} are decided at 95 %, one by one."]


def compared_table(results: Row) -> list[Block]:
    """Gates two by two."""
    rows = []
    for first, second, key, said in COMPARED:
        if found := differences(results, first, second, key):
            digits = (found["high"] - found["low"]) / 3.92
            ends = " to ".join(rounded(found[k], digits, most=3) for k in ("low", "high"))
            difference = f"{rounded(found['value'], digits, most=3)} [{ends}]"
            word = {"text": verdict(found), "tone": "open" if verdict(found) == "undecided" else "calm"}
            rows.append([pair(first, second), CRITERIA[key], difference, word, muted(said or ABSENT)])
    if not rows:
        return []
    columns = [("First and second", "left", "1fr"), ("by", "left", "auto"), ("Difference", "right", "auto")]
    columns += [("Better", "left", "auto"), ("in the paper", "left", "auto")]
    return [table(columns, [("", rows)], "First minus second, mean over equal seeds with Student's 95 % interval.")]


def pair(first: str, second: str) -> str:
    """Two gates of one kind by what tells them apart."""
    kind, names = next((k, names) for k, names in draw.FAMILIES.items() if first in names)
    return f"{kind}: {names[first]}, {names[second]}"


def modes_table(results: Row) -> Block:
    """Test error by how gates are evaluated."""
    modes = ("mean", "threshold", "drawn")
    rows = []
    for gate in results["gates"]:
        own = [t["modes"] for t in results["trainings"] if t["gate"] == gate["name"]]
        if own:
            errors = [[m[mode]["test_error"] for m in own if mode in m] for mode in modes]
            active = [[100 * m[mode]["test_active"] for m in own if mode in m] for mode in modes]
            cells = [
                rounded(statistics.fmean(v), most=3) if v else ABSENT
                for pair in zip(errors, active, strict=True)
                for v in pair
            ]
            rows.append([gate["label"], *(c if k % 2 == 0 else muted(c) for k, c in enumerate(cells)), gate["mode"]])
    columns = [("Gate", "left", "1fr")]
    for mode in ("Mean", "Threshold", "Drawn"):
        columns += [(mode, "right", "auto"), ("open (%)", "right", "auto")]
    columns += [("Used above", "left", "auto")]
    return table(
        columns,
        [("", rows)],
        "Test error in per cent by what takes the place of the gates' draws: their mean; 1 or the mean where a score"
        " exceeds a threshold tuned on validation examples, else 0; or one draw. Beside it the share of gates that are"
        " not zero.",
    )


# ---------------------------------------------------------------------- gradients
def gradients(study: Study, results: Row) -> list[Block]:
    """Bias, variance and cosine at the gates along the trainings."""
    if not results.get("trajectory"):
        return [text(f"The gradients along the trainings have not been measured yet: {STUDY} measures them.")]
    found = Trajectory.from_json(json.dumps(results["trajectory"]))
    blocks = [
        text(
            "Before, midway and at the end of the first training with each gate the gradient of the gater's weights was"
            " held against the truth, with the images held fixed. For binary gates the three rules were measured at"
            " the same weights, whichever rule trained them. The cost of activity has an ordinary gradient and is left"
            " out.",
            quality_words(found),
        )
    ]
    losses = histories(results, "train_nll")
    for squared in (False, True):
        points = [p for p in found.points if p.trained_with.endswith(SQUARED) == squared]
        if not points:
            continue
        what = (
            "the squared distance to the one-hot label" if squared else "the cross entropy, which they were trained on"
        )
        blocks.append(
            study.figure(
                draw.quality(columns_of(points), losses, [c.title for c in QUALITIES]),
                "Loss, relative bias, variance and cosine of the gates' gradients at three epochs of each training.",
                f"All weights of the gater, for {what}. {truths_of(points)} A column is a training, a line a rule; 95 %"
                " intervals. A bias that cannot be judged is left out.",
            )
        )
    return blocks


def truths_of(points: Sequence[Point]) -> str:
    """What the gradients were held against, by kind of gate where it differs."""
    kinds: dict[str, dict[str, None]] = {}
    for p in points:
        name = p.trained_with.removesuffix(SQUARED)
        kind = next((kind for kind, names in draw.FAMILIES.items() if name in names), name)
        kinds.setdefault(p.finding.truth, {})[kind] = None
    if len(kinds) == 1:
        return f"Truth: {next(iter(kinds))}."
    said = "; ".join(f"for {listed(own)} {truth}" for truth, own in kinds.items())
    return f"Truth: {said}."


def at_full_width(study: Study, paper: Row) -> list[Block]:
    """Gradients of the network of the paper's size, held against the closed form."""
    if not paper.get("trajectory"):
        return []
    setting, name = paper["setting"], labels(paper)
    points = [
        p for p in Trajectory.from_json(json.dumps(paper["trajectory"])).points if p.trained_with.endswith(SQUARED)
    ]
    if not points:
        return []
    seeds = {t["seed"] for t in paper["trainings"]}
    ends = [
        f"{name[t['gate']]} {rounded(t['history']['valid_error'][-1])} %" for t in paper["trainings"] if not t["seed"]
    ]
    replicates = {p.finding.replicates for p in points}
    runs = f"{len(seeds)} seed{'s' * (len(seeds) > 1)}"
    caption = f"{count(setting['gates'])} gates, {count(setting['epochs'])} epochs, {runs}."
    columns = [("Epoch", "right", "auto"), ("Rule", "left", "1fr")]
    columns += [(f"{what}, {layer}", "right", "auto") for what in ("Bias (%)", "Cosine") for layer in LAYERS]
    columns += [("Verdict", "left", "auto")]
    parts = []
    for trained in dict.fromkeys(p.trained_with for p in points):
        rows = []
        for p in sorted((p for p in points if p.trained_with == trained), key=lambda p: (p.estimator, p.step)):
            places = [p.finding.row(level) for level in LAYERS.values()]
            cells = [*map(bias_percent, places), *(cosine(row, "mean_cosine") for row in places)]
            rows.append([count(p.step), p.estimator, *cells, chip(p.finding.verdict, p.finding.claim is False)])
        parts.append((f"trained with {name[trained.removesuffix(SQUARED)]}", rows))
    return [
        heading("At the paper’s width"),
        text(
            f"The same with {count(setting['gates'])} gates and {count(setting['hidden'])} units of the gater, the"
            f" paper’s width, on {DATA.get(setting['data'], setting['data'])}: {count(setting['epochs'])} epochs, where"
            f" the paper has hundreds, and {runs} of some of the gates. At the squared loss the truth is a closed form"
            " at this width as well. Each rule is measured with"
            f" {listed(map(count, sorted(replicates)))} draws. Validation errors at the end: {', '.join(ends)}."
        ),
        study.figure(
            draw.quality(columns_of(points), histories(paper, "train_nll"), [c.title for c in QUALITIES]),
            "Loss, relative bias, variance and cosine of the gates' gradients at the paper's width.",
            f"{caption} All weights of the gater, for the squared distance to the one-hot label. {truths_of(points)} A"
            " bias that cannot be judged is left out.",
        ),
        table(
            columns,
            parts,
            f"{caption} Relative bias, and cosine of a draw with the truth: at the gates’ pre-activations, and in all"
            " weights of the gater. A dash stands for a bias that cannot be judged.",
        ),
    ]


LAYERS = {"gates": "site", "gater": "total"}


class Quality:
    """What is read off a finding for a row of panels."""

    def __init__(self, title: str, key: str, scale: float = 1):
        self.title, self.key, self.scale = title, key, scale

    def spot(self, p: Point) -> Spot:
        """At the epoch of a point."""
        row = p.finding.total
        if row is None or (self.key == "relative_bias" and blind(row)):
            return Spot(p.step, math.nan)
        return Spot(p.step, *(self.scale * v for v in estimate(row, self.key)))


QUALITIES = (
    Quality("relative bias (%)", "relative_bias", 100),
    Quality("variance", "variance"),
    Quality("cosine", "mean_cosine"),
)


def columns_of(points: Sequence[Point]) -> dict[str, list[dict[str, list[Spot]]]]:
    """By training: for each quality the lines of its rules."""
    found: dict[str, list[dict[str, list[Spot]]]] = {}
    for p in sorted(points, key=lambda p: p.step):
        column = found.setdefault(p.trained_with.removesuffix(SQUARED), [{} for _ in QUALITIES])
        for quality, own in zip(QUALITIES, column, strict=True):
            own.setdefault(p.estimator, []).append(quality.spot(p))
    return found


def quality_words(found: Trajectory) -> str:
    """Which rules were found to be biased."""
    names = dict.fromkeys(p.estimator for p in found.points)
    said = []
    for name in names:
        own = [p for p in found.points if p.estimator == name]
        biased = sum(p.finding.verdict.startswith("biased") for p in own)
        said.append(f"{name} {biased} of {len(own)}")
    return f"Points at which a bias was found: {', '.join(said)}."


def every_gradient(results: Row) -> tuple[str, Block] | None:
    """Title and table of all points; None where nothing was measured."""
    if not results.get("trajectory"):
        return None
    points, name = Trajectory.from_json(json.dumps(results["trajectory"])).points, labels(results)
    columns = [("Epoch", "right", "auto"), ("Rule", "left", "1fr"), ("Bias (%)", "right", "auto")]
    columns += [("Variance", "right", "auto"), ("Cosine of a draw", "right", "auto"), ("of the mean", "right", "auto")]
    columns += [("Verdict", "left", "auto")]
    parts = []
    for trained in dict.fromkeys(p.trained_with for p in points):
        rows = [
            [
                count(p.step),
                p.estimator,
                bias_percent(p.finding.total),
                value(p.finding.total, "variance"),
                cosine(p.finding.total, "mean_cosine"),
                cosine(p.finding.total, "cosine_of_mean"),
                chip(p.finding.verdict, p.finding.claim is False),
            ]
            for p in sorted((p for p in points if p.trained_with == trained), key=lambda p: (p.estimator, p.step))
        ]
        own = trained.removesuffix(SQUARED)
        squared = " and measured at the squared loss" if trained.endswith(SQUARED) else ""
        parts.append((f"trained with {name.get(own, own)}{squared}", rows))
    words = (
        "All weights of the gater; the verdict is over the gates and both layers. A dash stands for a bias that cannot"
        " be judged."
    )
    return "Every gradient that was measured", table(columns, parts, words)


# ---------------------------------------------------------------------- saving
def saving(study: Study, found: Row | None) -> list[Block]:
    """Multiply-adds and time with the inactive experts skipped."""
    if not found:
        return [text(f"The saving has not been timed yet: {STUDY} times it.")]
    load, formulas = found["workload"], found["formulas"]
    return [
        text(
            f"The paper expects a saving and does not measure one: its code multiplies all experts by their gates."
            f" Here closed experts are skipped, at {count(load['inputs'])} inputs, {count(load['gates'])} gates of"
            f" which {percent(load['alpha'])} are open, and {load['classes']} classes; the forward pass in float32"
            " on one thread.",
            f"By counting, a gater of {count(load['hidden'])} units makes the conditional net"
            f" {rounded(formulas['conditional'] / formulas['ungated'])} times the dense net without gates and"
            f" {rounded(formulas['conditional'] / formulas['gated'])} times the dense net with gates. It saves against"
            f" the former up to a width of {count(formulas['break_even'])}, and from"
            f" {count(formulas['gater_equals_experts'])} units on the gater costs more than the experts it picks.",
            *saving_words(found),
            "Time is that of the processor, which is wall time on a core of its own; on the machine at hand wall time"
            f" was {rounded(found['wall'], most=2)} times as long in all. Whether all this comes without important loss"
            " of accuracy is not judged: a net without gates, all of whose experts are computed, was not trained.",
        ),
        study.figure(
            draw.saved(found),
            "Multiply-adds and time of an example against the width of the gater, with and without skipping.",
            "a, counted by formula; the vertical line is the break-even with the dense net without gates. Others:"
            f" processor time, median of {load['repeats']} rounds with its 95 % interval, by the number of examples at"
            " once."
            " “masked” computes all experts and multiplies them by the gates; “select”, “gather” and “sampled” skip"
            " the closed ones.",
        ),
        saving_table(found),
    ]


def saving_words(found: Row) -> list[str]:
    """Break-even as timed, for each batch."""
    said = []
    for row in found["break_even"]:
        examples = f"{row['batch']} example{'s' * (row['batch'] > 1)} at once"
        if row["value"] is None or not math.isfinite(row["value"]):
            said.append(f"With {examples} the fastest way to skip ({row['way']}) is {everywhere(found, row)}.")
        else:
            said.append(
                f"With {examples} the break-even of time is at {count(row['value'])} [{within(found, row)}] units"
                f" ({row['way']})."
            )
    return said


def within(found: Row, row: Row) -> str:
    """The interval of a break-even, as far as widths were timed."""
    first, last = found["workload"]["widths"][0], found["workload"]["widths"][-1]
    low = f"below {count(first)}" if row["low"] is None or row["low"] < first else count(row["low"])
    high = f"above {count(last)}" if row["high"] is None or row["high"] > last else count(row["high"])
    return f"{low} to {high}"


def everywhere(found: Row, row: Row) -> str:
    """Whether a way to skip is slower or faster than the dense net without gates at all widths that were timed."""
    times = [t for t in found["times"] if t["batch"] == row["batch"]]
    dense = next(t["microseconds"]["value"] for t in times if t["way"] == "ungated")
    slower = [t["microseconds"]["value"] > dense for t in times if t["way"] == row["way"]]
    if any(slower) and not all(slower):
        return "slower at some widths that were timed and faster at others"
    return f"{'slower' if all(slower) else 'faster'} at every width that was timed"


def saving_table(found: Row) -> Block:
    """Time over that of the dense nets."""
    counted = {c["way"]: c["multiply_adds"] for c in found["counted"]}
    plain = counted.get("ungated", math.nan)

    def ratio(row: Row) -> str:
        known = row["low"] is not None and row["low"] < row["high"]
        ends = f" [{rounded(row['low'], most=3)} to {rounded(row['high'], most=3)}]" if known else ""
        return f"{rounded(row['value'], most=3)}{ends}"

    parts = []
    for batch in dict.fromkeys(r["batch"] for r in found["ratios"]):
        rows = [
            [r["way"], number(counted.get(r["way"], math.nan) / plain), ratio(r["ungated"]), ratio(r["gated"])]
            for r in found["ratios"]
            if r["batch"] == batch
        ]
        parts.append((f"{batch} example{'s' * (batch > 1)} at once", rows))
    columns = [("Way", "left", "auto"), ("Multiply-adds / ungated", "right", "1fr")]
    columns += [("Processor time / ungated", "right", "1fr"), ("Processor time / masked", "right", "1fr")]
    return table(
        columns,
        parts,
        f"With {count(found['workload']['hidden'])} units in the gater: multiply-adds of one example as counted by"
        " torch (a dash where it cannot see them), and processor time, as ratios with 95 %"
        " intervals from pairs of one round.",
    )


def number(found: float) -> str:
    """Three digits, or a dash."""
    return ABSENT if math.isnan(found) else rounded(found)


# ---------------------------------------------------------------------- method
def method(results: Row) -> list[Block]:
    """Data, settings, conventions."""
    conventions = text(
        "Conventions. A unit gradient is that of one example's loss; the loss of a minibatch is the mean over its"
        " examples, and so are the gradients of experts, softmax and of the gates that are backpropagated through. The"
        " authors' code sums the score function's term over the minibatch of 32 instead (“batch sum”), 32 times the"
        " gradient of the mean (“batch mean”), and takes a gater's learning rate a hundred times smaller: in the"
        " convention of the mean it is three times smaller. The cost of activity has the same gradient in both; so with"
        " 32 times the rate and λ / 32 the batch mean is the training of the batch sum, step for step. What was trained"
        " as batch mean has the rate and λ of the batch sum: it follows the loss 32 times more slowly, and holds to the"
        " activity aimed at 32 times as strongly in proportion. The running averages of the baseline"
        " are those before the minibatch; averages that contain it would bias the estimate."
    )
    if not results:
        return [conventions]
    setting, examples = results["setting"], results["examples"]
    published = results["published"]
    rows = [
        ["data", DATA.get(setting["data"], setting["data"]), "MNIST"],
        [
            "training, validation and test examples",
            " + ".join(count(examples[k]) for k in ("train", "valid", "test")),
            "not stated",
        ],
        ["gates and experts", count(setting["gates"]), count(2000)],
        ["units of the gater", count(setting["hidden"]), "400"],
        ["epochs", count(setting["epochs"]), "hundreds"],
        ["minibatch", str(setting["batch"]), "32"],
        ["learning rate", f"{rounded(setting['rate'])}, constant", "0.1, decay not stated"],
        ["largest norm of a unit's incoming weights", rounded(setting["norm"]), "2 in most cases"],
        ["activity aimed at", percent(setting["target"]), "10 %"],
        ["seeds", listed(map(str, sorted({t["seed"] for t in results["trainings"]}))), "one run each"],
    ]
    columns = [("Gate", "left", "1fr"), ("Gates", "right", "auto"), ("Noise", "left", "auto"), ("Cost", "left", "auto")]
    columns += [
        ("λ", "right", "auto"),
        ("Rate of gater", "right", "auto"),
        ("Momentum", "right", "auto"),
        ("Evaluated by", "left", "auto"),
    ]
    gates = [
        [
            g["label"],
            count(g["units"]),
            ", ".join(g["noise"]) or "none",
            {"kl": "KL", "l1": "L1, adapted", "": "none"}[g["sparsity"]],
            rounded(g["options"].get("penalty", 0)) if g["sparsity"] else ABSENT,
            f"× {rounded(g['options'].get('rate', 1))}",
            rounded(g["options"].get("momentum", 0)),
            g["mode"],
        ]
        for g in results["gates"]
    ]
    return [
        table(
            [("Setting", "left", "auto"), ("Here", "left", "1fr"), ("In the paper", "left", "1fr")],
            [("", rows)],
            "What was trained, beside what the paper trained.",
        ),
        table(columns, [("", gates)], "The gates. λ: weight of the cost of activity, at first where it is adapted."),
        conventions,
        text(f"The published numbers: {published['source']}. Not known of them: {published['caution']}."),
        *(text(f"Not trained: {f['gate']}, seed {f['seed']}: {f['reason']}.") for f in results["failures"]),
    ]
