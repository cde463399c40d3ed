"""The active server: its queries do what they say, are sent, and can be told from honest ones."""

import re

import pytest
import torch
from torch import nn

from fl_sim.display import Display
from fl_sim.errors import ScenarioError
from fl_sim.scenario import run_scenario
from strategies import ActiveServer, SeededCohort
from strategies.detectability import detectability
from strategies.queries import Imprint, PassThrough, WideGaussian, state_of
from strategies.trap_weights import TrapWeights
from tests.strategies.apps import LR, Spy, build_model, client_app, fedavg, initial_arrays, run

IMPRINT, TRAPS = Imprint(center=0.0, spread=0.35), TrapWeights(shift=0.81)  # of Fashion-MNIST


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def deep_model(width=64, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hidden = [m for _ in range(2) for m in (nn.Linear(width, width), nn.ReLU())]
        return nn.Sequential(nn.Linear(30, width), nn.ReLU(), *hidden, nn.Linear(width, 5))


def active(attack, query, **settings):
    cohort = SeededCohort(fedavg(), per_round=2, seed=3)
    settings = {"lr": LR, "client_of": cohort.client_of, **settings}
    return ActiveServer(cohort, attack, build_model, query=query, **settings)


@pytest.mark.parametrize("query", [WideGaussian(), IMPRINT, TRAPS])
def test_the_attack_gets_what_was_sent_and_the_gradient_taken_there(query):
    spy = Spy()
    strategy = active(spy, query)
    run(strategy, rounds=1)
    expected = build_model()
    expected.load_state_dict(initial_arrays().to_torch_state_dict())
    first, second = (p.model.state_dict() for p in spy.problems)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["0.weight"], expected.state_dict()["0.weight"])
    assert [o.status for o in strategy.observations] == ["ok", "ok"]
    assert all(o.found.info["detectability"] > 10 for o in strategy.observations)


def test_parameters_differ_between_clients_if_asked():
    spy = Spy()
    run(active(spy, WideGaussian(), per_client=True), rounds=1)
    first, second = (p.model.state_dict() for p in spy.problems)
    assert not torch.equal(first["0.weight"], second["0.weight"])


def test_clients_may_name_themselves():
    """A reply is known by its node, whatever the client calls itself."""
    spy = Spy()
    settings = {"lr": LR, "query": WideGaussian(), "per_client": True}
    strategy = ActiveServer(fedavg(), spy, build_model, **settings)
    run(strategy, rounds=1, app=client_app(says=lambda client: 10 + client))
    assert [o.client for o in strategy.observations] == [10, 11, 12]
    scores = {o.found.info["detectability"] for o in strategy.observations}
    assert len(scores) == 3


def test_wide_gaussian_has_its_scale():
    model = deep_model()
    WideGaussian(gain=5).craft(model, seeded())
    assert float(model[2].weight.detach().std()) == pytest.approx(5 / 8, rel=0.05)


def test_pass_through_leaves_a_shallow_network():
    model, inputs = deep_model(), torch.randn(20, 30, generator=seeded())
    honest = state_of(model)
    PassThrough(offset=50).craft(model, seeded())
    assert torch.equal(model[0].weight, honest["0.weight"])
    hidden = torch.relu(model[0](inputs))
    assert torch.allclose(model(inputs), model[6](hidden + 100), atol=1e-3)


def test_imprint_sorts_by_the_mean_of_the_input():
    model = deep_model(width=99)
    Imprint(center=0.2, spread=0.5).craft(model, seeded())
    x = torch.full((1, 30), 0.2 + 0.5)
    gates = model[0](x)[0] > 0
    assert int(gates.sum()) == pytest.approx(99 * 0.8413, abs=1), "one deviation above the mean"
    assert not gates[int(gates.sum()) :].any()


