"""Student's interval: against tables, and by how often it holds what it promises."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_sim.evaluation.confidence import estimate

# values, 95 % half width by a printed table of t (n - 1 degrees of freedom) times s / sqrt(n)
TABLE = [([1.0, 3.0], 12.706), ([1.0, 2.0, 3.0], 4.303 / 3**0.5), ([0.0, 1.0, 2.0, 3.0], 2.054)]


@pytest.mark.parametrize(("values", "half"), TABLE)
def test_it_agrees_with_a_printed_table(values, half):
    found = estimate(values)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.half == pytest.approx(half, rel=1e-3)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=9), st.floats(-1e3, 1e3))
def test_it_moves_with_the_values_and_ignores_what_is_missing(values, shift):
    one, other = estimate(values), estimate([*[v + shift for v in values], None])
    assert other.count == one.count == len(values)
    assert other.mean == pytest.approx(one.mean + shift, abs=1e-6)
    assert other.half == pytest.approx(one.half, abs=1e-6)
    assert estimate(values, level=0.5).half <= one.half


def test_it_covers_the_truth_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(7.0, 2.0, (2000, 3))
    held = [abs(e.mean - 7.0) <= e.half for e in map(estimate, draws.tolist())]
    assert 0.93 < np.mean(held) < 0.97


def test_of_one_value_or_none_nothing_is_claimed():
    assert estimate([4.0]).half is None
    assert estimate([None]) is None
    with pytest.raises(ValueError, match="level=1"):
        estimate([1.0], level=1)
