"""Ways to train: what a client's model does before, between and behind the layers, and its loss."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from attacks.testing.instance import (
    BATCH,
    CLASSES,
    PIXELS,
    SHAPE,
    WIDTH,
    Case,
    Instance,
    batch,
    client,
    gradient_of,
    plain,
)


class Noise(nn.Module):
    """Adds noise, in training mode or always."""

    def __init__(self, always: bool = False) -> None:
        super().__init__()
        self.always = always

    def forward(self, x: Tensor) -> Tensor:
        """With noise of a tenth."""
        return x + 0.1 * torch.randn_like(x) if self.training or self.always else x


class Flip(nn.Module):
    """Mirrors half of the samples in training mode."""

    def forward(self, x: Tensor) -> Tensor:
        """Mirrored or not."""
        if not self.training:
            return x
        flip = torch.arange(len(x)) % 2 == 0
        return torch.where(flip.view(-1, *[1] * (x.dim() - 1)), x.flip(-1), x)


class Mixed(nn.Module):
    """Mixes every sample with the next one."""

    def forward(self, x: Tensor) -> Tensor:
        """Three parts of each, one of the next."""
        return 0.75 * x + 0.25 * x.roll(1, 0)


class Shuffled(nn.Module):
    """Shuffles the batch by random numbers."""

    def forward(self, x: Tensor) -> Tensor:
        """In another order."""
        return x[torch.randperm(len(x))] * (0.5 + torch.rand(()))


class WidthOnly(nn.Module):
    """Scales by what it has counted in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.ones(()))
        self.calls: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """A little more with every call."""
        if self.training:
            self.calls = self.calls + 0.1
        return x * self.calls


class DropPath(nn.Module):
    """Stochastic depth: leaves a branch out for some samples in training mode."""

    def forward(self, x: Tensor) -> Tensor:
        """With or without."""
        if not self.training:
            return x
        kept = (torch.rand(len(x)) < 0.5).to(x).view(-1, *[1] * (x.dim() - 1))
        return 2 * x * kept


def seen_by_first(model: nn.Module, inputs: Tensor) -> Tensor:
    """What the first linear layer is handed, in the mode and random state as they are."""
    first = next(m for m in model.modules() if isinstance(m, nn.Linear))
    caught: list[Tensor] = []
    handle = first.register_forward_pre_hook(lambda _, args: caught.append(args[0].detach()))
    state = torch.get_rng_state()
    model(inputs)
    torch.set_rng_state(state)
    handle.remove()
    return caught[0]


def in_front(front: str, *modules: nn.Module, training: bool = True) -> Instance:
    """An instance with modules before the first linear layer."""
    model = plain(None, *modules).train(training)
    inputs, labels = batch()
    counted = [m.calls.clone() for m in modules if isinstance(m, WidthOnly)]
    features = seen_by_first(model, inputs)
    for module in modules:
        if isinstance(module, WidthOnly):
            module.calls = counted[0]
    gradient = gradient_of(model, inputs, labels)
    readable = front == "none"
    return Instance(
        model, gradient, inputs, labels, front=front, readable=readable, features=features
    )


def _made(front: str, make: Callable[[], nn.Module]) -> Instance:
    return in_front(front, make())


def behind(*modules: nn.Module, readable: bool = True) -> Instance:
    """An instance in training mode with modules behind the pair."""
    model = nn.Sequential(
        nn.Flatten(),
        nn.Linear(PIXELS, WIDTH),
        nn.GELU(),
        nn.Linear(WIDTH, 24),
        *modules,
        nn.Linear(24, CLASSES),
    )
    return client(model.train(), readable=readable)


def _dropped_between() -> Instance:
    model = nn.Sequential(*plain()[:3], nn.Dropout(0.3), nn.Linear(WIDTH, CLASSES))
    return client(model.train(), readable=False)


def _no_dropout() -> Instance:
    return client(plain(None, nn.Dropout(0.0)).train())


def _one_sample() -> Instance:
    model = plain(None, nn.Dropout(0.3)).train()
    inputs, labels = torch.randn(1, *SHAPE), torch.randint(CLASSES, (1,))
    features = seen_by_first(model, inputs)
    gradient = gradient_of(model, inputs, labels)
    return Instance(
        model, gradient, inputs, labels, front="lively", readable=False, features=features
    )


