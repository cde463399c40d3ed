"""Where the search begins: random points shaped like the data, and tensor candidates."""

from __future__ import annotations

import torch
from torch import Tensor


def random_starts(
    count: int, spectrum: Tensor, last: Tensor | None, norm: float, generator: torch.Generator
) -> Tensor:
    """Random points of the search space with the spectrum of the data.

    Parameters
    ----------
    count : int
        How many.
    spectrum : Tensor of shape (k,)
        Singular values of what is left of the gradient, in the coordinates of the search space.
    last : Tensor of shape (k,), optional
        The points satisfy ``last @ x == 1``.
    norm : float
        Their typical Euclidean norm.
    generator : torch.Generator
        Source of randomness, on the CPU.

    Returns
    -------
    Tensor of shape (count, k)
    """
    draws = torch.randn(count, len(spectrum), generator=generator, dtype=torch.float64)
    return place(draws.to(spectrum) * spectrum, last, norm)


def place(directions: Tensor, last: Tensor | None, norm: float) -> Tensor:
    """Scale directions to plausible samples.

    With a bias the last coordinate fixes scale and sign; where that would make a sample larger
    than 1.3 times the typical norm it is shortened and moved back to ``last @ x == 1``.
    """
    if last is None:
        return directions * (norm / directions.norm(dim=1, keepdim=True).clamp_min(1e-300))
    along = directions @ last
    along = torch.where(along.abs() < 1e-12, torch.full_like(along, 1e-12), along)
    X = directions / along[:, None]
    X = X * (1.3 * norm / X.norm(dim=1, keepdim=True)).clamp_max(1)
    return X + (1 - X @ last)[:, None] * last / (last @ last)
