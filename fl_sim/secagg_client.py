"""The ClientApp of a scenario under SecAgg+: the same client behind Flower's older interface.

`flwr.client.mod.secaggplus_mod`, which masks a client's update, needs a NumPyClient; this one hands
the work to `fl_sim.client`. The mod keeps its keys in the node's context between messages.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, RecordDict
from flwr.client import Client, NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp

from fl_sim.client import train
from fl_sim.federation import federation_of
from fl_sim.models import build_model
from strategies.cohort import PARTITION_KEY
from strategies.secure_aggregation import WEIGHT_METRIC


def secagg_client_app(config: dict[str, Any]) -> ClientApp:
    """Return the client application of a scenario, with SecAgg+'s mod around it.

    Parameters
    ----------
    config : dict
        The resolved scenario as plain values.
    """

    def client_fn(context: Context) -> Client:
        return SecAggClient(config).to_client()

    return ClientApp(client_fn=client_fn, mods=[secaggplus_mod])


class SecAggClient(NumPyClient):
    """A client of the older interface.

    Parameters
    ----------
    config : dict
        The resolved scenario as plain values.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config

    def fit(
        self, parameters: list[np.ndarray], config: dict[str, Any]
    ) -> tuple[list[np.ndarray], int, dict[str, Any]]:
        """Train as `fl_sim.client` does."""
        data = federation_of(self.config).data
        model = build_model(
            self.config["model"], data.image_shape, data.num_classes, self.config["seed"]
        )
        pairs = zip(model.state_dict(), parameters, strict=True)
        arrays = ArrayRecord({name: Array(np.ascontiguousarray(value)) for name, value in pairs})
        content = RecordDict({"arrays": arrays, "config": ConfigRecord(config)})
        reply = train(self.config, content, int(config[PARTITION_KEY]))
        metrics: dict[str, Any] = dict(next(iter(reply.metric_records.values())))
        update = next(iter(reply.array_records.values()))
        examples = int(metrics.pop(WEIGHT_METRIC))
        return [array.numpy() for array in update.values()], examples, metrics
