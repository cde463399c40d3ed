"""Batches of real images and their gradients, shared by the benchmarks of the exact attack.

Fashion-MNIST is read from the idx files of a directory: ``--data``, the environment variable
``FASHION_MNIST``, or the place where Debian's package dataset-fashion-mnist puts it.
"""

from __future__ import annotations

import gzip
import itertools
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

DIRECTORY = os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist")
MEAN, STD = 0.2860, 0.3530


def fashion_mnist(directory: str = DIRECTORY) -> tuple[Tensor, Tensor]:
    """Test images in [0, 1] of shape (10000, 784), and their labels."""
    images = _idx(Path(directory) / "t10k-images-idx3-ubyte.gz", 16)
    labels = _idx(Path(directory) / "t10k-labels-idx1-ubyte.gz", 8)
    return torch.from_numpy(images).reshape(-1, 784).float() / 255, torch.from_numpy(labels).long()


def _idx(path: Path, header: int) -> np.ndarray:
    with gzip.open(path) as file:
        return np.frombuffer(file.read()[header:], np.uint8).copy()


def draw_batch(
    images: Tensor, labels: Tensor, size: int, seed: int, *, raw: bool, one_label: bool
) -> tuple[Tensor, Tensor]:
    """A random batch; standardised unless `raw`, all of one class if `one_label`."""
    generator = torch.Generator().manual_seed(1000 + seed)
    pool = torch.arange(len(labels))
    if one_label:
        pool = torch.nonzero(labels == seed % 10).flatten()
    chosen = pool[torch.randperm(len(pool), generator=generator)[:size]]
    x = images[chosen]
    return (x if raw else (x - MEAN) / STD), labels[chosen]


def mlp(activation: str, widths: list[int], init: str, seed: int) -> nn.Sequential:
    """Linear layers with a torch.nn activation between them, freshly initialised."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [getattr(nn, activation)()] if layers else []
        layers.append(nn.Linear(a, b))
    model = nn.Sequential(*layers).eval()
    start = {"kaiming": nn.init.kaiming_normal_, "xavier": nn.init.xavier_normal_}.get(init)
    for layer in model:
        if isinstance(layer, nn.Linear) and start is not None:
            start(layer.weight)
            nn.init.zeros_(layer.bias)
    return model


def gradient_of(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Gradient of the mean cross entropy, named like the parameters."""
    loss = nn.functional.cross_entropy(model(x), y)
    values = torch.autograd.grad(loss, list(model.parameters()))
    return {n: g for (n, _), g in zip(model.named_parameters(), values, strict=True)}
