"""The one loop of all matching attacks: move a batch until its gradient is the observed one.

What is optimised (`Start`), how far two gradients are apart (`objective`), what a candidate
should look like (`priors`) and how to move (`optimizers`) are parts; an attack is a choice of them.
The best candidate by the objective is kept, whatever interrupts the search: the truth has no say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attacks.matching.client import Client
from attacks.matching.objective import Measure
from attacks.matching.optimizers import Bounds, Optimizer
from attacks.matching.priors import ForwardPrior, Prior


@dataclass(frozen=True)
class Start:
    """Where one descent begins.

    Attributes
    ----------
    codes : list of Tensor
        What is optimised in place of the inputs; just the inputs unless `render` says otherwise.
    labels : Tensor
        Class indices (B,), logits (B, C), or targets (B, outputs).
    free_labels : bool
        Whether the labels are optimised too.
    render : callable, optional
        Differentiable map from the codes to the inputs.
    """

    codes: list[Tensor]
    labels: Tensor
    free_labels: bool = False
    render: Callable[[Sequence[Tensor]], Tensor] | None = None


@dataclass(frozen=True)
class Match:
    """What is minimised: distance + sum of weight * prior.

    Attributes
    ----------
    client : Client
        Simulates the gradient.
    distance : Measure
        From the observed gradient.
    priors : list of (weight, Prior)
        On the candidate.
    forward_priors : list of (weight, ForwardPrior)
        On what it causes in the client's model.
    """

    client: Client
    distance: Measure
    priors: Sequence[tuple[float, Prior]] = ()
    forward_priors: Sequence[tuple[float, ForwardPrior]] = ()

    def evaluate(
        self, inputs: Tensor, labels: Tensor, free: list[Tensor]
    ) -> tuple[float, list[Tensor]]:
        """Objective and its derivatives.

        Parameters
        ----------
        inputs : Tensor of shape (B, *input_shape)
            A leaf that requires a gradient, the first of `free`.
        labels : Tensor
        free : list of Tensor
            Leaves to differentiate by.

        Returns
        -------
        value : float
        slopes : list of Tensor
            One for each of `free`.
        """
        caused = self.client.gradient(inputs, labels)
        distance = self.distance([g.detach() for g in caused])
        value, factor = distance.value, distance.factor
        outputs, seeds = list(caused), distance.slope
        for weight, forward in self.forward_priors:
            penalty = forward.penalty()
            value += weight * float(penalty.detach())
            outputs.append(penalty)
            seeds.append(torch.full_like(penalty, weight / factor))
        slopes = list(torch.autograd.grad(outputs, free, seeds, materialize_grads=True))
        slopes = [slope.mul_(factor) for slope in slopes]
        for weight, prior in self.priors:
            cost, slope = prior(inputs.detach())
            value += weight * float(cost)
            slopes[0].add_(slope, alpha=weight)
        return value, slopes


@dataclass
class Best:
    """The best candidate seen so far; filled in place so that an interruption loses nothing.

    Attributes
    ----------
    value : float
        Its objective.
    inputs, labels : Tensor, optional
        The candidate.
    codes : list of Tensor
        What it was rendered from.
    evaluations : int
        Number of evaluations of the objective.
    undefined : int
        Those where the candidate, its objective or a derivative was not finite.
    """

    value: float = math.inf
    inputs: Tensor | None = None
    labels: Tensor | None = None
    codes: list[Tensor] = field(default_factory=list)
    evaluations: int = 0
    undefined: int = 0

    def offer(
        self, value: float, inputs: Tensor, labels: Tensor, codes: Sequence[Tensor] = ()
    ) -> None:
        """Keep a finite candidate if its objective is the lowest so far."""
        if value < self.value:
            self.value = value
            self.inputs, self.labels = inputs.detach().clone(), labels.detach().clone()
            self.codes = [c.detach().clone() for c in codes]

    @property
    def complaint(self) -> str:
        """What to say where something was not finite."""
        kept = "no candidate is" if self.inputs is None else "the best finite one is"
        return (
            f"{self.undefined} of {self.evaluations} candidates, objectives or derivatives were "
            f"not finite numbers; {kept} returned."
        )


def descend(
    match: Match, start: Start, optimizer: Optimizer, iterations: int, bounds: Bounds, best: Best
) -> float:
    """One descent; updates `best` and returns the lowest objective met on the way.

    Parameters
    ----------
    match : Match
        What is minimised.
    start : Start
        Where to begin; its tensors are overwritten.
    optimizer : Optimizer
        How to move.
    iterations : int
        Number of evaluations.
    bounds : (low, high), optional
        Of the inputs; they apply only where the inputs themselves are optimised.
    best : Best
        Of all descents so far.

    Returns
    -------
    float
        The lowest objective, however low `best` was before.
    """
    lowest = math.inf
    unknowns = [*start.codes, *([start.labels] if start.free_labels else [])]

    def evaluate(current: list[Tensor]) -> tuple[float, list[Tensor]]:
        nonlocal lowest
        codes = current[: len(start.codes)]
        labels = start.labels.requires_grad_(True) if start.free_labels else start.labels
        with torch.enable_grad():
            rendered = None if start.render is None else _render(start.render, codes)
            inputs = (codes[0] if rendered is None else rendered).detach().requires_grad_(True)
            free = [inputs, labels] if start.free_labels else [inputs]
            value, slopes = match.evaluate(inputs, labels, free)
            if rendered is not None:
                slopes[:1] = torch.autograd.grad(rendered, codes, slopes[0])
        best.evaluations += 1
        if math.isfinite(value) and _finite([inputs, labels]):
            lowest = min(lowest, value)
            best.offer(value, inputs, labels, codes)
            if _finite(slopes):
                return value, slopes
        best.undefined += 1
        return math.nan, slopes

    box = bounds if start.render is None else None
    with torch.no_grad():
        optimizer.minimise(evaluate, unknowns, iterations, box)
    return lowest


def _finite(tensors: Sequence[Tensor]) -> bool:
    return all(bool(t.isfinite().all()) for t in tensors)


def _render(render: Callable[[Sequence[Tensor]], Tensor], codes: Sequence[Tensor]) -> Tensor:
    for code in codes:
        code.requires_grad_(True)
    return render(codes)
