"""The client as the attacker simulates it: plain SGD on hypothetical samples.

An update's first layer has exactly the samples' span as its row space, whatever the number of
steps. So everything happens in the coordinates of that space: the first layer becomes a small one
with as many inputs as there are samples, and a simulated step costs next to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad

from attacks.tensor.layers import LinearPair, private_copy
from attacks.tensor.subspace import GradientSpace, LayerGradient

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class ReducedClient:
    """Local SGD in the coordinates of an update's row space.

    Attributes
    ----------
    model : nn.Module
        Float64, with a first layer of r inputs and no bias.
    hidden : str
        Name of that layer.
    lr : float
        Learning rate.
    """

    model: nn.Module
    hidden: str
    lr: float

    def parameters(self) -> Tensors:
        """Return the parameters that were sent."""
        return {name: p.detach() for name, p in self.model.named_parameters()}

    def update(self, points: Tensor, labels: Tensor, order: Tensor) -> Tensors:
        """Sum of the steps' gradients, differentiable in the points.

        Parameters
        ----------
        points : Tensor of shape (n, r)
            The samples.
        labels : Tensor of shape (n,)
            Their classes.
        order : int Tensor of shape (k, b)
            Which samples each step takes.
        """

        def loss(parameters: Tensors, x: Tensor, y: Tensor) -> Tensor:
            return nn.functional.cross_entropy(functional_call(self.model, parameters, (x,)), y)

        state = self.parameters()
        total = {name: torch.zeros_like(value) for name, value in state.items()}
        for chosen in order:
            step = grad(loss)(state, points[chosen], labels[chosen])
            state = {name: value - self.lr * step[name] for name, value in state.items()}
            total = {name: value + step[name] for name, value in total.items()}
        return total

    def columns(self, points: Tensor, labels: Tensor, order: Tensor) -> Tensor:
        """Each sample's column D_i of the first layer's update ``D X``, shape (m, n)."""
        caught: list[Tensor] = []
        layer = self.model.get_submodule(self.hidden)
        handle = layer.register_forward_hook(lambda _, __, output: caught.append(output))
        state = {name: value.requires_grad_() for name, value in self.parameters().items()}
        columns = points.new_zeros(len(points), len(state[f"{self.hidden}.weight"]))
        try:
            for chosen in order:
                caught.clear()
                output = functional_call(self.model, state, (points[chosen],))
                loss = nn.functional.cross_entropy(output, labels[chosen])
                inner, *step = torch.autograd.grad(loss, [caught[0], *state.values()])
                columns = columns.index_add(0, chosen, inner)
                state = {
                    name: (value - self.lr * g).detach().requires_grad_()
                    for (name, value), g in zip(state.items(), step, strict=True)
                }
        finally:
            handle.remove()
        return columns.T.detach()


def reduced_client(
    model: nn.Module, pair: LinearPair, layer: LayerGradient, space: GradientSpace, lr: float
) -> ReducedClient:
    """Return the client with its first layer in the coordinates of a row space."""
    small = private_copy(model).double()
    weight = layer.weight @ space.V
    slim = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
    slim.weight = nn.Parameter(weight)
    owner, _, name = pair.hidden.rpartition(".")
    setattr(small.get_submodule(owner), name, slim)
    return ReducedClient(small, pair.hidden, lr)


def reduced_update(
    total: Tensors, pair: LinearPair, layer: LayerGradient, space: GradientSpace
) -> Tensors:
    """Return an observed sum of gradients as the reduced client would have sent it."""
    weight = f"{pair.hidden}.weight"
    kept = {k: v.double() for k, v in total.items() if k not in (weight, f"{pair.hidden}.bias")}
    return {weight: layer.gradient @ space.V, **kept}


def stepped(model: nn.Module, inputs: Tensor, labels: Tensor, lr: float) -> Tensors:
    """Take one step of a float64 model in place, and return the gradient it went along."""
    loss = nn.functional.cross_entropy(model(inputs), labels)
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters)
    with torch.no_grad():
        for parameter, g in zip(parameters, gradients, strict=True):
            cast(Tensor, parameter).sub_(lr * g)
    return dict(zip(names, gradients, strict=True))
