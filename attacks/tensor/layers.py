"""Finds where a module can be read: Linear - elementwise activation - Linear.

Between two linear layers (`tracing`) anything counts as an activation that *behaves* elementwise
when probed; nothing is keyed on a class name beyond ``nn.Linear`` itself. Everything runs on a
private copy in evaluation mode, so the caller's module, its gradients and its buffers stay as they
are.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attacks.base import NotApplicable
from attacks.tensor.activation import Activation, probe
from attacks.tensor.tracing import Function, Link, linked_layers, same_values


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
        Whether the first layer sees the (flattened) model input itself.
    at_output : bool
        Whether the second layer's output is the model's output.
    in_features : int
        Width of the first layer's input.
    """

    hidden: str
    outgoing: str
    activation: Activation
    at_input: bool
    at_output: bool
    in_features: int


def private_copy(model: nn.Module) -> nn.Module:
    """Deep copy in evaluation mode, without hooks' side effects on the caller's module."""
    return copy.deepcopy(model).eval()


def find_linear_pairs(
    model: nn.Module, input_shape: tuple[int, ...] | None = None
) -> list[LinearPair]:
    """All Linear - activation - Linear triples of a module, in forward order.

    Parameters
    ----------
    model : nn.Module
        Any module; not changed.
    input_shape : tuple of int, optional
        Shape of one input, needed only if the module cannot be traced symbolically and does not
        begin with a linear layer.

    Returns
    -------
    list of LinearPair
        Empty if there is none.
    """
    model = private_copy(model)
    links = linked_layers(model, input_shape)
    return [pair for link in links if (pair := _examine(model, link)) is not None]


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
        If the module does not begin that way.
    """
    pair = next((p for p in find_linear_pairs(model, input_shape) if p.at_input), None)
    if pair is None:
        raise NotApplicable(
            "The model does not begin with Linear - elementwise activation - Linear; "
            "FeatureInversion (attack=features) reads such layers behind a front end."
        )
    return pair


def _examine(model: nn.Module, link: Link) -> LinearPair | None:
    first = model.get_submodule(link.hidden)
    second = model.get_submodule(link.outgoing)
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    device = first.weight.device
    if first.out_features != second.in_features:
        return None
    if not _is_elementwise(link.between, first.out_features, device):
        return None
    before, after = link.before, link.after
    return LinearPair(
        hidden=link.hidden,
        outgoing=link.outgoing,
        activation=probe(_on_rows(link.between, first.out_features), device),
        at_input=before is not None and _is_reshape(before, first.in_features, device),
        at_output=after is not None and _is_reshape(after, second.out_features, device),
        in_features=first.in_features,
    )


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


def _is_reshape(function: Function, width: int, device: torch.device) -> bool:
    """Whether a function hands the entries of (2, width) rows on unchanged."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, width, generator=generator, dtype=torch.float64).to(device)
    y = _attempt(function, x)
    return y is not None and same_values(x, y.to(x))


def _attempt(function: Function, x: Tensor) -> Tensor | None:
    """The function's value, or None where the module's own code cannot digest the probe."""
    try:
        with torch.no_grad():
            y = function(x)
    except Exception:  # anything a foreign module raises means: not this kind of function
        return None
    return y if isinstance(y, Tensor) else None
