"""Scale and sign of samples behind a layer without biases.

With a bias the last coordinate of x~ = (x, 1) fixes both. Without one, the first layer's gradient
D x' stays the same if x grows and delta shrinks (piecewise linear s with a kink at zero only), or
if both change sign (odd s). The rest of the network breaks the tie: delta must be the error that
some label implies at the input x, and only one scale and sign make it point that way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attacks.base import Loss
from attacks.tensor.labels import read_labels

OCTAVES = 6
"""Scales are scanned so many factors of two to either side."""
STEPS = 97
"""Scales in that scan."""
BASINS = 3
"""Minima of the scan that are refined."""
ANGLE = 1e-3
"""Largest angle between the error found and the one implied, in radians, that settles a tie."""


@dataclass(frozen=True)
class Settled:
    """Outcome per sample.

    Attributes
    ----------
    factor : Tensor of shape (n,)
        What to multiply the sample by.
    multiplier : Tensor of shape (n,)
        What to multiply its error vector by.
    unique : bool Tensor of shape (n,)
        Whether exactly one choice agrees with a label.
    """

    factor: Tensor
    multiplier: Tensor
    unique: Tensor


def settle(
    model: nn.Module,
    outgoing: str,
    inputs: Tensor,
    delta: Tensor,
    loss: Loss,
    *,
    flipped: Tensor,
    scalable: bool,
    norm: float,
) -> Settled:
    """Choose scale and sign by the errors that labels imply.

    Parameters
    ----------
    model : nn.Module
        A private float64 copy in evaluation mode.
    outgoing : str
        Name of the second linear layer.
    inputs : Tensor of shape (n, *input_shape)
        Samples of unsettled scale and sign.
    delta : Tensor of shape (n, C2)
        Their error vectors, such that (inputs, delta) explains the first layer's gradient.
    loss : str or callable
        As in `Problem`. Only cross entropy has too few targets for every scale and sign; nothing
        is unique under any other.
    flipped : Tensor of shape (n,)
        The multiplier of delta that goes with the opposite sign of an input; zero where the
        opposite sign is ruled out already.
    scalable : bool
        Whether the scale is open as well.
    norm : float
        Typical norm of an input, where the search for an open scale begins.

    Returns
    -------
    Settled
        Of all n samples.
    """
    ones = torch.ones_like(delta[:, 0])
    tied = bool(flipped.any()) or scalable
    if not tied or loss != "cross_entropy":
        return Settled(ones, ones, torch.full_like(ones, not tied, dtype=torch.bool))

    def angle(factor: Tensor, multiplier: Tensor) -> Tensor:
        scaled = inputs * factor.view(-1, *[1] * (inputs.dim() - 1))
        read = read_labels(model, outgoing, scaled, delta * multiplier[:, None], loss, 1)
        return torch.acos(read.agreement.clamp(-1, 1))

    if scalable:
        return _best_scale(angle, norm / inputs.flatten(1).norm(dim=1).clamp_min(1e-300))
    straight, opposite = angle(ones, ones), angle(-ones, flipped)
    opposite = torch.where(flipped == 0, torch.inf, opposite)
    turn = opposite < straight
    unique = (torch.minimum(straight, opposite) < ANGLE) & ((straight - opposite).abs() > ANGLE)
    return Settled(torch.where(turn, -ones, ones), torch.where(turn, flipped, ones), unique)


def _best_scale(angle: Callable[[Tensor, Tensor], Tensor], unit: Tensor) -> Settled:
    """Scan scales from 2^-6 to 2^6 units, then golden sections around the deepest few minima."""
    grid = torch.linspace(-OCTAVES, OCTAVES, STEPS, dtype=unit.dtype, device=unit.device)

    def at(exponent: Tensor) -> Tensor:
        return angle(unit * 2**exponent, 2**-exponent / unit)

    scan = torch.stack([at(e) for e in grid])
    inner = scan[1:-1]
    dips = torch.where((inner <= scan[:-2]) & (inner <= scan[2:]), inner, torch.inf)
    step = float(grid[1] - grid[0])
    ends = [_golden(at, grid[1:-1][i], step) for i in dips.argsort(0)[:BASINS]]
    exponents = torch.stack([e for e, _ in ends])
    angles = torch.stack([a for _, a in ends])
    order = angles.argsort(0)
    best, second = (angles.gather(0, order[k : k + 1])[0] for k in (0, 1))
    exponent = exponents.gather(0, order[:1])[0]
    apart = (exponents.gather(0, order[1:2])[0] - exponent).abs() > 1e-4
    rival = torch.where(apart, second, torch.inf).minimum(scan[0]).minimum(scan[-1])
    factor = unit * 2**exponent
    return Settled(factor, 1 / factor, (best < ANGLE) & (rival > 10 * best))


def _golden(at: Callable[[Tensor], Tensor], start: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """Golden section search for the exponent of two at which the angle is smallest."""
    low, high = start - step, start + step
    ratio = (5**0.5 - 1) / 2
    for _ in range(44):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        smaller = at(left) < at(right)
        low, high = torch.where(smaller, low, left), torch.where(smaller, right, high)
    exponent = (low + high) / 2
    return exponent, at(exponent)
