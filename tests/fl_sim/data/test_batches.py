"""Batches are pure, without replacement, and walk through the whole share."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_sim.data import batch_indices

sizes = st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))


@given(sizes, st.integers(1, 12), st.integers(0, 2**40), st.integers(0, 99), st.integers(1, 9))
@settings(max_examples=80, deadline=None)
def test_batches(shape, steps, seed, client, server_round):
    images, size = shape
    share = torch.arange(images) * 7 + 3
    where = {"seed": seed, "client": client, "round": server_round}
    batches = batch_indices(share, size, steps=steps, **where)

    assert batches.shape == (steps, size)
    assert set(batches.flatten().tolist()) <= set(share.tolist())
    assert all(len(step.unique()) == size for step in batches)
    # Until the share is used up, no image comes twice.
    first_pass = batches[: images // size].flatten()
    assert len(first_pass.unique()) == len(first_pass)
    # Pure, and more steps do not change the earlier ones.
    longer = batch_indices(share, size, steps=steps + 3, **where)
    assert torch.equal(longer[:steps], batches)


def test_seed_client_and_round_each_matter():
    share = torch.arange(1000)
    base = {"seed": 0, "client": 0, "round": 0}
    drawn = [batch_indices(share, 16, **base)]
    drawn += [batch_indices(share, 16, **(base | {key: 1})) for key in base]
    assert len({tuple(b.flatten().tolist()) for b in drawn}) == 4


def test_the_global_generator_is_left_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    batch_indices(torch.arange(100), 10, seed=1, client=2, round=3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("size", "steps", "message"),
    [
        (32, 1, "Client 3 holds 12 images, fewer than clients.batch_size=32"),
        (0, 1, "clients.batch_size=0"),
        (4, 0, "clients.local_steps=0"),
    ],
)
def test_a_bad_value_is_named(size, steps, message):
    with pytest.raises(ValueError, match=message):
        batch_indices(torch.arange(12), size, seed=0, client=3, round=1, steps=steps)
