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
from torch.func import functional_call

from attacks.reading.private import private_copy
from attacks.reading.twice import twice_differentiable
from attacks.tensor.layers import LinearPair
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
    momentum : float
        As in ``torch.optim.SGD``.
    """

    model: nn.Module
    hidden: str
    lr: float
    momentum: float = 0.0

    def parameters(self) -> Tensors:
        """Return the parameters that were sent."""
        return {name: p.detach().clone() for name, p in self.model.named_parameters()}

    def update(self, points: Tensor, labels: Tensor, order: Tensor) -> Tensors:
        """Sum of the steps over the learning rate, differentiable in the points.

        Parameters
        ----------
        points : Tensor of shape (n, r)
            The samples.
        labels : Tensor of shape (n,)
            Their classes.
        order : int Tensor of shape (k, b)
            Which samples each step takes.

        Returns
        -------
        dict from parameter name to Tensor
            One for each of the client's parameters.
        """
        shares = points.new_full(order.shape, 1 / order.shape[1])
        return self.weighted_update(points, labels, order, shares)

    def weighted_update(
        self, points: Tensor, labels: Tensor, order: Tensor, shares: Tensor
    ) -> Tensors:
        """As `update`, with a share of its step's loss for each sample; differentiable in both.

        Parameters
        ----------
        points : Tensor of shape (n, r)
            The samples.
        labels : int Tensor of shape (n,)
            Their classes.
        order : int Tensor of shape (k, b)
            Which samples each step takes.
        shares : Tensor of shape (k, b)
            Weights of their losses in the step's; 1 / b each makes the mean.

        Returns
        -------
        dict from parameter name to Tensor
            Sum of the steps over the learning rate.
        """
        state = self.parameters()
        total = {name: torch.zeros_like(value) for name, value in state.items()}
        step: Tensors = {}
        for chosen, share in zip(order, shares, strict=True):
            gradient = self._gradient(state, points[chosen], labels[chosen], share)
            step = self._followed(step, gradient)
            state = {name: value - self.lr * step[name] for name, value in state.items()}
            total = {name: value + step[name] for name, value in total.items()}
        return total

    def weight(self, step: int, steps: int) -> float:
        """How often the gradient of a step counts in the sum of all steps.

        Parameters
        ----------
        step : int
            From 0 to steps - 1.
        steps : int
            Number of steps.

        Returns
        -------
        float
            1 without momentum.
        """
        return sum(self.momentum**later for later in range(steps - step))

    def path(self, points: Tensor, labels: Tensor, order: Tensor, shares: Tensor) -> list[Tensors]:
        """Return the parameters before each step and after the last.

        Parameters
        ----------
        points : Tensor of shape (n, r)
            The samples.
        labels : int Tensor of shape (n,)
            Their classes.
        order : int Tensor of shape (k, b)
            Which samples each step takes.
        shares : Tensor of shape (k, b)
            As for `weighted_update`.

        Returns
        -------
        list of k + 1 dicts from parameter name to Tensor
            Detached.
        """
        states = [self.parameters()]
        step: Tensors = {}
        for chosen, share in zip(order, shares, strict=True):
            gradient = self._gradient(states[-1], points[chosen], labels[chosen], share)
            step = self._followed(step, gradient)
            states.append({n: (v - self.lr * step[n]).detach() for n, v in states[-1].items()})
        return states

    def _followed(self, step: Tensors, gradient: Tensors) -> Tensors:
        """Return the step after one step, which momentum makes more than a gradient."""
        return followed(step, gradient, self.momentum)

    def _gradient(self, state: Tensors, x: Tensor, y: Tensor, share: Tensor) -> Tensors:
        with torch.enable_grad():
            at = {n: v if v.requires_grad else v.requires_grad_() for n, v in state.items()}
            output = functional_call(self.model, at, (x,))
            loss = (nn.functional.cross_entropy(output, y, reduction="none") * share).sum()
            keep = x.requires_grad or share.requires_grad
            step = torch.autograd.grad(loss, list(at.values()), create_graph=keep)
            return dict(zip(at, step, strict=True))

    def class_columns(self, states: list[Tensors], points: Tensor) -> Tensor:
        """Columns each sample would add to the first layer's update, alone and under each label.

        Parameters
        ----------
        states : list of k dicts
            Parameters before each step.
        points : Tensor of shape (n, r)

        Returns
        -------
        Tensor of shape (k, n, classes, m)
        """
        caught: list[Tensor] = []
        layer = self.model.get_submodule(self.hidden)
        handle = layer.register_forward_hook(lambda _, __, output: caught.append(output))
        columns = []
        try:
            for state in states:
                caught.clear()
                at = {name: value.detach().requires_grad_() for name, value in state.items()}
                output = functional_call(self.model, at, (points.detach(),))
                rows = [
                    torch.autograd.grad(output[:, c].sum(), caught[0], retain_graph=True)[0]
                    for c in range(output.shape[1])
                ]
                jacobian = torch.stack(rows, 1)  # (n, classes, m)
                probability = output.detach().softmax(1)
                pull = torch.einsum("nc,ncm->nm", probability, jacobian)
                columns.append(pull[:, None] - jacobian)
        finally:
            handle.remove()
        return torch.stack(columns)

    def columns(self, points: Tensor, labels: Tensor, order: Tensor) -> Tensor:
        """Each sample's column D_i of the first layer's update ``D X``.

        Parameters
        ----------
        points : Tensor of shape (n, r)
            The samples.
        labels : int Tensor of shape (n,)
            Their classes.
        order : int Tensor of shape (k, b)
            Which samples each step takes, with equal shares.

        Returns
        -------
        Tensor of shape (m, n)
            Detached; zero for samples that no step takes.
        """
        caught: list[Tensor] = []
        layer = self.model.get_submodule(self.hidden)
        handle = layer.register_forward_hook(lambda _, __, output: caught.append(output))
        state = self.parameters()
        columns = points.new_zeros(len(points), len(state[f"{self.hidden}.weight"]))
        step: Tensors = {}
        try:
            for t, chosen in enumerate(order):
                caught.clear()
                at = {name: value.requires_grad_() for name, value in state.items()}
                output = functional_call(self.model, at, (points[chosen],))
                loss = nn.functional.cross_entropy(output, labels[chosen])
                inner, *each = torch.autograd.grad(loss, [caught[0], *at.values()])
                columns = columns.index_add(0, chosen, self.weight(t, len(order)) * inner)
                step = self._followed(step, dict(zip(at, each, strict=True)))
                state = {
                    name: (value - self.lr * step[name]).detach() for name, value in at.items()
                }
        finally:
            handle.remove()
        return columns.T.detach()


def reduced_client(
    model: nn.Module,
    pair: LinearPair,
    layer: LayerGradient,
    space: GradientSpace,
    lr: float,
    momentum: float = 0.0,
) -> ReducedClient:
    """Return the client with its first layer in the coordinates of a row space.

    Parameters
    ----------
    model : nn.Module
        As it was sent; not changed.
    pair : LinearPair
        At the model's input.
    layer : LayerGradient
        The pair's weights.
    space : GradientSpace
        Of dimension r.
    lr : float
        Learning rate.
    momentum : float, default 0.0
        As in ``torch.optim.SGD``.

    Returns
    -------
    ReducedClient
        Whose inputs are of shape (n, r).
    """
    small = twice_differentiable(private_copy(model).eval().double())
    weight = layer.weight @ space.V
    slim = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
    slim.weight = nn.Parameter(weight)
    owner, _, name = pair.hidden.rpartition(".")
    setattr(small.get_submodule(owner), name, slim)
    return ReducedClient(small, pair.hidden, lr, momentum)


def reduced_update(
    total: Tensors, pair: LinearPair, layer: LayerGradient, space: GradientSpace
) -> Tensors:
    """Return an observed sum of gradients as the reduced client would have sent it.

    Parameters
    ----------
    total : dict from parameter name to Tensor
        Sum of the steps' gradients.
    pair : LinearPair
        At the model's input.
    layer : LayerGradient
        Made of the same sum.
    space : GradientSpace
        Of dimension r.

    Returns
    -------
    dict from parameter name to Tensor
        In float64; the first layer's weight is of shape (m, r), and its bias is left out.
    """
    weight = f"{pair.hidden}.weight"
    kept = {k: v.double() for k, v in total.items() if k not in (weight, f"{pair.hidden}.bias")}
    return {weight: layer.gradient @ space.V, **kept}


def followed(step: Tensors, gradient: Tensors, momentum: float) -> Tensors:
    """Return the step of SGD that follows another.

    Parameters
    ----------
    step : dict from parameter name to Tensor
        The step before, over the learning rate; empty before the first.
    gradient : dict from parameter name to Tensor
        At the parameters it led to.
    momentum : float
        As in ``torch.optim.SGD``.

    Returns
    -------
    dict from parameter name to Tensor
        Over the learning rate.
    """
    if not step or not momentum:
        return gradient
    return {name: g + momentum * step[name] for name, g in gradient.items()}


def stepped(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    lr: float,
    momentum: float = 0.0,
    before: Tensors | None = None,
) -> tuple[Tensors, Tensors]:
    """Take one step of a float64 model in place; return its gradient, and what it went along.

    Parameters
    ----------
    model : nn.Module
        A private copy; changed.
    inputs : Tensor of shape (b, *input_shape)
        The batch, float64.
    labels : int Tensor of shape (b,)
        Its classes.
    lr : float
        Learning rate.
    momentum : float, default 0.0
        As in ``torch.optim.SGD``.
    before : dict from parameter name to Tensor, optional
        The step before, over the learning rate; None before the first.

    Returns
    -------
    gradient : dict from parameter name to Tensor
        Of the mean cross entropy, before the step.
    step : dict from parameter name to Tensor
        What the parameters moved by, over minus the learning rate.
    """
    loss = nn.functional.cross_entropy(model(inputs), labels)
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters)
    gradient = dict(zip(names, gradients, strict=True))
    step = followed(before or {}, gradient, momentum)
    with torch.no_grad():
        for name, parameter in zip(names, parameters, strict=True):
            cast(Tensor, parameter).sub_(lr * step[name])
    return gradient, step
