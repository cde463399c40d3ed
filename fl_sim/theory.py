"""What theory says about the reconstruction error: the upper bounds per defence, and a lower bound.

All are of Wang, Lee, Lei's follow-up paper (arXiv 2402.09478, AISTATS 2025). The upper bounds hold
for the published tensor estimator on f(x) = sum_j a_j s(w_j . x) with m hidden units, d inputs of
norm one, and B samples, up to logarithms and a constant that depends on activation and data; here
they are written with constant one. The lower bound holds for every unbiased attack.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacfwd

from fl_sim.losses import LOSSES


def upper_bound(
    B: int,
    d: int,
    m: int,
    *,
    steps: int = 1,
    noise: float = 0.0,
    overshoot: float = 1.0,
    dropout: float = 0.0,
) -> float:
    """Return (steps B + noise max(1, overshoot)) sqrt(d / ((1 - dropout) m)).

    With one defence at a time this is the paper's table: none, B sqrt(d/m); K local steps,
    K B sqrt(d/m); gradient noise, (B + sigma) sqrt(d/m); DP-SGD clipped at C,
    (B + sigma max(1, |G|/C)) sqrt(d/m); dropout p, B sqrt(d / ((1 - p) m)). For pruning no bound is
    known. How several add up is not in the paper.

    Parameters
    ----------
    B, d, m : int
        Samples, inputs and hidden units, at least 1.
    steps : int, default 1
        Local steps K.
    noise : float, default 0
        sigma, not negative, in units of one sample's part of the gradient's entries.
    overshoot : float, default 1
        |G| / C, the norm of a sample's gradient over the bound it is clipped to.
    dropout : float, default 0
        Share p of hidden units that are dropped, in [0, 1).

    Returns
    -------
    float
        Root mean square error of an input of norm one, up to a constant.

    Raises
    ------
    ValueError
        If a value is out of its range.

    References
    ----------
    arXiv 2402.09478, the table of upper bounds.
    """
    for name, value in (("B", B), ("d", d), ("m", m), ("steps", steps)):
        if value < 1:
            raise ValueError(f"{name}={value!r} must be at least 1.")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout!r} must be at least 0 and below 1.")
    if not noise >= 0:
        raise ValueError(f"noise={noise!r} must not be negative.")
    return (steps * B + noise * max(1.0, overshoot)) * math.sqrt(d / ((1 - dropout) * m))


def lower_bound(model: nn.Module, inputs: Tensor, target: Tensor, loss: str, std: float) -> float:
    """Return R^2 >= sigma^2 Tr((J J')^-1), the least squared error of any unbiased attack.

    The gradient is observed with independent normal noise of standard deviation sigma on every
    coordinate, labels are known, and J is the derivative of the gradient by the inputs: the
    Cramér-Rao bound. Where J J' has no inverse the inputs are not determined, and it is infinite.

    Parameters
    ----------
    model : nn.Module
        At the parameters at which the gradient is taken; differentiable twice.
    inputs : Tensor of shape (B, ...)
        The true inputs.
    target : Tensor
        As the loss wants it.
    loss : "cross_entropy" or "mse"
        Mean-reduced.
    std : float
        sigma, not negative.

    Returns
    -------
    float
        Sum of squared errors over all inputs of the batch.

    Raises
    ------
    ValueError
        If sigma is negative.

    References
    ----------
    arXiv 2402.09478, the lower bound; C. R. Rao, "Information and the Accuracy Attainable in the
    Estimation of Statistical Parameters", 1945.
    """
    if not std >= 0:
        raise ValueError(f"std={std!r} must not be negative.")
    parameters = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}

    def value(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return LOSSES[loss](functional_call(model, parameters, (x.reshape(inputs.shape),)), target)

    def gradient(x: Tensor) -> Tensor:
        return torch.cat([g.flatten() for g in grad(value)(parameters, x).values()])

    J = jacfwd(gradient)(inputs.flatten())  # (parameters, B d)
    singular = torch.linalg.svdvals(J.double())
    if len(singular) < inputs.numel() or singular[-1] <= singular[0] * 1e-12:
        return math.inf
    return float(std**2 * singular.pow(-2).sum())
