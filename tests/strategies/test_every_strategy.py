"""Every strategy that Flower exports does in a scenario what its name says, or is refused.

The table is checked against Flower's own list, so a new strategy fails until it has a row.
"""

import flwr.serverapp.strategy as flower
import numpy as np
import pytest
import torch

from fl_sim.errors import ScenarioError
from fl_sim.local import drawn_back, local_sgd
from tests.strategies.scenarios import FLOWER, SMALL, aggregation, flat, run_watched

FIVE = ("clients.count=5", "clients.per_round=5")
SEVEN = ("clients.count=7", "clients.per_round=7")
LR = 0.1


def private(name, norm, noise=0.0, clients=5):
    """Return the overrides of one of Flower's strategies with differential privacy."""
    bound = "initial_clipping_norm" if "Adaptive" in name else "clipping_norm"
    return aggregation(
        name,
        **{
            "strategy._target_": FLOWER + "FedAvg",
            bound: norm,
            "noise_multiplier": noise,
            "num_sampled_clients": clients,
        },
    )


def mean(steps):
    return steps.mean(0)


def median(steps):
    return np.median(steps, 0)


def trimmed(steps):
    return np.sort(steps, 0)[1:-1].mean(0)


def half(steps):
    return steps.mean(0) / 2


def adam(steps):  # Kingma & Ba's step with Flower's defaults, counting rounds from 1
    step = steps.mean(0)
    eta = 0.1 * np.sqrt(1 - 0.99**2) / (1 - 0.9**2)
    return eta * 0.1 * step / (np.sqrt(0.01) * np.abs(step) + 1e-3)


def adagrad(steps):
    step = steps.mean(0)
    return 0.1 * step / (np.abs(step) + 1e-3)


def yogi(steps):
    step = steps.mean(0)
    return 0.01 * 0.1 * step / (np.sqrt(0.01) * np.abs(step) + 1e-3)


def central(steps, keep, bad=0):
    """Return those steps that lie closest to their neighbours (Blanchard et al. 2017)."""
    distances = ((steps[:, None] - steps[None]) ** 2).sum(2)
    scores = np.sort(distances, 1)[:, 1 : len(steps) - bad - 1].sum(1)
    return steps[np.argsort(scores)[:keep]]


def krum(steps):
    return central(steps, 1).mean(0)


def multikrum(steps):
    return central(steps, 2).mean(0)


def bulyan(steps):  # El Mhamdi et al. 2018, for one malicious client
    kept = central(steps, len(steps) - 2, bad=1)
    nearest = np.argsort(np.abs(kept - np.median(kept, 0)), 0)[: len(kept) - 2]
    return np.take_along_axis(kept, nearest, 0).mean(0)


# strategy: overrides, and how the first round moves the weights, given the clients' own steps
MOVES = [
    ("FedAvg", aggregation("FedAvg"), mean),
    ("FedAvgM", aggregation("FedAvgM", server_learning_rate=0.5), half),
    ("FedAdam", aggregation("FedAdam"), adam),
    ("FedAdagrad", aggregation("FedAdagrad"), adagrad),
    ("FedYogi", aggregation("FedYogi"), yogi),
    ("FedMedian", aggregation("FedMedian"), median),
    ("FedTrimmedAvg", aggregation("FedTrimmedAvg", beta=0.2), trimmed),
    ("FedProx", aggregation("FedProx", proximal_mu=0.0), mean),
    ("QFedAvg", aggregation("QFedAvg", client_learning_rate=LR, q=0.0), mean),
    ("Krum", aggregation("Krum"), krum),
    ("Bulyan", [*aggregation("Bulyan", num_malicious_nodes=1), *SEVEN], bulyan),
    ("MultiKrum", aggregation("MultiKrum", num_nodes_to_select=2), multikrum),
    *[
        (name, private(name, 1e6), mean)
        for name in flower.__all__
        if name.startswith("DifferentialPrivacy")
    ],
]

REFUSED = {
    "FedXgbBagging": "FedXgbBagging.* is for XGBoost's trees",
    "FedXgbCyclic": "FedXgbCyclic.* is for XGBoost's trees",
    "Result": "makes no flwr.serverapp.strategy.Strategy, but a Result",
    "Strategy": "Strategy is the base of strategies, not one itself",
}


def test_the_table_has_every_strategy_that_flower_exports():
    assert {name for name, *_ in MOVES} | set(REFUSED) == set(flower.__all__)


@pytest.mark.parametrize("reply", ["weights", "gradient"])
@pytest.mark.parametrize(("name", "overrides", "expected"), MOVES, ids=[row[0] for row in MOVES])
def test_a_strategy_moves_the_weights_as_its_name_says(
    name, overrides, expected, reply, scenario, tmp_path, monkeypatch
):
    if reply == "gradient" and "ClientSide" in name:
        return  # refused, see below
    config = scenario(*SMALL, *FIVE, f"clients.reply={reply}", *overrides)
    trained = run_watched(config, tmp_path, monkeypatch)
    everybody = trained.config["clients"]["count"]
    assert [row.answered for row in trained.results.training] == [0, everybody, everybody]
    trained.config["clients"]["reply"] = "weights"
    moved = expected(trained.steps())
    assert np.allclose(trained.moved(1), moved, atol=2e-3 * np.abs(moved).max())
    assert np.abs(trained.moved(2)).max() > 1e-4


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_aggregate_a_network_is_refused(name, scenario, tmp_path, monkeypatch):
    with pytest.raises(ScenarioError, match=REFUSED[name]):
        run_watched(scenario(*SMALL, *aggregation(name)), tmp_path, monkeypatch)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("steps", [2, 4])
