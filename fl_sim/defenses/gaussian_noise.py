"""Gaussian noise on every coordinate of the gradient."""

from __future__ import annotations

import torch
from torch import Generator

from fl_sim.defenses.base import Defense, Tensors


class GaussianNoise(Defense):
    """Add independent normal noise.

    Parameters
    ----------
    std : float, default 0.001
        Standard deviation per coordinate, not negative; relative to a tensor's root mean square
        if `relative`.
    relative : bool, default False
        Whether `std` is in units of each tensor's root mean square.
    """

    def __init__(self, std: float = 1e-3, relative: bool = False) -> None:
        if not std >= 0:
            raise ValueError(f"defense.gaussian_noise.std={std!r} must not be negative.")
        self.std = std
        self.relative = relative

    def apply(self, gradient: Tensors, generator: Generator) -> Tensors:
        """Return the gradient plus noise."""
        noisy = {}
        for name, value in gradient.items():
            unit = value.square().mean().sqrt() if self.relative else 1.0
            noise = torch.randn(value.shape, generator=generator, dtype=value.dtype)
            noisy[name] = value + self.std * unit * noise
        return noisy
