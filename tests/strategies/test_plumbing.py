"""Updates, cohorts, limits and FedSGD: what adversaries stand on."""

import time

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedMedian, FedYogi
from hypothesis import given, settings
from hypothesis import strategies as st

from attacks import Interrupted
from strategies import (
    DropInvalidUpdates,
    FedSGD,
    HonestButCurious,
    InvalidUpdate,
    SeededCohort,
    UpdateRule,
    sample_cohort,
)
from strategies.limits import TimedOut, with_timeout
from tests.strategies.apps import (
    LR,
    Spy,
    build_model,
    client_app,
    fedavg,
    initial_arrays,
    run,
    same_bits,
)


def record(**tensors):
    return ArrayRecord({name: Array(np.asarray(value)) for name, value in tensors.items()})


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**16), lr=st.sampled_from([0.01, 0.1, 1.0]), steps=st.integers(1, 8))
def test_weights_become_the_gradient_up_to_float32_rounding(seed, lr, steps):
    generator = torch.Generator().manual_seed(seed)
    sent = torch.randn(6, 5, generator=generator)
    gradient = torch.randn(6, 5, generator=generator)
    returned = sent - lr * steps * gradient
    rule = UpdateRule("weights", lr, steps)
    found = rule.gradient(record(w=returned), record(w=sent), ["w"])["w"]
    assert found.dtype == torch.float64
    bound = 2 * torch.finfo(torch.float32).eps * (sent.abs() / (lr * steps) + gradient.abs())
    assert torch.all((found - gradient).abs() <= bound)


def test_a_gradient_reply_passes_as_it_is():
    gradient = np.float32([[1, 2]])
    rule = UpdateRule("gradient")
    found = rule.gradient(record(w=gradient), record(w=gradient * 0, buffer=gradient), ["w"])
    assert torch.equal(found["w"], torch.tensor([[1.0, 2.0]]))


@pytest.mark.parametrize(
    ("returned", "sentence"),
    [
        ({"a": [1.0]}, "lacks 'b'"),
        ({"a": [1.0], "b": [1.0], "c": [1.0]}, "'c', which was not sent"),
        ({"a": [1.0], "b": [1.0, 2.0]}, r"'b' has shape \(2,\) in the update, \(1,\) as sent"),
        ({"a": [np.inf], "b": [1.0]}, "'a' contains infinite values"),
    ],
)
def test_an_invalid_update_is_named(returned, sentence):
    with pytest.raises(InvalidUpdate, match=sentence):
        UpdateRule("weights", 0.1).gradient(
            record(**returned), record(a=[0.0], b=[0.0]), ["a", "b"]
        )


@given(count=st.integers(1, 200), data=st.data())
def test_a_cohort_is_drawn_without_replacement_and_reproducibly(count, data):
    per_round = data.draw(st.integers(1, count))
    seed, server_round = data.draw(st.integers(0, 99)), data.draw(st.integers(1, 99))
    cohort = sample_cohort(count, per_round, seed, server_round)
    assert len(set(cohort)) == per_round
    assert cohort == sorted(cohort) == sample_cohort(count, per_round, seed, server_round)
    assert all(0 <= client < count for client in cohort)


def test_cohorts_follow_the_seed_and_differ_between_rounds():
    def cohorts(seed):
        strategy = SeededCohort(fedavg(), per_round=3, seed=seed)
        adversary = HonestButCurious(
            strategy, Spy(), build_model, lr=LR, client_of=strategy.client_of
        )
        run(adversary, clients=20, rounds=4)
        return [(o.round, o.client) for o in adversary.observations]

    assert cohorts(0) == cohorts(0) != cohorts(1)
    assert len({client for _, client in cohorts(0)}) > 3


def test_dropping_invalid_updates_leaves_valid_rounds_alone():
    _, plain = run(SeededCohort(fedavg(), per_round=3))
    _, guarded = run(SeededCohort(DropInvalidUpdates(fedavg()), per_round=3))
    assert same_bits(plain, guarded)


ADAPTIVE = {
    "FedAvg": (FedAvg, {}),
    "FedAvgM": (FedAvgM, {"server_learning_rate": 0.7, "server_momentum": 0.9}),
    "FedAdam": (FedAdam, {}),
    "FedAdagrad": (FedAdagrad, {}),
    "FedYogi": (FedYogi, {}),
    "FedMedian": (FedMedian, {}),
}


@pytest.mark.parametrize("name", ADAPTIVE)
def test_fedsgd_does_what_the_strategy_does_with_weights_after_one_step(name):
    """The mean of (w - lr g_i) is w - lr mean(g_i), and so on for whatever looks at weights."""
    kind, extra = ADAPTIVE[name]

    def strategy():
        return kind(fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1, **extra)

    _, trained = run(SeededCohort(strategy(), per_round=3), rounds=3)
    _, stepped = run(
        SeededCohort(FedSGD(strategy(), lr=LR), per_round=3),
        rounds=3,
        app=client_app(gradient=True),
    )
    for name, value in trained.items():
        assert np.allclose(value, stepped[name], atol=2e-6)
        assert stepped[name].dtype == np.float32
    assert max(np.abs(v - initial_arrays()[n].numpy()).max() for n, v in stepped.items()) > 0.03


def test_fedsgd_leaves_names_without_a_gradient_alone():
    counted = ArrayRecord({**initial_arrays(), "count": Array(np.array([3, 2**40]))})

    strategy = SeededCohort(FedSGD(fedavg(), lr=LR), per_round=3)
    app = client_app(gradient=True)
    _, stepped = run(strategy, rounds=2, app=app, arrays=counted)
    assert stepped["count"].tolist() == [3, 2**40]
    assert stepped["count"].dtype == np.int64
    assert not np.array_equal(stepped["0.weight"], initial_arrays()["0.weight"].numpy())


def test_fedsgd_refuses_a_learning_rate_that_is_not_positive():
    with pytest.raises(ValueError, match=r"lr=0.0"):
        FedSGD(fedavg(), lr=0.0)


def test_a_result_in_time_is_returned():
    assert with_timeout(lambda: 42, None) == (42, False)
    assert with_timeout(lambda: 42, 5.0) == (42, False)


def test_an_error_comes_through():
    with pytest.raises(ZeroDivisionError):
        with_timeout(lambda: 1 / 0, 5.0)


def test_a_function_out_of_time_is_interrupted_and_may_answer():
    def polite():
        try:
            while True:
                time.sleep(0.01)
        except Interrupted:
            return "what I have"

    assert with_timeout(polite, 0.1) == ("what I have", True)


def test_a_function_without_an_answer_times_out():
    def stubborn():
        while True:
            time.sleep(0.01)

    with pytest.raises(TimedOut, match=r"after 0.1 s"):
        with_timeout(stubborn, 0.1)
