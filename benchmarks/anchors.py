"""Published results, reproduced: one row per attack and seed, one table.

    python benchmarks/anchors.py              # all, about ten minutes on one thread
    python benchmarks/anchors.py spear labels # some

Every attack is told the batch size and the range of the pixels where it needs them, and nothing
else. Rows already on disk are kept; `--fresh` begins anew.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import attacks
from attacks import Attack, Knowledge, infer_labels
from fl_sim.data import ImageData
from fl_sim.data.bundled import fashion_mnist_mini
from fl_sim.data.cifar10_sample import cifar10_sample
from fl_sim.evaluation.matching import match
from fl_sim.evaluation.metrics import psnr, relative_error
from fl_sim.models.lenet import LeNet
from fl_sim.models.mlp import MLP
from fl_sim.models.resnet18 import ResNet18

DIGITS, COLOURS = (1, 28, 28), (3, 32, 32)


@dataclass(frozen=True)
class Row:
    """One seed of one anchor; `value` is in the anchor's unit."""

    anchor: str
    seed: int
    value: float
    seconds: float


@dataclass(frozen=True)
class Anchor:
    """A published or measured result, and how to get it here.

    Attributes
    ----------
    what : str
        The attack and its setting.
    published : str
        What it is compared with.
    unit : str
        Of a row's value.
    seeds : int
    run : callable (seed) -> value
    """

    what: str
    published: str
    unit: str
    seeds: int
    run: Callable[[int], float]


def dlg_lenet() -> nn.Module:
    """The sigmoid network of the code of Deep Leakage from Gradients, 15,826 weights."""
    layers: list[nn.Module] = []
    for inner, outer, stride in ((3, 12, 2), (12, 12, 2), (12, 12, 1)):
        layers += [nn.Conv2d(inner, outer, 5, stride, padding=2), nn.Sigmoid()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(768, 10))
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -0.5, 0.5)
    return model


@dataclass(frozen=True)
class Case:
    """An untrained network in evaluation mode and a batch of images, drawn by a seed."""

    data: Callable[[], ImageData]
    model: Callable[[], nn.Module]
    batch: int
    standardize: bool = True

    def make(self, seed: int) -> tuple[ImageData, nn.Module, Tensor, Tensor, dict[str, Tensor]]:
        """Return data set, model, inputs, labels and gradient."""
        data = self.data()
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(data.train_images), generator=generator)[: self.batch]
        inputs = data.to_inputs(data.train_images[chosen], self.standardize)
        labels = data.train_labels[chosen]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self.model().eval()
        value = nn.functional.cross_entropy(model(inputs), labels)
        names = [name for name, _ in model.named_parameters()]
        slopes = torch.autograd.grad(value, list(model.parameters()))
        return data, model, inputs, labels, dict(zip(names, slopes, strict=True))

    def psnr(self, attack: Attack, seed: int) -> float:
        """Mean PSNR (dB) over the batch."""
        data, model, inputs, _, gradient = self.make(seed)
        knows = Knowledge(batch_size=self.batch, data_range=data.input_range(self.standardize))
        shape = tuple(inputs.shape[1:])
        found = attack.run(model, gradient, input_shape=shape, knows=knows)
        mine = found.inputs[match(inputs.flatten(1), found.inputs.flatten(1))]
        unit = [data.to_unit(x, self.standardize).clamp(0, 1) for x in (inputs, mine)]
        return float(psnr(*unit).mean())

    def exact(self, attack: Attack, seed: int) -> float:
        """Share of the batch with relative error at most 1e-3."""
        _, model, inputs, _, gradient = self.make(seed)
        found = attack.run(model, gradient, input_shape=tuple(inputs.shape[1:]))
        if not len(found):
            return 0.0
        pairs = match(inputs.flatten(1), found.inputs.flatten(1))
        hit = torch.nonzero(pairs >= 0)[:, 0]
        right = relative_error(inputs[hit], found.inputs[pairs[hit]]) <= 1e-3
        return int(right.sum()) / self.batch

    def classes(self, seed: int) -> float:
        """1.0 if the set of classes that `infer_labels` finds is right, else 0.0."""
        _, model, inputs, labels, gradient = self.make(seed)
        shape = tuple(inputs.shape[1:])
        found = infer_labels(model, gradient, batch_size=self.batch, input_shape=shape)
        return float(torch.equal(found.labels.unique(), labels.unique()))


def resnet() -> nn.Module:
    """The full ResNet-18; with BatchNorm in evaluation mode, as the paper has it."""
    return ResNet18(COLOURS, 10, norm="batch")


