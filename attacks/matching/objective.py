"""Distances between the gradient a candidate would cause and the observed one.

Each takes both as flat vectors and returns its value and its derivative by the first in closed
form. So the derivative by the candidate, by the chain rule, is one vector-Jacobian product with
the client's gradient: no graph is recorded for the distance itself.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Distance = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Maps (gradient, target), each of shape (p,), to (value, derivative by gradient)."""


def cosine(gradient: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """1 - <g, t> / |g||t| (Geiping et al. 2020, arXiv 2003.14053, eq. 4); between 0 and 2."""
    size = gradient.norm().clamp_min(torch.finfo(gradient.dtype).tiny)
    unit = target / target.norm().clamp_min(torch.finfo(target.dtype).tiny)
    cos = gradient @ unit / size
    return 1 - cos, gradient.mul(cos / size**2).sub_(unit, alpha=float(1 / size))


def squared(gradient: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """|g - t|^2 / |t|^2 (Zhu et al. 2019, arXiv 1906.08935, relative to the observed gradient)."""
    gap = gradient - target
    scale = 1 / target.square().sum().clamp_min(torch.finfo(target.dtype).tiny)
    return gap.square().sum() * scale, gap * (2 * scale)
