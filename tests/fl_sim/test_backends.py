"""Both backends run the same apps to the same results; the inline one is a real Grid."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from omegaconf import OmegaConf

from fl_sim.backends.inline import InlineGrid
from fl_sim.display import Display
from fl_sim.scenario import run_scenario


def echo_app(seen):
    app = ClientApp()

    @app.train()
    def train(message, context):
        record = message.content["arrays"]
        seen.append(record)
        record["w"].numpy()[...] = 7  # a client scribbling over what it was sent
        partition = int(context.node_config["partition-id"])
        if partition == 2:
            raise ValueError("no")
        metrics = MetricRecord({"partition": partition})
        return Message(RecordDict({"arrays": record, "metrics": metrics}), reply_to=message)

    return app


def messages(grid, arrays):
    content = RecordDict({"arrays": arrays})
    return [
        Message(content=content, message_type=MessageType.TRAIN, dst_node_id=node)
        for node in grid.get_node_ids()
    ]


def test_the_inline_grid_delivers_copies_and_turns_errors_into_replies():
    seen = []
    grid = InlineGrid(echo_app(seen), 4)
    arrays = ArrayRecord({"w": Array(np.zeros(3))})
    replies = list(grid.send_and_receive(messages(grid, arrays)))
    assert [r.has_error() for r in replies] == [False, False, True, False]
    assert replies[2].error.reason == "ValueError: no"
    assert [r.content["metrics"]["partition"] for r in replies if not r.has_error()] == [0, 1, 3]
    assert [r.metadata.src_node_id for r in replies] == list(grid.get_node_ids())
    assert len(seen) == 4
    assert all(record is not arrays for record in seen)


def test_replies_are_handed_out_once():
    grid = InlineGrid(echo_app([]), 2)
    arrays = ArrayRecord({"w": Array(np.zeros(3))})
    ids = list(grid.push_messages(messages(grid, arrays)))
    assert len(set(ids)) == 2
    assert len(list(grid.pull_messages(ids))) == 2
    assert list(grid.pull_messages(ids)) == []


def test_node_ids_are_stable():
    assert list(InlineGrid(ClientApp(), 5).get_node_ids()) == list(
        InlineGrid(ClientApp(), 5).get_node_ids()
    )


def test_ten_thousand_clients_are_no_trouble(scenario, tmp_path):
    config = scenario(
        "tracker=none", "clients.count=10000", "clients.per_round=3", "clients.batch_size=4",
        "data.samples_per_client=8", "model.width=128",
    )  # fmt: skip
    results = run_scenario(config, tmp_path, Display(brief=True))
    assert results.summary()["recovered"] == 12


@pytest.mark.slow
def test_ray_gives_the_same_rows_as_inline(scenario, tmp_path):
    def rows(backend):
        config = scenario(
            "tracker=none", f"backend={backend}", "clients.batch_size=4", "model.width=256",
            "rounds=2", "clients.faults={1:raise}",
        )  # fmt: skip
        folder = tmp_path / backend
        folder.mkdir()
        results = run_scenario(OmegaConf.create(config), folder, Display(brief=True))
        for row in results.attacks:
            row.seconds = 0
            row.message = row.message and "said"
        for row in results.training:
            row.failures = dict.fromkeys(row.failures, "said")
        return results.attacks, results.training

    assert rows("inline") == rows("ray")
