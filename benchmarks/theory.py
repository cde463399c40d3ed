"""Theory beside measurement: the bounds of arXiv 2402.09478 and the errors they bound.

    python benchmarks/theory.py [--only m dropout]       # some minutes on one core

Upper bounds: the published estimator on the founding paper's model (z^2 + z^3, x_i = e_i, residual
offset 30), d = 20, m = 2000, B = 2, one thing varied at a time; RMS error over the batch, mean over
seeds. Noise is in units of one sample's part of a gradient entry; under DP-SGD each sample's
gradient is clipped first, to a norm C of 1/overshoot times the mean norm, and the noise is
`DP_NOISE`. Each curve's one constant is fitted at its first point, where nothing protects (or the
size is the smallest, or nothing is clipped).

Lower bound: `TensorAttack` on a GELU network of width 128 and images of 7 x 7 pixels, B = 4, under
noise on every coordinate; sigma^2 Tr((J J')^-1) is computed for that very model and batch.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

import torch
from paper_figures import OFFSET, SquarePlusCube, squared_error
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from attacks import Knowledge, PublishedTensorAttack, TensorAttack
from fl_sim.data.bundled import fashion_mnist_mini
from fl_sim.evaluation.matching import match
from fl_sim.theory import lower_bound, upper_bound

RESULTS = Path(__file__).parent / "results" / "theory"
D, M, B = 20, 2000, 2
STEP = 5e-4
"""Learning rate of local steps, times m; one step shrinks the residual by about two percent."""

VARIED: dict[str, list[float]] = {
    "m": [500, 1000, 2000, 4000, 8000],
    "d": [10, 20, 40, 80],
    "B": [1, 2, 4, 8],
    "steps": [1, 2, 4, 8],
    "noise": [0, 1, 3, 10, 30],
    "dropout": [0, 0.25, 0.5, 0.75, 0.9],
    "overshoot": [0.5, 1, 2, 4, 8, 16],
}
DP_NOISE = 1.0
"""Noise of the DP-SGD panel."""

LOWER = "lower bound"
LEVELS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
"""Standard deviations of the noise over the root mean square of the gradient's entries."""


def observed(setting: dict[str, Any], seed: int) -> tuple[nn.Module, dict[str, Tensor], Tensor]:
    """Return the paper's network, what a server sees of a defended client, and the inputs."""
    generator = torch.Generator().manual_seed(seed)
    d, m, count = int(setting["d"]), int(setting["m"]), int(setting["B"])
    model = nn.Sequential(
        nn.Linear(d, m, bias=False), SquarePlusCube(), nn.Linear(m, 1, bias=False)
    )
    model = model.double()
    start = torch.randn(m, d, generator=generator, dtype=torch.float64)
    sent = {"0.weight": start, "2.weight": torch.full((1, m), 1 / m, dtype=torch.float64)}
    model.load_state_dict(sent)
    inputs = torch.eye(d, dtype=torch.float64)[:count]
    labels = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(count)[:count]
    kept = torch.rand(m, generator=generator) >= setting["dropout"]
    total = {name: torch.zeros_like(value) for name, value in sent.items()}
    steps = int(setting["steps"])
    for _ in range(steps):
        hidden = model[1](model[0](inputs)) * kept / (1 - setting["dropout"])
        losses = ((hidden @ model[2].weight[0]) - labels + OFFSET).square()
        parts, unit = clipped(losses, list(model.parameters()), setting["overshoot"])
        with torch.no_grad():
            for (name, parameter), part in zip(model.named_parameters(), parts, strict=True):
                total[name] += part / steps
                parameter -= STEP / m * part
    model.load_state_dict(sent)
    for (name, value), size in zip(total.items(), unit, strict=True):
        noise = torch.randn(value.shape, generator=generator, dtype=value.dtype)
        total[name] = value + setting["noise"] * size / count * noise
    return model, total, inputs


def clipped(
    losses: Tensor, parameters: list[nn.Parameter], overshoot: float
) -> tuple[list[Tensor], list[float]]:
    """Return the mean of the samples' clipped gradients, and the size (RMS) of the unclipped mean.

    They are clipped to the mean norm over `overshoot`; not at all where that is 1 or less.
    """
    plain = torch.autograd.grad(losses.mean(), parameters, retain_graph=True)
    sizes = [float(part.square().mean().sqrt()) for part in plain]
    if overshoot <= 1:
        return list(plain), sizes
    each = [torch.autograd.grad(loss, parameters, retain_graph=True) for loss in losses]
    norms = torch.stack([sum(part.square().sum() for part in parts).sqrt() for parts in each])
    factors = (norms.mean() / overshoot / norms).clamp_max(1) / len(losses)
    scaled = ([f * part for part in parts] for f, parts in zip(factors, each, strict=True))
    return [sum(same) for same in zip(*scaled, strict=True)], sizes


def published(setting: dict[str, Any], seed: int) -> float:
    """Return the RMS error of the published estimator in one setting."""
    model, gradient, inputs = observed(setting, seed)
    found = PublishedTensorAttack().run(
        model,
        gradient,
        loss="mse",
        knows=Knowledge(batch_size=len(inputs)),
        generator=torch.Generator().manual_seed(seed),
    )
    return squared_error(found.inputs, inputs, model[1]) ** 0.5


