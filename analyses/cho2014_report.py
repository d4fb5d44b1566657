"""The study of Cho and Bengio (2014) as a PDF: a pure function of its saved claims and measurements."""

import datetime
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cho2014_figures as draw
from claims import Claim, load, read

from estimator_lab.report.claims import claims_table, tally_lines, tally_words
from estimator_lab.report.rounding import ABSENT, count, rounded
from estimator_lab.report.story import Block, chip, muted, table, text
from estimator_lab.report.study import Study
from estimator_lab.report.wording import duration

Row = Mapping[str, Any]
LACKING = "{} not there yet: {} makes them."
NOTHING = 1e-8  # what rounding and quadrature leave
PARTS = {"capacity", "credit", "boundary", "digits"}
SHOWN_DEPTHS = (1, 2, 4, 6, 8, 10, 12)


def report(folder: Path) -> Path:
    """Writes ``cho2014.pdf`` from ``cho2014_claims.json`` and ``cho2014.json`` of one folder, and returns its path.

    Either file may be missing, and any part of the second; the report then says so in the place of its sections.

    Raises:
        UsageError: a file cannot be read, or holds something else.
    """
    measured, claimed = folder / "cho2014.json", folder / "cho2014_claims.json"

    def ours(found: Any) -> bool:
        return isinstance(found, dict) and "quick" in found and not PARTS.isdisjoint(found)

    results = read(measured, ours, "analyses/cho2014.py") if measured.exists() else {}
    path = folder / "cho2014.pdf"
    path.write_bytes(render(load(claimed) if claimed.exists() else [], results))
    return path


def render(claims: Sequence[Claim], results: Mapping[str, Any]) -> bytes:
    """The PDF."""
    created = results.get("created") or datetime.datetime.now(datetime.UTC).date().isoformat()
    study = Study(
        kind="founding papers",
        title="Tree-structured weights, claim by claim",
        subtitle="Cho and Bengio 2014, arXiv:1406.7362",
        created=created[:10],
        results=json.dumps([[c.__dict__ for c in claims], results], sort_keys=True, default=list),
        command=results.get("command", "python analyses/cho2014.py"),
        facts=facts(claims, results),
        headline=headline(claims),
        lines=[(title, tally_lines(own)) for _, _, title, own in sorted_out(claims)],
        appendix=every_rule(results.get("credit")),
        environment={"machine": results["machine"]} if "machine" in results else {},
    )
    picture = study.figure(
        draw.tree(),
        "A binary tree of three levels; the path of the bits 1, 0, 1 is marked and its three vectors are added.",
        "One unit j with k = 3. Each bit is the sign of a gating unit. The bits choose one node on every level; the"
        " vectors of these nodes add up to the unit's row of weights. 14 vectors are stored and 3 are read.",
    )
    by_depth: Any = next((c.numbers for c in claims if c.id == "B7" and "after_visit" in c.numbers), None)
    lazy = study.figure(
        draw.decay(by_depth),
        "A weight under eager and lazy decay, equal at every visit; and what decay does to a node by its depth.",
        "a, an example of weight decay done in every step and on demand: the two are equal whenever the node is"
        " visited. "
        + (
            "b, the size of a vector whose visits come regularly, every 2ˡ steps, with equal pushes."
            if by_depth
            else "b, the factor (1 − ελ) to the power 2ˡ by which a node at depth l shrinks in 2ˡ steps, the mean time"
            " between visits with fair and independent bits."
        ),
    )
    parts = {
        "capacity": capacity(study, results.get("capacity")),
        "credit": credit(study, results.get("credit"), results.get("boundary")),
        "digits": digits(study, results.get("digits")),
    }
    seen = {
        "B1": parts["capacity"],
        "B2": parts["capacity"],
        "B6": [lazy],
        "B7": [lazy],
        "B3": [picture],
        "B4": [picture],
    }
    seen |= {"B8": parts["credit"], "B9": parts["credit"][::-1], "B10": parts["credit"], "B11": parts["credit"]}
    study.sections = [
        ("Claims", claimed(claims, {k: first_figure(v) for k, v in seen.items()})),
        ("Weights chosen by bits", [tree_words(), picture]),
        ("Capacity against computation", parts["capacity"] or lacking("The measurements of capacity are", results)),
        ("Decay on demand", [decay_words(), lazy]),
        ("Credit for the gates", parts["credit"] or lacking("The measurements of gates are", results)),
        ("Does the capacity help?", parts["digits"] or lacking("The trainings are", results)),
        ("What is reconstructed", reconstructed(claims)),
    ]
    return study.render()


