"""Which architectures give their images away: features, then pixels, from one float32 gradient.

    python benchmarks/architectures.py                          # all rows, hours on one core
    python benchmarks/architectures.py --rows strided_gelu_8    # some rows
    python benchmarks/architectures.py --table                  # only write table.md anew

Untrained networks; images of the bundled Fashion-MNIST and of the CIFAR-10 sample, drawn anew for
every seed. Every finished run adds a line to results/architectures/runs.csv, and what is there is
not run again. PSNR and SSIM are on [0, 1] images after the best matching, as median and minimum
over the true images (0 dB for one that was not returned); `wrong` counts the certified ones that
are worse than 40 dB; `feature_error` is the largest relative error of the true samples' features,
in `features_exact` of them below 1e-3. Seconds are of one core's own time. Inverting Gradients and
feature matching get as many as the features took, between 20 and 60, the batch size and the range
of the pixels; our attack is told nothing, but in rows marked `ranged` the range of the pixels.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from attacks import FeatureInversion, FeatureMatching, InvertingGradients, Knowledge, NotApplicable
from attacks.base import Attack, Interrupted, Problem, Reconstruction
from attacks.features.attack import readable_pair
from attacks.features.diagnosis import response, spoken
from attacks.features.front import Front, tail_of
from attacks.features.reading import read_features
from attacks.tensor.attack import TensorAttack
from attacks.tensor.layers import find_linear_pairs
from benchmarks.compare import deadline
from fl_sim.data import ImageData
from fl_sim.data.bundled import fashion_mnist_mini
from fl_sim.data.cifar10_sample import cifar10_sample
from fl_sim.evaluation.metrics import ssim
from fl_sim.models import build_model

RESULTS = Path(__file__).parent / "results" / "architectures"
LONGEST = 1200.0
"""Seconds by the clock after which an attack is told to stop."""
SHARE = (20.0, 60.0)
"""Least and most seconds of the attacks beside ours."""

CONVNET = "fl_sim.models.convnet.ConvNet"
LENET = "fl_sim.models.lenet.LeNet"
VGG11 = "fl_sim.models.vgg11.VGG11"
RESNET18 = "fl_sim.models.resnet18.ResNet18"
VIT = "fl_sim.models.vit.ViT"
POOLED = {"downsample": "max", "kernel_size": 3}


@dataclass(frozen=True)
class Row:
    """A network and a batch.

    Attributes
    ----------
    model : dict
        `_target_` and settings, as in conf/model.
    batch : int
        Images.
    beside : tuple of str
        Further attacks, on the first seed's gradient.
    data : callable
        Where the images come from.
    ranged : bool
        Whether our attack is told the range of the pixels.
    ours : "features" or "reading"
        The whole attack, or only the reading of the features: for networks whose inversion takes
        hours on one core.
    """

    model: dict[str, Any]
    batch: int
    beside: tuple[str, ...] = ("inverting_gradients",)
    data: Callable[[], ImageData] = fashion_mnist_mini
    ranged: bool = False
    ours: str = "features"


BOTH = ("feature_matching", "inverting_gradients")
ROWS: dict[str, Row] = {
    **{
        f"strided_{a}_{b}": Row({"_target_": CONVNET, "activation": a}, b)
        for b in (8, 16, 32)
        for a in ("relu", "gelu")
    },
    **{
        f"strided_{a}_colour_8": Row({"_target_": CONVNET, "activation": a}, 8, data=cifar10_sample)
        for a in ("relu", "gelu")
    },
    "pooled_relu_8": Row({"_target_": CONVNET, "activation": "relu", **POOLED}, 8, ranged=True),
    **{
        f"lenet_{a}_4": Row({"_target_": LENET, "activation": a}, 4)
        for a in ("tanh", "sigmoid", "relu")
    },
    "lenet_relu_max_4": Row({"_target_": LENET, "activation": "relu", "pool": "max"}, 4),
    **{
        f"vit_{init}_{b}": Row({"_target_": VIT, "init": init}, b, beside=())
        for b in (2, 3, 4, 8)
        for init in ("default", "trunc_normal")
    },
    **{
        f"vgg11_{init}_32": Row({"_target_": VGG11, "init": init}, 32, (), ours="reading")
        for init in ("default", "kaiming_normal")
    },
    "resnet18_thin_8": Row({"_target_": RESNET18, "depth": 2, "channels": 8}, 8, BOTH),
    "resnet18_32": Row({"_target_": RESNET18, "depth": 2}, 32, (), ours="reading"),
}
"""By name, the batch size last."""

Peer = Callable[[int], Attack]
PEERS: dict[str, Peer] = {
    "inverting_gradients": lambda n: InvertingGradients(n, tv=1e-3, logarithmic=False),
    "feature_matching": lambda n: FeatureMatching(n, tv=1e-3),
}


@dataclass(frozen=True)
class Line:
    """What one attack reached on one gradient; see the module's docstring."""

    row: str
    attack: str
    seed: int
    batch: int
    found: int = 0
    median: float = 0.0
    lowest: float = 0.0
    ssim: float | None = None
    certified: int = 0
    wrong: int = 0
    features_exact: int | None = None
    feature_error: float | None = None
    seconds: float = 0.0
    note: str = ""