def test_trap_weights_are_balanced_pairs_and_rarely_pass():
    model = deep_model(width=400)
    size = float(model[0].weight.detach().std())
    TrapWeights(scale=0.7, shift=0.5).craft(model, seeded())
    weight = model[0].weight.detach()
    positive, negative = weight.clamp_min(0), -weight.clamp_max(0)
    assert torch.equal((weight > 0).sum(1), torch.full((400,), 15))
    pairs = zip(positive.sort(1).values[:, 15:], negative.sort(1).values[:, 15:], strict=True)
    assert all(torch.allclose(p, 0.7 * n, rtol=1e-4) for p, n in pairs)
    assert float(negative.sum() / 400 / 15) == pytest.approx(0.8 * size, rel=0.05)
    x = torch.rand(50, 30, generator=seeded()) - 0.5
    assert torch.allclose(model[0](x), (x + 0.5) @ weight.T, atol=1e-5)
    assert float((model[0](x) > 0).float().mean()) < 0.3


@pytest.mark.parametrize("seed", [0, 1])
def test_trap_weights_read_a_good_part_of_32(scenario, tmp_path, seed):
    config = scenario(
        "tracker=none", "experiment=trap_weights", "clients.per_round=1", f"seed={seed}"
    )
    (row,) = run_scenario(config, tmp_path, Display(brief=True)).attacks
    assert row.recovered >= 10
    assert row.certified == 0
    assert row.info["detectability"] > 100


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ("_target_=strategies.queries.Imprint", "Imprint needs the setting 'center', 'spread'."),
        ("_target_=strategies.trap_weights.TrapWeights", "TrapWeights needs the setting 'shift'."),
        ("gain=0", "gain=0 must be positive."),
        ("gian=1", "WideGaussian has no setting 'gian'; it has gain."),
    ],
)
def test_a_bad_query_is_refused_in_one_sentence(scenario, tmp_path, settings, sentence):
    """What a query assumes about the data has no default."""
    query = f"++strategy.adversary.query.{settings}"
    config = scenario("tracker=none", "strategy=active", query)
    with pytest.raises(ScenarioError, match=re.escape(sentence)):
        run_scenario(config, tmp_path, Display(brief=True))


@pytest.mark.parametrize("query", [PassThrough(), IMPRINT])
def test_a_model_without_the_layers_is_refused(query):
    with pytest.raises(ValueError, match="linear layers"):
        query.craft(nn.Sequential(nn.Linear(3, 2)), seeded())


@pytest.mark.parametrize("seed", range(3))
def test_an_honest_draw_is_not_suspicious_and_queries_are(seed):
    honest = state_of(deep_model(seed=10))
    other = state_of(deep_model(seed=seed))
    ordinary, _ = detectability(other, honest, seeded(seed))
    assert ordinary < 12
    assert detectability(honest, honest, seeded(seed)) == (0.0, "")
    for query in (WideGaussian(), PassThrough(), IMPRINT, TRAPS):
        model = deep_model(seed=10)
        query.craft(model, seeded(seed))
        score, where = detectability(state_of(model), honest, seeded(seed))
        assert score > 3 * ordinary
        assert where


@pytest.mark.parametrize("seed", [0, 1])
def test_imprint_reads_60_of_64(scenario, tmp_path, seed):
    config = scenario("tracker=none", "experiment=imprint", "clients.per_round=1", f"seed={seed}")
    (row,) = run_scenario(config, tmp_path, Display(brief=True)).attacks
    assert row.recovered >= 60
    assert row.certified >= 56
    assert row.false_certificates == 0
    assert row.estimated_batch_size == 64
    assert row.label_accuracy > 0.9
    assert row.info["detectability"] > 100


def test_without_an_imprint_the_attack_says_so(scenario, tmp_path):
    config = scenario("tracker=none", "attack=imprint", "clients.per_round=1", "model.width=64")
    (row,) = run_scenario(config, tmp_path, Display(brief=True)).attacks
    assert row.status == "not_applicable"
    assert "imprint" in row.message


def test_pass_through_reads_a_deep_rectifier_network(scenario, tmp_path):
    config = scenario(
        "tracker=none", "strategy=active", "clients.per_round=1", "clients.batch_size=8",
        "strategy.adversary.query._target_=strategies.queries.PassThrough",
        "model.depth=4", "model.width=256", "model.activation=relu",
    )  # fmt: skip
    (row,) = run_scenario(config, tmp_path, Display(brief=True)).attacks
    assert row.recovered == 8
    assert max(row.relative_error) < 1e-2
