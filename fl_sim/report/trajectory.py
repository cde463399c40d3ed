"""Leakage and accuracy round by round: does what the server reads change as the model trains."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING

from fl_sim.evaluation.confidence import Estimate, estimate
from fl_sim.records import AttackRow, Results, TrainingRow
from fl_sim.report.charts import INK, LEAK, SEAL, Chart, band, drawing, whole_numbers
from fl_sim.report.formats import percent_within, share
from fl_sim.report.frontier import middle

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEAST = 3
"""Rounds with attacks from which on there is a trajectory."""


def trajectory_chart(results: Results) -> Chart | None:
    """Draw the share of images read, their median SSIM and the test accuracy over the rounds.

    Bands are 95 % confidence: over the round's clients for the leakage, binomial over the test
    images for the accuracy. None where fewer than `LEAST` rounds were attacked.
    """
    by_round: dict[int, list[AttackRow]] = defaultdict(list)
    for row in results.attacks:
        if row.batch_size:
            by_round[row.round].append(row)
    if len(by_round) < LEAST or not results.training:
        return None
    rounds = sorted(by_round)
    read = [_over(by_round[r], read_share) for r in rounds]
    alike = [_over(by_round[r], lambda row: middle([row], "ssim")) for r in rounds]
    learned = [binomial(row) for row in results.training]

    def fill(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        band(axes, rounds, read, LEAK, "images read exactly", "-")
        band(axes, rounds, alike, SEAL, "median SSIM", (0, (4, 2)))
        band(axes, [t.round for t in results.training], learned, INK, "test accuracy", "-")
        axes.set_ylim(-0.03, 1.08)
        axes.yaxis.set_major_formatter(lambda y, _: share(round(y, 6)))
        axes.xaxis.set_major_locator(whole_numbers())
        axes.set_xlabel("round")
        axes.legend(loc="lower right", ncols=3, fontsize=8)

    words = (
        f"Read in round {rounds[0]}: {percent_within(read[0])} of the images of a client, in round "
        f"{rounds[-1]}: {percent_within(read[-1])}; accuracy from {share(learned[0].mean)} to "
        f"{share(learned[-1].mean)}. Bands: 95 % confidence, over the clients of a round for the "
        "leakage, over the test images for the accuracy."
    )
    svg = drawing(fill, "trajectory", (10.4, 3.6))
    return Chart("Leakage and accuracy as the model trains", svg, words)


def read_share(row: AttackRow) -> float:
    """Return the share of a batch's images that was read exactly."""
    return row.recovered / (row.batch_size or 1)


def binomial(row: TrainingRow) -> Estimate:
    """Return a test accuracy p with its interval 1.96 sqrt(p (1 - p) / n) over n test images."""
    p, tests = row.accuracy, row.tested
    half = None if not tests else 1.96 * math.sqrt(p * (1 - p) / tests)
    return Estimate(p, half, tests or 1)


def _over(rows: list[AttackRow], figure: Callable[[AttackRow], float]) -> Estimate:
    found = estimate(figure(row) for row in rows)
    assert found is not None
    return found
