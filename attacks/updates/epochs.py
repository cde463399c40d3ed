"""Several epochs of mini-batches: the assignment of samples to steps, relaxed.

No step's parameters but the first are known then, and every sample is taken several times. In place
of an assignment each sample gets a share of every step; its shares of an epoch sum to one, and all
shares of a step to the batch size. Samples and shares together are fitted to the update, the shares
are rounded, and what came out in the wrong step changes places (`swaps`).
That needs a smooth activation: through hard gates an update says next to nothing about the shares,
so there the places are changed from random orders on.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.updates.client import ReducedClient, Tensors
from attacks.updates.finish import Hypothesis, column_metric, difference, free_directions
from attacks.updates.least_squares import Map, Scaling, levenberg_marquardt, linearised
from attacks.updates.membership import greedy


@dataclass(frozen=True)
class Schedule:
    """What several epochs look like.

    Attributes
    ----------
    epochs : int
    batches : int
        Steps of one epoch.
    size : int
        Samples of one step.
    """

    epochs: int
    batches: int
    size: int


def schedules(samples: int, steps: int) -> list[Schedule]:
    """All ways to spend a number of steps on several epochs of several equal batches.

    Parameters
    ----------
    samples : int
        Of one epoch.
    steps : int
        Of all epochs.

    Returns
    -------
    list of Schedule
        Fewest epochs first; empty if there is no such way.
    """
    return [
        Schedule(epochs, steps // epochs, samples * epochs // steps)
        for epochs in range(2, steps)
        if steps % epochs == 0 and samples % (steps // epochs) == 0 and steps // epochs > 1
    ]


def shuffled(schedule: Schedule, generator: torch.Generator) -> Tensor:
    """Draw a random order.

    Parameters
    ----------
    schedule : Schedule
        What the epochs look like.
    generator : torch.Generator
        Source of randomness, on the CPU.

    Returns
    -------
    int64 Tensor of shape (epochs * batches, size)
        On the CPU; each epoch takes every sample once.
    """
    samples = schedule.batches * schedule.size
    walks = [torch.randperm(samples, generator=generator) for _ in range(schedule.epochs)]
    return torch.cat(walks).reshape(-1, schedule.size)


def relaxed(
    client: ReducedClient,
    observed: Tensors,
    points: Tensor,
    labels: Tensor,
    schedule: Schedule,
    last: Tensor | None,
    goal: float,
    generator: torch.Generator,
    spread: float = 0.0,
) -> Hypothesis:
    """Fit samples and shares to an update, and round the shares.

    Parameters
    ----------
    client : ReducedClient
        Simulates the steps.
    observed : dict from parameter name to Tensor
        Sum of the steps' gradients, in the client's coordinates.
    points : Tensor of shape (n, r)
        Where to begin.
    labels : int Tensor of shape (n,)
        Their classes; kept.
    schedule : Schedule
        What the epochs look like.
    last : Tensor of shape (r,), optional
        Samples satisfy ``points @ last == 1``.
    goal : float
        Misfit that is good enough.
    generator : torch.Generator
        Source of randomness, on the CPU.
    spread : float, default 0.0
        Standard deviation of the shares to begin with; by default all begin equal.

    Returns
    -------
    Hypothesis
        With an order of shape (epochs * batches, size).
    """
    n, e, k = len(points), schedule.epochs, schedule.batches
    free = free_directions(points.shape[1], last, points)
    fixed = points - points @ free @ free.T
    steps = free_directions(k, points.new_ones(k), points)  # (k, k - 1), columns of sum zero
    people = free_directions(n, points.new_ones(n), points)
    order = torch.arange(n, device=points.device).repeat(e * k, 1)
    body = n * free.shape[1]

    def parts(v: Tensor) -> tuple[Tensor, Tensor]:
        spread = v[body:].reshape(e, k - 1, n - 1)
        shares = 1 / k + steps @ spread @ people.T
        return v[:body].reshape(n, -1) @ free.T + fixed, shares.reshape(e * k, n)

    def residual(v: Tensor) -> Tensor:
        x, shares = parts(v)
        update = client.weighted_update(x, labels, order, shares / schedule.size)
        return difference(update, observed)

    draws = torch.randn(e * (k - 1) * (n - 1), generator=generator, dtype=torch.float64)
    start = torch.cat([(points @ free).flatten(), spread * draws.to(points)])
    stiffness = _stiffness(residual, start, body, generator)

    def scaling(v: Tensor) -> Scaling:
        metric = e * column_metric(client, observed, Hypothesis(points, labels, order), parts(v)[0])
        factor = torch.linalg.cholesky(metric)

        def each(p: Tensor, act: bool) -> Tensor:
            top = p[:body].reshape(n, -1)
            top = metric @ top if act else torch.cholesky_solve(top, factor)
            return torch.cat([top.flatten(), p[body:] * (stiffness if act else 1 / stiffness)])

        return Scaling(lambda p: each(p, True), lambda r: each(r, False))

    v, _ = levenberg_marquardt(residual, start, scaling, goal)
    x, shares = parts(v)
    chosen = [greedy(part.T, schedule.size) for part in shares.reshape(e, k, n)]
    rows = [(c == t).nonzero()[:, 0] for c in chosen for t in range(k)]
    return Hypothesis(x.detach(), labels, torch.stack(rows))


def _stiffness(residual: Map, start: Tensor, body: int, generator: torch.Generator) -> float:
    """Mean squared change of the residual per unit of share, from one random direction."""
    direction = torch.zeros_like(start)
    draws = torch.randn(len(start) - body, generator=generator, dtype=torch.float64)
    direction[body:] = draws.to(start)
    moved = linearised(residual, start)[1](direction)
    return float(moved.square().sum() / direction.square().sum())
