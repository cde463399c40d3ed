"""The active server: it also chooses the parameters it sends, for everybody or for each client."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from strategies.adversary import HonestButCurious, Observation
from strategies.detectability import detectability
from strategies.queries import Query, state_of
from strategies.update import arrays_of, tensor
from strategies.view import ServerView


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
    """

    def __init__(self, *args: Any, query: Query, per_client: bool = False, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.query = query
        self.per_client = per_client
        query.craft(self.model_fn(), torch.Generator())  # refuse a model it does not fit at once
        self._suspicion: dict[int, dict[str, Any]] = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Replace the parameters in every message of the strategy."""
        messages = list(super().configure_train(server_round, arrays, config, grid))
        drawn: dict[int, ArrayRecord] = {}
        for message in messages:
            node = message.metadata.dst_node_id
            key = self.client_of(node) if self.per_client else 0
            if key not in drawn:
                drawn[key] = self._crafted(arrays_of(message), server_round, key)
            crafted = self._round.sent[node] = drawn[key]
            message.content = RecordDict(
                {
                    name: crafted if isinstance(record, ArrayRecord) else record
                    for name, record in message.content.items()
                }
            )
        return messages

    def _crafted(self, honest: ArrayRecord, server_round: int, key: int) -> ArrayRecord:
        entropy = np.random.SeedSequence([self.seed, server_round, key % 2**64, 1])
        generator = torch.Generator().manual_seed(int(entropy.generate_state(1, np.uint64)[0]))
        model = self.model_fn()
        before = {name: tensor(honest, name) for name in honest}
        model.load_state_dict(before)
        self.query.craft(model, generator)
        after = state_of(model)
        score, where = detectability(after, before, generator)
        self._suspicion[key] = {"detectability": score, "detectability_parameter": where}
        return ArrayRecord({name: Array(value.numpy()) for name, value in after.items()})

    def _attack(self, server_round: int, client: int, view: ServerView) -> Observation:
        observation = super()._attack(server_round, client, view)
        if observation.found is None:
            return observation
        info = {**observation.found.info, **self._suspicion[client if self.per_client else 0]}
        return replace(observation, found=replace(observation.found, info=info))
