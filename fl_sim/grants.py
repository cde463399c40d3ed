"""What a scenario grants the attacker by name: the one way from the truth to an attack.

``attack.knows=[labels,batch_size,data_range]``. Nothing is granted unless it is in that list, and
the list is part of the results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from attacks import Knowledge
from fl_sim.errors import ScenarioError
from fl_sim.federation import Federation


def _labels(federation: Federation, client: int, server_round: int) -> Any:
    return federation.truth([client], server_round)[1]


def _batch_size(federation: Federation, client: int, server_round: int) -> Any:
    return len(federation.truth([client], server_round)[1])


def _data_range(federation: Federation, client: int, server_round: int) -> Any:
    return federation.data.input_range(federation.config.data.standardize)


GRANTS = {"labels": _labels, "batch_size": _batch_size, "data_range": _data_range}
"""How each permission is looked up; the names are fields of `attacks.Knowledge`."""


def granted(names: Iterable[str], federation: Federation) -> Callable[[int, int], Knowledge]:
    """Return the function (round, client) -> Knowledge that a strategy asks.

    Parameters
    ----------
    names : iterable of str
        The scenario's permissions; others stay closed.
    federation : Federation
        Knows the truth.

    Raises
    ------
    ScenarioError
        If a permission exists for users of the library only.
    """
    names = list(names)
    if missing := [name for name in names if name not in GRANTS]:
        raise ScenarioError(
            f"attack.knows={missing} cannot be granted by a scenario, only by attacks.Knowledge."
        )

    def knows(server_round: int, client: int) -> Knowledge:
        return Knowledge(**{name: GRANTS[name](federation, client, server_round) for name in names})

    return knows
