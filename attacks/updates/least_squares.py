"""Nonlinear least squares without matrices: Levenberg-Marquardt, conjugate gradients inside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Scaling:
    """How strongly each unknown moves the residual: a positive definite matrix and its inverse.

    Attributes
    ----------
    apply, solve : callable
        Multiply a tensor of the unknowns' shape by the matrix, and by its inverse.
    """

    apply: Map
    solve: Map


def levenberg_marquardt(
    residual: Map,
    start: Tensor,
    scaling_of: Callable[[Tensor], Scaling],
    goal: float,
    iterations: int = 60,
    inner: int = 80,
) -> tuple[Tensor, float]:
    """Minimise the norm of a residual until it is below `goal` or no longer shrinks.

    Parameters
    ----------
    residual : callable
        Differentiable, from a tensor of the unknowns' shape to a vector.
    start : Tensor
        The unknowns to begin with, of any shape.
    scaling_of : callable
        The damping's metric at a point, which also preconditions the conjugate gradients.
    goal : float
        Norm that is good enough.
    iterations, inner : int, default 60 and 80
        Most steps, and most conjugate gradient iterations in each.

    Returns
    -------
    at : Tensor of the start's shape
        Where it ends; never worse than the start.
    error : float
        Norm of the residual there.
    """
    at, damping, idle = start, 1e-3, 0
    error, push, pull = linearised(residual, at)
    mark = float(error.norm())
    for count in range(iterations):
        size = float(error.norm())
        if idle == 6 or size < goal:
            break
        if count % 8 == 7:
            if size > 0.8 * mark:
                break
            mark = size
        scaling = scaling_of(at)

        def curvature(p: Tensor, A: Map = push, At: Map = pull, s: Scaling = scaling) -> Tensor:
            return At(A(p)) + damping * s.apply(p)  # noqa: B023

        step = conjugate_gradients(
            curvature, -pull(error), scaling.solve, inner, min(0.1, max(1e-3, size))
        )
        changed = linearised(residual, at + step)
        ahead = float(changed[0].norm())
        if ahead < size:
            idle = 0 if ahead < 0.9 * size else idle + 1
            at, (error, push, pull) = at + step, changed
            damping = max(damping / 6, 1e-10)
        else:
            damping, idle = damping * 6, idle + 1
    return at, float(error.norm())


def linearised(function: Map, at: Tensor) -> tuple[Tensor, Map, Map]:
    """Return a function's value, and the products of its Jacobian and of the transposed one.

    The transposed product is linear in its argument, so its own derivative is the Jacobian; both
    reuse one graph.

    Parameters
    ----------
    function : callable
        Differentiable, from a tensor to a vector (p,).
    at : Tensor
        Where to linearise; of any shape.

    Returns
    -------
    value : Tensor of shape (p,)
        Detached.
    push : callable
        From a tensor of the shape of `at` to the Jacobian's product with it, (p,).
    pull : callable
        From a vector (p,) to the transposed Jacobian's product with it, of the shape of `at`.
    """
    with torch.enable_grad():
        at = at.detach().requires_grad_(True)
        value = function(at)
        dual = torch.zeros_like(value, requires_grad=True)
        (transposed,) = torch.autograd.grad(value, at, dual, create_graph=True)

    def push(vector: Tensor) -> Tensor:
        return torch.autograd.grad(transposed, dual, vector, retain_graph=True)[0]

    def pull(vector: Tensor) -> Tensor:
        return torch.autograd.grad(value, at, vector, retain_graph=True)[0]

    return value.detach(), push, pull


def conjugate_gradients(
    matvec: Map, rhs: Tensor, precondition: Map, iterations: int, tolerance: float = 1e-3
) -> Tensor:
    """Solve ``matvec(x) == rhs`` for a positive definite matrix.

    Parameters
    ----------
    matvec : callable
        Product of the matrix with a tensor of the shape of `rhs`.
    rhs : Tensor
        Of any shape.
    precondition : callable
        Product with an approximate inverse, positive definite as well.
    iterations : int
        Most products.
    tolerance : float, default 1e-3
        Share of the right-hand side's norm, in the preconditioner's metric, that the residual may
        have at the end.

    Returns
    -------
    Tensor of the shape of `rhs`
    """
    x, r = torch.zeros_like(rhs), rhs
    z = precondition(r)
    p, rz = z, (r * z).sum()
    goal = tolerance**2 * rz
    for _ in range(iterations):
        q = matvec(p)
        alpha = rz / (p * q).sum().clamp_min(1e-300)
        x, r = x + alpha * p, r - alpha * q
        z = precondition(r)
        fresh = (r * z).sum()
        if bool(fresh <= goal):
            break
        p, rz = z + fresh / rz.clamp_min(1e-300) * p, fresh
    return x
