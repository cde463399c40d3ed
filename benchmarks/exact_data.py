"""Batches of real images and their gradients, shared by the benchmarks of the exact attack.

Fashion-MNIST is read from the idx files of a directory: ``--data``, the environment variable
``FASHION_MNIST``, or the place where Debian's package dataset-fashion-mnist puts it. Photographs
are the twenty ImageNet samples that come with foolbox (the extra `samples`).
"""

from __future__ import annotations

import functools
import gzip
import itertools
import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

DIRECTORY = os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist")
MEAN, STD = 0.2860, 0.3530
SIDE = 32
SHIFT = 4


@functools.lru_cache(maxsize=2)
def pictures(name: str, directory: str = DIRECTORY) -> tuple[Tensor, Tensor]:
    """Images in [0, 1] of shape (n, d), and labels in 0 .. 9.

    Parameters
    ----------
    name : str
        "fashion_mnist" (d = 784), "photographs" (all 32 x 32 colour crops of twenty photographs,
        d = 3072, the photograph's number modulo 10 as label), or "one photograph" (crops of the
        first at a distance of 4 pixels, which are much alike).
    directory : str
        Of the idx files of Fashion-MNIST.
    """
    if name == "fashion_mnist":
        return fashion_mnist(directory)
    photographs = _photographs()
    if name == "photographs":
        crops = [_crops(photograph, SIDE) for photograph in photographs]
    else:
        crops = [_crops(photographs[0][:, :128, :128], SHIFT)]
    labels = [torch.full((len(c),), k % 10) for k, c in enumerate(crops)]
    if len(crops) == 1:
        labels = [torch.arange(len(crops[0])) % 10]
    return torch.cat(crops), torch.cat(labels)


def _photographs() -> list[Tensor]:
    spec = find_spec("foolbox")
    folders = spec.submodule_search_locations if spec else None
    paths = sorted(p for f in folders or () for p in Path(f, "data").glob("imagenet_*.jpg"))
    if not paths:
        raise SystemExit("The photographs come with foolbox: pip install -e '.[samples]'.")
    images = [np.array(Image.open(path).convert("RGB")) for path in paths]
    return [torch.from_numpy(image).permute(2, 0, 1).float() / 255 for image in images]


def _crops(photograph: Tensor, stride: int) -> Tensor:
    """All square crops of a (3, h, w) photograph at a stride, flattened to (n, 3072)."""
    tiles = photograph.unfold(1, SIDE, stride).unfold(2, SIDE, stride)
    return tiles.permute(1, 2, 0, 3, 4).reshape(-1, 3 * SIDE * SIDE).contiguous()


@functools.lru_cache(maxsize=2)
def fashion_mnist(directory: str = DIRECTORY, part: str = "t10k") -> tuple[Tensor, Tensor]:
    """Test images in [0, 1] of shape (10000, 784), and their labels; 60000 for part "train"."""
    images = _idx(Path(directory) / f"{part}-images-idx3-ubyte.gz", 16)
    labels = _idx(Path(directory) / f"{part}-labels-idx1-ubyte.gz", 8)
    return torch.from_numpy(images).reshape(-1, 784).float() / 255, torch.from_numpy(labels).long()


def _idx(path: Path, header: int) -> np.ndarray:
    with gzip.open(path) as file:
        return np.frombuffer(file.read()[header:], np.uint8).copy()


def draw_batch(
    images: Tensor,
    labels: Tensor,
    size: int,
    seed: int,
    *,
    raw: bool = False,
    one_label: bool = False,
    twin: bool = False,
) -> tuple[Tensor, Tensor]:
    """A random batch; standardised unless `raw`, all of one class if `one_label`.

    With `twin` the last image is a copy of the first.
    """
    generator = torch.Generator().manual_seed(1000 + seed)
    pool = torch.arange(len(labels))
    if one_label:
        pool = torch.nonzero(labels == seed % 10).flatten()
    chosen = pool[torch.randperm(len(pool), generator=generator)[:size]]
    if twin:
        chosen[-1] = chosen[0]
    x = images[chosen]
    mean, std = (MEAN, STD) if images.shape[1] == 784 else (0.45, 0.25)
    return (x if raw else (x - mean) / std), labels[chosen]


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


def train(model: nn.Module, images: Tensor, labels: Tensor, epochs: int, seed: int) -> None:
    """Train in place: SGD with learning rate 0.05 and momentum 0.9, batches of 64."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(epochs):
        for batch in torch.randperm(len(labels), generator=generator).split(64):
            optimizer.zero_grad()
            x = (images[batch] - MEAN) / STD
            nn.functional.cross_entropy(model(x), labels[batch]).backward()
            optimizer.step()


def gradient_of(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Gradient of the mean cross entropy, named like the parameters."""
    loss = nn.functional.cross_entropy(model(x), y)
    values = torch.autograd.grad(loss, list(model.parameters()))
    return {n: g for (n, _), g in zip(model.named_parameters(), values, strict=True)}
