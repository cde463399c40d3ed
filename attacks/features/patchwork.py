"""Several half-right images of one sample, put together to one that is right.

Descents from different starts fail in different places: each ends in an image that is right but
for a region whose kinks fell to the wrong side. Where the wrong region lies shows in the features,
which are of the image's own making: an error r_k of feature k counts for pixel p as much as the
feature depends on the pixel,

    energy_p = sum_k (J_kp r_k)^2,

J the derivative of the slightly smoothed front, so that units which should speak and are silent
count too. A patchwork takes every pixel from the candidate with the least energy around it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from attacks.features.objective import FeatureMatch
from attacks.features.smoothing import Smoothed

PROBES = 16
"""Random sign vectors s; the mean of (J' (s r))^2 is the energy."""
AROUND = 5
"""Side of the square of pixels that an energy is averaged over."""


def energy(match: FeatureMatch, x: Tensor, width: float) -> Tensor:
    """How much of the features' error each pixel answers for.

    Parameters
    ----------
    match : FeatureMatch
        Of the same images.
    x : Tensor of shape (N, n)
        Candidates.
    width : float
        Of the smoothing.

    Returns
    -------
    Tensor of shape (N, n)
        The same for all channels of a pixel.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        wrong = match.difference(x).abs()
    total = torch.zeros_like(x)
    with torch.enable_grad():
        leaf = x.detach().clone().requires_grad_(True)
        with Smoothed(width):
            gap = match.difference(leaf)
        for _ in range(PROBES):
            signs = torch.randint(0, 2, wrong.shape, generator=generator).to(wrong) * 2 - 1
            (slope,) = torch.autograd.grad((gap * signs * wrong).sum(), leaf, retain_graph=True)
            total += slope.square()
    if len(match.shape) != 3:
        return total
    pixels = total.reshape(-1, *match.shape).sum(1, keepdim=True)
    around = nn.functional.avg_pool2d(pixels, AROUND, 1, AROUND // 2)
    return around.expand(-1, *match.shape).flatten(1)


def patchwork(candidates: Sequence[Tensor], energies: Sequence[Tensor]) -> Tensor:
    """Every pixel from the candidate with the least energy there.

    Parameters
    ----------
    candidates : sequence of Tensors of shape (N, n)
        Of the same N images, at least one.
    energies : sequence of Tensors of shape (N, n)
        One for each of them.

    Returns
    -------
    Tensor of shape (N, n)
    """
    best = torch.stack(list(energies)).argmin(0, keepdim=True)
    return torch.stack(list(candidates)).gather(0, best)[0]
