"""Replies into gradients: the only place that knows learning rates and local steps.

A client that returns weights after k steps of SGD at learning rate lr tells the server
``(sent - returned) / (lr k)``, the mean of the k gradients along its path; for k = 1 it is the
gradient itself. The subtraction is done in float64, where the difference of two float32 weights is
exact, so the only error is the rounding of the client's own update: about ``eps |w| / (lr |g|)``
relative (1e-7 at lr = 0.1, 1e-6 at lr = 0.01 on an MLP).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from flwr.app import ArrayRecord, Message
from torch import Tensor

ReplyKind = Literal["weights", "gradient"]


class InvalidUpdate(ValueError):
    """A reply that is no update of the model sent; the message says what is wrong with it."""


@dataclass(frozen=True)
class UpdateRule:
    """How a reply relates to the gradient.

    Attributes
    ----------
    reply : "weights" or "gradient"
        Whether clients return their weights after local steps, or a gradient.
    lr : float, optional
        The clients' learning rate, positive; needed for weights.
    local_steps : int
        SGD steps behind one reply, at least 1.

    Raises
    ------
    ValueError
        If a value is out of its range.
    """

    reply: ReplyKind = "weights"
    lr: float | None = None
    local_steps: int = 1

    def __post_init__(self) -> None:
        if self.reply not in get_args(ReplyKind):
            raise ValueError(f"reply={self.reply!r} is neither 'weights' nor 'gradient'.")
        if self.reply == "weights" and (self.lr is None or not self.lr > 0):
            raise ValueError(f"lr={self.lr!r} must be positive to turn weights into a gradient.")
        if self.local_steps < 1:
            raise ValueError(f"local_steps={self.local_steps!r} must be at least 1.")

    def gradient(self, returned: ArrayRecord, sent: ArrayRecord, names: Iterable[str]) -> Tensors:
        """Turn one reply into a gradient.

        Parameters
        ----------
        returned, sent : ArrayRecord
            What the client returned, and what it had been sent.
        names : iterable of str
            Names of the trainable parameters.

        Returns
        -------
        dict from parameter name to Tensor
            float64 where it was computed from weights, else as the client sent it.

        Raises
        ------
        InvalidUpdate
            If names or shapes differ from what was sent, or a value is not finite.
        """
        names = list(names)
        expected = list(sent) if self.reply == "weights" else names
        check_update(returned, sent, expected)
        if self.reply == "gradient":
            return {name: tensor(returned, name) for name in names}
        assert self.lr is not None  # held by __post_init__
        scale = self.lr * self.local_steps
        return {n: (tensor(sent, n).double() - tensor(returned, n).double()) / scale for n in names}


Tensors = dict[str, Tensor]


def check_update(returned: ArrayRecord, sent: ArrayRecord, expected: Iterable[str]) -> None:
    """Refuse an update that is not one of the arrays that were sent.

    Parameters
    ----------
    returned, sent : ArrayRecord
        What a client returned, and what it had been sent.
    expected : iterable of str
        Names among `sent` that it must hold, and no others.

    Raises
    ------
    InvalidUpdate
        If a name is missing or not expected, a shape differs, or a value is not finite.
    """
    expected = list(expected)
    if missing := [name for name in expected if name not in returned]:
        raise InvalidUpdate(f"The update lacks {', '.join(map(repr, missing))}.")
    if extra := [name for name in returned if name not in set(expected)]:
        raise InvalidUpdate(f"The update has {', '.join(map(repr, extra))}, which was not sent.")
    for name in expected:
        got, want = tuple(returned[name].shape), tuple(sent[name].shape)
        if got != want:
            raise InvalidUpdate(f"{name!r} has shape {got} in the update, {want} as sent.")
        value = tensor(returned, name)
        if value.is_floating_point() and not torch.isfinite(value).all():
            kind = "NaN" if torch.isnan(value).any() else "infinite values"
            raise InvalidUpdate(f"{name!r} contains {kind} in the update.")


def arrays_of(message: Message) -> ArrayRecord:
    """Return the one ArrayRecord of a message.

    Raises
    ------
    InvalidUpdate
        If there is none, or more than one.
    """
    records = list(message.content.array_records.values())
    if len(records) != 1:
        raise InvalidUpdate(f"The message holds {len(records)} array records instead of one.")
    return records[0]


def tensor(record: ArrayRecord, name: str) -> Tensor:
    """Return one array of a record as a Tensor of its own memory."""
    return torch.from_numpy(record[name].numpy().copy())
