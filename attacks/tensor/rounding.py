"""Gates that rounding decided.

A pre-activation within rounding of a kink falls on one side in the client's arithmetic and maybe
on the other in ours. At 1024 units and 128 samples one of them usually does, and a single wrong
gate would deny a true sample its certificate. Those few gates are read off the gradient instead.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.tensor.activation import Activation
from attacks.tensor.equation import SampleEquation, State

ROUNDINGS = 8.0
"""Pre-activations are trusted to this many unit roundoffs of |w||x|."""


def evaluate_as_client(
    equation: SampleEquation, activation: Activation, points: Tensor, rounding: Tensor
) -> State:
    """Evaluate the sample equation with undecidable gates as the gradient has them.

    Parameters
    ----------
    equation : SampleEquation
        Over the gradient's whole row space.
    activation : Activation
        Between the layers.
    points : Tensor of shape (n, B + open)
        Inputs in the coordinates of the row space.
    rounding : Tensor of shape (n, m)
        What rounding can have moved each pre-activation by; see `rounding_of`.

    Returns
    -------
    State
        At the points. Where z is within `rounding` of a kink, s' takes the value of the side that
        leaves the smaller residual in that row.
    """
    z = points @ equation.W.T
    first, second = activation.slope(z)
    state = equation.fit(first, second)
    weight = (state.delta @ equation.Ut) * (1 - equation.Q.square().sum(1))
    best, settled = state.residual.abs(), first
    for kink in activation.kinks.to(z):
        doubtful = (z - kink).abs() <= rounding
        if not bool(doubtful.any()):
            continue
        for side in (kink - rounding, kink + rounding):
            value = activation.slope(side)[0]
            residual = (state.residual + (value - first) * weight).abs()
            better = doubtful & (residual < best)
            best = torch.where(better, residual, best)
            settled = torch.where(better, value, settled)
    return state if settled is first else equation.fit(settled, second)


def rounding_of(weight: Tensor, points: Tensor, precision: float) -> Tensor:
    """Bound on the rounding of pre-activations computed in the client's precision.

    Parameters
    ----------
    weight : Tensor of shape (m, d + 1)
        First layer's [W | b].
    points : Tensor of shape (n, B)
        Inputs in any orthonormal coordinates.
    precision : float
        Unit roundoff of the client's arithmetic.

    Returns
    -------
    Tensor of shape (n, m)
        ``ROUNDINGS * precision * |x_i| |w_j|``.
    """
    return ROUNDINGS * precision * points.norm(dim=1)[:, None] * weight.norm(dim=1)
