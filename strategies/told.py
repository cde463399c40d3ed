"""What a strategy tells its clients beside the weights: the configuration in its messages.

Clients follow it, and a server that reads their replies has to reckon with it: both look it up
here, under the names that Flower gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flwr.app import RecordDict

from attacks.base import LocalWork

LEARNING_RATE = "lr"
"""The clients' learning rate."""

PROXIMAL_MU = "proximal-mu"
"""FedProx: weight of the proximal term, ``mu / 2 |w - w_sent|^2``, in every local step's loss."""

PROXIMAL_SGD = "SGD with a proximal term"
"""What `attacks.base.LocalWork` calls the optimiser of several steps that are drawn back."""


def told(content: RecordDict) -> dict[str, Any]:
    """Return all configuration in a message's content, as one dictionary.

    Parameters
    ----------
    content : flwr.app.RecordDict
        Of a message from the server.

    Returns
    -------
    dict from name to value
        Where two records have an entry of one name, that of the later one.
    """
    entries: dict[str, Any] = {}
    for record in content.config_records.values():
        entries.update(record)
    return entries


def as_told(planned: LocalWork, entries: Mapping[str, Any]) -> LocalWork:
    """Return the local work of a client that follows what it was told.

    Parameters
    ----------
    planned : LocalWork
        What is known without; a learning rate here counts more than the one that was sent.
    entries : mapping from name to value
        What the client was `told`.

    Returns
    -------
    LocalWork
        With the learning rate, if either names one. Several steps of SGD with a proximal term
        (FedProx) are called `PROXIMAL_SGD`, as they are no plain SGD; a single one stays what it
        is, since the term has no gradient at the weights that were sent.
    """
    lr = entries.get(LEARNING_RATE) if planned.lr is None else planned.lr
    drawn_back = planned.steps > 1 and planned.optimizer == "sgd" and entries.get(PROXIMAL_MU)
    return replace(
        planned,
        lr=None if lr is None else float(lr),
        optimizer=PROXIMAL_SGD if drawn_back else planned.optimizer,
    )
