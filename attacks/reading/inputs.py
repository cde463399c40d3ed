"""Inputs to run a model on when none of the client's are at hand: their shape, and random ones."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from attacks.errors import NotApplicable
from attacks.reading.private import dtype_of
from attacks.reading.recording import accepts


def resolve_input_shape(model: nn.Module, input_shape: tuple[int, ...] | None) -> tuple[int, ...]:
    """Shape of one input, taken from a leading linear layer if it is not given.

    Parameters
    ----------
    model : nn.Module
        Not changed; run on a guess or two if no shape is given.
    input_shape : tuple of int or None
        Returned as it is, unless None.

    Returns
    -------
    tuple of int
        Of the guesses (d,), (1, s, s), (3, s, s) for a leading linear layer of d inputs the first
        one that the model takes; (d,) if it takes none.

    Raises
    ------
    NotApplicable
        If it is not given and the model does not begin with a linear layer.
    """
    if input_shape is not None:
        return input_shape
    first = next(
        (
            m
            for m in model.modules()
            if next(m.parameters(recurse=False), None) is not None and not list(m.children())
        ),
        None,
    )
    if not isinstance(first, nn.Linear):
        raise NotApplicable(
            "The model does not begin with a linear layer, so the attack needs "
            "input_shape=(C, H, W)."
        )
    guesses = _guesses(first.in_features)
    return next((shape for shape in guesses if _fits(model, shape)), guesses[0])


def _guesses(features: int) -> list[tuple[int, ...]]:
    shapes: list[tuple[int, ...]] = [(features,)]
    for channels in (1, 3):
        side = math.isqrt(features // channels)
        if channels * side * side == features:
            shapes.append((channels, side, side))
    return shapes


def _fits(model: nn.Module, shape: tuple[int, ...]) -> bool:
    training = model.training
    try:
        accepts(model.eval(), random_inputs(model, shape, 2))
    except NotApplicable:
        return False
    finally:
        model.train(training)
    return True


def checked_shape(input_shape: Sequence[int] | None) -> tuple[int, ...] | None:
    """A shape as a tuple of positive integers.

    Raises
    ------
    ValueError
        If it is none; the message names it.
    """
    if input_shape is None:
        return None
    try:
        shape = tuple(operator.index(n) for n in input_shape)
    except TypeError:  # no sequence, or not of whole numbers
        shape = (0,)
    if not shape or min(shape) <= 0:
        raise ValueError(f"input_shape={input_shape!r} is no tuple of positive integers.")
    return shape


def random_inputs(model: nn.Module, input_shape: tuple[int, ...], count: int) -> Tensor:
    """Standard normal inputs on the model's device, the same on every call.

    Parameters
    ----------
    model : nn.Module
        Its first parameter gives the device, its first floating one the dtype.
    input_shape : tuple of int
        Shape of one input.
    count : int
        Number of inputs.

    Returns
    -------
    Tensor of shape (count, *input_shape)
    """
    like = next(model.parameters(), None)
    device = like.device if like is not None else torch.device("cpu")
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(count, *input_shape, generator=generator)
    return drawn.to(device=device, dtype=dtype_of(model))


def drawing(model: nn.Module, input_shape: tuple[int, ...]) -> Callable[[int], Tensor]:
    """`random_inputs` of a model as a function of their number alone."""
    return partial(random_inputs, model, input_shape)
