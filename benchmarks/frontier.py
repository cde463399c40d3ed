"""The frontier of a sweep over defences as a table: what each setting leaks, costs and guarantees.

    fl-sim -m experiment=privacy_utility                       # or experiment=dp_sgd
    python benchmarks/frontier.py multirun/FOLDER privacy_utility

Reads the runs of the sweep, which its page shows as a plot, and writes a line per setting into
results/frontier/NAME.csv: images read exactly, and PSNR, SSIM and accuracy as mean and half-width
of the 95 % confidence interval over the seeds, with the largest epsilon any client has spent.
"""

from __future__ import annotations

import argparse
import csv
from collections import Counter
from pathlib import Path

from fl_sim.evaluation.confidence import Estimate
from fl_sim.report.frontier import Point, frontier
from fl_sim.report.runs import find_runs, swept_axes

RESULTS = Path(__file__).parent / "results" / "frontier"


def row(point: Point) -> dict[str, object]:
    """One line of the file."""
    known: dict[str, Estimate] = {
        "psnr": point.psnr,
        "ssim": point.ssim,
        "accuracy": point.accuracy,
    }
    figures: dict[str, object] = {}
    for name, value in known.items():
        figures[name] = f"{value.mean:.4g}"
        figures[f"{name}_half"] = "" if value.half is None else f"{value.half:.3g}"
    return {
        "protection": point.series,
        "setting": point.setting,
        "strength": point.strength,
        "seeds": point.accuracy.count,
        "exact": point.exact,
        "images": point.images,
        **figures,
        "epsilon": "" if point.epsilon is None else f"{point.epsilon:.4g}",
        "frontier": "yes" if point.best else "",
    }


def main() -> None:
    """Write the table of a sweep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="the sweep's folder")
    parser.add_argument("name", help="of the file to write")
    chosen = parser.parse_args()
    runs = find_runs(chosen.folder)
    rows = [row(point) for point in frontier(runs, swept_axes(runs))]
    if not rows:
        parser.error(f"{chosen.folder} holds no sweep over defences.")
    RESULTS.mkdir(parents=True, exist_ok=True)
    with (RESULTS / f"{chosen.name}.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    statuses = Counter(r.status for run in runs if run.results for r in run.results.attacks)
    print(f"{len(rows)} settings of {len(runs)} runs; attacks: {dict(statuses)}.")


if __name__ == "__main__":
    main()
