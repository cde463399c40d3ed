"""The gallery of a run: per attack, each true image beside what the server made of it.

A page stays small: at most `PAIRS` pairs are embedded over the whole run, shared out evenly over
the attacks, always the first of each batch; how many were left out is said.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from fl_sim.records import EXACT, AttackRow, Gallery, Results
from fl_sim.report import formats
from fl_sim.report.pictures import LARGEST, Picture, found, picture

PAIRS = 1024
LEAST = 2
OPEN = 128
"""Pairs shown without a click."""

FOLD = 32
"""Pairs of one batch that are shown before the rest is folded away."""

MARKS = {
    "certified": "certified",
    "exact": "exact, not certified",
    "false": "false certificate",
    "inexact": "not exact",
    "missing": "not found",
}


@dataclass(frozen=True)
class Pair:
    """A true image and its reconstruction.

    Attributes
    ----------
    truth, reconstruction : Picture
        The latter None where nothing was matched.
    state : str
        A key of `MARKS`.
    psnr : str
        With its unit.
    detail : str
        Everything known about the pair, in words.
    """

    truth: Picture
    reconstruction: Picture | None
    state: str
    psnr: str
    detail: str

    @property
    def mark(self) -> str:
        """The state in words."""
        return MARKS[self.state]


@dataclass(frozen=True)
class Batch:
    """The pairs of one attack.

    Attributes
    ----------
    row : AttackRow
        The attack.
    pairs, extras : lists of Pair and of Picture
        Extras are reconstructions that match no true image.
    hidden, hidden_extras : int
        How many pairs and extras the page leaves out.
    open : bool
        Whether the batch is shown without a click.
    """

    row: AttackRow
    pairs: list[Pair]
    extras: list[Picture] = field(default_factory=list)
    hidden: int = 0
    hidden_extras: int = 0
    open: bool = True

    @property
    def shown(self) -> list[Pair]:
        """The pairs before the fold."""
        return self.pairs if len(self.pairs) <= FOLD * 5 // 4 else self.pairs[:FOLD]

    @property
    def folded(self) -> list[Pair]:
        """The pairs behind the fold."""
        return self.pairs[len(self.shown) :]


def batches(results: Results, gallery: Gallery) -> list[Batch]:
    """Return the batches of a run: one for each attack that has images, in the rows' order."""
    rows = [r for r in np.unique([*gallery.row, *gallery.extra_row]) if r < len(results.attacks)]
    quota = max(LEAST, PAIRS // max(1, len(rows)))
    made: list[Batch] = []
    shown = 0
    for r in rows:
        batch = _batch(results.attacks[int(r)], int(r), gallery, quota, shown < OPEN)
        shown += min(len(batch.pairs), FOLD)
        made.append(batch)
    return made


def _batch(row: AttackRow, number: int, gallery: Gallery, quota: int, opened: bool) -> Batch:
    entries = np.flatnonzero(gallery.row == number)
    extras = np.flatnonzero(gallery.extra_row == number)
    there = found(gallery.reconstruction[entries])
    pairs = [
        _pair(row, position, int(k), gallery, bool(there[position]))
        for position, k in enumerate(entries[:quota])
    ]
    few = extras[: max(LEAST, quota // 4)]
    return Batch(
        row=row,
        pairs=pairs,
        extras=[picture(gallery.extra[k]) for k in few],
        hidden=len(entries) - len(pairs),
        hidden_extras=len(extras) - len(few),
        open=opened,
    )


def _pair(row: AttackRow, position: int, k: int, gallery: Gallery, there: bool) -> Pair:
    def measured(values: list[float | None]) -> float | None:
        return values[position] if position < len(values) else None

    psnr, error = measured(row.psnr), measured(row.relative_error)
    state = pair_state(there, bool(gallery.certified[k]), error)
    truth_label, label = int(gallery.truth_label[k]), int(gallery.label[k])
    facts = [MARKS[state]]
    if there:
        facts += [
            f"PSNR {formats.decibel(psnr)}",
            f"SSIM {formats.ratio(measured(row.ssim))}",
            f"relative error {formats.error(error)}",
        ]
    if truth_label >= 0:
        read = f", read as {label}" if there and label >= 0 else ""
        facts.append(f"label {truth_label}{read}")
    return Pair(
        truth=picture(gallery.truth[k]),
        reconstruction=picture(gallery.reconstruction[k]) if there else None,
        state=state,
        psnr=formats.decibel(psnr) if there else "",
        detail=f"Image {position + 1}: " + ", ".join(facts),
    )


def pair_state(there: bool, certified: bool, error: float | None) -> str:
    """Return the key of `MARKS` for a pair with this relative error."""
    if not there:
        return "missing"
    if error is not None and error <= EXACT:
        return "certified" if certified else "exact"
    return "false" if certified else "inexact"


def tile_side(gallery: Gallery, goal: int = 72) -> tuple[int, int]:
    """Return the size (width, height) in CSS pixels at which a tile is shown.

    A whole multiple of the image's size where that is smaller than `goal`, so that every pixel of
    the image has the same size on the screen.
    """
    height, width = gallery.truth.shape[2:] if len(gallery.truth) else gallery.extra.shape[2:]
    longest = max(height, width, 1)
    scale = max(1, round(goal / longest)) if longest < goal else min(LARGEST, longest) / longest
    return round(width * scale), round(height * scale)
