"""Probing activations: kinds, kinks and derivatives."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from attacks.tensor.activation import derivatives, probe


@pytest.mark.parametrize(
    ("function", "kind", "kinks"),
    [
        (nn.ReLU(), "piecewise linear", [0]),
        (nn.ReLU6(), "piecewise linear", [0, 6]),
        (nn.Hardtanh(), "piecewise linear", [-1, 1]),
        (nn.Softshrink(), "piecewise linear", [-0.5, 0.5]),
        (nn.Hardsigmoid(), "piecewise linear", [-3, 3]),
        (torch.abs, "piecewise linear", [0]),
        (nn.SELU(), "mixed", [0]),
        (nn.Hardswish(), "mixed", [-3, 3]),
        (nn.GELU(), "smooth", []),
        (nn.ELU(), "smooth", []),
        (nn.Softsign(), "smooth", []),
        (lambda z: z**3, "smooth", []),
        (lambda z: z * z + z, "quadratic", []),
        (lambda z: 2 * z + 1, "linear", []),
        (torch.zeros_like, "linear", []),
    ],
)
def test_kind_and_kinks(function, kind, kinks):
    activation = probe(function)
    assert activation.kind == kind
    assert torch.allclose(activation.kinks, torch.tensor(kinks, dtype=torch.float64), atol=1e-9)


@pytest.mark.parametrize(
    ("function", "bends", "turns", "rough"),
    [
        (nn.Softsign(), [0], [-4], True),
        (nn.ELU(), [0], [-1], False),
        (nn.Hardswish(), [-3, 3], [1 / 3, -1 / 3], True),  # for its kinks
        (nn.ReLU(), [], [], True),
        (nn.GELU(), [], [], False),
        (nn.Softplus(beta=5), [], [], False),
    ],
)
def test_bends(function, bends, turns, rough):
    activation = probe(function)
    for found, truth in ((activation.bends, bends), (activation.turns, turns)):
        assert torch.allclose(found, torch.tensor(truth, dtype=torch.float64), atol=1e-9)
    assert activation.rough == rough


def test_slopes_of_a_leaky_relu():
    slopes = probe(nn.LeakyReLU(0.2)).slopes
    assert torch.allclose(slopes, torch.tensor([0.2, 1.0], dtype=torch.float64))


@pytest.mark.parametrize("module", [nn.GELU(), nn.Tanh(), nn.Hardsigmoid(), nn.Mish()])
def test_derivatives_match_finite_differences(module):
    z = torch.linspace(-2.5, 2.5, 101, dtype=torch.float64)
    h = 1e-4
    first, second = derivatives(module, z)
    assert torch.allclose(first, (module(z + h) - module(z - h)) / (2 * h), atol=1e-6)
    curve = (module(z + h) - 2 * module(z) + module(z - h)) / h**2
    assert torch.allclose(second, curve, atol=1e-5)


@pytest.mark.parametrize(
    "module", [nn.ReLU(), nn.SELU(), nn.Hardswish(), nn.Softshrink(), nn.Softsign()]
)
def test_blurring_vanishes_with_its_width_and_is_differentiable(module):
    activation = probe(module)
    z = torch.linspace(-4, 4, 161, dtype=torch.float64) + 0.013
    assert torch.allclose(activation.smoothed(1e-4)(z)[0], activation.slope(z)[0])
    blurred = activation.smoothed(0.3)
    h = 1e-5
    slope = (blurred(z + h)[0] - blurred(z - h)[0]) / (2 * h)
    assert torch.allclose(blurred(z)[1], slope, atol=1e-6)
