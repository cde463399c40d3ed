"""Random streams that are functions of the scenario's seed and of what they are used for.

Every draw names its stream, so that adding one never shifts the numbers of another, and the same
(seed, client, round) means the same numbers in every process and on every backend.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch


class Stream(IntEnum):
    """What a random stream is used for; those from 100 are `strategies.seeds`'."""

    PARTITION = 1
    CLIENT_SAMPLES = 2
    BATCHES = 3
    DEFENSE = 4
    CENTRAL_NOISE = 5


def sequence(seed: int, stream: Stream, *keys: int) -> np.random.SeedSequence:
    """Return the seed sequence of a stream.

    Parameters
    ----------
    seed : int
        The scenario's, not negative.
    stream : Stream
    *keys : int
        What else the numbers depend on, not negative; always equally many for a stream, since
        trailing zeros count as nothing.

    Raises
    ------
    ValueError
        If a number is negative.
    """
    if seed < 0:
        raise ValueError(f"seed={seed} is negative; seeds are 0, 1, 2, ...")
    return np.random.SeedSequence([seed, stream, *keys])


def numpy_generator(seed: int, stream: Stream, *keys: int) -> np.random.Generator:
    """Return numpy's generator of a stream; see `sequence`."""
    return np.random.default_rng(sequence(seed, stream, *keys))


def torch_generator(seed: int, stream: Stream, *keys: int) -> torch.Generator:
    """Return torch's CPU generator of a stream; see `sequence`."""
    state = int(sequence(seed, stream, *keys).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(state)
