"""Random networks, written and run in random ways, and what the attacks make of their gradients.

A front (none, or dropout, noise, flips, normalisation, scaling, a mixture of samples, some of them
only in training mode), a first layer that is a module or a function call, a random activation in
one of many spellings, a random end, a client in training or evaluation mode and in a random
precision. Readable is what has nothing in front, biases, and float32 or float64 numbers: no batch
has more samples than an eighth of the width, or than half an image's pixels.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from attacks import FeatureInversion, NotApplicable, TensorAttack
from attacks.testing.battery import nearest
from attacks.testing.training import DropPath, Flip, Mixed, Noise, Shuffled

KIND = "wrappers"
DTYPES = (torch.float32,) * 5 + (torch.float64, torch.bfloat16, torch.float16)
WRONG = 1e-2
SIDE = 6
"""Of the images, which have one channel."""

Function = Callable[[Tensor], Tensor]

FRONTS: dict[str, Callable[[int], list[nn.Module]]] = {
    "nothing": lambda d: [],
    "identity": lambda d: [nn.Identity()],
    "dropout of nothing": lambda d: [nn.Dropout(0.0)],
    "dropout": lambda d: [nn.Dropout(0.2)],
    "little dropout": lambda d: [nn.Dropout(0.005)],
    "noise": lambda d: [Noise()],
    "noise in either mode": lambda d: [Noise(always=True)],
    "flips": lambda d: [Flip()],
    "stochastic depth": lambda d: [DropPath()],
    "batch normalisation": lambda d: [nn.BatchNorm1d(d)],
    "batch normalisation without statistics": lambda d: [
        nn.BatchNorm1d(d, track_running_stats=False)
    ],
    "layer normalisation": lambda d: [nn.LayerNorm(d)],
    "a mixture": lambda d: [Mixed()],
    "a shuffle": lambda d: [Shuffled()],
    "clipping in place": lambda d: [nn.Hardtanh(inplace=True)],
}
PLAIN = ("nothing", "identity", "dropout of nothing")
MODULES: tuple[Callable[[], nn.Module], ...] = (
    nn.ReLU, nn.GELU, nn.SiLU, nn.ELU, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Mish, nn.LeakyReLU,
    nn.SELU, nn.Hardswish, lambda: nn.ReLU(inplace=True), lambda: nn.SiLU(inplace=True),
    lambda: nn.ELU(inplace=True), lambda: nn.LeakyReLU(0.2, inplace=True), nn.PReLU,
)  # fmt: skip
FUNCTIONS: tuple[Function, ...] = (
    functional.gelu, functional.silu, torch.tanh, torch.sigmoid, functional.relu, torch.erf,
    functional.softplus, functional.elu, lambda z: z * torch.sigmoid(1.7 * z), torch.sin,
    lambda z: torch.where(z > 0, z, 0.1 * z), lambda z: z.clamp(min=0), lambda z: z.relu_(),
    lambda z: torch.maximum(z, torch.zeros_like(z)), lambda z: functional.relu(z, inplace=True),
)  # fmt: skip


class Network(nn.Module):
    """Front, flattened or not, first layer, activation, and an end, as the random numbers say."""

    def __init__(self, r: random.Random, width: int, outputs: int) -> None:
        super().__init__()
        d = SIDE * SIDE
        kind = r.choice(PLAIN) if r.random() < 0.4 else r.choice(list(FRONTS))
        self.front = nn.Sequential(*FRONTS[kind](d))
        self.first = nn.Linear(d, width, bias=r.random() < 0.85)
        self.module = r.choice(MODULES)() if r.random() < 0.5 else None
        self.function = r.choice(FUNCTIONS)
        self.second = nn.Linear(width, 24)
        self.end = r.choice(("plain", "relu", "norm", "dropout"))
        self.norm, self.dropout = nn.BatchNorm1d(24), nn.Dropout(0.2)
        self.last = nn.Linear(24, outputs)
        self.flatten = r.choice(("view", "if", "flatten", "reshape", "stack"))
        self.product = r.choice(("module", "module", "function"))
        self.output = r.choice(("tensor", "tensor", "dict", "tuple"))
        self.check, self.kept = r.random() < 0.3, r.random() < 0.3
        self.hidden: Tensor | None = None

    def forward(self, x: Tensor, mask: Tensor | None = None, head: bool = True) -> Any:
        """The output, in whatever form."""
        if self.check and x.shape[-1] != SIDE:
            raise ValueError(f"width {x.shape[-1]}")
        z = self.front(self._flat(x))
        if self.product == "module":
            z = self.first(z)
        else:
            z = functional.linear(z, self.first.weight, self.first.bias)
        h = self.module(z) if self.module is not None else self.function(z)
        h = h if mask is None else h * mask
        if self.kept:
            self.hidden = h
        y = self.second(h)
        if self.end == "norm":
            y = self.norm(y)
        y = y if self.end == "plain" else self.dropout(torch.relu(y))
        y = self.last(y) if head else y
        return {"logits": y} if self.output == "dict" else (y, h) if self.output == "tuple" else y

    def _flat(self, x: Tensor) -> Tensor:
        if self.flatten == "if":
            return x.view(x.size(0), -1) if x.ndim == 4 else x
        if self.flatten == "reshape":
            b, c, h, w = x.shape
            return x.reshape(b, c * h * w)
        if self.flatten == "stack":
            return torch.stack([image.reshape(-1) for image in x])
        return x.flatten(1) if self.flatten == "flatten" else x.view(len(x), -1)


@dataclass(frozen=True)
class Outcome:
    """What came of one seed."""

    described: str
    dtype: str
    readable: bool
    batch: int
    read: int
    certified: int
    false: int
    note: str

    @property
    def crashed(self) -> bool:
        """Whether an attack raised anything but a refusal."""
        return "crashed" in self.note

    @property
    def whole(self) -> bool:
        """Whether the batch was readable and read."""
        return self.readable and self.read == self.batch


def logits(output: Any) -> Tensor:
    """The tensor in a network's output."""
    found: Tensor = output
    if isinstance(output, dict):
        found = output["logits"]
    elif isinstance(output, tuple):
        found = output[0]
    return found


