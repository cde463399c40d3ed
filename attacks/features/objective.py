"""How far candidate images are from the features that were read, per image."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from attacks.features.front import Front
from attacks.features.smoothing import Smoothed

BOX = 1e-2


@dataclass(frozen=True)
class FeatureMatch:
    """Squared relative distance of features, with priors on the image.

    Attributes
    ----------
    front : Front
        From images to features.
    shape : tuple of int
        Of one image.
    features : Tensor of shape (N, F)
        What they should be.
    size : float
        Root mean square norm of a feature vector, the unit of all residuals.
    bounds : (low, high), optional
        Granted range of the pixels, a soft wall.
    span : Tensor of shape (F, B) or (F + 1, B), optional
        Orthonormal basis; if given, only what lies outside its span counts as distance, the last
        row standing for a coordinate 1.
    """

    front: Front
    shape: tuple[int, ...]
    features: Tensor
    size: float
    bounds: tuple[Tensor, Tensor] | None = None
    span: Tensor | None = None

    def rows(self, index: Tensor) -> FeatureMatch:
        """The same for some of the images."""
        return replace(self, features=self.features[index])

    def difference(self, x: Tensor) -> Tensor:
        """(front(x) - features) / size for flat images (N, n), of shape (N, F)."""
        gap = self.front(x.reshape(-1, *self.shape)).flatten(1) - self.features
        if self.span is not None:
            if len(self.span) > gap.shape[1]:
                # [front(x), 1] and [features, 1] differ by zero in the last coordinate
                inside = self.span[:-1]
                gap = torch.cat(
                    [gap - gap @ inside @ inside.T, -gap @ inside @ self.span[-1:].T], 1
                )
            else:
                gap = gap - gap @ self.span @ self.span.T
        return gap / self.size

    def residual(self, x: Tensor) -> Tensor:
        """Norm of the difference, (N,), without a graph."""
        with torch.no_grad():
            return self.difference(x).norm(dim=1)

    def evaluate(self, x: Tensor, width: float, tv: float) -> tuple[Tensor, Tensor]:
        """Objective of every image, and its derivative.

        Parameters
        ----------
        x : Tensor of shape (N, n)
            Images.
        width : float
            Of the smoothing of the front; zero for the true network.
        tv : float
            Weight of the total variation.

        Returns
        -------
        value : Tensor of shape (N,)
        slope : Tensor of shape (N, n)
            Derivative of every image's own value.
        """
        context: Any = Smoothed(width) if width else nullcontext()
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(True)
            with context:
                gap = self.difference(leaf)
            value = gap.square().sum(1)
            if tv:
                value = value + tv * total_variation(leaf.reshape(-1, *self.shape))
            if self.bounds is not None:
                low, high = (b.expand(self.shape).reshape(1, -1) for b in self.bounds)
                outside = (low - leaf).clamp_min(0) + (leaf - high).clamp_min(0)
                value = value + BOX * outside.square().mean(1)
            (slope,) = torch.autograd.grad(value.sum(), leaf)
        return value.detach(), slope


def total_variation(x: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels, down plus across, of every image, (N,).

    Zero for inputs that are not images.
    """
    if x.dim() < 4:
        return x.new_zeros(len(x))
    down = (x[..., 1:, :] - x[..., :-1, :]).abs().flatten(1).sum(1)
    across = (x[..., :, 1:] - x[..., :, :-1]).abs().flatten(1).sum(1)
    return (down + across) / x[0].numel()
