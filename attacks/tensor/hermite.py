"""Hermite tensors and Stein's identity: moments of a gradient become sums over samples.

For w ~ N(0, I) the Hermite tensors H1 = w, H2 = ww' - I, H3 = w(x)w(x)w - 3 sym(w (x) I), ...
satisfy E[s(w.x) H_k(w)] = E[s^(k)(w.x)] x^(x)k for any input x, so averages of gradient entries
against H_k are low-rank tensors whose factors are the inputs (Wang, Lee and Lei 2023, arXiv
2212.03714). Everything here works on points already projected to a few dimensions; no d x d x d
tensor is ever formed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

RANGE = 12.0
"""Standard deviations to either side over which Gaussian expectations are integrated."""
PANELS = 48
"""Pieces of that range; kinks cut further ones."""
NODES = 16
"""Gauss-Legendre nodes per piece."""
CHUNK = 1 << 24
"""Entries of a moment tensor's summands that are held at a time."""


def gaussian_moments(
    function: Callable[[Tensor], Tensor],
    kinks: Tensor | None = None,
    orders: int = 4,
    std: float = 1.0,
) -> list[float]:
    """Expected derivatives E s^(k)(z), z ~ N(0, std^2), for k = 1 .. orders.

    By Stein's identity E s^(k)(std t) = E[s(std t) He_k(t)] / std^k, so kinks need no derivative.
    Gauss-Legendre quadrature on panels that end at the kinks.

    Parameters
    ----------
    function : callable
        s, elementwise.
    kinks : Tensor of shape (k,), optional
        Where s' jumps.
    orders : int, default 4
        Highest derivative.
    std : float, default 1
        Standard deviation of z.

    Returns
    -------
    list of float
        Its entry k - 1 is the moment of order k.

    Raises
    ------
    ValueError
        If the standard deviation is not positive.
    """
    if not std > 0:
        raise ValueError(f"The standard deviation is {std}; it must be positive.")
    device = None if kinks is None else kinks.device
    edges = np.linspace(-RANGE, RANGE, PANELS + 1)
    if kinks is not None and len(kinks):
        inside = kinks.detach().cpu().double().numpy() / std
        edges = np.union1d(edges, inside[np.abs(inside) < RANGE])
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    half = (edges[1:] - edges[:-1])[:, None] / 2
    t = torch.from_numpy((half * nodes + (edges[1:] + edges[:-1])[:, None] / 2).ravel()).to(device)
    density = torch.from_numpy((half * weights).ravel()).to(device) * torch.exp(-t * t / 2)
    with torch.no_grad():
        values = function(t * std).double() * density / math.sqrt(2 * math.pi)
    below, here = torch.ones_like(t), t
    moments = []
    for k in range(1, orders + 1):
        moments.append(float((values * here).sum()) / std**k)
        below, here = here, t * here - k * below
    return moments


def symmetrise(T: Tensor) -> Tensor:
    """Average of a tensor over all permutations of its axes."""
    orders = list(itertools.permutations(range(T.dim())))
    total = torch.zeros_like(T)
    for order in orders:
        total += T.permute(order)
    return total / len(orders)


def hermite_sum(points: Tensor, weights: Tensor, order: int) -> Tensor:
    """sum_j weights_j (x) H_k(points_j).

    Parameters
    ----------
    points : Tensor of shape (m, n)
        Arguments of the Hermite tensors.
    weights : Tensor of shape (m, c)
        What each of them is multiplied with.
    order : int
        k, 0 to 3.

    Returns
    -------
    Tensor of shape (c, n, ..., n) with k axes of length n

    Raises
    ------
    ValueError
        If the order is not 0 to 3.
    """
    if not 0 <= order <= 3:
        raise ValueError(f"Hermite sums are available for orders 0 to 3, not {order}.")
    power = _power_sum(points, weights, order)
    if order < 2:
        return power
    identity = torch.eye(points.shape[1], dtype=points.dtype, device=points.device)
    if order == 2:
        return power - weights.sum(0)[:, None, None] * identity
    first = weights.T @ points
    return (
        power
        - torch.einsum("ca,bd->cabd", first, identity)
        - torch.einsum("cb,ad->cabd", first, identity)
        - torch.einsum("cd,ab->cabd", first, identity)
    )


def _power_sum(points: Tensor, weights: Tensor, order: int) -> Tensor:
    """sum_j weights_j (x) points_j^(x)k by matrix products over chunks of rows."""
    n, c = points.shape[1], weights.shape[1]
    if order == 0:
        return weights.sum(0)
    total = points.new_zeros(c * n ** (order - 1), n)
    rows = max(1, CHUNK // total.shape[0])
    for w, p in zip(weights.split(rows), points.split(rows), strict=True):
        left = w
        for _ in range(order - 1):
            left = (left[:, :, None] * p[:, None, :]).flatten(1)
        total += left.T @ p
    return total.reshape(c, *[n] * order)


def stein_moment(points: Tensor, field: Tensor, order: int) -> Tensor:
    """Order-k moment of an observed gradient.

    For a scalar g_j = sum_i r_i s(w_j . x_i) it is mean_j g_j H_k(w_j); for its derivative by w_j,
    the vector sum_i r_i s'(w_j . x_i) x_i, it is mean_j sym(field_j (x) H_(k-1)(w_j)). Either
    estimates sum_i r_i E[s^(k)] x_i^(x)k.

    Parameters
    ----------
    points : Tensor of shape (m, n)
        Weights w_j, possibly projected.
    field : Tensor of shape (m,) or (m, n)
        Gradient, projected the same way.
    order : int
        k, at least 1; at most 3 for scalars, 4 for vectors.

    Returns
    -------
    Tensor with k axes of length n

    Raises
    ------
    ValueError
        If the order is higher than that.
    """
    if field.dim() == 1:
        return hermite_sum(points, field[:, None], order)[0] / len(points)
    return symmetrise(hermite_sum(points, field, order - 1)) / len(points)


def contracted_moment(points: Tensor, field: Tensor, order: int, direction: Tensor) -> Tensor:
    """Order-k `stein_moment` with one axis contracted with a vector a: T_k(I, .., I, a).

    H_k(w)(.., a) = (a.w) H_(k-1) - (k-1) sym(a (x) H_(k-2)), so nothing of order k is formed.

    Parameters
    ----------
    points, field
        As in `stein_moment`.
    order : int
        k, 2 to 4.
    direction : Tensor of shape (n,)
        a.

    Returns
    -------
    Tensor with k - 1 axes of length n

    Raises
    ------
    ValueError
        If the order is above 4.
    """
    m = len(points)
    if field.dim() == 1:
        return _along(points, field[:, None], order, direction)[0] / m
    straight = hermite_sum(points, (field @ direction)[:, None], order - 1)[0]
    crossed = symmetrise(_along(points, field, order - 1, direction))
    return (straight + (order - 1) * crossed) / (order * m)


def _along(points: Tensor, weights: Tensor, k: int, direction: Tensor) -> Tensor:
    """sum_j weights_j (x) H_k(points_j)(.., a), symmetric in its last k - 1 axes."""
    total = hermite_sum(points, weights * (points @ direction)[:, None], k - 1)
    if k == 1:
        return total
    outer = hermite_sum(points, weights, k - 2)[..., None] * direction
    for slot in range(1, k):
        total = total - outer.movedim(-1, slot)
    return total
