"""Kinked activations: first the gates blurred, then the gates exactly.

Where s' jumps, phi is a step function of x and has no useful gradient. So the jumps are blurred to
a width that shrinks from stage to stage, and Levenberg-Marquardt follows. What remains wrong then
are the gates of a few units whose pre-activation lies near a kink. If s' takes finitely many
values these are found without x altogether: a column D_i = gate o (U delta) of the gradient's
column space is a null vector of [Q, -gate o U], computed robustly, and every row then says itself
which of the possible gate values fits it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from attacks.tensor.equation import SampleEquation, coordinates

OUTLIER = 6.0
"""Misfit, in medians, from which a row's gate is distrusted."""


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


def away_from_kinks(z: Tensor, kinks: Tensor, width: float) -> Tensor:
    """Mask of pre-activations further than `width` standard deviations from every kink.

    Parameters
    ----------
    z : Tensor of shape (..., m)
        Pre-activations; their standard deviation is that of the m units.
    kinks : Tensor of shape (k,)
        Where the activation's slope jumps; at least one place.
    width : float
        In standard deviations.

    Returns
    -------
    bool Tensor of shape (..., m)
    """
    near = (z[..., None] - kinks.to(z)).abs().amin(-1)
    return near > width * z.std(dim=-1, keepdim=True)


def fit_gates(
    equation: SampleEquation,
    gates: Tensor,
    trusted: Tensor,
    slopes: Tensor,
    iterations: int = 15,
    arrived: float = 1e-6,
    chunk: int = 64,
) -> GateFit:
    """Robust null vectors of [Q, -gate o U] with every row's gate reassigned as it goes.

    Parameters
    ----------
    equation : SampleEquation
        Holds Q and U.
    gates : Tensor of shape (N, m)
        Initial gates, most of them right.
    trusted : bool Tensor of shape (N, m)
        Rows to rely on at first.
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
        _fit(equation, g, t, slopes, iterations, arrived)
        for g, t in zip(gates.split(chunk), trusted.split(chunk), strict=True)
    ]
    return GateFit(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(GateFit)))


def _fit(
    equation: SampleEquation,
    gates: Tensor,
    trusted: Tensor,
    slopes: Tensor,
    iterations: int,
    arrived: float,
) -> GateFit:
    N, m = gates.shape
    unknowns = sum(equation.Q.shape) - m + len(equation.Ut)
    best = GateFit(
        gates.new_zeros(N, m),
        gates.new_zeros(N, len(equation.Ut)),
        gates.clone(),
        gates.new_ones(N),
    )
    unsettled = torch.arange(N, device=gates.device)
    for _ in range(iterations):
        trust = equation.trusting(trusted)
        state = equation.fit(gates, torch.zeros_like(gates), trust)
        column = coordinates(equation.Q, state.column, trust) @ equation.Q.T
        error = state.delta @ equation.Ut
        misfit, choice = (column[..., None] - error[..., None] * slopes).abs().min(-1)
        fresh = slopes[choice]
        fitted = fresh * error
        size = fitted.norm(dim=1).clamp_min(1e-300)
        phi = misfit.norm(dim=1) / size
        # a column with fewer entries than there are unknowns fits anything
        phi = torch.where((fresh != 0).sum(1) < 1.5 * unknowns, 1.0, phi)
        better = phi < best.phi[unsettled]
        rows = unsettled[better]
        best.columns[rows] = (fitted / size[:, None])[better]
        best.delta[rows] = (state.delta / size[:, None])[better]
        best.gates[rows], best.phi[rows] = fresh[better], phi[better]
        going = ~((phi < arrived) & (fresh == gates).all(1))
        if not bool(going.any()):
            break
        scale = OUTLIER * misfit.median(dim=1, keepdim=True).values
        scale = scale + 1e-9 * error.abs().mean(1, keepdim=True)
        trusted = (misfit <= scale)[going]
        unsettled, gates = unsettled[going], fresh[going]
    return best
