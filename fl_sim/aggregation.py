"""The strategy inside a scenario: built as configured, and refused where it would not be itself.

Robust rules that have too few clients to leave one out, a proximal term that drives weights away,
noise made for another number of clients: Flower runs all that without a word. What can be told from
a strategy's class and settings is judged here; what only a round shows, in `fl_sim.rehearsal`.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from flwr.clientapp.mod import adaptiveclipping_mod, fixedclipping_mod
from flwr.clientapp.typing import Mod
from flwr.serverapp.strategy import (
    Bulyan,
    DifferentialPrivacyClientSideAdaptiveClipping,
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedMedian,
    FedTrimmedAvg,
    FedXgbBagging,
    FedXgbCyclic,
    MultiKrum,
    Strategy,
)
from omegaconf import OmegaConf
from torch import nn

from fl_sim.config import ScenarioConfig
from fl_sim.errors import ScenarioError
from fl_sim.instantiate import accepted, instantiate, load
from fl_sim.instructions import Instructions
from strategies import SecAggPlus, SecureAggregation

log = logging.getLogger(__name__)

KEY = "strategy.aggregation"

CLIENTS_CLIP: dict[type[Strategy], Mod] = {
    DifferentialPrivacyClientSideFixedClipping: fixedclipping_mod,
    DifferentialPrivacyClientSideAdaptiveClipping: adaptiveclipping_mod,
}
"""Strategies whose clients clip their updates, and Flower's mod that does it."""

SERVER_CLIPS: tuple[type[Strategy], ...] = (
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
)
"""Strategies that clip each client's update on the server."""

PRIVATE: tuple[type[Strategy], ...] = (*CLIENTS_CLIP, *SERVER_CLIPS)
"""Strategies that add noise, from numpy's global generator."""


def aggregation_of(config: ScenarioConfig) -> Strategy:
    """Build the strategy that aggregates; it is told to train on all the nodes it sees.

    Parameters
    ----------
    config : ScenarioConfig
        Read is `strategy.aggregation`; a strategy that wraps another one names it in a setting of
        its own, with a `_target_`.

    Returns
    -------
    flwr.serverapp.strategy.Strategy

    Raises
    ------
    ScenarioError
        If what is named is no strategy.
    ValueError
        If it cannot be built; the message says why.
    """
    asked = config.strategy.aggregation
    return _built(OmegaConf.to_container(asked, resolve=True) if asked else asked, KEY)


def _built(config: Any, key: str) -> Strategy:
    if not isinstance(config, Mapping) or not config.get("_target_"):
        raise ScenarioError(f"{key}={config} names no strategy: it lacks _target_.")
    target = config["_target_"]
    kind = load(target, key)
    if inspect.isabstract(kind):
        raise ScenarioError(f"{key}._target_={target} is the base of strategies, not one itself.")
    everybody = accepted(
        kind,
        fraction_train=1.0,
        fraction_evaluate=0.0,
        min_train_nodes=1,
        min_available_nodes=1,
    )
    if fixed := [name for name in everybody if name in config]:
        raise ScenarioError(
            f"{key}.{fixed[0]}={config[fixed[0]]} cannot be set: clients.per_round says how many "
            "clients train, and the server evaluates the model itself."
        )
    inner = {
        name: _built(value, f"{key}.{name}")
        for name, value in config.items()
        if _names_strategy(value, f"{key}.{name}")
    }
    settings = {name: value for name, value in config.items() if name not in inner}
    strategy = instantiate(settings, **everybody, **inner)
    if not isinstance(strategy, Strategy):
        raise ScenarioError(
            f"{key}._target_={target} makes no flwr.serverapp.strategy.Strategy, "
            f"but a {type(strategy).__name__}."
        )
    return strategy


def _names_strategy(value: Any, key: str) -> bool:
    if not isinstance(value, Mapping) or not value.get("_target_"):
        return False
    target = load(value["_target_"], key)
    return isinstance(target, type) and issubclass(target, Strategy)


def layers(strategy: Any) -> Iterator[Strategy]:
    """Yield a strategy and those it wraps, from the outside in."""
    while isinstance(strategy, Strategy):
        yield strategy
        strategy = getattr(strategy, "strategy", None)


def clipping_of(strategy: Strategy) -> Mod | None:
    """Return the client mod that a strategy, or one it wraps, needs; None for none."""
    mods = [
        mod for s in layers(strategy) for kind, mod in CLIENTS_CLIP.items() if isinstance(s, kind)
    ]
    return mods[0] if mods else None


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
    adversary = adversary_of(config)
    if clipping_of(strategy) and isinstance(adversary, type) and issubclass(adversary, SecAggPlus):
        raise ScenarioError(
            f"{name_of(strategy)} needs clients that clip, and Flower's mods for SecAgg+ and for "
            "clipping do not go together; choose strategy=secure_aggregation, the ideal sum."
        )
    if len([one for one in stack if isinstance(one, PRIVATE)]) > 1:
        raise ScenarioError(f"{name_of(stack[0])} wraps another strategy that clips; use one.")


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


def adversary_of(config: ScenarioConfig) -> Any:
    """Return what the scenario names as its adversary; None where nothing is attacked."""
    if config.strategy.adversary is None or config.attack.method is None:
        return None
    return load(config.strategy.adversary._target_, "strategy.adversary")


def sees_the_sum_only(config: ScenarioConfig) -> bool:
    """Tell whether the scenario's server learns no more than the weighted mean of the updates."""
    adversary = adversary_of(config)
    return isinstance(adversary, type) and issubclass(adversary, SecureAggregation)


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


def name_of(strategy: Strategy) -> str:
    """Return how a sentence names a strategy that a scenario asks for."""
    return f"{KEY} ({type(strategy).__name__})"
