"""A symmetric tensor of known factors gives them back, up to order and sign."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attacks.tensor.decomposition import (
    cubic_weights,
    joint_diagonaliser,
    rebuild,
    symmetric_cp,
)
from attacks.tensor.hermite import symmetrise


def construct(n, rank, seed):
    """Unit factors (n, rank) in general position, weights of either sign, and the generator."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(n, n, generator=generator, dtype=torch.float64)
    orthogonal = torch.linalg.qr(draws)[0]
    skew = torch.randn(n, n, generator=generator, dtype=torch.float64) / n
    vectors = (orthogonal + 0.5 * skew)[:, :rank]
    weights = 0.5 + torch.rand(rank, generator=generator, dtype=torch.float64)
    signs = torch.randn(rank, generator=generator, dtype=torch.float64).sign()
    return vectors / vectors.norm(dim=0), weights * signs, generator


def distances(found, truth):
    """Per true factor: 1 - |cosine| to the nearest found one."""
    return 1 - (truth.T @ found).abs().max(1).values


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 8), st.integers(0, 10**6))
def test_recovers_constructed_factors(n, seed):
    vectors, weights, generator = construct(n, n, seed)
    found, found_weights = symmetric_cp(rebuild(vectors, weights), n, 40, generator)
    assert distances(found, vectors).max() < 1e-9
    assert torch.allclose(found_weights.abs().sort().values, weights.abs().sort().values)
    assert torch.allclose(rebuild(found, found_weights), rebuild(vectors, weights), atol=1e-9)


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 8), st.integers(0, 10**6))
def test_small_noise_moves_factors_a_little(n, seed):
    vectors, weights, generator = construct(n, n, seed)
    noise = symmetrise(torch.randn(n, n, n, generator=generator, dtype=torch.float64))
    T = rebuild(vectors, weights) + 1e-4 * noise / noise.norm()
    found, _ = symmetric_cp(T, n, 40, generator)
    assert distances(found, vectors).max() < 1e-5


def test_keeps_the_strongest_of_a_higher_rank():
    vectors, _, generator = construct(5, 5, 3)
    weights = torch.tensor([1.0, -2.0, 3.0, 1e-3, 2e-3], dtype=torch.float64)
    found, _ = symmetric_cp(rebuild(vectors, weights), 3, 40, generator)
    assert distances(found, vectors[:, :3]).max() < 1e-6


def test_weights_are_least_squares():
    vectors, weights, _ = construct(4, 4, 0)
    assert torch.allclose(cubic_weights(rebuild(vectors, weights), vectors), weights)


def test_diagonalises_jointly():
    vectors, _, generator = construct(6, 6, 1)
    diagonals = torch.randn(9, 6, generator=generator, dtype=torch.float64)
    C = vectors @ torch.diag_embed(diagonals) @ vectors.T
    U = joint_diagonaliser(C)
    D = U @ C @ U.T
    assert (D - torch.diag_embed(D.diagonal(dim1=1, dim2=2))).abs().max() < 1e-8
    assert torch.allclose(U.norm(dim=1), torch.ones(6, dtype=torch.float64))


@pytest.mark.parametrize("rank", [0, 4])
def test_refuses_impossible_ranks(rank):
    with pytest.raises(ValueError, match=f"rank={rank}"):
        symmetric_cp(torch.zeros(3, 3, 3), rank, 10, torch.Generator())


def test_refuses_what_is_not_finite():
    with pytest.raises(ValueError, match="not finite"):
        symmetric_cp(torch.full((2, 2, 2), float("nan")), 2, 10, torch.Generator())
