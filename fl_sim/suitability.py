"""Whether a strategy would do here what its name says, judged by its class and settings.

Robust rules that have too few clients to leave one out, a proximal term that drives weights away,
noise made for another number of clients: Flower runs all that without a word. What can be told from
a strategy's class and settings is judged here; what only a round shows, in `fl_sim.rehearsal`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from flwr.serverapp.strategy import (
    Bulyan,
    FedMedian,
    FedTrimmedAvg,
    FedXgbBagging,
    FedXgbCyclic,
    MultiKrum,
    Strategy,
)
from torch import nn

from fl_sim.aggregation import (
    CLIENTS_CLIP,
    KEY,
    PRIVATE,
    adversary_of,
    clipping_of,
    layers,
    name_of,
)
from fl_sim.config import ScenarioConfig
from fl_sim.errors import ScenarioError
from fl_sim.instructions import Instructions
from strategies import SecAggPlus

log = logging.getLogger(__name__)

CLIENT_RATES = ("client_learning_rate", "eta_l")
"""Settings by which Flower's QFedAvg and adaptive optimisers know the clients' learning rate."""


def check_aggregation(strategy: Strategy, config: ScenarioConfig, model: nn.Module) -> None:
    """Refuse a strategy that would not do here what its name says, and warn of idle settings.

    Parameters
    ----------
    strategy : flwr.serverapp.strategy.Strategy
        That aggregates, as built.
    config : ScenarioConfig
        Read are `clients` and `strategy`.
    model : nn.Module
        The scenario's.

    Raises
    ------
    ScenarioError
        Naming the strategy and the setting that does not fit.
    """
    stack = list(layers(strategy))
    for one in stack:
        if isinstance(one, FedXgbBagging | FedXgbCyclic):
            raise ScenarioError(f"{name_of(one)} is for XGBoost's trees, and not for a network.")
        check_noise(one, config, model)
        check_robustness(one, config.clients.per_round)
    warn_of_rates(config.strategy.aggregation, config.clients.lr)
    adversary = adversary_of(config)
    if clipping_of(strategy) and isinstance(adversary, type) and issubclass(adversary, SecAggPlus):
        raise ScenarioError(
            f"{name_of(strategy)} needs clients that clip, and Flower's mods for SecAgg+ and for "
            "clipping do not go together; choose strategy=secure_aggregation, the ideal sum."
        )
    if len([one for one in stack if isinstance(one, PRIVATE)]) > 1:
        raise ScenarioError(f"{name_of(stack[0])} wraps another strategy that clips; use one.")


def warn_of_rates(settings: Mapping[str, Any], lr: float) -> None:
    """Warn where a strategy's settings take the clients to have another learning rate than they do.

    Parameters
    ----------
    settings : mapping
        Of the strategy, and of those it wraps.
    lr : float
        The clients' learning rate.
    """
    for name, value in settings.items():
        if isinstance(value, Mapping):
            warn_of_rates(value, lr)
        elif name in CLIENT_RATES and value != lr:
            log.warning(
                "%s.%s=%s says how clients step, but they step with clients.lr=%s.",
                KEY, name, value, lr,
            )  # fmt: skip


def check_proximal(told: Instructions, config: ScenarioConfig) -> None:
    """Refuse a proximal term that drives the weights away, and warn of one without effect.

    A step of SGD along ``mu (w - w_sent)`` multiplies the distance from the weights sent by
    ``1 - lr mu``: it grows from step to step if ``lr mu >= 2 (1 + momentum)``. The first step
    starts at the weights sent, where the term has no gradient.

    Parameters
    ----------
    told : Instructions
        What clients are sent.
    config : ScenarioConfig
        Read is `clients`.

    Raises
    ------
    ScenarioError
        Naming both numbers.
    """
    clients, mu = config.clients, told.proximal_mu
    if not mu:
        return
    if clients.local_steps == 1:
        log.warning(
            "proximal_mu=%g changes nothing with clients.local_steps=1: the proximal term has no "
            "gradient at the weights sent.", mu,
        )  # fmt: skip
    elif clients.optimizer == "sgd" and told.lr * mu >= (most := 2 * (1 + clients.momentum)):
        raise ScenarioError(
            f"proximal_mu={mu:g} drives the weights away from those sent at "
            f"clients.lr={told.lr:g}, as their product is not below {most:g}; lower one of them."
        )


def check_noise(strategy: Strategy, config: ScenarioConfig, model: nn.Module) -> None:
    """Raise `ScenarioError` if a strategy that clips and adds noise would do either wrongly."""
    if not isinstance(strategy, PRIVATE):
        return
    clients, name = config.clients, name_of(strategy)
    if (sampled := getattr(strategy, "num_sampled_clients", None)) != clients.per_round:
        raise ScenarioError(
            f"{name} has num_sampled_clients={sampled}, but clients.per_round={clients.per_round}; "
            "its noise is made for that number, so they have to be equal."
        )
    travelling = set(model.state_dict())
    if buffers := [key for key, _ in model.named_buffers() if key in travelling]:
        raise ScenarioError(
            f"{name} clips parameters, and this model also sends buffers ({buffers[0]!r}); choose "
            "a model without batch normalisation (model.norm=group for one)."
        )
    if isinstance(strategy, tuple(CLIENTS_CLIP)) and clients.reply != "weights":
        raise ScenarioError(
            f"{name} needs clients.reply=weights, not {str(clients.reply)!r}: its clients clip the "
            "difference of weights."
        )


def check_robustness(strategy: Strategy, replies: int) -> None:
    """Raise `ScenarioError` if a robust rule cannot withstand what it is told to.

    Parameters
    ----------
    strategy : flwr.serverapp.strategy.Strategy
    replies : int
        Clients per round. With as few as make a rule the plain mean, this warns.
    """
    name, bad = name_of(strategy), getattr(strategy, "num_malicious_nodes", 0)
    if isinstance(strategy, MultiKrum) and bad:
        if replies < (least := 2 * bad + 3):
            raise ScenarioError(
                f"{name} with num_malicious_nodes={bad} needs at least {least} clients a round "
                f"(2 f + 3), not clients.per_round={replies}."
            )
        if (chosen := strategy.num_nodes_to_select) > replies - bad:
            raise ScenarioError(
                f"{name} selects num_nodes_to_select={chosen} of clients.per_round={replies} "
                f"updates, and so some of the {bad} malicious ones."
            )
    if isinstance(strategy, Bulyan) and replies < (least := 4 * bad + 3):
        raise ScenarioError(
            f"{name} with num_malicious_nodes={bad} needs at least {least} clients a round "
            f"(4 f + 3), not clients.per_round={replies}."
        )
    if isinstance(strategy, Bulyan) and not bad:
        log.warning("%s is the plain mean here: num_malicious_nodes=0 leaves no update out.", name)
    if isinstance(strategy, FedMedian) and replies < 3:
        log.warning("%s is the plain mean here: the median of %d is.", name, replies)
    if isinstance(strategy, FedTrimmedAvg) and int(strategy.beta * replies) == 0:
        log.warning(
            "%s is the plain mean here: beta=%g of clients.per_round=%d is less than one update.",
            name, strategy.beta, replies,
        )  # fmt: skip
