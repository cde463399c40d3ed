"""`ImageData`: a labelled image set in memory, and the way from its bytes to model inputs and back.

Images are kept as uint8, a quarter of the memory of floats, and become model inputs a batch at a
time. Mean and standard deviation of the training images are taken as public knowledge, as in all
work on gradient inversion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

SAME_IMAGES = "The same images train and test: none are held back."
"""A note for sets too small to hold any back."""


@dataclass(frozen=True, eq=False)
class ImageData:
    """A labelled set of images, split into training and test images.

    Attributes
    ----------
    name : str
        For people to read.
    train_images, test_images : uint8 Tensors of shape (N, C, H, W)
        Pixels in 0 ... 255.
    train_labels, test_labels : int64 Tensors of shape (N,)
        Class indices.
    classes : tuple of str
        Class names, in the order of the indices.
    mean, std : float32 Tensors of shape (C, 1, 1)
        Of each channel of the training images in [0, 1]; std is 1 where a channel is constant.
    notes : tuple of str
        Sentences that whoever reads the results has to know: how files were read, what of them was
        left out.
    """

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: tuple[str, ...]
    mean: Tensor
    std: Tensor
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        name: str,
        train_images: Tensor,
        train_labels: Tensor,
        test_images: Tensor,
        test_labels: Tensor,
        classes: Sequence[str],
        notes: Sequence[str] = (),
    ) -> Self:
        """Check shapes and labels, and compute mean and standard deviation.

        Parameters
        ----------
        name, train_images, train_labels, test_images, test_labels
            As the attributes of this class; labels may be of any integer type.
        classes : sequence of str
            Class names.
        notes : sequence of str, optional
            As the attribute.

        Raises
        ------
        ValueError
            If there are no training images, or images and labels do not fit together.
        """
        for split, images, labels in (
            ("training", train_images, train_labels),
            ("test", test_images, test_labels),
        ):
            if images.dtype != torch.uint8 or images.ndim != 4:
                raise ValueError(
                    f"The {split} images of {name} are {images.dtype} of shape "
                    f"{tuple(images.shape)}, not uint8 of shape (N, C, H, W)."
                )
            if len(images) != len(labels):
                raise ValueError(
                    f"{name} has {len(images)} {split} images and {len(labels)} labels."
                )
            if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(classes):
                raise ValueError(
                    f"The {split} labels of {name} leave 0 ... {len(classes) - 1}: they reach "
                    f"from {int(labels.min())} to {int(labels.max())}."
                )
        if not len(train_images):
            raise ValueError(f"{name} has no training images.")
        mean, std = channel_statistics(train_images)
        return cls(
            name,
            train_images.contiguous(),
            train_labels.long(),
            test_images.contiguous(),
            test_labels.long(),
            tuple(classes),
            mean,
            std,
            tuple(notes),
        )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of one image."""
        channels, height, width = self.train_images.shape[1:]
        return channels, height, width

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    def to_inputs(self, images: Tensor, standardize: bool) -> Tensor:
        """Turn images into model inputs.

        Parameters
        ----------
        images : uint8 Tensor of shape (..., C, H, W)
            Pixels in 0 ... 255.
        standardize : bool
            Whether inputs are (x - mean) / std per channel, or x in [0, 1].

        Returns
        -------
        float32 Tensor of the same shape
        """
        unit = images.to(torch.float32) / 255
        if not standardize:
            return unit
        return (unit - self.mean.to(unit.device)) / self.std.to(unit.device)

    def to_unit(self, inputs: Tensor, standardize: bool) -> Tensor:
        """Turn model inputs back into the scale where pixels of images are in [0, 1].

        The inverse of `to_inputs`; nothing is clamped, so that an input which is no image leaves
        [0, 1].

        Parameters
        ----------
        inputs : floating-point Tensor of shape (..., C, H, W)
        standardize : bool
            As for `to_inputs`.

        Returns
        -------
        Tensor of the same shape and dtype
        """
        if not standardize:
            return inputs
        return inputs * self.std.to(inputs) + self.mean.to(inputs)

    def input_range(self, standardize: bool) -> tuple[Tensor, Tensor]:
        """Lowest and highest value a model input can take, each of shape (C, 1, 1)."""
        low, high = torch.zeros_like(self.mean), torch.ones_like(self.mean)
        if not standardize:
            return low, high
        return (low - self.mean) / self.std, (high - self.mean) / self.std


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel of uint8 images, in units of [0, 1].

    Computed from the channels' histograms: exact, and without a float copy of the images.

    Parameters
    ----------
    images : uint8 Tensor of shape (N, C, H, W)

    Returns
    -------
    mean, std : float32 Tensors of shape (C, 1, 1)
        std is 1 where a channel is constant.
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in range(images.shape[1]):
        counts = torch.bincount(images[:, channel].reshape(-1), minlength=256).double()
        weights = counts / counts.sum()
        mean = weights @ values
        std = (weights @ (values - mean).square()).sqrt()
        means.append(mean)
        stds.append(std if (counts > 0).sum() > 1 else torch.ones_like(std))
    return (
        torch.stack(means).float().reshape(-1, 1, 1),
        torch.stack(stds).float().reshape(-1, 1, 1),
    )
