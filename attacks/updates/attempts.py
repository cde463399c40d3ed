"""One explanation of an update after another: what the steps may have taken, and which samples.

Batches of their own, walked or peeled in the order of the steps; one batch for all of them, seen
from several points of the client's way; several epochs. What comes out of each is brought to the
point where the simulated update equals the observed one, or stops short of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attacks.base import Problem
from attacks.tensor.layers import LinearPair
from attacks.tensor.peeling import Found
from attacks.tensor.subspace import GradientSpace
from attacks.updates.client import ReducedClient, Tensors
from attacks.updates.epoch import first_batch, peel_kinked, peel_smooth
from attacks.updates.epochs import Schedule, relaxed, schedules, shuffled
from attacks.updates.finish import HOPELESS, Hypothesis, fixed_point, gauss_newton
from attacks.updates.membership import misfits, straight_path, walk_epoch
from attacks.updates.search import Settings, rough_samples
from attacks.updates.swaps import swapped

Attempt = tuple[str, Hypothesis, float]
"""What the steps took, the samples, and the misfit that remains."""

PEELINGS = 3
"""How often an epoch is peeled column by column; the search is random."""

SPREADS = (0.0, 0.3, 0.3)
"""Of the shares that several epochs begin with; there are local minima."""

SHUFFLES = 3
"""Random orders that several epochs behind hard gates begin with."""


@dataclass(frozen=True)
class Case:
    """One update, prepared.

    Attributes
    ----------
    problem : Problem
    pair : LinearPair
    total : dict from parameter name to Tensor
        Sum of the steps' gradients.
    space : GradientSpace
        Of that sum.
    client : ReducedClient
    observed : dict from parameter name to Tensor
        The sum in the client's coordinates.
    settings : Settings
    goal : float
        Misfit up to which an update counts as explained.
    """

    problem: Problem
    pair: LinearPair
    total: Tensors
    space: GradientSpace
    client: ReducedClient
    observed: Tensors
    settings: Settings
    goal: float

    def attempts(self) -> Iterator[Attempt]:
        """Try one explanation after another, the cheaper and the more likely ones first."""
        if self.kinked:
            first = first_batch(self.problem, self.pair, self.total, self.settings)
            if first is not None:
                yield from self._kinked_epoch(first)
                return
        else:
            peeled = peel_smooth(self.problem, self.pair, self.total, self.settings)
            if peeled is not None:
                yield self._ended("one epoch", *peeled)
                return
        steps = self.problem.local.steps
        q = (steps - 1) / (2 * steps)
        for fraction in (q, q / 2, 0.0) * 2:
            points = self._rough(fraction)
            labels = self._labels(points)
            order = torch.arange(len(points), device=points.device).repeat(steps, 1)
            whole = len(points) == self.space.rank
            attempt = self._ended("one batch", Hypothesis(points, labels, order), whole)
            yield attempt
            if whole and fraction == q:
                if self.kinked:
                    yield from self._kinked_epochs(*attempt[1:])
                else:
                    yield from self._several_epochs(points, labels)

    @property
    def kinked(self) -> bool:
        """Whether gates are all there is to find."""
        return self.pair.activation.kind == "piecewise linear"

    def _rough(self, fraction: float) -> Tensor:
        return rough_samples(
            self.client,
            self.observed,
            self.space,
            self.pair,
            self.problem.generator,
            self.settings,
            fraction,
        )

    def _labels(self, points: Tensor) -> Tensor:
        """Labels of samples that every step takes."""
        if not len(points):
            return torch.zeros(0, dtype=torch.int64, device=points.device)
        path = straight_path(self.client, self.observed, self.problem.local.steps)
        fit = misfits(self.client, path, points, self.space.Q, self.pair.activation)
        return fit.argmin(1)

    def _kinked_epoch(self, first: Found) -> Iterator[Attempt]:
        """Walk an epoch with rough samples; if that fails, peel column by column."""
        steps = self.problem.local.steps
        points = self._rough((steps - 1) / (2 * steps))
        if len(points) == self.space.rank:
            yield self._walked(points)
        for _ in range(PEELINGS):
            guess, complete = peel_kinked(
                self.client,
                self.observed,
                self.space,
                self.pair,
                self.problem.generator,
                self.settings,
                first,
            )
            attempt = self._ended("one epoch", guess, complete)
            yield attempt
            if complete:
                yield self._walked(attempt[1].points)

    def _walked(self, points: Tensor) -> Attempt:
        order, labels = walk_epoch(
            self.client, points, self.space.Q, self.pair.activation, self.problem.local.steps
        )
        return self._ended("one epoch", Hypothesis(points, labels, order), True)

    def _several_epochs(self, points: Tensor, labels: Tensor) -> Iterator[Attempt]:
        last, generator, goal = self.space.last, self.problem.generator, self.goal / 40
        for schedule in schedules(len(points), self.problem.local.steps):
            name = f"{schedule.epochs} epochs"
            for spread in SPREADS:
                guess = relaxed(
                    self.client,
                    self.observed,
                    points,
                    labels,
                    schedule,
                    last,
                    goal,
                    generator,
                    spread,
                )
                yield self._ended(name, self._swapped(guess, schedule), True)

    def _kinked_epochs(self, start: Hypothesis, misfit: float) -> Iterator[Attempt]:
        """Let samples change places from random orders on; hard gates allow no shares."""
        if misfit > HOPELESS:
            return
        for schedule in schedules(len(start), self.problem.local.steps):
            for _ in range(SHUFFLES):
                order = shuffled(schedule, self.problem.generator).to(start.order)
                guess = self._swapped(replace(start, order=order), schedule)
                yield self._ended(f"{schedule.epochs} epochs", guess, True)

    def _swapped(self, guess: Hypothesis, schedule: Schedule) -> Hypothesis:
        return swapped(
            self.client,
            self.observed,
            guess,
            self.space.last,
            schedule.batches,
            2 * self.goal,
            self.kinked,
        )

    def _ended(self, name: str, guess: Hypothesis, complete: bool) -> Attempt:
        """Make the simulated update equal the observed one, as far as it goes."""
        if not complete:
            return name, guess, float("inf")
        generator = self.problem.generator if self.kinked else None
        points, misfit = fixed_point(
            self.client, self.observed, guess, self.space.last, self.goal, generator, self.kinked
        )
        guess = replace(guess, points=points)
        if not self.kinked and misfit > self.goal / 10:
            points, misfit = gauss_newton(
                self.client, self.observed, guess, self.space.last, self.goal / 20
            )
            guess = replace(guess, points=points)
        return name, guess, misfit
