"""Pruned gradients: what was not sent is unknown, not zero.

A gradient of B samples has rank B, so a share of its entries determines the others. They are filled
in by alternating least squares on the part of the matrix where every row and column has enough
known entries; entries held out of the fit say which rank predicts best, and whether the completion
is to be believed at all. Afterwards only well-determined rows (hidden units) are handed to the
search: the sample equation holds for any subset of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

PRUNED = 0.02
"""Share of zeros, outside all-zero rows and columns, from which they count as left out."""

BELIEVED = 0.1
"""Relative error at held-out entries up to which a completion is believed."""

HELD_OUT = 0.05
"""Share of the known entries that judge a completion instead of making it."""
AMPLIFIED = 30.0
"""How much a row or column may amplify errors of its known entries and be called determined."""

FAINT = 1e-5
"""Relative size of a fit's singular values that are no sample's."""

RANKS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
"""Ranks tried first; those in between follow around the best."""


@dataclass(frozen=True)
class Completion:
    """A completed matrix.

    Attributes
    ----------
    matrix : Tensor of shape (m, k)
        Known entries of well-determined columns as they are, the others by the fit; zeros in rows
        without a fit.
    rows : bool Tensor of shape (m,)
        Rows the known entries determine well.
    columns : bool Tensor of shape (k,)
        Columns they determine well; the others are drawn towards zero.
    rank : int
        Of the fit.
    error : float
        Relative error at held-out entries.
    """

    matrix: Tensor
    rows: Tensor
    columns: Tensor
    rank: int
    error: float


def known_entries(matrix: Tensor) -> Tensor | None:
    """Mask of the entries that were sent, or None if nothing looks left out.

    All-zero rows (dead units) and columns (dead inputs) are no sign of pruning; where something
    else is, they may as well have been left out as a whole, and count as unknown too.
    """
    missing, alive = holes(matrix)
    return matrix != 0 if missing > PRUNED * alive else None


def holes(matrix: Tensor) -> tuple[int, int]:
    """Zeros in rows and columns that are not zero as a whole, and all entries there."""
    known = matrix != 0
    alive = int(known.any(1).sum()) * int(known.any(0).sum())
    return alive - int(known.sum()), alive


def complete(
    matrix: Tensor,
    known: Tensor,
    generator: torch.Generator,
    rank: int | None = None,
    sweeps: int = 60,
) -> Completion | None:
    """Complete a low-rank matrix.

    Parameters
    ----------
    matrix : Tensor of shape (m, k)
        Values where known.
    known : bool Tensor of shape (m, k)
        Which entries are.
    generator : torch.Generator
        Chooses the entries held out.
    rank : int, optional
        If it is known.
    sweeps : int, default 60
        Most sweeps of alternating least squares.

    Returns
    -------
    Completion or None
        None if no rank predicts held-out entries, or if they are predicted no better by the fit
        than the missing ones would be by zeros.
    """
    draw = torch.rand(known.shape, generator=generator).to(matrix.device)
    held = known & (draw < HELD_OUT)
    if rank is None:
        rank = choose_rank(matrix, known & ~held, held)
    if rank is None:
        return None
    rows, columns = core(known, rank)
    if int(rows.sum()) <= 2 * rank or int(columns.sum()) <= rank:
        return None
    part, mask, test = (t[rows][:, columns] for t in (matrix, known, held))
    V = _alternate(part, mask & ~test, rank, sweeps // 2)
    error = _error_at(part, mask & ~test, test, V)
    if not error <= BELIEVED:
        return None
    V = _alternate(part, mask, rank, sweeps, start=V)
    everything = spread(matrix, known, rows, columns, V)
    if everything is None:
        return None
    U, W, sure_rows, sure_columns = everything
    fit = U @ W.T
    values = torch.linalg.svdvals(fit[sure_rows][:, sure_columns])
    real = int((values > FAINT * values.max()).sum()) if values.numel() else rank
    if 0 < real < rank:  # one rank too many fits as well and leaves fewer rows determined
        return complete(matrix, known, generator, real, sweeps)
    gap = (~known) & sure_rows[:, None]
    typical = float(matrix[held].square().mean()) ** 0.5
    if not bool(gap.any()) or float(fit[gap].square().mean()) ** 0.5 < 3 * error * typical:
        return None
    filled = torch.where(known & sure_columns, matrix, fit)
    return Completion(filled, sure_rows, sure_columns, rank, error)


def core(known: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Largest set of rows and columns with at least ``1.5 rank + 2`` known entries in each.

    Parameters
    ----------
    known : bool Tensor of shape (m, k)
        Which entries are known.
    rank : int
        Of the fit they are to determine.

    Returns
    -------
    rows : bool Tensor of shape (m,)
    columns : bool Tensor of shape (k,)
        Both all False if there is no such set.
    """
    need = 1.5 * rank + 2
    rows, columns = known.any(1), known.any(0)
    while True:
        kept_rows = rows & (known[:, columns].sum(1) >= need)
        kept_columns = columns & (known[kept_rows].sum(0) >= need)
        if torch.equal(kept_rows, rows) and torch.equal(kept_columns, columns):
            return rows, columns
        rows, columns = kept_rows, kept_columns


