"""Which architectures give their images away: features, then pixels, from one gradient.

    python benchmarks/architectures.py                          # all rows, hours on one core
    python benchmarks/architectures.py --rows strided_gelu_8    # some rows
    python benchmarks/architectures.py --table                  # only write table.md anew

Untrained networks, float32 unless a row says float64; images of the bundled Fashion-MNIST and of
the CIFAR-10 sample, drawn anew for every seed. Every finished run adds a line to
results/architectures/runs.csv, and what is there is not run again. PSNR and SSIM are on [0, 1]
images after the best matching, as median and minimum over the true images (0 dB for one that was
not returned); `wrong` counts the certified ones that are worse than 40 dB; `feature_error` is the
largest relative error of the true samples' features, in `features_exact` of them below 1e-3.
Seconds are of one core's own time. Inverting Gradients and feature matching get as many as the
features took, between 20 and 40, or what their row says, the batch size and the range of the
pixels; our attack is told nothing, but in rows marked `ranged` the range of the pixels.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from attacks import FeatureInversion, FeatureMatching, InvertingGradients, Knowledge, NotApplicable
from attacks.base import Attack, Interrupted, Problem, Reconstruction
from attacks.features.diagnosis import response, spoken
from attacks.features.front import Front, pair_alone, tail_of
from attacks.features.pairs import readable_pair
from attacks.features.reading import read_features
from attacks.tensor.attack import TensorAttack
from attacks.tensor.layers import find_linear_pairs
from benchmarks.architectures_rows import ROWS
from benchmarks.architectures_tables import CLEAR, Line, append, finished, table
from benchmarks.compare import deadline
from fl_sim.data import ImageData
from fl_sim.evaluation.metrics import ssim
from fl_sim.models import build_model

RESULTS = Path(__file__).parent / "results" / "architectures"
RUNS = RESULTS / "runs.csv"
LONGEST = 600.0
"""CPU seconds after which an attack is told to stop."""

Peer = Callable[[int], Attack]
PEERS: dict[str, Peer] = {
    "inverting_gradients": InvertingGradients,
    "feature_matching": FeatureMatching,
}


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
        if row.double:
            model, inputs = model.double(), inputs.double()
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
        pair, per_image = readable_pair(problem, find_linear_pairs(self.model, shape), shape)
        exact = TensorAttack(patience=FeatureInversion().patience)
        tail = tail_of(self.model, pair, shape) if per_image else pair_alone(self.model, pair)
        features = read_features(problem, pair, tail, exact)
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
        few = 5 if fixed < seconds / 10 else 2
        self._run(peer(2 + few), knows)
        each = max((time.process_time() - start - 2 * fixed) / few, 1e-3)
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
            above=int((psnr > CLEAR).sum()),
            ssim=None if alike is None else round(float(alike.mean()), 3),
            wrong=int((found.certified[partner] & (psnr[true] <= CLEAR)).sum()),
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
            fill(name, seed)
    (RESULTS / "table.md").write_text(table(finished(RUNS)))


def fill(name: str, seed: int) -> None:
    """Run the attacks on one gradient that have no line yet, ours first."""
    row = ROWS[name]
    seconds = row.seconds[1]
    for attack in (row.ours, *(row.beside if seed < row.beside_seeds else ())):
        done = {(r["attack"], r["seed"]): r for r in finished(RUNS) if r["row"] == name}
        if (attack, str(seed)) in done:
            took = float(done[attack, str(seed)]["seconds"] or 0)
        else:
            line = Case.make(name, seed).measure(attack, seconds)
            print(line, flush=True)
            append(RUNS, line)
            took = line.seconds
        if attack == "features":
            seconds = min(max(took, row.seconds[0]), row.seconds[1])


if __name__ == "__main__":
    main()
