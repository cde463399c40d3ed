"""Gradient pruning: send the largest entries only, zeros elsewhere."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from fl_sim.defenses.base import Defense, Tensors


class Prune(Defense):
    """Keep the entries of largest magnitude of each tensor (top-k).

    Parameters
    ----------
    keep : float, default 0.1
        Share of the entries that is sent, in (0, 1]; at least one per tensor.

    Raises
    ------
    ValueError
        If the share is out of its range.

    References
    ----------
    Zhu, Liu, Han, "Deep Leakage from Gradients", 2019, section 5.2 (pruning as a defence);
    Lin et al., "Deep Gradient Compression", 2018.
    """

    def __init__(self, keep: float = 0.1) -> None:
        if not 0 < keep <= 1:
            raise ValueError(f"defense.prune.keep={keep!r} must be above 0 and at most 1.")
        self.keep = keep

    def on_update(self, update: Tensors, scale: float, generator: Generator) -> Tensors:
        """Return the update with the small entries set to zero."""
        return {name: self._largest(value) for name, value in update.items()}

    def _largest(self, value: Tensor) -> Tensor:
        flat = value.flatten()
        kept = flat.abs().topk(max(1, round(self.keep * flat.numel()))).indices
        sparse = torch.zeros_like(flat)
        sparse[kept] = flat[kept]
        return sparse.reshape(value.shape)
