"""Norm clipping: scale the whole gradient down to a bound."""

from __future__ import annotations

import torch
from torch import Generator

from fl_sim.defenses.base import Defense, Tensors


class Clip(Defense):
    """Clip the gradient to an L2 norm over all parameters together.

    Parameters
    ----------
    norm : float, default 1.0
        The bound, positive.

    References
    ----------
    Abadi et al., "Deep Learning with Differential Privacy", 2016, algorithm 1 (there per example).
    """

    def __init__(self, norm: float = 1.0) -> None:
        if not norm > 0:
            raise ValueError(f"defense.clip.norm={norm!r} must be positive.")
        self.norm = norm

    def apply(self, gradient: Tensors, generator: Generator) -> Tensors:
        """Return the gradient times ``min(1, norm / |gradient|)``."""
        total = torch.linalg.vector_norm(torch.stack([g.norm() for g in gradient.values()]))
        scale = min(1.0, self.norm / max(float(total), 1e-30))
        return {name: value * scale for name, value in gradient.items()}
