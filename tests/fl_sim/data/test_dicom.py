"""DICOM: the values the files mean, one scale for the set, and one sentence without pydicom."""

import numpy as np
import pytest

from fl_sim.data import dicom
from fl_sim.data.image_folder import image_folder
from fl_sim.data.pictures import read_pictures
from tests.fl_sim.data.files import write_dicom

GREY = np.array([[0, 1000], [2000, 4000]], np.uint16)


def read(folder, *files, mode="L"):
    paths = []
    for number, (stored, fields) in enumerate(files):
        paths.append(folder / f"{number}.dcm")
        write_dicom(paths[-1], stored, **fields)
    pictures = read_pictures(paths, None, mode)
    return pictures.images, pictures.notes


@pytest.mark.parametrize(
    ("stored", "fields", "expected", "black", "white"),
    [
        (GREY, {"bits": 12}, [0, 64, 128, 255], "0", "4,000"),
        (GREY, {"RescaleSlope": 2, "RescaleIntercept": -24}, [0, 64, 128, 255], "-24", "7,976"),
        (GREY.astype(np.int16) - 1000, {}, [0, 64, 128, 255], "-1,000", "3,000"),
        (GREY, {"meaning": "MONOCHROME1"}, [255, 191, 128, 0], "0", "4,000"),
        (GREY // 16, {"PixelPaddingValue": 250}, [0, 126, 255, 255], "0", "125"),
        (GREY.astype(np.uint8), {}, [0, 255, 229, 176], "0", "232"),
    ],
)  # fmt: skip
def test_grey_values_are_those_the_file_means(tmp_path, stored, fields, expected, black, white):
    images, notes = read(tmp_path, (stored, fields))
    assert images.flatten().tolist() == expected
    assert f"{black} is black and {white} white" in notes[-1]
    assert notes[-1].endswith("after the rescaling that the files name.")
    inverted = fields.get("meaning") == "MONOCHROME1"
    assert any(note.startswith("Inverted") for note in notes) == inverted


def test_pictures_of_a_set_stay_comparable(tmp_path):
    images, _ = read(tmp_path, (GREY, {"RescaleSlope": 1, "RescaleIntercept": 0}),
                     (GREY // 2, {"meaning": "MONOCHROME1"}))  # fmt: skip
    assert images[0].flatten().tolist() == [0, 64, 128, 255]
    assert images[1].flatten().tolist() == [255, 223, 191, 128]


@pytest.mark.parametrize(
    ("meaning", "stored", "bits", "expected"),
    [
        ("RGB", [255, 0, 10], 8, [255, 0, 10]),
        ("RGB", [4095, 0, 2048], 12, [255, 0, 128]),
        ("YBR_FULL", [76, 85, 255], 8, [254, 0, 0]),
    ],
)
def test_colour(tmp_path, meaning, stored, bits, expected):
    dtype = np.uint8 if bits == 8 else np.uint16
    pixels = np.broadcast_to(np.array(stored, dtype), (2, 2, 3)).copy()
    images, _ = read(tmp_path, (pixels, {"meaning": meaning, "bits": bits}), mode="RGB")
    assert np.abs(images[0, :, 0, 0].numpy().astype(int) - expected).max() <= 1


def test_palette(tmp_path):
    tables = {}
    for name, values in (("Red", [0, 65535]), ("Green", [65535, 0]), ("Blue", [0, 32768])):
        tables[f"{name}PaletteColorLookupTableDescriptor"] = [2, 0, 16]
        tables[f"{name}PaletteColorLookupTableData"] = np.array(values, "<u2").tobytes()
    stored = np.array([[0, 1]], np.uint8)
    images, _ = read(tmp_path, (stored, {"meaning": "PALETTE COLOR", **tables}), mode="RGB")
    assert images[0, :, 0].T.tolist() == [[0, 255, 0], [255, 0, 128]]


def test_the_first_of_several_frames(tmp_path):
    images, notes = read(tmp_path, (np.stack([GREY, 0 * GREY]), {}))
    assert images.flatten().tolist() == [0, 64, 128, 255]
    assert notes[0] == "Read the first of several frames or pages of: 0.dcm."


def test_a_folder_of_dicom_is_a_data_set(tmp_path):
    for name in ("healthy", "ill"):
        for k in range(3):
            write_dicom(tmp_path / name / f"{k}.DCM", GREY)
    data = image_folder(str(tmp_path), size=8, grey=True)
    assert data.classes == ("healthy", "ill")
    assert data.image_shape == (1, 8, 8)


@pytest.mark.parametrize("content", [b"", b"nothing at all", None])
def test_a_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "broken.dcm"
    write_dicom(path, GREY)
    path.write_bytes(path.read_bytes()[:-4] if content is None else content)
    with pytest.raises(ValueError, match=r"broken.dcm is not a readable picture: ") as error:
        read_pictures([path], None)
    assert "\n" not in str(error.value)


def test_without_pydicom_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(dicom, "find_spec", lambda name: None)
    (tmp_path / "scan.dcm").write_bytes(b"")
    with pytest.raises(ValueError, match=r"scan.dcm .*pydicom: pip install 'fl-sim\[dicom\]'"):
        image_folder(str(tmp_path))
