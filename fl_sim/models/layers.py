"""Pieces that several models share: checked settings and stacks of linear layers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

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
    """Linear layers from ``sizes[0]`` to ``sizes[-1]`` units, with activations between them."""
    layers: list[nn.Module] = []
    for units_in, units_out in pairwise(sizes):
        if layers:
            layers.append(make_activation(activation))
        layers.append(nn.Linear(units_in, units_out))
    return nn.Sequential(*layers)