@dataclass(frozen=True)
class Case:
    """One gradient and its truth."""

    name: str
    seed: int
    model: nn.Module
    inputs: Tensor
    gradient: dict[str, Tensor]
    data: ImageData

    @classmethod
    def make(cls, name: str, seed: int) -> Case:
        """Draw images and parameters, and take the client's step."""
        row, data = ROWS[name], ROWS[name].data()
        generator = torch.Generator().manual_seed(7000 + seed)
        drawn = torch.randperm(len(data.train_images), generator=generator)[: row.batch]
        inputs = data.to_inputs(data.train_images[drawn], True)
        model = build_model(row.model, data.image_shape, len(data.classes), seed)
        loss = nn.functional.cross_entropy(model(inputs), data.train_labels[drawn])
        slopes = torch.autograd.grad(loss, list(model.parameters()))
        names = [n for n, _ in model.named_parameters()]
        return cls(name, seed, model, inputs, dict(zip(names, slopes, strict=True)), data)

    def measure(self, attack: str, seconds: float) -> Line:
        """Run one attack; `seconds` is for those beside ours."""
        line = Line(self.name, attack, self.seed, len(self.inputs))
        try:
            with deadline(LONGEST):
                if attack == "features":
                    told = self.data.input_range(True) if ROWS[self.name].ranged else None
                    found = self._run(FeatureInversion(), Knowledge(data_range=told))
                elif attack == "reading":
                    return self._read(line)
                else:
                    found = self._timed(PEERS[attack], seconds)
        except (NotApplicable, Interrupted) as reason:
            return replace(line, note=str(reason) or "out of time")
        return self.score(line, found)

    def _run(self, attack: Attack, knows: Knowledge) -> Reconstruction:
        shape, start = self.data.image_shape, time.process_time()
        found = attack.run(self.model, self.gradient, input_shape=shape, knows=knows)
        return replace(found, seconds=time.process_time() - start)

    def _read(self, line: Line) -> Line:
        """Read the features and go no further."""
        shape, start = self.data.image_shape, time.process_time()
        generator = torch.Generator().manual_seed(0)
        problem = Problem(self.model, self.gradient, shape, "cross_entropy", Knowledge(), generator)
        pair, _ = readable_pair(problem, find_linear_pairs(self.model, shape), shape)
        exact = TensorAttack(patience=FeatureInversion().patience)
        features = read_features(problem, pair, tail_of(self.model, pair), exact)
        found = Reconstruction(
            features.values,
            certified=features.certified,
            residual=features.residual,
            info={"layer": pair.hidden},
            features=features.values,
        )
        proved = int(features.certified.sum())
        note = "" if proved else spoken(response(problem, pair, shape)).strip()
        return replace(
            line,
            **self._features(found),
            found=len(features),
            certified=proved,
            seconds=round(time.process_time() - start, 1),
            note=note,
        )

    def _timed(self, peer: Peer, seconds: float) -> Reconstruction:
        """As many iterations as the time allows."""
        knows = Knowledge(batch_size=len(self.inputs), data_range=self.data.input_range(True))
        self._run(peer(2), knows)
        start = time.process_time()
        self._run(peer(2), knows)
        fixed = time.process_time() - start
        self._run(peer(7), knows)
        each = max((time.process_time() - start - 2 * fixed) / 5, 1e-3)
        return self._run(peer(max(10, int((seconds - fixed) / each))), knows)

    def score(self, line: Line, found: Reconstruction) -> Line:
        """Match to the truth and measure."""
        line = replace(
            line,
            found=len(found),
            certified=int(found.certified.sum()),
            seconds=round(found.seconds, 1),
            note=str(found.info.get("reason", "")),
        )
        line = replace(line, **self._features(found))
        if not len(found):
            return line
        true_images, images = (
            self.data.to_unit(x, True).clamp(0, 1) for x in (self.inputs, found.inputs)
        )
        gap = true_images.flatten(1)[:, None] - images.flatten(1)[None]
        error = gap.double().square().mean(2)
        true, partner = linear_sum_assignment(error.numpy())
        psnr = torch.zeros(line.batch, dtype=torch.float64)
        psnr[true] = -10 * error[true, partner].clamp_min(1e-30).log10()
        alike = ssim(true_images[true], images[partner])
        return replace(
            line,
            median=round(float(psnr.quantile(0.5)), 1),
            lowest=round(float(psnr.min()), 1),
            ssim=None if alike is None else round(float(alike.mean()), 3),
            wrong=int((found.certified[partner] & (psnr[true] < 40)).sum()),
        )

    def _features(self, found: Reconstruction) -> dict[str, Any]:
        """How well the true samples' features, or tokens, were read."""
        layer = found.info.get("layer")
        if layer is None or found.features is None:
            return {}
        with torch.no_grad():
            true = Front(self.model, layer, torch.float64)(self.inputs.double())
        width = int(self.model.get_submodule(layer).in_features)
        true, mine = true.reshape(-1, width), found.features.double().reshape(-1, width)
        error = torch.cdist(true, mine) / true.norm(dim=1, keepdim=True)
        rows, columns = linear_sum_assignment(error.clamp_max(1e3).numpy())
        paired = error[rows, columns]
        largest = float(paired.max()) if len(paired) == len(true) else None
        return {
            "features_exact": int((paired < 1e-3).sum()),
            "feature_error": None if largest is None else float(f"{largest:.1e}"),
        }


