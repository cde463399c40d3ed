"""Table and plot of the noise benchmark."""

from __future__ import annotations

import itertools
import statistics
from pathlib import Path
from typing import Any

Row = dict[str, Any]

INTRODUCTION = """\
# Noise and pruning

One gradient of 784 - 2048 - 10, Fashion-MNIST standardised, no labels, no batch size. Median
relative error over the images of all seeds, and in brackets how many of them came within 1 % and
within 10 %. *Search* is the attack without its final likelihood fit, *fitted* with it, *matching*
is InvertingGradients on the same gradients with {iterations} iterations and the batch size given.
White noise has the stated Frobenius norm relative to each tensor; pruning zeroes the stated share
of each tensor's entries, the smallest ones.

{seeds}

"""


def report(rows: list[Row], folder: Path, iterations: int) -> str:
    """Write table.md and noise.png; return the table."""
    text = table(rows, iterations)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.md").write_text(text)
    plot(rows, folder / "noise.png")
    return text


def table(rows: list[Row], iterations: int) -> str:
    """Markdown, one line per activation, batch size and corruption."""
    counts = {len({r["seed"] for r in group}) for _, group in _grouped(rows)}
    seeds = " to ".join(str(n) for n in sorted({min(counts), max(counts)})) if counts else "0"
    head = "| | B | | search | fitted | matching | labels (fitted) | false certificates | s |"
    lines = [head, "|---" * 9 + "|"]
    for key, group in _grouped(rows):
        activation, batch, kind, level = key
        amount = f"noise {level:g}" if kind == "noise" else f"pruned {level:.0%}"
        cells = [_cell([r for r in group if r["attack"] == a]) for a in COLUMNS]
        fitted = [r for r in group if r["attack"] == "fitted"]
        labels = f"{sum(r['labels'] for r in fitted)}/{batch * len(fitted)}" if fitted else "-"
        false = str(sum(r["false"] for r in fitted))
        seconds = f"{statistics.median(r['seconds'] for r in fitted):.0f}" if fitted else "-"
        ends = [labels, false, seconds]
        lines.append("| " + " | ".join([activation, str(batch), amount, *cells, *ends]) + " |")
    introduction = INTRODUCTION.format(iterations=iterations, seeds=f"Seeds per line: {seeds}.")
    return introduction + "\n".join(lines) + "\n"


COLUMNS = ("search", "fitted", "matching")


def _grouped(rows: list[Row]) -> list[tuple[tuple, list[Row]]]:
    def key(row: Row) -> tuple:
        return row["activation"], row["batch"], row["kind"], row["level"]

    return [(k, list(g)) for k, g in itertools.groupby(sorted(rows, key=key), key)]


def _cell(rows: list[Row]) -> str:
    if not rows:
        return "-"
    near = sum(r["within_1_percent"] for r in rows)
    about = sum(r["within_10_percent"] for r in rows)
    total = sum(r["batch"] for r in rows)
    median = statistics.median(r["median"] for r in rows)
    return (
        f"{median:.1e} ({near}, {about} of {total})"
        if median < 1e9
        else f"lost ({near}, {about} of {total})"
    )


def plot(rows: list[Row], path: Path) -> None:
    """Median error against the noise level and the pruned share, one panel per activation."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    activations = sorted({r["activation"] for r in rows})
    if not activations:
        return
    figure, axes = plt.subplots(
        2, len(activations), figsize=(4 * len(activations), 7), sharey=True, squeeze=False
    )
    styles = {"fitted": "o-", "search": "s--", "matching": "^:"}
    for (i, kind), (j, activation) in itertools.product(
        enumerate(("noise", "prune")), enumerate(activations)
    ):
        axis = axes[i][j]
        for batch, attack in itertools.product(sorted({r["batch"] for r in rows}), COLUMNS):
            wanted = (activation, batch, kind)
            curve = [
                (key[3], statistics.median(min(r["median"], 3.0) for r in chosen))
                for key, group in _grouped(rows)
                if key[:3] == wanted and (chosen := [r for r in group if r["attack"] == attack])
            ]
            if curve:
                colour = "C0" if batch == min(r["batch"] for r in rows) else "C1"
                label = f"{attack}, B = {batch}"
                axis.plot(*zip(*curve, strict=True), styles[attack], color=colour, label=label)
        axis.set_yscale("log")
        axis.set_xscale("log" if kind == "noise" else "linear")
        axis.set_xlabel("noise over gradient, per tensor" if kind == "noise" else "share pruned")
        axis.set_title(activation)
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("median relative error")
    axes[1][0].set_ylabel("median relative error")
    axes[0][-1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
