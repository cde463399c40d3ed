"""Which architectures give their images away: features, then pixels, from one float32 gradient.

    python benchmarks/architectures.py                          # all rows, many minutes on one core
    python benchmarks/architectures.py --rows strided_gelu_8    # some rows

Default-initialised networks, 28x28 images of the bundled Fashion-MNIST drawn anew for every seed.
Every finished run adds a line to results/architectures/runs.csv: PSNR on [0, 1] images after the
best matching, as median and minimum over the true images (0 dB for one that was not returned), how
many are certified, and how many of the certified are worse than 40 dB.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from attacks import FeatureInversion, NotApplicable
from fl_sim.data.bundled import fashion_mnist_mini
from fl_sim.models import build_model

RESULTS = Path(__file__).parent / "results" / "architectures" / "runs.csv"
FIELDS = ["row", "seed", "batch", "found", "median", "lowest", "certified", "wrong", "seconds"]

CONVNET = "fl_sim.models.convnet.ConvNet"
LENET = "fl_sim.models.lenet.LeNet"
POOLED = {"activation": "relu", "downsample": "max", "kernel_size": 3}
ROWS: dict[str, tuple[int, dict[str, Any]]] = {
    **{f"strided_gelu_{b}": (b, {"_target_": CONVNET}) for b in (8, 16, 32)},
    **{f"strided_relu_{b}": (b, {"_target_": CONVNET, "activation": "relu"}) for b in (8, 16, 32)},
    "pooled_relu_8": (8, {"_target_": CONVNET, **POOLED}),
    "lenet_sigmoid_4": (4, {"_target_": LENET}),
    "lenet_tanh_4": (4, {"_target_": LENET, "activation": "tanh"}),
    "lenet_relu_4": (4, {"_target_": LENET, "activation": "relu"}),
    "vgg11_relu_4": (4, {"_target_": "fl_sim.models.vgg11.VGG11"}),
    "resnet18_relu_4": (4, {"_target_": "fl_sim.models.resnet18.ResNet18", "depth": 2}),
}
"""Batch size and model of every row."""


def measure(name: str, seed: int) -> dict[str, Any]:
    """Attack one batch; a line of the table."""
    data = fashion_mnist_mini()
    batch, config = ROWS[name]
    drawn = torch.randperm(
        len(data.train_images), generator=torch.Generator().manual_seed(7000 + seed)
    )[:batch]
    inputs = (data.train_images[drawn].float() / 255 - data.mean) / data.std
    shape = (int(inputs.shape[1]), int(inputs.shape[2]), int(inputs.shape[3]))
    model = build_model(config, shape, len(data.classes), seed)
    loss = nn.functional.cross_entropy(model(inputs), data.train_labels[drawn])
    slopes = torch.autograd.grad(loss, list(model.parameters()))
    gradient = {n: g for (n, _), g in zip(model.named_parameters(), slopes, strict=True)}
    line: dict[str, Any] = {"row": name, "seed": seed, "batch": batch, "found": 0}
    try:
        found = FeatureInversion().run(model, gradient, input_shape=shape)
    except NotApplicable as reason:
        print(reason)
        return line

    def unit(x: Tensor) -> Tensor:
        return (x.double() * data.std + data.mean).clamp(0, 1).flatten(1)

    error = (unit(inputs)[:, None] - unit(found.inputs)[None]).square().mean(2)
    true, partner = linear_sum_assignment(error.numpy())
    psnr = torch.zeros(batch, dtype=torch.float64)
    psnr[true] = -10 * error[true, partner].clamp_min(1e-30).log10()
    certified = found.certified[partner]
    return line | {
        "found": len(found),
        "median": round(float(psnr.quantile(0.5)), 1),
        "lowest": round(float(psnr.min()), 1),
        "certified": int(found.certified.sum()),
        "wrong": int((certified & (psnr[true] < 40)).sum()),
        "seconds": round(found.seconds, 1),
    }


def main() -> None:
    """Measure the rows asked for, each over the seeds asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="*", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    fresh = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        if fresh:
            writer.writeheader()
        for name in arguments.rows:
            for seed in arguments.seeds:
                line = measure(name, seed)
                print(", ".join(f"{k} {v}" for k, v in line.items()), flush=True)
                writer.writerow(line)
                file.flush()


if __name__ == "__main__":
    main()
