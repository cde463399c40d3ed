"""Heat maps over two swept keys; all other keys are averaged.

The page draws the first one from here, so that it is there without JavaScript; `sweep.js` draws
the others from the same data, by the same rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import combinations
from statistics import fmean
from typing import Any

from fl_sim.records import Results
from fl_sim.report import formats
from fl_sim.report.runs import Axis, Run, place

LEVELS = 10
"""Colours run from level 0 to this one; the page's style knows how each looks."""

STRONG = 7
"""From this level on, text is set in the colour for dark ground."""


@dataclass(frozen=True)
class Metric:
    """A figure of a run, how a cell joins several of them, and how the cell is coloured.

    Attributes
    ----------
    name, label : str
        Its key and what the page calls it.
    of : function from Results to float or None
        None where the run has no such figure.
    format : str
        The filter in `formats` (and in sweep.js) that prints it.
    join : "mean" or "worst"
        Worst is the largest.
    scale : str
        "unit": the value is its own level in [0, 1]; "zero": as a share of the largest cell;
        "range": between the smallest and the largest cell; "log": the same of its logarithm.
    """

    name: str
    label: str
    of: Callable[[Results], float | None]
    format: str
    join: str = "mean"
    scale: str = "unit"


def _of_batch(name: str) -> Callable[[Results], float | None]:
    def ratio(results: Results) -> float | None:
        totals = results.summary()
        true = totals[name] - (totals["false_certificates"] if name == "certified" else 0)
        return true / totals["batch_size"] if totals["batch_size"] else None

    return ratio


def _total(name: str) -> Callable[[Results], float | None]:
    return lambda results: results.summary()[name]


METRICS = [
    Metric("recovered", "Images read exactly (share)", _of_batch("recovered"), "share"),
    Metric("certified", "Rightly certified (share)", _of_batch("certified"), "share"),
    Metric(
        "false_certificates", "False certificates", _total("false_certificates"), "number",
        scale="zero",
    ),
    Metric("label_accuracy", "Labels right (share)", _total("label_accuracy"), "share"),
    Metric("psnr", "Median PSNR", _total("psnr"), "decibel", scale="range"),
    Metric("ssim", "Median SSIM", _total("ssim"), "ratio"),
    Metric(
        "max_relative_error", "Largest relative error", _total("max_relative_error"), "error",
        join="worst", scale="log",
    ),
    Metric("seconds", "Attack time per run", _total("seconds"), "seconds", scale="zero"),
    Metric("wall_seconds", "Wall time per run", _total("wall_seconds"), "seconds", scale="zero"),
    Metric("accuracy", "Test accuracy at the end", _total("accuracy"), "share"),
]  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One cell: its text, its colour (None: no figure), what it stands for, and where it leads."""

    text: str
    level: int | None
    words: str
    link: str = ""

    @property
    def strong(self) -> bool:
        """Whether the ground is dark."""
        return self.level is not None and self.level >= STRONG


@dataclass(frozen=True)
class HeatMap:
    """A heat map, row by row; `averaged` says over which other keys each cell joins runs."""

    metric: Metric
    across: Axis
    down: Axis | None
    rows: list[tuple[str, list[Cell]]]
    averaged: str


@dataclass(frozen=True)
class SweepData:
    """What the heat maps are made of.

    Attributes
    ----------
    axes : list of Axis
        The swept keys.
    metrics : list of Metric
        Those that at least one run has.
    runs : list of dict
        Per run `at` (its place on each axis), `values` (one per metric), and `link` (its report,
        relative).
    """

    axes: list[Axis]
    metrics: list[Metric]
    runs: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for the page's script."""
        metrics = [
            {"label": m.label, "format": m.format, "join": m.join, "scale": m.scale}
            for m in self.metrics
        ]
        shape = {"levels": LEVELS, "strong": STRONG}
        return {
            "axes": [asdict(a) for a in self.axes],
            "metrics": metrics,
            "runs": self.runs,
        } | shape


def sweep_data(runs: list[Run], axes: list[Axis]) -> SweepData:
    """Gather what the heat maps need from runs that have results."""
    known = [(run, run.results) for run in runs if run.results]
    figures = [[m.of(results) for m in METRICS] for _, results in known]
    used = [k for k in range(len(METRICS)) if any(row[k] is not None for row in figures)]
    entries = [
        {
            "at": [place(axis, run) for axis in axes],
            "values": [row[k] for k in used],
            "link": run.link,
        }
        for (run, _), row in zip(known, figures, strict=True)
    ]
    return SweepData(axes, [METRICS[k] for k in used], entries)


