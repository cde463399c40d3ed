"""Picture files into one tensor, and what has to be said about how they were read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fl_sim.data.depth import KINDS, Deep, scale_of
from fl_sim.data.names import printable, some
from fl_sim.data.picture_file import REMARKS, PictureFile, read_file


@dataclass(frozen=True)
class Pictures:
    """Pictures of one size.

    Attributes
    ----------
    images : uint8 Tensor of shape (N, C, H, W)
    notes : list of str
        Sentences on all that was more than reading 8-bit pixels.
    """

    images: Tensor
    notes: list[str]


def read_pictures(
    paths: Sequence[Path],
    size: tuple[int, int] | None,
    mode: str = "RGB",
    root: Path | None = None,
) -> Pictures:
    """Read pictures, cropped to the aspect ratio of `size` around their centre and resized.

    Transparent parts become white; pictures of more than 8 bits get one scale for all of them, by
    the rule of `fl_sim.data.depth`.

    Parameters
    ----------
    paths : sequence of Path
        At least one.
    size : tuple of int or None
        (H, W) of the result; None where the pictures have one size, which is kept.
    mode : "RGB" or "L", default "RGB"
        Colour or grey.
    root : Path, optional
        The folder from which files are named in notes.

    Raises
    ------
    ValueError
        If a file is not a readable picture, or of another size where it is kept; names it.
    """
    files = []
    for path in paths:
        files.append(read_file(path, size, mode))
        if files[-1].size != files[0].size:
            raise ValueError(_sizes_differ(paths[0], files[0], path, files[-1]))
    names = [str(path.relative_to(root)) if root else path.name for path in paths]
    notes = []
    for remark in REMARKS:
        if found := [n for n, file in zip(names, files, strict=True) if remark in file.remarks]:
            notes.append(f"{remark}: {some(found)}.")
    pixels = _scaled(files, names, 1 if mode == "L" else 3, notes)
    images = torch.stack([torch.from_numpy(array).permute(2, 0, 1) for array in pixels])
    lowest, highest = images.flatten(2).amin(2), images.flatten(2).amax(2)
    flat = (lowest == highest).all(dim=1).tolist()
    if one_colour := [name for name, is_flat in zip(names, flat, strict=True) if is_flat]:
        notes.append(f"Of one single colour as read: {some(one_colour)}.")
    return Pictures(images, notes)


def _scaled(
    files: list[PictureFile], names: list[str], channels: int, notes: list[str]
) -> list[NDArray[np.uint8]]:
    """Return 8-bit pixels of all files; add to the notes how deeper ones were scaled."""
    scales = {}
    for kind in KINDS:
        deep = [
            (file.content, name)
            for file, name in zip(files, names, strict=True)
            if isinstance(file.content, Deep) and file.content.kind == kind
        ]
        if deep:
            scales[kind] = scale_of(kind, [d for d, _ in deep], [name for _, name in deep])
            notes.append(scales[kind].sentence)
    return [
        scales[file.content.kind].to_bytes(file.content, channels)
        if isinstance(file.content, Deep)
        else file.content
        for file in files
    ]


def _sizes_differ(first: Path, one: PictureFile, second: Path, other: PictureFile) -> str:
    return (
        f"{printable(first)} has {one.size[0]} x {one.size[1]} pixels (height x width) and "
        f"{printable(second)} {other.size[0]} x {other.size[1]}: data.source.size=null needs "
        f"pictures of one size; data.source.size=[height,width] brings them to one."
    )
