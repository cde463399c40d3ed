"""Which images each client holds and which of them it uses in a round.

Everything here is a pure function of (scenario, client, round). The client asks it for its batches,
the evaluator asks it again for the truth, and nothing about the data ever travels with an update.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from fl_sim.config import ScenarioConfig
from fl_sim.data import ImageData, batch_indices, load_data, share
from fl_sim.losses import PER_CLASS


@dataclass(frozen=True)
class Batches:
    """One client's work in one round.

    Attributes
    ----------
    inputs : float32 Tensor of shape (steps, B, C, H, W)
        In the model's input space.
    labels : int64 Tensor of shape (steps, B)
    indices : int64 Tensor of shape (steps, B)
        Positions in the training set.
    """

    inputs: Tensor
    labels: Tensor
    indices: Tensor


class Federation:
    """The clients' data of one scenario.

    Parameters
    ----------
    config : ScenarioConfig
        Read are `data`, `clients` and `seed`.
    """

    def __init__(self, config: ScenarioConfig) -> None:
        self.config = config
        self.data: ImageData = load_data(config.data)  # type: ignore[arg-type]

    def indices(self, client: int) -> Tensor:
        """Return the positions in the training set of the images a client holds, shape (n,)."""
        clients = self.config.clients
        labels = self.data.train_labels
        return share(labels, self.config.data, clients.count, self.config.seed, client)

    def batch_indices(self, client: int, server_round: int) -> Tensor:
        """Return which images a client uses in a round, shape (steps, B).

        Raises
        ------
        ValueError
            If the client holds fewer images than a batch needs.
        """
        clients = self.config.clients
        return batch_indices(
            self.indices(client),
            clients.batch_size,
            seed=self.config.seed,
            client=client,
            round=server_round,
            steps=clients.local_steps,
        )

    def batches(self, client: int, server_round: int) -> Batches:
        """Return what a client trains on in a round."""
        indices = self.batch_indices(client, server_round)
        images = self.data.train_images[indices.flatten()]
        inputs = self.inputs(images)
        return Batches(
            inputs=inputs.reshape(*indices.shape, *inputs.shape[1:]),
            labels=self.data.train_labels[indices],
            indices=indices,
        )

    def truth(self, clients: Iterable[int], server_round: int) -> tuple[Tensor, Tensor]:
        """Return the inputs and labels of each image that any of the clients uses in a round,
        once each, in order of first use.
        """
        used = [self.batch_indices(client, server_round).flatten() for client in clients]
        indices = torch.tensor(list(dict.fromkeys(torch.cat(used).tolist())))
        return self.inputs(self.data.train_images[indices]), self.data.train_labels[indices]

    def inputs(self, images: Tensor) -> Tensor:
        """Turn uint8 images into the model's inputs."""
        return self.data.to_inputs(images, self.config.data.standardize)

    def target(self, labels: Tensor, soft: bool = False) -> Tensor:
        """Turn class labels into what the scenario's loss compares with; `soft` asks for class
        probabilities, which every loss takes.
        """
        if soft or self.config.loss in PER_CLASS:
            return torch.nn.functional.one_hot(labels, self.data.num_classes).float()
        return labels


@lru_cache(maxsize=4)
def _federation(frozen: str) -> Federation:
    return Federation(OmegaConf.create(json.loads(frozen)))  # type: ignore[arg-type]


def federation_of(config: dict[str, Any]) -> Federation:
    """Return the federation of a resolved scenario, made once per process.

    Parameters
    ----------
    config : dict
        The scenario as plain values, as it travels to the workers of a backend.
    """
    return _federation(json.dumps(config))
