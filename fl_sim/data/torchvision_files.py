"""Data sets that torchvision downloads, into this project's cache folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fl_sim.data.images import ImageData


def cache_root(root: str | None) -> Path:
    """Return the folder of data files: `root`, else $FL_SIM_DATA, else ~/.cache/fl-sim."""
    folder = root or os.environ.get("FL_SIM_DATA") or Path.home() / ".cache" / "fl-sim"
    return Path(folder).expanduser()


def load(name: str, dataset: Callable[..., Any], root: str | None) -> ImageData:
    """Read a torchvision data set, downloading it where it is missing.

    Parameters
    ----------
    name : str
        Name of the result.
    dataset : class of torchvision.datasets
        Takes `root`, `train` and `download`; has `data`, `targets` and `classes`.
    root : str, optional
        Where its files are, or go.

    Raises
    ------
    ValueError
        If it is neither there nor can be downloaded.
    """
    folder = cache_root(root)
    train, test = (_split(name, dataset, folder, train) for train in (True, False))
    return ImageData.of(name, *_tensors(train), *_tensors(test), train.classes)


def _split(name: str, dataset: Callable[..., Any], folder: Path, train: bool) -> Any:
    try:
        return dataset(root=str(folder), train=train, download=False)
    except RuntimeError:  # torchvision's way to say that files are missing or damaged
        pass
    try:
        with contextlib.redirect_stdout(StringIO()):
            return dataset(root=str(folder), train=train, download=True)
    except (RuntimeError, OSError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{name} is not in {folder} and cannot be downloaded ({reason}); "
            f"data.root names a folder that holds it, data=fashion_mnist_mini needs no download."
        ) from error


def _tensors(split: Any) -> tuple[Tensor, Tensor]:
    images = torch.as_tensor(split.data)
    labels = torch.as_tensor(split.targets).long()
    # Grey sets come as (N, H, W), colour sets as (N, H, W, C).
    images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)
    return images, labels
