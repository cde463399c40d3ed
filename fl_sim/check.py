"""Is this scenario possible? Every question is asked before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import torch

from attacks import Knowledge
from fl_sim.config import ScenarioConfig
from fl_sim.errors import ScenarioError
from fl_sim.faults import FAULTS
from fl_sim.federation import Federation
from fl_sim.losses import LOSSES, outputs_needed
from fl_sim.models import build_model
from fl_sim.models.trial import try_model
from strategies.cohort import sample_cohort


def check_numbers(config: ScenarioConfig) -> None:
    """Check everything that can be judged from the configuration alone.

    Raises
    ------
    ScenarioError
        Naming the key and its value.
    """
    clients = config.clients
    for key, value, least in (
        ("clients.count", clients.count, 1),
        ("clients.per_round", clients.per_round, 1),
        ("clients.batch_size", clients.batch_size, 1),
        ("clients.local_steps", clients.local_steps, 1),
        ("clients.threads", clients.threads, 1),
        ("rounds", config.rounds, 1),
        ("seed", config.seed, 0),
        ("threads", config.threads, 1),
    ):
        if value < least:
            raise ScenarioError(f"{key}={value} must be at least {least}.")
    for key, number in (("clients.lr", clients.lr), ("round_timeout", config.round_timeout)):
        if not number > 0:
            raise ScenarioError(f"{key}={number} must be positive.")
    if (tested := config.data.test_samples) is not None and tested < 1:
        raise ScenarioError(f"data.test_samples={tested} must be at least 1, or null for all.")
    if clients.per_round > clients.count:
        raise ScenarioError(
            f"clients.per_round={clients.per_round} is more than clients.count={clients.count}."
        )
    if clients.reply == "gradient" and clients.local_steps != 1:
        raise ScenarioError(
            f"clients.local_steps={clients.local_steps} needs clients.reply=weights; "
            "a gradient is the result of one step."
        )
    check_momentum(config)
    check_attack(config)
    check_faults(clients.faults)
    check_device(config.device)
    check_grants(config.attack.knows)


def check_momentum(config: ScenarioConfig) -> None:
    """Raise `ScenarioError` unless the clients' optimiser can have this momentum."""
    momentum, optimizer = config.clients.momentum, config.clients.optimizer
    if not 0 <= momentum < 1:
        raise ScenarioError(f"clients.momentum={momentum} must be at least 0 and less than 1.")
    if momentum and optimizer != "sgd":
        raise ScenarioError(
            f"clients.momentum={momentum} is for clients.optimizer=sgd; {optimizer} has its own."
        )


def check_attack(config: ScenarioConfig) -> None:
    """Raise `ScenarioError` unless what is attacked, and for how long, can be."""
    attack = config.attack
    if attack.timeout is not None and not attack.timeout > 0:
        raise ScenarioError(
            f"attack.timeout={attack.timeout} must be positive, or null for no limit."
        )
    if attack.most is not None and attack.most < 1:
        raise ScenarioError(f"attack.most={attack.most} must be at least 1, or null for all.")
    for number in attack.rounds or ():
        if not 1 <= number <= config.rounds:
            raise ScenarioError(
                f"attack.rounds has {number}, but the rounds are 1 to {config.rounds} "
                f"(rounds={config.rounds})."
            )


def check_faults(faults: Any) -> None:
    """Raise `ScenarioError` unless this is nothing, or a mapping from clients to faults."""
    if faults is None:
        return
    if not isinstance(faults, Mapping):
        raise ScenarioError(f"clients.faults={faults} is not of the form {{client: fault}}.")
    for client, fault in faults.items():
        if str(fault) not in FAULTS:  # YAML reads nan as a number
            raise ScenarioError(
                f"clients.faults has {fault!r} for client {client}, not one of {', '.join(FAULTS)}."
            )


def check_device(name: str) -> None:
    """Raise `ScenarioError` unless tensors can live on this device."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ScenarioError(f"device={name!r} is not a device name such as cpu or cuda.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ScenarioError(f"device={name!r} was asked for, but CUDA is not available here.")


def check_grants(names: list[str]) -> None:
    """Raise `ScenarioError` unless each name is one of the permissions there are."""
    known = [f.name for f in fields(Knowledge)]
    for name in names:
        if name not in known:
            raise ScenarioError(f"attack.knows has {name!r}, not one of {', '.join(known)}.")


def check_batches(config: ScenarioConfig, federation: Federation) -> None:
    """Check that every client drawn in any round can fill its batches.

    Raises
    ------
    ScenarioError
        Naming the first client that cannot.
    """
    clients = config.clients
    drawn: set[int] = set()
    for server_round in range(1, config.rounds + 1):
        drawn.update(sample_cohort(clients.count, clients.per_round, config.seed, server_round))
    with as_scenario_error():
        for client in sorted(drawn):
            if (held := len(federation.indices(client))) < clients.batch_size:
                raise ScenarioError(
                    too_large(config, client, held, len(federation.data.train_labels))
                )


def check_model(config: ScenarioConfig, federation: Federation) -> None:
    """Check that the model can be trained, on the first batch of the first client drawn.

    Parameters
    ----------
    config : ScenarioConfig
    federation : Federation
        Whose clients can fill their batches.

    Raises
    ------
    ScenarioError
        If it cannot.
    """
    clients = config.clients
    first = min(sample_cohort(clients.count, clients.per_round, config.seed, 1))
    batches = federation.batches(first, 1)
    try_model(
        lambda: build_model(
            config.model, federation.data.image_shape, federation.data.num_classes, config.seed
        ),
        f"model._target_={config.model._target_}",
        batches.inputs[0],
        federation.target(batches.labels[0], soft=bool(config.defense)),
        federation.data.num_classes,
        LOSSES[str(config.loss)],
        outputs_needed(str(config.loss), federation.data.num_classes),
        config.device,
    )


def too_large(config: ScenarioConfig, client: int, held: int, images: int) -> str:
    """Return what to do about a batch larger than what a client holds, of so many images in all."""
    size, samples = config.clients.batch_size, config.data.samples_per_client
    told = f"Client {client} holds {held:,} images, fewer than clients.batch_size={size}; "
    if size > images:
        return f"{told}lower it: there are {images:,} training images in all."
    if samples is not None:
        return f"{told}lower it, or raise data.samples_per_client={samples}."
    return (
        f"{told}lower it, or set data.samples_per_client={size} or more, which lets clients draw "
        "overlapping samples."
    )


@contextmanager
def as_scenario_error() -> Iterator[None]:
    """Turn a constructor's ValueError or TypeError into a `ScenarioError` of one sentence."""
    try:
        yield
    except ScenarioError:
        raise
    except (ValueError, TypeError, ImportError) as error:
        raise ScenarioError(" ".join(str(error).split())) from error