def _loss(function: Callable[..., Tensor], told: Any, target: str, classes: int) -> Instance:
    model = plain()
    model[3] = nn.Linear(WIDTH, classes)
    inputs, labels = batch(classes=max(classes, 2))
    if target == "binary":
        labels = torch.randint(2, (BATCH, classes)).float()
    elif target == "real":
        labels = torch.randn(BATCH, classes)
    return Instance(model, gradient_of(model, inputs, labels, function), inputs, labels, told)


def _squared(output: Tensor, target: Tensor) -> Tensor:
    hot = functional.one_hot(target, output.shape[1]).to(output)
    return (output.sigmoid() - hot).square().sum(1).mean()


def _in_dtype(dtype: torch.dtype) -> Instance:
    return client(plain().to(dtype), readable=dtype == torch.float64)


def _autocast() -> Instance:
    model = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 48), nn.GELU(), nn.Linear(48, CLASSES))
    inputs, labels = batch()

    def loss(_: Tensor, target: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(inputs)
        return functional.cross_entropy(output.float(), target)

    return Instance(model, gradient_of(model, inputs, labels, loss), inputs, labels, readable=False)


def training() -> list[Case]:
    """All of them."""
    smooth = nn.CrossEntropyLoss(label_smoothing=0.1)
    weighted = nn.CrossEntropyLoss(weight=torch.linspace(0.2, 2, CLASSES))
    total = nn.CrossEntropyLoss(reduction="sum")
    cross, mse = functional.cross_entropy, functional.mse_loss
    binary = functional.binary_cross_entropy_with_logits
    fronts: dict[str, tuple[str, Callable[[], nn.Module]]] = {
        "dropout": ("lively", partial(nn.Dropout, 0.2)),
        "alpha dropout": ("lively", partial(nn.AlphaDropout, 0.1)),
        "noise": ("lively", Noise),
        "flips": ("lively", Flip),
        "stochastic depth": ("lively", DropPath),
        "a counter": ("lively", WidthOnly),
        "batch normalisation": ("lively", partial(nn.BatchNorm1d, PIXELS)),
        "noise in either mode": ("random", partial(Noise, True)),
        "a shuffle": ("random", Shuffled),
        "a mixture of samples": ("company", Mixed),
        "layer normalisation": ("steady", partial(nn.LayerNorm, PIXELS)),
    }
    losses: dict[str, tuple[Callable[..., Tensor], Any, str, int]] = {
        "cross entropy as a function": (cross, nn.CrossEntropyLoss(), "class", CLASSES),
        "label smoothing": (smooth, "cross_entropy", "class", CLASSES),
        "label smoothing, told": (smooth, smooth, "class", CLASSES),
        "class weights": (weighted, "cross_entropy", "class", CLASSES),
        "a sum for a mean": (total, "cross_entropy", "class", CLASSES),
        "squared loss": (mse, "mse", "real", CLASSES),
        "squared loss, told otherwise": (mse, "cross_entropy", "real", CLASSES),
        "binary cross entropy": (binary, "bce_with_logits", "binary", CLASSES),
        "one output": (binary, "bce_with_logits", "binary", 1),
        "a loss of one's own": (_squared, _squared, "class", CLASSES),
    }
    return [
        *(
            Case(f"{name} in front", partial(_made, front, make))
            for name, (front, make) in fronts.items()
        ),
        Case(
            "batch normalisation in front, evaluated",
            lambda: in_front("lively", nn.BatchNorm1d(PIXELS), training=False),
        ),
        Case("one sample behind dropout", _one_sample),
        Case("dropout of nothing", _no_dropout),
        Case("dropout between", _dropped_between),
        Case("dropout behind", lambda: behind(nn.ReLU(), nn.Dropout(0.3))),
        Case("batch normalisation behind", lambda: behind(nn.BatchNorm1d(24), nn.ReLU())),
        *(Case(name, partial(_loss, *row)) for name, row in losses.items()),
        Case("half precision", partial(_in_dtype, torch.float16)),
        Case("bfloat16", partial(_in_dtype, torch.bfloat16)),
        Case("double precision", partial(_in_dtype, torch.float64)),
        Case("mixed precision", _autocast),
    ]
