"""Pictures of what paper_figures.py measures: error against d, m and B, and per activation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt

Row = dict[str, Any]
MIDDLE = 60


def plot(by_d: list[Row], by_m: list[Row], by_B: list[Row], folder: Path) -> None:
    """Error against d, m and B, and per activation, one picture each."""
    figure, axis = plt.subplots(figsize=(7, 5))
    curves(axis, by_d, "d", "mean", "mean |x - x'|²")
    names = list(dict.fromkeys(row["setting"] for row in by_d))
    for column, marker in (("rerun", "x"), ("paper", "*")):
        for row in (row for row in by_d if row[column] is not None):
            colour = f"C{names.index(row['setting']) % 10}"
            axis.scatter(row["d"], row[column], marker=marker, c=colour, s=60, zorder=3)
    guide(axis, by_d, "d", 1.0, "theorem: slope 1")
    axis.set_title(
        "m = 5000, B = 2; crosses: an independent re-run; stars: the paper's plot", fontsize=9
    )
    picture(figure, axis, folder / "dimension.png")

    figure, axis = plt.subplots(figsize=(7, 5))
    curves(axis, by_m, "m", "rms", "RMS error")
    guide(axis, by_m, "m", -0.5, "theorem: slope -1/2")
    axis.set_title("d = 20, B = 2", fontsize=9)
    picture(figure, axis, folder / "width.png")

    figure, axis = plt.subplots(figsize=(7, 5))
    curves(axis, by_B, "B", "mean", "mean |x - x'|²")
    axis.set_title(f"d = 20, m = {by_B[0]['m']}", fontsize=9)
    picture(figure, axis, folder / "batch.png")

    figure, axis = plt.subplots(figsize=(7, 5))
    rows = [row for row in by_d if row["d"] == MIDDLE]
    names = [str(row["setting"]) for row in rows]
    low = [row["mean"] - row["min"] for row in rows]
    high = [row["max"] - row["mean"] for row in rows]
    mean = [row["mean"] for row in rows]
    axis.errorbar(mean, names, xerr=(low, high), fmt="o", label="published estimator")
    axis.scatter([row["exact"] for row in rows], names, marker="D", c="g", label="TensorAttack")
    axis.set(
        xscale="log",
        xlabel="mean |x - x'|²",
        title=f"d = {MIDDLE}, m = 5000, B = 2; bars: least to largest over seeds",
    )
    picture(figure, axis, folder / "activations.png")


def guide(axis: plt.Axes, rows: list[Row], x: str, power: float, label: str) -> None:
    """A dashed line of the theorem's slope, drawn above the curves."""
    sizes = np.array(sorted({float(str(row[x])) for row in rows}))
    axis.plot(sizes, 0.6 * (sizes / sizes[0]) ** power, "k--", lw=1.5, label=label)


def picture(figure: plt.Figure, axis: plt.Axes, path: Path) -> None:
    """Finish a plot and write it as a small PNG."""
    axis.legend(fontsize=6, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=80, bbox_inches="tight")
    plt.close(figure)


def curves(axis: plt.Axes, rows: list[Row], x: str, y: str, label: str) -> None:
    """One line per setting in double logarithmic axes."""
    for k, name in enumerate(dict.fromkeys(row["setting"] for row in rows)):
        mine = [row for row in rows if row["setting"] == name]
        style = "-" if k < 10 else ":"
        axis.plot([row[x] for row in mine], [row[y] for row in mine], style, label=name, marker=".")
    axis.set(xscale="log", yscale="log", xlabel=x, ylabel=label)
    ticks = sorted({float(str(row[x])) for row in rows})
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
