"""Make `fashion_mnist_mini.npz`: the first 500 training and 100 test images of each class.

Run: python -m fl_sim.data.bundled.make_fashion_mnist_mini

Reads the full Fashion-MNIST, from the Debian package dataset-fashion-mnist where it is installed
and otherwise through torchvision. No randomness, so that anybody gets the same file.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fl_sim.data.bundled import FILE
from fl_sim.data.fashion_mnist import fashion_mnist

TRAIN_PER_CLASS = 500
TEST_PER_CLASS = 100


def first_of_each_class(labels: Tensor, count: int) -> Tensor:
    """Indices of the first `count` samples of each class, in their original order."""
    chosen = [torch.nonzero(labels == c).flatten()[:count] for c in labels.unique()]
    return torch.cat(chosen).sort().values


def main() -> None:
    """Write the file and print its size."""
    full = fashion_mnist()
    train = first_of_each_class(full.train_labels, TRAIN_PER_CLASS)
    test = first_of_each_class(full.test_labels, TEST_PER_CLASS)
    np.savez_compressed(
        FILE,
        train_images=full.train_images[train].numpy(),
        train_labels=full.train_labels[train].numpy().astype(np.uint8),
        test_images=full.test_images[test].numpy(),
        test_labels=full.test_labels[test].numpy().astype(np.uint8),
    )
    print(f"{FILE.name}: {len(train)} + {len(test)} images, {FILE.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