def run(seed: int) -> Outcome:
    """One network, one gradient, both attacks."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    r = random.Random(seed)
    width = r.choice((64, 128, 256))
    network = Network(r, width, r.choice((2, 5, 10)))
    dtype = r.choice(DTYPES)
    training, batch = r.random() < 0.7, r.randint(2, min(width // 8, SIDE * SIDE // 2))
    x = torch.randn(batch, 1, SIDE, SIDE)
    outputs = network.last.out_features
    network.train(training).to(dtype)
    x = x.to(dtype)
    if r.random() < 0.5:
        loss: Any = "cross_entropy"
        value = functional.cross_entropy(logits(network(x)), torch.randint(outputs, (batch,)))
    else:
        loss, target = "mse", torch.randn(batch, outputs).to(dtype)
        value = functional.mse_loss(logits(network(x)), target)
    named = dict(network.named_parameters())
    grads = torch.autograd.grad(value, list(named.values()), allow_unused=True)
    gradient: Any = dict(zip(named, grads, strict=True))
    if r.random() < 0.3:
        gradient = list(grads)
    plain = not len(network.front) or isinstance(network.front[0], nn.Identity)
    plain = plain or (isinstance(network.front[0], nn.Dropout) and network.front[0].p == 0)
    readable = plain and dtype in (torch.float32, torch.float64) and network.first.bias is not None
    front = type(network.front[0]).__name__ if len(network.front) else "none"
    activation = type(network.module).__name__ if network.module is not None else "function"
    described = f"{front}, {activation}, {network.flatten}, {network.product}, {network.end}"
    read = certified = false = 0
    notes = []
    for attack in (TensorAttack(patience=5), FeatureInversion(20, 10, (0.3,), rounds=1)):
        if isinstance(attack, FeatureInversion) and plain:
            continue  # it hands such a network to the other one
        try:
            found = attack.run(network, gradient, input_shape=(1, SIDE, SIDE), loss=loss)
        except NotApplicable as reason:
            notes.append(f"refused: {reason}")
            continue
        except Exception as error:  # counted and named, not lost with all other trials
            notes.append(f"crashed: {type(error).__name__}: {error}")
            continue
        gaps = nearest(found.inputs[found.certified], x)
        certified += len(gaps)
        if len(found):
            read = max(read, int((nearest(x, found.inputs) <= WRONG).sum()))
        false += int((gaps > WRONG).sum())
        notes.append(str(found.info.get("reason", "")))
    note = " | ".join(filter(None, notes))
    return Outcome(described, str(dtype)[6:], readable, batch, read, certified, false, note)
