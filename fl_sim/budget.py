"""What a client's defences guarantee against the server by a given round, as an epsilon."""

from __future__ import annotations

from fl_sim.config import ScenarioConfig
from fl_sim.defenses import build_defenses
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
        The smallest that any one of the defences guarantees by itself.
    """
    config: ScenarioConfig = federation.config
    defenses = build_defenses(config.defense)
    clients = config.clients
    updates = sum(
        client in sample_cohort(clients.count, clients.per_round, config.seed, r)
        for r in range(1, server_round + 1)
    )
    rate = min(1.0, clients.batch_size / max(len(federation.indices(client)), 1))
    spent = [d.budget(updates, updates * clients.local_steps, rate) for d in defenses]
    return min((epsilon for epsilon in spent if epsilon is not None), default=None)
