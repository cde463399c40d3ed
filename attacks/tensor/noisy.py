"""What noise leaves of the exact attack: the most likely batch instead of the only possible one.

The search reads samples one at a time from a column space the noise has turned; `likelihood` then
fits all of them together, first in the gradient's row space, then in the full input space, since
the row space is noisy too. White noise says how large the misfit of the right batch is. Where it
stays larger, some samples are wrong and keep the others from settling: those that violate the
sample equation most are searched anew in what the others leave over, and the fit is repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from attacks.base import Problem, Reconstruction
from attacks.tensor.certificate import WORST_ERROR, expected_phi
from attacks.tensor.equation import SampleEquation
from attacks.tensor.labels import replay_residual
from attacks.tensor.layers import LinearPair, private_copy
from attacks.tensor.likelihood import Likelihood, Tail, ascend, tail_of
from attacks.tensor.peeling import Found
from attacks.tensor.pruned import Gaps, Noise
from attacks.tensor.subspace import GradientSpace, LayerGradient

FAINTEST = 3e-5
"""Relative noise per entry below which the exact attack's result is not worth another fit."""

STUCK = 2.0
"""Misfit in the row space, in units of the noise's, from which some samples must be wrong."""

KEEP = (2.0, 1.5, 1.2)
"""Samples kept in each retry: those whose phi is below so many medians, relative to the noise."""

CLIPPED = 1.25
"""Factor by which errors are longer or shorter than the batch size says if that is no accident."""

Search = Callable[[Found], Reconstruction | None]


def noise_of(layer: LayerGradient, space: GradientSpace) -> Noise:
    """Read the noise off what the rank leaves over."""
    m, k = layer.gradient.shape
    left = layer.gradient.square().sum() - space.S.square().sum()
    first = float(left.clamp_min(0) / max((m - space.rank) * (k - space.rank), 1)) ** 0.5
    return Noise(first, first / float(layer.gradient.square().mean()) ** 0.5)


@dataclass(frozen=True)
class Batch:
    """A fitted batch.

    Attributes
    ----------
    inputs : Tensor of shape (n, d + 1) or (n, d)
        With the bias' one, if there is one.
    labels : Tensor of shape (n,)
        Classes.
    misfit : float
        Whitened misfit in the row space per degree of freedom; about one for the right batch.
    """

    inputs: Tensor
    labels: Tensor
    misfit: float


class Refinement:
    """Everything the fits of one gradient have in common.

    Parameters
    ----------
    problem, pair, layer, space
        As for the exact attack.
    tail : Tail
        The model behind its first layer.
    gaps : Gaps, optional
        What was left out of a pruned gradient.

    Attributes
    ----------
    scale : float
        What clipping has multiplied the gradient by.
    """

    def __init__(
        self,
        problem: Problem,
        pair: LinearPair,
        layer: LayerGradient,
        space: GradientSpace,
        tail: Tail,
        gaps: Gaps | None = None,
    ) -> None:
        self.layer, self.space, self.tail, self.gaps = layer, space, tail, gaps
        self.pair = pair
        own = (f"{pair.hidden}.weight", f"{pair.hidden}.bias")
        self.others = {k: v.double() for k, v in problem.gradient.items() if k not in own}
        self.noise = gaps.noise if gaps else noise_of(layer, space)
        self.scale = 1.0

    def likelihood(self, labels: Tensor, reduced: bool) -> Likelihood:
        """Of inputs with these labels, in the row space's coordinates or in full ones."""
        n, V = len(labels), self.space.V
        whole = self.gaps.whole if self.gaps else self.layer
        origin = whole.weight.new_zeros(1, len(whole.weight))
        classes = self.tail.output(origin, self.tail.parameters()).shape[1]
        precision = V.new_tensor(1 / self.noise.first)
        others = self.noise.precisions(self.others)
        observed = whole.gradient
        if self.gaps:
            counted = self.gaps.rows[:, None] if reduced else self.gaps.known
            precision = precision * counted
            observed = self.gaps.filled if reduced else observed
            others = {k: p * (self.others[k] != 0) for k, p in others.items()}
        last = None
        if whole.biased:
            last = V[-1] if reduced else torch.eye(len(V)).to(V)[-1]
        return Likelihood(
            tail=self.tail,
            weight=whole.weight @ V if reduced else whole.weight,
            first=observed @ V if reduced else observed,
            first_precision=precision,
            others=self.others,
            other_precisions=others,
            targets=nn.functional.one_hot(labels, classes).to(V),
            shares=V.new_full((n,), self.scale / n),
            last=last,
        )

    def fit(self, inputs: Tensor, labels: Tensor) -> Batch:
        """Fit in the row space."""
        likelihood = self.likelihood(labels, reduced=True)
        V = self.space.V
        entries = likelihood.first.numel()
        end = ascend(likelihood, inputs @ V, steps=20, inner=30, enough=3e-3)
        misfit = float(likelihood.misfit(end.inputs)[0].square().sum()) / entries
        return Batch(end.inputs @ V.T, labels, misfit)

    def widen(self, batch: Batch) -> Batch:
        """Fit in the full input space."""
        likelihood = self.likelihood(batch.labels, reduced=False)
        if self.gaps:  # known entries are exact: to the end
            goal = float((likelihood.first * likelihood.first_precision).square().sum()) * 1e-13
            end = ascend(likelihood, batch.inputs, steps=25, inner=40, enough=1e-2, goal=goal)
        else:
            end = ascend(likelihood, batch.inputs, steps=5, inner=12, enough=3e-4)
        return replace(batch, inputs=end.inputs)

    def kept(self, batch: Batch, medians: float) -> Found:
        """The samples of a batch that fit the sample equation, as the search would report them."""
        space, slope = self.space, self.pair.activation.slope
        equation = SampleEquation(space.Q, space.U, self.layer.weight @ space.V, space.last)
        points = batch.inputs @ space.V
        state = equation.evaluate(points, slope)
        ratio = state.phi / expected_phi(space, state.column)
        keep = ratio <= medians * ratio.median()
        keep &= batch.inputs.norm(dim=1) <= 2 * batch.inputs.norm(dim=1).median()
        return Found(state.column[keep], state.delta[keep], points[keep])


