"""Ways to write one and the same kind of network, and networks that only look like it."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from attacks.testing.forwards import (
    RETURNED,
    SAME,
    Forward,
    OwnFunction,
    SameLinear,
    ScaledLinear,
    Written,
    cast_to_float,
    log_probabilities,
    no_activation,
    normalised,
    optional,
    permuted,
    product,
    quadratic,
    scaled,
    skip,
    tied,
    twice,
)
from attacks.testing.instance import CLASSES, PIXELS, WIDTH, Case, Instance, client, plain


def written(forward: Forward, **facts: Any) -> Instance:
    """An instance of a forward pass."""
    return client(Written(forward), **facts)


def _returned(forward: Forward) -> Instance:
    def loss(output: Any, labels: Tensor) -> Tensor:
        if isinstance(output, dict):
            output = output["logits"]
        elif isinstance(output, tuple):
            output = output[0]
        logits = getattr(output, "logits", output)
        return functional.cross_entropy(logits, labels)

    return client(Written(forward), loss)


def _activation(module: nn.Module, **facts: Any) -> Instance:
    return client(plain(module), **facts)


def _deep() -> Instance:
    model = nn.Sequential(
        *plain(nn.SiLU())[:4], nn.ReLU(inplace=True), nn.Linear(CLASSES, CLASSES), nn.Tanh()
    )
    return client(model)


def _layer(kind: type[nn.Linear], **facts: Any) -> Instance:
    model = plain()
    model[1] = kind(PIXELS, WIDTH)
    return client(model, **facts)


def _likelihood() -> Instance:
    instance = client(Written(log_probabilities), functional.nll_loss)
    instance.loss = "nll"
    return instance


def _lazy() -> Instance:
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(WIDTH), nn.GELU(), nn.LazyLinear(CLASSES))
    model(torch.zeros(2, 1, 8, 8))
    return client(model)


def _no_bias() -> Instance:
    return client(Written(optional, bias=False))


def _tokens() -> Instance:
    model = nn.Sequential(
        nn.Linear(16, WIDTH), nn.GELU(), nn.Linear(WIDTH, 8), nn.Flatten(), nn.Linear(32, CLASSES)
    )
    return client(model, shape=(4, 16), readable=False)


def _convolved() -> Instance:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * PIXELS, WIDTH),
        nn.GELU(),
        nn.Linear(WIDTH, CLASSES),
    )
    return client(model, front="steady", readable=False)


def writing() -> list[Case]:
    """All of them."""
    inplace = (nn.SiLU, nn.ELU, nn.ReLU, nn.Mish)
    other = partial(written, readable=False)
    elsewhere = partial(other, front="steady")
    not_plain = {"plain": False, "readable": False}
    return [
        *(Case(name, partial(written, f)) for name, f in SAME.items()),
        *(Case(f"{k.__name__} in place", partial(_activation, k(inplace=True))) for k in inplace),
        *(Case(f"returns {name}", partial(_returned, f)) for name, f in RETURNED.items()),
        Case("a deep network", _deep),
        Case("a subclass of Linear", partial(_layer, SameLinear)),
        Case("layers made lazily", _lazy),
        Case("an activation of one's own", partial(_activation, OwnFunction())),
        Case("a cast to float", partial(written, cast_to_float)),
        Case("log-probabilities", _likelihood),
        Case("no biases", _no_bias),
        Case("a product of matrices", partial(other, product, plain=False)),
        Case("a Linear that does something else", partial(_layer, ScaledLinear, **not_plain)),
        Case("a scaled input", partial(elsewhere, scaled)),
        Case("a transposed input", partial(elsewhere, permuted)),
        Case("a skip connection", partial(other, skip, pair=False)),
        Case("a normalisation between", partial(other, normalised, pair=False)),
        Case("a layer used twice", partial(other, twice, pair=False, shared=True)),
        Case("tied weights", partial(other, tied, shared=True)),
        Case("no activation", partial(other, no_activation)),
        Case("a quadratic activation", partial(other, quadratic)),
        Case("one row per token", _tokens),
        Case("a convolution in front", _convolved),
    ]
