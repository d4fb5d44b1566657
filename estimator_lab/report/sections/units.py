"""Where an estimator is wrong: unit by unit."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from estimator_lab.report import figures
from estimator_lab.report.figures import standardised
from estimator_lab.report.figures.style import capped, shortened
from estimator_lab.report.rounding import ABSENT, count, rounded
from estimator_lab.report.story import Block, Column, Story, muted, table, text
from estimator_lab.report.wording import between, index, listed, percent, plural

if TYPE_CHECKING:
    from estimator_lab.finding import Finding, Unit

Place = tuple["Finding", str]  # finding, site
LINES = 40


def units(s: Story) -> list[Block]:
    """Maps of bias and the units found: all sites of one finding; else one site of each problem, of many the largest.

    Nothing where no unit gradients were recorded.
    """
    every = [(f, site) for f in s.findings for site in f.units]
    if not every:
        return []
    if s.single:
        return [*_maps(s, every, "", _tested(every)), *_worst(s, every)]
    out = [text(_tested(every))]
    sites = [next((p for p in every if p[0].problem_label == name), None) for name in s.problems]
    chosen = [place for place in sites if place]
    if s.many:
        chosen = [max(every, key=lambda p: p[0].units[p[1]].mean.size)]
    for first, site in chosen:
        own = [(f, where) for f, where in every if (f.problem_label, where) == (first.problem_label, site)]
        out += [*_maps(s, own, f" Site {site} of {first.problem_label}."), *([] if s.many else _worst(s, own))]
    if s.many:
        found = [[p for p in every if p[0].estimator_label == name and _shown(p)] for name in s.estimators]
        out += _worst(s, [max(own, key=_share) for own in found if own])
    return out


def _discovery() -> str:
    from estimator_lab.finding import DISCOVERY  # not before a diagnosis is at hand: its imports are slow

    return percent(DISCOVERY)


def _shown(place: Place) -> bool:
    found = place[0].units[place[1]]
    return bool(found.found or found.insufficient)


def _share(place: Place) -> float:
    found = place[0].units[place[1]]
    return found.found / found.mean.size


def _tested(every: Sequence[Place]) -> str:
    """How many units were tested, found, and could not be tested."""
    inside = [(f, site) for f, site in every if not np.isnan(f.units[site].adjusted).all()]
    if not inside:
        return "Single units are tested inside sites that were found biased; there is none."
    maps = [f.units[site] for f, site in inside]
    number, few = sum(u.mean.size for u in maps), sum(u.insufficient for u in maps)
    off = f"{count(sum(u.found for u in maps))} {'was' if sum(u.found for u in maps) == 1 else 'were'} found to be off"
    exactly = sum(bool(f.exact) for f, _ in inside)
    rate = f", at a false discovery rate of {_discovery()} within each site" if exactly < len(inside) else ""
    how = ", exactly" if exactly == len(inside) else ", exactly where the expectation is known" if exactly else ""
    rest = f"; {count(few)} {'rests' if few == 1 else 'rest'} on too few draws to be tested" if few else ""
    return (
        f"Single units are tested inside sites that were found biased, here {len(inside)} of {len(every)}. Of their"
        f" {plural(number, 'unit gradient')} {off}{rate}{how}{rest}."
    )


def _maps(s: Story, places: Sequence[Place], where: str, start: str = "") -> list[Block]:
    """Sampled biases in standard errors, and exact ones that are not zero in units of the gradient."""
    out: list[Block] = []
    able = [p for p in places if not np.isnan(standardised(*p)).all()]
    drawn = [p for p in able if not p[0].exact]
    exact = [p for p in able if p[0].exact and p[0].units[p[1]].found]
    if start or drawn:
        out.append(text(start, _peak(s, drawn, where) if drawn else ""))
    still = [f.estimator_label for f, site in places if not f.exact and (f, site) not in able and not s.single]
    blank = f" Not drawn, for want of error and noise: {listed(still, 6)}." if still else ""
    uncertain = " The error of the truth is not part of it." if any(f.truth_error > 0 for f, _ in drawn) else ""
    kinds = (
        f"Standardised bias t of each unit's gradient, clipped at ± {figures.LIMIT:.0f}, by unit and example.{where} An"
        " unbiased estimator leaves noise without a pattern; a white cell has neither error nor noise."
        f"{blank}{uncertain}",
        "Exact bias of each unit's gradient, over the root mean square of the true gradients of the site, by unit and"
        f" example.{where}",
    )
    for batch, caption in zip((drawn, exact), kinds, strict=True):
        if any(f.units[site].mean.size > 1 for f, site in batch):  # a single value is no map
            maps = [(f, site, site if s.single else f.estimator_label) for f, site in batch]
            out.append(
                s.figure(figures.unit_maps(maps), f"Bias of every unit and example.{where}", caption + _dots(batch))
            )
    return out


def _dots(places: Sequence[Place]) -> str:
    maps = [f.units[site] for f, site in places]
    drawn = any(u.found and u.mean.size <= figures.DOTS for u in maps)
    return " A dot marks a unit that was found to be off." if drawn else ""


def _peak(s: Story, places: Sequence[Place], where: str) -> str:
    """The largest |t|, against what unbiased estimators would show."""
    peaks = [(float(np.nanmax(np.abs(standardised(*p)))), k) for k, p in enumerate(places)]
    number = sum(int((~np.isnan(standardised(*p))).sum()) for p in places)
    peak, k = max(peaks, key=lambda t: t[0])
    name = places[k][1] if s.single else places[k][0].estimator_label
    expected = statistics.NormalDist().inv_cdf((1 + 0.5 ** (1 / number)) / 2)  # median of the largest of n |N(0, 1)|
    size = "without bound (a unit is off without any noise)" if math.isinf(peak) else rounded(peak, 0.3, 3)
    among = "value without a bias" if number == 1 else f"of {count(number)} independent values without a bias"
    on = f"On {places[0][0].problem_label}, the" if where else "The"
    usual = f"the largest {among}, nearly normal, would be about {rounded(expected, 0.3)}"
    return f"{on} largest |t| is {size}, in {name}; {usual}."


def _worst(s: Story, places: Sequence[Place]) -> list[Block]:
    """The units found: of one finding all that are named, of several the worst of each."""
    rows: list[list[Any]] = []
    for f, site in filter(_shown, places):
        u = f.units[site]
        lead = [site] if s.single else [shortened(f.estimator_label, 34)]
        lead += [f"{shortened(f.problem_label, 24)}, {site}"] if s.many else []
        lead += [f"{count(u.found)} of {count(u.mean.size)}", count(u.insufficient)]
        for k, unit in enumerate(u.worst[: None if s.single else 1]):
            rows.append([*(lead if k == 0 else [""] * len(lead)), *_unit(unit, f, site)])
        if not u.worst:
            rows.append([*lead, *[ABSENT] * 4])
    if not rows:
        return []
    shown, left = capped(rows, LINES, "lines")
    columns: list[Column] = [("Site" if s.single else "Estimator", "left", "auto" if s.single else "1fr")]
    columns += [("Site", "left", "auto")] if s.many else []
    columns += [("Found", "right", "auto"), ("Untestable", "right", "auto")]
    columns += [("Unit", "left", "auto")]
    columns += [(head, "right", "auto") for head in ("Truth", "Bias", "interval")]
    which = "The worst units" if s.single else "The worst unit of each estimator"
    site = ", at the site with the largest share found" if s.many else "" if s.single else f", site {places[0][1]}"
    on = f" of {places[0][0].problem_label}" if not s.many and len(s.problems) > 1 else ""
    sampled = any(not f.exact for f, _ in filter(_shown, places))
    rate = f" Of such intervals at most {_discovery()} miss, on average." if sampled else ""
    caption = (
        f"{which}{site}{on}, by index: example, unit, and parameter where it has several, counted from 0.{rate}"
        f"{f' {left}.' if left else ''}"
    )
    return [table(columns, [("", shown)], caption)]


def _unit(unit: Unit, f: Finding, site: str) -> list[Any]:
    width = 0.0 if f.exact else unit.high - unit.low
    error = abs(unit.bias) / 100 if f.exact else width / 3.92
    truth = float(f.units[site].truth[unit.index])
    ends = "exact" if f.exact else between(unit.low, unit.high)
    return [index(unit), rounded(truth, error, 3), rounded(unit.bias, width / 3.92, 3), muted(ends)]
