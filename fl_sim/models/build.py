"""`build_model`: a model's configuration and a seed give the same parameters, bit by bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from fl_sim.instantiate import instantiate


def build_model(
    config: Mapping[str, Any], image_shape: tuple[int, int, int], num_classes: int, seed: int
) -> nn.Module:
    """Build a model on the CPU, in training mode.

    Parameters
    ----------
    config : mapping
        The scenario's node `model`: `_target_` and its settings.
    image_shape : tuple of int
        (C, H, W) of the inputs.
    num_classes : int
        Number of outputs.
    seed : int
        Decides the parameters. The global random state is as before afterwards, on all devices.

    Raises
    ------
    ValueError
        If the model has no such setting or refuses its value.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model: nn.Module = instantiate(
            config, input_shape=tuple(image_shape), num_classes=num_classes
        )
    return model
