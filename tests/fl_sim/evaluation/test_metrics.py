"""Metrics on pairs whose values are known."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fl_sim.evaluation.metrics import MAX_PSNR, psnr, relative_error, ssim


def images(seed, *shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(st.floats(1e-8, 1.0))
def test_psnr_of_a_constant_difference(difference):
    truth = torch.zeros(2, 3, 4, 4, dtype=torch.float64)
    value = psnr(truth, truth + difference)
    assert value.tolist() == pytest.approx([-20 * math.log10(difference)] * 2, abs=1e-6)


def test_psnr_is_capped():
    truth = images(0, 2, 1, 4, 4)
    assert psnr(truth, truth).tolist() == [MAX_PSNR] * 2
    assert psnr(truth, truth + 1e-12).tolist() == [MAX_PSNR] * 2


@given(st.floats(0, 10))
def test_relative_error_of_a_scaled_image(factor):
    truth = images(1, 3, 1, 5, 5)
    error = relative_error(truth, factor * truth)
    assert error.tolist() == pytest.approx([abs(1 - factor)] * 3, abs=1e-12)


def test_relative_error_of_black_images():
    black = torch.zeros(2, 1, 2, 2)
    found = torch.stack([black[0], black[1] + 0.1])
    assert relative_error(black, found).tolist() == [0.0, math.inf]


@pytest.mark.parametrize("side", [3, 5, 8, 10, 11, 28])
def test_ssim_is_1_for_equal_images_and_less_for_others(side):
    truth = images(2, 3, 3, side, side)
    assert ssim(truth, truth).tolist() == pytest.approx([1.0] * 3, abs=1e-6)
    assert (ssim(truth, 1 - truth) < 0.5).all()


def test_ssim_of_constant_images_is_the_luminance_term():
    a, b = 0.3, 0.6
    truth, found = images(0, 1, 1, 16, 16) * 0 + a, images(0, 1, 1, 16, 16) * 0 + b
    c1 = 0.01**2
    expected = (2 * a * b + c1) / (a**2 + b**2 + c1)
    assert ssim(truth, found).item() == pytest.approx(expected, abs=1e-3)


def test_ssim_is_per_image():
    truth = images(3, 4, 1, 12, 12)
    found = truth.clone()
    found[2] = 0.5
    values = ssim(truth, found)
    assert values.shape == (4,)
    assert values[2] < 0.9
    assert ssim(truth[:1], found[:1]).shape == (1,)


def test_ssim_of_tiny_images_is_none():
    assert ssim(images(0, 2, 1, 2, 8), images(1, 2, 1, 2, 8)) is None
