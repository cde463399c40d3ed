"""Central differential privacy: the server itself clips the updates and adds noise to their mean.

It protects the model that is handed out, not the clients from a server that looks at their updates
before: the adversary stands outside and sees them as they arrive.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import (
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
    Strategy,
)
from torch import nn

from fl_sim.data.seeds import Stream, sequence
from fl_sim.defenses.base import Cohort, Defense, refuse_buffers
from strategies import StrategyWrapper


class CentralDp(Defense):
    """Flower's server-side DP wrappers, with fixed or adaptive clipping.

    Parameters
    ----------
    clipping_norm : float, default 1.0
        Bound on the L2 norm of a client's change of the weights, positive; the first one, if
        `adaptive`.
    noise_multiplier : float, default 1.0
        The mean of the changes gets noise of standard deviation
        ``noise_multiplier * clipping_norm / clients per round``.
    adaptive : bool, default False
        Let Flower move the bound from round to round. It is meant to approach the median norm
        (Andrew et al. 2021), but as of Flower 1.41 it shrinks where most updates exceed it, and
        grows where few do.

    Raises
    ------
    ValueError
        If the bound is not positive or the multiplier negative.

    References
    ----------
    McMahan et al., "Learning Differentially Private Recurrent Language Models", 2018;
    Andrew et al., "Differentially Private Learning with Adaptive Clipping", 2021.
    """

    def __init__(
        self, clipping_norm: float = 1.0, noise_multiplier: float = 1.0, adaptive: bool = False
    ) -> None:
        if not clipping_norm > 0:
            raise ValueError(
                f"defense.central_dp.clipping_norm={clipping_norm!r} must be positive."
            )
        if not noise_multiplier >= 0:
            raise ValueError(
                f"defense.central_dp.noise_multiplier={noise_multiplier!r} must not be negative."
            )
        self.clipping_norm = clipping_norm
        self.noise_multiplier = noise_multiplier
        self.adaptive = adaptive

    def check(self, model: nn.Module, reply: str) -> None:
        """Refuse buffers: Flower's wrapper would clip them with the weights and add noise."""
        refuse_buffers("central_dp", model)

    def on_server(self, strategy: Strategy, cohort: Cohort) -> Strategy:
        """Return Flower's wrapper around the strategy, with its noise drawn by seed.

        Raises
        ------
        ValueError
            If clients return gradients.
        """
        if cohort.reply != "weights":
            raise ValueError(
                f"defense=central_dp needs clients.reply=weights, not {cohort.reply!r}: Flower's "
                "wrapper clips the difference of weights."
            )
        private: Strategy
        if self.adaptive:
            private = DifferentialPrivacyServerSideAdaptiveClipping(
                strategy,
                self.noise_multiplier,
                cohort.per_round,
                initial_clipping_norm=self.clipping_norm,
            )
        else:
            private = DifferentialPrivacyServerSideFixedClipping(
                strategy, self.noise_multiplier, self.clipping_norm, cohort.per_round
            )
        return SeededNoise(private, cohort.seed)


class SeededNoise(StrategyWrapper):
    """Let a strategy that draws from numpy's global generator draw by seed and round instead.

    Parameters
    ----------
    strategy : flwr.serverapp.strategy.Strategy
    seed : int
        Not negative.
    """

    def __init__(self, strategy: Strategy, seed: int) -> None:
        super().__init__(strategy)
        self.seed = seed

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Aggregate with numpy's global generator seeded, and put it back afterwards."""
        state = np.random.get_state()
        entropy = sequence(self.seed, Stream.CENTRAL_NOISE, server_round)
        np.random.seed(entropy.generate_state(4))
        try:
            return super().aggregate_train(server_round, replies)
        finally:
            np.random.set_state(state)
