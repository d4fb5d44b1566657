"""The results of the study along training as a PDF: a pure function of reports/trajectory.json."""

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

from estimator_lab.finding import Row
from estimator_lab.report.figures import trajectory as draw
from estimator_lab.report.reading import blind, estimate, gated, group_name, known, shows_bias
from estimator_lab.report.rounding import ABSENT, count, rounded
from estimator_lab.report.story import Block, chip, table, text
from estimator_lab.report.study import Study, method
from estimator_lab.report.wording import cosine, listed, needed, percent, value
from estimator_lab.trajectories import Point, Trajectory

INTERVALS = (
    "intervals of the bias hold for all pairs together. The verdict is over all layers and sites, and the place is that"
    " of the largest bias found, with its own number"
)


class Course:
    """The trajectory, and the parts that sections are made of."""

    def __init__(self, found: Trajectory):
        self.found, self.first, self.last = found, found.steps[0], found.steps[-1]
        self.reference = max(found.trainings, key=lambda name: len(found.of(trained_with=name)))
        self.along = found.of(trained_with=self.reference)
        self.own = [p for p in found.points if p.trained_with == p.estimator]
        self.names = found.estimators
        self.runs = 1 + max(s.run for s in found.losses)
        self.costs = {p.estimator: p.finding.losses for p in found.points}

    def at(self, points: Sequence[Point], estimator: str, step: int) -> Row | None:
        """The total of an estimator at a step; None where it could not be measured."""
        return next((p.finding.total for p in points if (p.estimator, p.step) == (estimator, step)), None)

    def final(self, on: str, name: str) -> list[float]:
        """Losses after the last step, of every run."""
        return [s.value.value for s in self.found.losses if (s.on, s.trained_with, s.step) == (on, name, self.last)]


def mean(values: Sequence[float]) -> float:
    """Nan without values."""
    return sum(values) / len(values) if values else math.nan


def spread(values: Sequence[float]) -> str:
    """Mean and range."""
    shown = f"{mean(values):.3f}"
    return shown if len(values) < 2 else f"{shown} [{min(values):.3f} to {max(values):.3f}]"


# ---------------------------------------------------------------------- words
def change_words(c: Course, points: Sequence[Point]) -> str:
    """How noise and cosine of the estimators went from the first checkpoint to the last."""
    ends = {n: (c.at(points, n, c.first), c.at(points, n, c.last)) for n in c.names}
    both = {n: (first, last) for n, (first, last) in ends.items() if first is not None and last is not None}
    if not both:
        return "No estimator was measured at both ends."
    noise = {n: estimate(last, "variance")[0] / estimate(first, "variance")[0] for n, (first, last) in both.items()}
    ratios = [r for r in noise.values() if math.isfinite(r)]
    changed = (
        f"the variance of one draw is {rounded(min(ratios), most=2)} to {rounded(max(ratios), most=2)} times that at"
        f" step {c.first}, and "
        if ratios
        else ""
    )
    cosines = [
        f"{n} {cosine(first, 'mean_cosine')} to {cosine(last, 'mean_cosine')}" for n, (first, last) in both.items()
    ]
    return (
        f"At step {count(c.last)} {changed}the cosine of one draw with the true gradient has gone from that at step"
        f" {c.first} to: {'; '.join(cosines)}."
    )


def bias(row: Row) -> str:
    """The relative bias in per cent with its simultaneous interval, all to one decimal."""
    if blind(row):
        return ABSENT
    size = f"{100 * estimate(row, 'relative_bias')[0]:.1f}"
    if known(row):
        return f"{size} (exact)"
    return f"{size} [{100 * row.low:.1f} to {100 * row.high:.1f}]" if gated(row) else size


def where_found(p: Point) -> Row | None:
    """The group with the largest of the biases that were found."""
    rows = [r for r in p.finding.rows if r.tested and shows_bias(r)] if p.finding.verdict.startswith("biased") else []
    return max(rows, key=lambda r: estimate(r, "relative_bias")[0], default=None)


def short(row: Row) -> str:
    """A group in a table."""
    return f"{row.name} units" if row.level == "site" else group_name(row)