def label_anchor(name: str, batch: int, model: Callable[[], nn.Module]) -> Anchor:
    """Whole sets of classes, on standardised Fashion-MNIST."""
    case = Case(fashion_mnist_mini, model, batch)
    return Anchor(
        f"`infer_labels`, {name}, B = {batch}",
        "iLRG: above 99 % of sets",
        "sets",
        100,
        case.classes,
    )


ONE_IMAGE = Case(cifar10_sample, resnet, 1)
ANCHORS: dict[str, Anchor] = {
    "dlg": Anchor(
        "`DeepLeakage`, sigmoid LeNet of the DLG code, CIFAR-10, B = 1",
        "DLG converges to the image; above 30 dB",
        "dB",
        6,
        lambda seed: Case(cifar10_sample, dlg_lenet, 1).psnr(attacks.DeepLeakage(), seed),
    ),
    "resnet": Anchor(
        "`InvertingGradients`, ResNet-18, CIFAR-10, B = 1, 400 iterations (paper: 24,000)",
        "above 20 dB",
        "dB",
        3,
        lambda seed: ONE_IMAGE.psnr(attacks.InvertingGradients(400, tv=0.1), seed),
    ),
    "paper_resnet": Anchor(
        "the same with the paper's objective, total variation 1e-4",
        "above 20 dB",
        "dB",
        3,
        lambda seed: ONE_IMAGE.psnr(
            attacks.InvertingGradients(400, tv=1e-4, logarithmic=False), seed
        ),
    ),
    "spear": Anchor(
        "`SpearAttack`, ReLU m = 400, Fashion-MNIST, B = 14",
        "exact (a rebuild of SPEAR: 0.7 s on two cores)",
        "exact",
        3,
        lambda seed: Case(
            fashion_mnist_mini, lambda: MLP(DIGITS, 10, width=400, activation="relu"), 14
        ).exact(attacks.SpearAttack(), seed),
    ),
    "peeling": Anchor(
        "`PeelingAttack`, ReLU m = 1000, raw Fashion-MNIST, B = 64",
        "100 % (Shariati, Alambardar Meybodi 2026)",
        "exact",
        5,
        lambda seed: Case(
            fashion_mnist_mini,
            lambda: MLP(DIGITS, 10, width=1000, activation="relu"),
            64,
            standardize=False,
        ).exact(attacks.PeelingAttack(), seed),
    ),
    **{
        f"labels_{name}_{batch}": label_anchor(title, batch, model)
        for name, title, model in (
            ("relu", "MLP, ReLU (512)", lambda: MLP(DIGITS, 10, width=512, activation="relu")),
            ("gelu", "MLP, GELU (512)", lambda: MLP(DIGITS, 10, width=512)),
            ("lenet", "LeNet, sigmoid", lambda: LeNet(DIGITS, 10)),
        )
        for batch in (4, 32, 128)
    },
}


def table(rows: list[Row]) -> str:
    """Markdown, one line per anchor that has rows."""
    lines = ["| what | published | here | seeds | CPU s |", "|---|---|---|---|---|"]
    for name, anchor in ANCHORS.items():
        mine = [row for row in rows if row.anchor == name]
        if not mine:
            continue
        values = [row.value for row in mine]
        if anchor.unit == "dB":
            here = f"{statistics.median(values):.1f} dB ({min(values):.1f} to {max(values):.1f})"
        else:
            here = f"{statistics.mean(values):.1%} {anchor.unit}"
        seconds = f"{statistics.median(row.seconds for row in mine):.1f}"
        cells = [anchor.what, anchor.published, here, str(len(mine)), seconds]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, save after each row, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("anchors", nargs="*", help=f"of {', '.join(ANCHORS)}, or how they begin")
    parser.add_argument("--fresh", action="store_true", help="begin anew")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "anchors")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    chosen = [n for n in ANCHORS if not args.anchors or n.startswith(tuple(args.anchors))]
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "rows.json"
    stored = json.loads(path.read_text()) if path.exists() and not args.fresh else []
    rows = [Row(**row) for row in stored]
    for name in chosen:
        for seed in range(ANCHORS[name].seeds):
            if any((row.anchor, row.seed) == (name, seed) for row in rows):
                continue
            start = time.process_time()
            value = ANCHORS[name].run(seed)
            rows.append(Row(name, seed, value, time.process_time() - start))
            path.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    (args.out / "table.md").write_text(table(rows) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
