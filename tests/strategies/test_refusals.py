"""A strategy that would not be itself in a scenario is refused before anything has run."""

import random

import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict

from fl_sim.errors import ScenarioError
from fl_sim.federation import federation_of
from fl_sim.instructions import Instructions
from fl_sim.scenario import plain
from fl_sim.server import build_strategy, model_of
from tests.strategies.scenarios import FLOWER, SMALL, aggregation, run_watched
from tests.strategies.test_every_strategy import FIVE, SEVEN, private

HERE = "tests.strategies.unsuited."
FIXED = "DifferentialPrivacyClientSideFixedClipping"
ADAPTIVE = "DifferentialPrivacyClientSideAdaptiveClipping"
SERVER = "DifferentialPrivacyServerSideFixedClipping"


def nested(name):
    return aggregation(
        FIXED,
        **{
            "strategy._target_": FLOWER + name,
            "clipping_norm": 1,
            "noise_multiplier": 0,
            "num_sampled_clients": 5,
        },
    )


DIVERGING = ("clients.local_steps=3", "clients.lr=0.1")

REFUSED = [
    ((*FIVE, *aggregation("FedProx", proximal_mu=20), *DIVERGING), "proximal_mu=20 drives the wei"),
    ((*FIVE, *aggregation("FedProx", proximal_mu=-1)), "'proximal-mu'=-1, which is negative"),
    ((*FIVE, *aggregation("FedProx", proximal_mu="nan")), "'proximal-mu'=nan, which is no finite"),
    (
        (*FIVE, *aggregation(HERE + "Telling", told="dropout")),
        "sends 'dropout', which these cl",
    ),
    ((*FIVE, *aggregation(HERE + "Telling", told="clipping_norm")), "sends 'clipping_norm', which"),
    ((*FIVE, *aggregation(HERE + "Telling", told="lr", value=0)), "sends 'lr'=0, not positive"),
    ((*FIVE, *aggregation(HERE + "Telling", told="lr", value="fast")), "'lr'='fast', which is no"),
    ((*FIVE, *aggregation(HERE + "Waiting")), "waits for more clients than clients.per_round=5"),
    ((*FIVE, *aggregation(HERE + "Evaluating")), r"\(Evaluating\) evaluates on clients"),
    ((*FIVE, *aggregation(HERE + "Carrying")), "sends more than weights and a configuration"),
    ((*FIVE, *aggregation(HERE + "Measuring")), "sends more than weights and a configuration"),
    ((*FIVE, *aggregation(HERE + "Renaming")), "sends other arrays than the model's"),
    ((*FIVE, *aggregation(HERE + "Silent")), "asks no client to train"),
    ((*FIVE, *aggregation(HERE + "Roundless")), "does not send 'server-round'"),
    ((*FIVE, *aggregation(HERE + "Idle")), "makes nothing of clients.per_round=5 replies."),
    ((*FIVE, *aggregation(HERE + "Failing")), "cannot aggregate .* the disk is full"),
    ((*FIVE, *aggregation("FedAvg", weighted_by_key="votes")), "cannot aggregate .*`votes`"),
    ((*FIVE, *aggregation("FedAvg", fraction_train=0.5)), "fraction_train=0.5 cannot be set"),
    (
        (*FIVE, *private(FIXED, 1.0), "+strategy.aggregation.strategy.fraction_evaluate=1.0"),
        "strategy.aggregation.strategy.fraction_evaluate=1.0 cannot be set",
    ),
    ((*FIVE, *private(FIXED, 1.0), "clients.reply=gradient"), "clients.reply=weights, not 'grad"),
    ((*FIVE, *private(ADAPTIVE, 1.0), "clients.reply=gradient"), "clients.reply=weights, not 'gr"),
    ((*FIVE, *private(FIXED, 1.0, clients=50)), "num_sampled_clients=50, but clients.per_round=5"),
    ((*FIVE, *private(SERVER, 1.0, clients=2)), "num_sampled_clients=2, but clients.per_round=5"),
    ((*FIVE, *nested("FedXgbCyclic")), "FedXgbCyclic.* is for XGBoost's trees"),
    (
        (*FIVE, *nested("Bulyan"), "+strategy.aggregation.strategy.num_malicious_nodes=1"),
        "least 7",
    ),
    ((*FIVE, *aggregation("Krum", num_malicious_nodes=2)), "needs at least 7 clients a round"),
    (
        (*FIVE, *aggregation("MultiKrum", num_malicious_nodes=1, num_nodes_to_select=5)),
        "selects num_nodes_to_select=5 of clients.per_round=5 updates, and so some of the 1",
    ),
    (("clients.per_round=2", *aggregation("Bulyan")), "needs at least 3 clients a round"),
    ((*SEVEN, *aggregation("Bulyan", num_malicious_nodes=2)), "needs at least 11 clients a round"),
    (
        (*FIVE, *aggregation("QFedAvg", client_learning_rate=0.1), "defense=dp_sgd"),
        "QFedAvg.* needs the metric 'train_loss'.*a guarantee",
    ),
    (
        (*FIVE, *aggregation("QFedAvg", client_learning_rate=0.1, train_loss_key="risk")),
        "QFedAvg.* needs the metric 'risk'",
    ),
    (("strategy.aggregation=null",), "strategy.aggregation=None names no strategy"),
]


