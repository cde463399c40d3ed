import base64
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fl_sim.report.gallery import pair_state, tile_side
from fl_sim.report.pictures import columns_for, mosaic, picture, pixels
from tests.fl_sim.report.synthetic import attacked


def decoded(shown):
    kind, data = shown.uri.split(",", 1)
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_holds_the_pixels(channels):
    image = np.random.default_rng(0).random((channels, 7, 5), dtype=np.float32)
    shown = decoded(picture(image)).reshape(7, 5, channels)
    assert np.abs(shown / 255 - image.transpose(1, 2, 0)).max() <= 0.5 / 255 + 1e-6


def test_values_outside_the_range_are_clipped():
    image = np.array([[[-1.0, 2.0, np.nan]]], dtype=np.float32)
    assert pixels(image).tolist() == [[0, 255, 0]]


def test_large_images_are_shrunk():
    assert pixels(np.zeros((3, 400, 200), np.float32)).shape == (128, 64, 3)


def test_a_mosaic_shows_what_was_found_and_blacks_out_the_rest():
    images = np.full((3, 1, 4, 4), 0.5, np.float32)
    images[1] = np.nan
    sheet = decoded(mosaic(images, columns=2, gap=2))
    assert sheet.shape == (10, 10, 4)
    assert (sheet[:4, :4] == (128, 128, 128, 255)).all()  # found
    assert (sheet[:4, 6:, 3] == 72).all()  # missing: translucent
    assert (sheet[4:6] == 0).all()  # gap
    assert mosaic(images[:0], columns=2) is None


@given(st.integers(0, 600))
def test_columns_of_a_mosaic_hold_all_images_in_a_wide_shape(number):
    columns = columns_for(number)
    rows = -(-max(1, number) // columns)
    assert 1 <= columns <= max(1, number)
    assert rows <= columns or number < 3


@pytest.mark.parametrize(
    ("there", "certified", "error", "state"),
    [
        (False, False, None, "missing"),
        (True, True, 1e-6, "certified"),
        (True, False, 1e-6, "exact"),
        (True, True, 0.5, "false"),
        (True, False, 0.5, "inexact"),
        (True, False, None, "inexact"),
    ],
)
def test_state_of_a_pair(there, certified, error, state):
    assert pair_state(there, certified, error) == state


def test_tiles_are_a_whole_multiple_of_small_images():
    _, gallery = attacked(0, [1e-7])
    width, height = tile_side(gallery)
    assert (width % 5, height % 6) == (0, 0)
