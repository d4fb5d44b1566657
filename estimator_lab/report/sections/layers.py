"""Where an estimator is wrong, and where it is merely noisy: layer by layer, unit by unit."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from estimator_lab.report import figures
from estimator_lab.report.figures import standardised
from estimator_lab.report.reading import group_name, groups, relative_bias, signal_to_noise
from estimator_lab.report.rounding import count, rounded
from estimator_lab.report.story import Block, Story, text
from estimator_lab.report.wording import decibels, listed

if TYPE_CHECKING:
    from estimator_lab.finding import Finding

Map = tuple["Finding", str, str]  # finding, site, title


def layers(s: Story) -> list[Block]:
    """The noise of one finding by group; of several, heat maps of bias and noise."""
    if s.single:
        (f,) = s.findings
        found = sorted(
            (signal_to_noise(r)[0], k, r) for k, r in enumerate(groups(f)) if math.isfinite(signal_to_noise(r)[0])
        )
        noise = "No group has a finite signal-to-noise ratio."
        if found:
            (_, _, low), (_, _, high) = found[0], found[-1]
            noise = f"The signal-to-noise ratio of one replicate is lowest in {group_name(low)} ({decibels(low)} dB)"
            noise += f" and highest in {group_name(high)} ({decibels(high)} dB)." if low is not high else "."
        caption = "Signal-to-noise ratio of one replicate by group, with intervals."
        return [text(noise), s.figure(figures.spread(f), caption, caption)]
    out = [
        text(
            "Where an estimator is wrong, and where it is merely noisy: relative bias (the colour turns at the margin)"
            " and signal-to-noise ratio of a single replicate, by group."
        )
    ]
    for batch in [s.findings] if s.many else [s.on(p) for p in s.problems]:
        on = f" on {batch[0].problem_label}" if not s.many and len(s.problems) > 1 else ""
        out.append(
            s.figure(
                figures.heat_maps(batch, s.margin),
                f"Heat maps of relative bias and signal-to-noise ratio by estimator and group{on}.",
                f"a, relative bias (%){on}. b, signal-to-noise ratio of one replicate (dB){_signs(batch)}",
            )
        )
    return out


def _signs(findings: Sequence[Finding]) -> str:
    """The end of the caption of heat maps: what the signs mean that occur in them."""
    rows = [r for f in findings for r in groups(f)]
    ratios = [signal_to_noise(r)[0] for r in rows]
    off = ["groups without noise (∞)"] if math.inf in ratios else []
    off += ["those whose signal is not resolved (<)" if off else "groups whose signal is not resolved (<)"] * (
        -math.inf in ratios
    )
    columns = {(f.problem_label, group_name(r)) for f in findings for r in groups(f)}
    cells = {(f.estimator_label, f.problem_label, group_name(r)) for f in findings for r in groups(f)}
    signs = ["a dot is a group that the estimator does not have"] * (
        len(cells) < len({f.estimator_label for f in findings}) * len(columns)
    )
    if any(math.isnan(v) for v in [*ratios, *map(relative_bias, rows)]):
        signs.append("a cross is a value that is not estimable")
    said = ", ".join(signs)
    return f"{f'; off its scale are {listed(off)}' if off else ''}.{f' {said[0].upper()}{said[1:]}.' if said else ''}"


def units(s: Story) -> list[Block]:
    """Maps of standardised bias: all sites of one finding; else one site of each problem, of many the largest.

    Nothing where no unit gradients were recorded.
    """
    every = [(f, site) for f in s.findings for site in f.units]
    maps = [(f, site) for f, site in every if not np.isnan(standardised(f, site)).all()]
    if not maps:
        return [text("No unit gradient has an error or a noise.")] if every else []
    if s.single:
        return _maps(s, [(f, site, site) for f, site in maps], "", [])
    first = {p: next((site for f, site in maps if f.problem_label == p), "") for p in s.problems}
    chosen = [(p, site) for p, site in first.items() if site]
    if s.many:
        sizes = {(f.problem_label, site): f.units[site].mean.size for f, site in maps}
        chosen = [max(sizes, key=lambda key: sizes[key])]
    out = []
    for p, site in chosen:
        batch = [(f, where, f.estimator_label) for f, where in maps if (f.problem_label, where) == (p, site)]
        still = [f.estimator_label for f in s.on(p) if site in f.units and np.isnan(standardised(f, site)).all()]
        out += _maps(s, batch, f" Site {site} of {p}.", still)
    return out


def _maps(s: Story, batch: Sequence[Map], where: str, still: Sequence[str]) -> list[Block]:
    peaks = []
    for f, site, title in batch:
        t = np.abs(standardised(f, site))
        peaks.append((float(np.nanmax(t)), int((~np.isnan(t)).sum()), title))
    number, peak = sum(p[1] for p in peaks), max(peaks)
    expected = statistics.NormalDist().inv_cdf((1 + 0.5 ** (1 / number)) / 2)  # median of the largest of n |N(0, 1)|
    size = "without bound (a unit is off without any noise)" if math.isinf(peak[0]) else rounded(peak[0], 0.3, 3)
    one = "value of an unbiased estimator"
    among = one if number == 1 else f"of {count(number)} independent values of unbiased estimators"
    on = f"On {batch[0][0].problem_label}, the" if where else "The"
    out = [
        text(f"{on} largest |t| is {size}, in {peak[2]}; the largest {among} would be about {rounded(expected, 0.3)}.")
    ]
    if all(f.units[site].mean.size == 1 for f, site, _ in batch):
        return out  # a single value is no map
    blank = f" Not drawn, for want of error and noise: {listed(still, 6)}." if still else ""
    uncertain = " The error of the truth is not part of it." if any(f.truth_error > 0 for f, _, _ in batch) else ""
    caption = (
        f"Standardised bias t of each unit's gradient, clipped at ± 6, by unit and example.{where} An unbiased"
        f" estimator leaves noise without a pattern; a white cell has neither error nor noise.{blank}{uncertain}"
    )
    return [*out, s.figure(figures.unit_maps(batch), f"Standardised bias of every unit and example.{where}", caption)]
