"""Mixup: clients train on blends of two images and of their labels."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Generator, Tensor

from fl_sim.defenses.base import Defense


class Mixup(Defense):
    """Replace each sample by ``l x_i + (1 - l) x_j``, targets alike, j a random partner.

    A sample has a part in two blends, so the bound that DP-SGD puts on each gradient does not bound
    what one sample changes; beside mixup it reports no epsilon.

    Parameters
    ----------
    alpha : float, default 1.0
        l ~ Beta(alpha, alpha), one draw per sample; positive. Larger blends more evenly.

    Raises
    ------
    ValueError
        If alpha is not positive.

    References
    ----------
    Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018, equation 1;
    Huang et al., "Evaluating Gradient Inversion Attacks and Defenses", 2021 (as a defence).
    """

    couples_samples: ClassVar[bool] = True

    def __init__(self, alpha: float = 1.0) -> None:
        if not alpha > 0:
            raise ValueError(f"defense.mixup.alpha={alpha!r} must be positive.")
        self.alpha = alpha

    def on_batch(
        self, inputs: Tensor, target: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """Return the blended batch."""
        count = len(inputs)
        partner = torch.randperm(count, generator=generator).to(inputs.device)
        seed = int(torch.randint(2**62, (1,), generator=generator))
        share = torch.from_numpy(np.random.default_rng(seed).beta(self.alpha, self.alpha, count))

        def blend(values: Tensor) -> Tensor:
            weight = share.to(values).reshape(-1, *[1] * (values.ndim - 1))
            return weight * values + (1 - weight) * values[partner]

        return blend(inputs), blend(target)
