"""FedSGD: clients return gradients, the server takes the step (McMahan et al. 2017, section 2)."""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from strategies.told import LEARNING_RATE, told
from strategies.wrapper import StrategyWrapper


class FedSGD(StrategyWrapper):
    """Turn each gradient into the weights one step along it, and let a strategy aggregate those.

    A strategy sees what it would see if the clients had taken the step, so any aggregation of
    weights is right (FedAdam for one, which looks at how far they have moved). The mean of
    ``w - lr g_i`` is ``w - lr mean(g_i)``; the steps are taken in float64, and rounding is left to
    the end.

    Parameters
    ----------
    strategy : flwr.serverapp.strategy.Strategy
        Aggregates weights.
    lr : float
        Learning rate of the step, positive, wherever the strategy does not tell the client another
        one ("lr").

    Raises
    ------
    ValueError
        If the learning rate is not positive.
    """

    def __init__(self, strategy: Strategy, lr: float) -> None:
        super().__init__(strategy)
        if not lr > 0:
            raise ValueError(f"lr={lr!r} must be positive.")
        self.lr = lr
        self._weights = ArrayRecord()
        self._rates: dict[int, float] = {}  # by node, in the round under way

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Remember the global weights, and the learning rates sent."""
        self._weights = arrays
        messages = list(super().configure_train(server_round, arrays, config, grid))
        self._rates = {
            message.metadata.dst_node_id: float(told(message.content).get(LEARNING_RATE, self.lr))
            for message in messages
        }
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Take the steps, then aggregate; names without a gradient stay as they are."""
        replies = list(replies)
        stepped = [reply if reply.has_error() else self._stepped(reply) for reply in replies]
        aggregated, metrics = super().aggregate_train(server_round, stepped)
        if aggregated is None:
            return None, metrics
        moved = {name for reply in replies for name in names_in(reply)}
        weights = ArrayRecord()
        for name, array in self._weights.items():
            source = aggregated if name in moved else self._weights
            dtype = array.numpy().dtype
            weights[name] = Array(np.asarray(source[name].numpy(), dtype=dtype, order="C"))
        return weights, metrics

    def _stepped(self, reply: Message) -> Message:
        """Return a copy of a reply that holds weights."""
        stepped, lr = copy(reply), self._rates[reply.metadata.src_node_id]
        stepped.content = RecordDict(
            {
                name: self._step(record, lr) if isinstance(record, ArrayRecord) else record
                for name, record in reply.content.items()
            }
        )
        return stepped

    def _step(self, gradient: ArrayRecord, lr: float) -> ArrayRecord:
        """Return ``w - lr g`` in float64, in the order of the weights."""
        weights = ArrayRecord()
        for name, array in self._weights.items():
            value = array.numpy().astype(np.float64)
            if name in gradient:
                value = value - lr * gradient[name].numpy().astype(np.float64)
            weights[name] = Array(np.asarray(value, order="C"))
        return weights


def names_in(reply: Message) -> list[str]:
    """Return the names of all arrays of a reply."""
    if reply.has_error():
        return []
    return [name for record in reply.content.array_records.values() for name in record]
