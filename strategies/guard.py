"""One client's broken update must not spoil the round: drop it before the strategy aggregates."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from strategies.update import InvalidUpdate, arrays_of, check_update
from strategies.wrapper import StrategyWrapper

log = logging.getLogger(__name__)


class DropInvalidUpdates(StrategyWrapper):
    """Keep replies with missing or unexpected names, wrong shapes, NaN or infinities away from a
    strategy; error replies pass, as strategies count those themselves.

    Parameters
    ----------
    strategy : flwr.serverapp.strategy.Strategy
        Gets the valid replies.
    names : iterable of str, optional
        Names a reply must hold; by default those that were sent.

    Attributes
    ----------
    unused : dict from node id to str
        Why the updates of some of those asked in the last round are not used.
    """

    def __init__(self, strategy: Strategy, names: Iterable[str] | None = None) -> None:
        super().__init__(strategy)
        self.names = None if names is None else list(names)
        self._sent: dict[int, ArrayRecord] = {}
        self.unused: dict[int, str] = {}

    @property
    def asked(self) -> int:
        """To how many nodes something was sent in the last round."""
        return len(self._sent)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Remember what is sent to each client."""
        messages = list(super().configure_train(server_round, arrays, config, grid))
        self._sent = {message.metadata.dst_node_id: arrays_of(message) for message in messages}
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Pass on the valid replies."""
        self.unused = dict.fromkeys(self._sent, "No reply in time.")
        return super().aggregate_train(server_round, [r for r in replies if self._valid(r)])

    def _valid(self, reply: Message) -> bool:
        node = reply.metadata.src_node_id
        if reply.has_error():
            self.unused[node] = (reply.error.reason or "no reason given").strip().split("\n")[0]
            return True
        sent = self._sent[node]
        try:
            check_update(arrays_of(reply), sent, self.names or list(sent))
        except InvalidUpdate as error:
            log.warning("Dropped the update of node %s: %s", node, error)
            self.unused[node] = str(error)
            return False
        del self.unused[node]
        return True
