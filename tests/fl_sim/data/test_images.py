"""Bytes to model inputs and back."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_sim.data import ImageData


def random_data(seed, count=8, channels=3, side=4):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(
        256, (count, channels, side, side), generator=generator, dtype=torch.uint8
    )
    labels = torch.arange(count) % 2
    return ImageData.of("random", images, labels, images[:2], labels[:2], "ab")


@given(st.integers(0, 2**32), st.booleans())
@settings(max_examples=25, deadline=None)
def test_to_unit_undoes_to_inputs(seed, standardize):
    data = random_data(seed)
    inputs = data.to_inputs(data.train_images, standardize)
    assert inputs.dtype == torch.float32
    unit = data.to_unit(inputs, standardize)
    torch.testing.assert_close(unit, data.train_images / 255, atol=1e-6, rtol=0)
    low, high = data.input_range(standardize)
    assert (inputs >= low - 1e-6).all()
    assert (inputs <= high + 1e-6).all()


def test_standardized_training_images_have_mean_0_and_std_1():
    data = random_data(0, count=50)
    inputs = data.to_inputs(data.train_images, True)
    torch.testing.assert_close(inputs.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        inputs.std(dim=(0, 2, 3), correction=0), torch.ones(3), atol=1e-5, rtol=0
    )


def test_a_constant_channel_does_not_divide_by_zero():
    images = torch.full((2, 1, 2, 2), 255, dtype=torch.uint8)
    data = ImageData.of("white", images, torch.zeros(2), images, torch.zeros(2), ["a"])
    assert torch.equal(data.to_inputs(images, True), torch.zeros(2, 1, 2, 2))


def test_to_unit_keeps_float64():
    assert random_data(0).to_unit(torch.zeros(1, 3, 4, 4).double(), True).dtype == torch.float64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_images": torch.zeros(4, 1, 2, 2)}, "torch.float32"),
        ({"train_labels": torch.zeros(3)}, "4 training images and 3 labels"),
        ({"test_labels": torch.tensor([0, 0, 0, 2])}, "0 ... 1"),
        (
            {
                "train_images": torch.zeros(0, 1, 2, 2, dtype=torch.uint8),
                "train_labels": torch.zeros(0),
            },
            "no training images",
        ),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    images = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
    good = {
        "train_images": images,
        "train_labels": torch.zeros(4),
        "test_images": images,
        "test_labels": torch.zeros(4),
    }
    ImageData.of("good", **good, classes="ab")
    with pytest.raises(ValueError, match=message):
        ImageData.of("bad", **(good | change), classes="ab")
