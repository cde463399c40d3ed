"""Errors tied to their inputs: the last step where two layers hardly tell a batch apart.

Where an activation is nearly quadratic on the data (raw pixels before a Softplus), or samples are
much like each other, the first two layers' gradients leave directions in which inputs and errors
trade places within rounding. But the errors are not free: they are what the forward pass makes of
the inputs, softmax(f(x)) - e_y. With the labels read, the inputs alone have to explain the
gradients of all layers, and do so far more sharply.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attacks.base import Problem, Reconstruction
from attacks.tensor.layers import LinearPair
from attacks.tensor.likelihood import Likelihood, ascend, tail_of
from attacks.tensor.subspace import GradientSpace, LayerGradient

MISSED = 100.0
"""Misfit of the whole gradient, in units of rounding, from which tying is worth its while."""

ROUNDINGS = 2.0
"""Noise of a computed gradient, in units of its last bit."""

EXPLAINED = 4.0
"""Mean square misfit, in units of the noise's, up to which a fit is believed."""


@dataclass(frozen=True)
class Tied:
    """A batch whose errors are those of its forward pass.

    Attributes
    ----------
    points : Tensor of shape (n, B)
        Inputs in the coordinates of the row space.
    columns : Tensor of shape (n, m)
        The gradient's own D_i there.
    """

    points: Tensor
    columns: Tensor


def loose(problem: Problem, layer: LayerGradient, found: Reconstruction) -> bool:
    """Whether a complete batch misses the gradient by more than rounding explains."""
    return (
        problem.loss == "cross_entropy"
        and len(found) == found.info["rank"]
        and bool(found.info["clean"])
        and not found.info["interrupted"]
        and MISSED * layer.precision < found.info["gradient_residual"] < 0.1
    )


def tie(
    problem: Problem,
    pair: LinearPair,
    layer: LayerGradient,
    space: GradientSpace,
    found: Reconstruction,
) -> Tied | None:
    """Inputs of a complete batch from the gradients of all layers.

    Parameters
    ----------
    problem, pair, layer, space
        As for the exact attack.
    found : Reconstruction
        Where to begin; its labels and multiplicities are kept.

    Returns
    -------
    Tied, optional
        None if the model cannot be followed from its first layer on, or if the fit has not come
        down to rounding: half-way it may be further from the batch than it began.
    """
    assert found.labels is not None
    tail = tail_of(problem.model, pair, tuple(found.inputs.shape[1:]))
    if tail is None:
        return None
    inputs = found.inputs.double().flatten(1)
    if layer.biased:
        inputs = torch.cat([inputs, torch.ones_like(inputs[:, :1])], 1)
    points = inputs @ space.V
    multiplicities = torch.tensor(found.info["multiplicities"]).to(points)
    classes = tail.output((points @ (layer.weight @ space.V).T)[:1], tail.parameters()).shape[1]
    own = (f"{pair.hidden}.weight", f"{pair.hidden}.bias")
    others = {k: v.double() for k, v in problem.gradient.items() if k not in own}
    likelihood = Likelihood(
        tail=tail,
        weight=layer.weight @ space.V,
        first=space.Q * space.S,
        first_precision=_precision(layer.gradient, layer.precision),
        others=others,
        other_precisions={k: _precision(v, layer.precision) for k, v in others.items()},
        targets=nn.functional.one_hot(found.labels, classes).to(points),
        shares=multiplicities / multiplicities.sum(),
        last=space.last,
    )
    entries = layer.gradient.shape[0] * space.rank + sum(v.numel() for v in others.values())
    end = ascend(likelihood, points, steps=12, inner=200, enough=1e-2, goal=1.5 * entries)
    if end.misfit > EXPLAINED * entries:
        return None
    return Tied(end.inputs, likelihood.gradients(end.inputs)[0])


def _precision(gradient: Tensor, precision: float) -> Tensor:
    """One over the rounding noise of a tensor's entries, taken for equally large in all of them."""
    return 1 / (ROUNDINGS * precision * gradient.square().mean().sqrt()).clamp_min(1e-300)
