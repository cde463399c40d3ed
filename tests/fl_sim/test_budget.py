"""Budgets add up over the rounds in which a client takes part, and are part of the results."""

import pytest
from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from fl_sim.budget import budget, largest_budget, updates_sent
from fl_sim.client import train
from fl_sim.defenses.accounting import epsilon_of
from fl_sim.display import Display
from fl_sim.federation import Federation, federation_of
from fl_sim.scenario import plain, run_scenario
from fl_sim.server import build_strategy, model_of

SMALL = ["clients.count=3", "clients.per_round=2", "clients.batch_size=5", "model.width=32",
         "data.samples_per_client=50"]  # fmt: skip


def test_a_budget_counts_the_rounds_of_each_client(scenario):
    config = scenario(*SMALL, "defense=dp_sgd", "defense.dp_sgd.noise_multiplier=2")
    federation = Federation(config)
    sent = updates_sent(config, 4)
    assert sum(sent.values()) == 8
    for client, updates in sent.items():
        expected = epsilon_of(2.0, updates, 0.1, 1e-5)
        assert budget(federation, client, 4) == pytest.approx(expected)
    assert largest_budget(federation, 4) == pytest.approx(
        max(budget(federation, client, 4) for client in sent)
    )
    assert largest_budget(federation, 0) == 0


def test_the_best_of_several_guarantees_counts_and_none_is_none(scenario):
    both = scenario(*SMALL, "defense=[dp_sgd,local_dp,clip]", "defense.local_dp.epsilon=0.01")
    alone = scenario(*SMALL, "defense=local_dp", "defense.local_dp.epsilon=0.01")
    assert budget(Federation(both), 0, 1) == budget(Federation(alone), 0, 1)
    assert largest_budget(Federation(scenario(*SMALL, "defense=clip")), 3) is None


@pytest.mark.parametrize("other", ["mixup", "soteria"])
def test_a_bound_per_sample_guarantees_nothing_where_samples_are_coupled(scenario, other, caplog):
    config = scenario(*SMALL, f"defense=[dp_sgd,{other}]")
    federation = Federation(config)
    build_strategy(config, federation, model_of(config, federation), print)
    assert "states no epsilon" in caplog.text
    assert budget(federation, 0, 1) is None
    assert largest_budget(federation, 1) is None
    both = Federation(scenario(*SMALL, f"defense=[dp_sgd,{other},local_dp]"))
    alone = Federation(scenario(*SMALL, "defense=local_dp"))
    assert largest_budget(both, 1) == largest_budget(alone, 1)


@pytest.mark.parametrize(("defense", "told"), [("clip", True), ("dp_sgd", False)])
def test_nothing_about_the_data_goes_past_a_guarantee(scenario, defense, told):
    config = plain(scenario(*SMALL, f"defense={defense}"))
    weights = model_of(scenario(*SMALL), federation_of(config)).state_dict()
    content = RecordDict({"arrays": ArrayRecord(weights), "c": ConfigRecord({"server-round": 1})})
    assert ("train-loss" in train(config, content, 0)["metrics"]) is told


def test_every_round_of_the_results_has_the_largest_budget(scenario, tmp_path):
    config = scenario(*SMALL, "attack=none", "tracker=none", "rounds=2", "defense=dp_sgd")
    results = run_scenario(config, tmp_path, Display(brief=True))
    spent = [row.epsilon for row in results.training]
    assert spent[0] == 0
    assert spent == sorted(spent)
    assert results.summary()["epsilon"] == pytest.approx(largest_budget(Federation(config), 2))
