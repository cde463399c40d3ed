"""Rounds put together: samples known from one update are recognised in others."""

import pytest
import torch
from torch import nn

from attacks import Attack, Reconstruction
from attacks.base import Problem
from attacks.recognition import OUTSIDE, outside
from fl_sim.display import Display
from fl_sim.scenario import run_scenario
from strategies import Remembering, SeededCohort
from tests.strategies.apps import LR, fedavg, run


def network(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(40, 60), nn.ReLU(), nn.Linear(60, 5))


@pytest.mark.parametrize("seed", range(3))
def test_samples_of_the_batch_lie_in_the_row_space_and_others_do_not(seed):
    generator = torch.Generator().manual_seed(seed)
    inputs, labels = torch.randn(12, 40, generator=generator), torch.arange(12) % 5
    model = network(seed)
    loss = nn.functional.cross_entropy(model(inputs[:6]), labels[:6])
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradient = dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))
    problem = Problem(model, gradient, None, "cross_entropy", None, None)
    distance = outside(problem, inputs)
    assert float(distance[:6].max()) < 0.1 * OUTSIDE
    assert float(distance[6:].min()) > 100 * OUTSIDE


def wide():
    return nn.Sequential(nn.Linear(30, 40), nn.Tanh(), nn.Linear(40, 3))


class OnceLucky(Attack):
    """Reads the first batch of a client, certified, and nothing ever after."""

    def __init__(self, truth):
        self.truth = list(truth)

    def reconstruct(self, problem):
        inputs = self.truth.pop(0) if self.truth else torch.zeros(0, 30)
        n = len(inputs)
        sure = torch.ones(n, dtype=torch.bool)
        return Reconstruction(inputs, torch.arange(n) % 3, sure, torch.zeros(n))


def test_a_batch_read_once_is_recognised_when_it_comes_again(monkeypatch):
    """Two rounds of a client on the same images; the model has moved in between."""
    x = torch.randn(5, 30, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr("tests.strategies.apps.build_model", wide)
    monkeypatch.setattr("tests.strategies.apps.batch", lambda c, r: (x, torch.arange(5) % 3))
    cohort = SeededCohort(fedavg(), per_round=1, seed=0)
    strategy = Remembering(cohort, OnceLucky([x]), wide, lr=LR, client_of=cohort.client_of)
    run(strategy, clients=1, rounds=3)
    infos = [o.found.info for o in strategy.observations]
    assert [i["recognised"] for i in infos] == [0, 5, 5]
    assert [i["new"] for i in infos] == [5, 0, 0]
    assert [i["known"] for i in infos] == [5, 5, 5]
    later = strategy.observations[2].found
    assert torch.equal(later.inputs, x)
    assert torch.equal(later.labels, torch.arange(5) % 3)
    assert later.certified.all()


def test_the_union_over_rounds_grows(scenario, tmp_path):
    config = scenario(
        "tracker=none", "strategy=remembering", "rounds=3", "clients.count=1",
        "clients.per_round=1", "clients.batch_size=4", "data.samples_per_client=6",
        "model.width=256",
    )  # fmt: skip
    rows = run_scenario(config, tmp_path, Display(brief=True)).attacks
    assert [row.recovered for row in rows] == [4, 4, 4]
    known = [row.info["known"] for row in rows]
    assert known[0] == 4
    assert known[-1] <= 6
    assert known == sorted(known)
    assert sum(row.false_certificates for row in rows) == 0
