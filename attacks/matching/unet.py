"""An untrained U-Net as image prior: images are what a small random network renders most easily.

Deep image prior (Ulyanov, Vedaldi, Lempitsky 2018): the candidate is the network's output for a
fixed noise, and its weights are what is optimised.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class UNet(nn.Module):
    """Two halvings, two doublings, with skips; keeps height and width.

    Parameters
    ----------
    channels : int
        Of the images.
    noise : int, default 8
        Channels of the input.
    width : int, default 24
        Channels of the first level; the second has twice as many.
    """

    def __init__(self, channels: int, noise: int = 8, width: int = 24) -> None:
        super().__init__()
        self.first = nn.Conv2d(noise, width, 3, padding=1)
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.bottom = nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1)
        self.up = nn.Conv2d(4 * width, 2 * width, 3, padding=1)
        self.last = nn.Conv2d(3 * width, width, 3, padding=1)
        self.paint = nn.Conv2d(width, channels, 1)

    def forward(self, z: Tensor) -> Tensor:
        """Render images (B, channels, H, W) from noise (B, noise, H, W)."""
        act = nn.functional.silu
        one = act(self.first(z))
        two = act(self.down(one))
        three = act(self.bottom(two))
        grown = nn.functional.interpolate(three, size=two.shape[-2:], mode="bilinear")
        two = act(self.up(torch.cat([grown, two], 1)))
        grown = nn.functional.interpolate(two, size=one.shape[-2:], mode="bilinear")
        return self.paint(act(self.last(torch.cat([grown, one], 1))))


def untrained_unet(
    shape: tuple[int, ...], randn: Callable[..., Tensor]
) -> tuple[list[Tensor], Callable[[Sequence[Tensor]], Tensor]]:
    """A random U-Net's weights, and the map from weights to images.

    Parameters
    ----------
    shape : tuple of int
        (B, C, H, W) of the images.
    randn : callable
        Draws standard normal numbers of the given shape, on the right device.

    Returns
    -------
    codes : list of Tensor
    render : callable
        From codes to images.

    Raises
    ------
    ValueError
        If the shape is not that of images.
    """
    if len(shape) != 4:
        raise ValueError(f"image_prior=True needs images (C, H, W), not inputs of {shape[1:]}.")
    with torch.device("meta"):
        network = UNet(shape[1])
    names = [name for name, _ in network.named_parameters()]
    codes = [
        randn(*p.shape) / math.sqrt(max(1, p[0].numel() / 2)) * (p.dim() > 1)
        for p in network.parameters()
    ]
    z = randn(shape[0], network.first.in_channels, *shape[2:])

    def render(weights: Sequence[Tensor]) -> Tensor:
        state = dict(zip(names, weights, strict=True))
        images: Tensor = torch.func.functional_call(network, state, (z,))
        return images

    return codes, render
