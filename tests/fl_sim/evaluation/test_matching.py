"""The matching recovers permutations and survives whatever an attack returns."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from fl_sim.evaluation.matching import match, squared_distances


def samples(seed, count, dimension=6):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, dimension, generator=generator, dtype=torch.float64)


@given(
    st.integers(0, 2**32),
    st.integers(1, 12),
    st.integers(0, 12),
    st.integers(0, 4),
    st.floats(0, 1e-3),
)
@settings(max_examples=80, deadline=None)
def test_a_permuted_part_is_recognised_among_strangers(seed, count, kept, strangers, noise):
    truth = samples(seed, count)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(count, generator=generator)[:kept]
    found = truth[order] + noise * samples(seed + 1, len(order))
    found = torch.cat([found, 50 + samples(seed + 2, strangers)])
    pairs = match(truth, found)
    assert all(pairs[sample] == row for row, sample in enumerate(order))
    assert int((pairs >= 0).sum()) == min(count, len(found))
    used = pairs[pairs >= 0]
    assert len(used.unique()) == len(used)


@given(st.integers(0, 2**32), st.integers(1, 8), st.integers(1, 8))
@settings(max_examples=50, deadline=None)
def test_without_exact_pairs_it_is_the_hungarian_assignment(seed, count, rows):
    truth, found = samples(seed, count), samples(seed + 1, rows)
    cost = squared_distances(truth, found)
    best = cost[linear_sum_assignment(cost.numpy())].sum()
    pairs = match(truth, found)
    chosen = cost[pairs >= 0, pairs[pairs >= 0]].sum()
    assert chosen.item() == pytest.approx(best.item(), rel=1e-9)


def test_a_wild_reconstruction_does_not_break_an_exact_pair():
    truth = torch.tensor([[1.0], [10.0]])
    found = torch.tensor([[1.0], [-10.0]])
    # 0 + 400 for the pairs that belong together, 121 + 81 for the others.
    assert match(truth, found).tolist() == [0, 1]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_rows_that_are_not_finite_are_never_paired(bad):
    truth = samples(0, 3)
    found = torch.cat([torch.full((2, 6), bad, dtype=torch.float64), truth[[2, 0]]])
    assert match(truth, found).tolist() == [3, -1, 2]
    assert match(truth, found[:2]).tolist() == [-1, -1, -1]


def test_huge_values_do_not_overflow():
    truth = samples(0, 2).float()
    found = torch.stack([torch.full((6,), 3e38), truth[0]])
    assert match(truth, found).tolist() == [1, 0]


def test_nothing_found_and_nothing_true():
    assert match(samples(0, 3), torch.zeros(0, 6)).tolist() == [-1, -1, -1]
    assert match(torch.zeros(0, 6), samples(0, 3)).tolist() == []


def test_black_images_match():
    truth = torch.stack([torch.zeros(4), torch.ones(4)])
    assert match(truth, truth.flip(0)).tolist() == [1, 0]
    assert match(truth[:1], truth[:1]).tolist() == [0]
