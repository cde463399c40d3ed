"""How far the exact attack reaches: success and seconds over activation, width, batch and start.

One row per setting: how many seeds had every image at a relative error below 1e-3, certified and
with its label; false certificates; the largest error; the median of the seconds.

    python benchmarks/exact_reach.py --table must      # the headline settings
    python benchmarks/exact_reach.py --table kinds     # every elementwise activation
    python benchmarks/exact_reach.py --table data      # initialisations, raw inputs, one label
    python benchmarks/exact_reach.py --table starts    # with and without the tensor step
    python benchmarks/exact_reach.py --table peak      # the largest batches; minutes each
    python benchmarks/exact_reach.py --table smallest  # narrow layers
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass, replace

import torch
from exact_data import DIRECTORY, draw_batch, fashion_mnist, gradient_of, mlp

from attacks import TensorAttack


@dataclass(frozen=True)
class Setting:
    """One row of a table."""

    activation: str
    width: int = 1024
    batch: int = 32
    deep: tuple[int, ...] = ()
    init: str = "default"
    raw: bool = False
    one_label: bool = False
    tensor_step: bool = True

    def __str__(self) -> str:
        marks = [f"+{w}" for w in self.deep] + [self.init] * (self.init != "default")
        marks += ["raw"] * self.raw + ["one label"] * self.one_label
        marks += ["random starts"] * (not self.tensor_step)
        return f"{self.activation:11s} {self.width:5d} {self.batch:4d} {' '.join(marks):22s}"


@dataclass(frozen=True)
class Outcome:
    """One seed of a setting."""

    complete: bool
    recovered: int
    false: int
    worst: float
    seconds: float
    rounds: int


KINKED = ("ReLU", "LeakyReLU")
SMOOTH = ("GELU", "SiLU", "Softplus", "ELU", "Tanh", "Sigmoid")
OTHERS = (
    "Mish", "SELU", "CELU", "Softsign", "Hardswish", "LogSigmoid", "Hardtanh", "ReLU6",
    "Softshrink", "Hardshrink", "Tanhshrink", "PReLU",
)  # fmt: skip
VARIANTS = (
    {"init": "kaiming"},
    {"init": "xavier"},
    {"raw": True},
    {"one_label": True},
    {"deep": (256, 256, 256)},
)
TABLES = {
    "must": [
        *(Setting(a, 1024, 128) for a in KINKED + SMOOTH),
        Setting("GELU", 1024, 64, (256, 256, 256)),
        *(Setting(a, 2048, 256) for a in ("ReLU", "GELU", "Tanh")),
    ],
    "kinds": [Setting(a) for a in KINKED + SMOOTH + OTHERS],
    "data": [replace(Setting(a), **v) for v in VARIANTS for a in ("ReLU", "GELU", "Tanh")],
    "starts": [
        Setting(a, batch=b, tensor_step=t)
        for a in ("ReLU", "GELU", "Tanh")
        for b in (16, 32, 64, 128)
        for t in (True, False)
    ],
    "peak": [Setting(a, 4096, b) for a in ("GELU", "ReLU") for b in (256, 384, 512)],
    "smallest": [
        Setting(a, m, b)
        for a in ("ReLU", "GELU", "Tanh")
        for b, widths in ((64, (160, 192, 256, 384)), (128, (300, 384, 512, 768)))
        for m in widths
    ],
}


def attempt(setting: Setting, seed: int, data: tuple[torch.Tensor, torch.Tensor]) -> Outcome:
    """Attack one batch and compare with the truth, which the attack never sees."""
    x, y = draw_batch(*data, setting.batch, seed, raw=setting.raw, one_label=setting.one_label)
    model = mlp(setting.activation, [784, setting.width, *setting.deep, 10], setting.init, seed)
    gradient = gradient_of(model, x, y)
    start = time.perf_counter()
    found = TensorAttack(tensor_step=setting.tensor_step).run(model, gradient)
    seconds = time.perf_counter() - start
    rounds = len(found.info.get("rounds", ()))
    if not len(found):
        return Outcome(False, 0, 0, float("inf"), seconds, rounds)
    assert found.labels is not None
    exact = {"compute_mode": "donot_use_mm_for_euclid_dist"}
    distance = torch.cdist(x.double(), found.inputs.double(), **exact)
    distance = distance / x.double().norm(dim=1, keepdim=True)
    error, nearest = distance.min(1)
    right = (error < 1e-3) & found.certified[nearest] & (found.labels[nearest] == y)
    false = int((found.certified & (distance.min(0).values > 1e-2)).sum())
    recovered = int(right.sum())
    return Outcome(recovered == len(x), recovered, false, float(error.max()), seconds, rounds)


def main() -> None:
    """Run one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", choices=TABLES, default="must")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="activations, comma separated")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--data", default=DIRECTORY)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = fashion_mnist(options.data)
    print(
        f"{'activation':11s} {'m':>5} {'B':>4} {'':22s} {'complete':>9} {'images':>9} "
        f"{'false':>5} {'worst':>8} {'rounds':>6} {'seconds':>8}"
    )
    for setting in TABLES[options.table]:
        if options.only and setting.activation not in options.only.split(","):
            continue
        outcomes = [attempt(setting, seed, data) for seed in range(options.seeds)]
        images = sum(o.recovered for o in outcomes)
        print(
            f"{setting} {sum(o.complete for o in outcomes):4d} /{len(outcomes):3d} "
            f"{images:4d}/{setting.batch * len(outcomes):4d} {sum(o.false for o in outcomes):5d} "
            f"{max(o.worst for o in outcomes):8.1e} "
            f"{statistics.median(o.rounds for o in outcomes):6.0f} "
            f"{statistics.median(o.seconds for o in outcomes):8.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
