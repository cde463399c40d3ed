"""Rows and pictures of permuted, truncated, wrong, broken and falsely certified reconstructions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attacks.base import Reconstruction
from fl_sim.data.bundled import fashion_mnist_mini
from fl_sim.evaluation import score
from fl_sim.evaluation.metrics import MAX_PSNR
from fl_sim.records import AttackRow, Gallery, Results

DATA = fashion_mnist_mini()
B = 6
IMAGES, LABELS = DATA.train_images[:B], DATA.train_labels[:B]


def inputs(standardize=True):
    return DATA.to_inputs(IMAGES, standardize)


def measure(found, standardize=True, index=0):
    row = AttackRow(round=1, client=2, attack="test")
    truth = inputs(standardize)
    return score(row, found, truth, LABELS, DATA, standardize=standardize, index=index)


def reconstruction(values, labels=None, certified=None, **more):
    if certified is None:
        certified = torch.zeros(len(values), dtype=torch.bool)
    residual = torch.zeros(len(values))
    return Reconstruction(values, labels, certified, residual, **more)


@given(st.permutations(range(B)), st.integers(0, B), st.booleans(), st.booleans(), st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_permuted_and_truncated_batch(order, kept, flat, standardize, with_labels):
    order = torch.tensor(order)[:kept]
    values = inputs(standardize)[order]
    found = reconstruction(
        values.flatten(1) if flat else values,
        LABELS[order] if with_labels else None,
        torch.ones(kept, dtype=torch.bool),
        batch_size=B,
    )
    row, gallery = measure(found, standardize, index=7)
    assert (row.batch_size, row.estimated_batch_size) == (B, B)
    assert row.recovered == row.certified == kept
    assert row.false_certificates == 0
    assert row.label_accuracy == (kept / B if with_labels else None)
    for values in (row.psnr, row.ssim, row.relative_error):
        assert [v is not None for v in values] == [i in order for i in range(B)]
    assert all(v > 100 for v in row.psnr if v is not None)
    assert all(v == pytest.approx(1) for v in row.ssim if v is not None)
    assert all(v < 1e-6 for v in row.relative_error if v is not None)

    assert gallery.row.tolist() == [7] * B
    seen = gallery.certified
    assert seen.tolist() == [i in order for i in range(B)]
    np.testing.assert_allclose(gallery.truth, IMAGES.numpy() / 255, atol=1e-6)
    np.testing.assert_allclose(gallery.reconstruction[seen], gallery.truth[seen], atol=1e-6)
    assert np.isnan(gallery.reconstruction[~seen]).all()
    assert gallery.truth_label.tolist() == LABELS.tolist()
    expected = LABELS.tolist() if with_labels else [-1] * B
    assert gallery.label[seen].tolist() == [v for v, s in zip(expected, seen, strict=True) if s]
    assert (gallery.label[~seen] == -1).all()
    assert len(gallery.extra) == 0


def test_known_values():
    found = reconstruction(inputs(standardize=False) * 0.98)
    row, _ = measure(found, standardize=False)
    assert row.relative_error == pytest.approx([0.02] * B, rel=1e-4)
    assert row.recovered == 0
    unit = IMAGES.double() / 255
    expected = -10 * torch.log10((0.02 * unit).square().flatten(1).mean(1))
    assert row.psnr == pytest.approx(expected.tolist(), abs=1e-3)


def test_equal_images_reach_the_cap():
    row, _ = measure(reconstruction(inputs(standardize=False)), standardize=False)
    assert row.psnr == [MAX_PSNR] * B


def test_pixels_outside_the_range_are_clamped_for_psnr_but_not_for_the_relative_error():
    values = inputs(standardize=False)
    values = torch.where(values == 0, values - 0.5, values)
    row, gallery = measure(reconstruction(values), standardize=False)
    assert row.psnr == [MAX_PSNR] * B
    assert min(row.relative_error) > 0.1
    assert gallery.reconstruction.min() == 0


def test_false_certificates_are_counted_matched_or_not():
    values = torch.cat([inputs()[:3], inputs()[3:5] * 0.5, -5 + 0 * inputs()[:2]])
    certified = torch.tensor([True, False, True, True, False, True, True])
    row, gallery = measure(reconstruction(values, LABELS[[0, 1, 2, 3, 4, 0, 0]], certified))
    assert row.recovered == 3
    assert row.certified == 5
    assert row.false_certificates == 3  # the darkened image and two that are nothing
    assert len(gallery.extra) == 1
    assert gallery.extra_certified.tolist() == [True]
    assert gallery.extra_row.tolist() == [0]


def test_a_sample_certified_twice_is_one_true_and_one_false():
    values = torch.cat([inputs(), inputs()[:1]])
    row, gallery = measure(reconstruction(values, certified=torch.ones(B + 1, dtype=torch.bool)))
    assert (row.recovered, row.certified, row.false_certificates) == (B, B + 1, 1)
    assert len(gallery.extra) == 1


def test_wrong_labels_count():
    labels = LABELS.clone()
    labels[:2] = (labels[:2] + 1) % 10
    row, gallery = measure(reconstruction(inputs(), labels))
    assert row.label_accuracy == pytest.approx((B - 2) / B)
    assert gallery.label.tolist() == labels.tolist()


@pytest.mark.parametrize(
    "labels",
    [
        torch.nn.functional.one_hot(LABELS, 10).double() * 0.9,
        LABELS.double() + 0.1,
        LABELS.to(torch.int32),
    ],
)
def test_labels_may_be_targets_of_a_squared_loss(labels):
    assert measure(reconstruction(inputs(), labels))[0].label_accuracy == 1.0


def test_labels_that_are_not_finite_are_wrong():
    labels = LABELS.double()
    labels[0] = math.nan
    row, gallery = measure(reconstruction(inputs(), labels))
    assert row.label_accuracy == pytest.approx((B - 1) / B)
    assert gallery.label[0] == -1


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 3e38])
def test_broken_reconstructions_do_not_crash(bad, tmp_path):
    values = inputs()
    values[1:3] = bad
    row, gallery = measure(reconstruction(values, LABELS, torch.ones(B, dtype=torch.bool)))
    assert row.recovered == B - 2
    assert row.false_certificates == 2
    assert np.isfinite(gallery.extra).all()
    results = Results(scenario={}, attacks=[row])
    results.save(tmp_path)
    gallery.save(tmp_path)
    assert Results.load(tmp_path).attacks[0].recovered == B - 2
    assert len(Gallery.load(tmp_path).truth) == B


@pytest.mark.parametrize("found", [None, reconstruction(torch.zeros(0, 784))])
def test_nothing_found(found):
    row, gallery = measure(found)
    assert (row.batch_size, row.recovered, row.certified) == (B, 0, 0)
    assert row.psnr == row.ssim == row.relative_error == [None] * B
    assert row.label_accuracy is None
    assert np.isnan(gallery.reconstruction).all()
    assert len(gallery.truth) == B


def test_an_attack_that_found_nothing_still_took_time_and_counted_the_batch():
    found = reconstruction(torch.zeros(0, 784), batch_size=9, seconds=1.5)
    row, _ = measure(found)
    assert (row.estimated_batch_size, row.seconds) == (9, 1.5)


def test_what_the_caller_filled_in_stays():
    row = AttackRow(round=3, client=4, attack="a", status="timeout", message="late.", seconds=2.0)
    scored, _ = score(row, None, inputs(), LABELS, DATA, standardize=True, index=0)
    assert (scored.round, scored.client, scored.status, scored.message) == (
        3,
        4,
        "timeout",
        "late.",
    )
    assert scored.seconds == 2.0
    assert row.batch_size is None  # the caller's row is not changed


def test_a_reconstruction_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"inputs of shape \(100,\); the true ones"):
        measure(reconstruction(torch.zeros(2, 100)))
