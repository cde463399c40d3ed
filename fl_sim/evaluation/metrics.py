"""Distances between true images and their reconstructions, one number per pair."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_PSNR = 200.0
"""PSNR of equal images in dB, instead of infinity, which JSON cannot hold."""

SSIM_SIGMA = 1.5
"""Standard deviation in pixels of SSIM's Gaussian window, as in Wang et al. (2004)."""


def relative_error(truth: Tensor, found: Tensor) -> Tensor:
    """||x - x'|| / ||x||: two Tensors of shape (n, ...) to (n,).

    For x = 0 it is 0 if x' = 0 as well, and infinite otherwise.
    """
    difference = (truth - found).flatten(1).norm(dim=1)
    return torch.where(difference == 0, 0.0, difference / truth.flatten(1).norm(dim=1))


def psnr(truth: Tensor, found: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of images in [0, 1], against each true image.

    -10 log10 of the mean squared error over channels and pixels, at most `MAX_PSNR`.

    Parameters
    ----------
    truth, found : Tensors of shape (n, C, H, W)

    Returns
    -------
    Tensor of shape (n,)
    """
    error = (truth - found).flatten(1).square().mean(dim=1)
    return (-10 * torch.log10(error)).clamp_max(MAX_PSNR)


def ssim(truth: Tensor, found: Tensor) -> Tensor | None:
    """Structural similarity of images in [0, 1] (Wang et al. 2004), computed by torchmetrics.

    The Gaussian window has a standard deviation of 1.5 pixels and spans 11 x 11 pixels; it shrinks
    to fit smaller images. Computed in float32, good to about 1e-4, as float64 takes ten times as
    long.

    Parameters
    ----------
    truth, found : Tensors of shape (n, C, H, W)

    Returns
    -------
    Tensor of shape (n,), or None for images with a side of less than 3 pixels
    """
    if (reach := (min(truth.shape[-2:]) - 1) // 2) < 1:
        return None
    # Importing torchmetrics takes seconds, and comes with all of torchvision.
    from torchmetrics.functional.image import structural_similarity_index_measure

    # torchmetrics' window reaches int(3.5 sigma + 0.5) pixels to each side of its centre.
    sigma = min(SSIM_SIGMA, reach / 3.5)
    values = structural_similarity_index_measure(
        found.float(), truth.float(), sigma=sigma, data_range=1.0, reduction="none"
    )
    assert isinstance(values, Tensor)
    return values.reshape(len(truth))
