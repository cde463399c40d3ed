"""Soteria: prune the part of the gradient that says most about the input, in one layer."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.func import jacrev

from fl_sim.defenses.base import Defense, Step, Tensors


class Soteria(Defense):
    """Perturb the representation in front of the last linear layer.

    With r the representation of an input x, the features of largest ``|r_i| / |dr_i/dx|``, summed
    over the batch, are taken out of the last layer's weight gradient: changing those hides most of
    the input at the least change of r. Biases and all other layers are sent as they are.

    Which features are pruned depends on the raw inputs of the whole batch and can be seen in what
    is sent, so DP-SGD reports no epsilon beside Soteria.

    Parameters
    ----------
    prune : float, default 0.5
        Share of the features, in [0, 1].

    Raises
    ------
    ValueError
        If the share is out of its range.

    References
    ----------
    Sun et al., "Soteria: Provable Defense against Privacy Leakage in Federated Learning from
    Representation Perspective", 2021 (arXiv 2012.06043), section 4.
    """

    couples_samples: ClassVar[bool] = True

    def __init__(self, prune: float = 0.5) -> None:
        if not 0 <= prune <= 1:
            raise ValueError(f"defense.soteria.prune={prune!r} must be from 0 to 1.")
        self.prune = prune

    def on_gradient(self, gradient: Tensors, step: Step, generator: Generator) -> Tensors:
        """Return the gradient without the last layer's columns for the pruned features.

        Raises
        ------
        ValueError
            If the model has no linear layer.
        """
        layers = [(n, m) for n, m in step.model.named_modules() if isinstance(m, nn.Linear)]
        if not layers:
            raise ValueError("defense=soteria needs a model with a linear layer.")
        name, layer = layers[-1]
        scores = sum(sensitivity(step.model, layer, x) for x in step.inputs)
        assert isinstance(scores, Tensor)
        pruned = scores.topk(round(self.prune * len(scores))).indices
        weight = gradient[f"{name}.weight"].clone()
        weight[:, pruned] = 0
        return {**gradient, f"{name}.weight": weight}


def sensitivity(model: nn.Module, layer: nn.Linear, x: Tensor) -> Tensor:
    """Return ``|r_i| / |dr_i/dx|`` of each feature r_i that a layer gets for one input.

    Parameters
    ----------
    model : nn.Module
    layer : nn.Linear
        One of its modules.
    x : Tensor of shape (C, H, W)

    Returns
    -------
    Tensor of shape (layer.in_features,)
        Zero where the feature is.
    """

    def representation(x: Tensor) -> tuple[Tensor, Tensor]:
        seen: list[Tensor] = []
        handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            model(x[None])
        finally:
            handle.remove()
        features = seen[0].reshape(-1, layer.in_features).mean(0)
        return features, features

    slope, features = jacrev(representation, has_aux=True, chunk_size=256)(x)
    steepness = slope.flatten(1).norm(dim=1).clamp_min(torch.finfo(x.dtype).tiny)
    return (features.abs() / steepness).detach()
