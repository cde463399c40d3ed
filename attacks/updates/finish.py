"""From approximate samples to exact ones: make the simulated update equal the observed one.

Smooth networks: Levenberg-Marquardt through the simulated client, with conjugate gradients inside;
the columns D of the first layer precondition it, since sample scales differ by decades. Kinked
networks: the gates say which columns belong to given samples, and the columns determine the
samples by least squares, robust against units with a wrong gate; repeat until nothing moves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import jvp, vjp

from attacks.updates.client import ReducedClient, Tensors

Map = Callable[[Tensor], Tensor]


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


def misfit(client: ReducedClient, observed: Tensors, guess: Hypothesis, points: Tensor) -> Tensor:
    """Simulated minus observed update, each parameter over its own norm, as one vector."""
    simulated = client.update(points, guess.labels, guess.order)
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
    iterations: int = 40,
    inner: int = 60,
) -> tuple[Tensor, float]:
    """Levenberg-Marquardt on the misfit, the bias coordinate ``points @ last == 1`` kept.

    Returns
    -------
    points : Tensor of shape (n, r)
    misfit : float
        Norm of the remaining misfit.
    """
    points = guess.points
    free = _free_directions(points.shape[1], last, points)
    damping, idle = 1e-3, 0

    def residual(x: Tensor) -> Tensor:
        return misfit(client, observed, guess, x)

    error, pull = linearised(residual, points)
    for _ in range(iterations):
        D = client.columns(points, guess.labels, guess.order)
        D = D / observed[f"{client.hidden}.weight"].norm()
        metric = D.T @ D
        metric = metric + 1e-9 * metric.diagonal().mean() * torch.eye(len(metric)).to(metric)
        factor = torch.linalg.cholesky(metric)

        def curvature(z: Tensor, points: Tensor = points, metric: Tensor = metric) -> Tensor:
            moved = jvp(residual, (points,), (z @ free.T,))[1]
            return pull(moved) @ free + damping * (metric @ z)  # noqa: B023

        step = _conjugate_gradients(curvature, -pull(error) @ free, factor, inner)
        ahead = points + step @ free.T
        error_ahead, pull_ahead = linearised(residual, ahead)
        if float(error_ahead.norm()) < float(error.norm()):
            idle = 0 if float(error_ahead.norm()) < 0.9 * float(error.norm()) else idle + 1
            points, error, pull = ahead, error_ahead, pull_ahead
            damping /= 6
        else:
            damping, idle = damping * 6, idle + 1
        if idle == 6 or float(error.norm()) < 1e-12:
            break
    return points, float(error.norm())


def linearised(function: Map, at: Tensor) -> tuple[Tensor, Map]:
    """Return a function's value and the product of its transposed Jacobian with a vector."""
    value, pull = vjp(function, at)[:2]
    return value, lambda vector: pull(vector)[0]


def fixed_point(
    client: ReducedClient,
    observed: Tensors,
    guess: Hypothesis,
    last: Tensor | None,
    iterations: int = 30,
) -> tuple[Tensor, float]:
    """Alternate between the gates of given samples and the samples of given gates.

    Returns as `gauss_newton`; the best iterate counts.
    """
    points = guess.points
    update = observed[f"{client.hidden}.weight"]
    best, least = points, float(misfit(client, observed, guess, points).norm())
    for _ in range(iterations):
        D = client.columns(points, guess.labels, guess.order)
        fresh = _robust_solution(D, update)
        if last is not None:
            scale = fresh @ last
            fresh = fresh / torch.where(scale.abs() < 1e-6, torch.ones_like(scale), scale)[:, None]
        if not bool(torch.isfinite(fresh).all()):
            break
        change = float((fresh - points).norm() / points.norm())
        points = fresh
        error = float(misfit(client, observed, guess, points).norm())
        if error < least:
            best, least = points, error
        if change < 1e-12:
            break
    return best, least


def _robust_solution(D: Tensor, update: Tensor, passes: int = 4) -> Tensor:
    """Solve D X = update for X, distrusting rows that fit badly (Cauchy weights)."""
    weights = torch.ones_like(D[:, :1])
    solution = torch.linalg.lstsq(D, update).solution
    for _ in range(passes):
        error = (D @ solution - update).norm(dim=1, keepdim=True)
        scale = 3 * error.median() + 1e-14 * update.norm()
        weights = 1 / (1 + (error / scale).square()).sqrt()
        solution = torch.linalg.lstsq(weights * D, weights * update).solution
    return solution


def _free_directions(width: int, last: Tensor | None, like: Tensor) -> Tensor:
    """Orthonormal basis (r, r - 1) of the directions that keep the bias coordinate."""
    if last is None:
        return torch.eye(width).to(like)
    return torch.linalg.qr(last[:, None], mode="complete").Q[:, 1:]


def _conjugate_gradients(
    matvec: Map, rhs: Tensor, factor: Tensor, iterations: int, tolerance: float = 1e-3
) -> Tensor:
    """Solve ``matvec(x) == rhs``, preconditioned by a Cholesky factor acting on the samples."""
    x, r = torch.zeros_like(rhs), rhs
    z = torch.cholesky_solve(r, factor)
    p, rz = z, (r * z).sum()
    goal = tolerance**2 * rz
    for _ in range(iterations):
        q = matvec(p)
        alpha = rz / (p * q).sum().clamp_min(1e-300)
        x, r = x + alpha * p, r - alpha * q
        z = torch.cholesky_solve(r, factor)
        fresh = (r * z).sum()
        if bool(fresh <= goal):
            break
        p, rz = z + fresh / rz.clamp_min(1e-300) * p, fresh
    return x
