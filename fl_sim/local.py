"""What a client computes: one gradient, or its weights after local steps of SGD."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": nn.functional.cross_entropy,
    "mse": nn.functional.mse_loss,
}
"""Every loss takes outputs and targets and is reduced to the mean."""

Tensors = dict[str, Tensor]


def local_gradient(
    model: nn.Module, inputs: Tensor, target: Tensor, loss: str
) -> tuple[Tensors, float]:
    """Return the gradient of the mean loss over one batch, and that loss.

    Parameters
    ----------
    model : nn.Module
        Stays as it is, but for buffers that its forward pass updates.
    inputs : Tensor of shape (B, C, H, W)
    target : Tensor of shape (B,) for "cross_entropy" or (B, outputs) for "mse"
    loss : "cross_entropy" or "mse"

    Returns
    -------
    gradient : dict from parameter name to Tensor
        Zero where a parameter does not take part.
    loss : float
    """
    names, parameters = zip(*_trainable(model), strict=True)
    value = LOSSES[loss](model(inputs), target)
    gradients = torch.autograd.grad(value, parameters, allow_unused=True)
    gradient = {
        name: torch.zeros_like(p) if g is None else g
        for name, p, g in zip(names, parameters, gradients, strict=True)
    }
    return gradient, float(value.detach())


def local_sgd(
    model: nn.Module, inputs: Tensor, targets: Tensor, loss: str, lr: float
) -> list[float]:
    """Take one step of plain SGD per batch, in place.

    Parameters
    ----------
    model : nn.Module
        Its parameters are updated.
    inputs, targets : Tensors of shapes (steps, B, ...)
    loss : "cross_entropy" or "mse"
    lr : float
        Learning rate.

    Returns
    -------
    list of float
        The loss before each step.
    """
    losses = []
    for x, y in zip(inputs, targets, strict=True):
        gradient, value = local_gradient(model, x, y, loss)
        losses.append(value)
        with torch.no_grad():
            for name, parameter in _trainable(model):
                parameter.sub_(lr * gradient[name])
    return losses


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Use this many intra-op threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _trainable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]
