"""One picture file: 8-bit pixels on white paper, or deeper values that wait for a scale."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from fl_sim.data import dicom
from fl_sim.data.depth import Deep, Kind
from fl_sim.data.names import printable

Size = tuple[int, int]

ON_WHITE = "Put on white, where transparent"
FIRST_FRAME = "Read the first of several frames or pages of"
LOW_IS_WHITE = "Inverted, since the file says that low values are white"
UPPER_BITS = "Read the upper 8 of 16 bits of each colour value of"
REMARKS = (FIRST_FRAME, ON_WHITE, LOW_IS_WHITE, UPPER_BITS)
"""What there may be to say of a file, each before a list of names."""

DEEP_MODES: dict[str, Kind] = {
    "I": "whole",
    "I;16": "whole",
    "I;16B": "whole",
    "I;16L": "whole",
    "I;16N": "whole",
    "F": "float",
}
"""Pillow's modes of more than 8 bits."""

PHOTOMETRIC, WHITE_IS_ZERO = 262, 0
"""A TIFF field, and its value where low values are white."""


@dataclass(frozen=True)
class PictureFile:
    """What was read of a file.

    Attributes
    ----------
    content : uint8 array of shape (H, W, C), or Deep
        Cropped and resized.
    remarks : list of str
        Those of `REMARKS` that hold for it.
    """

    content: NDArray[np.uint8] | Deep
    remarks: list[str]

    @property
    def size(self) -> Size:
        """Height and width."""
        array = self.content.values if isinstance(self.content, Deep) else self.content
        return array.shape[0], array.shape[1]


def read_file(path: Path, size: Size | None, mode: str) -> PictureFile:
    """Read a picture, cropped to the aspect ratio of `size` around its centre and resized.

    Parameters
    ----------
    path : Path
        Of a DICOM file if its suffix says so, otherwise of any format Pillow knows.
    size : tuple of int or None
        (H, W) of the result; None for the picture's own.
    mode : "RGB" or "L"
        Colour or grey.

    Raises
    ------
    ValueError
        If it is not a readable picture; names it.
    """
    shown = printable(path)
    if path.suffix.lower() in dicom.SUFFIXES:
        dicom.check_installed(path)
    try:
        if path.suffix.lower() in dicom.SUFFIXES:
            return _from_dicom(path, size, mode)
        return _from_pillow(path, size, mode)
    except UnidentifiedImageError as error:
        raise ValueError(f"{shown} is not a readable picture: its format is unknown.") from error
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{shown} claims more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels, which is too "
            f"large to be read safely; shrink it or take it out of the folder."
        ) from error
    except Exception as error:  # decoders raise nearly anything for a damaged file
        reason = printable(" ".join(str(error).split()).rstrip(".")) or type(error).__name__
        raise ValueError(f"{shown} is not a readable picture: {reason}.") from error


def _from_pillow(path: Path, size: Size | None, mode: str) -> PictureFile:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on large or slightly wrong files that can be read
        with Image.open(path) as file:
            remarks = [FIRST_FRAME] if getattr(file, "is_animated", False) else []
            if _sixteen_bit_colour(file):
                deep = _png_colour(path, file, size) if file.format == "PNG" else None
                if deep is not None:
                    return _waiting(deep, remarks)
                remarks.append(UPPER_BITS)
            white_is_zero = _white_is_zero(file)
            transparency = file.info.get("transparency")
            picture: Image.Image = ImageOps.exif_transpose(file)
            picture.load()
    if picture.mode in DEEP_MODES:
        values = np.asarray(picture).astype(np.float64)
        cover = None
        if isinstance(transparency, int):
            cover = (values != transparency).astype(np.float64)
        deep = _deep(DEEP_MODES[picture.mode], values[..., None], size, cover, white_is_zero)
        return _waiting(deep, remarks)
    opaque, changed = _on_white(picture)
    return PictureFile(_pixels(opaque, size, mode), remarks + [ON_WHITE] * changed)


