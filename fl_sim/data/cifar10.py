"""CIFAR-10 (Krizhevsky 2009): 50,000 + 10,000 photographs of ten classes, 32x32 colour."""

from __future__ import annotations

from fl_sim.data.images import ImageData
from fl_sim.data.torchvision_files import load


def cifar10(root: str | None = None) -> ImageData:
    """Read CIFAR-10 through torchvision, which downloads it if needed."""
    from torchvision.datasets import CIFAR10  # slow to import

    return load("cifar10", CIFAR10, root)
