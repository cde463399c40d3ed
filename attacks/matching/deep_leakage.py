"""Deep Leakage from Gradients (Zhu, Liu, Han 2019, arXiv 1906.08935), and its improvement iDLG.

DLG: L-BFGS on the squared distance of gradients, labels optimised along as a softmax.
iDLG (Zhao, Mopuri, Bilen 2020, arXiv 2001.02610): the same with labels read off the gradient first.
"""

from __future__ import annotations

from typing import Any

from attacks.matching.attack import MatchingAttack, Setting
from attacks.matching.core import Best
from attacks.matching.objective import squared
from attacks.matching.optimizers import LBFGS
from attacks.settings import count, positive, weight


class DeepLeakage(MatchingAttack):
    """DLG, or with `labels="infer"` iDLG.

    Parameters
    ----------
    iterations : int, default 6000
        Most evaluations of the gradient per restart.
    restarts : int, default 2
        Most descents; later ones only while the objective is above `tolerance`.
    tolerance : float, default 1e-6
        Relative squared distance of the gradients that counts as matched.
    labels : "optimise" or "infer", default "optimise"
        What to do about class labels that are not granted.
    local_steps, local_lr : int and float, default 1 and 0.1
        The clients' steps of SGD on one batch, simulated.

    Raises
    ------
    ValueError
        If `labels` is neither, or a number makes no sense.
    """

    def __init__(
        self,
        iterations: int = 6000,
        restarts: int = 2,
        tolerance: float = 1e-6,
        labels: str = "optimise",
        local_steps: int = 1,
        local_lr: float = 0.1,
    ) -> None:
        if labels not in ("optimise", "infer"):
            raise ValueError(f"labels={labels!r} is neither 'optimise' nor 'infer'.")
        self.iterations = count("iterations", iterations)
        self.restarts = count("restarts", restarts)
        self.tolerance = weight("tolerance", tolerance)
        self.labels = labels
        self.local_steps = count("local_steps", local_steps)
        self.local_lr = positive("local_lr", local_lr)

    @property
    def infers_labels(self) -> bool:  # type: ignore[override]
        """Whether this is iDLG."""
        return self.labels == "infer"

    def search(self, setting: Setting, best: Best) -> dict[str, Any]:
        """Descend until the gradient is matched or the restarts are used up.

        See `MatchingAttack.search`.
        """
        lowest = self.descents(
            setting,
            best,
            distance=squared(setting.target),
            optimizer=LBFGS(),
            tolerance=self.tolerance,
        )
        return {"restarts": lowest}
