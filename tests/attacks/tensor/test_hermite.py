"""Hermite tensors by exact quadrature: orthogonality, Stein's identity, a table of moments."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from attacks.tensor.activation import probe
from attacks.tensor.hermite import (
    contracted_moment,
    gaussian_moments,
    hermite_sum,
    stein_moment,
    symmetrise,
)

coordinates = st.floats(-1.5, 1.5, allow_nan=False)
vectors = st.lists(coordinates, min_size=2, max_size=2).map(
    lambda v: torch.tensor(v, dtype=torch.float64)
)
polynomials = st.lists(coordinates, min_size=6, max_size=6).map(np.polynomial.Polynomial)


def gaussian_grid(nodes=12):
    """Points and weights that integrate polynomials of w ~ N(0, I_2) exactly."""
    t, weights = np.polynomial.hermite_e.hermegauss(nodes)
    t, weights = torch.from_numpy(t), torch.from_numpy(weights / math.sqrt(2 * math.pi))
    return torch.cartesian_prod(t, t), torch.outer(weights, weights).flatten()


POINTS, WEIGHTS = gaussian_grid()


def along(T, v):
    """T(v, .., v) over all axes but the first."""
    while T.dim() > 1:
        T = T @ v
    return T


def power(v, k):
    """v (x) .. (x) v."""
    T = torch.ones((), dtype=torch.float64)
    for _ in range(k):
        T = T[..., None] * v
    return T


def expected(polynomial, k, x):
    """E s^(k)(w . x) by quadrature."""
    derivative = polynomial.deriv(k) if k else polynomial
    return float(WEIGHTS @ torch.from_numpy(derivative((POINTS @ x).numpy())))


@settings(deadline=None)
@given(vectors, vectors, st.integers(0, 3), st.integers(0, 3))
def test_hermite_tensors_are_orthogonal(u, v, j, k):
    each = torch.eye(len(POINTS), dtype=torch.float64)
    product = along(hermite_sum(POINTS, each, j), u) * along(hermite_sum(POINTS, each, k), v)
    truth = math.factorial(k) * float(u @ v) ** k if j == k else 0.0
    assert float(WEIGHTS @ product) == pytest.approx(truth, abs=1e-9)


@settings(deadline=None)
@given(polynomials, vectors, st.integers(1, 3))
def test_steins_identity_for_scalars(s, x, k):
    g = torch.from_numpy(s((POINTS @ x).numpy()))
    T = stein_moment(POINTS, g * WEIGHTS * len(POINTS), k)
    assert torch.allclose(T, expected(s, k, x) * power(x, k), atol=1e-8)


@settings(deadline=None)
@given(polynomials, vectors, st.integers(1, 4))
def test_steins_identity_for_vectors(s, x, k):
    slope = torch.from_numpy(s.deriv()((POINTS @ x).numpy()))
    T = stein_moment(POINTS, (slope * WEIGHTS * len(POINTS))[:, None] * x, k)
    assert torch.allclose(T, expected(s, k, x) * power(x, k), atol=1e-8)


@settings(deadline=None)
@given(polynomials, vectors, vectors, st.integers(2, 4))
def test_contracted_moments_reach_one_order_higher(s, x, a, k):
    z = (POINTS @ x).numpy()
    scalar = torch.from_numpy(s(z)) * WEIGHTS * len(POINTS)
    vector = (torch.from_numpy(s.deriv()(z)) * WEIGHTS * len(POINTS))[:, None] * x
    truth = expected(s, k, x) * float(x @ a) * power(x, k - 1)
    for field in (scalar, vector):
        assert torch.allclose(contracted_moment(POINTS, field, k, a), truth, atol=1e-8)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 4))
def test_contraction_agrees_with_the_full_tensor(seed, k):
    generator = torch.Generator().manual_seed(seed)
    points, field = torch.randn(2, 7, 3, generator=generator, dtype=torch.float64)
    a = torch.randn(3, generator=generator, dtype=torch.float64)
    full = stein_moment(points, field, k) @ a
    assert torch.allclose(contracted_moment(points, field, k, a), full, atol=1e-10)
    if k < 4:
        full = stein_moment(points, field[:, 0], k) @ a
        assert torch.allclose(contracted_moment(points, field[:, 0], k, a), full, atol=1e-10)


def test_chunks_of_rows_change_nothing(monkeypatch):
    points = torch.randn(50, 3, dtype=torch.float64)
    whole = hermite_sum(points, points, 3)
    monkeypatch.setattr("attacks.tensor.hermite.CHUNK", 1)
    assert torch.allclose(hermite_sum(points, points, 3), whole)


def test_symmetrise_is_a_projection():
    T = torch.randn(3, 3, 3, dtype=torch.float64)
    S = symmetrise(T)
    assert torch.allclose(S, S.permute(2, 0, 1))
    assert torch.allclose(symmetrise(S), S)


MOMENTS = {
    nn.ReLU: (0.5, 0.3989, 0, -0.3989),
    nn.Tanh: (0.6057, 0, -0.3636, 0),
    nn.Sigmoid: (0.2066, 0, -0.0624, 0),
    nn.GELU: (0.5, 0.4231, 0, -0.3526),
    nn.SiLU: (0.5, 0.3508, 0, -0.1852),
    nn.Softplus: (0.5, 0.2066, 0, -0.0624),
    nn.ELU: (0.7616, 0.2616, -0.1374, -0.1374),
    nn.SELU: (0.9852, 0.1777, -0.2415, 0.0407),
}


@pytest.mark.parametrize(("activation", "truth"), MOMENTS.items())
def test_moments_of_activations(activation, truth):
    s = probe(activation())
    assert gaussian_moments(s.function, s.kinks) == pytest.approx(truth, abs=6e-5)


@pytest.mark.parametrize("std", [0.3, 1.0, 2.5])
def test_moments_at_other_scales(std):
    decay = math.exp(-(std**2) / 2)
    assert gaussian_moments(torch.sin, std=std) == pytest.approx((decay, 0, -decay, 0), abs=1e-8)
    clipped = gaussian_moments(nn.Hardtanh(), torch.tensor([-1.0, 1.0]), 1, std)
    assert clipped == pytest.approx([math.erf(1 / (std * math.sqrt(2)))], abs=1e-10)


def test_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="orders 0 to 3, not 4"):
        hermite_sum(POINTS, POINTS, 4)
    with pytest.raises(ValueError, match="deviation is -1"):
        gaussian_moments(torch.tanh, std=-1)
