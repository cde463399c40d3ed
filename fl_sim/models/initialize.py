"""Random initialisations of weights and biases, by name."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import nn

from fl_sim.models.layers import one_of

Layer = nn.Linear | nn.Conv2d


def initialize(model: nn.Module, init: str) -> None:
    """Draw the linear and convolutional layers of a model anew, from the global generator.

    Parameters
    ----------
    model : nn.Module
        Changed in place.
    init : str
        "default": as PyTorch made them, uniform in +-1 / sqrt(fan_in); "kaiming_normal":
        weights N(0, 2 / fan_in), biases 0 (He et al. 2015); "xavier_normal": weights
        N(0, 2 / (fan_in + fan_out)), biases 0 (Glorot and Bengio 2010); "normal": weights
        N(0, 1 / fan_in), biases N(0, 1); "trunc_normal": weights N(0, 0.02^2) within two standard
        deviations, biases 0, as is customary for vision transformers.

    Raises
    ------
    ValueError
        If the name is unknown.
    """
    one_of(list(INITS), init=init)
    for layer in model.modules():
        if isinstance(layer, Layer):
            INITS[init](layer)


def _default(layer: Layer) -> None:
    """Leave the layer as PyTorch made it."""


def _kaiming_normal(layer: Layer) -> None:
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    _zero_bias(layer)


def _xavier_normal(layer: Layer) -> None:
    nn.init.xavier_normal_(layer.weight)
    _zero_bias(layer)


def _normal(layer: Layer) -> None:
    fan_in = layer.weight[0].numel()
    nn.init.normal_(layer.weight, std=1 / math.sqrt(fan_in))
    if layer.bias is not None:
        nn.init.normal_(layer.bias)


def _trunc_normal(layer: Layer) -> None:
    nn.init.trunc_normal_(layer.weight, std=0.02, a=-0.04, b=0.04)
    _zero_bias(layer)


def _zero_bias(layer: Layer) -> None:
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


INITS: dict[str, Callable[[Layer], None]] = {
    "default": _default,
    "kaiming_normal": _kaiming_normal,
    "xavier_normal": _xavier_normal,
    "normal": _normal,
    "trunc_normal": _trunc_normal,
}
