"""Picture files into tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor


def read_pictures(paths: Sequence[Path], size: tuple[int, int], mode: str = "RGB") -> Tensor:
    """Read pictures, cropped to the aspect ratio of `size` around their centre and resized.

    Parameters
    ----------
    paths : sequence of Path
    size : tuple of int
        (H, W) of the result.
    mode : "RGB" or "L", default "RGB"
        Colour or grey.

    Returns
    -------
    uint8 Tensor of shape (N, C, H, W)

    Raises
    ------
    ValueError
        If a file is not a readable picture; names it.
    """
    return torch.stack([_read(path, size, mode) for path in paths])


def _read(path: Path, size: tuple[int, int], mode: str) -> Tensor:
    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file).convert(mode)
    except OSError as error:
        raise ValueError(f"{path} is not a readable picture: {error}.") from error
    height, width = size
    if picture.size != (width, height):
        picture = ImageOps.fit(picture, (width, height), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(picture))
    return pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.permute(2, 0, 1)
