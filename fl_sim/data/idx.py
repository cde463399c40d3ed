"""The idx format of MNIST and its relatives: big-endian sizes, then the bytes."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

UNSIGNED_BYTE = 0x08


def read_idx(path: Path) -> Tensor:
    """Read a (gzipped) idx file of unsigned bytes.

    Parameters
    ----------
    path : Path
        Gzipped if it ends in ".gz".

    Returns
    -------
    uint8 Tensor of the shape the file tells

    Raises
    ------
    ValueError
        If the file is damaged or of another type.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        kind, dimensions = raw[2], raw[3]
        shape = np.frombuffer(raw, ">u4", count=dimensions, offset=4).astype(int).tolist()
        content = np.frombuffer(raw, np.uint8, offset=4 * (1 + dimensions)).copy()
        if kind != UNSIGNED_BYTE:
            raise ValueError(f"its type is {kind:#x}, not unsigned byte")
        return torch.from_numpy(content.reshape(shape))
    except (ValueError, IndexError, EOFError, OSError) as error:
        raise ValueError(f"{path} is not a readable idx file: {error}.") from error


def read_pair(folder: Path, split: str, suffix: str = "") -> tuple[Tensor, Tensor]:
    """Read a split of a data set.

    Parameters
    ----------
    folder : Path
        Holds two files with MNIST's names.
    split : "train" or "t10k"
    suffix : str, default ""
        Behind the names, ".gz" for one.

    Returns
    -------
    images : uint8 Tensor of shape (N, 1, H, W)
    labels : int64 Tensor of shape (N,)

    Raises
    ------
    ValueError
        If a file is missing, damaged or of another type.
    """
    images = read_idx(folder / f"{split}-images-idx3-ubyte{suffix}")
    labels = read_idx(folder / f"{split}-labels-idx1-ubyte{suffix}")
    return images.unsqueeze(1), labels.long()
