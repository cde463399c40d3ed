"""Newton's method per sample, and its standard errors, against a planted batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from attacks.tensor.certificate import typical_phi, typical_turn
from attacks.tensor.sharpen import sharpen
from tests.attacks.tensor.planted import plant

SMOOTH = [nn.GELU(), nn.Tanh(), nn.Softplus(), nn.ELU()]


def sharpened(truth, start, steps=8):
    return sharpen(
        truth.equation,
        start,
        lambda at: truth.equation.evaluate(at, truth.activation.slope),
        lambda state: typical_phi(truth.space, state.column),
        typical_turn(truth.space),
        steps,
    )


def beside(truth, distance, seed=1):
    """Points at a relative distance from the samples, with the bias' coordinate kept."""
    g = torch.Generator().manual_seed(seed)
    away = torch.randn(truth.points.shape, generator=g, dtype=torch.float64)
    last = truth.space.last
    away = away - (away @ last)[:, None] * last / (last @ last)
    sizes = truth.points.norm(dim=1, keepdim=True) / away.norm(dim=1, keepdim=True)
    return truth.points + distance * sizes * away


def relative(points, truth):
    return (points - truth.points).norm(dim=1) / truth.points.norm(dim=1)


@pytest.mark.parametrize("function", SMOOTH)
@pytest.mark.parametrize("alike", [None, 0.01])
def test_ends_at_the_samples_even_if_two_are_much_alike(function, alike):
    truth = plant(function, alike=alike)
    start = beside(truth, 1e-3)
    end = sharpened(truth, start)
    assert relative(end.points, truth).max() < 1e-7
    assert (end.points @ truth.space.last - 1).abs().max() < 1e-9
    assert (end.state.phi <= truth.equation.evaluate(start, truth.activation.slope).phi).all()


@pytest.mark.parametrize("function", SMOOTH)
@pytest.mark.parametrize("level", [1e-8, 1e-6])
def test_standard_errors_are_of_the_size_of_the_errors(function, level):
    ratios = []
    for seed in range(5):
        truth = plant(function, seed=seed, noise=level)
        end = sharpened(truth, beside(truth, 1e-3))
        # the span of the samples is noisy itself; what lies outside it is none of the equation's
        inside = truth.samples @ truth.space.V
        last = truth.space.last
        inside = inside + (1 - inside @ last)[:, None] * last / (last @ last)
        ratios.append((end.points - inside).norm(dim=1) / end.error)
    ratios = torch.cat(ratios)
    assert 0.2 < ratios.median() < 2
    assert ratios.max() < 5


def test_a_mixture_of_two_samples_has_no_small_standard_error():
    truth = plant(nn.Softplus(), alike=0.05, noise=1e-6)
    middle = truth.points[:2].mean(0, keepdim=True)
    apart = (truth.points[0] - truth.points[1]).norm()
    assert sharpened(truth, middle, steps=0).error[0] > 0.05 * apart
    assert sharpened(truth, truth.points[:1], steps=0).error[0] < 0.05 * apart


def test_where_noise_feigns_all_that_a_sample_shows_its_error_is_infinite():
    truth = plant(nn.Softplus())
    end = sharpen(
        truth.equation,
        truth.points,
        lambda at: truth.equation.evaluate(at, truth.activation.slope),
        lambda state: typical_phi(truth.space, state.column),
        torch.full_like(truth.space.S, 1e3),
        0,
    )
    assert end.error.isinf().all()