def choose_rank(matrix: Tensor, known: Tensor, held: Tensor, most: int = 800) -> int | None:
    """Rank that predicts the held-out entries best, tried on the `most` best known rows.

    First on the grid `RANKS`, until the prediction has become worse twice, then in between.

    Parameters
    ----------
    matrix : Tensor of shape (m, k)
        Values where known or held out.
    known : bool Tensor of shape (m, k)
        Entries to fit.
    held : bool Tensor of shape (m, k)
        Entries held out of the fit, to be predicted.
    most : int, default 800
        Most rows looked at.

    Returns
    -------
    int or None
        None if it predicts them worse than `BELIEVED`.
    """
    chosen = known.sum(1).argsort(descending=True)[:most]
    matrix, known, held = matrix[chosen].float(), known[chosen], held[chosen]
    tried: dict[int, float] = {}

    def error(rank: int) -> float:
        if rank not in tried:
            tried[rank] = _prediction(matrix, known, held, rank)
        return tried[rank]

    worse = 0
    for rank in RANKS:
        least = min(tried.values(), default=torch.inf)
        worse = worse + 1 if error(rank) >= least else 0
        if worse == 2 or rank >= min(matrix.shape) // 2:
            break
    best = min(tried, key=error)
    low = max((r for r in tried if r < best), default=0)
    high = min((r for r in tried if r > best), default=best + 1)
    while high - low > 2:
        middle = (low + best) // 2 if best - low >= high - best else (best + high + 1) // 2
        if error(middle) < error(best):
            low, best, high = (low, middle, best) if middle < best else (best, middle, high)
        elif middle < best:
            low = middle
        else:
            high = middle
    # above the true rank predictions hardly get worse where most entries are known
    while best > 1 and error(best - 1) <= 3 * error(best):
        best -= 1
    return best if error(best) <= BELIEVED else None


def _prediction(matrix: Tensor, known: Tensor, held: Tensor, rank: int) -> float:
    rows, columns = core(known, rank)
    if int(rows.sum()) <= 2 * rank or int(columns.sum()) <= 2 * rank:
        return float("inf")
    part, mask, test = (t[rows][:, columns] for t in (matrix, known, held))
    return _error_at(part, mask, test, _alternate(part, mask, rank, 12))


def _error_at(matrix: Tensor, known: Tensor, test: Tensor, V: Tensor) -> float:
    fit = _coefficients(matrix, known, V) @ V.T
    size = float(matrix[test].norm())
    return float((fit - matrix)[test].norm()) / size if size > 0 else float("inf")