def refine(
    problem: Problem,
    pair: LinearPair,
    layer: LayerGradient,
    space: GradientSpace,
    start: Reconstruction,
    search: Search,
    gaps: Gaps | None = None,
) -> Reconstruction:
    """The most likely batch near a reconstruction from a noisy gradient.

    Parameters
    ----------
    problem, pair, layer, space
        As for the exact attack.
    start : Reconstruction
        What the exact attack made of it.
    search : callable
        Runs the exact attack again with some samples given; None if it finds nothing.
    gaps : Gaps, optional
        What was left out, if the gradient is pruned.

    Returns
    -------
    Reconstruction
        `start` itself if the noise is too faint to matter, the batch is incomplete, or the fit does
        not explain the gradient, or not better.
    """
    faint = gaps is None and noise_of(layer, space).level < FAINTEST
    shape = start.inputs.shape[1:]
    if faint or problem.loss != "cross_entropy" or len(start) != space.rank:
        return start
    tail = tail_of(problem.model, pair, tuple(shape))
    if tail is None:
        return start
    work = Refinement(problem, pair, layer, space, tail, gaps)
    scale = start.info["loss_scale"]
    work.scale = 1.0 if 1 / CLIPPED < scale < CLIPPED else scale
    batch = _fitted(work, start)
    smooth = pair.activation.kind != "piecewise linear"
    retries = 0
    for medians in KEEP if smooth and not gaps else ():
        if batch.misfit <= STUCK:
            break
        again = search(work.kept(batch, medians))
        retries += 1
        if again is not None and len(again) == space.rank:
            other = _fitted(work, again)
            if other.misfit < 0.95 * batch.misfit:
                batch, start = other, again
    if batch.misfit > STUCK and smooth and not gaps:
        # wrong samples, or not the mean loss that is fitted: clients may clip sample by sample
        unexplained = {"noise_level": work.noise.level, "misfit": batch.misfit, "stuck": True}
        return replace(start, info=start.info | unexplained)
    batch = work.widen(batch)
    return _reported(problem, pair, start, batch, work, retries)


def _augmented(layer: LayerGradient, inputs: Tensor) -> Tensor:
    flat = inputs.double().flatten(1)
    return torch.cat([flat, torch.ones_like(flat[:, :1])], 1) if layer.biased else flat


def _fitted(work: Refinement, start: Reconstruction) -> Batch:
    assert start.labels is not None
    return work.fit(_augmented(work.layer, start.inputs), start.labels)


def _reported(
    problem: Problem,
    pair: LinearPair,
    start: Reconstruction,
    batch: Batch,
    work: Refinement,
    retries: int,
) -> Reconstruction:
    """The fitted batch if it explains the gradient better than its start, and what is certain."""
    inputs = batch.inputs[:, : pair.in_features].reshape(start.inputs.shape)
    likelihood = work.likelihood(batch.labels, reduced=False)
    residual, factor = replay_residual(
        private_copy(problem.model).double(),
        problem.gradient,
        inputs,
        likelihood.targets,
        likelihood.shares,
        problem.loss,
        work.gaps is not None,
    )
    info = start.info | {
        "noise_level": work.noise.level,
        "misfit": batch.misfit,
        "retries": retries,
    }
    if not residual < start.info["gradient_residual"]:
        return replace(start, info=info)
    if work.gaps:
        D = likelihood.gradients(batch.inputs)[0]
        certain = work.gaps.certain(D, batch.inputs, residual)
    else:
        certain = start.certified
    moved = (inputs - start.inputs).flatten(1).norm(dim=1) / inputs.flatten(1).norm(dim=1)
    return replace(
        start,
        inputs=inputs.to(start.inputs.dtype),
        labels=batch.labels,
        certified=certain if work.gaps else certain & (moved <= WORST_ERROR / 2),
        info=info | {"gradient_residual": residual, "gradient_factor": factor},
    )
