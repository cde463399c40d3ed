"""Defences that hide the labels: smoothing them, or replacing some at random."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from fl_sim.defenses.base import Defense


class LabelSmoothing(Defense):
    """Spread a share of every target evenly over all classes.

    Parameters
    ----------
    amount : float, default 0.1
        In [0, 1].

    Raises
    ------
    ValueError
        If the amount is out of its range.

    References
    ----------
    Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", 2016, section 7.
    """

    def __init__(self, amount: float = 0.1) -> None:
        if not 0 <= amount <= 1:
            raise ValueError(f"defense.label_smoothing.amount={amount!r} must be from 0 to 1.")
        self.amount = amount

    def on_batch(
        self, inputs: Tensor, target: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """Return the inputs with smoothed targets."""
        return inputs, (1 - self.amount) * target + self.amount / target.shape[1]


class LabelNoise(Defense):
    """Replace labels at random (randomised response).

    Parameters
    ----------
    share : float, default 0.2
        Probability, in [0, 1], that a label is replaced by one drawn evenly from all classes.

    Raises
    ------
    ValueError
        If the share is out of its range.

    References
    ----------
    Warner, "Randomized Response", 1965.
    """

    def __init__(self, share: float = 0.2) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"defense.label_noise.share={share!r} must be from 0 to 1.")
        self.share = share

    def on_batch(
        self, inputs: Tensor, target: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """Return the inputs with some targets replaced."""
        count, classes = target.shape
        replaced = torch.rand(count, generator=generator) < self.share
        drawn = torch.randint(classes, (count,), generator=generator)
        other = torch.nn.functional.one_hot(drawn, classes).to(target)
        return inputs, torch.where(replaced[:, None].to(target.device), other, target)
