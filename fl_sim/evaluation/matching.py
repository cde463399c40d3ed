"""Which reconstruction belongs to which true sample."""

from __future__ import annotations

import torch
from torch import Tensor

from fl_sim.records import EXACT


def match(truth: Tensor, found: Tensor) -> Tensor:
    """Pair reconstructions with true samples by the Hungarian assignment on squared error.

    Squared errors beyond 100 times the largest squared norm of a true sample all count alike. A
    pair with a relative error of at most `EXACT` comes before any others, so that a wild
    reconstruction elsewhere cannot tear an exact pair apart to lower the sum.

    Parameters
    ----------
    truth : Tensor of shape (B, d)
    found : Tensor of shape (n, d)
        n may be smaller or larger than B, or 0; rows that are not finite are never paired.

    Returns
    -------
    int64 Tensor of shape (B,)
        Row of `found`, or -1 where a true sample has none.
    """
    from scipy.optimize import linear_sum_assignment  # half a second that other runs need not pay

    truth = truth.detach().double().cpu()
    found = found.detach().double().cpu()
    pairs = torch.full((len(truth),), -1)
    usable = torch.nonzero(torch.isfinite(found).all(dim=1)).flatten()
    if not len(usable) or not len(truth):
        return pairs
    cost = squared_distances(truth, found[usable])
    norms = truth.square().sum(dim=1, keepdim=True)
    exact = cost <= EXACT**2 * norms
    cap = 100 * norms.max().clamp_min(torch.finfo(norms.dtype).tiny)
    cost = cost.clamp_max(cap) / cap - exact * float(len(truth) + 1)
    rows, columns = linear_sum_assignment(cost.numpy())
    pairs[torch.from_numpy(rows)] = usable[torch.from_numpy(columns)]
    return pairs


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """||a_i - b_j||^2 for all i, j: shapes (B, d) and (n, d) to (B, n).

    Differences are taken before squaring, a row at a time, so that nearly equal rows lose nothing.
    """
    return torch.stack([(b - row).square().sum(dim=1) for row in a])
