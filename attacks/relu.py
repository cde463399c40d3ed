"""What the attacks on ReLU networks share: the layers to read, and how to finish from columns.

SPEAR and peeling find the columns D_i of dL/dW = sum_i D_i x_i' by the zeros an inactive unit
leaves. What follows from the columns (inputs, labels, certificates) is the same
mathematics as in the tensor attack and is taken from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attacks.base import NotApplicable, Problem, Reconstruction, in_layers
from attacks.tensor.assembly import assemble
from attacks.tensor.attack import explained, hopeless, layer_gradient, nothing, readable_pair
from attacks.tensor.layers import LinearPair
from attacks.tensor.peeling import Found
from attacks.tensor.subspace import GradientSpace, LayerGradient, gradient_space


@dataclass(frozen=True)
class Gated:
    """A gradient of Linear - gate - Linear, read and factorised.

    Attributes
    ----------
    problem : Problem
    pair : LinearPair
        Whose activation has a flat part.
    layer : LayerGradient
    space : GradientSpace
    reason : str, optional
        Why the batch cannot be read by counting alone.
    """

    problem: Problem
    pair: LinearPair
    layer: LayerGradient
    space: GradientSpace
    reason: str | None

    @property
    def info(self) -> dict[str, Any]:
        """Diagnostics so far."""
        return {"hidden_layer": self.pair.hidden, "rank": self.space.rank}

    def empty(self, reason: str, **info: Any) -> Reconstruction:
        """An honest empty result."""
        return nothing(self.problem, self.pair, self.info | info | {"reason": reason})

    def finished(self, columns: Tensor, points: Tensor, **info: Any) -> Reconstruction:
        """Inputs, labels and certificates of samples whose columns are known.

        Parameters
        ----------
        columns : Tensor of shape (n, m)
            D_i up to scale.
        points : Tensor of shape (n, rank)
            The samples in the coordinates of the row space; they matter only if n < rank.

        Returns
        -------
        Reconstruction
        """
        gates = self.pair.activation.slope(points @ (self.layer.weight @ self.space.V).T)[0]
        delta = torch.linalg.pinv(gates[:, :, None] * self.space.U) @ columns[:, :, None]
        found = Found(columns, delta[:, :, 0], points)
        result = assemble(self.problem, self.pair, self.layer, self.space, found, self.info | info)
        return explained(self.problem, self.pair, result)


def read_gated(problem: Problem) -> Gated:
    """Find and factorise the first linear layer's gradient.

    Raises
    ------
    NotApplicable
        If the model does not begin with Linear - activation - Linear, the activation has no flat
        part, or the first layer has no bias.
    """
    problem = in_layers(problem)
    pair = readable_pair(problem)
    slopes = pair.activation.slopes
    if not bool((slopes == 0).any()):
        raise NotApplicable(
            f"The activation behind {pair.hidden!r} is flat nowhere, so no unit is ever silent; "
            "the attack needs ReLU or the like."
        )
    layer = layer_gradient(problem, pair)
    if not layer.biased:
        raise NotApplicable(
            f"The attack takes the inputs' scale from the gradient of '{pair.hidden}.bias', "
            "which is not there."
        )
    space = gradient_space(layer)
    return Gated(problem, pair, layer, space, hopeless(space, layer))
