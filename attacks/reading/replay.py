"""Parts of a recorded forward pass as functions and modules of their own.

A recording is a graph: a step needs the steps that made its arguments. A part of it, from one value
to another, is run again on other numbers, in their precision and for any number of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from attacks.reading.private import Precise, private_copy
from attacks.reading.recording import Recording
from attacks.reading.steps import Called, Lost, Named, Rows, Step, Value, leaves, mapped

Function = Callable[[Tensor], Tensor]


def sources(step: Step) -> set[int]:
    """Numbers of the steps that made a step's arguments; what is `Lost` counts as the input's."""
    inside = list(leaves((step.args, step.kwargs)))
    lost = {0} if any(isinstance(leaf, Lost) for leaf in inside) else set()
    return lost | {leaf.step for leaf in inside if isinstance(leaf, Value)}


def needed(recording: Recording, target: Value, stop: int) -> set[int]:
    """Steps that a value is computed from, up to another step, which is left out.

    Parameters
    ----------
    recording : Recording
        Of a module.
    target : Value
        Its own step is included, unless it is `stop`.
    stop : int
        Neither included nor followed.

    Returns
    -------
    set of int
    """
    found: set[int] = set()
    frontier = [target.step]
    while frontier:
        current = frontier.pop()
        if current != stop and current not in found:
            found.add(current)
            frontier.extend(sources(recording.steps[current]))
    return found


def reached(recording: Recording, start: int) -> set[int]:
    """All steps that depend on a step."""
    found: set[int] = set()
    for number, step in enumerate(recording.steps):
        if number > start and sources(step) & (found | {start}):
            found.add(number)
    return found


def part(recording: Recording, source: int, target: Value) -> Function | None:
    """A value as a function of a step's output alone.

    Parameters
    ----------
    recording : Recording
        Of a module.
    source : int
        Number of the step.
    target : Value
        What is wanted.

    Returns
    -------
    callable Tensor -> Tensor, or None
        None if the value depends on the input another way too.
    """
    steps = needed(recording, target, source)
    if 0 in steps:
        return None
    model = recording.model
    tensors = {n: t.detach() for n, t in (*model.named_parameters(), *model.named_buffers())}

    def run(x: Tensor) -> Tensor:
        return replayed(recording, source, target, sorted(steps), x, tensors, model)

    return run


def replayed(
    recording: Recording,
    source: int,
    target: Value,
    steps: list[int],
    x: Tensor,
    tensors: Mapping[str, Tensor],
    model: nn.Module,
    modular: bool = False,
) -> Tensor:
    """Run steps again.

    Parameters
    ----------
    recording : Recording
        Of a module.
    source : int
        Step whose output is `x`.
    target : Value
        What to return.
    steps : list of int
        In increasing order, all that the target needs.
    x : Tensor
        Of any precision, which everything is computed in.
    tensors : mapping from name to Tensor
        Parameters and buffers; detached unless they are those of `model` itself.
    model : nn.Module
        Holds the submodules that are called as a whole.
    modular : bool, default False
        Whether products of linear layers are calls of `model`'s modules, which then may have hooks
        or have been replaced.

    Returns
    -------
    Tensor
    """
    recorded = recording.steps[source].rows
    batch = len(recording.inputs)
    size = len(x) * batch // recorded if recorded and x.dim() else batch
    values: dict[int, Any] = {source: x}

    def resolve(leaf: Any) -> Any:
        if isinstance(leaf, Value):
            made = values[leaf.step]
            return made if leaf.item is None else made[leaf.item]
        if isinstance(leaf, Rows):
            return leaf.slope * size + leaf.offset
        if isinstance(leaf, Named):
            return _cast(tensors[leaf.name], x)
        return _cast(leaf, x) if isinstance(leaf, Tensor) else leaf

    with Precise() if x.dtype == torch.float64 else nullcontext():
        for number in steps:
            step = recording.steps[number]
            if step.linear is not None and modular:
                inputs = mapped(resolve, step.args[0])
                values[number] = model.get_submodule(step.linear)(inputs)
                continue
            args, kwargs = mapped(resolve, step.args), mapped(resolve, step.kwargs)
            if isinstance(step.function, Called):
                values[number] = _called(model.get_submodule(step.function.name), args, x.dtype)
            else:
                values[number] = step.function(*args, **kwargs)
    result: Tensor = resolve(target)
    return result


def _cast(tensor: Tensor, x: Tensor) -> Tensor:
    """A floating tensor in the precision and place of another, itself if it is that already."""
    dtype = x.dtype if tensor.is_floating_point() and x.is_floating_point() else tensor.dtype
    same = tensor.dtype == dtype and tensor.device == x.device
    return tensor if same else tensor.to(device=x.device, dtype=dtype)


def _called(module: nn.Module, args: tuple, dtype: torch.dtype) -> Any:
    """Call a module in a precision that need not be its parameters'."""
    state = {k: v.to(dtype) for k, v in module.named_parameters()}
    return torch.func.functional_call(module, state, args)


class Replayed(nn.Module):
    """The rest of a model behind a value, as a module of its own.

    Parameters
    ----------
    recording : Recording
        Of the model.
    source : Value
        The module's input.

    Attributes
    ----------
    names : dict from str to str
        From the module's parameter names to the whole model's.
    """

    def __init__(self, recording: Recording, source: Value) -> None:
        super().__init__()
        assert recording.output is not None
        self.recording = replace(
            recording, model=nn.Identity(), returned=recording.returned[:0], linear={}
        )
        self.source = source
        self.steps = sorted(needed(recording, recording.output, source.step))
        self.whole = private_copy(recording.model)
        kept = _named_in(recording, self.steps)
        for name, _ in list(self.whole.named_parameters()):
            owner, _, own = name.rpartition(".")
            if name not in kept:
                self.whole.get_submodule(owner).register_parameter(own, None)
        self.names = {f"whole.{name}": name for name, _ in self.whole.named_parameters()}

    def forward(self, x: Tensor) -> Tensor:
        """The whole model's output."""
        tensors = dict(self.whole.named_parameters()) | dict(self.whole.named_buffers())
        target = self.recording.output
        assert target is not None
        return replayed(
            self.recording, self.source.step, target, self.steps, x, tensors, self.whole, True
        )


def _named_in(recording: Recording, steps: list[int]) -> set[str]:
    found: set[str] = set()
    for number in steps:
        step = recording.steps[number]
        found |= {x.name for x in leaves((step.args, step.kwargs)) if isinstance(x, Named)}
        if isinstance(step.function, Called):
            prefix = f"{step.function.name}." if step.function.name else ""
            found |= {n for n, _ in recording.model.named_parameters() if n.startswith(prefix)}
    return found


def rest_of(recording: Recording, source: Value) -> Replayed | None:
    """What follows a value, as a module; None if it depends on the input another way too.

    Parameters
    ----------
    recording : Recording
        Of a model.
    source : Value
        A whole value, no entry of a tuple.

    Returns
    -------
    Replayed or None
    """
    if recording.output is None or source.item is not None:
        return None
    if 0 in needed(recording, recording.output, source.step) and source.step != 0:
        return None
    return Replayed(recording, source)
