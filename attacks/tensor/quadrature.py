"""Whether samples on one line may be nodes that stand for others between and around them.

More samples than dimensions, such as one image at several brightnesses, or blends of two, show in the
gradient as rank two: sums of their columns, weighted by polynomials of their place on the line. Two
nodes reproduce all such sums up to the third degree, as in Gauss' quadrature, so where the slope of
the activation is a cubic along the line, to within the noise, two samples that never were solve all
equations. What tells them apart is the slope's part beyond the third degree.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from attacks.tensor.certificate import typical_phi
from attacks.tensor.equation import State
from attacks.tensor.subspace import GradientSpace

Slope = Callable[[Tensor], tuple[Tensor, Tensor]]

DEGREES = 4
"""Dimensions of the polynomials that two nodes integrate exactly."""
VISIBLE = 30.0
"""Size of what is beyond them, in units of what is left over of the columns, that shows."""
POINTS = 9
BEYOND = 0.4
"""Places on each line: so far, in segments, in front of the first node and behind the second."""
CHUNK = 256
"""Lines at a time."""


def no_nodes(
    space: GradientSpace,
    weight: Tensor,
    slope: Slope,
    points: Tensor,
    state: State,
    missing: Tensor,
) -> Tensor:
    """Which samples are no nodes of a quadrature along a line to any other one.

    Parameters
    ----------
    space : GradientSpace
        Of the gradient.
    weight : Tensor of shape (m, k)
        First layer's weights and biases, on the coordinates of the row space.
    slope : callable
        `Activation.slope`.
    points : Tensor of shape (n, k)
        The returned samples, in the same coordinates.
    state : State
        Of the sample equation there: what of a column is left over counts as noise, too.
    missing : Tensor of shape (k, r)
        Orthonormal directions in which other nodes may be that were not found; r may be 0.

    Returns
    -------
    bool Tensor of shape (n,)
        True for a single sample that is all there is.
    """
    n = len(points)
    free = torch.ones(n, dtype=torch.bool, device=points.device)
    first, second = torch.triu_indices(n, n, 1, device=points.device)
    pairs = torch.cat([torch.stack([first, second]), torch.stack([second, first])], 1)
    starts, ends = pairs[0], points[pairs[1]]
    if missing.shape[1]:
        ways = missing.T if space.last is None else _level(missing.T, space.last)
        there = points[:, None] + space.lengths(points)[:, None, None] * ways
        index = torch.arange(n, device=points.device).repeat_interleave(len(ways))
        starts, ends = torch.cat([starts, index]), torch.cat([ends, there.flatten(0, 1)])
    noise = torch.maximum(typical_phi(space, state.column), state.phi)
    z = points @ weight.T
    slopes = slope(z)[0]
    size = state.column.norm(dim=1, keepdim=True).clamp_min(1e-300)
    weights = state.column / size / torch.where(slopes.abs() > 1e-12, slopes, torch.ones_like(z))
    t = torch.linspace(-BEYOND, 1 + BEYOND, POINTS, dtype=z.dtype, device=z.device)
    for lines in torch.arange(len(starts), device=points.device).split(CHUNK):
        i = starts[lines]
        step = ends[lines] @ weight.T - z[i]
        curve = slope(z[i, None] + t[:, None] * step[:, None])[0] * weights[i, None]
        beyond = torch.linalg.svdvals(curve)[:, DEGREES]
        free[i[beyond <= VISIBLE * noise[i]]] = False
    return free


def _level(ways: Tensor, last: Tensor) -> Tensor:
    """Directions (r, k) that keep the coordinate that stands for the bias, of length one."""
    flat = ways - (ways @ last)[:, None] * last / last.square().sum().clamp_min(1e-300)
    return flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-300)
