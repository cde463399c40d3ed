"""Twenty real CIFAR-10 images that come with foolbox, for a colour scenario without a download.

They are too few to hold any back: the same images train and test.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch

from fl_sim.data.images import SAME_IMAGES, ImageData
from fl_sim.data.pictures import read_pictures

CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


def cifar10_sample() -> ImageData:
    """Read foolbox's sample images, ``cifar10_<number>_<label>.png``, without importing it.

    Raises
    ------
    ValueError
        If foolbox is not installed.
    """
    spec = find_spec("foolbox")
    folders = spec.submodule_search_locations if spec else None
    paths = sorted(p for f in folders or () for p in Path(f, "data").glob("cifar10_*_*.png"))
    if not paths:
        raise ValueError(
            "data=cifar10_sample needs the images of foolbox: pip install 'fl-sim[samples]'."
        )
    images = read_pictures(paths, (32, 32)).images
    labels = torch.tensor([int(path.stem.split("_")[-1]) for path in paths])
    return ImageData.of(
        "cifar10_sample", images, labels, images, labels, CIFAR10_CLASSES, [SAME_IMAGES]
    )
