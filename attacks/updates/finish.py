"""From approximate samples to exact ones: make the simulated update equal the observed one.

Kinked networks: the gates say which columns belong to given samples, and the columns determine the
samples by least squares, robust against units with a wrong gate; repeat until nothing moves. Wrong
gates can hold each other in place, so a fixed point that does not explain the update is shaken.
Smooth networks: the same iteration comes closer at next to no cost, and Levenberg-Marquardt through
the simulated client ends it, with conjugate gradients inside; the columns D of the first layer
precondition it, since sample scales differ by decades.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.updates.client import ReducedClient, Tensors
from attacks.updates.least_squares import Scaling, levenberg_marquardt

SHAKES = (0.3, 3.0, 1.0, 10.0) * 4
"""Disturbances tried at a fixed point that explains too little, relative to its misfit."""

HOPELESS = 0.5
"""Misfit from which a fixed point is not worth it."""


@dataclass(frozen=True)
class Hypothesis:
    """Samples in the coordinates of the row space, with labels and the steps that take them.

    Attributes
    ----------
    points : Tensor of shape (n, r)
    labels : int Tensor of shape (n,)
    order : int Tensor of shape (k, b)
    """

    points: Tensor
    labels: Tensor
    order: Tensor

    def __len__(self) -> int:
        return len(self.points)

    @staticmethod
    def nothing(like: Tensor) -> Hypothesis:
        """Return a hypothesis without samples, with rows as long as those of `like`."""
        none = torch.zeros(0, dtype=torch.int64, device=like.device)
        return Hypothesis(like.new_zeros(0, like.shape[1]), none, none.reshape(0, 0))


def misfit(client: ReducedClient, observed: Tensors, guess: Hypothesis, points: Tensor) -> Tensor:
    """Simulated minus observed update, each parameter over its own norm, as one vector.

    Parameters
    ----------
    client : ReducedClient
        Simulates the steps.
    observed : dict from parameter name to Tensor
        Sum of the steps' gradients, in the client's coordinates.
    guess : Hypothesis
        Gives labels and order.
    points : Tensor of shape (n, r)
        Taken in place of its points.

    Returns
    -------
    Tensor of shape (p,)
        Differentiable in the points; p is the number of all parameters.
    """
    return difference(client.update(points, guess.labels, guess.order), observed)


def difference(simulated: Tensors, observed: Tensors) -> Tensor:
    """Difference of two updates, each parameter over the second's norm, as one vector.

    Parameters
    ----------
    simulated, observed : dict from parameter name to Tensor
        Of the same names and shapes.

    Returns
    -------
    Tensor of shape (p,)
        With p the number of all parameters.
    """
    return torch.cat(
        [
            ((simulated[name] - value) / value.norm().clamp_min(1e-300)).flatten()
            for name, value in observed.items()
        ]
    )


def gauss_newton(
    client: ReducedClient,
    observed: Tensors,
    guess: Hypothesis,
    last: Tensor | None,
    goal: float = 1e-12,
) -> tuple[Tensor, float]:
    """Levenberg-Marquardt on the misfit, the bias coordinate ``points @ last`` kept.

    Parameters
    ----------
    client, observed
        As for `misfit`.
    guess : Hypothesis
        Where to begin; its labels and order are kept.
    last : Tensor of shape (r,) or None
        Samples satisfy ``points @ last == 1``; None without a bias.
    goal : float, default 1e-12
        Misfit that is good enough.

    Returns
    -------
    points : Tensor of shape (n, r)
    misfit : float
        Norm of the remaining misfit.
    """
    free = free_directions(guess.points.shape[1], last, guess.points)
    fixed = guess.points - guess.points @ free @ free.T

    def residual(z: Tensor) -> Tensor:
        return misfit(client, observed, guess, z @ free.T + fixed)

    def scaling(z: Tensor) -> Scaling:
        metric = column_metric(client, observed, guess, z @ free.T + fixed)
        factor = torch.linalg.cholesky(metric)
        return Scaling(lambda p: metric @ p, lambda r: torch.cholesky_solve(r, factor))

    z, error = levenberg_marquardt(residual, guess.points @ free, scaling, goal)
    return z @ free.T + fixed, error


def column_metric(
    client: ReducedClient, observed: Tensors, guess: Hypothesis, points: Tensor
) -> Tensor:
    """Gram matrix of the samples' columns: how strongly each sample moves the update.

    Parameters
    ----------
    client, observed, guess, points
        As for `misfit`.

    Returns
    -------
    Tensor of shape (n, n)
        With a small ridge on the diagonal.
    """
    D = client.columns(points, guess.labels, guess.order)
    D = D / observed[f"{client.hidden}.weight"].norm()
    metric = D.T @ D
    return metric + 1e-9 * metric.diagonal().mean() * torch.eye(len(metric)).to(metric)


def fixed_point(
    client: ReducedClient,
    observed: Tensors,
    guess: Hypothesis,
    last: Tensor | None,
    goal: float = 0.0,
    generator: torch.Generator | None = None,
    robust: bool = True,
) -> tuple[Tensor, float]:
    """Alternate between the columns of given samples and the samples of given columns.

    Parameters
    ----------
    client, observed
        As for `misfit`.
    guess : Hypothesis
        Where to begin; its labels and order are kept.
    last
        As for `gauss_newton`.
    goal : float, default 0.0
        Misfit that is good enough; without a generator of no effect.
    generator : torch.Generator, optional
        If given, a fixed point whose misfit exceeds `goal`, but not `HOPELESS`, is left in random
        directions and approached again.
    robust : bool, default True
        Whether units may have wrong gates.

    Returns
    -------
    points : Tensor of shape (n, r)
        The best iterate.
    misfit : float
        Norm of its misfit.
    """
    best, least = approach(client, observed, guess, guess.points, last, robust)
    if generator is None:
        return best, least
    free = free_directions(best.shape[1], last, best)
    for size in SHAKES:
        if least <= goal or least > HOPELESS:
            break
        noise = torch.randn(len(best), free.shape[1], generator=generator, dtype=torch.float64)
        noise = noise.to(best) @ free.T
        size = min(size * least, 0.1)
        noise = noise * size * best.norm(dim=1, keepdim=True) / noise.norm(dim=1, keepdim=True)
        points, error = approach(client, observed, guess, best + noise, last, robust)
        if error < least:
            best, least = points, error
    return best, least


def approach(
    client: ReducedClient,
    observed: Tensors,
    guess: Hypothesis,
    points: Tensor,
    last: Tensor | None,
    robust: bool,
    iterations: int = 40,
    memory: int = 15,
) -> tuple[Tensor, float]:
    """Iterate towards a fixed point from one start, with Anderson acceleration.

    Parameters
    ----------
    client, observed
        As for `misfit`.
    guess : Hypothesis
        Gives labels and order.
    points : Tensor of shape (n, r)
        Where to begin.
    last
        As for `gauss_newton`.
    robust : bool
        Whether units may have wrong gates.
    iterations : int, default 40
        Most iterations.
    memory : int, default 15
        Past iterates that the acceleration combines with the current one.

    Returns
    -------
    points : Tensor of shape (n, r)
        The best iterate.
    misfit : float
        Norm of its misfit.
    """
    update = observed[f"{client.hidden}.weight"]
    best, least, stale = points, float(misfit(client, observed, guess, points).norm()), 0
    past: list[tuple[Tensor, Tensor]] = []
    for _ in range(iterations):
        D = client.columns(points, guess.labels, guess.order)
        fresh = _solution(D, update, passes=4 if robust else 0)
        if last is not None:
            scale = fresh @ last
            fresh = fresh / torch.where(scale.abs() < 1e-6, torch.ones_like(scale), scale)[:, None]
        if not bool(torch.isfinite(fresh).all()):
            break
        change = (fresh - points).flatten()
        past = [*past[-memory:], (points.flatten(), change)]
        points = _accelerated(past).reshape(points.shape)
        error = float(misfit(client, observed, guess, fresh).norm())
        stale = 0 if error < 0.9 * least else stale + 1
        if error < least:
            best, least = fresh, error
        if float(change.norm()) < 1e-11 * float(points.norm()) or stale == 10:
            break
    return best, least


def _accelerated(past: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Next iterate by Anderson's method: the combination of past iterates that moves least."""
    at, change = past[-1]
    if len(past) == 1:
        return at + change
    changes = torch.stack([c - change for _, c in past[:-1]], 1)
    places = torch.stack([p - at for p, _ in past[:-1]], 1)
    weights = torch.linalg.pinv(changes, rtol=1e-8) @ change
    return at + change - (places + changes) @ weights


def _solution(D: Tensor, update: Tensor, passes: int) -> Tensor:
    """Solve D X = update for X, distrusting rows that fit badly (Cauchy weights)."""
    solution = torch.linalg.pinv(D) @ update
    for _ in range(passes):
        error = (D @ solution - update).norm(dim=1, keepdim=True)
        scale = 3 * error.median() + 1e-14 * update.norm()
        weights = 1 / (1 + (error / scale).square()).sqrt()
        solution = torch.linalg.pinv(weights * D) @ (weights * update)
    return solution


def free_directions(width: int, last: Tensor | None, like: Tensor) -> Tensor:
    """Orthonormal basis of the directions that keep the bias coordinate.

    Parameters
    ----------
    width : int
        Number of coordinates r.
    last : Tensor of shape (r,) or None
        The bias coordinate of x is ``last @ x``; None without a bias.
    like : Tensor
        Gives dtype and device where `last` does not.

    Returns
    -------
    Tensor of shape (r, r - 1), or (r, r) without a bias
    """
    if last is None:
        return torch.eye(width).to(like)
    return torch.linalg.qr(last[:, None], mode="complete").Q[:, 1:]
