"""Pieces that several models share: checked settings, stacks of linear layers, downsampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import nn

from fl_sim.models.activations import make_activation


def positive(**settings: object) -> None:
    """Refuse settings that are not whole numbers of at least 1.

    Raises
    ------
    ValueError
        Naming the key of the scenario and the value.
    """
    for name, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"model.{name}={value!r} is not a whole number of at least 1.")


def one_of(choices: Sequence[str], **settings: object) -> None:
    """Refuse settings that are none of the choices.

    Raises
    ------
    ValueError
        Naming the key of the scenario, the value and the choices.
    """
    for name, value in settings.items():
        if value not in choices:
            raise ValueError(f"model.{name}={value!r} is not one of {', '.join(choices)}.")


def linear_stack(sizes: Sequence[int], activation: str) -> nn.Sequential:
    """Linear layers with activations between them.

    Parameters
    ----------
    sizes : sequence of int
        Numbers of units, from the input to the output; at least two.
    activation : str
        See `make_activation`.
    """
    layers: list[nn.Module] = []
    for units_in, units_out in pairwise(sizes):
        if layers:
            layers.append(make_activation(activation))
        layers.append(nn.Linear(units_in, units_out))
    return nn.Sequential(*layers)


def head(
    front: nn.Module,
    input_shape: tuple[int, ...],
    num_classes: int,
    width: int,
    depth: int,
    activation: str,
) -> nn.Sequential:
    """Flatten what `front` returns and classify it by `depth` linear layers of `width` units.

    The number of features is found by sending one zero image through `front`.

    Parameters
    ----------
    front : nn.Module
        Stays as it is, and is no part of the result.
    input_shape : tuple of int
        Of one input of `front`.
    num_classes : int
        Number of outputs.
    width, depth : int
        Units of each hidden layer, and number of layers; at least 1.
    activation : str
        See `make_activation`.

    Raises
    ------
    ValueError
        If the image is too small for `front`, or a setting is bad.
    """
    positive(width=width, depth=depth)
    make_activation(activation)  # refused here even where nothing needs it
    features = feature_count(front, input_shape)
    stack = linear_stack([features, *[width] * (depth - 1), num_classes], activation)
    return nn.Sequential(nn.Flatten(), *stack)


def feature_count(front: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Number of values that `front` makes of one input; its state stays as it is.

    Parameters
    ----------
    front : nn.Module
    input_shape : tuple of int
        Of one input.

    Raises
    ------
    ValueError
        If the input is too small for `front`.
    """
    was_training = front.training
    try:
        with torch.no_grad():
            return front.eval()(torch.zeros(1, *input_shape)).numel()
    except RuntimeError as error:
        raise ValueError(
            f"Images of shape {tuple(input_shape)} do not fit this model: "
            f"{str(error).splitlines()[0]}."
        ) from error
    finally:
        front.train(was_training)


POOLS: dict[str, Callable[..., nn.Module]] = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}
"""Pooling layers that halve a side, by name."""
