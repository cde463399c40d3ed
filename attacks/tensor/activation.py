"""An activation as the attack sees it: a scalar function known only by probing it.

Whatever stands between two linear layers is evaluated, differentiated by autograd, and classified
by its derivative s' alone: where s' jumps (kinks of s) and whether s' varies between the jumps
(curvature). Nothing is keyed on a name, so a hand-written activation is as good as one of torch.nn.
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
PROBE_STEP = 1 / 256


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
    """

    function: Callable[[Tensor], Tensor]
    kinks: Tensor = field(repr=False)
    jumps: Tensor = field(repr=False)
    kind: Kind
    slopes: Tensor = field(repr=False)

    def slope(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """(s'(z), s''(z)), the classical derivatives away from the kinks."""
        return derivatives(self.function, z)

    def smoothed(self, width: float) -> Slope:
        """Slope with every jump of s' replaced by a normal distribution function of that width.

        s'(z) + sum_k jump_k (Phi((z - kink_k) / width) - [z > kink_k]): the curvature between the
        kinks stays as it is, and width -> 0 gives s' back.
        """

        def slope(z: Tensor) -> tuple[Tensor, Tensor]:
            first, second = self.slope(z)
            for kink, jump in zip(self.kinks.tolist(), self.jumps.tolist(), strict=True):
                t = (z - kink) / width
                first = first + jump * (torch.special.ndtr(t) - (t > 0).to(z.dtype))
                second = second + jump / (width * math.sqrt(2 * math.pi)) * torch.exp(-t * t / 2)
            return first, second

        return slope


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
        return Activation(function, empty, empty, "linear", grid.new_zeros(1))
    kinks, jumps = _locate_jumps(function, grid, first, 1e-4 * scale)
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
    return Activation(function, kinks, jumps, kind, slopes)


def _locate_jumps(
    function: Callable[[Tensor], Tensor], grid: Tensor, first: Tensor, threshold: float
) -> tuple[Tensor, Tensor]:
    """Bisect every grid interval over which s' changes; keep what does not shrink away."""
    change = (first[1:] - first[:-1]).abs()
    steep = change > threshold
    low, high = grid[:-1][steep], grid[1:][steep]
    at_low, at_high = first[:-1][steep], first[1:][steep]
    for _ in range(44):
        middle = low + 0.4871 * (high - low)  # not the half: it would hit kinks at round numbers
        at_middle, _ = derivatives(function, middle)
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
