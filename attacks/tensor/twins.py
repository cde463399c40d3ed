"""What counts twice: one image that is there twice, or two that noise cannot tell apart.

Two samples x + h/2 and x - h/2 of one label leave in the gradient what twice their mean leaves,
and besides a second-order trace: half of what their columns differ by, but for their lengths,
times half their distance.
Their mean may stand for both in a certificate only if that trace would have been seen for every
distance that is not forgiven.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attacks.reading.losses import Loss, output_errors
from attacks.tensor.certificate import WORST_ERROR
from attacks.tensor.labels import output_jacobian
from attacks.tensor.layers import LinearPair
from attacks.tensor.subspace import GradientSpace, LayerGradient

DIRECTIONS = 16
"""Random directions in which a second sample is imagined."""
CLEARLY = 10.0
"""How far above the noise a trace has to stand. The noise may be a hidden trace itself."""


def one_and_the_same(
    model: nn.Module,
    pair: LinearPair,
    layer: LayerGradient,
    space: GradientSpace,
    inputs: Tensor,
    targets: Tensor,
    shares: Tensor,
    generator: torch.Generator,
    loss: Loss = "cross_entropy",
) -> Tensor:
    """Whether two samples `WORST_ERROR` to either side of an input would have shown as two.

    Parameters
    ----------
    model : nn.Module
        A private float64 copy in evaluation mode.
    pair, layer, space : LinearPair, LayerGradient, GradientSpace
        The layers the attack reads, and their gradients.
    inputs : Tensor of shape (n, *input_shape)
        Reconstructed inputs.
    targets : Tensor of shape (n, C) or (n,)
        What the loss compares their outputs with.
    shares : Tensor of shape (n,)
        Share of the mean loss each of them carries.
    generator : torch.Generator
        Draws the directions in which the two may differ; each of them has to show.
    loss : str or callable, default "cross_entropy"
        The clients' loss, as in `Problem`.

    Returns
    -------
    bool Tensor of shape (n,)
    """
    flat = inputs.flatten(1)
    least = torch.full_like(shares, torch.inf)
    for _ in range(DIRECTIONS):
        away = torch.randn(flat.shape, generator=generator, dtype=flat.dtype).to(flat)
        half = away * (WORST_ERROR * flat.norm(dim=1) / away.norm(dim=1))[:, None]
        ahead, behind = (
            columns(model, pair, layer, (flat + side * half).reshape(inputs.shape), targets, loss)
            for side in (1, -1)
        )
        mean, apart = (ahead + behind) / 2, ahead - behind
        along = (apart * mean).sum(1) / mean.square().sum(1).clamp_min(1e-300)
        apart = apart - along[:, None] * mean  # samples of one column up to scale are one
        trace = shares / 2 * apart.norm(dim=1) * half.norm(dim=1)
        least = torch.minimum(least, trace)
    return least > CLEARLY * space.noise


def columns(
    model: nn.Module,
    pair: LinearPair,
    layer: LayerGradient,
    inputs: Tensor,
    targets: Tensor,
    loss: Loss = "cross_entropy",
) -> Tensor:
    """Each sample's own column s'(W x + b) o A'delta of the first layer's gradient, (n, m).

    Parameters
    ----------
    model, pair, layer, inputs, targets, loss
        As for `one_and_the_same`.

    Returns
    -------
    Tensor of shape (n, m)
    """
    output, jacobian = output_jacobian(model, pair.outgoing, inputs)
    errors = torch.einsum("nc,nck->nk", output_errors(loss, output, targets), jacobian)
    flat = inputs.flatten(1)
    if layer.biased:
        flat = torch.cat([flat, torch.ones_like(flat[:, :1])], 1)
    return pair.activation.slope(flat @ layer.weight.T)[0] * (errors @ layer.outgoing)
