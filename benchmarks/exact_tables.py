"""What exact_reach.py measured: Markdown tables, and a heat map of width against batch size."""

from __future__ import annotations

import ast
import csv
import statistics
from dataclasses import fields
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from benchmarks.exact_settings import TABLES, Setting

matplotlib.use("Agg")
from matplotlib import pyplot as plt

Runs = list[dict[str, str]]
HEADER = (
    "| activation | m | B | | complete | images exact, certified, labelled | false certificates "
    "| largest error | seconds | GB |\n|---|---|---|---|---|---|---|---|---|---|"
)


def summarise(path: Path) -> str:
    """Write table.md and reach.png next to a CSV of runs; the tables as text."""
    with path.open(newline="") as file:
        runs = list(csv.DictReader(file))
    parts = []
    for table in TABLES:
        groups: dict[Setting, Runs] = {}
        for run in (r for r in runs if r["table"] == table):
            groups.setdefault(setting_of(run), []).append(run)
        if groups:
            parts += [f"## {table}", "", HEADER]
            parts += [line(setting, group) for setting, group in groups.items()]
            parts.append("")
    text = "\n".join(parts)
    (path.parent / "table.md").write_text(text)
    grid = [r for r in runs if r["table"] == "grid"]
    if grid:
        heat_map(grid, path.parent / "reach.png")
    return text


def setting_of(run: dict[str, str]) -> Setting:
    """The setting a line of the CSV belongs to."""
    values: dict[str, Any] = {}
    for field in fields(Setting):
        text = run[field.name]
        is_text = field.name in ("activation", "init", "data", "attack")
        values[field.name] = text if is_text else ast.literal_eval(text)
    return Setting(**values)


def line(setting: Setting, runs: Runs) -> str:
    """One row: counts over seeds, medians of the seconds."""
    total = setting.batch * len(runs)
    recovered, false, complete = (
        sum(int(r[name]) for r in runs) for name in ("recovered", "false", "complete")
    )
    worst = max((float(r["worst"]) for r in runs if r["worst"]), default=float("inf"))
    name = setting.activation if setting.attack == "tensor" else setting.attack
    cells = [
        name,
        setting.width,
        setting.batch,
        setting.remarks,
        f"{complete} of {len(runs)}",
        f"{recovered} of {total}",
        false,
        f"{worst:.0e}" if worst < float("inf") else "-",
        f"{statistics.median(float(r['seconds']) for r in runs):.1f}",
        f"{max(float(r['gigabytes']) for r in runs):.1f}",
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def heat_map(runs: Runs, path: Path) -> None:
    """Share of the images recovered and median seconds, over m and B, a panel per activation."""
    names = list(dict.fromkeys(r["activation"] for r in runs))
    widths = sorted({int(r["width"]) for r in runs})
    batches = sorted({int(r["batch"]) for r in runs})
    figure, panels = plt.subplots(
        1, len(names), figsize=(3.6 * len(names), 3.4), squeeze=False, layout="constrained"
    )
    for name, panel in zip(names, panels[0], strict=True):
        share = np.full((len(batches), len(widths)), np.nan)
        for i, batch in enumerate(batches):
            for j, width in enumerate(widths):
                cell = [
                    r
                    for r in runs
                    if (r["activation"], int(r["width"]), int(r["batch"])) == (name, width, batch)
                ]
                if cell:
                    share[i, j] = sum(int(r["recovered"]) for r in cell) / (batch * len(cell))
                    seconds = statistics.median(float(r["seconds"]) for r in cell)
                    text = f"{share[i, j]:.0%}\n{seconds:.1f} s"
                    dark = "white" if share[i, j] < 0.6 else "black"
                    panel.text(j, i, text, ha="center", va="center", fontsize=7, color=dark)
        image = panel.imshow(share, vmin=0, vmax=1, cmap="viridis", origin="lower", aspect="auto")
        panel.set_xticks(range(len(widths)), [str(w) for w in widths])
        panel.set_yticks(range(len(batches)), [str(b) for b in batches])
        panel.set(title=name, xlabel="hidden units m", ylabel="batch size B")
    figure.colorbar(image, ax=panels[0].tolist(), label="images exact and certified")
    figure.savefig(path, dpi=110)
    plt.close(figure)
