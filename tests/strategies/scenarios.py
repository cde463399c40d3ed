"""Scenarios run whole, with every state of the global model and every reply kept, for tests."""

from dataclasses import dataclass, field

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict

import fl_sim.scenario
from fl_sim.client import train
from fl_sim.display import Display
from fl_sim.scenario import plain, run_scenario
from fl_sim.server import Server

FLOWER = "flwr.serverapp.strategy."

SMALL = (
    "tracker=none", "attack=none", "model.width=16", "clients.batch_size=4",
    "data.samples_per_client=8", "data.test_samples=10", "rounds=2",
)  # fmt: skip


def aggregation(name, **settings):
    """Return the overrides that put a strategy of Flower's into a scenario."""
    target = name if "." in name else FLOWER + name
    return [
        f"strategy.aggregation._target_={target}",
        *(f"+strategy.aggregation.{key}={value}" for key, value in settings.items()),
    ]


@dataclass
class Trained:
    """What a scenario went through.

    Attributes
    ----------
    config : dict
        The scenario as plain values.
    states : list of dict from name to float64 array
        Of the global model: the first one, and that after each round.
    results : Results
    server : Server
    """

    config: dict
    states: list = field(default_factory=list)
    results: object = None
    server: object = None

    def moved(self, server_round=1):
        """Return how far a round moved the weights, as one float64 vector."""
        return flat(self.states[server_round]) - flat(self.states[server_round - 1])

    def replies(self, **told):
        """Return what each client's weights are after round 1, if it was told this."""
        start = {name: torch.from_numpy(value).float() for name, value in self.states[0].items()}
        config = ConfigRecord({"server-round": 1, **told})
        clients = range(self.config["clients"]["count"])
        content = RecordDict({"arrays": ArrayRecord(start), "config": config})
        contents = [train(self.config, content, client) for client in clients]
        return np.stack([flat(as_numpy(content["arrays"])) for content in contents])

    def steps(self, **told):
        """Return how far each client moves in round 1, if it was told this, one a row."""
        return self.replies(**told) - flat(self.states[0])


def as_numpy(arrays):
    return {name: array.numpy().astype(np.float64) for name, array in arrays.items()}


def flat(state):
    return np.concatenate([value.ravel() for value in state.values()])


class Watched(Server):
    """A server that keeps each state of the model it evaluates."""

    def _evaluate(self, server_round, arrays):
        self.trained.states.append(as_numpy(arrays))
        return super()._evaluate(server_round, arrays)


def run_watched(config, folder, monkeypatch):
    """Run a scenario, all of it as the command line does, and return it `Trained`."""
    trained = Trained(plain(config))

    def watched(*args):
        trained.server = Watched(*args)
        trained.server.trained = trained
        return trained.server

    monkeypatch.setattr(fl_sim.scenario, "Server", watched)
    trained.results = run_scenario(config, folder, Display(brief=True))
    return trained
