"""What the attention gradient alone says about a transformer's patches; a negative result, mostly.

    python benchmarks/attention_rows.py

The gradient of the first block's query-key-value weight has the normalised tokens LN(E p + pos_t)
for its rows' span. Outside that span nothing of a true patch p at position t is left:

    N' P (E p + b + pos_t) = 0,      N the complement of the span, P without the mean,

which is linear in p. One image of T patches is so read in closed form, with every patch's place.
With B images the solutions at position t are p_t + span {p_it' - p_jt'}, differences of patches at
*every* position t', not at t alone: T (B - 1) dimensions, and all of E's from B = 1 + |p| / T on.
The table, in results/architectures/attention.md: the residual of true patches and of the patches of
other images, and how many dimensions of the pixels of a patch the solutions have.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from fl_sim.data.bundled import fashion_mnist_mini
from fl_sim.models.vit import ViT

RESULT = Path(__file__).parent / "results" / "architectures" / "attention.md"
SEEDS = (0, 1, 2)
ABOVE_FLOOR = 5.0
"""Singular values below so many times the noise floor are not counted to the span."""
FREE = 1e-4
"""Share of the embedding's own size below which a direction of the patch is not determined."""


@dataclass(frozen=True)
class Seen:
    """Medians over the patches of one gradient: residuals, and undetermined dimensions."""

    true: float
    false: float
    free: int


def measure(init: str, batch: int, seed: int) -> Seen:
    """One gradient, of images drawn by the seed."""
    data = fashion_mnist_mini()
    generator = torch.Generator().manual_seed(9000 + seed)
    drawn = torch.randperm(len(data.train_images), generator=generator)[: 2 * batch]
    inputs = data.to_inputs(data.train_images[drawn], True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ViT(data.image_shape, 10, init=init)
    loss = nn.functional.cross_entropy(model(inputs[:batch]), data.train_labels[drawn[:batch]])
    layer = model.blocks[0].attention.query_key_value  # type: ignore[index, union-attr]
    (slope,) = torch.autograd.grad(loss, [layer.weight])  # type: ignore[list-item]
    _, S, Vh = torch.linalg.svd(slope.double())
    rank = int((ABOVE_FLOOR * S[-5:].median() < S).sum())
    outside = Vh[rank:] - Vh[rank:].mean(1, keepdim=True)  # N'P
    tokens = model.double().tokens
    embed, positions = tokens.embed, tokens.positions[0].detach()
    weight = embed.weight.detach().flatten(1)  # (d, pixels)
    side = embed.kernel_size[0]
    patches = nn.functional.unfold(inputs.double(), side, stride=side).transpose(1, 2)
    A = outside @ weight
    true, false = [], []
    for t in range(patches.shape[1]):
        constant = embed.bias.detach() + positions[1 + t]
        left = residual(A, outside @ constant, weight, constant, patches[:, t])
        true += left[:batch].tolist()
        false += left[batch:].tolist()
    scale = torch.linalg.matrix_norm(weight - weight.mean(0), 2)
    free = weight.shape[1] - int((torch.linalg.svdvals(A) > FREE * scale).sum())
    return Seen(statistics.median(true), statistics.median(false), free)


def residual(A: Tensor, b: Tensor, weight: Tensor, constant: Tensor, patches: Tensor) -> Tensor:
    """|N'P (E p + c)| / |P (E p + c)| of patches (n, pixels)."""
    whole = patches @ weight.T + constant
    return (patches @ A.T + b).norm(dim=1) / (whole - whole.mean(1, keepdim=True)).norm(dim=1)


def main() -> None:
    """Measure and write the table."""
    torch.set_num_threads(1)
    lines = [
        "| init | B | residual of true patches | of other images' patches | free dimensions of a "
        "patch's 49 pixels, by seed |",
        "|---|---|---|---|---|",
    ]
    for init in ("default", "trunc_normal"):
        for batch in (1, 2, 3, 4, 8):
            runs = [measure(init, batch, seed) for seed in SEEDS]
            cells = [
                f"{statistics.median(r.true for r in runs):.0e}",
                f"{statistics.median(r.false for r in runs):.0e}",
                ", ".join(str(r.free) for r in runs),
            ]
            lines.append(f"| {init} | {batch} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    RESULT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
