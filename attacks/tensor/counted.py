"""A whole batch from nothing but its label counts, where noise hides samples from the search.

In strong noise some samples cannot be told from noise one at a time, and wrong ones that are taken
for them spoil the rest. Together they still can: the label counts stand in the last layer's
gradient, and with the right labels the likelihood of a batch behind a smooth activation has, in the
gradient's row space, hardly any maximum but the right one. What the search has found serves as a
start as far as the counts agree with it; everything else starts anywhere. The number of samples,
which the spectrum shows at least, is the one that leaves the smallest misfit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter

import torch
from torch import Tensor

from attacks.base import NotApplicable, Problem
from attacks.labels import class_shares, output_layer, round_counts
from attacks.linear import LinearCall, linear_calls
from attacks.reading.inputs import resolve_input_shape
from attacks.reading.private import private_copy
from attacks.tensor.fitting import Batch, Refinement
from attacks.tensor.labels import read_labels
from attacks.tensor.peeling import Found
from attacks.tensor.subspace import GradientSpace

Seeds = tuple[Tensor, Tensor]

RISES = 2
"""Sizes in a row that fit worse than the best one before no larger one is tried."""

DOUBTS = 8
"""Next best label counts that are tried while the best ones explain too little."""

AGREES = 0.9
"""Cosine between a found sample's error and its label's from which it is a start."""


def counted(work: Refinement, problem: Problem, found: Found, enough: float) -> Batch | None:
    """The most likely batch of any size, from label counts.

    Parameters
    ----------
    work : Refinement
        Fits batches.
    problem : Problem
        The attack's.
    found : Found
        What the search has found, the surest first.
    enough : float
        Misfit from which on nothing more is tried.

    Returns
    -------
    Batch or None
        None if the last layer's gradient shows no labels.
    """
    shape = resolve_input_shape(problem.model, problem.input_shape)
    try:
        layer = output_layer(linear_calls(problem.model, shape))
    except NotApplicable:
        return None
    if layer.weight not in problem.gradient:
        return None
    counts = LabelCounts(problem, layer, work.space.rank)
    best = _sized(work, counts, _seeds(work, problem, found), enough)
    if best.misfit > enough:
        return _doubted(work, counts, best, enough)
    for size in counts.around(len(best.labels)):  # from a good fit a better size shows at once
        batch = _fit(work, _own(work, best), next(counts.plausible(size))[1], problem.generator)
        best = batch if batch.misfit < best.misfit else best
    return best


def _sized(work: Refinement, counts: LabelCounts, seeds: Seeds, enough: float) -> Batch:
    """The best fit over batch sizes, with the most plausible counts of each."""
    best, rises = None, 0
    for size in counts.sizes():
        batch = _fit(work, seeds, next(counts.plausible(size))[1], counts.problem.generator)
        rises = rises + 1 if best is not None and batch.misfit > best.misfit else 0
        best = batch if best is None or not rises else best
        if rises == RISES or best.misfit <= enough:
            break
    assert best is not None
    return best


def _doubted(work: Refinement, counts: LabelCounts, best: Batch, enough: float) -> Batch:
    """The best fit with other counts, the most plausible first, each from the best one so far."""
    tried: set[tuple[int, ...]] = set()
    for _ in range(DOUBTS):
        near = [each for size in counts.around(len(best.labels)) for each in counts.first(size)]
        near = [(far, each) for far, each in near if tuple(each.tolist()) not in tried]
        if best.misfit <= enough or not near:
            break
        chosen = min(near, key=itemgetter(0))[1]
        tried.add(tuple(chosen.tolist()))
        batch = _fit(work, _own(work, best), chosen, counts.problem.generator)
        best = batch if batch.misfit < best.misfit else best
    return best


@dataclass(frozen=True)
class LabelCounts:
    """What the last layer's gradient says about how often each label occurs.

    Attributes
    ----------
    problem : Problem
        The attack's.
    layer : LinearCall
        The last layer.
    least : int
        Samples there are at least.
    """

    problem: Problem
    layer: LinearCall
    least: int

    def sizes(self) -> Iterable[int]:
        """Possible batch sizes."""
        granted = self.problem.knows
        known = granted.batch_size if granted.labels is None else len(granted.labels)
        return range(self.least, 3 * self.least + 1) if known is None else [known]

    def around(self, size: int) -> Iterable[int]:
        """Batch sizes near one of them."""
        return [n for n in (size, size + 1, size - 1) if n in self.sizes()]

    def first(self, size: int) -> list[tuple[float, Tensor]]:
        """The first of the `plausible` counts."""
        return list(islice(self.plausible(size), DOUBTS))

    def plausible(self, size: int) -> Iterator[tuple[float, Tensor]]:
        """Counts (C,) for a batch size, and their squared distance from what the gradient says.

        First the nearest whole numbers, then those with one label moved to another class; labels
        that are granted leave no doubt.
        """
        if self.problem.knows.labels is not None:
            classes = self.layer.module.out_features
            yield 0.0, torch.bincount(self.problem.knows.labels, minlength=classes)
            return
        shares, present = class_shares(self.problem.gradient, self.layer, size)
        counts = round_counts(shares, present, size)
        over = size * shares.double() - counts
        far = float(over.square().sum())
        yield far, counts
        cost = 2 * (1 + over[:, None] - over[None])  # of moving one from a to b
        cost[counts == 0] = torch.inf
        cost.fill_diagonal_(torch.inf)
        for place in cost.flatten().argsort().tolist():
            a, b = divmod(place, len(counts))
            if cost[a, b] == torch.inf:
                return
            moved = counts.clone()
            moved[a] -= 1
            moved[b] += 1
            yield far + float(cost[a, b]), moved


def _seeds(work: Refinement, problem: Problem, found: Found) -> Seeds:
    """Points (n, B) and labels (n,) of found samples whose errors one label explains."""
    space = work.space
    if not len(found):
        return found.points, torch.zeros(0, dtype=torch.int64, device=found.points.device)
    model = private_copy(problem.model).eval().double()
    inputs = (found.points @ space.V.T)[:, : work.pair.in_features]
    inputs = inputs.reshape(-1, *(problem.input_shape or (work.pair.in_features,)))
    delta = found.delta @ space.to_delta.T
    either = [
        read_labels(model, work.pair.outgoing, inputs, sign * delta, problem.loss, space.rank)
        for sign in (1, -1)  # the search leaves the sign open
    ]
    first = either[0].agreement >= either[1].agreement
    straight, opposite = either[0].labels, either[1].labels
    assert straight is not None  # the loss is cross entropy
    assert opposite is not None
    labels = torch.where(first, straight, opposite)
    agreement = torch.maximum(either[0].agreement, either[1].agreement)
    sure = agreement >= AGREES
    return found.points[sure], labels[sure]


def _own(work: Refinement, batch: Batch) -> Seeds:
    """A fitted batch as a start."""
    return batch.inputs @ work.space.V, batch.labels


def _fit(work: Refinement, seeds: Seeds, counts: Tensor, generator: torch.Generator) -> Batch:
    """Fit a batch with given label counts from the seeds they agree with."""
    space, (points, labels) = work.space, seeds
    kept = torch.cat([torch.nonzero(labels == c)[:n, 0] for c, n in enumerate(counts.tolist())])
    missing = counts - torch.bincount(labels[kept], minlength=len(counts)).to(counts)
    others = torch.repeat_interleave(torch.arange(len(counts)).to(counts), missing)
    start = torch.cat([points[kept], _anywhere(space, points[kept], len(others), generator)])
    return work.fit(start @ space.V.T, torch.cat([labels[kept].to(others), others]))


def _anywhere(space: GradientSpace, points: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Random points, spread like the given ones if there are several."""
    k = space.V.shape[1]
    draw = torch.randn(n, k, generator=generator, dtype=torch.float64).to(space.V)
    if len(points) > 1:
        draw = points.mean(0) + draw * points.std(0)
    else:
        draw = draw * space.norm / k**0.5
    if space.last is None:
        return draw
    return draw + (1 - draw @ space.last)[:, None] * space.last / space.last.square().sum()