@pytest.mark.parametrize("more", [(), ("clients.momentum=0.5",), ("clients.optimizer=adam",)])
def test_fedprox_keeps_the_weights_near_those_sent(steps, more, scenario, tmp_path, monkeypatch):
    def run(mu):
        config = scenario(
            *SMALL, *FIVE, "clients.lr=0.001", f"clients.local_steps={steps}", *more,
            *aggregation("FedProx", proximal_mu=mu),
        )  # fmt: skip
        (folder := tmp_path / str(mu)).mkdir()
        return run_watched(config, folder, monkeypatch)

    far, near = run(0.0), run(1000.0)
    for server_round in (1, 2):
        lengths = [np.linalg.norm(run.moved(server_round)) for run in (near, far)]
        assert lengths[0] < 0.85 * lengths[1]
    assert np.allclose(near.moved(1), mean(near.steps(**{"proximal-mu": 1000.0})), atol=1e-7)


def test_a_proximal_step_of_rate_one_over_mu_forgets_all_steps_before():
    """At ``lr mu = 1`` the weights are those sent, less the last gradient's step alone."""
    model = torch.nn.Linear(2, 2)
    sent = {name: value.clone() for name, value in model.state_dict().items()}
    slopes = iter([1.0, 20.0, 300.0])

    def gradient_of(model, inputs, target):
        slope = next(slopes)
        return {name: torch.full_like(p, slope) for name, p in model.named_parameters()}, slope

    batches = torch.zeros(3, 1)
    losses = local_sgd(model, batches, batches, 0.01, drawn_back(gradient_of, model, 100.0))
    assert losses == [1.0, 20.0, 300.0]
    for name, value in model.state_dict().items():
        assert torch.allclose(value, sent[name] - 3.0, atol=1e-5)


def test_one_step_of_fedprox_is_one_of_fedavg_and_that_is_said(
    scenario, tmp_path, monkeypatch, caplog
):
    def run(name, **settings):
        (folder := tmp_path / name).mkdir()
        config = scenario(*SMALL, *FIVE, *aggregation(name, **settings))
        return run_watched(config, folder, monkeypatch)

    proximal = run("FedProx", proximal_mu=1000.0)
    assert "proximal_mu=1000 changes nothing with clients.local_steps=1" in caplog.text
    assert np.array_equal(proximal.moved(1), run("FedAvg").moved(1))


CLIPPING = [
    *[(name, "weights") for name in flower.__all__ if name.startswith("DifferentialPrivacy")],
    *[(name, "gradient") for name in flower.__all__ if "ServerSide" in name],
]


@pytest.mark.parametrize(("name", "reply"), CLIPPING)
def test_clipping_bounds_the_step(name, reply, scenario, tmp_path, monkeypatch):
    config = scenario(*SMALL, *FIVE, f"clients.reply={reply}", *private(name, 1e-6))
    trained = run_watched(config, tmp_path, monkeypatch)
    rounding = 2.0**-24 * np.linalg.norm(flat(trained.states[0]))
    for server_round in (1, 2):
        assert np.linalg.norm(trained.moved(server_round)) < 1.2e-6 + rounding
    assert [row.answered for row in trained.results.training] == [0, 5, 5]


@pytest.mark.parametrize("name", [n for n in flower.__all__ if n.startswith("DifferentialPrivacy")])
def test_noise_has_the_stated_size_and_comes_by_seed(name, scenario, tmp_path, monkeypatch):
    adaptive = "Adaptive" in name
    noise = 0.2 if adaptive else 1.0  # an adaptive bound needs more clients for more noise
    config = scenario(*SMALL, *FIVE, *private(name, 1.0, noise))
    first, second = (run_watched(config, tmp_path, monkeypatch) for _ in range(2))
    assert np.array_equal(first.moved(1), second.moved(1))
    steps = first.steps()
    clipped = steps / np.maximum(1, np.linalg.norm(steps, axis=1, keepdims=True))
    spread = (first.moved(1) - mean(clipped)).std()
    if adaptive:
        assert 0.5 * noise / 5 < spread < 2 * noise / 5
    else:
        assert spread == pytest.approx(noise / 5, rel=0.05)


def test_an_adaptive_bound_moves_with_the_clients_bits(scenario, tmp_path, monkeypatch):
    name = "DifferentialPrivacyClientSideAdaptiveClipping"
    bounds = []
    for norm in (1e-6, 1e6):
        config = scenario(*SMALL, *FIVE, *private(name, norm))
        trained = run_watched(config, tmp_path, monkeypatch)
        strategy = trained.server.strategy
        while type(strategy).__name__ != name:
            strategy = strategy.strategy
        bounds.append(strategy.clipping_norm / norm)
    # Flower counts who was clipped where the paper counts who was not: the bound flees the median,
    # which fl_sim/defenses/central_dp.py and strategies/README.md say
    assert bounds == pytest.approx([np.exp(-0.2), np.exp(0.2)])  # two rounds of 0.2 * 0.5


def test_a_fairer_qfedavg_moves_otherwise(scenario, tmp_path, monkeypatch):
    def run(q):
        (folder := tmp_path / str(q)).mkdir()
        overrides = aggregation("QFedAvg", client_learning_rate=LR, q=q)
        return run_watched(scenario(*SMALL, *FIVE, *overrides), folder, monkeypatch)

    plain, fair = run(0.0).moved(1), run(5.0).moved(1)
    assert np.abs(plain - fair).max() / np.abs(plain).max() > 1e-3
    assert fair @ plain > 0
