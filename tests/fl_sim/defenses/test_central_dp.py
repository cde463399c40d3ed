"""Central DP on the server: a bounded step plus noise of the promised size, drawn by seed."""

import math

import numpy as np
import pytest
import torch

from fl_sim.defenses import CentralDp, Cohort
from strategies import SeededCohort
from tests.strategies.apps import fedavg, initial_arrays, run, same_bits


def aggregated(seed=0, **settings):
    strategy = CentralDp(**settings).on_server(fedavg(), Cohort(3, 2, "weights", seed))
    return run(SeededCohort(strategy, per_round=2, seed=3), rounds=1)[1]


def moved(arrays):
    start = initial_arrays()
    return np.concatenate([(arrays[k] - start[k].numpy()).ravel() for k in arrays])


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_step_is_bounded_by_the_clipping_norm(adaptive):
    free = moved(aggregated(clipping_norm=1e6, noise_multiplier=0))
    step = moved(aggregated(clipping_norm=0.01, noise_multiplier=0, adaptive=adaptive))
    assert np.linalg.norm(free) > 0.05
    assert np.linalg.norm(step) <= 0.01 * (1 + 1e-3)


def test_the_noise_has_the_promised_scale():
    quiet = moved(aggregated(clipping_norm=0.5, noise_multiplier=0))
    noisy = moved(aggregated(clipping_norm=0.5, noise_multiplier=40))
    assert len(quiet) == 67
    expected = 40 * 0.5 / 2
    assert abs((noisy - quiet).std() / expected - 1) < 4 / math.sqrt(2 * len(quiet))


def test_the_noise_is_drawn_by_seed_and_leaves_no_trace():
    before = np.random.get_state()[1].copy()
    one, again, other = (aggregated(seed=s, noise_multiplier=1) for s in (1, 1, 2))
    assert same_bits(one, again)
    assert not same_bits(one, other)
    assert (np.random.get_state()[1] == before).all()
    assert torch.isfinite(torch.as_tensor(moved(one))).all()
