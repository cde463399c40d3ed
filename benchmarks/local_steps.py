"""What several local steps hide: the tensor attack with and without simulating the client.

    python benchmarks/local_steps.py [--seeds 0 1 2] [--only "GELU, one batch of 16" "lr 0.1,"]

Fashion-MNIST images, two layers, PyTorch's default initialisation, clients in float32 that send
weights; nothing is granted but steps and learning rate. Every finished run is a line of
results/local_steps/runs.csv and is not done again; results/local_steps/table.md shows them: images
read to 1 %, and the mean PSNR, without unrolling (the update taken for one gradient) and with it.
An attack that has not ended after `--limit` seconds counts with what it had by then.
"""

from __future__ import annotations

import argparse
import copy
import csv
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from attacks import LocalWork, Reconstruction, UpdateTensorAttack
from fl_sim.data.bundled import fashion_mnist_mini
from fl_sim.evaluation.matching import match
from fl_sim.evaluation.metrics import psnr, relative_error
from fl_sim.records import EXACT
from strategies.limits import TimedOut, with_timeout

RESULTS = Path(__file__).parent / "results" / "local_steps"
ACTIVATIONS = {"GELU": nn.GELU, "ReLU": nn.ReLU, "tanh": nn.Tanh}


@dataclass(frozen=True)
class Setting:
    """One client's work. `epochs` is zero where all steps take the same batch."""

    activation: str
    images: int
    steps: int
    epochs: int
    lr: float
    width: int
    seed: int

    @property
    def title(self) -> str:
        """What the steps take, in words."""
        if not self.epochs:
            return f"one batch of {self.images}, {self.steps} steps"
        size = self.images * self.epochs // self.steps
        words = f"{self.steps // self.epochs} batches of {size}"
        return f"{words}, {self.epochs} epoch{'s' * (self.epochs > 1)}"

    def order(self) -> Tensor:
        """Which images (steps, b) each step takes."""
        if not self.epochs:
            return torch.arange(self.images).repeat(self.steps, 1)
        generator = torch.Generator().manual_seed(self.seed)
        walks = [torch.randperm(self.images, generator=generator) for _ in range(self.epochs)]
        return torch.cat(walks).reshape(self.steps, -1)


@dataclass(frozen=True)
class Run:
    """A setting and what came out; the names of the columns of runs.csv."""

    setting: Setting
    unrolled: bool
    exact: int
    certified: int
    wrong: int
    labels: int
    psnr: float
    error: float
    seconds: float

    def row(self) -> dict[str, object]:
        """One line of the file."""
        flat = asdict(self)
        return {**flat.pop("setting"), **flat}

    @staticmethod
    def of(row: dict[str, str]) -> Run:
        """Read one line of the file."""
        setting = Setting(
            row["activation"],
            *(int(row[name]) for name in ("images", "steps", "epochs")),
            lr=float(row["lr"]),
            width=int(row["width"]),
            seed=int(row["seed"]),
        )
        counts = (int(row[name]) for name in ("exact", "certified", "wrong", "labels"))
        numbers = (float(row[name]) for name in ("psnr", "error", "seconds"))
        return Run(setting, row["unrolled"] == "True", *counts, *numbers)


def settings(seed: int) -> Iterator[Setting]:
    """All settings of one seed, small batches first."""
    for images, epochs in ((16, (4,)), (32, (4, 8)), (64, (8,))):
        width = 2048 if images == 64 else 1024
        for activation in ("GELU", "ReLU"):
            for lr in (0.1, 0.01):
                for steps in (2, 4, 8, 1) if images < 64 else ():
                    yield Setting(activation, images, steps, 0, lr, width, seed)
                for steps in epochs:
                    yield Setting(activation, images, steps, 1, lr, width, seed)
                if images == 16:
                    yield Setting(activation, images, 4, 2, lr, width, seed)
    yield Setting("tanh", 32, 4, 1, 0.01, 1024, seed)


