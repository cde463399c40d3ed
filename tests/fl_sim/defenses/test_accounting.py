"""The accountant agrees with closed forms and with an independent implementation's figures."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_sim.defenses.accounting import epsilon_of, renyi

# noise multiplier, steps, rate, and the epsilon at delta = 1e-5 that Opacus' RDP accountant gives
# with its finer set of orders
REFERENCE = [
    (1.1, 14040, 256 / 60000, 2.5944),
    (1.0, 1000, 0.01, 2.1014),
    (2.0, 10, 1.0, 8.0794),
    (0.8, 50, 0.1, 9.2340),
]


@pytest.mark.parametrize(("sigma", "steps", "rate", "reference"), REFERENCE)
def test_it_agrees_with_opacus_and_is_never_below(sigma, steps, rate, reference):
    epsilon = epsilon_of(sigma, steps, rate, 1e-5)
    assert reference - 1e-3 <= epsilon <= 1.05 * reference


def test_order_two_has_a_closed_form():
    """log(1 + q^2 (e^(1/sigma^2) - 1)), Mironov et al. 2019."""
    expected = math.log1p(0.05**2 * (math.exp(1 / 1.3**2) - 1))
    assert renyi(1.3, 0.05, 2) == pytest.approx(expected)


@settings(deadline=None, max_examples=50)
@given(
    sigma=st.floats(0.3, 10),
    rate=st.floats(0.001, 1),
    steps=st.integers(1, 1000),
    delta=st.floats(1e-9, 1e-2),
)
def test_more_noise_fewer_looks_smaller_shares_buy_privacy(sigma, rate, steps, delta):
    epsilon = epsilon_of(sigma, steps, rate, delta)
    slack = epsilon * (1 + 1e-9) + 1e-9
    assert 0 <= epsilon < math.inf
    assert epsilon_of(2 * sigma, steps, rate, delta) <= slack
    assert epsilon_of(sigma, steps, rate / 2, delta) <= slack
    assert epsilon_of(sigma, steps, rate, min(2 * delta, 0.5)) <= slack
    assert epsilon <= epsilon_of(sigma, steps + 1, rate, delta) * (1 + 1e-9)


def test_no_noise_is_no_privacy_and_no_look_is_perfect():
    assert epsilon_of(0, 1, 0.5, 1e-5) == math.inf
    assert epsilon_of(0, 0, 0.5, 1e-5) == 0


@pytest.mark.parametrize(("rate", "delta"), [(0, 1e-5), (1.1, 1e-5), (0.5, 0), (0.5, 1)])
def test_values_out_of_range_are_refused(rate, delta):
    with pytest.raises(ValueError, match=r"rate|delta"):
        epsilon_of(1.0, 1, rate, delta)
