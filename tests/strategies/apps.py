"""A small Flower app of somebody else's, and strategies around it, for the tests of this folder."""

import numpy as np
import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from torch import nn

from attacks import Attack, Reconstruction
from fl_sim.backends.inline import InlineBackend
from strategies.cohort import PARTITION_KEY, partition_of

LR = 0.5


def build_model():
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def initial_arrays(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ArrayRecord(build_model().state_dict())


def batch(client, server_round):
    generator = torch.Generator().manual_seed(1000 * client + server_round)
    inputs = torch.randn(5, 4, generator=generator)
    return inputs, torch.randint(3, (5,), generator=generator)


def client_app(break_update=None, says=None, gradient=False):
    """Clients take one step of SGD and return weights, or else their `gradient`;
    `break_update(client, state)` may spoil what they send, and `says(client)` is what they call
    themselves, if anything.
    """
    app = ClientApp()

    @app.train()
    def train(message, context):
        client = partition_of(message, context)
        model = build_model()
        model.load_state_dict(message.content["arrays"].to_torch_state_dict(), strict=False)
        inputs, labels = batch(client, message.content["config"]["server-round"])
        loss = nn.functional.cross_entropy(model(inputs), labels)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for parameter, slope in zip(model.parameters(), gradients, strict=True):
                parameter.copy_(slope if gradient else parameter - LR * slope)
        state = model.state_dict()
        if break_update is not None:
            state = break_update(client, state)
        metrics = MetricRecord({"num-examples": 5, "loss": loss.item()})
        if says is not None:
            metrics[PARTITION_KEY] = says(client)
        content = RecordDict({"arrays": ArrayRecord(state), "metrics": metrics})
        return Message(content=content, reply_to=message)

    return app


def fedavg():
    return FedAvg(fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1)


def run(strategy, clients=3, rounds=2, app=None, arrays=None):
    """Run a strategy inline; returns Flower's Result and the final global arrays as numpy."""
    server = ServerApp()
    outcome = {}

    @server.main()
    def main(grid, context):
        outcome["result"] = strategy.start(
            grid=grid, initial_arrays=arrays or initial_arrays(), num_rounds=rounds, timeout=30
        )

    InlineBackend().run(server, app or client_app(), clients)
    result = outcome["result"]
    return result, {name: array.numpy() for name, array in result.arrays.items()}


def same_bits(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


class Spy(Attack):
    """Remembers what it was handed, draws from every global generator, finds nothing."""

    def __init__(self):
        self.problems = []

    def reconstruct(self, problem):
        self.problems.append(problem)
        torch.rand(3)
        np.random.rand(3)
        return Reconstruction(inputs=torch.zeros(0, 4))
