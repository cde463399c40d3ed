"""Symmetries of an activation that hide something of the inputs: found by evaluating it.

A homogeneous s hides the scale of an input from a gradient without biases, an odd s its sign; a
polynomial s shows the batch only through as many moments as its degree.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

HIGHEST_DEGREE = 8
"""Of the polynomials an activation is compared with."""
TOLERANCE = 1e-5
"""Relative difference up to which two functions are the same."""

Function = Callable[[Tensor], Tensor]


def _probe_points(device: torch.device | None) -> Tensor:
    return torch.linspace(-3, 3, 241, dtype=torch.float64, device=device) + 1e-3


def _values(function: Function, z: Tensor) -> Tensor:
    with torch.no_grad():
        return function(z).double().cpu()


def is_homogeneous(function: Function, device: torch.device | None = None) -> bool:
    """Whether s(c z) = c^p s(z) for all c > 0 and one p, so that scale is invisible.

    Parameters
    ----------
    function : callable
        s, elementwise; evaluated over [-9, 9] in float64.
    device : torch.device, optional
        Where to evaluate it.

    Returns
    -------
    bool
    """
    z = _probe_points(device)
    once, twice, thrice = (_values(function, c * z) for c in (1.0, 2.0, 3.0))
    top = once.abs().argmax()
    ratio = float(twice[top] / once[top])
    if not ratio > 0:
        return False
    power = np.log2(ratio)
    tolerance = TOLERANCE * float(thrice.abs().max())
    gaps = ((twice - 2.0**power * once).abs().max(), (thrice - 3.0**power * once).abs().max())
    return max(float(gap) for gap in gaps) < tolerance


def is_odd(function: Function, device: torch.device | None = None) -> bool:
    """Whether s(z) + s(-z) is constant, so that sign is invisible.

    Parameters
    ----------
    function : callable
        s, elementwise; evaluated over [-3, 3] in float64.
    device : torch.device, optional
        Where to evaluate it.

    Returns
    -------
    bool
    """
    z = _probe_points(device)
    total = _values(function, z) + _values(function, -z)
    spread = _values(function, z)
    return float(total.max() - total.min()) <= TOLERANCE * float(spread.max() - spread.min())


def polynomial_degree(function: Function, device: torch.device | None = None) -> int | None:
    """Degree of s if it is a polynomial of degree at most 8, otherwise None.

    Parameters
    ----------
    function : callable
        s, elementwise; evaluated over [-3, 3] in float64.
    device : torch.device, optional
        Where to evaluate it.

    Returns
    -------
    int or None
    """
    z = _probe_points(device)
    points, values = z.cpu().numpy(), _values(function, z).numpy()
    size = float(np.abs(values).max())
    if not size > 0:
        return 0
    fit = np.polynomial.Chebyshev.fit(points, values, HIGHEST_DEGREE)
    if float(np.abs(fit(points) - values).max()) > TOLERANCE * size:
        return None
    return int(np.flatnonzero(np.abs(fit.coef) > TOLERANCE * np.abs(fit.coef).max()).max(initial=0))
