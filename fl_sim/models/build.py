"""`build_model`: a model's configuration and a seed give the same parameters, bit by bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from fl_sim.instantiate import accepted, instantiate, load


def build_model(
    config: Mapping[str, Any], image_shape: tuple[int, int, int], num_classes: int, seed: int
) -> nn.Module:
    """Build a model on the CPU, in training mode.

    Parameters
    ----------
    config : mapping
        The scenario's node `model`: `_target_` and its settings. The target gets `input_shape` and
        `num_classes` beside these, if it takes them.
    image_shape : tuple of int
        (C, H, W) of the inputs.
    num_classes : int
        Number of outputs.
    seed : int
        Decides the parameters. The global random state is as before afterwards, on all devices.

    Raises
    ------
    ValueError
        If the model has no such setting or refuses its value, or is none that could be trained.
    """
    target = str(config.get("_target_"))
    given = accepted(load(target, "model"), input_shape=tuple(image_shape), num_classes=num_classes)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model: nn.Module = instantiate(config, **given)
    if not isinstance(model, nn.Module):
        kind = type(model).__name__
        raise ValueError(f"model._target_={target} makes no torch.nn.Module, but a {kind}.")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"model._target_={target} makes a model without parameters to train.")
    return model
