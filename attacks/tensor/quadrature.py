"""Whether samples on one line may be nodes that stand for others between and around them.

More samples than dimensions, such as one image at several brightnesses, or blends of two, show in
the gradient as rank two: sums of their columns, weighted by polynomials of their place on the line.
Two nodes reproduce all such sums up to the third degree, as in Gauss' quadrature, so where the
slope of the activation is a cubic along the line, to within the noise, two samples that never were
solve all equations. What tells them apart is the slope's part beyond the third degree. Nodes so
near to each other that they are near the samples as well do no harm.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from attacks.tensor.certificate import WORST_ERROR, typical_phi
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
FEW = 64
"""Units that are asked first."""


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
    starts, other = torch.triu_indices(n, n, 1, device=points.device)
    ends = points[other]
    if missing.shape[1]:
        ways = missing.T if space.last is None else _level(missing.T, space.last)
        there = points[:, None] + space.lengths(points)[:, None, None] * ways
        index = torch.arange(n, device=points.device).repeat_interleave(len(ways))
        starts, other = torch.cat([starts, index]), torch.cat([other, index])
        ends = torch.cat([ends, there.flatten(0, 1)])
    size, apart = space.lengths(points), (ends - points[starts]).norm(dim=1)
    far = BEYOND * apart > WORST_ERROR * torch.minimum(size[starts], size[other])
    starts, other, ends = starts[far], other[far], ends[far]
    if len(starts) and len(weight) <= DEGREES:  # too few units to show anything
        return ~free
    noise = torch.maximum(typical_phi(space, state.column), state.phi)
    z = points @ weight.T
    slopes = slope(z)[0]
    column = state.column / state.column.norm(dim=1, keepdim=True).clamp_min(1e-300)
    weights = column / torch.where(slopes.abs() > 1e-12, slopes, torch.ones_like(z))
    t = torch.linspace(-BEYOND, 1 + BEYOND, POINTS, dtype=z.dtype, device=z.device)
    # what a few units show the whole layer shows; the others are asked where these show nothing
    units = torch.arange(0, len(weight), max(len(weight) // FEW, 1), device=points.device)
    for some in (units, torch.arange(len(weight), device=points.device)):
        doubtful = []
        for lines in torch.arange(len(starts), device=points.device).split(CHUNK):
            i, j = starts[lines], other[lines]
            step = ends[lines] @ weight[some].T - z[i][:, some]
            curve = slope(z[i][:, None, some] + t[:, None] * step[:, None])[0]
            for node in (i, j):
                beyond = torch.linalg.svdvals(curve * weights[node][:, None, some])[:, DEGREES]
                told = beyond > VISIBLE * noise[node]
                doubtful.append(torch.stack([lines[~told], node[~told]]))
        left = torch.cat(doubtful, 1) if doubtful else starts.new_zeros(2, 0)
        lines = left[0].unique()
        starts, other, ends = starts[lines], other[lines], ends[lines]
    free[left[1]] = False
    return free


def _level(ways: Tensor, last: Tensor) -> Tensor:
    """Directions (r, k) that keep the coordinate that stands for the bias, of length one."""
    flat = ways - (ways @ last)[:, None] * last / last.square().sum().clamp_min(1e-300)
    return flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-300)
