"""Clients that misbehave on purpose, to see what a run does about them.

``clients.faults={1: raise, 2: nan, 3: shape}`` makes client 1 raise, client 2 return NaN and
client 3 an array of a wrong shape, in every round.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


def _raise(update: Tensors) -> NoReturn:
    raise RuntimeError("This client fails on purpose.")


def _nan(update: Tensors) -> Tensors:
    name = next(iter(update))
    return {**update, name: torch.full_like(update[name], torch.nan)}


def _shape(update: Tensors) -> Tensors:
    name = next(iter(update))
    return {**update, name: update[name].flatten()[:-1]}


FAULTS: dict[str, Callable[[Tensors], Tensors]] = {"raise": _raise, "nan": _nan, "shape": _shape}
"""What each fault does to the update a client is about to send."""
