"""What `compare.py` measures: kept on disk, and shown as a table, a heat map, and beside a peer."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PEER = "breaching "
"""What a peer's version of an attack is called in front of the attack's name."""

LIKE = {"inverting_gradients": "Inverting Gradients"}
"""Attacks whose speed and quality are set side by side with a peer's."""


@dataclass(frozen=True)
class Score:
    """One attack on one gradient.

    `psnr`, `ssim`: means over the true images that got a reconstruction; None if none did.
    `exact`, `found`: numbers of images. `labels`: share of the labels that are right, as a
    multiset. `seconds`: CPU seconds. `note`: why there is nothing, or that time ran out.
    """

    model: str
    batch: int
    attack: str
    seed: int
    psnr: float | None = None
    ssim: float | None = None
    exact: int = 0
    found: int = 0
    labels: float | None = None
    seconds: float = 0.0
    note: str = ""

    @property
    def key(self) -> tuple[str, int, str, int]:
        """What tells one row from the others."""
        return self.model, self.batch, self.attack, self.seed


class Scores:
    """The rows so far, on disk after each; a run that was stopped goes on where it was.

    Parameters
    ----------
    path : Path
        A JSON file; read if it is there.
    settings : dict
        What all rows have in common.

    Raises
    ------
    ValueError
        If the file's rows were made with other settings.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self.settings = settings
        self.rows: list[Score] = []
        if path.exists():
            content = json.loads(path.read_text())
            if content["settings"] != settings:
                raise ValueError(
                    f"{path} was made with {content['settings']}, not {settings}: choose another "
                    "--out, or --fresh to begin anew."
                )
            self.rows = [Score(**row) for row in content["scores"]]

    def __contains__(self, key: tuple[str, int, str, int]) -> bool:
        return any(row.key == key for row in self.rows)

    def add(self, score: Score) -> None:
        """Append a row and save all."""
        self.rows.append(score)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {"settings": self.settings, "scores": [asdict(s) for s in self.rows]}
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(content, indent=1) + "\n")
        new.replace(self.path)


def grouped(scores: Sequence[Score]) -> dict[tuple[str, int, str], list[Score]]:
    """Rows that differ in nothing but the seed."""
    groups: dict[tuple[str, int, str], list[Score]] = {}
    for s in scores:
        groups.setdefault((s.model, s.batch, s.attack), []).append(s)
    return groups


def table(scores: Sequence[Score]) -> str:
    """Markdown, one row per model, batch size and attack: medians over seeds."""
    lines = [
        "| model | B | attack | PSNR dB | SSIM | exact | found | labels | CPU s | seeds | note |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (model, batch, attack), rows in grouped(scores).items():
        values = [
            _median([r.psnr for r in rows], ".1f"),
            _median([r.ssim for r in rows], ".2f"),
            _median([r.exact for r in rows], "g"),
            _median([r.found for r in rows], "g"),
            _median([r.labels for r in rows], ".2f"),
            _median([r.seconds for r in rows], ".1f"),
            str(len(rows)),
        ]
        notes = "; ".join(sorted({r.note for r in rows if r.note}))
        lines.append(f"| {model} | {batch} | {attack} | {' | '.join(values)} | {notes} |")
    return "\n".join(lines)


def overview(scores: Sequence[Score], batch: int) -> str:
    """Markdown: attacks by models; PSNR, the peer's in parentheses, and how many are exact."""
    groups = {(m, a): rows for (m, b, a), rows in grouped(scores).items() if b == batch}
    models = list(dict.fromkeys(m for m, _ in groups))
    own = dict.fromkeys(a for _, a in groups if not a.startswith(PEER))
    lines = [f"| B = {batch} | {' | '.join(models)} |", "|---" * (len(models) + 1) + "|"]
    for attack in own:
        cells = []
        for model in models:
            rows, theirs = groups.get((model, attack), []), groups.get((model, PEER + attack), [])
            cell = _median([r.psnr for r in rows], ".1f")
            if (peers := _median([r.psnr for r in theirs], ".1f")) != "-":
                cell += f" ({peers})"
            if exact := statistics.median([r.exact for r in rows] or [0]):
                cell += f", {exact:g} exact"
            cells.append(cell)
        lines.append(f"| {attack} | {' | '.join(cells)} |")
    return "\n".join(lines)


def beside(scores: Sequence[Score]) -> str:
    """Markdown: our Inverting Gradients beside a peer's after equally many iterations."""
    lines = [
        "| attack | model | B | seeds | PSNR dB, peer's | CPU s, peer's | ratio of seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    groups = grouped(scores)
    for (model, batch, attack), rows in groups.items():
        theirs = groups.get((model, batch, PEER + attack), [])
        if attack not in LIKE or not theirs or any(r.note for r in [*rows, *theirs]):
            continue
        ratio = statistics.median(r.seconds for r in rows) / statistics.median(
            r.seconds for r in theirs
        )
        pairs = [
            f"{_median([r.psnr for r in rows], '.1f')}, {_median([r.psnr for r in theirs], '.1f')}",
            f"{_median([r.seconds for r in rows], '.2f')}, "
            f"{_median([r.seconds for r in theirs], '.2f')}",
        ]
        seeds = min(len(rows), len(theirs))
        cells = [LIKE[attack], model, str(batch), str(seeds), *pairs, f"{ratio:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _median(values: Sequence[float | None], form: str) -> str:
    known = [v for v in values if v is not None]
    return format(statistics.median(known), form) if known else "-"


def heat_map(scores: Sequence[Score], path: Path) -> None:
    """Median PSNR, an attack per row, a model and batch size per column; gaps where none fits."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    groups = grouped(scores)
    rows = [
        attack
        for attack in dict.fromkeys(s.attack for s in scores)
        if any(s.psnr is not None for s in scores if s.attack == attack)
    ]
    columns = list(dict.fromkeys((s.model, s.batch) for s in scores))
    figure, axes = plt.subplots(figsize=(1.5 + 0.62 * len(columns), 1.2 + 0.34 * len(rows)))
    values = [
        [
            statistics.median(known) if known else float("nan")
            for known in (
                [s.psnr for s in groups.get((*column, row), []) if s.psnr is not None]
                for column in columns
            )
        ]
        for row in rows
    ]
    image = axes.imshow(values, vmin=5, vmax=60, cmap="viridis", aspect="auto")
    for i, line in enumerate(values):
        for j, value in enumerate(line):
            if value == value:
                colour = "black" if value > 45 else "white"
                axes.text(j, i, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(len(columns)), [f"{m}\nB={b}" for m, b in columns], fontsize=7)
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    figure.colorbar(image, label="PSNR (dB), colours end at 60")
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)