def _from_dicom(path: Path, size: Size | None, mode: str) -> PictureFile:
    picture = dicom.read_dicom(path)
    remarks = [FIRST_FRAME] if picture.frames > 1 else []
    if picture.values.ndim == 3:
        return PictureFile(_pixels(Image.fromarray(picture.values), size, mode), remarks)
    values = picture.values.astype(np.float64)[..., None]
    deep = _deep("dicom", values, size, None, picture.inverted, picture.counted)
    return _waiting(deep, remarks)


def _waiting(deep: Deep, remarks: list[str]) -> PictureFile:
    """Return a deep picture with what has to be said of it."""
    more = [ON_WHITE] * (deep.cover is not None) + [LOW_IS_WHITE] * deep.inverted
    return PictureFile(deep, [*remarks, *more])


def _pixels(picture: Image.Image, size: Size | None, mode: str) -> NDArray[np.uint8]:
    pixels = np.array(_fitted(picture.convert(mode), size))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _fitted(picture: Image.Image, size: Size | None) -> Image.Image:
    if size is None or picture.size == (size[1], size[0]):
        return picture
    return ImageOps.fit(picture, (size[1], size[0]), Image.Resampling.BICUBIC)


def _on_white(picture: Image.Image) -> tuple[Image.Image, bool]:
    """Return a picture as opaque RGB, and whether any of it had been transparent."""
    if not (picture.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in picture.info):
        return picture.convert("RGB"), False
    whole = {"La": "LA", "RGBa": "RGBA"}.get(picture.mode)  # not multiplied with the opacity
    layer = (picture.convert(whole) if whole else picture).convert("RGBA")
    if layer.getchannel("A").getextrema() == (255, 255):
        return layer.convert("RGB"), False
    paper = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(paper, layer).convert("RGB"), True


def _deep(
    kind: Kind,
    values: NDArray[np.float64],
    size: Size | None,
    cover: NDArray[np.float64] | None = None,
    inverted: bool = False,
    counted: NDArray[np.bool_] | None = None,
) -> Deep:
    """Crop and resize values of shape (H, W, C); pixels that are not counted set no range."""
    if not np.isfinite(values).all():
        raise ValueError("it holds values that are not finite numbers")
    seen = counted if cover is None else cover > 0
    range_of = values if seen is None or not seen.any() else values[seen]
    low, high = float(range_of.min()), float(range_of.max())
    values = np.clip(values, low, high)
    opacity = None if cover is None or np.all(cover == 1) else cover
    if opacity is not None:
        values = values * opacity[..., None]
    planes = [_plane(values[..., c], size) for c in range(values.shape[2])]
    small = None if opacity is None else np.clip(_plane(opacity, size), 0, 1)
    return Deep(kind, np.stack(planes, axis=-1), low, high, small, inverted)


def _plane(values: NDArray[np.float64], size: Size | None) -> NDArray[np.float32]:
    return np.array(_fitted(Image.fromarray(values.astype(np.float32)), size))


def _sixteen_bit_colour(file: Image.Image) -> bool:
    """Tell whether Pillow is about to drop half of each colour value."""
    for tile in getattr(file, "tile", []):
        given = tile[3]
        raw = given[0] if isinstance(given, tuple) and given else given
        if isinstance(raw, str) and ";16" in raw and file.mode not in DEEP_MODES:
            return True
    return False


def _png_colour(path: Path, file: Image.Image, size: Size | None) -> Deep | None:
    """Read all 16 bits of a colour PNG through torchvision, None where it cannot."""
    from torchvision.io import decode_png  # slow to import

    raw = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
    try:
        decoded: Any = decode_png(raw, apply_exif_orientation=True)
    except (RuntimeError, TypeError, AttributeError):  # a damaged file, or an older torchvision
        return None
    if decoded.dtype != torch.uint16:
        return None
    values = decoded.permute(1, 2, 0).to(torch.float64).numpy()
    transparency = file.info.get("transparency")
    cover = None
    if values.shape[2] in {2, 4}:
        values, cover = values[..., :-1], values[..., -1] / 65535
    elif isinstance(transparency, tuple):
        cover = (values != np.array(transparency)).any(axis=2).astype(np.float64)
    return _deep("whole", values, size, cover)


def _white_is_zero(file: Image.Image) -> bool:
    fields = getattr(file, "tag_v2", None)
    return fields is not None and fields.get(PHOTOMETRIC) == WHITE_IS_ZERO
