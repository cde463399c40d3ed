"""What every backend has in common: it runs a ServerApp against copies of a ClientApp."""

from __future__ import annotations

from typing import Protocol

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp


class Backend(Protocol):
    """Runs one federation to its end."""

    def run(self, server_app: ServerApp, client_app: ClientApp, count: int) -> None:
        """Run the server against its clients.

        Client errors become error replies. Errors of the server are raised.

        Parameters
        ----------
        server_app : ServerApp
        client_app : ClientApp
            What every client runs.
        count : int
            Number of clients, at least 1; partition ids are 0 ... count - 1.
        """
