"""What several local steps hide: the tensor attack with and without simulating the client.

    python benchmarks/local_steps.py [--seeds 0 1 2] [--images 16]

Fashion-MNIST images, two layers, PyTorch's default initialisation, clients in float32. Each line is
one setting: images read to 1 % of all, how many of them certified, the median and the worst
relative error, without unrolling (the update taken for one gradient) and with it. A case where a
row says fewer than all is one the attack does not solve.
"""

from __future__ import annotations

import argparse
import copy
import time

import torch
from torch import Tensor, nn

from attacks import LocalWork, UpdateTensorAttack
from fl_sim.data.bundled import fashion_mnist_mini

SAME = [(k, lr) for lr in (0.01, 0.1) for k in (2, 4, 8)]
EPOCHS = [(k, lr) for lr in (0.01, 0.1) for k in (4,)]


def batch(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw images, standardised, and their labels."""
    data = fashion_mnist_mini()
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(data.train_images), generator=generator)[:count]
    return data.to_inputs(data.train_images[chosen], True).flatten(1), data.train_labels[chosen]


def update(model: nn.Module, x: Tensor, y: Tensor, order: Tensor, lr: float) -> dict[str, Tensor]:
    """Return the mean gradient a server reads off the weights a client sends back."""
    work = copy.deepcopy(model)
    for chosen in order:
        loss = nn.functional.cross_entropy(work(x[chosen]), y[chosen])
        gradients = torch.autograd.grad(loss, list(work.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(work.parameters(), gradients, strict=True):
                parameter -= lr * gradient
    moved = zip(model.named_parameters(), work.parameters(), strict=True)
    scale = lr * len(order)
    return {n: (p.detach().double() - q.detach().double()) / scale for (n, p), q in moved}


def case(activation: type[nn.Module], order: Tensor, lr: float, width: int, seed: int) -> str:
    """Run one setting with and without unrolling; return its columns."""
    count = len(order.unique())
    x, y = batch(count, seed)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(x.shape[1], width), activation(), nn.Linear(width, 10))
    gradient = update(model, x, y, order, lr)
    cells = []
    for unroll in (False, True):
        start = time.perf_counter()
        found = UpdateTensorAttack(unroll=unroll).run(
            model, gradient, local=LocalWork(len(order), lr)
        )
        seconds = time.perf_counter() - start
        error = torch.ones(count, dtype=torch.float64)
        if len(found):
            distance = torch.cdist(x.double(), found.inputs.double()).min(1).values
            error = distance / x.double().norm(dim=1)
        exact, sure = int((error <= 0.01).sum()), int(found.certified.sum())
        cells.append(
            f"{exact:3d}/{count:<3d} {sure:4d} {error.median():8.0e} {error.max():8.0e} "
            f"{seconds:5.0f} s"
        )
    return " | ".join(cells)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--width", type=int, default=1024)
    settings = parser.parse_args()
    torch.set_num_threads(1)
    head = f"{'exact':>7} {'sure':>4} {'median':>8} {'max':>8} {'time':>7}"
    print(f"{'activation, batches, k, lr, seed':34} | {head:38} | unrolled: {head}")
    n = settings.images
    for activation in (nn.GELU, nn.ReLU):
        for name, cases in (("one batch", SAME), ("epoch", EPOCHS)):
            for k, lr in cases:
                whole = torch.arange(n)
                order = whole.reshape(k, -1) if name == "epoch" else whole.repeat(k, 1)
                for seed in settings.seeds:
                    row = case(activation, order, lr, settings.width, seed)
                    title = f"{activation.__name__}, {name}, {k}, {lr:g}, {seed}"
                    print(f"{title:34} | {row}", flush=True)


if __name__ == "__main__":
    main()
