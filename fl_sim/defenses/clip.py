"""Norm clipping: scale the whole update down to a bound."""

from __future__ import annotations

from torch import Generator

from fl_sim.defenses.base import Defense, Tensors, total_norm


class Clip(Defense):
    """Clip the update to an L2 norm over all parameters together.

    Parameters
    ----------
    norm : float, default 1.0
        The bound, positive, in units of the mean gradient.

    Raises
    ------
    ValueError
        If the bound is not positive.

    References
    ----------
    Abadi et al., "Deep Learning with Differential Privacy", 2016, algorithm 1 (there per example).
    """

    def __init__(self, norm: float = 1.0) -> None:
        if not norm > 0:
            raise ValueError(f"defense.clip.norm={norm!r} must be positive.")
        self.norm = norm

    def on_update(self, update: Tensors, scale: float, generator: Generator) -> Tensors:
        """Return the update times ``min(1, norm / |update|)``."""
        factor = min(1.0, self.norm / max(float(total_norm(update)), 1e-30))
        return {name: value * factor for name, value in update.items()}
