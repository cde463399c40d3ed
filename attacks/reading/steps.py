"""The steps of a recorded forward pass, and walks through the nests of their arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Value:
    """What a step made: the whole, or one entry of a tuple."""

    step: int
    item: int | None = None


@dataclass(frozen=True)
class Named:
    """A parameter or buffer, by its name."""

    name: str


@dataclass(frozen=True)
class Rows:
    """An integer of a call that depends on the batch size b: slope b + offset."""

    slope: int
    offset: int


@dataclass(frozen=True)
class Lost:
    """A tensor that depends on the input in a way that was not seen."""


@dataclass(frozen=True)
class Called:
    """A submodule, called as a whole."""

    name: str


@dataclass(frozen=True)
class Overwriting:
    """A function that changes one of its arguments, as one that returns the changed argument."""

    function: Callable[..., Any]
    place: int | str

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """The argument's new value; the argument itself stays as it is."""
        listed: list[Any] = list(args)
        owner: Any = listed if isinstance(self.place, int) else kwargs
        owner[self.place] = owner[self.place].clone()
        self.function(*listed, **kwargs)
        changed: Tensor = owner[self.place]
        return changed


@dataclass(frozen=True)
class Step:
    """One call.

    Attributes
    ----------
    function : callable or Called
        What was called.
    args, kwargs : tuple, dict
        Its arguments: `Value`, `Named`, `Rows`, constants, and containers of these.
    rows : int
        Leading dimension of what it made, 0 if it has none.
    linear : str, optional
        Name of the ``nn.Linear`` whose product this is.
    """

    function: Any
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    rows: int = 0
    linear: str | None = None


def leaves(value: Any) -> Iterator[Any]:
    """Everything in a nest of tuples, lists, dictionaries and slices that is none of these."""
    found: list[Any] = []
    mapped(found.append, value)
    return iter(found)


def mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """A nest of tuples, lists, dictionaries and slices with every leaf replaced."""
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(mapped(function, v) for v in value)
    if isinstance(value, list):
        return [mapped(function, v) for v in value]
    if isinstance(value, dict):
        return {k: mapped(function, v) for k, v in value.items()}
    if isinstance(value, slice):
        ends = (mapped(function, v) for v in (value.start, value.stop, value.step))
        return slice(*ends)
    return function(value)


def generalised(a: Step, b: Step, batch: int) -> Step | None:
    """One step for all batch sizes from the same step at two of them.

    Parameters
    ----------
    a, b : Step
        Recorded for `batch` inputs, and for one more.
    batch : int

    Returns
    -------
    Step or None
        None if they differ in more than integers that grow with the batch.
    """
    same = True

    def merge(first: Any, second: Any) -> Any:
        nonlocal same
        whole = type(first) is int and type(second) is int
        if whole and first != second:
            slope = second - first
            return Rows(slope, first - slope * batch)
        if isinstance(first, Tensor) and isinstance(second, Tensor):
            alike = first.shape == second.shape and torch.equal(first, second)
            return first if alike else Lost()
        if isinstance(first, Tensor) or isinstance(second, Tensor):
            same = False
            return first
        same &= type(first) is type(second) and bool(first == second)
        return first

    flat_a, flat_b = list(leaves((a.args, a.kwargs))), list(leaves((b.args, b.kwargs)))
    if a.function != b.function or len(flat_a) != len(flat_b):
        return None
    merged = iter([merge(x, y) for x, y in zip(flat_a, flat_b, strict=True)])
    args, kwargs = mapped(lambda _: next(merged), (a.args, a.kwargs))
    return replace(a, args=args, kwargs=kwargs) if same else None


def by_place(func: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """Arguments of a call, those of the linear function in their places.

    Parameters
    ----------
    func : callable
    args, kwargs : tuple, dict

    Returns
    -------
    args, kwargs : tuple, dict
        As they were for any other function.
    """
    if func is not torch.nn.functional.linear or not kwargs:
        return args, kwargs
    left = dict(kwargs)
    listed = list(args)
    for name in ("input", "weight", "bias")[len(listed) :]:
        if name not in left:
            break
        listed.append(left.pop(name))
    return tuple(listed), left
