"""Collects what belongs to one round and turns it into scalars, pairs of images and captions.

Nothing here knows a tracking system.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from statistics import fmean, median

import numpy as np
from numpy.typing import NDArray

from fl_sim.records import AttackRow, Gallery, TrainingRow
from fl_sim.report.formats import decibel
from fl_sim.report.gallery import MARKS, pair_state
from fl_sim.report.pictures import found, pixels

SIDE = 112
"""Tiles are enlarged by a whole factor to about this many pixels a side."""


@dataclass
class Round:
    """The rows and images of one round."""

    number: int
    training: TrainingRow | None = None
    attacks: list[tuple[AttackRow, Gallery]] = field(default_factory=list)

    def scalars(self) -> dict[str, float]:
        """Return the round's numbers: training state, totals and medians over its attacks."""
        values: dict[str, float] = {}
        if self.training is not None:
            if self.training.loss is not None:
                values["training/loss"] = self.training.loss
            values["training/accuracy"] = self.training.accuracy
        if self.attacks:
            values |= self._attack_scalars([row for row, _ in self.attacks])
        return values

    @staticmethod
    def _attack_scalars(rows: list[AttackRow]) -> dict[str, float]:
        values: dict[str, float] = {
            "attack/images": sum(row.images for row in rows),
            "attack/recovered": sum(row.recovered for row in rows),
            "attack/certified": sum(row.certified for row in rows),
            "attack/false_certificates": sum(row.false_certificates for row in rows),
            "attack/failures": sum(row.status != "ok" for row in rows),
            "attack/seconds": sum(row.seconds for row in rows),
        }
        if values["attack/images"]:
            values["attack/share_recovered"] = values["attack/recovered"] / values["attack/images"]
        labels = [row.label_accuracy for row in rows if row.label_accuracy is not None]
        if labels:
            values["attack/label_accuracy"] = fmean(labels)
        for name in ("psnr", "ssim", "relative_error"):
            known = [v for row in rows for v in getattr(row, name) if v is not None]
            if known:
                values[f"attack/median_{name}"] = median(known)
        return values

    def pairs(self, limit: int) -> Iterator[tuple[NDArray[np.uint8], str]]:
        """Yield at most `limit` images (truth beside reconstruction) with their captions.

        They are shared out evenly over the attacks, always the first of each batch.
        """
        columns = [[(row, gallery, k) for k in range(len(gallery.row))]
                   for row, gallery in self.attacks]  # fmt: skip
        turns = (entry for turn in zip_longest(*columns) for entry in turn if entry is not None)
        for entry, _ in zip(turns, range(limit), strict=False):
            yield beside(*entry[1:]), caption(*entry)


def beside(gallery: Gallery, k: int) -> NDArray[np.uint8]:
    """Return the k-th true image with its reconstruction to the right, hatched where missing."""
    truth = pixels(gallery.truth[k])
    there = bool(found(gallery.reconstruction[k : k + 1])[0])
    other = pixels(gallery.reconstruction[k]) if there else _hatched(truth)
    gap = np.full_like(truth[:, :1], 255)
    pair = np.concatenate([truth, gap, other], axis=1)
    zoom = max(1, round(SIDE / max(truth.shape[:2])))
    return pair.repeat(zoom, axis=0).repeat(zoom, axis=1)


def caption(row: AttackRow, gallery: Gallery, k: int) -> str:
    """Return client, label, PSNR and certificate of the k-th pair in words."""
    there = bool(found(gallery.reconstruction[k : k + 1])[0])
    psnr = row.psnr[k] if k < len(row.psnr) else None
    error = row.relative_error[k] if k < len(row.relative_error) else None
    words = [row.subject]
    truth, label = int(gallery.truth_label[k]), int(gallery.label[k])
    if truth >= 0:
        words.append(f"label {truth}" + (f", read as {label}" if label >= 0 else ""))
    if psnr is not None:
        words.append(f"PSNR {decibel(psnr)}")
    words.append(MARKS[pair_state(there, bool(gallery.certified[k]), error)])
    return " · ".join(words)


def _hatched(like: NDArray[np.uint8]) -> NDArray[np.uint8]:
    rows, columns = np.indices(like.shape[:2])
    stripes = np.where((rows + columns) % 7 == 0, 120, 48).astype(np.uint8)
    return stripes if like.ndim == 2 else np.repeat(stripes[..., None], 3, axis=2)
