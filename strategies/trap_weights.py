"""Trap weights: units of the first layer that hardly any sample activates.

Half of a row's weights are negative, the other half the same numbers with the sign turned and made
a little smaller, both in random places. Bright and dark images alike then fall short of most
units' threshold, and where a single sample of the batch passes, the unit's gradient is that sample
times a number: `attacks.AnalyticAttack` divides it out. Each row looks like an ordinary draw with a
slightly negative mean.
"""

from __future__ import annotations

import torch
from torch import Generator, nn

from strategies.queries import Query, linear_layers


class TrapWeights(Query):
    """Draw the first layer's rows so that a rectifier behind it rarely lets a sample through.

    Parameters
    ----------
    shift : float
        What makes all inputs positive: mean over standard deviation of the pixels where inputs are
        standardised, which the server has to know roughly (0.81 for Fashion-MNIST); 0 for inputs
        in [0, 1]. Not negative. It goes into the biases.
    scale : float, default 0.85
        Size of the positive weights in units of the negative ones, between 0 and 1. At the default
        a Fashion-MNIST image passes 8 % of the units, which reads most of batches of 32. Smaller
        scales shut all but the darkest images out; larger images need larger ones.

    Raises
    ------
    ValueError
        If a value is out of its range.

    References
    ----------
    Boenisch et al., "When the Curious Abandon Honesty: Federated Learning Is Not Private", 2023
    (arXiv 2112.02918), section 5 and algorithm 1.
    """

    def __init__(self, shift: float, scale: float = 0.85) -> None:
        if not 0 < scale < 1:
            raise ValueError(f"scale={scale!r} must lie between 0 and 1.")
        if not shift >= 0:
            raise ValueError(f"shift={shift!r} must not be negative.")
        self.scale = scale
        self.shift = shift

    @torch.no_grad()
    def craft(self, model: nn.Module, generator: Generator) -> None:
        """Overwrite the first linear layer; its weights keep their size.

        Raises
        ------
        ValueError
            If there is none, or it has no bias.
        """
        first = linear_layers(model, 1)[0]
        if first.bias is None:
            raise ValueError("Trap weights need a bias in the first linear layer.")
        units, inputs = first.weight.shape
        half = inputs // 2
        negative = -torch.randn(units, inputs - half, generator=generator).abs()
        positive = -self.scale * negative[:, :half]
        rows = torch.cat([negative, positive], 1)
        places = torch.rand(units, inputs, generator=generator).argsort(1)
        rows = rows.gather(1, places) * float(first.weight.std())
        first.weight.copy_(rows)
        first.bias.copy_(self.shift * rows.sum(1))
