"""DICOM pictures, through pydicom where it is installed: the values a scanner means.

Grey values are taken after the file's rescale slope and intercept (or its modality table), and
MONOCHROME1 is turned so that high is dark, as its standard says. Display windows are not applied.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_sim.data.names import printable

SUFFIXES = (".dcm", ".dicom")
INVERTED = "MONOCHROME1"


@dataclass(frozen=True)
class DicomPicture:
    """The first frame of a DICOM file.

    Attributes
    ----------
    values : array of shape (H, W) or uint8 array of shape (H, W, 3)
        Grey values as the file means them, or colour.
    counted : bool array of shape (H, W), optional
        False where the file says that a grey pixel is padding.
    inverted : bool
        Whether low values are white.
    frames : int
        How many the file holds.
    """

    values: NDArray[Any]
    counted: NDArray[np.bool_] | None
    inverted: bool
    frames: int


def check_installed(path: Path) -> None:
    """Raise `ValueError` unless pydicom, which this file needs, is installed."""
    if find_spec("pydicom") is None:
        raise ValueError(
            f"{printable(path)} is a DICOM file, which needs pydicom: pip install 'fl-sim[dicom]'."
        )


def read_dicom(path: Path) -> DicomPicture:
    """Read the first frame of a DICOM file; whatever pydicom raises for a damaged one passes."""
    import pydicom
    from pydicom.pixels import apply_color_lut, apply_modality_lut, pixel_array

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks on the file's other fields
        dataset = pydicom.dcmread(path)
        stored = pixel_array(dataset, index=0)
        frames = int(dataset.get("NumberOfFrames") or 1)
        meaning = str(dataset.PhotometricInterpretation)
        if meaning == "PALETTE COLOR":
            table = apply_color_lut(stored, dataset)
            return DicomPicture(_upper_byte(table, 8 * table.itemsize), None, False, frames)
        if stored.ndim == 3:
            return DicomPicture(_upper_byte(stored, int(dataset.BitsStored)), None, False, frames)
        values = apply_modality_lut(stored, dataset)
    padding = dataset.get("PixelPaddingValue")
    counted = None if padding is None else stored != padding
    return DicomPicture(values, counted, meaning == INVERTED, frames)


def _upper_byte(colour: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Scale colour of so many bits to 8."""
    unit = colour[..., :3].astype(np.float64) / (2**bits - 1)
    return np.floor(np.clip(unit, 0, 1) * 255 + 0.5).astype(np.uint8)
