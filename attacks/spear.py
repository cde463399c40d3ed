"""`SpearAttack`: columns of the gradient's factor by their zeros.

SPEAR (Dimitrov, Baader, Müller, Vechev 2024, arXiv 2403.03945). A ReLU layer's gradient is
dL/dW = D X' with D (m, B) about half zeros. From L R = dL/dW of rank B one has D = L Q for an
unknown invertible Q. B - 1 rows of L whose units are all silent for sample i determine column i of
Q: it is the only direction they annihilate. Such rows are drawn at random; a direction is right if
it annihilates far more rows than were drawn. About 2^(B-1) draws per column, so B stays below
about 20.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.base import Attack, Problem, Reconstruction
from attacks.relu import read_gated
from attacks.settings import count

COARSE = 1e-3
FINE = 1e-5


class SpearAttack(Attack):
    """Exact reconstruction behind a ReLU layer by drawing rows of silent units.

    Needs no labels and no batch size; all columns or nothing.

    Parameters
    ----------
    draws : int, default 20_000_000
        Most draws of B - 1 rows.
    chunk : int, default 4096
        Draws judged at a time.
    """

    def __init__(self, draws: int = 20_000_000, chunk: int = 4096) -> None:
        self.draws = count("draws", draws)
        self.chunk = count("chunk", chunk)

    def reconstruct(self, problem: Problem) -> Reconstruction:
        """Reconstruct the batch; see `Attack.run`."""
        read = read_gated(problem)
        if read.reason:
            return read.empty(read.reason)
        L, B = read.space.Q, read.space.rank
        live = L.norm(dim=1) > COARSE * len(L) ** -0.5  # units silent for all tell nothing
        L, U = L[live], read.space.U[live]
        found = L.new_ones(1, 1) if B == 1 else L.new_zeros(0, B)  # one sample: nothing to unmix
        drawn, interrupted = 0, False
        try:
            while len(found) < B and drawn < self.draws:
                found = self._more(L, U, found, problem.generator)[:B]
                drawn += self.chunk
        except KeyboardInterrupt:
            interrupted = True
        info = {"draws": drawn, "directions": len(found), "interrupted": interrupted}
        if len(found) < B:
            return read.empty(f"{len(found)} of {B} columns after {drawn} draws", **info)
        # X~ = Q^-1 diag(S) V', scaled so that the bias' coordinate is 1
        assert read.space.last is not None
        points = torch.linalg.inv(found.T) * read.space.S
        points = points / (points @ read.space.last)[:, None]
        return read.finished(found @ read.space.Q.T, points, **info)

    def _more(self, L: Tensor, U: Tensor, found: Tensor, generator: torch.Generator) -> Tensor:
        for direction in promising(L, self.chunk, generator):
            refined = refine(L, direction)
            if refined is None or is_among(found, refined):
                continue
            if belongs_to_one_sample(L @ refined, U):
                found = torch.cat([found, refined[None]])
        return found


def promising(L: Tensor, chunk: int, generator: torch.Generator) -> Tensor:
    """Directions that annihilate more rows of L than they were drawn to.

    Parameters
    ----------
    L : Tensor of shape (m, B)
        Orthonormal basis of the gradient's column space, less the rows of silent units.
    chunk : int
        Number of draws.
    generator : torch.Generator
        Source of the draws.

    Returns
    -------
    Tensor of shape (n, B)
        Unit vectors.
    """
    m, B = L.shape
    rows = torch.randint(m, (chunk, B - 1), generator=generator, device=generator.device)
    any_row = torch.randn(chunk, 1, B, generator=generator, device=generator.device).to(L)
    drawn = torch.cat([L[rows.to(L.device)], any_row], 1)
    goal = L.new_zeros(chunk, B, 1)
    goal[:, -1] = 1
    q = torch.linalg.solve_ex(drawn, goal).result[:, :, 0]
    q = torch.nan_to_num(q / q.norm(dim=1, keepdim=True))
    zeros = ((q @ L.T).abs() < COARSE * m**-0.5).sum(1)
    return q[(zeros >= B - 1 + margin(m)) & (q.norm(dim=1) > 0.5)]


def refine(L: Tensor, direction: Tensor) -> Tensor | None:
    """Fit a direction to all rows it annihilates, or None if it is not one sample's.

    Two samples' silent units leave a plane of directions, which one more drawn row turns into a
    line. So no single row may be what makes the direction unique: the leverage of every row, its
    squared norm in an orthonormal basis of the rows' span, has to stay below one.

    Parameters
    ----------
    L : Tensor of shape (m, B)
    direction : Tensor of shape (B,)

    Returns
    -------
    Tensor of shape (B,), or None
        Of norm one.
    """
    m, B = L.shape
    for tolerance in (COARSE, COARSE / 10, FINE):
        silent = (L @ direction).abs() < tolerance * m**-0.5
        if int(silent.sum()) < B - 1 + margin(m):
            return None
        U, S, Vh = torch.linalg.svd(L[silent], full_matrices=False)
        if B > 1 and S[B - 2] < COARSE * S[0]:
            return None
        if B > 1 and float(U[:, : B - 1].square().sum(1).max()) > 1 - COARSE:
            return None
        direction = Vh[-1]
    return direction


def belongs_to_one_sample(column: Tensor, U: Tensor) -> bool:
    """Whether a column's non-zero entries are those of U delta for one delta.

    Back-propagation makes D_ji = a_j . delta_i wherever unit j is active; mixtures of samples that
    annihilate many rows by coincidence break this. (Not in the paper, which ranks directions by
    the number of zeros.)

    Parameters
    ----------
    column : Tensor of shape (m,)
    U : Tensor of shape (m, K)
        Basis of what the second layer's errors cause in the units.

    Returns
    -------
    bool
    """
    active = column.abs() > COARSE * len(column) ** -0.5
    if int(active.sum()) <= U.shape[1]:
        return True
    basis = torch.linalg.qr(U[active]).Q
    seen = column[active]
    return float((seen - basis @ (basis.T @ seen)).norm() / seen.norm()) < COARSE


def margin(m: int) -> int:
    """How many rows beyond the drawn ones a direction has to annihilate to be believed."""
    return max(4, m // 20)


def is_among(found: Tensor, direction: Tensor) -> bool:
    """Whether a unit vector is one of those found, up to sign.

    Parameters
    ----------
    found : Tensor of shape (n, B)
        Unit vectors.
    direction : Tensor of shape (B,)
        Of norm one.

    Returns
    -------
    bool
    """
    return bool(len(found)) and float((found @ direction).abs().max()) > 1 - 1e-6
