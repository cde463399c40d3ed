"""One instance of a battery: what an attack is handed, and the truth it is held against."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from attacks.reading.losses import Loss

SHAPE = (1, 8, 8)
PIXELS = 64
WIDTH = 160
CLASSES = 5
BATCH = 4


@dataclass
class Instance:
    """A model, a gradient, and what is true of both.

    Attributes
    ----------
    model : nn.Module
        As its owner hands it to an attack.
    gradient : object
        As its owner hands it to an attack.
    inputs : Tensor of shape (B, *input_shape)
        The client's batch.
    labels : Tensor
        Of the batch.
    loss : str or callable
        As told to the attack.
    knows : mapping
        Grants, as told to the attack.
    front : str
        What stands before the first linear layer: "none"; "steady" (a function of one sample, the
        same whatever the mode); "lively" (another one in training mode); "random"; "company" (it
        looks at other samples).
    pair : bool
        Whether Linear - elementwise activation - Linear follows there, that everything goes through
        once.
    plain : bool
        Whether the first layer is an ``nn.Linear`` with a weight of its own.
    shared : bool
        Whether the first layer's parameters are used more than once.
    readable : bool
        Whether an exact attack has to read the whole batch.
    features : Tensor of shape (B, F), optional
        What the first linear layer saw of each sample.
    """

    model: nn.Module
    gradient: Any
    inputs: Tensor
    labels: Tensor
    loss: Loss = "cross_entropy"
    knows: Mapping[str, Any] = field(default_factory=dict)
    front: str = "none"
    pair: bool = True
    plain: bool = True
    shared: bool = False
    readable: bool = True
    features: Tensor | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.inputs.shape[1:])


@dataclass(frozen=True)
class Case:
    """A named way to write, train or hand over a model.

    Attributes
    ----------
    name : str
    build : callable () -> Instance
        Draws from the global random state, which the battery seeds.
    """

    name: str
    build: Callable[[], Instance]


def batch(shape: tuple[int, ...] = SHAPE, classes: int = CLASSES) -> tuple[Tensor, Tensor]:
    """A random batch and its labels."""
    return torch.randn(BATCH, *shape), torch.randint(classes, (BATCH,))


def gradient_of(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    loss: Callable[[Any, Tensor], Tensor] = nn.functional.cross_entropy,
) -> dict[str, Tensor]:
    """A client's gradient in the mode the model is in, by parameter name; zeros where unused."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    value = loss(model(inputs), labels)
    grads = torch.autograd.grad(value, list(named.values()), materialize_grads=True)
    return dict(zip(named, grads, strict=True))


def client(
    model: nn.Module,
    loss: Callable[[Any, Tensor], Tensor] = nn.functional.cross_entropy,
    shape: tuple[int, ...] = SHAPE,
    **facts: Any,
) -> Instance:
    """An instance whose gradient is the one of a random batch, under the names of the model."""
    inputs, labels = batch(shape)
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
    inputs = inputs.to(dtype)
    return Instance(model, gradient_of(model, inputs, labels, loss), inputs, labels, **facts)


def plain(activation: nn.Module | None = None, *front: nn.Module) -> nn.Sequential:
    """Flatten - front - Linear - activation - Linear."""
    return nn.Sequential(
        nn.Flatten(),
        *front,
        nn.Linear(PIXELS, WIDTH),
        activation or nn.GELU(),
        nn.Linear(WIDTH, CLASSES),
    )
