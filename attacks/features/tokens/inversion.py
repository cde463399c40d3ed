"""Images behind a transformer's first block: tokens, patches, images, proof.

To the pair of linear layers in a transformer block a batch of B images with T tokens is a batch of
B T samples, which the exact attack reads. What they were before attention mixed them follows in
closed form (`closed_form`), which of them make an image from the mixture (`grouping`). Then
Gauss-Newton on each image's own equations, all T tokens in the row space of the layer's gradient,
takes out what noise the tokens had and proves the image.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from attacks.base import NotApplicable, Problem, Reconstruction
from attacks.batch_size import estimate_batch_size
from attacks.features.front import Front, pair_alone
from attacks.features.newton import Solved, Span, polish, proved, repeated
from attacks.features.reading import joined_gradient, read_features, row_space
from attacks.features.tokens.block import find_block
from attacks.features.tokens.closed_form import solve_patches
from attacks.features.tokens.grouping import group
from attacks.features.tokens.reach import reach_of
from attacks.linear import linear_calls
from attacks.tensor.attack import TensorAttack
from attacks.tensor.layers import LinearPair

TRIES = 4
"""Searches for the tokens; each takes seconds."""
ENOUGH = 0.9
"""Share of the tokens from which images are tried; what is not certified then is dropped."""


def invert_tokens(
    problem: Problem, pair: LinearPair, shape: tuple[int, ...], exact: TensorAttack
) -> Reconstruction:
    """Reconstruct a batch from the tokens a pair of layers saw.

    Parameters
    ----------
    problem : Problem
        Holds the gradient.
    pair : LinearPair
        Sees (B, T, d).
    shape : tuple of int
        Of one image.
    exact : TensorAttack
        With its hyperparameters.

    Returns
    -------
    Reconstruction
        Without images where too few tokens could be read; the reason is in its `info`.
    """
    front = Front(problem.model, pair.hidden, torch.float64)
    like = problem.gradient[f"{pair.hidden}.weight"]
    with torch.no_grad():
        positions = front(torch.zeros(1, *shape, dtype=front.dtype, device=like.device)).shape[1]
    reach = reach_of(problem, pair)
    rank, estimate = reach.rank, _estimated_size(problem, shape, reach.rank, positions)
    images = problem.knows.batch_size or estimate
    info: dict[str, Any] = {
        "layer": pair.hidden,
        "activation": pair.activation.kind,
        "pixels": torch.Size(shape).numel(),
        "features": positions * pair.in_features,
        "tokens": positions * images,
        "tokens_found": 0,
        "rank": rank,
        "interrupted": False,
    }

    def empty(reason: str) -> Reconstruction:
        none = like.new_zeros(0, *shape)
        return Reconstruction(inputs=none, batch_size=estimate, info=info | {"reason": reason})

    if reach.hopeless(positions, images):
        return empty(reach.reason(positions, images, None))
    tokens = read_features(problem, pair, pair_alone(problem.model, pair), exact, TRIES)
    rank = int(tokens.info.get("rank") or 0)
    info |= {
        "tokens_found": len(tokens),
        "tokens_certified": int(tokens.certified.sum()),
        "rank": rank,
        "interrupted": bool(tokens.info.get("interrupted", False)),
    }
    if len(tokens) < ENOUGH * rank or rank <= (positions - 1) * images:
        stopped = "The attack was stopped while it read tokens. " if info["interrupted"] else ""
        return empty(stopped + reach.reason(positions, images, len(tokens)))
    made, reason = _Made(), None
    try:
        _invert(problem, pair, shape, tokens.values, images, made, info)
    except NotApplicable as fault:
        reason = f"{len(tokens)} of {rank} tokens were read, but not the images. {fault}"
    except KeyboardInterrupt:
        info["interrupted"] = True
        reason = "The attack was stopped before it had proved all images."
    if made.x is None:
        return empty(reason or "No image was made.")
    rows = row_space(problem, pair, rank)
    certified = made.certified(front, rows, shape)
    if reason is None and not certified.all():
        reason = (
            f"{int((~certified).sum())} of {images} images do not meet their equations to the "
            "precision of the gradient, or are poorly determined by them. Of "
            f"{positions * images} tokens {len(tokens)} were read; the weakest of the directions "
            f"that tell them apart is {reach.weakest / max(reach.noise, 1e-300):.0f} times the "
            "rounding, and patches are solved for from all tokens together."
        )
    x = made.x.reshape(-1, *shape)
    labels = _labels(problem, shape, x) if certified.all() else None
    residual = made.residual
    if not tokens.complete:  # what is not proved then is no image but a mixture of patches
        x, residual, certified = x[certified], residual[certified], certified[certified]
    with torch.no_grad():
        features = (
            front(x).flatten(1) if len(x) else x.new_zeros(0, positions * tokens.values.shape[1])
        )
    return Reconstruction(
        inputs=x.to(like.dtype),
        labels=labels,
        certified=certified,
        residual=residual.to(like.dtype),
        batch_size=estimate,
        info=info | ({"reason": reason} if reason else {}),
        features=features.to(like.dtype),
    )


@dataclass
class _Made:
    """Images so far, filled in place so that an interruption loses nothing.

    Attributes
    ----------
    x : Tensor of shape (B, pixels), optional
        Float64.
    solved : list of Solved
        Of the first images, their ends of Gauss-Newton.
    """

    x: Tensor | None = None
    solved: list[Solved] = field(default_factory=list)

    @property
    def residual(self) -> Tensor:
        """Of every image, infinite where it was not solved for."""
        assert self.x is not None
        ends = self.x.new_full((len(self.x),), torch.inf)
        for i, end in enumerate(self.solved):
            ends[i] = end.residual
        return ends

    def certified(self, front: Front, rows: Span, shape: tuple[int, ...]) -> Tensor:
        """Which images are proved, and different from those before them."""
        assert self.x is not None
        proofs = torch.zeros(len(self.x), dtype=torch.bool, device=self.x.device)
        for i, end in enumerate(self.solved):
            with torch.no_grad():
                seen = front(end.x.reshape(1, *shape)).flatten()
            proofs[i] = proved(end, rows, seen)
        return proofs & ~repeated(self.x, proofs)


def _invert(
    problem: Problem,
    pair: LinearPair,
    shape: tuple[int, ...],
    tokens: Tensor,
    images: int,
    made: _Made,
    info: dict[str, Any],
) -> None:
    """From all tokens to images."""
    block = find_block(problem.model, pair, shape)
    patches = solve_patches(problem, pair, block, tokens)
    info |= {
        "patch_misfit": float(patches.misfit.max()),
        "patch_misfit_elsewhere": float(patches.second.min()),
    }
    mixing = Front(problem.model, block.project, torch.float32)
    grouped = group(patches, mixing, shape, images)
    if grouped is None:
        raise NotApplicable("No position shows a token of every image.")
    made.x = grouped.double()
    front = Front(problem.model, pair.hidden, torch.float32)
    rows = row_space(problem, pair, int(info["rank"]))
    for i, image in enumerate(made.x):
        end = polish(front, rows, image, shape)
        made.solved.append(end)
        made.x[i] = end.x


def _estimated_size(problem: Problem, shape: tuple[int, ...], rank: int, positions: int) -> int:
    """Number of images, from layers that see one row of each, or from the tokens."""
    calls = linear_calls(problem.model, shape)
    seen = estimate_batch_size(problem.gradient, calls, problem.loss == "cross_entropy")
    return max(seen or 0, -(-rank // positions))


def _labels(problem: Problem, shape: tuple[int, ...], x: Tensor) -> Tensor | None:
    """Labels of known images: at the output layer dL/dz_i = (softmax z_i - unit_label) / B."""
    output = next((c for c in linear_calls(problem.model, shape) if c.at_output), None)
    if problem.loss != "cross_entropy" or output is None or not output.per_sample:
        return None
    with torch.no_grad():
        seen = Front(problem.model, output.name, torch.float64)(x)
    gradient, biased = joined_gradient(problem, output.name)
    if biased:
        seen = torch.cat([seen, torch.ones_like(seen[:, :1])], 1)
    return (gradient @ torch.linalg.pinv(seen, rtol=1e-7)).argmin(0)
