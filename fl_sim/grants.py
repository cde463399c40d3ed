"""What a scenario grants the attacker by name: the one way from the truth to an attack.

``attack.knows=[labels,batch_size,data_range,batchnorm_statistics]``. Nothing is granted unless it
is in that list, and the list is part of the results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from attacks import Knowledge
from fl_sim.errors import ScenarioError
from fl_sim.federation import Federation
from fl_sim.local import batchnorm_statistics


def _labels(federation: Federation, client: int, server_round: int, model: nn.Module) -> Any:
    return federation.truth([client], server_round)[1]


def _batch_size(federation: Federation, client: int, server_round: int, model: nn.Module) -> Any:
    return len(federation.truth([client], server_round)[1])


def _data_range(federation: Federation, client: int, server_round: int, model: nn.Module) -> Any:
    return federation.data.input_range(federation.config.data.standardize)


def _batchnorm_statistics(
    federation: Federation, client: int, server_round: int, model: nn.Module
) -> Any:
    """Of the first local step's batch, before any defence."""
    inputs = federation.batches(client, server_round).inputs[0]
    return batchnorm_statistics(model, inputs.to(next(model.parameters()).device))


GRANTS = {
    "labels": _labels,
    "batch_size": _batch_size,
    "data_range": _data_range,
    "batchnorm_statistics": _batchnorm_statistics,
}
"""How each permission is looked up; the names are fields of `attacks.Knowledge`."""


def granted(
    names: Iterable[str], federation: Federation, model: nn.Module
) -> Callable[[int, int, nn.Module], Knowledge]:
    """Return the function (round, client, model) -> Knowledge that a strategy asks.

    Parameters
    ----------
    names : iterable of str
        The scenario's permissions; others stay closed.
    federation : Federation
        Knows the truth.
    model : nn.Module
        The scenario's; the function itself is handed one that holds what the client was sent.

    Raises
    ------
    ScenarioError
        If the model has nothing a permission could be about.
    """
    names = list(names)
    normalised = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    if "batchnorm_statistics" in names and not normalised:
        raise ScenarioError(
            "attack.knows has 'batchnorm_statistics', but the model has no BatchNorm layer "
            "(model=resnet18 model.norm=batch has)."
        )

    def knows(server_round: int, client: int, model: nn.Module) -> Knowledge:
        return Knowledge(
            **{name: GRANTS[name](federation, client, server_round, model) for name in names}
        )

    return knows
