"""What the client would have returned for a candidate batch, as a differentiable function of it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attacks.base import Loss


def private_model(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Deep copy in the mode the server sent it in, without dropout's randomness.

    In-place activations become out-of-place ones, which a second derivative needs.

    Parameters
    ----------
    model : nn.Module
        Not changed.
    dtype : torch.dtype
        Of the copy's parameters and buffers, integer ones excepted.

    Returns
    -------
    nn.Module
    """
    private = copy.deepcopy(model).to(dtype)
    for module in private.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]
    return private


@dataclass(frozen=True)
class Client:
    """A simulated client: candidate inputs and labels in, its gradient out.

    Attributes
    ----------
    model : nn.Module
        A private copy.
    names : tuple of str
        Parameters whose gradient was observed.
    loss : "cross_entropy" or "mse"
        Mean-reduced.
    local_steps : int
        Steps of SGD on the same batch; the gradient is the mean along the path.
    lr : float
        Their learning rate.
    """

    model: nn.Module
    names: tuple[str, ...]
    loss: Loss
    local_steps: int = 1
    lr: float = 0.1

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters of `names`, in that order."""
        lookup = dict(self.model.named_parameters())
        return [lookup[name] for name in self.names]

    def gradient(self, inputs: Tensor, labels: Tensor) -> Sequence[Tensor]:
        """Gradient by each parameter, with its graph.

        Parameters
        ----------
        inputs : Tensor of shape (B, *input_shape)
        labels : Tensor of shape (B,) of class indices, or (B, C) of class logits or of targets

        Returns
        -------
        sequence of Tensor
            One for each of `names`, of the parameter's shape.
        """
        start = self.parameters
        if self.local_steps == 1:
            return self._one(self.model(inputs), labels, start)
        # theta_{k+1} = theta_k - lr g_k; the update is lr times the sum of the g_k
        current, path = start, []
        for _ in range(self.local_steps):
            state = dict(zip(self.names, current, strict=True))
            output = torch.func.functional_call(self.model, state, (inputs,))
            path.append(self._one(output, labels, current))
            current = [p - self.lr * g for p, g in zip(current, path[-1], strict=True)]
        return [torch.stack(g).mean(0) for g in zip(*path, strict=True)]

    def _one(
        self, output: Tensor, labels: Tensor, parameters: Sequence[Tensor]
    ) -> Sequence[Tensor]:
        value = mean_loss(output, labels, self.loss)
        return torch.autograd.grad(value, parameters, create_graph=True, materialize_grads=True)


def mean_loss(output: Tensor, labels: Tensor, loss: Loss) -> Tensor:
    """Mean loss of a batch; class labels may be indices or logits to be optimised.

    Parameters
    ----------
    output : Tensor of shape (B, C)
        Of the model; of any shape for "mse".
    labels : Tensor of shape (B,) of class indices, or (B, C) of class logits
        For "mse" targets, as many as outputs.
    loss : "cross_entropy" or "mse"
        Mean-reduced.

    Returns
    -------
    Tensor of shape ()
    """
    if loss == "mse":
        return (output - labels.reshape(output.shape)).square().mean()
    if labels.is_floating_point():
        soft = torch.softmax(labels, 1)
        return -(soft * torch.log_softmax(output, 1)).sum(1).mean()
    return nn.functional.cross_entropy(output, labels)
