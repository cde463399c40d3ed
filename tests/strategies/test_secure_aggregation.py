"""Under secure aggregation the server sees the cohort's weighted sum, once, and nothing else."""

import pytest
import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict

from attacks import Knowledge
from fl_sim.display import Display
from fl_sim.scenario import run_scenario
from strategies import COHORT, InvalidUpdate, SecureAggregation, SeededCohort
from strategies.secure_aggregation import pooled, weighted_mean
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
from tests.strategies.test_adversary import true_gradient


def secured(attack, **settings):
    cohort = SeededCohort(fedavg(), per_round=3, seed=3)
    settings = {"lr": LR, "client_of": cohort.client_of, **settings}
    return SecureAggregation(cohort, attack, build_model, **settings)


def reply(values, weight):
    message = Message(RecordDict(), dst_node_id=1, message_type="train")
    content = RecordDict({"arrays": ArrayRecord({"w": values})})
    if weight is not None:
        content["metrics"] = MetricRecord({"num-examples": weight})
    return Message(content, reply_to=message)


def test_one_attack_per_round_sees_the_mean_gradient_of_the_cohort():
    spy = Spy()
    strategy = secured(spy)
    run(strategy, rounds=2)
    assert [o.client for o in strategy.observations] == [COHORT, COHORT]
    assert [o.clients for o in strategy.observations] == [(0, 1, 2)] * 2
    assert len(spy.problems) == 2
    truth = [true_gradient(client, 1, initial_arrays()) for client in range(3)]
    for name, gradient in spy.problems[0].gradient.items():
        mean = sum(t[name] for t in truth).double() / 3
        assert torch.allclose(gradient, mean, rtol=1e-4, atol=1e-6)
        assert not any(torch.allclose(gradient, t[name].double(), rtol=1e-2) for t in truth)


def test_replies_of_clients_with_one_name_are_all_in_the_sum():
    spies = []
    for says in (None, lambda client: 7):
        spies.append(spy := Spy())
        strategy = secured(spy)
        run(strategy, rounds=1, app=client_app(says=says))
    assert strategy.observations[0].clients == (7, 7, 7)
    assert not strategy.observations[0].message
    named, alike = (spy.problems[0].gradient for spy in spies)
    assert all(torch.allclose(named[name], alike[name]) for name in named)


def test_clients_are_weighted_by_the_examples_they_assert():
    run(fedavg(), rounds=1)  # messages need a grid's identity
    replies = [reply(torch.tensor([0.0, 3.0]), 1), reply(torch.tensor([9.0, 0.0]), 2)]
    mean = weighted_mean(replies, ArrayRecord({"w": torch.zeros(2)}), ["w"])
    assert mean["w"].numpy() == pytest.approx([6.0, 1.0])


def test_pooled_batch_statistics_are_those_of_the_union():
    batches = torch.randn(3, 7, 4, generator=torch.Generator().manual_seed(0))
    grants = [
        Knowledge(batchnorm_statistics={"bn": (x.mean(0), x.var(0, unbiased=False))})
        for x in batches
    ]
    mean, variance = pooled(grants).batchnorm_statistics["bn"]
    union = batches.flatten(0, 1)
    assert torch.allclose(mean, union.mean(0), atol=1e-6)
    assert torch.allclose(variance, union.var(0, unbiased=False), atol=1e-6)
    assert pooled([*grants, Knowledge()]).batchnorm_statistics is None


@pytest.mark.parametrize("weight", [None, 0, -1])
def test_a_reply_without_a_weight_is_named(weight):
    with pytest.raises(InvalidUpdate, match="num-examples"):
        weighted_mean([reply(torch.zeros(2), weight)], ArrayRecord({"w": torch.zeros(2)}), ["w"])


def test_training_is_the_same_bit_for_bit():
    _, with_attack = run(secured(Spy()))
    _, without = run(SeededCohort(fedavg(), per_round=3, seed=3))
    assert same_bits(with_attack, without)


def test_a_client_that_fails_is_left_out_of_the_sum():
    def broken(client, state):
        if client == 1:
            raise RuntimeError("gone")
        return state

    strategy = secured(Spy())
    run(strategy, rounds=1, app=client_app(broken))
    (observation,) = strategy.observations
    assert observation.clients == (0, 2)
    assert observation.status == "ok"
    assert "1 of 3 clients" in observation.message


def test_a_broken_update_spoils_the_sum_and_is_reported():
    def broken(client, state):
        return {**state, "0.bias": torch.full((8,), torch.nan)} if client == 1 else state

    strategy = secured(Spy())
    run(strategy, rounds=1, app=client_app(broken))
    (observation,) = strategy.observations
    assert observation.status == "invalid_update"
    assert "NaN" in observation.message


def test_grants_are_pooled_over_the_cohort():
    one = Knowledge(labels=torch.tensor([1, 2]), batch_size=2, data_range=(0, 1))
    other = Knowledge(labels=torch.tensor([7]), batch_size=1, data_range=(0, 1))
    both = pooled([one, other])
    assert both.labels.tolist() == [1, 2, 7]
    assert both.batch_size == 3
    assert both.data_range == (0, 1)
    assert pooled([one, Knowledge()]).names == ("data_range",)


@pytest.mark.parametrize("reply", ["weights", "gradient"])
def test_the_union_of_the_batches_is_read_from_the_sum(scenario, tmp_path, reply):
    overrides = ["clients.per_round=4", "clients.batch_size=4", "model.width=512"]
    config = scenario(
        "tracker=none", "strategy=secure_aggregation", f"clients.reply={reply}", *overrides
    )
    results = run_scenario(config, tmp_path, Display(brief=True))
    (row,) = results.attacks
    assert (row.client, row.clients) == (-1, [0, 1, 2, 3])
    assert row.batch_size == row.recovered == row.certified == 16
    assert row.false_certificates == 0
    assert "4 clients" in row.subject


@pytest.mark.slow
def test_four_clients_of_32_images_are_read_whole(scenario, tmp_path):
    config = scenario(
        "tracker=none", "strategy=secure_aggregation", "clients.per_round=4", "model.width=2048"
    )
    summary = run_scenario(config, tmp_path, Display(brief=True)).summary()
    assert summary["recovered"] == summary["batch_size"] == 128
    assert summary["false_certificates"] == 0
    assert summary["certified"] >= 100  # some might be nodes on a line between others


def test_only_the_rounds_asked_for_are_attacked():
    strategy = secured(Spy(), rounds=[2])
    run(strategy, rounds=3)
    assert [o.round for o in strategy.observations] == [2]
