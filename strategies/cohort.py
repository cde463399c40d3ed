"""The same clients, in the same order, on every machine: seeded sampling for any strategy.

Flower's node ids and the order of replies are random. This wrapper asks every node once which
partition it holds (a query message), draws each round's cohort by seed from the partitions, shows
the wrapped strategy a grid that holds just this cohort, and sorts the replies, so that
floating-point sums come out the same, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from strategies.wrapper import StrategyWrapper

ROLL_CALL = "roll-call"


def answer_roll_call(message: Message, partition: int) -> Message:
    """Answer the server's query which partition this client holds; call it from `@app.query()`."""
    content = RecordDict({ROLL_CALL: MetricRecord({"partition-id": partition})})
    return Message(content=content, reply_to=message)


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

    Parameters
    ----------
    strategy : flwr.serverapp.strategy.Strategy
        Should sample all the nodes it sees (``fraction_train=1``).
    per_round : int
        Clients per round, at least 1.
    seed : int, default 0
        Together with the round, decides who is drawn.
    timeout : float, default 600
        Seconds to wait for the roll call.
    """

    def __init__(
        self, strategy: Strategy, per_round: int, seed: int = 0, timeout: float = 600
    ) -> None:
        super().__init__(strategy)
        if per_round < 1:
            raise ValueError(f"per_round={per_round!r} must be at least 1.")
        self.per_round = per_round
        self.seed = seed
        self.timeout = timeout
        self._node_of: dict[int, int] = {}  # partition -> node id
        self._partition_of: dict[int, int] = {}

    def client_of(self, node_id: int) -> int:
        """Return the partition a node holds, or its id if it did not say."""
        return self._partition_of.get(node_id, node_id)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Show the strategy this round's cohort only."""
        if not self._node_of:
            self._call_the_roll(grid)
        cohort = sample_cohort(len(self._node_of), self.per_round, self.seed, server_round)
        partitions = sorted(self._node_of)
        nodes = [self._node_of[partitions[i]] for i in cohort]
        messages = super().configure_train(server_round, arrays, config, CohortGrid(grid, nodes))
        return sorted(messages, key=lambda m: self.client_of(m.metadata.dst_node_id))

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Put the replies into the order of the partitions."""
        ordered = sorted(replies, key=lambda r: self.client_of(r.metadata.src_node_id))
        return super().aggregate_train(server_round, ordered)

    def _call_the_roll(self, grid: Grid) -> None:
        content = RecordDict({ROLL_CALL: ConfigRecord({})})
        queries = [
            Message(content=content, message_type=MessageType.QUERY, dst_node_id=node)
            for node in grid.get_node_ids()
        ]
        for reply in grid.send_and_receive(queries, timeout=self.timeout):
            if reply.has_error():
                raise RuntimeError(f"A client did not answer the roll call: {reply.error.reason}")
            partition = int(reply.content[ROLL_CALL]["partition-id"])  # type: ignore[index,arg-type]
            self._node_of[partition] = reply.metadata.src_node_id
            self._partition_of[reply.metadata.src_node_id] = partition
        if not self._node_of:
            raise RuntimeError(f"No client answered the roll call within {self.timeout:g} s.")


def sample_cohort(count: int, per_round: int, seed: int, server_round: int) -> list[int]:
    """Draw the clients of a round without replacement, in ascending order.

    Parameters
    ----------
    count, per_round : int
        How many there are, and how many of them to draw.
    seed, server_round : int
        Decide who is drawn.

    Returns
    -------
    list of int
        `per_round` numbers below `count`.
    """
    generator = np.random.default_rng([seed, server_round])
    return sorted(generator.choice(count, min(per_round, count), replace=False).tolist())
