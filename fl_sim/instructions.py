"""What a scenario's clients follow of all that a strategy may tell them.

A strategy that needs its clients' help sends its wishes along with the weights. What is not among
the entries known here would be ignored, and the strategy be something else than its name says: such
an entry is refused, by the scenario before it runs and by each client.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from flwr.app import RecordDict

from strategies.cohort import PARTITION_KEY
from strategies.told import LEARNING_RATE, PROXIMAL_MU, told

SERVER_ROUND = "server-round"
"""Number of the round, from 1."""

CLIPPING_NORM = "clipping_norm"
"""Followed by Flower's clipping mods around a client, not by the client itself."""

FOLLOWED = (SERVER_ROUND, PARTITION_KEY, LEARNING_RATE, PROXIMAL_MU)


@dataclass(frozen=True)
class Instructions:
    """What one client shall do in one round.

    Attributes
    ----------
    server_round : int
        From 1.
    lr : float
        Learning rate of the local steps, positive.
    proximal_mu : float
        Weight of FedProx's proximal term, not negative; 0 for none.
    """

    server_round: int
    lr: float
    proximal_mu: float = 0.0

    @classmethod
    def of(cls, content: RecordDict, lr: float, *, clips: bool = False) -> Instructions:
        """Read the instructions in a message's content.

        Parameters
        ----------
        content : flwr.app.RecordDict
            Of a training message.
        lr : float
            Learning rate where the message names none.
        clips : bool, default False
            Whether one of Flower's clipping mods stands around the client.

        Raises
        ------
        ValueError
            If the message does not say which round it is, asks for something that clients do not
            follow, or a value is out of its range.
        """
        entries = told(content)
        followed = (*FOLLOWED, CLIPPING_NORM) if clips else FOLLOWED
        if strange := [name for name in entries if name not in followed]:
            raise ValueError(
                f"The strategy sends {strange[0]!r}, which these clients do not follow; "
                f"they follow {', '.join(map(repr, followed))}."
            )
        if SERVER_ROUND not in entries:
            raise ValueError(f"The strategy does not send {SERVER_ROUND!r}.")
        rate = _number(LEARNING_RATE, entries.get(LEARNING_RATE, lr))
        if not rate > 0:
            raise ValueError(f"The strategy sends {LEARNING_RATE!r}={rate:g}, not positive.")
        mu = _number(PROXIMAL_MU, entries.get(PROXIMAL_MU, 0.0))
        if not mu >= 0:
            raise ValueError(f"The strategy sends {PROXIMAL_MU!r}={mu:g}, which is negative.")
        return cls(int(entries[SERVER_ROUND]), rate, mu)


def _number(name: str, value: Any) -> float:
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    raise ValueError(f"The strategy sends {name!r}={value!r}, which is no finite number.")
