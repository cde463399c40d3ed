"""Arrays to pictures inside a page: PNG data URIs of single images, strips and mosaics.

Images are float arrays of shape (C, H, W) in [0, 1] with one or three channels; NaN marks what was
not found. Values outside [0, 1] are clipped, as a screen would.
"""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]

LARGEST = 128
"""Images with a longer side than this are shrunk for the page."""


@dataclass(frozen=True)
class Picture:
    """A picture for an <img>: its data URI and its size in pixels."""

    uri: str
    width: int
    height: int


def found(images: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Tell which of the images (N, C, H, W) hold numbers only."""
    return np.asarray(np.isfinite(images).all(axis=(1, 2, 3)), dtype=np.bool_)


def pixels(image: NDArray[np.float32], largest: int = LARGEST) -> Pixels:
    """Return an image (C, H, W) in [0, 1] as (h, w) or (h, w, 3) bytes, at most `largest` a side.

    Channels beyond three are dropped; of two, the first is shown.
    """
    channels = 3 if len(image) >= 3 else 1
    levels = np.rint(np.clip(np.nan_to_num(image[:channels]), 0, 1) * 255).astype(np.uint8)
    shown = levels[0] if channels == 1 else levels.transpose(1, 2, 0)
    longest = max(shown.shape[:2])
    if longest <= largest:
        return shown
    height, width = (max(1, round(side * largest / longest)) for side in shown.shape[:2])
    return np.asarray(Image.fromarray(shown).resize((width, height), Image.Resampling.BOX))


def encode(shown: Pixels) -> Picture:
    """Return bytes of shape (h, w), (h, w, 3) or (h, w, 4) as a PNG in a data URI."""
    stream = io.BytesIO()
    Image.fromarray(shown).save(stream, "PNG", optimize=True)
    data = base64.b64encode(stream.getvalue()).decode()
    return Picture(f"data:image/png;base64,{data}", shown.shape[1], shown.shape[0])


def picture(image: NDArray[np.float32]) -> Picture:
    """Return one image (C, H, W) in [0, 1] for the page."""
    return encode(pixels(image))


def mosaic(
    images: NDArray[np.float32], columns: int, gap: int = 2, largest: int = 48, wide: int = 1
) -> Picture | None:
    """Return images (N, C, H, W) as one picture, in rows of `columns`, NaN ones blacked out.

    Pixels are repeated until the picture is `wide` pixels wide, or four times.

    The gaps are transparent and a missing image is a translucent block, so that the mosaic suits
    any background. None where there are no images.
    """
    if not len(images):
        return None
    tiles = [pixels(image, largest) for image in images]
    height, width = tiles[0].shape[:2]
    rows = math.ceil(len(tiles) / columns)
    sheet = np.zeros((rows * (height + gap) - gap, columns * (width + gap) - gap, 4), np.uint8)
    for k, (tile, there) in enumerate(zip(tiles, found(images), strict=True)):
        top, left = k // columns * (height + gap), k % columns * (width + gap)
        place = sheet[top : top + height, left : left + width]
        if there:
            place[..., :3] = tile if tile.ndim == 3 else tile[..., None]
            place[..., 3] = 255
        else:
            place[...] = (128, 128, 128, 72)
    zoom = max(1, min(4, math.ceil(wide / sheet.shape[1])))
    return encode(sheet.repeat(zoom, axis=0).repeat(zoom, axis=1))


def columns_for(number: int, wide: float = 2.0) -> int:
    """Return the number of columns of a mosaic about `wide` times as wide as high.

    Among the numbers near that shape, one that fills the last row is preferred.
    """
    ideal = math.sqrt(max(1, number) * wide)

    def cost(columns: int) -> float:
        return abs(math.log(columns / ideal)) + (-number % columns) / columns

    return min(range(1, max(1, number) + 1), key=cost)
