"""Dropout while training: hidden activations are switched off at random, anew in every step."""

from __future__ import annotations

from torch import Generator, Tensor, nn

from fl_sim.defenses.base import Defense, uniform


class Dropout(Defense):
    """Drop inputs of the linear layers behind the model's first layer.

    Each entry is set to zero with probability `rate`, per sample, and the others are divided by
    ``1 - rate``. Which units were dropped is the client's secret.

    Parameters
    ----------
    rate : float, default 0.5
        In [0, 1).

    Raises
    ------
    ValueError
        If the rate is out of its range.

    References
    ----------
    Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", 2014;
    Wei et al., "Gradient Leakage Attack Resilient Deep Learning", 2021 (as a defence).
    """

    def __init__(self, rate: float = 0.5) -> None:
        if not 0 <= rate < 1:
            raise ValueError(f"defense.dropout.rate={rate!r} must be at least 0 and below 1.")
        self.rate = rate

    def on_model(self, model: nn.Module, generator: Generator) -> None:
        """Put a hook before each linear layer but the model's first layer."""

        def drop(_: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
            (x,) = inputs
            return x * (uniform(x, generator) >= self.rate) / (1 - self.rate)

        layers = [m for m in model.modules() if next(m.parameters(recurse=False), None) is not None]
        for layer in layers[1:]:
            if isinstance(layer, nn.Linear):
                layer.register_forward_pre_hook(drop)