def nothing_found(p: Point) -> bool:
    """Whether an estimator that claims no bias showed none, without being shown to have none."""
    return p.finding.claim is True and p.finding.verdict == "undecided"


def open_words(points: Sequence[Point]) -> str:
    """What it would take to decide where no bias was found of unbiased estimators."""
    rows = [r for p in points if nothing_found(p) for r in p.finding.rows if r.tested and r.verdict == "undecided"]
    draws = [r.needed for r in rows if r.needed]
    truths = [r.truth_needed for r in rows if r.truth_needed]
    if not rows:
        return ""
    takes = [
        f"{needed(median(found))} draws of {of} in half of these groups and {needed(max(found))} in all of them"
        for found, of in ((draws, "the estimator"), (truths, "the truth"))
        if found
    ]
    enough = f" To decide would take {', or, where the truth is too noisy, '.join(takes)}." if takes else ""
    return (
        "“None found” stands for an estimator that claims no bias and showed none, while in some group a bias above the"
        f" margin cannot be excluded.{enough}"
    )


def biased(c: Course, points: Sequence[Point]) -> dict[str, list[int]]:
    """At which steps each estimator was found to be biased."""
    found: dict[str, list[int]] = {name: [] for name in dict.fromkeys(p.estimator for p in points)}
    for p in points:
        if p.finding.verdict.startswith("biased"):
            found[p.estimator].append(p.step)
    return found


def verdict_words(c: Course, points: Sequence[Point]) -> str:
    """Where a bias was found along one training."""
    found, steps = biased(c, points), len({p.step for p in points})
    never = [name for name, where in found.items() if not where]
    said = [
        f"of {name} at {'all' if len(where) == steps else len(where)} {steps if len(where) == steps else f'of {steps}'}"
        " checkpoints"
        for name, where in found.items()
        if where
    ]
    none = f"in none of the checkpoints of {listed(never)}" if never else ""
    return (f"A bias was found {', '.join(said)}" if said else "No bias was found") + (
        f", and {none}." if said and none else "."
    )


def ranking(c: Course) -> list[str]:
    """Training estimators by their final loss on held-out examples, best first."""
    return sorted((n for n in c.found.trainings if c.final("held-out", n)), key=lambda n: mean(c.final("held-out", n)))


def overlapping(c: Course, on: str = "held-out") -> list[list[str]]:
    """Trainings in order of their mean final loss, those together whose ranges over the runs form one stretch."""
    groups: list[list[str]] = []
    reach = -math.inf
    for name in sorted(ranking(c), key=lambda n: min(c.final(on, n))):
        ends = c.final(on, name)
        if groups and min(ends) <= reach:
            groups[-1].append(name)
        else:
            groups.append([name])
        reach = max(reach, *ends)
    order = ranking(c)
    return [sorted(g, key=order.index) for g in groups]


def headline(c: Course) -> str:
    """Which trainings are not told apart."""
    scope = f"after {count(c.last)} steps at one learning rate"
    if c.runs < 2:
        return f"One run each: no training is distinguished from another {scope}."
    groups = overlapping(c)
    same = [listed(g) for g in groups if len(g) > 1]
    if not same:
        return f"Ranges of the held-out loss over {c.runs} seeds are disjoint {scope}."
    return f"Trainings with {'; and those with '.join(same)} are not distinguished {scope}."


def ranked_words(c: Course) -> str:
    """Final losses on held-out examples, by stretches of overlapping ranges, with what a step costs."""
    said = []
    for group in overlapping(c):
        ends = [v for n in group for v in c.final("held-out", n)]
        said.append(f"{listed(f'{n} ({losses_of(c, n)})' for n in group)} {min(ends):.3f} to {max(ends):.3f}")
    seeds = f"ranges over {c.runs} seeds; those that overlap together" if c.runs > 1 else "one run each"
    return (
        f"Expected loss on held-out examples after {count(c.last)} steps in nats ({seeds}; in brackets what a step"
        f" costs): {'; '.join(said)}."
    )


def losses_of(c: Course, name: str) -> str:
    """Evaluations of the loss that a step takes."""
    cost = rounded(c.costs.get(name, math.nan))
    return f"{cost} {'loss' if cost == '1' else 'losses'}"


