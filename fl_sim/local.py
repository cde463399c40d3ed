"""What a client computes: one gradient, or its weights after local steps of SGD."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from fl_sim.defenses import Defense, Step
from fl_sim.losses import LOSSES

Tensors = dict[str, Tensor]
GradientOf = Callable[[nn.Module, Tensor, Tensor], tuple[Tensors, float]]


def local_gradient(
    model: nn.Module, inputs: Tensor, target: Tensor, loss: str
) -> tuple[Tensors, float]:
    """Return the gradient of the mean loss over one batch, and that loss.

    Parameters
    ----------
    model : nn.Module
        Stays as it is, but for buffers that its forward pass updates.
    inputs : Tensor of shape (B, C, H, W)
    target : Tensor of shape (B,) or (B, outputs)
    loss : str
        A key of `fl_sim.losses.LOSSES`, which says what the target is.

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


def sample_gradients(
    model: nn.Module, inputs: Tensor, target: Tensor, loss: str
) -> tuple[Tensors, float]:
    """Return the gradient of each sample's own loss, and the mean loss.

    Parameters
    ----------
    model : nn.Module
        Treats samples independently of each other (no batch normalisation).
    inputs, target, loss
        As for `local_gradient`.

    Returns
    -------
    gradients : dict from parameter name to Tensor of shape (B, *parameter.shape)
    loss : float
    """
    parameters = {name: p.detach() for name, p in _trainable(model)}

    def sample_loss(parameters: Tensors, x: Tensor, y: Tensor) -> Tensor:
        return LOSSES[loss](functional_call(model, parameters, (x[None],)), y[None])

    each = vmap(grad_and_value(sample_loss), in_dims=(None, 0, 0), randomness="different")
    gradients, values = each(parameters, inputs, target)
    return gradients, float(values.mean())


def step_gradient(
    model: nn.Module,
    inputs: Tensor,
    target: Tensor,
    loss: str,
    defenses: Sequence[Defense],
    generator: Generator,
) -> tuple[Tensors, float]:
    """Return the gradient a client takes one step along, defences included, and the loss.

    Parameters
    ----------
    model, inputs, target, loss
        As for `local_gradient`; with defences, `target` holds class probabilities.
    defenses : sequence of Defense
    generator : torch.Generator
        The defences' only source of randomness.
    """
    for defense in defenses:
        inputs, target = defense.on_batch(inputs, target, generator)
    if any(defense.per_sample for defense in defenses):
        each, value = sample_gradients(model, inputs, target, loss)
        for defense in defenses:
            each = defense.on_samples(each, generator)
        gradient = {name: g.mean(0) for name, g in each.items()}
    else:
        gradient, value = local_gradient(model, inputs, target, loss)
    step = Step(model, inputs, target)
    for defense in defenses:
        gradient = defense.on_gradient(gradient, step, generator)
    return gradient, value


def local_sgd(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    lr: float,
    gradient_of: GradientOf,
    momentum: float = 0.0,
) -> list[float]:
    """Take one step of SGD per batch, in place.

    Parameters
    ----------
    model : nn.Module
        Its parameters are updated.
    inputs, targets : Tensors of shapes (steps, B, ...)
    lr : float
        Learning rate.
    gradient_of : callable (model, inputs, target) -> (gradient, loss)
    momentum : float, default 0.0
        Each step goes along the gradient plus this times the step before.

    Returns
    -------
    list of float
        The loss before each step.
    """
    losses: list[float] = []
    velocity: Tensors = {}
    for x, y in zip(inputs, targets, strict=True):
        gradient, value = gradient_of(model, x, y)
        losses.append(value)
        if momentum and velocity:
            gradient = {name: momentum * velocity[name] + g for name, g in gradient.items()}
        velocity = gradient
        with torch.no_grad():
            for name, parameter in _trainable(model):
                parameter.sub_(lr * velocity[name])
    return losses


def local_adam(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    lr: float,
    gradient_of: GradientOf,
) -> list[float]:
    """Take one step of Adam per batch, in place, with PyTorch's defaults; as `local_sgd`."""
    losses = []
    named = _trainable(model)
    optimizer = torch.optim.Adam([p for _, p in named], lr=lr)
    for x, y in zip(inputs, targets, strict=True):
        gradient, value = gradient_of(model, x, y)
        losses.append(value)
        for name, parameter in named:
            parameter.grad = gradient[name]
        optimizer.step()
        optimizer.zero_grad()
    return losses


def drawn_back(gradient_of: GradientOf, model: nn.Module, mu: float) -> GradientOf:
    """Return FedProx's local gradient: that of the loss plus ``mu / 2 |w - w_sent|^2``.

    Parameters
    ----------
    gradient_of : callable (model, inputs, target) -> (gradient, loss)
        Without the proximal term.
    model : nn.Module
        Holds the weights that were sent, w_sent, as they are now.
    mu : float
        Weight of the term, not negative.

    Returns
    -------
    callable (model, inputs, target) -> (gradient, loss)
        The gradient has ``mu (w - w_sent)`` added, which is zero in the first step; the loss is the
        data's alone.

    References
    ----------
    Li et al., "Federated Optimization in Heterogeneous Networks", 2020 (arXiv 1812.06127).
    """
    sent = {name: p.detach().clone() for name, p in _trainable(model)}

    def proximal(model: nn.Module, inputs: Tensor, target: Tensor) -> tuple[Tensors, float]:
        gradient, loss = gradient_of(model, inputs, target)
        now = dict(_trainable(model))
        return {n: g + mu * (now[n].detach() - sent[n]) for n, g in gradient.items()}, loss

    return proximal


@torch.no_grad()
def batchnorm_statistics(model: nn.Module, inputs: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Return what each BatchNorm layer of a model in training sees of a batch.

    Parameters
    ----------
    model : nn.Module
        Stays as it is.
    inputs : Tensor of shape (B, C, H, W)

    Returns
    -------
    dict from module name to (mean, variance), each of shape (channels,)
        At the layer's input; the variance is the biased one the layer divides by.
    """
    private = copy.deepcopy(model).train()
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            channels = args[0].transpose(0, 1).flatten(1)
            seen[name] = channels.mean(1), channels.var(1, unbiased=False)

        return hook

    for name, module in private.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.register_forward_pre_hook(watch(name))
    private(inputs)
    return seen


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
