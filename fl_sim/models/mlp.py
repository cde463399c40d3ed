"""Multilayer perceptron: flatten, then linear layers with one activation between them."""

from __future__ import annotations

import math

from torch import Tensor, nn

from fl_sim.models.activations import make_activation
from fl_sim.models.initialize import initialize
from fl_sim.models.layers import linear_stack, positive


class MLP(nn.Module):
    """Fully connected network.

    Parameters
    ----------
    input_shape : tuple of int
        Shape of one input; flattened here.
    num_classes : int
        Number of outputs.
    width : int, default 1024
        Units of each hidden layer.
    depth : int, default 2
        Number of linear layers; 1 is a linear classifier.
    activation : str, default "gelu"
        An elementwise activation of torch.nn, by its lower-case name.
    init : str, default "default"
        See `initialize`.

    Raises
    ------
    ValueError
        If a setting is none of its choices or out of its range.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        width: int = 1024,
        depth: int = 2,
        activation: str = "gelu",
        init: str = "default",
    ) -> None:
        super().__init__()
        positive(width=width, depth=depth)
        make_activation(activation)  # refused here even where depth=1 needs none
        self.flatten = nn.Flatten()
        sizes = [math.prod(input_shape), *[width] * (depth - 1), num_classes]
        self.layers = linear_stack(sizes, activation)
        initialize(self, init)

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs (B, *input_shape) to logits (B, num_classes)."""
        return self.layers(self.flatten(x))