@pytest.mark.parametrize(("overrides", "sentence"), REFUSED, ids=[row[1][:40] for row in REFUSED])
def test_a_strategy_is_refused_in_a_sentence(overrides, sentence, scenario, tmp_path, monkeypatch):
    with pytest.raises(ScenarioError, match=sentence) as caught:
        run_watched(scenario(*SMALL, *overrides), tmp_path, monkeypatch)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []  # nothing has run


@pytest.mark.parametrize("name", [FIXED, SERVER])
def test_buffers_are_not_clipped_with_the_weights(name, scenario, tmp_path, monkeypatch):
    config = scenario(*SMALL[:2], "model=resnet18", "model.norm=batch", *FIVE, *private(name, 1.0))
    with pytest.raises(ScenarioError, match="clips parameters, and this model also sends buffers"):
        run_watched(config, tmp_path, monkeypatch)


SINGLES = [
    ("Krum", {}),
    ("FedMedian", {}),
    ("FedTrimmedAvg", {}),
    ("Bulyan", {"num_malicious_nodes": 1}),
    ("QFedAvg", {"client_learning_rate": 0.1, "q": 1.0}),
    ("QFedAvg", {"client_learning_rate": 0.1}),
]
SUMS = [
    *[(n, {}) for n in ("FedAvg", "FedAvgM", "FedAdam", "FedYogi", "FedAdagrad", "FedProx")],
    ("QFedAvg", {"client_learning_rate": 0.1, "q": 0.0}),
]
READING = ("attack=analytic", "attack.most=1", "attack.rounds=[1]")


@pytest.mark.parametrize("server", ["secure_aggregation", "secagg_plus"])
@pytest.mark.parametrize("reply", ["weights", "gradient"])
@pytest.mark.parametrize(("name", "settings"), SINGLES)
def test_who_looks_at_single_updates_cannot_stand_behind_secure_aggregation(
    name, settings, reply, server, scenario, tmp_path, monkeypatch
):
    overrides = (f"strategy={server}", f"clients.reply={reply}", *aggregation(name, **settings))
    with pytest.raises(ScenarioError, match=rf"\({name}\) looks at the clients' updates one by"):
        run_watched(scenario(*SMALL, *READING, *SEVEN, *overrides), tmp_path, monkeypatch)


@pytest.mark.parametrize(("name", "settings"), SUMS)
def test_who_needs_the_mean_alone_can(name, settings, scenario, tmp_path, monkeypatch):
    overrides = ("strategy=secure_aggregation", *aggregation(name, **settings))
    trained = run_watched(scenario(*SMALL, *READING, *FIVE, *overrides), tmp_path, monkeypatch)
    assert [row.answered for row in trained.results.training] == [0, 5, 5]


