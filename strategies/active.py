"""The active server: it also chooses the parameters it sends, for everybody or for each client."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from strategies.adversary import HonestButCurious, Observation
from strategies.detectability import detectability
from strategies.queries import Query, state_of
from strategies.seeds import Use, generator_for
from strategies.update import arrays_of, tensor

Suspicion = dict[str, Any]
"""How far what was sent lies off an honest draw, as it is written into a result."""


class ActiveServer(HonestButCurious):
    """Send parameters made for reading, then attack every reply.

    The wrapped strategy aggregates what comes back, so the training suffers from the query; that
    is part of its price. The other part is `detectability`, written into each result.

    Parameters
    ----------
    *args, **settings
        As for `HonestButCurious`.
    query : strategies.queries.Query
        Chooses the parameters.
    per_client : bool, default False
        Draw the query anew for each client.

    Raises
    ------
    ValueError
        If a value is out of its range, or the model lacks the layers the query needs.
    """

    def __init__(self, *args: Any, query: Query, per_client: bool = False, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.query = query
        self.per_client = per_client
        query.craft(self.model_fn(), torch.Generator())  # refuse a model it does not fit at once
        self._suspicion: dict[int, Suspicion] = {}  # by node, in the round under way

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Replace the parameters in every message of the strategy."""
        messages = list(super().configure_train(server_round, arrays, config, grid))
        drawn: dict[int, tuple[ArrayRecord, Suspicion]] = {}
        self._suspicion = {}
        for message in messages:
            node = message.metadata.dst_node_id
            key = self.client_of(node) if self.per_client else 0
            if key not in drawn:
                drawn[key] = self._crafted(arrays_of(message), server_round, key)
            crafted, self._suspicion[node] = drawn[key]
            self._round.sent[node] = crafted
            message.content = RecordDict(
                {
                    name: crafted if isinstance(record, ArrayRecord) else record
                    for name, record in message.content.items()
                }
            )
        return messages

    def _crafted(
        self, honest: ArrayRecord, server_round: int, key: int
    ) -> tuple[ArrayRecord, Suspicion]:
        generator = generator_for(Use.QUERY, self.seed, server_round, key)
        model = self.model_fn()
        before = {name: tensor(honest, name) for name in honest}
        model.load_state_dict(before)
        self.query.craft(model, generator)
        after = state_of(model)
        score, where = detectability(after, before, generator)
        crafted = ArrayRecord({name: Array(value.numpy()) for name, value in after.items()})
        return crafted, {"detectability": score, "detectability_parameter": where}

    def _observe(self, server_round: int, client: int, reply: Message | None) -> Observation:
        observation = super()._observe(server_round, client, reply)
        if observation.found is None or reply is None:
            return observation
        info = {**observation.found.info, **self._suspicion[reply.metadata.src_node_id]}
        return replace(observation, found=replace(observation.found, info=info))
