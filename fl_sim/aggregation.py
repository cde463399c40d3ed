"""The strategy inside a scenario, built as configured, and what it needs of the clients.

A strategy may wrap others, Flower's differential privacy for one; all of them are to train on every
node they see and leave evaluation to the server.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from flwr.clientapp.mod import adaptiveclipping_mod, fixedclipping_mod
from flwr.clientapp.typing import Mod
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideAdaptiveClipping,
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
    Strategy,
)
from omegaconf import OmegaConf

from fl_sim.config import ScenarioConfig
from fl_sim.errors import ScenarioError
from fl_sim.instantiate import accepted, instantiate, load
from strategies import SecureAggregation

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


def adversary_of(config: ScenarioConfig) -> Any:
    """Return what the scenario names as its adversary; None where nothing is attacked."""
    if config.strategy.adversary is None or config.attack.method is None:
        return None
    return load(config.strategy.adversary._target_, "strategy.adversary")


def sees_the_sum_only(config: ScenarioConfig) -> bool:
    """Tell whether the scenario's server learns no more than the weighted mean of the updates."""
    adversary = adversary_of(config)
    return isinstance(adversary, type) and issubclass(adversary, SecureAggregation)


def name_of(strategy: Strategy) -> str:
    """Return how a sentence names a strategy that a scenario asks for."""
    return f"{KEY} ({type(strategy).__name__})"
