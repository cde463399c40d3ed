"""Ways to write one and the same kind of network, and networks that only look like it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from attacks.testing.instance import CLASSES, PIXELS, WIDTH, Case, Instance, client, plain

Forward = Callable[..., Any]


class Written(nn.Module):
    """Two linear layers and a forward pass somebody wrote."""

    def __init__(self, forward: Forward, bias: bool = True) -> None:
        super().__init__()
        self.first = nn.Linear(PIXELS, WIDTH, bias=bias)
        self.second = nn.Linear(WIDTH, CLASSES, bias=bias)
        self.relu = nn.ReLU(inplace=True)
        self.written = forward

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Whatever was written."""
        return self.written(self, x, *args, **kwargs)


@dataclass
class Output:
    """An output as language-model libraries have it."""

    loss: Tensor | None
    logits: Tensor


class _Square(torch.autograd.Function):
    """z |z|, with a derivative of its own that no recorder looks into."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return z * z.abs()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return 2 * grad * z.abs()


class OwnFunction(nn.Module):
    """An activation written as an autograd function."""

    def forward(self, z: Tensor) -> Tensor:
        """Apply it."""
        return _Square.apply(z)  # type: ignore[no-untyped-call, no-any-return]


class SameLinear(nn.Linear):
    """A linear layer under another name."""


class ScaledLinear(nn.Linear):
    """A linear layer that halves what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        """Half of it."""
        return functional.linear(x / 2, self.weight, self.bias)


def _if_images(self: Written, x: Tensor) -> Tensor:
    if x.ndim == 4:
        x = x.view(x.size(0), -1)
    return self.second(functional.gelu(self.first(x)))


def _optional(self: Written, x: Tensor, mask: Tensor | None = None) -> Tensor:
    h = functional.silu(self.first(x.flatten(1)))
    return self.second(h if mask is None else h * mask)


