"""The frontier as small panels: in each, one protection before the pale points of all others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from fl_sim.evaluation.confidence import Estimate
from fl_sim.report.charts import BACK, INK, LEAK, LINE, SOFT, Chart, drawing
from fl_sim.report.formats import listing, plural, share
from fl_sim.report.frontier import UNDEFENDED, Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 5

NEAR = 0.045, 0.09
"""Points closer than this (accuracy, SSIM) share one label."""


def frontier_chart(points: Sequence[Point]) -> Chart:
    """Draw leakage (median SSIM) over test accuracy, a panel per protection.

    A filled point is a setting at which images were read exactly, a hollow one a setting without;
    whiskers are confidence intervals over the seeds; the pale line joins the frontier.
    """
    kinds = [(name, list(same)) for name, same in groupby(points, lambda p: p.series)]
    protections = [(name, same) for name, same in kinds if name != UNDEFENDED]
    plain = [point for point in points if point.series == UNDEFENDED]
    rows = math.ceil(len(protections) / COLUMNS)
    accuracies = [point.accuracy.mean for point in points]
    span = max(0.1, max(accuracies) - min(accuracies))
    limits = min(accuracies) - 0.09 * span, max(accuracies) + 0.09 * span

    def fill(figure: Figure) -> None:
        panels = figure.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False)
        for axes in panels.flat:
            axes.patch.set_alpha(0)
            axes.set_axis_off()
        for axes, (name, own) in zip(panels.flat, protections, strict=False):
            axes.set_axis_on()
            _panel(axes, name, own, points, plain)
            axes.set_xlim(*limits)
            axes.set_ylim(-0.08, 1.12)
        for axes in panels.flat[max(0, len(protections) - COLUMNS) : len(protections)]:
            axes.tick_params(labelbottom=True)  # the lowest of each column, also above a gap
        figure.supxlabel("test accuracy", color=SOFT, fontsize=9)
        figure.supylabel("leakage: median SSIM of the images", color=SOFT, fontsize=9)

    best = [p for p in points if p.best]
    told = listing([f"{p.series.lower()} {p.strength}".strip() for p in best])
    words = (
        f"{plural(len(points), 'setting')}; the lower right corner is where a defence should be. "
        f"Filled: images were read exactly. Hollow: none was. Cross: no defence. Whiskers: 95 % "
        f"confidence over the seeds. The pale line joins the settings that no other beats in both: "
        f"{told}."
    )
    svg = drawing(fill, "frontier", (10.4, 0.4 + 1.9 * max(rows, 1)))
    return Chart("Leakage against utility", svg, words)


def _panel(
    axes: Axes, name: str, own: list[Point], everyone: Sequence[Point], plain: list[Point]
) -> None:
    best = sorted((p.accuracy.mean, p.ssim.mean) for p in everyone if p.best)
    axes.plot(*zip(*best, strict=True), color=LINE, linewidth=2.5, zorder=1)
    for point in everyone:
        axes.plot(point.accuracy.mean, point.ssim.mean, ".", color=LINE, markersize=5, zorder=1)
    for point in plain:
        axes.plot(point.accuracy.mean, point.ssim.mean, "x", color=INK, markersize=6, zorder=4)
    places = [(p.accuracy.mean, p.ssim.mean) for p in own]
    axes.plot(*zip(*places, strict=True), color=LEAK, linewidth=0.9, zorder=2)
    for point in own:
        place = point.accuracy.mean, point.ssim.mean
        axes.errorbar(
            *place,
            xerr=_half(point.accuracy),
            yerr=_half(point.ssim),
            fmt="none",
            ecolor=LEAK,
            elinewidth=0.8,
            alpha=0.4,
        )
        axes.plot(
            *place,
            color=LEAK,
            marker="o",
            markersize=4.5,
            markerfacecolor=LEAK if point.exact else BACK,
            zorder=3,
        )
    _label(axes, own)
    axes.set_title(f"{name}{f' ({own[0].setting})' if own[0].setting else ''}", fontsize=8)
    axes.xaxis.set_major_formatter(lambda x, _: share(x))
    axes.tick_params(labelsize=7.5)


def _half(value: Estimate) -> float:
    return value.half or 0.0


def _label(axes: Axes, own: list[Point]) -> None:
    """Write the strengths beside their points, one label for points that lie together."""
    clusters: list[list[Point]] = []
    for point in own:
        near = next((c for c in clusters if _close(c[0], point)), None)
        clusters.append([point]) if near is None else near.append(point)
    for cluster in clusters:
        text = ", ".join(p.strength for p in cluster if p.strength)
        first = cluster[0]
        axes.annotate(
            text,
            (first.accuracy.mean, first.ssim.mean),
            (-5, 4),
            textcoords="offset points",
            ha="right",
            fontsize=7.5,
            color=INK,
            zorder=5,
        )


def _close(one: Point, other: Point) -> bool:
    return (
        abs(one.accuracy.mean - other.accuracy.mean) < NEAR[0]
        and abs(one.ssim.mean - other.ssim.mean) < NEAR[1]
    )