def upper_rows(names: Container[str], seeds: int) -> Iterator[dict[str, Any]]:
    """Measure the published estimator with one thing varied at a time, beside its bound."""
    for key, values in VARIED.items():
        if key not in names:
            continue
        constant = None
        for value in values:
            usual = {"d": D, "m": M, "B": B, "steps": 1, "dropout": 0.0, "overshoot": 0.0}
            setting = {**usual, "noise": DP_NOISE if key == "overshoot" else 0.0, key: value}
            measured = [published(setting, seed) for seed in range(seeds)]
            mean = sum(measured) / seeds
            sizes = {k: int(setting[k]) for k in ("B", "d", "m", "steps")}
            protection = {k: setting[k] for k in ("noise", "dropout", "overshoot")}
            curve = upper_bound(**sizes, **protection)
            constant = constant or mean / curve
            spread = torch.tensor(measured).std().item() if seeds > 1 else 0.0
            yield {
                "varied": key, "value": value, "measured": mean, "std": spread,
                "bound": constant * curve, "constant": constant, "seeds": seeds,
            }  # fmt: skip


def lower_rows(seeds: int) -> Iterator[dict[str, Any]]:
    """Measure the exact attack under noise beside the lower bound for the same model and batch."""
    images = torch.nn.functional.avg_pool2d(fashion_mnist_mini().train_images / 255.0, 4)
    for level in LEVELS:
        errors, bounds = [], []
        for seed in range(seeds):
            generator = torch.Generator().manual_seed(seed)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                model = nn.Sequential(
                    nn.Flatten(), nn.Linear(49, 128), nn.GELU(), nn.Linear(128, 10)
                ).double()
            x = images[torch.randperm(len(images), generator=generator)[:4]].double()
            x = (x - images.mean()) / images.std()
            y = torch.randint(10, (4,), generator=generator)
            value = nn.functional.cross_entropy(model(x), y)
            parts = torch.autograd.grad(value, list(model.parameters()))
            rms = torch.cat([g.flatten() for g in parts]).square().mean().sqrt()
            noisy = {
                name: g
                + level * rms * torch.randn(g.shape, generator=generator, dtype=torch.float64)
                for (name, _), g in zip(model.named_parameters(), parts, strict=True)
            }
            found = TensorAttack().run(model, noisy, input_shape=(1, 7, 7))
            truth = x.flatten(1)
            pairs = match(truth, found.inputs.flatten(1))
            if (pairs < 0).any():
                continue
            missed = truth - found.inputs.flatten(1)[pairs]
            errors.append((missed.square().mean()).sqrt().item())
            bound = lower_bound(model, x, y, "cross_entropy", float(level * rms))
            bounds.append((bound / x.numel()) ** 0.5)
        if errors:
            yield {
                "varied": LOWER, "value": level, "measured": sum(errors) / len(errors),
                "std": torch.tensor(errors).std().item() if len(errors) > 1 else 0.0,
                "bound": sum(bounds) / len(bounds), "constant": 1.0, "seeds": len(errors),
            }  # fmt: skip


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw each varied quantity as a panel: dots measured, line theory."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    names = list(dict.fromkeys(row["varied"] for row in rows))
    figure = Figure(figsize=(12, 5.6), layout="constrained")
    panels = figure.subplots(2, 4).flat
    titles = {
        "steps": "local steps K",
        "noise": "noise σ",
        "dropout": "dropout p",
        "overshoot": f"DP-SGD, σ = {DP_NOISE:g}: norm / bound C",
        LOWER: "exact attack (lower bound): σ / RMS",
    }
    for axes, name in zip(panels, names, strict=False):
        own = [row for row in rows if row["varied"] == name]
        x = [row["value"] for row in own]
        axes.plot(x, [row["bound"] for row in own], color="#565d61", label="theory")
        axes.errorbar(
            x, [row["measured"] for row in own], yerr=[row["std"] for row in own],
            fmt="o", color="#c81e3a", label="measured",
        )  # fmt: skip
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
        if min(x) > 0:
            axes.set_xscale("log")
            axes.set_xticks(x, [f"{value:.0e}" if value < 1e-3 else f"{value:g}" for value in x])
            axes.set_xticks([], minor=True)
        axes.set_xlabel(titles.get(name, name))
        axes.spines[["top", "right"]].set_visible(False)
    for axes in list(figure.axes)[len(names) :]:
        axes.set_axis_off()
    figure.axes[0].legend(frameon=False)
    figure.supylabel("RMS error")
    figure.savefig(path, dpi=110)


def finished(path: Path) -> list[dict[str, Any]]:
    """Read the rows on disk."""
    if not path.exists():
        return []
    with path.open(newline="") as stream:
        rows: list[dict[str, Any]] = list(csv.DictReader(stream))
    types = {"varied": str, "seeds": int}
    return [{k: types.get(k, float)(v) for k, v in row.items()} for row in rows]


def main() -> None:
    """Measure, print, write results/theory/{theory.csv,theory.png}."""
    names = [*VARIED, LOWER]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="curves to measure")
    chosen = parser.parse_args()
    table = Table("varied", "value", "measured", "std", "theory", "seeds")
    rows = [row for row in finished(RESULTS / "theory.csv") if row["varied"] not in chosen.only]
    measured = upper_rows(chosen.only, chosen.seeds)
    lower = lower_rows(chosen.seeds) if LOWER in chosen.only else ()
    for row in (*measured, *lower):
        rows.append(row)
        figures = (f"{row[key]:.3g}" for key in ("value", "measured", "std", "bound", "seeds"))
        table.add_row(row["varied"], *figures)
    Console().print(table)
    rows.sort(key=lambda row: names.index(row["varied"]))
    RESULTS.mkdir(parents=True, exist_ok=True)
    with (RESULTS / "theory.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    plot(rows, RESULTS / "theory.png")


if __name__ == "__main__":
    main()
