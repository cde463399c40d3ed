"""CIFAR-100 (Krizhevsky 2009): 50,000 + 10,000 photographs of 100 classes, 32x32 colour."""

from __future__ import annotations

from fl_sim.data.images import ImageData
from fl_sim.data.torchvision_files import load


def cifar100(root: str | None = None) -> ImageData:
    """Read CIFAR-100 through torchvision, which downloads it if needed."""
    from torchvision.datasets import CIFAR100  # slow to import

    return load("cifar100", CIFAR100, root)
