"""How far a mean over few seeds can be trusted."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean, stdev

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean and its confidence interval.

    Attributes
    ----------
    mean : float
    half : float or None
        Half the width of the interval; None for a single value, of which nothing is known.
    count : int
        Values behind it.
    """

    mean: float
    half: float | None
    count: int


def estimate(values: Iterable[float | None], level: float = LEVEL) -> Estimate | None:
    """Return the mean of independent runs with Student's interval, t s / sqrt(n).

    Parameters
    ----------
    values : iterable of float or None
        One per run; None where a run has no such figure, which is left out.
    level : float, default 0.95
        In (0, 1).

    Returns
    -------
    Estimate or None
        None where no run has the figure.

    Raises
    ------
    ValueError
        If the level is out of its range.

    References
    ----------
    Student, "The Probable Error of a Mean", Biometrika 6, 1908.
    """
    if not 0 < level < 1:
        raise ValueError(f"level={level!r} must be between 0 and 1.")
    known = [value for value in values if value is not None]
    if not known:
        return None
    if len(known) == 1 or not all(map(math.isfinite, known)):
        return Estimate(fmean(known), None, len(known))
    from scipy.special import stdtrit

    quantile = float(stdtrit(len(known) - 1, (1 + level) / 2))
    return Estimate(fmean(known), quantile * stdev(known) / math.sqrt(len(known)), len(known))
