"""Bounds: the table's special cases, and the lower bound against one written out by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fl_sim.theory import lower_bound, upper_bound

SIZES = {"B": st.integers(1, 64), "d": st.integers(1, 1000), "m": st.integers(1, 10000)}


def seeded_net(width=12, activation=nn.Tanh):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, width), activation(), nn.Linear(width, 2)).double()


@given(**SIZES, sigma=st.floats(0, 10), K=st.integers(1, 9), p=st.floats(0, 0.9))
def test_each_defence_alone_is_the_papers_row(B, d, m, sigma, K, p):
    rate = math.sqrt(d / m)
    assert upper_bound(B, d, m) == pytest.approx(B * rate)
    assert upper_bound(B, d, m, steps=K) == pytest.approx(K * B * rate)
    assert upper_bound(B, d, m, noise=sigma) == pytest.approx((B + sigma) * rate)
    assert upper_bound(B, d, m, noise=sigma, overshoot=3) == pytest.approx((B + 3 * sigma) * rate)
    assert upper_bound(B, d, m, noise=sigma, overshoot=0.3) == pytest.approx((B + sigma) * rate)
    assert upper_bound(B, d, m, dropout=p) == pytest.approx(B * math.sqrt(d / ((1 - p) * m)))


@pytest.mark.parametrize("bad", [{"B": 0}, {"m": 0}, {"dropout": 1.0}, {"noise": -1}])
def test_values_out_of_range_are_refused_by_name(bad):
    with pytest.raises(ValueError, match=f"{next(iter(bad))}="):
        upper_bound(**{"B": 1, "d": 1, "m": 1, **bad})


def test_the_lower_bound_is_that_of_finite_differences():
    model = seeded_net()
    x = torch.tensor([[0.3, -1.0, 0.5], [1.2, 0.1, -0.4]], dtype=torch.float64)
    y = torch.tensor([0, 1])

    def gradient(inputs):
        value = nn.functional.cross_entropy(model(inputs), y)
        return torch.cat([g.flatten() for g in torch.autograd.grad(value, model.parameters())])

    steps = 1e-6 * torch.eye(6, dtype=torch.float64).reshape(6, 2, 3)
    J = torch.stack([(gradient(x + s) - gradient(x - s)) / 2e-6 for s in steps])  # (6, parameters)
    expected = float(0.1**2 * torch.linalg.inv(J @ J.T).trace())
    assert lower_bound(model, x, y, "cross_entropy", 0.1) == pytest.approx(expected, rel=1e-5)


def test_more_noise_costs_its_square_and_a_blind_model_everything():
    model, x, y = seeded_net(), torch.randn(2, 3, dtype=torch.float64), torch.tensor([0, 1])
    one, ten = (lower_bound(model, x, y, "cross_entropy", s) for s in (0.1, 1.0))
    assert ten == pytest.approx(100 * one)
    dead = seeded_net(width=2, activation=nn.ReLU)
    with torch.no_grad():
        dead[0].weight.zero_()
        dead[0].bias.fill_(-1.0)
    assert lower_bound(dead, x, y, "cross_entropy", 0.1) == math.inf
    with pytest.raises(ValueError, match="std=-1"):
        lower_bound(model, x, y, "cross_entropy", -1)
