"""How much the parameters that were sent differ from honest ones: the price of an active server.

An honest initialisation draws a tensor's entries independently from one distribution. So other
honest draws can be made from one by resampling its entries, and a few simple statistics, which any
client could compute, tell how far a tensor lies outside the range of honest draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Generator, Tensor

FLOOR = 1e-3
"""Differences below this, in units of the statistics themselves, count as nothing."""

LOOKED_AT = 2**14
"""Entries of a tensor, evenly spaced, whose distribution is compared."""


def detectability(
    sent: Mapping[str, Tensor], honest: Mapping[str, Tensor], generator: Generator, draws: int = 8
) -> tuple[float, str]:
    """Return how many standard deviations what was sent lies off honest draws, at its worst.

    Parameters
    ----------
    sent, honest : mapping from name to Tensor
        Parameters under suspicion, and those an honest server would have sent.
    generator : torch.Generator
        For the resampling.
    draws : int, default 8
        Honest draws per tensor, at least 2.

    Returns
    -------
    score : float
        Largest deviation of any statistic of any tensor. An honest draw scores about 3.
    where : str
        Name of that tensor.
    """
    worst, where = 0.0, ""
    for name, value in sent.items():
        reference = honest[name]
        if not value.is_floating_point() or value.numel() < 2 or torch.equal(value, reference):
            continue
        fakes = torch.stack(
            [statistics(_resampled(reference, generator), reference) for _ in range(draws)]
        )
        spread = fakes.std(0).clamp_min(FLOOR)
        score = float(((statistics(value, reference) - fakes.mean(0)) / spread).abs().max())
        if score > worst:
            worst, where = score, name
    return worst, where


def statistics(value: Tensor, reference: Tensor) -> Tensor:
    """Return what a suspicious client would look at.

    Parameters
    ----------
    value, reference : floating-point Tensors of one shape
        Of at least two entries; the reference is honest.

    Returns
    -------
    Tensor of shape (4,)
        Log of the root mean square; largest distance between the distribution functions of the
        entries and the reference's (Kolmogorov-Smirnov); share of the Frobenius norm in the largest
        singular value, after the mean over each column is taken off; norm of those means.
    """
    value, reference = value.double(), reference.double()
    rms = value.square().mean().sqrt().clamp_min(1e-300)
    matrix = value.flatten(1) if value.ndim > 1 else value[None]
    means = matrix.mean(0) if len(matrix) > 1 else matrix.new_zeros(1)
    centred = matrix - means
    size = centred.norm().clamp_min(1e-300)
    return torch.stack(
        [
            rms.log(),
            _kolmogorov_smirnov(value.flatten(), reference.flatten()),
            _largest_singular_value(centred) / size,
            means.norm() / (rms * math.sqrt(means.numel())),
        ]
    )


def _kolmogorov_smirnov(one: Tensor, other: Tensor) -> Tensor:
    one, other = (v[:: max(1, len(v) // LOOKED_AT)] for v in (one, other))
    both = torch.cat([one, other]).sort().values
    counts = [torch.searchsorted(v.sort().values, both, right=True) / len(v) for v in (one, other)]
    return (counts[0] - counts[1]).abs().max().double()


def _largest_singular_value(matrix: Tensor, iterations: int = 20) -> Tensor:
    """Power iteration from a fixed start; a few per cent are good enough here."""
    vector = torch.linspace(1, 2, matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
    for _ in range(iterations):
        vector = matrix.T @ (matrix @ vector)
        vector = vector / vector.norm().clamp_min(1e-300)
    return (matrix @ vector).norm()


def _resampled(value: Tensor, generator: Generator) -> Tensor:
    chosen = torch.randint(value.numel(), (value.numel(),), generator=generator)
    return value.flatten()[chosen.to(value.device)].reshape(value.shape)
