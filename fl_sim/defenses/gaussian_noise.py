"""Gaussian noise on every coordinate of the update."""

from __future__ import annotations

from torch import Generator

from fl_sim.defenses.base import Defense, Tensors, normal


class GaussianNoise(Defense):
    """Add independent normal noise.

    Parameters
    ----------
    std : float, default 0.001
        Standard deviation per coordinate, not negative, in units of the mean gradient; relative
        to a tensor's root mean square if `relative`.
    relative : bool, default False
        Whether `std` is in units of each tensor's root mean square.

    Raises
    ------
    ValueError
        If the standard deviation is negative.
    """

    def __init__(self, std: float = 1e-3, relative: bool = False) -> None:
        if not std >= 0:
            raise ValueError(f"defense.gaussian_noise.std={std!r} must not be negative.")
        self.std = std
        self.relative = relative

    def on_update(self, update: Tensors, scale: float, generator: Generator) -> Tensors:
        """Return the update plus noise."""
        noisy = {}
        for name, value in update.items():
            unit = value.square().mean().sqrt() if self.relative else 1.0
            noisy[name] = value + self.std * unit * normal(value, generator)
        return noisy
