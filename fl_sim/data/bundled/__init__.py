"""`fashion_mnist_mini`: real images that come with the package, so that nothing is downloaded.

500 training and 100 test images of each of the ten classes of Fashion-MNIST (Xiao, Rasul, Vollgraf
2017, arXiv 1708.07747; MIT licence, see `LICENSE` beside this file), chosen by
`make_fashion_mnist_mini.py`: the first of each class, in the original order.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from fl_sim.data.images import ImageData

FILE = Path(__file__).parent / "fashion_mnist_mini.npz"

FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def fashion_mnist_mini() -> ImageData:
    """Read the bundled images: 5,000 for training and 1,000 for testing, 28x28 grey."""
    with np.load(FILE) as content:
        arrays = {name: torch.from_numpy(content[name]) for name in content.files}
    return ImageData.of(
        "fashion_mnist_mini",
        arrays["train_images"],
        arrays["train_labels"],
        arrays["test_images"],
        arrays["test_labels"],
        FASHION_MNIST_CLASSES,
    )
