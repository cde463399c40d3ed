"""How far the exact attack reaches: success and seconds over activation, width, batch and start.

    python benchmarks/exact_reach.py --table headline    # the README's rows, ten seeds each
    python benchmarks/exact_reach.py --table all         # hours
    python benchmarks/exact_reach.py --summary           # tables and heat map of all runs so far

A run counts as complete if every image came back at a relative error below 1e-3, certified and with
its label. Certified inputs further than 1 % from every true image are false certificates. Seconds
are CPU seconds of all threads. Every finished run adds a line to results/exact/runs.csv; what is
there already is not run again.
"""

from __future__ import annotations

import argparse
import csv
import functools
import os
import time
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attacks import PeelingAttack, Reconstruction, SpearAttack, TensorAttack
from benchmarks.exact_data import DIRECTORY, draw_batch, fashion_mnist, gradient_of, mlp, pictures
from benchmarks.exact_data import train as train_model
from benchmarks.exact_settings import TABLES, Setting
from benchmarks.exact_tables import summarise
from strategies.limits import TimedOut, with_timeout

RUNS = Path(__file__).parent / "results" / "exact" / "runs.csv"
MEASURED = (
    "complete",
    "recovered",
    "certified",
    "false",
    "worst",
    "rounds",
    "seconds",
    "gigabytes",
)
FIELDS = ["table", "seed", *(f.name for f in fields(Setting)), *MEASURED]
TRAINING_IMAGES = 10_000


def attempt(setting: Setting, seed: int, directory: str, limit: float) -> dict[str, Any]:
    """Attack one batch and compare with the truth, which the attack never sees."""
    images, labels = pictures(setting.data, directory)
    model = mlp(
        setting.activation, [images.shape[1], setting.width, *setting.deep, 10], setting.init, seed
    )
    if setting.epochs:
        images, labels = (t[:TRAINING_IMAGES] for t in fashion_mnist(directory, "train"))
        model = trained(setting.activation, setting.width, setting.epochs, seed, directory)
    x, y = draw_batch(
        images,
        labels,
        setting.batch,
        seed,
        raw=setting.raw,
        one_label=setting.one_label,
        twin=setting.twin,
    )
    gradient = gradient_of(model, x, y)
    attack = {
        "tensor": lambda: TensorAttack(tensor_step=setting.tensor_step),
        "spear": SpearAttack,
        "peeling": PeelingAttack,
    }[setting.attack]()
    reset_peak_memory()
    start = time.process_time()
    try:
        found, _ = with_timeout(lambda: attack.run(model, gradient), limit)
    except TimedOut:
        found = None
    seconds = time.process_time() - start
    return score(setting, found, x, y) | {
        "seconds": round(seconds, 2),
        "gigabytes": round(peak_memory(), 2),
    }


def reset_peak_memory() -> None:
    """Forget the peak so far, where Linux can."""
    if os.access("/proc/self/clear_refs", os.W_OK):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> float:
    """Largest resident size in gigabytes, libraries and data included; nan where unknown."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    peak = next((row for row in lines if row.startswith("VmHWM")), None)
    return int(peak.split()[1]) / 2**20 if peak else float("nan")


@functools.lru_cache(maxsize=1)
def trained(activation: str, width: int, epochs: int, seed: int, directory: str) -> nn.Sequential:
    """A two-layer network trained on the images the batch is drawn from."""
    model = mlp(activation, [784, width, 10], "default", seed)
    images, labels = (t[:TRAINING_IMAGES] for t in fashion_mnist(directory, "train"))
    train_model(model, images, labels, epochs, seed)
    return model


def score(setting: Setting, found: Reconstruction | None, x: Tensor, y: Tensor) -> dict[str, Any]:
    """What a reconstruction is worth."""
    if found is None or not len(found):
        return {"complete": 0, "recovered": 0, "certified": 0, "false": 0, "worst": "", "rounds": 0}
    exact = {"compute_mode": "donot_use_mm_for_euclid_dist"}
    distance = torch.cdist(x.double(), found.inputs.flatten(1).double(), **exact)
    distance = distance / x.double().norm(dim=1, keepdim=True)
    error, nearest = distance.min(1)
    right = (error < 1e-3) & found.certified[nearest]
    right &= found.labels is not None and found.labels[nearest] == y
    counted = not setting.twin or found.batch_size == setting.batch
    return {
        "complete": int(bool(right.all()) and counted),
        "recovered": int(right.sum()),
        "certified": int(found.certified.sum()),
        "false": int((found.certified & (distance.min(0).values > 1e-2)).sum()),
        "worst": f"{float(error.max()):.1e}",
        "rounds": len(found.info.get("rounds", ())),
    }


def finished() -> set[tuple[str, ...]]:
    """Keys of the runs on disk."""
    if not RUNS.exists():
        return set()
    with RUNS.open(newline="") as file:
        return {key(row) for row in csv.DictReader(file)}


def key(row: dict[str, Any]) -> tuple[str, ...]:
    """What identifies a run."""
    return tuple(str(row[name]) for name in FIELDS if name not in MEASURED)


def main() -> None:
    """Run one table, or all, or sum up what was run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", choices=[*TABLES, "all"], default="headline")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--only", default="", help="activations, comma separated")
    parser.add_argument("--limit", type=float, default=600, help="seconds per run")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", default=DIRECTORY)
    parser.add_argument("--summary", action="store_true", help="run nothing")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    RUNS.parent.mkdir(parents=True, exist_ok=True)
    done = finished()
    tables = TABLES if options.table == "all" else {options.table: TABLES[options.table]}
    jobs = [
        (t, s, seed) for t, rows in tables.items() for s in rows for seed in range(options.seeds)
    ]
    with RUNS.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        if not done:
            writer.writeheader()
        for table, setting, seed in [] if options.summary else jobs:
            if options.only and setting.activation not in options.only.split(","):
                continue
            start = {"table": table, "seed": seed} | asdict(setting)
            if key(start) in done:
                continue
            line = start | attempt(setting, seed, options.data, options.limit)
            print(" ".join(f"{k}={v}" for k, v in line.items() if v not in ("", ())), flush=True)
            writer.writerow(line)
            file.flush()
    print(summarise(RUNS))


if __name__ == "__main__":
    main()
