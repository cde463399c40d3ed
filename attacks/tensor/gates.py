"""Kinked activations: first the gates blurred, then the gates exactly.

Where s' jumps, phi is a step function of x and has no useful gradient. So the jumps are blurred to
a width that shrinks from stage to stage, and Levenberg-Marquardt follows. What remains wrong then
are the gates of a few units whose pre-activation lies near a kink. If s' takes finitely many
values these are found without x altogether: a column D_i = gate o (U delta) of the gradient's
column space is a null vector of [Q, -gate o U], computed robustly, and every row then says itself which
of the possible gate values fits it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.tensor.equation import generalised_eigh

CUT = 6.0


@dataclass(frozen=True)
class GateFit:
    """N fitted columns.

    Attributes
    ----------
    columns : Tensor of shape (N, m)
        gate o (U delta), of norm one.
    delta : Tensor of shape (N, K)
        Their error vectors.
    gates : Tensor of shape (N, m)
        One of the slopes per unit.
    phi : Tensor of shape (N,)
        Distance of each column from the column space; one for trivial patterns.
    """

    columns: Tensor
    delta: Tensor
    gates: Tensor
    phi: Tensor


def distrust_near_kinks(z: Tensor, kinks: Tensor, width: float = 0.1) -> Tensor:
    """Weights in [0, 1] for pre-activations: small within `width` standard deviations of a kink."""
    near = (z[..., None] - kinks.to(z)).abs().amin(-1)
    return (near > width * z.std()).to(z)


def fit_gates(
    Q: Tensor,
    U: Tensor,
    gates: Tensor,
    weights: Tensor,
    slopes: Tensor,
    iterations: int = 15,
    arrived: float = 1e-6,
    chunk: int = 64,
) -> GateFit:
    """Robust null vectors of [Q, -gate o U] with every row's gate reassigned as it goes.

    Parameters
    ----------
    Q : Tensor of shape (m, B)
        Orthonormal basis of the gradient's column space.
    U : Tensor of shape (m, K)
        Orthonormal basis of the second layer's transposed weight in the delta space.
    gates : Tensor of shape (N, m)
        Initial gates, most of them right.
    weights : Tensor of shape (N, m)
        Initial trust in each row.
    slopes : Tensor of shape (v,)
        Values a gate can take.
    iterations : int, default 15
        Most reassignments.
    arrived : float, default 1e-6
        Residual at which a stable pattern counts as found.
    chunk : int, default 64
        Patterns per matrix product.

    Returns
    -------
    GateFit
        Of the N patterns.
    """
    parts = [
        _fit(Q, U, g, w, slopes, iterations, arrived)
        for g, w in zip(gates.split(chunk), weights.split(chunk), strict=True)
    ]
    names = ("columns", "delta", "gates", "phi")
    return GateFit(*(torch.cat([getattr(p, n) for p in parts]) for n in names))


def _fit(
    Q: Tensor,
    U: Tensor,
    gates: Tensor,
    weights: Tensor,
    slopes: Tensor,
    iterations: int,
    arrived: float,
) -> GateFit:
    N, m = gates.shape
    best = GateFit(
        gates.new_zeros(N, m), gates.new_zeros(N, U.shape[1]), gates.clone(), gates.new_ones(N)
    )
    open_ = torch.arange(N, device=gates.device)
    for _ in range(iterations):
        q, delta = weighted_null_vectors(Q, U, gates, weights)
        column, error = q @ Q.T, delta @ U.T
        misfit = (column[..., None] - error[..., None] * slopes).abs()  # (N, m, v)
        misfit, choice = misfit.min(-1)
        fresh = slopes[choice]
        fitted = fresh * error
        size = fitted.norm(dim=1).clamp_min(1e-300)
        phi = misfit.norm(dim=1) / size
        phi = torch.where(_trivial(fresh, slopes), 1.0, phi)
        better = phi < best.phi[open_]
        rows = open_[better]
        best.columns[rows] = (fitted / size[:, None])[better]
        best.delta[rows] = (delta / size[:, None])[better]
        best.gates[rows], best.phi[rows] = fresh[better], phi[better]
        going = ~((phi < arrived) & (fresh == gates).all(1))
        if not bool(going.any()):
            break
        scale = CUT * misfit.median(dim=1, keepdim=True).values + 1e-9 * error.abs().mean(
            1, keepdim=True
        )
        weights = (misfit <= scale).to(misfit)[going]
        open_, gates = open_[going], fresh[going]
    return best


def _trivial(gates: Tensor, slopes: Tensor) -> Tensor:
    """Patterns that use one slope almost only: null vectors of no interest."""
    share = torch.stack([(gates == v).double().mean(1) for v in slopes])
    return share.max(0).values > 0.98


def weighted_null_vectors(
    Q: Tensor, U: Tensor, gates: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Minimise sum_j w_j (Q_j q - gate_j U_j delta)^2 / sum_j w_j (gate_j U_j delta)^2.

    q is eliminated by its normal equations, which leaves a K x K eigenvalue problem.

    Returns
    -------
    q : Tensor of shape (N, B)
    delta : Tensor of shape (N, K)
    """
    N, B = len(gates), Q.shape[1]
    QQ = torch.eye(B, dtype=Q.dtype, device=Q.device).repeat(N, 1, 1)
    for i in range(N):  # Q is orthonormal, so only what the distrusted rows lack has to be taken off
        doubted = torch.nonzero(weights[i] < 1)[:, 0]
        rows = Q[doubted]
        QQ[i] -= rows.T @ ((1 - weights[i][doubted])[:, None] * rows)
    features = gates[:, None, :] * U.T  # (N, K, m)
    weighted = weights[:, None, :] * features
    QF = (weighted @ Q).transpose(1, 2)  # (N, B, K)
    FF = weighted @ features.transpose(1, 2)
    eye = torch.eye(B, dtype=Q.dtype, device=Q.device)
    L = torch.linalg.cholesky_ex(QQ + 1e-12 * eye)[0]
    coefficient = torch.cholesky_solve(QF, L)
    _, vectors = generalised_eigh(FF - QF.transpose(1, 2) @ coefficient, FF)
    delta = vectors[:, :, 0]
    return torch.einsum("nbk,nk->nb", coefficient, delta), delta
