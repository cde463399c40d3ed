"""Verdicts on models whose answer is known, and the numbers behind them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from attacks import NotApplicable, TensorAttack, identifiability
from attacks.tensor.identifiability import condition_number, largest_batch
from attacks.tensor.symmetry import is_homogeneous, is_odd, polynomial_degree


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, z):
        return self.function(z)


def two_layers(activation, d=20, m=64, outputs=5, bias=True):
    return nn.Sequential(nn.Linear(d, m, bias=bias), activation, nn.Linear(m, outputs))


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.GELU(), nn.Tanh(), Function(torch.sin)])
def test_a_modest_batch_is_identifiable(activation):
    verdict = identifiability(two_layers(activation), 8)
    assert verdict.identifiable
    assert verdict.explanation.startswith("Identifiable: ")
    assert (verdict.width, verdict.features, verdict.errors) == (64, 20, 4)
    assert verdict.scale_known
    assert verdict.sign_known


@pytest.mark.parametrize(
    ("activation", "kind", "degree"),
    [
        (nn.Identity(), "linear", 1),
        (Function(lambda z: 3 * z - 1), "linear", 1),
        (Function(lambda z: z * z), "quadratic", 2),
        (Function(lambda z: 1 + z - 2 * z**2), "quadratic", 2),
    ],
)
def test_linear_and_quadratic_activations_are_not(activation, kind, degree):
    model = two_layers(activation)
    verdict = identifiability(model, 1)
    assert not verdict.identifiable
    assert verdict.largest_batch == 0
    assert (verdict.activation, verdict.degree) == (kind, degree)
    assert f"activation is {kind}" in verdict.explanation
    gradient = {name: torch.ones_like(p) for name, p in model.named_parameters()}
    with pytest.raises(NotApplicable, match=kind):
        TensorAttack().run(model, gradient)


def test_too_wide_a_batch_is_not():
    model = two_layers(nn.GELU(), d=200)
    verdict = identifiability(model, 60)
    assert not verdict.identifiable
    assert "60 + 4 unknowns per sample, not fewer than the 64 equations" in verdict.explanation
    assert identifiability(model, 59).identifiable
    assert identifiability(model).largest_batch == 59


def test_more_samples_than_inputs_are_not():
    verdict = identifiability(two_layers(nn.GELU()), 21)
    assert not verdict.identifiable
    assert "linearly independent" in verdict.explanation


def test_errors_of_losses_and_depths():
    flat = two_layers(nn.ReLU(), outputs=1)
    assert identifiability(flat, 8, loss="mse").errors == 1
    assert not identifiability(flat, 8).identifiable  # softmax of one output: no error at all
    deep = nn.Sequential(*two_layers(nn.ReLU(), outputs=30), nn.ReLU(), nn.Linear(30, 5))
    assert identifiability(deep, 8).errors == 30


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 40))
def test_largest_batch_is_what_counting_says(m, d, errors):
    allowed = [B for B in range(1, min(m, d) + 1) if errors and B + min(B, errors) < m]
    assert largest_batch(m, d, errors) == max(allowed, default=0)


@pytest.mark.parametrize(
    ("activation", "homogeneous", "odd", "degree"),
    [
        (nn.ReLU(), True, False, None),
        (nn.LeakyReLU(), True, False, None),
        (nn.PReLU(dtype=torch.float64), True, False, None),
        (nn.Tanh(), False, True, None),
        (nn.Sigmoid(), False, True, None),
        (nn.Hardtanh(), False, True, None),
        (nn.GELU(), False, False, None),
        (torch.sin, False, True, None),
        (torch.cos, False, False, None),
        (lambda z: z**3, True, True, 3),
        (lambda z: z**2 + z**3, False, False, 3),
        (lambda z: z**5 - z, False, True, 5),
        (torch.zeros_like, False, True, 0),
    ],
)
def test_symmetries_of_activations(activation, homogeneous, odd, degree):
    assert is_homogeneous(activation) == homogeneous
    assert is_odd(activation) == odd
    assert polynomial_degree(activation) == degree


def test_without_biases_symmetries_hide_scale_and_sign():
    relu = identifiability(two_layers(nn.ReLU(), bias=False), 4)
    assert (relu.scale_known, relu.sign_known) == (False, True)
    assert "up to a positive factor" in relu.explanation
    tanh = identifiability(two_layers(nn.Tanh(), bias=False), 4)
    assert (tanh.scale_known, tanh.sign_known) == (True, False)
    assert "from its negative" in tanh.explanation


def test_an_odd_activation_really_hides_the_sign():
    """The claim itself: negated inputs with opposite errors have the same gradient."""
    model = two_layers(nn.Tanh(), outputs=1, bias=False).double()
    model[2].bias = None
    x = torch.randn(3, 20, dtype=torch.float64)
    y = torch.randn(3, 1, dtype=torch.float64)
    gradients = [
        torch.autograd.grad(nn.functional.mse_loss(model(s * x), s * y), list(model.parameters()))
        for s in (1, -1)
    ]
    for a, b in zip(*gradients, strict=True):
        assert torch.allclose(a, b)


def test_conditioning():
    W = torch.randn(30, 12, dtype=torch.float64)
    assert condition_number(W) == pytest.approx(float(torch.linalg.cond(W)))
    assert condition_number(W.T) == pytest.approx(float(torch.linalg.cond(W)))
    assert condition_number(torch.ones(5, 4)) == math.inf
    model = two_layers(nn.ReLU())
    with torch.no_grad():
        model[0].weight[:, 0] *= 1e-6
    assert "badly conditioned" in identifiability(model, 4).explanation


def test_reads_well():
    text = str(identifiability(two_layers(nn.ReLU()), 8))
    assert "a batch of 8 leaves 8 + 4 unknowns per sample against 64 equations" in text
    assert "0.5000, 0.3989, 0.0000, -0.3989" in text
    assert "nan" not in text
    assert "None" not in text
    tight = identifiability(two_layers(nn.ReLU(), d=100), 40)
    assert "gets hard below 3 hidden units per sample" in tight.explanation


def test_bad_requests_name_themselves():
    model = two_layers(nn.ReLU())
    with pytest.raises(ValueError, match="batch_size=0"):
        identifiability(model, 0)
    with pytest.raises(ValueError, match="loss='hinge'"):
        identifiability(model, 4, loss="hinge")
    with pytest.raises(NotApplicable, match="does not begin with a linear layer"):
        identifiability(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2)))