@pytest.mark.parametrize("name", [FIXED, ADAPTIVE])
def test_clients_clip_under_an_ideal_sum_but_not_under_secagg_plus(
    name, scenario, tmp_path, monkeypatch
):
    def run(server):
        config = scenario(*SMALL, *READING, f"strategy={server}", *FIVE, *private(name, 1e-6))
        return run_watched(config, tmp_path, monkeypatch)

    assert np.abs(run("secure_aggregation").moved(1)).max() < 1e-6
    with pytest.raises(ScenarioError, match="mods for SecAgg\\+ and for clipping do not go togeth"):
        run("secagg_plus")


def test_the_server_cannot_clip_what_it_does_not_see(scenario, tmp_path, monkeypatch):
    for more in (private(SERVER, 1.0), ["defense=central_dp"]):
        config = scenario(*SMALL, *READING, "strategy=secure_aggregation", *FIVE, *more)
        with pytest.raises(ScenarioError, match=f"{SERVER} looks at the clients' updates one by"):
            run_watched(config, tmp_path, monkeypatch)


def test_secagg_plus_clients_follow_fedprox(scenario, tmp_path, monkeypatch):
    def run(mu):
        (folder := tmp_path / str(mu)).mkdir()
        config = scenario(
            *SMALL, *READING, "strategy=secagg_plus", "strategy.adversary.max_weight=12", *FIVE,
            "clients.local_steps=3", "clients.lr=0.01", *aggregation("FedProx", proximal_mu=mu),
        )  # fmt: skip
        return run_watched(config, folder, monkeypatch)

    near, far = run(100.0), run(0.0)
    assert np.linalg.norm(near.moved(1)) < 0.85 * np.linalg.norm(far.moved(1))
    expected = near.steps(**{"proximal-mu": 100.0, "lr": 0.01}).mean(0)
    assert np.allclose(near.moved(1), expected, atol=1e-4)


WARNED = [
    (("clients.per_round=2", *aggregation("FedMedian")), "FedMedian) is the plain mean here"),
    (
        ("clients.per_round=4", *aggregation("FedTrimmedAvg")),
        "FedTrimmedAvg) is the plain mean",
    ),
    ((*FIVE, *aggregation("Bulyan")), "Bulyan) is the plain mean here"),
    (
        (*FIVE, *aggregation("QFedAvg", client_learning_rate=0.5)),
        "client_learning_rate=0.5 says how clients step, but they step with clients.lr=0.1",
    ),
    ((*FIVE, *aggregation("FedAdam", eta_l=0.01)), "eta_l=0.01 says how clients step, but"),
]


@pytest.mark.parametrize(("overrides", "sentence"), WARNED, ids=[row[1][:30] for row in WARNED])
def test_what_has_no_effect_is_said(overrides, sentence, scenario, tmp_path, monkeypatch, caplog):
    run_watched(scenario(*SMALL, *overrides), tmp_path, monkeypatch)
    assert sentence in caplog.text


def test_nothing_is_said_of_what_fits(scenario, tmp_path, monkeypatch, caplog):
    fits = aggregation("FedTrimmedAvg", beta=0.2)
    run_watched(scenario(*SMALL, *FIVE, *fits), tmp_path, monkeypatch)
    assert [r.message for r in caplog.records if r.name.startswith("fl_sim")] == []


def test_a_strategy_that_wants_more_clients_is_not_waited_for(scenario, tmp_path, monkeypatch):
    """A wrapped strategy is told how many there are, as its wrapper is."""
    overrides = private(FIXED, 1e-6, clients=1)
    config = scenario(*SMALL, "clients.count=1", "clients.per_round=1", *overrides)
    trained = run_watched(config, tmp_path, monkeypatch)
    assert [row.answered for row in trained.results.training] == [0, 1, 1]


def test_instructions_have_defaults():
    told = Instructions.of(RecordDict({"c": ConfigRecord({"server-round": 3})}), 0.25)
    assert told == Instructions(3, 0.25, 0.0)


def test_the_rehearsal_leaves_randomness_as_it_was(scenario):
    np.random.seed(5)
    random.seed(5)
    before = np.random.get_state()[1].tolist()
    config = scenario(*SMALL, *FIVE, *private(SERVER, 1.0, 1.0))
    federation = federation_of(plain(config))
    build_strategy(config, federation, model_of(config, federation), print)
    assert np.random.get_state()[1].tolist() == before
    assert random.random() == random.Random(5).random()
