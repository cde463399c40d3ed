"""What a scenario grants by name: the right things, of the right client, and nothing else."""

import signal
import threading

import pytest
import torch

from attacks import InvertingGradients
from fl_sim.display import Display
from fl_sim.errors import ScenarioError
from fl_sim.federation import Federation
from fl_sim.grants import granted
from fl_sim.records import Results
from fl_sim.scenario import run_scenario
from fl_sim.server import model_of

NORMALISED = (
    "model=resnet18", "model.norm=batch", "model.channels=4",
    "clients.batch_size=4", "clients.count=2", "tracker=none",
)  # fmt: skip


def test_batch_statistics_are_those_the_clients_layers_saw(scenario):
    config = scenario(*NORMALISED)
    federation = Federation(config)
    model = model_of(config, federation).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    knows = granted(["batchnorm_statistics"], federation, model)(1, 1, model)
    assert knows.names == ("batchnorm_statistics",)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    layers = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    inputs = federation.batches(1, 1).inputs[0]
    sizes = {}
    for name, layer in layers.items():  # running averages that keep nothing but the last batch
        layer.momentum = 1.0
        layer.register_forward_hook(
            lambda m, args, out, name=name: sizes.update({name: out[:, 0].numel()})
        )
    model(inputs)
    assert set(knows.batchnorm_statistics) == set(layers)
    for name, (mean, variance) in knows.batchnorm_statistics.items():
        unbiased = variance * sizes[name] / (sizes[name] - 1)
        torch.testing.assert_close(mean, layers[name].running_mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(unbiased, layers[name].running_var, rtol=1e-4, atol=1e-5)


def test_a_model_without_batch_normalisation_has_no_statistics_to_grant(scenario):
    config = scenario("model=mlp", "clients.batch_size=4")
    federation = Federation(config)
    with pytest.raises(ScenarioError, match="no BatchNorm layer"):
        granted(["batchnorm_statistics"], federation, model_of(config, federation))


@pytest.mark.parametrize(("knows", "layers"), [(",batchnorm_statistics", 20), ("", 0)])
def test_statistics_reach_the_attack_only_when_they_are_granted(scenario, tmp_path, knows, layers):
    config = scenario(
        *NORMALISED, "clients.per_round=1", "attack=see_through", "attack.method.iterations=4",
        "attack.method.seeds=1", f"attack.knows=[batch_size{knows}]",
    )  # fmt: skip
    run_scenario(config, tmp_path, Display(brief=True))
    (row,) = Results.load(tmp_path).attacks
    assert row.status == "ok"
    assert row.info["batchnorm_layers"] == layers


def test_what_an_attack_had_when_the_user_stopped_it_is_in_the_results(
    scenario, tmp_path, monkeypatch
):
    from attacks.matching import core

    calls = []
    evaluate = core.Match.evaluate

    def impatient(self, *arguments):
        calls.append(1)
        if len(calls) == 5:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        return evaluate(self, *arguments)

    monkeypatch.setattr(core.Match, "evaluate", impatient)
    assert InvertingGradients().iterations > 1000  # it would not end by itself
    config = scenario(
        "model=lenet", "clients.batch_size=2", "clients.count=2",
        "attack=inverting_gradients", "tracker=none", "attack.knows=[batch_size]",
    )  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        run_scenario(config, tmp_path, Display(brief=True))
    results = Results.load(tmp_path)
    assert results.status == "interrupted"
    (row,) = results.attacks
    assert row.status == "interrupted"
    assert row.info["interrupted"] is True
    assert all(value is not None for value in row.psnr)
