"""Somebody else's clients that follow what a strategy tells them, and runs over them, for tests."""

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from torch import nn

from fl_sim.backends.inline import InlineBackend
from strategies.told import told
from tests.strategies.apps import LR, batch, build_model, initial_arrays


def following_app(mods=(), log=None):
    """Clients that follow the learning rate and the proximal term they are told of, over two steps,
    and keep a log of what they were sent and what they replied."""
    app = ClientApp(mods=list(mods))

    @app.train()
    def train(message, context):
        entries, client = told(message.content), int(context.node_config["partition-id"])
        model = build_model()
        sent = message.content["arrays"].to_torch_state_dict()
        model.load_state_dict(sent)
        inputs, labels = batch(client, entries["server-round"])
        proximal = float(entries.get("proximal-mu", 0.0))
        losses = []
        for _ in range(2 if proximal else 1):
            loss = nn.functional.cross_entropy(model(inputs), labels)
            losses.append(loss.item())
            slopes = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for (name, p), slope in zip(model.named_parameters(), slopes, strict=True):
                    p -= float(entries.get("lr", LR)) * (slope + proximal * (p - sent[name]))
        metrics = {"num-examples": 5 + client, "train_loss": losses[0], "partition-id": client}
        arrays = ArrayRecord(model.state_dict())
        content = RecordDict({"arrays": arrays, "metrics": MetricRecord(metrics)})
        if log is not None:
            log.append((client, dict(entries), written(message.content["arrays"]), written(arrays)))
        return Message(content=content, reply_to=message)

    return app


def written(arrays):
    return {name: array.numpy().tobytes() for name, array in arrays.items()}


def run_told(strategy, app, sent, clients=3, rounds=1):
    """Run a strategy inline with a training configuration; return the final weights."""
    server, outcome = ServerApp(), {}

    @server.main()
    def main(grid, context):
        outcome["result"] = strategy.start(
            grid=grid, initial_arrays=initial_arrays(), num_rounds=rounds, timeout=30,
            train_config=ConfigRecord(sent),
        )  # fmt: skip

    InlineBackend().run(server, app, clients)
    return {name: array.numpy() for name, array in outcome["result"].arrays.items()}
