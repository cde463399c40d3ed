"""Forward passes as people write them, of two linear layers and what lies between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from attacks.testing.instance import CLASSES, PIXELS, WIDTH

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


def optional(self: Written, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """An argument that may be left out."""
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
    return {"logits": optional(self, x)}


def _as_tuple(self: Written, x: Tensor) -> tuple[Tensor, None]:
    return optional(self, x), None


def _as_record(self: Written, x: Tensor) -> Output:
    return Output(None, optional(self, x))


def cast_to_float(self: Written, x: Tensor) -> Tensor:
    """A cast that double precision must survive."""
    return optional(self, x.float().contiguous())


def log_probabilities(self: Written, x: Tensor) -> Tensor:
    """Logarithms of a distribution."""
    return optional(self, x).log_softmax(-1)


def scaled(self: Written, x: Tensor) -> Tensor:
    """The input is scaled inside the model."""
    return optional(self, 2 * x - 1)


def permuted(self: Written, x: Tensor) -> Tensor:
    """The input's pixels change places."""
    return optional(self, x.transpose(2, 3).contiguous())


def skip(self: Written, x: Tensor) -> Tensor:
    """A connection around the pair."""
    h = self.first(x.flatten(1))
    return self.second(functional.gelu(h)) + h[:, :CLASSES]


def normalised(self: Written, x: Tensor) -> Tensor:
    """A normalisation between the layers."""
    h = functional.gelu(functional.layer_norm(self.first(x.flatten(1)), (WIDTH,)))
    return self.second(h)


def twice(self: Written, x: Tensor) -> Tensor:
    """The first layer is used twice."""
    x = x.flatten(1)
    return self.second(functional.gelu(self.first(x)) + functional.gelu(self.first(-x)))


def tied(self: Written, x: Tensor) -> Tensor:
    """The first layer's weight ends the network, too."""
    h = functional.gelu(self.first(x.flatten(1)))
    return functional.linear(h, self.first.weight.T)[:, :CLASSES] + 0 * self.second(h)


def _functional(self: Written, x: Tensor) -> Tensor:
    h = functional.gelu(functional.linear(x.flatten(1), self.first.weight, self.first.bias))
    return functional.linear(h, self.second.weight, self.second.bias)


def product(self: Written, x: Tensor) -> Tensor:
    """Products of matrices for layers."""
    h = functional.gelu(x.flatten(1) @ self.first.weight.T + self.first.bias)
    return h @ self.second.weight.T + self.second.bias


def no_activation(self: Written, x: Tensor) -> Tensor:
    """Nothing between the layers."""
    return self.second(self.first(x.flatten(1)))


def quadratic(self: Written, x: Tensor) -> Tensor:
    """A square between the layers."""
    return self.second(self.first(x.flatten(1)).square())


SAME: dict[str, Forward] = {
    "an if on the number of dimensions": _if_images,
    "an optional argument": optional,
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
