"""All attacks on the same gradients, in one table.

    python benchmarks/compare.py --quick                # a minute or two
    python benchmarks/compare.py                        # models x batch sizes x seeds
    python benchmarks/compare.py --peer breaching       # beside breaching 0.1.2 (extra `bench`)

Every attack is told the batch size and the range of the pixels, and nothing else: labels are
inferred. Rows are medians over seeds. An image is `exact` with relative error at most 0.01.
ResNet-18, whose steps take a hundred times as long, gets a quarter of the iterations. A run that
was stopped goes on where it was; one seed of everything comes before the next.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor, nn

import attacks
from attacks import Attack, Interrupted, Knowledge, NotApplicable
from benchmarks.compare_show import PEER, Score, Scores, beside, heat_map, overview, table
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
    "resnet18": lambda shape: ResNet18(shape, 10, norm="batch"),
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

FEWER: dict[str, int] = {"resnet18": 4}
"""By how much the iterations are divided."""

OUT_OF_TIME = "out of time"


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
        """Score of one of our attacks; `seconds` of CPU time are its limit."""
        knows = Knowledge(batch_size=len(self.inputs), data_range=self.data.input_range(True))
        shape = self.data.image_shape
        start = time.process_time()
        try:
            with deadline(seconds):
                found = ATTACKS[name](iterations).run(
                    self.model, self.gradient, input_shape=shape, knows=knows
                )
        except NotApplicable as reason:
            return self.score(name, None, None, 0.0, str(reason))
        except Interrupted:
            return self.score(name, None, None, seconds, OUT_OF_TIME)
        spent = time.process_time() - start
        note = OUT_OF_TIME if found.info.get("interrupted") else ""
        return self.score(name, found.inputs, found.labels, spent, note)

    def attacked_by_peer(self, name: str, iterations: int, seconds: float) -> Score:
        """Score of breaching's version of an attack."""
        shape, constants = self.data.image_shape, (self.data.mean, self.data.std)
        label = PEER + name
        try:
            with deadline(seconds):
                result = run_breaching(
                    name, self.model, self.gradient, len(self.inputs), shape, constants, iterations
                )
        except Interrupted:
            return self.score(label, None, None, seconds, OUT_OF_TIME)
        except Exception as failure:  # somebody else's code: its failure is a result
            return self.score(label, None, None, 0.0, f"fails: {type(failure).__name__}")
        note = OUT_OF_TIME if result.seconds >= seconds else ""  # it returns its best so far
        return self.score(label, result.inputs, result.labels, result.seconds, note)

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
            return Score(self.name, batch, attack, self.seed, seconds=seconds, note=note)
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
    """Raise `Interrupted` inside the block when its CPU time is up."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def main() -> None:
    """Parse, run what is missing, save after each row, show."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=DATA, default="cifar10_sample")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS, default=list(ATTACKS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=30, help="CPU time per attack")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peer", choices=["breaching"])
    parser.add_argument("--quick", action="store_true", help="mlp, batches of 1 and 4, one seed")
    parser.add_argument("--fresh", action="store_true", help="begin anew")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "compare")
    args = parser.parse_args()
    if args.quick:
        args.models, args.batches, args.seeds = ["mlp"], [1, 4], 1
    torch.set_num_threads(args.threads)
    settings = {key: getattr(args, key) for key in ("data", "iterations", "seconds", "threads")}
    settings["fewer"] = FEWER
    path = args.out / "scores.json"
    if args.fresh:
        path.unlink(missing_ok=True)
    scores = Scores(path, settings)
    data = DATA[args.data]()
    first = Case.make("lenet", data, 1, 0)  # what imports and allocates once is nobody's time
    first.attacked("inverting_gradients", 3, args.seconds)
    if args.peer:
        first.attacked_by_peer("inverting_gradients", 3, args.seconds)
    for seed in range(args.seeds):
        for model in args.models:
            for batch in args.batches:
                fill(scores, Case.make(model, data, batch, seed), args)
    places = {name: i for i, name in enumerate([*MODELS, *ATTACKS])}
    rows = sorted(
        scores.rows,
        key=lambda s: (places[s.model], s.batch, places[s.attack.removeprefix(PEER)], s.attack),
    )
    parts = [overview(rows, batch) for batch in dict.fromkeys(s.batch for s in rows)]
    (args.out / "table.md").write_text("\n\n".join([*parts, beside(rows), table(rows)]) + "\n")
    heat_map(rows, args.out / "psnr.png")
    print(table(rows))


def fill(scores: Scores, case: Case, args: argparse.Namespace) -> None:
    """Run the attacks on one gradient that have no row yet."""
    where = case.name, len(case.inputs)
    iterations = args.iterations // FEWER.get(case.name, 1)
    for name in args.attacks:
        if (*where, name, case.seed) not in scores:
            scores.add(case.attacked(name, iterations, args.seconds))
            print(scores.rows[-1], file=sys.stderr)
        theirs = (*where, PEER + name, case.seed)
        if args.peer and name in NAMES and theirs not in scores:
            scores.add(case.attacked_by_peer(name, iterations, args.seconds))
            print(scores.rows[-1], file=sys.stderr)


if __name__ == "__main__":
    main()
