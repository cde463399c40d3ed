"""Flower's SecAgg+ really runs: only the mean arrives, as precise as its quantisation says."""

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.client import NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.server.workflow import SecAggPlusWorkflow

from fl_sim.backends.inline import InlineGrid
from fl_sim.display import Display
from fl_sim.scenario import run_scenario
from strategies.secagg_plus import SecAggPlusGrid

COUNTS = (4, 8, 8, 12)
LEVELS = 2**22


class Known(NumPyClient):
    """Returns what it got plus its number, and says how many examples that took."""

    def __init__(self, number):
        self.number = number

    def fit(self, parameters, config):
        return [p + self.number for p in parameters], COUNTS[self.number], {"train-loss": 1.0}


def known_clients():
    def client_fn(context):
        return Known(int(context.node_config["partition-id"])).to_client()

    return ClientApp(client_fn=client_fn, mods=[secaggplus_mod])


@pytest.mark.parametrize("max_weight", [12.0, 1000.0])
def test_all_replies_hold_the_weighted_mean_up_to_quantisation(max_weight):
    grid = InlineGrid(known_clients(), len(COUNTS))
    workflow = SecAggPlusWorkflow(1.0, 0.5, max_weight=max_weight)
    secure = SecAggPlusGrid(grid, workflow, list)
    sent = {"w": torch.randn(200, 50, generator=torch.Generator().manual_seed(0)).clamp(-3, 3)}
    content = RecordDict({"arrays": ArrayRecord(sent), "config": ConfigRecord({"server-round": 1})})
    messages = [Message(content, node, "train", group_id="1") for node in grid.get_node_ids()]
    replies = list(secure.send_and_receive(messages, timeout=10))
    assert len(replies) == len(COUNTS)
    values = [reply.content["arrays"]["w"].numpy() for reply in replies]
    assert all(np.array_equal(values[0], other) for other in values[1:])
    counts = sorted(reply.content["metrics"]["num-examples"] for reply in replies)
    assert counts == sorted(COUNTS)
    shares = np.array(COUNTS) / sum(COUNTS)
    error = values[0] - (sent["w"].numpy() + float(shares @ np.arange(4)))
    step = 16 / LEVELS * max_weight / sum(COUNTS)  # of one client, after the server's division
    assert np.abs(error).max() < 4.01 * step + 2e-6
    expected = step * (len(COUNTS) / 6) ** 0.5
    assert 0.5 * expected < error.std() < 1.5 * expected + 1e-6


def scenario_of(scenario, *more):
    return scenario(
        "tracker=none", "strategy=secagg_plus", "clients.per_round=4", "clients.batch_size=4",
        "clients.reply=gradient", "model.width=512", "strategy.adversary.max_weight=4", *more,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["inline", "ray"])
def test_the_union_of_the_batches_is_read_from_the_masked_sum(scenario, tmp_path, backend):
    config = scenario_of(scenario, f"backend={backend}")
    (row,) = run_scenario(config, tmp_path, Display(brief=True)).attacks
    assert (row.client, row.clients) == (-1, [0, 1, 2, 3])
    assert row.recovered == row.batch_size == 16
    assert row.label_accuracy == 1
    assert row.false_certificates == 0


def test_without_an_attack_clients_answer_plainly(scenario, tmp_path):
    config = scenario_of(scenario, "attack=none")
    results = run_scenario(config, tmp_path, Display(brief=True))
    assert results.status == "complete"
    assert results.attacks == []
