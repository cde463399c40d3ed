"""MNIST (LeCun, Cortes, Burges): 60,000 + 10,000 handwritten digits, 28x28 grey."""

from __future__ import annotations

from fl_sim.data.images import ImageData
from fl_sim.data.torchvision_files import load


def mnist(root: str | None = None) -> ImageData:
    """Read MNIST through torchvision, which downloads it if needed."""
    from torchvision.datasets import MNIST  # slow to import

    return load("mnist", MNIST, root)
