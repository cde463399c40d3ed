"""L-BFGS for many independent problems at once.

Every row of the unknowns is a problem of its own, with its own history, step length and line
search; one call evaluates all of them. A row whose trial point is refused tries a shorter step in
the next call while the others go on, so no evaluation is spent on rows that are done.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Evaluate = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Maps points (N, n) to (values (N,), derivatives (N, n))."""

ARMIJO = 1e-4
SHORTEST = 1e-6


class History:
    """Last `memory` steps s and changes of derivative y of every row.

    Parameters
    ----------
    like : Tensor of shape (N, n)
        Gives shape, dtype and device.
    memory : int
        Pairs kept per row.
    """

    def __init__(self, like: Tensor, memory: int) -> None:
        rows, size = like.shape
        self.s = like.new_zeros(memory, rows, size)
        self.y = like.new_zeros(memory, rows, size)
        self.curvature = like.new_full((memory, rows), torch.inf)  # of an empty place
        self.count = torch.zeros(rows, dtype=torch.int64, device=like.device)
        self.scale = like.new_ones(rows)
        self.memory = memory

    def add(self, s: Tensor, y: Tensor, rows: Tensor) -> None:
        """Store pairs of the given rows, except where the curvature is not positive.

        Parameters
        ----------
        s, y : Tensor of shape (N, n)
            Steps, and changes of derivative along them.
        rows : bool Tensor of shape (N,)
            Which of them to store.
        """
        curvature = (s * y).sum(1)
        good = rows & (curvature > 1e-10 * s.norm(dim=1) * y.norm(dim=1))
        at = good.nonzero().flatten()
        place = self.count[at] % self.memory
        self.s[place, at], self.y[place, at] = s[at], y[at]
        self.curvature[place, at] = curvature[at]
        self.count[at] += 1
        self.scale[at] = curvature[at] / y[at].square().sum(1)

    def forget(self, rows: Tensor) -> None:
        """Empty the history of the given rows (a mask)."""
        self.curvature[:, rows] = torch.inf
        self.count[rows] = 0
        self.scale[rows] = 1.0

    def times_inverse_hessian(self, v: Tensor) -> Tensor:
        """Two-loop recursion (Nocedal 1980), row by row."""
        q = v.clone()
        rows = torch.arange(len(v), device=v.device)
        filled = min(self.memory, int(self.count.max()))
        places = [(self.count - 1 - age) % self.memory for age in range(filled)]
        weights = []
        for place in places:
            s, y = self.s[place, rows], self.y[place, rows]
            weights.append((s * q).sum(1) / self.curvature[place, rows])
            q.addcmul_(y, weights[-1][:, None], value=-1)
        q.mul_(self.scale[:, None])
        for place, weight in zip(reversed(places), reversed(weights), strict=True):
            s, y = self.s[place, rows], self.y[place, rows]
            q.addcmul_(s, (weight - (y * q).sum(1) / self.curvature[place, rows])[:, None])
        return q


def descend(evaluate: Evaluate, start: Tensor, iterations: int, memory: int = 30) -> Tensor:
    """Minimise each row's value.

    Parameters
    ----------
    evaluate : callable
        Values and derivatives of all rows.
    start : Tensor of shape (N, n)
        Where to begin.
    iterations : int
        Number of evaluations.
    memory : int, default 30
        Past steps the curvature is estimated from.

    Returns
    -------
    Tensor of shape (N, n)
        The lowest points met; never higher than the start.
    """
    x = start.clone()
    value, slope = evaluate(x)
    history = History(x, memory)
    fresh = torch.ones(len(x), dtype=torch.bool, device=x.device)
    direction, step, fall = _direction(x, slope, history, fresh)
    for _ in range(iterations - 1):
        trial = x + step[:, None] * direction
        reached, new_slope = evaluate(trial)
        good = reached <= value + ARMIJO * step * fall
        history.add(trial - x, new_slope - slope, good)
        shorter = _shorter(step, fall, reached - value)
        stuck = ~good & (shorter < SHORTEST)
        fresh = (fresh & ~good) | stuck
        history.forget(stuck)
        x = torch.where(good[:, None], trial, x)
        slope = torch.where(good[:, None], new_slope, slope)
        value = torch.where(good, reached, value)
        new_direction, new_step, new_fall = _direction(x, slope, history, history.count == 0)
        renewed = good | stuck
        direction = torch.where(renewed[:, None], new_direction, direction)
        fall = torch.where(renewed, new_fall, fall)
        step = torch.where(renewed, new_step, shorter)
    return x


def _direction(
    x: Tensor, slope: Tensor, history: History, fresh: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Search direction, first step along it, and directional derivative, of every row."""
    direction = -history.times_inverse_hessian(slope)
    # no idea of scale yet: move by about one percent
    small = 0.01 * (x.norm(dim=1) + 1e-3) / direction.norm(dim=1).clamp_min(1e-300)
    step = torch.where(fresh, small, torch.ones_like(small))
    return direction, step, (direction * slope).sum(1)


def _shorter(step: Tensor, fall: Tensor, change: Tensor) -> Tensor:
    """Minimum of the parabola through the two values and the slope, in [0.1, 0.5] of the step."""
    curve = change - step * fall
    ideal = -fall * step.square() / (2 * curve)
    ideal = torch.where(torch.isfinite(ideal) & (curve > 0), ideal, torch.zeros_like(ideal))
    return torch.maximum(torch.minimum(ideal, 0.5 * step), 0.1 * step)
