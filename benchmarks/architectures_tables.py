"""What architectures.py measured: a line per run in a CSV, and one Markdown table of them all."""

from __future__ import annotations

import csv
import statistics
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from benchmarks.architectures_rows import ROWS

Runs = list[dict[str, str]]
HEADER = (
    "| network, B | attack | seeds | PSNR median (dB) | lowest | above 40 dB | SSIM | certified "
    "| wrong | features < 1e-3 | s |\n|---|---|---|---|---|---|---|---|---|---|---|"
)
OURS = ("features", "reading")


@dataclass(frozen=True)
class Line:
    """What one attack reached on one gradient.

    Attributes
    ----------
    row, attack : str
    seed, batch : int
    found : int
        Images, or features, that were returned.
    median, lowest : float
        PSNR in dB over the true images, 0 for one that was not returned.
    above : int, optional
        Images above `CLEAR` dB.
    ssim : float, optional
        Mean.
    certified, wrong : int
        Images with a certificate, and those of them that are not above `CLEAR` dB.
    features_exact : int, optional
        True samples whose features, or tokens, are read with a relative error below 1e-3.
    feature_error : float, optional
        The largest relative error of a true sample's.
    seconds : float
        CPU seconds.
    note : str
        Why not more, in the attack's own words.
    """

    row: str
    attack: str
    seed: int
    batch: int
    found: int = 0
    median: float = 0.0
    lowest: float = 0.0
    above: int | None = None
    ssim: float | None = None
    certified: int = 0
    wrong: int = 0
    features_exact: int | None = None
    feature_error: float | None = None
    seconds: float = 0.0
    note: str = ""


CLEAR = 40.0
"""PSNR in dB from which on an image counts as seen."""


def finished(path: Path) -> Runs:
    """The lines there are."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def append(path: Path, line: Line) -> None:
    """Add a line to the results."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Line)])
        if fresh:
            writer.writeheader()
        writer.writerow(asdict(line))


def table(runs: Runs) -> str:
    """Markdown: a line per network, batch and attack over the seeds, and what stood in the way."""
    groups: dict[tuple[str, str], Runs] = {}
    for run in runs:
        groups.setdefault((run["row"], run["attack"]), []).append(run)
    order = {name: i for i, name in enumerate(ROWS)}
    rows, notes = [HEADER], []
    for (name, attack), group in sorted(groups.items(), key=lambda g: order[g[0][0]]):
        rows.append(f"| {name} | {attack} | {' | '.join(_cells(attack, group))} |")
        said = [(r["seed"], r["note"]) for r in group if r["note"] and attack in OURS]
        notes += [f"- {name}, seed {seed}: {note}" for seed, note in sorted(said)]
    return "\n".join([*rows, "", "Why not more, in the attack's own words:", "", *notes]) + "\n"


def _cells(attack: str, group: Runs) -> list[str]:
    """Medians and extremes over the seeds; sums of what is counted."""
    total = sum(int(r["batch"]) for r in group)
    images, ours = attack != "reading", attack in OURS

    def values(key: str) -> list[float]:
        return [float(r[key]) for r in group if r[key]]

    return [
        str(len(group)),
        f"{statistics.median(values('median')):.1f}" if images else "-",
        f"{min(values('lowest')):.1f}" if images else "-",
        f"{sum(values('above')):.0f} of {total}" if values("above") and images else "-",
        f"{statistics.median(values('ssim')):.3f}" if values("ssim") else "-",
        f"{sum(values('certified')):.0f} of {total}" if ours else "-",
        f"{sum(values('wrong')):.0f}" if ours else "-",
        f"{sum(values('features_exact')):.0f}" if values("features_exact") else "-",
        f"{statistics.median(values('seconds')):.0f}" if values("seconds") else "-",
    ]
