"""Each sample to its last digit, and how far noise can have moved it.

Conjugate gradients stop where the equation is ill-conditioned: in directions in which a sample and
its near-copy, or an input and its error vector, can hardly be told apart. Once the samples are
found there are few enough of them for the normal equations to be factorised. Newton's step then
reaches those directions too, and the same factor gives the standard error of the result: rounding
noise of known size, divided by how much the weakest direction moves the residual. A factor serves
for further steps as long as these are short.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.tensor.equation import SampleEquation, State

STEPS = 8
CLEARLY = 4.0
"""Part of J'J that counts is what exceeds so many times the part that noise in Q can feign."""
SIGNIFICANT = 0.1
"""Decrease of phi^2, in units of what fitting the noise brings, from which a step is taken."""
NEAR, SIMILAR = 1e-3, 2.0
"""Relative length of a step, and factor it takes off phi, up to which J'J stays what it was."""
TOGETHER = 64
"""Samples at a time: so many factors are kept."""


@dataclass(frozen=True)
class Sharpened:
    """Where Newton's method ended.

    Attributes
    ----------
    points : Tensor of shape (n, k)
        The samples.
    state : State
        There.
    error : Tensor of shape (n,)
        Standard error of a sample, plus the length of the step that was not worth taking, in the
        points' unit; infinite where a direction is free.
    """

    points: Tensor
    state: State
    error: Tensor


def sharpen(
    equation: SampleEquation,
    points: Tensor,
    evaluate: Callable[[Tensor], State],
    noise: Callable[[State], Tensor],
    turned: Tensor,
    steps: int = STEPS,
) -> Sharpened:
    """Newton's method for every sample, by factorised normal equations.

    Parameters
    ----------
    equation : SampleEquation
        Over the gradient's whole row space, of an activation that is not piecewise linear.
    points : Tensor of shape (n, k)
        Where to begin.
    evaluate : callable
        The state at points.
    noise : callable
        Residual phi (n,) that noise is expected to cause at a state.
    turned : Tensor of shape (B,)
        Angles by which noise is expected to turn the columns of the equation's Q. A residual larger
        than expected tells that they are turned further, or that the errors do not lie in their
        space; it enlarges the angles in proportion.
    steps : int, default 8
        Most steps; with zero only the standard errors are found.

    Returns
    -------
    Sharpened
        At residuals no larger than where it began.
    """
    parts = [
        _sharpen_together(equation, part, evaluate, noise, turned, steps)
        for part in points.split(TOGETHER)
    ]
    return Sharpened(
        torch.cat([part.points for part in parts]),
        State.joined([part.state for part in parts]),
        torch.cat([part.error for part in parts]),
    )


def _sharpen_together(
    equation: SampleEquation,
    points: Tensor,
    evaluate: Callable[[Tensor], State],
    noise: Callable[[State], Tensor],
    turned: Tensor,
    steps: int,
) -> Sharpened:
    points, state = points.clone(), evaluate(points)
    error = torch.full_like(state.phi, torch.inf)
    working = torch.arange(len(points), device=points.device)
    factors: dict[int, Factor] = {}
    for count in range(steps + 1):
        here = state.select(working)
        expected = noise(here)
        angles = (here.phi / expected).clamp_min(1.0)[:, None] * turned  # as large as it shows
        step, amplification, gain = _newton(equation, here, angles, working.tolist(), factors)
        fit = (here.phi.square() - gain).clamp_min(0).sqrt()
        spread = torch.maximum(fit, expected) / equations_left(equation) ** 0.5
        error[working] = spread * amplification + step.norm(dim=1)
        fitted = equation.Wn.shape[1] * spread.square()
        going = gain > SIGNIFICANT * fitted
        if count == steps or not bool(going.any()):
            break
        working, step = working[going], step[going]
        moved = _shorten(evaluate, points[working], step, state.phi[working])
        better = moved[1].phi < state.phi[working]
        working = working[better]
        if not len(working):
            break
        far = (moved[0][better] - points[working]).norm(dim=1) > NEAR * points[working].norm(dim=1)
        worth = moved[1].phi[better] * SIMILAR < state.phi[working]
        for i in working[far | worth].tolist():
            factors.pop(i)
        points[working] = moved[0][better]
        state = _put(state, moved[1].select(better), working)
    return Sharpened(points, state, error)


@dataclass(frozen=True)
class Factor:
    """What Newton's method needs of J'J at one sample, and near it.

    Attributes
    ----------
    cholesky : Tensor of shape (n, n), optional
        None where J'J is not positive definite.
    amplification : Tensor of shape ()
        Root of the trace of the inverse; infinite where a direction is free.
    """

    cholesky: Tensor | None
    amplification: Tensor


def _newton(
    equation: SampleEquation,
    state: State,
    angles: Tensor,
    names: list[int],
    factors: dict[int, Factor],
) -> tuple[Tensor, Tensor, Tensor]:
    """(step, root of the trace of the inverse of J'J, predicted decrease of phi^2) per sample."""
    n, k = len(state.phi), equation.Wn.shape[1]
    step = equation.Wn.new_zeros(n, k)
    amplification, gain = equation.Wn.new_zeros(n), equation.Wn.new_zeros(n)
    slopes = equation.slopes(state)
    for i, name in enumerate(names if k else []):
        if name not in factors:
            factors[name] = _factorised(*equation.normal_equations(state, i, angles[i]))
        factor = factors[name]
        amplification[i] = factor.amplification
        if factor.cholesky is not None:
            step[i] = -torch.cholesky_solve(slopes[i][:, None], factor.cholesky)[:, 0]
            gain[i] = -slopes[i] @ step[i]
    return step @ equation.directions.T, amplification, gain


def _factorised(H: Tensor, seeming: Tensor) -> Factor:
    """Factors of J'J.

    For the trace, J'J counts as far as it is clearly more than what noise in Q makes of nothing:
    between two samples much alike lies a point whose column moves along Q, to first order.
    """
    free = H.new_tensor(torch.inf)
    factor, failed = torch.linalg.cholesky_ex(H)
    if int(failed) or not bool(torch.isfinite(H).all()):
        return Factor(None, free)
    clear, failed = torch.linalg.cholesky_ex(H - CLEARLY * seeming)
    if int(failed):
        return Factor(factor, free)
    return Factor(factor, torch.cholesky_inverse(clear).diagonal().sum().sqrt())


def equations_left(equation: SampleEquation) -> int:
    """Number of equations that are left once all unknowns are fitted, at least one."""
    m, B = equation.Q.shape
    return max(m - B - equation.Wn.shape[1] - len(equation.Ut) + 1, 1)


def _shorten(
    evaluate: Callable[[Tensor], State], points: Tensor, step: Tensor, phi: Tensor
) -> tuple[Tensor, State]:
    """The whole step, or a tenth of it where the whole one leads uphill."""
    ahead = points + step
    state = evaluate(ahead)
    worse = torch.nonzero(~(state.phi < phi))[:, 0]
    if len(worse):
        ahead[worse] = points[worse] + 0.1 * step[worse]
        state = _put(state, evaluate(ahead[worse]), worse)
    return ahead, state


def _put(state: State, part: State, where: Tensor) -> State:
    """A state with the candidates at given places replaced."""
    mask = torch.zeros(len(state.phi), dtype=torch.bool, device=state.phi.device)
    mask[where] = True
    order = torch.zeros(len(mask), dtype=torch.long, device=mask.device)
    order[where] = torch.arange(len(where), device=mask.device)
    return state.replaced(part.select(order), mask)
