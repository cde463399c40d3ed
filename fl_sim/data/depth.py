"""Pictures of more than 8 bits: one scale for the whole set, so that they stay comparable.

Which values become black and white is one rule for each kind of value, and a sentence tells it
with the values it found:

- whole numbers, 0 ... 2^b - 1 with b the smallest of 8, 10, 12, 14 and 16 bits that holds the
  largest value of the set; where a value is negative or larger, the set's lowest and highest;
- float values, 0 ... 1 where all lie in it; otherwise the set's lowest and highest;
- DICOM, the set's lowest and highest after rescale slope and intercept (or their table).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fl_sim.data.names import some

Kind = Literal["whole", "float", "dicom"]

KINDS: dict[Kind, str] = {
    "whole": "pictures of whole numbers beyond 8 bits",
    "float": "pictures of float values",
    "dicom": "grey DICOM pictures",
}
BIT_DEPTHS = (8, 10, 12, 14, 16)
"""Of cameras, scanners and scientific instruments; files hold all but the first in 16 bits."""

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in grey (ITU-R 601), those Pillow uses."""


@dataclass
class Deep:
    """A picture whose values wait for the scale of its set.

    Attributes
    ----------
    kind : str
        "whole", "float" or "dicom".
    values : float32 array of shape (H, W, C), C 1 or 3
        Already cropped and resized; multiplied with `cover` where that is given.
    cover : float32 array of shape (H, W), optional
        Opacity, 0 ... 1.
    low, high : float
        Lowest and highest value of the whole picture in its file.
    inverted : bool
        Whether low values are white.
    """

    kind: Kind
    values: NDArray[np.float32]
    low: float
    high: float
    cover: NDArray[np.float32] | None = None
    inverted: bool = False


@dataclass(frozen=True)
class Scale:
    """The values that become black and white, and the sentence that says so."""

    black: float
    white: float
    sentence: str

    def to_bytes(self, picture: Deep, channels: int) -> NDArray[np.uint8]:
        """Return a picture on white paper, as an array of shape (H, W, channels)."""
        cover = 1.0 if picture.cover is None else picture.cover[..., None]
        span = self.white - self.black or 1.0
        unit = (picture.values.astype(np.float64) - self.black * cover) / span
        if picture.inverted:
            unit = cover - unit
        unit = np.clip(unit + (1.0 - cover), 0, 1)
        if channels == 1 and unit.shape[2] == 3:
            unit = (unit @ LUMA)[..., None]
        whole = np.floor(unit * 255 + 0.5).astype(np.uint8)
        return np.broadcast_to(whole, (*whole.shape[:2], channels)).copy()


def scale_of(kind: Kind, pictures: Sequence[Deep], names: Sequence[str]) -> Scale:
    """Return the scale of all pictures of a kind, by the rule of this file.

    Parameters
    ----------
    kind : str
    pictures : sequence of Deep
        All of the kind, at least one.
    names : sequence of str
        Of their files, for the sentence.
    """
    low = min(picture.low for picture in pictures)
    high = max(picture.high for picture in pictures)
    black, white, why = _span(kind, low, high)
    told = f"Values of {KINDS[kind]} ({some(names)}): {black:,.6g} is black and {white:,.6g} white"
    return Scale(black, white, f"{told}, {why}.")


def _span(kind: Kind, low: float, high: float) -> tuple[float, float, str]:
    if kind == "whole" and low >= 0:
        for bits in BIT_DEPTHS:
            if high < 2**bits:
                reason = f"the range of the {bits} bits that hold the largest, {high:,.6g}"
                return 0.0, 2.0**bits - 1, reason
    if kind == "float" and low >= 0 and high <= 1:
        return 0.0, 1.0, "as all values lie between them"
    rescaled = " after the rescaling that the files name" if kind == "dicom" else ""
    return low, high, f"the lowest and highest value of all of them{rescaled}"