def first_choice(data: SweepData) -> tuple[int, int | None]:
    """Return the axes (across, down) of the heat map that is shown first.

    They are the two longest of which most cells have runs, as in a grid; if no two are, the one
    that all runs have and is longest.
    """
    axes = data.axes
    candidates = [k for k, axis in enumerate(axes) if axis.key != "seed"] or [0]
    longest = sorted(candidates, key=lambda k: -len(axes[k].values))
    for across, down in combinations(longest, 2):
        if 2 * len(_cells(data, across, down)) > len(axes[across].values) * len(axes[down].values):
            return across, down
    common = [k for k in longest if all(r["at"][k] < len(axes[k].values) for r in data.runs)]
    first = (common or longest)[0]
    seed = next((k for k in range(len(axes)) if k not in candidates), None)
    return first, seed


def _cells(data: SweepData, across: int, down: int) -> set[tuple[int, int]]:
    """Return the cells that have runs."""
    places = {(run["at"][across], run["at"][down]) for run in data.runs}
    sizes = len(data.axes[across].values), len(data.axes[down].values)
    return {(x, y) for x, y in places if x < sizes[0] and y < sizes[1]}


def heat_map(data: SweepData, across: int, down: int | None, metric: int = 0) -> HeatMap:
    """Return the heat map over two axes, or over one where `down` is None."""
    chosen = data.metrics[metric]
    columns = range(len(data.axes[across].values))
    lines = range(len(data.axes[down].values)) if down is not None else [None]
    runs = [[_runs_at(data, across, x, down, y) for x in columns] for y in lines]
    values = [
        [_join(chosen, [r["values"][metric] for r in there]) for there in row] for row in runs
    ]
    levels = _levels(chosen.scale, [v for row in values for v in row if v is not None])
    rows = [
        (
            data.axes[down].values[y] if down is not None and y is not None else "all runs",
            [_cell(chosen, v, there, levels) for v, there in zip(values[k], runs[k], strict=True)],
        )
        for k, y in enumerate(lines)
    ]
    others = [axis.key for k, axis in enumerate(data.axes) if k not in {across, down}]
    below = None if down is None else data.axes[down]
    return HeatMap(chosen, data.axes[across], below, rows, _averaged(chosen, others))


def _averaged(metric: Metric, others: list[str]) -> str:
    if not others:
        return ""
    kind = "largest" if metric.join == "worst" else "mean"
    keys = ", ".join(others)
    return f"Each cell joins all runs that differ only in {keys}: their {kind} value."


def _runs_at(
    data: SweepData, across: int, x: int, down: int | None, y: int | None
) -> list[dict[str, Any]]:
    return [
        run
        for run in data.runs
        if run["at"][across] == x and (down is None or run["at"][down] == y)
    ]


def _join(metric: Metric, values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    if not known:
        return None
    return max(known) if metric.join == "worst" else fmean(known)


def _levels(scale: str, values: list[float]) -> Callable[[float], int]:
    """Return the function from a cell's value to its colour."""

    def place(value: float) -> float:
        return math.log(max(value, 1e-16)) if scale == "log" else value

    low = min(map(place, values), default=0.0) if scale in {"range", "log"} else 0.0
    high = 1.0 if scale == "unit" else max(map(place, values), default=0.0)

    def level(value: float) -> int:
        share = (place(value) - low) / (high - low) if high > low else 0.0
        return math.floor(LEVELS * min(1.0, max(0.0, share)) + 0.5)

    return level


def _cell(
    metric: Metric, value: float | None, runs: list[dict[str, Any]], level: Callable[[float], int]
) -> Cell:
    link = runs[0]["link"] if len(runs) == 1 else ""
    if value is None:
        return Cell("no figure" if runs else "no run", None, _stands_for(metric, runs), link)
    text = getattr(formats, metric.format)(value)
    return Cell(text, level(value), _stands_for(metric, runs), link)


def _stands_for(metric: Metric, runs: list[dict[str, Any]]) -> str:
    if len(runs) < 2:
        return "one run" if runs else "no run"
    return f"{'largest' if metric.join == 'worst' else 'mean'} of {len(runs)} runs"
