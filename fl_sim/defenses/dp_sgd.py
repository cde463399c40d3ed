"""DP-SGD: in each local step, clip every sample's gradient and add noise to their sum."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Generator, nn

from fl_sim.defenses.accounting import epsilon_of
from fl_sim.defenses.base import Defense, Step, Tensors, normal, refuse_buffers


class DpSgd(Defense):
    """Differentially private SGD on the client.

    Parameters
    ----------
    clipping_norm : float, default 1.0
        Bound C on the L2 norm of each sample's gradient over all parameters, positive.
    noise_multiplier : float, default 1.0
        The sum of the clipped gradients gets noise of standard deviation
        ``noise_multiplier * C`` per coordinate; not negative.
    delta : float, default 1e-5
        At which epsilon is reported; between 0 and 1.

    Raises
    ------
    ValueError
        If a value is out of its range.

    References
    ----------
    Abadi et al., "Deep Learning with Differential Privacy", 2016, algorithm 1.
    """

    per_sample: ClassVar[bool] = True

    def __init__(
        self, clipping_norm: float = 1.0, noise_multiplier: float = 1.0, delta: float = 1e-5
    ) -> None:
        if not clipping_norm > 0:
            raise ValueError(f"defense.dp_sgd.clipping_norm={clipping_norm!r} must be positive.")
        if not noise_multiplier >= 0:
            raise ValueError(
                f"defense.dp_sgd.noise_multiplier={noise_multiplier!r} must not be negative."
            )
        if not 0 < delta < 1:
            raise ValueError(f"defense.dp_sgd.delta={delta!r} must be between 0 and 1.")
        self.clipping_norm = clipping_norm
        self.noise_multiplier = noise_multiplier
        self.delta = delta

    def check(self, model: nn.Module, reply: str) -> None:
        """Refuse layers that mix the samples of a batch, and buffers sent without noise.

        Raises
        ------
        ValueError
            If the model has any.
        """
        if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()):
            raise ValueError(
                "defense=dp_sgd clips the gradient of each sample, and batch normalisation mixes "
                "the samples of a batch; choose a model without it (model.norm=group for one)."
            )
        if reply == "weights":
            refuse_buffers("dp_sgd", model)

    def on_samples(self, gradients: Tensors, generator: Generator) -> Tensors:
        """Return each sample's gradient times ``min(1, C / norm)``."""
        squares = torch.stack([g.flatten(1).square().sum(1) for g in gradients.values()])
        norms = squares.sum(0).sqrt().clamp_min(1e-30)
        factor = (self.clipping_norm / norms).clamp_max(1)
        return {k: g * factor.reshape(-1, *[1] * (g.ndim - 1)) for k, g in gradients.items()}

    def on_gradient(self, gradient: Tensors, step: Step, generator: Generator) -> Tensors:
        """Return the mean of the clipped gradients plus the noise, divided by the batch size."""
        std = self.noise_multiplier * self.clipping_norm / len(step.inputs)
        return {name: g + std * normal(g, generator) for name, g in gradient.items()}

    def budget(self, updates: int, steps: int, rate: float) -> float | None:
        """Return the budget of all steps together, by Rényi accounting."""
        return epsilon_of(self.noise_multiplier, steps, rate, self.delta)
