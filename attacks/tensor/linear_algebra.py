"""Linear algebra for many small problems at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

FEWER = 0.75
"""Share of the systems still open below which those that are solved are left behind."""


def conjugate_gradients(
    matvec: Callable[[Tensor], Tensor],
    rhs: Tensor,
    iterations: int,
    tolerance: Tensor,
    select: Callable[[Tensor], Callable[[Tensor], Tensor]] | None = None,
) -> Tensor:
    """Solve N symmetric positive definite systems at once.

    Parameters
    ----------
    matvec : callable
        Applies system i to row i of an (N, n) tensor.
    rhs : Tensor of shape (N, n)
        Right-hand sides.
    iterations : int
        Most iterations.
    tolerance : Tensor of shape (N,)
        A system is solved when its residual is below this fraction of its right-hand side.
    select : callable, optional
        `matvec` for some of the systems, given by their numbers; with it, systems that are solved
        are left behind by those that are not. Otherwise all go on until the last one is solved.

    Returns
    -------
    Tensor of shape (N, n)
        Approximate solutions.
    """
    solution = torch.zeros_like(rhs)
    rows = torch.arange(len(rhs), device=rhs.device)
    x, r, p = solution, rhs, rhs
    rr = (r * r).sum(1, keepdim=True)
    goal = tolerance[:, None] ** 2 * rr
    for _ in range(iterations):
        q = matvec(p)
        alpha = rr / (p * q).sum(1, keepdim=True).clamp_min(1e-37)
        x = x + alpha * p
        r = r - alpha * q
        fresh = (r * r).sum(1, keepdim=True)
        p = r + fresh / rr.clamp_min(1e-37) * p
        rr = fresh
        left = (fresh > goal)[:, 0]
        count = int(left.sum())
        if not count:
            break
        if select and count < FEWER * len(left):
            solution[rows] = x
            rows = rows[left]
            matvec = select(rows)
            x, r, p, rr, goal = x[left], r[left], p[left], rr[left], goal[left]
    solution[rows] = x
    return solution


def complement(direction: Tensor) -> Tensor:
    """Orthonormal basis (k, k - 1) of everything perpendicular to a vector of length k."""
    return torch.linalg.qr(direction[:, None], mode="complete").Q[:, 1:]


def gram(rows: Tensor) -> Tensor:
    """Inner products (N, K, K) in float64 of rows (N, K, m)."""
    rows = rows.double()
    return rows @ rows.transpose(1, 2)


def generalised_eigh(M: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """Solve M v = value C v for stacks of symmetric matrices; C-orthonormal vectors, ascending.

    C is regularised relative to its trace; stacks that cannot be factorised (candidates whose
    columns vanish or overflow) come back with value one.

    Parameters
    ----------
    M : Tensor of shape (N, K, K)
        Symmetric and positive semidefinite.
    C : Tensor of shape (N, K, K)
        Symmetric and positive semidefinite.

    Returns
    -------
    values : Tensor of shape (N, K)
        Not negative.
    vectors : Tensor of shape (N, K, K)
        In columns.
    """
    K = C.shape[-1]
    eye = torch.eye(K, dtype=C.dtype, device=C.device)
    broken = ~(torch.isfinite(M).all((1, 2)) & torch.isfinite(C).all((1, 2)))
    C = torch.where(broken[:, None, None], eye, C)
    M = torch.where(broken[:, None, None], eye, M)
    size = C.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    L = torch.linalg.cholesky_ex(C + eye * (1e-10 * size + 1e-200))[0]
    half = torch.linalg.solve_triangular(L, M, upper=False)
    whitened = torch.linalg.solve_triangular(L, half.transpose(1, 2), upper=False)
    whitened = (whitened + whitened.transpose(1, 2)) / 2
    failed = ~torch.isfinite(whitened).all((1, 2))
    whitened = torch.where(failed[:, None, None], eye, whitened)
    values, vectors = torch.linalg.eigh(whitened)
    vectors = torch.linalg.solve_triangular(L.transpose(1, 2), vectors, upper=True)
    return values.clamp_min(0), vectors
