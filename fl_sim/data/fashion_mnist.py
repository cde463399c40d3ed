"""Fashion-MNIST (Xiao, Rasul, Vollgraf 2017, arXiv 1708.07747): 60,000 + 10,000, 28x28 grey."""

from __future__ import annotations

from pathlib import Path

from fl_sim.data.bundled import FASHION_MNIST_CLASSES
from fl_sim.data.idx import read_pair
from fl_sim.data.images import ImageData
from fl_sim.data.torchvision_files import load

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""Where the Debian package dataset-fashion-mnist puts its files."""


def fashion_mnist(root: str | None = None) -> ImageData:
    """Read Fashion-MNIST.

    Without `root` from the Debian package dataset-fashion-mnist where it is installed; otherwise
    through torchvision, which downloads it if needed.

    Raises
    ------
    ValueError
        If it is neither there nor can be downloaded, or its files are damaged.
    """
    if root is None and DEBIAN.is_dir():
        train, test = read_pair(DEBIAN, "train", ".gz"), read_pair(DEBIAN, "t10k", ".gz")
        return ImageData.of("fashion_mnist", *train, *test, FASHION_MNIST_CLASSES)
    from torchvision.datasets import FashionMNIST  # slow to import

    return load("fashion_mnist", FashionMNIST, root)
