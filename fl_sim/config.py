"""The schema of a scenario: every key a user can set, its type, its default, its allowed values.

Hydra merges the YAML groups of conf/ over this dataclass, so wrong types and unknown keys are
refused by name. Groups that stand for an object (model, attack, defence, ...) are left open here:
their YAML names a class with `_target_`, and that class's constructor is the schema.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING


class Partition(StrEnum):
    """How the training images are shared out among the clients."""

    iid = "iid"
    dirichlet = "dirichlet"
    pathological = "pathological"
    shard = "shard"


class Reply(StrEnum):
    """What a client sends back: its weights after local steps, or one gradient."""

    weights = "weights"
    gradient = "gradient"


class Optimizer(StrEnum):
    """How clients step along their gradients."""

    sgd = "sgd"
    adam = "adam"


class LossName(StrEnum):
    """The clients' loss, mean-reduced."""

    cross_entropy = "cross_entropy"
    mse = "mse"
    bce_with_logits = "bce_with_logits"
    nll = "nll"


@dataclass
class DataConfig:
    """Images and how they are shared out."""

    name: str = MISSING
    source: Any = MISSING  # `_target_`: a function returning an fl_sim.data.ImageData
    root: str | None = None  # folder of the files, where the source reads any
    standardize: bool = True  # (x - mean) / std per channel; false: raw [0, 1]
    partition: Partition = Partition.iid
    alpha: float = 0.5  # dirichlet: concentration, smaller is more skewed
    classes_per_client: int = 2  # pathological and shard
    samples_per_client: int | None = None  # null: a disjoint split; n: each client draws its own n
    test_samples: int | None = 1000  # most test images per evaluation of the model; null: all


@dataclass
class ClientsConfig:
    """Who takes part and what they do."""

    count: int = 4
    per_round: int = 2
    batch_size: int = 32
    reply: Reply = Reply.weights
    local_steps: int = 1
    optimizer: Optimizer = Optimizer.sgd
    momentum: float = 0.0  # of sgd
    lr: float = 0.1
    faults: Any = None  # {client: raise, nan or shape}, see fl_sim.faults
    threads: int = 1  # of one client's training; 1 gives the same bits on every backend


@dataclass
class AttackConfig:
    """What the server runs on which of the updates it gets."""

    name: str = "${hydra:runtime.choices.attack}"  # the config file's
    method: Any = MISSING  # an attacks.Attack; null for none
    timeout: float | None = 600.0  # seconds for one gradient; what was found until then counts
    knows: list[str] = field(default_factory=list)  # see fl_sim.grants
    rounds: list[int] | None = None  # in which to attack, from 1; null: all
    most: int | None = None  # most updates attacked per round; null: all


@dataclass
class SweepConfig:
    """How a multirun behaves."""

    resume: bool = True  # skip what an earlier run of the same command finished
    name: str | None = None  # folder under multirun/; null: made from the swept keys


@dataclass
class ScenarioConfig:
    """One scenario, from data to tracker."""

    data: DataConfig = field(default_factory=DataConfig)
    clients: ClientsConfig = field(default_factory=ClientsConfig)
    model: Any = MISSING
    strategy: Any = MISSING
    attack: AttackConfig = field(default_factory=AttackConfig)
    defense: Any = MISSING  # a mapping from name to object; applied in order
    backend: Any = MISSING
    tracker: Any = MISSING
    sweep: SweepConfig = field(default_factory=SweepConfig)
    loss: LossName = LossName.cross_entropy
    rounds: int = 1
    round_timeout: float = 600.0  # seconds the server waits for a round's replies
    seed: int = 0
    device: str = "cpu"
    threads: int = 1  # torch threads of the server; more pay only for large convolutional models


def register() -> None:
    """Make the schema known to Hydra under the name `scenario_schema`."""
    ConfigStore.instance().store(name="scenario_schema", node=ScenarioConfig)
