"""The server's random streams: functions of its seed and of what they are used for.

Behind the seed comes a number that says what for. The clients' streams (`fl_sim.data.seeds`) have
numbers below 100, those here lie above: what an attack draws is unrelated to the data it is after.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from torch import Generator


class Use(IntEnum):
    """What a random stream is used for."""

    ATTACK = 101
    QUERY = 102


def generator_for(use: Use, seed: int, server_round: int, client: int) -> Generator:
    """Return a CPU generator that depends on nothing but the arguments.

    Parameters
    ----------
    use : Use
    seed, server_round : int
        Not negative.
    client : int
        A client, a node id, or `strategies.COHORT`; counts modulo 2^64.

    Raises
    ------
    ValueError
        If seed or round is negative.
    """
    entropy = np.random.SeedSequence([seed, use, server_round, client % 2**64])
    return Generator().manual_seed(int(entropy.generate_state(1, np.uint64)[0]))
