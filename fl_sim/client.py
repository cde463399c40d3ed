"""The Flower ClientApp of a scenario: train on the round's batches, defend, reply.

Both backends run this same object. It is rebuilt from the scenario's plain values in whatever
process the client runs, and holds no state between messages.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor, nn

from fl_sim.data.seeds import Stream, torch_generator
from fl_sim.defenses import build_defenses, defend
from fl_sim.faults import FAULTS
from fl_sim.federation import Federation, federation_of
from fl_sim.local import local_gradient, local_sgd, torch_threads
from fl_sim.models import build_model
from strategies.adversary import PARTITION_METRIC
from strategies.cohort import answer_roll_call

Tensors = dict[str, Tensor]


def client_app(config: dict[str, Any]) -> ClientApp:
    """Return the client application of a scenario.

    Parameters
    ----------
    config : dict
        The resolved scenario as plain values.

    Returns
    -------
    ClientApp
        Answers the roll call and trains; refuses nothing else.
    """
    app = ClientApp()

    @app.query()
    def roll_call(message: Message, context: Context) -> Message:
        return answer_roll_call(message, partition_of(context))

    @app.train()
    def train(message: Message, context: Context) -> Message:
        client = partition_of(context)
        return Message(content=_train(config, message.content, client), reply_to=message)

    return app


def partition_of(context: Context) -> int:
    """Return which partition of the data a node holds."""
    return int(context.node_config["partition-id"])


def _train(config: dict[str, Any], content: RecordDict, client: int) -> RecordDict:
    """Return the content of the reply to one training message."""
    federation = federation_of(config)
    arrays = next(iter(content.array_records.values()))
    server_round = int(next(iter(content.config_records.values()))["server-round"])  # type: ignore[arg-type]
    sent = {name: torch.from_numpy(array.numpy().copy()) for name, array in arrays.items()}
    model = build_model(
        config["model"], federation.data.image_shape, federation.data.num_classes, config["seed"]
    )
    model.load_state_dict(sent)
    with torch_threads(config["clients"]["threads"]):
        update, loss = _update(config, federation, model, client, server_round)
        update = _defended(config, sent, update, client, server_round)
    if fault := (config["clients"]["faults"] or {}).get(client):
        update = FAULTS[str(fault)](update)
    metrics = {
        "num-examples": config["clients"]["batch_size"] * config["clients"]["local_steps"],
        "train-loss": loss,
        PARTITION_METRIC: client,
    }
    reply = ArrayRecord({k: Array(np.ascontiguousarray(v.numpy())) for k, v in update.items()})
    return RecordDict({"arrays": reply, "metrics": MetricRecord(metrics)})


def _update(
    config: dict[str, Any], federation: Federation, model: nn.Module, client: int, server_round: int
) -> tuple[Tensors, float]:
    """Return what an undefended client would send, on the CPU, and its loss before the work."""
    model.train().to(config["device"])
    batches = federation.batches(client, server_round)
    inputs = batches.inputs.to(config["device"])
    targets = federation.target(batches.labels).to(config["device"])
    if config["clients"]["reply"] == "gradient":
        gradient, loss = local_gradient(model, inputs[0], targets[0], config["loss"])
        return {name: value.cpu() for name, value in gradient.items()}, loss
    losses = local_sgd(model, inputs, targets, config["loss"], config["clients"]["lr"])
    return {name: value.detach().cpu() for name, value in model.state_dict().items()}, losses[0]


def _defended(
    config: dict[str, Any], sent: Tensors, update: Tensors, client: int, server_round: int
) -> Tensors:
    """Return the update after the scenario's defences, which all act on the mean gradient."""
    defenses = build_defenses(config["defense"])
    if not defenses:
        return update
    generator = torch_generator(config["seed"], Stream.DEFENSE, client, server_round)
    if config["clients"]["reply"] == "gradient":
        return defend(defenses, update, generator)
    scale = config["clients"]["lr"] * config["clients"]["local_steps"]
    moved = {k: (sent[k] - v) / scale for k, v in update.items() if v.is_floating_point()}
    defended = defend(defenses, moved, generator)
    return {k: sent[k] - scale * defended[k] if k in defended else v for k, v in update.items()}