def relation(c: Course) -> str:
    """Whether the quality of one draw along the reference's training orders the trainings as the losses do."""
    middle = c.found.steps[len(c.found.steps) // 2]
    rows = {n: c.at(c.along, n, middle) for n in ranking(c)}
    known = {n: estimate(row, "mean_cosine")[0] for n, row in rows.items() if row is not None}
    by_cosine = sorted(known, key=lambda n: -known[n])
    by_loss = [n for n in ranking(c) if n in known]
    if by_cosine == by_loss:
        same = "the same order as that of the mean held-out losses after training"
    else:
        same = f"not the order of the mean held-out losses after training, which is {listed(by_loss)}"
    return (
        f"At step {count(middle)} of the training with {c.reference} the estimators come, by the cosine of one draw "
        f"with the true gradient, in the order {listed(by_cosine)}: {same}. Where ranges over the runs overlap the"
        " order of the losses is not resolved."
    )


# ---------------------------------------------------------------------- sections
def question(study: Study, c: Course) -> list[Block]:
    """What was asked and how it was answered."""
    scheme = c.found.settings["trainings"][c.reference]
    return [
        text(
            "Does an estimator that is good at the first step of a training stay good, and does it matter? A"
            " classifier of 8×8 digits (64-32-32-10, two layers of Bernoulli units) was trained"
            f" {count(c.last)} steps with each of {listed(c.names)}: Adam with a step of 0.003, minibatches of 100,"
            " one draw of the estimator a step, the "
            f"same first weights in all trainings, {c.runs} seeds of minibatches and draws."
        ),
        study.figure(
            draw.training([s for s in c.found.losses if s.on == "held-out"], ["held-out"], c.costs),
            "Expected loss on held-out examples against the step and against evaluations of the loss.",
            f"Expected loss in nats on the held-out examples; mean over {c.runs} runs, and their range.",
        ),
        text(
            f"At {len(c.found.steps)} checkpoints every estimator was measured at the weights of the first training "
            f"with {c.reference}, and each one at the weights of its own first training, on a fixed batch of training "
            f"examples, by {count(scheme['budget']['replicates'])} draws against a truth that is itself estimated "
            f"({c.found.points[0].finding.truth}). Intervals in figures are separate ones of 95\u202f%; those"
            " of the bias in tables and words, and the verdicts, share one false-alarm rate of"
            f" {percent(scheme['alpha'])} over all {len(c.found.points)} pairs of estimator and checkpoint. "
            "Losses are expected losses over the draws of the network, on all training and all held-out examples."
        ),
    ]


def summary_table(c: Course, points: Sequence[Point], words: str) -> Block:
    """First, middle and last checkpoint."""
    steps = sorted({p.step for p in points})
    shown = list(dict.fromkeys([steps[0], steps[len(steps) // 2], steps[-1]]))
    columns = [("Estimator", "left", "auto"), ("Bias (%)", "right", "auto"), ("Variance", "right", "auto")]
    columns += [("Cosine", "right", "auto"), ("of mean", "right", "auto")]
    columns += [("Verdict", "left", "auto"), ("Found at (%)", "left", "1fr")]
    parts = [(f"step {count(s)}", [line(p) for p in points if p.step == s]) for s in shown]
    return table(columns, parts, words)


def line(p: Point) -> list[Any]:
    """One estimator at one checkpoint."""
    row, found = p.finding.total, where_found(p)
    verdict = {"text": "none found", "tone": "calm"} if nothing_found(p) else None
    return [
        p.estimator,
        bias(row),
        value(row, "variance"),
        cosine(row, "mean_cosine"),
        cosine(row, "cosine_of_mean"),
        verdict or chip(p.finding.verdict, p.finding.claim is False),
        f"{short(found)} {bias(found)}" if found else "",
    ]


def reference_section(study: Study, c: Course) -> list[Block]:
    """All estimators at the weights of one training."""
    return [
        text(
            f"All estimators at the same weights, those of a training with {c.reference}.",
            verdict_words(c, c.along),
            open_words(c.found.points),
        ),
        study.figure(
            draw.quality(c.along),
            "Six statistics of every estimator against the step of the reference training.",
            f"All weights together, at the weights of a training with {c.reference}; 95 % intervals.",
        ),
        summary_table(
            c, c.along, f"All weights together, at the weights of a training with {c.reference}; {INTERVALS}."
        ),
        study.figure(
            draw.quality_by_layer(c.along),
            "Bias, signal-to-noise ratio and cosine of the unit gradients of each layer against the step.",
            "Unit gradients of the first (h1) and the second (h2) stochastic layer, at the same weights.",
        ),
    ]


def own_section(study: Study, c: Course) -> list[Block]:
    """Each estimator at its own weights."""
    return [
        text(
            "Each estimator at the weights that it was itself used to train. Here estimators differ in where they are"
            " as well as in what they do there.",
            verdict_words(c, c.own),
        ),
        study.figure(
            draw.quality(c.own),
            "Six statistics of every estimator against the step of its own training.",
            "All weights together, each estimator along its own training; 95 % intervals.",
        ),
        summary_table(c, c.own, f"All weights together, each estimator along its own training; {INTERVALS}."),
    ]


def loss_section(study: Study, c: Course) -> list[Block]:
    """Losses along the trainings."""
    columns = [("Trained with", "left", "1fr"), ("Losses of a step", "right", "auto")]
    columns += [("Training examples", "right", "auto"), ("Held-out examples", "right", "auto")]
    rows = [
        [n, rounded(c.costs.get(n, math.nan)), spread(c.final("training", n)), spread(c.final("held-out", n))]
        for n in ranking(c)
    ]
    return [
        text(ranked_words(c), relation(c)),
        study.figure(
            draw.training([s for s in c.found.losses if s.on == "training"], ["training"], c.costs),
            "Expected loss on training examples against the step and against evaluations of the loss.",
            f"Expected loss in nats on the training examples; mean over {c.runs} runs, and their range.",
        ),
        table(
            columns,
            [("", rows)],
            f"Expected loss in nats after {count(c.last)} steps, mean [range] over runs. A step costs as many"
            " evaluations of the loss as the second column says.",
        ),
    ]


def every_point(c: Course) -> Block:
    """All of it."""
    columns = [("Step", "right", "auto"), ("Estimator", "left", "auto"), ("Bias (%)", "right", "auto")]
    columns += [("Variance", "right", "auto"), ("Cosine", "right", "auto")]
    columns += [("of mean", "right", "auto"), ("Verdict", "left", "auto"), ("Found at (%)", "left", "1fr")]
    parts = [
        (f"trained with {name}", [[count(p.step), *line(p)] for p in c.found.of(trained_with=name)])
        for name in c.found.trainings
    ]
    return table(columns, parts, f"All weights together, at every checkpoint; {INTERVALS}.")


def render(found: Trajectory) -> bytes:
    """The PDF."""
    c = Course(found)
    scheme = found.settings["trainings"][c.reference]
    estimators = {p.finding.estimator: p.finding for p in found.points}
    study = Study(
        kind="trajectory",
        title=found.title,
        subtitle=f"{listed(c.names)} on a classifier of digits",
        created=found.created,
        results=found.to_json(),
        command=found.command,
        facts=[
            ("Estimators", str(len(c.names))),
            ("Trainings", str(len(found.trainings) * c.runs)),
            ("Steps", count(c.last)),
            ("Checkpoints", str(len(found.steps))),
            ("Replicates", count(scheme["budget"]["replicates"])),
            ("Pairs", count(len(found.points))),
        ],
        headline=headline(c),
        lines=[
            ("", [ranked_words(c)]),
            (f"Along the training with {c.reference}", [verdict_words(c, c.along), change_words(c, c.along)]),
        ],
        methods=[method(name, f.about, f.claim) for name, f in estimators.items()],
        margin=scheme["margin"],
        alpha=scheme["alpha"],
        appendix=("Every checkpoint", every_point(c)),
        notes=[f"{f.estimator or 'the truth'} at step {f.step}, not measured: {f.reason}" for f in found.failures],
        environment=found.environment,
    )
    study.sections = [
        ("The question", question(study, c)),
        ("Estimators along one training", reference_section(study, c)),
        ("Each estimator along its own training", own_section(study, c)),
        ("What the trainings reach", loss_section(study, c)),
    ]
    return study.render()
