"""Finds where a module can be read: Linear - elementwise activation - Linear.

Between two linear layers (`tracing`) anything counts as an activation that *behaves* elementwise
when probed; nothing is keyed on a class name beyond ``nn.Linear`` itself. Everything runs on a
private copy in evaluation mode, so the caller's module, its gradients and its buffers stay as they
are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attacks.errors import NotApplicable
from attacks.reading.conduct import (
    Conduct,
    Listening,
    conduct,
    same_values,
    weight_named,
)
from attacks.reading.inputs import drawing, resolve_input_shape
from attacks.reading.private import private_copy
from attacks.reading.randomness import kept_randomness
from attacks.reading.recording import Recording, record
from attacks.reading.refusals import BEHIND, unread_layer
from attacks.reading.replay import Function
from attacks.tensor.activation import Activation, probe
from attacks.tensor.tracing import (
    Link,
    explains,
    linked_layers,
    name_at,
)


@dataclass(frozen=True)
class LinearPair:
    """A linear layer, the activation behind it, and the linear layer behind that.

    Attributes
    ----------
    hidden, outgoing : str
        Qualified names of the two ``nn.Linear`` modules.
    activation : Activation
        The elementwise function between them.
    at_input : bool
        Whether the first layer sees the (flattened) model input itself, in evaluation mode and in
        training mode.
    at_output : bool
        Whether the second layer's output is the model's output.
    in_features : int
        Width of the first layer's input.
    reason : str, optional
        Why a layer that is handed the input in evaluation mode is not `at_input` all the same.
    """

    hidden: str
    outgoing: str
    activation: Activation
    at_input: bool
    at_output: bool
    in_features: int
    reason: str | None = None


def find_linear_pairs(
    model: nn.Module, input_shape: tuple[int, ...] | None = None
) -> list[LinearPair]:
    """All Linear - activation - Linear triples of a module, in forward order.

    Parameters
    ----------
    model : nn.Module
        Any module; not changed.
    input_shape : tuple of int, optional
        Shape of one input; needed if the module does not begin with a linear layer.

    Returns
    -------
    list of LinearPair
        Empty if there is none.

    Raises
    ------
    NotApplicable
        If the module does not take inputs of that shape.
    """
    recording, draw = _recorded(model, input_shape)
    return _pairs(recording, draw)


def input_pair(model: nn.Module, input_shape: tuple[int, ...] | None = None) -> LinearPair:
    """The Linear - activation - Linear at a module's input.

    Parameters
    ----------
    model, input_shape
        As for `find_linear_pairs`.

    Returns
    -------
    LinearPair
        The first one at the input.

    Raises
    ------
    NotApplicable
        If the module does not begin that way; the message says what stands there instead.
    """
    recording, draw = _recorded(model, input_shape)
    pairs = _pairs(recording, draw)
    pair = next((p for p in pairs if p.at_input), None)
    if pair is None:
        raise NotApplicable(_refusal(recording, pairs))
    return pair


def _recorded(
    model: nn.Module, input_shape: tuple[int, ...] | None
) -> tuple[Recording, Callable[[int], Tensor]]:
    private = private_copy(model).eval()
    draw = drawing(private, resolve_input_shape(private, input_shape))
    return record(private, draw), draw


def _pairs(recording: Recording, draw: Callable[[int], Tensor]) -> list[LinearPair]:
    found = (_examine(recording, link, draw) for link in linked_layers(recording))
    return [pair for pair in found if pair is not None]


def _refusal(recording: Recording, pairs: list[LinearPair]) -> str:
    """Why no pair of linear layers stands at the input, in one sentence."""
    for pair in pairs:
        if pair.reason is not None:
            return (
                f"What {pair.hidden!r} is handed is not surely the model's input: {pair.reason}. "
                f"{BEHIND}"
            )
    name = None if not recording.linear else name_at(recording, min(recording.linear))
    return unread_layer(recording) or (
        f"Behind {name!r}, which is handed the input, does not stand an elementwise activation "
        "followed by another nn.Linear that everything goes through."
    )


def _examine(recording: Recording, link: Link, draw: Callable[[int], Tensor]) -> LinearPair | None:
    model = recording.model
    first = model.get_submodule(link.hidden)
    second = model.get_submodule(link.outgoing)
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    device = first.weight.device
    if first.out_features != second.in_features:
        return None
    if not _is_elementwise(link.between, first.out_features, device):
        return None
    if not explains(recording, link, draw):
        return None
    whole = recording.linear[link.first][0].numel() == len(recording.inputs) * first.in_features
    at_input = link.at_input and whole
    met = conduct(model, link.hidden, draw) if at_input else Conduct(False, None)
    return LinearPair(
        hidden=link.hidden,
        outgoing=link.outgoing,
        activation=probe(_on_rows(link.between, first.out_features), device),
        at_input=met.passes,
        at_output=link.at_output and _ends(model, link.outgoing, draw),
        in_features=first.in_features,
        reason=met.reason,
    )


def _ends(model: nn.Module, layer: str, draw: Callable[[int], Tensor]) -> bool:
    """Whether a layer's product is the model's output in training mode, too."""
    lively = private_copy(model).train()
    listening = Listening({layer: weight_named(lively, layer)})
    try:
        with torch.no_grad(), kept_randomness(0), listening:
            output = lively(draw(4))
    except Exception:  # the module's own code may raise anything
        return False
    return layer in listening.said and same_values(listening.said[layer], output)


def _on_rows(function: Function, width: int) -> Function:
    """A function of (n, width) rows as a function of a tensor of any shape."""

    def anywhere(z: Tensor) -> Tensor:
        padding = -z.numel() % width
        rows = torch.cat([z.flatten(), z.new_zeros(padding)]).reshape(-1, width)
        return function(rows).flatten()[: z.numel()].reshape(z.shape)

    return anywhere


def _is_elementwise(function: Function, width: int, device: torch.device) -> bool:
    """Whether a function commutes with every shuffling of its input's entries."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(3, width, generator=generator, dtype=torch.float64)
    order = torch.randperm(z.numel(), generator=generator).to(device)
    z = z.to(device)
    straight = _attempt(function, z)
    shuffled = _attempt(function, z.flatten()[order].reshape(z.shape))
    if straight is None or shuffled is None or straight.shape != z.shape:
        return False
    return torch.allclose(straight.flatten()[order], shuffled.flatten(), rtol=1e-9, atol=1e-12)


def _attempt(function: Function, x: Tensor) -> Tensor | None:
    """The function's value, or None where the module's own code cannot digest the probe."""
    try:
        with torch.no_grad():
            y = function(x)
    except Exception:  # anything a foreign module raises means: not this kind of function
        return None
    return y if isinstance(y, Tensor) else None