def first_figure(blocks: Sequence[Block]) -> list[Block]:
    """The first figure among blocks, if there is one."""
    return [b for b in blocks if b["kind"] == "figure"][:1]


def lacking(what: str, results: Mapping[str, Any]) -> list[Block]:
    """In the place of a section that has not been measured."""
    return [text(LACKING.format(what, results.get("command", "python analyses/cho2014.py")))]


def facts(claims: Sequence[Claim], results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Below the title."""
    found = [("Statements", str(len(claims))), ("Reconstructed", str(sum(c.reconstruction for c in claims)))]
    if "seconds" in results:
        found.append(("Measured in", duration(results["seconds"])))
    if results.get("quick"):
        found.append(("Size", "toy (--quick)"))
    return found


def sorted_out(claims: Sequence[Claim]) -> list[tuple[str, str, str, list[Claim]]]:
    """What one is called, what several are, title and claims: of the abstract, and the rest; without empty kinds."""
    kinds = [
        ("claim of the abstract", "claims of the abstract", "In the abstract of the paper"),
        (
            "statement from reviews or reconstructed",
            "statements from reviews or reconstructed",
            "From reviews of the paper, or reconstructed",
        ),
    ]
    own = [[c for c in claims if c.reconstruction == k] for k in (False, True)]
    return [(*names, found) for names, found in zip(kinds, own, strict=True) if found]


def headline(claims: Sequence[Claim]) -> str:
    """A tally for every kind."""
    said = [tally_words(own, one, many) for one, many, _, own in sorted_out(claims)]
    return " ".join(said) or tally_words([], "claim")


def claimed(claims: Sequence[Claim], seen: Mapping[str, Sequence[Block]]) -> list[Block]:
    """The table of claims."""
    if not claims:
        return [text("The claims have not been tested yet: python analyses/cho2014_claims.py tests them.")]
    return [
        text(
            "The abstract of the paper was at hand, and reviews of it. What else it takes to compute with the idea"
            " (which bits are used, whether the tree has a root, how gates are trained) is a reconstruction, and is"
            " marked as one. Each verdict is computed from the numbers beside it."
        ),
        claims_table([(title, own) for _, _, title, own in sorted_out(claims)], "Claims, verdicts and evidence.", seen),
    ]


def tree_words() -> Block:
    """What the idea is."""
    return text(
        "In an ordinary layer every unit has one row of weights, and each parameter costs a multiplication. Here a"
        " unit has a table of rows, one for every prefix of a sequence of k bits, and the bits are signs of"
        " activations. An example reads k rows: with k = 8, of 510, so that the parameters double with every bit and"
        " the work grows in proportion to k. Prefixes are shared: two examples whose bits agree in the first m places"
        " have m rows in common."
    )


def decay_words() -> Block:
    """Lazy decay."""
    return text(
        "A node at depth l is on the path of one example in 2ˡ. To shrink all nodes in every step would cost as much"
        " as there are parameters. By the reviews of the paper, a node remembers when it was last touched, and"
        " gets the decay that is due when it is touched again. For plain gradient steps, T ← (1 − ελ) T − ε g, this is"
        " exact, if the decay of the steps in between comes first and the step itself is the usual one; for a schedule"
        " the product of the factors takes the place of the power. It does not hold for momentum or Adam."
    )


# ---------------------------------------------------------------------- capacity
def capacity(study: Study, found: Row | None) -> list[Block]:
    """Parameters, operations and time against the depth of the trees."""
    if not found:
        return []
    rows = found["rows"]
    return [
        text(
            f"Layers of {found['in_features']} to {found['out_features']} units, {found['batch']} examples at a time."
            " A dense layer of equal width has one row for each unit, one with equal parameters as many as the tree.",
            capacity_words(rows),
        ),
        study.figure(
            draw.capacity(rows),
            "Parameters, operations, their ratio and time of an example against the depth of the trees.",
            "Operations are additions and multiply-adds of an example, counted. Time is that of the processor, one"
            " thread, the median over"
            f" {found['repeats']} repeats with its 95 % interval; trees read rows from memory, dense layers do matrix"
            " products.",
        ),
        capacity_table(rows),
    ]


def capacity_words(rows: Sequence[Row]) -> str:
    """Ends of the range."""
    trees = [r for r in rows if r["layer"] == "tree"]
    plain = next((r for r in rows if r["layer"] == "dense, equal width"), None)
    if not trees or plain is None:
        return ""
    last = trees[-1]
    slower = last["forward_us"]["value"] / plain["forward_us"]["value"]
    said = (
        f"At depth {last['depth']} the tree has {count(last['parameters'] / plain['parameters'])} times the parameters"
        f" of a dense layer of equal width, and takes {rounded(last['operations'] / plain['operations'], most=3)} times"
        f" its operations and {rounded(slower, most=2)} times its time."
    )
    equal = [r for r in rows if r["layer"] == "dense, equal parameters"]
    if equal:
        wide = equal[-1]
        own = next(r for r in trees if r["depth"] == wide["depth"])
        said += (
            f" A dense layer with the parameters of the tree of depth {wide['depth']} takes"
            f" {rounded(wide['forward_us']['value'] / own['forward_us']['value'], most=2)} times the tree's time."
        )
    return said


def measure(found: Row) -> str:
    """A value with its interval."""
    return f"{rounded(found['value'], most=3)} [{rounded(found['low'], most=3)} to {rounded(found['high'], most=3)}]"


def capacity_table(rows: Sequence[Row]) -> Block:
    """Some depths."""
    columns = [("Depth k", "right", "auto"), ("Parameters", "right", "1fr"), ("Operations", "right", "1fr")]
    columns += [
        ("per operation", "right", "1fr"),
        ("forward (µs)", "right", "auto"),
        ("and backward (µs)", "right", "auto"),
    ]
    parts = []
    for layer in dict.fromkeys(r["layer"] for r in rows):
        own = [r for r in rows if r["layer"] == layer and r["depth"] in (0, *SHOWN_DEPTHS)]
        shown = [
            [
                count(r["depth"]) if r["depth"] else ABSENT,
                count(r["parameters"]),
                count(r["operations"]),
                rounded(r["parameters_per_operation"]),
                measure(r["forward_us"]),
                measure(r["both_us"]),
            ]
            for r in own
        ]
        parts.append((layer, shown))
    return table(columns, parts, "Counts and times of one example; times are medians with 95 % intervals.")


# ---------------------------------------------------------------------- credit
def credit(study: Study, found: Row | None, hard: Row | None) -> list[Block]:
    """Gradients for the gates, held against exact truth."""
    blocks: list[Block] = []
    if found:
        blocks += [
            text(
                "How should the gates learn, if their bits have no derivative? Each rule was held against the exact"
                f" gradient. {found['words']}"
            ),
            study.figure(
                draw.credit(found["rows"]),
                "Relative bias and cosine of the mean of every rule, by group of gradients.",
                "Bias of each rule relative to the norm of the true gradient, and cosine of its mean with the truth;"
                " a rule whose mean is zero has no cosine. All numbers are in the last table.",
            ),
        ]
        if found.get("rectifier_levels"):
            blocks += [levels(found["rectifier_levels"])]
    if hard:
        blocks += [
            text(
                "A hard gate on a continuous input has a gradient although its bit has no derivative: moving the"
                " threshold moves examples from one branch to the other, and each of them jumps from one loss to the"
                f" other. In the example of one gate the truth is {rounded(hard['truth'])}, and backpropagation through"
                " the selected vectors gives 0. A gate made random at a temperature τ has an unbiased estimate of its"
                " own gradient, which comes close to this as τ falls, while a single draw gets noisier."
                + rules_words(hard)
            ),
            study.figure(
                draw.boundary(hard["rows"], hard["truth"]),
                "Mean and standard deviation of the estimate of a smoothed gate against its temperature.",
                "One gate, b = 1[x > θ] with normal x, made random: b is 1 with probability s((x − θ) / τ).",
            ),
        ]
    return blocks


def rules_words(hard: Row) -> str:
    """What the rules give for the hard gate itself."""
    said = [f"“{r['rule']}” {number(r['mean'])}" for r in hard.get("rules", ())]
    return f" On average the rules give the hard gate itself: {', '.join(said)}." if said else ""


def number(value: float | None, scale: float = 1) -> str:
    """Three digits, zero if that is what it is to rounding, or a dash."""
    if value is None or math.isnan(value):
        return ABSENT
    return "0" if abs(value) < NOTHING else rounded(scale * value)


def every_rule(found: Row | None) -> tuple[str, Block] | None:
    """Title and table of all rules and groups; None where nothing was measured."""
    if not found:
        return None
    rows = found["rows"]
    columns = [("Rule", "left", "1fr"), ("Gradient of", "left", "auto"), ("Bias (%)", "right", "auto")]
    columns += [("Cosine of mean", "right", "auto"), ("of a draw", "right", "auto"), ("Variance", "right", "auto")]
    columns += [("Verdict", "left", "auto"), ("by", "left", "auto")]
    parts = []
    for gates in dict.fromkeys(r["gates"] for r in rows):
        own = [
            [
                r["rule"],
                r["group"],
                number(r["relative_bias"], 100),
                number(r["cosine_of_mean"]),
                number(r["cosine"]),
                number(r["variance"]),
                chip(r["verdict"]),
                muted("sums" if r["how"] == "exact" else "draws"),
            ]
            for r in rows
            if r["gates"] == gates
        ]
        parts.append((f"{gates} gates", own))
    words = "Gradients at the bits, of the gating units' weights and of the tables, against the truth."
    return "Every rule for the gates in numbers", table(columns, parts, words)


def levels(rows: Sequence[Row]) -> Block:
    """Bias of the modulated gates by level."""
    columns = [
        ("Level of the gate", "right", "auto"),
        ("Bias found (%)", "right", "1fr"),
        ("By the jump (%)", "right", "1fr"),
    ]
    shown = [[count(r["level"]), number(r["relative_bias"], 100), number(r["boundary"], 100)] for r in rows]
    return table(
        columns,
        [("", shown)],
        "Noisy rectifiers that modulate the vectors: a gate's own vector fades in without a jump, but its bit also"
        " chooses among the deeper ones, and these jump. Relative bias of each gate's gradient, and what the jump"
        " alone accounts for; the numbers of claim B11 are those of one example.",
    )


# ---------------------------------------------------------------------- digits
def digits(study: Study, found: Row | None) -> list[Block]:
    """Trees and dense layers trained on digits."""
    if not found:
        return []
    columns = [("Model", "left", "1fr"), ("Parameters", "right", "auto"), ("Operations", "right", "auto")]
    columns += [
        ("Train loss", "right", "auto"),
        ("Train error (%)", "right", "auto"),
        ("Test error (%)", "right", "auto"),
    ]
    rows = [
        [
            r["model"],
            count(r["parameters"]),
            count(r["operations"]),
            measure(r["train_loss"]),
            measure(r["train_error"]),
            measure(r["test_error"]),
        ]
        for r in found["rows"]
    ]
    return [
        text(found["words"], digits_words(found["rows"])),
        study.figure(
            draw.digits(found["rows"]),
            "Training loss and test error of trees and dense layers against parameters and operations.",
            f"Means over {found['seeds']} seeds with 95 % intervals.",
        ),
        table(columns, [("", rows)], f"Means over {found['seeds']} seeds with 95 % intervals."),
    ]


def digits_words(rows: Sequence[Row]) -> str:
    """What became of the loss and the error from the shallowest tree to the deepest, and which net has the least."""
    trees = sorted((r for r in rows if r["depth"]), key=lambda r: r["depth"])
    if not trees:
        return ""
    first, last = trees[0], trees[-1]
    loss, error = (min((r[what]["value"], r["model"]) for r in rows)[1] for what in ("train_loss", "test_error"))
    return (
        f"From k = {first['depth']} to k = {last['depth']} the training loss of the trees goes from"
        f" {rounded(first['train_loss']['value'], most=3)} to {rounded(last['train_loss']['value'], most=3)} and their"
        f" test error from {measure(first['test_error'])} to {measure(last['test_error'])} %. The least training loss"
        f" is that of “{loss}”, the least test error that of “{error}”."
    )


def reconstructed(claims: Sequence[Claim]) -> list[Block]:
    """What is ours."""
    ours = [c.id for c in claims if c.reconstruction]
    return [
        text(
            "From the abstract and from reviews: weights switched on by bit patterns of activations, a tree of prefixes"
            " for every unit, a ratio of parameters to work that doubles with every bit but for a factor k, decay"
            " applied on demand, and the three ways to train gates (none, REINFORCE, a scheme after noisy rectifiers)."
            " It has no experiments."
        ),
        text(
            "Ours: rows are sums over the path, over l = 1 … k of T(j, first l bits), without a root unless it is asked"
            " for; k gating units of a layer are shared by all its units; the modulation of the vectors by noisy"
            " rectifiers; all networks, sizes and measurements; and the truths that the gates are held against."
            + (f" The claims marked as reconstruction are {', '.join(ours)}." if ours else "")
        ),
    ]
