"""Inverting Gradients (Geiping, Bauermeister, Dröge, Moeller 2020, arXiv 2003.14053).

Signed Adam on one minus the cosine of the gradients, with total variation as the image prior. The
paper adds the two and chooses the prior's weight for each model; here the logarithm of the first
is taken, so that one weight fits all.
"""

from __future__ import annotations

from typing import Any

from attacks.matching.attack import MatchingAttack, Setting
from attacks.matching.core import Best
from attacks.matching.objective import cosine, logarithm
from attacks.matching.optimizers import Adam
from attacks.matching.priors import total_variation
from attacks.settings import count, flag, positive, weight


class InvertingGradients(MatchingAttack):
    """Cosine matching with total variation and signed Adam.

    Parameters
    ----------
    iterations : int, default 2000
        Steps per restart; the paper takes 4800 to 24000.
    restarts : int, default 1
        Descents from different random images; the best objective wins.
    tv : float, default 0.5
        Weight of the total variation (mean absolute difference, down plus across).
    logarithmic : bool, default True
        Whether the logarithm of the distance is minimised. The paper's objective is False, with a
        `tv` of 1e-4 to 0.2 that has to be found for each model.
    lr : float, default 0.1
        Step size of Adam, in the model's input space; divided by 10 at 3/8, 5/8 and 7/8.
    signed : bool, default True
        Whether Adam sees only signs.
    local_steps, local_lr : int and float, default 1 and 0.1
        The clients' steps of SGD on one batch, simulated.

    Raises
    ------
    ValueError
        If a number makes no sense; the message names it.
    """

    def __init__(
        self,
        iterations: int = 2000,
        restarts: int = 1,
        tv: float = 0.5,
        logarithmic: bool = True,
        lr: float = 0.1,
        signed: bool = True,
        local_steps: int = 1,
        local_lr: float = 0.1,
    ) -> None:
        self.iterations = count("iterations", iterations)
        self.restarts = count("restarts", restarts)
        self.tv = weight("tv", tv)
        self.logarithmic = flag("logarithmic", logarithmic)
        self.lr = positive("lr", lr)
        self.signed = flag("signed", signed)
        self.local_steps = count("local_steps", local_steps)
        self.local_lr = positive("local_lr", local_lr)

    def search(self, setting: Setting, best: Best) -> dict[str, Any]:
        """Descend `restarts` times; see `MatchingAttack.search`."""
        distance = cosine(setting.target)
        lowest = self.descents(
            setting,
            best,
            distance=logarithm(distance) if self.logarithmic else distance,
            optimizer=Adam(self.lr, self.signed),
            priors=[(self.tv, total_variation)],
        )
        return {"restarts": lowest}
