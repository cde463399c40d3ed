"""Layers that can be differentiated only once, found by trying, and named.

What PyTorch computes with a kernel that has no second derivative mostly says so when one is asked
for; a custom function that is marked as differentiable once says nothing if only derivatives by the
inputs are asked for, and its part of them is missing. Both are told apart from all other failures
by differentiating each layer, alone, on what it was given: once, which works, then twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from attacks.errors import NotApplicable
from attacks.reading import private, twice
from attacks.reading.twice import differentiable_twice

MISSING = "has no second derivative in PyTorch, which {} needs."


@contextmanager
def naming_layers(model: nn.Module, inputs: Tensor, needing: str) -> Iterator[None]:
    """Refuse, in one sentence, where the block fails for want of a second derivative.

    Parameters
    ----------
    model : nn.Module
        A private copy.
    inputs : Tensor of shape (B, *input_shape)
        Run through it if the block fails.
    needing : str
        Who needs the derivative.

    Raises
    ------
    NotApplicable
        In place of a RuntimeError, if a layer has none; the message names it.
    """
    try:
        yield
    except RuntimeError as error:
        if layer := without_second_derivative(model, inputs):
            raise NotApplicable(f"The layer {layer} {MISSING.format(needing)}") from error
        raise


def without_second_derivative(model: nn.Module, inputs: Tensor) -> str | None:
    """The innermost layer of a model that can be differentiated once but not twice.

    Parameters
    ----------
    model : nn.Module
        A private copy; run once, and its layers on what each was given.
    inputs : Tensor of shape (B, *input_shape)

    Returns
    -------
    str or None
        "'name' (Class)"; the class alone for the model itself. None if there is none, or the model
        cannot be run.
    """
    met: list[tuple[str, nn.Module, tuple[Any, ...], dict[str, Any]]] = []

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple, kwargs: dict, output: object) -> None:
            met.append((name, module, args, kwargs))

        return hook

    handles = [
        module.register_forward_hook(watch(name), with_kwargs=True)
        for name, module in model.named_modules()
        if not isinstance(module, torch.jit.ScriptModule) or not name
    ]
    try:
        model(inputs)
    except Exception:  # somebody else's code may raise anything
        return None
    finally:
        for handle in handles:
            handle.remove()
    for name, module, args, kwargs in met:  # a layer returns before the one that contains it

        def call(*given: Any, of: nn.Module = module, named: dict[str, Any] = kwargs) -> Any:
            return of(*given, **named)

        if lacks_second_derivative(call, args, list(module.parameters())):
            return f"{name!r} ({_kind(module)})" if name else _kind(module)
    return None


def lacks_second_derivative(
    function: Callable[..., Any], args: Sequence[Any], parameters: Sequence[Tensor] = ()
) -> bool:
    """Whether a function can be differentiated once, but its derivative cannot.

    Parameters
    ----------
    function : callable
        Returns a tensor, or a structure of tensors.
    args : sequence
        Its arguments; it is differentiated by the floating tensors among them.
    parameters : sequence of Tensor, default none
        What it is differentiated by besides.

    Returns
    -------
    bool
        False, too, for a function that cannot be called with these or differentiated at all.
    """
    given = [_leaf(arg) for arg in args]
    by = [x for x in (*given, *parameters) if isinstance(x, Tensor) and x.requires_grad]
    try:
        with torch.enable_grad(), differentiable_twice():
            value = _curved(function(*given))
            torch.autograd.grad(value, by, retain_graph=True, allow_unused=True)
    except Exception:  # somebody else's code may raise anything
        return False
    try:
        with torch.enable_grad(), differentiable_twice():
            slopes = torch.autograd.grad(
                value, by, create_graph=True, allow_unused=True, materialize_grads=True
            )
            torch.autograd.grad(_curved(slopes), by, allow_unused=True)
    except torch.cuda.OutOfMemoryError:
        return False
    except Exception:  # somebody else's code may raise anything
        return True
    return ends_early(slopes)


def ends_early(derivatives: Iterable[Tensor]) -> bool:
    """Whether derivatives with a graph come through a function marked as differentiable once.

    Parameters
    ----------
    derivatives : iterable of Tensor
        Made with ``create_graph=True``.

    Returns
    -------
    bool
    """
    frontier = [d.grad_fn for d in derivatives if d.grad_fn is not None]
    met = set(frontier)
    while frontier:
        node = frontier.pop()
        if node.name() == "torch::autograd::Error":
            return True
        new = {n for n, _ in node.next_functions if n is not None} - met
        met |= new
        frontier.extend(new)
    return False


def _kind(module: nn.Module) -> str:
    """Name of a module's class as its author wrote it."""
    made = (twice.__name__, private.__name__)
    return next(kind.__name__ for kind in type(module).__mro__ if kind.__module__ not in made)


def _leaf(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.detach().clone().requires_grad_(True)
    return value


def _curved(made: Any) -> Tensor:
    """A number that depends on every floating tensor in a structure, and not linearly."""
    flat, _ = tree_flatten(made)
    floats = [t for t in flat if isinstance(t, Tensor) and t.is_floating_point()]
    return torch.stack([t.sin().sum() for t in floats]).sum()