def finished() -> list[dict[str, str]]:
    """The lines there are."""
    path = RESULTS / "runs.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def append(line: Line) -> None:
    """Add a line to the results."""
    path = RESULTS / "runs.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Line)])
        if fresh:
            writer.writeheader()
        writer.writerow(asdict(line))


def table(lines: list[dict[str, str]]) -> str:
    """Markdown: a line per network, batch and attack, medians and extremes over the seeds."""
    rows = [
        "| network, B | attack | seeds | PSNR median (dB) | lowest | SSIM | certified | wrong "
        "| features < 1e-3 | s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, str], list[dict[str, str]]] = {}
    for line in lines:
        groups.setdefault((line["row"], line["attack"]), []).append(line)
    order = {name: i for i, name in enumerate(ROWS)}
    for (name, attack), runs in sorted(groups.items(), key=lambda g: order.get(g[0][0], 99)):
        total = sum(int(r["batch"]) for r in runs)

        def values(key: str, runs: list[dict[str, str]] = runs) -> list[float]:
            return [float(r[key]) for r in runs if r[key]]

        ours = attack in ("features", "reading")
        cells = [
            name,
            attack,
            str(len(runs)),
            "-" if attack == "reading" else f"{statistics.median(values('median')):.1f}",
            "-" if attack == "reading" else f"{min(values('lowest')):.1f}",
            f"{statistics.median(values('ssim')):.3f}" if values("ssim") else "-",
            f"{sum(values('certified')):.0f} of {total}" if ours else "-",
            f"{sum(values('wrong')):.0f}" if ours else "-",
            f"{sum(values('features_exact')):.0f}" if values("features_exact") else "-",
            f"{statistics.median(values('seconds')):.0f}" if values("seconds") else "-",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    """Measure what is asked for and not there yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="*", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--table", action="store_true", help="write the table and stop")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in [] if arguments.table else arguments.rows:
        for seed in arguments.seeds:
            spent = SHARE[0]
            for attack in (ROWS[name].ours, *(ROWS[name].beside if seed == 0 else ())):
                key = (name, attack, str(seed))
                done = [r for r in finished() if (r["row"], r["attack"], r["seed"]) == key]
                if not done:
                    line = Case.make(name, seed).measure(
                        attack, min(max(spent, SHARE[0]), SHARE[1])
                    )
                    print(line, flush=True)
                    append(line)
                    done = [r for r in finished() if (r["row"], r["attack"], r["seed"]) == key]
                spent = (
                    float(done[0]["seconds"] or SHARE[0]) if attack == ROWS[name].ours else spent
                )
    (RESULTS / "table.md").write_text(table(finished()))


if __name__ == "__main__":
    main()
