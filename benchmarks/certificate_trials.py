"""Small random instances that may deceive a certificate, and what the tensor attack makes of them.

Activations, widths, batch sizes, depths, losses, with and without biases, near-copies in the batch,
rounding of every kind, noise of every size, and gradients of a model that is not the one the server
believes in. Three kinds are not among those drawn. "alike": pairs of one label or target that
differ by 0.1 to 20 %, with positive entries as raw pixels have; the mean of such a pair is nearly a
sample itself. "deep": near-copies behind a deep network with few outputs and a curved activation,
whose errors are all but parallel and whose spectrum hides what tells the copies apart. "half":
batches of all these kinds, computed in float16 or bfloat16, whose rounding hides far more.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from attacks import NotApplicable, TensorAttack

ACTIVATIONS = (
    nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.ELU, nn.SELU, nn.CELU, nn.Softplus, nn.Tanh,
    nn.Sigmoid, nn.Mish, nn.Softsign, nn.Hardswish, nn.LogSigmoid, nn.Hardtanh, nn.ReLU6,
    nn.Softshrink, nn.Tanhshrink, nn.PReLU, nn.Hardsigmoid,
)  # fmt: skip
CORRUPTIONS = (
    "none",
    "float64",
    "weights reply",
    "noise",
    "clip and noise",
    "prune",
    "wrong model",
)
BATCHES = ("independent", "near copies", "exact copies", "collinear")
ALIKE, DEEP, HALF = "alike", "deep", "half"
HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
CURVED = (
    nn.LogSigmoid, nn.Softplus, nn.Sigmoid, nn.Tanh, nn.GELU, nn.SiLU, nn.ELU, nn.Softsign,
    nn.Tanhshrink,
)  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """One random instance, fully determined by its fields."""

    seed: int
    activation: type[nn.Module]
    size: int
    width: int
    batch: int
    deep: bool
    bias: bool
    loss: str
    outputs: int
    corruption: str
    kind: str
    level: float


def draw(seed: int, kind: str | None = None) -> Trial:
    """A random trial, of any kind in BATCHES, or of a given one of these, ALIKE or DEEP."""
    r = random.Random(seed)
    width = r.choice((24, 48, 96, 192))
    trial = Trial(
        seed=seed,
        activation=r.choice(ACTIVATIONS),
        size=r.choice((6, 12, 24, 48)),
        width=width,
        batch=r.randint(1, max(2, width // 4)),
        deep=r.random() < 0.3,
        bias=r.random() < 0.8,
        loss=r.choice(("cross_entropy", "cross_entropy", "mse")),
        outputs=r.choice((1, 2, 5, 10)),
        corruption=r.choice(CORRUPTIONS),
        kind=r.choice(BATCHES),
        level=10 ** r.uniform(-7, 0),
    )
    if kind == DEEP:
        return deepened(trial)
    if kind == HALF:
        r = random.Random(seed + 11)
        batches = (*BATCHES, ALIKE, ALIKE)
        return replace(trial, corruption=r.choice(tuple(HALVES)), kind=r.choice(batches))
    return trial if kind is None else replace(trial, kind=kind)


def deepened(trial: Trial) -> Trial:
    """The trial of the kind DEEP that belongs to a trial of any."""
    r = random.Random(trial.seed + 7)
    return replace(
        trial,
        deep=True,
        outputs=r.choice((1, 2, 2, 5)),
        corruption=r.choice(("none", "none", "weights reply", "float64")),
        kind=r.choice(("near copies", "near copies", ALIKE, "collinear")),
        activation=r.choice(CURVED),
        level=10 ** r.uniform(-3, -0.8),
        width=r.choice((96, 192, 192)),
    )


def build(trial: Trial) -> nn.Module:
    """The network of a trial."""
    widths = [trial.size, trial.width, *([16] if trial.deep else []), trial.outputs]
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(itertools.pairwise(widths)):
        layers += [trial.activation()] if i else []
        layers.append(nn.Linear(a, b, bias=trial.bias))
    return nn.Sequential(*layers)


def inputs_of(trial: Trial) -> Tensor:
    """A batch of the trial's kind."""
    x = torch.randn(trial.batch, trial.size)
    if trial.kind == "near copies":
        x[1::2] = x[0::2][: len(x[1::2])] + trial.level * torch.randn_like(x[1::2])
    elif trial.kind == "exact copies":
        x[1::2] = x[0::2][: len(x[1::2])]
    elif trial.kind == "collinear":
        x = torch.randn(trial.size) + 10 ** (-2 * torch.rand(1)) * x
    elif trial.kind == ALIKE:
        x = torch.rand(trial.batch, trial.size)
        distance = 10 ** (-3 + 2.3 * torch.rand(1)) * x[0::2].norm(dim=1, keepdim=True)
        step = torch.randn(trial.batch // 2, trial.size) / trial.size**0.5
        x[1::2] = x[0::2][: len(step)] + distance[: len(step)] * step
    return x


def gradient_of(trial: Trial, model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The gradient a client would send, corrupted as the trial says."""
    source = model.double() if trial.corruption == "float64" else model
    source = model.to(HALVES[trial.corruption]) if trial.corruption in HALVES else source
    x = x.to(next(source.parameters()).dtype)
    if trial.corruption == "wrong model":
        source = build(replace(trial, activation=random.Random(trial.seed).choice(ACTIVATIONS)))
    output = source(x)
    if trial.loss == "cross_entropy":
        target = torch.randint(trial.outputs, (len(x),))
        if trial.kind == ALIKE:
            target[1::2] = target[0::2][: len(x) // 2]
        value = nn.functional.cross_entropy(output, target)
    else:
        target = torch.randn_like(output)
        if trial.kind == ALIKE:
            target[1::2] = target[0::2][: len(x) // 2]
        value = nn.functional.mse_loss(output, target)
    grads = torch.autograd.grad(value, list(source.parameters()), allow_unused=True)
    names = [n for n, _ in model.named_parameters()]
    kept = [
        g for g, p in zip(grads, source.parameters(), strict=True) if p.numel() > 1 or g is not None
    ]
    gradient = {n: g for n, g in zip(names, kept, strict=False) if g is not None}
    return {
        n: corrupt(trial, g, p)
        for (n, g), p in zip(gradient.items(), model.parameters(), strict=False)
    }


def corrupt(trial: Trial, g: Tensor, p: Tensor) -> Tensor:
    """One tensor's corruption."""
    if trial.corruption == "weights reply":
        return (p.detach() - (p.detach() - 0.1 * g)) / 0.1
    if trial.corruption in ("noise", "clip and noise"):
        scale = 0.1 if trial.corruption == "clip and noise" else 1.0
        return scale * g + trial.level * scale * g.norm() / g.numel() ** 0.5 * torch.randn_like(g)
    if trial.corruption == "prune":
        cut = g.abs().flatten().quantile(min(trial.level * 3, 0.95))
        return torch.where(g.abs() < cut, 0, g)
    return g


def run(seed: int, kind: str | None = None) -> tuple[Trial, int, int, int, str]:
    """(trial, certified, false, batch, worst) of one seed."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    trial = draw(seed, kind)
    model = build(trial).eval()
    x = inputs_of(trial)
    gradient = gradient_of(trial, model, x)
    if [g.shape for g in gradient.values()] != [p.shape for p in model.parameters()]:
        return trial, 0, 0, len(x), "skipped"
    try:
        found = TensorAttack(patience=2).run(model, gradient, loss=trial.loss)
    except NotApplicable:
        return trial, 0, 0, len(x), "refused"
    except Exception as error:  # counted and named, not lost with all other trials
        return trial, 0, 0, len(x), f"crashed: {error}"
    certified = found.inputs[found.certified].double()
    if not len(certified):
        return trial, 0, 0, len(x), ""
    x = x.double()
    error = (torch.cdist(certified, x) / x.norm(dim=1)).min(1).values
    return trial, len(certified), int((error > 1e-2).sum()), len(x), f"{float(error.max()):.1e}"
