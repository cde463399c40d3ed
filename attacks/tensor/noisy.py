"""What noise leaves of the exact attack: the most likely batch instead of the only possible one.

The search reads samples one at a time from a column space the noise has turned; `likelihood` then
fits all of them together, first in the gradient's row space, then in the full input space, since
the row space is noisy too. White noise says how large the misfit of the right batch is. Where it
stays larger behind a smooth activation, or samples are missing, the batch is fitted anew from its
label counts (`counted`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from attacks.base import Problem, Reconstruction
from attacks.reading.private import private_copy
from attacks.tensor.certificate import WORST_ERROR
from attacks.tensor.counted import counted
from attacks.tensor.equation import SampleEquation
from attacks.tensor.fitting import Batch, Refinement, noise_of
from attacks.tensor.labels import replay_residual
from attacks.tensor.layers import LinearPair
from attacks.tensor.likelihood import tail_of
from attacks.tensor.peeling import Found
from attacks.tensor.pruned import Gaps
from attacks.tensor.subspace import GradientSpace, LayerGradient

FAINTEST = 3e-5
"""Relative noise per entry below which the exact attack's result is not worth another fit."""

STUCK = 3.0
"""Misfit in the row space, in units of the noise's, from which some samples must be wrong."""

CLIPPED = 1.25
"""Factor by which errors are longer or shorter than the batch size says if that is no accident."""


def refine(
    problem: Problem,
    pair: LinearPair,
    layer: LayerGradient,
    space: GradientSpace,
    start: Reconstruction,
    found: Found,
    info: dict[str, Any],
    gaps: Gaps | None = None,
) -> Reconstruction:
    """The most likely batch near a reconstruction from a noisy gradient.

    Parameters
    ----------
    problem, pair, layer, space
        As for the exact attack.
    start : Reconstruction
        What the exact attack made of it; may be empty.
    found : Found
        What its search found.
    info : dict
        What is known whatever the batch is.
    gaps : Gaps, optional
        What was left out, if the gradient is pruned.

    Returns
    -------
    Reconstruction
        `start` itself if the noise is too faint to matter, or no fit explains the gradient better.
    """
    faint = gaps is None and noise_of(layer, space).level < FAINTEST
    if faint or problem.loss != "cross_entropy":
        return start
    tail = tail_of(problem.model, pair, tuple(start.inputs.shape[1:]))
    if tail is None:
        return start
    work = Refinement(problem, pair, layer, space, tail, gaps)
    scale = start.info.get("loss_scale", 1.0)
    work.scale = 1.0 if 1 / CLIPPED < scale < CLIPPED else scale
    batch = _fitted(work, start) if len(start) == space.rank else None
    smooth = pair.activation.kind != "piecewise linear" and not gaps
    if smooth and (batch is None or batch.misfit > STUCK) and space.white:
        work.scale = 1.0  # wrong samples say nothing about clipping
        other = counted(work, problem, found, STUCK)
        if other is not None and (batch is None or other.misfit < batch.misfit):
            batch = other
            if batch.misfit <= STUCK:
                start = _unproven(problem, work, batch, info)
    if batch is None:
        return start
    if smooth and batch.misfit > STUCK:
        # wrong samples, or not the mean loss that is fitted: clients may clip sample by sample
        unexplained = {"noise_level": work.noise.level, "misfit": batch.misfit, "stuck": True}
        return replace(start, info=start.info | unexplained)
    return _reported(problem, pair, start, work.widen(batch), work)


def _augmented(layer: LayerGradient, inputs: Tensor) -> Tensor:
    flat = inputs.double().flatten(1)
    return torch.cat([flat, torch.ones_like(flat[:, :1])], 1) if layer.biased else flat


def _fitted(work: Refinement, start: Reconstruction) -> Batch:
    assert start.labels is not None
    return work.fit(_augmented(work.layer, start.inputs), start.labels)


def _unproven(
    problem: Problem, work: Refinement, batch: Batch, info: dict[str, Any]
) -> Reconstruction:
    """A batch that owes nothing to the sample equation, and the equation's residual there."""
    space, pair, n = work.space, work.pair, len(batch.labels)
    shape = problem.input_shape or (pair.in_features,)
    equation = SampleEquation(space.Q, space.U, work.layer.weight @ space.V, space.last)
    phi = equation.evaluate(batch.inputs @ space.V, pair.activation.slope).phi
    dtype = problem.gradient[f"{pair.hidden}.weight"].dtype
    inputs = batch.inputs[:, : pair.in_features].reshape(n, *shape).to(dtype)
    residual, factor = _replayed(problem, work, batch, inputs.double())
    unproven = {
        "clean": False,
        "counted": True,
        "multiplicities": [1] * n,
        "loss_scale": work.scale,
    }
    return Reconstruction(
        inputs=inputs,
        labels=batch.labels,
        certified=torch.zeros(n, dtype=torch.bool),
        residual=phi.to(dtype),
        batch_size=n,
        info=info | unproven | {"gradient_residual": residual, "gradient_factor": factor},
    )


def _replayed(
    problem: Problem, work: Refinement, batch: Batch, inputs: Tensor
) -> tuple[float, float]:
    likelihood = work.likelihood(batch.labels, reduced=False)
    return replay_residual(
        private_copy(problem.model).eval().double(),
        problem.gradient,
        inputs,
        likelihood.targets,
        likelihood.shares,
        problem.loss,
        work.gaps is not None,
    )


def _reported(
    problem: Problem, pair: LinearPair, start: Reconstruction, batch: Batch, work: Refinement
) -> Reconstruction:
    """The fitted batch if it explains the gradient better than its start, and what is certain."""
    inputs = batch.inputs[:, : pair.in_features].reshape(start.inputs.shape)
    residual, factor = _replayed(problem, work, batch, inputs)
    info = start.info | {"noise_level": work.noise.level, "misfit": batch.misfit}
    if not residual < start.info["gradient_residual"]:
        return replace(start, info=info)
    if work.gaps:
        D = work.likelihood(batch.labels, reduced=False).gradients(batch.inputs)[0]
        certain = work.gaps.certain(D, batch.inputs, residual)
    else:
        moved = (inputs - start.inputs).flatten(1).norm(dim=1) / inputs.flatten(1).norm(dim=1)
        certain = start.certified & (moved <= WORST_ERROR / 2)
    return replace(
        start,
        inputs=inputs.to(start.inputs.dtype),
        labels=batch.labels,
        certified=certain,
        info=info | {"gradient_residual": residual, "gradient_factor": factor},
    )
