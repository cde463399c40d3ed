"""The Flower ClientApp of a scenario: train on the round's batches, defend, reply.

What the strategy asks for beside training (`fl_sim.instructions`) is done, or the client fails.
Both backends run this same object. It is rebuilt from the scenario's plain values in whatever
process the client runs, and holds no state between messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod
from torch import Generator, Tensor, nn

from fl_sim.budget import promises
from fl_sim.data.seeds import Stream, torch_generator
from fl_sim.defenses import Defense, build_defenses, defend
from fl_sim.faults import FAULTS
from fl_sim.federation import Batches, Federation, federation_of
from fl_sim.instructions import Instructions
from fl_sim.local import drawn_back, local_adam, local_sgd, step_gradient, torch_threads
from fl_sim.models import build_model
from strategies.cohort import PARTITION_KEY, partition_of

Tensors = dict[str, Tensor]

LOSS_METRICS = ("train-loss", "train_loss")
"""Names under which clients report their loss; Flower's QFedAvg asks for the second."""


def client_app(config: dict[str, Any], clipping: Mod | None = None) -> ClientApp:
    """Return the client application of a scenario.

    Parameters
    ----------
    config : dict
        The resolved scenario as plain values.
    clipping : Flower client mod, optional
        Clips the update, after all the client's defences, to the norm that the strategy sends.

    Returns
    -------
    ClientApp
        Trains; answers nothing else.
    """
    app = ClientApp(mods=[] if clipping is None else [clipping])

    @app.train()
    def answer(message: Message, context: Context) -> Message:
        client = partition_of(message, context)
        content = train(config, message.content, client, clips=clipping is not None)
        return Message(content=content, reply_to=message)

    return app


def train(
    config: dict[str, Any], content: RecordDict, client: int, *, clips: bool = False
) -> RecordDict:
    """Return the content of the reply to one training message.

    Parameters
    ----------
    config : dict
        The resolved scenario as plain values.
    content : RecordDict
        Of the message: the weights, and a configuration that holds "server-round".
    client : int
        Which one, 0 ... clients.count - 1.
    clips : bool, default False
        Whether one of Flower's clipping mods stands around the client.

    Returns
    -------
    RecordDict
        "arrays", the weights after the local steps or a gradient, and "metrics".

    Raises
    ------
    ValueError
        If the configuration asks for something that clients do not follow.
    """
    federation = federation_of(config)
    told = Instructions.of(content, config["clients"]["lr"], clips=clips)
    server_round = told.server_round
    arrays = next(iter(content.array_records.values()))
    sent = {name: torch.from_numpy(array.numpy().copy()) for name, array in arrays.items()}
    model = build_model(
        config["model"], federation.data.image_shape, federation.data.num_classes, config["seed"]
    )
    model.load_state_dict(sent)
    defenses = build_defenses(config["defense"])
    generator = torch_generator(config["seed"], Stream.DEFENSE, client, server_round)
    with torch_threads(config["clients"]["threads"]):
        batches = federation.batches(client, server_round)
        update, loss = _update(config, told, federation, model, batches, defenses, generator)
        names = {name for name, p in model.named_parameters() if p.requires_grad}
        update = _defended(config, told, sent, update, names, defenses, generator)
    if fault := (config["clients"]["faults"] or {}).get(client):
        update = FAULTS[str(fault)](update)
    examples = config["clients"]["batch_size"] * config["clients"]["local_steps"]
    reply = ArrayRecord({k: Array(v.contiguous().numpy()) for k, v in update.items()})
    return RecordDict({"arrays": reply, "metrics": metrics_of(defenses, client, examples, loss)})


def metrics_of(
    defenses: Sequence[Defense], client: int, examples: int, loss: float
) -> MetricRecord:
    """Return what a client reports beside its update.

    Parameters
    ----------
    defenses : sequence of Defense
        Where one of them guarantees something, the loss is left out: nothing about the data may go
        past a guarantee.
    client : int
        Which one.
    examples : int
        Samples it worked on.
    loss : float
        Mean loss of the first step's batch at the weights that were sent.

    Returns
    -------
    flwr.app.MetricRecord
        "num-examples", "partition-id", and the loss under each name of `LOSS_METRICS`.
    """
    losses = {} if promises(defenses) else dict.fromkeys(LOSS_METRICS, loss)
    return MetricRecord({"num-examples": examples, PARTITION_KEY: client, **losses})


def _update(
    config: dict[str, Any],
    told: Instructions,
    federation: Federation,
    model: nn.Module,
    batches: Batches,
    defenses: list[Defense],
    generator: Generator,
) -> tuple[Tensors, float]:
    """Return what the local steps lead to, on the CPU, and the loss before them."""
    model.train().to(config["device"])
    for defense in defenses:
        defense.on_model(model, generator)
    inputs = batches.inputs.to(config["device"])
    targets = federation.target(batches.labels, soft=bool(defenses)).to(config["device"])
    gradient_of = partial(
        step_gradient, loss=config["loss"], defenses=defenses, generator=generator
    )
    if config["clients"]["reply"] == "gradient":
        gradient, loss = gradient_of(model, inputs[0], targets[0])
        return {name: value.cpu() for name, value in gradient.items()}, loss
    clients = config["clients"]
    work = local_adam
    if clients["optimizer"] == "sgd":
        work = partial(local_sgd, momentum=clients["momentum"])
    along = drawn_back(gradient_of, model, told.proximal_mu) if told.proximal_mu else gradient_of
    losses = work(model, inputs, targets, told.lr, along)
    return {name: value.detach().cpu() for name, value in model.state_dict().items()}, losses[0]


def _defended(
    config: dict[str, Any],
    told: Instructions,
    sent: Tensors,
    update: Tensors,
    names: set[str],
    defenses: list[Defense],
    generator: Generator,
) -> Tensors:
    """Return the update after those defences that act on the mean gradient as a whole.

    `names` are those of the trainable parameters; buffers, which have no gradient, stay as they
    are.
    """
    if not defenses:
        return update
    if config["clients"]["reply"] == "gradient":
        return defend(defenses, update, 1.0, generator)
    scale = told.lr * config["clients"]["local_steps"]
    moved = {k: (sent[k] - v) / scale for k, v in update.items() if k in names}
    defended = defend(defenses, moved, scale, generator)
    return {k: sent[k] - scale * defended[k] if k in defended else v for k, v in update.items()}
