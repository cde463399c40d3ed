"""Local differential privacy as Flower users switch it on: Flower's own LocalDpMod."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, RecordDict
from flwr.clientapp.mod import LocalDpMod
from torch import Generator, nn

from fl_sim.defenses.accounting import epsilon_of
from fl_sim.defenses.base import Defense, Tensors, refuse_buffers


class LocalDp(Defense):
    """Clip the change of the weights to an L2 norm and add Gaussian noise to it.

    The noise has the standard deviation ``sensitivity * sqrt(2 ln(1.25 / delta)) / epsilon``. All
    quantities are in units of the weights (of the gradient, where clients send gradients).

    Neighbours are any two data sets a client may hold: their updates, clipped to C, lie up to 2 C
    apart. With that sensitivity, the default, `epsilon` is the budget of one update; Flower leaves
    the choice to its users. What is reported (`budget`) follows from the noise that is drawn and
    from 2 C, whatever the sensitivity says.

    Parameters
    ----------
    clipping_norm : float, default 1.0
        C, positive.
    sensitivity : float, optional
        Not negative; by default ``2 * clipping_norm``. Less means less noise than `epsilon` needs.
    epsilon : float, default 1.0
        Budget of one update, positive.
    delta : float, default 1e-5
        Between 0 and 1.

    Raises
    ------
    ValueError
        If a value is out of its range.

    References
    ----------
    Dwork, Roth, "The Algorithmic Foundations of Differential Privacy", 2014, theorem A.1 (which
    needs an epsilon of at most 1).
    """

    def __init__(
        self,
        clipping_norm: float = 1.0,
        sensitivity: float | None = None,
        epsilon: float = 1.0,
        delta: float = 1e-5,
    ) -> None:
        if not epsilon > 0:
            raise ValueError(f"defense.local_dp.epsilon={epsilon!r} must be positive.")
        if not 0 < delta < 1:
            raise ValueError(f"defense.local_dp.delta={delta!r} must be between 0 and 1.")
        self.clipping_norm = clipping_norm
        self.sensitivity = 2 * clipping_norm if sensitivity is None else sensitivity
        self.epsilon = epsilon
        self.delta = delta
        self._mod()  # refuses the rest

    def _mod(self) -> LocalDpMod:
        return LocalDpMod(self.clipping_norm, self.sensitivity, self.epsilon, self.delta)

    @property
    def std(self) -> float:
        """Standard deviation of the noise per coordinate."""
        factor = float(np.sqrt(2 * np.log(1.25 / self.delta)))
        return self.sensitivity * factor / self.epsilon

    def check(self, model: nn.Module, reply: str) -> None:
        """Refuse buffers that would be sent without noise."""
        if reply == "weights":
            refuse_buffers("local_dp", model)

    def on_update(self, update: Tensors, scale: float, generator: Generator) -> Tensors:
        """Return the update as Flower's mod lets it pass."""
        mod = self._mod()
        moved = {name: -scale * value for name, value in update.items()}
        sent = {name: torch.zeros_like(value) for name, value in update.items()}
        seed = int(torch.randint(2**32, (1,), generator=generator, dtype=torch.int64))
        state = np.random.get_state()  # the mod draws from numpy's global generator
        np.random.seed(seed)
        try:
            reply: Any = mod(_envelope(sent), None, lambda *_: _envelope(moved))  # type: ignore[arg-type,return-value]
        finally:
            np.random.set_state(state)
        (arrays,) = reply.content.array_records.values()
        return {
            name: torch.from_numpy(arrays[name].numpy().copy()).to(value) / -scale
            for name, value in update.items()
        }

    def budget(self, updates: int, steps: int, rate: float) -> float | None:
        """Return the budget of all updates together, by Rényi accounting."""
        return epsilon_of(self.std / (2 * self.clipping_norm), updates, 1.0, self.delta)


def _envelope(tensors: Tensors) -> SimpleNamespace:
    """Return as much of a Flower message as a mod looks at."""
    arrays = ArrayRecord({k: Array(v.contiguous().numpy()) for k, v in tensors.items()})
    return SimpleNamespace(content=RecordDict({"arrays": arrays}), has_error=lambda: False)
