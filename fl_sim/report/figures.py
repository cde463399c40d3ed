"""The key figures under the verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fl_sim.records import EXACT, Results
from fl_sim.report import formats
from fl_sim.report.verdict import judge

ASKED = ("asked", "answered")
"""Of a round, summed over all."""


@dataclass(frozen=True)
class Figure:
    """One figure: its name, its value as text, and what it means in a few words."""

    name: str
    value: str
    hint: str


def key_figures(results: Results) -> list[Figure]:
    """Return the figures of a run that are known, the most important first."""
    known = results.summary()
    figures = _of_the_attacks(known, judge(results).total) if results.attacks else []
    if known["accuracy"] is not None:
        rounds = formats.plural(results.training[-1].round, "round")
        hint = f"global model after {rounds}"
        figures.append(Figure("Test accuracy", formats.share(known["accuracy"]), hint))
    if any(row.failures for row in results.training):
        asked, answered = (sum(getattr(r, k) for r in results.training) for k in ASKED)
        hint = f"usable, of {formats.count(asked)} asked for"
        figures.append(Figure("Updates", formats.count(answered), hint))
    if results.wall_seconds:
        hint = f"attacks: {formats.seconds(known['seconds'])}" if results.attacks else "whole run"
        figures.append(Figure("Wall time", formats.seconds(results.wall_seconds), hint))
    return figures


def _of_the_attacks(known: dict[str, Any], judged: int) -> list[Figure]:
    """Return the figures that exist only where something was attacked, `judged` images of it to
    an end.
    """
    total, estimated = known["batch_size"], known["estimated_batch_size"]
    false = known["false_certificates"]
    hint = f"largest; exact up to {EXACT:g}"
    figures = [
        Figure("Read exactly", formats.count(known["recovered"]), f"of {formats.count(judged)}"),
        Figure("Certified", formats.count(known["certified"]), f"{formats.count(false)} falsely"),
        Figure("Batch sizes", formats.count(estimated), f"as read; truth {formats.count(total)}"),
        Figure("Labels right", formats.share(known["label_accuracy"]), "mean over the attacks"),
        Figure("Median PSNR", formats.decibel(known["psnr"]), "of the matched images"),
        Figure("Relative error", formats.error(known["max_relative_error"]), hint),
    ]
    return [figure for figure in figures if figure.value != formats.NOTHING]
