"""Variance against cost: one point for each estimator on a problem, labelled where it stands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

from estimator_lab.report.figures import style
from estimator_lab.report.reading import relative_variance, total, word

if TYPE_CHECKING:
    from estimator_lab.finding import Finding

HEIGHT = 2.75
SIZE = 7.4  # points, of the labels
# offsets of a label in points and the side of it that they reach, nearest first
PLACES = tuple(
    (side * (6.0 + 4 * abs(step) + reach), step * 8.5 + lift, "left" if side > 0 else "right")
    for reach in (0.0, 105.0)
    for step in (0, 1, -1, 2, -2, 3, -3, 4, -4, 5, -5, 6, -6, 7, -7, 8, -8)
    for lift in (0.0, 4.0)
    for side in (1, -1)
)


def _label(ax: Axes, points: Sequence[tuple[str, float, float, float, float]]) -> None:
    """Each name beside its point, at the first of PLACES that is free of points, intervals and other names."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # the layout settles
    scale = figure.dpi / 72
    inside = ax.get_window_extent()
    centres = [ax.transData.transform((x, y)) for _, x, y, _, _ in points]
    taken = []
    for (_, x, _, low, high), (px, py) in zip(points, centres, strict=True):
        down, up = (ax.transData.transform((x, v))[1] for v in (low, high))
        taken.append(Bbox.from_extents(px - 2 * scale, down, px + 2 * scale, up))
        taken.append(Bbox.from_extents(px - 3 * scale, py - 3 * scale, px + 3 * scale, py + 3 * scale))
    for k in sorted(range(len(points)), key=lambda k: -centres[k][1]):
        (px, py), name = centres[k], style.plain(points[k][0])
        width, height = len(name) * SIZE * 0.48 * scale, 1.15 * SIZE * scale
        for dx, dy, align in PLACES:
            x, y = px + dx * scale, py + dy * scale
            box = Bbox.from_bounds(x if align == "left" else x - width, y - height / 2, width, height)
            fits = inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1
            if fits and not any(box.overlaps(other) for other in taken):
                break
        else:
            dx, dy, align = PLACES[0]
            box = Bbox.from_bounds(px + dx * scale, py - height / 2, width, height)
        taken.append(box)
        leader = (
            {"arrowstyle": "-", "color": style.MUTED, "lw": 0.4, "shrinkA": 0, "shrinkB": 2} if abs(dy) > 5 else None
        )
        note = ax.annotate(
            name,
            points[k][1:3],
            (dx, dy),
            textcoords="offset points",
            ha=align,
            va="center",
            fontsize=SIZE,
            arrowprops=leader,
        )
        note.set_in_layout(False)


@style.styled
def cost(findings: Sequence[Finding], ax: Axes | None = None) -> Axes:
    """Relative variance of one replicate (total) against evaluations of the loss, with intervals.

    Along a dashed line the work is equal. An estimator without variance has no place: it is named in the note.
    """
    shown, note = style.capped(findings, style.LINES, "estimators")
    ax = style.panel(ax, style.WIDTH, HEIGHT)
    gone, points, colours = [], [], []
    for f in shown:
        value, low, high = relative_variance(total(f))
        if not (style.positive(value) and style.positive(f.losses)):
            gone.append(f.estimator_label + (" (zero variance)" if value == 0 else ""))
            continue
        colour, marker, _ = style.VERDICTS[word(f)]
        low, high = (v if style.positive(v) else value for v in (low, high))
        ax.plot(f.losses, value, marker, color=colour, mfc=style.face(word(f)), ms=5)
        points.append((f.estimator_label, f.losses, value, low, high))
        colours.append(colour)
    ax.vlines([p[1] for p in points], [p[3] for p in points], [p[4] for p in points], color=colours, lw=1.1, zorder=1)
    across, up = style.log_limits(p[1] for p in points), style.log_limits(v for p in points for v in p[2:])
    if across and up:
        across = across[0] / 1.6, across[1] * 1.6  # room for the names
        for work in np.geomspace(across[0] * up[0], across[1] * up[1], 6)[1:-1]:
            ax.plot(across, [work / across[0], work / across[1]], color=style.GRID, lw=0.7, ls=(0, (4, 3)), zorder=0)
        style.logarithmic(ax, "x", across)
        style.logarithmic(ax, "y", up)
    else:
        style.say(ax, "no variance to show")
    gap = style.absent("not on these axes", gone)
    ax.set_xlabel(style.noted("evaluations of the loss per replicate", [gap, note], style.WIDTH - 1))
    ax.set_ylabel("relative variance")
    style.key_above(ax, style.verdict_keys((word(f) for f in shown), ls=""))
    ax.grid(False)  # a line through a name would strike it out
    _label(ax, points)
    return ax
