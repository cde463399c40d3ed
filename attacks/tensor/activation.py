"""An activation as the attack sees it: a scalar function known only by probing it.

Whatever stands between two linear layers is evaluated, differentiated by autograd, and classified
by its derivative s' alone: where s' jumps (kinks of s) or breaks off in another direction (bends),
and whether s' varies in between (curvature). Nothing is keyed on a name, so a hand-written
activation is as good as one of torch.nn.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

Slope = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Maps pre-activations z to (s'(z), s''(z)), both of z's shape and dtype."""

Kind = Literal["linear", "quadratic", "piecewise linear", "smooth", "mixed"]

PROBE_RANGE = 32.0
"""Pre-activations are probed from minus to plus this."""
PROBE_STEP = 1 / 256
"""Distance of the points probed."""
BEND, STEEPEST = 0.05, 100.0
"""Jumps of s'' that count, relative to the largest |s'|."""


@dataclass(frozen=True)
class Activation:
    """A probed elementwise function s.

    Attributes
    ----------
    function : callable
        s itself, on tensors of any shape.
    kinks : Tensor of shape (k,)
        Where s' jumps, increasing.
    jumps : Tensor of shape (k,)
        By how much.
    kind : str
        "linear", "quadratic", "piecewise linear" (kinks, no curvature), "smooth" (curvature, no
        kinks) or "mixed" (both).
    slopes : Tensor of shape (v,)
        The values s' takes, increasing, if there are finitely many; otherwise empty.
    bends : Tensor of shape (b,)
        Where s'' jumps, increasing.
    turns : Tensor of shape (b,)
        By how much.
    cusped : bool
        Whether s'' changes its sign at a bend: s' has a sharp peak there.
    """

    function: Callable[[Tensor], Tensor]
    kinks: Tensor = field(repr=False)
    jumps: Tensor = field(repr=False)
    kind: Kind
    slopes: Tensor = field(repr=False)
    bends: Tensor = field(repr=False)
    turns: Tensor = field(repr=False)
    cusped: bool = False

    @property
    def rough(self) -> bool:
        """Whether Gauss-Newton steps go astray on s' itself: where it jumps or has a sharp peak."""
        return len(self.kinks) > 0 or self.cusped

    def slope(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """(s'(z), s''(z)), the classical derivatives away from the kinks."""
        return derivatives(self.function, z)

    def smoothed(self, width: float) -> Slope:
        """Slope with every jump of s' and of s'' blurred by a normal distribution of that width.

        A jump becomes the normal distribution function Phi, and a ramp that sets in at a bend its
        integral: with t = (z - place) / width,

            s'(z) + sum jump (Phi(t) - [t > 0]) + sum turn width (t Phi(t) + phi(t) - max(t, 0)).

        The curvature in between stays as it is, and width -> 0 gives s' back.
        """

        def slope(z: Tensor) -> tuple[Tensor, Tensor]:
            first, second = self.slope(z)
            for kink, jump in zip(self.kinks.tolist(), self.jumps.tolist(), strict=True):
                _, step, density = _blurred((z - kink) / width)
                first, second = first + jump * step, second + jump / width * density
            for bend, turn in zip(self.bends.tolist(), self.turns.tolist(), strict=True):
                ramp, step, _ = _blurred((z - bend) / width)
                first, second = first + turn * width * ramp, second + turn * step
            return first, second

        return slope


def _blurred(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What a normal distribution adds to a ramp and to a step at zero, and its density."""
    density = torch.exp(-t * t / 2) / math.sqrt(2 * math.pi)
    share = torch.special.ndtr(t)
    return t * share + density - t.clamp_min(0), share - (t > 0).to(t.dtype), density


def derivatives(function: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    """First and second derivative of an elementwise function by autograd.

    Parameters
    ----------
    function : callable
        Elementwise and differentiable almost everywhere.
    z : Tensor
        Where.

    Returns
    -------
    tuple of two Tensors
        s'(z) and s''(z), zero where autograd sees no dependence on z.
    """
    try:
        return _backpropagated(function, z)
    except RuntimeError:  # an autograd function without a second derivative of its own
        step = torch.finfo(z.dtype).eps ** (1 / 3)
        first = _backpropagated(function, z, second=False)[0]
        above = _backpropagated(function, z + step, second=False)[0]
        below = _backpropagated(function, z - step, second=False)[0]
        return first, (above - below) / (2 * step)


def _backpropagated(
    function: Callable[[Tensor], Tensor], z: Tensor, second: bool = True
) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        point = z.detach().requires_grad_(True)
        value = function(point)
        if not value.requires_grad:
            return torch.zeros_like(z), torch.zeros_like(z)
        (first,) = torch.autograd.grad(value.sum(), point, create_graph=second)
        if not (second and first.requires_grad):
            return first.detach(), torch.zeros_like(z)
        (curve,) = torch.autograd.grad(first.sum(), point, allow_unused=True)
    return first.detach(), torch.zeros_like(z) if curve is None else curve.detach()


def probe(function: Callable[[Tensor], Tensor], device: torch.device | None = None) -> Activation:
    """Find out what kind of function an activation is.

    Parameters
    ----------
    function : callable
        Elementwise; evaluated on a fine grid over [-32, 32] in float64.
    device : torch.device, optional
        Where to evaluate it.

    Returns
    -------
    Activation
        With its kinks located to rounding.
    """
    count = int(2 * PROBE_RANGE / PROBE_STEP)
    # an offset that no sane activation puts a kink on
    grid = torch.arange(count, dtype=torch.float64, device=device) + 0.3819
    grid = grid * PROBE_STEP - PROBE_RANGE
    first, second = derivatives(function, grid)
    scale = float(first.abs().max())
    if scale == 0:
        empty = grid.new_zeros(0)
        return Activation(function, empty, empty, "linear", grid.new_zeros(1), empty, empty)
    kinks, jumps = _locate_jumps(lambda z: derivatives(function, z)[0], grid, first, 1e-4 * scale)
    bends, turns = _locate_jumps(lambda z: derivatives(function, z)[1], grid, second, BEND * scale)
    gentle = turns.abs() < STEEPEST * scale  # a numerical s'' is a spike at every kink
    bends, turns = bends[gentle], turns[gentle]
    sides = derivatives(function, bends[:, None] + PROBE_STEP * grid.new_tensor([-1e-3, 1e-3]))[1]
    cusped = bool((sides.prod(1) < 0).any())
    continuous = first - (jumps * (grid[:, None] > kinks)).sum(1)
    varies = float(continuous.max() - continuous.min()) > 1e-3 * scale
    curvature = float(second.max() - second.min()) > 1e-3 * float(second.abs().max())
    kind: Kind
    if len(kinks):
        kind = "mixed" if varies else "piecewise linear"
    elif not varies:
        kind = "linear"
    else:
        kind = "smooth" if curvature else "quadratic"
    steps = torch.cat([continuous.mean()[None], continuous.mean() + jumps.cumsum(0)])
    slopes = grid.new_zeros(0) if varies else _distinct(steps, 1e-6 * scale)
    return Activation(function, kinks, jumps, kind, slopes, bends, turns, cusped)


def _locate_jumps(
    function: Callable[[Tensor], Tensor], grid: Tensor, values: Tensor, threshold: float
) -> tuple[Tensor, Tensor]:
    """Bisect every grid interval over which a function changes; keep what does not shrink away."""
    steep = (values[1:] - values[:-1]).abs() > threshold
    low, high = grid[:-1][steep], grid[1:][steep]
    at_low, at_high = values[:-1][steep], values[1:][steep]
    for _ in range(44):
        middle = low + 0.4871 * (high - low)  # not the half: it would hit kinks at round numbers
        at_middle = function(middle)
        left = (at_middle - at_low).abs() > (at_high - at_middle).abs()
        high, at_high = torch.where(left, middle, high), torch.where(left, at_middle, at_high)
        low, at_low = torch.where(left, low, middle), torch.where(left, at_low, at_middle)
    jump = at_high - at_low
    real = jump.abs() > threshold
    return ((low + high) / 2)[real], jump[real]


def _distinct(values: Tensor, tolerance: float) -> Tensor:
    ordered = values.sort().values
    fresh = torch.ones_like(ordered, dtype=torch.bool)
    fresh[1:] = ordered[1:] - ordered[:-1] > tolerance
    return ordered[fresh]
