"""The process' random numbers: kept as they were, and watched for being drawn."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def kept_randomness(seed: int | None = None) -> Iterator[None]:
    """Run a block and put every global generator back to where it was.

    Parameters
    ----------
    seed : int, optional
        Seed of all of them inside the block; by default they go on as they are.
    """
    before = states()
    with torch.random.fork_rng():
        try:
            if seed is not None:
                torch.manual_seed(seed)
                random.seed(seed)
                np.random.seed(seed % 2**32)
            yield
        finally:
            random.setstate(before[1])
            np.random.set_state(before[2])


def states() -> tuple[Any, Any, Any]:
    """States of the global generators of torch (CPU), Python and NumPy."""
    return torch.get_rng_state(), random.getstate(), np.random.get_state()


def drawn_since(before: tuple[Any, Any, Any]) -> bool:
    """Whether a global generator has been drawn from since `states` was taken."""
    now = states()
    numpy_same = all(np.array_equal(a, b) for a, b in zip(now[2], before[2], strict=True))
    return not (torch.equal(now[0], before[0]) and now[1] == before[1] and numpy_same)
