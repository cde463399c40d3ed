"""A model that the zoo does not hold is attacked like those it holds."""

import json
import sys

import pytest
from torch import nn

from fl_sim.cli import main
from fl_sim.models.activations import make_activation
from fl_sim.records import Results
from fl_sim.report.words import describe


class Own(nn.Module):
    """A convolution beside a wider one, and a head; written here and nowhere else."""

    def __init__(self, input_shape, num_classes, width, depth, activation, init):
        super().__init__()
        channels, height, side = input_shape
        self.near = nn.Conv2d(channels, 5, 3, stride=2, padding=1)
        self.far = nn.Conv2d(channels, 5, 5, stride=2, padding=2)
        self.act = make_activation(activation)
        self.wide = nn.Linear(5 * ((height + 1) // 2) * ((side + 1) // 2), width)
        self.out = nn.Linear(width, num_classes)

    def forward(self, x):
        y = self.act(self.near(x)) + 0.5 * self.act(self.far(x))
        return self.out(self.act(self.wide(y.flatten(1))))


class Plain(nn.Sequential):
    """Knows nothing of fl-sim."""

    def __init__(self, hidden=256):
        super().__init__(nn.Flatten(), nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, 10))


@pytest.fixture
def fl_sim(tmp_path, monkeypatch, capfd):
    """Run the command line on one small batch of one client: (status, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def run(*overrides):
        monkeypatch.setattr(sys, "argv", ["fl-sim"])
        with pytest.raises(SystemExit) as stopped:
            main([*SMALL, *overrides])
        return stopped.value.code, capfd.readouterr().err

    return run


SMALL = ["tracker=none", "clients.count=2", "clients.per_round=1", "clients.batch_size=2",
         "hydra.run.dir=run"]  # fmt: skip


def test_an_ordinary_class_needs_no_settings_of_the_zoo(fl_sim, tmp_path):
    assert fl_sim(f"model._target_={__name__}.Plain", "+model.hidden=300") == (0, "")
    results = Results.load(tmp_path / "run")
    assert results.scenario["model"] == {
        "name": "Plain", "_target_": f"{__name__}.Plain", "hidden": 300,
    }  # fmt: skip
    assert results.attacks[0].recovered == 2
    assert "training a Plain on 2 Fashion-MNIST images" in describe(results.scenario)


def test_a_file_beside_the_user_is_found(fl_sim, tmp_path):
    (tmp_path / "mynets.py").write_text(
        "from torch import nn\n\n\n"
        "def small(num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(784, num_classes))\n"
    )
    assert fl_sim("model._target_=mynets.small", "attack=none") == (0, "")


class Bare(nn.Module):
    """Nothing to train."""

    def __init__(self):
        super().__init__()


class Other:
    """No model."""


REFUSED = [
    ("model.hidden=3", "'model.hidden' is not a key", "with a plus: +model.hidden=VALUE"),
    (f"model._target_={__name__}.Plain +model.hiden=3", "has no setting 'hiden'; it has hidden."),
    (f"model._target_={__name__}.Plain model.width=3", "has no setting 'width'; it has hidden."),
    ("model._target_=nowhere.Net", "model._target_=nowhere.Net cannot be loaded: "),
    (f"model._target_={__name__}.SMALL", f"model._target_={__name__}.SMALL is neither"),
    (f"model._target_={__name__}.Other", f"{__name__}.Other makes no torch.nn.Module"),
    (f"model._target_={__name__}.Bare", f"{__name__}.Bare makes a model without parameters"),
    ("strategy.aggregation._target_=no.FedAvg", "strategy.aggregation._target_=no.FedAvg cannot"),
    (f"strategy.aggregation._target_={__name__}.Other", "makes no flwr.serverapp.strategy.Strat"),
]


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_model_is_refused_in_a_sentence(fl_sim, case):
    overrides, *told = case
    status, err = fl_sim(*overrides.split())
    assert status == 2
    assert err.count("\n") == 1, err
    for words in told:
        assert words in err


def test_a_module_of_the_users_is_read_through_the_command_line(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["fl-sim"])
    overrides = {
        "model._target_": f"{__name__}.Own",
        "model.width": 128,
        "attack": "features",
        "tracker": "none",
        "clients.count": 2,
        "clients.per_round": 1,
        "clients.batch_size": 2,
        "hydra.run.dir": "run",
    }
    with pytest.raises(SystemExit) as stopped:
        main([f"{key}={value}" for key, value in overrides.items()])
    assert stopped.value.code == 0, capfd.readouterr().err
    (row,) = json.loads((tmp_path / "run/results.json").read_text())["attacks"]
    assert row["recovered"] == row["certified"] == 2
    assert row["false_certificates"] == 0
    assert row["label_accuracy"] == 1
    assert min(row["psnr"]) > 60
