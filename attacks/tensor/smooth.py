"""Levenberg-Marquardt on the sample equation, many candidates at a time.

Candidates walk independently and are frozen as soon as they arrive, stall, or coincide with a
better one; the rest of the batch goes on in fewer and fewer matrix products.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.tensor.activation import Slope
from attacks.tensor.equation import SampleEquation
from attacks.tensor.gauss_newton import gauss_newton_step


@dataclass(frozen=True)
class Schedule:
    """How far to push a candidate.

    Attributes
    ----------
    iterations : int
        Most Gauss-Newton steps.
    arrived : float
        Residual phi at which a candidate is done.
    stalled : float
        Relative decrease of phi^2 per step that counts as no progress.
    patience : int
        Steps without progress before a candidate is given up.
    inner : int
        Most conjugate gradient iterations per step.
    precision : float
        Smallest relative residual asked of them; phi itself where that is larger, up to 0.1.
    meet : int
        Every how many steps candidates that have run into a better one are dropped.
    """

    iterations: int = 25
    arrived: float = 1e-6
    stalled: float = 2e-3
    patience: int = 4
    inner: int = 16
    precision: float = 1e-2
    meet: int = 3


def minimise(
    equation: SampleEquation,
    X: Tensor,
    slope: Slope,
    schedule: Schedule,
    rows: Tensor | None = None,
    chunk: int = 128,
) -> tuple[Tensor, Tensor]:
    """Drive candidates towards zeros of phi.

    Parameters
    ----------
    equation : SampleEquation
        Defines phi.
    X : Tensor of shape (N, k)
        Starting points in its search space.
    slope : callable
        The activation's derivatives, possibly smoothed.
    schedule : Schedule
        When to stop.
    rows : bool Tensor of shape (N, m), optional
        Rows each candidate's equation is restricted to; by default all.
    chunk : int, default 128
        Candidates per matrix product.

    Returns
    -------
    X : Tensor of shape (N, k)
        Where the candidates ended.
    phi : Tensor of shape (N,)
        Residual there.
    """
    counted = [None] * len(X) if rows is None else rows.split(chunk)
    ends = [
        _walk(equation, part, slope, schedule, count)
        for part, count in zip(X.split(chunk), counted, strict=False)
    ]
    return torch.cat([e[0] for e in ends]), torch.cat([e[1] for e in ends])


def _walk(
    equation: SampleEquation, start: Tensor, slope: Slope, schedule: Schedule, rows: Tensor | None
) -> tuple[Tensor, Tensor]:
    end = start.to(equation.dtype).clone()
    phi = end.new_ones(len(end))
    walking = torch.arange(len(end), device=end.device)
    trust = None if rows is None else equation.trusting(rows)
    here, state = end, equation.evaluate(end, slope, trust)
    damping = end.new_full((len(end),), 1e-2)
    idle = torch.zeros(len(end), dtype=torch.int64, device=end.device)
    for count in range(schedule.iterations):
        tolerance = state.phi.clamp(schedule.precision, 0.1)
        there = here + gauss_newton_step(equation, state, damping, schedule.inner, tolerance)
        ahead = equation.evaluate(there, slope, state.trust)
        better = ahead.phi < state.phi
        gain = 1 - (ahead.phi / state.phi.clamp_min(1e-30)) ** 2
        here = torch.where(better[:, None], there, here)
        state = state.replaced(ahead, better)
        damping = torch.where(better, damping * 0.2, damping * 6).clamp(1e-10, 1e8)
        idle = torch.where(better & (gain > schedule.stalled), 0, idle + 1)
        end[walking], phi[walking] = here, state.phi
        going = (state.phi > schedule.arrived) & (idle < schedule.patience) & (damping < 1e6)
        if count % schedule.meet == schedule.meet - 1:
            going &= alone(here, state.phi, 1e-4)
        if not bool(going.any()):
            break
        if not bool(going.all()):
            walking, here, damping, idle = (
                walking[going],
                here[going],
                damping[going],
                idle[going],
            )
            state = state.select(going)
    return end, phi


def alone(X: Tensor, phi: Tensor, tolerance: float) -> Tensor:
    """Mask of candidates with no better one at a cosine above 1 - tolerance.

    Parameters
    ----------
    X : Tensor of shape (N, k)
        Candidates.
    phi : Tensor of shape (N,)
        Their residuals; smaller is better.
    tolerance : float
        One minus the cosine up to which two of them are one.

    Returns
    -------
    bool Tensor of shape (N,)
    """
    order = torch.argsort(phi)
    unit = X[order] / X[order].norm(dim=1, keepdim=True).clamp_min(1e-30)
    near = (unit @ unit.T > 1 - tolerance).tril(-1)
    mask = torch.empty_like(order, dtype=torch.bool)
    mask[order] = ~near.any(1)
    return mask
