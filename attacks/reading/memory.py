"""What a module keeps between calls, and what it asks: its numbers, its generators, its mode.

A front that flips an image once in a hundred calls looks steady in a few runs. It gives itself away
by what it needs for that: random numbers of its own, a count of its calls, or a look at its mode.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

DEPTH = 4
"""How deep generators are looked for inside of a module's attributes."""
LIBRARIES = ("torch", "torchvision")
"""Whose modules are known by what they do in either mode."""
OWN = ("training", "call_super_init", "_is_full_backward_hook")
"""Numbers that every module has."""


def generator_states(model: nn.Module) -> list[Any]:
    """States of all random generators that modules hold, in a fixed order.

    Parameters
    ----------
    model : nn.Module
        Its modules' attributes are searched, through containers and plain objects.

    Returns
    -------
    list
        Comparable by ``==``.
    """
    found: list[Any] = []
    seen: set[int] = set()
    for module in model.modules():
        _search(vars(module), DEPTH, seen, found)
    return found


def _search(value: Any, depth: int, seen: set[int], found: list[Any]) -> None:
    if id(value) in seen or isinstance(value, Tensor | nn.Module | str | int | float | np.ndarray):
        return
    seen.add(id(value))
    if isinstance(value, torch.Generator):
        found.append(value.get_state().tolist())
    elif isinstance(value, np.random.Generator):
        found.append(repr(value.bit_generator.state))
    elif isinstance(value, np.random.RandomState):
        found.append(repr(value.get_state(legacy=False)))
    elif isinstance(value, random.Random):
        found.append(value.getstate())
    elif depth:
        inner: list[Any] = list(value.values()) if isinstance(value, dict) else []
        if isinstance(value, list | tuple | set):
            inner = list(value)
        elif hasattr(value, "__dict__") and not isinstance(value, type):
            inner = list(vars(value).values())
        for item in inner:
            _search(item, depth - 1, seen, found)


def kept_numbers(model: nn.Module) -> dict[str, Any]:
    """Plain numbers and buffers that modules keep, by name.

    Parameters
    ----------
    model : nn.Module

    Returns
    -------
    dict from str to number or Tensor
        Tensors are copies.
    """
    found: dict[str, Any] = {name: b.detach().clone() for name, b in model.named_buffers()}
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if key not in OWN and isinstance(value, int | float):
                found[f"{name}.{key}" if name else key] = value
    return found


def changed_number(before: dict[str, Any], after: dict[str, Any]) -> str | None:
    """Name of the first kept number that is another now; None if there is none."""
    for name, old in before.items():
        new = after.get(name, old)
        if isinstance(old, Tensor):
            if not isinstance(new, Tensor) or not torch.equal(old, new.to(old)):
                return name
        elif new != old and not (new != new and old != old):
            return name
    return None


@contextmanager
def asking(model: nn.Module) -> Iterator[list[str]]:
    """Names of modules, not of torch's own, whose code asks for their mode inside the block.

    Parameters
    ----------
    model : nn.Module
        A private copy. Its modules get other classes for the while.

    Yields
    ------
    list of str
        Grows as they ask.
    """
    asked: list[str] = []
    changed: list[tuple[nn.Module, type]] = []
    try:
        for name, module in model.named_modules():
            kind = type(module)
            if _written_by(kind) in LIBRARIES:
                continue
            told = property(_answer(asked, name, module.training), lambda self, mode: None)
            try:
                module.__class__ = type(kind.__name__, (kind,), {"training": told})
            except TypeError:  # a class with slots, or one that lets nobody inherit
                continue
            changed.append((module, kind))
        yield asked
    finally:
        for module, kind in changed:
            module.__class__ = kind


def _answer(asked: list[str], name: str, mode: bool) -> Any:
    def answer(self: nn.Module) -> bool:
        asked.append(name)
        return mode

    return answer


def _written_by(kind: type) -> str:
    """Package of the class that a module's forward pass comes from."""
    own = next((k for k in kind.__mro__ if "forward" in vars(k) and k.__name__ != "_Private"), kind)
    return own.__module__.split(".")[0]
