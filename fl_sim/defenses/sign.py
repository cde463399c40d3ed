"""Sign compression: one bit per entry, and one magnitude per tensor."""

from __future__ import annotations

from torch import Generator

from fl_sim.defenses.base import Defense, Tensors


class Sign(Defense):
    """Replace each tensor by its signs times its mean magnitude, which lets training go on.

    References
    ----------
    Bernstein et al., "signSGD: Compressed Optimisation for Non-Convex Problems", 2018;
    Karimireddy et al., "Error Feedback Fixes SignSGD", 2019 (the magnitude, equation 4).
    """

    def on_update(self, update: Tensors, scale: float, generator: Generator) -> Tensors:
        """Return ``mean(|g|) sign(g)`` for each tensor g."""
        return {name: value.abs().mean() * value.sign() for name, value in update.items()}
