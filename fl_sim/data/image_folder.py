"""Your own pictures: a folder with a subfolder for each class, or with plain pictures.

Both may lie in `train` and `test` (or `val`) folders. What is understood, scaled or left out is
said in the notes of the data, which the terminal and the report show.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fl_sim.data.folder_layout import layout
from fl_sim.data.images import SAME_IMAGES, ImageData
from fl_sim.data.names import printable
from fl_sim.data.pictures import read_pictures

LARGEST = 10_000
"""Most pixels on a side of what pictures are resized to."""


def image_folder(
    root: str | None,
    size: int | Sequence[int] | None = (32, 32),
    grey: bool = False,
    test_every: int = 5,
) -> ImageData:
    """Read the pictures of a folder, in the order of their names.

    With subfolders, each is a class; the pictures of a subfolder may be in folders of their own.
    Plain pictures carry no labels and get 0, 1, ..., 9, 0, 1, ... in turn, so that there is a loss
    to train on. Subfolders `train` and `test` (or `val`) hold either.

    Parameters
    ----------
    root : str
        The folder.
    size : int, sequence of two int or None, default (32, 32)
        Side, or height and width, to which the pictures are cropped and resized; None keeps the
        size they have in common.
    grey : bool, default False
        One channel instead of three.
    test_every : int, default 5
        Every so many-th picture of a class is a test image, unless there is a test folder. Where
        that holds none back, all pictures train and test.

    Raises
    ------
    ValueError
        If the folder is missing, holds no pictures or one class only, its folders are ambiguous, a
        picture is damaged, or a setting is bad.
    """
    if not root:
        raise ValueError("data=image_folder needs data.root=FOLDER, a folder of pictures.")
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise ValueError(f"data.root={printable(root)} is not a folder.")
    sides = _sides(size)
    if not isinstance(grey, bool):
        raise ValueError(f"data.source.grey={grey!r} is not true or false.")
    if not _is_count(test_every) or test_every < 2:
        raise ValueError(
            f"data.source.test_every={test_every!r} is not a whole number of at least 2."
        )

    found = layout(folder)
    pairs = [*found.train, *found.test]
    pictures = read_pictures([path for path, _ in pairs], sides, "L" if grey else "RGB", folder)
    target = torch.tensor([label for _, label in pairs])
    notes = [*found.notes, *pictures.notes]
    if found.test:
        test = torch.arange(len(pairs)) >= len(found.train)
    else:
        test = _held_out(target.tolist(), len(found.classes), test_every)
    train = ~test
    if not test.any():
        train = test = torch.ones_like(test)
        notes.insert(0, SAME_IMAGES)
    images = pictures.images
    return ImageData.of(
        folder.resolve().name,
        images[train],
        target[train],
        images[test],
        target[test],
        found.classes,
        notes,
    )


def _sides(size: Any) -> tuple[int, int] | None:
    """Return height and width, None for the pictures' own."""
    if size is None:
        return None
    pair = [size, size] if _is_count(size) else size
    fits = isinstance(pair, Sequence) and len(pair) == 2 and all(_is_count(s) for s in pair)
    if fits and all(0 < side <= LARGEST for side in pair):
        return pair[0], pair[1]
    shown = list(size) if isinstance(size, tuple) else size
    raise ValueError(
        f"data.source.size={shown!r} is neither a side of 1 to {LARGEST:,} pixels, nor "
        f"[height, width], nor null."
    )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _held_out(labels: list[int], classes: int, every: int) -> torch.Tensor:
    """Mark every so many-th picture of each class."""
    seen = [0] * classes
    held_out = []
    for label in labels:
        seen[label] += 1
        held_out.append(seen[label] % every == 0)
    return torch.tensor(held_out)
