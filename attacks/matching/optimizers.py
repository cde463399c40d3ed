"""Two ways downhill: Adam, signed if wanted, and L-BFGS.

Both minimise a function given as a callable that returns value and derivatives. A few lines of
Adam by hand spare two seconds of importing torch.optim's compiler and half the time of its step.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Evaluate = Callable[[list[Tensor]], tuple[float, list[Tensor]]]
"""Maps the unknowns to (value, derivative by each); the value is NaN if any of it is undefined."""

Bounds = tuple[Tensor, Tensor] | None
"""Lowest and highest value of the first unknown, broadcastable."""


class Optimizer(Protocol):
    """Minimises in place, calling `evaluate` about `iterations` times."""

    def minimise(
        self, evaluate: Evaluate, unknowns: list[Tensor], iterations: int, bounds: Bounds
    ) -> None:
        """Leave the unknowns where the descent ends; the caller keeps the best it has seen.

        The descent ends early where the value is NaN and no other step can be taken.

        Parameters
        ----------
        evaluate : callable
            Maps the unknowns to their value and the derivatives by each.
        unknowns : list of Tensor
            Where to begin; changed in place.
        iterations : int
            About how many evaluations to spend.
        bounds : (low, high), or None
            Of the first unknown, broadcastable to it; an optimiser may ignore them.
        """


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba 2015), on the derivative's sign if wanted (Geiping et al. 2020).

    Attributes
    ----------
    lr : float
        Step size.
    signed : bool
        Whether only the derivative's sign is used.
    decays : bool
        Whether the step size is divided by 10 after 3/8, 5/8 and 7/8 of the iterations.
    betas : tuple of two floats
        Decay of the averages of derivative and square.
    """

    lr: float = 0.1
    signed: bool = True
    decays: bool = True
    betas: tuple[float, float] = (0.9, 0.999)

    def minimise(
        self, evaluate: Evaluate, unknowns: list[Tensor], iterations: int, bounds: Bounds
    ) -> None:
        """See `Optimizer`."""
        first = [torch.zeros_like(u) for u in unknowns]
        second = [torch.zeros_like(u) for u in unknowns]
        one, two = self.betas
        for step in range(1, iterations + 1):
            value, slopes = evaluate(unknowns)
            if math.isnan(value):
                return
            passed = sum(step > iterations * k // 8 for k in (3, 5, 7)) if self.decays else 0
            lr = self.lr * 0.1**passed
            for u, slope, m, v in zip(unknowns, slopes, first, second, strict=True):
                g = slope.sign() if self.signed else slope
                m.lerp_(g, 1 - one)
                v.mul_(two).addcmul_(g, g, value=1 - two)
                size = v.div(1 - two**step).sqrt_().add_(1e-8)
                u.addcdiv_(m, size, value=-lr / (1 - one**step))
            if bounds is not None:
                unknowns[0].copy_(unknowns[0].clamp(*bounds))


@dataclass(frozen=True)
class LBFGS:
    """L-BFGS (Liu and Nocedal 1989) with a backtracking line search; ignores bounds.

    Pairs of step s and change of derivative y with y's too small are left out (Li and Fukushima
    2001), so that the search direction descends on non-convex functions too.

    Attributes
    ----------
    memory : int
        Number of past steps the curvature is estimated from.
    """

    memory: int = 50

    def minimise(
        self, evaluate: Evaluate, unknowns: list[Tensor], iterations: int, bounds: Bounds
    ) -> None:
        """See `Optimizer`; ends early where no step along the direction descends."""
        calls = 0

        def function(point: Tensor) -> tuple[float, Tensor]:
            nonlocal calls
            calls += 1
            _place(unknowns, point)
            value, slopes = evaluate(unknowns)
            return value, _flat(slopes)

        point = _flat(unknowns)
        value, slope = function(point)
        if math.isnan(value):
            return
        history: deque[tuple[Tensor, Tensor, float]] = deque(maxlen=self.memory)
        while calls < iterations:
            direction = -_inverse_hessian_times(slope, history)
            if not history:  # no idea of scale yet: move by about one percent
                direction *= 0.01 * float(point.norm()) / max(float(direction.norm()), 1e-300)
            accepted = _backtrack(function, point, value, slope, direction, iterations - calls)
            if accepted is None and not history:
                return
            if accepted is None:  # the curvature misleads: forget it
                history.clear()
                continue
            new, value, new_slope = accepted
            s, y = new - point, new_slope - slope
            curvature = float(s @ y)
            if curvature > 1e-10 * float(s @ s) * float(slope.norm()):
                history.append((s, y, curvature))
            point, slope = new, new_slope


def _inverse_hessian_times(v: Tensor, history: Sequence[tuple[Tensor, Tensor, float]]) -> Tensor:
    """Two-loop recursion (Nocedal 1980)."""
    q = v.clone()
    weights = []
    for s, y, curvature in reversed(history):
        weights.append(float(s @ q) / curvature)
        q.sub_(y, alpha=weights[-1])
    if history:
        _, y, curvature = history[-1]
        q.mul_(curvature / float(y @ y))
    for (s, y, curvature), weight in zip(history, reversed(weights), strict=True):
        q.add_(s, alpha=weight - float(y @ q) / curvature)
    return q


def _backtrack(
    function: Callable[[Tensor], tuple[float, Tensor]],
    point: Tensor,
    value: float,
    slope: Tensor,
    direction: Tensor,
    budget: int,
) -> tuple[Tensor, float, Tensor] | None:
    """First step of 1, and shorter by quadratic interpolation, that meets Armijo's condition."""
    fall = float(slope @ direction)
    step = 1.0
    for _ in range(min(12, budget)):
        new = point + step * direction
        reached, new_slope = function(new)
        if reached <= value + 1e-4 * step * fall:
            return new, reached, new_slope
        # minimum of the parabola through value, fall and reached, within [0.1, 0.5] of the step
        curve = reached - value - step * fall
        ideal = -fall * step**2 / (2 * curve) if math.isfinite(curve) and curve > 0 else 0.0
        step = min(max(ideal, 0.1 * step), 0.5 * step)
    return None


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.detach().reshape(-1) for t in tensors])


def _place(unknowns: Sequence[Tensor], point: Tensor) -> None:
    parts = point.split([u.numel() for u in unknowns])
    for u, part in zip(unknowns, parts, strict=True):
        u.copy_(part.view_as(u))
