"""All attacks on the same gradients, in one table.

    python benchmarks/compare.py --quick                # a minute or two
    python benchmarks/compare.py                        # models x batch sizes x seeds
    python benchmarks/compare.py --peer breaching       # beside breaching 0.1.2 (extra `bench`)

Every attack is told the batch size and the range of the pixels, and nothing else: labels are
inferred. Rows are medians over seeds. An image is `exact` with relative error at most 0.01.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor, nn

import attacks
from attacks import Attack, Interrupted, Knowledge, NotApplicable
from benchmarks.peers import NAMES, run_breaching
from fl_sim.data import ImageData
from fl_sim.data.bundled import fashion_mnist_mini
from fl_sim.data.cifar10_sample import cifar10_sample
from fl_sim.evaluation.matching import match
from fl_sim.evaluation.metrics import psnr, relative_error, ssim
from fl_sim.models.convnet import ConvNet
from fl_sim.models.lenet import LeNet
from fl_sim.models.mlp import MLP
from fl_sim.models.resnet18 import ResNet18

MODELS: dict[str, Callable[[tuple[int, int, int]], nn.Module]] = {
    "mlp": lambda shape: MLP(shape, 10, activation="relu"),
    "mlp_gelu": lambda shape: MLP(shape, 10),
    "lenet": lambda shape: LeNet(shape, 10),
    "convnet": lambda shape: ConvNet(shape, 10, channels=(32, 64), width=640),
    "resnet18": lambda shape: ResNet18(shape, 10),
}

ATTACKS: dict[str, Callable[[int], Attack]] = {
    "tensor": lambda n: attacks.TensorAttack(),
    "spear": lambda n: attacks.SpearAttack(),
    "peeling": lambda n: attacks.PeelingAttack(),
    "analytic": lambda n: attacks.AnalyticAttack(),
    "cocktail_party": lambda n: attacks.CocktailPartyAttack(),
    "deep_leakage": lambda n: attacks.DeepLeakage(n, restarts=1),
    "idlg": lambda n: attacks.DeepLeakage(n, restarts=1, labels="infer"),
    "inverting_gradients": lambda n: attacks.InvertingGradients(n),
    "see_through": lambda n: attacks.SeeThroughGradients(n, seeds=1),
    "feature_matching": lambda n: attacks.FeatureMatching(n),
}

DATA: dict[str, Callable[[], ImageData]] = {
    "cifar10_sample": cifar10_sample,
    "fashion_mnist_mini": fashion_mnist_mini,
}


@dataclass(frozen=True)
class Score:
    """One attack on one gradient.

    `psnr`, `ssim`: means over the true images that got a reconstruction; None if none did.
    `exact`, `found`: numbers of images. `labels`: share of the labels that are right, as a
    multiset. `note`: why there is nothing, or that time ran out.
    """

    model: str
    batch: int
    attack: str
    seed: int
    psnr: float | None
    ssim: float | None
    exact: int
    found: int
    labels: float | None
    seconds: float
    note: str


@dataclass(frozen=True)
class Case:
    """One gradient and its truth."""

    name: str
    model: nn.Module
    gradient: dict[str, Tensor]
    inputs: Tensor
    labels: Tensor
    data: ImageData
    seed: int

    @classmethod
    def make(cls, name: str, data: ImageData, batch: int, seed: int) -> Case:
        """An untrained model in evaluation mode, and a batch of standardised images."""
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(data.train_images), generator=generator)[:batch]
        inputs, labels = data.to_inputs(data.train_images[chosen], True), data.train_labels[chosen]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = MODELS[name](data.image_shape).eval()
        value = nn.functional.cross_entropy(model(inputs), labels)
        slopes = torch.autograd.grad(value, list(model.parameters()))
        names = [n for n, _ in model.named_parameters()]
        gradient = dict(zip(names, slopes, strict=True))
        return cls(name, model, gradient, inputs, labels, data, seed)

    def attacked(self, name: str, iterations: int, seconds: float) -> Score:
        """Score of one of our attacks."""
        knows = Knowledge(batch_size=len(self.inputs), data_range=self.data.input_range(True))
        shape = self.data.image_shape
        try:
            with deadline(seconds):
                found = ATTACKS[name](iterations).run(
                    self.model, self.gradient, input_shape=shape, knows=knows
                )
        except NotApplicable as reason:
            return self.score(name, None, None, 0.0, str(reason))
        except Interrupted:
            return self.score(name, None, None, seconds, "out of time")
        note = "out of time" if found.info.get("interrupted") else ""
        return self.score(name, found.inputs, found.labels, found.seconds, note)

    def attacked_by_peer(self, name: str, iterations: int) -> Score:
        """Score of breaching's version of an attack."""
        shape, constants = self.data.image_shape, (self.data.mean, self.data.std)
        label = f"breaching {name}"
        try:
            result = run_breaching(
                name, self.model, self.gradient, len(self.inputs), shape, constants, iterations
            )
        except Exception as failure:  # somebody else's code: its failure is a result
            return self.score(label, None, None, 0.0, f"fails: {type(failure).__name__}")
        return self.score(label, result.inputs, result.labels, result.seconds, "")

    def score(
        self, attack: str, inputs: Tensor | None, labels: Tensor | None, seconds: float, note: str
    ) -> Score:
        """Match to the truth and measure."""
        batch = len(self.inputs)
        pairs = torch.full((batch,), -1)
        if inputs is not None and len(inputs):
            inputs = inputs.reshape(-1, *self.inputs.shape[1:])
            pairs = match(self.inputs.flatten(1), inputs.flatten(1))
        hit = torch.nonzero(pairs >= 0)[:, 0]
        if inputs is None or not len(hit):
            return Score(self.name, batch, attack, self.seed, None, None, 0, 0, None, seconds, note)
        truth, mine = self.inputs[hit], inputs[pairs[hit]]
        unit = [self.data.to_unit(x, True).clamp(0, 1) for x in (truth, mine)]
        right = None
        if labels is not None:
            counts = [torch.bincount(y.long(), minlength=10) for y in (self.labels, labels)]
            right = int(torch.minimum(*counts).sum()) / batch
        structure = ssim(*unit)
        return Score(
            model=self.name,
            batch=batch,
            attack=attack,
            seed=self.seed,
            psnr=float(psnr(*unit).mean()),
            ssim=None if structure is None else float(structure.mean()),
            exact=int((relative_error(truth, mine) <= 0.01).sum()),
            found=len(hit),
            labels=right,
            seconds=seconds,
            note=note,
        )


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise `Interrupted` inside the block when time is up."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def table(scores: list[Score]) -> str:
    """Markdown, one row per model, batch size and attack: medians over seeds."""
    lines = [
        "| model | B | attack | PSNR dB | SSIM | exact | found | labels | s | note |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, int, str], list[Score]] = {}
    for s in scores:
        groups.setdefault((s.model, s.batch, s.attack), []).append(s)
    for (model, batch, attack), rows in groups.items():
        values = [
            _median([r.psnr for r in rows], ".1f"),
            _median([r.ssim for r in rows], ".2f"),
            _median([r.exact for r in rows], ".0f"),
            _median([r.found for r in rows], ".0f"),
            _median([r.labels for r in rows], ".2f"),
            _median([r.seconds for r in rows], ".1f"),
        ]
        notes = "; ".join(sorted({r.note for r in rows if r.note}))
        lines.append(f"| {model} | {batch} | {attack} | {' | '.join(values)} | {notes} |")
    return "\n".join(lines)


def _median(values: list[float | None] | list[float] | list[int], form: str) -> str:
    known = [v for v in values if v is not None]
    return format(statistics.median(known), form) if known else "-"


def plot(scores: list[Score], path: Path) -> None:
    """PSNR over batch size, a panel per model, a line per attack."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    models = list(dict.fromkeys(s.model for s in scores))
    figure, panels = plt.subplots(1, len(models), figsize=(4 * len(models), 3.5), squeeze=False)
    for model, panel in zip(models, panels[0], strict=True):
        for attack in dict.fromkeys(s.attack for s in scores):
            points: dict[int, list[float]] = {}
            for s in scores:
                if (s.model, s.attack) == (model, attack) and s.psnr is not None:
                    points.setdefault(s.batch, []).append(s.psnr)
            if points:
                medians = [statistics.median(v) for v in points.values()]
                panel.plot(list(points), medians, "o-", label=attack, ms=4)
        panel.set(title=model, xlabel="batch size", ylabel="PSNR (dB)")
        panel.legend(fontsize=6)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Parse, run, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=DATA, default="cifar10_sample")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS, default=list(ATTACKS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4, 8])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=120, help="per attack and gradient")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peer", choices=["breaching"])
    parser.add_argument("--quick", action="store_true", help="mlp, batches of 1 and 4, one seed")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "compare")
    args = parser.parse_args()
    if args.quick:
        args.models, args.batches, args.seeds = ["mlp"], [1, 4], 1
    torch.set_num_threads(args.threads)
    data = DATA[args.data]()
    scores: list[Score] = []
    for model in args.models:
        for batch in args.batches:
            for seed in range(args.seeds):
                case = Case.make(model, data, batch, seed)
                for name in args.attacks:
                    scores.append(case.attacked(name, args.iterations, args.seconds))
                    if args.peer and name in NAMES:
                        scores.append(case.attacked_by_peer(name, args.iterations))
                    print(scores[-1], file=sys.stderr)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "scores.json").write_text(json.dumps([asdict(s) for s in scores], indent=1))
    (args.out / "table.md").write_text(table(scores) + "\n")
    plot(scores, args.out / "psnr.png")
    print(table(scores))


if __name__ == "__main__":
    main()
