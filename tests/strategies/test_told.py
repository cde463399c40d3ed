"""What a strategy tells its clients: clients follow, the adversary reckons with it, and nobody else
sees a difference."""

import copy

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, RecordDict
from flwr.serverapp.strategy import FedAvg, FedProx

from attacks.base import LocalWork
from strategies import FedSGD, HonestButCurious, SecureAggregation, SeededCohort
from strategies.told import PROXIMAL_SGD, as_told, told
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
from tests.strategies.following import following_app, run_told
from tests.strategies.scenarios import SMALL, aggregation, run_watched
from tests.strategies.test_adversary import true_gradient
from tests.strategies.test_every_strategy import FIVE

ALONE = {"fraction_evaluate": 0.0, "min_train_nodes": 1, "min_available_nodes": 1}


class Decaying(FedAvg):
    """Halves the clients' learning rate from round to round, as Flower's documentation shows."""

    def configure_train(self, server_round, arrays, config, grid):
        if server_round > 1:
            config["lr"] = float(config["lr"]) / 2
        return super().configure_train(server_round, arrays, config, grid)


class OneSlower(FedAvg):
    """Tells one client to go slower than the others."""

    def configure_train(self, server_round, arrays, config, grid):
        messages = list(super().configure_train(server_round, arrays, config, grid))
        first = min(messages, key=lambda message: message.metadata.dst_node_id)
        first.content = copy.deepcopy(first.content)
        first.content["config"]["lr"] = 0.01
        return messages


@pytest.mark.parametrize("reply", ["weights", "gradient"])
def test_a_learning_rate_that_the_strategy_changes_is_followed(
    reply, scenario, tmp_path, monkeypatch
):
    def run(name):
        (folder := tmp_path / name).mkdir()
        config = scenario(
            *SMALL, *FIVE, f"clients.reply={reply}", "clients.lr=0.2",
            *aggregation(name if name == "FedAvg" else f"{__name__}.{name}"),
        )  # fmt: skip
        return run_watched(config, folder, monkeypatch)

    plain, decaying = run("FedAvg"), run("Decaying")
    assert np.array_equal(plain.moved(1), decaying.moved(1))
    assert np.allclose(plain.moved(2) / 2, decaying.moved(2), atol=1e-7)
    assert np.abs(plain.moved(2)).max() > 1e-4


@pytest.mark.parametrize("more", [(), ("strategy=secure_aggregation",)])
def test_an_attack_reads_exactly_after_the_strategy_has_changed_the_rate(
    more, scenario, tmp_path, monkeypatch
):
    config = scenario(
        "tracker=none", *more, "rounds=3", "clients.batch_size=4", "model.width=512",
        *aggregation(__name__ + ".Decaying"),
    )  # fmt: skip
    rows = run_watched(config, tmp_path, monkeypatch).results.attacks
    assert [row.recovered for row in rows] == [row.batch_size for row in rows]
    assert sum(row.false_certificates for row in rows) == 0


def test_each_client_is_read_at_the_rate_it_was_told():
    spy, app = Spy(), following_app()
    adversary = HonestButCurious(OneSlower(**ALONE), spy, build_model)
    run_told(adversary, app, {"lr": LR})
    assert sorted(problem.local.lr for problem in spy.problems) == [0.01, LR, LR]
    for observation, problem in zip(adversary.observations, spy.problems, strict=True):
        truth = true_gradient(observation.client, 1, initial_arrays())
        for name, gradient in problem.gradient.items():
            assert torch.allclose(gradient, truth[name].double(), rtol=1e-3, atol=1e-4)


def test_a_sum_of_unlike_work_is_no_gradient():
    adversary = SecureAggregation(OneSlower(**ALONE), Spy(), build_model)
    run_told(adversary, following_app(), {"lr": LR})
    (observation,) = adversary.observations
    assert observation.status == "invalid_update"
    assert "told to work differently" in observation.message


def test_fedsgd_steps_at_the_rate_that_was_sent():
    def stepped(rate, **sent):
        strategy = FedSGD(SeededCohort(fedavg(), per_round=3), lr=rate)
        return run_told(strategy, client_app(gradient=True), sent)

    assert same_bits(stepped(0.25), stepped(0.5, lr=0.25))
    assert not same_bits(stepped(0.5), stepped(0.5, lr=0.25))


@pytest.mark.parametrize(
    ("steps", "optimizer", "mu", "expected"),
    [
        (1, "sgd", 10.0, "sgd"),  # the term has no gradient at the weights sent
        (3, "sgd", 0.0, "sgd"),
        (3, "sgd", None, "sgd"),
        (3, "sgd", 0.1, PROXIMAL_SGD),
        (3, "adam", 0.1, "adam"),
    ],
)
def test_several_proximal_steps_are_not_taken_for_plain_sgd(steps, optimizer, mu, expected):
    entries = {} if mu is None else {"proximal-mu": mu}
    work = as_told(LocalWork(steps, None, 0.5, optimizer), {"lr": 0.2, **entries})
    assert work == LocalWork(steps, 0.2, 0.5, expected)


@pytest.mark.parametrize(("steps", "expected"), [(1, "sgd"), (2, PROXIMAL_SGD)])
@pytest.mark.parametrize("kind", [HonestButCurious, SecureAggregation])
def test_the_attack_is_told_of_fedprox_in_somebody_elses_app(steps, expected, kind):
    spy = Spy()
    strategy = FedProx(proximal_mu=0.1, **ALONE)
    adversary = kind(strategy, spy, build_model, lr=LR, local_steps=steps)
    run(adversary, app=client_app(), rounds=1)
    assert {problem.local.optimizer for problem in spy.problems} == {expected}


def test_one_proximal_step_is_read_exactly(scenario, tmp_path, monkeypatch):
    config = scenario(
        "tracker=none", "clients.batch_size=4", "model.width=512",
        *aggregation("FedProx", proximal_mu=5.0),
    )  # fmt: skip
    rows = run_watched(config, tmp_path, monkeypatch).results.attacks
    assert [row.recovered for row in rows] == [4, 4]


def test_several_proximal_steps_are_not_unrolled_as_sgd(scenario, tmp_path, monkeypatch):
    config = scenario(
        "tracker=none", "clients.batch_size=4", "clients.local_steps=2", "attack=tensor_updates",
        *aggregation("FedProx", proximal_mu=5.0),
    )  # fmt: skip
    rows = run_watched(config, tmp_path, monkeypatch).results.attacks
    assert {row.status for row in rows} == {"not_applicable"}
    assert all(PROXIMAL_SGD in row.message for row in rows)


def test_all_configuration_of_a_message_is_told():
    content = RecordDict({"a": ConfigRecord({"x": 1}), "b": ConfigRecord({"y": 2, "x": 3})})
    assert told(content) == {"x": 3, "y": 2}
