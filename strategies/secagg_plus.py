"""The curious server under Flower's own SecAgg+ (Bell et al. 2020, arXiv 2007.11306).

`SecureAggregation` adds the updates up ideally; here the protocol itself runs, keys, shares and
masks included, so the sum is what Flower makes of it. Each client scales its update by its example
count over `max_weight`, clips it and rounds it at random to one of `quantization_range` levels; the
server divides the sum by the total scale. So an entry of the mean carries an error of about

    2 clipping_range / quantization_range * sqrt(clients / 6) * max_weight / total examples.

Flower has SecAgg+ for its older interface only: a workflow over a grid on the server, a mod around
the client. `SecAggPlusGrid` gives that workflow the look of a grid, whose replies all hold the sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.common import FitIns, Parameters, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result

from strategies.cohort import CohortGrid
from strategies.secure_aggregation import WEIGHT_METRIC, SecureAggregation
from strategies.update import arrays_of

TRAIN = "train"


class SecAggPlus(SecureAggregation):
    """Attack the mean of each round's updates as SecAgg+ reveals it.

    Clients have to run `flwr.client.mod.secaggplus_mod`.

    Parameters
    ----------
    *args, **settings
        As for `HonestButCurious`.
    num_shares, reconstruction_threshold, max_weight, clipping_range, quantization_range
        As for `flwr.server.workflow.SecAggPlusWorkflow`; the defaults are Flower's. Example counts
        must not exceed `max_weight`; the closer they come, the finer the quantisation.
    """

    def __init__(
        self,
        *args: Any,
        num_shares: int | float = 1.0,
        reconstruction_threshold: int | float = 0.5,
        max_weight: float = 1000.0,
        clipping_range: float = 8.0,
        quantization_range: int = 4194304,
        **settings: Any,
    ) -> None:
        super().__init__(*args, **settings)
        from flwr.server.workflow import SecAggPlusWorkflow  # imports half of Flower's server

        self.workflow = SecAggPlusWorkflow(
            num_shares,
            reconstruction_threshold,
            max_weight=max_weight,
            clipping_range=clipping_range,
            quantization_range=quantization_range,
        )

    def start(self, grid: Grid, *args: Any, **settings: Any) -> Result:
        """Run all rounds over a grid that aggregates securely."""
        secure = SecAggPlusGrid(grid, self.workflow, self._expected)
        return super().start(secure, *args, **settings)


class SecAggPlusGrid(CohortGrid):
    """A grid that puts training messages through SecAgg+.

    Parameters
    ----------
    grid : flwr.serverapp.Grid
        The real one.
    workflow : flwr.server.workflow.SecAggPlusWorkflow
        Runs the protocol.
    names : callable
        From what is sent to the names of the arrays that come back.
    """

    def __init__(
        self, grid: Grid, workflow: Any, names: Callable[[ArrayRecord], list[str]]
    ) -> None:
        super().__init__(grid, [])
        self._workflow = workflow
        self._names = names

    def get_node_ids(self) -> Iterable[int]:
        """Return the real grid's nodes."""
        return self._grid.get_node_ids()

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Return, for every client that took part, a reply that holds the mean of all."""
        messages = list(messages)
        if not messages or messages[0].metadata.message_type != TRAIN:
            return self._grid.send_and_receive(messages, timeout=timeout)
        from flwr.server.compat import LegacyContext
        from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD, Key

        relay = Relay(messages)
        self._workflow.timeout = timeout
        context = LegacyContext(
            Context(run_id=0, node_id=0, node_config={}, state=RecordDict(), run_config={}),
            strategy=relay,  # type: ignore[arg-type]
        )
        server_round = int(messages[0].metadata.group_id or 0)
        context.state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord(
            {Key.CURRENT_ROUND: server_round}
        )
        context.state.array_records[MAIN_PARAMS_RECORD] = arrays_of(messages[0])
        self._workflow(self._grid, context)
        return [self._reply(relay.messages[node], result) for node, result in relay.results]

    def _reply(self, message: Message, result: Any) -> Message:
        sent = arrays_of(message)
        values = parameters_to_ndarrays(result.parameters)
        arrays = ArrayRecord(
            {
                name: Array(np.asarray(value, dtype=sent[name].numpy().dtype, order="C"))
                for name, value in zip(self._names(sent), values, strict=True)
            }
        )
        metrics = MetricRecord({WEIGHT_METRIC: result.num_examples, **result.metrics})
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


class Relay:
    """What the workflow takes for its strategy: hands it the messages, keeps what it returns.

    Parameters
    ----------
    messages : iterable of Message
        One for each client that shall take part.
    """

    def __init__(self, messages: Iterable[Message]) -> None:
        self.messages = {message.metadata.dst_node_id: message for message in messages}
        self.results: list[tuple[int, Any]] = []

    def configure_fit(self, server_round: int, parameters: Parameters, clients: Any) -> list:
        """Return (client, instructions) for each message."""
        return [(SimpleNamespace(node_id=n), instructions(m)) for n, m in self.messages.items()]

    def aggregate_fit(self, server_round: int, results: list, failures: list) -> tuple[None, dict]:
        """Keep the results, each of which holds the aggregate by now."""
        self.results = [(proxy.node_id, result) for proxy, result in results]
        return None, {}


def instructions(message: Message) -> FitIns:
    """Return a message as instructions of Flower's older interface."""
    arrays = [array.numpy() for array in arrays_of(message).values()]
    config: dict[str, Any] = {}
    for record in message.content.config_records.values():
        config.update(record)
    return FitIns(ndarrays_to_parameters(arrays), config)
