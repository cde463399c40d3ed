"""The same clients, in the same order, on every machine: seeded sampling for any strategy.

Flower's node ids and the order of replies are random. In a simulation nodes are interchangeable
workers, so this wrapper draws each round's clients by seed, tells the node that receives a message
which client to play, shows the wrapped strategy a grid that holds just this cohort, and sorts the
replies, so that floating-point sums come out the same, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from strategies.wrapper import StrategyWrapper

PARTITION_KEY = "partition-id"
"""Names a client: in a training configuration, in a node's, and in the metrics of a reply."""


def partition_of(message: Message, context: Context) -> int:
    """Return which client a node plays: what the message says, or else what the node holds.

    Parameters
    ----------
    message : Message
        As the node received it.
    context : Context
        The node's.

    Returns
    -------
    int
        A partition id.

    Raises
    ------
    KeyError
        If neither names one.
    """
    for config in message.content.config_records.values():
        if PARTITION_KEY in config:
            return int(config[PARTITION_KEY])  # type: ignore[arg-type]
    return int(context.node_config[PARTITION_KEY])


class CohortGrid(Grid):
    """A grid on which only some nodes can be seen; everything else is the real grid's.

    Parameters
    ----------
    grid : flwr.serverapp.Grid
        The real one.
    node_ids : iterable of int
        Who can be seen.
    """

    def __init__(self, grid: Grid, node_ids: Iterable[int]) -> None:
        self._grid = grid
        self._node_ids = list(node_ids)

    def get_node_ids(self) -> Iterable[int]:
        """Return the cohort."""
        return list(self._node_ids)

    def set_run(self, run: Any) -> None:
        """Pass on to the real grid."""
        self._grid.set_run(run)

    @property
    def run(self) -> Any:
        """The real grid's run."""
        return self._grid.run

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        """Pass on to the real grid."""
        return self._grid.create_message(*args, **kwargs)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Pass on to the real grid."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pass on to the real grid."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Pass on to the real grid."""
        return self._grid.send_and_receive(messages, timeout=timeout)


class SeededCohort(StrategyWrapper):
    """Draw each round's clients by seed.

    Clients have to ask `partition_of` who they are.

    Parameters
    ----------
    strategy : flwr.serverapp.strategy.Strategy
        Should sample all the nodes it sees (``fraction_train=1``).
    per_round : int
        Clients per round, at least 1.
    seed : int, default 0
        Together with the round, decides who is drawn; not negative.

    Raises
    ------
    ValueError
        If fewer than one client is to be drawn.
    """

    def __init__(self, strategy: Strategy, per_round: int, seed: int = 0) -> None:
        super().__init__(strategy)
        if per_round < 1:
            raise ValueError(f"per_round={per_round!r} must be at least 1.")
        self.per_round = per_round
        self.seed = seed
        self._partition_of: dict[int, int] = {}  # node id -> client, in the round under way

    def client_of(self, node_id: int) -> int:
        """Return the client a node plays in this round, or its id if it plays none."""
        return self._partition_of.get(node_id, node_id)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Show the strategy as many nodes as there are clients to draw, and cast them."""
        nodes = sorted(grid.get_node_ids())
        cohort = sample_cohort(len(nodes), self.per_round, self.seed, server_round)
        stage = CohortGrid(grid, nodes[: len(cohort)])
        messages = sorted(
            super().configure_train(server_round, arrays, config, stage),
            key=lambda message: message.metadata.dst_node_id,
        )
        self._partition_of = {}
        for message, client in zip(messages, cohort, strict=False):
            self._partition_of[message.metadata.dst_node_id] = client
            message.content = _cast(message.content, client)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Put the replies into the order of the clients."""
        ordered = sorted(replies, key=lambda r: self.client_of(r.metadata.src_node_id))
        return super().aggregate_train(server_round, ordered)


def _cast(content: RecordDict, client: int) -> RecordDict:
    """Copy a message's content, with the client to play in its configuration; arrays are shared."""
    records: dict[str, Any] = dict(content)
    for name, config in content.config_records.items():
        records[name] = ConfigRecord({**config, PARTITION_KEY: client})
    return RecordDict(records)


def sample_cohort(count: int, per_round: int, seed: int, server_round: int) -> list[int]:
    """Draw the clients of a round without replacement, in ascending order.

    Parameters
    ----------
    count, per_round : int
        How many there are, at least 1, and how many of them to draw, at most all.
    seed, server_round : int
        Decide who is drawn; not negative.

    Returns
    -------
    list of int
        `per_round` numbers below `count`.

    Raises
    ------
    ValueError
        If a number is negative.
    """
    generator = np.random.default_rng([seed, server_round])
    return sorted(generator.choice(count, min(per_round, count), replace=False).tolist())