def batch(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw images, standardised, and their labels."""
    data = fashion_mnist_mini()
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(data.train_images), generator=generator)[:count]
    return data.to_inputs(data.train_images[chosen], True).flatten(1), data.train_labels[chosen]


def update(model: nn.Module, x: Tensor, y: Tensor, order: Tensor, lr: float) -> dict[str, Tensor]:
    """Return the mean gradient a server reads off the weights a client sends back."""
    work = copy.deepcopy(model)
    for chosen in order:
        loss = nn.functional.cross_entropy(work(x[chosen]), y[chosen])
        gradients = torch.autograd.grad(loss, list(work.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(work.parameters(), gradients, strict=True):
                parameter -= lr * gradient
    moved = zip(model.named_parameters(), work.parameters(), strict=True)
    scale = lr * len(order)
    return {n: (p.detach().double() - q.detach().double()) / scale for (n, p), q in moved}


def run(setting: Setting, unrolled: bool, limit: float) -> Run:
    """Attack one client, for at most `limit` seconds."""
    x, y = batch(setting.images, setting.seed)
    torch.manual_seed(setting.seed)
    activation = ACTIVATIONS[setting.activation]()
    model = nn.Sequential(nn.Linear(784, setting.width), activation, nn.Linear(setting.width, 10))
    gradient = update(model, x, y, setting.order(), setting.lr)
    attack, work = UpdateTensorAttack(unroll=unrolled), LocalWork(setting.steps, setting.lr)
    start = time.process_time()
    try:
        found, _ = with_timeout(lambda: attack.run(model, gradient, local=work), limit)
    except TimedOut:
        found = Reconstruction(torch.zeros(0, x.shape[1]))
    return scored(setting, unrolled, x, y, found, time.process_time() - start)


def scored(
    setting: Setting, unrolled: bool, x: Tensor, y: Tensor, found: Reconstruction, seconds: float
) -> Run:
    """Compare a reconstruction with the truth."""
    data = fashion_mnist_mini()
    pairs = match(x, found.inputs)
    there = pairs >= 0
    got = found.inputs[pairs[there]]
    error = torch.ones(len(x), dtype=torch.float64)
    error[there] = relative_error(x[there].double(), got.double())
    quality = torch.zeros(len(x), dtype=torch.float64)
    pixels = [data.to_unit(z.reshape(-1, *data.image_shape), True) for z in (x[there], got)]
    quality[there] = psnr(*pixels).double()
    labels = 0 if found.labels is None else int((found.labels[pairs[there]] == y[there]).sum())
    exact = error <= EXACT
    good = torch.zeros_like(found.certified)
    good[pairs[there]] = exact[there]
    return Run(
        setting=setting,
        unrolled=unrolled,
        exact=int(exact.sum()),
        certified=int(found.certified.sum()),
        wrong=int((found.certified & ~good).sum()),
        labels=labels,
        psnr=float(quality.mean()),
        error=float(error.max()),
        seconds=seconds,
    )


def finished() -> list[Run]:
    """All runs on disk."""
    path = RESULTS / "runs.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [Run.of(row) for row in csv.DictReader(file)]


def keep(done: Run) -> None:
    """Append a run to the file."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / "runs.csv"
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(done.row()), lineterminator="\n")
        if fresh:
            writer.writeheader()
        writer.writerow(done.row())


def table(runs: list[Run]) -> str:
    """Markdown: a line per setting, all its seeds together."""
    lines = [
        "| activation, width | the steps take | lr | seeds | read without | with unrolling "
        "| certified (wrong) | labels | PSNR without | with | largest error | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[Setting, list[Run]] = defaultdict(list)
    for done in runs:
        groups[replace(done.setting, seed=0)].append(done)
    order = sorted(groups, key=lambda s: (s.epochs, s.images, s.activation, s.steps, s.lr))
    for setting in order:
        plain = [r for r in groups[setting] if not r.unrolled]
        full = [r for r in groups[setting] if r.unrolled]
        if not full:
            continue
        total = setting.images
        without = "/".join(str(r.exact) for r in plain) or "-"
        dim = f"{_mean([r.psnr for r in plain]):.0f}" if plain else "-"
        lines.append(
            f"| {setting.activation}, {setting.width} | {setting.title} | {setting.lr:g} "
            f"| {len(full)} | {without} | {'/'.join(str(r.exact) for r in full)} of {total} "
            f"| {'/'.join(str(r.certified) for r in full)} ({sum(r.wrong for r in full)}) "
            f"| {'/'.join(str(r.labels) for r in full)} | {dim} "
            f"| {_mean([r.psnr for r in full]):.0f} | {max(r.error for r in full):.0e} "
            f"| {_mean([r.seconds for r in full]):.0f} |"
        )
    return "\n".join(lines) + "\n"


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def main() -> None:
    """Run what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=[], help="parts of a setting's description")
    parser.add_argument("--limit", type=float, default=1800, help="seconds for one attack")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    done = {(r.setting, r.unrolled) for r in finished()}
    todo = [
        (setting, unrolled)
        for seed in chosen.seeds
        for unrolled in (True, False)
        for setting in settings(seed)
        if all(part in described(setting) for part in chosen.only)
    ]
    for setting, unrolled in todo:
        if (setting, unrolled) in done:
            continue
        result = run(setting, unrolled, chosen.limit)
        keep(result)
        how = "unrolled" if unrolled else "as one gradient"
        print(
            f"{described(setting)}, {how}: {result.exact} of {setting.images} read, "
            f"{result.certified} certified, {result.seconds:.0f} s",
            flush=True,
        )
        (RESULTS / "table.md").write_text(table(finished()))
    (RESULTS / "table.md").write_text(table(finished()))


def described(setting: Setting) -> str:
    """One line about a setting."""
    return f"{setting.activation}, {setting.title}, lr {setting.lr:g}, seed {setting.seed}"


if __name__ == "__main__":
    main()
