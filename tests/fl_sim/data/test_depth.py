"""More than 8 bits: the set's scale, with the value each pixel must get, and what is said of it."""

import numpy as np
import pytest
import torch
from PIL import Image

from fl_sim.data.pictures import read_pictures
from tests.fl_sim.data.files import png16


def read(folder, contents, suffix, mode="L"):
    """Write one picture for each array of values, and return their grey pixels and the notes."""
    paths = []
    for number, values in enumerate(contents):
        paths.append(folder / f"{number}.{suffix}")
        if isinstance(values, bytes):
            paths[-1].write_bytes(values)
        else:
            Image.fromarray(values).save(paths[-1])
    pictures = read_pictures(paths, None, mode)
    return pictures.images, pictures.notes


def row(dtype, *values):
    return np.array([values], dtype)


U16, I32, F32 = np.uint16, np.int32, np.float32

SETS = {
    # name: (type, values of each picture, pixels of each, what the note says)
    "bytes in 16 bits": (U16, [(0, 255)], [(0, 255)], "255 white, the range of the 8 bits"),
    "ten bits": (U16, [(0, 512), (1023, 256)], [(0, 128), (255, 64)], "1,023 white"),
    "twelve bits": (U16, [(0, 4095), (2048, 1)], [(0, 255), (128, 0)], "4,095 white"),
    "nearly twelve bits": (U16, [(0, 3000)], [(0, 187)], "12 bits that hold the largest, 3,000"),
    "sixteen bits": (U16, [(0, 65535), (32896, 257)], [(0, 255), (128, 1)], "65,535 white"),
    "a flat one": (U16, [(32768, 32768)], [(128, 128)], "65,535 white"),
    "beyond 16 bits": (I32, [(100, 100100), (50100, 100)], [(0, 255), (128, 0)], "100,100 white"),
    "negative": (I32, [(-100, 0), (100, 0)], [(0, 128), (255, 128)], "-100 is black and 100 white"),
    "unit floats": (F32, [(0, 0.25), (0.5, 0.5)], [(0, 64), (128, 128)], "and 1 white, as"),
    "other floats": (F32, [(-3, 0), (1, 7)], [(0, 77), (102, 255)], "-3 is black and 7 white"),
    "floats of bytes": (F32, [(0, 255), (51, 102)], [(0, 255), (51, 102)], "255 white"),
    "one float": (F32, [(5, 5)], [(0, 0)], "5 is black and 5 white"),
}  # fmt: skip


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("name", SETS)
def test_the_set_has_one_scale(tmp_path, name, suffix):
    dtype, contents, expected, told = SETS[name]
    if suffix == "png" and dtype is not U16:
        suffix = "tiff"
    images, notes = read(tmp_path, [row(dtype, *values) for values in contents], suffix)
    assert images[:, 0, 0].tolist() == [list(pixels) for pixels in expected]
    (note,) = [n for n in notes if n.startswith("Values of pictures of")]
    assert told in note
    colour, _ = read(tmp_path, [row(dtype, *values) for values in contents], suffix, "RGB")
    assert torch.equal(colour, images.expand(-1, 3, -1, -1))


def test_a_wide_portable_graymap_is_scaled_by_its_own_maximum(tmp_path):
    raw = b"P5 2 1 4095\n" + np.array([0, 4095], ">u2").tobytes()
    images, _ = read(tmp_path, [raw], "pgm")
    assert images.flatten().tolist() == [0, 255]


def test_pictures_of_8_bits_are_left_as_they_are_beside_deeper_ones(tmp_path):
    images, notes = read(tmp_path, [row(np.uint8, 7, 250), row(U16, 0, 40000)], "png")
    assert images.flatten().tolist() == [7, 250, 0, 156]
    assert "(1.png)" in notes[0]


@pytest.mark.parametrize("high", [255, 4095, 65535])
def test_colour_of_16_bits_keeps_all_of_them(tmp_path, high):
    values = np.array([[[0, high, high // 2], [high, 0, 0]]])
    images, notes = read(tmp_path, [png16(values)], "png", "RGB")
    assert images[0, :, 0].T.tolist() == [[0, 255, round(255 * (high // 2) / high)], [255, 0, 0]]
    assert f"{high:,} white" in notes[0]
    grey, _ = read(tmp_path, [png16(values)], "png")
    assert grey[0, 0, 0, 1] == round(0.299 * 255)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (png16(np.array([[[4095, 0, 0, 65535], [9, 9, 9, 0]]])), [[255, 0, 0], [255, 255, 255]]),
        (png16(np.array([[[0, 65535], [4095, 0]]])), [[0, 0, 0], [255, 255, 255]]),
        (png16(np.array([[[4095, 65535], [0, 32768]]])), [[255] * 3, [127] * 3]),
        (png16(np.array([[[4095, 0, 0], [7, 8, 9]]]), transparent=(7, 8, 9)),
         [[255, 0, 0], [255, 255, 255]]),
    ],
)  # fmt: skip
def test_transparent_parts_of_deep_pictures_are_white(tmp_path, raw, expected):
    images, notes = read(tmp_path, [raw], "png", "RGB")
    assert images[0, :, 0].T.tolist() == expected
    assert notes[0] == "Put on white, where transparent: 0.png."


def test_where_pillow_halves_colour_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("fl_sim.data.picture_file._png_colour", lambda *given: None)
    images, notes = read(tmp_path, [png16(np.full((1, 2, 3), [0, 65535, 300]))], "png", "RGB")
    assert images[0, :, 0, 0].tolist() == [0, 255, 1]
    assert "Read the upper 8 of 16 bits of each colour value of: 0.png." in notes


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused(tmp_path, value):
    with pytest.raises(ValueError, match=r"0.tif is not a readable picture: .* not finite"):
        read(tmp_path, [row(F32, 0, value)], "tif")


def test_tiff_whose_low_values_are_white_is_inverted(tmp_path):
    path = tmp_path / "white_is_zero.tif"
    Image.fromarray(row(U16, 0, 4095)).save(path, tiffinfo={262: 0})
    pictures = read_pictures([path], None, "L")
    assert pictures.images.flatten().tolist() == [255, 0]
    assert any(note.startswith("Inverted") for note in pictures.notes)


def test_deep_pictures_are_cropped_and_resized_like_others(tmp_path):
    smooth = np.add.outer(np.arange(40), np.arange(60)).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "a.png")
    Image.fromarray(smooth.astype(U16) * 257).save(tmp_path / "b.png")
    ends = row(U16, 0, 65535)
    Image.fromarray(ends).save(tmp_path / "c.png")
    images = read_pictures([tmp_path / f"{n}.png" for n in "abc"], (16, 16), "L").images.int()
    assert (images[0] - images[1]).abs().max() <= 1
