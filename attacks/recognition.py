"""Known samples in another gradient: a first layer's gradient spans the samples it came from.

A sample that was read from one update is in the batch of another if it lies in the row space of
that one's gradient; nothing has to be searched, no label, activation or loss matters, and it works
where the search for new samples fails, for one because the model has been trained since.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.base import Problem
from attacks.tensor.attack import layer_gradient, readable_pair
from attacks.tensor.subspace import gradient_space

OUTSIDE = 1e-3
"""Relative distance from the row space up to which a sample is recognised."""

FULLEST = 0.5
"""Share of the input's dimensions that the row space may fill and still say something."""


def outside(problem: Problem, samples: Tensor) -> Tensor:
    """How far samples lie outside a gradient's row space.

    Parameters
    ----------
    problem : Problem
    samples : Tensor of shape (n, *input_shape)
        Candidates.

    Returns
    -------
    Tensor of shape (n,)
        Relative distances in float64, between 0 and 1; all 1 if the row space is nearly full.

    Raises
    ------
    NotApplicable
        If the model does not begin with a pair of linear layers.
    """
    layer = layer_gradient(problem, readable_pair(problem))
    space = gradient_space(layer)
    x = samples.flatten(1).to(space.V)
    if space.rank > FULLEST * min(layer.weight.shape):
        return torch.ones_like(x[:, 0])
    if layer.biased:
        x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
    return (x - (x @ space.V) @ space.V.T).norm(dim=1) / x.norm(dim=1).clamp_min(1e-300)
