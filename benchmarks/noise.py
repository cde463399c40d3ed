"""What noise and pruning leave: the tensor attack, its likelihood fit, and gradient matching.

    python benchmarks/noise.py                      # everything, about an hour on one core
    python benchmarks/noise.py --kinds prune --activations GELU --seeds 0
    python benchmarks/noise.py --summary            # table and plot of what has been measured

Fashion-MNIST test images, standardised, 784 - m - 10 with PyTorch's default initialisation, one
float32 gradient of the mean cross entropy. Noise is white, of a Frobenius norm relative to each
tensor's; pruning keeps each tensor's largest entries. Each gradient goes to the attack without its
final fit, to the whole attack, and to InvertingGradients, which alone is told the batch size. Every
measurement is a line of results/noise/runs.csv; a case that is there is not run again.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import sys
from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))

from exact_data import DIRECTORY, draw_batch, fashion_mnist, gradient_of, mlp
from noise_report import report

from attacks import Attack, InvertingGradients, Knowledge, Reconstruction, TensorAttack

RESULTS = Path(__file__).resolve().parent / "results" / "noise"
LEVELS = {"noise": (1e-4, 1e-3, 1e-2, 3e-2, 1e-1), "prune": (0.5, 0.9, 0.99)}


@dataclass(frozen=True)
class Case:
    """One gradient and one attack on it."""

    kind: str
    level: float
    activation: str
    batch: int
    seed: int
    attack: str


@dataclass(frozen=True)
class Score:
    """What an attack made of it; errors relative to each true image, infinite where unmatched."""

    found: int
    median: float
    worst: float
    within_1_percent: int
    within_10_percent: int
    labels: int
    certified: int
    false: int
    seconds: float


def corrupted(g: Tensor, kind: str, level: float, generator: torch.Generator) -> Tensor:
    """One tensor with white noise, or without its small entries."""
    if kind == "noise":
        noise = torch.randn(g.shape, generator=generator)
        return g + level * g.norm() / g.numel() ** 0.5 * noise
    kept = g.abs().flatten().topk(max(1, round((1 - level) * g.numel()))).indices
    sparse = torch.zeros_like(g).flatten()
    sparse[kept] = g.flatten()[kept]
    return sparse.reshape(g.shape)


def score(found: Reconstruction, x: Tensor, y: Tensor) -> Score:
    """Match reconstructions to images (Hungarian) and count."""
    error = torch.full((len(x),), torch.inf, dtype=torch.float64)
    labels = false = 0
    if len(found):
        distance = torch.cdist(x.double(), found.inputs.double().flatten(1))
        i, j = map(torch.as_tensor, linear_sum_assignment(distance.square().clamp_max(1e9)))
        error[i] = distance[i, j] / x[i].double().norm(dim=1)
        labels = int((found.labels[j] == y[i]).sum()) if found.labels is not None else 0
        near = (distance / x.double().norm(dim=1)[:, None]).min(0).values
        false = int((found.certified & (near > 1e-2)).sum())
    return Score(
        found=len(found),
        median=float(error.median()),
        worst=float(error.max()),
        within_1_percent=int((error <= 0.01).sum()),
        within_10_percent=int((error <= 0.1).sum()),
        labels=labels,
        certified=int(found.certified.sum()),
        false=false,
        seconds=found.seconds,
    )


def run(case: Case, attack: Attack, width: int, data: tuple[Tensor, Tensor]) -> Score:
    """One measurement."""
    x, y = draw_batch(*data, case.batch, case.seed, raw=False, one_label=False)
    model = mlp(case.activation, [784, width, 10], "default", case.seed)
    generator = torch.Generator().manual_seed(77 + case.seed)
    gradient = {
        name: corrupted(value, case.kind, case.level, generator)
        for name, value in gradient_of(model, x, y).items()
    }
    told = Knowledge(batch_size=case.batch if case.attack == "matching" else None)
    shape = (1, 28, 28) if case.attack == "matching" else None
    model = torch.nn.Sequential(torch.nn.Flatten(), *model) if shape else model
    if shape:  # total variation needs images
        names = [name for name, _ in model.named_parameters()]
        gradient = dict(zip(names, gradient.values(), strict=True))
    return score(attack.run(model, gradient, input_shape=shape, knows=told), x, y)


def measured() -> dict[Case, Score]:
    """Everything measured so far."""
    path = RESULTS / "runs.csv"
    if not path.exists():
        return {}
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return {_read(Case, row): _read(Score, row) for row in rows}


def _read(kind, row):
    types = {"int": int, "float": float, "str": str}
    return kind(**{f.name: types[str(f.type)](row[f.name]) for f in fields(kind)})


def record(case: Case, score: Score) -> None:
    """Append one measurement."""
    path = RESULTS / "runs.csv"
    RESULTS.mkdir(parents=True, exist_ok=True)
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if fresh:
            writer.writerow([f.name for f in (*fields(Case), *fields(Score))])
        values = (f"{v:.4g}" if isinstance(v, float) else v for v in astuple(score))
        writer.writerow([*astuple(case), *values])


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """All that was asked for, one seed after another."""
    for seed, attack, kind in itertools.product(options.seeds, options.attacks, options.kinds):
        for batch, activation in itertools.product(options.batches, options.activations):
            for level in LEVELS[kind]:
                if options.levels is None or level in options.levels:
                    yield Case(kind, level, activation, batch, seed, attack)


def main() -> None:
    """Measure what is missing and print the table."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", default=list(LEVELS), choices=list(LEVELS))
    parser.add_argument("--activations", nargs="+", default=["ReLU", "GELU", "Tanh"])
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--levels", type=float, nargs="+", help="by default all")
    choices = ["fitted", "search", "matching"]
    parser.add_argument("--attacks", nargs="+", default=choices, choices=choices)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--iterations", type=int, default=300, help="of InvertingGradients")
    parser.add_argument("--data", default=DIRECTORY)
    parser.add_argument("--summary", action="store_true", help="measure nothing")
    options = parser.parse_args()
    attacks: dict[str, Attack] = {
        "fitted": TensorAttack(),
        "search": TensorAttack(fit=False),
        "matching": InvertingGradients(iterations=options.iterations),
    }
    data = None if options.summary else fashion_mnist(options.data)
    done = measured()
    for case in cases(options) if data is not None else ():
        if case not in done:
            done[case] = run(case, attacks[case.attack], options.width, data)
            record(case, done[case])
            print(case, done[case], flush=True)
    rows = [asdict(case) | asdict(result) for case, result in done.items()]
    print(report(rows, RESULTS, options.iterations))


if __name__ == "__main__":
    main()
