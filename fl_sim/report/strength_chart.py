"""One defence over its strength: what leaks, what is learned, and the budget it buys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from fl_sim.report import formats
from fl_sim.report.charts import INK, LEAK, LINE, SEAL, SOFT, Chart, band, drawing
from fl_sim.report.frontier import UNDEFENDED, Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEAST = 5
"""Strengths a defence needs to have a curve of its own."""

STOPPED = 0.1
"""An attack counts as stopped where the median SSIM is below this."""


def strength_charts(points: Sequence[Point]) -> list[Chart]:
    """Draw each defence that was swept over at least `LEAST` positive strengths."""
    plain = next((p for p in points if p.series == UNDEFENDED), None)
    charts = []
    for name, same in groupby(points, lambda p: p.series):
        own = [(float(p.strength), p) for p in same if _number(p.strength)]
        if len(own) >= LEAST:
            charts.append(_chart(name, sorted(own, key=lambda pair: pair[0]), plain))
    return charts


def _number(text: str) -> bool:
    try:
        return float(text) > 0
    except ValueError:
        return False


def _chart(name: str, own: list[tuple[float, Point]], plain: Point | None) -> Chart:
    strengths = [strength for strength, _ in own]
    points = [point for _, point in own]

    def fill(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        axes.set_xscale("log")
        band(axes, strengths, [p.read for p in points], LEAK, "images read exactly", "-")
        band(axes, strengths, [p.ssim for p in points], SEAL, "median SSIM", (0, (4, 2)))
        band(axes, strengths, [p.accuracy for p in points], INK, "test accuracy", "-")
        if plain is not None:
            axes.axhline(plain.accuracy.mean, color=SOFT, linewidth=0.9, linestyle=(0, (1, 2)))
            axes.text(
                strengths[0], plain.accuracy.mean - 0.045, "accuracy undefended", fontsize=7.5,
                color=SOFT,
            )  # fmt: skip
        axes.set_ylim(-0.03, 1.06)
        axes.yaxis.set_major_formatter(lambda y, _: formats.share(round(y, 6)))
        axes.set_xlabel(points[0].setting)
        axes.legend(loc="center left", fontsize=8)
        if any(p.epsilon is not None for p in points):
            _budgets(axes, own)

    svg = drawing(fill, f"strength-{name.lower().replace(' ', '-')}", (10.4, 3.8))
    return Chart(f"{name} over its strength", svg, _words(own))


def _budgets(axes: Axes, own: list[tuple[float, Point]]) -> None:
    """Write the budget of each strength on the upper axis."""
    known = [(strength, p.epsilon) for strength, p in own if p.epsilon is not None]
    upper = axes.secondary_xaxis("top")
    upper.set_xticks([strength for strength, _ in known])
    upper.set_xticklabels([formats.error(epsilon) for _, epsilon in known], fontsize=7.5)
    upper.set_xticks([], minor=True)
    upper.set_xlabel("ε it buys by the end of the training", fontsize=9)
    upper.spines["top"].set_color(LINE)


def _words(own: list[tuple[float, Point]]) -> str:
    """Say where exact reading ends, and where the attack does."""
    told = []
    conditions: list[tuple[str, Callable[[Point], bool]]] = [
        ("No image is read exactly", lambda p: p.exact == 0),
        (f"The median SSIM is below {STOPPED:g}", lambda p: p.ssim.mean < STOPPED),
    ]
    for what, holds in conditions:
        first = _from(own, holds)
        if first is None:
            told.append(f"{what} at none of these strengths.")
            continue
        _, point = first
        budget = "" if point.epsilon is None else f", ε {formats.error(point.epsilon)}"
        told.append(
            f"{what} from {point.setting} {point.strength} on"
            f" (accuracy {formats.percent_within(point.accuracy)}{budget})."
        )
    return " ".join([*told, "Bands: 95 % confidence over the seeds."])


def _from(
    own: list[tuple[float, Point]], holds: Callable[[Point], bool]
) -> tuple[float, Point] | None:
    """Return the strength from which on a condition holds, upwards or, if not, downwards."""
    for ordered in (own, own[::-1]):
        kept = [k for k in range(len(ordered)) if all(holds(p) for _, p in ordered[k:])]
        if kept:
            return ordered[kept[0]]
    return None
