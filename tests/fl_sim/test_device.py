"""A scenario on an accelerator: clients, defences, the server's model and the attacked gradient."""

import pytest

from fl_sim.display import Display
from fl_sim.scenario import run_scenario
from strategies import adversary
from tests.pretend_device import pretending

SMALL = (
    "tracker=none", "clients.count=2", "clients.per_round=1", "clients.batch_size=2",
    "data.samples_per_client=2", "data.test_samples=20",
)  # fmt: skip
SCENARIOS = [
    ("attack=tensor", "model.width=128"),
    ("attack=analytic", "attack.knows=[batch_size]", "defense=[clip,gaussian_noise,prune]"),
    ("attack=none", "defense=[dp_sgd,dropout]", "clients.reply=gradient"),
    ("attack=none", "defense=[mixup,soteria,quantize]", "clients.local_steps=2"),
    ("attack=none", "defense=[label_noise,local_dp]", "loss=mse", "clients.momentum=0.9"),
    ("attack=none", "clients.optimizer=adam", "strategy=active"),
    (
        "attack=inverting_gradients",
        "attack.knows=[labels,batch_size,data_range]",
        "attack.method.iterations=2",
        "model=lenet",
    ),
]


@pytest.mark.parametrize("overrides", SCENARIOS, ids=" ".join)
def test_a_scenario_runs_on_the_device_with_the_same_results(
    scenario, tmp_path, monkeypatch, overrides
):
    # only the thread that pretends can make tensors there, so attacks get no thread of their own
    monkeypatch.setattr(adversary, "with_timeout", lambda function, seconds: (function(), False))

    def results(device):
        config = scenario(*SMALL, *overrides, f"device={device}")
        found = run_scenario(config, tmp_path, Display(brief=True))
        attacked = [(a.status, a.recovered, a.certified) for a in found.attacks]
        return attacked, [(t.loss, t.accuracy) for t in found.training]

    attacked, training = results("cpu")
    assert all(status == "ok" for status, *_ in attacked)
    with pretending() as device:
        there = results(device.type)
    assert there[0] == attacked
    assert there[1] == [pytest.approx(row, rel=1e-4) for row in training]