def _alternate(
    matrix: Tensor, known: Tensor, rank: int, sweeps: int, start: Tensor | None = None
) -> Tensor:
    """Orthonormal basis (k, rank) of the row space, by alternating least squares."""
    zeros = torch.where(known, matrix, 0)
    V = torch.linalg.svd(zeros, full_matrices=False)[2][:rank].T if start is None else start
    size, last = max(float(zeros.norm()), 1e-300), float("inf")
    tall, flat = known.T.contiguous(), matrix.T.contiguous()
    floor = 10 * torch.finfo(matrix.dtype).eps
    for _ in range(sweeps):
        U = torch.linalg.qr(_coefficients(matrix, known, V)).Q
        V = _coefficients(flat, tall, U)
        misfit = float(torch.where(known, U @ V.T - matrix, 0).norm()) / size
        V = torch.linalg.qr(V).Q
        if misfit < floor or misfit > 0.98 * last:
            break
        last = misfit
    return V


def _coefficients(matrix: Tensor, known: Tensor, V: Tensor, pull: float = 0.0) -> Tensor:
    """Least-squares coefficients (m, rank) of every row in V from its known entries.

    Unknown entries count as zeros of weight `pull`.
    """
    weights = torch.where(known, 1.0, pull).to(V.dtype)
    gram = _grams(weights, V)
    ridge = 1e-12 if V.dtype == torch.float64 else 1e-6
    gram = gram + ridge * torch.eye(V.shape[1]).to(V)
    right = torch.where(known, matrix, 0) @ V
    return torch.linalg.solve(gram, right[:, :, None])[:, :, 0]


def _grams(weights: Tensor, V: Tensor) -> Tensor:
    """Sum over columns a of weights[j, a] V[a] V[a]', shape (m, rank, rank)."""
    products = (V[:, :, None] * V[:, None, :]).reshape(len(V), -1)
    return (weights @ products).reshape(-1, V.shape[1], V.shape[1])


def spread(
    matrix: Tensor, known: Tensor, rows: Tensor, columns: Tensor, V: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """Factors of the whole matrix and which of its rows and columns are well determined.

    None if fewer rows than the rank are.

    Parameters
    ----------
    matrix : Tensor of shape (m, k)
        Values where known.
    known : bool Tensor of shape (m, k)
        Which entries are.
    rows, columns : bool Tensor of shape (m,) and (k,)
        The `core` the fit comes from, with c columns.
    V : Tensor of shape (c, rank)
        Orthonormal basis of the row space there.

    Returns
    -------
    U : Tensor of shape (m, rank)
        Zero in rows that are not well determined.
    W : Tensor of shape (k, rank)
        The fit is ``U @ W.T``.
    rows : bool Tensor of shape (m,)
        Well-determined rows, all of the core.
    columns : bool Tensor of shape (k,)
        Well-determined columns.
    """
    mask = known[:, columns]
    strength = torch.linalg.eigvalsh(_grams(mask.to(V.dtype), V))[:, 0].clamp_min(0)
    sure = rows & (strength >= 1 / AMPLIFIED**2)
    if int(sure.sum()) < V.shape[1]:
        return None
    U = torch.zeros(len(matrix), V.shape[1], dtype=V.dtype, device=V.device)
    U[sure] = _coefficients(matrix[sure][:, columns], mask[sure], V)
    basis, R = torch.linalg.qr(U[sure])
    below = known[sure].T
    W = _coefficients(matrix[sure].T, below, basis, pull=0.01)
    exact = _coefficients(matrix[sure].T, below, basis)
    strength = torch.linalg.eigvalsh(_grams(below.to(V.dtype), basis))[:, 0].clamp_min(0)
    certain = strength >= 1 / AMPLIFIED**2
    W = torch.where(certain[:, None], exact, W)
    return U, torch.linalg.solve_triangular(R, W.T, upper=True).T, sure, certain
