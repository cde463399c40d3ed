"""CP decomposition of a small symmetric tensor by joint diagonalisation of its contractions.

Contracting T = sum_i c_i v_i (x) v_i (x) v_i with a vector u gives V diag(c_i v_i.u) V': one V
diagonalises all such matrices at once (Kuleshov, Chaganty and Liang 2015). A first pass uses random
u; a second uses the vectors the first one found, which concentrates the signal of one component in
each matrix. The joint diagonaliser is that of Ziehe, Laskov, Nolte and Müller (2004): no
orthogonality is assumed.
"""

from __future__ import annotations

import torch
from torch import Tensor

STEP = 0.9
"""Largest norm of one relative change of the diagonaliser, which keeps it invertible."""


def joint_diagonaliser(
    C: Tensor, start: Tensor | None = None, iterations: int = 200, tolerance: float = 1e-10
) -> Tensor:
    """An invertible U that makes every U C_l U' as diagonal as it can be (FFDIAG).

    Each step multiplies U by I + E with the E that, to first order, cancels the off-diagonal
    entries in least squares: for each pair (i, j) a 2 x 2 system in the diagonals of all C_l.

    Parameters
    ----------
    C : Tensor of shape (L, n, n)
        Symmetric matrices.
    start : Tensor of shape (n, n), optional
        Where to begin; by default the identity.
    iterations : int, default 200
        Most steps.
    tolerance : float, default 1e-10
        Size of a step that counts as none.

    Returns
    -------
    Tensor of shape (n, n)
        U, with rows of unit length.
    """
    n = C.shape[-1]
    identity = torch.eye(n, dtype=C.dtype, device=C.device)
    U = identity if start is None else start
    for _ in range(iterations):
        U = U / U.norm(dim=1, keepdim=True)
        D = U @ C @ U.T
        diagonal = D.diagonal(dim1=1, dim2=2)  # (L, n)
        z = diagonal.T @ diagonal
        y = torch.einsum("lj,lij->ij", diagonal, D)
        zi, zj = z.diagonal()[:, None], z.diagonal()[None, :]
        pivot = (zi * zj - z * z).clamp_min(1e-12 * (zi * zj).clamp_min(1e-300))
        E = (z * y.T - zi * y) / pivot
        E = E - torch.diag(E.diagonal())
        size = float(E.norm())
        U = U + (E @ U) * min(1.0, STEP / max(size, 1e-300))
        if size < tolerance:
            break
    return U / U.norm(dim=1, keepdim=True)


def symmetric_cp(
    T: Tensor, rank: int, projections: int, generator: torch.Generator, restarts: int = 4
) -> tuple[Tensor, Tensor]:
    """Factors of T = sum_i weights_i v_i (x) v_i (x) v_i.

    Parameters
    ----------
    T : Tensor of shape (n, n, n)
        Symmetric, of rank at most n.
    rank : int
        Number of components wanted, at most n.
    projections : int
        Random contractions in the first pass.
    generator : torch.Generator
        Source of randomness, on the CPU.
    restarts : int, default 4
        Starting points of the joint diagonaliser, at least 1; the one that explains T best wins.

    Returns
    -------
    vectors : Tensor of shape (n, rank)
        Unit columns, by decreasing absolute weight; the signs are arbitrary.
    weights : Tensor of shape (rank,)
        By linear least squares.

    Raises
    ------
    ValueError
        If the rank is not between 1 and n, or T is not finite.
    """
    n = T.shape[0]
    if not 1 <= rank <= n:
        raise ValueError(f"rank={rank} is not between 1 and the tensor's side {n}.")
    if not bool(torch.isfinite(T).all()):
        raise ValueError("The tensor to decompose has entries that are not finite.")
    draws = torch.randn(projections + restarts, n, generator=generator, dtype=torch.float64)
    draws = (draws / draws.norm(dim=1, keepdim=True)).to(T)
    C = torch.einsum("abc,lc->lab", T, draws)
    starts = [None, *(torch.linalg.eigh(c)[1].T for c in C[projections + 1 :])]
    attempts = [_two_passes(T, C[:projections], start) for start in starts]
    best = min(attempts, key=lambda v: float((T - rebuild(v, cubic_weights(T, v))).norm()))
    strongest = cubic_weights(T, best).abs().argsort(descending=True)[:rank]
    vectors = best[:, strongest]
    return vectors, cubic_weights(T, vectors)


def _two_passes(T: Tensor, C: Tensor, start: Tensor | None) -> Tensor:
    """Unit columns (n, n) from random contractions C, then from contractions with those columns."""
    vectors = _columns(joint_diagonaliser(C, start))
    plugged = torch.einsum("abc,cl->lab", T, vectors)
    return _columns(joint_diagonaliser(plugged, torch.linalg.pinv(vectors)))


def _columns(U: Tensor) -> Tensor:
    """Unit columns of the inverse of a diagonaliser."""
    V = torch.linalg.pinv(U)
    return V / V.norm(dim=0).clamp_min(1e-300)


def cubic_weights(T: Tensor, vectors: Tensor) -> Tensor:
    """Weights of given factors: (V'V)^3 weights = T(v_i, v_i, v_i), cubed entrywise.

    Parameters
    ----------
    T : Tensor of shape (n, n, n)
        Symmetric.
    vectors : Tensor of shape (n, r)
        One factor per column.

    Returns
    -------
    Tensor of shape (r,)
        By linear least squares.
    """
    gram = (vectors.T @ vectors) ** 3
    values = torch.einsum("abc,ai,bi,ci->i", T, vectors, vectors, vectors)
    return torch.linalg.pinv(gram, hermitian=True) @ values


def rebuild(vectors: Tensor, weights: Tensor) -> Tensor:
    """sum_i weights_i v_i (x) v_i (x) v_i, of shape (n, n, n).

    Parameters
    ----------
    vectors : Tensor of shape (n, r)
        One factor v_i per column.
    weights : Tensor of shape (r,)
        Of the factors.

    Returns
    -------
    Tensor of shape (n, n, n)
        Symmetric.
    """
    return torch.einsum("i,ai,bi,ci->abc", weights, vectors, vectors, vectors)
