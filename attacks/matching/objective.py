"""Distances between the gradient a candidate would cause and the observed one.

Each is made for one observed gradient and returns, for a candidate's, its value and its derivative
in closed form. So the derivative by the candidate, by the chain rule, is one vector-Jacobian
product with the client's gradient: no graph is recorded for the distance itself. The derivative
comes as tensors and a common factor, which saves a pass over all parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Distance:
    """How far a gradient is from the observed one.

    Attributes
    ----------
    value : float
        The distance.
    slope : list of Tensor
        Its derivative by each tensor of the gradient, up to `factor`.
    factor : float
        What to multiply `slope` with.
    """

    value: float
    slope: list[Tensor]
    factor: float


Measure = Callable[[Sequence[Tensor]], Distance]
"""Takes a gradient, a tensor per parameter and without graph."""


def cosine(target: Sequence[Tensor]) -> Measure:
    """1 - <g, t> / |g||t| (Geiping et al. 2020, arXiv 2003.14053, eq. 4); between 0 and 2.

    Its derivative is -(u - cos g / |g|) / |g| with u = t / |t|.
    """
    length = max(_norm(target), TINY)
    unit = [t / length for t in target]

    def measure(gradient: Sequence[Tensor]) -> Distance:
        size = max(_norm(gradient), TINY)
        cos = _inner(gradient, unit) / size
        slope = torch._foreach_sub(unit, list(gradient), alpha=cos / size)
        return Distance(1 - cos, list(slope), -1 / size)

    return measure


def squared(target: Sequence[Tensor]) -> Measure:
    """|g - t|^2 / |t|^2 (Zhu et al. 2019, arXiv 1906.08935, relative to the observed gradient)."""
    scale = 1 / max(_norm(target), TINY) ** 2
    goal = list(target)

    def measure(gradient: Sequence[Tensor]) -> Distance:
        gap = list(torch._foreach_sub(list(gradient), goal))
        return Distance(scale * _norm(gap) ** 2, gap, 2 * scale)

    return measure


def logarithm(distance: Measure) -> Measure:
    """Make a prior's weight independent of how far a model tells inputs apart: log d for d.

    Gradients of unlike images are at a cosine distance of about 1 behind one model and of 0.01
    behind another, so a prior of fixed weight is nothing there and everything here. With the
    scale of the gradient's errors unknown, the likelihood of a candidate is a power of its
    distance, and its logarithm is what a prior's should be added to. The prior fades as the
    gradient is met. Distances below float32's rounding count as that.
    """

    def measure(gradient: Sequence[Tensor]) -> Distance:
        plain = distance(gradient)
        value = max(plain.value, ROUNDING)
        return Distance(math.log(value), plain.slope, plain.factor / value)

    return measure


TINY = 1e-30

ROUNDING = torch.finfo(torch.float32).eps


def _norm(tensors: Sequence[Tensor]) -> float:
    return float(torch.stack(torch._foreach_norm(list(tensors))).norm())


def _inner(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    products = [torch.dot(x.reshape(-1), y.reshape(-1)) for x, y in zip(a, b, strict=True)]
    return float(torch.stack(products).sum())
