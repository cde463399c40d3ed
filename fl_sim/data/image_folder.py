"""Your own pictures: a folder with a subfolder for each class, or with plain pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from fl_sim.data.images import ImageData
from fl_sim.data.pictures import read_pictures

UNLABELLED_CLASSES = 10
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def image_folder(
    root: str | None, size: Sequence[int] = (32, 32), grey: bool = False, test_every: int = 5
) -> ImageData:
    """Read the pictures of a folder, in the order of their names.

    With subfolders, each is a class; the pictures of a subfolder may be in folders of their own.
    Plain pictures carry no labels and get 0, 1, ..., 9, 0, 1, ... in turn, so that there is a loss
    to train on.

    Parameters
    ----------
    root : str
        The folder.
    size : sequence of two int, default (32, 32)
        Height and width to which the pictures are cropped and resized.
    grey : bool, default False
        One channel instead of three.
    test_every : int, default 5
        Every so many-th picture of a class is a test image. Where that holds none back, all
        pictures train and test.

    Raises
    ------
    ValueError
        If the folder is missing or holds no pictures, one is damaged, or a setting is bad.
    """
    if not root:
        raise ValueError("data=image_folder needs data.root=FOLDER, a folder of pictures.")
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise ValueError(f"data.root={root} is not a folder.")
    if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        raise ValueError(f"data.source.size={list(size)} is not [height, width] in pixels.")
    if test_every < 2:
        raise ValueError(f"data.source.test_every={test_every} is not at least 2.")

    classes, paths, labels = _listing(folder)
    if not paths:
        raise ValueError(f"data.root={root} holds no pictures ({', '.join(SUFFIXES)}).")
    images = read_pictures(paths, (size[0], size[1]), "L" if grey else "RGB")
    target = torch.tensor(labels)
    seen = [0] * len(classes)
    held_out = []
    for label in labels:
        seen[label] += 1
        held_out.append(seen[label] % test_every == 0)
    test = torch.tensor(held_out)
    train = ~test if test.any() else torch.ones_like(test)
    test = test if test.any() else train
    return ImageData.of(
        folder.name, images[train], target[train], images[test], target[test], classes
    )


def _listing(folder: Path) -> tuple[list[str], list[Path], list[int]]:
    """Class names, picture files, and the class index of each file."""
    subfolders = {p.name: _pictures(p) for p in sorted(folder.iterdir()) if p.is_dir()}
    filled = {name: paths for name, paths in subfolders.items() if paths}
    if filled:
        paths = [path for group in filled.values() for path in group]
        labels = [label for label, group in enumerate(filled.values()) for _ in group]
        return list(filled), paths, labels
    paths = _pictures(folder)
    classes = min(UNLABELLED_CLASSES, len(paths))
    return [str(k) for k in range(classes)], paths, [i % classes for i in range(len(paths))]


def _pictures(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
