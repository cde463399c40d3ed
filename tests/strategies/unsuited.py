"""Strategies that a scenario's clients cannot serve, for tests."""

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp.strategy import FedAvg


class Telling(FedAvg):
    """Tells clients something of its own."""

    def __init__(self, told, value=1.0, **settings):
        super().__init__(**settings)
        self.told, self.value = told, value

    def configure_train(self, server_round, arrays, config, grid):
        config[self.told] = self.value
        return super().configure_train(server_round, arrays, config, grid)


class Waiting(FedAvg):
    """Waits for more clients than there are."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.min_available_nodes = 1000


class Evaluating(FedAvg):
    """Evaluates on clients, whatever it is told."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.fraction_evaluate = 1.0


class Carrying(FedAvg):
    """Sends a second record of arrays along, as SCAFFOLD does."""

    def configure_train(self, server_round, arrays, config, grid):
        messages = list(super().configure_train(server_round, arrays, config, grid))
        for message in messages:
            message.content["control"] = ArrayRecord({"c": Array(np.zeros(3))})
        return messages


class Measuring(Carrying):
    """Sends metrics to clients."""

    def configure_train(self, server_round, arrays, config, grid):
        messages = list(FedAvg.configure_train(self, server_round, arrays, config, grid))
        for message in messages:
            message.content["metrics"] = MetricRecord({"temperature": 1.0})
        return messages


class Renaming(FedAvg):
    """Sends arrays under other names."""

    def configure_train(self, server_round, arrays, config, grid):
        other = ArrayRecord({f"net.{name}": array for name, array in arrays.items()})
        return super().configure_train(server_round, other, config, grid)


class Silent(FedAvg):
    """Asks nobody."""

    def configure_train(self, server_round, arrays, config, grid):
        return []


class Roundless(FedAvg):
    """Does not say which round it is."""

    def configure_train(self, server_round, arrays, config, grid):
        messages = list(super().configure_train(server_round, arrays, config, grid))
        for message in messages:
            message.content["config"] = ConfigRecord({"lr": 0.1})
        return messages


class Idle(FedAvg):
    """Makes nothing of what it gets."""

    def aggregate_train(self, server_round, replies):
        return None, None


class Failing(FedAvg):
    """Fails when it aggregates."""

    def aggregate_train(self, server_round, replies):
        raise RuntimeError("the disk is full")
