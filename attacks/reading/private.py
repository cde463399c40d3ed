"""Private copies: a model as attacks may run it, whatever its owner had wrapped around it.

An attack runs, differentiates and cuts up a model many times and must not leave a trace on it. What
people hand over is often more than a plain module: wrapped for several devices or compiled, holding
activations of the last forward pass, with layers that write over their input, returning a
dictionary, rounding to float32 somewhere. A private copy computes the same function and has none of
this: its parameters are named as in the bare module, and its output is the prediction alone.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from attacks.errors import NotApplicable
from attacks.reading.outputs import prediction

WRAPPERS = {
    "module": ("DataParallel", "DistributedDataParallel"),
    "_orig_mod": ("OptimizedModule",),
}
"""Attributes under which wrapping modules keep what they wrap, and the wrappers' class names."""


def private_copy(model: nn.Module) -> nn.Module:
    """Deep copy without wrappers, that overwrites nothing and returns its prediction alone.

    Parameters
    ----------
    model : nn.Module
        Any; left as it was found.

    Returns
    -------
    nn.Module
        In the mode the model is in; a copy of a private copy is one too.

    Raises
    ------
    NotApplicable
        If the model holds something that cannot be copied; the message names it.
    """
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise NotApplicable(
                f"{repr(name) if name else 'The model'} is a {type(module).__name__}, which cannot "
                "be looked into: hand over the Python module that it was made of."
            )
    try:
        with _Detaching():
            private = copy.deepcopy(unwrapped(model))
    except Exception as reason:  # a copy runs the modules' own code, which may raise anything
        raise NotApplicable(f"The model cannot be copied: {reason}.") from reason
    for module in private.modules():
        for name, child in module.named_children():
            setattr(module, name, unwrapped(child))
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]
    if not isinstance(private, _Private):
        kind = type(private)
        try:
            private.__class__ = type(f"Private{kind.__name__}", (_Private, kind), {})
        except TypeError as reason:
            raise NotApplicable(
                f"The model's class cannot be inherited from: {reason}."
            ) from reason
    return private


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside wrappers for several devices or compilation.

    Parameters
    ----------
    model : nn.Module
        Any.

    Returns
    -------
    nn.Module
        `model` itself if it is none of `WRAPPERS`.
    """
    while (attribute := wrapped_at(model)) is not None:
        model = getattr(model, attribute)
    return model


def is_linear(module: nn.Module) -> bool:
    """Whether a module is an ``nn.Linear`` that computes what one computes.

    Parameters
    ----------
    module : nn.Module
        Any, a private copy too.

    Returns
    -------
    bool
        False for a subclass with a forward pass of its own.
    """
    kinds = [kind for kind in type(module).__mro__ if not issubclass(kind, _Private)]
    own = "forward" in vars(module)  # set on the instance, as by libraries that hook into models
    return not own and kinds[0].forward is nn.Linear.forward  # type: ignore[attr-defined]


def wrapped_at(module: nn.Module) -> str | None:
    """The attribute under which a wrapper keeps its module; None for any other module."""
    names = {kind.__name__ for kind in type(module).__mro__}
    return next((key for key, kinds in WRAPPERS.items() if names.intersection(kinds)), None)


def dtype_of(model: nn.Module) -> torch.dtype:
    """Floating dtype a model computes in: its first floating parameter's or buffer's.

    Parameters
    ----------
    model : nn.Module
        Any.

    Returns
    -------
    torch.dtype
        The default dtype if it has neither.
    """
    return next((t.dtype for t in _tensors(model)), torch.get_default_dtype())


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from (p for p in model.parameters() if p.is_floating_point())
    yield from (b for b in model.buffers() if b.is_floating_point())


@contextmanager
def kept_buffers(model: nn.Module) -> Iterator[None]:
    """Put a model's buffers back to what they were after a block.

    A private copy has its own; but code in it may hold on to the model it was copied from.

    Parameters
    ----------
    model : nn.Module
        Anybody's.
    """
    before = [(buffer, buffer.detach().clone()) for buffer in model.buffers() if not buffer.is_meta]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


@contextmanager
def differentiating() -> Iterator[None]:
    """Derivatives at full precision in a block, whatever the caller had switched off around it."""
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", enabled=False):
        yield


class _Detaching(TorchFunctionMode):
    """Copies tensors that have a history without it, where deepcopy would refuse."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            if id(tensor) not in memo:
                memo[id(tensor)] = tensor.detach().clone()
            return memo[id(tensor)]
        return func(*args, **(kwargs or {}))


class Precise(TorchFunctionMode):
    """Casts to a coarser float type keep double precision instead."""

    NAMES = ("float", "half", "bfloat16", "to", "type", "type_as")

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        value = func(*args, **(kwargs or {}))
        cast_down = (
            getattr(func, "__name__", "") in self.NAMES
            and isinstance(value, Tensor)
            and value.is_floating_point()
            and value.dtype != torch.float64
        )
        if cast_down and isinstance(args[0], Tensor):
            return args[0].to(device=value.device, dtype=torch.float64)
        return value


class _Private:
    """What a private copy's class adds: one prediction comes out, as precise as the weights."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The prediction."""
        forward = super().forward  # type: ignore[misc]
        if dtype_of(cast(nn.Module, self)) == torch.float64:
            with Precise():
                return prediction(forward(*args, **kwargs))
        return prediction(forward(*args, **kwargs))
