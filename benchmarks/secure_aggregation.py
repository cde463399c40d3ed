"""What is left to read of a cohort's sum: the ideal one, and the one Flower's SecAgg+ gives.

    python benchmarks/secure_aggregation.py

Four clients of 32 Fashion-MNIST images, a GELU network of width 2048, one local step; nothing is
granted. Every finished case is a line of results/secure_aggregation/runs.csv and is not done again;
table.md shows them.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path

from hydra import compose, initialize_config_dir

import fl_sim.cli  # noqa: F401 - registers the resolvers the configuration uses
from fl_sim.config import register
from fl_sim.display import Display
from fl_sim.records import AttackRow
from fl_sim.scenario import run_scenario

RESULTS = Path(__file__).parent / "results" / "secure_aggregation"
CONF = Path(__file__).parents[1] / "conf"
PLUS, WEIGHT = "strategy=secagg_plus", "strategy.adversary.max_weight"
CASES: dict[str, list[str]] = {
    "ideal sum, weights, lr 0.1": ["strategy=secure_aggregation"],
    "SecAgg+, gradients": [PLUS, "clients.reply=gradient"],
    "SecAgg+, weights, lr 0.1": [PLUS],
    "SecAgg+, gradients, max_weight 32": [PLUS, "clients.reply=gradient", f"{WEIGHT}=32"],
    "SecAgg+, weights, lr 0.1, max_weight 32": [PLUS, f"{WEIGHT}=32"],
    "SecAgg+, weights, lr 1, max_weight 32": [PLUS, f"{WEIGHT}=32", "clients.lr=1"],
}
SHARED = ["tracker=none", "clients.per_round=4", "model.width=2048", "attack.timeout=1200"]


def run(name: str, seed: int) -> dict[str, object]:
    """Run one case."""
    with initialize_config_dir(str(CONF), version_base=None):
        config = compose("config", [*SHARED, *CASES[name], f"seed={seed}"])
    with tempfile.TemporaryDirectory() as folder:
        (row,) = run_scenario(config, Path(folder), Display(brief=True)).attacks
    return {"case": name, "seed": seed, **summary(row)}


def summary(row: AttackRow) -> dict[str, object]:
    """Numbers of one attack; errors over all true samples, one where nothing was matched."""
    errors = sorted(1.0 if e is None else e for e in row.relative_error)
    return {
        "images": row.batch_size,
        "rank": row.estimated_batch_size,
        "exact": row.recovered,
        "within_tenth": sum(e <= 0.1 for e in errors),
        "certified": row.certified,
        "wrong": row.false_certificates,
        "labels": row.label_accuracy,
        "median_error": errors[len(errors) // 2],
        "status": row.status,
        "seconds": row.seconds,
    }


def table(rows: list[dict[str, str]]) -> str:
    """Return all runs in Markdown."""
    lines = [
        "| what the server sees | seed | within 1 % | within 10 % | median error "
        "| certified (wrong) | labels | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    order = list(CASES)
    for row in sorted(rows, key=lambda r: (order.index(r["case"]), int(r["seed"]))):
        lines.append(
            f"| {row['case']}{unfinished(row)} | {row['seed']} | {row['exact']} of {row['images']} "
            f"| {row['within_tenth']} | {float(row['median_error']):.0e} "
            f"| {row['certified']} ({row['wrong']}) | {float(row['labels'] or 0):.0%} "
            f"| {float(row['seconds']):.0f} |"
        )
    return "\n".join(lines) + "\n"


def unfinished(row: dict[str, str]) -> str:
    """Say so where an attack did not come to its end."""
    return "" if row["status"] == "ok" else f" ({row['status']})"


def main() -> None:
    """Run what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    seeds = parser.parse_args().seeds
    register()
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / "runs.csv"
    for seed in seeds:
        for name in CASES:
            rows = finished(path)
            if any(row["case"] == name and row["seed"] == str(seed) for row in rows):
                continue
            result = run(name, seed)
            with path.open("a", newline="") as file:
                writer = csv.DictWriter(file, list(result), lineterminator="\n")
                if not rows:
                    writer.writeheader()
                writer.writerow(result)
            (RESULTS / "table.md").write_text(table(finished(path)))


def finished(path: Path) -> list[dict[str, str]]:
    """Read the runs on disk."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    main()
