"""FedSGD: clients return gradients, the server takes the step (McMahan et al. 2017, section 2)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from strategies.wrapper import StrategyWrapper


class FedSGD(StrategyWrapper):
    """Let a strategy average gradients, and step the global weights along the average.

    Parameters
    ----------
    strategy : flwr.serverapp.strategy.Strategy
        Averages what the clients return, FedAvg for one.
    lr : float
        Learning rate of the server's step, positive.
    """

    def __init__(self, strategy: Strategy, lr: float) -> None:
        super().__init__(strategy)
        if not lr > 0:
            raise ValueError(f"lr={lr!r} must be positive.")
        self.lr = lr
        self._weights = ArrayRecord()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Remember the global weights."""
        self._weights = arrays
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the gradients, then take the step; names without a gradient stay as they are."""
        gradient, metrics = super().aggregate_train(server_round, replies)
        if gradient is None:
            return None, metrics
        stepped = ArrayRecord()
        for name, array in self._weights.items():
            weights = array.numpy()
            if name in gradient:
                weights = (weights - self.lr * gradient[name].numpy()).astype(weights.dtype)
            stepped[name] = Array(np.asarray(weights, order="C"))
        return stepped, metrics
