"""`build_model`: a model's configuration and a seed give the same parameters, bit by bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from attacks.reading.outputs import prediction
from fl_sim.instantiate import accepted, instantiate, load

ZOO = "fl_sim.models."
"""Models from there return their prediction alone."""


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
    found = load(target, "model")
    if isinstance(found, nn.Module):
        raise ValueError(
            f"model._target_={target} is a {type(found).__name__} already made; it has to be a "
            "class or a function that makes a model."
        )
    given = accepted(found, input_shape=tuple(image_shape), num_classes=num_classes)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model: nn.Module = instantiate(config, **given)
        if isinstance(model, nn.Module) and _lazy(model):
            _materialize(model, image_shape, f"model._target_={target}")
    if not isinstance(model, nn.Module):
        kind = type(model).__name__
        raise ValueError(f"model._target_={target} makes no torch.nn.Module, but a {kind}.")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"model._target_={target} makes a model without parameters to train.")
    if not target.startswith(ZOO) and not isinstance(model, torch.jit.ScriptModule):
        model.register_forward_hook(_prediction_alone)
    return model


def _prediction_alone(model: nn.Module, args: Any, output: Any) -> Tensor:
    """Forward hook: of a dictionary, tuple or record of outputs, the prediction comes out."""
    return prediction(output)


def _lazy(model: nn.Module) -> list[str]:
    """Return the parameters and buffers whose shape the first batch decides."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return [name for name, tensor in named if is_lazy(tensor)]


def _materialize(model: nn.Module, image_shape: tuple[int, int, int], name: str) -> None:
    """Give lazy parameters their shapes, by two blank images; modes stay as they are."""
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(2, *image_shape))
    except Exception as error:
        told = " ".join(str(error).split())
        raise ValueError(
            f"{name} fails on inputs of shape {(2, *image_shape)}, which its lazy layers take "
            f"their shapes from: {type(error).__name__}: {told}"
        ) from error
    for module, training in modes.items():
        module.training = training
    if left := _lazy(model):
        raise ValueError(f"{name} has lazy {left[0]!r}, which no forward pass gives a shape.")
