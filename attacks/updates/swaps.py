"""Corrections of an almost right order: two samples change places.

A relaxed assignment is rounded sample by sample, and a few come out in the wrong step of their
epoch. Each exchange of two samples between two steps is tried on the simulated client, with the
samples following for a few iterations; the best one is kept, as long as the simulated update comes
closer to the observed one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations

from torch import Tensor

from attacks.updates.client import ReducedClient, Tensors
from attacks.updates.finish import Hypothesis, approach

ITERATIONS = 3
"""Fixed-point iterations in which the samples follow a new order."""


def swapped(
    client: ReducedClient,
    observed: Tensors,
    guess: Hypothesis,
    last: Tensor | None,
    batches: int,
    goal: float,
    robust: bool = False,
) -> Hypothesis:
    """Exchange samples between the steps of an epoch while that helps.

    Parameters
    ----------
    client : ReducedClient
    observed : dict from parameter name to Tensor
    guess : Hypothesis
        With samples within a few per cent.
    last : Tensor of shape (r,), optional
        Samples satisfy ``points @ last == 1``.
    batches : int
        Steps of one epoch.
    goal : float
        Misfit that is good enough.
    robust : bool, default False
        Whether units may have wrong gates.

    Returns
    -------
    Hypothesis
        With the points that went with the last exchange.
    """

    def tried(order: Tensor, points: Tensor) -> tuple[float, Tensor, Tensor]:
        new = replace(guess, points=points, order=order)
        moved, error = approach(client, observed, new, points, last, robust, ITERATIONS)
        return error, order, moved

    best = tried(guess.order, guess.points)
    while best[0] > goal:
        _, order, points = best
        ahead = min((tried(o, points) for o in exchanges(order, batches)), key=lambda t: t[0])
        if not ahead[0] < best[0]:
            break
        best = ahead
    return replace(guess, order=best[1], points=best[2])


def exchanges(order: Tensor, batches: int) -> Iterator[Tensor]:
    """Yield all orders in which two samples have changed places, or two epochs.

    Samples do so in one epoch or in two: to first order in the learning rate an update does not
    tell the epochs apart, so that one exchange alone may seem to make it worse.

    Parameters
    ----------
    order : int Tensor of shape (k, b)
        Which samples each step takes; every epoch takes each of them once.
    batches : int
        Steps of one epoch; divides k.

    Yields
    ------
    int Tensor of shape (k, b)
    """
    steps, size = order.shape
    epochs = order.reshape(steps // batches, -1)
    for s, t in combinations(range(len(epochs)), 2):
        turned = epochs.clone()
        turned[s], turned[t] = epochs[t], epochs[s]
        yield turned.reshape(order.shape)
    place = epochs.argsort(1)  # where each sample is in each epoch
    step = place // size
    for i, j in combinations(range(epochs.shape[1]), 2):
        apart = (step[:, i] != step[:, j]).nonzero()[:, 0].tolist()
        for count in range(1, min(len(apart), 2) + 1):
            for chosen in combinations(apart, count):
                new = epochs.clone()
                for e in chosen:
                    new[e, place[e, i]], new[e, place[e, j]] = j, i
                yield new.reshape(order.shape)
