"""Clients in worker processes: Flower's own simulation engine on Ray.

Starting and stopping Ray takes 10 to 20 seconds; it pays where clients are expensive.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp


class RayBackend:
    """Run clients through `flwr.simulation.run_simulation`.

    Parameters
    ----------
    num_cpus : float, default 1
        CPU cores one client takes; decides how many run at a time.
    num_gpus : float, default 0
        Share of a GPU one client takes.
    verbose : bool, default False
        Whether Ray's workers may write to the terminal.

    Raises
    ------
    ValueError
        If a number is out of its range.
    """

    def __init__(self, num_cpus: float = 1, num_gpus: float = 0, verbose: bool = False) -> None:
        if not num_cpus > 0:
            raise ValueError(f"backend.num_cpus={num_cpus!r} must be positive.")
        if not num_gpus >= 0:
            raise ValueError(f"backend.num_gpus={num_gpus!r} must not be negative.")
        self.num_cpus = num_cpus
        self.num_gpus = num_gpus
        self.verbose = verbose

    def run(self, server_app: ServerApp, client_app: ClientApp, count: int) -> None:
        """Run the server against `count` clients; see `Backend.run`."""
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        os.environ.setdefault("RAY_DEDUP_LOGS", "0")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        path = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(p for p in sys.path if p))
        from flwr.simulation import run_simulation

        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": 40}
        try:
            run_simulation(
                server_app=server_app,
                client_app=client_app,
                num_supernodes=count,
                backend_config={
                    "client_resources": {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus},
                    "init_args": {} if self.verbose else quiet,
                },
            )
        finally:  # run_simulation lets PYTHONPATH grow with every call
            os.environ.pop("PYTHONPATH") if path is None else os.environ.update(PYTHONPATH=path)