def _unpacked(self: Written, x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return self.second(torch.tanh(self.first(x.reshape(b, c * h * w))))


def _checked(self: Written, x: Tensor) -> Tensor:
    if x.shape[1:] != (1, 8, 8):
        raise ValueError(f"wrong shape {tuple(x.shape)}")
    return self.second(functional.elu(self.first(x.flatten(1))))


def _flag(self: Written, x: Tensor, return_hidden: bool = False) -> Any:
    h = functional.gelu(self.first(torch.flatten(x, 1)))
    return (self.second(h), h) if return_hidden else self.second(h)


def _unused_result(self: Written, x: Tensor) -> Tensor:
    h = self.first(x.flatten(1))
    h.relu_()
    return self.second(h)


def _module_inplace(self: Written, x: Tensor) -> Tensor:
    return self.second(self.relu(self.first(x.flatten(1))))


def _branch(self: Written, x: Tensor) -> Tensor:
    h = self.first(x.flatten(1))
    h = functional.softplus(h) if bool((x == x).all()) else h
    return self.second(h)


def _caught(self: Written, x: Tensor) -> Tensor:
    try:
        h = self.first(x)
    except RuntimeError:
        h = self.first(x.reshape(len(x), -1))
    return self.second(functional.mish(h))


def _kept(self: Written, x: Tensor) -> Tensor:
    self.hidden = functional.gelu(self.first(x.flatten(1)))
    return self.second(self.hidden)


def _by_hand(self: Written, x: Tensor) -> Tensor:
    z = self.first(x.flatten(1))
    return self.second(0.5 * z * (1 + torch.erf(z / 2**0.5)))


def _list(self: Written, x: Tensor) -> Tensor:
    h = x.flatten(1)
    for i, layer in enumerate([self.first, self.second]):
        h = torch.sigmoid(h) if i else h
        h = layer(h)
    return h


def _rows(self: Written, x: Tensor) -> Tensor:
    flat = torch.stack([sample.reshape(-1) for sample in x])
    return self.second(functional.gelu(self.first(flat)))


def _as_dict(self: Written, x: Tensor) -> dict[str, Tensor]:
    return {"logits": _optional(self, x)}


def _as_tuple(self: Written, x: Tensor) -> tuple[Tensor, None]:
    return _optional(self, x), None


def _as_record(self: Written, x: Tensor) -> Output:
    return Output(None, _optional(self, x))


def _float(self: Written, x: Tensor) -> Tensor:
    return _optional(self, x.float().contiguous())


def _log_probabilities(self: Written, x: Tensor) -> Tensor:
    return _optional(self, x).log_softmax(-1)


def _scaled(self: Written, x: Tensor) -> Tensor:
    return _optional(self, 2 * x - 1)


def _permuted(self: Written, x: Tensor) -> Tensor:
    return _optional(self, x.transpose(2, 3).contiguous())


def _skip(self: Written, x: Tensor) -> Tensor:
    h = self.first(x.flatten(1))
    return self.second(functional.gelu(h)) + h[:, :CLASSES]


def _normalised(self: Written, x: Tensor) -> Tensor:
    h = functional.gelu(functional.layer_norm(self.first(x.flatten(1)), (WIDTH,)))
    return self.second(h)


def _twice(self: Written, x: Tensor) -> Tensor:
    x = x.flatten(1)
    return self.second(functional.gelu(self.first(x)) + functional.gelu(self.first(-x)))


def _tied(self: Written, x: Tensor) -> Tensor:
    h = functional.gelu(self.first(x.flatten(1)))
    return functional.linear(h, self.first.weight.T)[:, :CLASSES] + 0 * self.second(h)


def _functional(self: Written, x: Tensor) -> Tensor:
    h = functional.gelu(functional.linear(x.flatten(1), self.first.weight, self.first.bias))
    return functional.linear(h, self.second.weight, self.second.bias)


def _product(self: Written, x: Tensor) -> Tensor:
    h = functional.gelu(x.flatten(1) @ self.first.weight.T + self.first.bias)
    return h @ self.second.weight.T + self.second.bias


def _no_activation(self: Written, x: Tensor) -> Tensor:
    return self.second(self.first(x.flatten(1)))


def _quadratic(self: Written, x: Tensor) -> Tensor:
    return self.second(self.first(x.flatten(1)).square())


SAME: dict[str, Forward] = {
    "an if on the number of dimensions": _if_images,
    "an optional argument": _optional,
    "a shape that is unpacked": _unpacked,
    "a shape check that raises": _checked,
    "a flag with a default": _flag,
    "an in-place function, its result unused": _unused_result,
    "an in-place module": _module_inplace,
    "a branch on the data": _branch,
    "an exception that is caught": _caught,
    "an activation that is kept": _kept,
    "an activation written out": _by_hand,
    "a loop over layers": _list,
    "a loop over samples": _rows,
    "a product with its own weights, by function": _functional,
}
"""Forward passes of Linear - activation - Linear."""

RETURNED: dict[str, Forward] = {
    "a dictionary": _as_dict,
    "a tuple": _as_tuple,
    "a record": _as_record,
}
"""The same with an output that is no tensor."""


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
    instance = client(Written(_log_probabilities), functional.nll_loss)
    instance.loss = "nll"
    return instance


def _lazy() -> Instance:
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(WIDTH), nn.GELU(), nn.LazyLinear(CLASSES))
    model(torch.zeros(2, 1, 8, 8))
    return client(model)


def _no_bias() -> Instance:
    return client(Written(_optional, bias=False))


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
        Case("a cast to float", partial(written, _float)),
        Case("log-probabilities", _likelihood),
        Case("no biases", _no_bias),
        Case("a product of matrices", partial(other, _product, plain=False)),
        Case("a Linear that does something else", partial(_layer, ScaledLinear, **not_plain)),
        Case("a scaled input", partial(elsewhere, _scaled)),
        Case("a transposed input", partial(elsewhere, _permuted)),
        Case("a skip connection", partial(other, _skip, pair=False)),
        Case("a normalisation between", partial(other, _normalised, pair=False)),
        Case("a layer used twice", partial(other, _twice, pair=False, shared=True)),
        Case("tied weights", partial(other, _tied, shared=True)),
        Case("no activation", partial(other, _no_activation)),
        Case("a quadratic activation", partial(other, _quadratic)),
        Case("one row per token", _tokens),
        Case("a convolution in front", _convolved),
    ]
