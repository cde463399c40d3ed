"""What the client would have returned for a candidate batch, as a differentiable function of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attacks.reading.losses import Loss, mean_loss
from attacks.reading.private import private_copy
from attacks.reading.twice import differentiable_twice, twice_differentiable


def private_model(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Private copy in the mode the server sent it in, without dropout's randomness.

    It can be differentiated twice, as far as `attacks.reading.twice` knows how.

    Parameters
    ----------
    model : nn.Module
        Not changed.
    dtype : torch.dtype
        Of the copy's parameters and buffers, integer ones excepted.

    Returns
    -------
    nn.Module

    Raises
    ------
    NotApplicable
        If the model cannot be copied.
    """
    private = private_copy(model).to(dtype)
    for module in private.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()
    return twice_differentiable(private)


@dataclass(frozen=True)
class Client:
    """A simulated client: candidate inputs and labels in, its gradient out.

    Attributes
    ----------
    model : nn.Module
        A private copy.
    names : tuple of str
        Parameters whose gradient was observed.
    loss : str or callable
        As in `Problem`.
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
        current, path = self.parameters, []
        if self.local_steps == 1:
            return self._one(inputs, labels, current, moved=False)
        # theta_{k+1} = theta_k - lr g_k; the update is lr times the sum of the g_k
        for _ in range(self.local_steps):
            path.append(self._one(inputs, labels, current, moved=True))
            current = [p - self.lr * g for p, g in zip(current, path[-1], strict=True)]
        return [torch.stack(g).mean(0) for g in zip(*path, strict=True)]

    def _one(
        self, inputs: Tensor, labels: Tensor, parameters: Sequence[Tensor], moved: bool
    ) -> Sequence[Tensor]:
        """Gradient at the model's own parameters, or where they have moved to."""
        with differentiable_twice():
            state = dict(zip(self.names, parameters, strict=True)) if moved else {}
            call = torch.func.functional_call
            output = call(self.model, state, (inputs,)) if moved else self.model(inputs)
            value = mean_loss(output, labels, self.loss)
        return torch.autograd.grad(value, parameters, create_graph=True, materialize_grads=True)
