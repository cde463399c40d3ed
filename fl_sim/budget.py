"""What the clients' defences guarantee against the server by a given round, as an epsilon.

Each guarantee is taken by itself, and the best one counts: whatever the other defences do to a
reply before the noise is within its bound, and afterwards they see nothing but noisy values. There
is one exception (`standing`): DP-SGD bounds the gradient of each sample, which says nothing once
samples have a part in each other's gradients (mixup), or decide together what is sent of the noisy
gradient (Soteria).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from fl_sim.config import ScenarioConfig
from fl_sim.defenses import Defense, build_defenses
from fl_sim.federation import Federation
from strategies.cohort import sample_cohort


def budget(federation: Federation, client: int, server_round: int) -> float | None:
    """Return the epsilon a client has spent after a round; None without a guarantee.

    Parameters
    ----------
    federation : Federation
        Of the scenario.
    client, server_round : int
        Who, and after which round, from 1.

    Returns
    -------
    float or None
        The smallest that any one of the `standing` guarantees says.
    """
    config: ScenarioConfig = federation.config
    updates = updates_sent(config, server_round)[client]
    return _guarantee(build_defenses(config.defense), federation, client, updates)


def largest_budget(federation: Federation, server_round: int) -> float | None:
    """Return the largest epsilon that any client has spent after a round.

    Parameters
    ----------
    federation : Federation
        Of the scenario.
    server_round : int
        After which round; 0 before the first.

    Returns
    -------
    float or None
        None without a guarantee, 0 if nobody has taken part yet.
    """
    config: ScenarioConfig = federation.config
    defenses = build_defenses(config.defense)
    if not promises(defenses):
        return None
    updates = updates_sent(config, server_round)
    spent = [_guarantee(defenses, federation, client, n) for client, n in updates.items()]
    return max((epsilon for epsilon in spent if epsilon is not None), default=0.0)


def standing(defenses: Sequence[Defense]) -> list[Defense]:
    """Return those defences whose guarantee, if they have one, holds beside the others."""
    coupled = any(defense.couples_samples for defense in defenses)
    return [defense for defense in defenses if not (coupled and defense.per_sample)]


def promises(defenses: Sequence[Defense]) -> bool:
    """Tell whether any of the defences guarantees something beside the others."""
    return any(defense.budget(1, 1, 1.0) is not None for defense in standing(defenses))


def updates_sent(config: ScenarioConfig, server_round: int) -> Counter[int]:
    """Return how many updates each client has sent by the end of a round.

    Parameters
    ----------
    config : ScenarioConfig
        Read are `clients` and `seed`.
    server_round : int
        From 1; 0 before the first.

    Returns
    -------
    Counter
        From clients that have taken part to numbers of updates.
    """
    clients = config.clients
    return Counter(
        client
        for r in range(1, server_round + 1)
        for client in sample_cohort(clients.count, clients.per_round, config.seed, r)
    )


def _guarantee(
    defenses: Sequence[Defense], federation: Federation, client: int, updates: int
) -> float | None:
    clients = federation.config.clients
    rate = min(1.0, clients.batch_size / max(len(federation.indices(client)), 1))
    spent = [d.budget(updates, updates * clients.local_steps, rate) for d in standing(defenses)]
    return min((epsilon for epsilon in spent if epsilon is not None), default=None)
