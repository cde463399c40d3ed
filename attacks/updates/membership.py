"""Which step took which sample, and under which label.

In the steps that take it, and there alone, a sample's column s'(W_t x) o A_t' delta lies in the
column space of the update. At w_0 just the first batch fits; it leads to w_1, and so on: with all
samples known roughly, an epoch of batches is put in order by walking it. Units near a kink, whose
gates rough samples may get wrong, are left out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.tensor.activation import Activation
from attacks.tensor.gates import away_from_kinks
from attacks.updates.client import ReducedClient, Tensors

UNSURE = 0.1
"""Distance from a kink within which a unit is left out, in standard deviations."""


def straight_path(client: ReducedClient, observed: Tensors, steps: int) -> list[Tensors]:
    """Parameters before each step, if the client had gone straight to where it ended."""
    sent = client.parameters()
    return [
        {name: value - client.lr * t / steps * observed[name] for name, value in sent.items()}
        for t in range(steps)
    ]


def misfits(
    client: ReducedClient,
    states: list[Tensors],
    points: Tensor,
    Q: Tensor,
    activation: Activation,
) -> Tensor:
    """How far each sample's column, averaged over steps, is outside the update's column space.

    Parameters
    ----------
    client : ReducedClient
    states : list of dict
        Parameters before those steps.
    points : Tensor of shape (n, r)
    Q : Tensor of shape (m, r)
        Orthonormal basis of the column space.
    activation : Activation
        Behind the first layer.

    Returns
    -------
    Tensor of shape (n, classes)
        Relative distance for each label, between 0 and 1.
    """
    columns = client.class_columns(states, points).mean(0)  # (n, classes, m)
    weights = [state[f"{client.hidden}.weight"] for state in states]
    if not len(activation.kinks):
        outside = columns - (columns @ Q) @ Q.T
        return outside.norm(dim=2) / columns.norm(dim=2).clamp_min(1e-300)
    answers = []
    for x, column in zip(points, columns, strict=True):
        sure = torch.stack([away_from_kinks(W @ x, activation.kinks, UNSURE) for W in weights])
        rows = sure.all(0)
        basis = torch.linalg.qr(Q[rows]).Q
        kept = column[:, rows]
        outside = kept - (kept @ basis) @ basis.T
        answers.append(outside.norm(dim=1) / kept.norm(dim=1).clamp_min(1e-300))
    return torch.stack(answers)


def walk_epoch(
    client: ReducedClient,
    points: Tensor,
    Q: Tensor,
    activation: Activation,
    steps: int,
) -> tuple[Tensor, Tensor]:
    """Put the samples of one epoch in order: at each step take those that fit best.

    Parameters
    ----------
    client : ReducedClient
        Simulates the steps.
    points : Tensor of shape (n, r)
        All samples, roughly.
    Q : Tensor of shape (m, r)
        Orthonormal basis of the update's column space.
    activation : Activation
        Behind the first layer.
    steps : int
        Of the epoch; divides n.

    Returns
    -------
    order : int Tensor of shape (steps, n / steps)
    labels : int Tensor of shape (n,)
    """
    size = len(points) // steps
    left = torch.arange(len(points), device=points.device)
    labels = torch.zeros_like(left)
    order = torch.zeros_like(left[:0]).reshape(0, size)
    state = client.parameters()
    for _ in range(steps):
        fit, best = misfits(client, [state], points[left], Q, activation).min(1)
        chosen = fit.argsort()[:size]
        labels[left[chosen]] = best[chosen]
        order = torch.cat([order, left[chosen][None]])
        left = left[~torch.isin(left, left[chosen])]
        shares = points.new_full(order.shape, 1 / size)
        state = client.path(points, labels, order, shares)[-1]
    return order, labels


def greedy(scores: Tensor, capacity: int) -> Tensor:
    """Assign each of n samples to one of k steps of equal capacity, best scores first.

    Parameters
    ----------
    scores : Tensor of shape (n, k)
        The higher the better.
    capacity : int
        Most samples of a step, at least n / k.

    Returns
    -------
    int64 Tensor of shape (n,)
        The step of each sample.
    """
    n, k = scores.shape
    chosen = torch.full((n,), -1, dtype=torch.int64, device=scores.device)
    room = [capacity] * k
    for flat in scores.flatten().argsort(descending=True).tolist():
        i, t = divmod(flat, k)
        if int(chosen[i]) < 0 and room[t] > 0:
            chosen[i] = t
            room[t] -= 1
    return chosen
